/* SPDX-License-Identifier: MIT */
/* Changes by REST: built by a handler in a thread, applied by the runtime. */
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

void api_log_warnings(const struct api_request *rq, struct l7mp_change *c)
{
	const struct l7mp_issues *issues = l7mp_change_issues(c);

	for (size_t i = 0; i < issues->n; i++)
		if (issues->v[i].warning)
			l7mp_log_warn("api", "%s %s: %s: %s", rq->method, rq->route->path,
			              issues->v[i].path, issues->v[i].reason);
}

void api_built_change(struct api_request *rq, struct l7mp_change **c, int rc,
                      const struct l7mp_error *err, struct api_response *rs)
{
	if (!rc) {
		rq->change = *c;
		*c = NULL;
		return;
	}
	api_fail_issues(rs, err, l7mp_change_issues(*c));
	l7mp_change_free(c);
}
