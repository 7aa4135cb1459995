/* SPDX-License-Identifier: MIT */
/*
 * l7mp-docgen [--check] FILE...
 *
 * Replaces the text in each file between "<!-- generated: NAME -->" and "<!-- end -->" by text
 * generated from the program's tables; NAME is objects, protocols or endpoints. With --check
 * nothing is written: exit status 1 when a file is not up to date.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/openapi.h"
#include "l7mp/registry_all.h"
#include "l7mp/util.h"

#define BEGIN "<!-- generated: "
#define CLOSE " -->\n"
#define END   "<!-- end -->"

static char *generate(const char *name, size_t len)
{
	static const struct {
		const char *name;
		char *(*make)(void);
	} pages[] = {{"objects", l7mp_reference_objects}, {"endpoints", l7mp_reference_endpoints}};

	if (len == 9 && memcmp(name, "protocols", 9) == 0)
		return l7mp_reference_protocols(&l7mp_all_registry);
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(pages); i++)
		if (strlen(pages[i].name) == len && memcmp(pages[i].name, name, len) == 0)
			return pages[i].make();
	return NULL;
}

/* Returns the text with all generated parts replaced, or NULL after printing an error. */
static char *rewrite(const char *file, const char *text)
{
	struct l7mp_str out = {0};
	const char *begin;
	int parts = 0;

	while ((begin = strstr(text, BEGIN))) {
		const char *name = begin + strlen(BEGIN), *close = strstr(name, CLOSE);
		const char *end = close ? strstr(close, END) : NULL;
		char *part = end ? generate(name, (size_t)(close - name)) : NULL;

		if (!part) {
			fprintf(stderr,
			        "%s: bad marker, expected \"%sobjects|protocols|endpoints%s\" "
			        "and later \"%s\"\n",
			        file, BEGIN, " -->", END);
			l7mp_str_free(&out);
			return NULL;
		}
		l7mp_str_addn(&out, text, (size_t)(close - text) + strlen(CLOSE));
		l7mp_str_addf(&out, "\n%s\n", part);
		free(part);
		text = end;
		parts++;
	}
	l7mp_str_add(&out, text);
	if (parts && !out.oom)
		return l7mp_str_take(&out);
	fprintf(stderr, "%s: %s\n", file, parts ? "out of memory" : "no marker in it");
	l7mp_str_free(&out);
	return NULL;
}

static int write_file(const char *file, const char *text)
{
	FILE *f = fopen(file, "we");
	int rc;

	if (!f || fputs(text, f) < 0) {
		fprintf(stderr, "%s: %s\n", file, strerror(errno));
		if (f)
			fclose(f);
		return 1;
	}
	rc = fclose(f);
	if (rc)
		fprintf(stderr, "%s: %s\n", file, strerror(errno));
	return rc != 0;
}

static int do_file(const char *file, int check)
{
	char *old = NULL, *text;
	size_t len;
	int rc = l7mp_read_file(file, 16 << 20, &old, &len);

	if (rc) {
		fprintf(stderr, "%s: %s\n", file, strerror(-rc));
		return 1;
	}
	text = rewrite(file, old);
	if (!text)
		rc = 1;
	else if (strcmp(text, old) != 0 && check)
		rc = fprintf(stderr, "%s: not up to date, run make docs\n", file) > 0;
	else if (strcmp(text, old) != 0)
		rc = write_file(file, text);
	free(old);
	free(text);
	return rc;
}

int main(int argc, char **argv)
{
	int check = argc > 1 && strcmp(argv[1], "--check") == 0, rc = 0;

	if (argc < 2 + check) {
		fprintf(stderr, "usage: %s [--check] FILE...\n", argv[0]);
		return 2;
	}
	for (int i = 1 + check; i < argc; i++)
		rc |= do_file(argv[i], check);
	return rc;
}
