/* SPDX-License-Identifier: MIT */
/*
 * Renders the store in a thread of libuv's pool, so that the loop can serve watches, proxies and
 * the lease meanwhile: with 10,000 pods it takes tens of milliseconds. Results are freed there,
 * too. Not in the worker thread of work.h, which has a low priority: changes of objects wait for
 * rendering.
 */
#include <errno.h>
#include <stdlib.h>

#include "l7mp/log.h"
#include "operator.h"

struct op_renderer {
	struct l7mp_loop *loop;
	struct op_store *store;
	op_renderer_done done;
	void *arg;
	uv_work_t work;
	bool busy;                   /* the thread has work */
	struct op_rendered *made;    /* the result being rendered; NULL: none */
	struct op_rendered *last;    /* the previous result (a reference), reused for the next */
	struct op_rendered *unused;  /* results to be freed */
	struct op_rendered *freeing; /* results being freed by the thread */
	bool wanted;                 /* render when the present work is done */
	bool ending;
	int rc;
};

static void free_results(struct op_rendered *r)
{
	while (r) {
		struct op_rendered *next = r->next;

		op_result_free(&r->result);
		free(r);
		r = next;
	}
}

/* Runs in the thread. */
static void run(uv_work_t *work)
{
	struct op_renderer *x = work->data;

	free_results(x->freeing);
	x->freeing = NULL;
	if (x->made)
		x->rc = op_render(x->store, x->last ? x->last->result : NULL, &x->made->result);
}

static void ended(uv_work_t *work, int status);

static int begin(struct op_renderer *x)
{
	int rc;

	x->freeing = x->unused;
	x->unused = NULL;
	x->rc = 0;
	x->work.data = x;
	rc = uv_queue_work(l7mp_loop_uv(x->loop), &x->work, run, ended);
	x->busy = !rc;
	if (rc) { /* no thread could be started */
		free_results(x->freeing);
		x->freeing = NULL;
	}
	return rc;
}

static int begin_rendering(struct op_renderer *x)
{
	struct op_rendered *r = calloc(1, sizeof(*r));
	int rc = r ? op_store_hold(x->store) : -ENOMEM;

	if (rc) {
		free(r);
		return rc;
	}
	r->refs = 1;
	r->renderer = x;
	x->made = r;
	rc = begin(x);
	if (!rc)
		return 0;
	x->made = NULL;
	(void)op_store_release(x->store, NULL); /* held for no time: nothing to apply */
	free(r);
	return rc;
}

static void ended(uv_work_t *work, int status)
{
	struct op_renderer *x = work->data;
	struct op_rendered *r = x->made;
	bool changed = false;

	(void)status; /* the work is never cancelled */
	x->busy = false;
	if (x->ending) {
		l7mp_loop_stop(x->loop);
		return;
	}
	x->made = NULL;
	if (r) {
		if (op_store_release(x->store, &changed))
			l7mp_log_error("operator", "out of memory: an object is not taken");
		if (x->rc) {
			free(r);
			r = NULL;
		} else {
			op_rendered_unref(x->last);
			x->last = op_rendered_ref(r);
		}
		x->done(x->arg, r, changed);
	} else if (x->wanted) {
		x->wanted = false;
		if (begin_rendering(x))
			x->done(x->arg, NULL, false);
	}
	if (!x->busy && x->unused)
		(void)begin(x); /* on failure it has freed them */
}

int op_renderer_start(struct op_renderer *x)
{
	if (x->ending || op_renderer_busy(x))
		return -EBUSY;
	if (!x->busy)
		return begin_rendering(x);
	x->wanted = true;
	return 0;
}

bool op_renderer_busy(const struct op_renderer *x)
{
	return x->made || x->wanted;
}

int op_renderer_new(struct l7mp_loop *loop, struct op_store *store, op_renderer_done done,
                    void *arg, struct op_renderer **out)
{
	struct op_renderer *x = calloc(1, sizeof(*x));

	*out = x;
	if (!x)
		return -ENOMEM;
	x->loop = loop;
	x->store = store;
	x->done = done;
	x->arg = arg;
	return 0;
}

void op_renderer_stop(struct op_renderer *x)
{
	struct op_rendered *r;

	if (!x)
		return;
	x->ending = true;
	while (x->busy)
		l7mp_loop_run(x->loop); /* until `ended` stops it */
	op_rendered_unref(x->last);
	x->last = NULL;
	r = x->made;
	if (!r)
		return;
	x->made = NULL;
	(void)op_store_release(x->store, NULL); /* the store isn't used any more */
	op_rendered_unref(r);
}

void op_renderer_free(struct op_renderer **xp)
{
	struct op_renderer *x = *xp;

	if (!x)
		return;
	*xp = NULL;
	free_results(x->unused);
	free(x);
}

/* ---- results ---- */

struct op_rendered *op_rendered_ref(struct op_rendered *r)
{
	if (r)
		r->refs++;
	return r;
}

void op_rendered_unref(struct op_rendered *r)
{
	struct op_renderer *x;

	if (!r || --r->refs)
		return;
	x = r->renderer;
	r->next = x->unused;
	x->unused = r;
	if (!x->busy && !x->ending)
		(void)begin(x);
}
