/* SPDX-License-Identifier: MIT */
/* Private to kube/, and for its unit tests. */
#pragma once

#include "l7mp/kube.h"
#include "l7mp/util.h"

/* ---- text.c: texts of the API server in pieces, and JSON that is cut off ---- */

/* Cuts a stream into lines. */
struct kube_lines {
	size_t max; /* bytes of a line that are kept */
	/* A line without its end; `bytes` is its length, more than `len` when it is too long. */
	int (*line)(void *arg, const char *text, size_t len, size_t bytes);
	void *arg;
	/* Private. */
	struct l7mp_str part;
	size_t bytes; /* of the line so far */
};
/*
 * Calls `line` for each line that is complete; empty ones are left out. Returns 0, or -ENOMEM, or
 * what `line` returned.
 */
int kube_lines_feed(struct kube_lines *l, const char *bytes, size_t n);
/* Forgets the part of a line that there is. */
void kube_lines_clear(struct kube_lines *l);

/*
 * Takes a List apart while it arrives: calls `item` for each of its items, and keeps its metadata.
 * Memory is bounded by one item.
 */
struct kube_split {
	size_t max; /* bytes of an item that are kept */
	int (*item)(void *arg, const char *text, size_t len, size_t bytes);
	void *arg;
	/* Private, but for `metadata` and `complete`. */
	struct l7mp_str metadata; /* the text of .metadata */
	bool complete;            /* the list has ended, with nothing behind it */
	struct l7mp_str part;
	size_t bytes;
	char key[16];
	uint8_t key_len;
	uint16_t depth;
	bool in_string, escaped, in_key, in_items, began;
	enum { KUBE_SPLIT_NOTHING, KUBE_SPLIT_METADATA, KUBE_SPLIT_ITEM } capture;
};
/* Returns 0; -EINVAL: this is no JSON object; -ENOMEM; or what `item` returned. */
int kube_split_feed(struct kube_split *s, const char *bytes, size_t n);
void kube_split_clear(struct kube_split *s);

/*
 * Finds a value by the keys of objects (ends with NULL), in a text that may be cut off behind it.
 * Returns false when it is not there completely.
 */
bool kube_prefix_find(const char *text, size_t len, const char *const *keys, const char **value,
                      size_t *value_len);

/* ---- exec.c ---- */

struct kube_exec_run;
/*
 * The credentials that the program printed; NULL where it printed none. `error` is NULL, or says
 * why there are none.
 */
struct kube_exec_result {
	const char *token, *cert, *key;
	uint64_t expires_ms; /* wall clock; 0: never */
	const char *error;
};
/* Runs the program. `done` is called once, from a later turn of the loop. */
int kube_exec_start(struct l7mp_loop *loop, const struct kube_config *config, const char *ca,
                    void (*done)(void *arg, const struct kube_exec_result *result), void *arg,
                    struct kube_exec_run **out);
void kube_exec_cancel(struct kube_exec_run **run);
/* Understands what it printed. `root` must outlive the result. */
void kube_exec_parse(const cJSON *root, const char *api_version, struct kube_exec_result *out);
#define KUBE_EXEC_MS  60000 /* time for it */
#define KUBE_EXEC_MAX (256 * 1024)

/* Parses an RFC 3339 time into ms since the epoch. Returns 0 or -EINVAL. */
int kube_time_parse(const char *text, uint64_t *out);
/* Decodes base64 (RFC 4648, white space between is ignored) to a text; NULL: not base64, or NUL. */
char *kube_base64(const char *text);
/* Encodes a text; heap. NULL when out of memory. */
char *kube_base64_encode(const char *text);
