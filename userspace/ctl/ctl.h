/* SPDX-License-Identifier: MIT */
/*
 * Private to l7mpctl. One thread, nothing asynchronous: a command prints its result on stdout and
 * its errors on stderr, and returns the exit status of the program.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "l7mp/json.h"
#include "l7mp/util.h"

enum ctl_output { CTL_TABLE, CTL_JSON, CTL_YAML };

/* Exit status. */
enum { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

/* Default for a whole request, in seconds. */
#define CTL_REQUEST_S 60
/* Rows of a table of sessions or flows without --limit: an answer within a moment at any load. */
#define CTL_ROWS 200

struct ctl_client;

struct ctl {
	const char *api;   /* "http://127.0.0.1:1234", "unix:/run/x"; NULL: discover it */
	const char *token; /* file; NULL: the default one, if it exists */
	const char *file;  /* -f; "-": stdin; NULL: not given */
	enum ctl_output output;
	bool output_given;
	bool recursive;
	double interval;          /* s, sessions watch */
	long timeout;             /* s, a whole request */
	double timeout_given;     /* s, --timeout; -1: not given */
	bool wait;                /* drain: wait until it is over */
	const char *mode, *image; /* kube-inject; NULL: not given */
	/* kube; NULL: kubectl's kubeconfig, its current context, l7mp-system */
	const char *kubeconfig, *context, *kube_ns;
	long limit;                /* --limit; 0: all, -1: not given */
	struct ctl_client *client; /* made at the first request */
};

/* ---- client.c: blocking HTTP by libcurl ---- */

/*
 * Returns a path of the API from its segments, which end with NULL: "/clusters/a%2Fb" from
 * "clusters", "a/b". Heap; NULL: out of memory, which ctl_request accepts.
 */
char *ctl_path(const char *first, ...) __attribute__((sentinel));
/*
 * Sends a request below /api/v1 and waits for the answer; `path` is encoded, `body` may be NULL.
 * Returns CTL_OK and *out (the answer's tree, an object, owned by the caller), or CTL_FAILED after
 * a message on stderr. When the server rejects the request, its issues are printed with the lines
 * in `lines`, the document that was sent (may be NULL). The first request discovers the API's
 * address.
 */
struct ctl_input;
int ctl_request(struct ctl *c, const char *method, const char *path, const cJSON *body,
                const struct ctl_input *lines, cJSON **out);
/* The same for a GET whose answer is a list of objects. */
int ctl_request_list(struct ctl *c, const char *path, cJSON **out);
/*
 * Returns the local port of the last request, which identifies the session that carried it. 0:
 * none.
 */
long ctl_local_port(const struct ctl *c);
void ctl_client_free(struct ctl *c);

/* ---- input.c ---- */

struct ctl_input {
	struct l7mp_document *doc;
	cJSON *root;
	const char *name; /* for messages: the file or "stdin" */
	/* key of the object wrapped around it, with which paths begin; NULL: none */
	const char *wrapper;
};
/* Reads -f FILE or stdin. Returns CTL_OK, or CTL_FAILED/CTL_USAGE after a message. */
int ctl_input_read(struct ctl *c, struct ctl_input *in);
void ctl_input_free(struct ctl_input *in);
/*
 * Returns the line of the node for a path in an answer of the API ("listener.spec.port",
 * "rules[0].match"); 0 when unknown.
 */
int ctl_input_line(const struct ctl_input *in, const char *path);

/* ---- proxy.c ---- */

/*
 * Replaces this process by l7mp-proxy (exec), the one beside this program, else the one in PATH.
 * Returns only when that failed: CTL_FAILED, after a message.
 */
int ctl_exec_proxy(const char *command, char *const args[]);
/*
 * Runs l7mp-proxy, and reads the JSON that it prints, regardless of its exit status. Returns the
 * tree, owned by the caller; NULL after a message.
 */
cJSON *ctl_query_proxy(const char *command, char *const args[]);

/* ---- output.c ---- */

/*
 * Prints text that can't affect the terminal: control characters, those that change the direction
 * of writing, and bytes that are not UTF-8 are shown as escapes.
 */
void ctl_print_safe(FILE *to, const char *text);
/* "l7mpctl: ..." on stderr, printed safely; ctl_usage adds a hint and returns CTL_USAGE. */
void ctl_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int ctl_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints a tree in the format of -o; YAML instead of a table. Returns CTL_OK or CTL_FAILED. */
int ctl_print_tree(const struct ctl *c, const cJSON *node);

#define CTL_COLUMNS 9
struct ctl_table {
	const char *heads[CTL_COLUMNS + 1]; /* ends with NULL */
	char **cells;                       /* rows one after the other, each heap */
	size_t n_cells, cap;
	bool oom;
};
/*
 * Adds the next cell of the row; text is copied (NULL: shown as "-"). Running out of memory is
 * reported by ctl_table_print.
 */
void ctl_cell_str(struct ctl_table *t, const char *text);
void ctl_cell_num(struct ctl_table *t, double value);
/* Prints the table and empties it. Returns CTL_OK, or CTL_FAILED when memory ran out. */
int ctl_table_print(struct ctl_table *t);

/* ---- commands ---- */

struct ctl_command {
	const char *name;
	/* Gets the words after the command's name, and returns the exit status. */
	int (*run)(struct ctl *c, int argc, char **argv);
};
/* Each ends with name NULL. */
extern const struct ctl_command ctl_object_commands[];
extern const struct ctl_command ctl_session_commands[];
extern const struct ctl_command ctl_offload_commands[];
extern const struct ctl_command ctl_drain_commands[];
extern const struct ctl_command ctl_inject_commands[];
extern const struct ctl_command ctl_kube_commands[];
extern const struct ctl_command ctl_upgrade_commands[];

/* ---- objects.c: common to objects and sessions ---- */

struct ctl_collection {
	const char *plural, *singular;
	void (*row)(struct ctl_table *t, const cJSON *object);
	const char *const heads[CTL_COLUMNS + 1];
};
/*
 * Requests a list that can be long: at most --limit of it, without the option CTL_ROWS for a table
 * and all for JSON and YAML. Says on stderr when there is more. Returns as ctl_request.
 */
int ctl_get_list(struct ctl *c, const char *path, const char *what, cJSON **list);
int ctl_get_one(struct ctl *c, const char *plural, const char *name);
int ctl_delete_one(struct ctl *c, const char *plural, const char *name);
/* Prints `list` as a table, or in the format of -o. */
int ctl_print_list(struct ctl *c, const struct ctl_collection *kind, const cJSON *list);
