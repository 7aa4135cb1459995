/* SPDX-License-Identifier: MIT */
/* What the files of l7mpctl share. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "l7mp/json.h"
#include "l7mp/util.h"

enum ctl_output { CTL_TABLE, CTL_JSON, CTL_YAML };

/* Exit status. */
enum { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

struct ctl_client;

struct ctl {
	const char *api;   /* "http://127.0.0.1:1234", "unix:/run/x"; NULL: to be found */
	const char *token; /* file; NULL: the default one, if it is there */
	const char *file;  /* -f; "-": stdin; NULL: not given */
	enum ctl_output output;
	bool output_given;
	bool recursive;
	double interval;           /* s, sessions watch */
	long timeout;              /* s, a whole request */
	struct ctl_client *client; /* made at the first request */
};

/* ---- client.c: blocking HTTP by libcurl ---- */

/* "/clusters/a%2Fb" from "clusters", "a/b"; ends with NULL. Heap, NULL when out of memory. */
char *ctl_path(const char *first, ...) __attribute__((sentinel));
/*
 * One request below /api/v1; `path` is encoded, `body` may be NULL. 0 and *out (the
 * answer's tree, the caller's), or CTL_FAILED after a message on stderr. A refusal of
 * the server is a failure; its content list is printed too, with the lines of `lines` (may be NULL).
 */
struct ctl_input;
int ctl_request(struct ctl *c, const char *method, const char *path, const cJSON *body,
                const struct ctl_input *lines, cJSON **out);
/* Local port of the last request: the session that carried it. 0: none. */
long ctl_local_port(const struct ctl *c);
void ctl_client_free(struct ctl *c);

/* ---- input.c ---- */

struct ctl_input {
	struct l7mp_document *doc;
	cJSON *root;
	const char *name; /* for messages: the file or "stdin" */
	const char
	        *wrapper; /* what the server's paths begin with, when we wrapped; NULL: nothing */
};
/* Reads -f FILE or stdin. CTL_OK, or CTL_FAILED/CTL_USAGE after a message. */
int ctl_input_read(struct ctl *c, struct ctl_input *in);
void ctl_input_free(struct ctl_input *in);
/* Line of the node that a path of the API ("listener.spec.port", "rules[0].match") names; 0 when not known. */
int ctl_input_line(const struct ctl_input *in, const char *path);

/* ---- proxy.c ---- */

/* Becomes l7mp-proxy: the one beside this program, else the one in PATH. Returns (CTL_FAILED, printed) only when that failed. */
int ctl_exec_proxy(const char *command, char *const args[]);
/* Runs it and reads the JSON that it prints, whatever its exit status. The caller's tree; NULL after a message. */
cJSON *ctl_ask_proxy(const char *command, char *const args[]);

/* ---- output.c ---- */

/* Prints without what could steer a terminal: control and direction characters, bytes that are not UTF-8. */
void ctl_print_safe(FILE *to, const char *text);
void ctl_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int ctl_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* CTL_USAGE */
/* As -o says; a table isn't possible here: YAML. CTL_OK or CTL_FAILED. */
int ctl_print_tree(const struct ctl *c, const cJSON *node);

#define CTL_COLUMNS 8
struct ctl_table {
	const char *heads[CTL_COLUMNS + 1]; /* ends with NULL */
	char **cells;                       /* rows one after the other, each heap */
	size_t n_cells, cap;
	bool oom;
};
/* Takes text (heap, NULL: "-"). */
void ctl_cell(struct ctl_table *t, char *text);
void ctl_cell_str(struct ctl_table *t, const char *text);
void ctl_cell_num(struct ctl_table *t, double value);
/* Prints and empties it. */
int ctl_table_print(struct ctl_table *t);

/* ---- commands: each gets the words after its own name ---- */

typedef int (*ctl_command)(struct ctl *c, int argc, char **argv);

struct ctl_collection {
	const char *plural, *singular;
	void (*row)(struct ctl_table *t, const cJSON *object);
	const char *const heads[CTL_COLUMNS + 1];
};
int ctl_objects(struct ctl *c, const struct ctl_collection *kind, int argc, char **argv);
extern const struct ctl_collection ctl_collections[]; /* ends with plural NULL */

int ctl_endpoints(struct ctl *c, int argc, char **argv);
int ctl_rulelists(struct ctl *c, int argc, char **argv);
int ctl_sessions(struct ctl *c, int argc, char **argv);
int ctl_explain(struct ctl *c, int argc, char **argv);
int ctl_config(struct ctl *c, int argc, char **argv);
int ctl_admin(struct ctl *c, int argc, char **argv);
int ctl_lookup(struct ctl *c, int argc, char **argv);
int ctl_offload(struct ctl *c, int argc, char **argv);
int ctl_flows(struct ctl *c, int argc, char **argv);
int ctl_doctor(struct ctl *c, int argc, char **argv);
int ctl_version(struct ctl *c, int argc, char **argv);

/* What several commands do. */
int ctl_get_one(struct ctl *c, const char *plural, const char *name);
int ctl_delete_one(struct ctl *c, const char *plural, const char *name);
/* Sends the input, wrapped as `wrapper` unless it is already. Takes path. */
int ctl_send_wrapped(struct ctl *c, const char *method, char *path, const char *wrapper);
/* The table of `list`, or what -o says. */
int ctl_print_list(struct ctl *c, const struct ctl_collection *kind, const cJSON *list);
