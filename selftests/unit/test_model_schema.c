/* SPDX-License-Identifier: MIT */
/*
 * Schema tables. Besides the examples, every key of every table that can be
 * reached from the config is tried with a wrong type, a value out of range, as unknown and missing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake_protocols.h"
#include "l7mp/model.h"
#include "l7mp/util.h"

/* ---- helpers ---- */

static cJSON *json(const char *text)
{
	cJSON *node = cJSON_Parse(text);

	if (!node)
		fail_msg("bad test document: %s", text);
	return node;
}

static struct l7mp_issues check_node(const struct l7mp_schema *table, const cJSON *node,
                                     bool strict)
{
	struct l7mp_issues is;

	l7mp_issues_init(&is, strict);
	l7mp_schema_check(table, &fake_registry, node, "", &is);
	return is;
}

static bool has_error(const struct l7mp_issues *is, const char *path)
{
	for (size_t i = 0; i < is->n; i++)
		if (!is->v[i].warning && strcmp(is->v[i].path, path) == 0)
			return true;
	return false;
}

static void show(const struct l7mp_issues *is)
{
	for (size_t i = 0; i < is->n; i++)
		print_message("  %s%s: %s\n", is->v[i].warning ? "warning: " : "", is->v[i].path,
		              is->v[i].reason);
}

static void expect_ok(const struct l7mp_schema *table, const char *text)
{
	cJSON *node = json(text);
	struct l7mp_issues is = check_node(table, node, true);

	if (is.n) {
		show(&is);
		fail_msg("refused: %s", text);
	}
	l7mp_issues_clear(&is);
	cJSON_Delete(node);
}

/* Exactly one error, with this path and this reason. */
static void expect_error(const struct l7mp_schema *table, const char *text, const char *path,
                         const char *reason)
{
	cJSON *node = json(text);
	struct l7mp_issues is = check_node(table, node, false);

	if (is.errors != 1 || is.n != 1 || strcmp(is.v[0].path, path) != 0 ||
	    strcmp(is.v[0].reason, reason) != 0) {
		show(&is);
		fail_msg("%s: expected the error \"%s: %s\"", text, path, reason);
	}
	assert_non_null(is.v[0].node);
	l7mp_issues_clear(&is);
	cJSON_Delete(node);
}

/* ---- valid and invalid values from the table itself ---- */

static cJSON *sample(const struct l7mp_field *f);

static cJSON *sample_table(const struct l7mp_schema *table)
{
	cJSON *o = cJSON_CreateObject();

	for (const struct l7mp_field *f = table->fields; f && f->key; f++)
		if (f->flags & L7MP_F_REQUIRED)
			l7mp_json_add(o, f->key, sample(f));
	if (table == &l7mp_schema_route)
		l7mp_json_add_str(o, "destination", "there");
	return o;
}

static const char *sample_text(enum l7mp_schema_pattern p)
{
	switch (p) {
	case L7MP_P_ADDRESS:
	case L7MP_P_HOST:
		return "127.0.0.1";
	case L7MP_P_POINTER:
		return "/a/b";
	case L7MP_P_MAC:
		return "00:11:22:33:44:55";
	case L7MP_P_URLPATH:
		return "/x";
	default:
		return "name";
	}
}

static cJSON *sample(const struct l7mp_field *f)
{
	switch (f->type) {
	case L7MP_T_BOOL:
		return cJSON_CreateTrue();
	case L7MP_T_INT:
	case L7MP_T_NUMBER:
		return cJSON_CreateNumber(f->min);
	case L7MP_T_STRING:
		return cJSON_CreateString(sample_text(f->pattern));
	case L7MP_T_ENUM:
		return cJSON_CreateString(f->values[0]);
	case L7MP_T_OBJECT:
		return f->sub ? sample_table(f->sub) : cJSON_CreateObject();
	case L7MP_T_MAP:
		return cJSON_CreateObject();
	case L7MP_T_ARRAY:
		return cJSON_CreateArray();
	case L7MP_T_ONEOF:
		return sample(f->alternatives[0]);
	case L7MP_T_REF:
		return cJSON_CreateString("name");
	case L7MP_T_PROTOCOL_SPEC:
		if (f->min == L7MP_ROLE_LISTENER)
			return json("{\"protocol\":\"UDP\",\"port\":1}");
		if (f->min == L7MP_ROLE_CLUSTER)
			return json("{\"protocol\":\"Echo\"}");
		return json("{\"address\":\"127.0.0.1\"}");
	case L7MP_T_ANY:
		return cJSON_CreateNumber(1);
	}
	return NULL;
}

