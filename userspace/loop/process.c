/* SPDX-License-Identifier: MIT */
#include "l7mp/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop_int.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct l7mp_process {
	struct l7mp_io io; /* the pidfd */
	struct l7mp_loop *loop;
	l7mp_process_exit_cb cb; /* NULL: closed */
	void *arg;
	pid_t pid;
	struct l7mp_timer timer;
	bool terminating, exited;
};

/* ---- the end ---- */

static void exited(struct l7mp_process *p, const siginfo_t *info)
{
	bool killed = info->si_code != CLD_EXITED;

	p->exited = true;
	l7mp_io_stop(p->loop, &p->io);
	close(p->io.fd);
	l7mp_timer_stop(p->loop, &p->timer);
	l7mp_loop_release(p->loop);
	p->cb(p->arg, killed ? 0 : info->si_status, killed ? info->si_status : 0);
	free(p);
}

static void io_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_process *p = l7mp_container_of(io, struct l7mp_process, io);
	siginfo_t info = {0};

	(void)events;
	if (waitid(P_PIDFD, (id_t)io->fd, &info, WEXITED | WNOHANG | WNOWAIT) || !info.si_pid)
		return;
	/* As long as it is not reaped, nobody else can get this group's number. */
	kill(-p->pid, p->terminating ? SIGKILL : SIGTERM);
	(void)waitid(P_PIDFD, (id_t)io->fd, &info, WEXITED);
	exited(p, &info);
}

static void timer_cb(struct l7mp_timer *t, void *arg)
{
	struct l7mp_process *p = arg;

	(void)t;
	kill(-p->pid, SIGKILL);
}

void l7mp_process_terminate(struct l7mp_process *p, uint64_t grace_ms)
{
	if (p->terminating || p->exited)
		return;
	p->terminating = true;
	kill(-p->pid, SIGTERM);
	kill(-p->pid, SIGCONT); /* a stopped one would not see it */
	if (l7mp_timer_start(p->loop, &p->timer, grace_ms))
		kill(-p->pid, SIGKILL);
}

/* ---- the beginning ---- */

static void close_all(int fds[static 3])
{
	for (int i = 0; i < 3; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

/* Away from 0..2, which are dup2's targets. */
static int move_up(int *fd)
{
	int up;

	if (*fd > 2)
		return 0;
	up = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
	if (up < 0)
		return -errno;
	close(*fd);
	*fd = up;
	return 0;
}

/* Both ends of stream i, or the child's end only: /dev/null. */
static int open_end(int i, bool wanted, int *mine, int *childs)
{
	int fd[2], rc;

	if (!wanted) {
		*childs = open("/dev/null", (i ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
		return *childs < 0 ? -errno : move_up(childs);
	}
	if (pipe2(fd, O_CLOEXEC))
		return -errno;
	*mine = i ? fd[0] : fd[1];
	*childs = i ? fd[1] : fd[0];
	rc = move_up(mine);
	if (!rc)
		rc = move_up(childs);
	/* Only this side: programs don't expect a non-blocking stdin. */
	if (!rc && fcntl(*mine, F_SETFL, O_NONBLOCK))
		rc = -errno;
	return rc;
}

static bool same_name(const char *a, const char *b)
{
	size_t len = strcspn(a, "=");

	return !strncmp(a, b, len) && (b[len] == '=' || !b[len]);
}

/*
 * This process's environment with `more` in place of what has the same names. The strings are
 * borrowed.
 */
static char **merge_env(const char *const *more)
{
	size_t have = 0, add = 0, n = 0;
	char **env;

	while (environ && environ[have])
		have++;
	while (more && more[add])
		add++;
	env = calloc(have + add + 1, sizeof(*env));
	if (!env)
		return NULL;
	for (size_t i = 0; i < have; i++) {
		size_t k = 0;

		while (k < add && !same_name(more[k], environ[i]))
			k++;
		if (k == add)
			env[n++] = environ[i];
	}
	for (size_t i = 0; i < add; i++)
		env[n++] = (char *)more[i];
	return env;
}

static int set_attributes(posix_spawnattr_t *attr)
{
	sigset_t all, none;
	int rc;

	sigfillset(&all);
	sigemptyset(&none);
	rc = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF |
	                                            POSIX_SPAWN_SETSIGMASK);
	if (!rc)
		rc = posix_spawnattr_setpgroup(attr, 0);
	if (!rc)
		rc = posix_spawnattr_setsigdefault(attr, &all);
	if (!rc)
		rc = posix_spawnattr_setsigmask(attr, &none);
	return rc;
}

static int set_actions(posix_spawn_file_actions_t *fa, const int childs[static 3], const char *cwd)
{
	int rc = 0;

	for (int i = 0; i < 3 && !rc; i++)
		rc = posix_spawn_file_actions_adddup2(fa, childs[i], i);
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(fa, 3);
	if (!rc && cwd)
		rc = posix_spawn_file_actions_addchdir_np(fa, cwd);
	return rc;
}

static int spawn(const struct l7mp_process_options *o, const int childs[static 3], pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	char **env = merge_env(o->env);
	int rc;

	if (!env)
		return -ENOMEM;
	rc = posix_spawn_file_actions_init(&fa);
	if (rc)
		goto free_env;
	rc = posix_spawnattr_init(&attr);
	if (rc)
		goto free_actions;
	rc = set_actions(&fa, childs, o->cwd);
	if (!rc)
		rc = set_attributes(&attr);
	if (!rc)
		rc = posix_spawnp(pid, o->argv[0], &fa, &attr, (char *const *)o->argv, env);
	posix_spawnattr_destroy(&attr);
free_actions:
	posix_spawn_file_actions_destroy(&fa);
free_env:
	free(env);
	return -rc;
}

/* Sees to it that the process is watched; one that can't be is ended and reaped here. */
static int watch(struct l7mp_process *p)
{
	int fd = pidfd_open(p->pid, 0), rc = fd < 0 ? -errno : 0;

	l7mp_io_init(&p->io, fd, io_cb);
	if (!rc)
		rc = fcntl(fd, F_SETFD, FD_CLOEXEC) ? -errno
		                                    : l7mp_io_set(p->loop, &p->io, EPOLLIN);
	if (!rc)
		return 0;
	if (fd >= 0)
		close(fd);
	kill(-p->pid, SIGKILL);
	(void)waitpid(p->pid, NULL, 0);
	return rc;
}

int l7mp_process_spawn(struct l7mp_loop *loop, const struct l7mp_process_options *options,
                       int fds[static 3], l7mp_process_exit_cb cb, void *arg,
                       struct l7mp_process **out)
{
	struct l7mp_process *p = calloc(1, sizeof(*p));
	int childs[3] = {-1, -1, -1}, rc = p ? 0 : -ENOMEM;

	fds[0] = fds[1] = fds[2] = -1;
	for (int i = 0; i < 3 && !rc; i++)
		rc = open_end(i, options->pipes & (1u << i), &fds[i], &childs[i]);
	if (!rc)
		rc = spawn(options, childs, &p->pid);
	close_all(childs);
	if (!rc) {
		p->loop = loop;
		p->cb = cb;
		p->arg = arg;
		l7mp_timer_init(&p->timer, timer_cb, p);
		rc = watch(p);
	}
	if (rc) {
		close_all(fds);
		free(p);
		return rc;
	}
	l7mp_loop_hold(loop);
	*out = p;
	return 0;
}
