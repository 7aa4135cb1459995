/* SPDX-License-Identifier: MIT */
/*
 * YAML and JSON text into the one document tree (json.h), with the line of each
 * node where the parser knows it. YAML is read as its 1.2 core schema reads it
 * (libyaml only tokenises): true/false, null, ints, floats; quoted is a string;
 * anchors, aliases (bounded expansion) and merge keys are understood; duplicate
 * keys are an error; one document only. Depth at most 128.
 */
#pragma once

#include <stddef.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

struct l7mp_document; /* a tree and the lines of its nodes */

enum l7mp_syntax { L7MP_SYNTAX_JSON, L7MP_SYNTAX_YAML };

int l7mp_document_parse(enum l7mp_syntax syntax, const char *text, size_t len,
                        struct l7mp_document **out, struct l7mp_error *err);
/*
 * A document of a tree that was not read from a text: no node has a line. Takes root, also when
 * it fails. Returns 0, or -ENOMEM with err set.
 */
int l7mp_document_from_tree(cJSON *root, struct l7mp_document **out, struct l7mp_error *err);
/* .yaml and .yml are YAML, else JSON. At most 64 MiB. err->message names the file. */
int l7mp_document_load(const char *path, struct l7mp_document **out, struct l7mp_error *err);
cJSON *l7mp_document_root(struct l7mp_document *d);
/* 1-based line where the node begins; 0 when not known. */
int l7mp_document_line(const struct l7mp_document *d, const cJSON *node);
void l7mp_document_free(struct l7mp_document **d);

/* Block-style YAML text; heap, NULL when out of memory. Parses back to an equal tree. */
char *l7mp_yaml_print(const cJSON *node);
