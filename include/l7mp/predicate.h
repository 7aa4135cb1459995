/* SPDX-License-Identifier: MIT */
/*
 * JSON predicates (draft-snell-json-test-07, complete), which are compiled once and evaluated
 * against a session's metadata. Peers choose the strings that the operator's patterns are matched
 * against, so the cost of an evaluation is bounded.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

struct l7mp_predicate;

/*
 * Compiles a predicate, which may be nested 64 levels deep; adds issues with paths below `path`. A
 * `match` of NULL or a string compiles to one that always holds. Returns 0; -EINVAL when errors
 * were added; -ENOMEM. Thread: any.
 */
int l7mp_predicate_compile(const cJSON *match, const char *path, struct l7mp_issues *issues,
                           struct l7mp_predicate **out);

/*
 * The remaining cost budget of all evaluations for one session, in units of about 2.5 ns on a
 * processor of 2020. Once it is exhausted, every comparison with a string is false, so that the
 * result is meaningless (`not` would make it true): the caller must check `exhausted`.
 */
struct l7mp_effort {
	uint64_t left;
	bool exhausted;
};
#define L7MP_EFFORT_MAX 300000 /* 0.75 ms to 1 ms: for one session */
#define L7MP_EFFORT     ((struct l7mp_effort){.left = L7MP_EFFORT_MAX})

/* Does the predicate hold? NULL holds always. Any thread. */
bool l7mp_predicate_eval(const struct l7mp_predicate *p, const cJSON *metadata,
                         struct l7mp_effort *effort);
/* Frees a predicate. NULL inside is fine; nulls the pointer. Thread: any. */
void l7mp_predicate_free(struct l7mp_predicate **p);
