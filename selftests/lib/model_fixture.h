/* SPDX-License-Identifier: MIT */
/* Changes of a model in one line each. JSON in tests is written with ' for ". */
#pragma once

#include "l7mp/change.h"

/* Parses; fails the test when it can't. The caller deletes it. */
cJSON *mx_json(const char *text);
struct l7mp_model *mx_model(void);

/* Adds the list that no config may lack, when it is not there: short test documents. */
void mx_listeners(cJSON *config);

enum mx_op { MX_ADD, MX_REPLACE, MX_CONFIG, MX_ADMIN, MX_ADD_ENDPOINT, MX_INSERT_RULE };
/*
 * One change, committed when it could be built. `name` and `position` as the
 * operation needs them. Its result; *err and *items (how many, -1 on failure) may be
 * NULL.
 */
int mx_apply(struct l7mp_model *m, enum mx_op op, enum l7mp_obj_kind kind, const char *name,
             size_t position, const char *text, struct l7mp_error *err, int *items);
int mx_add(struct l7mp_model *m, enum l7mp_obj_kind kind, const char *text);
int mx_replace(struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name, const char *text);
/* Number of items, or negative errno. */
int mx_config(struct l7mp_model *m, const char *text);
int mx_delete(struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name, bool recursive);

/* All names of a kind, with spaces between; a static buffer. */
const char *mx_names(const struct l7mp_model *m, enum l7mp_obj_kind kind);
/* The view of an object equals the text. */
void mx_assert_view(const struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name,
                    bool recursive, const char *text);
/* What POST /config takes: every list, endpoints in full. */
cJSON *mx_to_config(const struct l7mp_model *m);
/* The same as compact text; free() it. */
char *mx_dump(const struct l7mp_model *m);
