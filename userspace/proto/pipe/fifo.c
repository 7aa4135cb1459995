/* SPDX-License-Identifier: MIT */
#include "fifo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "net/net.h"

static int *held_fd(struct fifo *f, int flags)
{
	return flags == O_RDONLY ? &f->held_reader : &f->held_writer;
}

/*
 * FIFOs that we make have the sticky bit, which means nothing for a FIFO: so one that a proxy left
 * behind when it was killed can be told from one that a user has made.
 */
#define MARK S_ISVTX

static void remember(struct fifo *f, const struct stat *st, bool adopted)
{
	f->created = true;
	f->adopted = adopted;
	f->dev = st->st_dev;
	f->ino = st->st_ino;
}

/* Creates the FIFO unless it exists. 0: there is one. */
static int create(struct fifo *f)
{
	struct stat st;

	if (!mkfifo(f->path, 0666 | MARK)) {
		if (lstat(f->path, &st))
			return -errno;
		remember(f, &st, false);
		return 0;
	}
	if (errno != EEXIST)
		return -errno;
	if (!lstat(f->path, &st) && S_ISFIFO(st.st_mode) && (st.st_mode & MARK) &&
	    st.st_uid == geteuid()) {
		remember(f, &st, true);
		return 0;
	}
	if (stat(f->path, &st))
		return -errno;
	return S_ISFIFO(st.st_mode) ? 0 : -EEXIST;
}

/* Whether it has a reader. Another proxy of this user may have made it, and still run. */
static bool has_reader(const char *path)
{
	int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

int fifo_get(struct fifo **list, const char *path, struct fifo **out, struct l7mp_error *err)
{
	struct fifo *f;
	int rc;

	DL_FOREACH (*list, f) {
		if (strcmp(f->path, path))
			continue;
		f->refs++;
		*out = f;
		return 0;
	}
	f = calloc(1, sizeof(*f) + strlen(path) + 1);
	if (!f)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	strcpy(f->path, path);
	f->held_reader = f->held_writer = -1;
	rc = create(f);
	if (rc) {
		free(f);
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s: %s", path,
		                      rc == -EEXIST ? "is there already and is not a FIFO; it is "
		                                      "left alone"
		                                    : l7mp_errno_text(rc));
	}
	f->list = list;
	f->refs = 1;
	DL_APPEND(*list, f);
	*out = f;
	return 0;
}

static void fifo_free(struct fifo *f)
{
	struct stat st;

	fifo_release(f, O_RDONLY);
	fifo_release(f, O_WRONLY);
	DL_DELETE(*f->list, f);
	/* Another process may have replaced it meanwhile: that FIFO is not ours. */
	if (f->created && !lstat(f->path, &st) && S_ISFIFO(st.st_mode) && st.st_dev == f->dev &&
	    st.st_ino == f->ino && !(f->adopted && has_reader(f->path)))
		(void)unlink(f->path);
	free(f);
}

void fifo_unref(struct fifo **fp)
{
	struct fifo *f = *fp;

	*fp = NULL;
	if (!f || --f->refs)
		return;
	if (f->created && f->keep)
		fifo_release(f, O_RDONLY);
	else
		fifo_free(f);
}

void fifo_clear(struct fifo **list)
{
	struct fifo *f, *tmp;

	DL_FOREACH_SAFE (*list, f, tmp)
		fifo_free(f);
}

static int open_checked(const char *path, int flags)
{
	struct stat st;
	int rc, fd = open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return -errno;
	rc = fstat(fd, &st) ? -errno : S_ISFIFO(st.st_mode) ? 0 : -EEXIST;
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

int fifo_open(struct fifo *f, int flags)
{
	int *held = held_fd(f, flags);
	int rc, fd = *held;

	if (fd >= 0) {
		*held = -1;
		return fd;
	}
	fd = open_checked(f->path, flags);
	if (fd != -ENOENT)
		return fd;
	rc = create(f);
	return rc ? rc : open_checked(f->path, flags);
}

void fifo_hold(struct fifo *f, int flags)
{
	int *held = held_fd(f, flags);
	int fd = *held < 0 ? open_checked(f->path, flags) : *held;

	*held = fd < 0 ? -1 : fd;
}

void fifo_release(struct fifo *f, int flags)
{
	int *held = held_fd(f, flags);

	if (*held >= 0)
		close(*held);
	*held = -1;
}
