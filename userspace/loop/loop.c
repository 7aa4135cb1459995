/* SPDX-License-Identifier: MIT */
/*
 * The event loop: timers, tasks, slices and descriptor watchers around libuv, or on a clock that a
 * test advances (a manual loop).
 */
#include "l7mp/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "l7mp/slice.h"
#include "loop_int.h"

#define IO_BATCH        256        /* ready descriptors per epoll_wait(2) */
#define BUF_CACHE       (8u << 20) /* bytes of free buffers to keep */
#define MANUAL_START_MS 1000000u
#define DRY_GUARD_MS    8000u /* longer than the longest graceful close */
/* bound for timers that re-arm themselves with 0, which would hang a test */
#define MANUAL_ROUNDS 1000

uint64_t l7mp_loop_now(const struct l7mp_loop *loop)
{
	return loop->manual ? loop->manual_now : uv_now(&loop->uv);
}

/* ---- timers ---- */

/* A binary heap. Each timer stores its index, so that moving and stopping one are O(log n). */

static inline bool before(const struct l7mp_heap_entry *a, const struct l7mp_heap_entry *b)
{
	return a->due != b->due ? a->due < b->due : a->seq < b->seq;
}

static inline void place(struct l7mp_heap *h, size_t i, struct l7mp_heap_entry e)
{
	h->v[i] = e;
	e.timer->index = i + 1;
}

