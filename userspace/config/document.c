/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config_int.h"
#include "l7mp/util.h"

#define FILE_MAX_BYTES (64u << 20)

int l7mp_document_note(struct l7mp_document *d, const cJSON *node, int line)
{
	if (d->n_lines == d->cap_lines) {
		size_t cap = d->cap_lines ? d->cap_lines * 2 : 64;
		struct l7mp_line *v = reallocarray(d->lines, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		d->lines = v;
		d->cap_lines = cap;
	}
	d->lines[d->n_lines] = (struct l7mp_line){node, line, (unsigned)d->n_lines};
	d->n_lines++;
	return 0;
}

static int by_node(const void *a, const void *b)
{
	const struct l7mp_line *p = a, *q = b;
	uintptr_t x = (uintptr_t)p->node, y = (uintptr_t)q->node;

	if (x != y)
		return x < y ? -1 : 1;
	return p->seq < q->seq ? -1 : p->seq > q->seq;
}

static void sort_lines(struct l7mp_document *d)
{
	size_t n = 0;

	if (d->n_lines)
		qsort(d->lines, d->n_lines, sizeof(*d->lines), by_node);
	for (size_t i = 0; i < d->n_lines; i++)
		if (i + 1 == d->n_lines || d->lines[i].node != d->lines[i + 1].node) {
			d->lines[n] = d->lines[i];
			d->lines[n++].seq = 0;
		}
	d->n_lines = n;
}

int l7mp_document_line(const struct l7mp_document *d, const cJSON *node)
{
	struct l7mp_line key = {.node = node};
	const struct l7mp_line *hit;

	if (!d || !node || !d->n_lines)
		return 0;
	hit = bsearch(&key, d->lines, d->n_lines, sizeof(key), by_node);
	return hit ? hit->line : 0;
}

static int note_json(void *arg, const cJSON *node, int line)
{
	return l7mp_document_note(arg, node, line);
}

static int parse_json(struct l7mp_document *d, const char *text, size_t len, struct l7mp_error *err)
{
	char message[200] = "not JSON";
	int line = 0;

	d->root = l7mp_json_parse_nodes(text, len, note_json, d, &line, message, sizeof(message));
	if (d->root)
		return 0;
	l7mp_error_set(err, 0, L7MP_ERR_PARSE, "%s", message);
	if (err)
		err->line = line;
	return -EINVAL;
}

int l7mp_document_parse(enum l7mp_syntax syntax, const char *text, size_t len,
                        struct l7mp_document **out, struct l7mp_error *err)
{
	struct l7mp_document *d = calloc(1, sizeof(*d));
	int rc;

	*out = NULL;
	if (!d)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (syntax == L7MP_SYNTAX_YAML)
		rc = l7mp_yaml_parse(d, text, len, err);
	else
		rc = parse_json(d, text, len, err);
	if (rc) {
		l7mp_document_free(&d);
		return rc;
	}
	sort_lines(d);
	*out = d;
	return 0;
}

int l7mp_document_from_tree(cJSON *root, struct l7mp_document **out, struct l7mp_error *err)
{
	struct l7mp_document *d = calloc(1, sizeof(*d));

	*out = d;
	if (d) {
		d->root = root;
		return 0;
	}
	cJSON_Delete(root);
	return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

static enum l7mp_syntax syntax_of(const char *path)
{
	const char *dot = strrchr(path, '.');

	return dot && (strcasecmp(dot, ".yaml") == 0 || strcasecmp(dot, ".yml") == 0)
	               ? L7MP_SYNTAX_YAML
	               : L7MP_SYNTAX_JSON;
}

int l7mp_document_load(const char *path, struct l7mp_document **out, struct l7mp_error *err)
{
	struct l7mp_error inner = {0};
	char *text = NULL;
	size_t len = 0;
	int rc = l7mp_read_file(path, FILE_MAX_BYTES, &text, &len);

	*out = NULL;
	if (rc == -EFBIG)
		return l7mp_error_set(err, rc, L7MP_ERR_TOO_LARGE, "%s: larger than %u MiB", path,
		                      FILE_MAX_BYTES >> 20);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_PARSE, "%s: can't be read: %s", path,
		                      strerror(-rc));
	rc = l7mp_document_parse(syntax_of(path), text, len, out, &inner);
	free(text);
	if (rc && inner.line)
		l7mp_error_set(err, rc, inner.code, "%s:%d: %s", path, inner.line, inner.message);
	else if (rc)
		l7mp_error_set(err, rc, inner.code, "%s: %s", path, inner.message);
	if (rc && err)
		err->line = inner.line;
	return rc;
}

cJSON *l7mp_document_root(struct l7mp_document *d)
{
	return d->root;
}

void l7mp_document_free(struct l7mp_document **d)
{
	if (!*d)
		return;
	cJSON_Delete((*d)->root);
	free((*d)->lines);
	free(*d);
	*d = NULL;
}

/* In YAML a line with `---` separates documents everywhere, even in block scalars. */
static bool is_separator(const char *line, size_t len)
{
	return len >= 3 && memcmp(line, "---", 3) == 0 &&
	       (len == 3 || line[3] == ' ' || line[3] == '\t' || line[3] == '\r');
}

int l7mp_yaml_split(const char *text, size_t len, l7mp_yaml_part_fn fn, void *arg)
{
	const char *begin = text, *end = text + len, *line = text;
	int first = 1;

	for (int number = 1; line < end; number++) {
		const char *nl = memchr(line, '\n', (size_t)(end - line));

		if (line > begin && is_separator(line, (size_t)((nl ? nl : end) - line))) {
			int rc = fn(arg, begin, (size_t)(line - begin), first);

			if (rc)
				return rc;
			begin = line;
			first = number;
		}
		line = nl ? nl + 1 : end;
	}
	return begin < end ? fn(arg, begin, (size_t)(end - begin), first) : 0;
}
