/* SPDX-License-Identifier: MIT */
/*
 * TCP_REPAIR, as used by CRIU. It is turned off without a window probe (TCP_REPAIR_OFF_NO_WP). The
 * kernel then clears SO_REUSEADDR, and a new listener on the port would fail with EADDRINUSE; so
 * SO_REUSEADDR is set again each time.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "socket.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* since Linux 5.14 */
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
/* From <netinet/tcp.h>, which conflicts with <linux/tcp.h>. */
enum { QUEUE_NONE, QUEUE_RECV, QUEUE_SEND };
enum { OPTION_MSS = 2, OPTION_WINDOW = 3, OPTION_SACK = 4, OPTION_TIMESTAMP = 8 };
#define REPAIR_OFF (-1) /* TCP_REPAIR_OFF_NO_WP */
#define TS_OPTION  12
#define ROOM_MIN   65536

static int set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) ? -errno : 0;
}

static int get(int fd, int level, int name, int *value)
{
	socklen_t len = sizeof(*value);

	return getsockopt(fd, level, name, value, &len) ? -errno : 0;
}

void off_tcp_repair(int fd, bool on)
{
	(void)set(fd, IPPROTO_TCP, TCP_REPAIR, on ? 1 : REPAIR_OFF);
	if (!on)
		(void)set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

void off_tcp_repair_sending(int fd)
{
	(void)set(fd, IPPROTO_TCP, TCP_REPAIR, 1);
	(void)set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, QUEUE_SEND);
}

void off_tcp_make_room(int fd, uint32_t bytes)
{
	/* The kernel doubles the value, for its own overhead. */
	uint32_t room = bytes < INT32_MAX / 2 - ROOM_MIN ? bytes + ROOM_MIN : INT32_MAX / 2;

	(void)set(fd, SOL_SOCKET, SO_SNDBUFFORCE, (int)room);
}

void off_tcp_unlock_room(int fd)
{
	(void)set(fd, SOL_SOCKET, SO_BUF_LOCK, 0); /* keeps the size, allows autotuning */
}

static int info(int fd, struct tcp_info *out)
{
	socklen_t len = sizeof(*out);

	memset(out, 0, sizeof(*out));
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, out, &len) ? -errno : 0;
}

/* ---- reading a connection ---- */

int off_tcp_traits_read(int fd, struct off_tcp_traits *t)
{
	socklen_t len = sizeof(t->congestion) - 1;
	struct tcp_info ti;
	int protocol = 0, rc;

	memset(t, 0, sizeof(*t));
	rc = get(fd, SOL_SOCKET, SO_PROTOCOL, &protocol);
	if (rc)
		return rc;
	t->mptcp = protocol == IPPROTO_MPTCP;
	rc = info(fd, &ti);
	if (rc)
		return rc;
	t->carries = off_tcp_carries(ti.tcpi_state);
	t->ts = ti.tcpi_options & TCPI_OPT_TIMESTAMPS;
	t->sack = ti.tcpi_options & TCPI_OPT_SACK;
	t->wscale = ti.tcpi_options & TCPI_OPT_WSCALE;
	t->ecn = ti.tcpi_options & TCPI_OPT_ECN;
	t->snd_wscale = t->wscale ? ti.tcpi_snd_wscale : 0;
	t->rcv_wscale = t->wscale ? ti.tcpi_rcv_wscale : 0;
	t->snd_mss = ti.tcpi_snd_mss;
	t->advmss = ti.tcpi_advmss;
	/* All ones: not measured yet. */
	t->min_rtt_us = ti.tcpi_min_rtt == UINT32_MAX ? ti.tcpi_rtt : ti.tcpi_min_rtt;
	(void)getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, t->congestion, &len);
	return 0;
}

static int address(int fd, int (*query_queue)(int, struct sockaddr *, socklen_t *),
                   struct l7mp_addr *own, struct l7mp_addr *plain)
{
	memset(own, 0, sizeof(*own));
	own->len = sizeof(own->in6);
	if (query_queue(fd, &own->sa, &own->len))
		return -errno;
	return l7mp_addr_from_sockaddr(plain, &own->sa, own->len);
}

