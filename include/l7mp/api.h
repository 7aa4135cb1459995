/* SPDX-License-Identifier: MIT */
/*
 * The REST API (docs/api.md), which the L7mpController and Prometheus clusters and the admin server
 * answer with.
 *
 * Two servers pass requests here. An HTTP listener may route them to a controller cluster: each
 * request is a session like any other and is subject to the limits. The admin server listens on a
 * port of its own and is outside of the data plane's limits.
 *
 * Thread: loop only. env->app points to the struct l7mp_api.
 */
#pragma once

#include "l7mp/drain.h"
#include "l7mp/proto.h"
#include "l7mp/runtime.h"
#include "l7mp/session.h"

struct l7mp_api;
struct l7mp_str;

struct l7mp_api_params {
	/* Borrowed; these must outlive the API. */
	struct l7mp_env *env;
	struct l7mp_model *model;
	struct l7mp_runtime *runtime;
	struct l7mp_sessions *sessions;
	struct l7mp_drain *drain;
	const struct l7mp_registry *registry; /* for the OpenAPI document */
	const char *version;                  /* reported to clients; NULL: that of the build */

	/*
	 * Optional views of the kernel fast path: the body of GET /offload, and the array of table
	 * entries that GET /offload/flows shows for one flow. They return new trees, or NULL when
	 * out of memory. Without them the API reports the fast path as `disabled`.
	 */
	cJSON *(*offload)(void *arg);
	cJSON *(*offload_flow)(void *arg, struct l7mp_flow *flow);
	/*
	 * Optional: appends further metrics in Prometheus text format to each answer of the
	 * Prometheus cluster and of /metrics (the fast path's, the Metric transformer's).
	 */
	void (*metrics)(void *arg, struct l7mp_str *out);
	/*
	 * Optional: the body of GET /upgrade, a new tree; and what POST /upgrade does: starts one,
	 * and returns 0 or a negative errno with err.
	 */
	cJSON *(*upgrade)(void *arg);
	int (*begin_upgrade)(void *arg, struct l7mp_error *err);
	void *arg; /* passed to the functions above */
};

/* Makes the API; it serves nothing by itself. The struct is copied. Returns 0 or -ENOMEM. */
int l7mp_api_new(const struct l7mp_api_params *params, struct l7mp_api **out);
/* Frees the API. All sessions must have ended, and the admin server must be freed before. */
void l7mp_api_free(struct l7mp_api **api);

/*
 * Requires the token in this file (its first line) with every request from now on. With NULL no
 * token is needed, and only clients on this host are answered. The file is read again for each
 * request, so that a token can be changed by replacing the file; while it can't be read every
 * request is refused. Returns 0, or a negative errno with err set; the old setting then stays.
 */
int l7mp_api_set_token_file(struct l7mp_api *api, const char *path, struct l7mp_error *err);

/* Makes GET /readyz of the admin server answer 200: all listeners are bound. */
void l7mp_api_set_ready(struct l7mp_api *api);

/* For shutdown: refuses changes with 503 from now on. Requests that only read are answered. */
void l7mp_api_set_stopping(struct l7mp_api *api);

/* During an upgrade: refuses changes with 503. Requests that only read are answered. */
void l7mp_api_set_busy(struct l7mp_api *api, bool on);

/*
 * Calls cb with the number of REST requests answered so far, for each combination of method, path
 * pattern ("/clusters/{name}"; "other" for unknown paths) and HTTP status that has occurred.
 */
void l7mp_api_each_request_count(const struct l7mp_api *api,
                                 void (*cb)(void *arg, const char *method, const char *path,
                                            int status, uint64_t count),
                                 void *arg);

/*
 * The admin server (api/admin_server.c) serves the same API, /metrics, /healthz, /readyz and the
 * OpenAPI document with civetweb, in threads of its own, outside of the data plane's listeners and
 * limits.
 */
struct l7mp_api_server;
/* Makes a server that does not listen yet. `api` is borrowed. Returns 0 or -ENOMEM. */
int l7mp_api_server_new(struct l7mp_api *api, struct l7mp_api_server **out);
/*
 * Binds the address of `want` while the current one, if any, is still served. Returns 0, or a
 * negative errno with err set (path "admin.server"). Then commit, which can't fail, starts to serve
 * it and stops the previous one without waiting: requests in progress are still answered.
 */
int l7mp_api_server_prepare(struct l7mp_api_server *s, const struct l7mp_admin_server *want,
                            struct l7mp_error *err);
void l7mp_api_server_commit(struct l7mp_api_server *s, const struct l7mp_admin_server *want);
/*
 * Stops listening, waits for requests in progress, for which the loop must keep running, and then
 * calls `done`. `done` is called from within this function when there is nothing to stop.
 */
void l7mp_api_server_stop(struct l7mp_api_server *s, void (*done)(void *arg), void *arg);
/* For an upgrade: the listening socket, borrowed; -ENOENT: there is none. */
int l7mp_api_server_socket(const struct l7mp_api_server *s);
/*
 * Another process has taken over the socket: stops accepting connections. Requests in progress are
 * still answered.
 */
void l7mp_api_server_give(struct l7mp_api_server *s);
/* Frees the server; only after `done`. Nulls the pointer. */
void l7mp_api_server_free(struct l7mp_api_server **s);

extern const struct l7mp_proto l7mp_proto_controller; /* L7MPController */
extern const struct l7mp_proto l7mp_proto_prometheus; /* Prometheus */
