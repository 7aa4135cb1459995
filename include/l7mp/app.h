/* SPDX-License-Identifier: MIT */
/*
 * The app: owns everything, the only object that main sees. It composes the
 * layers, applies the config file, answers signals and shuts down in order.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/oneliner.h"

#define L7MP_OPTIONS_CHAIN 32 /* transformers of a one-liner in one direction */

/* What the command line said. Texts are borrowed from argv; NULL: not given. */
struct l7mp_options {
	const char *config; /* NULL: the two addresses of `oneliner` */
	struct l7mp_oneliner oneliner;
	/* `oneliner` points there, so the struct must not be copied. */
	const char *via[L7MP_OPTIONS_CHAIN], *back[L7MP_OPTIONS_CHAIN];
	const char *log_level;
	bool strict;
	const char *offload;     /* init, no_init, disable */
	const char *offload_ifs; /* comma list, or all */
	bool check_only;
	bool doctor; /* offload_ifs apply; no config */
};

enum l7mp_options_result {
	L7MP_OPTIONS_RUN,
	L7MP_OPTIONS_DONE,  /* -h or -V was answered: exit 0 */
	L7MP_OPTIONS_ERROR, /* a message was printed: exit 1 */
};
enum l7mp_options_result l7mp_options_parse(int argc, char **argv, struct l7mp_options *out);
/*
 * Puts the command line's values over those of `config`'s admin object, which is made when it is
 * missing. 0 or -ENOMEM.
 */
int l7mp_options_override(const struct l7mp_options *o, cJSON *config);

/*
 * Prints what the kernel fast path finds on this machine, as JSON, on stdout. 0; -ENOTSUP: it
 * can't work here; else another negative errno.
 */
int l7mp_app_doctor(const struct l7mp_options *options);

struct l7mp_app;

/*
 * Reads and checks the config. Everything wrong with it has then been printed on
 * stderr, one line a finding: "file:line: path: message". 0 or negative errno; *out is to be freed
 * in both cases. `options` is borrowed until then.
 */
int l7mp_app_new(const struct l7mp_options *options, struct l7mp_app **out);
/*
 * Binds, starts, and runs the loop until a signal has ended it. 0, or negative errno when it could
 * not start, which was printed then.
 */
int l7mp_app_run(struct l7mp_app *app);
void l7mp_app_free(struct l7mp_app **app);
