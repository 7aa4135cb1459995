/* SPDX-License-Identifier: MIT */
/*
 * Preloaded by test_slow_disk.py: write(2) to a file in the folder SLOW_DISK waits while
 * $SLOW_DISK/frozen exists, and takes 50 ms while $SLOW_DISK/slow does.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int is_there(const char *folder, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return access(path, F_OK) == 0;
}

ssize_t write(int fd, const void *data, size_t n)
{
	const struct timespec tick = {.tv_nsec = 5000000}, delay = {.tv_nsec = 50000000};
	const char *folder = getenv("SLOW_DISK");
	char link[64], path[PATH_MAX];
	ssize_t len = -1;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (folder)
		len = readlink(link, path, sizeof(path) - 1);
	if (len > 0) {
		path[len] = '\0';
		if (strncmp(path, folder, strlen(folder)) == 0) {
			while (is_there(folder, "frozen"))
				nanosleep(&tick, NULL);
			if (is_there(folder, "slow"))
				nanosleep(&delay, NULL);
		}
	}
	return syscall(SYS_write, fd, data, n);
}
