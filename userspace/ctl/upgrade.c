/* SPDX-License-Identifier: MIT */
/* upgrade | upgrade show. */
#include <string.h>
#include <time.h>

#include "ctl.h"

#define LOOK_MS 100

static int get(struct ctl *c, cJSON **out)
{
	return ctl_request(c, "GET", "/upgrade", NULL, NULL, out);
}

static int upgrade_show(struct ctl *c)
{
	cJSON *o = NULL;
	int rc = get(c, &o);

	if (!rc)
		rc = ctl_print_tree(c, o);
	cJSON_Delete(o);
	return rc;
}

/* Waits until another process answers, or the old one reports a failure. */
static int wait_for_end(struct ctl *c, double pid)
{
	const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};

	for (;;) {
		const char *state, *failed;
		cJSON *o = NULL;
		int rc;

		nanosleep(&pause, NULL);
		rc = get(c, &o);
		if (rc)
			return rc;
		state = l7mp_json_str(o, "state", "");
		failed = l7mp_json_str(o, "failed", "no reason is known");
		if (l7mp_json_num(o, "pid", pid) != pid) {
			rc = ctl_print_tree(c, o);
			cJSON_Delete(o);
			return rc;
		}
		if (!strcmp(state, "serving")) {
			ctl_error("the upgrade has failed, process %.0f goes on: %s", pid, failed);
			cJSON_Delete(o);
			return CTL_FAILED;
		}
		cJSON_Delete(o);
	}
}

static int upgrade_command(struct ctl *c, int argc, char **argv)
{
	cJSON *o = NULL;
	double pid;
	int rc;

	if (argc > 1 || (argc && strcmp(argv[0], "show") != 0))
		return ctl_usage("upgrade: expected nothing, or show");
	if (argc)
		return upgrade_show(c);
	rc = ctl_request(c, "POST", "/upgrade", NULL, NULL, &o);
	pid = l7mp_json_num(o, "pid", 0);
	cJSON_Delete(o);
	return rc ? rc : wait_for_end(c, pid);
}

const struct ctl_command ctl_upgrade_commands[] = {{"upgrade", upgrade_command}, {NULL, NULL}};
