/* SPDX-License-Identifier: MIT */
/* Private to loop/: the loop itself, and the descriptor watchers. */
#pragma once

#include <sys/epoll.h>

#include "l7mp/addr.h"
#include "l7mp/loop.h"
#include "l7mp/slice.h"
#include "l7mp/util.h"

struct l7mp_dgram_shared;
struct l7mp_resolver;
struct l7mp_worker;
struct l7mp_kpipes;

/* The due time is stored beside the pointer, so that sifting does not touch the timers. */
struct l7mp_heap_entry {
	uint64_t due;
	uint64_t seq; /* timers of the same due time fire in the order of arming */
	struct l7mp_timer *timer;
};

struct l7mp_heap {
	struct l7mp_heap_entry *v; /* v[0] is the first one due */
	size_t n, cap;
	size_t kept; /* entries kept for reserved timers that are not armed */
	uint64_t seq;
};

/* The current iteration of the loop, when its CPU time is measured. */
struct l7mp_turn {
	bool measured;
	uint64_t stamp; /* CPU time in µs at the last mark */
	uint64_t us[L7MP_TURN_PARTS];
};

/* A descriptor watcher. */
struct l7mp_io_always;

struct l7mp_io {
	/*
	 * events: EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDHUP, as reported by the kernel
	 */
	void (*cb)(struct l7mp_io *io, uint32_t events);
	int fd;
	uint32_t events;               /* events to wait for; 0: not in the epoll set */
	struct l7mp_io_always *always; /* for descriptors that epoll rejects (files) */
};

struct l7mp_loop {
	bool manual;
	uv_loop_t uv;
	uint64_t manual_now;     /* ms */
	uint64_t manual_us;      /* additional time that has passed within turns */
	uint64_t manual_each_us; /* time added by each reading of the clock */
	struct l7mp_buf_pool *bufs;

	struct l7mp_heap heap;

	struct l7mp_task tasks;   /* sentinel */
	struct l7mp_flush flushs; /* sentinel */
	struct l7mp_slice slices; /* sentinel */
	uint64_t slice_until;     /* clock in µs; 0: no slice is running */
	uint64_t slice_us;        /* time for slices in this iteration */
	unsigned slice_tasks;     /* posted by the slices of this iteration */
	struct l7mp_slice_stats slice_stats;
	struct l7mp_turn turn;
	struct l7mp_turn_stats turn_stats;
	struct l7mp_worker *worker; /* created on first use */
	bool stopped;               /* l7mp_loop_run returns after this iteration */
	bool ending;                /* timers do not keep the loop running any more */

	/*
	 * Descriptors are watched in a separate epoll set, and libuv's epoll set is one
	 * of them. Compared with a uv_poll_t each: no handle memory, synchronous close,
	 * one epoll_ctl(2) instead of two per change, and one poll per iteration without libuv.
	 */
	int epfd;
	struct l7mp_io backend;     /* libuv's epoll set */
	bool uv_ready;              /* it has events */
	uv_async_t keep;            /* never sent: an active handle, so that uv_run does its work */
	struct epoll_event *events; /* the events being dispatched */
	int event_at, event_n;
	uint64_t io_since; /* ns, when the last poll returned */
	size_t holds;

	struct l7mp_dgram_shared *dgram; /* created on first use */
	struct l7mp_resolver *resolver;  /* created on first use */
	struct l7mp_kpipes *kpipes;      /* created on first use */

	uint64_t second;
	uint64_t lat_cur, lat_prev, lat_max; /* µs */
};

/* ---- work.c ---- */

/* Ends the thread, which must be idle, and closes its handle; the loop has to run once more. */
void l7mp_worker_stop(struct l7mp_loop *loop);
void l7mp_worker_free(struct l7mp_loop *loop);

/* ---- loop.c ---- */

/*
 * Reference count of open objects (sockets, acceptors, processes), which keep the loop running even
 * while they wait for no event.
 */
void l7mp_loop_hold(struct l7mp_loop *loop);
void l7mp_loop_release(struct l7mp_loop *loop);

