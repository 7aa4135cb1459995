/* SPDX-License-Identifier: MIT */
/* Private to config/. */
#pragma once

#include "l7mp/config.h"

/* ---- document.c: a tree and the lines of its nodes ---- */

struct l7mp_line {
	const cJSON *node;
	int line;
	unsigned seq; /* of several entries for a node the last is valid */
};
struct l7mp_document {
	cJSON *root;
	struct l7mp_line *lines; /* sorted by node when the document is complete */
	size_t n_lines, cap_lines;
};
/* Records the line of a node. Returns 0 or -ENOMEM. */
int l7mp_document_note(struct l7mp_document *d, const cJSON *node, int line);

/* ---- yaml.c ---- */

/* Parses YAML into d->root and the lines. */
int l7mp_yaml_parse(struct l7mp_document *d, const char *text, size_t len, struct l7mp_error *err);
/* Returns whether YAML reads a plain scalar with this text as something else than a string. */
bool l7mp_yaml_is_typed(const char *text);
