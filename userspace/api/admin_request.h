/* SPDX-License-Identifier: MIT */
/*
 * A request to the admin server, passed from a civetweb thread to the loop, and its answer, passed
 * back.
 *
 * The thread makes it, and at each step waits for the loop: first the loop says whether the
 * client may be answered at all (before the body is read), then it makes the answer, piece by
 * piece: the next one is made when the thread has written the one before, so that a slow reader
 * costs two pieces of memory and no time of the loop. A client that is too slow with a body or an
 * answer is cut off by a timer of the loop.
 *
 * Thread: as each function says.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "l7mp/addr.h"
#include "l7mp/json.h"

struct l7mp_api;
struct l7mp_mailbox;
struct admin_request;

enum admin_target {
	ADMIN_REST,    /* /api/v1/..., /openapi.json, /openapi.yaml */
	ADMIN_METRICS, /* /metrics */
	ADMIN_CONSOLE, /* /console/..., and / for a browser */
	ADMIN_HEALTH,  /* /healthz: the loop answers */
	ADMIN_READY,   /* /readyz: everything is bound, and not being stopped */
};

/* The contents of a request's head. */
struct admin_head {
	enum admin_target target;
	const char *method, *path, *query; /* copied */
	cJSON *metadata;                   /* {"HTTP": {"headers"}}; taken, also on failure */
	struct l7mp_addr peer, local;
	long long length; /* length of the body; -1: chunked, 0: none */
};

/*
 * The time for a client in ms: after it, the client must have sent or read at least ADMIN_RATE
 * bytes per millisecond.
 */
#define ADMIN_PATIENCE_MS 10000
#define ADMIN_RATE        100

/* ---- the thread's side ---- */

/* Makes a request. NULL: out of memory, or the server is being stopped. `mailbox` is borrowed. */
struct admin_request *admin_request_new(struct l7mp_api *api, struct l7mp_mailbox *mailbox,
                                        const struct admin_head *head);
/* The last call of the thread: stops what the loop still does for the request. */
void admin_request_drop(struct admin_request *r);

/*
 * Returns whether this client may send its body; if not, the answer is known. Waits for the loop.
 */
bool admin_request_admit(struct admin_request *r);
/* The largest accepted body in bytes (limits.max_body); after admit. */
size_t admin_request_max_body(const struct admin_request *r);
/*
 * The request is complete; body is heap (taken), NULL when empty. `too_large`: the body was
 * discarded.
 */
void admin_request_run(struct admin_request *r, char *body, size_t len, bool too_large);

/*
 * Called before and after each read and write of the connection; `n` bytes were transferred since
 * the last call.
 */
void admin_request_io(struct admin_request *r, bool begins, size_t n);
/* Returns whether the loop's timer found the client too slow. */
bool admin_request_expired(struct admin_request *r);

/*
 * Waits for the answer, after admit returned false or after run. Sets the status, the header lines
 * ("Name: value\r
 *
 * " each, borrowed) and the length of the body (-1: not known). Returns false when the loop did not
 * answer in time.
 */
bool admin_request_wait_head(struct admin_request *r, int *status, const char **headers,
                             long long *length);
/*
 * Waits for the next piece (heap, the caller's). Returns 1; 0: that was all; -1: the answer can't
 * be completed.
 */
int admin_request_wait_piece(struct admin_request *r, char **text, size_t *len);
