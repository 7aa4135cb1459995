/* SPDX-License-Identifier: MIT */
/*
 * The REST API (docs/api.md): what the L7mpController and
 * Prometheus clusters serve. env->app is the struct l7mp_api.
 *
 * The API never binds a port: an HTTP listener routes requests to the controller
 * cluster, so each request is a session like any other.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/proto.h"
#include "l7mp/runtime.h"
#include "l7mp/session.h"

struct l7mp_api;
struct l7mp_str;

struct l7mp_api_params {
	/* All borrowed; they must outlive the API. */
	struct l7mp_env *env;
	struct l7mp_model *model;
	struct l7mp_runtime *runtime;
	struct l7mp_sessions *sessions;
	const struct l7mp_registry *registry; /* for the OpenAPI text */
	const char *version;                  /* NULL: that of the build */

	/*
	 * Optional views of the kernel fast path: what GET /offload answers, and an array of what
	 * GET /offload/flows shows of one flow. New trees (NULL: out of memory). Without them the
	 * API says `disabled`.
	 */
	cJSON *(*offload)(void *arg);
	cJSON *(*offload_flow)(void *arg, struct l7mp_flow *flow);
	/*
	 * Optional: writes more metrics, in Prometheus text format, at the end of what
	 * the Prometheus cluster answers (the fast path's, the Metric transformer's).
	 */
	void (*metrics)(void *arg, struct l7mp_str *out);
	void *arg; /* of all three */
};

int l7mp_api_new(const struct l7mp_api_params *params, struct l7mp_api **out);
void l7mp_api_free(struct l7mp_api **api);

/*
 * From now on every request needs the token in this file (its first line); NULL:
 * only clients on this host are answered. The file is read again for each request,
 * so that a token can be changed by replacing the file; while it can't be read
 * every request is refused. 0, or negative errno with err (the old setting stays).
 */
int l7mp_api_set_token_file(struct l7mp_api *api, const char *path, struct l7mp_error *err);

/* All listeners are bound: GET /readyz of the admin server says yes from now on. */
void l7mp_api_set_ready(struct l7mp_api *api);

/* Shutting down: changes are refused with 503 from now on; looking is still answered. */
void l7mp_api_set_stopping(struct l7mp_api *api);

/* REST requests answered so far, by path pattern ("/clusters/{name}", "other") and status. */
void l7mp_api_each_request_count(const struct l7mp_api *api,
                                 void (*cb)(void *arg, const char *method, const char *path,
                                            int status, uint64_t count),
                                 void *arg);

/*
 * The admin server (api/admin_server.c): the same API, /metrics, /healthz, /readyz and the OpenAPI
 * text by civetweb, in threads of its own, outside the data plane's listeners and limits.
 */
struct l7mp_api_server;
int l7mp_api_server_new(struct l7mp_api *api, struct l7mp_api_server **out);
/*
 * Binds what is wanted, beside what is served now. 0, or negative errno with err (path
 * "admin.server"). commit, which can't fail, serves it and stops what was served before, without
 * waiting: requests that are being answered get their answers.
 */
int l7mp_api_server_prepare(struct l7mp_api_server *s, const struct l7mp_admin_server *want,
                            struct l7mp_error *err);
void l7mp_api_server_commit(struct l7mp_api_server *s, const struct l7mp_admin_server *want);
/*
 * For the end: requests that are being answered get their answers, for which the loop has to run
 * on; then `done` is called, at once when there is nothing to stop.
 */
void l7mp_api_server_stop(struct l7mp_api_server *s, void (*done)(void *arg), void *arg);
/* After `done`. */
void l7mp_api_server_free(struct l7mp_api_server **s);

extern const struct l7mp_proto l7mp_proto_controller; /* L7MPController */
extern const struct l7mp_proto l7mp_proto_prometheus; /* Prometheus */
