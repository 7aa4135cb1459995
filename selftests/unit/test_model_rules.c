/* SPDX-License-Identifier: MIT */
/* Rule look-up: order, rewriting, apply, and what may be missing or endless. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/util.h"
#include "model_fixture.h"

static struct l7mp_model *model;

static int setup(void **state)
{
	(void)state;
	model = mx_model();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	l7mp_model_free(&model);
	return 0;
}

static void config(const char *text)
{
	assert_true(mx_config(model, text) >= 0);
}

/* Looks up in list "main"; the result, the metadata afterwards in *meta (a new tree). */
static int look(const char *metadata, struct l7mp_lookup *out, cJSON **meta, struct l7mp_error *err)
{
	cJSON *m = mx_json(metadata);
	struct l7mp_effort effort = L7MP_EFFORT;
	int rc = l7mp_rules_lookup(model, "main", m, &effort, out, err);

	if (meta)
		*meta = m;
	else
		cJSON_Delete(m);
	return rc;
}

static void expect(const char *metadata, const char *rulelist, const char *rule, const char *route)
{
	struct l7mp_lookup l;
	struct l7mp_error err = {0};
	int rc = look(metadata, &l, NULL, &err);

	if (rc)
		fail_msg("%s: %d %s", metadata, rc, err.message);
	assert_string_equal(l.rulelist->obj.name, rulelist);
	assert_string_equal(l.rule->obj.name, rule);
	if (route)
		assert_string_equal(l.route->obj.name, route);
	else
		assert_null(l.route);
	l7mp_lookup_clear(&l);
	assert_null(l.rule);
}

static void expect_fail(const char *metadata, int rc, const char *text)
{
	struct l7mp_lookup l;
	struct l7mp_error err = {0};

	assert_int_equal(look(metadata, &l, NULL, &err), rc);
	assert_null(l.rulelist);
	assert_null(l.rule);
	assert_null(l.route);
	if (!strstr(err.message, text))
		fail_msg("\"%s\" lacks \"%s\"", err.message, text);
	l7mp_lookup_clear(&l);
}

static void test_first_match(void **state)
{
	(void)state;
	config("{'routes':[{'name':'a','destination':'x'},{'name':'b','destination':'y'}],"
	       "'rulelists':[{'name':'main','rules':["
	       "{'name':'r1','match':{'op':'test','path':'/p','value':1},'action':{'route':'a'}},"
	       "{'name':'r2','match':{'op':'less','path':'/p','value':10},'action':{'route':'b'}},"
	       "{'name':'r3','match':{'op':'test','path':'/p','value':20},'action':{}}]}]}");
	expect("{'p':1}", "main", "r1", "a");
	expect("{'p':2}", "main", "r2", "b");
	expect("{'p':20}", "main", "r3", NULL);
	expect_fail("{'p':99}", -ENOENT, "no rule of \"main\" matches");
	expect_fail("{}", -ENOENT, "main");
}

/* A pattern that is cut off never counts as one that does not match. */
static void test_effort(void **state)
{
	char *metadata, *subject = malloc(5001);

	(void)state;
	memset(subject, 'a', 5000);
	subject[5000] = '\0';
	metadata = l7mp_asprintf("{'s':'%s!'}", subject);
	config("{'routes':[{'name':'a','destination':'x'}],'rulelists':[{'name':'main','rules':["
	       "{'name':'not','match':{'op':'not','apply':[{'op':'matches','path':'/s','value':"
	       "'^(a|aa)+$'}]},'action':{'route':'a'}},"
	       "{'name':'all','action':{'route':'a'}}]}]}");
	expect("{'s':'b'}", "main", "not", "a");
	expect("{'s':'aaaa'}", "main", "all", "a");
	expect_fail(metadata, -E2BIG, "\"not\" matches takes more effort");
	free(metadata);
	free(subject);
}

/* Two lists that apply each other's rules again and again. */
static void test_too_many_tries(void **state)
{
	struct l7mp_str text = {0};

	(void)state;
	l7mp_str_add(&text, "{'rulelists':[{'name':'main','rules':[");
	for (int i = 0; i < 200; i++)
		l7mp_str_addf(&text, "{'name':'m%d','action':{'apply':'other'}},", i);
	l7mp_str_add(&text,
	             "{'name':'last','action':{'apply':'other'}}]},{'name':'other','rules':[");
	for (int i = 0; i < 200; i++)
		l7mp_str_addf(&text,
		              "{'name':'o%d','match':{'op':'defined','path':'/none'},"
		              "'action':{}},",
		              i);
	l7mp_str_add(&text,
	             "{'name':'end','match':{'op':'defined','path':'/none'},'action':{}}]}]}");
	config(text.s);
	expect_fail("{}", -E2BIG, "rules were tried more than 20402 times");
	l7mp_str_free(&text);
}

