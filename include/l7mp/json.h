/* SPDX-License-Identifier: MIT */
/*
 * The one document tree: configuration, REST bodies and session metadata are
 * cJSON trees. These are the helpers that cJSON lacks.
 *
 * Lookups are case-sensitive. A node has one owner; functions borrow unless
 * their comment says *takes*.
 */
#pragma once

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text as it comes from JSON.stringify and friends; see docs/api.md, ?format=. */
enum l7mp_json_format {
	L7MP_JSON_PLAIN, /* compact, one line: the default */
	L7MP_JSON_TERSE, /* compact, without quotes where YAML needs none */
	L7MP_JSON_SPACE, /* one line with a space after , and : */
	L7MP_JSON_LINES, /* indented */
	L7MP_JSON_DIFFY, /* indented, keys sorted, one scalar a line: for diff(1) */
};
int l7mp_json_format_parse(const char *name, enum l7mp_json_format *out);
/* Heap text with a final newline, NULL when out of memory; free() it. */
char *l7mp_json_print(const cJSON *node, enum l7mp_json_format format);

#define L7MP_JSON_DEPTH  128     /* containers inside each other */
#define L7MP_JSON_VALUES 1000000 /* values in one text: each costs about 80 bytes as a node */

/*
 * Parses exactly one JSON text (RFC 8259): nothing but white space may follow; depth at most
 * L7MP_JSON_DEPTH. Refuses besides: duplicate keys, \u0000 in strings (cJSON's strings end there),
 * integers beyond 2^53 (a double would round them), numbers out of double's range or over 63
 * characters, more than L7MP_JSON_VALUES values. A byte order mark is skipped.
 *
 * A new tree, or NULL with line (1-based; 0 when out of memory) and a message; both may be NULL.
 * Any thread.
 */
cJSON *l7mp_json_parse(const char *text, size_t len, int *line, char *message, size_t message_size);
/*
 * The same, and calls on_node for each node when it is reached, in document order, before its value
 * is read: a node, then its children. `line` is where it begins (its key, for a member). Anything
 * but 0 ends the parse: -ENOMEM as "out of memory".
 */
typedef int (*l7mp_json_node_fn)(void *arg, const cJSON *node, int line);
cJSON *l7mp_json_parse_nodes(const char *text, size_t len, l7mp_json_node_fn on_node, void *arg,
                             int *line, char *message, size_t message_size);

/*
 * JSON pointers (RFC 6901), with or without the leading '/'; "" and "/" are the
 * root. get: NULL when there is none. set: *takes* value, finds or creates
 * objects on the way ("-" or the length appends to an array); -EINVAL when the
 * way leads through a scalar or a bad array index or is deeper than
 * L7MP_JSON_DEPTH, -ENOMEM; the tree is then as it was. Setting the root replaces
 * what *root holds, root itself stays.
 */
cJSON *l7mp_json_get(const cJSON *root, const char *pointer);
int l7mp_json_set(cJSON *root, const char *pointer, cJSON *value);
/* Is the pointer text well formed ('~' only as ~0 or ~1) and not too deep? */
bool l7mp_json_pointer_valid(const char *pointer);

/* Member of an object by its exact key; NULL when absent or not an object. */
cJSON *l7mp_json_member(const cJSON *object, const char *key);
const char *l7mp_json_str(const cJSON *object, const char *key, const char *fallback);
double l7mp_json_num(const cJSON *object, const char *key, double fallback);
bool l7mp_json_bool(const cJSON *object, const char *key, bool fallback);

/* "null" "boolean" "number" "string" "array" "object" */
const char *l7mp_json_type(const cJSON *node);
/* Deep equality: objects without order, numbers by value. */
bool l7mp_json_equal(const cJSON *a, const cJSON *b);
/* A short text of any value for messages ("got 99999"), truncated with "...". */
const char *l7mp_json_brief(const cJSON *node, char *buf, size_t size);

/*
 * Adders that survive NULL: 0 or -ENOMEM. `add` *takes* item also on failure and does not
 * look for the key. A NULL string becomes null.
 */
int l7mp_json_add(cJSON *object, const char *key, cJSON *item);
int l7mp_json_add_str(cJSON *object, const char *key, const char *value);
int l7mp_json_add_num(cJSON *object, const char *key, double value);
int l7mp_json_add_bool(cJSON *object, const char *key, bool value);
