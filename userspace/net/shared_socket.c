/* SPDX-License-Identifier: MIT */
#include "shared_socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "l7mp/util.h"
#include "net.h"

/* Bytes in the socket's queue from which on writers are stopped. */
#define QUEUE_HIGH (256u << 10)
/* The maximum number of datagrams read before the socket is handed over. */
#define DRAIN_MAX 65536
/* How long writes to a UNIX receiver fail after it did not read its datagrams. */
#define STALLED_MS      1000
#define LOG_INTERVAL_MS 10000
#define LOG_BURST       3

/* ---- protocol state ---- */

int l7mp_shared_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct l7mp_shared_table));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

void l7mp_shared_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

/* ---- sockets ---- */

static struct l7mp_shared_socket **bucket_of(struct l7mp_shared_table *table, uint32_t hash)
{
	return &table->buckets[hash % L7MP_SHARED_BUCKETS];
}

static bool is_retiring(const struct l7mp_listen *params, const struct l7mp_shared_listener *l)
{
	for (size_t i = 0; i < params->n_retiring; i++)
		if (params->retiring[i] == &l->base)
			return true;
	return false;
}

struct l7mp_shared_socket *l7mp_shared_socket_find(struct l7mp_shared_table *table, uint32_t hash,
                                                   const void *want,
                                                   const struct l7mp_listen *params)
{
	struct l7mp_shared_socket *s;

	DL_FOREACH (*bucket_of(table, hash), s) {
		if (!s->successor && (!s->listener || is_retiring(params, s->listener)) &&
		    s->ops->matches(s, want))
			return l7mp_shared_socket_ref(s);
	}
	return NULL;
}

int l7mp_shared_socket_init(struct l7mp_shared_socket *s, const struct l7mp_shared_ops *ops,
                            struct l7mp_env *env, struct l7mp_shared_table *table, int fd,
                            unsigned flags, size_t max_datagram,
                            const struct l7mp_dgram_ops *dgram_ops)
{
	s->ops = ops;
	s->env = env;
	s->table = table;
	s->refs = 1;
	return l7mp_dgram_new(env->loop, fd, flags, max_datagram, dgram_ops, s, &s->dgram);
}

void l7mp_shared_socket_publish(struct l7mp_shared_socket *s, uint32_t hash)
{
	s->bucket = bucket_of(s->table, hash);
	DL_APPEND(*s->bucket, s);
}

void l7mp_shared_socket_unref(struct l7mp_shared_socket *s)
{
	if (!s || --s->refs)
		return;
	if (s->bucket)
		DL_DELETE(*s->bucket, s);
	l7mp_dgram_close(&s->dgram);
	s->ops->free(s);
}

void l7mp_shared_socket_drop(struct l7mp_shared_socket *s, enum l7mp_drop reason,
                             struct l7mp_buf *buf)
{
	if (!buf)
		return;
	l7mp_stats_drop(s->env->stats, reason, 1, buf->len);
	l7mp_buf_unref(buf);
}

void l7mp_shared_socket_warn(struct l7mp_shared_socket *s, const char *module, const char *subject,
                             const char *text)
{
	uint32_t suppressed;

	if (!l7mp_log_allowed(&s->log_limit, l7mp_loop_now(s->env->loop), LOG_INTERVAL_MS,
	                      LOG_BURST, &suppressed))
		return;
	if (suppressed)
		l7mp_log_warn(module, "%s: %s (%u similar messages suppressed)", subject, text,
		              suppressed);
	else
		l7mp_log_warn(module, "%s: %s", subject, text);
}

/* ---- events of the datagram engine ---- */

/*
 * A queued datagram carries a tag instead of a pointer to its session, which may be freed
 * before the kernel refuses the datagram. The hash of the key leads to the bucket of the
 * session table, the id tells the sessions of one bucket apart.
 */
static uint64_t tag_of(const struct l7mp_shared_session *p)
{
	return (uint64_t)p->hh.hashv << 32 | (uint32_t)p->id;
}

static struct l7mp_shared_session *find_tag(struct l7mp_shared_socket *s, uint64_t tag)
{
	unsigned hashv = (unsigned)(tag >> 32);
	UT_hash_table *tbl;
	UT_hash_handle *h;

