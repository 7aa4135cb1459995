/* SPDX-License-Identifier: MIT */
/* The instance's directory in bpffs: creating, locking, clearing and removing it. */
#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "l7mp/fault.h"
#include "table.h"

#define BPFFS_MAGIC 0xcafe4a11

static int make_dir(const char *path, mode_t mode, char *why, size_t size)
{
	if (!mkdir(path, mode) || errno == EEXIST)
		return 0;
	snprintf(why, size, "can't make %s: %s", path, strerror(errno));
	return -errno;
}

static bool is_bpffs(void)
{
	struct statfs fs;

	return !statfs(OFF_BPFFS, &fs) && (unsigned)fs.f_type == BPFFS_MAGIC;
}

/*
 * Mounts a bpffs, which minimal systems lack; but only in the mount namespace of the host (or
 * container). In one made by `ip netns exec` the pins would vanish with this process, and the next
 * daemon could not clean up after a crash.
 */
static bool mount_bpffs(void)
{
	struct stat mine, first;

	if (stat("/proc/self/ns/mnt", &mine) || stat("/proc/1/ns/mnt", &first) ||
	    mine.st_ino != first.st_ino)
		return false;
	if (mount("bpf", OFF_BPFFS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755"))
		return false;
	l7mp_log_notice(OFF_MODULE, "mounted a bpffs at " OFF_BPFFS);
	return true;
}

static int check_bpffs(char *why, size_t size)
{
	if (is_bpffs() || (mount_bpffs() && is_bpffs()))
		return 0;
	snprintf(why, size,
	         "no bpffs at " OFF_BPFFS ": mount -t bpf bpf " OFF_BPFFS
	         " (ip netns exec hides it; nsenter --net does not)");
	return -ENODEV;
}

/* Opens and locks the directory. -ESTALE: it was removed or replaced before the lock was taken. */
static int lock_dir(struct off_pins *p)
{
	struct stat mine, now;
	int fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
		close(fd);
		return rc;
	}
	if (fstat(fd, &mine) || stat(p->dir, &now) || mine.st_ino != now.st_ino) {
		close(fd);
		return -ESTALE;
	}
	p->lock = fd;
	return 0;
}

int off_pins_lock(struct off_pins *p, const char *instance, char *why, size_t size)
{
	int rc = check_bpffs(why, size);

	if (rc)
		return rc;
	off_pins_dir(instance, p->dir, sizeof(p->dir));
	for (int i = 0; i < 3; i++) {
		rc = make_dir(OFF_PINS, 0755, why, size);
		if (!rc)
			rc = make_dir(p->dir, 0700, why, size);
		if (rc)
			return rc;
		rc = lock_dir(p);
		if (rc != -ESTALE && rc != -ENOENT)
			break;
	}
	if (rc == -EBUSY)
		snprintf(why, size,
		         "instance '%s' is in use by another l7mp-proxy (it holds the lock on %s); "
		         "give this one another admin.instance",
		         instance, p->dir);
	else if (rc)
		snprintf(why, size, "can't lock %s: %s", p->dir, strerror(-rc));
	return rc;
}

int off_pins_take(struct off_pins *p, const char *instance, int lock)
{
	struct stat mine, now;

	off_pins_dir(instance, p->dir, sizeof(p->dir));
	if (fstat(lock, &mine) || stat(p->dir, &now) || mine.st_ino != now.st_ino ||
	    mine.st_dev != now.st_dev || fcntl(lock, F_SETFD, FD_CLOEXEC))
		return -ESTALE;
	p->lock = lock;
	return 0;
}

void off_pins_unlock(struct off_pins *p)
{
	if (p->lock < 0)
		return;
	/* rmdir fails while there are pins, or other instances. */
	if (!rmdir(p->dir))
		(void)rmdir(OFF_PINS);
	close(p->lock);
	p->lock = -1;
}

/* ---- what is pinned ---- */

static bool is_dir(DIR *d, const char *name)
{
	struct stat st;

	return fstatat(dirfd(d), name, &st, AT_SYMLINK_NOFOLLOW) || S_ISDIR(st.st_mode);
}

static int unpin(DIR *from, DIR *to, const char *name)
{
	int rc;

	(void)to;
	rc = unlinkat(dirfd(from), name, 0) ? -errno : 0;
	L7MP_FAULT("unpin");
	return rc;
}

static int move(DIR *from, DIR *to, const char *name)
{
	int rc = renameat(dirfd(from), name, dirfd(to), name) ? -errno : 0;

	L7MP_FAULT("pin-moved");
	return rc;
}

/*
 * Each pin of a directory; that of the map `abi` is the last one: as long as it is there, what is
 * to be done with the others is known.
 */
static int each_pin(DIR *from, DIR *to, int (*fn)(DIR *from, DIR *to, const char *name))
{
	const struct dirent *de;
	bool has_abi = false;
	int rc = 0;

	rewinddir(from);
	while ((de = readdir(from))) {
		if (!strcmp(de->d_name, L7MP_MAP_ABI))
			has_abi = true;
		else if (de->d_name[0] != '.' && !is_dir(from, de->d_name) &&
		         fn(from, to, de->d_name))
			rc = -EIO;
	}
	if (!rc && has_abi)
		rc = fn(from, to, L7MP_MAP_ABI);
	return rc;
}

void off_pins_clear(const char *dir)
{
	DIR *d = opendir(dir);

	if (!d)
		return;
	(void)each_pin(d, NULL, unpin);
	closedir(d);
}

static int count_pins(const char *dir, bool below)
{
	DIR *d = opendir(dir);
	const struct dirent *de;
	char path[512];
	int n = 0, m;

	if (!d)
		return -errno;
	while ((de = readdir(d))) {
		if (de->d_name[0] == '.')
			continue;
		n++;
		if (!below || !is_dir(d, de->d_name))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, de->d_name);
		m = count_pins(path, false);
		n += m > 0 ? m : 0;
	}
	closedir(d);
	return n;
}

int off_pins_count(const char *dir)
{
	struct stat st;

	return stat(dir, &st) ? 0 : count_pins(dir, true);
}

void off_pins_dir(const char *instance, char *dir, size_t size)
{
	snprintf(dir, size, OFF_PINS "/%s", instance);
}

int off_pins_check(const char *dir)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/" L7MP_MAP_ABI, dir);
	fd = bpf_obj_get(path);
	if (fd < 0)
		return errno == EPERM || errno == EACCES ? -EPERM : 0;
	close(fd);
	return 0;
}

int off_pins_move(const char *from, const char *to)
{
	DIR *f = opendir(from), *t = f ? opendir(to) : NULL;
	int rc = t ? each_pin(f, t, move) : -errno;

	if (t)
		closedir(t);
	if (f)
		closedir(f);
	return rc;
}

int off_pins_add_dir(const char *dir, char *out, size_t size)
{
	for (int i = 1; i < 100; i++) {
		snprintf(out, size, "%s/" OFF_DRAINING "%d", dir, i);
		if (!mkdir(out, 0700))
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

bool off_pins_are_draining(const char *name)
{
	return !strncmp(name, OFF_DRAINING, strlen(OFF_DRAINING));
}
