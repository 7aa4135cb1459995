/* SPDX-License-Identifier: MIT */
#include "unix_path.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/addr.h"
#include "l7mp/util.h"
#include "net.h"

struct l7mp_unix_path {
	unsigned refs;
	bool abstract;
	dev_t dev;
	ino_t ino;
	char name[];
};

/* Returns whether the socket is in use. It is not only if a connection is refused. */
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

/* After bind(2) failed with EADDRINUSE: removes the file if it is a socket that is not in use. */
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
		                  "address already in use: another process listens there");
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

/* ---- permissions ---- */

#define MODE_MAX 0777

static const struct l7mp_field mode_text = {.type = L7MP_T_STRING, .min = 1, .max = 4};
static const struct l7mp_field mode_digits = {.type = L7MP_T_INT, .min = 0, .max = 777};
static const struct l7mp_field owner_name = {
        .type = L7MP_T_STRING, .pattern = L7MP_P_NAME, .max = 256};
static const struct l7mp_field owner_number = {.type = L7MP_T_INT, .min = 0, .max = 4294967294};
const struct l7mp_field *const l7mp_unix_modes[] = {&mode_text, &mode_digits, NULL};
const struct l7mp_field *const l7mp_unix_owners[] = {&owner_name, &owner_number, NULL};

/*
 * Returns the mode of "0660", or of the number 660 (the result of `mode: 0660` in YAML and JSON),
 * whose digits are read as octal. -1: invalid.
 */
static int mode_of(const cJSON *value)
{
	char text[16];
	char *end;
	long mode;

	if (cJSON_IsString(value))
		snprintf(text, sizeof(text), "%s", value->valuestring);
	else
		snprintf(text, sizeof(text), "%.0f", value->valuedouble);
	if (!*text || text[strspn(text, "01234567")])
		return -1;
	mode = strtol(text, &end, 8);
	return mode <= MODE_MAX ? (int)mode : -1;
}

void l7mp_unix_access_check(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	static const char *const keys[] = {"mode", "owner", "group"};
	const char *filename = l7mp_spec_filename(spec);
	const cJSON *mode = l7mp_json_member(spec, "mode");
	char at[256];

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(keys); i++) {
		const cJSON *value = l7mp_json_member(spec, keys[i]);

		snprintf(at, sizeof(at), "%.200s.%s", path, keys[i]);
		if (value && (!*filename || *filename == '@'))
			l7mp_issues_add(issues, false, value, at,
			                "expected only with a filename that is a path");
	}
	snprintf(at, sizeof(at), "%.200s.mode", path);
	if (mode && (cJSON_IsString(mode) || cJSON_IsNumber(mode)) && mode_of(mode) < 0)
		l7mp_issues_add(issues, false, mode, at, "expected octal digits up to 0777");
}

/* Finds a user or group by name or number. False: not found. */
static bool find_id(const cJSON *value, bool group, unsigned *out)
{
	const struct passwd *pw;
	const struct group *gr;
	unsigned long id;
	char *end;

	if (cJSON_IsNumber(value)) {
		*out = (unsigned)value->valuedouble;
		return true;
	}
	pw = group ? NULL : getpwnam(value->valuestring);
	gr = group ? getgrnam(value->valuestring) : NULL;
	if (pw || gr) {
		*out = pw ? pw->pw_uid : gr->gr_gid;
		return true;
	}
	/* As with chown(1), a value that is not a name may be a number. */
	id = strtoul(value->valuestring, &end, 10);
	*out = (unsigned)id;
	return value->valuestring[0] >= '0' && value->valuestring[0] <= '9' && !*end &&
	       id < UINT32_MAX;
}

int l7mp_unix_access_from_spec(const cJSON *spec, struct l7mp_unix_access *out,
                               struct l7mp_error *err)
{
	static const char *const keys[] = {"owner", "group"};
	const cJSON *mode = l7mp_json_member(spec, "mode");
	unsigned ids[2] = {(unsigned)-1, (unsigned)-1};