static void test_rewrite(void **state)
{
	struct l7mp_lookup l;
	struct l7mp_error err = {0};
	cJSON *meta, *want;

	(void)state;
	config("{'routes':[{'name':'a','destination':'x'}],'rulelists':[{'name':'main','rules':["
	       "{'name':'no','match':{'op':'defined','path':'/"
	       "none'},'action':{'rewrite':[{'path':'/bad',"
	       "'value':1}],'route':'a'}},"
	       "{'name':'r','action':{'rewrite':[{'path':'HTTP/headers','value':{'id':1}},"
	       "{'path':'/a','value':'new'},{'path':'/HTTP/headers/x','value':[1,2]},"
	       "{'path':'/gone','value':null}],'route':'a'}}]}]}");
	assert_int_equal(look("{'a':'old'}", &l, &meta, &err), 0);
	want = mx_json("{'a':'new','HTTP':{'headers':{'id':1,'x':[1,2]}},'gone':null}");
	assert_true(l7mp_json_equal(meta, want));
	l7mp_lookup_clear(&l);
	cJSON_Delete(meta);
	/* The rule's own values are not touched by what is done to the metadata. */
	assert_int_equal(look("{'a':'old'}", &l, &meta, &err), 0);
	assert_true(l7mp_json_equal(meta, want));
	l7mp_lookup_clear(&l);
	cJSON_Delete(meta);
	cJSON_Delete(want);
	expect_fail("{'a':1,'HTTP':5}", -EINVAL, "rule \"r\" can't rewrite \"HTTP/headers\"");
}

static void test_apply(void **state)
{
	(void)state;
	config("{'routes':[{'name':'a','destination':'x'},{'name':'b','destination':'y'},"
	       "{'name':'c','destination':'z'}],'rulelists':[{'name':'main','rules':["
	       "{'name':'go','action':{'apply':'sub','rewrite':[{'path':'/seen','value':true}]}},"
	       "{'name':'own','match':{'op':'test','path':'/p','value':3},'action':{'apply':'sub',"
	       "'route':'c'}},"
	       "{'name':'after','match':{'op':'test','path':'/"
	       "seen','value':true},'action':{'route':'b'}}]},"
	       "{'name':'sub','rules':[{'name':'in','match':{'op':'test','path':'/p','value':1},"
	       "'action':{'route':'a'}}]}]}");
	expect("{'p':1}", "sub", "in", "a");
	/* Nothing matches there: on with the rule after it, what was rewritten stays. */
	expect("{'p':2}", "main", "after", "b");
	/* Its own route, when the applied list has none. */
	expect("{'p':3}", "main", "own", "c");
}

static void test_stale(void **state)
{
	(void)state;
	config("{'routes':[{'name':'a','destination':'x'}],'rulelists':[{'name':'main','rules':["
	       "'gone',"
	       "{'name':'r1','match':{'op':'test','path':'/"
	       "p','value':1},'action':{'route':'nowhere'}},"
	       "{'name':'r2','match':{'op':'test','path':'/"
	       "p','value':2},'action':{'apply':'nolist'}},"
	       "{'name':'r3','action':{'route':'a'}}]}]}");
	expect("{}", "main", "r3", "a");
	expect_fail("{'p':1}", -ESRCH,
	            "rule \"r1\" names the route \"nowhere\", which does not exist");
	expect_fail("{'p':2}", -ESRCH,
	            "rule \"r2\" applies the rule list \"nolist\", which does not exist");
	assert_int_equal(mx_delete(model, L7MP_OBJ_RULELIST, "main", false), 0);
	expect_fail("{}", -ESRCH, "rule list \"main\" does not exist");
}

static void test_loop(void **state)
{
	(void)state;
	config("{'rulelists':[{'name':'main','rules':[{'name':'a','action':{'apply':'other'}}]},"
	       "{'name':'other','rules':[{'name':'b','action':{'apply':'main'}}]}]}");
	expect_fail("{}", -ELOOP, "apply each other");
}

/* Each list applies the next one twice: 2^30 walks without a bound. */
static void test_breadth(void **state)
{
	struct l7mp_str text = {0};

	(void)state;
	l7mp_str_add(&text, "{'rulelists':[{'name':'main','rules':[{'action':{'apply':'l0'}}]}");
	for (int i = 0; i < 30; i++)
		l7mp_str_addf(&text,
		              ",{'name':'l%d','rules':[{'action':{'apply':'l%d'}},{'action':{'"
		              "apply':'l%d'}}]}",
		              i, i + 1, i + 1);
	l7mp_str_add(&text, ",{'name':'l30','rules':[]}]}");
	config(text.s);
	l7mp_str_free(&text);
	expect_fail("{}", -ELOOP, "rule lists were applied");
}

static void test_depth(void **state)
{
	struct l7mp_str text = {0};

	(void)state;
	l7mp_str_add(&text, "{'rulelists':[{'name':'main','rules':[{'action':{'apply':'l0'}}]}");
	for (int i = 0; i < L7MP_APPLY_DEPTH - 1; i++)
		l7mp_str_addf(&text, ",{'name':'l%d','rules':[{'action':{'apply':'l%d'}}]}", i,
		              i + 1);
	l7mp_str_addf(&text, ",{'name':'l%d','rules':[{'name':'last','action':{}}]}]}",
	              L7MP_APPLY_DEPTH - 1);
	config(text.s);
	l7mp_str_free(&text);
	expect("{}", "l31", "last", NULL);
}

static void test_references_outlive(void **state)
{
	struct l7mp_lookup l;
	struct l7mp_error err = {0};

	(void)state;
	config("{'routes':[{'name':'a','destination':'x'}],'rulelists':[{'name':'main','rules':["
	       "{'name':'r','action':{'route':'a'}}]}]}");
	assert_int_equal(look("{}", &l, NULL, &err), 0);
	config("{}");
	assert_int_equal(l7mp_model_count(model, L7MP_OBJ_ROUTE), 0);
	assert_string_equal(l.route->destination, "x");
	assert_string_equal(l.rule->obj.name, "r");
	l7mp_lookup_clear(&l);
	l7mp_lookup_clear(&l); /* idempotent */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_first_match, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_effort, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_too_many_tries, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_rewrite, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_apply, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_stale, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_loop, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_breadth, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_depth, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_references_outlive, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
