/* SPDX-License-Identifier: MIT */
/*
 * JSON predicates: draft-snell-json-test-07, all of it, compiled once and
 * evaluated against a session's metadata. `matches` uses PCRE2 with match,
 * depth and heap limits, so that a pattern can't hang the loop.
 */
#pragma once

#include <stdbool.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

struct l7mp_predicate;

/*
 * Compiles; files issues with paths below `path`. NULL or a string compiles to
 * "matches all". -EINVAL when issues have errors, -ENOMEM. Nesting at most 64.
 */
int l7mp_predicate_compile(const cJSON *match, const char *path, struct l7mp_issues *issues,
                           struct l7mp_predicate **out);
bool l7mp_predicate_eval(const struct l7mp_predicate *p, const cJSON *metadata);
void l7mp_predicate_free(struct l7mp_predicate **p);
