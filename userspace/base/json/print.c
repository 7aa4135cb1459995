/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/json.h"
#include "l7mp/util.h"

#define INDENT 2

struct printer {
	struct l7mp_str out;
	enum l7mp_json_format format;
	size_t max; /* printing stops soon after this many bytes */
};

static const char *const format_names[] = {"plain", "terse", "space", "lines", "diffy"};

int l7mp_json_format_parse(const char *name, enum l7mp_json_format *out)
{
	for (size_t i = 0; name && i < L7MP_ARRAY_SIZE(format_names); i++) {
		if (!strcasecmp(name, format_names[i])) {
			*out = (enum l7mp_json_format)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* ---- scalars ---- */

/*
 * The shortest text that reads back as the same double. Integers up to 2^53 have no exponent;
 * larger values always have one, because the reader refuses such an integer as inexact.
 */
static void print_number(struct printer *p, double d)
{
	char text[40];

	if (!isfinite(d)) {
		l7mp_str_add(&p->out, "null"); /* as JSON.stringify does */
		return;
	}
	if (d == 0)
		d = 0; /* not -0 */
	if (fabs(d) <= 9007199254740992.0 && d == (double)(long long)d) {
		snprintf(text, sizeof(text), "%lld", (long long)d);
	} else {
		for (int digits = 15; digits <= 17; digits++) {
			snprintf(text, sizeof(text), "%.*g", digits, d);
			if (strtod(text, NULL) != d)
				continue;
			if (!strpbrk(text, ".e"))
				snprintf(text, sizeof(text), "%.*e", digits - 1, d);
			break;
		}
	}
	l7mp_str_add(&p->out, text);
}

/*
 * Escapes the characters that JSON requires, and those that would affect a terminal, break a line
 * or confuse a YAML parser. Bytes that are not UTF-8 become U+FFFD, so that the output is always
 * valid JSON.
 */
static void print_char(struct l7mp_str *out, const char *s, size_t len, uint32_t cp)
{
	static const char shorts[] = "\bb\ff\nn\rr\tt\"\"\\\\";
	const char *hit = cp && cp < 0x80 ? strchr(shorts, (int)cp) : NULL;

	if (!len)
		l7mp_str_add(out, "\xef\xbf\xbd");
	else if (hit && (hit - shorts) % 2 == 0)
		l7mp_str_addf(out, "\\%c", hit[1]);
	else if (!l7mp_utf8_unprintable(cp) || cp > 0xffff) /* YAML has no surrogate pairs of \u */
		l7mp_str_addn(out, s, len);
	else
		l7mp_str_addf(out, "\\u%04x", cp);
}

static void print_quoted(struct printer *p, const char *s)
{
	size_t left = strlen(s);

	l7mp_str_add(&p->out, "\"");
	while (left && p->out.len <= p->max) {
		size_t run = 0, n;
		uint32_t cp = 0;

		while (run < left && run < 4096 && s[run] >= ' ' && s[run] < 0x7f &&
		       s[run] != '"' && s[run] != '\\')
			run++;
		l7mp_str_addn(&p->out, s, run);
		s += run;
		left -= run;
		if (!left || run == 4096)
			continue;
		n = l7mp_utf8_decode(s, left, &cp);
		print_char(&p->out, s, n, cp);
		s += n ? n : 1;
		left -= n ? n : 1;
	}
	l7mp_str_add(&p->out, "\"");
}

/* Returns whether YAML (1.1 or 1.2, in flow style) reads the unquoted text as this string. */
static bool is_bare(const char *s)
{
	static const char *const taken[] = {"true", "false", "null", "yes", "no",
	                                    "on",   "off",   "y",    "n"};
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-");

	/* It can't be a number, as it begins with a letter or '/'. */
	if (!n || s[n] || n > 512 || strchr("0123456789.-", s[0]))
		return false;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(taken); i++)
		if (!strcasecmp(s, taken[i]))
			return false;
	return true;
}

static void print_string(struct printer *p, const char *s)
{
	if (p->format == L7MP_JSON_TERSE && s && is_bare(s))
		l7mp_str_add(&p->out, s);
	else
		print_quoted(p, s ? s : "");
}

/* ---- containers ---- */

static void print_node(struct printer *p, const cJSON *node, unsigned depth);

static bool indented(const struct printer *p)
{
	return p->format == L7MP_JSON_LINES || p->format == L7MP_JSON_DIFFY;
}

static void print_newline(struct printer *p, unsigned depth)
{
	if (indented(p))
		l7mp_str_addf(&p->out, "\n%*s", (int)(depth * INDENT), "");
}

static void print_child(struct printer *p, const cJSON *node, bool member, bool first,
                        unsigned depth)
{
	if (!first)
		l7mp_str_add(&p->out, p->format == L7MP_JSON_SPACE ? ", " : ",");
	print_newline(p, depth);
	if (member) {
		print_string(p, node->string);
		/* L7MP_JSON_TERSE needs the space, because YAML reads a:b as one scalar. */
		l7mp_str_add(&p->out, p->format == L7MP_JSON_PLAIN ? ":" : ": ");
	}
	print_node(p, node, depth);
}

static int by_key(const void *a, const void *b)
{
	const cJSON *const *x = a;
	const cJSON *const *y = b;

	return strcmp((*x)->string ? (*x)->string : "", (*y)->string ? (*y)->string : "");
}

static void print_sorted(struct printer *p, const cJSON *node, unsigned depth)
{
	size_t n = (size_t)cJSON_GetArraySize(node), i = 0;
	const cJSON **members = calloc(n, sizeof(void *));

	if (!members) {
		p->out.oom = 1;
		return;
	}
	for (const cJSON *m = node->child; m; m = m->next)
		members[i++] = m;
	qsort(members, n, sizeof(void *), by_key);
	for (i = 0; i < n; i++)
		print_child(p, members[i], true, i == 0, depth);
	free(members);
}

static void print_container(struct printer *p, const cJSON *node, unsigned depth)
{
	bool object = cJSON_IsObject(node);

	l7mp_str_add(&p->out, object ? "{" : "[");
	if (node->child) {
		if (object && p->format == L7MP_JSON_DIFFY)
			print_sorted(p, node, depth + 1);
		else
			for (const cJSON *m = node->child; m && p->out.len <= p->max; m = m->next)
				print_child(p, m, object, m == node->child, depth + 1);
		print_newline(p, depth);
	}
	l7mp_str_add(&p->out, object ? "}" : "]");
}

static void print_node(struct printer *p, const cJSON *node, unsigned depth)
{
	if (cJSON_IsObject(node) || cJSON_IsArray(node))
		print_container(p, node, depth);
	else if (cJSON_IsString(node))
		print_string(p, node->valuestring);
	else if (cJSON_IsNumber(node))
		print_number(p, node->valuedouble);
	else if (cJSON_IsBool(node))
		l7mp_str_add(&p->out, cJSON_IsTrue(node) ? "true" : "false");
	else if (cJSON_IsRaw(node) && node->valuestring)
		l7mp_str_add(&p->out, node->valuestring);
	else
		l7mp_str_add(&p->out, "null");
}

char *l7mp_json_print(const cJSON *node, enum l7mp_json_format format)
{
	struct printer p = {.format = format, .max = SIZE_MAX};

	print_node(&p, node, 0);
	l7mp_str_add(&p.out, "\n");
	return l7mp_str_take(&p.out);
}

const char *l7mp_json_brief(const cJSON *node, char *buf, size_t size)
{
	struct printer p = {.format = L7MP_JSON_SPACE, .max = size};
	size_t n;

	if (!size)
		return buf;
	if (node)
		print_node(&p, node, 0);
	else
		l7mp_str_add(&p.out, "nothing");
	if (p.out.oom || !p.out.s) {
		snprintf(buf, size, "%s", l7mp_json_type(node));
	} else if (p.out.len < size) {
		memcpy(buf, p.out.s, p.out.len + 1);
	} else {
		/* Truncates between characters; the text is valid UTF-8. */
		n = size > 4 ? size - 4 : 0;
		while (n && ((uint8_t)p.out.s[n] & 0xc0) == 0x80)
			n--;
		memcpy(buf, p.out.s, n);
		snprintf(buf + n, size - n, "...");
	}
	l7mp_str_free(&p.out);
	return buf;
}
