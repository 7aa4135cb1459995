/* SPDX-License-Identifier: MIT */
/*
 * One-liners: two addresses on the command line, in the style of socat(1), are translated into the
 * document that a config file would contain (docs/oneliners.md).
 *
 *   UDP-LISTEN:15000,dscp=46   WS:127.0.0.1:16000/path
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

struct l7mp_registry;

/* All strings are borrowed. */
struct l7mp_oneliner {
	const char *first, *second; /* the addresses */
	/* Transformers from the first to the second address, and from the second to the first. */
	const char *const *via;
	size_t n_via;
	const char *const *back;
	size_t n_back;
	/* What goes the other way is discarded: from the second (-u), from the first (-U). */
	bool only_forth, only_back;
	double idle_timeout; /* seconds without traffic (-T); 0: not given */
	const char *api;     /* "[ADDRESS:]PORT" of the REST API; NULL: none */
};

/*
 * Returns a new document, or NULL with err set: "argument 1, at 12: expected a port in 1..65535,
 * got 'x'", where 12 is a position in the argument, counted from 1.
 */
cJSON *l7mp_oneliner_config(const struct l7mp_registry *registry, const struct l7mp_oneliner *o,
                            struct l7mp_error *err);
/*
 * Writes which argument a JSON path of that document comes from, "argument 1 (UDP-LISTEN:99999)",
 * and returns `buf`. Returns NULL when it comes from none.
 */
const char *l7mp_oneliner_where(const struct l7mp_oneliner *o, const char *path, char *buf,
                                size_t size);
