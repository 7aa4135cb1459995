/* SPDX-License-Identifier: MIT */
/* The fast path in the application: settings from admin, views for the API. */
#include "app_int.h"

int l7mp_app_use_offload(struct l7mp_app *app, const struct l7mp_admin *admin,
                         struct l7mp_error *err)
{
	return l7mp_offload_reconfigure(app->offload, admin, err);
}

static cJSON *view(void *arg)
{
	struct l7mp_app *app = arg;

	return l7mp_offload_to_json(app->offload);
}

static cJSON *flow(void *arg, struct l7mp_flow *f)
{
	struct l7mp_app *app = arg;

	return l7mp_offload_flow_to_json(app->offload, f);
}

static void metrics(void *arg, struct l7mp_str *out)
{
	struct l7mp_app *app = arg;

	l7mp_offload_metrics(app->offload, out);
}

int l7mp_app_make_offload(struct l7mp_app *app)
{
	const struct l7mp_offload_params params = {.loop = app->loop, .stats = &app->stats};

	return l7mp_offload_new(&params, &app->offload);
}

void l7mp_app_offload_views(struct l7mp_app *app, struct l7mp_api_params *api)
{
	api->offload = view;
	api->offload_flow = flow;
	api->metrics = metrics;
	api->arg = app;
}
