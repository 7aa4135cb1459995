/* SPDX-License-Identifier: MIT */
/*
 * Loading while sessions run: verifying the programs and allocating the counters of a large table
 * take some 100 ms, for which the loop must not block. A worker thread creates the maps and loads
 * the programs, and passes them to the loop at the end. Reconfiguring meanwhile cancels it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* Owned by the worker, then by its callback. */
struct off_load {
	uv_work_t work;
	struct l7mp_offload_engine *e; /* NULL: cancelled */
	uint32_t max_flows;
	struct off_maps maps;
	int rc;
	char why[sizeof(((struct l7mp_offload_engine *)0)->why)];
};

static void work(uv_work_t *req)
{
	struct off_load *l = req->data;

	l->rc = off_maps_load(&l->maps, l->max_flows, l->why, sizeof(l->why));
}

static void done(uv_work_t *req, int status)
{
	struct off_load *l = req->data;
	struct l7mp_offload_engine *e = l->e;

	if (!e) {
		off_maps_close(&l->maps);
	} else {
		e->load = NULL;
		e->table.maps = l->maps;
		memcpy(e->why, l->why, sizeof(e->why));
		off_loaded(e, status ? status : l->rc);
	}
	free(l);
}

int off_load_start(struct l7mp_offload_engine *e)
{
	struct off_load *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return -ENOMEM;
	l->work.data = l;
	l->e = e;
	l->max_flows = e->set.max_flows;
	off_maps_init(&l->maps);
	rc = uv_queue_work(l7mp_loop_uv(e->loop), &l->work, work, done);
	if (rc)
		free(l);
	else
		e->load = l;
	return rc;
}

void off_load_cancel(struct l7mp_offload_engine *e)
{
	struct off_load *l = e->load;

	if (!l)
		return;
	e->load = NULL;
	l->e = NULL;
	(void)uv_cancel((uv_req_t *)&l->work); /* the callback runs in any case */
}