/* One JSON value of each type; those the field doesn't take are wrong. */
static bool takes(const struct l7mp_field *f, const cJSON *v)
{
	switch (f->type) {
	case L7MP_T_BOOL:
		return cJSON_IsBool(v);
	case L7MP_T_INT:
	case L7MP_T_NUMBER:
		return cJSON_IsNumber(v);
	case L7MP_T_STRING:
	case L7MP_T_ENUM:
		return cJSON_IsString(v);
	case L7MP_T_ARRAY:
		return cJSON_IsArray(v) || (cJSON_IsNull(v) && !(f->flags & L7MP_F_REQUIRED));
	case L7MP_T_OBJECT:
	case L7MP_T_MAP:
		return cJSON_IsObject(v) || (cJSON_IsNull(v) && !(f->flags & L7MP_F_REQUIRED));
	case L7MP_T_PROTOCOL_SPEC:
		return cJSON_IsObject(v);
	case L7MP_T_REF:
		return cJSON_IsObject(v) || cJSON_IsString(v);
	case L7MP_T_ONEOF:
		if (cJSON_IsNull(v) && !(f->flags & L7MP_F_REQUIRED))
			return true;
		for (const struct l7mp_field *const *a = f->alternatives; *a; a++)
			if (takes(*a, v))
				return true;
		return false;
	case L7MP_T_ANY:
		return true;
	}
	return true;
}

static unsigned tried;

static void try_bad(const struct l7mp_schema *table, const struct l7mp_field *f, cJSON *bad)
{
	cJSON *o = sample_table(table);
	struct l7mp_issues is;

	cJSON_DeleteItemFromObjectCaseSensitive(o, f->key);
	l7mp_json_add(o, f->key, bad);
	is = check_node(table, o, false);
	if (!has_error(&is, f->key)) {
		char *text = cJSON_PrintUnformatted(o);

		show(&is);
		fail_msg("%s.%s accepts %s", table->name, f->key, text);
	}
	l7mp_issues_clear(&is);
	cJSON_Delete(o);
	tried++;
}

static void try_types(const struct l7mp_schema *table, const struct l7mp_field *f)
{
	static const char *const values[] = {"null", "true", "1", "\"x\"", "[]", "{}"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(values); i++) {
		cJSON *v = json(values[i]);

		if (takes(f, v))
			cJSON_Delete(v);
		else
			try_bad(table, f, v);
	}
}

static void try_ranges(const struct l7mp_schema *table, const struct l7mp_field *f)
{
	char *longer;

	switch (f->type) {
	case L7MP_T_INT:
		try_bad(table, f, cJSON_CreateNumber(f->min + 0.5));
		/* fall through */
	case L7MP_T_NUMBER:
		try_bad(table, f, cJSON_CreateNumber(f->min - 1));
		try_bad(table, f, cJSON_CreateNumber(f->max + 1));
		break;
	case L7MP_T_ENUM:
		try_bad(table, f, cJSON_CreateString("no such value"));
		break;
	case L7MP_T_STRING:
		if (f->pattern == L7MP_P_NAME)
			try_bad(table, f, cJSON_CreateString("two words"));
		if (f->pattern == L7MP_P_NAME || f->pattern == L7MP_P_PATH)
			try_bad(table, f, cJSON_CreateString(""));
		if (f->pattern == L7MP_P_POINTER)
			try_bad(table, f, cJSON_CreateString("/a~2"));
		if (f->max > 0) {
			longer = calloc(1, (size_t)f->max + 2);
			memset(longer, 'x', (size_t)f->max + 1);
			try_bad(table, f, cJSON_CreateString(longer));
			free(longer);
		}
		break;
	case L7MP_T_REF:
		try_bad(table, f, cJSON_CreateString("two words"));
		break;
	default:
		break;
	}
}

