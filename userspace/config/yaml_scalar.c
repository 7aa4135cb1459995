/* SPDX-License-Identifier: MIT */
/*
 * YAML 1.2 core schema, section 10.3.2. So `yes`, `on`, `1:30` and `2020-01-01` are
 * strings, `010` is ten and `0o10` eight.
 *
 * Two things differ, since they would silently become something else in JSON: .inf, .nan and floats
 * beyond double's range are errors, and so are integers beyond 2^53.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config_int.h"

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
	/* 2^53 itself is what 2^53 + 1 is rounded to. */
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

cJSON *l7mp_yaml_scalar(const char *text, const char *tag, const char **message)
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
