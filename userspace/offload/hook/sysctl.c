/* SPDX-License-Identifier: MIT */
/*
 * IPv4 packets redirected into lo have source and destination addresses of this host; the kernel
 * accepts them only with two sysctls, which are set for lo alone, never for all interfaces.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hook.h"
#include "l7mp/log.h"

const char *const off_sysctl_names[OFF_SYSCTLS] = {"route_localnet", "accept_local"};

static int sysctl_read(const char *dir, const char *name, int *out)
{
	char path[300], text[16];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return n < 0 ? -errno : -EIO;
	text[n] = 0;
	*out = atoi(text);
	return 0;
}

static int sysctl_write(const char *dir, const char *name, int value)
{
	char path[300], text[16];
	int fd, len, rc = 0;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	len = snprintf(text, sizeof(text), "%d\n", value);
	if (write(fd, text, (size_t)len) != len)
		rc = errno ? -errno : -EIO;
	close(fd);
	return rc;
}

void off_sysctls_init(struct off_sysctls *s)
{
	memset(s, 0, sizeof(*s));
	for (int i = 0; i < OFF_SYSCTLS; i++)
		s->old[i] = -1;
}

int off_sysctls_set(struct off_sysctls *s, const char *dir)
{
	for (int i = 0; i < OFF_SYSCTLS; i++) {
		int now = 0, rc = sysctl_read(dir, off_sysctl_names[i], &now);

		if (!rc && now == 1)
			continue;
		if (!rc)
			rc = sysctl_write(dir, off_sysctl_names[i], 1);
		if (rc) {
			off_sysctls_restore(s, dir);
			s->error = rc;
			return rc;
		}
		s->old[i] = now;
	}
	s->ready = true;
	s->error = 0;
	return 0;
}

void off_sysctls_restore(struct off_sysctls *s, const char *dir)
{
	for (int i = 0; i < OFF_SYSCTLS; i++) {
		int now, rc;

		if (s->old[i] < 0)
			continue;
		rc = sysctl_read(dir, off_sysctl_names[i], &now);
		/* Another value means that another program has set it since: leave it. */
		if (!rc && now == 1)
			rc = sysctl_write(dir, off_sysctl_names[i], s->old[i]);
		if (rc)
			l7mp_log_warn(OFF_MODULE, "can't put %s of lo back to %d: %s",
			              off_sysctl_names[i], s->old[i], strerror(-rc));
		s->old[i] = -1;
	}
	s->ready = false;
}
