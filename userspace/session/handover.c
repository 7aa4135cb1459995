/* SPDX-License-Identifier: MIT */
/* The old process's part of handing sessions over to a new one (handover.h). */
#include "l7mp/handover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"

/* ---- the kernel fast path ---- */

void l7mp_sessions_offload_rest(struct l7mp_sessions *m, bool on)
{
	struct l7mp_session *s, *next;

	m->offload_suspended = on;
	if (!on)
		return;
	/* A flow that is starting would have its sockets read. */
	HASH_ITER (hh, m->by_name, s, next)
		if (s->flow && !s->ending &&
		    (s->tcp || s->offload_state == SESSION_OFFLOAD_STARTING))
			l7mp_session_offload_remove(s, true);
}

bool l7mp_sessions_lent(const struct l7mp_sessions *m)
{
	for (const struct l7mp_session *s = m->by_name; s; s = s->hh.next)
		if (s->lent && !s->ending)
			return true;
	return false;
}

/* ---- freezing ---- */

/* Whether the new process creates this stage again. */
static bool is_recreated(const struct session_stage *st)
{
	return st->index && st->object && (st->object->proto->flags & L7MP_PROTO_STATELESS);
}

static int can_go(const struct l7mp_session *s)
{
	const struct l7mp_proto *proto;

	if (s->state != L7MP_SESSION_CONNECTED || s->ending || s->draining || s->orphans ||
	    s->held || s->lent || s->source_closed || s->operators || s->linger)
		return -EBUSY;
	proto = l7mp_proto_of(s->m->env, s->listener->proto);
	if (s->reopen || !proto || !proto->restore || !proto->hand)
		return -ENOTSUP;
	for (unsigned i = 0; i < s->n; i++) {
		const struct session_stage *st = &s->stages[i];

		if (!st->stream || st->state != L7MP_STAGE_READY || s->pipes[i].busy)
			return -EBUSY;
		if (is_recreated(st))
			continue;
		if (!st->stream->ops->freeze || (i && i != s->dest) ||
		    (i && !(st->object->proto->flags & L7MP_PROTO_RESTORES)))
			return -ENOTSUP;
	}
	return 0;
}

bool l7mp_sessions_settling(const struct l7mp_sessions *m)
{
	for (const struct l7mp_session *s = m->by_name; s; s = s->hh.next)
		if (!s->ending && !s->operators && s->state != L7MP_SESSION_DESTROYED &&
		    can_go(s) == -EBUSY)
			return true;
	return false;
}

static int freeze_stages(struct l7mp_session *s, unsigned *n)
{
	int rc = 0;

	for (*n = 0; *n < s->n && !rc; ++*n) {
		struct session_stage *st = &s->stages[*n];

		if (!is_recreated(st))
			rc = st->stream->ops->freeze(st->stream, true);
		if (rc)
			break;
	}
	return rc;
}

static void thaw_stages(struct l7mp_session *s, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (s->stages[i].stream && !is_recreated(&s->stages[i]))
			(void)s->stages[i].stream->ops->freeze(s->stages[i].stream, false);
}

static bool may_keep_flow(const struct l7mp_session *s)
{
	return s->flow && s->offload_state == SESSION_OFFLOAD_FAST && !s->tcp;
}

int l7mp_session_freeze(struct l7mp_session *s, bool keep_flow)
{
	unsigned n = 0;
	int rc;

	if (s->frozen)
		return 0;
	rc = can_go(s);
	keep_flow = keep_flow && may_keep_flow(s);
	if (!rc && !keep_flow) {
		l7mp_session_offload_remove(s, true);
		rc = s->flow || s->lent ? -EBUSY : 0;
	}
	if (!rc)
		rc = freeze_stages(s, &n);
	if (rc) {
		thaw_stages(s, n);
		return rc;
	}
	l7mp_session_offload_sync(s, true);
	l7mp_timer_stop(session_loop(s), &s->timer);
	s->frozen = true;
	return 0;
}

static void receive_alone(struct l7mp_session *s)
{
	struct l7mp_stream *source = s->stages[0].stream;

	if (!s->ending && source && source->ops->stay)
		(void)source->ops->stay(source);
}

void l7mp_sessions_stay(struct l7mp_sessions *m, bool all)
{
	struct l7mp_session *s, *next;

	/*
	 * Data emitted while freezing may end sessions, but none is freed before the next
	 * iteration.
	 */
	HASH_ITER (hh, m->by_name, s, next)
		if (all || can_go(s))
			receive_alone(s);
}

void l7mp_session_stay(struct l7mp_session *s)
{
	if (!s->frozen)
		receive_alone(s);
	if (!s->frozen && !s->ending && s->flow && !s->lent)
		l7mp_session_offload_remove(s, true);
}

