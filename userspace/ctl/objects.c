/* SPDX-License-Identifier: MIT */
/*
 * The model: list, get, add, replace, delete of every kind of object; rules of a rule list and
 * look-ups; the whole config and admin.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"
#include "l7mp/config.h"

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

/* Adds a cell for each counter; an older proxy has none. */
static void cell_health(struct ctl_table *t, const cJSON *health)
{
	static const char *const keys[] = {"sessions", "connects", "failed", "lost"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(keys); i++) {
		if (l7mp_json_member(health, keys[i]))
			ctl_cell_num(t, l7mp_json_num(health, keys[i], 0));
		else
			ctl_cell_str(t, NULL);
	}
}

/* Adds time and text of the last error. */
static void cell_last_error(struct ctl_table *t, const cJSON *health)
{
	const char *time = l7mp_json_str(health, "last_failure", NULL);
	char *text =
	        time ? l7mp_asprintf("%s %s", time, l7mp_json_str(health, "last_error", "")) : NULL;

	ctl_cell_str(t, text);
	free(text);
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
	cell_health(t, l7mp_json_member(o, "health"));
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

static const struct ctl_collection listener_kind = {
        "listeners", "listener", listener_row, {"NAME", "PROTOCOL", "WHERE", "RULES"}};
static const struct ctl_collection cluster_kind = {"clusters",
                                                   "cluster",
                                                   cluster_row,
                                                   {"NAME", "PROTOCOL", "WHERE", "ENDPOINTS",
                                                    "LOADBALANCER", "SESSIONS", "CONNECTS",
                                                    "FAILED", "LOST"}};
static const struct ctl_collection rulelist_kind = {
        "rulelists", "rulelist", rulelist_row, {"NAME", "RULES"}};
static const struct ctl_collection rule_kind = {
        "rules", "rule", rule_row, {"NAME", "MATCH", "REWRITES", "ROUTE", "APPLY"}};
static const struct ctl_collection route_kind = {
        "routes",
        "route",
        route_row,
        {"NAME", "DESTINATION", "INGRESS", "EGRESS", "RETRY-ON", "RETRIES", "TIMEOUT-MS"}};

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

int ctl_get_list(struct ctl *c, const char *path, const char *what, cJSON **list)
{
	long limit = c->limit >= 0 ? c->limit : c->output == CTL_TABLE ? CTL_ROWS : 0;
	char *full;
	int rc;

	if (!limit)
		return ctl_request_list(c, path, list);
	full = l7mp_asprintf("%s?limit=%ld", path, limit + 1);
	rc = ctl_request_list(c, full, list);
	free(full);
	if (rc || cJSON_GetArraySize(*list) <= limit)
		return rc;
	cJSON_DeleteItemFromArray(*list, (int)limit);
	fflush(stdout);
	ctl_error("these are the first %ld %s; --limit 0 shows all", limit, what);
	return CTL_OK;
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

/* Sends the input, wrapped in `wrapper` unless it is already. Takes path. */
static int send_wrapped(struct ctl *c, const char *method, char *path, const char *wrapper)
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
	int rc = ctl_request_list(c, path, &all);

	if (!rc)
		rc = ctl_print_list(c, kind, all);
	cJSON_Delete(all);
	free(path);
	return rc;
}

static int objects_command(struct ctl *c, const struct ctl_collection *kind, int argc, char **argv)
{
	const char *verb = argc ? argv[0] : "list";

	if (!strcmp(verb, "list") && argc <= 1)
		return list(c, kind);
	if (!strcmp(verb, "get") && argc == 2)
		return ctl_get_one(c, kind->plural, argv[1]);
	if (!strcmp(verb, "add") && argc == 1)
		return send_wrapped(c, "POST", ctl_path(kind->plural, NULL), kind->singular);
	if (!strcmp(verb, "replace") && argc == 2)
		return send_wrapped(c, "PUT", ctl_path(kind->plural, argv[1], NULL),
		                    kind->singular);
	if (!strcmp(verb, "delete") && argc == 2)
		return ctl_delete_one(c, kind->plural, argv[1]);
	return ctl_usage("%s: expected list | get NAME | add [-f FILE] | replace NAME [-f FILE] | "
	                 "delete NAME [--recursive]",
	                 kind->plural);
}

/* ---- endpoints: those of all clusters; one is added to a cluster ---- */

static void endpoint_row(struct ctl_table *t, const cJSON *o)
{
	const cJSON *spec = l7mp_json_member(o, "spec");

	ctl_cell_str(t, l7mp_json_str(o, "name", NULL));
	ctl_cell_str(t, l7mp_json_str(o, "cluster", NULL));
	ctl_cell_str(t, l7mp_json_str(spec, "address", NULL));
	ctl_cell_num(t, l7mp_json_num(o, "weight", 1));
	cell_health(t, l7mp_json_member(o, "health"));
	cell_last_error(t, l7mp_json_member(o, "health"));
}

static const struct ctl_collection endpoint_kind = {"endpoints",
                                                    "endpoint",
                                                    endpoint_row,
                                                    {"NAME", "CLUSTER", "ADDRESS", "WEIGHT",
                                                     "SESSIONS", "CONNECTS", "FAILED", "LOST",
                                                     "LAST-ERROR"}};

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
	int rc = ctl_request_list(c, "/clusters?recursive=true", &clusters);

	if (rc)
		return rc;
	all = flatten(clusters);
	rc = all ? ctl_print_list(c, &endpoint_kind, all) : CTL_FAILED;
	cJSON_Delete(all);
	cJSON_Delete(clusters);
	return rc;
}

