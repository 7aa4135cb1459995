/* SPDX-License-Identifier: MIT */
#include "access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/util.h"

/*
 * Never blocks: a FIFO that nobody reads is ENXIO at once, and one that is full loses records. What
 * is neither a file nor a FIFO nor a terminal is EINVAL.
 */
static int open_path(const char *path)
{
	int fd =
	        open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st) && (S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
		return fd;
	close(fd);
	return -EINVAL;
}

int l7mp_access_log_open(struct l7mp_access_log *log, const char *path)
{
	char *copy;
	int fd;

	if (!path) {
		l7mp_access_log_close(log);
		return 0;
	}
	if (log->path && strcmp(log->path, path) == 0)
		return 0;
	fd = open_path(path);
	if (fd < 0)
		return fd;
	copy = strdup(path);
	if (!copy) {
		close(fd);
		return -ENOMEM;
	}
	l7mp_access_log_close(log);
	log->path = copy;
	log->fd = fd;
	log->cut = false;
	return 0;
}

int l7mp_access_log_reopen(struct l7mp_access_log *log)
{
	int fd;

	if (!log->path)
		return 0;
	fd = open_path(log->path);
	if (fd < 0)
		return fd;
	close(log->fd);
	log->fd = fd;
	log->cut = false;
	return 0;
}

void l7mp_access_log_close(struct l7mp_access_log *log)
{
	if (log->path)
		close(log->fd);
	free(log->path);
	log->path = NULL;
	log->fd = -1;
}

/*
 * One write a line: lines stay whole when several processes share the file. A line that a FIFO
 * took in part is ended by the next one.
 */
static void write_line(struct l7mp_access_log *log, const char *line)
{
	size_t len = line ? strlen(line) : 0;
	uint32_t left_out;
	ssize_t n = -1;

	errno = ENOMEM;
	if (line && (!log->cut || write(log->fd, "\n", 1) == 1)) {
		n = write(log->fd, line, len);
		log->cut = n > 0 && (size_t)n < len;
	}
	if (n == (ssize_t)len && line)
		return;
	log->lost++;
	if (!l7mp_log_allowed(&log->limit, l7mp_wallclock_ms(), 10000, 1, &left_out))
		return;
	l7mp_log_warn("access-log", "%s: %llu records lost: %s", log->path,
	              (unsigned long long)log->lost, n < 0 ? strerror(errno) : "it takes no more");
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
