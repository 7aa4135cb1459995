/* SPDX-License-Identifier: MIT */
/*
 * An exchange: one request to the API and its answer, between the receiver of the request (the
 * controller cluster's stage, the admin server) and the router.
 *
 * The answer is pulled: the receiver is notified when data is available (`ready`), and reads it
 * piece by piece as fast as its client does. Nothing is produced between two reads, so a slow
 * client costs the memory of one piece. A receiver whose client has disconnected frees the
 * exchange, which stops the production; a change of the model that has been started is still
 * completed.
 *
 * Thread: loop only. Servers with their own threads use a mailbox.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/json.h"

struct l7mp_api;
struct api_client;
struct api_request;
struct api_response;

/* A service that answers requests. */
struct api_service {
	const char *proto; /* for messages */
	/*
	 * Optional, called before a body is collected: returns non-zero when `answer` will reject
	 * the request anyway.
	 */
	int (*admit)(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
	             struct api_response *rs);
	/* Answers, or leaves rs->status 0 when the rest must run in a worker thread. */
	void (*answer)(struct api_request *rq, struct api_response *rs);
};
extern const struct api_service api_service_rest;    /* everything below /api/v1 */
extern const struct api_service api_service_metrics; /* Prometheus text format, regardless of the
                                                      * path */
extern const struct api_service api_service_console; /* the files of the console */

/* A complete request. The strings are borrowed for the call and copied; NULL: absent. */
struct api_call {
	const struct api_service *service;
	const char *method;
	const char *path;  /* not decoded, without the query */
	const char *query; /* without its '?' */
	const char *content_type;
	const char *if_match;
	const char *if_none_match;
	const char *session; /* name of the session that carries the request */
	char *body;          /* heap, taken, also on failure; NULL when empty */
	size_t body_len;
	/*
	 * Streams come in pieces of about 32 KiB, or of the data available when the receiver reads.
	 * true: each piece is twice as large as the previous one, up to 256 KiB, and complete,
	 * because it costs the receiver two thread switches.
	 */
	bool large_pieces;
	bool too_large; /* the body exceeded limits.max_body and was discarded: the answer is 413 */
	/*
	 * NULL if this client may be answered, else the rejection (api_authorize's 401 or 403;
	 * taken, and empty afterwards), which becomes the answer.
	 */
	struct api_response *refusal;
};

struct api_exchange;

/*
 * Begins to process a request. `ready(arg)` is called when the head of the answer is known, and
 * when api_exchange_read has data again after it returned -EAGAIN; never from inside a call of the
 * receiver. Returns 0 or -ENOMEM.
 */
int api_exchange_new(struct l7mp_api *api, const struct api_call *call, void (*ready)(void *arg),
                     void *arg, struct api_exchange **out);
/* Frees it, at any time; cancels unfinished work. Idempotent. */
void api_exchange_free(struct api_exchange **x);

/* Returns the head: status and headers; NULL until it is known. Borrowed. */
const struct api_response *api_exchange_head(const struct api_exchange *x);
/*
 * Returns the length of the body in bytes, after the head; -1: unknown, because it is produced
 * while it is read.
 */
long long api_exchange_length(const struct api_exchange *x);
/*
 * Returns the next piece of the body: 1 and heap text (free() it), at most about 64 KiB; 0: the end
 * (for HEAD at once); -EAGAIN: no data now; -EIO: it can't be completed, which the client must be
 * able to detect.
 */
int api_exchange_read(struct api_exchange *x, char **text, size_t *len);

/* ---- the receiver as a stage of a session (answer.c) ---- */

struct l7mp_connect;
struct l7mp_stream;
struct l7mp_error;

/* Makes a stage that collects a request and answers it. */
int api_answer_connect(const struct l7mp_connect *params, const struct api_service *service,
                       struct l7mp_stream **out, struct l7mp_error *err);