static int endpoints_command(struct ctl *c, int argc, char **argv)
{
	const char *verb = argc ? argv[0] : "list";

	if (!strcmp(verb, "list") && argc <= 1)
		return list_endpoints(c);
	if (!strcmp(verb, "get") && argc == 2)
		return ctl_get_one(c, "endpoints", argv[1]);
	if (!strcmp(verb, "add") && argc == 2)
		return send_wrapped(c, "POST", ctl_path("clusters", argv[1], "endpoints", NULL),
		                    "endpoint");
	if (!strcmp(verb, "replace") && argc == 2)
		return send_wrapped(c, "PUT", ctl_path("endpoints", argv[1], NULL), "endpoint");
	if (!strcmp(verb, "delete") && argc == 2)
		return ctl_delete_one(c, "endpoints", argv[1]);
	return ctl_usage("endpoints: expected list | get NAME | add CLUSTER [-f FILE] | "
	                 "replace NAME [-f FILE] | delete NAME [--recursive]");
}

/* ---- rules by their position, and look-ups ---- */

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

static int rulelists_command(struct ctl *c, int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[0], "insert"))
		return send_wrapped(c, "POST",
		                    ctl_path("rulelists", argv[1], "rules", argv[2], NULL), "rule");
	if (argc == 4 && !strcmp(argv[0], "insert"))
		return insert_name(c, ctl_path("rulelists", argv[1], "rules", argv[2], NULL),
		                   argv[3]);
	if (argc == 3 && !strcmp(argv[0], "remove"))
		return remove_rule(c, argv[1], argv[2]);
	if (argc && (!strcmp(argv[0], "insert") || !strcmp(argv[0], "remove")))
		return ctl_usage("rulelists: expected insert LIST POSITION [RULE | -f FILE] | "
		                 "remove LIST POSITION [-r]");
	return objects_command(c, &rulelist_kind, argc, argv);
}

static int lookup_command(struct ctl *c, int argc, char **argv)
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

/* ---- config and admin ---- */

static int dump(struct ctl *c)
{
	/* Keys that POST ignores; without them the output is a config file. */
	static const char *const read_only[] = {"sessions", "endpoints", "version"};
	cJSON *config = NULL;
	int rc = ctl_request(c, "GET", "/config", NULL, NULL, &config);

	if (rc)
		return rc;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(read_only); i++)
		cJSON_DeleteItemFromObjectCaseSensitive(config, read_only[i]);
	cJSON_DeleteItemFromObjectCaseSensitive(l7mp_json_member(config, "admin"), "version");
	rc = ctl_print_tree(c, config);
	cJSON_Delete(config);
	return rc;
}

static int load(struct ctl *c)
{
	struct ctl_input in;
	cJSON *answer = NULL;
	int rc = ctl_input_read(c, &in);

	if (rc)
		return rc;
	rc = ctl_request(c, "POST", "/config", in.root, &in, &answer);
	cJSON_Delete(answer);
	ctl_input_free(&in);
	return rc;
}

/* Checks a config by running l7mp-proxy -c FILE --check. */
static int check(const char *file)
{
	char *const args[] = {"l7mp-proxy", "-t", "-c", (char *)file, NULL};

	return ctl_exec_proxy("config check", args);
}

/* FILE may be given as an argument or with -f. */
static bool take_file(struct ctl *c, int argc, char **argv)
{
	if (argc == 2 && !c->file)
		c->file = argv[1];
	else if (argc == 2)
		return false;
	return argc <= 2;
}

