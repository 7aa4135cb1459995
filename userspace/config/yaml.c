/* SPDX-License-Identifier: MIT */
/*
 * Converts YAML into a tree, using libyaml's events. libyaml tokenises (YAML 1.1 syntax, which for
 * configuration equals 1.2's); the types of scalars are determined here.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "config_int.h"
#include "l7mp/hash.h"

#define DEPTH_MAX      128
#define COPY_NODES_MAX 100000
#define COPY_BYTES_MAX (16u << 20)

/*
 * ---- scalars: YAML 1.2's core schema, section 10.3.2 ----
 *
 * So `yes`, `on`, `1:30` and `2020-01-01` are strings, `010` is ten and `0o10` eight. Two things
 * differ, since they would silently become something else in JSON: .inf, .nan and floats beyond
 * double's range are errors, and so are integers beyond 2^53.
 */

enum kind { KIND_STRING, KIND_NULL, KIND_TRUE, KIND_FALSE, KIND_INT, KIND_FLOAT, KIND_NOT_FINITE };

static bool one_of(const char *s, const char *const *words)
{
	for (; *words; words++)
		if (strcmp(s, *words) == 0)
			return true;
	return false;
}

static const char digits[] = "0123456789";

static bool is_int(const char *s)
{
	if (strncmp(s, "0o", 2) == 0)
		return s[2] && !s[2 + strspn(s + 2, "01234567")];
	if (strncmp(s, "0x", 2) == 0)
		return s[2] && !s[2 + strspn(s + 2, "0123456789abcdefABCDEF")];
	s += *s == '-' || *s == '+';
	return *s && !s[strspn(s, digits)];
}

/* [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )? */
static bool is_float(const char *s)
{
	size_t whole, part = 0;

	s += *s == '-' || *s == '+';
	whole = strspn(s, digits);
	s += whole;
	if (*s == '.') {
		part = strspn(s + 1, digits);
		s += 1 + part;
	}
	if (!whole && !part)
		return false;
	if (*s == 'e' || *s == 'E') {
		s++;
		s += *s == '-' || *s == '+';
		if (!*s)
			return false;
		s += strspn(s, digits);
	}
	return !*s;
}

static enum kind resolve(const char *s)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
	static const char *const trues[] = {"true", "True", "TRUE", NULL};
	static const char *const falses[] = {"false", "False", "FALSE", NULL};
	static const char *const infs[] = {".inf", ".Inf", ".INF", NULL};
	static const char *const nans[] = {".nan", ".NaN", ".NAN", NULL};

	if (one_of(s, nulls))
		return KIND_NULL;
	if (one_of(s, trues))
		return KIND_TRUE;
	if (one_of(s, falses))
		return KIND_FALSE;
	if (is_int(s))
		return KIND_INT;
	if (is_float(s))
		return KIND_FLOAT;
	if (one_of(s + (*s == '-' || *s == '+'), infs) || one_of(s, nans))
		return KIND_NOT_FINITE;
	return KIND_STRING;
}

bool l7mp_yaml_is_typed(const char *text)
{
	return resolve(text) != KIND_STRING;
}

static cJSON *make_int(const char *s, const char **message)
{
	double v;

	if (strncmp(s, "0o", 2) == 0) {
		v = 0;
		for (const char *p = s + 2; *p; p++)
			v = v * 8 + (*p - '0');
	} else {
		v = strtod(s, NULL); /* knows 0x */
	}
	/* 2^53 may also be the rounded value of 2^53 + 1. */
	if (fabs(v) < 0x1p53 || (fabs(v) == 0x1p53 && strstr(s, "9007199254740992")))
		return cJSON_CreateNumber(v);
	*message = "an integer beyond 2^53, which would be rounded: expected a smaller one, or a "
	           "string in quotes";
	return NULL;
}

static cJSON *make_float(const char *s, const char **message)
{
	double v = strtod(s, NULL);

	if (isfinite(v))
		return cJSON_CreateNumber(v);
	*message = "a number out of range, expected a finite one";
	return NULL;
}