static void sift(struct l7mp_heap *h, size_t i, struct l7mp_heap_entry e)
{
	while (i > 0 && before(&e, &h->v[(i - 1) / 2])) {
		place(h, i, h->v[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= h->n)
			break;
		if (child + 1 < h->n && before(&h->v[child + 1], &h->v[child]))
			child++;
		if (!before(&h->v[child], &e))
			break;
		place(h, i, h->v[child]);
		i = child;
	}
	place(h, i, e);
}

static void heap_remove(struct l7mp_heap *h, struct l7mp_timer *t)
{
	size_t i = t->index - 1;
	struct l7mp_heap_entry last = h->v[--h->n];

	t->index = 0;
	h->kept += t->reserved;
	if (i < h->n)
		sift(h, i, last);
}

/* Makes room for one more entry. */
static int heap_grow(struct l7mp_heap *h)
{
	size_t cap = h->cap ? 2 * h->cap : 64;
	struct l7mp_heap_entry *v;

	if (h->n + h->kept < h->cap)
		return 0;
	v = realloc(h->v, cap * sizeof(*v));
	if (!v)
		return -ENOMEM;
	h->v = v;
	h->cap = cap;
	return 0;
}

static void heap_free(struct l7mp_heap *h)
{
	for (size_t i = 0; i < h->n; i++)
		h->v[i].timer->index = 0;
	free(h->v);
	*h = (struct l7mp_heap){0};
}

/* Fires the timers that are due at `now`, except those armed by the callbacks. */
static void heap_fire(struct l7mp_heap *h, uint64_t now)
{
	uint64_t limit = h->seq;

	/* Timers armed by callbacks have a higher seq. */
	while (h->n && h->v[0].due <= now && h->v[0].seq < limit) {
		struct l7mp_timer *t = h->v[0].timer;

		heap_remove(h, t);
		t->cb(t, t->arg);
	}
}

void l7mp_timer_init(struct l7mp_timer *t, void (*cb)(struct l7mp_timer *t, void *arg), void *arg)
{
	*t = (struct l7mp_timer){.cb = cb, .arg = arg};
}

int l7mp_timer_start(struct l7mp_loop *loop, struct l7mp_timer *t, uint64_t delay_ms)
{
	struct l7mp_heap *h = &loop->heap;
	uint64_t now = l7mp_loop_now(loop);
	size_t i = t->index ? t->index - 1 : h->n;

	if (!t->index && !t->reserved && heap_grow(h))
		return -ENOMEM;
	t->due = delay_ms > UINT64_MAX - now ? UINT64_MAX : now + delay_ms;
	if (!t->index) {
		h->n++;
		h->kept -= t->reserved;
	}
	sift(h, i, (struct l7mp_heap_entry){.due = t->due, .seq = h->seq++, .timer = t});
	return 0;
}

void l7mp_timer_stop(struct l7mp_loop *loop, struct l7mp_timer *t)
{
	if (t->index)
		heap_remove(&loop->heap, t);
}

int l7mp_timer_reserve(struct l7mp_loop *loop, struct l7mp_timer *t)
{
	struct l7mp_heap *h = &loop->heap;

	if (t->reserved)
		return 0;
	if (!t->index) {
		if (heap_grow(h))
			return -ENOMEM;
		h->kept++;
	}
	t->reserved = true;
	return 0;
}

void l7mp_timer_give_back(struct l7mp_loop *loop, struct l7mp_timer *t)
{
	l7mp_timer_stop(loop, t);
	loop->heap.kept -= t->reserved;
	t->reserved = false;
}

/* ---- tasks and flush hooks ---- */

/* Two circular lists with a sentinel. */

#define TASK_ROUNDS 8

static bool tasks_pending(const struct l7mp_loop *loop)
{
	return loop->tasks.next != &loop->tasks || loop->flushs.next != &loop->flushs;
}

static void tasks_init(struct l7mp_loop *loop)
{
	loop->tasks.prev = loop->tasks.next = &loop->tasks;
	loop->flushs.prev = loop->flushs.next = &loop->flushs;
}

void l7mp_task_init(struct l7mp_task *t, void (*cb)(struct l7mp_task *t, void *arg), void *arg)
{
	*t = (struct l7mp_task){.cb = cb, .arg = arg};
}

void l7mp_task_post(struct l7mp_loop *loop, struct l7mp_task *t)
{
	if (t->prev)
		return;
	t->prev = loop->tasks.prev;
	t->next = &loop->tasks;
	t->prev->next = t;
	loop->tasks.prev = t;
	loop->slice_tasks++;
}

void l7mp_task_cancel(struct l7mp_loop *loop, struct l7mp_task *t)
{
	(void)loop;
	if (!t->prev)
		return;
	t->prev->next = t->next;
	t->next->prev = t->prev;
	t->prev = t->next = NULL;
}

void l7mp_flush_init(struct l7mp_flush *f, void (*cb)(struct l7mp_flush *f, void *arg), void *arg)
{
	*f = (struct l7mp_flush){.cb = cb, .arg = arg};
}

void l7mp_flush_request(struct l7mp_loop *loop, struct l7mp_flush *f)
{
	if (f->prev)
		return;
	f->prev = loop->flushs.prev;
	f->next = &loop->flushs;
	f->prev->next = f;
	loop->flushs.prev = f;
}

void l7mp_flush_cancel(struct l7mp_loop *loop, struct l7mp_flush *f)
{
	(void)loop;
	if (!f->prev)
		return;
	f->prev->next = f->next;
	f->next->prev = f->prev;
	f->prev = f->next = NULL;
}

/* Moves the list to another head, so that tasks posted by tasks wait for the next round. */
static void tasks_round(struct l7mp_loop *loop)
{
	struct l7mp_task head;

	head.next = loop->tasks.next;
	head.prev = loop->tasks.prev;
	head.next->prev = head.prev->next = &head;
	loop->tasks.prev = loop->tasks.next = &loop->tasks;
	while (head.next != &head) {
		struct l7mp_task *t = head.next;

		l7mp_task_cancel(loop, t);
		t->cb(t, t->arg);
	}
}

static void flush_round(struct l7mp_loop *loop)
{
	struct l7mp_flush head;

	head.next = loop->flushs.next;
	head.prev = loop->flushs.prev;
	head.next->prev = head.prev->next = &head;
	loop->flushs.prev = loop->flushs.next = &loop->flushs;
	while (head.next != &head) {
		struct l7mp_flush *f = head.next;

		l7mp_flush_cancel(loop, f);
		f->cb(f, f->arg);
	}
}

/*
 * Runs tasks, then flush hooks. The number of rounds is bounded, so that tasks that post tasks
 * can't starve I/O.
 */
static void tasks_run(struct l7mp_loop *loop)
{
	for (int i = 0; i < TASK_ROUNDS && loop->tasks.next != &loop->tasks; i++)
		tasks_round(loop);
	if (loop->flushs.next != &loop->flushs)
		flush_round(loop);
}

/* ---- slices ---- */

const uint32_t l7mp_slice_bounds_us[L7MP_SLICE_BUCKETS] = {250,  500,  1000,  2000,
                                                           4000, 8000, 16000, 64000};

uint64_t l7mp_loop_clock_us(const struct l7mp_loop *loop)
{
	if (!loop->manual)
		return uv_hrtime() / 1000;
	/* The clock of a manual loop is not regarded as part of its state. */
	((struct l7mp_loop *)loop)->manual_us += loop->manual_each_us;
	return loop->manual_now * 1000 + loop->manual_us;
}

void l7mp_loop_spend(struct l7mp_loop *loop, uint64_t us)
{
	loop->manual_us += us;
}

void l7mp_loop_spend_each(struct l7mp_loop *loop, uint64_t us)
{
	loop->manual_each_us = us;
}

static bool slices_pending(const struct l7mp_loop *loop)
{
	return loop->slices.next != &loop->slices;
}

static void slices_init(struct l7mp_loop *loop)
{
	loop->slices.prev = loop->slices.next = &loop->slices;
}

void l7mp_slice_init(struct l7mp_slice *s, void (*cb)(struct l7mp_slice *s, void *arg), void *arg)
{
	*s = (struct l7mp_slice){.cb = cb, .arg = arg};
}

void l7mp_slice_post(struct l7mp_loop *loop, struct l7mp_slice *s)
{
	if (s->prev)
		return;
	s->prev = loop->slices.prev;
	s->next = &loop->slices;
	s->prev->next = s;
	loop->slices.prev = s;
}

void l7mp_slice_cancel(struct l7mp_loop *loop, struct l7mp_slice *s)
{
	(void)loop;
	if (!s->prev)
		return;
	s->prev->next = s->next;
	s->next->prev = s->prev;
	s->prev = s->next = NULL;
}

bool l7mp_slice_over(const struct l7mp_loop *loop)
{
	return loop->slice_tasks >= L7MP_SLICE_TASKS ||
	       l7mp_loop_clock_us(loop) >= loop->slice_until;
}

static void slice_count(struct l7mp_slice_stats *st, uint64_t us)
{
	st->count++;
	st->sum_us += us;
	if (us > st->max_us)
		st->max_us = us;
	for (int i = 0; i < L7MP_SLICE_BUCKETS; i++)
		if (us <= l7mp_slice_bounds_us[i])
			st->bucket[i]++;
}

/* Puts the remaining slices of `head` before those posted meanwhile. */
static void put_back(struct l7mp_loop *loop, struct l7mp_slice *head)
{
	if (head->next == head)
		return;
	head->prev->next = loop->slices.next;
	loop->slices.next->prev = head->prev;
	loop->slices.next = head->next;
	head->next->prev = &loop->slices;
}

/*
 * An iteration runs each slice at most once, in the order of posting: slices posted meanwhile, also
 * by a slice itself, wait for the next iteration. So the list is first moved to another head.
 */
static void slices_run(struct l7mp_loop *loop)
{
	uint64_t start, now;
	struct l7mp_slice head;

	if (!slices_pending(loop))
		return;
	start = now = l7mp_loop_clock_us(loop);
	loop->slice_until = start + loop->slice_us;
	loop->slice_tasks = 0;
	head.next = loop->slices.next;
	head.prev = loop->slices.prev;
	head.next->prev = head.prev->next = &head;
	slices_init(loop);
	while (head.next != &head && now < loop->slice_until &&
	       loop->slice_tasks < L7MP_SLICE_TASKS) {
		struct l7mp_slice *s = head.next;

		l7mp_slice_cancel(loop, s);
		s->cb(s, s->arg);
		now = l7mp_loop_clock_us(loop);
	}
	put_back(loop, &head);
	loop->slice_until = 0;
	slice_count(&loop->slice_stats, now - start);
}

const struct l7mp_slice_stats *l7mp_loop_slice_stats(const struct l7mp_loop *loop)
{
	return &loop->slice_stats;
}

/* ---- CPU time of iterations ---- */

/*
 * CPU time that control work costs an iteration, in the loop's thread: unlike wall-clock time it
 * does not grow when other programs use the CPU, so tests can compare it with a bound. Reading this
 * clock is a system call, so only iterations that run slices are measured, but as a whole: tasks
 * posted by slices and the writing of answers are part of their cost.
 */

static uint64_t cpu_us(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t))
		return 0;
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Adds the time since the last mark to this part. */
static void turn_mark(struct l7mp_loop *loop, enum l7mp_turn_part part)
{
	struct l7mp_turn *turn = &loop->turn;
	uint64_t now;

	if (!turn->measured)
		return;
	now = cpu_us();
	turn->us[part] += now - turn->stamp;
	turn->stamp = now;
}

