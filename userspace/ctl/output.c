/* SPDX-License-Identifier: MIT */
/* Output: tables, JSON, YAML, messages. Text that peers chose can't affect the terminal. */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"
#include "l7mp/config.h"

/*
 * Whether a character could control the terminal or change the direction of a line; not newline and
 * tab.
 */
static bool steers(uint32_t c)
{
	if (c == '\n' || c == '\t')
		return false;
	return l7mp_utf8_unprintable(c) || c == 0x200e || c == 0x200f || c == 0x061c;
}

static void add_safe(struct l7mp_str *out, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t left = strlen(text);

	while (left) {
		uint32_t c = 0;
		size_t n = l7mp_utf8_decode(s, left, &c);

		if (!n)
			l7mp_str_addf(out, "\\x%02x", *s);
		else if (steers(c))
			l7mp_str_addf(out, "\\u%04x", (unsigned)c);
		else
			l7mp_str_addn(out, s, n);
		n = n ? n : 1;
		s += n;
		left -= n;
	}
}

void ctl_print_safe(FILE *to, const char *text)
{
	struct l7mp_str s = {0};

	add_safe(&s, text);
	if (s.s)
		fputs(s.s, to);
	l7mp_str_free(&s);
}

static void message(const char *fmt, va_list ap) __attribute__((format(printf, 1, 0)));
static void message(const char *fmt, va_list ap)
{
	char text[2048];

	vsnprintf(text, sizeof(text), fmt, ap);
	fputs("l7mpctl: ", stderr);
	ctl_print_safe(stderr, text);
	fputc('\n', stderr);
}

void ctl_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(fmt, ap);
	va_end(ap);
}

int ctl_usage(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(fmt, ap);
	va_end(ap);
	fputs("Try 'l7mpctl --help'.\n", stderr);
	return CTL_USAGE;
}

int ctl_print_tree(const struct ctl *c, const cJSON *node)
{
	char *text = c->output == CTL_JSON ? l7mp_json_print(node, L7MP_JSON_LINES)
	                                   : l7mp_yaml_print(node);

	if (!text) {
		ctl_error("out of memory");
		return CTL_FAILED;
	}
	/* In JSON the escape \uXXXX that this writes is the same text. */
	ctl_print_safe(stdout, text);
	free(text);
	return CTL_OK;
}

/*
 * Adds the next cell of the row. Takes text (heap; NULL: shown as "-"); the others copy. Running
 * out of memory is reported by ctl_table_print.
 */
static void add_cell(struct ctl_table *t, char *text)
{
	if (t->n_cells == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 64;
		char **more = realloc(t->cells, cap * sizeof(*more));

		if (!more) {
			t->oom = true;
			free(text);
			return;
		}
		t->cells = more;
		t->cap = cap;
	}
	t->cells[t->n_cells++] = text;
}

void ctl_cell_str(struct ctl_table *t, const char *text)
{
	struct l7mp_str s = {0};

	if (!text || !*text) {
		add_cell(t, NULL);
		return;
	}
	add_safe(&s, text);
	for (char *p = s.s; p && *p; p++)
		if (*p == '\n' || *p == '\t')
			*p = ' ';
	add_cell(t, l7mp_str_take(&s));
}

void ctl_cell_num(struct ctl_table *t, double value)
{
	add_cell(t, l7mp_asprintf("%.15g", value));
}

/* Counts characters, not bytes. */
static size_t width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void print_row(char *const *cells, const char *const *heads, const size_t *widths, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const char *text = heads ? heads[i] : cells && cells[i] ? cells[i] : "-";
		size_t pad = i + 1 < n ? widths[i] - width(text) + 2 : 0;

		printf("%s%*s", text, (int)pad, "");
	}
	putchar('\n');
}

int ctl_table_print(struct ctl_table *t)
{
	size_t widths[CTL_COLUMNS] = {0};
	size_t n = 0;

	while (n < CTL_COLUMNS && t->heads[n]) {
		widths[n] = width(t->heads[n]);
		n++;
	}
	for (size_t i = 0; i < t->n_cells; i++) {
		size_t w = width(t->cells[i] ? t->cells[i] : "-");

		if (w > widths[i % n])
			widths[i % n] = w;
	}
	print_row(NULL, t->heads, widths, n);
	for (size_t i = 0; i + n <= t->n_cells; i += n)
		print_row(t->cells + i, NULL, widths, n);
	for (size_t i = 0; i < t->n_cells; i++)
		free(t->cells[i]);
	free(t->cells);
	t->cells = NULL;
	t->n_cells = t->cap = 0;
	if (!t->oom)
		return CTL_OK;
	ctl_error("out of memory");
	return CTL_FAILED;
}
