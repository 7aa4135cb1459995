/* SPDX-License-Identifier: MIT */
/*
 * WebSocket over TLS. The library's own TLS would want a virtual host per
 * configuration, could not read certificates again, and would hide the request's head
 * from us. So TLS is ours, as for TCP, and the library gets the plain text on a
 * UNIX socket, as if it were the connection.
 *
 * Listeners: the head is collected first, because nothing wakes us on a UNIX socket
 * when only more of it has come (SO_RCVLOWAT is TCP's).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/util.h"
#include "ws_int.h"

/* ---- listener ---- */

struct ws_tls_head {
	struct ws_tls_head *prev, *next;
	struct ws_listener *listener;
	struct l7mp_tls *tls;
	struct l7mp_addr peer;
	struct l7mp_timer timer;
	struct l7mp_buf *text;
};

/* Ends the collecting; returns the connection. */
static struct l7mp_tls *head_leave(struct ws_tls_head *h)
{
	struct l7mp_tls *tls = h->tls;

	l7mp_timer_stop(h->listener->tcp.env->loop, &h->timer);
	DL_DELETE(h->listener->tls_heads, h);
	l7mp_buf_unref(h->text);
	free(h);
	return tls;
}

static void head_drop(struct ws_tls_head *h)
{
	struct l7mp_tls *tls = head_leave(h);

	l7mp_tls_drop(&tls);
}

/* The head is there: the library's way goes on with one end of a socket pair. */
static void head_complete(struct ws_tls_head *h)
{
	struct ws_listener *l = h->listener;
	struct l7mp_loop *loop = l->tcp.env->loop;
	struct ws_from from = {.peer = h->peer};
	struct l7mp_tls_bridge *bridge;
	struct l7mp_buf *text = h->text;
	struct l7mp_tls *tls;
	int fds[2];

	h->text = NULL;
	tls = head_leave(h);
	from.tls = l7mp_tls_metadata(tls);
	if (!from.tls || l7mp_tls_local(tls, &from.local) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds)) {
		l7mp_log_warn("ws", "%s: a TLS connection is refused: %s", l->tcp.name,
		              from.tls ? l7mp_errno_text(errno) : "out of memory");
		cJSON_Delete(from.tls);
		l7mp_buf_unref(text);
		l7mp_tls_drop(&tls);
		return;
	}
	if (l7mp_tls_bridge_new(loop, tls, fds[0], text, NULL, NULL, &bridge)) {
		cJSON_Delete(from.tls);
		close(fds[1]);
		return;
	}
	l7mp_ws_head_read(l, fds[1], &from);
}

static void head_data(void *arg, struct l7mp_buf *buf)
{
	struct ws_tls_head *h = arg;
	size_t have = h->text ? h->text->len : 0, total = have + buf->len;

	h->text = h->text ? l7mp_buf_own(h->text, 0, total)
	                  : l7mp_buf_new(l7mp_loop_bufs(h->listener->tcp.env->loop), total);
	if (!h->text) {
		l7mp_buf_unref(buf);
		head_drop(h);
		return;
	}
	memcpy(h->text->data + have, buf->data, buf->len);
	h->text->len = (uint32_t)total;
	l7mp_buf_unref(buf);
	/* What is too long or no head at all is refused where heads are read. */
	if (total >= L7MP_WS_HEAD_MAX || memmem(h->text->data, total, "\r\n\r\n", 4))
		head_complete(h);
}

static void head_end(void *arg)
{
	head_drop(arg);
}

static void head_error(void *arg, int err)
{
	struct ws_tls_head *h = arg;
	const char *why = l7mp_tls_why(h->tls);

	l7mp_log_verbose("ws", "%s: a client is gone before its request came: %s",
	                 h->listener->tcp.name, *why ? why : l7mp_errno_text(err));
	head_drop(h);
}

static const struct l7mp_sio_ops head_ops = {
        .data = head_data, .end = head_end, .error = head_error};

static void head_timer(struct l7mp_timer *t, void *arg)
{
	(void)t;
	head_drop(arg);
}

