/* SPDX-License-Identifier: MIT */
/* doctor: prints what the kernel fast path finds on this machine, and what to change. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

/* Returns "yes", "no", or for an optional check "(no)". */
static const char *verdict(const cJSON *check)
{
	if (l7mp_json_bool(check, "ok", false))
		return "yes";
	return l7mp_json_bool(check, "needed", true) ? "NO" : "(no)";
}

static int print_checks(const cJSON *report)
{
	struct ctl_table t = {.heads = {"CHECK", "OK", "FOUND", "ADVICE", NULL}};
	const cJSON *c;

	cJSON_ArrayForEach (c, l7mp_json_member(report, "checks")) {
		ctl_cell_str(&t, l7mp_json_str(c, "check", NULL));
		ctl_cell_str(&t, verdict(c));
		ctl_cell_str(&t, l7mp_json_str(c, "found", NULL));
		ctl_cell_str(&t, l7mp_json_str(c, "advice", NULL));
	}
	return ctl_table_print(&t);
}

static int print_interfaces(const cJSON *report)
{
	struct ctl_table t = {
	        .heads = {"INTERFACE", "UP", "DRIVER", "ENABLED", "HOOK", "WHY", "ADVICE", NULL}};
	const cJSON *i;

	cJSON_ArrayForEach (i, l7mp_json_member(report, "interfaces")) {
		const char *driver = l7mp_json_str(i, "driver", "");

		ctl_cell_str(&t, l7mp_json_str(i, "name", NULL));
		ctl_cell_str(&t, l7mp_json_bool(i, "up", false) ? "yes" : "no");
		ctl_cell_str(&t, *driver ? driver : l7mp_json_str(i, "kind", NULL));
		ctl_cell_str(&t, l7mp_json_bool(i, "enabled", false) ? "yes" : "no");
		ctl_cell_str(&t, l7mp_json_str(i, "hook", NULL));
		ctl_cell_str(&t, l7mp_json_str(i, "reason", NULL));
		ctl_cell_str(&t, l7mp_json_str(i, "advice", NULL));
	}
	return ctl_table_print(&t);
}

static int print_report(const cJSON *report)
{
	int rc = print_checks(report);

	putchar('\n');
	rc |= print_interfaces(report);
	puts(l7mp_json_bool(report, "ok", false)
	             ? "\nThe kernel fast path can be used here, with these privileges."
	             : "\nThe kernel fast path can't be used: see the lines that say NO. "
	               "Everything "
	               "works without it, slower.");
	return rc;
}

int ctl_doctor(struct ctl *c, int argc, char **argv)
{
	char *args[] = {"l7mp-proxy", "--doctor", "-i", argc ? argv[0] : (char *)"", NULL};
	cJSON *report;
	int rc;

	if (argc > 1)
		return ctl_usage("doctor: expected nothing, or IF[,IF...] or all");
	report = ctl_ask_proxy("doctor", args);
	if (!report)
		return CTL_FAILED;
	rc = c->output == CTL_TABLE ? print_report(report) : ctl_print_tree(c, report);
	if (!rc && !l7mp_json_bool(report, "ok", false))
		rc = CTL_FAILED;
	cJSON_Delete(report);
	return rc;
}