	for (size_t i = 0; i < 2; i++) {
		const cJSON *value = l7mp_json_member(spec, keys[i]);

		if (!value || find_id(value, i == 1, &ids[i]))
			continue;
		l7mp_error_set(err, -ENOENT, L7MP_ERR_REALISE, "there is no %s '%s' on this host",
		               i ? "group" : "user", value->valuestring);
		if (err)
			snprintf(err->path, sizeof(err->path), "%s", keys[i]);
		return -ENOENT;
	}
	*out = (struct l7mp_unix_access){
	        .mode = mode ? mode_of(mode) : -1, .uid = ids[0], .gid = ids[1]};
	return 0;
}

int l7mp_unix_path_access(const struct l7mp_unix_path *p, const struct l7mp_unix_access *access)
{
	char self[64];
	struct stat st;
	int fd, rc = 0;

	if (access->mode < 0 && access->uid == (uid_t)-1 && access->gid == (gid_t)-1)
		return 0;
	if (p->abstract)
		return -EINVAL;
	/* Use a descriptor, because meanwhile the name may refer to another file or a link. */
	fd = open(p->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (fstat(fd, &st) || st.st_dev != p->dev || st.st_ino != p->ino)
		rc = -ESTALE;
	else if (fchownat(fd, "", access->uid, access->gid, AT_EMPTY_PATH))
		rc = -errno;
	else if (access->mode >= 0 && chmod(self, (mode_t)access->mode))
		rc = -errno;
	close(fd);
	return rc;
}

/* ---- names bound by other processes ---- */

static struct l7mp_unix_path *path_new(const char *filename)
{
	struct l7mp_unix_path *p = calloc(1, sizeof(*p) + strlen(filename) + 1);

	if (!p)
		return NULL;
	p->refs = 1;
	p->abstract = filename[0] == '@';
	strcpy(p->name, filename);
	return p;
}

struct l7mp_unix_path *l7mp_unix_path_foreign(const char *filename)
{
	return path_new(filename);
}

void l7mp_unix_path_own(struct l7mp_unix_path *p, bool on)
{
	struct stat st;

	p->dev = 0;
	p->ino = 0;
	if (!on || p->abstract || lstat(p->name, &st) || !S_ISSOCK(st.st_mode))
		return;
	p->dev = st.st_dev;
	p->ino = st.st_ino;
}

/* ---- binding ---- */

int l7mp_unix_bind(const char *filename, int type, const struct l7mp_unix_access *access,
                   struct l7mp_unix_path **out, struct l7mp_error *err)
{
	struct l7mp_addr addr;
	struct l7mp_unix_path *p;
	int fd, rc = l7mp_addr_unix(&addr, filename);

	if (rc)
		return path_error(err, rc, filename,
		                  rc == -ENAMETOOLONG ? "longer than the 107 bytes of a socket path"
		                                      : l7mp_errno_text(rc));
	p = path_new(filename);
	if (!p)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		rc = path_error(err, -errno, filename, l7mp_errno_text(errno));
		goto fail;
	}
	/* Create the file with this mode: nobody can connect before owner and group are set. */
	if (access && access->mode >= 0 && !p->abstract)
		(void)fchmod(fd, (mode_t)access->mode & S_IRWXU);
	rc = bind_fd(fd, filename, &addr, type, err);
	if (rc)
		goto fail;
	l7mp_unix_path_own(p, true);
	rc = access ? l7mp_unix_path_access(p, access) : 0;
	if (!rc && type != SOCK_DGRAM && listen(fd, SOMAXCONN))
		rc = -errno;
	if (rc) {
		path_error(err, rc, filename, l7mp_errno_text(rc));
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

int l7mp_unix_bind_again(struct l7mp_unix_path *p, int type, const struct l7mp_unix_access *access,
                         struct l7mp_error *err)
{
	struct l7mp_unix_path *fresh;
	int fd = l7mp_unix_bind(p->name, type, access, &fresh, err);

	if (fd < 0)
		return fd;
	/* The new file may have the inode number of the old one: only p may remove it. */
	p->dev = fresh->dev;
	p->ino = fresh->ino;
	fresh->ino = 0;
	l7mp_unix_path_unref(&fresh);
	return fd;
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
