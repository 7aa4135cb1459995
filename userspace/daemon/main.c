/* SPDX-License-Identifier: MIT */
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "l7mp/app.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

static void quit(int signum)
{
	(void)signum;
	_exit(EXIT_SUCCESS);
}

/* Writes queued log records, which are needed to analyse a crash. */
static void crash(int signum)
{
	(void)l7mp_log_flush_in_signal(500);
	signal(signum, SIG_DFL);
	raise(signum);
}

/* Sanitizers install their own handlers. */
static void flush_before_crash(void)
{
	static const int fatal[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
	const struct sigaction sa = {.sa_handler = crash};
	struct sigaction before;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(fatal); i++)
		if (!sigaction(fatal[i], NULL, &before) && before.sa_handler == SIG_DFL)
			sigaction(fatal[i], &sa, NULL);
}

int main(int argc, char **argv)
{
	struct l7mp_options options;
	struct l7mp_app *app = NULL;
	int rc;

	/*
	 * Disables the automatic trim inside free(3), which returns all free memory at the end of
	 * the heap at once: after 95,000 sessions it blocked the loop for 200 ms. trim.c trims when
	 * there are no sessions. Large blocks are separate mappings, which are returned one by one;
	 * their threshold is fixed, because glibc would raise it.
	 */
	mallopt(M_TRIM_THRESHOLD, -1);
	/* Disables fast bins, which are consolidated all at once. */
	mallopt(M_MXFAST, 0);
	mallopt(M_MMAP_THRESHOLD, 512 * 1024);
	/* A write to a closed connection must fail with EPIPE, not end the process. */
	signal(SIGPIPE, SIG_IGN);
	/* If the parent has set it to be ignored, exits of processes could not be waited for. */
	signal(SIGCHLD, SIG_DFL);

	switch (l7mp_options_parse(argc, argv, &options)) {
	case L7MP_OPTIONS_DONE:
		return EXIT_SUCCESS;
	case L7MP_OPTIONS_ERROR:
		return EXIT_FAILURE;
	case L7MP_OPTIONS_RUN:
		break;
	}
	if (options.doctor)
		return l7mp_app_doctor(&options) ? EXIT_FAILURE : EXIT_SUCCESS;
	if (!options.check_only) {
		flush_before_crash();
		/* During startup there is nothing yet that needs an orderly shutdown. */
		signal(SIGTERM, quit);
		signal(SIGINT, quit);
		signal(SIGHUP, SIG_IGN);
		signal(SIGUSR1, SIG_IGN);
		signal(SIGUSR2, SIG_IGN);
	}
	rc = l7mp_app_new(&options, &app);
	if (!rc && !options.check_only)
		rc = l7mp_app_run(app);
	l7mp_app_free(&app);
	return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}