static void try_missing(const struct l7mp_schema *table, const struct l7mp_field *f)
{
	cJSON *o = sample_table(table);
	struct l7mp_issues is;

	if (f->flags & L7MP_F_REQUIRED) {
		cJSON_DeleteItemFromObjectCaseSensitive(o, f->key);
		is = check_node(table, o, false);
		if (!has_error(&is, f->key))
			fail_msg("%s without %s is accepted", table->name, f->key);
		l7mp_issues_clear(&is);
		tried++;
	}
	cJSON_Delete(o);
}

static void try_unknown(const struct l7mp_schema *table)
{
	cJSON *o = sample_table(table);
	struct l7mp_issues is = check_node(table, o, true);

	if (is.n) {
		show(&is);
		fail_msg("the sample of %s is refused", table->name);
	}
	l7mp_issues_clear(&is);
	l7mp_json_add_num(o, "no_such_key", 1);
	is = check_node(table, o, true);
	assert_true(has_error(&is, "no_such_key"));
	l7mp_issues_clear(&is);
	is = check_node(table, o, false);
	assert_int_equal(is.errors, 0);
	assert_int_equal(is.n, 1);
	assert_true(is.v[0].warning);
	assert_string_equal(is.v[0].path, "no_such_key");
	l7mp_issues_clear(&is);
	cJSON_Delete(o);
	tried += 2;
}

static const struct l7mp_schema *seen[64];
static size_t n_seen;

static void try_table(const struct l7mp_schema *table);

static void try_below(const struct l7mp_field *f)
{
	if (f->sub)
		try_table(f->sub);
	if (f->item)
		try_below(f->item);
	for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++)
		try_below(*a);
}

static void try_table(const struct l7mp_schema *table)
{
	for (size_t i = 0; i < n_seen; i++)
		if (seen[i] == table)
			return;
	assert_true(n_seen < L7MP_ARRAY_SIZE(seen));
	seen[n_seen++] = table;
	assert_non_null(table->name);
	assert_non_null(table->doc);
	try_unknown(table);
	for (const struct l7mp_field *f = table->fields; f && f->key; f++) {
		if (!f->doc)
			fail_msg("%s.%s has no doc", table->name, f->key);
		try_below(f);
		if (f->flags & L7MP_F_READONLY)
			continue;
		try_types(table, f);
		try_ranges(table, f);
		try_missing(table, f);
	}
}

static void test_every_key(void **state)
{
	(void)state;
	try_table(&l7mp_schema_config);
	/* All objects and what is inside of them were reached. */
	assert_true(n_seen >= 14);
	assert_true(tried > 300);
	for (int k = 0; k < L7MP_OBJ_KINDS; k++) {
		bool found = false;

		for (size_t i = 0; i < n_seen; i++)
			found |= seen[i] == l7mp_schema_of_kind((enum l7mp_obj_kind)k);
		assert_true(found);
	}
}

static void test_defaults(void **state)
{
	(void)state;
	for (size_t i = 0; i < n_seen; i++)
		for (const struct l7mp_field *f = seen[i]->fields; f && f->key; f++) {
			cJSON *v = l7mp_schema_default(seen[i], f->key), *o;
			struct l7mp_issues is;

			assert_int_equal(!!v, !!f->def);
			if (!v)
				continue;
			/* A default passes its own check. */
			o = sample_table(seen[i]);
			cJSON_DeleteItemFromObjectCaseSensitive(o, f->key);
			l7mp_json_add(o, f->key, v);
			is = check_node(seen[i], o, true);
			if (is.n)
				show(&is);
			assert_int_equal(is.n, 0);
			l7mp_issues_clear(&is);
			cJSON_Delete(o);
		}
	assert_null(l7mp_schema_default(&l7mp_schema_admin, "no_such_key"));
}

/* ---- messages ---- */

