/* SPDX-License-Identifier: MIT */
/*
 * The events of a session. Their ring is allocated with the first event and grows on demand, so
 * that most sessions need little memory. It is bounded: the oldest events are dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "l7mp/util.h"

#define EVENTS_FIRST 4
#define TEXT_MAX     400

static struct session_event *event_slot(struct l7mp_session *s)
{
	struct session_event *grown;
	unsigned cap;

	if (s->n_events == SESSION_EVENTS_MAX) {
		struct session_event *oldest = &s->events[s->first_event];

		free(oldest->text);
		s->first_event = (uint8_t)((s->first_event + 1) % SESSION_EVENTS_MAX);
		return oldest;
	}
	if (s->n_events == s->cap_events) {
		cap = s->cap_events ? 2U * s->cap_events : EVENTS_FIRST;
		if (cap > SESSION_EVENTS_MAX)
			cap = SESSION_EVENTS_MAX;
		grown = realloc(s->events, cap * sizeof(*grown));
		if (!grown)
			return NULL;
		s->events = grown;
		s->cap_events = (uint8_t)cap;
	}
	return &s->events[s->n_events++];
}

/* Adds an event. `name` is static; `text` may be NULL. */
void l7mp_session_event(struct l7mp_session *s, const char *name, int stage, unsigned attempt,
                        const char *text)
{
	struct session_event *e = event_slot(s);

	if (!e)
		return;
	*e = (struct session_event){
	        .time = l7mp_wallclock_ms(),
	        .name = name,
	        .stage = (int16_t)stage,
	        .attempt = (uint16_t)(attempt > UINT16_MAX ? UINT16_MAX : attempt),
	        .text = text ? l7mp_asprintf("%.*s", TEXT_MAX, text) : NULL,
	};
	e->detail = e->text;
}

/* Adds an event NOTICE of a stream; `name` is copied. */
void l7mp_session_event_notice(struct l7mp_session *s, int stage, const char *name,
                               const char *text)
{
	struct session_event *e = event_slot(s);
	size_t name_len = strnlen(name, TEXT_MAX), text_len = text ? strnlen(text, TEXT_MAX) : 0;

	if (!e)
		return;
	*e = (struct session_event){
	        .time = l7mp_wallclock_ms(), .name = "NOTICE", .stage = (int16_t)stage};
	e->text = calloc(1, name_len + text_len + 2);
	if (!e->text)
		return;
	memcpy(e->text, name, name_len);
	if (text)
		memcpy(e->text + name_len + 1, text, text_len);
	e->name = e->text;
	e->detail = text ? e->text + name_len + 1 : NULL;
}

void l7mp_session_events_clear(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n_events; i++)
		free(s->events[i].text);
	free(s->events);
	s->events = NULL;
	s->n_events = s->cap_events = s->first_event = 0;
}

void l7mp_session_past_event(struct l7mp_session *s, uint64_t time, const char *name, int stage,
                             unsigned attempt, const char *detail)
{
	struct session_event *e;

	if (!name) {
		l7mp_session_events_clear(s);
		return;
	}
	l7mp_session_event_notice(s, stage, name, detail);
	if (!s->n_events)
		return;
	e = &s->events[(s->first_event + s->n_events - 1U) % SESSION_EVENTS_MAX];
	e->time = time;
	e->attempt = (uint16_t)attempt;
}
