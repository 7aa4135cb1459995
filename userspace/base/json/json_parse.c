/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "l7mp/json.h"

/* RFC 8259, 8.1: a byte order mark may be ignored. */
static void skip_bom(const char **text, size_t *len)
{
	if (*len >= 3 && !memcmp(*text, "\xef\xbb\xbf", 3)) {
		*text += 3;
		*len -= 3;
	}
}

/*
 * The first member whose key its object already has, and its place in document
 * order; *at counts the nodes on the way. -EEXIST, -ENOMEM or 0.
 */
static int find_duplicate(const cJSON *node, size_t *at, const cJSON **dup)
{
	struct json_index index;
	int rc = 0;

	if (cJSON_IsObject(node)) {
		rc = json_index_build(&index, node);
		if (rc)
			return rc;
	}
	for (const cJSON *m = node->child; m && !rc; m = m->next) {
		++*at;
		if (cJSON_IsObject(node) && json_index_find(&index, m->string) != m) {
			*dup = m;
			rc = -EEXIST;
		} else if (m->child) {
			rc = find_duplicate(m, at, dup);
		}
	}
	if (cJSON_IsObject(node))
		json_index_free(&index);
	return rc;
}

/* The line of the node at `at` in document order; 0 when there is no memory to find it. */
static int line_of(const char *text, size_t len, size_t at)
{
	uint32_t *lines = malloc((at + 1) * sizeof(*lines));
	int line = 0;

	if (lines && l7mp_json_lines(text, len, lines, at + 1) > at)
		line = (int)lines[at];
	free(lines);
	return line;
}

static void report(char *message, size_t size, const char *fmt, const char *arg)
{
	char brief[64];

	if (!size)
		return;
	snprintf(brief, sizeof(brief), "%s", arg);
	if (strlen(arg) >= sizeof(brief))
		memcpy(brief + sizeof(brief) - 4, "...", 4);
	snprintf(message, size, "%s%s%s", fmt, arg[0] ? " " : "", brief);
}

cJSON *l7mp_json_parse(const char *text, size_t len, int *line, char *message, size_t message_size)
{
	struct json_scan scan = {.message = message, .message_size = message_size};
	const cJSON *dup = NULL;
	cJSON *root;
	size_t at = 0;
	int rc;

	skip_bom(&text, &len);
	if (json_scan(&scan, text, len)) {
		if (line)
			*line = scan.line;
		return NULL;
	}
	if (line)
		*line = 0;
	root = cJSON_ParseWithLength(text, len);
	if (!root) {
		report(message, message_size, "out of memory", "");
		return NULL;
	}
	rc = find_duplicate(root, &at, &dup);
	if (!rc)
		return root;
	if (dup) {
		report(message, message_size, "duplicate key", dup->string);
		if (line)
			*line = line_of(text, len, at);
	} else {
		report(message, message_size, "out of memory", "");
	}
	cJSON_Delete(root);
	return NULL;
}

size_t l7mp_json_lines(const char *text, size_t len, uint32_t *lines, size_t n)
{
	struct json_scan scan = {.lines = lines, .lines_max = n};

	skip_bom(&text, &len);
	return json_scan(&scan, text, len) ? 0 : scan.nodes;
}
