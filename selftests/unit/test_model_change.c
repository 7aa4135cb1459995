/* SPDX-License-Identifier: MIT */
/* Changes of single objects: all or nothing, what they list, what they cost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model_fixture.h"

#define L     L7MP_OBJ_LISTENER
#define C     L7MP_OBJ_CLUSTER
#define E     L7MP_OBJ_ENDPOINT
#define R     L7MP_OBJ_ROUTE
#define LIST  L7MP_OBJ_RULELIST
#define RULE  L7MP_OBJ_RULE
#define ROUTE L7MP_OBJ_ROUTE

/* "+cluster:a ~route:r -rule:x!": added, replaced, deleted; !: sessions end. A static buffer. */
static const char *items(const struct l7mp_change *c)
{
	static char buf[4096];
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < l7mp_change_count(c); i++) {
		const struct l7mp_change_item *it = l7mp_change_item(c, i);
		const struct l7mp_object *o = it->new_object ? it->new_object : it->old_object;

		len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%s%s%s:%s%s", len ? " " : "",
		                        !it->old_object   ? "+"
		                        : !it->new_object ? "-"
		                                          : "~",
		                        l7mp_obj_kind_name(it->kind), o->name,
		                        it->end_sessions ? "!" : "");
	}
	assert_null(l7mp_change_item(c, l7mp_change_count(c)));
	return buf;
}

static struct l7mp_change *change(struct l7mp_model *m)
{
	struct l7mp_change *c, *second;

	assert_int_equal(l7mp_change_new(m, false, &c), 0);
	assert_int_equal(l7mp_change_new(m, false, &second), -EBUSY);
	return c;
}

static void finish(struct l7mp_change *c, const char *want)
{
	assert_string_equal(items(c), want);
	l7mp_change_commit(c);
	assert_string_equal(items(c), want); /* still to be looked at */
	l7mp_change_free(&c);
}

static void expect_delete(struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name,
                          bool recursive, const char *want)
{
	struct l7mp_change *c = change(m);
	struct l7mp_error err;

	assert_int_equal(l7mp_change_delete(c, kind, name, recursive, &err), 0);
	finish(c, want);
}

static void expect_replace(struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name,
                           const char *text, const char *want)
{
	struct l7mp_change *c = change(m);
	cJSON *doc = mx_json(text);
	struct l7mp_error err;

	if (l7mp_change_replace(c, kind, name, doc, "x", &err))
		fail_msg("%s: %s", err.path, err.message);
	finish(c, want);
	cJSON_Delete(doc);
}

static struct l7mp_model *with_listener(void)
{
	struct l7mp_model *m = mx_model();

	assert_int_equal(
	        mx_add(m, C, "{'name':'shared','spec':{'protocol':'Logger','log_prefix':'s'}}"), 0);
	assert_int_equal(
	        mx_add(m, L,
	               "{'name':'l','spec':{'protocol':'UDP','port':1},'rules':[{'match':{'op':"
	               "'defined','path':'/"
	               "IP'},'action':{'route':{'destination':{'name':'dest','spec':"
	               "{'protocol':'UDP','port':2},'endpoints':[{'spec':{'address':'::1'}}]},"
	               "'ingress':['shared',{'spec':{'protocol':'Logger'}}]}}},"
	               "{'action':{'route':{'destination':{'spec':{'protocol':'Echo'}}}}}]}"),
	        0);
	return m;
}

static void test_add_lists_bottom_up(void **state)
{
	struct l7mp_model *m = mx_model();
	struct l7mp_change *c = change(m);
	cJSON *doc =
	        mx_json("{'name':'l','spec':{'protocol':'UDP','port':1},'rules':[{'action':"
	                "{'route':{'destination':{'name':'d','spec':{'protocol':'UDP','port':2},"
	                "'endpoints':[{'name':'e','spec':{'address':'::1'}}]}}}}]}");
	struct l7mp_error err;

	(void)state;
	assert_int_equal(l7mp_change_add(c, L, doc, "listener", &err), 0);
	assert_int_equal(l7mp_model_count(m, L), 0); /* not before commit */
	assert_string_equal(l7mp_change_item(c, 1)->path,
	                    "listener.rules[0].action.route.destination");
	finish(c, "+endpoint:e +cluster:d +route:l-RuleList-0-Rule-0-Route-0 "
	          "+rule:l-RuleList-0-Rule-0 +rulelist:l-RuleList-0 +listener:l");
	cJSON_Delete(doc);
	l7mp_model_free(&m);
}