/* ---- descriptor watchers (loop.c): level-triggered, stopped synchronously ---- */

static inline void l7mp_io_init(struct l7mp_io *io, int fd, void (*cb)(struct l7mp_io *, uint32_t))
{
	*io = (struct l7mp_io){.cb = cb, .fd = fd};
}
/*
 * Sets the events to wait for. Returns 0 or a negative errno (-ENOMEM, -ENOSPC); only adding a
 * descriptor can fail, changing and stopping can't.
 */
int l7mp_io_set(struct l7mp_loop *loop, struct l7mp_io *io, uint32_t events);
/*
 * Stops watching; call before closing the descriptor. Nothing is reported afterwards, not even
 * events that the present poll has returned.
 */
static inline void l7mp_io_stop(struct l7mp_loop *loop, struct l7mp_io *io)
{
	if (io->events)
		(void)l7mp_io_set(loop, io, 0);
}

/* ---- dgram.c ---- */

void l7mp_dgram_shared_free(struct l7mp_dgram_shared **shared);

/* ---- kpipe.c: kernel pipes ---- */

#define L7MP_KPIPE_BYTES 262144 /* requested capacity of a pipe, and the most bytes per splice */

struct l7mp_kpipe {
	int fd[2];
	size_t bytes; /* in the pipe; charged to the loop's memory */
	struct l7mp_kpipe *next;
};

/* Returns an empty pipe, owned by the caller. NULL: none available. */
struct l7mp_kpipe *l7mp_kpipe_get(struct l7mp_loop *loop);
/*
 * Returns a pipe to the pool; bytes in it are lost. Sets the pointer to NULL; a NULL pointer is
 * ignored.
 */
void l7mp_kpipe_put(struct l7mp_loop *loop, struct l7mp_kpipe **pipe);
/*
 * Move at most `max` bytes from a socket into the pipe, or from the pipe to a socket, as many as it
 * accepts. The socket must be non-blocking (O_NONBLOCK). Return the bytes moved; 0 (fill): the end
 * of the stream; or a negative errno: -EAGAIN, also for a full pipe.
 */
ssize_t l7mp_kpipe_fill(struct l7mp_loop *loop, struct l7mp_kpipe *pipe, int fd, size_t max);
ssize_t l7mp_kpipe_drain(struct l7mp_loop *loop, struct l7mp_kpipe *pipe, int fd, size_t max);
/* Reads `len` bytes, which must be in the pipe. Returns 0 or a negative errno. */
int l7mp_kpipe_read(struct l7mp_loop *loop, struct l7mp_kpipe *pipe, void *out, size_t len);
/* All pipes must have been returned. A NULL pointer is ignored. */
void l7mp_kpipes_free(struct l7mp_kpipes **kpipes);

/* ---- addr_order.c: the order in which the addresses of a name are tried ---- */

struct l7mp_dest {
	struct l7mp_addr addr; /* IPv4 or IPv6 */
	struct l7mp_addr
	        source; /* what a socket to it is bound to; len 0: there is no route to it */
};

/*
 * Sets the source of each destination as the kernel selects it: by connect(2) of a UDP socket,
 * which sends nothing. Takes some microseconds per destination, so `n` must be small.
 */
void l7mp_dests_find_sources(struct l7mp_dest *dests, size_t n);
/*
 * Sorts destinations whose sources are set: those without a source last, then matching scope,
 * matching label, precedence and scope (RFC 6724, rules 1, 2, 5, 6 and 8). Equal ones keep their
 * order. Takes time in n squared, so `n` must be small.
 */
void l7mp_dests_order(struct l7mp_dest *dests, size_t n);

/* ---- resolve.c ---- */

/* Cancels all queries; no caller may be waiting. A NULL pointer is ignored. */
void l7mp_resolver_free(struct l7mp_resolver **resolver);
/*
 * Uses these servers ("127.0.0.1:5353,[::1]:53") instead of those of /etc/resolv.conf, for tests.
 * Returns 0 or a negative errno.
 */
int l7mp_resolver_set_servers(struct l7mp_loop *loop, const char *csv);
