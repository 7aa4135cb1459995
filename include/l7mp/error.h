/* SPDX-License-Identifier: MIT */
/*
 * Errors for people. Inside modules functions return 0 or a negative errno;
 * at the edges (config, API, listening, connecting) they also fill an
 * l7mp_error that says what, where and what was expected. api/ alone turns the
 * code into an HTTP status.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct cJSON;

enum l7mp_code {
	L7MP_OK = 0,
	L7MP_ERR_PARSE,        /* text that is not JSON/YAML                  (400) */
	L7MP_ERR_REALISE,      /* valid, but can't be done: port in use ...   (400) */
	L7MP_ERR_UNAUTHORIZED, /* token missing or wrong                      (401) */
	L7MP_ERR_FORBIDDEN,    /* not from this client                        (403) */
	L7MP_ERR_NOT_FOUND,    /*                                             (404) */
	L7MP_ERR_METHOD,       /*                                             (405) */
	L7MP_ERR_EXISTS,       /* the name is taken                           (409) */
	L7MP_ERR_TOO_LARGE,    /*                                             (413) */
	L7MP_ERR_MEDIA_TYPE,   /*                                             (415) */
	L7MP_ERR_SCHEMA,       /* see the list of issues                      (422) */
	L7MP_ERR_INTERNAL,     /* out of memory and the like                  (500) */
	L7MP_ERR_UPSTREAM,     /* a stage could not be connected              (502) */
	L7MP_ERR_LIMIT,        /* a configured limit                          (503) */
	L7MP_ERR_TIMEOUT,      /* a stage was not connected in time           (504) */
};

struct l7mp_error {
	enum l7mp_code code;
	int line;          /* in the input text, 1-based; 0 when not known */
	char path[256];    /* JSON path, "listeners[0].spec.port"; "" when none */
	char message[512]; /* "expected 1..65535, got 99999" */
};

/*
 * Fills `err` (may be NULL) and returns `rc`, so that a failing function ends
 * in `return l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE, "...")`.
 */
int l7mp_error_set(struct l7mp_error *err, int rc, enum l7mp_code code, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
/* "path: message" or only the message, for a log line. Truncates. */
const char *l7mp_error_text(const struct l7mp_error *err, char *buf, size_t size);

/*
 * What a validation found. Errors make the input unusable; warnings (an
 * unknown key) do so only in strict mode, where add_unknown files an error.
 */
struct l7mp_issue {
	bool warning;
	char *path;
	char *reason;
	const struct cJSON *node; /* borrowed: to find the line in the input; may be NULL */
};

struct l7mp_issues {
	struct l7mp_issue *v;
	size_t n;
	size_t errors; /* how many of n are not warnings */
	bool strict;
};

void l7mp_issues_init(struct l7mp_issues *is, bool strict);
void l7mp_issues_clear(struct l7mp_issues *is);
/*
 * Path and reason are copied; at most 64 issues are kept (errors before warnings), the rest only
 * counted in `errors`.
 */
void l7mp_issues_add(struct l7mp_issues *is, bool warning, const struct cJSON *node,
                     const char *path, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* First error as an l7mp_error with code L7MP_ERR_SCHEMA. No-op without errors. */
void l7mp_issues_first(const struct l7mp_issues *is, struct l7mp_error *err);
/*
 * Appends the issues of `from`, with `prefix` before each path ("a" + "b" is "a.b", "a" + "[0]" is
 * "a[0]").
 */
void l7mp_issues_merge(struct l7mp_issues *is, const struct l7mp_issues *from, const char *prefix);

/*
 * "permission denied", "address already in use" ...: an errno, negative or positive, in words that
 * fit into a sentence. Static text.
 */
const char *l7mp_errno_text(int err);