	if (!s->sessions)
		return NULL;
	tbl = s->sessions->hh.tbl;
	for (h = tbl->buckets[hashv & (tbl->num_buckets - 1)].hh_head; h; h = h->hh_next) {
		struct l7mp_shared_session *p =
		        l7mp_container_of(h, struct l7mp_shared_session, hh);

		if (h->hashv == hashv && (uint32_t)p->id == (uint32_t)tag)
			return p;
	}
	return NULL;
}

void l7mp_shared_on_lost(void *arg, int err, uint64_t tag, uint32_t len)
{
	struct l7mp_shared_socket *s = arg;
	struct l7mp_shared_session *p = find_tag(s, tag);

	if (!p || !p->base.events->lost) {
		l7mp_stats_drop(s->env->stats, l7mp_drop_from_errno(err), 1, len);
		return;
	}
	if (err == -EAGAIN && s->ops->back_pressure)
		p->stalled_until = l7mp_loop_now(s->env->loop) + STALLED_MS;
	p->base.events->lost(p->base.owner, err, 1, len);
	if (!p->closing && s->ops->lost)
		s->ops->lost(p, err);
}

void l7mp_shared_on_dropped(void *arg, int err, uint32_t len)
{
	struct l7mp_shared_socket *s = arg;

	l7mp_stats_drop(s->env->stats, l7mp_drop_from_errno(err), 1, len);
}

void l7mp_shared_on_overflow(void *arg, uint32_t packets)
{
	struct l7mp_shared_socket *s = arg;

	l7mp_stats_drop(s->env->stats, L7MP_DROP_RECEIVE_BUFFER, packets, 0);
}

static void stop_waiting(struct l7mp_shared_session *p)
{
	if (!p->prev)
		return;
	DL_DELETE(p->socket->waiting, p);
	p->prev = p->next = NULL;
}

void l7mp_shared_on_drain(void *arg)
{
	struct l7mp_shared_socket *s = l7mp_shared_socket_ref(arg);
	struct l7mp_shared_session *p;
	size_t n = 0;

	DL_COUNT(s->waiting, p, n);
	/* Visit each session once: one that fills the queue again is appended to the list. */
	while (n-- && s->waiting) {
		p = s->waiting;
		stop_waiting(p);
		p->base.events->drain(p->base.owner);
	}
	l7mp_shared_socket_unref(s);
}

/* ---- the source stream of a session ---- */

static void on_closed(struct l7mp_task *t, void *arg)
{
	struct l7mp_shared_session *p = arg;
	struct l7mp_error err = {.code = L7MP_OK};

	(void)t;
	if (p->err)
		p->socket->ops->describe(p->socket, p->err, &err);
	if (p->base.events)
		p->base.events->closed(p->base.owner, &err);
	l7mp_shared_socket_unref(p->socket);
	free(p);
}

static void end_session(struct l7mp_shared_session *p, int err)
{
	struct l7mp_shared_socket *s = p->socket;

	if (p->closing)
		return;
	p->closing = true;
	p->err = err;
	if (s->last == p)
		s->last = NULL;
	stop_waiting(p);
	if (p->own)
		l7mp_dgram_close(&p->own);
	if (p->hh.tbl)
		HASH_DELETE(hh, s->sessions, p);
	if (p->singleton_of)
		l7mp_shared_session_bind(p->singleton_of, NULL);
	if (s->ops->removed)
		s->ops->removed(p);
	l7mp_task_post(s->env->loop, &p->closed_task);
}

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct l7mp_shared_session *p = (struct l7mp_shared_session *)base;
	struct l7mp_shared_socket *s = p->socket;
	int rc = 0;

	if (p->closing)
		rc = -EPIPE;
	else if (p->stalled_until && p->stalled_until > l7mp_loop_now(s->env->loop))
		rc = -EAGAIN;
	if (rc) {
		l7mp_buf_unref(buf);
		return rc;
	}
	rc = s->ops->send(p, buf, tag_of(p));
	if (rc || !s->ops->back_pressure || l7mp_dgram_waiting(s->dgram) < QUEUE_HIGH)
		return rc;
	if (!p->prev)
		DL_APPEND(s->waiting, p);
	return L7MP_STREAM_FULL;
}

