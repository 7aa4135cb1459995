/* SPDX-License-Identifier: MIT */
#include "access_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/util.h"

#define QUEUE_MAX (4U << 20) /* bytes queued for a slow disk */
#define FLUSH_MS  5000

/* Replaces the open file. Returns 0, or negative errno: then the old one stays open. */
static int open_path(struct l7mp_access_log *log, const char *path)
{
	struct l7mp_wfile *file = NULL;
	int fd = l7mp_append_open(path);
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) || !(S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
		rc = -EINVAL;
	if (!rc && S_ISREG(st.st_mode) && !log->writer)
		rc = l7mp_writer_new(L7MP_WRITES_ACCESS_LOG, QUEUE_MAX, &log->writer);
	if (!rc && S_ISREG(st.st_mode))
		rc = l7mp_wfile_new(log->writer, fd, path, &file);
	if (rc) {
		close(fd);
		return rc;
	}
	if (log->file)
		l7mp_wfile_close(&log->file);
	else if (log->path)
		close(log->fd);
	log->file = file;
	log->fd = fd;
	log->cut = false;
	return 0;
}

int l7mp_access_log_open(struct l7mp_access_log *log, const char *path)
{
	char *copy;
	int rc;

	if (!path) {
		l7mp_access_log_close(log);
		return 0;
	}
	if (log->path && strcmp(log->path, path) == 0)
		return 0;
	copy = strdup(path);
	rc = copy ? open_path(log, path) : -ENOMEM;
	if (rc) {
		free(copy);
		return rc;
	}
	free(log->path);
	log->path = copy;
	return 0;
}

int l7mp_access_log_reopen(struct l7mp_access_log *log)
{
	if (log->file)
		return l7mp_wfile_reopen(log->file);
	return log->path ? open_path(log, log->path) : 0;
}

void l7mp_access_log_close(struct l7mp_access_log *log)
{
	if (log->file)
		l7mp_wfile_close(&log->file);
	else if (log->path)
		close(log->fd);
	free(log->path);
	log->path = NULL;
}

void l7mp_access_log_end(struct l7mp_access_log *log)
{
	size_t rest;

	l7mp_access_log_close(log);
	rest = l7mp_writer_free(&log->writer, FLUSH_MS);
	if (rest)
		l7mp_log_warn("access-log", "closed with %zu bytes that the disk did not take",
		              rest);
}

/*
 * One write per line, so that lines stay whole when several processes share the file. After a line
 * that a FIFO accepted only in part the next one begins with a newline. Returns NULL, or why the
 * line is lost.
 */
static const char *put_line(struct l7mp_access_log *log, const char *line)
{
	size_t len = strlen(line);
	ssize_t n = -1;

	if (log->file)
		return l7mp_wfile_put(log->file, line, len, 1) ? "its disk is too slow" : NULL;
	if (!log->cut || write(log->fd, "\n", 1) == 1) {
		n = write(log->fd, line, len);
		log->cut = n > 0 && (size_t)n < len;
	}
	if (n == (ssize_t)len)
		return NULL;
	return n < 0 ? strerror(errno) : "it takes no more";
}

static void write_line(struct l7mp_access_log *log, const char *line)
{
	const char *reason = line ? put_line(log, line) : strerror(ENOMEM);
	uint32_t left_out;

	if (reason) {
		l7mp_writer_lose(L7MP_WRITES_ACCESS_LOG, 1);
		log->lost++;
		log->reason = reason;
	}
	if (!log->lost)
		return;
	if (!l7mp_log_allowed(&log->limit, l7mp_wallclock_ms(), 10000, 1, &left_out))
		return;
	l7mp_log_warn("access-log", "%s: %llu records lost: %s", log->path,
	              (unsigned long long)log->lost, log->reason);
	log->lost = 0;
}

void l7mp_access_log_write(struct l7mp_access_log *log, const struct l7mp_session *session)
{
	cJSON *record;
	char *line;

	if (!log->path)
		return;
	record = l7mp_session_access_record(session);
	line = record ? l7mp_json_print(record, L7MP_JSON_PLAIN) : NULL;
	write_line(log, line);
	free(line);
	cJSON_Delete(record);
}
