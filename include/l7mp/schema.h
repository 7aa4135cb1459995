/* SPDX-License-Identifier: MIT */
/*
 * Schema tables: the single source of validation, defaults, the OpenAPI document and the
 * configuration reference.
 *
 * A table describes one object: its keys, and their types, ranges, defaults and documentation. Each
 * protocol has tables for its specs (protodesc.h).
 *
 * Thread: any; tables are constant.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/error.h"
#include "l7mp/json.h"

enum l7mp_schema_type {
	L7MP_T_BOOL,
	L7MP_T_INT,    /* integral number in [min, max] */
	L7MP_T_NUMBER, /* number in [min, max] */
	L7MP_T_STRING, /* length in [min, max] when max > 0; `pattern` names a check */
	L7MP_T_ENUM,   /* string, one of `values` (case-insensitive with L7MP_F_NOCASE) */
	L7MP_T_OBJECT, /* `sub` describes it; without `sub` any object */
	L7MP_T_MAP,    /* object with any keys; `item` describes the values (NULL: any) */
	L7MP_T_ARRAY,  /* `item` describes the elements; [min, max] of them when max > 0 */
	L7MP_T_ANY,
	/*
	 * Valid when one of `alternatives` (ends with NULL) accepts it. Errors are those of the
	 * alternative with the same JSON type.
	 */
	L7MP_T_ONEOF,
	L7MP_T_REF, /* a name, or an inline object described by `sub` */
	/*
	 * {protocol, ...}: the table of that protocol describes it, for the role (L7MP_ROLE_*) in
	 * `min`
	 */
	L7MP_T_PROTOCOL_SPEC,
};

enum l7mp_schema_flags {
	L7MP_F_REQUIRED = 1 << 0,
	L7MP_F_NOCASE = 1 << 1,
	L7MP_F_READONLY = 1 << 2, /* shown by GET, ignored in input, also in strict mode */
	L7MP_F_SECRET = 1 << 3,   /* never logged */
};

/* Named string checks; each has a sentence for messages ("a name without white space"). */
enum l7mp_schema_pattern {
	L7MP_P_NONE,
	L7MP_P_NAME,     /* ^\S+$ */
	L7MP_P_ADDRESS,  /* numeric IP address */
	L7MP_P_HOST,     /* IP address or host name */
	L7MP_P_POINTER,  /* JSON pointer, with or without the leading '/' */
	L7MP_P_FILENAME, /* a path, or @name for abstract UNIX sockets; fits sun_path */
	L7MP_P_PATH,     /* a file path, not empty */
	L7MP_P_MAC,      /* aa:bb:cc:dd:ee:ff */
	L7MP_P_URLPATH,  /* begins with '/' */
	L7MP_P_IFNAME,   /* 1..15 bytes, no white space or /:[]{}"' */
};

#define L7MP_NAME_MAX  255                /* bytes in the name of an object */
#define L7MP_EXACT_MAX 9007199254740991.0 /* 2^53 - 1: integers up to it are exact in a double */

struct l7mp_schema;

struct l7mp_field {
	const char *key; /* NULL in an `item` or an alternative, and at the end of a table */
	enum l7mp_schema_type type;
	unsigned flags;
	double min, max;
	enum l7mp_schema_pattern pattern;
	const char *const *values;                    /* enum: ends with NULL */
	const struct l7mp_schema *sub;                /* object, reference */
	const struct l7mp_field *item;                /* array, map */
	const struct l7mp_field *const *alternatives; /* oneof */
	const char *def; /* default as JSON text, for docs and l7mp_schema_default; NULL: none */
	const char *doc; /* one sentence, without a final period */
};

struct l7mp_schema {
	const char *name; /* "listener": OpenAPI component and heading */
	const char *doc;
	const struct l7mp_field *fields; /* ends with key == NULL */
	/* Optional: checks what a table can't express, after the fields. Adds issues. */
	void (*check)(const cJSON *object, const char *path, struct l7mp_issues *issues);
};

struct l7mp_registry;

/*
 * Checks `node` against the table, and adds all issues, with paths that begin with `path`.
 * `registry` resolves protocol names; it may be NULL when the table has no L7MP_T_PROTOCOL_SPEC.
 */
void l7mp_schema_check(const struct l7mp_schema *schema, const struct l7mp_registry *registry,
                       const cJSON *node, const char *path, struct l7mp_issues *issues);
/* Returns the description of a key; NULL when the table has none. */
const struct l7mp_field *l7mp_schema_field(const struct l7mp_schema *schema, const char *key);
/* Returns the default of a key as a new node; NULL when it has none, or when out of memory. */
cJSON *l7mp_schema_default(const struct l7mp_schema *schema, const char *key);

struct l7mp_protodesc;
/*
 * Checks an endpoint that comes without its cluster (POST /clusters/{name}/endpoints); its spec is
 * checked with the table of cluster_proto. Inside of a cluster, l7mp_schema_check takes the
 * protocol from the cluster's spec.
 */
void l7mp_schema_check_endpoint(const struct l7mp_registry *registry,
                                const struct l7mp_protodesc *cluster_proto, const cJSON *node,
                                const char *path, struct l7mp_issues *issues);

/* ---- for documents made from the tables ---- */

/* Writes what a message says after "expected": "an integer in 1..65535". Returns `buf`. */
const char *l7mp_schema_describe(const struct l7mp_field *field, char *buf, size_t size);
/* Describes a named check: "a name without white space". Static; NULL for L7MP_P_NONE. */
const char *l7mp_schema_pattern_text(enum l7mp_schema_pattern pattern);
/* The same as a regular expression (ECMA 262); NULL where none is exact enough. */
const char *l7mp_schema_pattern_regex(enum l7mp_schema_pattern pattern);
/* Returns whether a text passes the named check. */
bool l7mp_schema_pattern_ok(enum l7mp_schema_pattern pattern, const char *text);