static void test_failure_leaves_nothing(void **state)
{
	static const char *const bad[] = {
	        /* the last inline object's name is taken */
	        "{'name':'n','spec':{'protocol':'UDP','port':1},'rules':[{'action':{'route':"
	        "{'destination':{'spec':{'protocol':'Echo'}},'egress':[{'name':'shared','spec':"
	        "{'protocol':'Echo'}}]}}}]}",
	        /* its own name */
	        "{'name':'l','spec':{'protocol':'UDP','port':1},'rules':[{'action':{'route':"
	        "{'destination':{'spec':{'protocol':'Echo'}}}}}]}",
	        /* an endpoint of another cluster */
	        "{'name':'n','spec':{'protocol':'UDP','port':1},'rules':[{'action':{'route':"
	        "{'destination':{'spec':{'protocol':'UDP','port':1},'endpoints':[{'name':"
	        "'dest-EndPoint-0','spec':{'address':'::1'}}]}}}}]}",
	};
	struct l7mp_model *m = with_listener();
	char *before = mx_dump(m), *after;
	struct l7mp_error err;

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(mx_apply(m, MX_ADD, L, NULL, 0, bad[i], &err, NULL), -EEXIST);
		assert_int_equal(err.code, L7MP_ERR_EXISTS);
	}
	assert_string_equal(err.path, "listener.rules[0].action.route.destination.endpoints[0]");
	assert_string_equal(err.message, "endpoint \"dest-EndPoint-0\" exists already");
	after = mx_dump(m);
	assert_string_equal(before, after);
	free(before);
	free(after);
	/* Not even names: the next ones go on after what with_listener() used. */
	assert_int_equal(
	        mx_add(m, ROUTE, "{'name':'r','destination':{'spec':{'protocol':'Echo'}}}"), 0);
	assert_non_null(l7mp_model_find(m, C, "r-Cluster-2"));
	l7mp_model_free(&m);
}

/* The same with memory that runs out at each point in turn. */
static int allowed;

static void *failing_malloc(size_t size)
{
	return allowed-- > 0 ? malloc(size) : NULL;
}

static void test_out_of_memory_leaves_nothing(void **state)
{
	cJSON_Hooks hooks = {failing_malloc, free};
	struct l7mp_model *m = with_listener();
	cJSON *doc =
	        mx_json("{'name':'n','spec':{'protocol':'UDP','port':1},'rules':[{'match':{'op':"
	                "'defined','path':'/x'},'action':{'rewrite':[{'path':'/a','value':[1,2]}],"
	                "'route':{'destination':{'spec':{'protocol':'UDP','port':1},'endpoints':"
	                "[{'spec':{'address':'::1'}}]},'ingress':['l',{'spec':{'protocol':'Echo'}}"
	                "]}}}],'options':{'track':1}}");
	char *before = mx_dump(m);
	int rc = -1, failed = 0;

	(void)state;
	for (int n = 0; rc; n++) {
		struct l7mp_change *c = change(m);
		struct l7mp_error err = {0};
		char *now;

		allowed = n;
		cJSON_InitHooks(&hooks);
		rc = l7mp_change_add(c, L, doc, "listener", &err);
		cJSON_InitHooks(NULL);
		l7mp_change_free(&c);
		if (rc)
			assert_int_equal(err.code, L7MP_ERR_INTERNAL);
		failed += rc != 0;
		now = mx_dump(m);
		assert_string_equal(before, now);
		free(now);
	}
	assert_true(failed > 10);
	free(before);
	cJSON_Delete(doc);
	l7mp_model_free(&m);
}

