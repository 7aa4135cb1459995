/* SPDX-License-Identifier: MIT */
/*
 * A request to the admin server, passed from a civetweb thread to the loop, and its answer, passed
 * back.
 *
 * The thread creates it, and waits for the loop at each step. First the loop checks whether the
 * client may be answered (before the body is read). Then it produces the answer in pieces; the next
 * piece is produced when the thread has written the previous one, so that a slow reader costs the
 * memory of two pieces and no time of the loop. A timer of the loop disconnects a client that is
 * too slow with a body or an answer.
 *
 * Thread: as stated at each function.
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
	ADMIN_HEALTH,  /* /healthz: the loop responds */
	ADMIN_READY,   /* /readyz: everything is bound, and the process is not stopping */
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
 * The time limit of a client in ms; after it, the client must have sent or read at least ADMIN_RATE
 * bytes per millisecond.
 */
#define ADMIN_PATIENCE_MS 10000
#define ADMIN_RATE        100

/* ---- functions for the thread ---- */

/* Creates a request. NULL: out of memory, or the server is stopping. `mailbox` is borrowed. */
struct admin_request *admin_request_new(struct l7mp_api *api, struct l7mp_mailbox *mailbox,
                                        const struct admin_head *head);
/* The last call of the thread: cancels the request on the loop. */
void admin_request_drop(struct admin_request *r);

/*
 * Returns whether this client may send its body; otherwise the answer is determined. Waits for the
 * loop.
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
 * Waits for the next piece (heap, owned by the caller). Returns 1; 0: the answer is complete; -1:
 * it can't be completed.
 */
int admin_request_wait_piece(struct admin_request *r, char **text, size_t *len);
