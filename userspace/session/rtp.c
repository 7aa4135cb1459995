/* SPDX-License-Identifier: MIT */
/*
 * RTP statistics of each direction of a session: from packets relayed in user space, counted here,
 * and from the counters of the kernel flow (l7mp_rtp_stream).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"
#include "l7mp/util.h"

int l7mp_session_rtp_new(struct l7mp_session *s, uint32_t clock_rate)
{
	s->rtp = calloc(2, sizeof(*s->rtp));
	if (!s->rtp)
		return -1;
	for (int dir = 0; dir < 2; dir++) {
		s->rtp[dir].at = &s->rtp[dir].own;
		s->rtp[dir].own.dynamic_rate = clock_rate;
	}
	return 0;
}

void l7mp_session_rtp_data(struct l7mp_session *s, unsigned stage, const struct l7mp_buf *buf)
{
	uint8_t head[L7MP_RTP_HEADER] = {0};
	struct timespec now;

	if (stage != 0 && stage != s->dest)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	memcpy(head, buf->data, buf->len < sizeof(head) ? buf->len : sizeof(head));
	l7mp_rtp_count(s->rtp[stage == 0 ? L7MP_INGRESS : L7MP_EGRESS].at, head, buf->len,
	               (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec);
}

/* ---- for another process ---- */

/* The members of struct l7mp_rtp; dynamic_rate is a setting, of which each process has its own. */
/* clang-format off */
#define NUMBERS(X) \
	X(packets) X(others) X(lost_before) X(received) X(last_ns) X(jitter16) X(ssrc) \
	X(timestamp) X(cycles) X(base_seq) X(clock_rate) X(sources) X(max_seq) X(bad_seq) \
	X(payload_type) X(bad) X(reordered)
/* clang-format on */

cJSON *l7mp_session_rtp_save(const struct l7mp_session *s)
{
	cJSON *array = cJSON_CreateArray();

	for (int dir = 0; array && dir < 2; dir++) {
		const struct l7mp_rtp *r = s->rtp[dir].at;
		cJSON *json = cJSON_CreateObject();
		int rc = json ? 0 : -1;

#define SAVE(m) rc |= l7mp_json_add_num(json, #m, (double)r->m);
		NUMBERS(SAVE)
#undef SAVE
		if (rc || !cJSON_AddItemToArray(array, json)) {
			cJSON_Delete(json);
			cJSON_Delete(array);
			return NULL;
		}
	}
	return array;
}

void l7mp_session_rtp_load(struct l7mp_session *s, const cJSON *saved)
{
	for (int dir = 0; dir < 2; dir++) {
		const cJSON *json = cJSON_GetArrayItem(saved, dir);
		struct l7mp_rtp *r = &s->rtp[dir].own;

#define LOAD(m) r->m = (__typeof__(r->m))l7mp_json_num(json, #m, 0);
		NUMBERS(LOAD)
#undef LOAD
	}
}

/* ---- the end, and views ---- */

void l7mp_session_rtp_ended(const struct l7mp_session *s)
{
	static const uint64_t bounds_ms[L7MP_RTP_JITTER_BOUNDS] = L7MP_RTP_JITTER_BOUNDS_MS;

	for (int dir = 0; dir < 2; dir++) {
		const struct l7mp_rtp *r = s->rtp[dir].at;
		struct l7mp_rtp_totals *t = &s->m->env->stats->rtp[dir];
		int64_t lost = r->lost_before + l7mp_rtp_lost_now(r);
		uint64_t jitter_us = r->jitter16 / 16000;
		unsigned i = 0;

		if (!r->packets)
			continue;
		t->streams++;
		t->packets += r->packets;
		t->lost += lost > 0 ? (uint64_t)lost : 0;
		t->jitter_us += jitter_us;
		while (i < L7MP_RTP_JITTER_BOUNDS && jitter_us > bounds_ms[i] * 1000)
			i++;
		t->jitter[i]++;
	}
}

static cJSON *stream_json(const struct l7mp_rtp *r)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_num(json, "packets", (double)r->packets);

	rc |= l7mp_json_add_num(json, "lost", (double)(r->lost_before + l7mp_rtp_lost_now(r)));
	rc |= l7mp_json_add_num(json, "reordered", (double)r->reordered);
	rc |= l7mp_json_add_num(json, "others", (double)r->others);
	if (r->packets) {
		rc |= l7mp_json_add_num(json, "ssrc", r->ssrc);
		rc |= l7mp_json_add_num(json, "payload_type", r->payload_type);
		rc |= l7mp_json_add_num(json, "sources", r->sources);
		rc |= l7mp_json_add_num(json, "clock_rate", r->clock_rate);
		/* Microseconds are the resolution of a 90 kHz clock. */
		rc |= l7mp_json_add_num(json, "jitter_ms",
		                        floor((double)r->jitter16 / 16000) / 1000);
	}
	if (!rc)
		return json;
	cJSON_Delete(json);
	return NULL;
}

cJSON *l7mp_session_rtp_json(const struct l7mp_session *s)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add(json, "ingress", stream_json(s->rtp[L7MP_INGRESS].at));

	rc |= l7mp_json_add(json, "egress", stream_json(s->rtp[L7MP_EGRESS].at));
	if (!rc)
		return json;
	cJSON_Delete(json);
	return NULL;
}
