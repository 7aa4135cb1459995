/* SPDX-License-Identifier: MIT */
/* The documents about a session for the API and the access log. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "internal.h"
#include "l7mp/util.h"

const char *l7mp_stage_place(const struct session_stage *st, char *buf, size_t size)
{
	const struct l7mp_session *s = st->s;

	if (st->index == 0)
		snprintf(buf, size, "source");
	else if (st->index < s->dest)
		snprintf(buf, size, "ingress[%u]", st->index - 1U);
	else if (st->index == s->dest)
		snprintf(buf, size, "destination");
	else
		snprintf(buf, size, "egress[%u]", st->index - s->dest - 1U);
	return buf;
}

/* Returns the tree; frees it and returns NULL when adding to it has failed. */
static cJSON *checked(cJSON *json, int rc)
{
	if (!rc)
		return json;
	cJSON_Delete(json);
	return NULL;
}

static cJSON *endpoint_json(const struct l7mp_endpoint *e)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_str(json, "name", e->obj.name);

	rc |= l7mp_json_add(json, "spec", cJSON_Duplicate(e->spec, true));
	return checked(json, rc);
}

/* Adds the addresses of the stage's socket, when it is an open UDP or TCP socket. */
static int add_addresses(cJSON *json, const struct session_stage *st)
{
	struct l7mp_flow_end end = {.l4 = 0};
	char text[L7MP_ADDR_STRLEN];
	int rc = 0;

	if (st->stream)
		l7mp_stream_flow(st->stream, &end);
	/* A UDP upstream that has not learnt its peer yet (options.latch) has only a local port. */
	if (end.remote.len && !end.local.len && st->stream->ops->local &&
	    st->stream->ops->local(st->stream, &end.local))
		end.local.len = 0;
	if (end.local.len)
		rc |= l7mp_json_add_str(json, "local", l7mp_addr_str(&end.local, text));
	if (end.remote.len)
		rc |= l7mp_json_add_str(json, "peer", l7mp_addr_str(&end.remote, text));
	return rc;
}

static cJSON *stage_json(const struct session_stage *st)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_str(json, "origin", st->cluster);

	if (st->endpoint)
		rc |= l7mp_json_add(json, "endpoint", endpoint_json(st->endpoint));
	rc |= l7mp_json_add_str(json, "status",
	                        l7mp_stage_state_name((enum l7mp_stage_state)st->state));
	rc |= add_addresses(json, st);
	return checked(json, rc);
}

static cJSON *source_json(const struct l7mp_session *s)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_str(json, "origin", s->listener->obj.name);

	rc |= l7mp_json_add_str(json, "listener", s->listener->obj.name);
	rc |= l7mp_json_add_str(json, "status",
	                        l7mp_stage_state_name((enum l7mp_stage_state)s->stages[0].state));
	rc |= add_addresses(json, &s->stages[0]);
	return checked(json, rc);
}

static cJSON *chain_json(const struct l7mp_session *s, unsigned from, unsigned to)
{
	cJSON *array = cJSON_CreateArray();

	for (unsigned i = from; array && i < to; i++) {
		cJSON *stage = stage_json(&s->stages[i]);

		if (!stage || !cJSON_AddItemToArray(array, stage)) {
			cJSON_Delete(stage);
			cJSON_Delete(array);
			return NULL;
		}
	}
	return array;
}

static cJSON *count_json(const struct l7mp_session_count *c)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_num(json, "packets", (double)c->packets);

	rc |= l7mp_json_add_num(json, "bytes", (double)c->bytes);
	return checked(json, rc);
}

static cJSON *direction_json(const struct l7mp_session_count *slow,
                             const struct l7mp_session_count *fast)
{
	const struct l7mp_session_count sum = {slow->packets + fast->packets,
	                                       slow->bytes + fast->bytes};
	cJSON *json = count_json(&sum);
	int rc = l7mp_json_add(json, "slow", count_json(slow));

	rc |= l7mp_json_add(json, "fast", count_json(fast));
	return checked(json, rc);
}

static int add_directions(const struct l7mp_session *s, cJSON *json)
{
	struct l7mp_session_count fast[2];
	uint64_t seen[2];
	int rc;

	l7mp_session_fast(s, fast, seen);
	rc = l7mp_json_add(json, "ingress", direction_json(&s->slow[0], &fast[0]));
	rc |= l7mp_json_add(json, "egress", direction_json(&s->slow[1], &fast[1]));
	return rc;
}

static cJSON *stats_json(const struct l7mp_session *s)
{
	cJSON *json = cJSON_CreateObject();
	int rc = add_directions(s, json);

	rc |= l7mp_json_add_num(json, "drops", (double)s->drops);
	if (s->rtp)
		rc |= l7mp_json_add(json, "rtp", l7mp_session_rtp_json(s));
	return checked(json, rc);
}