static void test_bad_documents(void **state)
{
	struct {
		enum l7mp_obj_kind kind;
		const char *text, *path;
	} bad[] = {
	        {C, "{'name':'x'}", "cluster.spec"},
	        {C, "{'spec':{'protocol':'Echo'}}", "cluster.name"},
	        {C, "{'name':'a b','spec':{'protocol':'Echo'}}", "cluster.name"},
	        {C, "{'name':'x','spec':{'protocol':'nope'}}", "cluster.spec.protocol"},
	        {C, "{'name':'x','spec':{'protocol':'Echo'},'endpoints':[{'spec':{}}]}",
	         "cluster.endpoints"},
	        {C, "{'name':'x','spec':{'protocol':'UDP','port':1},'endpoints':[{'spec':{}}]}",
	         "cluster.endpoints[0].spec.address"},
	        {L, "{'name':'x','spec':{'protocol':'UDP','port':99999},'rules':[]}",
	         "listener.spec.port"},
	        {L, "{'spec':{'protocol':'UDP','port':1},'rules':[]}", "listener.name"},
	        {RULE, "{'name':'x','match':{'op':'nope'},'action':{}}", "rule.match.op"},
	        {RULE, "{'action':{}}", "rule.name"},
	        {ROUTE, "{'name':'x'}", "route.destination"},
	        {LIST, "7", "rulelist"},
	};
	struct l7mp_model *m = mx_model();
	struct l7mp_error err;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(mx_apply(m, MX_ADD, bad[i].kind, NULL, 0, bad[i].text, &err, NULL),
		                 -EINVAL);
		assert_int_equal(err.code, L7MP_ERR_SCHEMA);
		assert_string_equal(err.path, bad[i].path);
	}
	/* One name twice in one document: both places are named. */
	assert_int_equal(
	        mx_apply(m, MX_ADD, ROUTE, NULL, 0,
	                 "{'name':'r','destination':{'name':'d','spec':{'protocol':'Echo'}},"
	                 "'ingress':[{'name':'d','spec':{'protocol':'Logger'}}]}",
	                 &err, NULL),
	        -EINVAL);
	assert_int_equal(err.code, L7MP_ERR_SCHEMA);
	assert_string_equal(err.path, "route.ingress[0].name");
	assert_string_equal(err.message,
	                    "the cluster name \"d\" is given twice, also to route.destination");
	assert_int_equal(mx_apply(m, MX_ADD, E, NULL, 0, "{'spec':{}}", &err, NULL), -EINVAL);
	l7mp_model_free(&m);
}

static void test_delete(void **state)
{
	struct l7mp_model *m = with_listener();
	struct l7mp_change *c;
	struct l7mp_error err;

	(void)state;
	c = change(m);
	assert_int_equal(l7mp_change_delete(c, L, "nope", true, &err), -ENOENT);
	assert_int_equal(err.code, L7MP_ERR_NOT_FOUND);
	assert_string_equal(err.message, "there is no listener \"nope\"");
	l7mp_change_free(&c);

	/* What is shared or named by reference only stays. */
	expect_delete(m, L, "l", true,
	              "-listener:l! -rulelist:l-RuleList-0! -rule:l-RuleList-0-Rule-0! "
	              "-rule:l-RuleList-0-Rule-1! -route:l-RuleList-0-Rule-0-Route-0! "
	              "-route:l-RuleList-0-Rule-1-Route-1! -cluster:dest! "
	              "-cluster:l-RuleList-0-Rule-0-Route-0-ingress-Cluster-0! "
	              "-cluster:l-RuleList-0-Rule-1-Route-1-Cluster-1! -endpoint:dest-EndPoint-0!");
	assert_string_equal(mx_names(m, C), "shared");
	l7mp_model_free(&m);

	m = with_listener();
	expect_delete(m, L, "l", false, "-listener:l");
	expect_delete(m, LIST, "l-RuleList-0", false, "-rulelist:l-RuleList-0");
	assert_int_equal(l7mp_model_count(m, RULE), 2);
	expect_delete(m, C, "dest", false, "-cluster:dest -endpoint:dest-EndPoint-0");
	mx_assert_view(
	        m, ROUTE, "l-RuleList-0-Rule-0-Route-0", true,
	        "{'name':'l-RuleList-0-Rule-0-Route-0','destination':'dest:<STALE>','ingress':"
	        "[{'name':'shared','spec':{'protocol':'Logger','log_prefix':'s'},'endpoints':"
	        "[{'name':'shared','spec':{},'weight':1}],'loadbalancer':{'policy':'Trivial'},"
	        "'options':{}},{'name':'l-RuleList-0-Rule-0-Route-0-ingress-Cluster-0','spec':"
	        "{'protocol':'Logger'},'endpoints':[{'name':"
	        "'l-RuleList-0-Rule-0-Route-0-ingress-Cluster-0','spec':{},'weight':1}],"
	        "'loadbalancer':{'policy':'Trivial'},'options':{}}],'egress':[],'retry':"
	        "{'retry_on':'never','num_retries':1,'timeout':2000}}");
	l7mp_model_free(&m);
}

