/* SPDX-License-Identifier: MIT */
/* JSONSocket: receiving, parsing and printing the messages of the handshake. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jsonsocket.h"

/* ---- receiving ---- */

static enum jsock_take take_message(struct jsock_first *f, struct l7mp_buf *buf)
{
	bool fits = buf->len <= JSOCK_HEAD_MAX;

	f->text.len = 0;
	if (fits)
		l7mp_str_addn(&f->text, buf->data, buf->len);
	l7mp_buf_unref(buf);
	return fits && !f->text.oom ? JSOCK_READY : JSOCK_BAD;
}

enum jsock_take jsock_first_take(struct jsock_first *f, enum l7mp_kind kind, struct l7mp_buf *buf,
                                 struct l7mp_buf **rest)
{
	enum l7mp_jsonframe_state state;
	size_t start = 0, used = 0;

	*rest = NULL;
	if (kind == L7MP_KIND_DATAGRAM)
		return take_message(f, buf);
	state = l7mp_jsonframe_take(&f->frame, buf->data, buf->len, &start, &used);
	f->total += used;
	if (state == L7MP_JSONFRAME_MORE || state == L7MP_JSONFRAME_DONE)
		l7mp_str_addn(&f->text, buf->data + start, used - start);
	if (state == L7MP_JSONFRAME_DONE) {
		f->newline_due = used == buf->len;
		if (used < buf->len && buf->data[used] == '\n')
			used++;
		if (used < buf->len)
			*rest = l7mp_buf_slice(buf, used, buf->len - used);
		if (used < buf->len && !*rest)
			f->text.oom = 1;
	}
	l7mp_buf_unref(buf);
	if (state == L7MP_JSONFRAME_BAD || f->text.oom || f->total > JSOCK_HEAD_MAX) {
		l7mp_buf_unref(*rest);
		*rest = NULL;
		return JSOCK_BAD;
	}
	return state == L7MP_JSONFRAME_DONE ? JSOCK_READY : JSOCK_MORE;
}

struct l7mp_buf *jsock_first_strip(struct jsock_first *f, struct l7mp_buf *buf)
{
	struct l7mp_buf *part = NULL;

	if (!f->newline_due || !buf->len)
		return buf;
	f->newline_due = false;
	if (buf->data[0] != '\n')
		return buf;
	if (buf->len > 1) {
		part = l7mp_buf_slice(buf, 1, buf->len - 1);
		/* No memory for a slice: buf has no other owner, so it may be changed. */
		if (!part) {
			buf->data++;
			buf->len--;
			return buf;
		}
	}
	l7mp_buf_unref(buf);
	return part;
}

bool jsock_first_same(const struct jsock_first *f, const struct l7mp_buf *buf)
{
	return f->text.s && buf->len == f->text.len && !memcmp(buf->data, f->text.s, buf->len);
}

/* ---- parsing ---- */

/* A small text may contain many values, and each costs a node. */
static int count_value(void *arg, const cJSON *node, int line)
{
	int *n = arg;

	(void)node;
	(void)line;
	return ++*n > JSOCK_VALUES_MAX ? -E2BIG : 0;
}

static cJSON *parse(const char *text, size_t len, char *why, size_t size)
{
	char message[160];
	int n = 0;
	cJSON *root =
	        l7mp_json_parse_nodes(text, len, count_value, &n, NULL, message, sizeof(message));

	if (root && cJSON_IsObject(root))
		return root;
	if (n > JSOCK_VALUES_MAX) {
		snprintf(why, size, "more than %d values", JSOCK_VALUES_MAX);
		return NULL;
	}
	snprintf(why, size, "expected a JSON object%s%s", root ? "" : ": ", root ? "" : message);
	cJSON_Delete(root);
	return NULL;
}

cJSON *jsock_header_parse(const char *text, size_t len, int *status, char *why, size_t size)
{
	cJSON *root = parse(text, len, why, size);
	const cJSON *version = l7mp_json_member(root, "JSONSocketVersion");

	*status = 400;
	if (!root)
		return NULL;
	if (cJSON_IsNumber(version) && version->valuedouble == 1)
		return root;
	if (cJSON_IsNumber(version) && version->valuedouble > 1) {
		*status = 505;
		snprintf(why, size, "JSONSocketVersion: only version 1 is supported");
	} else {
		snprintf(why, size, "JSONSocketVersion: expected the number 1");
	}
	cJSON_Delete(root);
	return NULL;
}

int jsock_answer_parse(const char *text, size_t len, cJSON **root, const char **message)
{
	char why[200];
	const cJSON *version, *status;

	*root = parse(text, len, why, sizeof(why));
	version = l7mp_json_member(*root, "JSONSocketVersion");
	status = l7mp_json_member(*root, "JSONSocketStatus");
	if (cJSON_IsNumber(version) && version->valuedouble >= 1 && cJSON_IsNumber(status) &&
	    status->valuedouble >= 100 && status->valuedouble <= 999) {
		*message = l7mp_json_str(*root, "JSONSocketMessage", "");
		return (int)status->valuedouble;
	}
	cJSON_Delete(*root);
	*root = NULL;
	return -EBADMSG;
}

/* ---- printing ---- */

