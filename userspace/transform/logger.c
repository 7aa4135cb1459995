/* SPDX-License-Identifier: MIT */
/* Logger: passes everything through and writes it to a file or the standard output. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/filewriter.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/loop.h"
#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "transform.h"

/* ---- sinks ---- */

/*
 * Files to which Loggers append text, shared by path. Records are written at the end of the loop
 * iteration, without waiting for a slow reader: up to 1 MiB that a pipe or terminal does not accept
 * is queued; further records are dropped with a warning. Regular files are written by one thread
 * (filewriter.h), with a queue of at most 16 MiB for all of them.
 */

#define MODULE      "logger"
#define QUEUE_MAX   (1U << 20)
#define FILES_MAX   (16U << 20) /* bytes queued for all files on slow disks */
#define FLUSH_MS    5000
#define RETRY_MS    20
#define LINGER_MS   2000        /* after the last reference was dropped: for data not yet read */
#define KEEP_BUFFER (64U << 10) /* a larger buffer is freed when it is empty */

struct sinks {
	struct l7mp_loop *loop;
	struct sink *head;
	struct l7mp_writer *writer; /* created with the first regular file */
};

struct sink {
	struct sink *prev, *next;
	struct sinks *sinks;
	unsigned refs;
	int fd;
	bool is_stdout;          /* must not be closed */
	bool is_file;            /* stdout is a regular file */
	struct l7mp_wfile *file; /* any other regular file: owns fd */
	unsigned records;        /* in text */
	bool is_socket;
	size_t chunk; /* bytes that can be written without blocking when fd polls writable */
	struct l7mp_str text;
	size_t done; /* bytes of text already written */
	uint64_t dropped;
	int failed;            /* negative errno that was logged */
	uint64_t linger_until; /* without references: loop time */
	struct l7mp_flush flush;
	struct l7mp_timer retry_timer;
	char path[];
};

static int sinks_new(struct l7mp_loop *loop, struct sinks **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->loop = loop;
	return 0;
}

/* ---- writing ---- */

static void drop(struct sink *k, unsigned records)
{
	l7mp_writer_lose(L7MP_WRITES_LOGGER, records);
	k->dropped += records;
}

/* Returns the bytes written, or negative errno; -EAGAIN when it would block. */
static ssize_t write_some(struct sink *k, const char *p, size_t n)
{
	struct pollfd pfd = {.fd = k->fd, .events = POLLOUT};
	ssize_t rc;

	if (k->is_socket) {
		rc = send(k->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		return rc < 0 ? -errno : rc;
	}
	/* The open file description may be shared with a shell, and must stay blocking. */
	if (!k->is_file) {
		if (poll(&pfd, 1, 0) <= 0)
			return -EAGAIN;
		if (n > k->chunk)
			n = k->chunk;
	}
	rc = write(k->fd, p, n);
	return rc < 0 ? -errno : rc;
}

static void emptied(struct sink *k)
{
	k->done = 0;
	k->text.len = 0;
	k->records = 0;
	if (k->text.cap > KEEP_BUFFER)
		l7mp_str_free(&k->text);
	if (k->dropped)
		l7mp_log_warn(MODULE, "%s: %llu records lost: its %s is too slow", k->path,
		              (unsigned long long)k->dropped, k->file ? "disk" : "reader");
	k->dropped = 0;
}

static void keep_rest(struct sink *k)
{
	k->text.len -= k->done;
	memmove(k->text.s, k->text.s + k->done, k->text.len);
	k->done = 0;
}

/*
 * Passes the text to the writer. -EAGAIN: its queue is full; losses are reported once it has room.
 */
static int queue_out(struct sink *k)
{
	bool full = k->text.len && l7mp_wfile_put(k->file, k->text.s, k->text.len, k->records);

	if (full)
		drop(k, k->records);
	k->text.len = 0;
	k->records = 0;
	if (k->refs && k->dropped && l7mp_writer_queued(k->sinks->writer))
		return -EAGAIN;
	emptied(k);
	return 0;
}

/* 0: everything was written; -EAGAIN: not everything. */
static int write_out(struct sink *k)
{
	if (k->file)
		return queue_out(k);
	while (k->done < k->text.len) {
		ssize_t n = write_some(k, k->text.s + k->done, k->text.len - k->done);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			keep_rest(k);
			return -EAGAIN;
		}
		if (n < 0) {
			if (k->failed != (int)n)
				l7mp_log_error(MODULE, "%s: %s", k->path, strerror((int)-n));
			k->failed = (int)n;
			break;
		}
		k->failed = 0;
		k->done += (size_t)n;
	}
	emptied(k);
	return 0;
}

