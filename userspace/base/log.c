/* SPDX-License-Identifier: MIT */
#include "l7mp/log.h"

#include <errno.h>
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

#include "l7mp/filewriter.h"
#include "l7mp/util.h"

/* Raw text and escaped record; both small enough for the stack of a worker thread. */
#define MESSAGE_MAX 4096
#define RECORD_MAX  8192
#define QUEUE_MAX   (4U << 20) /* bytes queued for a slow disk */
#define FLUSH_MS    5000

static const char *const level_names[] = {"silly", "verbose", "info",  "notice",
                                          "warn",  "error",   "silent"};

static _Atomic int log_level = L7MP_LOG_NOTICE;

/*
 * The target, guarded by the lock. path NULL: fd is stdout or stderr. A regular file is `file`, and
 * fd is not used.
 */
static struct {
	pthread_mutex_t lock;
	struct l7mp_writer *writer; /* made with the first file */
	struct l7mp_wfile *file;
	int fd;
	bool json;
	bool cut;      /* the last record was written only in part */
	unsigned lost; /* records, since the last one that was written */
	size_t chunk;  /* bytes that can be written without blocking when fd polls writable */
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

static size_t chunk_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) || S_ISCHR(st.st_mode) ? 256 : PIPE_BUF;
}

/* Takes fd if it is a regular file's; then *out is set. Returns 0 or negative errno. */
static int file_of(int fd, const char *path, struct l7mp_wfile **out)
{
	struct stat st;
	int rc = 0;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		return 0;
	if (!target.writer)
		rc = l7mp_writer_new(L7MP_WRITES_LOG, QUEUE_MAX, &target.writer);
	return rc ? rc : l7mp_wfile_new(target.writer, fd, path, out);
}

/* Opens target.path. Returns 0 or negative errno. */
static int path_open(const char *path, int *fd, struct l7mp_wfile **file)
{
	int rc;

	*file = NULL;
	*fd = l7mp_append_open(path);
	if (*fd < 0)
		return *fd;
	rc = file_of(*fd, path, file);
	if (rc)
		close(*fd);
	return rc;
}

/* Takes fd, unless there is no path, and file. */
static void target_set(int fd, struct l7mp_wfile *file)
{
	if (target.file)
		l7mp_wfile_close(&target.file);
	else if (target.path)
		close(target.fd);
	target.fd = fd;
	target.file = file;
	target.cut = false;
	target.chunk = file ? 0 : chunk_of(fd);
}

static int std_fd(const char *name)
{
	if (!strcmp(name, "stdout"))
		return STDOUT_FILENO;
	return strcmp(name, "stderr") ? -1 : STDERR_FILENO;
}

int l7mp_log_open(const char *name, bool json)
{
	struct l7mp_wfile *file = NULL;
	char *path = NULL, *old = NULL;
	int fd, rc = 0;

	if (!name || !name[0])
		return -EINVAL;
	fd = std_fd(name);
	if (fd < 0) {
		path = strdup(name);
		if (!path)
			return -ENOMEM;
	}
	pthread_mutex_lock(&target.lock);
	if (path)
		rc = path_open(path, &fd, &file);
	if (!rc) {
		target_set(fd, file);
		target.lost = 0;
		target.json = json;
		old = target.path;
		target.path = path;
	}
	pthread_mutex_unlock(&target.lock);
	free(rc ? path : old);
	return rc;
}

int l7mp_log_reopen(void)
{
	struct l7mp_wfile *file;
	int rc = 0, fd;

	pthread_mutex_lock(&target.lock);
	if (target.file) {
		rc = l7mp_wfile_reopen(target.file);
	} else if (target.path) {
		rc = path_open(target.path, &fd, &file);
		if (!rc)
			target_set(fd, file);
	}
	pthread_mutex_unlock(&target.lock);
	return rc;
}

/* Waits without the lock, because the writer's thread may log. */
void l7mp_log_close(void)
{
	struct l7mp_writer *writer;
	size_t rest;

	pthread_mutex_lock(&target.lock);
	target_set(STDERR_FILENO, NULL);
	free(target.path);
	target.path = NULL;
	target.json = false;
	target.lost = 0;
	writer = target.writer;
	target.writer = NULL;
	pthread_mutex_unlock(&target.lock);
	rest = l7mp_writer_free(&writer, FLUSH_MS);
	if (rest)
		l7mp_log_warn("log", "closed with %zu bytes that the disk did not take", rest);
}

bool l7mp_log_flush(unsigned timeout_ms)
{
	struct l7mp_writer *writer = target.writer;

	return !writer || l7mp_writer_flush(writer, timeout_ms);
}

bool l7mp_log_flush_in_signal(unsigned timeout_ms)
{
	const struct l7mp_writer *writer = target.writer;

	return !writer || l7mp_writer_flush_in_signal(writer, timeout_ms);
}

/* ---- records ---- */

struct record {
	size_t len;
	char s[RECORD_MAX];
};

/* Bytes reserved for "...", a closing quote, a brace and the newline. */
#define RECORD_TAIL 8

/* Appends n bytes. Returns false and appends nothing when they do not fit. */
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
		 * A byte that is not UTF-8 is shown in hexadecimal. JSON has no escape for a byte,
		 * so there the backslash itself is escaped.
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

/*
 * The descriptor may be shared with other programs, so it must stay blocking: poll it before the
 * write.
 */
static bool writable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	return poll(&p, 1, 0) > 0;
}

/*
 * Writes the record, or drops it: when a full pipe, a stopped terminal or a socket does not accept
 * it at once, the loop must not block. A pipe that polls writable accepts PIPE_BUF bytes, a
 * terminal fewer. After a partial write the next record begins with a newline.
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

/* `records` is the number of lost records to report if a later write to a file fails. */
static bool target_write(const struct record *r, unsigned records)
{
	if (target.file)
		return !l7mp_wfile_put(target.file, r->s, r->len, records);
	return record_write(target.fd, r->s, r->len);
}

/* Reports the number of lost records, if that can be written now. Called with the lock held. */
static void report_lost(struct record *r)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "%u records before this one were lost", target.lost);

	if (!target.lost)
		return;
	r->len = 0;
	record_build(r, target.json, L7MP_LOG_WARN, "log", text, (size_t)n, false);
	if (target_write(r, 0))
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
	report_lost(&r);
	r.len = 0;
	record_build(&r, target.json, level, module ? module : "", text, (size_t)n, cut);
	if (target.lost || !target_write(&r, 1)) {
		target.lost += target.lost < UINT32_MAX;
		l7mp_writer_lose(L7MP_WRITES_LOG, 1);
	}
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
