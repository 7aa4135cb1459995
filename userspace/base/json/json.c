/* SPDX-License-Identifier: MIT */
/* Trees of cJSON nodes: members, comparison, and a parser. */
#include "l7mp/json.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/hash.h"
#include "l7mp/util.h"

/* ---- an index of an object's members ---- */

/*
 * An index of the members of an object, because cJSON's look-up is linear and a peer chooses how
 * many members there are. Small objects are searched linearly.
 */
struct json_index {
	const cJSON *object;
	const cJSON **slots; /* NULL: search linearly */
	size_t mask;
};

#define SEARCH_IN_PLACE 8

/* Returns the slot of the member with this key, or the free slot where it belongs. */
static const cJSON **slot_of(const struct json_index *index, const char *key)
{
	size_t i = (size_t)l7mp_hash(key, strlen(key)) & index->mask;

	while (index->slots[i] && strcmp(index->slots[i]->string, key) != 0)
		i = (i + 1) & index->mask;
	return &index->slots[i];
}

/*
 * Builds an index. Returns 0 or -ENOMEM. In both cases index_find works and returns the first of
 * equal keys; without an index it searches linearly.
 */
static int index_build(struct json_index *index, const cJSON *object)
{
	size_t n = 0, size = 2 * SEARCH_IN_PLACE;

	*index = (struct json_index){.object = object};
	for (const cJSON *m = object->child; m; m = m->next)
		n++;
	if (n <= SEARCH_IN_PLACE)
		return 0;
	while (size < 2 * n)
		size *= 2;
	index->slots = calloc(size, sizeof(void *));
	if (!index->slots)
		return -ENOMEM;
	index->mask = size - 1;
	for (const cJSON *m = object->child; m; m = m->next) {
		const cJSON **slot = m->string ? slot_of(index, m->string) : NULL;

		if (slot && !*slot)
			*slot = m;
	}
	return 0;
}

static const cJSON *index_find(const struct json_index *index, const char *key)
{
	if (index->slots)
		return *slot_of(index, key);
	return cJSON_GetObjectItemCaseSensitive(index->object, key);
}

static void index_free(struct json_index *index)
{
	free(index->slots);
}

/* ---- members ---- */

cJSON *l7mp_json_member(const cJSON *object, const char *key)
{
	return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
}

const char *l7mp_json_str(const cJSON *object, const char *key, const char *fallback)
{
	const cJSON *v = l7mp_json_member(object, key);

	return cJSON_IsString(v) && v->valuestring ? v->valuestring : fallback;
}

double l7mp_json_num(const cJSON *object, const char *key, double fallback)
{
	const cJSON *v = l7mp_json_member(object, key);

	return cJSON_IsNumber(v) ? v->valuedouble : fallback;
}

bool l7mp_json_bool(const cJSON *object, const char *key, bool fallback)
{
	const cJSON *v = l7mp_json_member(object, key);

	return cJSON_IsBool(v) ? cJSON_IsTrue(v) : fallback;
}

const char *l7mp_json_type(const cJSON *node)
{
	if (cJSON_IsNull(node))
		return "null";
	if (cJSON_IsBool(node))
		return "boolean";
	if (cJSON_IsNumber(node))
		return "number";
	if (cJSON_IsString(node))
		return "string";
	if (cJSON_IsArray(node))
		return "array";
	if (cJSON_IsObject(node))
		return "object";
	return "undefined";
}

/* ---- equality ---- */

static bool objects_equal(const cJSON *a, const cJSON *b)
{
	struct json_index index;
	bool equal = true;
	size_t n = 0;

	for (const cJSON *m = a->child; m; m = m->next)
		n++;
	for (const cJSON *m = b->child; m; m = m->next) {
		if (!n--)
			return false;
	}
	if (n)
		return false;
	/* Without memory for the index, look-ups are linear. */
	index_build(&index, b);
	for (const cJSON *m = a->child; m && equal; m = m->next) {
		const cJSON *other = m->string ? index_find(&index, m->string) : NULL;

		equal = other && l7mp_json_equal(m, other);
	}
	index_free(&index);
	return equal;
}