static void sink_free(struct sink *k)
{
	if (k->text.len)
		l7mp_log_warn(MODULE, "%s: closed with %zu bytes that were not read", k->path,
		              k->text.len - k->done);
	l7mp_flush_cancel(k->sinks->loop, &k->flush);
	l7mp_timer_stop(k->sinks->loop, &k->retry_timer);
	DL_DELETE(k->sinks->head, k);
	l7mp_str_free(&k->text);
	if (k->file)
		l7mp_wfile_close(&k->file);
	else if (!k->is_stdout)
		close(k->fd);
	free(k);
}

/* Without references: frees the sink when all is written, or when that takes too long. */
static void settle(struct sink *k)
{
	struct l7mp_loop *loop = k->sinks->loop;
	bool rest = write_out(k) != 0;

	if (!k->refs && (!rest || l7mp_loop_now(loop) >= k->linger_until))
		sink_free(k);
	else if (rest && !l7mp_timer_armed(&k->retry_timer) &&
	         l7mp_timer_start(loop, &k->retry_timer, RETRY_MS) && !k->refs)
		sink_free(k);
}

static void on_flush(struct l7mp_flush *f, void *arg)
{
	(void)f;
	settle(arg);
}

static void on_retry(struct l7mp_timer *t, void *arg)
{
	(void)t;
	settle(arg);
}

/* ---- text ---- */

/* Number of bytes at p that need no escape. */
static size_t plain_len(const uint8_t *p, size_t n)
{
	size_t i = 0;

	while (i < n) {
		uint32_t cp = p[i];
		size_t len = cp < 0x80 ? 1 : l7mp_utf8_decode(p + i, n - i, &cp);

		/*
		 * C0 (except tab), DEL and C1 characters control terminals; a newline, and the
		 * characters that some programs treat as one (U+2028, U+2029), would begin another
		 * record.
		 */
		if (!len || (cp < 0x20 && cp != '\t') || (cp >= 0x7f && cp < 0xa0) ||
		    cp == 0x2028 || cp == 0x2029)
			break;
		i += len;
	}
	return i;
}

/*
 * Appends one record, a line: the prefix, the payload as text without a newline at its end, and a
 * newline. UTF-8 and tabs are written unchanged. Any other newline becomes \n, and other
 * control characters and bytes that are not UTF-8 become \xNN, so that a peer can neither forge a
 * record nor send control sequences to a terminal. A backslash is not escaped.
 */
static void sink_record(struct sink *k, const char *prefix, const void *data, size_t len)
{
	const uint8_t *p = data;

	if (k->text.len - k->done > QUEUE_MAX) {
		if (k->file)
			(void)write_out(k);
	}
	if (k->text.len - k->done > QUEUE_MAX) {
		drop(k, 1);
		return;
	}
	/* A newline at the end of the payload becomes the record's. */
	if (len && p[len - 1] == '\n')
		len--;
	l7mp_str_add(&k->text, prefix);
	for (size_t i = 0; i < len;) {
		size_t n = plain_len(p + i, len - i);

		l7mp_str_addn(&k->text, p + i, n);
		i += n;
		if (i < len && p[i] == '\n')
			l7mp_str_add(&k->text, "\\n");
		else if (i < len)
			l7mp_str_addf(&k->text, "\\x%02x", p[i]);
		i++;
	}
	l7mp_str_add(&k->text, "\n");
	if (k->text.oom) {
		/* Drop everything, so that no partial record is written. */
		l7mp_str_free(&k->text);
		k->done = 0;
		drop(k, k->records + 1);
		k->records = 0;
		return;
	}
	k->records++;
	l7mp_flush_request(k->sinks->loop, &k->flush);
}

