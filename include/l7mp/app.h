/* SPDX-License-Identifier: MIT */
/*
 * The application object, which owns every other object of the daemon: it puts the layers together,
 * applies the config file, handles signals and shuts down in order.
 *
 * Thread: the main thread, which runs the loop.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/oneliner.h"

/* The most transformers that a one-liner can have in one direction. */
#define L7MP_OPTIONS_CHAIN 32

/* The parsed command line. Strings are borrowed from argv; NULL: not given. */
struct l7mp_options {
	const char *config; /* path of the config file; NULL: use `oneliner` */
	struct l7mp_oneliner oneliner;
	/* Storage that `oneliner` points to, so this struct must not be copied. */
	const char *via[L7MP_OPTIONS_CHAIN], *back[L7MP_OPTIONS_CHAIN];
	const char *log_level;
	bool strict;             /* unknown keys of the config are errors */
	const char *offload;     /* "init", "no_init" or "disable" */
	const char *offload_ifs; /* interface names separated by commas, or "all" */
	bool check_only;         /* check the config and exit */
	bool doctor;             /* print the fast path's report and exit; reads no config */
	char **argv;             /* as given to main, for an upgrade */
};

enum l7mp_options_result {
	L7MP_OPTIONS_RUN,
	L7MP_OPTIONS_DONE,  /* help or version was printed: exit with 0 */
	L7MP_OPTIONS_ERROR, /* a message was printed on stderr: exit with 1 */
};
/* Parses the command line into *out, which need not be initialised. */
enum l7mp_options_result l7mp_options_parse(int argc, char **argv, struct l7mp_options *out);
/*
 * Overrides keys of `config`'s admin object with the values of the command line; the object is
 * added when it is missing. Returns 0 or -ENOMEM.
 */
int l7mp_options_override(const struct l7mp_options *o, cJSON *config);

/*
 * Prints on stdout, as JSON, whether and how the kernel fast path can work on this machine
 * (l7mp_offload_doctor). Returns 0 when it can, -ENOTSUP when it can't, or another negative errno
 * when the report could not be made.
 */
int l7mp_app_doctor(const struct l7mp_options *options);

struct l7mp_app;

/*
 * Reads and checks the config. Prints each problem on stderr in one line, "file:line: path:
 * message". Returns 0 or a negative errno; *out must be freed in both cases. `options` is borrowed
 * until then.
 */
int l7mp_app_new(const struct l7mp_options *options, struct l7mp_app **out);
/*
 * Binds the listeners, starts, and runs the loop until SIGTERM or SIGINT has ended it. Returns 0,
 * or a negative errno when it could not start; the reason has then been printed.
 */
int l7mp_app_run(struct l7mp_app *app);
/* Frees everything that l7mp_app_new made. NULL inside is fine; nulls the pointer. */
void l7mp_app_free(struct l7mp_app **app);