static bool arrays_equal(const cJSON *a, const cJSON *b)
{
	const cJSON *x = a->child;
	const cJSON *y = b->child;

	for (; x && y; x = x->next, y = y->next)
		if (!l7mp_json_equal(x, y))
			return false;
	return !x && !y;
}

bool l7mp_json_equal(const cJSON *a, const cJSON *b)
{
	if (!a || !b)
		return a == b;
	if ((a->type & 0xff) != (b->type & 0xff))
		return false;
	switch (a->type & 0xff) {
	case cJSON_Number:
		return a->valuedouble == b->valuedouble;
	case cJSON_String:
	case cJSON_Raw:
		return a->valuestring && b->valuestring && !strcmp(a->valuestring, b->valuestring);
	case cJSON_Array:
		return arrays_equal(a, b);
	case cJSON_Object:
		return objects_equal(a, b);
	default:
		return true;
	}
}

/* ---- adders ---- */

int l7mp_json_add(cJSON *object, const char *key, cJSON *item)
{
	if (item && object && cJSON_AddItemToObject(object, key, item))
		return 0;
	cJSON_Delete(item);
	return -ENOMEM;
}

int l7mp_json_append(cJSON *array, cJSON *item)
{
	if (item && array && cJSON_AddItemToArray(array, item))
		return 0;
	cJSON_Delete(item);
	return -ENOMEM;
}

int l7mp_json_add_str(cJSON *object, const char *key, const char *value)
{
	return l7mp_json_add(object, key, value ? cJSON_CreateString(value) : cJSON_CreateNull());
}

int l7mp_json_add_num(cJSON *object, const char *key, double value)
{
	return l7mp_json_add(object, key, cJSON_CreateNumber(value));
}

int l7mp_json_add_bool(cJSON *object, const char *key, bool value)
{
	return l7mp_json_add(object, key, cJSON_CreateBool(value));
}

/* ---- reading ---- */

/*
 * An RFC 8259 parser that builds cJSON nodes in one pass. cJSON's own parser is too lenient for
 * texts from peers: it accepts control characters, invalid UTF-8, leading zeros and any white
 * space, truncates strings at \u0000, rounds large integers and turns 1e999 into infinity.
 *
 * Nodes are linked before they are filled, so that after an error the partial tree can be freed.
 */

#define NUMBER_MAX 63 /* characters; a double needs 24 */

struct cursor {
	const char *p;
	const char *end;
	int line;
	size_t nodes;
	int *key_lines; /* a stack: the lines of all members of all open objects */
	size_t n_keys, keys_cap;
	l7mp_json_node_fn on_node; /* may be NULL */
	void *arg;
	bool no_memory;
	char *message;
	size_t message_size;
};