/* ---- the member `offload` ---- */

static const char *const off_states[] = {"slow", "pending", "pending", "fast", "refused"};

/* How the segments of a TCP session in the kernel are translated; none otherwise. */
static int add_translation(const struct l7mp_session *s, int dir, cJSON *json)
{
	const struct l7mp_offload *o = s->m->offload;
	struct l7mp_flow_translation t;
	cJSON *tcp;
	int rc;

	if (!s->flow || !o->translation ||
	    !o->translation(o->ctx, s->flow, (enum l7mp_direction)dir, &t))
		return 0;
	tcp = cJSON_CreateObject();
	rc = l7mp_json_add_num(tcp, "sequence_delta", t.seq_delta);
	rc |= l7mp_json_add_num(tcp, "acknowledgement_delta", t.ack_delta);
	rc |= l7mp_json_add_bool(tcp, "timestamps", t.ts);
	if (t.ts && t.ts_known)
		rc |= l7mp_json_add_num(tcp, "timestamp_delta", t.ts_delta);
	rc |= l7mp_json_add_num(tcp, "window_scale_in", t.win_in);
	rc |= l7mp_json_add_num(tcp, "window_scale_out", t.win_out);
	rc |= l7mp_json_add_bool(tcp, "sack", t.sack);
	return l7mp_json_add(json, "tcp", checked(tcp, rc));
}

