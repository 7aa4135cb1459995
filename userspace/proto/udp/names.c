/* SPDX-License-Identifier: MIT */
/*
 * The addresses of an endpoint with a host name: they are tried one after the other, those of the
 * client's family first, until one answers. On a refusal (an ICMP error) the next address is used,
 * and unanswered datagrams are sent again to it. With options.dns_refresh the name is looked up
 * periodically, and a session whose address is no longer among the answers moves to another one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/resolve.h"
#include "net/net.h"
#include "udp.h"

/* Bytes of datagrams that are kept until the server has answered. */
#define KEPT_BYTES (64 << 10)
/* When all addresses have refused, they are tried in turn, at most one per this time. */
#define MOVE_AGAIN_MS 1000

static void forget_kept(struct udp_names *n)
{
	while (n->n_kept)
		l7mp_buf_unref(n->kept[--n->n_kept]);
	n->kept_bytes = 0;
}

void udp_names_free(struct udp_upstream *u)
{
	struct udp_names *n = u->names;

	if (!n)
		return;
	if (n->resolve)
		l7mp_resolve_cancel(&n->resolve);
	l7mp_timer_stop(u->env->loop, &n->timer);
	forget_kept(n);
	cJSON_Delete(n->bind);
	free(n->addrs);
	free(n->host);
	free(n);
	u->names = NULL;
}

void udp_names_settle(struct udp_upstream *u)
{
	struct udp_names *n = u->names;

	if (!n->refresh_ms) {
		udp_names_free(u);
		return;
	}
	forget_kept(n);
	free(n->addrs);
	n->addrs = NULL;
	n->n = n->next = 0;
	n->refused = false;
}

/* ---- while no address has answered ---- */

void udp_names_keep(struct udp_upstream *u, struct l7mp_buf *buf)
{
	struct udp_names *n = u->names;
	struct l7mp_buf *copy;

	if (!n->resend || n->n_kept >= UDP_KEPT_MAX || n->kept_bytes + buf->len > KEPT_BYTES)
		return;
	copy = l7mp_buf_compact(l7mp_buf_ref(buf));
	if (!copy)
		return;
	n->kept[n->n_kept++] = copy;
	n->kept_bytes += copy->len;
}

bool udp_names_refused(struct udp_upstream *u, int err)
{
	struct udp_names *n = u->names;

	err = err < 0 ? -err : err;
	if (!n || !n->addrs || n->n < 2 || u->closing ||
	    (err != ECONNREFUSED && err != ENETUNREACH && err != EHOSTUNREACH))
		return false;
	if (!n->resend && l7mp_loop_now(u->env->loop) - n->moved_ms < MOVE_AGAIN_MS)
		return false;
	if (!n->refused)
		l7mp_task_post(u->env->loop, &u->task);
	n->refused = true;
	return n->resend && n->next < n->n;
}

/* ---- addresses ---- */

/*
 * Takes the resolver's answer: addresses of the preferred family first, otherwise in their order.
 */
static int take_addrs(struct udp_names *n, const struct l7mp_addr *addrs, size_t count)
{
	size_t k = 0;

	free(n->addrs);
	n->n = n->next = 0;
	n->addrs = malloc(count * sizeof(*addrs));
	if (!n->addrs)
		return -ENOMEM;
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < count; i++)
			if ((l7mp_addr_family(&addrs[i]) == n->family) == !pass)
				n->addrs[k++] = addrs[i];
	n->n = count;
	return 0;
}

/* Connects to the next usable address. Returns 0, or the error of the last one. */
static int connect_next(struct udp_upstream *u)
{
	struct udp_names *n = u->names;
	int rc = -ENOENT;

	while (n->next < n->n) {
		rc = udp_upstream_connect_to(u, &n->addrs[n->next++], n->bind);
		if (!rc)
			return 0;
	}
	return rc;
}

static void notify_moved(struct udp_upstream *u, const struct l7mp_addr *from, const char *why)
{
	struct l7mp_addr to, local;
	char a[L7MP_ADDR_STRLEN], b[L7MP_ADDR_STRLEN], text[512];

	udp_key_addrs(&u->key, u->local_port, &to, &local);
	snprintf(text, sizeof(text), "%.200s: %s %s, now %s", u->names->host,
	         l7mp_addr_str(from, a), why, l7mp_addr_str(&to, b));
	if (u->base.events->moved)
		u->base.events->moved(u->base.owner);
	if (u->base.events->notice)
		u->base.events->notice(u->base.owner, "moved", text);
}

