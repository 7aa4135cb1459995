/* SPDX-License-Identifier: MIT */
/* The operator's pure part: which changes count, what proxies say, and what is written of it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/registry_all.h"
#include "l7mp/util.h"
#include "operator/render.h"

#define NOW "2026-01-01T00:00:00Z"

static const char pod_text[] =
        "{'metadata': {'name': 'p%d', 'namespace': 'default', 'uid': 'u%d', 'resourceVersion': "
        "'%d',"
        " 'labels': {'app': 'gw'}}, 'status': {'podIP': '10.0.0.%d', 'phase': 'Running',"
        " 'conditions': [{'type': 'Ready', 'status': 'True'}],"
        " 'containerStatuses': [{'name': 'l7mp', 'ready': true, 'containerID': 'c%d'}]}}";
static const char vsvc_text[] =
        "{'metadata': {'name': '%s', 'namespace': 'default', 'uid': 'v', 'generation': %d,"
        " 'ownerReferences': [{'apiVersion': 'calls.example/v2', 'kind': 'Call', 'name': 'o',"
        " 'uid': 'ou'}], 'creationTimestamp': '2026-01-01T00:00:0%dZ'},"
        " 'spec': {'updateOwners': true, 'selector': {'matchLabels': {'app': 'gw'}},"
        " 'listener': {'spec': {'UDP': {'port': %d}},"
        " 'rules': [{'action': {'route': {'destination': 'target'}}}]}}}";
static const char target_text[] =
        "{'metadata': {'name': 'target', 'namespace': 'default'}, 'spec': {'cluster':"
        " {'spec': {'UDP': {'port': 7}}, 'endpoints': [{'spec': {'address': '10.9.9.%d'}}]}}}";

/* Puts an object of which single quotes are double ones; returns whether that was a change. */
__attribute__((format(printf, 3, 4))) static bool put(struct op_store *s, enum op_kind kind,
                                                      const char *fmt, ...)
{
	char text[4096];
	bool changed = false;
	cJSON *tree;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *p = text; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	tree = cJSON_Parse(text);
	assert_non_null(tree);
	assert_int_equal(op_store_put(s, kind, tree, &changed, NULL), 0);
	cJSON_Delete(tree);
	return changed;
}

static void pod(struct op_store *s, int n, int version, int container)
{
	put(s, OP_POD, pod_text, n, n, version, n, container);
}

static struct op_store *new_store(void)
{
	struct op_store *s = NULL;

	assert_int_equal(op_store_new(&l7mp_all_registry, &op_settings_default, &s), 0);
	return s;
}

static struct op_result *render(const struct op_store *s)
{
	struct op_result *r = NULL;

	assert_int_equal(op_render(s, NULL, &r), 0);
	return r;
}

static const struct op_write *find_write(const struct op_writes *w, enum op_write_kind what,
                                         const char *name)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->w[i].write == what && !strcmp(w->w[i].name, name))
			return &w->w[i];
	return NULL;
}

/* Reads a member of a condition in the status that would be written; NULL: nothing would. */
static const char *condition(const struct op_writes *w, const char *name, const char *type,
                             const char *key)
{
	const struct op_write *s = find_write(w, OP_WRITE_STATUS, name);
	const cJSON *list = s ? l7mp_json_get(s->body, "/status/conditions") : NULL, *c;

	cJSON_ArrayForEach (c, list)
		if (!strcmp(l7mp_json_str(c, "type", ""), type))
			return l7mp_json_str(c, key, "");
	return NULL;
}

static void test_changes(void **state)
{
	struct op_store *s = new_store();

	(void)state;
	assert_true(put(s, OP_POD, pod_text, 1, 1, 1, 1, 1));
	/* Another version of the same, and a condition that nobody reads. */
	assert_false(put(s, OP_POD, pod_text, 1, 1, 2, 1, 1));
	assert_true(put(s, OP_POD, pod_text, 1, 1, 3, 1, 2));
	assert_true(put(s, OP_VSVC, vsvc_text, "v", 1, 1, 1000));
	assert_false(put(s, OP_VSVC, vsvc_text, "v", 1, 1, 1000));
	assert_true(put(s, OP_VSVC, vsvc_text, "v", 2, 1, 1001));
	assert_int_equal(op_store_count(s, OP_POD), 1);
	assert_true(op_store_bytes(s) > 0);

	pod(s, 2, 1, 1);
	op_store_relist_begin(s, OP_POD);
	assert_false(put(s, OP_POD, pod_text, 2, 2, 9, 2, 1));
	assert_true(op_store_relist_end(s, OP_POD));
	assert_int_equal(op_store_count(s, OP_POD), 1);
	op_store_relist_begin(s, OP_POD);
	put(s, OP_POD, pod_text, 2, 2, 9, 2, 1);
	assert_false(op_store_relist_end(s, OP_POD));
	assert_true(op_store_delete(s, OP_POD, "default", "p2"));
	assert_false(op_store_delete(s, OP_POD, "default", "p2"));
	assert_true(op_store_delete(s, OP_VSVC, "default", "v"));
	assert_int_equal(op_store_bytes(s), 0);
	op_store_free(&s);
	assert_null(s);
}

