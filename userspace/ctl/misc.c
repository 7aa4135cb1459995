/* SPDX-License-Identifier: MIT */
/* lookup, offload, flows, version. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

int ctl_lookup(struct ctl *c, int argc, char **argv)
{
	struct ctl_input in = {0};
	cJSON *body = cJSON_CreateObject();
	cJSON *metadata, *found = NULL;
	char *path;
	int rc = CTL_OK;

	if (argc != 1) {
		cJSON_Delete(body);
		return ctl_usage("lookup: expected RULELIST [-f FILE with the metadata]");
	}
	/* Without a document: a session that has no metadata. */
	if (c->file)
		rc = ctl_input_read(c, &in);
	if (rc) {
		cJSON_Delete(body);
		return rc;
	}
	metadata = l7mp_json_member(in.root, "metadata");
	if (!metadata || cJSON_GetArraySize(in.root) != 1) {
		metadata = in.root;
		in.wrapper = "metadata";
	}
	metadata = metadata ? cJSON_Duplicate(metadata, true) : cJSON_CreateObject();
	path = ctl_path("rulelists", argv[0], "lookup", NULL);
	if (l7mp_json_add(body, "metadata", metadata))
		rc = CTL_FAILED;
	else
		rc = ctl_request(c, "POST", path, body, in.root ? &in : NULL, &found);
	if (!rc)
		rc = ctl_print_tree(c, found);
	cJSON_Delete(found);
	cJSON_Delete(body);
	free(path);
	ctl_input_free(&in);
	return rc;
}

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

/* Columns are what the first flow has of plain values, as many as fit. */
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

int ctl_version(struct ctl *c, int argc, char **argv)
{
	cJSON *admin = NULL;
	int rc;

	(void)argv;
	if (argc)
		return ctl_usage("version: takes no arguments");
	puts("l7mpctl    " L7MP_VERSION);
	fflush(stdout);
	rc = ctl_request(c, "GET", "/admin", NULL, NULL, &admin);
	if (!rc) {
		printf("l7mp-proxy ");
		ctl_print_safe(stdout, l7mp_json_str(admin, "version", "unknown"));
		putchar('\n');
	}
	cJSON_Delete(admin);
	return rc;
}
