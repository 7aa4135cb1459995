/* SPDX-License-Identifier: MIT */
#include "l7mp/json.h"

#include <errno.h>
#include <string.h>

#include "json_private.h"

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
	json_index_build(&index, b);
	for (const cJSON *m = a->child; m && equal; m = m->next) {
		const cJSON *other = m->string ? json_index_find(&index, m->string) : NULL;

		equal = other && l7mp_json_equal(m, other);
	}
	json_index_free(&index);
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