static void test_refused_objects(void **state)
{
	static const struct {
		const char *text;
		const char *what;
	} bad[] = {
	        {"{}", "metadata.name"},
	        {"{\"metadata\": {\"name\": 7, \"namespace\": \"a\"}}", "metadata.name"},
	        {"{\"metadata\": {\"name\": \"a/b\", \"namespace\": \"a\"}}", "metadata.name"},
	        {"{\"metadata\": {\"name\": \"a\"}}", "metadata.namespace"},
	        {"[]", "metadata.name"},
	};
	struct op_store *s = new_store();
	struct l7mp_error err;
	cJSON *big, *meta;
	char *text;

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(bad); i++) {
		cJSON *tree = cJSON_Parse(bad[i].text);

		assert_int_equal(op_store_put(s, OP_VSVC, tree, NULL, &err), -EINVAL);
		assert_non_null(strstr(err.message, bad[i].what));
		cJSON_Delete(tree);
	}
	big = cJSON_CreateObject();
	meta = cJSON_AddObjectToObject(big, "metadata");
	cJSON_AddStringToObject(meta, "name", "a");
	cJSON_AddStringToObject(meta, "namespace", "a");
	text = malloc(OP_MAX_OBJECT + 1);
	assert_non_null(text);
	memset(text, 'x', OP_MAX_OBJECT);
	text[OP_MAX_OBJECT] = 0;
	cJSON_AddStringToObject(big, "spec", text);
	assert_int_equal(op_store_put(s, OP_VSVC, big, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.message, "at most"));
	free(text);
	cJSON_Delete(big);
	assert_int_equal(op_store_count(s, OP_VSVC), 0);
	op_store_free(&s);
}

/* Documents, confirmations, and what is written of them. */
static void test_applied(void **state)
{
	struct op_store *s = new_store();
	struct op_result *r;
	struct op_writes w;
	const struct op_write *owner;

	(void)state;
	pod(s, 1, 1, 1);
	pod(s, 2, 1, 1);
	put(s, OP_VSVC, vsvc_text, "v", 3, 1, 1000);
	put(s, OP_TARGET, target_text, 1);
	r = render(s);
	assert_int_equal(op_result_count(r), 2);
	/* Both have the same. */
	assert_ptr_equal(op_result_proxy(r, 0)->document, op_result_proxy(r, 1)->document);
	assert_string_equal(op_result_proxy(r, 0)->boot, "u1/c1");
	assert_int_equal(op_result_proxy(r, 0)->n_objects, 2);

	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	assert_string_equal(condition(&w, "v", "Programmed", "message"), "0/2 proxies");
	assert_null(find_write(&w, OP_WRITE_OWNER, "o"));
	op_writes_free(&w);

	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 0);
	assert_int_equal(op_store_applied_hash(s, op_result_proxy(r, 0)),
	                 op_result_proxy(r, 0)->hash);
	assert_int_equal(op_store_failed(s, op_result_proxy(r, 1), "no route"), 0);
	assert_int_equal(op_store_applied_hash(s, op_result_proxy(r, 1)), 0);
	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	assert_string_equal(condition(&w, "v", "Programmed", "message"),
	                    "1/2 proxies; default/p2: no route");
	assert_string_equal(condition(&w, "v", "Programmed", "reason"), "Failed");
	op_writes_free(&w);

	assert_int_equal(op_store_applied(s, op_result_proxy(r, 1)), 0);
	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	assert_string_equal(condition(&w, "v", "Programmed", "status"), "True");
	owner = find_write(&w, OP_WRITE_OWNER, "o");
	assert_non_null(owner);
	assert_string_equal(owner->plural, "calls");
	assert_string_equal(owner->version, "v2");
	assert_int_equal(l7mp_json_num(l7mp_json_get(owner->body, "/status/children/applied"),
	                               "/apis/l7mp.io/v1/namespaces/default/virtualservices/v", 0),
	                 3);
	op_writes_free(&w);
	op_result_free(&r);

	/* An object that did not change is still programmed while another one is on its way. */
	put(s, OP_VSVC, vsvc_text, "w", 1, 2, 1001);
	r = render(s);
	assert_int_not_equal(op_store_applied_hash(s, op_result_proxy(r, 0)),
	                     op_result_proxy(r, 0)->hash);
	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	assert_string_equal(condition(&w, "v", "Programmed", "status"), "True");
	assert_string_equal(condition(&w, "w", "Programmed", "reason"), "Pending");
	op_writes_free(&w);
	op_result_free(&r);

	/* What it refers to counts as a part of it. */
	put(s, OP_TARGET, target_text, 2);
	r = render(s);
	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	assert_string_equal(condition(&w, "v", "Programmed", "reason"), "Pending");
	op_writes_free(&w);
	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 0);

	/* A restarted proxy has no objects. */
	op_store_forget(s, "u1");
	assert_int_equal(op_store_applied_hash(s, op_result_proxy(r, 0)), 0);
	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 0);
	op_result_free(&r);
	pod(s, 1, 2, 2);
	r = render(s);
	assert_string_equal(op_result_proxy(r, 0)->boot, "u1/c2");
	assert_int_equal(op_store_applied_hash(s, op_result_proxy(r, 0)), 0);
	op_result_free(&r);
	op_store_free(&s);
}