/*
 * Other sessions need the socket to be read, so it is not paused: the owner queues the data, or
 * drops and counts it.
 */
static void op_pause(struct l7mp_stream *base, bool on)
{
	(void)base;
	(void)on;
}

/* Datagram protocols can't signal an end of writing. */
static void op_shutdown(struct l7mp_stream *base, int code)
{
	(void)base;
	(void)code;
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	(void)abort;
	end_session((struct l7mp_shared_session *)base, 0);
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct l7mp_shared_session *p = (struct l7mp_shared_session *)base;

	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_NONE;
	out->reason = L7MP_REASON_PROTOCOL;
	if (p->socket->ops->flow)
		p->socket->ops->flow(p, out);
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct l7mp_shared_session *p = (struct l7mp_shared_session *)base;

	if (p->socket->ops->local)
		return p->socket->ops->local(p, out);
	return l7mp_fd_local(l7mp_dgram_fd(p->socket->dgram), out);
}

static size_t op_drain_now(struct l7mp_stream *base)
{
	return l7mp_dgram_drain(((struct l7mp_shared_session *)base)->socket->dgram);
}

static void op_renew(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct l7mp_shared_session *p = (struct l7mp_shared_session *)base;

	/* p exists until its task has run. */
	end_session(p, 0);
	if (p->socket->ops->renew && p->socket->listener)
		p->socket->ops->renew(p, buf);
	else
		l7mp_shared_socket_drop(p->socket, L7MP_DROP_PEER, buf);
}

/* Reading from the socket stops when its listener is paused. */
static int op_freeze(struct l7mp_stream *base, bool on)
{
	const struct l7mp_shared_session *p = (const struct l7mp_shared_session *)base;

	return on && (p->closing || p->own) ? -ENOTCONN : 0;
}

/* ---- a session's own socket ---- */

static void own_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                     const struct l7mp_addr *to)
{
	(void)from;
	(void)to;
	l7mp_shared_deliver(arg, buf);
}

static void own_dropped(void *arg, int err, uint32_t len)
{
	l7mp_shared_on_dropped(((struct l7mp_shared_session *)arg)->socket, err, len);
}

static void own_overflow(void *arg, uint32_t packets)
{
	l7mp_shared_on_overflow(((struct l7mp_shared_session *)arg)->socket, packets);
}

/* Answers are sent by the shared socket, so their errors are not reported here. */
static const struct l7mp_dgram_ops own_ops = {
        .recv = own_recv,
        .dropped = own_dropped,
        .overflow = own_overflow,
};

static int op_stay(struct l7mp_stream *base)
{
	struct l7mp_shared_session *p = (struct l7mp_shared_session *)base;
	int rc;

	if (p->closing || p->own)
		return p->own ? 0 : -ENOTCONN;
	if (!p->socket->ops->own)
		return -ENOTSUP;
	rc = p->socket->ops->own(p, &own_ops);
	if (rc || !p->own)
		return rc;
	p->socket->owned = true;
	l7mp_dgram_read(p->own, true);
	return 0;
}

static void op_save(struct l7mp_stream *base, struct l7mp_stream_saved *out)
{
	(void)base;
	*out = (struct l7mp_stream_saved){.fd = -1};
}

static void op_release(struct l7mp_stream *base)
{
	end_session((struct l7mp_shared_session *)base, 0);
}

static const struct l7mp_stream_ops session_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .flow = op_flow,
        .local = op_local,
        .drain_now = op_drain_now,
        .renew = op_renew,
        .freeze = op_freeze,
        .save = op_save,
        .release = op_release,
        .stay = op_stay,
};

/* ---- sessions ---- */

struct l7mp_shared_session *l7mp_shared_lookup(struct l7mp_shared_socket *s, const void *key,
                                               uint16_t len)
{
	struct l7mp_shared_session *p;

	HASH_FIND(hh, s->sessions, key, len, p);
	s->last = p;
	return p;
}

