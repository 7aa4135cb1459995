/* SPDX-License-Identifier: MIT */
/* Prints block-style YAML that every YAML 1.1 and 1.2 parser reads as the same tree. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config_int.h"
#include "l7mp/util.h"

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/* Whether a string is printed without quotes: only if that is unambiguous. */
static bool is_bare(const char *s)
{
	static const char *const taken[] = {"true", "false", "null", "yes", "no",
	                                    "on",   "off",   "y",    "n",   NULL};
	const char *p;

	if (!*s || (!strchr(letters, *s) && *s != '/' && *s != '_') || strlen(s) > 200)
		return false;
	for (p = s; *p; p++) {
		bool plain = strchr(letters, *p) || strchr("0123456789_./@%+-", *p);

		if (!plain && !((*p == ' ' || *p == ':') && p[1] && p[1] != ' ' && p[1] != ':'))
			return false;
	}
	for (const char *const *t = taken; *t; t++)
		if (strcasecmp(s, *t) == 0)
			return false;
	return !l7mp_yaml_is_typed(s);
}

/* JSON's strings are valid double-quoted strings of YAML. */
static void put_json(struct l7mp_str *out, const cJSON *node)
{
	char *text = l7mp_json_print(node, L7MP_JSON_PLAIN);
	size_t n = text ? strlen(text) : 0;

	if (!text)
		out->oom = 1;
	while (n && text[n - 1] == '\n')
		n--;
	if (text)
		l7mp_str_addn(out, text, n);
	free(text);
}

static void put_string(struct l7mp_str *out, const char *s)
{
	cJSON node = {.type = cJSON_String, .valuestring = (char *)s};

	if (is_bare(s))
		l7mp_str_add(out, s);
	else
		put_json(out, &node);
}

static void put_indent(struct l7mp_str *out, int n)
{
	for (; n > 0; n--)
		l7mp_str_add(out, "  ");
}

static bool is_block(const cJSON *node)
{
	return (cJSON_IsObject(node) || cJSON_IsArray(node)) && node->child;
}

static void put_inline(struct l7mp_str *out, const cJSON *node)
{
	if (cJSON_IsObject(node))
		l7mp_str_add(out, "{}");
	else if (cJSON_IsArray(node))
		l7mp_str_add(out, "[]");
	else if (cJSON_IsString(node))
		put_string(out, node->valuestring);
	else
		put_json(out, node);
}

/*
 * YAML allows at most 1024 characters for "key:" on a line; longer keys need the explicit form "?
 * key".
 */
static void put_key(struct l7mp_str *out, const char *key, int indent)
{
	/* At most six characters for each byte. */
	if (strlen(key) < 160) {
		put_string(out, key);
	} else {
		l7mp_str_add(out, "? ");
		put_string(out, key);
		l7mp_str_add(out, "\n");
		put_indent(out, indent);
	}
	l7mp_str_add(out, ":");
}

/* Prints a collection whose first line is already indented. */
static void put_block(struct l7mp_str *out, const cJSON *node, int indent)
{
	const cJSON *child;

	cJSON_ArrayForEach (child, node) {
		if (child != node->child)
			put_indent(out, indent);
		if (cJSON_IsArray(node)) {
			l7mp_str_add(out, "- ");
			if (is_block(child))
				put_block(out, child, indent + 1);
		} else {
			put_key(out, child->string, indent);
			if (is_block(child)) {
				l7mp_str_add(out, "\n");
				put_indent(out, indent + 1);
				put_block(out, child, indent + 1);
			} else {
				l7mp_str_add(out, " ");
			}
		}
		if (!is_block(child)) {
			put_inline(out, child);
			l7mp_str_add(out, "\n");
		}
	}
}

char *l7mp_yaml_print(const cJSON *node)
{
	struct l7mp_str out = {0};

	if (is_block(node)) {
		put_block(&out, node, 0);
	} else {
		put_inline(&out, node);
		l7mp_str_add(&out, "\n");
	}
	if (!out.oom)
		return l7mp_str_take(&out);
	l7mp_str_free(&out);
	return NULL;
}