static void test_delete_takes_only_its_own(void **state)
{
	struct l7mp_model *m = with_listener();

	(void)state;
	assert_int_equal(mx_add(m, L,
	                        "{'name':'guest','spec':{'protocol':'UDP','port':3},"
	                        "'rules':'l-RuleList-0'}"),
	                 0);
	expect_delete(m, L, "guest", true, "-listener:guest!");
	assert_int_equal(l7mp_model_count(m, RULE), 2);
	l7mp_model_free(&m);
}

static void test_replace_keeps_what_is_equal(void **state)
{
	struct l7mp_model *m = with_listener();
	static const char same[] =
	        "{'rules':[{'action':{'route':{'destination':{'spec':{'protocol':'Echo'}}}}},"
	        "{'match':{'path':'/IP','op':'defined'},'action':{'route':{'destination':{'name':"
	        "'dest','endpoints':[{'spec':{'address':'::1'}}],'spec':{'protocol':'UDP','port':2}"
	        "},'ingress':['shared',{'spec':{'protocol':'Logger'}}]}}}],'spec':{'port':%d,"
	        "'protocol':'UDP'}}";
	char text[1024];

	(void)state;
	/* The rules changed places: a new version of the list, the rest as it was. */
	snprintf(text, sizeof(text), same, 1);
	expect_replace(m, L, "l", text, "~rulelist:l-RuleList-0");
	mx_assert_view(
	        m, LIST, "l-RuleList-0", false,
	        "{'name':'l-RuleList-0','rules':['l-RuleList-0-Rule-1','l-RuleList-0-Rule-0']}");
	expect_replace(m, L, "l", text, "");
	snprintf(text, sizeof(text), same, 7);
	expect_replace(m, L, "l", text, "~listener:l");
	l7mp_model_free(&m);
}

static void test_replace_drops_what_is_unused(void **state)
{
	struct l7mp_model *m = with_listener();

	(void)state;
	/* A rule less, and a route that is another in the same place. */
	expect_replace(
	        m, L, "l",
	        "{'name':'l','spec':{'protocol':'UDP','port':1},'rules':[{'match':{'op':'defined',"
	        "'path':'/IP'},'action':{'route':{'destination':'shared','ingress':['shared']}}}]}",
	        "~route:l-RuleList-0-Rule-0-Route-0 ~rulelist:l-RuleList-0 "
	        "-rule:l-RuleList-0-Rule-1 -route:l-RuleList-0-Rule-1-Route-1 "
	        "-cluster:l-RuleList-0-Rule-1-Route-1-Cluster-1 -cluster:dest "
	        "-cluster:l-RuleList-0-Rule-0-Route-0-ingress-Cluster-0 -endpoint:dest-EndPoint-0");
	expect_replace(m, L, "l",
	               "{'name':'l','spec':{'protocol':'UDP','port':1},'rules':'elsewhere'}",
	               "~listener:l -rulelist:l-RuleList-0 -rule:l-RuleList-0-Rule-0 "
	               "-route:l-RuleList-0-Rule-0-Route-0");
	assert_string_equal(mx_names(m, C), "shared");
	l7mp_model_free(&m);
}

static void test_replace_refuses(void **state)
{
	struct l7mp_model *m = with_listener();
	struct l7mp_error err;

	(void)state;
	assert_int_equal(
	        mx_apply(m, MX_REPLACE, C, "gone", 0, "{'spec':{'protocol':'Echo'}}", &err, NULL),
	        -ENOENT);
	assert_int_equal(mx_apply(m, MX_REPLACE, C, "shared", 0,
	                          "{'name':'other','spec':{'protocol':'Echo'}}", &err, NULL),
	                 -EINVAL);
	assert_string_equal(err.path, "cluster.name");
	/* An inline object may not replace one that was never this listener's. */
	assert_int_equal(
	        mx_apply(m, MX_REPLACE, L, "l", 0,
	                 "{'spec':{'protocol':'UDP','port':1},'rules':[{'action':{'route':"
	                 "{'destination':{'name':'shared','spec':{'protocol':'Echo'}}}}}]}",
	                 &err, NULL),
	        -EEXIST);
	assert_int_equal(err.code, L7MP_ERR_EXISTS);
	l7mp_model_free(&m);
}