void l7mp_ws_tls_ready(void *arg, struct l7mp_tls *tls, const struct l7mp_addr *peer)
{
	struct ws_listener *l = arg;
	struct ws_tls_head *h = calloc(1, sizeof(*h));

	if (!h) {
		l7mp_tls_drop(&tls);
		return;
	}
	h->listener = l;
	h->tls = tls;
	h->peer = *peer;
	DL_APPEND(l->tls_heads, h);
	l7mp_timer_init(&h->timer, head_timer, h);
	l7mp_tls_set_owner(tls, &head_ops, h);
	l7mp_tls_read(tls, true);
	if (l7mp_timer_start(l->tcp.env->loop, &h->timer, L7MP_WS_HEAD_MS))
		head_drop(h);
}

void l7mp_ws_tls_cancel_heads(struct ws_listener *l)
{
	while (l->tls_heads)
		head_drop(l->tls_heads);
}

/* ---- cluster ---- */

static void bridge_failed(void *arg, const char *why)
{
	struct ws_conn *c = arg;

	if (c->error.code == L7MP_OK)
		l7mp_error_set(&c->error, -ECONNRESET, L7MP_ERR_UPSTREAM, "WebSocket: TLS: %s",
		               why);
}

static void bridge_gone(void *arg)
{
	((struct ws_conn *)arg)->bridge = NULL;
}

static const struct l7mp_tls_bridge_events bridge_events = {.failed = bridge_failed,
                                                            .gone = bridge_gone};

/* A UNIX socket with a name that the kernel makes up, which only this process knows. */
static int door_open(char name[static 32])
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	size_t n;

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa_family_t)) || listen(fd, 1) ||
	    getsockname(fd, (struct sockaddr *)&sa, &len)) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	n = len - offsetof(struct sockaddr_un, sun_path);
	name[0] = '+';
	name[1] = '@';
	memcpy(name + 2, sa.sun_path + 1, n - 1);
	name[1 + n] = '\0';
	return fd;
}

/* What has come through the door; somebody else may have found it. */
static int door_take(int door)
{
	struct ucred who;
	socklen_t len = sizeof(who);
	int fd;

	while ((fd = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) && who.pid == getpid())
			return fd;
		close(fd);
	}
	return -errno;
}

/* The library connects to a socket of ours, and what it says goes through TLS. */
static int hand_over(struct ws_conn *c)
{
	char name[32];
	int door = door_open(name), fd, rc;

	if (door < 0)
		return door;
	rc = l7mp_ws_dial_text(c, name, c->port, NULL);
	fd = rc ? rc : door_take(door);
	close(door);
	if (fd < 0) {
		l7mp_ws_forget(c);
		return fd;
	}
	rc = l7mp_tls_bridge_new(l7mp_ws_loop(c), c->tls, fd, NULL, &bridge_events, c, &c->bridge);
	c->tls = NULL;
	if (rc)
		l7mp_ws_forget(c);
	return rc;
}

static void tls_failed(struct ws_conn *c, const char *why)
{
	char text[480], where[L7MP_ADDR_STRLEN];

	snprintf(text, sizeof(text), "can't connect to %s: %s",
	         l7mp_addr_str(&c->addrs[c->next_addr - 1], where), why);
	l7mp_tls_drop(&c->tls);
	l7mp_ws_lost(c, text);
}

static void tls_connected(void *arg)
{
	struct ws_conn *c = arg;
	int rc;

	(void)l7mp_tls_local(c->tls, &c->local);
	l7mp_tcp_tune(l7mp_tls_fd(c->tls));
	cJSON_Delete(c->tls_details);
	c->tls_details = l7mp_tls_metadata(c->tls);
	rc = hand_over(c);
	if (rc)
		tls_failed(c, l7mp_errno_text(rc));
}

static void tls_error(void *arg, int err)
{
	struct ws_conn *c = arg;
	const char *why = l7mp_tls_why(c->tls);
	char text[400];

	snprintf(text, sizeof(text), "%s", *why ? why : l7mp_errno_text(err));
	tls_failed(c, text);
}

static const struct l7mp_sio_ops tls_ops = {.connected = tls_connected, .error = tls_error};

int l7mp_ws_tls_dial(struct ws_conn *c, const struct l7mp_addr *to, const struct l7mp_addr *from)
{
	int rc = l7mp_tls_connect(l7mp_ws_loop(c), c->tls_ctx, c->address, to, from, &tls_ops, c,
	                          &c->tls);

	if (!rc)
		(void)l7mp_tls_local(c->tls, &c->local);
	return rc;
}

void l7mp_ws_tls_end(struct ws_conn *c)
{
	l7mp_tls_drop(&c->tls);
	l7mp_tls_bridge_forget(&c->bridge);
}