__attribute__((format(printf, 2, 3))) static int fail(struct cursor *c, const char *fmt, ...)
{
	va_list ap;

	if (!c->message_size)
		return -EINVAL;
	va_start(ap, fmt);
	vsnprintf(c->message, c->message_size, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* Fails with "expected ..., got ..." for the next character. */
static int fail_expected(struct cursor *c, const char *what)
{
	size_t left = (size_t)(c->end - c->p);
	uint32_t cp = 0;
	size_t n = l7mp_utf8_decode(c->p, left, &cp);

	if (!left)
		return fail(c, "expected %s, got the end of the text", what);
	if (!n || l7mp_utf8_unprintable(cp))
		return fail(c, "expected %s, got the byte 0x%02x", what, (unsigned)(uint8_t)*c->p);
	return fail(c, "expected %s, got '%.*s'", what, (int)n, c->p);
}

static void skip_space(struct cursor *c)
{
	for (; c->p < c->end; c->p++) {
		if (*c->p == '\n')
			c->line++;
		else if (*c->p != ' ' && *c->p != '\t' && *c->p != '\r')
			return;
	}
}

static bool next_is(const struct cursor *c, char ch)
{
	return c->p < c->end && *c->p == ch;
}

static bool digit_next(const struct cursor *c)
{
	return c->p < c->end && *c->p >= '0' && *c->p <= '9';
}

static int hex4(struct cursor *c, unsigned *out)
{
	*out = 0;
	for (int i = 0; i < 4; i++, c->p++) {
		char ch = c->p < c->end ? *c->p : '\0';

		if (ch >= '0' && ch <= '9')
			*out = *out << 4 | (unsigned)(ch - '0');
		else if ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'f')
			*out = *out << 4 | (unsigned)((ch | 0x20) - 'a' + 10);
		else
			return fail_expected(c, "four hexadecimal digits after \\u");
	}
	return 0;
}

/* Reads the rest of an escape sequence, and writes the character to *out as UTF-8. */
static int read_escape(struct cursor *c, char **out)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	const char *name = c->p < c->end && *c->p ? strchr(names, *c->p) : NULL;
	unsigned unit, low;

	if (name) {
		*(*out)++ = values[name - names];
		c->p++;
		return 0;
	}
	if (!next_is(c, 'u'))
		return fail_expected(c, "an escape (one of \"\\/bfnrtu after the backslash)");
	c->p++;
	if (hex4(c, &unit))
		return -EINVAL;
	if (!unit)
		return fail(c, "a string with \\u0000 is not supported");
	if (unit >= 0xd800 && unit <= 0xdfff) {
		if (unit >= 0xdc00 || c->end - c->p < 6 || c->p[0] != '\\' || c->p[1] != 'u')
			return fail(c, "\\u%04x is half of a surrogate pair", unit);
		c->p += 2;
		if (hex4(c, &low))
			return -EINVAL;
		if (low < 0xdc00 || low > 0xdfff)
			return fail(c, "\\u%04x is half of a surrogate pair", unit);
		unit = 0x10000 + ((unit - 0xd800) << 10 | (low - 0xdc00));
	}
	*out += l7mp_utf8_encode(unit, *out);
	return 0;
}

/* Skips characters up to the next quote, backslash or invalid character. */
static int read_plain(struct cursor *c)
{
	while (c->p < c->end && *c->p != '"' && *c->p != '\\') {
		uint8_t ch = (uint8_t)*c->p;
		uint32_t cp;
		size_t n;

		if (ch < 0x20)
			return fail(c, "control character 0x%02x in a string, or a '\"' is missing",
			            ch);
		n = ch < 0x80 ? 1 : l7mp_utf8_decode(c->p, (size_t)(c->end - c->p), &cp);
		if (!n)
			return fail(c, "invalid UTF-8 in a string (byte 0x%02x)", ch);
		c->p += n;
	}
	return c->p < c->end ? 0 : fail(c, "a string has no end");
}

/*
 * Reads a string, beginning with its opening quote, into heap memory. The length of the source is
 * enough, because an escape is never shorter than its character.
 */
static int read_string(struct cursor *c, char **out)
{
	const char *start = ++c->p, *close;
	char *text, *to;

	if (read_plain(c))
		return -EINVAL;
	/* Finds the closing quote; with escapes, an upper bound of the length. */
	for (close = c->p; close < c->end && *close != '"'; close++)
		close += *close == '\\';
	text = malloc((size_t)((close < c->end ? close : c->end) - start) + 1);
	if (!text) {
		c->no_memory = true;
		return -ENOMEM;
	}
	to = text;
	for (;;) {
		memcpy(to, start, (size_t)(c->p - start));
		to += c->p - start;
		if (next_is(c, '"'))
			break;
		c->p++;
		if (read_escape(c, &to))
			goto bad;
		start = c->p;
		if (read_plain(c))
			goto bad;
	}
	c->p++;
	*to = '\0';
	*out = text;
	return 0;
bad:
	free(text);
	return -EINVAL;
}

static int scan_digits(struct cursor *c, const char *where)
{
	if (!digit_next(c))
		return fail_expected(c, where);
	while (digit_next(c))
		c->p++;
	return 0;
}

/*
 * Whether this is an integer beyond 2^53, up to which all implementations agree (RFC 8259, section
 * 6).
 */
