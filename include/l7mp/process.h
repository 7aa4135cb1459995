/* SPDX-License-Identifier: MIT */
/*
 * Child processes: argv, no shell, no descriptor but the asked-for pipes, no capability (also for
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
	const char *const
	        *env;    /* "NAME=value", ends with NULL; added to this process's own; NULL: none */
	const char *cwd; /* NULL: this process's */
	unsigned pipes;  /* what is not asked for is /dev/null */
};

/*
 * The process has ended and was reaped; `status` is its exit status, or `signal`
 * what killed it (else 0). Once, never from inside a call; the handle is gone when it
 * returns. What is left of its process group gets SIGTERM.
 */
typedef void (*l7mp_process_exit_cb)(void *arg, int status, int signal);

/*
 * fds[i]: this side's end of pipe i (non-blocking, close-on-exec; the caller's from
 * then on), or -1. 0 or negative errno: -ENOENT and -EACCES for the program or
 * cwd, -E2BIG, -EMFILE, -EAGAIN ...
 */
int l7mp_process_spawn(struct l7mp_loop *loop, const struct l7mp_process_options *options,
                       int fds[static 3], l7mp_process_exit_cb cb, void *arg,
                       struct l7mp_process **out);
/*
 * SIGTERM to its group now, SIGKILL when it is still there after grace_ms. Idempotent; the exit
 * comes as always.
 */
void l7mp_process_terminate(struct l7mp_process *p, uint64_t grace_ms);
