/* SPDX-License-Identifier: MIT */
/* The CustomResourceDefinitions of l7mp.io/v1, generated from the proxy's schema tables. */
#pragma once

#include "l7mp/json.h"
#include "l7mp/protodesc.h"

/*
 * Returns an array of CustomResourceDefinitions (apiextensions.k8s.io/v1) with structural schemas.
 * The API server preserves keys that are not in the tables, so that a misspelt one is reported in
 * the object's status instead of being removed. NULL: out of memory. Thread: any.
 */
cJSON *op_crds(const struct l7mp_registry *registry);