static int config_command(struct ctl *c, int argc, char **argv)
{
	const char *verb = argc ? argv[0] : "";

	if (!strcmp(verb, "dump") && argc == 1)
		return dump(c);
	if (!strcmp(verb, "load") && take_file(c, argc, argv))
		return load(c);
	if (!strcmp(verb, "check") && take_file(c, argc, argv) && c->file)
		return check(c->file);
	return ctl_usage("config: expected dump | load FILE | check FILE");
}

/*
 * Returns the value of KEY=VALUE, or NULL after a message. A list or an object is in YAML's flow
 * style, which JSON belongs to; other text that is not JSON is a string.
 */
static cJSON *set_value(const char *arg, const char *text)
{
	struct l7mp_document *doc = NULL;
	struct l7mp_error err = {0};
	char message[80];
	cJSON *value;
	int line;

	value = l7mp_json_parse(text, strlen(text), &line, message, sizeof(message));
	if (value)
		return value;
	if (*text != '[' && *text != '{') {
		value = cJSON_CreateString(text);
		if (!value)
			ctl_error("out of memory");
		return value;
	}
	if (!l7mp_document_parse(L7MP_SYNTAX_YAML, text, strlen(text), &doc, &err))
		value = cJSON_Duplicate(l7mp_document_root(doc), true);
	if (!value)
		ctl_error("admin set: '%s': %s", arg, *err.message ? err.message : "out of memory");
	l7mp_document_free(&doc);
	return value;
}

/* Adds "limits.max_body=9" as {"limits": {"max_body": 9}}. */
static int set_key(cJSON *admin, const char *arg)
{
	const char *eq = strchr(arg, '=');
	char *pointer;
	cJSON *value;
	int rc;

	if (!eq || eq == arg)
		return ctl_usage("admin set: expected KEY=VALUE, got '%s'", arg);
	value = set_value(arg, eq + 1);
	if (!value)
		return CTL_FAILED;
	pointer = l7mp_asprintf("/%.*s", (int)(eq - arg), arg);
	if (!pointer) {
		cJSON_Delete(value);
		ctl_error("out of memory");
		return CTL_FAILED;
	}
	for (char *p = pointer; *p; p++)
		if (*p == '.')
			*p = '/';
	rc = l7mp_json_set(admin, pointer, value);
	free(pointer);
	return rc ? ctl_usage("admin set: '%s' does not fit beside the keys before it", arg)
	          : CTL_OK;
}

static int set_keys(struct ctl *c, int argc, char **argv)
{
	cJSON *admin = cJSON_CreateObject();
	cJSON *body = cJSON_CreateObject();
	cJSON *answer = NULL;
	int rc = CTL_OK;

	for (int i = 0; i < argc && !rc; i++)
		rc = set_key(admin, argv[i]);
	if (l7mp_json_add(body, "admin", admin) && !rc)
		rc = CTL_FAILED;
	if (!rc)
		rc = ctl_request(c, "POST", "/admin", body, NULL, &answer);
	cJSON_Delete(answer);
	cJSON_Delete(body);
	return rc;
}

static int admin_command(struct ctl *c, int argc, char **argv)
{
	const char *verb = argc ? argv[0] : "get";
	cJSON *admin = NULL;
	int rc;

	if (!strcmp(verb, "set") && argc > 1 && !c->file)
		return set_keys(c, argc - 1, argv + 1);
	if (!strcmp(verb, "set") && argc == 1)
		return send_wrapped(c, "POST", ctl_path("admin", NULL), "admin");
	if (strcmp(verb, "get") != 0 || argc > 1)
		return ctl_usage("admin: expected get | set KEY=VALUE... | set -f FILE");
	rc = ctl_request(c, "GET", "/admin", NULL, NULL, &admin);
	if (!rc)
		rc = ctl_print_tree(c, admin);
	cJSON_Delete(admin);
	return rc;
}

/* The kinds that have the same verbs. */

static int listeners_command(struct ctl *c, int argc, char **argv)
{
	return objects_command(c, &listener_kind, argc, argv);
}

static int clusters_command(struct ctl *c, int argc, char **argv)
{
	return objects_command(c, &cluster_kind, argc, argv);
}

static int rules_command(struct ctl *c, int argc, char **argv)
{
	return objects_command(c, &rule_kind, argc, argv);
}

static int routes_command(struct ctl *c, int argc, char **argv)
{
	return objects_command(c, &route_kind, argc, argv);
}

const struct ctl_command ctl_object_commands[] = {
        {"listeners", listeners_command}, {"clusters", clusters_command},
        {"endpoints", endpoints_command}, {"rulelists", rulelists_command},
        {"rules", rules_command},         {"routes", routes_command},
        {"lookup", lookup_command},       {"config", config_command},
        {"admin", admin_command},         {NULL, NULL},
};
