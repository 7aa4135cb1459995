/* SPDX-License-Identifier: MIT */
#include "l7mp/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
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

/* ---- exit ---- */

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
	if (waitid(P_PIDFD, (id_t)io->fd, &info, WEXITED | WNOHANG | WNOWAIT)) {
		/* Other code has reaped it, and the descriptor stays readable. */
		if (errno == ECHILD)
			exited(p, &(siginfo_t){.si_code = CLD_EXITED, .si_status = 255});
		return;
	}
	if (!info.si_pid)
		return;
	/* Until the process is reaped the number of its group can't be reused. */
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
	kill(-p->pid, SIGCONT); /* otherwise a stopped process would not handle the signal */
	if (l7mp_timer_start(p->loop, &p->timer, grace_ms))
		kill(-p->pid, SIGKILL);
}

/* ---- preparing the child's descriptors and environment ---- */

static void close_all(int fds[static 3])
{
	for (int i = 0; i < 3; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

/* Moves a descriptor above 2, because 0..2 are the targets of dup2. */
static int move_above_stdio(int *fd)
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

/* Opens both ends of stream i, or only the child's end: /dev/null. */
static int open_end(int i, bool wanted, int *mine, int *childs)
{
	int fd[2], rc;

	if (!wanted) {
		*childs = open("/dev/null", (i ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
		return *childs < 0 ? -errno : move_above_stdio(childs);
	}
	if (pipe2(fd, O_CLOEXEC))
		return -errno;
	*mine = i ? fd[0] : fd[1];
	*childs = i ? fd[1] : fd[0];
	rc = move_above_stdio(mine);
	if (!rc)
		rc = move_above_stdio(childs);
	/* Non-blocking only at the parent's end: programs don't expect a non-blocking stdin. */
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
 * Returns this process's environment with the variables of `more` added or replaced. The strings
 * are borrowed.
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

/* ---- in the child ---- */

/*
 * The child's data, on the parent's stack. The child shares the parent's memory until it executes
 * the program, and the parent waits until then (vfork(2)): so it makes only system calls, and
 * reports a failure in `err`.
 */
struct child {
	const struct l7mp_process_options *options;
	const int *fds;
	char **env;
	const char *search; /* PATH */
	pid_t parent;
	volatile int err;
};

static void reset_signals(void)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;

	/* Signals that can't be changed are skipped. */
	for (int i = 1; i < NSIG; i++)
		(void)sigaction(i, &dfl, NULL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* With UID 0 the next execve(2) would restore all capabilities, so clear the bounding set, too. */
static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int i = 0; !prctl(PR_CAPBSET_DROP, i, 0, 0, 0); i++)
		;
	return syscall(SYS_capset, &head, none) ? errno : 0;
}

static int prepare(const struct child *c)
{
	int rc;

	reset_signals();
	if (setpgid(0, 0))
		return errno;
	for (int i = 0; i < 3; i++)
		if (dup2(c->fds[i], i) < 0)
			return errno;
	/* Close descriptors that a library has opened without close-on-exec. */
	(void)close_range(3, ~0U, 0);
	if (c->options->cwd && chdir(c->options->cwd))
		return errno;
	rc = drop_capabilities();
	if (rc)
		return rc;
	/* After dropping capabilities, because their change may clear it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		return errno;
	return getppid() == c->parent ? 0 : ESRCH;
}

/* Tries one directory of PATH. Returns the error. */
static int try_folder(const struct child *c, const char *folder, size_t len)
{
	const char *program = c->options->argv[0];
	size_t n = strlen(program);
	char path[PATH_MAX];

	if (len + n + 2 > sizeof(path))
		return ENAMETOOLONG;
	memcpy(path, folder, len);
	/* An empty entry is the current directory. */
	if (len)
		path[len++] = '/';
	memcpy(path + len, program, n + 1);
	(void)execve(path, (char *const *)c->options->argv, c->env);
	return errno;
}

/*
 * Returns why the program can't be executed. Unlike execvp(3), it does not pass files of unknown
 * format to a shell.
 */
static int execute(const struct child *c)
{
	const char *program = c->options->argv[0], *at = c->search;
	int why = ENOENT;

	if (!*program || strchr(program, '/')) {
		(void)execve(program, (char *const *)c->options->argv, c->env);
		return errno;
	}
	for (;; at++) {
		size_t len = strcspn(at, ":");
		int rc = try_folder(c, at, len);

		if (rc == EACCES)
			why = rc; /* unless another directory has it */
		else if (rc != ENOENT && rc != ENOTDIR && rc != ENAMETOOLONG)
			return rc;
		at += len;
		if (!*at)
			return why;
	}
}

/* ---- start ---- */

/* A separate function, because the child may change its parameters and variables. */
static __attribute__((noinline)) pid_t fork_child(struct child *c)
{
	/*
	 * NOLINTNEXTLINE(clang-analyzer-security.insecureAPI.vfork): same use as in posix_spawn(3)
	 */
	pid_t pid = vfork();

	if (pid == 0) {
		c->err = prepare(c);
		if (!c->err)
			c->err = execute(c);
		_exit(127);
	}
	if (pid < 0)
		c->err = errno;
	return pid;
}

static int spawn(const struct l7mp_process_options *o, const int childs[static 3], pid_t *pid)
{
	const char *search = getenv("PATH");
	struct child c = {.options = o,
	                  .fds = childs,
	                  .env = merge_env(o->env),
	                  .search = search ? search : "/usr/local/bin:/usr/bin:/bin",
	                  .parent = getpid()};
	sigset_t all, before;

	if (!c.env)
		return -ENOMEM;
	/* Signal handlers must not run in the child on the shared memory. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	*pid = fork_child(&c);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	free(c.env);
	if (c.err && *pid > 0)
		(void)waitpid(*pid, NULL, 0);
	return -c.err;
}

/* Watches the process. On failure kills and reaps it. */
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
