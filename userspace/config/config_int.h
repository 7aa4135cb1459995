/* SPDX-License-Identifier: MIT */
/* Shared by the files of config/ only. */
#pragma once

#include "l7mp/config.h"
#include "l7mp/hash.h"

/* ---- document.c: a tree and the lines of its nodes ---- */

struct l7mp_line {
	const cJSON *node;
	int line;
	unsigned seq; /* the last note of a node counts */
};
struct l7mp_document {
	cJSON *root;
	struct l7mp_line *lines; /* sorted by node once it is complete */
	size_t n_lines, cap_lines;
};
/* 0 or -ENOMEM. */
int l7mp_document_note(struct l7mp_document *d, const cJSON *node, int line);

#define L7MP_CONFIG_DEPTH 128

/* ---- yaml.c ---- */

/* Fills d->root and the lines. */
int l7mp_yaml_parse(struct l7mp_document *d, const char *text, size_t len, struct l7mp_error *err);

/* ---- yaml_scalar.c ---- */

/*
 * A plain scalar by YAML 1.2's core schema (section 10.3.2), or by the given tag
 * ("tag:yaml.org,2002:int" ...; NULL: none). NULL with *message (static) when it
 * isn't one; *message "" means out of memory.
 */
cJSON *l7mp_yaml_scalar(const char *text, const char *tag, const char **message);
/* Would a plain scalar with this text be read as something else than a string? */
bool l7mp_yaml_is_typed(const char *text);

/* ---- yaml_tree.c ---- */

/* What aliases and merge keys added so far, so that a small text can't become a huge tree. */
struct l7mp_copies {
	size_t nodes, bytes;
};
/* Counts the copy of a tree; false when it would be too much. */
bool l7mp_may_copy(struct l7mp_copies *c, const cJSON *node, int depth);

/* The keys of a mapping that is being read. */
struct l7mp_key {
	const char *name; /* of the member, borrowed */
	UT_hash_handle hh;
};
int l7mp_keys_add(struct l7mp_key **keys, const char *name); /* 0 or -ENOMEM */
bool l7mp_keys_has(struct l7mp_key *keys, const char *name);
void l7mp_keys_free(struct l7mp_key **keys);