static void test_messages(void **state)
{
	(void)state;
	expect_error(&l7mp_schema_config,
	             "{\"listeners\":[{\"name\":\"l\",\"rules\":\"r\","
	             "\"spec\":{\"protocol\":\"UDP\",\"port\":99999}}]}",
	             "listeners[0].spec.port", "expected 0..65535, got 99999");
	expect_error(
	        &l7mp_schema_config,
	        "{\"listeners\":[],\"clusters\":[{\"name\":\"c\",\"spec\":{\"protocol\":\"HTTP\","
	        "\"port\":1}}]}",
	        "clusters[0].spec.protocol",
	        "HTTP can't be used as a cluster, expected one of: UDP, WebSocket, Echo, Logger, "
	        "L7mpController");
	expect_error(&l7mp_schema_config,
	             "{\"listeners\":[],\"clusters\":[{\"name\":\"c\",\"spec\":{\"protocol\":"
	             "\"SCTP\",\"port\":1}}]}",
	             "clusters[0].spec.protocol",
	             "unknown protocol \"SCTP\", expected one of: UDP, WebSocket, Echo, Logger, "
	             "L7mpController");
	expect_error(&l7mp_schema_cluster, "{\"spec\":{}}", "spec.protocol",
	             "missing, expected one of: UDP, WebSocket, Echo, Logger, L7mpController");
	expect_error(&l7mp_schema_route, "{}", "destination",
	             "missing, expected a name or cluster object");
	expect_error(&l7mp_schema_route, "{\"destination\":\"a\",\"cluster\":\"b\"}", "destination",
	             "given twice: `cluster` is another spelling of it, expected one of the two");
	expect_error(&l7mp_schema_route,
	             "{\"destination\":\"a\",\"retry\":{\"retry_on\":\"maybe\"}}", "retry.retry_on",
	             "expected one of never, connect-failure, disconnect, always, got \"maybe\"");
	expect_error(&l7mp_schema_listener,
	             "{\"name\":\"l\",\"rules\":5,\"spec\":{\"protocol\":\"UDP\",\"port\":1}}",
	             "rules", "expected a name without white space, an array or an object, got 5");
	expect_error(&l7mp_schema_listener, "[]", "", "expected a listener object, got []");
	expect_error(&l7mp_schema_endpoint, "3", "", "expected an endpoint object, got 3");
	expect_error(&l7mp_schema_admin, "{\"offload_ifs\":\"eth0,\"}", "offload_ifs",
	             "expected interface names of 1..15 bytes without brackets and quotes, with "
	             "commas between, or all, got \"eth0,\"");
	expect_error(&l7mp_schema_admin, "{\"instance\":\"../x\"}", "instance",
	             "expected a name without / that does not begin with a dot, got \"../x\"");
}

static void test_nested_paths(void **state)
{
	(void)state;
	expect_error(&l7mp_schema_config,
	             "{\"listeners\":[{\"name\":\"l\",\"spec\":{\"protocol\":\"udp\",\"port\":1},"
	             "\"rules\":"
	             "[\"r\",{\"action\":{\"route\":{\"cluster\":{\"spec\":{\"protocol\":\"WS\","
	             "\"port\":1},"
	             "\"endpoints\":[{\"spec\":{\"address\":\"a b\"}}]}}}}]}]}",
	             "listeners[0].rules[1].action.route.cluster.endpoints[0].spec.address",
	             "expected an IP address or a host name, got \"a b\"");
	expect_error(&l7mp_schema_rule,
	             "{\"match\":{\"op\":\"and\",\"apply\":[{\"op\":\"defined\"},{\"op\":\"less\","
	             "\"value\":\"x\"}]},\"action\":{}}",
	             "match.apply[1].value", "expected a number, got \"x\"");
	/* Errors come from the alternative of the same JSON type. */
	expect_error(&l7mp_schema_listener,
	             "{\"name\":\"l\",\"spec\":{\"protocol\":\"UDP\",\"port\":1},\"rules\":{"
	             "\"name\":\"x\"}}",
	             "rules.rules", "missing, expected an array");
}

static void test_all_issues(void **state)
{
	cJSON *node = json("{\"listeners\":[],\"admin\":{\"strict\":1,\"log_level\":\"loud\"},"
	                   "\"clusters\":[{},{\"spec\":"
	                   "{\"protocol\":\"X\"}}],\"nonsense key\":1}");
	struct l7mp_issues is = check_node(&l7mp_schema_config, node, false);

	(void)state;
	assert_true(has_error(&is, "admin.strict"));
	assert_true(has_error(&is, "admin.log_level"));
	assert_true(has_error(&is, "clusters[0].spec"));
	assert_true(has_error(&is, "clusters[1].spec.protocol"));
	assert_int_equal(is.errors, 4);
	assert_int_equal(is.n, 5);
	assert_string_equal(is.v[4].path, "[\"nonsense key\"]");
	l7mp_issues_clear(&is);
	cJSON_Delete(node);
}