static void test_inline_object_moves_to_another_owner(void **state)
{
	struct l7mp_model *m = with_listener();

	(void)state;
	/* `dest` was inline in the first rule's route and now is in the second's. */
	assert_int_equal(
	        mx_replace(m, L, "l",
	                   "{'spec':{'protocol':'UDP','port':1},'rules':[{'action':{'route':"
	                   "{'destination':{'name':'dest','spec':{'protocol':'UDP','port':2},"
	                   "'endpoints':[{'spec':{'address':'::1'}}]}}}}]}"),
	        0);
	assert_non_null(l7mp_model_find(m, C, "dest"));
	assert_string_equal(mx_names(m, C), "shared dest");
	assert_string_equal(mx_names(m, E), "dest-EndPoint-0");
	assert_int_equal(mx_delete(m, L, "l", true), 0);
	assert_string_equal(mx_names(m, C), "shared");
	assert_int_equal(l7mp_model_count(m, E), 0);
	l7mp_model_free(&m);
}

static void test_endpoints(void **state)
{
	struct l7mp_model *m = mx_model();
	struct l7mp_cluster *first;
	struct l7mp_error err;
	int n;

	(void)state;
	assert_int_equal(mx_add(m, C, "{'name':'c','spec':{'protocol':'UDP','port':1}}"), 0);
	assert_int_equal(mx_add(m, C, "{'name':'v','spec':{'protocol':'Echo'}}"), 0);
	first = l7mp_object_ref(l7mp_model_find(m, C, "c"));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(mx_apply(m, MX_ADD_ENDPOINT, E, "c", 0,
		                          "{'spec':{'address':'10.0.0.1'},'weight':2}", &err, &n),
		                 0);
		assert_int_equal(n, 2);
	}
	assert_int_equal(first->n_endpoints, 0); /* what sessions hold does not change */
	l7mp_object_unref(first);
	assert_string_equal(mx_names(m, E), "c-EndPoint-0 c-EndPoint-1 c-EndPoint-2");
	expect_replace(m, E, "c-EndPoint-1", "{'spec':{'address':'10.0.0.9'}}",
	               "~endpoint:c-EndPoint-1 ~cluster:c");
	expect_replace(m, E, "c-EndPoint-1", "{'spec':{'address':'10.0.0.9'}}", "");
	expect_delete(m, E, "c-EndPoint-0", true, "~cluster:c -endpoint:c-EndPoint-0!");
	expect_delete(m, E, "c-EndPoint-2", false, "~cluster:c -endpoint:c-EndPoint-2");
	mx_assert_view(m, C, "c", true,
	               "{'name':'c','spec':{'protocol':'UDP','port':1},'endpoints':[{'name':"
	               "'c-EndPoint-1','spec':{'address':'10.0.0.9'},'weight':1}],'loadbalancer':"
	               "{'policy':'Trivial'},'options':{}}");
	assert_int_equal(mx_apply(m, MX_ADD_ENDPOINT, E, "nope", 0, "{}", &err, NULL), -ENOENT);
	assert_int_equal(mx_apply(m, MX_ADD_ENDPOINT, E, "v", 0, "{'spec':{}}", &err, NULL),
	                 -EINVAL);
	assert_int_equal(mx_apply(m, MX_ADD_ENDPOINT, E, "c", 0, "{'spec':{}}", &err, NULL),
	                 -EINVAL);
	assert_string_equal(err.path, "endpoint.spec.address");
	assert_int_equal(mx_apply(m, MX_ADD_ENDPOINT, E, "c", 0,
	                          "{'name':'c-EndPoint-1','spec':{'address':'::1'}}", &err, NULL),
	                 -EEXIST);
	expect_delete(m, C, "c", false, "-cluster:c -endpoint:c-EndPoint-1");
	l7mp_model_free(&m);
}

static struct l7mp_health_state health_of(const struct l7mp_model *m, const char *name)
{
	const struct l7mp_endpoint *e = l7mp_model_find(m, E, name);
	struct l7mp_health_state h;

	l7mp_health_read(e->health, &h);
	return h;
}

