/* SPDX-License-Identifier: MIT */
/*
 * Parsing of YAML and JSON text into a document tree (json.h) that knows the line of each node.
 *
 * YAML is read by the core schema of YAML 1.2 (libyaml, which implements 1.1, only tokenises):
 * plain scalars may be booleans, null, integers or floats, and quoted scalars are strings. Anchors,
 * aliases and merge keys are supported, the expansion of aliases is bounded. Duplicate keys, a
 * second document and more than L7MP_JSON_DEPTH levels are errors.
 *
 * Thread: any; a document belongs to one thread at a time.
 */
#pragma once

#include <stddef.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

struct l7mp_document; /* a tree and the lines of its nodes */

enum l7mp_syntax { L7MP_SYNTAX_JSON, L7MP_SYNTAX_YAML };

/*
 * Parses a text of `len` bytes. Returns 0, or a negative errno with err set: code L7MP_ERR_PARSE
 * and the line for a bad text, L7MP_ERR_INTERNAL when out of memory.
 */
int l7mp_document_parse(enum l7mp_syntax syntax, const char *text, size_t len,
                        struct l7mp_document **out, struct l7mp_error *err);
/*
 * Makes a document of a tree that was not parsed from a text, so that no node has a line. Takes
 * `root`, also on failure. Returns 0, or -ENOMEM with err set.
 */
int l7mp_document_from_tree(cJSON *root, struct l7mp_document **out, struct l7mp_error *err);
/*
 * Reads and parses a file of at most 64 MiB: YAML when its name ends with .yaml or .yml, else JSON.
 * Returns 0, or a negative errno with err set; err->message names the file.
 */
int l7mp_document_load(const char *path, struct l7mp_document **out, struct l7mp_error *err);
/*
 * Calls `fn` for each document of a YAML stream, with its text, the line `---` included, and the
 * number of its first line. A stream without separators is one document. Stops when `fn` does not
 * return 0, and returns that.
 */
typedef int (*l7mp_yaml_part_fn)(void *arg, const char *text, size_t len, int line);
int l7mp_yaml_split(const char *text, size_t len, l7mp_yaml_part_fn fn, void *arg);
/* Returns the tree, which the document owns. */
cJSON *l7mp_document_root(struct l7mp_document *d);
/* Returns the line where a node of the tree begins, counted from 1; 0 when not known. */
int l7mp_document_line(const struct l7mp_document *d, const cJSON *node);
/* Frees the document and its tree. NULL inside is fine; nulls the pointer. */
void l7mp_document_free(struct l7mp_document **d);

/*
 * Returns the tree as block-style YAML text, which parses back to an equal tree. Free it with
 * free(). NULL when out of memory.
 */
char *l7mp_yaml_print(const cJSON *node);
