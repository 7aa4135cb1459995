/* SPDX-License-Identifier: MIT */
/*
 * An exchange: one request to the API and its answer, between whoever took the request in (the
 * controller cluster's stage, the admin server) and the router.
 *
 * The answer is pulled: the receiver is told when there is something (`ready`), and takes it
 * piece by piece as fast as its client reads. Between two pieces nothing is produced, so a slow
 * client costs the memory of one piece. A receiver whose client went away frees the exchange,
 * which stops the production; a change of the model that is already being made is still
 * completed.
 *
 * Thread: loop only. A server with threads of its own gets here through a mailbox.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/json.h"

struct l7mp_api;
struct api_client;
struct api_request;
struct api_response;

/* What can be asked. */
struct api_service {
	const char *proto; /* for messages */
	/*
	 * Optional, before a body is collected: not 0 when `answer` is going to refuse it anyway.
	 */
	int (*admit)(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
	             struct api_response *rs);
	/* Answers, or leaves rs->status 0 when the request has to be done in a thread. */
	void (*answer)(struct api_request *rq, struct api_response *rs);
};
extern const struct api_service api_service_rest;    /* everything below /api/v1 */
extern const struct api_service api_service_metrics; /* Prometheus' text, whatever the path */

/* A complete request. The strings are borrowed for the call and copied; NULL: absent. */
struct api_call {
	const struct api_service *service;
	const char *method;
	const char *path;  /* not decoded, without the query */
	const char *query; /* without its '?' */
	const char *content_type;
	const char *if_match;
	const char *session; /* name of the session that carries the request */
	char *body;          /* heap, taken, also on failure; NULL when empty */
	size_t body_len;
	bool too_large; /* longer than limits.max_body, and not kept: the answer is 413 */
	/*
	 * May this client be answered? NULL, or the refusal (api_authorize's 401 or 403; taken,
	 * empty afterwards): it is then the answer.
	 */
	struct api_response *refusal;
};

struct api_exchange;

/*
 * Begins. `ready(arg)` is called, never from inside a call of the receiver, when the head of the
 * answer is there, and whenever api_exchange_read has something again after it returned
 * -EAGAIN. 0 or -ENOMEM.
 */
int api_exchange_new(struct l7mp_api *api, const struct api_call *call, void (*ready)(void *arg),
                     void *arg, struct api_exchange **out);
/* Idempotent, any time: cancels what is not finished. */
void api_exchange_free(struct api_exchange **x);

/* The head: status and headers. NULL as long as it is not known. Borrowed. */
const struct api_response *api_exchange_head(const struct api_exchange *x);
/* Length of the body in bytes; -1: not known, it is made while it is read. After the head. */
long long api_exchange_length(const struct api_exchange *x);
/*
 * Takes the next piece of the body: 1 and heap text (free() it), at most some 64 KiB; 0: that
 * was all (for HEAD at once); -EAGAIN: nothing now; -EIO: it can't be completed, the client must
 * see a broken answer, not an end.
 */
int api_exchange_read(struct api_exchange *x, char **text, size_t *len);

/* ---- the receiver that is a stage of a session (answer.c) ---- */

struct l7mp_connect;
struct l7mp_stream;
struct l7mp_error;

/* A cluster stage that collects a request and answers it. */
int api_answer_connect(const struct l7mp_connect *params, const struct api_service *service,
                       struct l7mp_stream **out, struct l7mp_error *err);
