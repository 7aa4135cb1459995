/* SPDX-License-Identifier: MIT */
#include "l7mp/work.h"

#include "loop_int.h"

static void run_cb(uv_work_t *req)
{
	struct l7mp_work *w = req->data;

	w->run(w->arg);
}

static void finish(struct l7mp_work *w)
{
	w->busy = false;
	w->done(w->arg);
}

static void done_cb(uv_work_t *req, int status)
{
	(void)status; /* never cancelled */
	finish(req->data);
}

static void task_cb(struct l7mp_task *task, void *arg)
{
	(void)task;
	finish(arg);
}

int l7mp_work_start(struct l7mp_loop *loop, struct l7mp_work *w, void (*run)(void *arg),
                    void (*done)(void *arg), void *arg)
{
	int rc;

	*w = (struct l7mp_work){.run = run, .done = done, .arg = arg, .loop = loop, .busy = true};
	if (loop->manual) {
		l7mp_task_init(&w->task, task_cb, w);
		run(arg);
		l7mp_task_post(loop, &w->task);
		return 0;
	}
	w->req.data = w;
	rc = uv_queue_work(&loop->uv, &w->req, run_cb, done_cb);
	w->busy = !rc;
	return rc;
}