void l7mp_session_thaw(struct l7mp_session *s)
{
	if (!s->frozen)
		return;
	s->frozen = false;
	thaw_stages(s, s->n);
	l7mp_session_resume(s);
}

bool l7mp_session_is_frozen(const struct l7mp_session *s)
{
	return s->frozen;
}

bool l7mp_session_may_stay(const struct l7mp_session *s)
{
	const struct l7mp_proto *proto = l7mp_proto_of(s->m->env, s->listener->proto);

	return proto && proto->hand;
}

void l7mp_session_release(struct l7mp_session *s)
{
	if (!s->frozen)
		return;
	for (unsigned i = 0; i < s->n; i++) {
		struct l7mp_stream *stream = s->stages[i].stream;

		if (is_recreated(&s->stages[i]))
			l7mp_stream_close(stream, true);
		else
			stream->ops->release(stream);
	}
	l7mp_session_given(s);
}

/* ---- describing ---- */

static cJSON *count_json(const struct l7mp_session *s, bool fast, int dir)
{
	cJSON *json = cJSON_CreateArray();

	cJSON_AddItemToArray(json,
	                     cJSON_CreateNumber((double)(fast ? s->fast : s->slow)[dir].packets));
	cJSON_AddItemToArray(json,
	                     cJSON_CreateNumber((double)(fast ? s->fast : s->slow)[dir].bytes));
	return json;
}

static cJSON *addr_json(const struct l7mp_addr *a)
{
	char text[L7MP_ADDR_STRLEN];
	cJSON *json = cJSON_CreateArray();

	cJSON_AddItemToArray(json, cJSON_CreateString(a->len ? l7mp_addr_ip(a, text) : ""));
	cJSON_AddItemToArray(json, cJSON_CreateNumber(a->len ? l7mp_addr_port(a) : 0));
	return json;
}

static cJSON *end_json(const struct session_stage *st, int *fd)
{
	struct l7mp_stream_saved saved = {.fd = -1};
	struct l7mp_flow_end end;
	cJSON *json = cJSON_CreateObject();
	int rc;

	*fd = -1;
	if (is_recreated(st))
		return json;
	st->stream->ops->save(st->stream, &saved);
	l7mp_stream_flow(st->stream, &end);
	*fd = saved.fd;
	rc = l7mp_json_add(json, "local", addr_json(&end.local));
	rc |= l7mp_json_add(json, "remote", addr_json(&end.remote));
	rc |= l7mp_json_add_bool(json, "fd", saved.fd >= 0);
	rc |= l7mp_json_add_bool(json, "ended", saved.ended);
	rc |= l7mp_json_add_bool(json, "shut", saved.shut);
	rc |= l7mp_json_add_num(json, "off", (double)saved.off);
	if (end.mss.snd) {
		rc |= l7mp_json_add_num(json, "snd_mss", end.mss.snd);
		rc |= l7mp_json_add_num(json, "rcv_mss", end.mss.rcv);
	}
	if (!rc)
		return json;
	cJSON_Delete(json);
	return NULL;
}

static cJSON *pipes_json(const struct l7mp_session *s)
{
	cJSON *array = cJSON_CreateArray();

	for (unsigned i = 0; array && i < s->n; i++) {
		const struct session_pipe *p = &s->pipes[i];

		cJSON_AddItemToArray(array, cJSON_CreateNumber(p->end + 2 * p->shut));
		cJSON_AddItemToArray(array, cJSON_CreateNumber(p->code));
	}
	return array;
}

static cJSON *events_json(const struct l7mp_session *s)
{
	cJSON *array = cJSON_CreateArray();

	for (unsigned i = 0; array && i < s->n_events; i++) {
		const struct session_event *e = &s->events[(s->first_event + i) % s->n_events];
		cJSON *json = cJSON_CreateArray();

		cJSON_AddItemToArray(json, cJSON_CreateNumber((double)e->time));
		cJSON_AddItemToArray(json, cJSON_CreateString(e->name));
		cJSON_AddItemToArray(json, cJSON_CreateNumber(e->stage));
		cJSON_AddItemToArray(json, cJSON_CreateNumber(e->attempt));
		cJSON_AddItemToArray(json, cJSON_CreateString(e->detail ? e->detail : ""));
		cJSON_AddItemToArray(array, json);
	}
	return array;
}