static void test_readonly_and_empty(void **state)
{
	(void)state;
	expect_ok(&l7mp_schema_config,
	          "{\"listeners\":[],\"sessions\":5,\"endpoints\":{},\"version\":[],"
	          "\"admin\":{\"version\":1}}");
	expect_ok(&l7mp_schema_config, "{\"admin\":null,\"listeners\":[]}");
	/* What may stand for "delete all of them" is never taken for it. */
	expect_error(&l7mp_schema_config, "{}", "listeners", "missing, expected an array");
	expect_error(&l7mp_schema_config, "{\"listeners\":null}", "listeners",
	             "expected an array ([] for none), got null");
	expect_error(&l7mp_schema_config, "{\"listeners\":[],\"clusters\":null}", "clusters",
	             "expected an array ([] for none), got null");
	expect_error(&l7mp_schema_cluster, "{\"spec\":{\"protocol\":\"Echo\"},\"endpoints\":null}",
	             "endpoints", "expected an array ([] for none), got null");
	expect_error(&l7mp_schema_rulelist, "{\"rules\":null}", "rules",
	             "expected an array ([] for none), got null");
}

/* Keys of other protocols' specs do nothing here, and are no error in strict mode either. */
static void test_other_protocols_keys(void **state)
{
	static const struct {
		const char *spec;
		bool error;
	} cases[] = {
	        {"{\"protocol\":\"Echo\",\"port\":1}", false},
	        {"{\"protocol\":\"Logger\",\"connect\":{}}", false},
	        {"{\"protocol\":\"Echo\",\"prot\":1}", true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cJSON *node = cJSON_CreateObject();
		struct l7mp_issues is;

		cJSON_AddItemToObject(node, "spec", json(cases[i].spec));
		is = check_node(&l7mp_schema_cluster, node, true);
		assert_int_equal(is.n, 1);
		assert_int_equal(is.errors, cases[i].error);
		l7mp_issues_clear(&is);
		cJSON_Delete(node);
	}
}

/* ---- the user's own documents ---- */

static void test_seed(void **state)
{
	(void)state;
	expect_ok(&l7mp_schema_cluster,
	          "{\"name\":\"ws-cluster\",\"spec\":{\"protocol\":\"WebSocket\",\"port\":16000},"
	          "\"endpoints\":[{\"spec\":{\"address\":\"127.0.0.1\"}}]}");
	expect_ok(
	        &l7mp_schema_listener,
	        "{\"name\":\"udp-listener\",\"spec\":{\"protocol\":\"UDP\",\"port\":15000,"
	        "\"connect\":{\"port\":15001}},\"rules\":[{\"action\":{\"route\":{\"destination\":"
	        "\"ws-cluster\",\"ingress\":[{\"spec\":{\"protocol\":\"Logger\"}}],\"retry\":{"
	        "\"retry_on\":"
	        "\"always\",\"num_retries\":3,\"timeout\":2000}}}}]}");
	expect_ok(&l7mp_schema_cluster,
	          "{\"name\":\"logger-cluster\",\"spec\":{\"protocol\":\"Logger\"}}");
	expect_ok(&l7mp_schema_config,
	          "{\"admin\":{\"log_level\":\"info\",\"log_file\":\"stdout\",\"access_log_path\":"
	          "\"/tmp/"
	          "admin_access.log\"},\"listeners\":[{\"name\":\"controller-listener\",\"spec\":"
	          "{\"protocol\":\"HTTP\",\"port\":1234},\"rules\":[{\"action\":{\"route\":{"
	          "\"destination\":"
	          "\"l7mp-controller\"}}}]}],\"clusters\":[{\"name\":\"l7mp-controller\",\"spec\":"
	          "{\"protocol\":\"L7MPController\"}}]}");
}

/* What the original's README, configs and documented API say. */
static void test_original(void **state)
{
	(void)state;
	expect_ok(&l7mp_schema_cluster, "{\"name\":\"sticky\",\"spec\":{\"protocol\":\"WebSocket\","
	                                "\"port\":16000},\"endpoints\":"
	                                "[{\"spec\":{\"address\":\"127.0.0.1\"},\"weight\":3},{"
	                                "\"spec\":{\"address\":\"127.0.0.2\","
	                                "\"weight\":2}}],\"loadbalancer\":{\"policy\":"
	                                "\"ConsistentHash\",\"key\":\"IP/src_addr\"}}");
	expect_ok(
	        &l7mp_schema_rule,
	        "{\"name\":\"rule-prom\",\"match\":{\"op\":\"starts\",\"path\":\"/HTTP/url/path\","
	        "\"value\":\"/metrics\"},\"action\":{\"route\":{\"destination\":\"prom\"}}}");
	expect_ok(&l7mp_schema_rule,
	          "{\"match\":\"*\",\"action\":{\"route\":{\"cluster\":{\"spec\":{\"protocol\":"
	          "\"WebSocket\","
	          "\"port\":80},\"endpoints\":[{\"spec\":{\"address\":\"echo.websocket.org\"}}]},"
	          "\"ingress\":"
	          "[{\"spec\":{\"protocol\":\"Logger\",\"log_prefix\":\"ingress\"}}],\"egress\":["
	          "\"up\"]},"
	          "\"rewrite\":[{\"path\":\"HTTP/"
	          "headers\",\"value\":{\"session_id\":1,\"cookies\":\"x: y\"}}]}}");
	expect_ok(&l7mp_schema_admin,
	          "{\"log_level\":\"warn\",\"offload\":\"init\",\"offload_ifs\":"
	          "\"lo,eth0\"}");
	expect_ok(&l7mp_schema_admin, "{\"offload_ifs\":[\"lo\",\"all\"],\"log_level\":\"WARN\"}");
	expect_ok(&l7mp_schema_listener,
	          "{\"name\":\"l\",\"spec\":{\"protocol\":\"http\",\"port\":0},\"rules\":\"some-"
	          "list\","
	          "\"options\":{\"track\":3600,\"idle_timeout\":0,\"offload\":\"never\"}}");
	expect_ok(&l7mp_schema_listener, "{\"name\":\"l\",\"spec\":{\"protocol\":\"http\",\"port\":"
	                                 "0},\"rules\":{\"name\":\"rl\","
	                                 "\"rules\":[\"a\",{\"action\":{\"apply\":\"other\"}}]}}");
	expect_ok(&l7mp_schema_rule, "{\"match\":null,\"action\":{}}");
}

static void test_endpoint_alone(void **state)
{
	const struct l7mp_protodesc *udp = l7mp_registry_find(&fake_registry, "uDp");
	cJSON *node = json("{\"spec\":{\"address\":\"not an address\",\"weight\":-1}}");
	struct l7mp_issues is;

	(void)state;
	assert_non_null(udp);
	l7mp_issues_init(&is, false);
	l7mp_schema_check_endpoint(&fake_registry, udp, node, "endpoint", &is);
	assert_true(has_error(&is, "endpoint.spec.address"));
	assert_true(has_error(&is, "endpoint.spec.weight"));
	assert_int_equal(is.errors, 2);
	l7mp_issues_clear(&is);
	cJSON_Delete(node);
}

static void test_registry(void **state)
{
	(void)state;
	assert_ptr_equal(l7mp_registry_find(&fake_registry, "ws"),
	                 l7mp_registry_find(&fake_registry, "WEBSOCKET"));
	assert_ptr_equal(l7mp_registry_find(&fake_registry, "inline/logger"),
	                 l7mp_registry_find(&fake_registry, "Logger"));
	assert_null(l7mp_registry_find(&fake_registry, "nope"));
	assert_null(l7mp_registry_find(&fake_registry, ""));
	assert_null(l7mp_registry_find(&fake_registry, NULL));
	assert_null(l7mp_registry_find(NULL, "UDP"));
}

static void test_patterns(void **state)
{
	static const struct {
		enum l7mp_schema_pattern p;
		const char *text;
		bool ok;
	} cases[] = {
	        {L7MP_P_ADDRESS, "::1", true},
	        {L7MP_P_ADDRESS, "fe80::1%eth0", true},
	        {L7MP_P_ADDRESS, "fe80::1%", false},
	        {L7MP_P_ADDRESS, "1.2.3.4%eth0", false},
	        {L7MP_P_ADDRESS, "1.2.3", false},
	        {L7MP_P_ADDRESS, "localhost", false},
	        {L7MP_P_HOST, "localhost", true},
	        {L7MP_P_HOST, "a-b.example_x.org.", true},
	        {L7MP_P_HOST, "1.2.3.256", false},
	        {L7MP_P_HOST, "-a", false},
	        {L7MP_P_HOST, "a-", false},
	        {L7MP_P_HOST, "a..b", false},
	        {L7MP_P_HOST, ".", false},
	        {L7MP_P_HOST, "", false},
	        {L7MP_P_HOST, "[::1]", false},
	        {L7MP_P_FILENAME, "/tmp/x", true},
	        {L7MP_P_FILENAME, "@", false},
	        {L7MP_P_FILENAME, "@x", true},
	        {L7MP_P_FILENAME, "", false},
	        {L7MP_P_MAC, "00:11:22:aa:BB:cc", true},
	        {L7MP_P_MAC, "00:11:22:aa:BB", false},
	        {L7MP_P_MAC, "00:11:22:aa:BB:cc:dd", false},
	        {L7MP_P_MAC, "", false},
	        {L7MP_P_URLPATH, "/a?b", true},
	        {L7MP_P_URLPATH, "a", false},
	        {L7MP_P_URLPATH, "/a b", false},
	        {L7MP_P_IFNAME, "eth0.100", true},
	        {L7MP_P_IFNAME, "a/b", false},
	        {L7MP_P_IFNAME, "eth0-v_1@2#", true},
	        {L7MP_P_IFNAME, "[va", false},
	        {L7MP_P_IFNAME, "vb]", false},
	        {L7MP_P_IFNAME, "{va}", false},
	        {L7MP_P_IFNAME, "\"va\"", false},
	        {L7MP_P_IFNAME, "'va'", false},
	        {L7MP_P_IFNAME, "eth0:1", false},
	        {L7MP_P_IFNAME, "a b", false},
	        {L7MP_P_IFNAME, "sixteen-bytes-xx", false},
	        {L7MP_P_NAME, "a/b:c", true},
	        {L7MP_P_NAME, "a\tb", false},
	};
	char name[128];

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++)
		if (l7mp_schema_pattern_ok(cases[i].p, cases[i].text) != cases[i].ok)
			fail_msg("pattern %d, \"%s\"", cases[i].p, cases[i].text);
	memset(name, 'x', sizeof(name));
	name[107] = 0;
	assert_true(l7mp_schema_pattern_ok(L7MP_P_FILENAME, name));
	name[107] = 'x';
	name[108] = 0;
	assert_false(l7mp_schema_pattern_ok(L7MP_P_FILENAME, name));
}