struct l7mp_shared_session *l7mp_shared_session_new(struct l7mp_shared_socket *s, const void *key,
                                                    uint16_t len, uint32_t max_write)
{
	struct l7mp_shared_session *p = calloc(1, sizeof(*p) + len);

	if (!p)
		return NULL;
	p->base.ops = &session_ops;
	p->base.kind = L7MP_KIND_DATAGRAM;
	p->base.max_write = max_write;
	p->key_len = len;
	memcpy(p->key, key, len);
	l7mp_task_init(&p->closed_task, on_closed, p);
	HASH_ADD_KEYPTR(hh, s->sessions, p->key, len, p);
	if (!p->hh.tbl) {
		free(p);
		return NULL;
	}
	p->id = ++s->table->last_id;
	p->socket = l7mp_shared_socket_ref(s);
	return p;
}

/* The maximum of an id, which a process does not reach. */
#define ID_MAX (1ULL << 48)

void l7mp_shared_session_named(struct l7mp_shared_table *table, const char *name)
{
	const char *dash = strrchr(name, '-');
	uint64_t id = dash && dash[1] >= '0' && dash[1] <= '9' ? strtoull(dash + 1, NULL, 10) : 0;

	if (id > table->last_id && id < ID_MAX)
		table->last_id = id;
}

void l7mp_shared_session_discard(struct l7mp_shared_session *p)
{
	struct l7mp_shared_socket *s = p->socket;

	if (s->last == p)
		s->last = NULL;
	HASH_DELETE(hh, s->sessions, p);
	free(p);
	l7mp_shared_socket_unref(s);
}

struct l7mp_shared_session *l7mp_shared_session_admit(struct l7mp_shared_listener *l,
                                                      const struct l7mp_accept *a, const void *key,
                                                      uint16_t len, uint32_t max_write,
                                                      struct l7mp_buf *buf)
{
	struct l7mp_shared_session *p;

	if (l->base.events->admit && l->base.events->admit(l->base.arg, &a->peer)) {
		l7mp_shared_socket_drop(l->socket, L7MP_DROP_LIMIT, buf);
		return NULL;
	}
	p = l7mp_shared_session_new(l->socket, key, len, max_write);
	if (!p)
		l7mp_shared_socket_drop(l->socket, L7MP_DROP_MEMORY, buf);
	return p;
}

bool l7mp_shared_session_emit(struct l7mp_shared_listener *l, struct l7mp_shared_session *p,
                              struct l7mp_accept *a, struct l7mp_buf *buf)
{
	struct l7mp_shared_socket *s = p->socket;

	a->stream = &p->base;
	/* p, and with it the socket, exists until its task has run; the listener may not. */
	if (!l7mp_accept_emit(&l->base, a) || p->closing) {
		l7mp_shared_socket_drop(s, L7MP_DROP_NO_MATCH, buf);
		return false;
	}
	if (buf)
		l7mp_shared_deliver(p, buf);
	return true;
}

void l7mp_shared_session_rekey(struct l7mp_shared_session *p, const void *key)
{
	struct l7mp_shared_socket *s = p->socket;
	uint8_t old[UINT8_MAX];

	if (p->key_len > sizeof(old))
		return;
	if (s->last == p)
		s->last = NULL;
	if (p->hh.tbl)
		HASH_DELETE(hh, s->sessions, p);
	memcpy(old, p->key, p->key_len);
	memcpy(p->key, key, p->key_len);
	HASH_ADD_KEYPTR(hh, s->sessions, p->key, p->key_len, p);
	if (p->hh.tbl)
		return;
	memcpy(p->key, old, p->key_len);
	HASH_ADD_KEYPTR(hh, s->sessions, p->key, p->key_len, p);
}

void l7mp_shared_session_bind(struct l7mp_shared_listener *l, struct l7mp_shared_session *p)
{
	if (l->session)
		l->session->singleton_of = NULL;
	l->session = p;
	if (!p)
		return;
	if (p->singleton_of)
		p->singleton_of->session = NULL;
	p->singleton_of = l;
}

void l7mp_shared_socket_fail(struct l7mp_shared_socket *s, int err)
{
	struct l7mp_shared_session *p, *next;

	/* Owners are not called before the tasks run, so the table does not change in this loop. */
	HASH_ITER (hh, s->sessions, p, next)
		end_session(p, err);
}