/* ---- opening and closing ---- */

static int use_fd(struct sink *k, int fd)
{
	struct stat st;
	int rc = 0;

	if (fstat(fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode))
		return -EINVAL;
	k->file = NULL;
	if (S_ISREG(st.st_mode) && !k->is_stdout) {
		if (!k->sinks->writer)
			rc = l7mp_writer_new(L7MP_WRITES_LOGGER, FILES_MAX, &k->sinks->writer);
		if (!rc)
			rc = l7mp_wfile_new(k->sinks->writer, fd, k->path, &k->file);
	}
	k->fd = fd;
	k->is_file = S_ISREG(st.st_mode);
	k->is_socket = S_ISSOCK(st.st_mode);
	k->chunk = S_ISCHR(st.st_mode) ? 256 : PIPE_BUF;
	return rc;
}

static int open_fd(struct sink *k)
{
	int fd = k->is_stdout ? STDOUT_FILENO : l7mp_append_open(k->path);
	int rc = fd < 0 ? fd : use_fd(k, fd);

	if (rc && fd >= 0 && !k->is_stdout)
		close(fd);
	return rc;
}

/*
 * Opens `path` for appending, creating it with mode 0640; "-" is the standard output. Returns a
 * reference in *out; 0 or negative errno.
 */
static int sink_open(struct sinks *sinks, const char *path, struct sink **out)
{
	struct sink *k;
	int rc;

	DL_FOREACH (sinks->head, k) {
		if (strcmp(k->path, path))
			continue;
		k->refs++;
		*out = k;
		return 0;
	}
	k = calloc(1, sizeof(*k) + strlen(path) + 1);
	if (!k)
		return -ENOMEM;
	strcpy(k->path, path);
	k->sinks = sinks;
	k->is_stdout = !strcmp(path, "-");
	rc = open_fd(k);
	if (rc) {
		free(k);
		return rc;
	}
	k->refs = 1;
	l7mp_flush_init(&k->flush, on_flush, k);
	l7mp_timer_init(&k->retry_timer, on_retry, k);
	DL_APPEND(sinks->head, k);
	*out = k;
	return 0;
}

/*
 * Drops a reference. Data that a slow reader has not accepted yet is written for up to 2 s longer,
 * without blocking. Sets the pointer to NULL.
 */
static void sink_close(struct sink **kp)
{
	struct sink *k = *kp;

	*kp = NULL;
	if (!k || --k->refs)
		return;
	k->linger_until = l7mp_loop_now(k->sinks->loop) + LINGER_MS;
	settle(k);
}

/* Text gathered so far goes to the old file. */
static void reopen(struct sink *k)
{
	struct sink old;
	int rc = write_out(k);

	if (k->is_stdout || (rc && !k->file))
		return;
	if (k->file) {
		(void)l7mp_wfile_reopen(k->file);
		return;
	}
	old = *k;
	rc = open_fd(k);
	if (!rc) {
		close(old.fd);
		return;
	}
	k->file = NULL;
	k->fd = old.fd;
	k->is_file = old.is_file;
	k->is_socket = old.is_socket;
	k->chunk = old.chunk;
	l7mp_log_warn(MODULE, "%s: can't be opened again, the old file stays: %s", k->path,
	              strerror(-rc));
}

/*
 * Reopens the files, after a rotation. A file that can't be opened, or a FIFO whose reader has not
 * read everything, stays as it is.
 */
static void sinks_reopen(struct sinks *sinks)
{
	struct sink *k;

	DL_FOREACH (sinks->head, k)
		reopen(k);
}

/*
 * All sinks must have been closed. Data that a slow reader has not accepted yet is lost; for disk
 * writes it waits for up to 5 s.
 */