static cJSON *client_json(const struct l7mp_session *s)
{
	struct l7mp_session_client client;
	cJSON *json = cJSON_CreateObject();
	int rc;

	l7mp_session_client(s, &client);
	rc = l7mp_json_add_num(json, "origin", client.origin);
	rc |= l7mp_json_add(json, "peer", addr_json(&client.peer));
	if (!rc)
		return json;
	cJSON_Delete(json);
	return NULL;
}

char *l7mp_session_save(const struct l7mp_session *s, int fds[static 2])
{
	const struct session_stage *dest = &s->stages[s->dest];
	uint64_t now = l7mp_loop_now(session_loop(s));
	cJSON *json = cJSON_CreateObject();
	char *text = NULL;
	int rc = l7mp_json_add_str(json, "name", s->name);

	rc |= l7mp_json_add_str(json, "listener", s->listener->obj.name);
	rc |= l7mp_json_add_str(json, "route", s->lookup.route->obj.name);
	rc |= l7mp_json_add_str(json, "cluster", dest->cluster);
	if (dest->endpoint)
		rc |= l7mp_json_add_str(json, "endpoint", dest->endpoint->obj.name);
	rc |= l7mp_json_add(json, "metadata", cJSON_Duplicate(s->metadata, true));
	rc |= l7mp_json_add_num(json, "started", (double)s->start_wall);
	rc |= l7mp_json_add_num(json, "idle", (double)(now - s->active_ms));
	rc |= l7mp_json_add_num(json, "drops", (double)s->drops);
	rc |= l7mp_json_add_num(json, "proof", s->proof);
	rc |= l7mp_json_add_bool(json, "warned", s->warned_kind);
	rc |= l7mp_json_add_num(json, "stages", s->n);
	rc |= l7mp_json_add(json, "slow0", count_json(s, false, 0));
	rc |= l7mp_json_add(json, "slow1", count_json(s, false, 1));
	rc |= l7mp_json_add(json, "fast0", count_json(s, true, 0));
	rc |= l7mp_json_add(json, "fast1", count_json(s, true, 1));
	rc |= l7mp_json_add(json, "client", client_json(s));
	rc |= l7mp_json_add(json, "pipes", pipes_json(s));
	rc |= l7mp_json_add(json, "source", end_json(&s->stages[0], &fds[0]));
	rc |= l7mp_json_add(json, "destination", end_json(dest, &fds[1]));
	rc |= l7mp_json_add(json, "events", events_json(s));
	if (s->rtp)
		rc |= l7mp_json_add(json, "rtp", l7mp_session_rtp_save(s));
	if (!rc)
		text = l7mp_json_print(json, L7MP_JSON_PLAIN);
	cJSON_Delete(json);
	return text;
}

static int each_of(unsigned stage, bool queue, struct l7mp_buf *buf,
                   int (*cb)(void *arg, const struct l7mp_session_piece *piece), void *arg)
{
	int rc = 0;

	for (; buf && !rc; buf = buf->next) {
		const struct l7mp_session_piece piece = {
		        .stage = stage, .queue = queue, .buf = buf};

		rc = cb(arg, &piece);
	}
	return rc;
}

int l7mp_session_each_piece(const struct l7mp_session *s,
                            int (*cb)(void *arg, const struct l7mp_session_piece *piece), void *arg)
{
	int rc = 0;

	for (unsigned i = 0; i < s->n && !rc; i++) {
		const struct session_stage *st = &s->stages[i];
		struct l7mp_stream_saved saved = {.fd = -1};

		if (!is_recreated(st))
			st->stream->ops->save(st->stream, &saved);
		rc = each_of(i, true, saved.queue, cb, arg);
		if (!rc)
			rc = each_of(i, false, s->pipes[i].head, cb, arg);
	}
	return rc;
}

/* ---- in the new process ---- */

static int read_addr(const cJSON *json, struct l7mp_addr *out)
{
	const cJSON *ip = cJSON_GetArrayItem(json, 0), *port = cJSON_GetArrayItem(json, 1);

	out->len = 0;
	if (!cJSON_IsString(ip) || !cJSON_IsNumber(port))
		return -EPROTO;
	if (!*ip->valuestring)
		return 0;
	return l7mp_addr_parse(out, ip->valuestring, (uint16_t)port->valuedouble) ? -EPROTO : 0;
}

static void read_count(const cJSON *saved, const char *key, struct l7mp_session_count *out)
{
	const cJSON *json = l7mp_json_member(saved, key);
	const cJSON *packets = cJSON_GetArrayItem(json, 0), *bytes = cJSON_GetArrayItem(json, 1);

	out->packets = cJSON_IsNumber(packets) ? (uint64_t)packets->valuedouble : 0;
	out->bytes = cJSON_IsNumber(bytes) ? (uint64_t)bytes->valuedouble : 0;
}