static bool too_large(const char *digits, size_t n)
{
	static const char max[] = "9007199254740992";

	return n > sizeof(max) - 1 || (n == sizeof(max) - 1 && memcmp(digits, max, n) > 0);
}

static int read_number(struct cursor *c, cJSON *node)
{
	char text[NUMBER_MAX + 1];
	const char *start = c->p, *digits;
	bool integer = true;
	size_t len;

	c->p += *c->p == '-';
	digits = c->p;
	if (next_is(c, '0')) {
		c->p++;
		if (digit_next(c))
			return fail(c, "a number begins with a 0");
	} else if (scan_digits(c, "a digit")) {
		return -EINVAL;
	}
	len = (size_t)(c->p - digits);
	if (next_is(c, '.')) {
		integer = false;
		c->p++;
		if (scan_digits(c, "a digit after the decimal point"))
			return -EINVAL;
	}
	if (next_is(c, 'e') || next_is(c, 'E')) {
		integer = false;
		c->p++;
		if (next_is(c, '+') || next_is(c, '-'))
			c->p++;
		if (scan_digits(c, "a digit in the exponent"))
			return -EINVAL;
	}
	if ((size_t)(c->p - start) > NUMBER_MAX)
		return fail(c, "a number has more than %d characters", NUMBER_MAX);
	if (integer && too_large(digits, len))
		return fail(c,
		            "the integer %.*s%s is beyond 2^53 and would be rounded: expected a "
		            "smaller one, or a string",
		            (int)(c->p - start > 40 ? 40 : c->p - start), start,
		            c->p - start > 40 ? "..." : "");
	len = (size_t)(c->p - start);
	memcpy(text, start, len);
	text[len] = '\0';
	node->type = cJSON_Number;
	cJSON_SetNumberValue(node, strtod(text, NULL));
	if (isinf(node->valuedouble))
		return fail(c, "the number %s is out of range", text);
	return 0;
}

static int read_literal(struct cursor *c, cJSON *node)
{
	static const struct {
		const char *word;
		int type;
	} words[] = {{"true", cJSON_True}, {"false", cJSON_False}, {"null", cJSON_NULL}};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(words); i++) {
		size_t n = strlen(words[i].word);

		if ((size_t)(c->end - c->p) >= n && !memcmp(c->p, words[i].word, n)) {
			c->p += n;
			node->type = words[i].type;
			return 0;
		}
	}
	return fail_expected(c, "a value");
}

static int read_value(struct cursor *c, cJSON *node, int line, int depth);

/* Reads a member's key and the colon; *line is set to the key's line. */
static int read_key(struct cursor *c, char **key, int *line)
{
	int rc;

	if (!next_is(c, '"'))
		return fail_expected(c, "a key in double quotes");
	*line = c->line;
	rc = read_string(c, key);
	if (rc)
		return rc;
	skip_space(c);
	if (!next_is(c, ':'))
		return fail_expected(c, "':' after the key");
	c->p++;
	skip_space(c);
	return 0;
}

/* Appends a child. cJSON keeps the last child in the first one's `prev`. NULL: no memory. */
static cJSON *append(struct cursor *c, cJSON *parent)
{
	cJSON *node = cJSON_CreateNull();

	if (!node) {
		c->no_memory = true;
		return NULL;
	}
	if (!parent->child) {
		parent->child = node;
		node->prev = node;
	} else {
		cJSON *last = parent->child->prev;

		last->next = node;
		node->prev = last;
		parent->child->prev = node;
	}
	return node;
}

static int push_key_line(struct cursor *c, int line)
{
	if (c->n_keys == c->keys_cap) {
		size_t cap = c->keys_cap ? 2 * c->keys_cap : 64;
		int *v = reallocarray(c->key_lines, cap, sizeof(*v));

		if (!v) {
			c->no_memory = true;
			return -ENOMEM;
		}
		c->key_lines = v;
		c->keys_cap = cap;
	}
	c->key_lines[c->n_keys++] = line;
	return 0;
}

