/* SPDX-License-Identifier: MIT */
/*
 * Splits responses of the API server while they arrive: a list of 10,000 pods is some 100 MB, so it
 * is not stored as a whole; each object is parsed separately.
 */
#include <errno.h>
#include <string.h>

#include "kube_int.h"

/* ---- lines ---- */

/* Appends n bytes to a text of which up to `max` bytes are stored; *bytes counts all of them. */
static int keep(struct l7mp_str *part, size_t *bytes, size_t max, const char *text, size_t n)
{
	size_t room = part->len < max ? max - part->len : 0;

	*bytes += n;
	l7mp_str_addn(part, text, n < room ? n : room);
	return part->oom ? -ENOMEM : 0;
}

static int end_line(struct kube_lines *l)
{
	size_t len = l->part.len, bytes = l->bytes;
	int rc = 0;

	if (bytes && len == bytes && l->part.s[len - 1] == '\r')
		bytes = --len;
	if (len)
		rc = l->line(l->arg, l->part.s, len, bytes);
	l->bytes = 0;
	/* Free the memory that a large object needed. */
	if (l->part.cap > 256 * 1024)
		l7mp_str_free(&l->part);
	l->part.len = 0;
	return rc;
}

int kube_lines_feed(struct kube_lines *l, const char *bytes, size_t n)
{
	while (n) {
		const char *end = memchr(bytes, '\n', n);
		size_t len = end ? (size_t)(end - bytes) : n;
		int rc = keep(&l->part, &l->bytes, l->max, bytes, len);

		if (!rc && end)
			rc = end_line(l);
		if (rc)
			return rc;
		bytes += len + (end != NULL);
		n -= len + (end != NULL);
	}
	return 0;
}

void kube_lines_clear(struct kube_lines *l)
{
	l7mp_str_free(&l->part);
	l->bytes = 0;
}

/* ---- lists ---- */

/*
 * Depth 1 is inside the List, depth 2 inside `items` or `metadata`. The splitter looks at brackets
 * and strings only; the JSON parser that gets the parts checks everything else.
 */

static bool is_key(const struct kube_split *s, const char *key)
{
	return s->key_len == strlen(key) && !memcmp(s->key, key, s->key_len);
}

static int captured(struct kube_split *s)
{
	int rc = 0;

	if (s->capture == KUBE_SPLIT_METADATA) {
		l7mp_str_free(&s->metadata);
		s->metadata = s->part;
		s->part = (struct l7mp_str){0};
	} else {
		rc = s->item(s->arg, s->part.s, s->part.len, s->bytes);
		if (s->part.cap > 256 * 1024)
			l7mp_str_free(&s->part);
	}
	s->part.len = 0;
	s->bytes = 0;
	s->capture = KUBE_SPLIT_NOTHING;
	return rc;
}

static int opened(struct kube_split *s, char c)
{
	if (!s->depth && (c != '{' || s->began))
		return -EINVAL;
	s->began = true;
	if (s->depth == 1)
		s->in_items = c == '[' && is_key(s, "items");
	if (s->depth == 1 && c == '{' && is_key(s, "metadata"))
		s->capture = KUBE_SPLIT_METADATA;
	else if (s->depth == 2 && c == '{' && s->in_items)
		s->capture = KUBE_SPLIT_ITEM;
	s->depth++;
	return s->depth > L7MP_JSON_DEPTH + 2 ? -EINVAL : 0;
}

static int closed(struct kube_split *s)
{
	if (!s->depth)
		return -EINVAL;
	s->depth--;
	if (s->depth == 1)
		s->in_items = false;
	s->complete = !s->depth;
	return 0;
}

/* Processes a byte outside of strings. */
static int structure(struct kube_split *s, char c)
{
	bool white = c == ' ' || c == '\t' || c == '\r' || c == '\n';

	if (!s->depth && !white && c != '{')
		return -EINVAL; /* before or after the list */
	switch (c) {
	case '"':
		s->in_string = true;
		s->in_key = s->depth == 1;
		if (s->in_key)
			s->key_len = 0;
		return 0;
	case '{':
	case '[':
		return opened(s, c);
	case '}':
	case ']':
		return closed(s);
	default:
		return 0;
	}
}

