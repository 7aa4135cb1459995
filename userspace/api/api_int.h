/* SPDX-License-Identifier: MIT */
/* Private to api/: requests, responses, routes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/api.h"
#include "l7mp/change.h"
#include "l7mp/config.h"
#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/rest.h"
#include "l7mp/util.h"
#include "origin.h"
#include "token.h"

#define API_BASE         "/api/v1"
#define API_MAX_SEGMENTS 8
#define API_MAX_ARGS     2

struct api_count { /* requests of one (route, status); route NULL: no such path */
	const struct l7mp_rest_route *route;
	int status;
	uint64_t n;
};

/* The client of a request: a session's source, or a connection of the admin server. */
struct api_client {
	const struct l7mp_session *session; /* borrowed; NULL: identified by its addresses */
	struct l7mp_addr peer, local;
};

struct l7mp_api {
	struct l7mp_api_params params;
	struct api_token *token;
	char host[256]; /* the name of this host */
	struct api_host *net;
	struct api_origins *origins;
	/* NULL: use `origins`; replaced by tests */
	enum l7mp_origin (*origin)(struct l7mp_api *api, const struct api_client *client);
	bool ready, stopping;
	bool busy;     /* an upgrade is in progress */
	uint64_t boot; /* random part of ETags, so that those of another process never match */
	struct api_count *counts;
	size_t n_counts;
};

struct api_exchange;
struct api_request;
struct api_response;

typedef void (*api_handler)(struct api_request *rq, struct api_response *rs);

enum api_route_flags {
	/*
	 * The handler runs in a worker thread, where it may read the model, which does not change
	 * meanwhile, but no other data of the loop. It may return a change in rq->change instead of
	 * a status; the loop then applies it. Jobs run one after the other.
	 */
	API_CHANGE = 1 << 0,
	/* The same without a change. Runs concurrently with changes, but not with commits. */
	API_READ = 1 << 1,
	/* The same, but only for potentially large answers: recursive views and rule lists. */
	API_READ_IF_LARGE = 1 << 2,
};

struct api_binding {
	api_handler handler;
	unsigned flags; /* enum api_route_flags */
};

struct api_request {
	struct l7mp_api *api;
	struct api_exchange *exchange; /* the exchange that it belongs to */
	char *session; /* name of the session that carries the request; NULL: none */

	/* Owned. As in the request line, not decoded; query without its '?', "" if absent. */
	char *raw_path, *raw_query;
	char *content_type, *if_match, *if_none_match; /* NULL: absent */
	char *body;                                    /* NULL when empty */
	size_t body_len;
	bool too_large; /* the body was longer than limits.max_body and was discarded */
	bool head;      /* HEAD: the answer has no body */

	/* set by the router */
	char *method; /* HEAD has become GET */
	char *path;   /* args point into it */
	char *segments[API_MAX_SEGMENTS];
	size_t n_segments;
	const struct l7mp_rest_route *route;
	struct api_binding binding;     /* of the route's operation */
	const char *args[API_MAX_ARGS]; /* the segments that matched {...} of the route */
	bool recursive;
	enum l7mp_json_format format;
	/* largest number of elements of a list; UINT64_MAX: no limit */
	uint64_t limit;
	char *after;                    /* owned; NULL: from the beginning */
	char *filter;                   /* owned; NULL: all sessions */
	char *owner;                    /* owned: ?owner=; NULL: absent */
	struct l7mp_document *document; /* owned: the parsed body */
	struct l7mp_change *change;     /* built by a handler, for the runtime to apply */
};

/*
 * A body that is produced step by step while it is read, so that a long list needs the memory of a
 * few items, and occupies the loop for a few at a time.
 */
struct api_stream {
	/*
	 * Optional, on the loop and in slices, before the head is sent: finds the beginning of the
	 * list and its headers. Returns 1: call again; 0: ready, or rs has an error.
	 */
	int (*begin)(struct api_stream *st, struct api_response *rs);
	/* Optional: whether the next step must be done in a worker thread, as API_JOB. */
	bool (*in_job)(const struct api_stream *st);
	/*
	 * Appends the next piece to out, as small as possible (an item of a list, or nothing).
	 * Returns 1: there is more; 0: that was the last; a negative errno: the answer can't be
	 * completed.
	 */
	int (*step)(struct api_stream *st, struct l7mp_str *out);
	/* May be called before the end, when the client has closed. */
	void (*free)(struct api_stream *st);
};

/*
 * Adds the hash of the owner's objects to the answer to a change of them; otherwise does nothing.
 */
void api_add_hash(const struct api_request *rq, struct api_response *rs);