static void sinks_free(struct sinks **sinks)
{
	size_t rest;

	while ((*sinks)->head) {
		(void)write_out((*sinks)->head);
		sink_free((*sinks)->head);
	}
	rest = l7mp_writer_free(&(*sinks)->writer, FLUSH_MS);
	if (rest)
		l7mp_log_warn(MODULE, "closed with %zu bytes that the disk did not take", rest);
	free(*sinks);
	*sinks = NULL;
}

/* ---- the transformer ---- */

struct logger {
	struct l7mp_transform t;
	struct sink *sink;
	char *prefix;
	bool time; /* print the time before the prefix */
};

static int logger_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct logger *l = (struct logger *)s;
	char prefix[L7MP_ISO8601_LEN + 256], time[L7MP_ISO8601_LEN];
	int rc = l7mp_transform_check(&l->t, buf);

	if (rc)
		return rc;
	if (l->time) {
		l7mp_iso8601(l7mp_wallclock_ms(), time);
		snprintf(prefix, sizeof(prefix), "%s %s", time, l->prefix);
	}
	sink_record(l->sink, l->time ? prefix : l->prefix, buf->data, buf->len);
	l7mp_transform_emit(&l->t, buf);
	return 0;
}

static void logger_release(struct l7mp_transform *t)
{
	struct logger *l = (struct logger *)t;

	sink_close(&l->sink);
	free(l->prefix);
}

static const struct l7mp_transform_ops ops = {
        .stream = L7MP_TRANSFORM_STREAM_OPS(logger_write, l7mp_transform_flow_none),
        .release = logger_release,
};

static int logger_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                          struct l7mp_error *err)
{
	struct sinks *sinks = l7mp_proto_state(params->env, &l7mp_transform_logger, err);
	const char *path = l7mp_json_str(params->cluster_spec, "log_file", "-");
	struct logger *l;
	int rc;

	if (!sinks)
		return -ENOMEM;
	l = l7mp_transform_new(sizeof(*l), params, &ops);
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->prefix = strdup(l7mp_json_str(params->cluster_spec, "log_prefix", ""));
	l->time = l7mp_json_bool(params->cluster_spec, "log_time", false);
	rc = l->prefix ? sink_open(sinks, path, &l->sink) : -ENOMEM;
	if (rc) {
		l7mp_transform_discard_new(&l->t);
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "Logger: log_file %s: %s", path,
		                      rc == -ENXIO ? "this FIFO has no reader" : strerror(-rc));
	}
	*out = &l->t.base;
	return 0;
}

static int logger_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	struct sinks *sinks;

	if (sinks_new(env->loop, &sinks))
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	*state = sinks;
	return 0;
}

static void logger_stop(struct l7mp_env *env, void *state)
{
	struct sinks *sinks = state;

	(void)env;
	sinks_free(&sinks);
}

static void logger_reopen(struct l7mp_env *env, void *state)
{
	(void)env;
	sinks_reopen(state);
}

static const struct l7mp_field cluster_fields[] = {
        {.key = "log_file",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .def = "\"-\"",
         .doc = "file to append to, opened again at SIGHUP and SIGUSR1; - is the standard output"},
        {.key = "log_prefix",
         .type = L7MP_T_STRING,
         .def = "\"\"",
         .doc = "text before each message"},
        {.key = "log_time",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "the time (ISO 8601, UTC) before the prefix"},
        {0},
};

static const struct l7mp_schema cluster_spec = {
        .name = "logger-cluster",
        .doc = "Passes everything through and writes it, one line a message, as text: newlines "
               "within it as \\n, other control characters and bytes that are not UTF-8 as \\xNN",
        .fields = cluster_fields,
};

static const char *const aliases[] = {"INLINE/Logger", NULL};

const struct l7mp_proto l7mp_transform_logger = {
        .desc =
                {
                        .name = "Logger",
                        .aliases = aliases,
                        .doc = "Passes everything through and writes it to a file or the standard "
                               "output",
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS |
                                 L7MP_PROTO_STATELESS,
                        .kind = L7MP_KIND_DATAGRAM,
                        .cluster_spec = &cluster_spec,
                },
        .start = logger_start,
        .stop = logger_stop,
        .reopen = logger_reopen,
        .connect = logger_connect,
};
