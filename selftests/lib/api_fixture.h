/* SPDX-License-Identifier: MIT */
/*
 * A REST API over a real model, runtime and sessions on a manual loop, with one
 * fake protocol: "Fake" binds nothing (port 7 is always taken, port 0 becomes 4242)
 * and lets a test hand in source streams.
 */
#pragma once

#include "api/api_int.h"

struct fake_source {
	struct l7mp_stream stream;
	struct api_fixture *fx;
	struct l7mp_task task;
	struct l7mp_str text; /* what was written */
	cJSON *meta;          /* of the first buffer */
	int status;           /* of `result` */
	bool end_pending, shut, closing, aborted, closed;
};

struct api_fixture {
	struct l7mp_loop *loop;
	struct l7mp_model *model;
	struct l7mp_stats stats;
	struct l7mp_env env;
	struct l7mp_sessions *sessions;
	struct l7mp_runtime *runtime;
	struct l7mp_drain *drain;
	struct l7mp_api *api;
	void *states[4];

	/* the last answer */
	int status;
	cJSON *json;
	char *text;
	cJSON *meta;
};

struct api_fixture *fixture_new(void);
void fixture_free(struct api_fixture *fx);

/* Metadata of a request from 127.0.0.1; NULL arguments leave the header out. */
cJSON *fixture_metadata(const char *method, const char *target, const char *type, const char *host);
/* One request through the router; the answer is in fx. Returns the status. */
int fixture_request(struct api_fixture *fx, const char *method, const char *target,
                    const char *type, const char *body);
/* The same with metadata of the test's making (taken). */
int fixture_dispatch(struct api_fixture *fx, cJSON *metadata, const char *body);
/* Enough loop iterations for a request on a session to be answered. */
void fixture_settle(struct api_fixture *fx);
/* The same in two steps: an exchange that has begun, and its whole answer into fx. */
struct api_exchange *fixture_begin(struct api_fixture *fx, const cJSON *metadata, const char *body,
                                   void (*ready)(void *arg), void *arg);
void fixture_read(struct api_fixture *fx, struct api_exchange *x);
const char *fixture_message(const struct api_fixture *fx);
/* Value of a response header. */
const char *fixture_header(const struct api_fixture *fx, const char *name);

/*
 * A connection with an HTTP request on the Fake listener at `port`; its body is `body` and then it
 * ends.
 */
struct fake_source *fixture_accept(struct api_fixture *fx, int port, cJSON *metadata,
                                   const char *body);
void fake_source_free(struct fake_source *s);
/* Finds out whether a Fake listener is bound to the port. */
bool fixture_listens(int port);
