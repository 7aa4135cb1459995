/* SPDX-License-Identifier: MIT */
/* Handlers of what runs: sessions and the kernel fast path. */
#include <stdlib.h>
#include <string.h>

#include "api_int.h"

cJSON *api_sessions_json(struct l7mp_api *api)
{
	cJSON *list = cJSON_CreateArray();
	const struct l7mp_session *s;

	for (s = l7mp_sessions_first(api->params.sessions); s && list; s = l7mp_sessions_next(s)) {
		cJSON *json = l7mp_session_to_json(s);

		if (!json || !cJSON_AddItemToArray(list, json)) {
			cJSON_Delete(json);
			cJSON_Delete(list);
			list = NULL;
		}
	}
	return list;
}

/* One session at a time: the tree of all would take several times what the text does. */
static char *sessions_text(struct l7mp_api *api)
{
	struct l7mp_str out = {0};
	const struct l7mp_session *s;
	const char *comma = "";

	l7mp_str_add(&out, "[");
	for (s = l7mp_sessions_first(api->params.sessions); s; s = l7mp_sessions_next(s)) {
		cJSON *json = l7mp_session_to_json(s);
		char *text = json ? l7mp_json_print(json, L7MP_JSON_PLAIN) : NULL;

		cJSON_Delete(json);
		if (!text || out.oom) {
			free(text);
			l7mp_str_free(&out);
			return NULL;
		}
		l7mp_str_add(&out, comma);
		l7mp_str_addn(&out, text, strcspn(text, "\n"));
		free(text);
		comma = ",";
	}
	l7mp_str_add(&out, "]\n");
	return l7mp_str_take(&out);
}

void api_sessions_list(struct api_request *rq, struct api_response *rs)
{
	if (rq->format != L7MP_JSON_PLAIN) {
		api_json(rs, api_sessions_json(rq->api));
		return;
	}
	rs->text = sessions_text(rq->api);
	if (!rs->text) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	rs->content_type = "application/json";
	rs->status = 200;
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

/* What the reasons in a session's `offload` mean, for people. */
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
	const struct l7mp_api_params *p = &rq->api->params;

	api_json(rs, p->offload_flows ? p->offload_flows(p->arg) : cJSON_CreateArray());
}