/*
 * With many datagrams an iteration takes milliseconds. With a fixed share, lists and deletions
 * would need as many of these long iterations as of short ones; so slices get a quarter of the time
 * that I/O took.
 */
static uint64_t slice_share(uint64_t io_us)
{
	if (io_us / 4 <= L7MP_SLICE_US)
		return L7MP_SLICE_US;
	return io_us / 4 < L7MP_SLICE_MAX_US ? io_us / 4 : L7MP_SLICE_MAX_US;
}

/* Begins an iteration, which ends the one before. */
static void turn_begin(struct l7mp_loop *loop)
{
	struct l7mp_turn *turn = &loop->turn;
	struct l7mp_turn_stats *st = &loop->turn_stats;
	uint64_t sum = 0, io = 0;

	if (turn->measured) {
		turn_mark(loop, L7MP_TURN_IO);
		io = turn->us[L7MP_TURN_IO];
		for (int i = 0; i < L7MP_TURN_PARTS; i++) {
			sum += turn->us[i];
			if (turn->us[i] > st->max_us[i])
				st->max_us[i] = turn->us[i];
			turn->us[i] = 0;
		}
		slice_count(&st->turns, sum);
	}
	loop->slice_us = slice_share(turn->measured ? io : 0);
	turn->measured = slices_pending(loop);
	if (turn->measured)
		turn->stamp = cpu_us();
}

