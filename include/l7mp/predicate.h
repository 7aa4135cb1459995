/* SPDX-License-Identifier: MIT */
/*
 * JSON predicates: draft-snell-json-test-07, all of it, compiled once and
 * evaluated against a session's metadata. Texts of peers meet patterns of the operator here, so
 * what an evaluation may cost is counted.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

struct l7mp_predicate;

/*
 * Compiles; files issues with paths below `path`. NULL or a string compiles to
 * "matches all". -EINVAL when issues have errors, -ENOMEM. Nesting at most 64.
 */
int l7mp_predicate_compile(const cJSON *match, const char *path, struct l7mp_issues *issues,
                           struct l7mp_predicate **out);

/*
 * What evaluations may still cost, all that are made for one session together, in units of about
 * 2.5 ns on a processor of 2020. Once it is exhausted every comparison with a text is false, so
 * the result means nothing (a `not` of it would be true): the caller must look.
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
void l7mp_predicate_free(struct l7mp_predicate **p);