int off_tcp_conn_read(int fd, struct off_tcp_conn *c)
{
	socklen_t len = sizeof(c->device) - 1;
	int rc;

	memset(c, 0, sizeof(*c));
	rc = address(fd, getsockname, &c->own_local, &c->local);
	if (!rc)
		rc = address(fd, getpeername, &c->own_peer, &c->peer);
	if (!rc)
		rc = off_tcp_traits_read(fd, &c->traits);
	if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, c->device, &len))
		c->device[0] = 0;
	return rc;
}

/* ---- numbers ---- */

static int queue_seq(int fd, int queue, uint32_t *out)
{
	socklen_t len = sizeof(*out);
	int rc = set(fd, IPPROTO_TCP, TCP_REPAIR, 1);

	if (rc)
		return rc;
	rc = set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);
	if (!rc && getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, out, &len))
		rc = -errno;
	off_tcp_repair(fd, false);
	return rc;
}

int off_tcp_rcv_nxt(int fd, uint32_t *out)
{
	return queue_seq(fd, QUEUE_RECV, out);
}

int off_tcp_write_seq(int fd, uint32_t *out)
{
	return off_tcp_unsent(fd) ? -EAGAIN : queue_seq(fd, QUEUE_SEND, out);
}

int off_tcp_window(int fd, bool keep, struct off_tcp_window *out)
{
	struct tcp_repair_window w;
	socklen_t len = sizeof(w);
	int rc = set(fd, IPPROTO_TCP, TCP_REPAIR, 1);

	if (rc)
		return rc;
	if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &len))
		rc = -errno;
	if (!keep)
		off_tcp_repair(fd, false);
	if (!rc)
		*out = (struct off_tcp_window){.snd_wnd = w.snd_wnd,
		                               .rcv_edge = w.rcv_wup + w.rcv_wnd};
	return rc;
}

uint32_t off_tcp_clock(int fd)
{
	int value = 0;

	(void)get(fd, IPPROTO_TCP, TCP_TIMESTAMP, &value);
	return (uint32_t)value;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct off_tcp_clock off_tcp_clock_set(int fd, uint32_t at_least)
{
	/* With an odd value the kernel's clock would count microseconds. */
	uint32_t value = (at_least + 1) & ~1U;

	for (;;) {
		uint64_t before = now_ms(), after;

		(void)set(fd, IPPROTO_TCP, TCP_TIMESTAMP, (int)value);
		after = now_ms();
		if (before == after)
			return (struct off_tcp_clock){.base = value, .ns = before * 1000000};
		/* A tick in between: base is ambiguous. Retry with a value that it can't have. */
		value = (value + (uint32_t)(now_ms() - before) + 2) & ~1U;
	}
}

uint32_t off_tcp_clock_now(const struct off_tcp_clock *c)
{
	return c->base + (uint32_t)(now_ms() - c->ns / 1000000);
}

static int query_queue(int fd, unsigned long what)
{
	int n = 0;

	return ioctl(fd, what, &n) ? -errno : n;
}

int off_tcp_unread(int fd)
{
	return query_queue(fd, SIOCINQ);
}

int off_tcp_unacked(int fd)
{
	return query_queue(fd, SIOCOUTQ);
}

int off_tcp_unsent(int fd)
{
	return query_queue(fd, SIOCOUTQNSD);
}

uint8_t off_tcp_state(int fd)
{
	struct tcp_info ti;

	return info(fd, &ti) ? 0 : ti.tcpi_state;
}

uint64_t off_tcp_written(int fd)
{
	struct tcp_info ti;
	int n = off_tcp_unacked(fd);

	return info(fd, &ti) || n < 0 ? 0 : ti.tcpi_bytes_acked + (uint64_t)n;
}

uint32_t off_tcp_segs_in(int fd)
{
	struct tcp_info ti;

	return info(fd, &ti) ? 0 : ti.tcpi_segs_in;
}

/* ---- actions ---- */

void off_tcp_keepalive_off(int fd)
{
	(void)set(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
}

void off_tcp_keep_window(int fd)
{
	(void)set(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, 1); /* Linux uses its minimum instead */
}

void off_tcp_quickack(int fd)
{
	(void)set(fd, IPPROTO_TCP, TCP_QUICKACK, 1);
}

void off_tcp_window_probe(int fd, bool keep)
{
	(void)set(fd, IPPROTO_TCP, TCP_REPAIR, 1);
	(void)set(fd, IPPROTO_TCP, TCP_REPAIR, 0);
	off_tcp_repair(fd, keep);
}

void off_tcp_close_silently(int *fd)
{
	if (*fd < 0)
		return;
	off_tcp_repair(*fd, true);
	close(*fd);
	*fd = -1;
}

void off_tcp_reset(int *fd)
{
	const struct linger now = {.l_onoff = 1};

	if (*fd < 0)
		return;
	off_tcp_repair(*fd, false);
	(void)setsockopt(*fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(*fd);
	*fd = -1;
}

/* ---- restoring ---- */

static int bind_device(int fd, const struct off_tcp_conn *c)
{
	if (c->device[0] &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, c->device, (socklen_t)strlen(c->device)))
		return -errno;
	return 0;
}

bool off_tcp_has_route(const struct off_tcp_conn *c)
{
	int fd = socket(l7mp_addr_family(&c->own_peer), SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool found;

	if (fd < 0)
		return true;
	(void)bind_device(fd, c);
	found = !connect(fd, &c->own_peer.sa, c->own_peer.len);
	close(fd);
	return found;
}

static int place(int fd, const struct off_tcp_conn *c, const struct off_tcp_point *p)
{
	const struct off_tcp_traits *t = &c->traits;
	int rc = set(fd, SOL_SOCKET, SO_REUSEADDR, 1);

	rc = rc ? rc : set(fd, IPPROTO_TCP, TCP_REPAIR, 1);
	rc = rc ? rc : bind_device(fd, c);
	if (!rc && bind(fd, &c->own_local.sa, c->own_local.len))
		rc = -errno;
	rc = rc ? rc : set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, QUEUE_RECV);
	rc = rc ? rc : set(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)p->rcv_nxt);
	rc = rc ? rc : set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, QUEUE_SEND);
	rc = rc ? rc : set(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)p->snd_nxt);
	if (rc)
		return rc;
	/* connect(2) takes the MSS from this; with TCP_REPAIR_OPTIONS alone it stays 536. */
	(void)set(fd, IPPROTO_TCP, TCP_MAXSEG, (int)(t->snd_mss + (t->ts ? TS_OPTION : 0)));
	return connect(fd, &c->own_peer.sa, c->own_peer.len) ? -errno : 0;
}

