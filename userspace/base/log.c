/* SPDX-License-Identifier: MIT */
#include "l7mp/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/util.h"

/* Raw text and escaped record; both small enough for the stack of a worker thread. */
#define MESSAGE_MAX 4096
#define RECORD_MAX  8192

static const char *const level_names[] = {"silly", "verbose", "info",  "notice",
                                          "warn",  "error",   "silent"};

static _Atomic int log_level = L7MP_LOG_NOTICE;

/* The target, guarded by the lock. path NULL: fd is stdout or stderr. */
static struct {
	pthread_mutex_t lock;
	int fd;
	bool json;
	bool cut;      /* the last record has no end */
	unsigned lost; /* records, since the last one that was written */
	size_t chunk;  /* what can be written at once without blocking when fd polls writable */
	char *path;
} target = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = STDERR_FILENO, .chunk = 256};

/* ---- level ---- */

int l7mp_log_level_parse(const char *name, enum l7mp_log_level *out)
{
	if (!name)
		return -EINVAL;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(level_names); i++) {
		if (!strcasecmp(name, level_names[i])) {
			*out = (enum l7mp_log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *l7mp_log_level_name(enum l7mp_log_level level)
{
	return (unsigned)level < L7MP_ARRAY_SIZE(level_names) ? level_names[level] : "unknown";
}

void l7mp_log_set_level(enum l7mp_log_level level)
{
	atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

enum l7mp_log_level l7mp_log_get_level(void)
{
	return (enum l7mp_log_level)atomic_load_explicit(&log_level, memory_order_relaxed);
}

/* ---- target ---- */

/* O_NONBLOCK: a FIFO without a reader fails with ENXIO, and writing never blocks later. */
static int path_open(const char *path)
{
	int fd =
	        open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);

	return fd < 0 ? -errno : fd;
}

static size_t chunk_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) || S_ISCHR(st.st_mode))
		return 256;
	return S_ISREG(st.st_mode) ? RECORD_MAX : PIPE_BUF;
}

/* Takes path and, with a path, fd. */
static void target_set(int fd, char *path)
{
	if (target.path) {
		close(target.fd);
		free(target.path);
	}
	target.fd = fd;
	target.path = path;
	target.cut = false;
	target.lost = 0;
	target.chunk = chunk_of(fd);
}

int l7mp_log_open(const char *name, bool json)
{
	char *path = NULL;
	int fd;

	if (!name || !name[0])
		return -EINVAL;
	if (!strcmp(name, "stdout")) {
		fd = STDOUT_FILENO;
	} else if (!strcmp(name, "stderr")) {
		fd = STDERR_FILENO;
	} else {
		path = strdup(name);
		if (!path)
			return -ENOMEM;
		fd = path_open(path);
		if (fd < 0) {
			free(path);
			return fd;
		}
	}
	pthread_mutex_lock(&target.lock);
	target_set(fd, path);
	target.json = json;
	pthread_mutex_unlock(&target.lock);
	return 0;
}

int l7mp_log_reopen(void)
{
	int rc = 0;

	pthread_mutex_lock(&target.lock);
	if (target.path) {
		int fd = path_open(target.path);

		if (fd >= 0) {
			close(target.fd);
			target.fd = fd;
			target.cut = false;
			target.chunk = chunk_of(fd);
		} else {
			rc = fd;
		}
	}
	pthread_mutex_unlock(&target.lock);
	return rc;
}

void l7mp_log_close(void)
{
	pthread_mutex_lock(&target.lock);
	target_set(STDERR_FILENO, NULL);
	target.json = false;
	pthread_mutex_unlock(&target.lock);
}

/* ---- records ---- */

struct record {
	size_t len;
	char s[RECORD_MAX];
};

/* Bytes reserved for "...", a closing quote, a brace and the newline. */
#define RECORD_TAIL 8

/* Appends n bytes, or nothing; false: they do not fit. */
static bool put(struct record *r, const char *s, size_t n)
{
	if (n > sizeof(r->s) - RECORD_TAIL - r->len)
		return false;
	memcpy(r->s + r->len, s, n);
	r->len += n;
	return true;
}

static void put_tail(struct record *r, const char *s)
{
	size_t n = strlen(s);

	memcpy(r->s + r->len, s, n);
	r->len += n;
}