const struct l7mp_turn_stats *l7mp_loop_turn_stats(const struct l7mp_loop *loop)
{
	return &loop->turn_stats;
}

/* ---- descriptor watchers ---- */

/* One epoll set for all sockets and for libuv's epoll set. */

/*
 * epoll rejects regular files and /dev/null with EPERM, because they are always ready. For these a
 * task reposts itself in each iteration and reports readiness.
 */
struct l7mp_io_always {
	struct l7mp_task task;
	struct l7mp_loop *loop;
	struct l7mp_io *io;
};

static void always_cb(struct l7mp_task *task, void *arg)
{
	struct l7mp_io_always *always = arg;
	struct l7mp_io *io = always->io;

	/* Post before the callback, which may stop the watcher and so free the task. */
	l7mp_task_post(always->loop, task);
	io->cb(io, io->events);
}

static int always_start(struct l7mp_loop *loop, struct l7mp_io *io)
{
	io->always = calloc(1, sizeof(*io->always));
	if (!io->always)
		return -ENOMEM;
	io->always->loop = loop;
	io->always->io = io;
	l7mp_task_init(&io->always->task, always_cb, io->always);
	l7mp_task_post(loop, &io->always->task);
	return 0;
}

static int always_set(struct l7mp_loop *loop, struct l7mp_io *io, uint32_t events)
{
	io->events = events;
	if (events)
		return 0;
	l7mp_task_cancel(loop, &io->always->task);
	free(io->always);
	io->always = NULL;
	return 0;
}

