/* SPDX-License-Identifier: MIT */
#include "model_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_protocols.h"
#include "l7mp/util.h"

cJSON *mx_json(const char *text)
{
	char *copy = strdup(text), message[128];
	cJSON *node;
	int line;

	assert_non_null(copy);
	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	node = l7mp_json_parse(copy, strlen(copy), &line, message, sizeof(message));
	if (!node)
		fail_msg("%s in %s", message, copy);
	free(copy);
	return node;
}

struct l7mp_model *mx_model(void)
{
	struct l7mp_model *m;

	assert_int_equal(l7mp_model_new(&fake_registry, &m), 0);
	return m;
}

static int apply(struct l7mp_change *c, enum mx_op op, enum l7mp_obj_kind kind, const char *name,
                 size_t position, const cJSON *doc, struct l7mp_error *err)
{
	switch (op) {
	case MX_ADD:
		return l7mp_change_add(c, kind, doc, l7mp_obj_kind_name(kind), err);
	case MX_REPLACE:
		return l7mp_change_replace(c, kind, name, doc, l7mp_obj_kind_name(kind), err);
	case MX_CONFIG:
		return l7mp_change_config(c, doc, NULL, err);
	case MX_ADMIN:
		return l7mp_change_admin(c, doc, "admin", err);
	case MX_ADD_ENDPOINT:
		return l7mp_change_add_endpoint(c, name, doc, "endpoint", err);
	case MX_INSERT_RULE:
		return l7mp_change_insert_rule(c, name, position, doc, "rule", err);
	}
	return -1;
}

void mx_listeners(cJSON *config)
{
	if (cJSON_IsObject(config) && !cJSON_HasObjectItem(config, "listeners"))
		cJSON_AddArrayToObject(config, "listeners");
}

int mx_apply(struct l7mp_model *m, enum mx_op op, enum l7mp_obj_kind kind, const char *name,
             size_t position, const char *text, struct l7mp_error *err, int *items)
{
	cJSON *doc = mx_json(text);
	struct l7mp_change *c;
	struct l7mp_error mine = {0};
	int rc;

	if (op == MX_CONFIG)
		mx_listeners(doc);
	assert_int_equal(l7mp_change_new(m, false, &c), 0);
	rc = apply(c, op, kind, name, position, doc, &mine);
	if (rc)
		assert_true(mine.code != L7MP_OK && mine.message[0]);
	if (items)
		*items = rc ? -1 : (int)l7mp_change_count(c);
	if (!rc)
		l7mp_change_commit(c);
	if (err)
		*err = mine;
	l7mp_change_free(&c);
	cJSON_Delete(doc);
	return rc;
}

int mx_add(struct l7mp_model *m, enum l7mp_obj_kind kind, const char *text)
{
	struct l7mp_error err = {0};
	int rc = mx_apply(m, MX_ADD, kind, NULL, 0, text, &err, NULL);

	if (rc)
		print_message("%s: %s\n", err.path, err.message);
	return rc;
}

int mx_replace(struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name, const char *text)
{
	struct l7mp_error err = {0};
	int rc = mx_apply(m, MX_REPLACE, kind, name, 0, text, &err, NULL);

	if (rc)
		print_message("%s: %s\n", err.path, err.message);
	return rc;
}

int mx_config(struct l7mp_model *m, const char *text)
{
	struct l7mp_error err = {0};
	int items, rc;

	rc = mx_apply(m, MX_CONFIG, L7MP_OBJ_LISTENER, NULL, 0, text, &err, &items);
	if (rc)
		print_message("%s: %s\n", err.path, err.message);
	return rc ? rc : items;
}

int mx_delete(struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name, bool recursive)
{
	struct l7mp_change *c;
	struct l7mp_error err;
	int rc;

	assert_int_equal(l7mp_change_new(m, false, &c), 0);
	rc = l7mp_change_delete(c, kind, name, recursive, &err);
	if (!rc)
		l7mp_change_commit(c);
	l7mp_change_free(&c);
	return rc;
}

const char *mx_names(const struct l7mp_model *m, enum l7mp_obj_kind kind)
{
	static char buf[4096];
	size_t len = 0;

	buf[0] = '\0';
	for (struct l7mp_object *o = l7mp_model_first(m, kind); o; o = l7mp_model_next(o))
		len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%s%s", len ? " " : "",
		                        o->name);
	return buf;
}

/* Removes what sessions change, at any depth. */
static void without_health(cJSON *node)
{
	cJSON *child;

	if (cJSON_IsObject(node))
		cJSON_DeleteItemFromObjectCaseSensitive(node, "health");
	cJSON_ArrayForEach (child, node)
		without_health(child);
}

void mx_assert_view(const struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name,
                    bool recursive, const char *text)
{
	void *o = l7mp_model_find(m, kind, name);
	cJSON *want = mx_json(text), *got;
	char *print;

	assert_non_null(o);
	got = l7mp_object_to_json(m, o, recursive);
	assert_non_null(got);
	without_health(got);
	if (!l7mp_json_equal(want, got)) {
		print = l7mp_json_print(got, L7MP_JSON_PLAIN);
		fail_msg("got %s", print);
	}
	cJSON_Delete(want);
	cJSON_Delete(got);
}

cJSON *mx_to_config(const struct l7mp_model *m)
{
	static const enum l7mp_obj_kind order[] = {L7MP_OBJ_LISTENER, L7MP_OBJ_CLUSTER,
	                                           L7MP_OBJ_RULELIST, L7MP_OBJ_RULE,
	                                           L7MP_OBJ_ROUTE};
	cJSON *out = cJSON_CreateObject();
	cJSON *admin = l7mp_admin_to_json(l7mp_model_admin((struct l7mp_model *)m));

	cJSON_DeleteItemFromObjectCaseSensitive(admin, "version");
	cJSON_AddItemToObject(out, "admin", admin);
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(order); i++) {
		cJSON *list = cJSON_AddArrayToObject(out, l7mp_obj_kind_plural(order[i]));

		for (const struct l7mp_object *o = l7mp_model_first(m, order[i]); o;
		     o = l7mp_model_next(o))
			cJSON_AddItemToArray(list, l7mp_object_to_config(m, o));
	}
	return out;
}

char *mx_dump(const struct l7mp_model *m)
{
	cJSON *node = mx_to_config(m);
	char *text;

	assert_non_null(node);
	text = l7mp_json_print(node, L7MP_JSON_PLAIN);
	assert_non_null(text);
	cJSON_Delete(node);
	return text;
}
