/* SPDX-License-Identifier: MIT */
/* Documents from files and stdin, and the lines that the server's findings refer to. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"
#include "l7mp/config.h"

#define STDIN_MAX (64 * 1024 * 1024)

static int read_stdin(struct l7mp_str *text)
{
	char piece[16384];
	size_t n;

	while ((n = fread(piece, 1, sizeof(piece), stdin)) > 0) {
		l7mp_str_addn(text, piece, n);
		if (text->len > STDIN_MAX || text->oom) {
			ctl_error("stdin: too large, expected at most 64 MiB");
			return CTL_FAILED;
		}
	}
	if (ferror(stdin)) {
		ctl_error("stdin: can't be read");
		return CTL_FAILED;
	}
	return CTL_OK;
}

/* JSON begins with a brace or bracket; anything else is YAML. */
static enum l7mp_syntax sniff(const char *text)
{
	while (isspace((unsigned char)*text))
		text++;
	return *text == '{' || *text == '[' ? L7MP_SYNTAX_JSON : L7MP_SYNTAX_YAML;
}

static int parse_stdin(struct ctl_input *in, struct l7mp_error *err)
{
	struct l7mp_str text = {0};
	int rc = read_stdin(&text);

	if (rc) {
		l7mp_str_free(&text);
		return rc;
	}
	if (!text.len)
		rc = l7mp_error_set(err, -1, L7MP_ERR_PARSE, "stdin is empty, expected a document");
	else
		rc = l7mp_document_parse(sniff(text.s), text.s, text.len, &in->doc, err);
	l7mp_str_free(&text);
	return rc ? -1 : 0;
}

int ctl_input_read(struct ctl *c, struct ctl_input *in)
{
	struct l7mp_error err = {0};
	char text[900];
	int rc;

	memset(in, 0, sizeof(*in));
	if (!c->file && isatty(STDIN_FILENO))
		return ctl_usage("expected -f FILE, or a document on stdin");
	if (c->file && strcmp(c->file, "-") != 0) {
		in->name = c->file;
		rc = l7mp_document_load(c->file, &in->doc, &err);
	} else {
		in->name = "stdin";
		rc = parse_stdin(in, &err);
		if (rc > 0)
			return rc;
	}
	if (rc) {
		l7mp_error_text(&err, text, sizeof(text));
		if (strstr(text, in->name))
			ctl_error("%s", text);
		else if (err.line)
			ctl_error("%s:%d: %s", in->name, err.line, text);
		else
			ctl_error("%s: %s", in->name, text);
		return CTL_FAILED;
	}
	in->root = l7mp_document_root(in->doc);
	if (cJSON_IsObject(in->root))
		return CTL_OK;
	ctl_error("%s: expected an object, got %s", in->name, l7mp_json_type(in->root));
	ctl_input_free(in);
	return CTL_FAILED;
}

void ctl_input_free(struct ctl_input *in)
{
	l7mp_document_free(&in->doc);
}

int ctl_input_line(const struct ctl_input *in, const char *path)
{
	const cJSON *node = in->root;
	int line = l7mp_document_line(in->doc, node);
	size_t len;

	if (!*path)
		return 0;
	if (in->wrapper) {
		len = strlen(in->wrapper);
		if (!strncmp(path, in->wrapper, len))
			path += len;
	}
	/* Follows the path as far as it exists: something missing has the line of its parent. */
	while (node && *path) {
		char key[256];
		int at;

		if (*path == '.')
			path++;
		len = strcspn(path + (*path == '['), ".[") + (*path == '[');
		if (!len || len >= sizeof(key))
			break;
		memcpy(key, path, len);
		key[len] = '\0';
		path += len;
		node = *key == '[' ? cJSON_GetArrayItem(node, atoi(key + 1))
		                   : l7mp_json_member(node, key);
		at = node ? l7mp_document_line(in->doc, node) : 0;
		if (at)
			line = at;
	}
	return line;
}