static cJSON *make(enum kind kind, const char *text, const char **message)
{
	switch (kind) {
	case KIND_STRING:
		return cJSON_CreateString(text);
	case KIND_NULL:
		return cJSON_CreateNull();
	case KIND_TRUE:
		return cJSON_CreateTrue();
	case KIND_FALSE:
		return cJSON_CreateFalse();
	case KIND_INT:
		return make_int(text, message);
	case KIND_FLOAT:
		return make_float(text, message);
	case KIND_NOT_FINITE:
		*message = "infinity and NaN have no place in JSON, expected a finite number";
		return NULL;
	}
	return NULL;
}

/*
 * Creates a plain scalar by the core schema, or by the given tag ("tag:yaml.org,2002:int" ...;
 * NULL: none). NULL with *message (static) when it does not match; *message "" means out of memory.
 */
static cJSON *make_scalar(const char *text, const char *tag, const char **message)
{
	static const char prefix[] = "tag:yaml.org,2002:";
	enum kind kind = resolve(text);
	const char *name;
	bool ok;

	*message = "";
	if (!tag)
		return make(kind, text, message);
	name = strncmp(tag, prefix, sizeof(prefix) - 1) == 0 ? tag + sizeof(prefix) - 1 : tag;
	if (strcmp(tag, "!") == 0 || strcmp(name, "str") == 0)
		return cJSON_CreateString(text);
	if (strcmp(name, "int") == 0)
		ok = kind == KIND_INT;
	else if (strcmp(name, "float") == 0)
		ok = kind == KIND_INT || kind == KIND_FLOAT || kind == KIND_NOT_FINITE;
	else if (strcmp(name, "bool") == 0)
		ok = kind == KIND_TRUE || kind == KIND_FALSE;
	else if (strcmp(name, "null") == 0)
		ok = kind == KIND_NULL;
	else
		ok = false;
	if (ok)
		return make(kind, text, message);
	*message = "the tag doesn't fit the value, expected !!str, !!int, !!float, !!bool or "
	           "!!null and a "
	           "value of that type";
	return NULL;
}

/* ---- the keys of the mapping being read ---- */

struct key {
	const char *name; /* of the member, borrowed */
	UT_hash_handle hh;
};

/* 0 or -ENOMEM. */
static int keys_add(struct key **keys, const char *name)
{
	struct key *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->name = name;
	HASH_ADD_KEYPTR(hh, *keys, k->name, strlen(k->name), k);
	if (k->hh.tbl)
		return 0;
	free(k);
	return -ENOMEM;
}

static bool keys_has(struct key *keys, const char *name)
{
	struct key *k;

	HASH_FIND_STR(keys, name, k);
	return k != NULL;
}

static void keys_free(struct key **keys)
{
	struct key *k = *keys, *next;

	HASH_CLEAR(hh, *keys); /* the table; its elements stay linked */
	for (; k; k = next) {
		next = k->hh.next;
		free(k);
	}
}

/* ---- the reader ---- */

/*
 * The amount added by aliases and merge keys, which is bounded so that a small text can't become a
 * huge tree.
 */
struct copies {
	size_t nodes, bytes;
};

struct anchor {
	char *name;
	const cJSON *node; /* NULL: still being read */
	UT_hash_handle hh;
};

struct reader {
	yaml_parser_t parser;
	struct l7mp_document *doc;
	struct l7mp_error *err;
	struct anchor *anchors;
	/* array of the sources of merges, which an anchor may still refer to */
	cJSON *merge_sources;
	struct copies copies;
	int depth;
};

static int fail(struct reader *r, int line, const char *text)
{
	l7mp_error_set(r->err, 0, L7MP_ERR_PARSE, "%s", text);
	if (r->err)
		r->err->line = line;
	return -EINVAL;
}