void l7mp_shared_session_notice(struct l7mp_shared_session *p, const char *event, const char *text)
{
	uint32_t suppressed;
	char message[320];

	if (!p->base.events->notice ||
	    !l7mp_log_allowed(&p->notice_limit, l7mp_loop_now(p->socket->env->loop),
	                      LOG_INTERVAL_MS, 1, &suppressed))
		return;
	if (suppressed)
		snprintf(message, sizeof(message), "%.250s; %u more since the last notice", text,
		         suppressed);
	else
		snprintf(message, sizeof(message), "%.250s", text);
	p->base.events->notice(p->base.owner, event, message);
}

/* ---- listeners ---- */

static void on_start(struct l7mp_timer *t, void *arg)
{
	struct l7mp_shared_listener *l = arg;

	(void)t;
	l->start(l);
}

int l7mp_shared_listen(size_t size, const struct l7mp_proto *proto,
                       const struct l7mp_listen *params,
                       int (*open)(struct l7mp_shared_listener *l, struct l7mp_shared_table *table,
                                   const struct l7mp_listen *params,
                                   struct l7mp_shared_socket **out, struct l7mp_error *err),
                       void (*start)(struct l7mp_shared_listener *l),
                       struct l7mp_proto_listener **out, struct l7mp_error *err)
{
	struct l7mp_shared_table *table = l7mp_proto_state(params->env, proto, err);
	struct l7mp_shared_listener *l;
	int rc;

	if (!table)
		return -ENOMEM;
	l = calloc(1, size);
	if (l)
		l->name = strdup(params->name ? params->name : "");
	if (!l || !l->name) {
		free(l);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	l->base = (struct l7mp_proto_listener){
	        .proto = proto, .events = params->events, .arg = params->arg};
	l->env = params->env;
	l->start = start;
	l7mp_timer_init(&l->start_timer, on_start, l);
	rc = open(l, table, params, &l->socket, err);
	if (rc) {
		l->socket = NULL;
		l7mp_shared_unlisten(&l->base);
		return rc;
	}
	l->socket->successor = l;
	*out = &l->base;
	return 0;
}

void l7mp_shared_activate(struct l7mp_proto_listener *base)
{
	struct l7mp_shared_listener *l = (struct l7mp_shared_listener *)base;

	l->socket->listener = l;
	l->socket->successor = NULL;
	l7mp_dgram_read(l->socket->dgram, true);
}

void l7mp_shared_listener_start(struct l7mp_shared_listener *l, uint64_t ms)
{
	if (l7mp_shared_listener_active(l) && l->start &&
	    l7mp_timer_start(l->env->loop, &l->start_timer, ms))
		l7mp_log_error("net", "%s: out of memory, the session is not started", l->name);
}

int l7mp_shared_hand(struct l7mp_proto_listener *base, enum l7mp_hand step)
{
	struct l7mp_shared_listener *l = (struct l7mp_shared_listener *)base;
	struct l7mp_shared_socket *s = l->socket;

	if (s->given)
		return step == L7MP_HAND_SOCKET ? -ENOENT : 0;
	switch (step) {
	case L7MP_HAND_SOCKET:
		return l7mp_dgram_fd(s->dgram);
	case L7MP_HAND_REST:
		/*
		 * Deliver datagrams that arrived at the shared socket before sessions had their
		 * own.
		 */
		for (size_t n = 1, total = 0; s->owned && n && total < DRAIN_MAX; total += n)
			n = l7mp_dgram_drain(s->dgram);
	/* fall through */
	case L7MP_HAND_BACK:
		l7mp_dgram_read(s->dgram, step == L7MP_HAND_BACK);
		if (step == L7MP_HAND_REST)
			l7mp_dgram_flush(s->dgram);
		break;
	case L7MP_HAND_GIVE:
		s->given = true;
		l7mp_timer_stop(l->env->loop, &l->start_timer);
		if (s->ops->given)
			s->ops->given(s);
		break;
	}
	return 0;
}

void l7mp_shared_unlisten(struct l7mp_proto_listener *base)
{
	struct l7mp_shared_listener *l = (struct l7mp_shared_listener *)base;
	struct l7mp_shared_socket *s = l->socket;

	l7mp_timer_stop(l->env->loop, &l->start_timer);
	l7mp_shared_session_bind(l, NULL);
	if (s && s->successor == l)
		s->successor = NULL;
	if (s && s->listener == l)
		s->listener = NULL;
	l7mp_shared_socket_unref(s);
	free(l->name);
	free(l);
}