/* A status is written once; a later one keeps the time of what did not change. */
static void test_only_on_change(void **state)
{
	struct op_store *s = new_store();
	struct op_result *r;
	struct op_writes w;
	cJSON *object, *status;

	(void)state;
	pod(s, 1, 1, 1);
	put(s, OP_VSVC, vsvc_text, "v", 3, 1, 1000);
	r = render(s);
	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	status = cJSON_Duplicate(
	        l7mp_json_get(find_write(&w, OP_WRITE_STATUS, "v")->body, "/status"), true);
	op_writes_free(&w);
	object = cJSON_Parse("{\"metadata\": {\"name\": \"v\", \"namespace\": \"default\","
	                     " \"uid\": \"v\", \"generation\": 3}}");
	/* The same object with its status, as the watch brings it. */
	{
		char text[4096];
		bool changed = false;

		snprintf(text, sizeof(text), vsvc_text, "v", 3, 1, 1000);
		for (char *p = text; *p; p++)
			*p = *p == '\'' ? '"' : *p;
		cJSON_Delete(object);
		object = cJSON_Parse(text);
		cJSON_AddItemToObject(object, "status", status);
		assert_int_equal(op_store_put(s, OP_VSVC, object, &changed, NULL), 0);
		assert_false(changed);
	}
	assert_int_equal(op_statuses(s, r, "2027-01-01T00:00:00Z", &w), 0);
	assert_null(find_write(&w, OP_WRITE_STATUS, "v"));
	op_writes_free(&w);
	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 0);
	assert_int_equal(op_statuses(s, r, "2027-01-01T00:00:00Z", &w), 0);
	assert_string_equal(condition(&w, "v", "Accepted", "lastTransitionTime"), NOW);
	assert_string_equal(condition(&w, "v", "Programmed", "lastTransitionTime"),
	                    "2027-01-01T00:00:00Z");
	op_writes_free(&w);
	cJSON_Delete(object);
	op_result_free(&r);
	op_store_free(&s);
}