static int options(int fd, const struct off_tcp_traits *t)
{
	struct tcp_repair_opt o[4];
	unsigned n = 0;

	o[n++] = (struct tcp_repair_opt){OPTION_MSS, t->snd_mss + (t->ts ? TS_OPTION : 0)};
	/* Also without window scaling: otherwise the scale chosen by connect(2) stays. */
	o[n++] = (struct tcp_repair_opt){OPTION_WINDOW,
	                                 t->snd_wscale | (uint32_t)t->rcv_wscale << 16};
	if (t->sack)
		o[n++] = (struct tcp_repair_opt){OPTION_SACK, 0};
	if (t->ts)
		o[n++] = (struct tcp_repair_opt){OPTION_TIMESTAMP, 0};
	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, o, n * sizeof(*o)) ? -errno : 0;
}

static int state(int fd, const struct off_tcp_conn *c, const struct off_tcp_point *p)
{
	const struct tcp_repair_window w = {
	        .snd_wl1 = p->rcv_nxt,
	        .snd_wnd = p->snd_wnd,
	        .max_window = p->snd_wnd > 65535 ? p->snd_wnd : 65535,
	        .rcv_wnd = p->rcv_wnd,
	        .rcv_wup = p->rcv_nxt,
	};
	int rc = options(fd, &c->traits);

	if (!rc && c->traits.ts)
		(void)off_tcp_clock_set(fd, p->clock);
	if (!rc && setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof(w)))
		rc = -errno;
	if (c->traits.congestion[0])
		(void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, c->traits.congestion,
		                 (socklen_t)strlen(c->traits.congestion));
	return rc;
}

int off_tcp_restore(const struct off_tcp_conn *c, const struct off_tcp_point *p)
{
	int rc, fd = socket(l7mp_addr_family(&c->own_local),
	                    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	rc = place(fd, c, p);
	rc = rc ? rc : state(fd, c, p);
	if (!rc)
		return fd;
	off_tcp_close_silently(&fd);
	return rc;
}