/* The descriptions do not include names of UNIX sockets: query the kernel. */
static void read_unix_names(struct l7mp_restore_end *end)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (!getsockname(end->fd, (struct sockaddr *)&ss, &len) && ss.ss_family == AF_UNIX)
		(void)l7mp_addr_from_sockaddr(&end->local, (struct sockaddr *)&ss, len);
	len = sizeof(ss);
	if (!getpeername(end->fd, (struct sockaddr *)&ss, &len) && ss.ss_family == AF_UNIX)
		(void)l7mp_addr_from_sockaddr(&end->remote, (struct sockaddr *)&ss, len);
}

/* *at is the index of the next descriptor. */
static int read_end(const cJSON *json, const int *fds, size_t n_fds, size_t *at,
                    struct l7mp_restore_end *out)
{
	*out = (struct l7mp_restore_end){.fd = -1};
	if (!json || !json->child)
		return json ? 0 : -EPROTO; /* the stage is created again */
	if (read_addr(l7mp_json_member(json, "local"), &out->local) ||
	    read_addr(l7mp_json_member(json, "remote"), &out->remote))
		return -EPROTO;
	out->ended = l7mp_json_bool(json, "ended", false);
	out->shut = l7mp_json_bool(json, "shut", false);
	out->off = (size_t)l7mp_json_num(json, "off", 0);
	out->mss = (struct l7mp_flow_mss){.snd = (uint16_t)l7mp_json_num(json, "snd_mss", 0),
	                                  .rcv = (uint16_t)l7mp_json_num(json, "rcv_mss", 0)};
	if (!l7mp_json_bool(json, "fd", false))
		return 0;
	if (*at >= n_fds)
		return -EPROTO;
	out->fd = fds[(*at)++];
	if (!out->local.len && !out->remote.len)
		read_unix_names(out);
	return 0;
}

static int read_record(const cJSON *saved, const int *fds, size_t n_fds,
                       struct l7mp_session_record *r)
{
	size_t at = 0;
	int rc;

	memset(r, 0, sizeof(*r));
	r->name = l7mp_json_str(saved, "name", NULL);
	r->listener = l7mp_json_str(saved, "listener", NULL);
	r->route = l7mp_json_str(saved, "route", "");
	r->cluster = l7mp_json_str(saved, "cluster", NULL);
	r->endpoint = l7mp_json_str(saved, "endpoint", NULL);
	r->metadata = l7mp_json_member(saved, "metadata");
	r->started_ms = (uint64_t)l7mp_json_num(saved, "started", 0);
	r->drops = (uint64_t)l7mp_json_num(saved, "drops", 0);
	read_count(saved, "slow0", &r->slow[0]);
	read_count(saved, "slow1", &r->slow[1]);
	read_count(saved, "fast0", &r->fast[0]);
	read_count(saved, "fast1", &r->fast[1]);
	r->origin = (enum l7mp_origin)l7mp_json_num(l7mp_json_member(saved, "client"), "origin", 0);
	rc = read_end(l7mp_json_member(saved, "source"), fds, n_fds, &at, &r->end[0]);
	if (!rc)
		rc = read_end(l7mp_json_member(saved, "destination"), fds, n_fds, &at, &r->end[1]);
	return rc || !r->name || !r->listener || !r->cluster || at != n_fds ? -EPROTO : 0;
}

/* Takes the pieces that were queued in the streams of both ends. Returns the number of bytes. */
static size_t take_queue(const struct l7mp_session_piece *pieces, size_t n, unsigned stage,
                         struct l7mp_restore_end *end)
{
	struct l7mp_buf **tail = &end->queue;
	size_t bytes = 0;

	for (size_t i = 0; i < n; i++) {
		if (!pieces[i].queue || pieces[i].stage != stage)
			continue;
		*tail = l7mp_buf_ref(pieces[i].buf);
		bytes += pieces[i].buf->len;
		tail = &pieces[i].buf->next;
	}
	*tail = NULL;
	if (end->off && (!end->queue || end->off >= end->queue->len))
		end->off = 0;
	return bytes;
}

static void read_events(struct l7mp_session *s, const cJSON *events)
{
	const cJSON *e;

	l7mp_session_past_event(s, 0, NULL, 0, 0, NULL);
	cJSON_ArrayForEach (e, events) {
		const cJSON *name = cJSON_GetArrayItem(e, 1), *detail = cJSON_GetArrayItem(e, 4);
		const cJSON *stage = cJSON_GetArrayItem(e, 2);

		if (!cJSON_IsString(name) || !cJSON_IsString(detail) || !cJSON_IsNumber(stage) ||
		    stage->valuedouble < -1 || stage->valuedouble >= s->n)
			continue;
		l7mp_session_past_event(s, (uint64_t)cJSON_GetNumberValue(cJSON_GetArrayItem(e, 0)),
		                        name->valuestring, (int)stage->valuedouble,
		                        (unsigned)cJSON_GetNumberValue(cJSON_GetArrayItem(e, 3)),
		                        *detail->valuestring ? detail->valuestring : NULL);
	}
	l7mp_session_past_event(s, l7mp_wallclock_ms(), "UPGRADE", -1, 0, NULL);
}

