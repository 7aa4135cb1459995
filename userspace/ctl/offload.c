/* SPDX-License-Identifier: MIT */
/* offload, flows: print the state of the kernel fast path. */
#include <stdio.h>
#include <stdlib.h>

#include "ctl.h"

int ctl_offload(struct ctl *c, int argc, char **argv)
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
		if (!cJSON_IsObject(v) && !cJSON_IsArray(v) && n < CTL_COLUMNS)
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

int ctl_flows(struct ctl *c, int argc, char **argv)
{
	cJSON *flows = NULL;
	int rc;

	(void)argv;
	if (argc)
		return ctl_usage("flows: takes no arguments");
	rc = ctl_request(c, "GET", "/offload/flows", NULL, NULL, &flows);
	if (!rc)
		rc = c->output == CTL_TABLE ? print_flows(flows) : ctl_print_tree(c, flows);
	cJSON_Delete(flows);
	return rc;
}
