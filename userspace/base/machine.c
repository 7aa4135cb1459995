/* SPDX-License-Identifier: MIT */
/* The memory limit of this process, and the scheduling of its threads. */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "l7mp/util.h"

#define NICE 10

/* The number in a file such as memory.max; UINT64_MAX: there is none. */
static uint64_t read_number(const char *path)
{
	FILE *f = fopen(path, "re");
	unsigned long long n;

	if (!f)
		return UINT64_MAX;
	if (fscanf(f, "%llu", &n) != 1) /* "max" */
		n = UINT64_MAX;
	fclose(f);
	return n;
}

/* The smallest limit from the cgroup `path` up to the root of the hierarchy at `mount`. */
static uint64_t smallest(const char *mount, char *path, const char *file)
{
	uint64_t least = UINT64_MAX;
	char name[PATH_MAX + 64];
	char *slash;

	do {
		uint64_t n;

		snprintf(name, sizeof(name), "%s%s/%s", mount, path, file);
		n = read_number(name);
		if (n < least)
			least = n;
		slash = strrchr(path, '/');
		if (slash)
			*slash = '\0';
	} while (slash);
	return least;
}

static uint64_t cgroup_limit(void)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	uint64_t least = UINT64_MAX;
	char line[PATH_MAX];

	while (f && fgets(line, sizeof(line), f)) {
		char *controllers = strchr(line, ':'), *path;
		uint64_t n;

		path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (!controllers[1]) /* version 2 */
			n = smallest("/sys/fs/cgroup", path, "memory.max");
		else if (strstr(controllers + 1, "memory"))
			n = smallest("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes");
		else
			continue;
		if (n < least)
			least = n;
	}
	if (f)
		fclose(f);
	return least;
}

uint64_t l7mp_machine_memory(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
	uint64_t machine = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 1ULL << 30;
	uint64_t limit = cgroup_limit();

	return limit < machine ? limit : machine;
}

void l7mp_thread_background(void)
{
	const struct sched_param param = {0};
	int now;

	/* Keep a policy that the user has chosen. */
	if (sched_getscheduler(0) != SCHED_OTHER)
		return;
	(void)sched_setscheduler(0, SCHED_BATCH, &param);
	errno = 0;
	now = getpriority(PRIO_PROCESS, (id_t)gettid());
	if (!errno)
		(void)setpriority(PRIO_PROCESS, (id_t)gettid(), now + NICE);
}
