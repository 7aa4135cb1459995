/* SPDX-License-Identifier: MIT */
#include "unix_path.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/addr.h"
#include "net.h"

struct l7mp_unix_path {
	unsigned refs;
	bool abstract;
	dev_t dev;
	ino_t ino;
	char name[];
};

/* Does somebody use the socket? Only a refused connection proves the contrary. */
static bool in_use(const struct l7mp_addr *addr, int type)
{
	int rc, fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return true;
	rc = connect(fd, &addr->sa, addr->len) ? errno : 0;
	close(fd);
	return rc != ECONNREFUSED;
}

static int path_error(struct l7mp_error *err, int rc, const char *filename, const char *why)
{
	l7mp_error_set(err, rc, L7MP_ERR_REALISE, "filename %s: %s", filename, why);
	if (err)
		snprintf(err->path, sizeof(err->path), "filename");
	return rc;
}

/* bind(2) failed with EADDRINUSE: removes the file if it is a socket that nobody uses. */
static int clear_stale(const char *filename, const struct l7mp_addr *addr, int type,
                       struct l7mp_error *err)
{
	struct stat st;

	if (filename[0] == '@')
		return path_error(err, -EADDRINUSE, filename, "address already in use");
	if (lstat(filename, &st))
		return errno == ENOENT ? 0
		                       : path_error(err, -errno, filename, l7mp_errno_text(errno));
	if (!S_ISSOCK(st.st_mode))
		return path_error(err, -EEXIST, filename,
		                  "is there already and is not a socket; it is left alone");
	if (in_use(addr, type))
		return path_error(err, -EADDRINUSE, filename,
		                  "address already in use: somebody listens there");
	if (unlink(filename) && errno != ENOENT)
		return path_error(err, -errno, filename, l7mp_errno_text(errno));
	return 0;
}

static int bind_fd(int fd, const char *filename, const struct l7mp_addr *addr, int type,
                   struct l7mp_error *err)
{
	int rc;

	if (bind(fd, &addr->sa, addr->len)) {
		if (errno != EADDRINUSE)
			return path_error(err, -errno, filename, l7mp_errno_text(errno));
		rc = clear_stale(filename, addr, type, err);
		if (rc)
			return rc;
		if (bind(fd, &addr->sa, addr->len))
			return path_error(err, -errno, filename, l7mp_errno_text(errno));
	}
	return 0;
}

int l7mp_unix_bind(const char *filename, int type, struct l7mp_unix_path **out,
                   struct l7mp_error *err)
{
	struct l7mp_addr addr;
	struct l7mp_unix_path *p;
	struct stat st;
	int fd, rc = l7mp_addr_unix(&addr, filename);

	if (rc)
		return path_error(err, rc, filename,
		                  rc == -ENAMETOOLONG ? "longer than the 107 bytes of a socket path"
		                                      : l7mp_errno_text(rc));
	p = calloc(1, sizeof(*p) + strlen(filename) + 1);
	if (!p)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	p->refs = 1;
	p->abstract = filename[0] == '@';
	strcpy(p->name, filename);
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		rc = path_error(err, -errno, filename, l7mp_errno_text(errno));
		goto fail;
	}
	rc = bind_fd(fd, filename, &addr, type, err);
	if (rc)
		goto fail;
	if (!p->abstract && !lstat(filename, &st)) {
		p->dev = st.st_dev;
		p->ino = st.st_ino;
	}
	if (type != SOCK_DGRAM && listen(fd, SOMAXCONN)) {
		rc = path_error(err, -errno, filename, l7mp_errno_text(errno));
		l7mp_unix_path_unref(&p);
		close(fd);
		return rc;
	}
	*out = p;
	return fd;
fail:
	if (fd >= 0)
		close(fd);
	free(p);
	return rc;
}

struct l7mp_unix_path *l7mp_unix_path_ref(struct l7mp_unix_path *p)
{
	p->refs++;
	return p;
}

void l7mp_unix_path_unref(struct l7mp_unix_path **pp)
{
	struct l7mp_unix_path *p = *pp;
	struct stat st;

	*pp = NULL;
	if (!p || --p->refs)
		return;
	/* Another process may have replaced the file by its own socket meanwhile. */
	if (!p->abstract && p->ino && !lstat(p->name, &st) && S_ISSOCK(st.st_mode) &&
	    st.st_dev == p->dev && st.st_ino == p->ino)
		(void)unlink(p->name);
	free(p);
}

const char *l7mp_unix_path_name(const struct l7mp_unix_path *p)
{
	return p->name;
}
