/* SPDX-License-Identifier: MIT */
/*
 * Up to two worker threads per loop, created on first use. libuv's pool is not used for two
 * reasons: this work allocates much memory, and glibc gives each thread its own arena, which keeps
 * its size; and a large configuration would delay other jobs of the pool. The second thread runs
 * short jobs while a long one runs.
 */
#include "l7mp/work.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "l7mp/hash.h"
#include "l7mp/util.h"
#include "loop_int.h"

#define THREADS 2

struct l7mp_worker {
	struct l7mp_loop *loop;
	uv_thread_t threads[THREADS];
	unsigned n_threads;
	uv_async_t async; /* `done` is not empty; keeps the loop running while `busy` */
	uv_mutex_t lock;  /* protects the fields up to stop */
	uv_cond_t wake;
	struct l7mp_work *todo; /* utlist queues */
	struct l7mp_work *done;
	bool stop;
	size_t busy; /* started and not done */
};

static struct l7mp_work *take(struct l7mp_work **queue)
{
	struct l7mp_work *w = *queue;

	if (w)
		DL_DELETE(*queue, w);
	return w;
}

static void thread_main(void *arg)
{
	struct l7mp_worker *wk = arg;

	l7mp_thread_background();
	uv_mutex_lock(&wk->lock);
	for (;;) {
		struct l7mp_work *w = take(&wk->todo);

		if (!w && wk->stop)
			break;
		if (!w) {
			uv_cond_wait(&wk->wake, &wk->lock);
			continue;
		}
		uv_mutex_unlock(&wk->lock);
		w->run(w->arg);
		uv_mutex_lock(&wk->lock);
		DL_APPEND(wk->done, w);
		uv_async_send(&wk->async);
	}
	uv_mutex_unlock(&wk->lock);
}

static void finish(struct l7mp_work *w)
{
	w->prev = w->next = NULL;
	w->busy = false;
	w->done(w->arg);
}

static void async_cb(uv_async_t *async)
{
	struct l7mp_worker *wk = async->data;

	for (;;) {
		struct l7mp_work *w;

		uv_mutex_lock(&wk->lock);
		w = take(&wk->done);
		uv_mutex_unlock(&wk->lock);
		if (!w)
			return;
		if (!--wk->busy)
			uv_unref((uv_handle_t *)&wk->async);
		finish(w);
	}
}

/* Starts one more thread. All signals are blocked, so that the loop's thread gets them. */
static int start_thread(struct l7mp_worker *wk)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = uv_thread_create(&wk->threads[wk->n_threads], thread_main, wk);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	wk->n_threads += !rc;
	return rc;
}

/*
 * Starts one more thread when all are busy. Returns 0, or negative errno when there is no thread at
 * all.
 */
static int have_thread(struct l7mp_worker *wk)
{
	int rc;

	if (wk->n_threads == THREADS || wk->n_threads > wk->busy)
		return 0;
	rc = start_thread(wk);
	return wk->n_threads ? 0 : rc;
}

static int worker_new(struct l7mp_loop *loop)
{
	struct l7mp_worker *wk = calloc(1, sizeof(*wk));
	int rc;

	if (!wk)
		return -ENOMEM;
	wk->loop = loop;
	rc = uv_mutex_init(&wk->lock);
	if (rc)
		goto no_mutex;
	rc = uv_cond_init(&wk->wake);
	if (rc)
		goto no_cond;
	rc = uv_async_init(&loop->uv, &wk->async, async_cb);
	if (rc)
		goto no_async;
	wk->async.data = wk;
	uv_unref((uv_handle_t *)&wk->async);
	loop->worker = wk;
	return 0;
no_async:
	uv_cond_destroy(&wk->wake);
no_cond:
	uv_mutex_destroy(&wk->lock);
no_mutex:
	free(wk);
	return rc;
}

void l7mp_worker_stop(struct l7mp_loop *loop)
{
	struct l7mp_worker *wk = loop->worker;

	if (!wk)
		return;
	uv_mutex_lock(&wk->lock);
	wk->stop = true;
	uv_cond_broadcast(&wk->wake);
	uv_mutex_unlock(&wk->lock);
	for (unsigned i = 0; i < wk->n_threads; i++)
		uv_thread_join(&wk->threads[i]);
	uv_close((uv_handle_t *)&wk->async, NULL);
}

void l7mp_worker_free(struct l7mp_loop *loop)
{
	struct l7mp_worker *wk = loop->worker;

	if (!wk)
		return;
	loop->worker = NULL;
	uv_cond_destroy(&wk->wake);
	uv_mutex_destroy(&wk->lock);
	free(wk);
}

static void task_cb(struct l7mp_task *task, void *arg)
{
	(void)task;
	finish(arg);
}

int l7mp_work_start(struct l7mp_loop *loop, struct l7mp_work *w, void (*run)(void *arg),
                    void (*done)(void *arg), void *arg)
{
	struct l7mp_worker *wk;
	int rc = 0;

	*w = (struct l7mp_work){.run = run, .done = done, .arg = arg};
	if (loop->manual) {
		w->busy = true;
		l7mp_task_init(&w->task, task_cb, w);
		run(arg);
		l7mp_task_post(loop, &w->task);
		return 0;
	}
	if (!loop->worker)
		rc = worker_new(loop);
	wk = loop->worker;
	if (!rc)
		rc = have_thread(wk);
	if (rc)
		return rc;
	w->busy = true;
	if (!wk->busy++)
		uv_ref((uv_handle_t *)&wk->async);
	uv_mutex_lock(&wk->lock);
	DL_APPEND(wk->todo, w);
	uv_cond_signal(&wk->wake);
	uv_mutex_unlock(&wk->lock);
	return 0;
}