/* One object that a proxy refuses is left out, until it or the proxy changes. */
static void test_refusal(void **state)
{
	struct op_store *s = new_store();
	struct op_result *r;
	struct op_writes w;
	struct op_object who, again = {OP_VSVC, "default", "ab", 0};

	(void)state;
	pod(s, 1, 1, 1);
	put(s, OP_VSVC, vsvc_text, "a", 1, 1, 1000);
	put(s, OP_VSVC, vsvc_text, "ab", 1, 2, 1001);
	r = render(s);
	assert_true(op_blame(op_result_proxy(r, 0), "listeners[1].spec.port", NULL, &who));
	assert_string_equal(who.name, "ab");
	assert_true(op_blame(op_result_proxy(r, 0), "config.listeners[0]", NULL, &who));
	assert_string_equal(who.name, "a");
	assert_true(op_blame(
	        op_result_proxy(r, 0), NULL,
	        "listener '/apis/l7mp.io/v1/namespaces/default/virtualservices/ab': port in use",
	        &who));
	assert_string_equal(who.name, "ab");
	assert_false(op_blame(op_result_proxy(r, 0), "listeners[7]", "nothing", &who));
	assert_false(op_blame(op_result_proxy(r, 0), "admin[0]", NULL, &who));
	assert_false(op_blame(op_result_proxy(r, 0), "listeners[", NULL, &who));

	assert_true(op_blame(op_result_proxy(r, 0), "listeners[1]", NULL, &who));
	assert_int_equal(op_store_refuse(s, op_result_proxy(r, 0), &who, "port 1001 is in use"), 0);
	op_result_free(&r);
	r = render(s);
	assert_int_equal(op_result_proxy(r, 0)->n_objects, 1);
	assert_null(strstr(op_result_proxy(r, 0)->document->text, "1001"));
	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	assert_string_equal(condition(&w, "ab", "Programmed", "message"),
	                    "0/1 proxies; default/p1: port 1001 is in use");
	assert_string_equal(condition(&w, "ab", "Accepted", "status"), "True");
	op_writes_free(&w);

	/* Once more after what it has confirmed, as a port may be free now; then no more. */
	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 1);
	op_result_free(&r);
	r = render(s);
	assert_int_equal(op_result_proxy(r, 0)->n_objects, 2);
	assert_int_equal(op_store_refuse(s, op_result_proxy(r, 0), &again, "port 1001 is in use"),
	                 0);
	op_result_free(&r);
	r = render(s);
	assert_int_equal(op_result_proxy(r, 0)->n_objects, 1);
	assert_int_equal(op_store_applied_hash(s, op_result_proxy(r, 0)),
	                 op_result_proxy(r, 0)->hash);
	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 0);
	op_result_free(&r);

	put(s, OP_VSVC, vsvc_text, "ab", 2, 2, 1002);
	r = render(s);
	assert_int_equal(op_result_proxy(r, 0)->n_objects, 2);
	assert_int_equal(op_store_refuse(s, op_result_proxy(r, 0),
	                                 &(struct op_object){OP_VSVC, "default", "ab", 0}, "no"),
	                 0);
	op_result_free(&r);
	pod(s, 1, 2, 2);
	r = render(s);
	assert_int_equal(op_result_proxy(r, 0)->n_objects, 2);
	op_result_free(&r);
	op_store_free(&s);
}

/* Of a Gateway only the listener that a proxy refuses is left out. */
static void test_refused_listener(void **state)
{
	struct op_store *s = new_store();
	struct op_result *r;
	struct op_writes w;
	struct op_object who;
	const cJSON *body;

	(void)state;
	put(s, OP_GATEWAYCLASS,
	    "{'metadata': {'name': 'c'}, 'spec': {'controllerName': "
	    "'l7mp.io/gateway-controller'}}");
	put(s, OP_GATEWAY,
	    "{'metadata': {'name': 'g', 'namespace': 'default'}, 'spec': {'gatewayClassName': 'c',"
	    " 'listeners': [{'name': 'a', 'protocol': 'UDP', 'port': 1000},"
	    " {'name': 'b', 'protocol': 'UDP', 'port': 1001}]}}");
	put(s, OP_POD,
	    "{'metadata': {'name': 'p', 'namespace': 'default', 'uid': 'u',"
	    " 'labels': {'gateway.networking.k8s.io/gateway-name': 'g'}},"
	    " 'status': {'podIP': '10.0.0.1', 'phase': 'Running',"
	    " 'containerStatuses': [{'name': 'l7mp', 'ready': true, 'containerID': 'c'}]}}");
	r = render(s);
	assert_true(op_blame(op_result_proxy(r, 0), "listeners[1].spec.port", NULL, &who));
	assert_int_equal(who.part, 1);
	assert_int_equal(op_store_refuse(s, op_result_proxy(r, 0), &who, "in use"), 0);
	op_result_free(&r);
	r = render(s);
	assert_non_null(strstr(op_result_proxy(r, 0)->document->text, "1000"));
	assert_null(strstr(op_result_proxy(r, 0)->document->text, "1001"));
	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 1);
	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	assert_string_equal(condition(&w, "g", "Programmed", "status"), "True");
	body = find_write(&w, OP_WRITE_STATUS, "g")->body;
	assert_string_equal(l7mp_json_str(l7mp_json_get(body, "/status/listeners/0/conditions/3"),
	                                  "status", ""),
	                    "True");
	assert_string_equal(l7mp_json_str(l7mp_json_get(body, "/status/listeners/1/conditions/3"),
	                                  "message", ""),
	                    "0/1 programmed; default/p: in use");
	op_writes_free(&w);
	op_result_free(&r);
	op_store_free(&s);
}

