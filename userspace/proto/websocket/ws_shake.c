/* SPDX-License-Identifier: MIT */
/* The heads of handshakes (RFC 6455, section 4): reading their text, and the keys in them. */
#include "ws_int.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "l7mp/util.h"

/* ---- text ---- */

/* Ends the line at s and returns the next one; NULL when there is no line end. */
static char *cut_line(char *s)
{
	char *end = strstr(s, "\r\n");

	if (!end)
		return NULL;
	*end = '\0';
	return end + 2;
}

static bool parse_header(char *line, struct l7mp_http_header *out)
{
	char *colon = strchr(line, ':');
	char *end;

	if (!colon || colon == line)
		return false;
	*colon++ = '\0';
	if (strpbrk(line, " \t"))
		return false;
	colon += strspn(colon, " \t");
	end = colon + strlen(colon);
	while (end > colon && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	out->name = line;
	out->value = colon;
	return true;
}

int l7mp_ws_lines_split(char *text, struct ws_lines *out, const char **why)
{
	char *next = cut_line(text);

	memset(out, 0, sizeof(*out));
	*why = "the head can't be read";
	if (!next)
		return 400;
	out->first = text;
	while (*next && strncmp(next, "\r\n", 2) != 0) {
		char *line = next;

		next = cut_line(line);
		if (!next)
			return 400;
		if (out->n == L7MP_ARRAY_SIZE(out->headers)) {
			*why = "too many headers";
			return 431;
		}
		if (!parse_header(line, &out->headers[out->n++]))
			return 400;
	}
	return 0;
}

const char *l7mp_ws_lines_get(const struct ws_lines *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcasecmp(l->headers[i].name, name) == 0)
			return l->headers[i].value;
	return NULL;
}

bool l7mp_ws_has_token(const char *list, const char *token)
{
	size_t n = strlen(token);

	while (list && *list) {
		list += strspn(list, ", \t");
		if (strncasecmp(list, token, n) == 0 && (!list[n] || strchr(", \t;", list[n])))
			return true;
		list += strcspn(list, ",");
	}
	return false;
}

int l7mp_ws_head_add(struct l7mp_loop *loop, struct l7mp_buf **head, struct l7mp_buf *more)
{
	struct l7mp_buf *h = *head;
	size_t have = h ? h->len : 0, from = have < 3 ? 0 : have - 3;
	const uint8_t *end;

	if (!h)
		h = l7mp_buf_new(l7mp_loop_bufs(loop), more->len);
	else
		h = l7mp_buf_own(h, 0, have + more->len);
	*head = h;
	if (!h) {
		l7mp_buf_unref(more);
		return -ENOMEM;
	}
	memcpy(h->data + have, more->data, more->len);
	h->len += more->len;
	l7mp_buf_unref(more);
	end = memmem(h->data + from, h->len - from, "\r\n\r\n", 4);
	if (end && end + 4 - h->data <= L7MP_WS_HEAD_MAX)
		return (int)(end + 4 - h->data);
	return end || h->len >= L7MP_WS_HEAD_MAX ? -E2BIG : 0;
}

/* ---- requests ---- */

static int parse_request_line(char *line, struct l7mp_http_head *out)
{
	char *target = strchr(line, ' ');
	char *version, *query;

	if (!target)
		return 400;
	*target++ = '\0';
	version = strchr(target, ' ');
	if (!version)
		return 400;
	*version++ = '\0';
	if (strcmp(version, "HTTP/1.1") != 0)
		return strncmp(version, "HTTP/", 5) == 0 ? 505 : 400;
	if (strcmp(line, "GET") != 0)
		return 405;
	if (target[0] != '/') { /* absolute form */
		char *path = strstr(target, "://");

		path = path ? strchr(path + 3, '/') : NULL;
		if (!path)
			return 400;
		target = path;
	}
	query = strchr(target, '?');
	if (query)
		*query++ = '\0';
	out->scheme = "ws";
	out->version = "1.1";
	out->method = "GET";
	out->path = target;
	out->query = query;
	return 0;
}

/* 16 bytes in base64. */
static bool key_fine(const char *key)
{
	static const char digits[] =
	        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	return strlen(key) == 24 && strspn(key, digits) == 22 && strcmp(key + 22, "==") == 0;
}

static int check_upgrade(const struct ws_lines *l, const char **why)
{
	const char *version = l7mp_ws_lines_get(l, "Sec-WebSocket-Version");
	const char *key = l7mp_ws_lines_get(l, "Sec-WebSocket-Key");

	*why = "expected a WebSocket handshake";
	if (!l7mp_ws_has_token(l7mp_ws_lines_get(l, "Upgrade"), "websocket") ||
	    !l7mp_ws_has_token(l7mp_ws_lines_get(l, "Connection"), "upgrade"))
		return 426;
	if (!version || strcmp(version, "13") != 0) {
		*why = "expected Sec-WebSocket-Version: 13";
		return 426;
	}
	if (!key || !l7mp_ws_lines_get(l, "Host")) {
		*why = "expected the headers Host and Sec-WebSocket-Key";
		return 400;
	}
	if (!key_fine(key)) {
		*why = "expected 16 bytes of base64 in Sec-WebSocket-Key";
		return 400;
	}
	return 0;
}

int l7mp_ws_request_check(struct ws_lines *l, struct l7mp_http_head *head, const char **why)
{
	int status;

	memset(head, 0, sizeof(*head));
	*why = "the request can't be read";
	status = parse_request_line(l->first, head);
	if (status)
		return status;
	head->headers = l->headers;
	head->n_headers = l->n;
	return check_upgrade(l, why);
}

/* ---- keys ---- */

int l7mp_ws_key_new(char key[static 25])
{
	uint8_t random[16];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	EVP_EncodeBlock((unsigned char *)key, random, sizeof(random));
	return 0;
}

void l7mp_ws_key_answer(const char *key, char answer[static 29])
{
	unsigned char digest[EVP_MAX_MD_SIZE] = {0};
	char text[64];
	unsigned n = 0;

	snprintf(text, sizeof(text), "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
	(void)EVP_Digest(text, strlen(text), digest, &n, EVP_sha1(), NULL);
	EVP_EncodeBlock((unsigned char *)answer, digest, 20);
}