/* A new version of an endpoint keeps its health as long as it has the same address. */
static void test_health(void **state)
{
	struct l7mp_model *m = mx_model();
	struct l7mp_endpoint *e;
	struct l7mp_health *old;
	char *config;

	(void)state;
	assert_int_equal(mx_add(m, C,
	                        "{'name':'c','spec':{'protocol':'UDP','port':1},'endpoints':["
	                        "{'name':'a','spec':{'address':'::1'}},"
	                        "{'name':'b','spec':{'address':'::2'}}]}"),
	                 0);
	e = l7mp_object_ref(l7mp_model_find(m, E, "a"));
	for (int i = 0; i < 3; i++)
		l7mp_health_begins(e->health);
	l7mp_health_failed(e->health, "x");
	l7mp_health_connected(e->health, true);
	assert_int_equal(health_of(m, "a").connects, 3);
	assert_int_equal(health_of(m, "b").connects, 0);
	/* Another weight, drop, load balancer or sibling. */
	assert_int_equal(mx_replace(m, E, "a", "{'spec':{'address':'::1'},'weight':0}"), 0);
	assert_int_equal(mx_replace(m, E, "a", "{'spec':{'address':'::1','weight':5}}"), 0);
	assert_int_equal(mx_delete(m, E, "b", false), 0);
	assert_int_equal(mx_replace(m, C, "c",
	                            "{'name':'c','spec':{'protocol':'UDP','port':1},'endpoints':["
	                            "{'name':'a','spec':{'address':'::1'},'drop':true}],"
	                            "'loadbalancer':{'policy':'Random'}}"),
	                 0);
	config = mx_dump(m);
	assert_null(strstr(config, "health"));
	assert_true(mx_config(m, config) >= 0);
	free(config);
	assert_ptr_not_equal(l7mp_model_find(m, E, "a"), e);
	assert_int_equal(health_of(m, "a").connects, 3);
	/* A connection of the old version is still counted. */
	assert_int_equal(health_of(m, "a").sessions, 1);
	l7mp_health_left(e->health, NULL);
	assert_int_equal(health_of(m, "a").sessions, 0);
	/* Another address, also by the cluster's spec, or another endpoint of the same name. */
	assert_int_equal(mx_replace(m, C, "c",
	                            "{'name':'c','spec':{'protocol':'UDP','port':2},'endpoints':["
	                            "{'name':'a','spec':{'address':'::1'},'drop':true}]}"),
	                 0);
	assert_int_equal(health_of(m, "a").connects, 0);
	old = ((struct l7mp_endpoint *)l7mp_model_find(m, E, "a"))->health;
	l7mp_health_begins(old);
	assert_int_equal(mx_replace(m, E, "a", "{'spec':{'address':'::3'}}"), 0);
	assert_int_equal(health_of(m, "a").connects, 0);
	l7mp_health_begins(((struct l7mp_endpoint *)l7mp_model_find(m, E, "a"))->health);
	assert_int_equal(mx_delete(m, E, "a", false), 0);
	assert_int_equal(mx_apply(m, MX_ADD_ENDPOINT, E, "c", 0,
	                          "{'name':'a','spec':{'address':'::3'}}", NULL, NULL),
	                 0);
	assert_int_equal(health_of(m, "a").connects, 0);
	l7mp_object_unref(e);
	l7mp_model_free(&m);
}

static void test_health_text(void **state)
{
	struct l7mp_health_state h;
	struct l7mp_health *health;
	char text[4 * L7MP_HEALTH_ERROR];

	(void)state;
	assert_int_equal(l7mp_health_new(&health), 0);
	/* The text is cut between characters, and is UTF-8. */
	for (int off = 0; off < 3; off++) {
		memset(text, 'x', sizeof(text));
		for (size_t i = (size_t)off; i + 3 < sizeof(text); i += 3)
			memcpy(text + i, "\xe2\x82\xac", 3);
		text[sizeof(text) - 1] = '\0';
		l7mp_health_failed(health, text);
		l7mp_health_read(health, &h);
		assert_in_range(strlen(h.error), L7MP_HEALTH_ERROR - 4, L7MP_HEALTH_ERROR - 1);
		assert_int_equal((strlen(h.error) - (size_t)off) % 3, 0);
	}
	l7mp_health_failed(health, "a\xff");
	l7mp_health_read(health, &h);
	assert_string_equal(h.error, "a\xef\xbf\xbd");
	l7mp_health_unref(health);
}

