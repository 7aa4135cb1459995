/* SPDX-License-Identifier: MIT */
#include "access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/log.h"

static int open_path(const char *path)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);

	return fd < 0 ? -errno : fd;
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

void l7mp_access_log_write(struct l7mp_access_log *log, const struct l7mp_session *session)
{
	cJSON *record;
	char *line;

	if (!log->path)
		return;
	record = l7mp_session_access_record(session);
	line = record ? l7mp_json_print(record, L7MP_JSON_PLAIN) : NULL;
	/* One write a line: lines stay whole when several processes share the file. */
	if (!line || write(log->fd, line, strlen(line)) < 0)
		l7mp_log_warn("access-log", "%s: a record was lost: %s", log->path,
		              line ? strerror(errno) : "out of memory");
	free(line);
	cJSON_Delete(record);
}