/* Drops events of this watcher that were reported but not yet dispatched. */
static void forget_events(struct l7mp_loop *loop, const struct l7mp_io *io)
{
	for (int i = loop->event_at; i < loop->event_n; i++)
		if (loop->events[i].data.ptr == io)
			loop->events[i].data.ptr = NULL;
}

int l7mp_io_set(struct l7mp_loop *loop, struct l7mp_io *io, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = io};
	int op = !io->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
	int rc = 0;

	if (events == io->events)
		return 0;
	if (io->always)
		return always_set(loop, io, events);
	if (epoll_ctl(loop->epfd, op, io->fd, &ev))
		rc = -errno;
	if (rc == -EPERM && op == EPOLL_CTL_ADD)
		rc = always_start(loop, io);
	if (!events) {
		forget_events(loop, io);
		rc = 0;
	}
	if (!rc)
		io->events = events;
	return rc;
}

/*
 * Waits for at most `timeout` ms (-1: without a limit; 0: not at all), and calls the watchers that
 * are ready.
 */
static void dispatch(struct l7mp_loop *loop, int timeout)
{
	struct epoll_event events[IO_BATCH];
	int n = epoll_wait(loop->epfd, events, IO_BATCH, timeout);

	loop->io_since = uv_hrtime();
	uv_update_time(&loop->uv);
	if (n <= 0)
		return;
	loop->events = events;
	loop->event_n = n;
	for (int i = 0; i < n; i++) {
		struct l7mp_io *io = events[i].data.ptr;

		loop->event_at = i + 1;
		if (io)
			io->cb(io, events[i].events);
	}
	loop->events = NULL;
	loop->event_at = loop->event_n = 0;
}

/* ---- libuv inside of our loop ---- */

/*
 * libuv's epoll set is one descriptor of ours, and libuv runs only when it has something to do. The
 * other way round each iteration would poll both sets, libuv's twice when it measures idle time,
 * and a single datagram would take five system calls instead of three.
 */

static void backend_cb(struct l7mp_io *io, uint32_t events)
{
	(void)events;
	l7mp_container_of(io, struct l7mp_loop, backend)->uv_ready = true;
}

static void keep_cb(uv_async_t *keep)
{
	(void)keep;
}

/*
 * Runs libuv once if its set is ready, a timer of it is due, or it has other work: handles that
 * close or are idle, descriptors to add to its set.
 */
static void uv_part(struct l7mp_loop *loop)
{
	if (!loop->uv_ready && uv_backend_timeout(&loop->uv))
		return;
	loop->uv_ready = false;
	uv_run(&loop->uv, UV_RUN_NOWAIT);
}

static int io_start(struct l7mp_loop *loop)
{
	int rc;

	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epfd < 0)
		return -errno;
	l7mp_io_init(&loop->backend, uv_backend_fd(&loop->uv), backend_cb);
	rc = l7mp_io_set(loop, &loop->backend, EPOLLIN);
	/* libuv does nothing in a run without a handle that is active and counts. */
	if (!rc)
		rc = uv_async_init(&loop->uv, &loop->keep, keep_cb);
	if (rc) {
		close(loop->epfd);
		loop->epfd = -1;
	}
	return rc;
}

/* ---- an iteration ---- */

static bool is_due(const struct l7mp_heap *h, uint64_t now)
{
	return h->n && h->v[0].due <= now;
}

/* How long the next poll may block: ms, -1: without a limit. */
static int poll_timeout(struct l7mp_loop *loop)
{
	const struct l7mp_heap *h = &loop->heap;
	uint64_t now = uv_now(&loop->uv), left;
	int timeout;

	if (tasks_pending(loop) || slices_pending(loop) || is_due(h, now))
		return 0;
	timeout = uv_backend_timeout(&loop->uv);
	if (!h->n)
		return timeout;
	left = h->v[0].due - now;
	if (left > INT_MAX)
		left = INT_MAX;
	return timeout < 0 || left < (uint64_t)timeout ? (int)left : timeout;
}

