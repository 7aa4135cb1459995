/* SPDX-License-Identifier: MIT */
/* rulelists insert | remove (rules by their position), and lookup. */
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

static int insert_name(struct ctl *c, char *path, const char *rule)
{
	cJSON *body = cJSON_CreateObject();
	cJSON *answer = NULL;
	int rc = CTL_FAILED;

	if (!l7mp_json_add_str(body, "rule", rule))
		rc = ctl_request(c, "POST", path, body, NULL, &answer);
	cJSON_Delete(answer);
	cJSON_Delete(body);
	free(path);
	return rc;
}

static int remove_rule(struct ctl *c, const char *list, const char *position)
{
	char *path = ctl_path("rulelists", list, "rules", position, NULL);
	char *full =
	        path ? l7mp_asprintf("%s%s", path, c->recursive ? "?recursive=true" : "") : NULL;
	cJSON *answer = NULL;
	int rc = ctl_request(c, "DELETE", full, NULL, NULL, &answer);

	cJSON_Delete(answer);
	free(full);
	free(path);
	return rc;
}

int ctl_rulelists(struct ctl *c, int argc, char **argv)
{
	const struct ctl_collection *kind = ctl_collections;

	if (argc == 3 && !strcmp(argv[0], "insert"))
		return ctl_send_wrapped(
		        c, "POST", ctl_path("rulelists", argv[1], "rules", argv[2], NULL), "rule");
	if (argc == 4 && !strcmp(argv[0], "insert"))
		return insert_name(c, ctl_path("rulelists", argv[1], "rules", argv[2], NULL),
		                   argv[3]);
	if (argc == 3 && !strcmp(argv[0], "remove"))
		return remove_rule(c, argv[1], argv[2]);
	while (strcmp(kind->plural, "rulelists") != 0)
		kind++;
	return ctl_objects(c, kind, argc, argv);
}

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
	/* Without a document the lookup uses empty metadata. */
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
