/* SPDX-License-Identifier: MIT */
/*
 * JSON: configuration, REST bodies and session metadata are all cJSON trees. This header has what
 * cJSON lacks: a strict parser, printing in several formats, JSON pointers and safe access.
 *
 * Lookups are case-sensitive. A node has one owner; functions borrow their arguments unless the
 * comment says "takes".
 *
 * Thread: any; a tree belongs to one thread at a time.
 */
#pragma once

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The formats of the query parameter ?format= (docs/api.md). */
enum l7mp_json_format {
	L7MP_JSON_PLAIN, /* compact, one line: the default */
	L7MP_JSON_TERSE, /* compact, without quotes where YAML needs none */
	L7MP_JSON_SPACE, /* one line with a space after , and : */
	L7MP_JSON_LINES, /* indented */
	L7MP_JSON_DIFFY, /* indented, keys sorted, one scalar a line: for diff(1) */
};
/* Finds a format by its name ("plain" ...), in any case. Returns 0, or -EINVAL if unknown. */
int l7mp_json_format_parse(const char *name, enum l7mp_json_format *out);
/* Prints a tree, with a final newline. Free the text with free(). NULL when out of memory. */
char *l7mp_json_print(const cJSON *node, enum l7mp_json_format format);

#define L7MP_JSON_DEPTH  128     /* nested containers */
#define L7MP_JSON_VALUES 1000000 /* values in one text: each costs about 80 bytes as a node */

/*
 * Parses exactly one JSON text (RFC 8259), after which only white space may follow. A byte order
 * mark is skipped. Besides syntax errors it refuses duplicate keys, \u0000 in strings (cJSON's
 * strings end at NUL), integers beyond 2^53 (a double would round them), numbers that a double
 * can't hold or that are longer than 63 characters, and more than L7MP_JSON_DEPTH levels or
 * L7MP_JSON_VALUES values.
 *
 * Returns a new tree. On failure returns NULL, sets *line (counted from 1; 0 when out of memory)
 * and writes a message; both may be NULL.
 */
cJSON *l7mp_json_parse(const char *text, size_t len, int *line, char *message, size_t message_size);
/*
 * As l7mp_json_parse, and calls on_node for each node in document order, before its value is read:
 * a node first, then its children. `line` is where the node begins, or its key for a member of an
 * object. When on_node does not return 0, parsing fails as out of memory.
 */
typedef int (*l7mp_json_node_fn)(void *arg, const cJSON *node, int line);
cJSON *l7mp_json_parse_nodes(const char *text, size_t len, l7mp_json_node_fn on_node, void *arg,
                             int *line, char *message, size_t message_size);

/*
 * JSON pointers are those of RFC 6901, except that the leading '/' may be absent, and that "/"
 * means the root, as "" does.
 */
/* Returns the node that `pointer` refers to, or NULL when there is none. */
cJSON *l7mp_json_get(const cJSON *root, const char *pointer);
/*
 * Sets the node that `pointer` refers to. Takes `value`, also on failure. Missing objects on the
 * path are created; the index "-", or one equal to the length, appends to an array. Setting the
 * root replaces its contents, while the node `root` stays. Returns 0; -EINVAL when the path goes
 * through a scalar or an invalid array index, or is deeper than L7MP_JSON_DEPTH; -ENOMEM. On
 * failure the tree is unchanged.
 */
int l7mp_json_set(cJSON *root, const char *pointer, cJSON *value);
/* Returns whether a pointer is well formed ('~' only as ~0 or ~1) and not too deep. */
bool l7mp_json_pointer_valid(const char *pointer);

/* Returns a member by its exact key; NULL when it is absent or `object` is no object. */
cJSON *l7mp_json_member(const cJSON *object, const char *key);
/* Return a member's value, or `fallback` when it is absent or has another type. */
const char *l7mp_json_str(const cJSON *object, const char *key, const char *fallback);
double l7mp_json_num(const cJSON *object, const char *key, double fallback);
bool l7mp_json_bool(const cJSON *object, const char *key, bool fallback);

/* Returns the JSON type of a node: "null", "boolean", "number", "string", "array", "object". */
const char *l7mp_json_type(const cJSON *node);
/* Compares two trees: members of objects in any order, numbers by value. */
bool l7mp_json_equal(const cJSON *a, const cJSON *b);
/* Writes a short text of any value for messages ("got 99999"), truncated with "...". */
const char *l7mp_json_brief(const cJSON *node, char *buf, size_t size);

/*
 * Add a member to an object without checking whether the key exists. Return 0 or -ENOMEM, the
 * latter also when `object` or `item` is NULL, so that the caller need not check these allocations
 * first. l7mp_json_add takes `item`, also on failure. A NULL string becomes null.
 */
int l7mp_json_add(cJSON *object, const char *key, cJSON *item);
int l7mp_json_append(cJSON *array, cJSON *item); /* the same for an element of an array */
int l7mp_json_add_str(cJSON *object, const char *key, const char *value);
int l7mp_json_add_num(cJSON *object, const char *key, double value);
int l7mp_json_add_bool(cJSON *object, const char *key, bool value);
