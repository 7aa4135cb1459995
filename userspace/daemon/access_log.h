/* SPDX-License-Identifier: MIT */
/* The access log: one JSON line per ended session. Thread: loop only. */
#pragma once

#include "l7mp/session.h"

struct l7mp_access_log {
	char *path; /* NULL: none */
	int fd;     /* -1: not open */
};

/* Zeroed or {NULL, -1}: off. Opens path for appending (mode 0640); NULL closes. 0 or negative errno: the old one stays. */
int l7mp_access_log_open(struct l7mp_access_log *log, const char *path);
/* Opens the same path again, after a rotation. */
int l7mp_access_log_reopen(struct l7mp_access_log *log);
void l7mp_access_log_close(struct l7mp_access_log *log);
void l7mp_access_log_write(struct l7mp_access_log *log, const struct l7mp_session *session);