static int no_memory(struct reader *r)
{
	return l7mp_error_set(r->err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

static int line_of(const yaml_event_t *ev)
{
	return (int)ev->start_mark.line + 1;
}

static int next_event(struct reader *r, yaml_event_t *ev)
{
	const yaml_parser_t *p = &r->parser;
	size_t line;

	if (yaml_parser_parse(&r->parser, ev))
		return 0;
	if (p->error == YAML_MEMORY_ERROR)
		return no_memory(r);
	line = p->problem_mark.line + 1;
	if (p->error == YAML_READER_ERROR) {
		/* libyaml gives only an offset for invalid UTF-8 and control characters. */
		l7mp_error_set(r->err, 0, L7MP_ERR_PARSE, "%s at byte %zu", p->problem,
		               p->problem_offset);
		return -EINVAL;
	}
	l7mp_error_set(r->err, 0, L7MP_ERR_PARSE, "%s%s%s", p->context ? p->context : "",
	               p->context ? ": " : "", p->problem ? p->problem : "not YAML");
	if (r->err)
		r->err->line = (int)line;
	return -EINVAL;
}

/* ---- copies: aliases and merges ---- */

/* Counts the copy of a tree; false when it exceeds the limit. */
static bool may_copy(struct copies *c, const cJSON *node, int depth)
{
	const cJSON *child;

	c->nodes++;
	c->bytes += sizeof(*node) + (node->string ? strlen(node->string) : 0) +
	            (node->valuestring ? strlen(node->valuestring) : 0);
	if (c->nodes > COPY_NODES_MAX || c->bytes > COPY_BYTES_MAX || depth > DEPTH_MAX)
		return false;
	cJSON_ArrayForEach (child, node)
		if (!may_copy(c, child, depth + 1))
			return false;
	return true;
}

static int note_all(struct reader *r, const cJSON *node, int line)
{
	const cJSON *child;
	int rc = l7mp_document_note(r->doc, node, line);

	cJSON_ArrayForEach (child, node)
		if (!rc)
			rc = note_all(r, child, line);
	return rc;
}

static int copy(struct reader *r, const cJSON *node, int line, cJSON **out)
{
	if (!may_copy(&r->copies, node, r->depth))
		return fail(r, line,
		            "aliases expand to too much, expected at most 100000 values, 16 MiB "
		            "and 128 levels");
	*out = cJSON_Duplicate(node, true);
	if (!*out || note_all(r, *out, line))
		return no_memory(r);
	return 0;
}

static int read_alias(struct reader *r, const yaml_event_t *ev, cJSON **out)
{
	struct anchor *a;

	HASH_FIND_STR(r->anchors, (const char *)ev->data.alias.anchor, a);
	if (!a)
		return fail(r, line_of(ev),
		            "unknown alias, expected the name of an anchor before it");
	if (!a->node)
		return fail(r, line_of(ev), "an alias inside of the node that it refers to");
	return copy(r, a->node, line_of(ev), out);
}

/*
 * Adds the anchor, which can't be used before its node is complete. *out is NULL when there is
 * none.
 */
static int open_anchor(struct reader *r, const yaml_char_t *name, struct anchor **out)
{
	struct anchor *a = NULL;

	*out = NULL;
	if (!name)
		return 0;
	HASH_FIND_STR(r->anchors, (const char *)name, a);
	if (!a) {
		a = calloc(1, sizeof(*a));
		if (a)
			a->name = strdup((const char *)name);
		if (!a || !a->name) {
			free(a);
			return no_memory(r);
		}
		HASH_ADD_KEYPTR(hh, r->anchors, a->name, strlen(a->name), a);
		if (!a->hh.tbl) {
			free(a->name);
			free(a);
			return no_memory(r);
		}
	}
	a->node = NULL;
	*out = a;
	return 0;
}

/* ---- nodes ---- */

static int read_node(struct reader *r, yaml_event_t *ev, cJSON **out);

static int read_scalar(struct reader *r, const yaml_event_t *ev, cJSON **out)
{
	const char *text = (const char *)ev->data.scalar.value;
	const char *tag = (const char *)ev->data.scalar.tag, *message = "";

	if (strlen(text) != ev->data.scalar.length)
		return fail(r, line_of(ev), "a NUL character in a string");
	if (!tag && !ev->data.scalar.plain_implicit)
		*out = cJSON_CreateString(text);
	else
		*out = make_scalar(text, tag, &message);
	if (*out)
		return 0;
	return *message ? fail(r, line_of(ev), message) : no_memory(r);
}

static int check_tag(struct reader *r, const yaml_event_t *ev, const yaml_char_t *tag,
                     const char *want)
{
	if (!tag || strcmp((const char *)tag, want) == 0 || strcmp((const char *)tag, "!") == 0)
		return 0;
	return fail(r, line_of(ev), "unknown tag, expected none");
}

static int read_sequence(struct reader *r, const yaml_event_t *start, cJSON *array)
{
	yaml_event_t ev;
	int rc = check_tag(r, start, start->data.sequence_start.tag, YAML_SEQ_TAG);

	while (!rc) {
		cJSON *item = NULL;

		rc = next_event(r, &ev);
		if (rc)
			return rc;
		if (ev.type == YAML_SEQUENCE_END_EVENT) {
			yaml_event_delete(&ev);
			return 0;
		}
		rc = read_node(r, &ev, &item);
		yaml_event_delete(&ev);
		if (item)
			cJSON_AddItemToArray(array, item);
	}
	return rc;
}

/* Adds a member. Takes item, also on failure; its key becomes the member's name. */
static int add_member(struct reader *r, cJSON *object, struct key **keys, const char *name,
                      cJSON *item)
{
	if (!cJSON_AddItemToObject(object, name, item)) {
		cJSON_Delete(item);
		return no_memory(r);
	}
	return keys_add(keys, item->string) ? no_memory(r) : 0;
}

/* Adds members of `from` that the object doesn't have. */
static int merge_one(struct reader *r, cJSON *object, struct key **keys, const cJSON *from,
                     int line)
{
	const cJSON *child;
	int rc = 0;

	if (!cJSON_IsObject(from))
		return fail(r, line, "a merge key (<<) takes a mapping or a sequence of mappings");
	cJSON_ArrayForEach (child, from) {
		cJSON *item = NULL;

		if (keys_has(*keys, child->string))
			continue;
		rc = copy(r, child, line, &item);
		if (rc) {
			cJSON_Delete(item);
			return rc;
		}
		rc = add_member(r, object, keys, child->string, item);
		if (rc)
			return rc;
	}
	return 0;
}

static int merge(struct reader *r, cJSON *object, struct key **keys, const cJSON *from, int line)
{
	const cJSON *child;
	int rc = 0;

	if (!cJSON_IsArray(from))
		return merge_one(r, object, keys, from, line);
	cJSON_ArrayForEach (child, from)
		if (!rc)
			rc = merge_one(r, object, keys, child, line);
	return rc;
}

static bool is_merge_key(const yaml_event_t *ev)
{
	return ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !ev->data.scalar.tag &&
	       strcmp((const char *)ev->data.scalar.value, "<<") == 0;
}

static int check_key(struct reader *r, const yaml_event_t *ev, struct key *keys)
{
	const char *name = (const char *)ev->data.scalar.value;
	char text[160];

	if (ev->type != YAML_SCALAR_EVENT)
		return fail(r, line_of(ev), "a key that is not a scalar, expected text");
	if (strlen(name) != ev->data.scalar.length)
		return fail(r, line_of(ev), "a NUL character in a key");
	if (!keys_has(keys, name))
		return 0;
	snprintf(text, sizeof(text), "duplicate key \"%.100s\"", name);
	return fail(r, line_of(ev), text);
}

/* Reads one key and its value. For the key << *merge_from is set instead. */
static int read_member(struct reader *r, const yaml_event_t *key, cJSON *object, struct key **keys,
                       cJSON **merge_from)
{
	yaml_event_t ev;
	cJSON *item = NULL;
	int rc = check_key(r, key, *keys);

	if (!rc)
		rc = next_event(r, &ev);
	if (rc)
		return rc;
	rc = read_node(r, &ev, &item);
	yaml_event_delete(&ev);
	if (rc) {
		cJSON_Delete(item);
		return rc;
	}
	if (is_merge_key(key)) {
		if (*merge_from) {
			cJSON_Delete(item);
			return fail(r, line_of(key),
			            "duplicate key \"<<\", expected one with a sequence");
		}
		*merge_from = item;
		return 0;
	}
	/* The line of a member is that of its key. */
	if (l7mp_document_note(r->doc, item, line_of(key))) {
		cJSON_Delete(item);
		return no_memory(r);
	}
	return add_member(r, object, keys, (const char *)key->data.scalar.value, item);
}

static int read_mapping(struct reader *r, const yaml_event_t *start, cJSON *object)
{
	struct key *keys = NULL;
	cJSON *merge_from = NULL;
	bool done = false;
	int rc = check_tag(r, start, start->data.mapping_start.tag, YAML_MAP_TAG);

	while (!rc && !done) {
		yaml_event_t ev;

		rc = next_event(r, &ev);
		if (rc)
			break;
		done = ev.type == YAML_MAPPING_END_EVENT;
		if (!done)
			rc = read_member(r, &ev, object, &keys, &merge_from);
		yaml_event_delete(&ev);
	}
	/* Merged last, because the mapping's own keys have precedence. */
	if (!rc && merge_from)
		rc = merge(r, object, &keys, merge_from, line_of(start));
	if (merge_from)
		cJSON_AddItemToArray(r->merge_sources, merge_from);
	keys_free(&keys);
	return rc;
}

static int read_collection(struct reader *r, const yaml_event_t *ev, cJSON **out)
{
	bool map = ev->type == YAML_MAPPING_START_EVENT;
	int rc;

	if (r->depth >= DEPTH_MAX)
		return fail(r, line_of(ev), "nested too deep, expected at most 128 levels");
	*out = map ? cJSON_CreateObject() : cJSON_CreateArray();
	if (!*out)
		return no_memory(r);
	r->depth++;
	rc = map ? read_mapping(r, ev, *out) : read_sequence(r, ev, *out);
	r->depth--;
	return rc;
}

/* *out may be set also on failure; the caller owns it. */
static int read_node(struct reader *r, yaml_event_t *ev, cJSON **out)
{
	struct anchor *a = NULL;
	int rc;

	switch (ev->type) {
	case YAML_ALIAS_EVENT:
		return read_alias(r, ev, out);
	case YAML_SCALAR_EVENT:
		rc = open_anchor(r, ev->data.scalar.anchor, &a);
		if (!rc)
			rc = read_scalar(r, ev, out);
		break;
	case YAML_SEQUENCE_START_EVENT:
		rc = open_anchor(r, ev->data.sequence_start.anchor, &a);
		if (!rc)
			rc = read_collection(r, ev, out);
		break;
	case YAML_MAPPING_START_EVENT:
		rc = open_anchor(r, ev->data.mapping_start.anchor, &a);
		if (!rc)
			rc = read_collection(r, ev, out);
		break;
	default:
		return fail(r, line_of(ev), "unexpected end of a value");
	}
	if (rc)
		return rc;
	if (a)
		a->node = *out;
	return l7mp_document_note(r->doc, *out, line_of(ev)) ? no_memory(r) : 0;
}

/* Reads a stream: start, at most one document, end. */
static int read_stream(struct reader *r)
{
	bool seen = false, done = false;
	int rc = 0;

	while (!rc && !done) {
		yaml_event_t ev;

		rc = next_event(r, &ev);
		if (rc)
			break;
		switch (ev.type) {
		case YAML_STREAM_END_EVENT:
			done = true;
			break;
		case YAML_STREAM_START_EVENT:
		case YAML_DOCUMENT_END_EVENT:
			break;
		case YAML_DOCUMENT_START_EVENT:
			if (seen)
				rc = fail(r, line_of(&ev),
				          "a second document (---), expected one only");
			seen = true;
			break;
		default:
			rc = read_node(r, &ev, &r->doc->root);
		}
		yaml_event_delete(&ev);
	}
	if (!rc && !r->doc->root) {
		r->doc->root = cJSON_CreateNull();
		if (!r->doc->root)
			rc = no_memory(r);
	}
	return rc;
}

int l7mp_yaml_parse(struct l7mp_document *d, const char *text, size_t len, struct l7mp_error *err)
{
	struct reader r = {.doc = d, .err = err, .merge_sources = cJSON_CreateArray()};
	struct anchor *a, *next;
	int rc;

	if (!r.merge_sources || !yaml_parser_initialize(&r.parser)) {
		cJSON_Delete(r.merge_sources);
		return no_memory(&r);
	}
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
	rc = read_stream(&r);
	yaml_parser_delete(&r.parser);
	a = r.anchors;
	HASH_CLEAR(hh, r.anchors); /* the table; its elements stay linked */
	for (; a; a = next) {
		next = a->hh.next;
		free(a->name);
		free(a);
	}
	cJSON_Delete(r.merge_sources);
	return rc;
}
