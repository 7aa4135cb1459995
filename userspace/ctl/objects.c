/* SPDX-License-Identifier: MIT */
/* list, get, add, replace, delete of every kind of object. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

/* Returns the address of a spec: "10.0.0.1:80", "*:80", "/run/x.sock", "eth0". */
static char *where(const cJSON *spec)
{
	const char *address = l7mp_json_str(spec, "address", NULL);
	const cJSON *port = l7mp_json_member(spec, "port");
	const char *other = l7mp_json_str(spec, "filename", NULL);
	bool v6 = address && strchr(address, ':');

	if (!other)
		other = l7mp_json_str(spec, "interface", NULL);
	if (cJSON_IsNumber(port))
		return l7mp_asprintf("%s%s%s:%d", v6 ? "[" : "", address ? address : "*",
		                     v6 ? "]" : "", port->valueint);
	if (!other)
		other = address;
	return other ? strdup(other) : NULL;
}

static void cell_where(struct ctl_table *t, const cJSON *spec)
{
	char *text = where(spec);

	ctl_cell_str(t, text);
	free(text);
}

/* Adds names joined by commas; an object is shown by its name. */
static void cell_names(struct ctl_table *t, const cJSON *list)
{
	struct l7mp_str s = {0};
	const cJSON *e;

	if (cJSON_IsString(list)) {
		ctl_cell_str(t, list->valuestring);
		return;
	}
	cJSON_ArrayForEach (e, list) {
		l7mp_str_add(&s, s.len ? "," : "");
		l7mp_str_add(&s,
		             cJSON_IsString(e) ? e->valuestring : l7mp_json_str(e, "name", "?"));
	}
	ctl_cell_str(t, s.s);
	l7mp_str_free(&s);
}

static void listener_row(struct ctl_table *t, const cJSON *o)
{
	const cJSON *spec = l7mp_json_member(o, "spec");

	ctl_cell_str(t, l7mp_json_str(o, "name", NULL));
	ctl_cell_str(t, l7mp_json_str(spec, "protocol", NULL));
	cell_where(t, spec);
	cell_names(t, l7mp_json_member(o, "rules"));
}

static void cluster_row(struct ctl_table *t, const cJSON *o)
{
	const cJSON *spec = l7mp_json_member(o, "spec");
	const cJSON *endpoints = l7mp_json_member(o, "endpoints");

	ctl_cell_str(t, l7mp_json_str(o, "name", NULL));
	ctl_cell_str(t, l7mp_json_str(spec, "protocol", NULL));
	cell_where(t, spec);
	if (cJSON_IsNumber(endpoints))
		ctl_cell_num(t, endpoints->valuedouble);
	else
		ctl_cell_num(t, cJSON_GetArraySize(endpoints));
	ctl_cell_str(t, l7mp_json_str(l7mp_json_member(o, "loadbalancer"), "policy", NULL));
}

static void rulelist_row(struct ctl_table *t, const cJSON *o)
{
	ctl_cell_str(t, l7mp_json_str(o, "name", NULL));
	cell_names(t, l7mp_json_member(o, "rules"));
}

static void cell_brief(struct ctl_table *t, const cJSON *node)
{
	char buf[64];

	if (cJSON_IsString(node))
		ctl_cell_str(t, node->valuestring);
	else
		ctl_cell_str(t, node ? l7mp_json_brief(node, buf, sizeof(buf)) : NULL);
}

static void rule_row(struct ctl_table *t, const cJSON *o)
{
	const cJSON *action = l7mp_json_member(o, "action");

	ctl_cell_str(t, l7mp_json_str(o, "name", NULL));
	cell_brief(t, l7mp_json_member(o, "match"));
	ctl_cell_num(t, cJSON_GetArraySize(l7mp_json_member(action, "rewrite")));
	cell_names(t, l7mp_json_member(action, "route"));
	ctl_cell_str(t, l7mp_json_str(action, "apply", NULL));
}

static void route_row(struct ctl_table *t, const cJSON *o)
{
	const cJSON *retry = l7mp_json_member(o, "retry");

	ctl_cell_str(t, l7mp_json_str(o, "name", NULL));
	cell_names(t, l7mp_json_member(o, "destination"));
	cell_names(t, l7mp_json_member(o, "ingress"));
	cell_names(t, l7mp_json_member(o, "egress"));
	ctl_cell_str(t, l7mp_json_str(retry, "retry_on", NULL));
	ctl_cell_num(t, l7mp_json_num(retry, "num_retries", 0));
	ctl_cell_num(t, l7mp_json_num(retry, "timeout", 0));
}