static cJSON *offload_direction_json(const struct l7mp_session *s, int dir,
                                     const struct l7mp_session_count *count, uint64_t last_seen)
{
	const struct session_stage *ends[2] = {&s->stages[0], &s->stages[s->dest]};
	const struct l7mp_offload *o = s->m->offload;
	const char *hook = NULL, *interface = NULL, *phase = "";
	cJSON *json = cJSON_CreateObject();
	uint64_t now = l7mp_loop_now(session_loop(s));
	char place[32], time[L7MP_ISO8601_LEN];
	int rc;

	if (s->flow)
		o->where(o->ctx, s->flow, (enum l7mp_direction)dir, &hook, &interface);
	if (s->flow && o->phase)
		phase = o->phase(o->ctx, s->flow);
	rc = l7mp_json_add_str(json, "from", l7mp_stage_place(ends[dir], place, sizeof(place)));
	rc |= l7mp_json_add_str(json, "to", l7mp_stage_place(ends[!dir], place, sizeof(place)));
	rc |= l7mp_json_add_str(json, "state", off_states[s->offload_state]);
	rc |= l7mp_json_add_str(json, "reason",
	                        l7mp_reason_name((enum l7mp_reason)s->offload_reason));
	rc |= l7mp_json_add_str(json, "phase", phase);
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
	rc |= add_translation(s, dir, json);
	if (rc) {
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}

static cJSON *offload_json(const struct l7mp_session *s)
{
	cJSON *json = cJSON_CreateObject(), *pipes = cJSON_CreateObject();
	cJSON *directions = cJSON_CreateArray();
	bool fast = s->offload_state == SESSION_OFFLOAD_FAST;
	struct l7mp_session_count count[2];
	uint64_t seen[2];
	int rc;

	l7mp_session_fast(s, count, seen);
	rc = l7mp_json_add_str(json, "state", fast ? "fast" : "slow");
	rc |= l7mp_json_add_num(pipes, "total", s->n);
	rc |= l7mp_json_add_num(pipes, "offloaded", fast ? s->n : 0);
	rc |= l7mp_json_add(json, "pipes", pipes);
	for (int dir = 0; directions && dir < 2; dir++) {
		cJSON *d = offload_direction_json(s, dir, &count[dir], seen[dir]);

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

/* ---- metadata ---- */

/* Request fields that are credentials. */
static bool is_secret(const char *field)
{
	static const char *const secrets[] = {"authorization", "proxy-authorization", "cookie"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(secrets); i++)
		if (strcasecmp(field, secrets[i]) == 0)
			return true;
	return false;
}

/* Returns a copy without the values of credentials. NULL: no memory. */
static cJSON *metadata_json(const struct l7mp_session *s)
{
	cJSON *json = cJSON_Duplicate(s->metadata, true), *field;
	cJSON *headers = cJSON_GetObjectItemCaseSensitive(
	        cJSON_GetObjectItemCaseSensitive(json, "HTTP"), "headers");

	cJSON_ArrayForEach (field, headers) {
		cJSON *left_out;

		if (!is_secret(field->string))
			continue;
		left_out = cJSON_CreateString("***");
		if (!cJSON_ReplaceItemInObjectCaseSensitive(headers, field->string, left_out)) {
			cJSON_Delete(left_out);
			cJSON_Delete(json);
			return NULL;
		}
		field = left_out;
	}
	return json;
}

/* ---- events ---- */

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

static cJSON *events_json(const struct l7mp_session *s)
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

/* ---- the whole document ---- */

cJSON *l7mp_session_to_json(const struct l7mp_session *s)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_str(json, "name", s->name);

	rc |= l7mp_json_add(json, "metadata", metadata_json(s));
	rc |= l7mp_json_add(json, "source", source_json(s));
	rc |= l7mp_json_add(json, "destination", stage_json(&s->stages[s->dest]));
	rc |= l7mp_json_add(json, "ingress", chain_json(s, 1, s->dest));
	rc |= l7mp_json_add(json, "egress", chain_json(s, s->dest + 1U, s->n));
	rc |= l7mp_json_add_str(json, "status",
	                        l7mp_session_state_name((enum l7mp_session_state)s->state));
	rc |= l7mp_json_add(json, "events", events_json(s));
	rc |= l7mp_json_add(json, "stats", stats_json(s));
	rc |= l7mp_json_add(json, "offload", offload_json(s));
	return checked(json, rc);
}

/* ---- search, and the access log ---- */

/* Returns "127.0.0.1:15001" from the metadata; "" when the source has no address. */
static const char *source_address(const struct l7mp_session *s, char *buf, size_t size)
{
	static const char *const transports[] = {"UDP", "TCP"};
	const char *ip = l7mp_json_str(l7mp_json_member(s->metadata, "IP"), "src_addr", NULL);
	double port = -1;

	buf[0] = '\0';
	if (!ip)
		return buf;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(transports) && port < 0; i++)
		port = l7mp_json_num(l7mp_json_member(s->metadata, transports[i]), "src_port", -1);
	if (port < 0)
		snprintf(buf, size, "%s", ip);
	else
		snprintf(buf, size, strchr(ip, ':') ? "[%s]:%.0f" : "%s:%.0f", ip, port);
	return buf;
}

static bool has_word(const struct l7mp_session *s, const char *word)
{
	char address[L7MP_ADDR_STRLEN];

	if (strcasestr(s->name, word) || strcasestr(s->listener->obj.name, word) ||
	    strcasestr(l7mp_session_state_name((enum l7mp_session_state)s->state), word) ||
	    strcasestr(off_states[s->offload_state], word) ||
	    strcasestr(l7mp_reason_name((enum l7mp_reason)s->offload_reason), word) ||
	    strcasestr(source_address(s, address, sizeof(address)), word))
		return true;
	for (unsigned i = 1; i < s->n; i++) {
		const struct session_stage *st = &s->stages[i];

		if (strcasestr(st->cluster, word) ||
		    (st->endpoint && strcasestr(st->endpoint->obj.name, word)))
			return true;
	}
	return false;
}

bool l7mp_session_has_words(const struct l7mp_session *s, const char *const *words)
{
	for (; *words; words++)
		if (!has_word(s, *words))
			return false;
	return true;
}

static cJSON *source_record(const struct l7mp_session *s)
{
	cJSON *json = cJSON_CreateObject();
	char text[L7MP_ADDR_STRLEN];
	int rc = l7mp_json_add_str(json, "listener", s->listener->obj.name);

	rc |= l7mp_json_add_str(json, "address", source_address(s, text, sizeof(text)));
	return checked(json, rc);
}

static cJSON *destination_record(const struct l7mp_session *s)
{
	const struct session_stage *st = &s->stages[s->dest];
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_str(json, "cluster", st->cluster);

	if (st->endpoint) {
		rc |= l7mp_json_add_str(json, "endpoint", st->endpoint->obj.name);
		if (st->endpoint->address) {
			char address[SESSION_ADDRESS_MAX];

			session_endpoint_address(st, address, sizeof(address));
			rc |= l7mp_json_add_str(json, "address", address);
		}
	}
	return checked(json, rc);
}

cJSON *l7mp_session_access_record(const struct l7mp_session *s)
{
	cJSON *json = cJSON_CreateObject();
	uint64_t end = s->end_wall ? s->end_wall : l7mp_wallclock_ms();
	char time[L7MP_ISO8601_LEN];
	int rc = l7mp_json_add_str(json, "name", s->name);

	rc |= l7mp_json_add(json, "source", source_record(s));
	rc |= l7mp_json_add(json, "destination", destination_record(s));
	rc |= l7mp_json_add_str(json, "start", l7mp_iso8601(s->start_wall, time));
	/* In seconds. Not negative, even if the wall clock was set back. */
	rc |= l7mp_json_add_num(json, "duration",
	                        end > s->start_wall ? (double)(end - s->start_wall) / 1000 : 0);
	rc |= add_directions(s, json);
	rc |= l7mp_json_add_num(json, "drops", (double)s->drops);
	rc |= l7mp_json_add_str(json, "reason", s->reason ? s->reason : "");
	return checked(json, rc);
}
