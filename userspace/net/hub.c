/* SPDX-License-Identifier: MIT */
#include "hub.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "net.h"

#define HIGH       (256u << 10) /* waiting bytes of the socket from which writers have to stop */
#define STALLED_MS 1000         /* for how long a receiver that does not read gets nothing more */
#define NOTICE_MS  10000

void l7mp_hub_unref(struct l7mp_hub *hub)
{
	if (!hub || --hub->refs)
		return;
	l7mp_dgram_close(&hub->dgram);
	hub->ops->destroy(hub);
}

void l7mp_hub_drop(struct l7mp_hub *hub, enum l7mp_drop reason, struct l7mp_buf *buf)
{
	if (!buf)
		return;
	l7mp_stats_drop(hub->env->stats, reason, 1, buf->len);
	l7mp_buf_unref(buf);
}

struct l7mp_hub_peer *l7mp_hub_find(struct l7mp_hub *hub, const void *key, uint16_t len)
{
	struct l7mp_hub_peer *p = hub->last;

	if (p && p->key_len == len && !memcmp(p->key, key, len))
		return p;
	HASH_FIND(hh, hub->peers, key, len, p);
	hub->last = p;
	return p;
}

/*
 * The tag of a datagram is the hash of its peer's key and the peer's number: enough
 * to find the peer again, and to see that it has gone, without a pointer that may dangle.
 */
static uint64_t tag_of(const struct l7mp_hub_peer *p)
{
	return (uint64_t)p->hh.hashv << 32 | (uint32_t)p->id;
}

static struct l7mp_hub_peer *find_tag(struct l7mp_hub *hub, uint64_t tag)
{
	unsigned hashv = (unsigned)(tag >> 32);
	UT_hash_table *tbl;
	UT_hash_handle *h;

	if (!hub->peers)
		return NULL;
	tbl = hub->peers->hh.tbl;
	for (h = tbl->buckets[hashv & (tbl->num_buckets - 1)].hh_head; h; h = h->hh_next) {
		struct l7mp_hub_peer *p = l7mp_container_of(h, struct l7mp_hub_peer, hh);

		if (h->hashv == hashv && (uint32_t)p->id == (uint32_t)tag)
			return p;
	}
	return NULL;
}

/* ---- what the socket tells ---- */

void l7mp_hub_on_lost(void *arg, int err, uint64_t tag, uint32_t len)
{
	struct l7mp_hub *hub = arg;
	struct l7mp_hub_peer *p = find_tag(hub, tag);

	if (!p || !p->base.events->lost) {
		l7mp_stats_drop(hub->env->stats, l7mp_drop_from_errno(err), 1, len);
		return;
	}
	if (err == -EAGAIN)
		p->stalled_until = l7mp_loop_now(hub->env->loop) + STALLED_MS;
	p->base.events->lost(p->base.owner, err, 1, len);
	if (!p->closing && hub->ops->lost)
		hub->ops->lost(p, err);
}

void l7mp_hub_on_dropped(void *arg, int err, uint32_t len)
{
	struct l7mp_hub *hub = arg;

	l7mp_stats_drop(hub->env->stats, l7mp_drop_from_errno(err), 1, len);
}

static void not_full(struct l7mp_hub_peer *p)
{
	if (!p->prev)
		return;
	DL_DELETE(p->hub->full, p);
	p->prev = p->next = NULL;
}

void l7mp_hub_on_drain(void *arg)
{
	struct l7mp_hub *hub = l7mp_hub_ref(arg);
	struct l7mp_hub_peer *p;
	size_t n = 0;

	DL_FOREACH (hub->full, p)
		n++;
	/* Each once: whoever fills the queue again is at the end of the list. */
	while (n-- && hub->full) {
		p = hub->full;
		not_full(p);
		p->base.events->drain(p->base.owner);
	}
	l7mp_hub_unref(hub);
}

/* ---- the stream ---- */

static void on_closed(struct l7mp_task *t, void *arg)
{
	struct l7mp_hub_peer *p = arg;
	struct l7mp_error err = {.code = L7MP_OK};

	(void)t;
	if (p->err)
		p->hub->ops->describe(p->hub, p->err, &err);
	if (p->base.events)
		p->base.events->closed(p->base.owner, &err);
	l7mp_hub_unref(p->hub);
	free(p);
}

