/* SPDX-License-Identifier: MIT */
/* Handlers of run-time state: sessions and the kernel fast path. */
#include <stdlib.h>
#include <string.h>

#include "api_int.h"

void api_sessions_list(struct api_request *rq, struct api_response *rs)
{
	api_list_sessions(rq, rs);
}

static struct l7mp_session *find(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_session *s = l7mp_sessions_find(rq->api->params.sessions, rq->args[0]);

	if (!s)
		api_fail(rs, 404, "no session is named '%s'", rq->args[0]);
	return s;
}

void api_session_get(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_session *s = find(rq, rs);

	if (s)
		api_json(rs, l7mp_session_to_json(s));
}

void api_session_delete(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_session *s = find(rq, rs);

	if (!s)
		return;
	l7mp_session_end(s, "deleted over the REST API");
	api_ok(rs);
}

/* Describes the reasons in a session's `offload`. */
static cJSON *reasons(void)
{
#define REASON(id, text, doc) {text, doc},
	static const struct {
		const char *name, *doc;
	} list[] = {L7MP_REASONS(REASON)};
#undef REASON
	cJSON *json = cJSON_CreateObject();

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(list); i++)
		if (*list[i].name)
			l7mp_json_add_str(json, list[i].name, list[i].doc);
	return json;
}

static cJSON *no_offload(void)
{
	cJSON *json = cJSON_CreateObject();

	l7mp_json_add_str(json, "state", "disabled");
	l7mp_json_add_str(json, "reason", "this program runs without the kernel fast path");
	l7mp_json_add(json, "interfaces", cJSON_CreateArray());
	l7mp_json_add(json, "maps", cJSON_CreateArray());
	return json;
}

void api_offload(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_api_params *p = &rq->api->params;
	cJSON *json = p->offload ? p->offload(p->arg) : no_offload();

	if (json && !l7mp_json_member(json, "reasons"))
		l7mp_json_add(json, "reasons", reasons());
	api_json(rs, json);
}

void api_offload_flows(struct api_request *rq, struct api_response *rs)
{
	api_list_flows(rq, rs);
}
