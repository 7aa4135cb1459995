/* SPDX-License-Identifier: MIT */
/*
 * The ring of a session's events. It is allocated and grows only when events occur, so that most
 * sessions need little; it is bounded, and the oldest events are dropped.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "l7mp/util.h"

#define EVENTS_FIRST 4
#define TEXT_MAX     400

static struct session_event *slot(struct l7mp_session *s)
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

void l7mp_session_event(struct l7mp_session *s, const char *name, int stage, unsigned attempt,
                        const char *text)
{
	struct session_event *e = slot(s);

	if (!e)
		return;
	*e = (struct session_event){
	        .time = l7mp_wallclock_ms(),
	        .name = name,
	        .stage = (int16_t)stage,
	        .attempt = (uint16_t)(attempt > UINT16_MAX ? UINT16_MAX : attempt),
	        .text = text ? strndup(text, TEXT_MAX) : NULL,
	};
	e->detail = e->text;
}

void l7mp_session_notice(struct l7mp_session *s, int stage, const char *name, const char *text)
{
	struct session_event *e = slot(s);
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

static cJSON *event_json(const struct l7mp_session *s, const struct session_event *e)
{
	cJSON *json = cJSON_CreateObject(), *content = cJSON_CreateObject();
	char time[L7MP_ISO8601_LEN], place[32];
	int rc = l7mp_json_add_str(json, "event", e->name);

	rc |= l7mp_json_add_str(json, "timestamp", l7mp_iso8601(e->time, time));
	rc |= l7mp_json_add_str(json, "message", e->detail ? e->detail : "");
	if (e->stage >= 0) {
		const struct session_stage *st = &s->stages[e->stage];

		rc |= l7mp_json_add_str(content, "stage",
		                        l7mp_stage_place(st, place, sizeof(place)));
		if (st->cluster)
			rc |= l7mp_json_add_str(content, "cluster", st->cluster);
	}
	if (e->attempt)
		rc |= l7mp_json_add_num(content, "attempt", e->attempt);
	rc |= l7mp_json_add(json, "content", content);
	if (rc) {
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}

cJSON *l7mp_session_events_json(const struct l7mp_session *s)
{
	cJSON *array = cJSON_CreateArray();

	for (unsigned i = 0; array && i < s->n_events; i++) {
		cJSON *e = event_json(s, &s->events[(s->first_event + i) % s->n_events]);

		if (!e || !cJSON_AddItemToArray(array, e)) {
			cJSON_Delete(e);
			break;
		}
	}
	return array;
}
