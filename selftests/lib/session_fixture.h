/* SPDX-License-Identifier: MIT */
/* Sessions on a manual loop, the fake protocols, the real model filled from JSON. */
#pragma once

#include "fake_offload.h"
#include "fake_proto.h"
#include "l7mp/runtime.h"

struct sfix {
	struct l7mp_loop *loop;
	struct l7mp_model *model;
	struct l7mp_sessions *sessions;
	struct l7mp_runtime *runtime;
	struct l7mp_stats stats;
	struct l7mp_env env;
	struct fake_world world;
	struct fake_offload offload;
	unsigned ended;
	char last_reason[400];
	bool shut_down;
};

/* cmocka set-up and tear-down; tear-down checks that nothing is left. */
int sfix_new(void **state);
int sfix_new_offload(void **state);
int sfix_free(void **state);

/* Applies a whole configuration; single quotes stand for double ones. 0 or what apply said. */
int sfix_config(struct sfix *f, const char *json, struct l7mp_error *err);
/*
 * listener `l` (protocol) -> cluster `c` (protocol), route options as JSON members (", 'retry':
 * ...")
 */
void sfix_simple(struct sfix *f, const char *listener, const char *cluster, const char *route);
struct l7mp_session *sfix_session(struct sfix *f, const char *name);
/* State of a live or tracked session; -1 when there is none. */
int sfix_state(struct sfix *f, const char *name);
/* Ends the sessions that use the object; NULL: none. */
void sfix_end_using(struct sfix *f, const struct l7mp_object *object);
/* Text at a JSON pointer of the session's JSON; static buffer; "" when there is none. */
const char *sfix_json(struct sfix *f, const char *name, const char *pointer);
double sfix_num(struct sfix *f, const char *name, const char *pointer);
bool sfix_has_event(struct sfix *f, const char *name, const char *event);
/* Runs what is due now, then lets ms pass. */
void sfix_advance(struct sfix *f, uint64_t ms);