static void test_deep(void **state)
{
	/* Tables refer to each other in circles: a deep tree ends in an error, not in the stack. */
	cJSON *route = json("{\"destination\":\"x\"}");
	struct l7mp_issues is;

	(void)state;
	for (int i = 0; i < 400; i++) {
		cJSON *outer = json("{\"action\":{}}"), *list = json("{\"rules\":[]}");

		l7mp_json_add(l7mp_json_member(outer, "action"), "route", route);
		cJSON_AddItemToArray(l7mp_json_member(list, "rules"), outer);
		route = list;
	}
	is = check_node(&l7mp_schema_rulelist, route, false);
	assert_true(is.errors > 0);
	l7mp_issues_clear(&is);
	cJSON_Delete(route);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_every_key),
	        cmocka_unit_test(test_defaults),
	        cmocka_unit_test(test_messages),
	        cmocka_unit_test(test_nested_paths),
	        cmocka_unit_test(test_all_issues),
	        cmocka_unit_test(test_readonly_and_empty),
	        cmocka_unit_test(test_other_protocols_keys),
	        cmocka_unit_test(test_seed),
	        cmocka_unit_test(test_original),
	        cmocka_unit_test(test_endpoint_alone),
	        cmocka_unit_test(test_registry),
	        cmocka_unit_test(test_patterns),
	        cmocka_unit_test(test_deep),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