/* Checks for duplicate keys. `base` is where the lines of this object's keys begin. */
static int check_keys(struct cursor *c, const cJSON *object, size_t base)
{
	struct json_index index;
	size_t i = base;
	int rc = index_build(&index, object);

	if (rc) {
		c->no_memory = true;
		return rc;
	}
	for (const cJSON *m = object->child; m && !rc; m = m->next, i++) {
		if (index_find(&index, m->string) == m)
			continue;
		c->line = c->key_lines[i];
		rc = fail(c, "duplicate key %.60s%s", m->string,
		          strlen(m->string) > 60 ? "..." : "");
	}
	index_free(&index);
	return rc;
}

static int read_container(struct cursor *c, cJSON *node, int depth)
{
	bool object = *c->p++ == '{';
	char close = object ? '}' : ']';
	size_t base = c->n_keys;
	int rc;

	node->type = object ? cJSON_Object : cJSON_Array;
	if (depth > L7MP_JSON_DEPTH)
		return fail(c, "nested deeper than %d levels", L7MP_JSON_DEPTH);
	skip_space(c);
	if (next_is(c, close)) {
		c->p++;
		return 0;
	}
	for (;;) {
		int line = c->line;
		cJSON *child = append(c, node);

		if (!child ||
		    (object && (read_key(c, &child->string, &line) || push_key_line(c, line))) ||
		    read_value(c, child, line, depth))
			return -EINVAL;
		skip_space(c);
		if (next_is(c, close)) {
			c->p++;
			rc = object ? check_keys(c, node, base) : 0;
			c->n_keys = base;
			return rc;
		}
		if (!next_is(c, ','))
			return fail_expected(c, object ? "',' or '}'" : "',' or ']'");
		c->p++;
		skip_space(c);
	}
}

/* Reads a value into node. `line` is where the node begins, which is at its key, if any. */
static int read_value(struct cursor *c, cJSON *node, int line, int depth)
{
	int rc;

	if (++c->nodes > L7MP_JSON_VALUES)
		return fail(c, "more than %d values", L7MP_JSON_VALUES);
	rc = c->on_node ? c->on_node(c->arg, node, line) : 0;
	if (rc) {
		c->no_memory = rc == -ENOMEM;
		return fail(c, "refused");
	}
	if (c->p == c->end)
		return fail_expected(c, "a value");
	switch (*c->p) {
	case '{':
	case '[':
		return read_container(c, node, depth + 1);
	case '"':
		node->type = cJSON_String;
		return read_string(c, &node->valuestring);
	case '-':
	case '0' ... '9':
		return read_number(c, node);
	default:
		return read_literal(c, node);
	}
}

static int read_text(struct cursor *c, cJSON *root)
{
	/* RFC 8259, section 8.1: a byte order mark may be ignored. */
	if (c->end - c->p >= 3 && !memcmp(c->p, "\xef\xbb\xbf", 3))
		c->p += 3;
	skip_space(c);
	if (read_value(c, root, c->line, 0))
		return -EINVAL;
	skip_space(c);
	return c->p == c->end ? 0 : fail_expected(c, "nothing after the value");
}

cJSON *l7mp_json_parse_nodes(const char *text, size_t len, l7mp_json_node_fn on_node, void *arg,
                             int *line, char *message, size_t message_size)
{
	struct cursor c = {.p = text,
	                   .end = text + len,
	                   .line = 1,
	                   .on_node = on_node,
	                   .arg = arg,
	                   .message = message,
	                   .message_size = message_size};
	cJSON *root = cJSON_CreateNull();
	int rc = root ? read_text(&c, root) : -ENOMEM;

	free(c.key_lines);
	if (!rc) {
		if (line)
			*line = 0;
		return root;
	}
	if (!root || c.no_memory) {
		(void)fail(&c, "out of memory");
		c.line = 0;
	}
	if (line)
		*line = c.line;
	cJSON_Delete(root);
	return NULL;
}

cJSON *l7mp_json_parse(const char *text, size_t len, int *line, char *message, size_t message_size)
{
	return l7mp_json_parse_nodes(text, len, NULL, NULL, line, message, message_size);
}
