/* SPDX-License-Identifier: MIT */
/* What people see of a session's way through the kernel: session.offload. */
#include "internal.h"
#include "l7mp/util.h"

static const char *const off_states[] = {"slow", "pending", "pending", "fast", "refused"};

static cJSON *direction_json(const struct l7mp_session *s, int dir,
                             const struct session_count *count, uint64_t last_seen)
{
	const struct session_stage *ends[2] = {&s->stages[0], &s->stages[s->dest]};
	const struct l7mp_offload *o = s->m->offload;
	const char *hook = NULL, *interface = NULL;
	cJSON *json = cJSON_CreateObject();
	uint64_t now = l7mp_loop_now(session_loop(s));
	char place[32], time[L7MP_ISO8601_LEN];
	int rc;

	if (s->flow)
		o->where(o->ctx, s->flow, (enum l7mp_direction)dir, &hook, &interface);
	rc = l7mp_json_add_str(json, "from", l7mp_stage_place(ends[dir], place, sizeof(place)));
	rc |= l7mp_json_add_str(json, "to", l7mp_stage_place(ends[!dir], place, sizeof(place)));
	rc |= l7mp_json_add_str(json, "state", off_states[s->off_state]);
	rc |= l7mp_json_add_str(json, "reason", l7mp_reason_name((enum l7mp_reason)s->off_reason));
	rc |= l7mp_json_add_str(json, "hook", hook ? hook : "");
	rc |= l7mp_json_add_str(json, "interface", interface ? interface : "");
	rc |= l7mp_json_add_num(json, "packets", (double)count->packets);
	rc |= l7mp_json_add_num(json, "bytes", (double)count->bytes);
	if (last_seen && last_seen <= now)
		rc |= l7mp_json_add_str(
		        json, "last_seen",
		        l7mp_iso8601(l7mp_wallclock_ms() - (now - last_seen), time));
	else
		rc |= l7mp_json_add(json, "last_seen", cJSON_CreateNull());
	if (rc) {
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}

cJSON *l7mp_session_offload_json(const struct l7mp_session *s)
{
	cJSON *json = cJSON_CreateObject(), *pipes = cJSON_CreateObject();
	cJSON *directions = cJSON_CreateArray();
	bool fast = s->off_state == SESSION_OFF_FAST;
	struct session_count count[2];
	uint64_t seen[2];
	int rc;

	l7mp_session_fast(s, count, seen);
	rc = l7mp_json_add_str(json, "state", fast ? "fast" : "slow");
	rc |= l7mp_json_add_num(pipes, "total", s->n);
	rc |= l7mp_json_add_num(pipes, "offloaded", fast ? s->n : 0);
	rc |= l7mp_json_add(json, "pipes", pipes);
	for (int dir = 0; directions && dir < 2; dir++) {
		cJSON *d = direction_json(s, dir, &count[dir], seen[dir]);

		if (!d || !cJSON_AddItemToArray(directions, d)) {
			cJSON_Delete(d);
			rc = -1;
		}
	}
	rc |= l7mp_json_add(json, "directions", directions);
	if (rc) {
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}
