/* SPDX-License-Identifier: MIT */
/* JSON pointers (RFC 6901). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/json.h"

/* One reference token, still escaped. */
struct token {
	const char *s;
	size_t len;
};

/* Skips the optional leading '/'. Returns NULL for the root. */
static const char *pointer_start(const char *pointer)
{
	if (pointer[0] == '/')
		pointer++;
	return pointer[0] ? pointer : NULL;
}

/* Returns the next token; *rest becomes NULL after the last. */
static struct token token_next(const char **rest)
{
	const char *s = *rest;
	size_t len = strcspn(s, "/");

	*rest = s[len] ? s + len + 1 : NULL;
	return (struct token){s, len};
}

/* Returns the unescaped character at *i, and advances *i. */
static char token_char(struct token t, size_t *i)
{
	char ch = t.s[(*i)++];

	if (ch == '~' && *i < t.len && (t.s[*i] == '0' || t.s[*i] == '1'))
		ch = t.s[(*i)++] == '0' ? '~' : '/';
	return ch;
}

static bool token_is(struct token t, const char *key)
{
	size_t i = 0;

	while (i < t.len) {
		/* The key's terminating NUL differs from every token character. */
		if (token_char(t, &i) != *key++)
			return false;
	}
	return !*key;
}

/* Allocated for cJSON, which frees it with its own hook. */
static char *token_key(struct token t)
{
	char *key = cJSON_malloc(t.len + 1);
	size_t i = 0, n = 0;

	if (!key)
		return NULL;
	while (i < t.len)
		key[n++] = token_char(t, &i);
	key[n] = '\0';
	return key;
}

/* Returns 0, or -EINVAL when this is not an array index: leading zero, sign, or too long. */
static int token_index(struct token t, size_t *out)
{
	size_t n = 0;

	if (!t.len || t.len > 9 || (t.s[0] == '0' && t.len > 1))
		return -EINVAL;
	for (size_t i = 0; i < t.len; i++) {
		if (t.s[i] < '0' || t.s[i] > '9')
			return -EINVAL;
		n = n * 10 + (size_t)(t.s[i] - '0');
	}
	*out = n;
	return 0;
}

static cJSON *child_of(const cJSON *node, struct token t)
{
	size_t index;

	if (cJSON_IsObject(node)) {
		for (cJSON *m = node->child; m; m = m->next)
			if (m->string && token_is(t, m->string))
				return m;
		return NULL;
	}
	if (!cJSON_IsArray(node) || token_index(t, &index))
		return NULL;
	for (cJSON *m = node->child; m; m = m->next)
		if (!index--)
			return m;
	return NULL;
}

bool l7mp_json_pointer_valid(const char *pointer)
{
	size_t depth = 0;

	if (!pointer)
		return false;
	for (const char *p = pointer; *p; p++) {
		if (*p == '~' && p[1] != '0' && p[1] != '1')
			return false;
		if (*p == '/' && p != pointer)
			depth++;
	}
	return depth < L7MP_JSON_DEPTH;
}

cJSON *l7mp_json_get(const cJSON *root, const char *pointer)
{
	const char *rest;
	const cJSON *node = root;

	if (!root || !l7mp_json_pointer_valid(pointer))
		return NULL;
	rest = pointer_start(pointer);
	while (rest && node)
		node = child_of(node, token_next(&rest));
	return (cJSON *)node;
}

/* ---- set ---- */

/* Replaces the contents of root by those of value; root keeps its place, name and address. */
static void replace_root(cJSON *root, cJSON *value)
{
	cJSON old = *root;
	cJSON *next = root->next, *prev = root->prev;
	char *name = root->string;
	int name_is_const = root->type & cJSON_StringIsConst;

	*root = *value;
	root->next = next;
	root->prev = prev;
	root->string = name;
	root->type = (value->type & ~cJSON_StringIsConst) | name_is_const;

	/* The old contents are freed with value. */
	value->child = old.child;
	value->valuestring = old.valuestring;
	value->type = (old.type & ~cJSON_StringIsConst) | (value->type & cJSON_StringIsConst);
	value->next = NULL;
	value->prev = NULL;
	cJSON_Delete(value);
}

/* Wraps value, which it takes, in objects for the tokens of `rest`. NULL: out of memory. */
static cJSON *wrap(const char *rest, cJSON *value)
{
	cJSON *object, *inner;
	struct token t;
	char *key;

	if (!rest)
		return value;
	t = token_next(&rest);
	inner = wrap(rest, value);
	if (!inner)
		return NULL;
	object = cJSON_CreateObject();
	key = token_key(t);
	if (!object || !key || !cJSON_AddItemToObject(object, key, inner)) {
		cJSON_Delete(object);
		cJSON_Delete(inner);
		object = NULL;
	}
	cJSON_free(key);
	return object;
}

static void set_name(cJSON *item, char *name)
{
	if (item->string && !(item->type & cJSON_StringIsConst))
		cJSON_free(item->string);
	item->type &= ~cJSON_StringIsConst;
	item->string = name;
}

/* Sets member `t` of parent to value, which it takes. */
static int put_member(cJSON *parent, struct token t, cJSON *value)
{
	cJSON *old = child_of(parent, t);
	char *key = token_key(t);
	int rc = -ENOMEM;

	if (!key) {
		cJSON_Delete(value);
		return rc;
	}
	if (old) {
		set_name(value, key);
		cJSON_ReplaceItemViaPointer(parent, old, value);
		return 0;
	}
	if (cJSON_AddItemToObject(parent, key, value))
		rc = 0;
	else
		cJSON_Delete(value);
	cJSON_free(key);
	return rc;
}

/* Sets element `t` of parent; "-" and the length append. */
static int put_element(cJSON *parent, struct token t, cJSON *value)
{
	size_t count = (size_t)cJSON_GetArraySize(parent);
	size_t index = count;

	if ((!(t.len == 1 && t.s[0] == '-') && token_index(t, &index)) || index > count) {
		cJSON_Delete(value);
		return -EINVAL;
	}
	set_name(value, NULL);
	if (index == count)
		cJSON_AddItemToArray(parent, value);
	else
		cJSON_ReplaceItemViaPointer(parent, cJSON_GetArrayItem(parent, (int)index), value);
	return 0;
}

int l7mp_json_set(cJSON *root, const char *pointer, cJSON *value)
{
	cJSON *parent = root;
	const char *rest;
	struct token t;

	if (!value)
		return -ENOMEM;
	if (!root || !l7mp_json_pointer_valid(pointer))
		goto invalid;
	rest = pointer_start(pointer);
	if (!rest) {
		replace_root(root, value);
		return 0;
	}
	for (;;) {
		cJSON *child;

		t = token_next(&rest);
		if (!cJSON_IsObject(parent) && !cJSON_IsArray(parent))
			goto invalid;
		child = rest ? child_of(parent, t) : NULL;
		if (!child)
			break;
		parent = child;
	}
	/* Build the whole value before linking it, so that a failure changes nothing. */
	value = wrap(rest, value);
	if (!value)
		return -ENOMEM;
	return cJSON_IsArray(parent) ? put_element(parent, t, value) : put_member(parent, t, value);
invalid:
	cJSON_Delete(value);
	return -EINVAL;
}
