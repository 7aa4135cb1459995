/* SPDX-License-Identifier: MIT */
/* drain [--timeout SECONDS] [--wait] | drain show | drain cancel. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ctl.h"

static void print_progress(const cJSON *o)
{
	char rest[48] = "";

	if (l7mp_json_member(o, "remaining"))
		snprintf(rest, sizeof(rest), ", at most %.0f s more",
		         l7mp_json_num(o, "remaining", 0));
	printf("%s: %.0f of %.0f sessions are left%s\n", l7mp_json_str(o, "state", "?"),
	       l7mp_json_num(o, "sessions", 0), l7mp_json_num(o, "sessions_at_start", 0), rest);
	fflush(stdout);
}

static bool is(const cJSON *o, const char *state)
{
	return !strcmp(l7mp_json_str(o, "state", ""), state);
}

static int wait_for_end(struct ctl *c)
{
	double whole = (double)(time_t)c->interval;
	const struct timespec pause = {.tv_sec = (time_t)c->interval,
	                               .tv_nsec = (long)((c->interval - whole) * 1e9)};
	double last = -1;

	for (;;) {
		cJSON *o = NULL;
		int rc = ctl_request(c, "GET", "/drain", NULL, NULL, &o);
		bool drained = !rc && is(o, "drained"), serving = !rc && is(o, "serving");
		double n = l7mp_json_num(o, "sessions", 0);

		if (!rc && !serving && (n != last || drained))
			print_progress(o);
		last = n;
		cJSON_Delete(o);
		if (serving)
			ctl_error("draining was cancelled");
		if (rc || drained || serving)
			return serving ? CTL_FAILED : rc;
		nanosleep(&pause, NULL);
	}
}

static int drain_show(struct ctl *c)
{
	cJSON *o = NULL;
	int rc = ctl_request(c, "GET", "/drain", NULL, NULL, &o);

	if (!rc)
		rc = ctl_print_tree(c, o);
	cJSON_Delete(o);
	return rc;
}

static int drain_begin(struct ctl *c)
{
	cJSON *body = NULL, *o = NULL;
	int rc;

	if (c->timeout_given >= 0) {
		body = cJSON_CreateObject();
		l7mp_json_add_num(body, "timeout", c->timeout_given);
	}
	rc = ctl_request(c, "POST", "/drain", body, NULL, &o);
	cJSON_Delete(body);
	cJSON_Delete(o);
	return !rc && c->wait ? wait_for_end(c) : rc;
}

static int drain_command(struct ctl *c, int argc, char **argv)
{
	cJSON *o = NULL;
	int rc;

	/* --timeout is that of draining here. */
	c->timeout = CTL_REQUEST_S;
	if (!argc)
		return drain_begin(c);
	if (argc > 1 || c->wait || c->timeout_given >= 0 ||
	    (strcmp(argv[0], "show") != 0 && strcmp(argv[0], "cancel") != 0))
		return ctl_usage("drain: expected [--timeout SECONDS] [--wait], show or cancel");
	if (!strcmp(argv[0], "show"))
		return drain_show(c);
	rc = ctl_request(c, "DELETE", "/drain", NULL, NULL, &o);
	cJSON_Delete(o);
	return rc;
}

const struct ctl_command ctl_drain_commands[] = {{"drain", drain_command}, {NULL, NULL}};
