/* SPDX-License-Identifier: MIT */
/* What the files of api/ share: requests, responses, routes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/api.h"
#include "l7mp/change.h"
#include "l7mp/config.h"
#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/util.h"
#include "origin.h"

#define API_BASE         "/api/v1"
#define API_MAX_SEGMENTS 8
#define API_MAX_ARGS     2

struct api_count { /* one (route, status); route NULL: no such path */
	const struct api_route *route;
	int status;
	uint64_t n;
};

/* Who makes a request: a session's source, or a connection of the admin server. */
struct api_client {
	const struct l7mp_session *session; /* borrowed; NULL: by the addresses */
	struct l7mp_addr peer, local;
};

struct l7mp_api {
	struct l7mp_api_params params;
	char *token_file; /* NULL: none */
	char host[256];   /* the name of this host */
	struct api_host *net;
	struct api_origins *origins;
	/* api_foreign; tests have their own. */
	const char *(*foreign)(struct l7mp_api *api, const struct api_client *client);
	bool stopping;
	struct l7mp_log_limit token_log;
	struct api_count *counts;
	size_t n_counts;
};

struct api_request {
	struct l7mp_api *api;
	const cJSON *metadata; /* the session's; borrowed */
	struct api_client client;
	const char *body; /* borrowed; NULL when empty */
	size_t body_len;
	bool too_large; /* the body was longer than limits.max_body; it was not kept */

	/* filled by the router */
	const char *method; /* HEAD has become GET */
	char *path;         /* owned: the segments are in it */
	char *segments[API_MAX_SEGMENTS];
	size_t n_segments;
	const struct api_route *route;
	const char *args[API_MAX_ARGS]; /* what the {...} of the route matched */
	bool recursive;
	enum l7mp_json_format format;
	struct l7mp_document *document; /* owned: the parsed body */
};

struct api_response {
	int status;
	cJSON *json;              /* owned: the body, unless `text` is set */
	char *text;               /* owned: the body as it goes out */
	const char *content_type; /* of text; static */
	char allow[64];           /* 405 */
	bool challenge;           /* 401: add WWW-Authenticate */
};

typedef void (*api_handler)(struct api_request *rq, struct api_response *rs);

struct api_route {
	const char *method;
	const char *path; /* below API_BASE: "/clusters/{name}" */
	api_handler handler;
	int kind; /* enum l7mp_obj_kind, for the handlers that serve several */
};
extern const struct api_route api_routes[]; /* ends with method NULL */

/* ---- router.c ---- */

/* Answers one request: authorises, routes, handles, counts. rs->status is then set. */
void api_dispatch(struct api_request *rq, struct api_response *rs);
void api_request_clear(struct api_request *rq);

/* ---- path.c: text of the request ---- */

/* Decodes %XX in place. -EINVAL: bad escape, a NUL, or not UTF-8. */
int api_percent_decode(char *s);
/* Splits and decodes `path` in place; one trailing slash is tolerated. Number of segments; -EINVAL; -E2BIG. */
int api_split_path(char *path, char **segments, size_t max);
/* Decoded value of `key` in "a=b&c", heap, NULL when absent. -EINVAL on a bad escape. */
int api_query_get(const char *query, const char *key, char **out);
/* Value of an HTTP request header, case-insensitive; NULL when absent. */
const char *api_header(const cJSON *metadata, const char *name);
/* Raw request path and query ("" when none), borrowed from the metadata. NULL: no HTTP metadata. */
const char *api_request_path(const cJSON *metadata);
const char *api_request_query(const cJSON *metadata);

/* ---- auth.c ---- */

/* May this client be answered? 0, or the status (401, 403) with rs filled. */
int api_authorize(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
                  struct api_response *rs);
/* NULL: on this host. Else why the client is not to be answered without a token. */
const char *api_foreign(struct l7mp_api *api, const struct api_client *client);
/* Is this a name or address of this host ("localhost", "[::1]:1234", "myhost")? */
bool api_host_is_local(const struct l7mp_api *api, const char *host);

/* ---- body.c ---- */

/*
 * Parses rq's body by its content type into rq->document. The root, borrowed; NULL
 * with rs filled (400, 415, 422). The root is an object.
 */
