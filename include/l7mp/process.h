/* SPDX-License-Identifier: MIT */
/*
 * Child processes: argv, no shell, no descriptor but the requested pipes, no capability (also for
 * root), a process group of its own, default signals, and SIGKILL when this process dies. Exits
 * are seen through a pidfd (pidfd_open(2)), so there is no SIGCHLD handler and no zombie; a
 * program that can't be executed is reported at once.
 *
 * Thread: loop only.
 */
#pragma once

#include <sys/types.h>

#include "l7mp/loop.h"

struct l7mp_process;

enum l7mp_process_pipes {
	L7MP_PROCESS_STDIN = 1 << 0,
	L7MP_PROCESS_STDOUT = 1 << 1,
	L7MP_PROCESS_STDERR = 1 << 2,
};

struct l7mp_process_options {
	const char *const *argv; /* ends with NULL; argv[0] without a slash is looked up in PATH */
	/* "NAME=value" strings added to this process's environment; ends with NULL; may be NULL */
	const char *const *env;
	const char *cwd; /* working directory; NULL: that of this process */
	unsigned pipes;  /* enum l7mp_process_pipes; the others are /dev/null */
};

/*
 * The process has ended and was reaped. `status` is its exit status; `signal` is the signal that
 * killed it, or 0. Called once, never from inside another call. The handle is invalid afterwards.
 * The remaining members of the process group get SIGTERM.
 */
typedef void (*l7mp_process_exit_cb)(void *arg, int status, int signal);

/*
 * Starts a child. fds[i] is set to the parent's end of pipe i, which is non-blocking, close-on-exec
 * and owned by the caller, or to -1. `options` is borrowed for the call. Returns 0 or a negative
 * errno: -ENOENT or -EACCES for the program or cwd, -E2BIG, -EMFILE, -EAGAIN ...
 */
int l7mp_process_spawn(struct l7mp_loop *loop, const struct l7mp_process_options *options,
                       int fds[static 3], l7mp_process_exit_cb cb, void *arg,
                       struct l7mp_process **out);
/*
 * Sends SIGTERM to the process group, and SIGKILL when the process still exists after grace_ms. The
 * exit callback is called as usual. Idempotent.
 */
void l7mp_process_terminate(struct l7mp_process *p, uint64_t grace_ms);