struct api_response {
	int status;
	cJSON *json;               /* owned: the body, unless `text` or `stream` is set */
	char *text;                /* owned: the body as sent */
	size_t text_len;           /* of text */
	struct api_stream *stream; /* owned: the body, produced while it is read */
	const char *content_type;  /* of text and stream; static */
	const char *const *extra;  /* names and values of further headers, then NULL; static */
	bool revalidate;           /* the client may cache it, but must revalidate each time */
	char allow[64];            /* 405 */
	char etag[48];             /* with its quotes; "" when none */
	char *link;                /* owned: value of the Link header; NULL: none */
	bool challenge;            /* 401: add WWW-Authenticate */
	bool retry;                /* 503: add Retry-After */
};

/* ---- api.c ---- */

/* Whether everything is bound, and the process is not stopping. */
bool api_is_ready(const struct l7mp_api *api);
/* Counts an answer for l7mp_rest_requests_total. */
void api_count(struct l7mp_api *api, const struct l7mp_rest_route *route, int status);

/* ---- path.c: text of the request ---- */

/* Decodes %XX in place. Returns 0 or -EINVAL: bad escape, a NUL, or not UTF-8. */
int api_percent_decode(char *s);
/*
 * Splits `path` at its slashes and decodes each segment, in place; one trailing slash is ignored.
 * Returns the number of segments; -EINVAL: as above; -E2BIG: more than max.
 */
int api_split_path(char *path, char **segments, size_t max);
/*
 * Returns the decoded value of `key` in "a=b&c", heap, NULL when absent. -EINVAL on a bad escape.
 */
int api_query_get(const char *query, const char *key, char **out);
/* Returns the value of an HTTP request header, case-insensitive; NULL when absent. */
const char *api_header(const cJSON *metadata, const char *name);

/*
 * Returns whether an entity tag, with its quotes, is in the list "a", W/"b", "c" of If-Match or
 * If-None-Match (NULL: absent), or the list is "*". Weak ones match only in If-None-Match (RFC
 * 9110, section 13.1).
 */
bool api_etag_listed(const char *list, const char *tag, bool weak);

/* ---- auth.c ---- */

/*
 * Checks whether this client may be answered. If a token is set, clients that send it; otherwise
 * clients on this host whose request names this host. Returns 0, or the status (401, 403, 429) with
 * rs filled.
 */
int api_authorize(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
                  struct api_response *rs);
/*
 * The same for the console's files, which contain no data of this proxy: if a token is set every
 * client gets them, because a browser can't send the token before it has loaded them.
 */
int api_authorize_page(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
                       struct api_response *rs);
/* Returns whether this is a name or address of this host ("localhost", "[::1]:1234", "myhost"). */
bool api_host_is_local(const struct l7mp_api *api, const char *host);

/* ---- respond.c ---- */

void api_ok(struct api_response *rs);                /* a change succeeded */
void api_json(struct api_response *rs, cJSON *json); /* takes json; NULL: out of memory */
/* Sets the error body {"status", "message", "content": []}. */
void api_fail(struct api_response *rs, int status, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
void api_fail_error(struct api_response *rs, const struct l7mp_error *err);
/* The same with the issues that a validation has found. */
void api_fail_issues(struct api_response *rs, const struct l7mp_error *err,
                     const struct l7mp_issues *issues);
/* Adds {path, reason} to the content of an error. */
void api_add_content(struct api_response *rs, const char *path, const char *reason, int line);
/* Returns the media type of JSON in this format. */
const char *api_json_type(enum l7mp_json_format format);
/*
 * Sets the body: takes heap text (NULL: out of memory) as the body, status 200; the type is static.
 */
void api_text(struct api_response *rs, char *text, const char *type);
/*
 * Sets the body: takes a stream (NULL: out of memory) as the body, status 200; the type is static.
 */
void api_streamed(struct api_response *rs, struct api_stream *stream, const char *type);
/* Prints rs->json as the text, unless there is text or a stream already. Any thread. */
void api_print(struct api_response *rs, enum l7mp_json_format format);
/* Calls cb for each header of the answer except Content-Length and those of the connection. */
void api_each_header(const struct api_response *rs,
                     void (*cb)(void *arg, const char *name, const char *value), void *arg);
void api_response_clear(struct api_response *rs);

/* ---- lists.c: lists that are produced while they are read ---- */

/* Lists the objects of one kind. In a job. */
void api_list_objects(struct api_request *rq, enum l7mp_obj_kind kind, struct api_response *rs);
/* Lists all sessions. */
void api_list_sessions(struct api_request *rq, struct api_response *rs);
/* Lists the flows of all sessions that have some. */
void api_list_flows(struct api_request *rq, struct api_response *rs);
/* Shows the whole config. Takes `admin`. In a job. */
void api_list_config(struct api_request *rq, cJSON *admin, struct api_response *rs);

/* ---- rest.c ---- */

/* Adds the address that was actually bound to a listener's JSON. */
void api_show_bound(struct l7mp_api *api, const struct l7mp_object *o, cJSON *json);

/* ---- exchange.c: see exchange.h ---- */

#include "exchange.h"
