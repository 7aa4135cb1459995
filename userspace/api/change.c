/* SPDX-License-Identifier: MIT */
/* A change over REST: built by a handler, realised and answered here. */
#include <errno.h>
#include <string.h>

#include "api_int.h"
#include "l7mp/log.h"

bool api_strict(const struct api_request *rq)
{
	return l7mp_model_admin(rq->api->params.model)->strict;
}

struct l7mp_change *api_begin_change(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_change *c = NULL;

	if (l7mp_change_new(rq->api->params.model, api_strict(rq), &c)) {
		api_fail(rs, 500, "out of memory");
		return NULL;
	}
	return c;
}

static void log_warnings(const struct api_request *rq, const struct l7mp_issues *issues)
{
	for (size_t i = 0; i < issues->n; i++)
		if (issues->v[i].warning)
			l7mp_log_warn("api", "%s %s: %s: %s", rq->method, rq->route->path,
			              issues->v[i].path, issues->v[i].reason);
}

void api_finish_change(struct api_request *rq, struct l7mp_change **c, int rc,
                       const struct l7mp_error *err, struct api_response *rs)
{
	struct l7mp_error failed = {0};

	if (rc) {
		api_fail_issues(rs, err, l7mp_change_issues(*c));
	} else {
		log_warnings(rq, l7mp_change_issues(*c));
		if (l7mp_runtime_apply(rq->api->params.runtime, *c, &failed))
			api_fail_error(rs, &failed);
		else
			api_ok(rs);
	}
	l7mp_change_free(c);
}