/* Processes bytes of a string, up to its end or the end of the input. Returns how many. */
static size_t string(struct kube_split *s, const char *bytes, size_t n)
{
	size_t i = 0;

	for (; i < n && s->in_string; i++) {
		if (s->in_key && s->key_len < sizeof(s->key))
			s->key[s->key_len++] = bytes[i];
		if (s->escaped)
			s->escaped = false;
		else if (bytes[i] == '\\')
			s->escaped = true;
		else if (bytes[i] == '"')
			s->in_string = false;
	}
	if (!s->in_string && s->in_key) {
		s->key_len -= s->key_len && s->key[s->key_len - 1] == '"';
		s->in_key = false;
	}
	return i;
}

/* Does the bracket that was just closed end the captured part? */
static bool at_end(const struct kube_split *s)
{
	return (s->capture == KUBE_SPLIT_METADATA && s->depth == 1) ||
	       (s->capture == KUBE_SPLIT_ITEM && s->depth == 2);
}

int kube_split_feed(struct kube_split *s, const char *bytes, size_t n)
{
	size_t begin = 0, i = 0; /* begin: of the captured bytes of this input */
	int rc = 0;

	while (i < n) {
		bool was = s->capture != KUBE_SPLIT_NOTHING;

		if (s->in_string) {
			i += string(s, bytes + i, n - i);
			continue;
		}
		rc = structure(s, bytes[i++]);
		if (rc)
			return rc;
		if (!was && s->capture) {
			begin = i - 1;
		} else if (was && at_end(s)) {
			rc = keep(&s->part, &s->bytes, s->max, bytes + begin, i - begin);
			if (!rc)
				rc = captured(s);
			if (rc)
				return rc;
		}
	}
	return s->capture ? keep(&s->part, &s->bytes, s->max, bytes + begin, n - begin) : 0;
}

void kube_split_clear(struct kube_split *s)
{
	l7mp_str_free(&s->metadata);
	l7mp_str_free(&s->part);
	s->complete = s->began = false;
	s->in_string = s->escaped = s->in_key = s->in_items = false;
	s->capture = KUBE_SPLIT_NOTHING;
	s->depth = 0;
	s->bytes = 0;
	s->key_len = 0;
}

/* ---- truncated texts ---- */

static const char *skip_white(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n'))
		p++;
	return p;
}

/* These return the position after the element, or NULL if the text ends before. */
static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end; p++) {
		if (*p == '\\')
			p++;
		else if (*p == '"')
			return p + 1;
	}
	return NULL;
}

static const char *skip_value(const char *p, const char *end)
{
	unsigned depth = 0;

	if (p < end && *p == '"')
		return skip_string(p, end);
	if (p < end && *p != '{' && *p != '[') {
		while (p < end && *p != ',' && *p != '}' && *p != ']')
			p++;
		return p < end ? p : NULL;
	}
	while (p && p < end) {
		if (*p == '"') {
			p = skip_string(p, end);
			continue;
		}
		depth += *p == '{' || *p == '[';
		depth -= *p == '}' || *p == ']';
		p++;
		if (!depth)
			return p;
	}
	return NULL;
}

bool kube_prefix_find(const char *text, size_t len, const char *const *keys, const char **value,
                      size_t *value_len)
{
	const char *p = text, *end = text + len, *after;

	for (; *keys; keys++) {
		p = skip_white(p, end);
		if (p >= end || *p != '{')
			return false;
		for (p = skip_white(p + 1, end);; p = skip_white(p, end)) {
			const char *key = p + 1;
			bool found;

			if (p >= end || *p != '"' || !(p = skip_string(p, end)))
				return false;
			found = (size_t)(p - 1 - key) == strlen(*keys) &&
			        !memcmp(key, *keys, strlen(*keys));
			p = skip_white(p, end);
			if (p >= end || *p != ':')
				return false;
			p = skip_white(p + 1, end);
			if (found)
				break;
			p = skip_value(p, end);
			p = p ? skip_white(p, end) : NULL;
			if (!p || p >= end || *p != ',')
				return false;
			p = skip_white(p + 1, end);
		}
	}
	after = skip_value(p, end);
	if (!after)
		return false;
	*value = p;
	*value_len = (size_t)(after - p);
	return true;
}
