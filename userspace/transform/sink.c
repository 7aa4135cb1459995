/* SPDX-License-Identifier: MIT */
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

#define MODULE      "logger"
#define QUEUE_MAX   (1U << 20)
#define AGAIN_MS    20
#define LAST_WAIT   100
#define KEEP_BUFFER (64U << 10) /* a larger buffer is given back when it is empty */

struct l7mp_sinks {
	struct l7mp_loop *loop;
	struct l7mp_sink *head;
};

struct l7mp_sink {
	struct l7mp_sink *prev, *next;
	struct l7mp_sinks *sinks;
	unsigned refs;
	int fd;
	bool is_stdout; /* not ours to close */
	bool is_file;   /* never makes anyone wait */
	bool is_socket;
	size_t chunk; /* what a descriptor that polls writable takes without waiting */
	struct l7mp_str text;
	size_t done; /* bytes of text that are written */
	uint64_t dropped;
	int failed; /* errno that was logged already */
	struct l7mp_flush flush;
	struct l7mp_timer again;
	char path[];
};

int l7mp_sinks_new(struct l7mp_loop *loop, struct l7mp_sinks **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->loop = loop;
	return 0;
}

void l7mp_sinks_free(struct l7mp_sinks **sinks)
{
	free(*sinks);
	*sinks = NULL;
}

/* ---- writing ---- */

/* Bytes written, or negative errno; -EAGAIN when it would have to wait. */
static ssize_t write_some(struct l7mp_sink *k, const char *p, size_t n)
{
	struct pollfd pfd = {.fd = k->fd, .events = POLLOUT};
	ssize_t rc;

	if (k->is_socket) {
		rc = send(k->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		return rc < 0 ? -errno : rc;
	}
	/* The description may be shared with a shell: it can't be made non-blocking. */
	if (!k->is_file) {
		if (poll(&pfd, 1, 0) <= 0)
			return -EAGAIN;
		if (n > k->chunk)
			n = k->chunk;
	}
	rc = write(k->fd, p, n);
	return rc < 0 ? -errno : rc;
}

static void emptied(struct l7mp_sink *k)
{
	k->done = 0;
	k->text.len = 0;
	if (k->text.cap > KEEP_BUFFER)
		l7mp_str_free(&k->text);
	if (k->dropped)
		l7mp_log_warn(MODULE, "%s: %llu records lost: nobody reads it fast enough", k->path,
		              (unsigned long long)k->dropped);
	k->dropped = 0;
}

static void keep_rest(struct l7mp_sink *k)
{
	k->text.len -= k->done;
	memmove(k->text.s, k->text.s + k->done, k->text.len);
	k->done = 0;
}

/* 0 when all is out, -EAGAIN when not. */
static int write_out(struct l7mp_sink *k)
{
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

static void on_flush(struct l7mp_flush *f, void *arg)
{
	struct l7mp_sink *k = arg;

	(void)f;
	if (write_out(k) && !l7mp_timer_armed(&k->again))
		(void)l7mp_timer_start(k->sinks->loop, &k->again, AGAIN_MS);
}

static void on_again(struct l7mp_timer *t, void *arg)
{
	(void)t;
	on_flush(NULL, arg);
}

/* ---- text ---- */

/* Length of the well-formed UTF-8 sequence at p (RFC 3629), 0 when there is none. */
static size_t utf8_len(const uint8_t *p, size_t n)
{
	size_t len = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

	if (!len || n < len)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	/* C1 control characters drive terminals too. */
	return p[0] == 0xc2 && p[1] < 0xa0 ? 0 : len;
}

/* Bytes at p that may stay as they are. */
static size_t plain_len(const uint8_t *p, size_t n)
{
	size_t i = 0;

	while (i < n) {
		size_t len = 1;

		if (p[i] >= 0x80)
			len = utf8_len(p + i, n - i);
		else if (p[i] == 0x7f || (p[i] < 0x20 && p[i] != '\n' && p[i] != '\t'))
			len = 0;
		if (!len)
			break;
		i += len;
	}
	return i;
}

void l7mp_sink_record(struct l7mp_sink *k, const char *prefix, const void *data, size_t len)
{
	const uint8_t *p = data;

	if (k->text.len - k->done > QUEUE_MAX) {
		k->dropped++;
		return;
	}
	l7mp_str_add(&k->text, prefix);
	for (size_t i = 0; i < len;) {
		size_t n = plain_len(p + i, len - i);

		l7mp_str_addn(&k->text, p + i, n);
		i += n;
		if (i < len)
			l7mp_str_addf(&k->text, "\\x%02x", p[i++]);
	}
	if (!len || p[len - 1] != '\n')
		l7mp_str_add(&k->text, "\n");
	if (k->text.oom) {
		/* Start again with nothing rather than with half a record. */
		l7mp_str_free(&k->text);
		k->done = 0;
		k->dropped++;
		return;
	}
	l7mp_flush_request(k->sinks->loop, &k->flush);
}

/* ---- opening and closing ---- */

static int open_fd(struct l7mp_sink *k)
{
	struct stat st;

	k->is_stdout = !strcmp(k->path, "-");
	/* Non-blocking for the sake of FIFOs: one without a reader is an error at once. */
	k->fd = k->is_stdout
	                ? STDOUT_FILENO
	                : open(k->path,
	                       O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
	                       0640);
	if (k->fd < 0 || fstat(k->fd, &st))
		return -errno;
	k->is_file = S_ISREG(st.st_mode);
	k->is_socket = S_ISSOCK(st.st_mode);
	k->chunk = S_ISCHR(st.st_mode) ? 256 : PIPE_BUF;
	return 0;
}

int l7mp_sink_open(struct l7mp_sinks *sinks, const char *path, struct l7mp_sink **out)
{
	struct l7mp_sink *k;
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
	rc = open_fd(k);
	if (rc) {
		if (k->fd >= 0 && !k->is_stdout)
			close(k->fd);
		free(k);
		return rc;
	}
	k->sinks = sinks;
	k->refs = 1;
	l7mp_flush_init(&k->flush, on_flush, k);
	l7mp_timer_init(&k->again, on_again, k);
	DL_APPEND(sinks->head, k);
	*out = k;
	return 0;
}

void l7mp_sink_close(struct l7mp_sink **kp)
{
	struct l7mp_sink *k = *kp;
	struct pollfd pfd;

	*kp = NULL;
	if (!k || --k->refs)
		return;
	pfd = (struct pollfd){.fd = k->fd, .events = POLLOUT};
	while (write_out(k) && poll(&pfd, 1, LAST_WAIT) > 0)
		;
	if (k->text.len)
		l7mp_log_warn(MODULE, "%s: closed with %zu bytes that nobody read", k->path,
		              k->text.len - k->done);
	l7mp_flush_cancel(k->sinks->loop, &k->flush);
	l7mp_timer_stop(k->sinks->loop, &k->again);
	DL_DELETE(k->sinks->head, k);
	l7mp_str_free(&k->text);
	if (!k->is_stdout)
		close(k->fd);
	free(k);
}
