/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "api_int.h"

int l7mp_api_new(const struct l7mp_api_params *params, struct l7mp_api **out)
{
	struct l7mp_api *api = calloc(1, sizeof(*api));
	int rc;

	if (!api)
		return -ENOMEM;
	api->params = *params;
	if (!api->params.version)
		api->params.version = L7MP_VERSION;
	/* Without random bytes ETags are only easier to guess. */
	if (getrandom(&api->boot, sizeof(api->boot), 0) != sizeof(api->boot))
		api->boot = l7mp_wallclock_ms();
	if (gethostname(api->host, sizeof(api->host) - 1))
		api->host[0] = '\0';
	rc = api_host_new(&api->net);
	if (!rc)
		rc = api_token_new(params->env->loop, &api->token);
	if (!rc)
		rc = api_origins_new(params->sessions, api->net, &api->origins);
	if (rc) {
		l7mp_api_free(&api);
		return rc;
	}
	*out = api;
	return 0;
}

void l7mp_api_free(struct l7mp_api **api)
{
	if (!*api)
		return;
	api_origins_free(&(*api)->origins);
	api_host_free(&(*api)->net);
	api_token_free(&(*api)->token);
	free((*api)->counts);
	free(*api);
	*api = NULL;
}

void l7mp_api_set_ready(struct l7mp_api *api)
{
	api->ready = true;
}

bool api_is_ready(const struct l7mp_api *api)
{
	return api->ready && !api->stopping && !api->params.env->draining;
}

void l7mp_api_set_busy(struct l7mp_api *api, bool on)
{
	api->busy = on;
}

void l7mp_api_set_stopping(struct l7mp_api *api)
{
	api->stopping = true;
}

void api_count(struct l7mp_api *api, const struct l7mp_rest_route *route, int status)
{
	struct api_count *bigger;

	for (size_t i = 0; i < api->n_counts; i++) {
		if (api->counts[i].route == route && api->counts[i].status == status) {
			api->counts[i].n++;
			return;
		}
	}
	/* Bounded: routes and statuses are closed lists. */
	bigger = realloc(api->counts, (api->n_counts + 1) * sizeof(*bigger));
	if (!bigger)
		return;
	api->counts = bigger;
	bigger[api->n_counts++] = (struct api_count){.route = route, .status = status, .n = 1};
}

void l7mp_api_each_request_count(const struct l7mp_api *api,
                                 void (*cb)(void *arg, const char *method, const char *path,
                                            int status, uint64_t count),
                                 void *arg)
{
	for (size_t i = 0; i < api->n_counts; i++) {
		const struct api_count *c = &api->counts[i];

		cb(arg, c->route ? c->route->method : "other", c->route ? c->route->path : "other",
		   c->status, c->n);
	}
}