void udp_names_move_on(struct udp_upstream *u)
{
	struct udp_names *n = u->names;
	struct l7mp_addr from, local;
	unsigned kept = n->n_kept;
	int rc;

	n->refused = false;
	udp_key_addrs(&u->key, u->local_port, &from, &local);
	if (n->next == n->n) {
		n->next = 0;
		n->resend = false;
		kept = 0;
		forget_kept(n);
	}
	n->moved_ms = l7mp_loop_now(u->env->loop);
	rc = connect_next(u);
	if (rc) {
		udp_upstream_fail(u, rc);
		return;
	}
	for (unsigned i = 0; i < kept; i++) {
		struct l7mp_buf *again = l7mp_buf_slice(n->kept[i], 0, n->kept[i]->len);

		if (again)
			(void)l7mp_dgram_send(u->dgram, again, NULL, NULL, 0);
	}
	notify_moved(u, &from, "refused");
}

/* ---- look-ups ---- */

void udp_names_refresh_later(struct udp_upstream *u)
{
	struct udp_names *n = u->names;

	if (n && n->refresh_ms)
		(void)l7mp_timer_start(u->env->loop, &n->timer, n->refresh_ms);
}

/* Handles a later look-up. The session keeps its address unless the name no longer has it. */
static void on_refreshed(void *arg, int err, const struct l7mp_addr *addrs, size_t count)
{
	struct udp_upstream *u = arg;
	struct udp_names *n = u->names;
	struct l7mp_addr from, local;
	int rc;

	(void)err;
	n->resolve = NULL;
	udp_names_refresh_later(u);
	udp_key_addrs(&u->key, u->local_port, &from, &local);
	for (size_t i = 0; i < count; i++)
		if (l7mp_addr_equal(&addrs[i], &from))
			return;
	if (!count || take_addrs(n, addrs, count))
		return;
	rc = connect_next(u);
	if (rc && u->dgram) {
		udp_names_settle(u);
		return;
	}
	if (rc) {
		udp_upstream_fail(u, rc);
		return;
	}
	n->resend = true;
	notify_moved(u, &from, "has gone");
}

static void refresh_cb(struct l7mp_timer *timer, void *arg)
{
	struct udp_upstream *u = arg;
	struct udp_names *n = u->names;

	(void)timer;
	if (n->resolve || l7mp_resolve_start(u->env->loop, n->host, n->port, AF_UNSPEC,
	                                     on_refreshed, u, &n->resolve))
		udp_names_refresh_later(u);
}

static void on_resolved(void *arg, int err, const struct l7mp_addr *addrs, size_t count)
{
	struct udp_upstream *u = arg;
	struct udp_names *n = u->names;

	n->resolve = NULL;
	u->err = err ? err : -ENOENT;
	if (count)
		u->err = take_addrs(n, addrs, count);
	if (!u->err)
		u->err = connect_next(u);
	if (u->err) {
		udp_upstream_finish(u);
		return;
	}
	n->resend = true;
	/* Only a session that can be notified may change its address later. */
	if (!u->base.events->moved)
		n->refresh_ms = 0;
	/* An unconnected socket does not get ICMP errors. */
	if (n->n < 2 || u->latching)
		udp_names_settle(u);
	udp_names_refresh_later(u);
	udp_upstream_opened(u);
}

struct udp_names *udp_names_new(struct udp_upstream *u, const struct l7mp_connect *p)
{
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	const cJSON *options = l7mp_json_member(p->cluster_spec, "options");
	const char *source = l7mp_json_str(l7mp_json_member(p->metadata, "IP"), "src_addr", "");
	struct udp_names *n = calloc(1, sizeof(*n));
	struct l7mp_addr addr;

	if (!n)
		return NULL;
	u->names = n;
	l7mp_timer_init(&n->timer, refresh_cb, u);
	n->port = udp_upstream_port(u, p);
	n->refresh_ms = (uint64_t)(1000 * l7mp_json_num(options, "dns_refresh", 0));
	n->family = l7mp_addr_parse(&addr, source, 0) ? AF_UNSPEC : l7mp_addr_family(&addr);
	n->host = strdup(p->address);
	n->bind = bind ? cJSON_Duplicate(bind, true) : NULL;
	return n->host && (!bind || n->bind) ? n : NULL;
}

int udp_names_start(struct udp_upstream *u, const struct l7mp_connect *p)
{
	struct udp_names *n = udp_names_new(u, p);

	return n ? l7mp_resolve_start(u->env->loop, n->host, n->port, AF_UNSPEC, on_resolved, u,
	                              &n->resolve)
	         : -ENOMEM;
}
