/* SPDX-License-Identifier: MIT */
/* STDIO-fork, private: what its specs hold. */
#pragma once

#include "l7mp/json.h"
#include "l7mp/schema.h"

/* The argument vector: pointers into the spec, in an array to be freed. NULL: no memory. */
const char **fork_argv(const cJSON *command);
/* "NAME=value" of the map, and L7MP_SESSION. NULL: no memory. */
char **fork_env(const cJSON *map, const char *session);
void fork_env_free(char **env);
extern const struct l7mp_schema fork_cluster_spec;
