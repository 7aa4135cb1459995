/* SPDX-License-Identifier: MIT */
/*
 * Two addresses on the command line, as socat(1) has them, into the config document
 * that a file would hold: docs/oneliners.md.
 *
 *   UDP-LISTEN:15000,dscp=46   WS:127.0.0.1:16000/path
 */
#pragma once

#include <stddef.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

struct l7mp_registry;

struct l7mp_oneliner {
	const char *first, *second;
	/* Transformers from the first to the second address, and from the second to the first. */
	const char *const *via;
	size_t n_via;
	const char *const *back;
	size_t n_back;
	const char *api; /* "[ADDRESS:]PORT" of the REST API; NULL: none */
};

/*
 * A new document. NULL with err: message "argument 1, at 12: expected a port in 1..65535,
 * got 'x'"; positions count from 1.
 */
cJSON *l7mp_oneliner_config(const struct l7mp_registry *registry, const struct l7mp_oneliner *o,
                            struct l7mp_error *err);
/*
 * What of the command line a JSON path of that document comes from: "argument 1
 * (UDP-LISTEN:99999)"; NULL when nothing.
 */
const char *l7mp_oneliner_where(const struct l7mp_oneliner *o, const char *path, char *buf,
                                size_t size);
