/* SPDX-License-Identifier: MIT */
/*
 * Errors with a message. Inside of modules, functions return 0 or a negative errno. Functions
 * that work on the user's input or on the network (config, API, listening, connecting) also fill
 * a struct l7mp_error that says what failed, where, and what was expected. Only api/ turns its code
 * into an HTTP status.
 *
 * Thread: any; a value belongs to one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct cJSON;

enum l7mp_code {
	L7MP_OK = 0,
	L7MP_ERR_PARSE,        /* text that is not JSON/YAML                  (400) */
	L7MP_ERR_REALISE,      /* valid, but failed: port in use ...          (400) */
	L7MP_ERR_UNAUTHORIZED, /* token missing or wrong                      (401) */
	L7MP_ERR_FORBIDDEN,    /* not allowed for this client                 (403) */
	L7MP_ERR_NOT_FOUND,    /* no such object or path                      (404) */
	L7MP_ERR_METHOD,       /* the path has no such method                 (405) */
	L7MP_ERR_EXISTS,       /* the name is taken                           (409) */
	L7MP_ERR_TOO_LARGE,    /* the body exceeds limits.max_body            (413) */
	L7MP_ERR_MEDIA_TYPE,   /* neither JSON nor YAML                       (415) */
	L7MP_ERR_SCHEMA,       /* see the list of issues                      (422) */
	L7MP_ERR_INTERNAL,     /* out of memory and the like                  (500) */
	L7MP_ERR_UPSTREAM,     /* a stage could not be connected              (502) */
	L7MP_ERR_LIMIT,        /* a configured limit was reached              (503) */
	L7MP_ERR_TIMEOUT,      /* a stage was not connected in time           (504) */
};

struct l7mp_error {
	enum l7mp_code code;
	int line;          /* line of the input text, from 1; 0 when not known */
	char path[256];    /* JSON path, "listeners[0].spec.port"; "" when none */
	char message[512]; /* "expected 1..65535, got 99999" */
};

/*
 * Fills *err (err may be NULL) and returns `rc`, so that a failing function can end with
 * `return l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE, "...")`. Path and line are cleared. A
 * message that is too long is truncated.
 */
int l7mp_error_set(struct l7mp_error *err, int rc, enum l7mp_code code, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
/* Writes "path: message", or only the message, for a log line; truncates. Returns `buf`. */
const char *l7mp_error_text(const struct l7mp_error *err, char *buf, size_t size);

/*
 * A finding of validation. Errors make the input invalid. Warnings (an unknown key) do not, but in
 * strict mode they are errors.
 */
struct l7mp_issue {
	bool warning;
	char *path;               /* JSON path, "listeners[0].spec.port" */
	char *reason;             /* "expected 1..65535, got 99999" */
	const struct cJSON *node; /* borrowed, to find the line in the input; may be NULL */
};

struct l7mp_issues {
	struct l7mp_issue *v;
	size_t n;
	size_t errors; /* how many findings were errors, including those not kept in v */
	bool strict;
};

/* Initialises an empty list, and frees the contents of one. */
void l7mp_issues_init(struct l7mp_issues *is, bool strict);
void l7mp_issues_clear(struct l7mp_issues *is);
/*
 * Adds a finding; path and reason are copied, `node` is borrowed. At most 64 findings are kept, and
 * errors displace warnings; further errors are only counted.
 */
void l7mp_issues_add(struct l7mp_issues *is, bool warning, const struct cJSON *node,
                     const char *path, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* Fills *err with the first error, code L7MP_ERR_SCHEMA. Does nothing when there is none. */
void l7mp_issues_first(const struct l7mp_issues *is, struct l7mp_error *err);

/*
 * Describes an errno, negative or positive, in words that fit into a sentence: "permission denied",
 * "address already in use". Returns static text. Thread: any.
 */
const char *l7mp_errno_text(int err);
