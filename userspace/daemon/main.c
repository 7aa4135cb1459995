/* SPDX-License-Identifier: MIT */
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "l7mp/app.h"

static void quit(int signum)
{
	(void)signum;
	_exit(EXIT_SUCCESS);
}

int main(int argc, char **argv)
{
	struct l7mp_options options;
	struct l7mp_app *app = NULL;
	int rc;

	/*
	 * glibc gives memory back inside of free(3), all that is free at the end of the heap at
	 * once: after 95,000 sessions had ended, that held the loop for 200 ms. Never there, then;
	 * trim.c does it when nobody waits. Large blocks are mappings of their own, which go
	 * back one by one; fixed, as glibc would raise the limit with the first of them.
	 */
	mallopt(M_TRIM_THRESHOLD, -1);
	/* Nor are small blocks put aside, to be joined with their neighbours all at once later. */
	mallopt(M_MXFAST, 0);
	mallopt(M_MMAP_THRESHOLD, 512 * 1024);
	/* A peer that went away must end a write with EPIPE, not the process. */
	signal(SIGPIPE, SIG_IGN);
	/* Whoever starts us may ignore it; then nobody could wait for a process. */
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
		/* Until the start: nothing is made yet that would have to be taken down. */
		signal(SIGTERM, quit);
		signal(SIGINT, quit);
		signal(SIGHUP, SIG_IGN);
		signal(SIGUSR1, SIG_IGN);
	}
	rc = l7mp_app_new(&options, &app);
	if (!rc && !options.check_only)
		rc = l7mp_app_run(app);
	l7mp_app_free(&app);
	return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}