cJSON *api_body(struct api_request *rq, struct api_response *rs);
/* The same, and then the member `wrapper` of it, with whatever else is there refused in strict mode (422) or logged. */
cJSON *api_body_unwrap(struct api_request *rq, const char *wrapper, struct api_response *rs);

/* ---- respond.c ---- */

int api_status_of(enum l7mp_code code);
void api_ok(struct api_response *rs);                /* a change succeeded */
void api_json(struct api_response *rs, cJSON *json); /* takes json; NULL: out of memory */
/* {"status", "message", "content": []} */
void api_fail(struct api_response *rs, int status, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
void api_fail_error(struct api_response *rs, const struct l7mp_error *err);
/* The same with the list of what a validation found. */
void api_fail_issues(struct api_response *rs, const struct l7mp_error *err,
                     const struct l7mp_issues *issues);
/* Adds {path, reason} to the content of an error. */
void api_add_content(struct api_response *rs, const char *path, const char *reason, int line);
/*
 * Text of the body (heap, NULL when there is none) and {"HTTP": {status, headers}}.
 * `head`: the body is left out, its length is told. 0 or -ENOMEM.
 */
int api_render(struct api_response *rs, enum l7mp_json_format format, bool head, char **text,
               size_t *len, cJSON **meta);
void api_response_clear(struct api_response *rs);

/* ---- change.c ---- */

/* A change that was built with `rc`: realises it and answers. Frees *c. */
void api_finish_change(struct api_request *rq, struct l7mp_change **c, int rc,
                       const struct l7mp_error *err, struct api_response *rs);
/* Begins a change; NULL with rs filled. */
struct l7mp_change *api_begin_change(struct api_request *rq, struct api_response *rs);
bool api_strict(const struct api_request *rq);

/* ---- handlers: objects.c, rules.c, whole.c, live.c ---- */

void api_list(struct api_request *rq, struct api_response *rs);
void api_add(struct api_request *rq, struct api_response *rs);
void api_get(struct api_request *rq, struct api_response *rs);
void api_put(struct api_request *rq, struct api_response *rs);
void api_delete(struct api_request *rq, struct api_response *rs);
void api_endpoints_list(struct api_request *rq, struct api_response *rs);
void api_endpoints_add(struct api_request *rq, struct api_response *rs);

void api_rule_get(struct api_request *rq, struct api_response *rs);
void api_rule_insert(struct api_request *rq, struct api_response *rs);
void api_rule_remove(struct api_request *rq, struct api_response *rs);
void api_lookup(struct api_request *rq, struct api_response *rs);

void api_config_get(struct api_request *rq, struct api_response *rs);
void api_config_post(struct api_request *rq, struct api_response *rs);
void api_admin_get(struct api_request *rq, struct api_response *rs);
void api_admin_post(struct api_request *rq, struct api_response *rs);
void api_openapi_json(struct api_request *rq, struct api_response *rs);
void api_openapi_yaml(struct api_request *rq, struct api_response *rs);

void api_sessions_list(struct api_request *rq, struct api_response *rs);
void api_session_get(struct api_request *rq, struct api_response *rs);
void api_session_delete(struct api_request *rq, struct api_response *rs);
void api_offload(struct api_request *rq, struct api_response *rs);
void api_offload_flows(struct api_request *rq, struct api_response *rs);

/* A listener's JSON shows what was really bound. */
void api_show_bound(struct l7mp_api *api, const struct l7mp_object *o, cJSON *json);
/* Every session, as GET /sessions shows them. New array. */
cJSON *api_sessions_json(struct l7mp_api *api);

/* ---- answer.c: a stream that answers one HTTP request ---- */

struct api_answer_ops {
	const char *proto; /* for messages */
	/* Optional, before a body is collected: not 0 when `answer` is going to refuse it anyway. */
	int (*admit)(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
	             struct api_response *rs);
	/* Makes the answer to a complete request. */
	void (*answer)(struct api_request *rq, struct api_response *rs);
};
/* A cluster stage that collects a request and answers it. */
int api_answer_connect(const struct l7mp_connect *params, const struct api_answer_ops *ops,
                       struct l7mp_stream **out, struct l7mp_error *err);
