/* SPDX-License-Identifier: MIT */
/*
 * Kernel pipes for splice(2): a bounded pool, and moving bytes between a socket and a pipe.
 *
 * A stream holds a pipe only while there are bytes in it. So the number of pipes is the number of
 * streams whose reader is slower than their writer, and usually one more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "l7mp/stream_io.h"
#include "loop_int.h"

#define KPIPE_IDLE     8     /* empty pipes to keep */
#define KPIPE_IDLE_MS  1000  /* and how long after the last use of one */
#define KPIPE_MIN      65536 /* do not use a smaller pipe: the user's pipe quota is exhausted */
#define KPIPE_SHARE    20    /* at most 1/n of the file descriptors are used for pipes */
#define KPIPE_RETRY_MS 1000  /* pause after the kernel has refused a pipe */

struct l7mp_kpipes {
	const uint32_t *max; /* NULL: 0 */
	struct l7mp_kpipe *idle;
	unsigned n_idle;
	struct l7mp_timer idle_timer;
	uint64_t refused_until_ms;
	struct l7mp_splice_stats stats;
};

static void close_pipe(struct l7mp_kpipes *k, struct l7mp_kpipe *p)
{
	close(p->fd[0]);
	close(p->fd[1]);
	free(p);
	k->stats.open--;
}

static void close_idle(struct l7mp_kpipes *k)
{
	struct l7mp_kpipe *p;

	while ((p = k->idle)) {
		k->idle = p->next;
		close_pipe(k, p);
	}
	k->n_idle = 0;
}

static void idle_cb(struct l7mp_timer *t, void *arg)
{
	(void)t;
	close_idle(arg);
}

static struct l7mp_kpipes *kpipes(struct l7mp_loop *loop)
{
	struct l7mp_kpipes *k = loop->kpipes;

	if (!k) {
		k = loop->kpipes = calloc(1, sizeof(*k));
		if (k)
			l7mp_timer_init(&k->idle_timer, idle_cb, k);
	}
	return k;
}

int l7mp_splice_limit(struct l7mp_loop *loop, const uint32_t *max_pipes)
{
	struct l7mp_kpipes *k = kpipes(loop);

	if (!k)
		return -ENOMEM;
	k->max = max_pipes;
	return 0;
}

struct l7mp_splice_stats l7mp_splice_stats(const struct l7mp_loop *loop)
{
	return loop->kpipes ? loop->kpipes->stats : (struct l7mp_splice_stats){0};
}

/* The maximum number of pipes: each has two descriptors. */
static uint64_t allowed(const struct l7mp_kpipes *k)
{
	uint64_t max = k->max ? *k->max : 0;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && max > limit.rlim_cur / KPIPE_SHARE / 2)
		max = limit.rlim_cur / KPIPE_SHARE / 2;
	return max;
}

/* Returns a new pipe; NULL when the kernel has none, or only a small one. */
static struct l7mp_kpipe *open_pipe(void)
{
	struct l7mp_kpipe *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	if (pipe2(p->fd, O_NONBLOCK | O_CLOEXEC)) {
		free(p);
		return NULL;
	}
	if (fcntl(p->fd[1], F_SETPIPE_SZ, L7MP_KPIPE_BYTES) < 0 &&
	    fcntl(p->fd[1], F_GETPIPE_SZ) < KPIPE_MIN) {
		close(p->fd[0]);
		close(p->fd[1]);
		free(p);
		return NULL;
	}
	return p;
}

static struct l7mp_kpipe *make(struct l7mp_loop *loop, struct l7mp_kpipes *k)
{
	struct l7mp_kpipe *p = NULL;

	if (k->stats.open < allowed(k) && l7mp_loop_now(loop) >= k->refused_until_ms) {
		p = open_pipe();
		if (!p)
			k->refused_until_ms = l7mp_loop_now(loop) + KPIPE_RETRY_MS;
	}
	if (p)
		k->stats.open++;
	else
		k->stats.exhausted++;
	return p;
}

struct l7mp_kpipe *l7mp_kpipe_get(struct l7mp_loop *loop)
{
	struct l7mp_kpipes *k = kpipes(loop);
	struct l7mp_kpipe *p;

	if (!k || !k->max || !*k->max)
		return NULL;
	p = k->idle;
	if (!p)
		return make(loop, k);
	k->idle = p->next;
	k->n_idle--;
	p->next = NULL;
	return p;
}

void l7mp_kpipe_put(struct l7mp_loop *loop, struct l7mp_kpipe **pp)
{
	struct l7mp_kpipes *k = loop->kpipes;
	struct l7mp_kpipe *p = *pp;

	if (!p)
		return;
	*pp = NULL;
	/* Undelivered bytes must not reach the next stream. */
	if (p->bytes || k->n_idle >= KPIPE_IDLE || k->stats.open > *k->max ||
	    l7mp_timer_start(loop, &k->idle_timer, KPIPE_IDLE_MS)) {
		l7mp_buf_pool_charge(loop->bufs, -(ptrdiff_t)p->bytes);
		close_pipe(k, p);
		return;
	}
	p->next = k->idle;
	k->idle = p;
	k->n_idle++;
}

ssize_t l7mp_kpipe_fill(struct l7mp_loop *loop, struct l7mp_kpipe *p, int fd, size_t max)
{
	ssize_t n;

	do {
		n = splice(fd, NULL, p->fd[1], NULL, max, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	p->bytes += (size_t)n;
	l7mp_buf_pool_charge(loop->bufs, n);
	return n;
}

ssize_t l7mp_kpipe_drain(struct l7mp_loop *loop, struct l7mp_kpipe *p, int fd, size_t max)
{
	size_t len = p->bytes < max ? p->bytes : max;
	ssize_t n;

	/*
	 * Never request more than there is: with a larger length the kernel would wait for more
	 * data (MSG_MORE).
	 */
	do {
		n = splice(p->fd[0], NULL, fd, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	p->bytes -= (size_t)n;
	l7mp_buf_pool_charge(loop->bufs, -n);
	loop->kpipes->stats.bytes += (uint64_t)n;
	return n;
}

int l7mp_kpipe_read(struct l7mp_loop *loop, struct l7mp_kpipe *p, void *out, size_t len)
{
	uint8_t *at = out;

	while (len) {
		ssize_t n = read(p->fd[0], at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		at += n;
		len -= (size_t)n;
		p->bytes -= (size_t)n;
		l7mp_buf_pool_charge(loop->bufs, -n);
	}
	return 0;
}

void l7mp_kpipes_free(struct l7mp_kpipes **kp)
{
	struct l7mp_kpipes *k = *kp;

	if (!k)
		return;
	close_idle(k);
	free(k);
	*kp = NULL;
}