static void test_rules_of_a_list(void **state)
{
	struct l7mp_model *m = mx_model();
	struct l7mp_change *c;
	struct l7mp_error err;

	(void)state;
	assert_int_equal(mx_add(m, LIST, "{'name':'rl','rules':['a','b']}"), 0);
	assert_int_equal(mx_apply(m, MX_INSERT_RULE, RULE, "rl", 1, "'x'", &err, NULL), 0);
	assert_int_equal(mx_apply(m, MX_INSERT_RULE, RULE, "rl", 3,
	                          "{'action':{'route':{'destination':'d'}}}", &err, NULL),
	                 0);
	assert_int_equal(
	        mx_apply(m, MX_INSERT_RULE, RULE, "rl", 0, "{'name':'f','action':{}}", &err, NULL),
	        0);
	mx_assert_view(m, LIST, "rl", false, "{'name':'rl','rules':['f','a','x','b','rl-Rule-0']}");
	assert_int_equal(mx_apply(m, MX_INSERT_RULE, RULE, "rl", 6, "'y'", &err, NULL), -ENOENT);
	assert_string_equal(err.message, "rule list \"rl\" has 5 rules, there is no position 6");
	assert_int_equal(mx_apply(m, MX_INSERT_RULE, RULE, "gone", 0, "'y'", &err, NULL), -ENOENT);
	assert_int_equal(mx_apply(m, MX_INSERT_RULE, RULE, "rl", 0, "'a b'", &err, NULL), -EINVAL);
	assert_int_equal(
	        mx_apply(m, MX_INSERT_RULE, RULE, "rl", 0, "{'name':'f','action':{}}", &err, NULL),
	        -EEXIST);
	c = change(m);
	assert_int_equal(l7mp_change_remove_rule(c, "rl", 5, true, &err), -ENOENT);
	l7mp_change_free(&c);
	c = change(m);
	assert_int_equal(l7mp_change_remove_rule(c, "rl", 4, true, &err), 0);
	finish(c, "~rulelist:rl -rule:rl-Rule-0! -route:rl-Rule-0-Route-0!");
	c = change(m);
	assert_int_equal(l7mp_change_remove_rule(c, "rl", 0, false, &err), 0);
	finish(c, "~rulelist:rl");
	assert_string_equal(mx_names(m, RULE), "f");
	mx_assert_view(m, LIST, "rl", false, "{'name':'rl','rules':['a','x','b']}");
	l7mp_model_free(&m);
}

