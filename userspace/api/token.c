/* SPDX-License-Identifier: MIT */
#include "token.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

#define TOKEN_MAX 4096
/* Wrong tokens allowed per source: a burst of FAILURES, and one more per FAILURE_MS. */
#define FAILURES    10
#define FAILURE_MS  6000
#define SOURCES_MAX 1024
#define LOG_MS      60000

/* A source of wrong tokens: an address, an IPv6 /64, or all UNIX clients together. */
struct source {
	UT_hash_handle hh;
	struct source *prev, *next; /* in the order of the last failure */
	uint64_t debt_ms;           /* loop time at which all failures are forgotten */
	uint8_t key[9];
};

struct api_token {
	struct l7mp_loop *loop;
	char *path; /* NULL: none */
	struct source *table, *order;
	size_t n_sources;
	struct l7mp_log_limit file_log, guess_log;
};

int api_token_new(struct l7mp_loop *loop, struct api_token **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->loop = loop;
	return 0;
}

static void forget(struct api_token *t, struct source *s)
{
	HASH_DEL(t->table, s);
	DL_DELETE(t->order, s);
	t->n_sources--;
	free(s);
}

void api_token_free(struct api_token **pp)
{
	struct api_token *t = *pp;

	if (!t)
		return;
	*pp = NULL;
	while (t->order)
		forget(t, t->order);
	free(t->path);
	free(t);
}

/* ---- the file ---- */

/* Returns what is wrong with the open file; NULL: nothing. */
static const char *check_file(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		return strerror(errno);
	if (!S_ISREG(st.st_mode))
		return "expected a regular file";
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return "expected it to be root's or the proxy's own user's";
	if (st.st_mode & (S_IRWXO | S_IWGRP))
		return "others can read or change it; expected mode 0600 (or 0640)";
	return NULL;
}

/* Reads the first line without surrounding white space; heap. NULL with *why. */
static char *read_token(const char *path, const char **why)
{
	/* Non-blocking, so that a FIFO is recognised. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char buf[TOKEN_MAX + 1], *start = buf, *token = NULL;
	ssize_t n;
	size_t len;

	if (fd < 0) {
		*why = strerror(errno);
		return NULL;
	}
	*why = check_file(fd);
	n = *why ? -1 : read(fd, buf, TOKEN_MAX);
	if (n < 0 && !*why)
		*why = strerror(errno);
	close(fd);
	if (n < 0)
		return NULL;
	buf[n] = '\0';
	while (isspace((unsigned char)*start))
		start++;
	len = strcspn(start, "\r\n");
	while (len && isspace((unsigned char)start[len - 1]))
		len--;
	*why = len ? "out of memory" : "expected a token, the file is empty";
	if (len)
		token = strndup(start, len);
	OPENSSL_cleanse(buf, sizeof(buf));
	return token;
}

static void free_token(char *token)
{
	if (token)
		OPENSSL_cleanse(token, strlen(token));
	free(token);
}

int api_token_set_file(struct api_token *t, const char *path, struct l7mp_error *err)
{
	char *copy = path ? strdup(path) : NULL;

	if (path && !copy)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (path) {
		const char *why;
		char *token = read_token(path, &why);

		if (!token) {
			free(copy);
			return l7mp_error_set(err, -EACCES, L7MP_ERR_REALISE,
			                      "admin.api_token_file: '%s': %s", path, why);
		}
		free_token(token);
	}
	free(t->path);
	t->path = copy;
	return 0;
}

bool api_token_is_set(const struct api_token *t)
{
	return t->path;
}

/* ---- sources ---- */

static void make_key(const struct l7mp_addr *source, uint8_t key[static 9])
{
	memset(key, 0, 9);
	key[0] = (uint8_t)l7mp_addr_family(source);
	if (key[0] == AF_INET)
		memcpy(key + 1, &source->in.sin_addr, 4);
	else if (key[0] == AF_INET6)
		memcpy(key + 1, &source->in6.sin6_addr, 8);
}

static struct source *find(struct api_token *t, const struct l7mp_addr *addr)
{
	struct source *s;
	uint8_t key[9];

	make_key(addr, key);
	HASH_FIND(hh, t->table, key, sizeof(key), s);
	return s;
}

static bool too_often(const struct api_token *t, const struct source *s)
{
	return s && s->debt_ms > l7mp_loop_now(t->loop) + (uint64_t)FAILURES * FAILURE_MS;
}

static void log_guessing(struct api_token *t, const struct l7mp_addr *addr)
{
	char text[L7MP_ADDR_STRLEN];
	uint32_t left_out;

	if (l7mp_log_allowed(&t->guess_log, l7mp_loop_now(t->loop), LOG_MS, 5, &left_out))
		l7mp_log_warn("api", "%s has sent a wrong token %d times and more",
		              addr->len ? l7mp_addr_ip(addr, text) : "a UNIX client", FAILURES);
}

static void failed(struct api_token *t, struct source *s, const struct l7mp_addr *addr)
{
	uint64_t now = l7mp_loop_now(t->loop);

	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return;
		make_key(addr, s->key);
		HASH_ADD(hh, t->table, key, sizeof(s->key), s);
		if (!s->hh.tbl) {
			free(s);
			return;
		}
		t->n_sources++;
	} else {
		DL_DELETE(t->order, s);
	}
	DL_APPEND(t->order, s);
	if (s->debt_ms < now)
		s->debt_ms = now;
	/*
	 * The debt is bounded, so that a source that has failed for long need not wait long
	 * afterwards.
	 */
	if (!too_often(t, s)) {
		s->debt_ms += FAILURE_MS;
		if (too_often(t, s))
			log_guessing(t, addr);
	}
	while (t->n_sources > SOURCES_MAX || t->order->debt_ms < now)
		forget(t, t->order);
}

/* ---- checking ---- */

/* Compares hashes, so that the time reveals neither bytes nor length. */
static bool equal_secret(const char *a, const char *b)
{
	unsigned char ha[EVP_MAX_MD_SIZE], hb[EVP_MAX_MD_SIZE];
	unsigned na = 0, nb = 0;

	if (!EVP_Digest(a, strlen(a), ha, &na, EVP_sha256(), NULL) ||
	    !EVP_Digest(b, strlen(b), hb, &nb, EVP_sha256(), NULL))
		return false;
	return na == nb && CRYPTO_memcmp(ha, hb, na) == 0;
}

static bool is_right(struct api_token *t, const char *authorization)
{
	const char *why;
	char *token = read_token(t->path, &why);
	uint32_t left_out;
	bool right = false;

	if (!token) {
		if (l7mp_log_allowed(&t->file_log, l7mp_loop_now(t->loop), LOG_MS, 1, &left_out))
			l7mp_log_error("api", "'%s' can't be used, every request is refused: %s",
			               t->path, why);
		return false;
	}
	if (authorization && !strncasecmp(authorization, "Bearer ", 7))
		right = equal_secret(authorization + 7 + strspn(authorization + 7, " "), token);
	free_token(token);
	return right;
}

enum api_token_verdict api_token_check(struct api_token *t, const char *authorization,
                                       const struct l7mp_addr *source, bool local)
{
	struct source *s = find(t, source);
	bool often = too_often(t, s);

	if (often && !local)
		return API_TOKEN_TOO_OFTEN;
	if (is_right(t, authorization))
		return API_TOKEN_RIGHT;
	failed(t, s, source);
	return often ? API_TOKEN_TOO_OFTEN : API_TOKEN_WRONG;
}