/* Returns an answer with the first n bytes of the message. */
static char *answer_with(int status, const char *message, size_t n)
{
	cJSON *root = cJSON_CreateObject();
	struct l7mp_str cut = {0};
	char *text = NULL;
	int rc;

	/* An incomplete character at the end becomes U+FFFD. */
	l7mp_str_add_utf8(&cut, message, n);
	rc = l7mp_json_add_num(root, "JSONSocketVersion", 1);
	rc |= l7mp_json_add_num(root, "JSONSocketStatus", status);
	rc |= l7mp_json_add_str(root, "JSONSocketMessage", cut.s ? cut.s : "");
	if (!rc && !cut.oom)
		text = l7mp_json_print(root, L7MP_JSON_PLAIN);
	l7mp_str_free(&cut);
	cJSON_Delete(root);
	if (text && *text && text[strlen(text) - 1] == '\n')
		text[strlen(text) - 1] = '\0';
	return text;
}

char *jsock_answer_text(int status, const char *message, size_t max)
{
	size_t n = strlen(message);

	for (;;) {
		char *text = answer_with(status, message, n);
		size_t len = text ? strlen(text) : 0;

		if (!text || len <= max)
			return text;
		free(text);
		if (!n)
			return NULL;
		/*
		 * Escapes are longer than their characters, so removing as many bytes as are in
		 * excess is enough.
		 */
		n = len - max < n ? n - (len - max) : 0;
		while (n && ((unsigned char)message[n] & 0xc0) == 0x80)
			n--;
	}
}

int jsock_send(const struct l7mp_env *env, struct l7mp_stream *s, const char *text)
{
	size_t len = strlen(text);
	struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(env->loop), len + 1);

	if (!buf)
		return -ENOMEM;
	memcpy(buf->data, text, len);
	if (s->kind == L7MP_KIND_STREAM)
		buf->data[len++] = '\n';
	buf->len = (uint32_t)len;
	buf->flags = L7MP_BUF_TEXT;
	return l7mp_stream_write(s, buf);
}

/* ---- a cluster's header ---- */

static bool is_root(const char *pointer)
{
	return !*pointer || !strcmp(pointer, "/");
}

/* Sets a copy at `to`; at the root, copies the members of an object one by one. */
static int put(cJSON *header, const char *to, const cJSON *value)
{
	cJSON *copy;
	int rc = 0;

	if (!is_root(to)) {
		copy = cJSON_Duplicate(value, true);
		return copy ? l7mp_json_set(header, to, copy) : -ENOMEM;
	}
	if (!cJSON_IsObject(value))
		return -EINVAL;
	for (const cJSON *m = value->child; m && !rc; m = m->next) {
		cJSON_DeleteItemFromObjectCaseSensitive(header, m->string);
		rc = l7mp_json_add(header, m->string, cJSON_Duplicate(m, true));
	}
	return rc;
}

/* { path: "/a/b" }: adds an object's members; any other value under its own last name. */
static int put_at_root(cJSON *header, const char *from, const cJSON *value)
{
	const char *slash = strrchr(from, '/');

	if (cJSON_IsObject(value) || is_root(from))
		return put(header, "", value);
	return put(header, slash ? slash : from, value);
}

static int add_item(cJSON *header, const cJSON *item, const cJSON *metadata)
{
	const cJSON *path = l7mp_json_member(item, "path"), *set = l7mp_json_member(item, "set");
	const cJSON *value;
	const char *from;

	if (set)
		return put(header, l7mp_json_str(set, "key", ""), l7mp_json_member(set, "value"));
	from = cJSON_IsString(path) ? path->valuestring : l7mp_json_str(path, "from", "");
	value = l7mp_json_get(metadata, from);
	if (!value)
		return 0; /* not in the metadata: omit it */
	if (cJSON_IsString(path))
		return put_at_root(header, from, value);
	return put(header, l7mp_json_str(path, "to", ""), value);
}

static int header_fill(cJSON *header, const cJSON *list, const cJSON *metadata, size_t *failed)
{
	int rc = l7mp_json_add_num(header, "JSONSocketVersion", 1);
	const cJSON *item;

	*failed = 0;
	cJSON_ArrayForEach (item, list) {
		rc = rc ? rc : add_item(header, item, metadata);
		if (rc)
			return rc;
		++*failed;
	}
	/* An item may have overwritten it. */
	return rc ? rc : l7mp_json_set(header, "/JSONSocketVersion", cJSON_CreateNumber(1));
}

int jsock_header_make(const cJSON *list, const cJSON *metadata, size_t pad, char **out,
                      struct l7mp_error *err)
{
	cJSON *header = cJSON_CreateObject();
	struct l7mp_str text = {0};
	char *printed = NULL;
	size_t failed, len;
	int rc = header_fill(header, list, metadata, &failed);

	if (!rc) {
		printed = l7mp_json_print(header, L7MP_JSON_PLAIN);
		rc = printed ? 0 : -ENOMEM;
	}
	cJSON_Delete(header);
	if (rc == -EINVAL)
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM,
		                      "JSONSocket: header[%zu] can't be set: its parent is not "
		                      "an object",
		                      failed);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	len = strcspn(printed, "\n");
	l7mp_str_add_utf8(&text, printed, len);
	free(printed);
	while (text.len < pad && !text.oom)
		l7mp_str_add(&text, " ");
	*out = l7mp_str_take(&text);
	if (!*out)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (strlen(*out) <= JSOCK_HEAD_MAX)
		return 0;
	free(*out);
	return l7mp_error_set(err, -EMSGSIZE, L7MP_ERR_UPSTREAM,
	                      "JSONSocket: the header is longer than %d bytes", JSOCK_HEAD_MAX);
}
