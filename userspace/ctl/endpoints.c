/* SPDX-License-Identifier: MIT */
/* endpoints: lists those of all clusters; adds one to a cluster. */
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

static void endpoint_row(struct ctl_table *t, const cJSON *o)
{
	const cJSON *spec = l7mp_json_member(o, "spec");

	ctl_cell_str(t, l7mp_json_str(o, "name", NULL));
	ctl_cell_str(t, l7mp_json_str(o, "cluster", NULL));
	ctl_cell_str(t, l7mp_json_str(spec, "address", NULL));
	ctl_cell_num(t, l7mp_json_num(o, "weight", 1));
}

static const struct ctl_collection endpoints = {
        "endpoints", "endpoint", endpoint_row, {"NAME", "CLUSTER", "ADDRESS", "WEIGHT"}};

/*
 * Returns the endpoints of `clusters` in one list, each with its cluster's name. New tree; NULL:
 * out of memory. Virtual clusters have none of their own.
 */
static cJSON *flatten(const cJSON *clusters)
{
	cJSON *all = cJSON_CreateArray();
	const cJSON *cluster, *e;

	cJSON_ArrayForEach (cluster, clusters) {
		const char *name = l7mp_json_str(cluster, "name", "");

		cJSON_ArrayForEach (e, l7mp_json_member(cluster, "endpoints")) {
			cJSON *copy;

			if (!strcmp(l7mp_json_str(e, "name", ""), name))
				continue;
			copy = cJSON_Duplicate(e, true);
			if (!l7mp_json_member(copy, "cluster"))
				l7mp_json_add_str(copy, "cluster", name);
			if (!all || !copy || !cJSON_AddItemToArray(all, copy))
				cJSON_Delete(copy);
		}
	}
	return all;
}

static int list_endpoints(struct ctl *c)
{
	cJSON *clusters = NULL;
	cJSON *all;
	int rc = ctl_request(c, "GET", "/clusters?recursive=true", NULL, NULL, &clusters);

	if (rc)
		return rc;
	all = flatten(clusters);
	rc = all ? ctl_print_list(c, &endpoints, all) : CTL_FAILED;
	cJSON_Delete(all);
	cJSON_Delete(clusters);
	return rc;
}

int ctl_endpoints(struct ctl *c, int argc, char **argv)
{
	const char *verb = argc ? argv[0] : "list";

	if (!strcmp(verb, "list") && argc <= 1)
		return list_endpoints(c);
	if (!strcmp(verb, "get") && argc == 2)
		return ctl_get_one(c, "endpoints", argv[1]);
	if (!strcmp(verb, "add") && argc == 2)
		return ctl_send_wrapped(c, "POST", ctl_path("clusters", argv[1], "endpoints", NULL),
		                        "endpoint");
	if (!strcmp(verb, "replace") && argc == 2)
		return ctl_send_wrapped(c, "PUT", ctl_path("endpoints", argv[1], NULL), "endpoint");
	if (!strcmp(verb, "delete") && argc == 2)
		return ctl_delete_one(c, "endpoints", argv[1]);
	return ctl_usage("endpoints: expected list | get NAME | add CLUSTER [-f FILE] | "
	                 "replace NAME [-f FILE] | delete NAME [--recursive]");
}
