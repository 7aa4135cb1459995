/* SPDX-License-Identifier: MIT */
/* config dump | load | check, admin get | set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

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

int ctl_config(struct ctl *c, int argc, char **argv)
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

/* Adds "limits.max_body=9" as {"limits": {"max_body": 9}}; a value that is not JSON is a string. */
static int set_key(cJSON *admin, const char *arg)
{
	const char *eq = strchr(arg, '=');
	char message[80];
	char *pointer;
	cJSON *value;
	int line, rc;

	if (!eq || eq == arg)
		return ctl_usage("admin set: expected KEY=VALUE, got '%s'", arg);
	pointer = l7mp_asprintf("/%.*s", (int)(eq - arg), arg);
	value = l7mp_json_parse(eq + 1, strlen(eq + 1), &line, message, sizeof(message));
	if (!value)
		value = cJSON_CreateString(eq + 1);
	if (!pointer || !value) {
		free(pointer);
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

int ctl_admin(struct ctl *c, int argc, char **argv)
{
	const char *verb = argc ? argv[0] : "get";
	cJSON *admin = NULL;
	int rc;

	if (!strcmp(verb, "set") && argc > 1 && !c->file)
		return set_keys(c, argc - 1, argv + 1);
	if (!strcmp(verb, "set") && argc == 1)
		return ctl_send_wrapped(c, "POST", ctl_path("admin", NULL), "admin");
	if (strcmp(verb, "get") != 0 || argc > 1)
		return ctl_usage("admin: expected get | set KEY=VALUE... | set -f FILE");
	rc = ctl_request(c, "GET", "/admin", NULL, NULL, &admin);
	if (!rc)
		rc = ctl_print_tree(c, admin);
	cJSON_Delete(admin);
	return rc;
}