static void read_pipes(struct l7mp_session *s, const cJSON *pipes)
{
	const cJSON *item = pipes ? pipes->child : NULL;

	for (unsigned i = 0; i < s->n && item && item->next; i++) {
		unsigned bits = (unsigned)item->valuedouble;

		s->pipes[i].end = bits & 1;
		s->pipes[i].shut = bits & 2;
		s->pipes[i].code = (uint16_t)item->next->valuedouble;
		item = item->next->next;
	}
}

/* Restores the rest of its state, before the session can do anything. */
static void set_state_of(struct l7mp_session *s, const cJSON *saved,
                         const struct l7mp_session_piece *pieces, size_t n)
{
	uint64_t idle = (uint64_t)l7mp_json_num(saved, "idle", 0);
	int proof = (int)l7mp_json_num(saved, "proof", SESSION_PROVEN);

	s->taken = true;
	s->active_ms = s->active_ms > idle ? s->active_ms - idle : 0;
	s->warned_kind = l7mp_json_bool(saved, "warned", false);
	if (proof == SESSION_PROVEN)
		l7mp_admission_proven(s);
	else if (proof == SESSION_ANSWERED)
		l7mp_admission_answered(s);
	read_events(s, l7mp_json_member(saved, "events"));
	if (s->rtp)
		l7mp_session_rtp_load(s, l7mp_json_member(saved, "rtp"));
	/* With a different number of stages the queued pieces between them can't be assigned. */
	if (l7mp_json_num(saved, "stages", 0) != s->n)
		return;
	read_pipes(s, l7mp_json_member(saved, "pipes"));
	for (size_t i = 0; i < n; i++)
		if (!pieces[i].queue && pieces[i].stage < s->n)
			l7mp_pipe_append(s, pieces[i].stage, l7mp_buf_ref(pieces[i].buf));
}

static void clear_end(struct l7mp_restore_end *end)
{
	struct l7mp_buf *next;

	for (struct l7mp_buf *buf = end->queue; buf; buf = next) {
		next = buf->next;
		l7mp_buf_unref(buf);
	}
}

int l7mp_session_take(struct l7mp_runtime *rt, const cJSON *saved, const int *fds, size_t n_fds,
                      const struct l7mp_session_piece *pieces, size_t n, struct l7mp_error *err)
{
	struct l7mp_session_record r;
	struct l7mp_session *s = NULL;
	unsigned dest = 0;
	bool full[2] = {false, false};
	int rc = read_record(saved, fds, n_fds, &r);

	for (size_t i = 0; i < n; i++)
		if (pieces[i].queue && pieces[i].stage)
			dest = pieces[i].stage;
	if (rc) {
		l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "its record is malformed");
		for (size_t i = 0; i < n_fds; i++)
			close(fds[i]);
	} else {
		full[0] = take_queue(pieces, n, 0, &r.end[0]) >= L7MP_STREAM_IO_HIGH;
		full[1] = dest && take_queue(pieces, n, dest, &r.end[1]) >= L7MP_STREAM_IO_HIGH;
		rc = l7mp_session_restore(rt, &r, &s, err);
		for (int i = 0; i < 2; i++) {
			if (r.end[i].fd >= 0)
				close(r.end[i].fd);
			clear_end(&r.end[i]);
		}
	}
	if (!rc) {
		set_state_of(s, saved, pieces, n);
		stage_in(&s->stages[0])->blocked = full[0];
		stage_in(&s->stages[s->dest])->blocked = full[1];
	}
	for (size_t i = 0; i < n; i++)
		l7mp_buf_unref(pieces[i].buf);
	return rc;
}

bool l7mp_session_take_flow(struct l7mp_sessions *m, struct l7mp_session_record *r)
{
	struct l7mp_session *s = l7mp_sessions_find(m, r->name);

	if (!s || !s->taken || s->ending || s->flow || s->start_wall != r->started_ms ||
	    strcmp(s->listener->obj.name, r->listener) != 0)
		return false;
	if (l7mp_session_offload_take(s, r))
		return false;
	r->flow = NULL;
	return true;
}