static void test_admin_at_run_time(void **state)
{
	struct l7mp_model *m = mx_model();
	struct l7mp_error err;
	int n;

	(void)state;
	assert_int_equal(mx_apply(m, MX_ADMIN, L, NULL, 0,
	                          "{'log_file':'/tmp/x','strict':true,'offload_ifs':'eth0, lo'}",
	                          &err, &n),
	                 0); /* the first one is what the program starts with */
	assert_string_equal(l7mp_model_admin(m)->log_file, "/tmp/x");
	assert_int_equal(l7mp_model_admin(m)->n_offload_ifs, 2);
	assert_int_equal(
	        mx_apply(m, MX_ADMIN, L, NULL, 0,
	                 "{'log_level':'warn','limits':{'max_flows':10},'offload':'disable',"
	                 "'offload_ifs':['a','b','c'],'log_file':'/tmp/x','version':'9'}",
	                 &err, &n),
	        0);
	assert_int_equal(n, 0);
	assert_int_equal(l7mp_model_admin(m)->log_level, L7MP_LOG_WARN);
	assert_int_equal(l7mp_model_admin(m)->limits.max_flows, 10);
	assert_int_equal(l7mp_model_admin(m)->limits.max_sessions, 100000);
	assert_int_equal(l7mp_model_admin(m)->offload, L7MP_OFFLOAD_DISABLE);
	assert_string_equal(l7mp_model_admin(m)->offload_ifs[2], "c");
	assert_int_equal(mx_apply(m, MX_ADMIN, L, NULL, 0,
	                          "{'log_level':'info','instance':'other'}", &err, NULL),
	                 -EINVAL);
	assert_int_equal(err.code, L7MP_ERR_REALISE);
	assert_string_equal(err.path, "admin.instance");
	assert_int_equal(l7mp_model_admin(m)->log_level, L7MP_LOG_WARN);
	assert_int_equal(mx_apply(m, MX_ADMIN, L, NULL, 0, "{'log_level':7}", &err, NULL), -EINVAL);
	assert_int_equal(err.code, L7MP_ERR_SCHEMA);
	l7mp_model_free(&m);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void add_many(struct l7mp_model *m, int from, int to)
{
	char text[512];

	for (int i = from; i < to; i++) {
		snprintf(text, sizeof(text),
		         "{'name':'c%d','spec':{'protocol':'UDP','port':1},'endpoints':[{'spec':"
		         "{'address':'::1'}}]}",
		         i);
		assert_int_equal(mx_add(m, C, text), 0);
		snprintf(text, sizeof(text),
		         "{'name':'l%d','spec':{'protocol':'UDP','port':0},'rules':[{'action':{'"
		         "route':"
		         "{'destination':'c%d'}}}]}",
		         i, i);
		assert_int_equal(mx_add(m, L, text), 0);
	}
}

static void test_cost_does_not_grow_with_the_model(void **state)
{
	struct l7mp_model *m = mx_model();
	double t0, first, last;
	char name[16];

	(void)state;
	t0 = seconds();
	add_many(m, 0, 500);
	first = seconds() - t0;
	add_many(m, 500, 9500);
	t0 = seconds();
	add_many(m, 9500, 10000);
	last = seconds() - t0;
	assert_int_equal(l7mp_model_count(m, ROUTE), 10000);
	/* Linear: with a scan of the model in each change it would be some 20 times. */
	if (last > 6 * first + 0.05)
		fail_msg("500 of the first: %.3f s, of the last: %.3f s", first, last);
	t0 = seconds();
	for (int i = 0; i < 10000; i++) {
		snprintf(name, sizeof(name), "l%d", i);
		assert_int_equal(mx_delete(m, L, name, true), 0);
		snprintf(name, sizeof(name), "c%d", i);
		assert_int_equal(mx_delete(m, C, name, true), 0);
	}
	last = seconds() - t0;
	if (last > 6 * 20 * first + 0.05)
		fail_msg("adding 500: %.3f s, deleting all: %.3f s", first, last);
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		assert_int_equal(l7mp_model_count(m, k), 0);
	l7mp_model_free(&m);
}

/* Placed, a change is not seen; flipped, it is, all of it; settled, nothing of the old is left. */
static void test_commit_in_parts(void **state)
{
	struct l7mp_model *m = mx_model();
	struct l7mp_change *c;
	cJSON *doc = mx_json("{'listeners':[],'routes':[{'name':'stays','destination':'new'},"
	                     "{'name':'comes','destination':'x'}]}");
	struct l7mp_object *old, *gone;
	struct l7mp_error err;
	size_t n;

	(void)state;
	assert_int_equal(mx_add(m, R, "{'name':'goes','destination':'x'}"), 0);
	assert_int_equal(mx_add(m, R, "{'name':'stays','destination':'old'}"), 0);
	old = l7mp_model_find(m, R, "stays");
	gone = l7mp_model_find(m, R, "goes");
	c = change(m);
	assert_int_equal(l7mp_change_config(c, doc, NULL, &err), 0);
	n = l7mp_change_count(c);
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++) {
		l7mp_change_place(c, i);
		assert_ptr_equal(l7mp_model_find(m, R, "stays"), old);
		assert_ptr_equal(l7mp_model_find(m, R, "goes"), gone);
		assert_null(l7mp_model_find(m, R, "comes"));
		assert_int_equal(l7mp_model_count(m, R), 2);
	}
	l7mp_change_flip(c);
	for (size_t i = 0; i <= n; i++) {
		const struct l7mp_route *r = l7mp_model_find(m, R, "stays");

		assert_string_equal(r->destination, "new");
		assert_null(l7mp_model_find(m, R, "goes"));
		assert_non_null(l7mp_model_find(m, R, "comes"));
		assert_int_equal(l7mp_model_count(m, R), 2);
		if (i < n)
			l7mp_change_settle(c, i);
	}
	l7mp_change_close(c);
	l7mp_change_free(&c);
	cJSON_Delete(doc);
	old = l7mp_model_first(m, R);
	assert_string_equal(old->name, "stays");
	assert_string_equal(l7mp_model_next(old)->name, "comes");
	assert_null(l7mp_model_next(l7mp_model_next(old)));
	l7mp_model_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_commit_in_parts),
	        cmocka_unit_test(test_add_lists_bottom_up),
	        cmocka_unit_test(test_failure_leaves_nothing),
	        cmocka_unit_test(test_out_of_memory_leaves_nothing),
	        cmocka_unit_test(test_bad_documents),
	        cmocka_unit_test(test_delete),
	        cmocka_unit_test(test_delete_takes_only_its_own),
	        cmocka_unit_test(test_replace_keeps_what_is_equal),
	        cmocka_unit_test(test_replace_drops_what_is_unused),
	        cmocka_unit_test(test_replace_refuses),
	        cmocka_unit_test(test_inline_object_moves_to_another_owner),
	        cmocka_unit_test(test_endpoints),
	        cmocka_unit_test(test_health),
	        cmocka_unit_test(test_health_text),
	        cmocka_unit_test(test_rules_of_a_list),
	        cmocka_unit_test(test_admin_at_run_time),
	        cmocka_unit_test(test_cost_does_not_grow_with_the_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