/* The time from the end of one poll to the start of the next one. */
static void note_latency(struct l7mp_loop *loop)
{
	uint64_t stamp = uv_hrtime();
	uint64_t us = (stamp - loop->io_since) / 1000;
	uint64_t second = stamp / 1000000000u;

	if (second != loop->second) {
		loop->lat_prev = second == loop->second + 1 ? loop->lat_cur : 0;
		loop->lat_cur = 0;
		loop->second = second;
	}
	if (loop->io_since && us > loop->lat_cur)
		loop->lat_cur = us;
	if (loop->lat_cur > loop->lat_max)
		loop->lat_max = loop->lat_cur;
}

/* What comes before the poll: timers, tasks, slices. */
static void turn_head(struct l7mp_loop *loop)
{
	uv_update_time(&loop->uv);
	turn_begin(loop);
	heap_fire(&loop->heap, uv_now(&loop->uv));
	turn_mark(loop, L7MP_TURN_TIMERS);
	if (tasks_pending(loop))
		tasks_run(loop);
	turn_mark(loop, L7MP_TURN_TASKS);
	slices_run(loop);
	turn_mark(loop, L7MP_TURN_SLICES);
	if (tasks_pending(loop))
		tasks_run(loop);
	turn_mark(loop, L7MP_TURN_TASKS);
}

/* Whether something keeps the loop running: a handle of libuv, an object of ours, work to do. */
static bool is_alive(struct l7mp_loop *loop)
{
	bool alive;

	uv_unref((uv_handle_t *)&loop->keep);
	alive = uv_loop_alive(&loop->uv);
	uv_ref((uv_handle_t *)&loop->keep);
	return alive || loop->holds || tasks_pending(loop) || slices_pending(loop) ||
	       (loop->heap.n && !loop->ending);
}

static void turn(struct l7mp_loop *loop, bool wait)
{
	turn_head(loop);
	/* What kept the loop running may be gone. */
	if (loop->stopped || !is_alive(loop))
		wait = false;
	note_latency(loop);
	dispatch(loop, wait ? poll_timeout(loop) : 0);
	uv_part(loop);
	turn_mark(loop, L7MP_TURN_IO);
	if (tasks_pending(loop))
		tasks_run(loop);
	turn_mark(loop, L7MP_TURN_TASKS);
}

/* ---- life ---- */

static int start_uv(struct l7mp_loop *loop)
{
	int rc = uv_loop_init(&loop->uv);

	if (rc)
		return rc;
	rc = io_start(loop);
	if (rc)
		uv_loop_close(&loop->uv);
	return rc;
}

static int loop_new(bool manual, struct l7mp_loop **out)
{
	struct l7mp_loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (!loop)
		return -ENOMEM;
	loop->manual = manual;
	loop->manual_now = MANUAL_START_MS;
	loop->epfd = -1;
	tasks_init(loop);
	slices_init(loop);
	loop->slice_us = L7MP_SLICE_US;
	rc = l7mp_buf_pool_new(BUF_CACHE, &loop->bufs);
	if (!rc && !manual)
		rc = start_uv(loop);
	if (rc) {
		l7mp_buf_pool_free(&loop->bufs);
		free(loop);
		return rc;
	}
	*out = loop;
	return 0;
}

int l7mp_loop_new(struct l7mp_loop **out)
{
	return loop_new(false, out);
}

int l7mp_loop_new_manual(struct l7mp_loop **out)
{
	return loop_new(true, out);
}

/* Only ends a poll; its caller looks at the clock. */
static void guard_cb(struct l7mp_timer *t, void *arg)
{
	(void)t;
	(void)arg;
}

/*
 * Runs until nothing but timers keeps the loop alive, or until DRY_GUARD_MS, which only a bug
 * exceeds.
 */