static bool document_has(const struct op_store *s, const char *text)
{
	struct op_result *r = render(s);
	bool has = op_result_count(r) && strstr(op_result_proxy(r, 0)->document->text, text);

	op_result_free(&r);
	return has;
}

/* What comes while the store is held shows when it is released, in the order that it came in. */
static void test_held(void **state)
{
	struct op_store *s = new_store();
	struct op_object who = {OP_VSVC, "default", "a", 0};
	struct op_result *r;
	bool changed = false;

	(void)state;
	pod(s, 1, 1, 1);
	put(s, OP_TARGET, target_text, 1);
	put(s, OP_VSVC, vsvc_text, "a", 1, 1, 1001);
	put(s, OP_VSVC, vsvc_text, "b", 1, 1, 1002);
	put(s, OP_VSVC, vsvc_text, "c", 1, 1, 1003);
	r = render(s);

	assert_int_equal(op_store_hold(s), 0);
	assert_false(put(s, OP_VSVC, vsvc_text, "a", 2, 1, 2001));
	assert_false(put(s, OP_VSVC, vsvc_text, "new", 1, 1, 2004));
	assert_false(put(s, OP_VSVC, vsvc_text, "brief", 1, 1, 2005));
	assert_true(op_store_delete(s, OP_VSVC, "default", "brief"));
	assert_false(op_store_delete(s, OP_VSVC, "default", "brief"));
	assert_true(op_store_delete(s, OP_VSVC, "default", "b"));
	assert_false(op_store_delete(s, OP_VSVC, "default", "b"));
	assert_true(op_store_delete(s, OP_VSVC, "default", "c"));
	assert_false(put(s, OP_VSVC, vsvc_text, "c", 1, 1, 2003));
	assert_int_equal(op_store_refuse(s, op_result_proxy(r, 0), &who, "in use"), 0);
	assert_true(document_has(s, "1001") && document_has(s, "1002") && document_has(s, "1003"));
	assert_false(document_has(s, "2001") || document_has(s, "2003") || document_has(s, "2004"));

	assert_int_equal(op_store_release(s, &changed), 0);
	assert_true(changed);
	assert_true(document_has(s, "2001") && document_has(s, "2003") && document_has(s, "2004"));
	assert_false(document_has(s, "100") || document_has(s, "2005"));
	assert_int_equal(op_store_count(s, OP_VSVC), 3);

	/* A refusal of what is there, which is seen after the release. */
	op_result_free(&r);
	r = render(s);
	assert_int_equal(op_store_hold(s), 0);
	assert_int_equal(op_store_refuse(s, op_result_proxy(r, 0), &who, "in use"), 0);
	assert_true(document_has(s, "2001"));
	changed = false;
	assert_int_equal(op_store_release(s, &changed), 0);
	assert_false(changed);
	assert_false(document_has(s, "2001"));
	/* And one that is lifted meanwhile still counts until then. */
	assert_int_equal(op_store_hold(s), 0);
	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 1);
	assert_false(document_has(s, "2001"));
	assert_false(put(s, OP_VSVC, vsvc_text, "new", 1, 1, 2004));
	assert_int_equal(op_store_release(s, &changed), 0);
	assert_false(changed);
	assert_true(document_has(s, "2001"));

	/* It may end while it is held. */
	assert_int_equal(op_store_hold(s), 0);
	put(s, OP_VSVC, vsvc_text, "late", 1, 1, 2006);
	(void)op_store_delete(s, OP_VSVC, "default", "a");
	op_result_free(&r);
	op_store_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_changes), cmocka_unit_test(test_refused_objects),
	        cmocka_unit_test(test_applied), cmocka_unit_test(test_only_on_change),
	        cmocka_unit_test(test_refusal), cmocka_unit_test(test_refused_listener),
	        cmocka_unit_test(test_held),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
