/* SPDX-License-Identifier: MIT */
/* Runs l7mp-proxy for commands that it implements. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl.h"

int ctl_exec_proxy(const char *command, char *const args[])
{
	char self[4096];
	char *beside = NULL;
	char *slash;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		if (slash)
			beside = l7mp_asprintf("%.*s/l7mp-proxy", (int)(slash - self), self);
	}
	fflush(stdout);
	if (beside && !access(beside, X_OK))
		execv(beside, args);
	execvp(args[0], args);
	ctl_error("%s: can't run l7mp-proxy: %s", command, strerror(errno));
	free(beside);
	return CTL_FAILED;
}

static int collect(int fd, struct l7mp_str *out)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR))
		if (n > 0)
			l7mp_str_addn(out, buf, (size_t)n);
	return n < 0 || out->oom ? -1 : 0;
}

cJSON *ctl_query_proxy(const char *command, char *const args[])
{
	struct l7mp_str text = {0};
	cJSON *answer = NULL;
	char why[80] = "";
	int fds[2], line = 0, status = 0;
	pid_t child;

	if (pipe2(fds, O_CLOEXEC)) {
		ctl_error("%s: %s", command, strerror(errno));
		return NULL;
	}
	fflush(stdout);
	/* If the parent process has set SIGCHLD to be ignored, there would be no exit status. */
	signal(SIGCHLD, SIG_DFL);
	child = fork();
	if (child == 0) {
		if (dup2(fds[1], STDOUT_FILENO) >= 0)
			(void)ctl_exec_proxy(command, args);
		_exit(127);
	}
	close(fds[1]);
	if (child > 0 && !collect(fds[0], &text) && text.s)
		answer = l7mp_json_parse(text.s, text.len, &line, why, sizeof(why));
	close(fds[0]);
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	/* 127: it could not be run, and a message was printed. */
	if (!answer && !(child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127))
		ctl_error("%s: l7mp-proxy gave no answer%s%s", command, *why ? ": " : "", why);
	l7mp_str_free(&text);
	return answer;
}