const struct ctl_collection ctl_collections[] = {
        {"listeners", "listener", listener_row, {"NAME", "PROTOCOL", "WHERE", "RULES"}},
        {"clusters",
         "cluster",
         cluster_row,
         {"NAME", "PROTOCOL", "WHERE", "ENDPOINTS", "LOADBALANCER"}},
        {"rulelists", "rulelist", rulelist_row, {"NAME", "RULES"}},
        {"rules", "rule", rule_row, {"NAME", "MATCH", "REWRITES", "ROUTE", "APPLY"}},
        {"routes",
         "route",
         route_row,
         {"NAME", "DESTINATION", "INGRESS", "EGRESS", "RETRY-ON", "RETRIES", "TIMEOUT-MS"}},
        {NULL, NULL, NULL, {NULL}},
};

int ctl_print_list(struct ctl *c, const struct ctl_collection *kind, const cJSON *list)
{
	struct ctl_table t = {0};
	const cJSON *o;

	if (c->output != CTL_TABLE)
		return ctl_print_tree(c, list);
	memcpy(t.heads, kind->heads, sizeof(t.heads));
	cJSON_ArrayForEach (o, list)
		kind->row(&t, o);
	return ctl_table_print(&t);
}

int ctl_get_one(struct ctl *c, const char *plural, const char *name)
{
	char *path = ctl_path(plural, name, NULL);
	struct l7mp_str full = {0};
	cJSON *o = NULL;
	int rc;

	l7mp_str_add(&full, path ? path : "");
	l7mp_str_add(&full, c->recursive ? "?recursive=true" : "");
	rc = ctl_request(c, "GET", full.s, NULL, NULL, &o);
	if (!rc)
		rc = ctl_print_tree(c, o);
	cJSON_Delete(o);
	l7mp_str_free(&full);
	free(path);
	return rc;
}

int ctl_delete_one(struct ctl *c, const char *plural, const char *name)
{
	char *path = ctl_path(plural, name, NULL);
	struct l7mp_str full = {0};
	cJSON *answer = NULL;
	int rc;

	l7mp_str_add(&full, path ? path : "");
	l7mp_str_add(&full, c->recursive ? "?recursive=true" : "");
	rc = ctl_request(c, "DELETE", full.s, NULL, NULL, &answer);
	cJSON_Delete(answer);
	l7mp_str_free(&full);
	free(path);
	return rc;
}

int ctl_send_wrapped(struct ctl *c, const char *method, char *path, const char *wrapper)
{
	struct ctl_input in;
	cJSON *answer = NULL;
	cJSON *body;
	int rc = ctl_input_read(c, &in);

	if (rc) {
		free(path);
		return rc;
	}
	if (l7mp_json_member(in.root, wrapper) && cJSON_GetArraySize(in.root) == 1) {
		rc = ctl_request(c, method, path, in.root, &in, &answer);
	} else {
		in.wrapper = wrapper;
		body = cJSON_CreateObject();
		/* The item is only referenced: the document owns it. */
		if (body && cJSON_AddItemReferenceToObject(body, wrapper, in.root))
			rc = ctl_request(c, method, path, body, &in, &answer);
		else
			rc = CTL_FAILED;
		cJSON_Delete(body);
	}
	cJSON_Delete(answer);
	ctl_input_free(&in);
	free(path);
	return rc;
}

static int list(struct ctl *c, const struct ctl_collection *kind)
{
	char *path = l7mp_asprintf("/%s%s", kind->plural,
	                           c->recursive && c->output != CTL_TABLE ? "?recursive=true" : "");
	cJSON *all = NULL;
	int rc = ctl_request(c, "GET", path, NULL, NULL, &all);

	if (!rc)
		rc = ctl_print_list(c, kind, all);
	cJSON_Delete(all);
	free(path);
	return rc;
}

int ctl_objects(struct ctl *c, const struct ctl_collection *kind, int argc, char **argv)
{
	const char *verb = argc ? argv[0] : "list";

	if (!strcmp(verb, "list") && argc <= 1)
		return list(c, kind);
	if (!strcmp(verb, "get") && argc == 2)
		return ctl_get_one(c, kind->plural, argv[1]);
	if (!strcmp(verb, "add") && argc == 1)
		return ctl_send_wrapped(c, "POST", ctl_path(kind->plural, NULL), kind->singular);
	if (!strcmp(verb, "replace") && argc == 2)
		return ctl_send_wrapped(c, "PUT", ctl_path(kind->plural, argv[1], NULL),
		                        kind->singular);
	if (!strcmp(verb, "delete") && argc == 2)
		return ctl_delete_one(c, kind->plural, argv[1]);
	return ctl_usage("%s: expected list | get NAME | add [-f FILE] | replace NAME [-f FILE] | "
	                 "delete NAME [--recursive]",
	                 kind->plural);
}