static void leave(struct l7mp_hub_peer *p, int err)
{
	struct l7mp_hub *hub = p->hub;

	if (p->closing)
		return;
	p->closing = true;
	p->err = err;
	if (hub->last == p)
		hub->last = NULL;
	not_full(p);
	HASH_DELETE(hh, hub->peers, p);
	if (hub->ops->left)
		hub->ops->left(p);
	l7mp_task_post(hub->env->loop, &p->task);
}

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct l7mp_hub_peer *p = (struct l7mp_hub_peer *)base;
	struct l7mp_hub *hub = p->hub;
	int rc = 0;

	if (p->closing)
		rc = -EPIPE;
	else if (p->stalled_until && p->stalled_until > l7mp_loop_now(hub->env->loop))
		rc = -EAGAIN;
	if (rc) {
		l7mp_buf_unref(buf);
		return rc;
	}
	rc = hub->ops->send(p, buf, tag_of(p));
	if (rc || l7mp_dgram_waiting(hub->dgram) < HIGH)
		return rc;
	if (!p->prev)
		DL_APPEND(hub->full, p);
	return L7MP_STREAM_FULL;
}

/* The socket is everybody's: the owner queues or drops what it can't take. */
static void op_pause(struct l7mp_stream *base, bool on)
{
	(void)base;
	(void)on;
}

/* Nothing on the wire says so. */
static void op_shutdown(struct l7mp_stream *base, int code)
{
	(void)base;
	(void)code;
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	(void)abort;
	leave((struct l7mp_hub_peer *)base, 0);
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct l7mp_hub_peer *p = (struct l7mp_hub_peer *)base;

	memset(out, 0, sizeof(*out));
	out->reason = L7MP_REASON_PROTOCOL;
	if (!p->closing && p->hub->ops->flow)
		p->hub->ops->flow(p, out);
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct l7mp_hub_peer *p = (struct l7mp_hub_peer *)base;

	return l7mp_fd_local(l7mp_dgram_fd(p->hub->dgram), out);
}

static const struct l7mp_stream_ops peer_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .flow = op_flow,
        .local = op_local,
};

/* ---- life ---- */

struct l7mp_hub_peer *l7mp_hub_peer_new(struct l7mp_hub *hub, const void *key, uint16_t len,
                                        uint32_t max_write)
{
	struct l7mp_hub_peer *p = calloc(1, sizeof(*p) + len);

	if (!p)
		return NULL;
	p->base.ops = &peer_ops;
	p->base.kind = L7MP_KIND_DATAGRAM;
	p->base.max_write = max_write;
	p->key_len = len;
	memcpy(p->key, key, len);
	l7mp_task_init(&p->task, on_closed, p);
	HASH_ADD_KEYPTR(hh, hub->peers, p->key, len, p);
	if (!p->hh.tbl) {
		free(p);
		return NULL;
	}
	p->id = ++*hub->last_id;
	p->hub = l7mp_hub_ref(hub);
	return p;
}

bool l7mp_hub_emit(const struct l7mp_proto_listener *l, struct l7mp_hub_peer *p,
                   struct l7mp_accept *a, struct l7mp_buf *buf)
{
	struct l7mp_hub *hub = p->hub;

	a->stream = &p->base;
	/* p, and so the hub, is there until its task runs; the listener may be gone afterwards. */
	if (!l7mp_accept_emit(l, a) || p->closing) {
		l7mp_hub_drop(hub, L7MP_DROP_NO_MATCH, buf);
		return false;
	}
	if (buf)
		p->base.events->data(p->base.owner, buf);
	return true;
}

void l7mp_hub_fail(struct l7mp_hub *hub, int err)
{
	struct l7mp_hub_peer *p, *next;

	/* Nothing is called before the tasks run, so the table is ours meanwhile. */
	HASH_ITER (hh, hub->peers, p, next)
		leave(p, err);
}

void l7mp_hub_notice(struct l7mp_hub_peer *p, const char *event, const char *text)
{
	uint32_t more;
	char message[320];

	if (!p->base.events->notice ||
	    !l7mp_log_allowed(&p->limit, l7mp_loop_now(p->hub->env->loop), NOTICE_MS, 1, &more))
		return;
	if (more)
		snprintf(message, sizeof(message), "%.250s; %u more since the last notice", text,
		         more);
	else
		snprintf(message, sizeof(message), "%.250s", text);
	p->base.events->notice(p->base.owner, event, message);
}
