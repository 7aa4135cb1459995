/* SPDX-License-Identifier: MIT */
/* Private to kube/, and for its unit tests. */
#pragma once

#include "l7mp/kube.h"
#include "l7mp/util.h"

/* ---- text.c: incremental parsing of texts from the API server, and of truncated JSON ---- */

/* Splits a stream into lines. */
struct kube_lines {
	size_t max; /* maximum number of bytes kept of a line */
	/* A line without its end; `bytes` is its length, more than `len` when it is too long. */
	int (*line)(void *arg, const char *text, size_t len, size_t bytes);
	void *arg;
	/* Private. */
	struct l7mp_str part;
	size_t bytes; /* of the line so far */
};
/*
 * Calls `line` for each complete line; skips empty ones. Returns 0, -ENOMEM, or the result of
 * `line`.
 */
int kube_lines_feed(struct kube_lines *l, const char *bytes, size_t n);
/* Discards an incomplete line. */
void kube_lines_clear(struct kube_lines *l);

/*
 * Splits a List while it arrives: calls `item` for each of its items, and keeps its metadata.
 * Memory is bounded by one item.
 */
struct kube_split {
	size_t max; /* maximum number of bytes kept of an item */
	int (*item)(void *arg, const char *text, size_t len, size_t bytes);
	void *arg;
	/* Private, except for `metadata` and `complete`. */
	struct l7mp_str metadata; /* the text of .metadata */
	bool complete;            /* the list has ended, with no data after it */
	struct l7mp_str part;
	size_t bytes;
	char key[16];
	uint8_t key_len;
	uint16_t depth;
	bool in_string, escaped, in_key, in_items, began;
	enum { KUBE_SPLIT_NOTHING, KUBE_SPLIT_METADATA, KUBE_SPLIT_ITEM } capture;
};
/* Returns 0; -EINVAL: not a JSON object; -ENOMEM; or the result of `item`. */
int kube_split_feed(struct kube_split *s, const char *bytes, size_t n);
void kube_split_clear(struct kube_split *s);

/*
 * Finds a value by the keys of nested objects (ends with NULL), in a text that may be truncated
 * after it. Returns false when it is absent or incomplete.
 */
bool kube_prefix_find(const char *text, size_t len, const char *const *keys, const char **value,
                      size_t *value_len);

/* ---- exec.c ---- */

struct kube_exec_run;
/*
 * Credentials printed by the program; NULL if absent. `error` is NULL, or says why there are none.
 */
struct kube_exec_result {
	const char *token, *cert, *key;
	uint64_t expires_ms; /* wall clock; 0: never */
	const char *error;
};
/* Runs the program. `done` is called once, from a later loop iteration. */
int kube_exec_start(struct l7mp_loop *loop, const struct kube_config *config, const char *ca,
                    void (*done)(void *arg, const struct kube_exec_result *result), void *arg,
                    struct kube_exec_run **out);
void kube_exec_cancel(struct kube_exec_run **run);
/* Parses its output. `root` must outlive the result. */
void kube_exec_parse(const cJSON *root, const char *api_version, struct kube_exec_result *out);
#define KUBE_EXEC_MS  60000 /* time for it */
#define KUBE_EXEC_MAX (256 * 1024)

/* Parses an RFC 3339 time into ms since the epoch. Returns 0 or -EINVAL. */
int kube_time_parse(const char *text, uint64_t *out);
/* Decodes base64 (RFC 4648, white space between is ignored) to a text; NULL: not base64, or NUL. */
char *kube_base64(const char *text);
/* Encodes a text; heap. NULL when out of memory. */
char *kube_base64_encode(const char *text);
