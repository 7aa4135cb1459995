/* SPDX-License-Identifier: MIT */
/* offload, flows: the state of the kernel fast path; doctor: whether this machine supports it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

/* Columns of the table of flows. */
#define FLOW_COLUMNS 8

static int offload_command(struct ctl *c, int argc, char **argv)
{
	cJSON *o = NULL;
	int rc;

	(void)argv;
	if (argc)
		return ctl_usage("offload: takes no arguments");
	rc = ctl_request(c, "GET", "/offload", NULL, NULL, &o);
	if (!rc) {
		if (c->output == CTL_TABLE)
			cJSON_DeleteItemFromObjectCaseSensitive(o, "reasons");
		rc = ctl_print_tree(c, o);
	}
	cJSON_Delete(o);
	return rc;
}

/* Chooses as columns the scalar members of the first flow, as many as fit. */
static size_t choose_columns(const cJSON *first, const char **heads)
{
	const cJSON *v;
	size_t n = 0;

	cJSON_ArrayForEach (v, first) {
		if (!cJSON_IsObject(v) && !cJSON_IsArray(v) && n < FLOW_COLUMNS)
			heads[n++] = v->string;
	}
	return n;
}

static int print_flows(const cJSON *flows)
{
	struct ctl_table t = {0};
	const cJSON *first = cJSON_GetArrayItem(flows, 0);
	size_t n = choose_columns(first, t.heads);
	const cJSON *flow;

	if (!n) {
		puts("no flows");
		return CTL_OK;
	}
	cJSON_ArrayForEach (flow, flows) {
		for (size_t i = 0; i < n; i++) {
			const cJSON *v = l7mp_json_member(flow, t.heads[i]);
			char brief[80];

			if (cJSON_IsString(v))
				ctl_cell_str(&t, v->valuestring);
			else if (cJSON_IsNumber(v))
				ctl_cell_num(&t, v->valuedouble);
			else
				ctl_cell_str(&t,
				             v ? l7mp_json_brief(v, brief, sizeof(brief)) : NULL);
		}
	}
	return ctl_table_print(&t);
}

static int flows_command(struct ctl *c, int argc, char **argv)
{
	cJSON *flows = NULL;
	int rc;

	(void)argv;
	if (argc)
		return ctl_usage("flows: takes no arguments");
	rc = ctl_get_list(c, "/offload/flows", "flows", &flows);
	if (!rc)
		rc = c->output == CTL_TABLE ? print_flows(flows) : ctl_print_tree(c, flows);
	cJSON_Delete(flows);
	return rc;
}

/* ---- doctor: support of the fast path on this machine, and required changes ---- */

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

static int doctor_command(struct ctl *c, int argc, char **argv)
{
	char *args[] = {"l7mp-proxy", "--doctor", "-i", argc ? argv[0] : (char *)"", NULL};
	cJSON *report;
	int rc;

	if (argc > 1)
		return ctl_usage("doctor: expected nothing, or IF[,IF...] or all");
	report = ctl_query_proxy("doctor", args);
	if (!report)
		return CTL_FAILED;
	rc = c->output == CTL_TABLE ? print_report(report) : ctl_print_tree(c, report);
	if (!rc && !l7mp_json_bool(report, "ok", false))
		rc = CTL_FAILED;
	cJSON_Delete(report);
	return rc;
}

const struct ctl_command ctl_offload_commands[] = {{"offload", offload_command},
                                                   {"flows", flows_command},
                                                   {"doctor", doctor_command},
                                                   {NULL, NULL}};
