/* SPDX-License-Identifier: MIT */
/* The CustomResourceDefinitions of l7mp.io/v1, made from the proxy's schema tables. */
#pragma once

#include "l7mp/json.h"
#include "l7mp/protodesc.h"

/*
 * Returns an array of CustomResourceDefinitions (apiextensions.k8s.io/v1) with structural schemas.
 * Keys that the tables don't know are kept by the API server, so that a misspelt one is told in the
 * object's status instead of vanishing. NULL: out of memory. Thread: any.
 */
cJSON *op_crds(const struct l7mp_registry *registry);