/* Escapes one character; returns the number of input bytes used. */
static size_t escape(const char *in, size_t n, bool json, char out[static 16], size_t *out_len)
{
	uint32_t cp = 0;
	size_t used = l7mp_utf8_decode(in, n, &cp);

	if (!used) {
		/*
		 * A byte that is not UTF-8 is shown in hexadecimal; JSON has no escape for a byte,
		 * so there the backslash is part of the text.
		 */
		*out_len = (size_t)snprintf(out, 16, json ? "\\\\x%02x" : "\\x%02x",
		                            (unsigned)(uint8_t)in[0]);
		return 1;
	}
	if (json && (cp == '"' || cp == '\\'))
		*out_len = (size_t)snprintf(out, 16, "\\%c", (char)cp);
	else if (cp == '\n' || cp == '\t' || cp == '\r')
		*out_len = (size_t)snprintf(out, 16, "\\%c",
		                            cp == '\n'   ? 'n'
		                            : cp == '\t' ? 't'
		                                         : 'r');
	else if (!l7mp_utf8_unprintable(cp))
		memcpy(out, in, *out_len = used);
	else if (cp > 0xffff)
		*out_len = (size_t)snprintf(out, 16, "\xef\xbf\xbd");
	else if (json || cp > 0xff)
		*out_len = (size_t)snprintf(out, 16, "\\u%04x", (unsigned)cp);
	else
		*out_len = (size_t)snprintf(out, 16, "\\x%02x", (unsigned)cp);
	return used;
}

static bool put_escaped(struct record *r, const char *s, size_t n, bool json)
{
	while (n) {
		char out[16];
		size_t out_len = 0;
		size_t used = escape(s, n, json, out, &out_len);

		if (!put(r, out, out_len))
			return false;
		s += used;
		n -= used;
	}
	return true;
}

static void record_build(struct record *r, bool json, enum l7mp_log_level level, const char *module,
                         const char *text, size_t n, bool cut)
{
	char head[64];
	char time[L7MP_ISO8601_LEN];

	l7mp_iso8601(l7mp_wallclock_ms(), time);
	snprintf(head, sizeof(head),
	         json ? "{\"time\":\"%s\",\"level\":\"%s\",\"module\":\"" : "%s %s ", time,
	         l7mp_log_level_name(level));
	put(r, head, strlen(head));
	put_escaped(r, module, strnlen(module, 64), json);
	head[0] = '\0';
	snprintf(head, sizeof(head), "%s", json ? "\",\"message\":\"" : " ");
	put(r, head, strlen(head));
	if (!put_escaped(r, text, n, json))
		cut = true;
	put_tail(r, cut ? "..." : "");
	put_tail(r, json ? "\"}\n" : "\n");
}

/* A descriptor may be shared with other programs, and must stay blocking: so it is asked before. */
static bool writable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	return poll(&p, 1, 0) > 0;
}

/*
 * Whole, or not at all: what a full pipe, a stopped terminal or a socket does not take at once is
 * lost, rather than that the loop stops. A pipe that polls writable takes PIPE_BUF bytes, a
 * terminal less; a record that was cut between two pieces is ended by the next one.
 */
static bool record_write(int fd, const char *s, size_t n)
{
	bool begun = false;

	if (target.cut && (!writable(fd) || write(fd, "\n", 1) != 1))
		return false;
	target.cut = false;
	while (n && writable(fd)) {
		ssize_t rc = write(fd, s, n < target.chunk ? n : target.chunk);

		if (rc < 0 && errno == EINTR)
			continue;
		if (rc <= 0)
			break;
		begun = true;
		s += rc;
		n -= (size_t)rc;
	}
	target.cut = begun && n;
	return !n;
}

/* Says how many records were lost, as soon as that can be said. Under the lock. */
static void tell_lost(struct record *r)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "%u records before this one were lost", target.lost);

	if (!target.lost)
		return;
	r->len = 0;
	record_build(r, target.json, L7MP_LOG_WARN, "log", text, (size_t)n, false);
	if (record_write(target.fd, r->s, r->len))
		target.lost = 0;
}

void l7mp_log_write(enum l7mp_log_level level, const char *module, const char *fmt, ...)
{
	char text[MESSAGE_MAX];
	struct record r;
	int saved = errno;
	bool cut = false;
	va_list ap;
	int n;

	if (level < l7mp_log_get_level() || level >= L7MP_LOG_SILENT)
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0)
		n = 0;
	if ((size_t)n >= sizeof(text)) {
		n = sizeof(text) - 1;
		cut = true;
	}
	pthread_mutex_lock(&target.lock);
	tell_lost(&r);
	r.len = 0;
	record_build(&r, target.json, level, module ? module : "", text, (size_t)n, cut);
	if (target.lost || !record_write(target.fd, r.s, r.len))
		target.lost += target.lost < UINT32_MAX;
	pthread_mutex_unlock(&target.lock);
	errno = saved;
}

bool l7mp_log_allowed(struct l7mp_log_limit *limit, uint64_t now_ms, uint32_t interval_ms,
                      uint32_t burst, uint32_t *suppressed)
{
	if (now_ms < limit->window_start_ms || now_ms - limit->window_start_ms >= interval_ms ||
	    (!limit->seen && !limit->suppressed)) {
		limit->window_start_ms = now_ms;
		limit->seen = 0;
	}
	if (limit->seen < burst) {
		limit->seen++;
		*suppressed = limit->suppressed;
		limit->suppressed = 0;
		return true;
	}
	if (limit->suppressed < UINT32_MAX)
		limit->suppressed++;
	return false;
}