static void run_dry(struct l7mp_loop *loop)
{
	uint64_t end = uv_hrtime() + DRY_GUARD_MS * 1000000ull;
	struct l7mp_timer guard;

	l7mp_timer_init(&guard, guard_cb, NULL);
	(void)l7mp_timer_start(loop, &guard, DRY_GUARD_MS);
	loop->stopped = false;
	loop->ending = true;
	while (is_alive(loop) && !loop->stopped && uv_hrtime() < end)
		turn(loop, true);
	l7mp_timer_stop(loop, &guard);
}

static int stop_uv(struct l7mp_loop *loop)
{
	run_dry(loop);
	if (loop->holds)
		return UV_EBUSY;
	l7mp_resolver_free(&loop->resolver);
	heap_free(&loop->heap);
	l7mp_worker_stop(loop);
	l7mp_io_stop(loop, &loop->backend);
	uv_close((uv_handle_t *)&loop->keep, NULL);
	uv_run(&loop->uv, UV_RUN_NOWAIT);
	close(loop->epfd);
	l7mp_worker_free(loop);
	return uv_loop_close(&loop->uv);
}

int l7mp_loop_free(struct l7mp_loop **loopp)
{
	struct l7mp_loop *loop = *loopp;
	int rc = 0;

	if (!loop)
		return 0;
	*loopp = NULL;
	if (loop->manual) {
		tasks_run(loop);
		heap_free(&loop->heap);
	} else {
		rc = stop_uv(loop);
	}
	if (rc)
		return rc; /* a handle may still refer to the loop, so leak it */
	l7mp_dgram_shared_free(&loop->dgram);
	l7mp_kpipes_free(&loop->kpipes);
	l7mp_buf_pool_free(&loop->bufs);
	free(loop);
	return 0;
}

int l7mp_loop_run(struct l7mp_loop *loop)
{
	while (!loop->stopped && is_alive(loop))
		turn(loop, true);
	loop->stopped = false;
	return 0;
}

void l7mp_loop_stop(struct l7mp_loop *loop)
{
	loop->stopped = true;
}

void l7mp_loop_hold(struct l7mp_loop *loop)
{
	loop->holds++;
}

void l7mp_loop_release(struct l7mp_loop *loop)
{
	loop->holds--;
}

/* ---- the manual clock ---- */

void l7mp_loop_turn(struct l7mp_loop *loop)
{
	if (!loop->manual) {
		turn(loop, false);
		return;
	}
	heap_fire(&loop->heap, loop->manual_now);
	tasks_run(loop);
	slices_run(loop);
	tasks_run(loop);
}

void l7mp_loop_advance(struct l7mp_loop *loop, uint64_t ms)
{
	const struct l7mp_heap *h = &loop->heap;
	uint64_t target = loop->manual_now + ms;
	int rounds = 0;

	while (h->n && h->v[0].due <= target && rounds++ < MANUAL_ROUNDS) {
		if (h->v[0].due > loop->manual_now) {
			loop->manual_now = h->v[0].due;
			rounds = 0;
		}
		l7mp_loop_turn(loop);
	}
	loop->manual_now = target;
	l7mp_loop_turn(loop);
}

/* ---- statistics ---- */

uv_loop_t *l7mp_loop_uv(struct l7mp_loop *loop)
{
	return loop->manual ? NULL : &loop->uv;
}

struct l7mp_buf_pool *l7mp_loop_bufs(struct l7mp_loop *loop)
{
	return loop->bufs;
}

uint64_t l7mp_loop_latency_us(const struct l7mp_loop *loop, bool maximum)
{
	uint64_t age;

	if (loop->manual)
		return 0;
	if (maximum)
		return loop->lat_max;
	age = uv_hrtime() / 1000000000u - loop->second;
	if (age > 1)
		return 0;
	return age == 1 || loop->lat_cur > loop->lat_prev ? loop->lat_cur : loop->lat_prev;
}
