/* SPDX-License-Identifier: MIT */
/* What the REST API does, and the stage that carries its requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "api_fixture.h"

#define YAML "text/yaml"

static int setup(void **state)
{
	*state = fixture_new();
	return 0;
}

static int teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

static void post(struct api_fixture *fx, const char *path, const char *yaml, int expected)
{
	int status = fixture_request(fx, "POST", path, YAML, yaml);

	if (status != expected)
		fail_msg("POST %s: %d %s", path, status, fx->text);
}

static void want(struct api_fixture *fx, const char *method, const char *path, int expected)
{
	int status = fixture_request(fx, method, path, NULL, NULL);

	if (status != expected)
		fail_msg("%s %s: %d %s", method, path, status, fx->text);
}

static const char *str_at(const struct api_fixture *fx, const char *pointer)
{
	const cJSON *n = l7mp_json_get(fx->json, pointer);

	return cJSON_IsString(n) ? n->valuestring : "";
}

static double num_at(const struct api_fixture *fx, const char *pointer)
{
	const cJSON *n = l7mp_json_get(fx->json, pointer);

	return cJSON_IsNumber(n) ? n->valuedouble : -1;
}

static const char control[] = "listener:\n"
                              "  name: control\n"
                              "  spec: {protocol: Fake, port: 1234}\n"
                              "  rules:\n"
                              "    - action: {route: {destination: {name: ctl, spec: {protocol: "
                              "L7mpController}}}}\n";

static void test_success_is_told_in_full(void **state)
{
	struct api_fixture *fx = *state;

	post(fx, "/api/v1/listeners", control, 200);
	assert_string_equal(fx->text, "{\"status\":200,\"message\":\"OK\"}\n");
	assert_true(fixture_listens(1234));
}

static void test_objects(void **state)
{
	struct api_fixture *fx = *state;

	post(fx, "/api/v1/clusters",
	     "cluster: {name: a/b, spec: {protocol: Fake, port: 5}, endpoints: [{name: e0, spec: "
	     "{address: x}}]}",
	     200);
	want(fx, "GET", "/api/v1/clusters/a%2Fb", 200);
	assert_string_equal(str_at(fx, "/name"), "a/b");
	assert_int_equal(num_at(fx, "/endpoints"), 1);
	want(fx, "GET", "/api/v1/clusters/a%2fb/?recursive=true", 200);
	assert_string_equal(str_at(fx, "/endpoints/0/name"), "e0");
	want(fx, "GET", "/api/v1/clusters/a/b", 404);
	post(fx, "/api/v1/clusters/a%2Fb/endpoints", "endpoint: {name: e1, spec: {address: y}}",
	     200);
	post(fx, "/api/v1/clusters/a%2Fb/endpoints", "endpoint: {name: e1, spec: {address: y}}",
	     409);
	post(fx, "/api/v1/clusters/none/endpoints", "endpoint: {spec: {address: y}}", 404);
	want(fx, "GET", "/api/v1/clusters/a%2Fb/endpoints", 200);
	assert_int_equal(cJSON_GetArraySize(fx->json), 2);
	want(fx, "GET", "/api/v1/endpoints/e1", 200);
	assert_string_equal(str_at(fx, "/spec/address"), "y");
	assert_int_equal(fixture_request(fx, "PUT", "/api/v1/endpoints/e1", YAML,
	                                 "endpoint: {spec: {address: z}, weight: 3}"),
	                 200);
	want(fx, "GET", "/api/v1/endpoints/e1", 200);
	assert_string_equal(str_at(fx, "/spec/address"), "z");
	assert_int_equal(num_at(fx, "/weight"), 3);
	want(fx, "DELETE", "/api/v1/endpoints/e1", 200);
	want(fx, "DELETE", "/api/v1/endpoints/e1", 404);
	want(fx, "DELETE", "/api/v1/clusters/a%2Fb", 200);
	want(fx, "GET", "/api/v1/clusters", 200);
	assert_int_equal(cJSON_GetArraySize(fx->json), 0);
}

static void test_replace_in_place(void **state)
{
	struct api_fixture *fx = *state;

	post(fx, "/api/v1/routes", "route: {name: r, destination: a}", 200);
	assert_int_equal(fixture_request(fx, "PUT", "/api/v1/routes/r", YAML,
	                                 "route: {destination: b, retry: {num_retries: 9}}"),
	                 200);
	want(fx, "GET", "/api/v1/routes/r", 200);
	assert_string_equal(str_at(fx, "/destination"), "b");
	assert_int_equal(num_at(fx, "/retry/num_retries"), 9);
	assert_string_equal(str_at(fx, "/retry/retry_on"), "never");
	assert_int_equal(
	        fixture_request(fx, "PUT", "/api/v1/routes/x", YAML, "route: {destination: b}"),
	        200);
	assert_int_equal(fixture_request(fx, "PUT", "/api/v1/routes/y", YAML,
	                                 "route: {name: z, destination: b}"),
	                 422);
	assert_int_equal(fixture_request(fx, "PUT", "/api/v1/endpoints/x", YAML,
	                                 "endpoint: {spec: {address: a}}"),
	                 404);
	assert_true(fixture_request(fx, "PUT", "/api/v1/routes/r", YAML,
	                            "route: {name: other, destination: b}") >= 400);
	want(fx, "GET", "/api/v1/routes/r?recursive=true", 200);
	assert_string_equal(str_at(fx, "/destination"), "b:<STALE>");
}

static void test_port_in_use_changes_nothing(void **state)
{
	struct api_fixture *fx = *state;

	post(fx, "/api/v1/listeners",
	     "listener: {name: l, spec: {protocol: Fake, port: 7}, rules: [{action: {route: "
	     "{destination: x}}}]}",
	     400);
	assert_non_null(strstr(fixture_message(fx), "address already in use"));
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		assert_int_equal(l7mp_model_count(fx->model, (enum l7mp_obj_kind)k), 0);
	/* Not even a generated name was used up. */
	post(fx, "/api/v1/listeners",
	     "listener: {name: l, spec: {protocol: Fake, port: 0}, rules: [{action: {route: "
	     "{destination: x}}}]}",
	     200);
	want(fx, "GET", "/api/v1/listeners/l", 200);
	assert_string_equal(str_at(fx, "/rules"), "l-RuleList-0");
	/* The real port; the config as it was given. */
	assert_int_equal(num_at(fx, "/spec/port"), 4242);
	want(fx, "GET", "/api/v1/listeners", 200);
	assert_int_equal(num_at(fx, "/0/spec/port"), 4242);
	want(fx, "GET", "/api/v1/config", 200);
	assert_int_equal(num_at(fx, "/listeners/0/spec/port"), 0);
}

static void test_schema_errors_are_listed(void **state)
{
	struct api_fixture *fx = *state;
	const cJSON *e;
	int port = 0, weight = 0;

	post(fx, "/api/v1/clusters",
	     "cluster: {name: c, spec: {protocol: Fake, port: 99999}, endpoints: [{spec: {address: "
	     "x}, weight: -1}]}",
	     422);
	cJSON_ArrayForEach (e, l7mp_json_member(fx->json, "content")) {
		port += !strcmp(l7mp_json_str(e, "path", ""), "cluster.spec.port");
		weight += !strcmp(l7mp_json_str(e, "path", ""), "cluster.endpoints[0].weight");
		assert_true(*l7mp_json_str(e, "reason", ""));
	}
	assert_int_equal(port, 1);
	assert_int_equal(weight, 1);
}

static void test_strict(void **state)
{
	struct api_fixture *fx = *state;
	static const char extra[] = "{cluster: {name: c, spec: {protocol: Fake}}, more: 1}";
	static const char unknown[] = "cluster: {name: d, spec: {protocol: Fake}, colour: red}";

	post(fx, "/api/v1/clusters", extra, 200);
	post(fx, "/api/v1/clusters", unknown, 200);
	l7mp_model_admin(fx->model)->strict = true;
	post(fx, "/api/v1/clusters", extra, 422);
	assert_string_equal(str_at(fx, "/content/0/path"), "more");
	post(fx, "/api/v1/clusters", unknown, 422);
	assert_string_equal(str_at(fx, "/content/0/path"), "cluster.colour");
}

static void test_rules_by_position_and_name(void **state)
{
	struct api_fixture *fx = *state;
	static const char rule[] = "rule: {name: mid, action: {route: {destination: x}}}";

	post(fx, "/api/v1/rulelists",
	     "rulelist: {name: rl, rules: [{name: r0, action: {apply: a}}, {name: r1, action: "
	     "{apply: b}}]}",
	     200);
	want(fx, "GET", "/api/v1/rulelists/rl/rules/1", 200);
	assert_string_equal(str_at(fx, "/name"), "r1");
	want(fx, "GET", "/api/v1/rulelists/rl/rules/r0", 200);
	want(fx, "GET", "/api/v1/rulelists/rl/rules/2", 404);
	want(fx, "GET", "/api/v1/rulelists/rl/rules/99999999999999999999999", 404);
	want(fx, "GET", "/api/v1/rulelists/rl/rules/-1", 404);
	want(fx, "GET", "/api/v1/rulelists/no/rules/0", 404);
	post(fx, "/api/v1/rulelists/rl/rules/r1", rule, 200);
	post(fx, "/api/v1/rulelists/rl/rules/3", "rule: r0", 200);
	post(fx, "/api/v1/rulelists/rl/rules/5", "rule: r0", 404);
	want(fx, "GET", "/api/v1/rulelists/rl", 200);
	assert_string_equal(str_at(fx, "/rules/0"), "r0");
	assert_string_equal(str_at(fx, "/rules/1"), "mid");
	assert_string_equal(str_at(fx, "/rules/2"), "r1");
	assert_string_equal(str_at(fx, "/rules/3"), "r0");
	want(fx, "DELETE", "/api/v1/rulelists/rl/rules/3", 200);
	want(fx, "DELETE", "/api/v1/rulelists/rl/rules/mid?recursive=true", 200);
	want(fx, "GET", "/api/v1/rulelists/rl", 200);
	assert_int_equal(cJSON_GetArraySize(l7mp_json_get(fx->json, "/rules")), 2);
	want(fx, "DELETE", "/api/v1/rules/r1", 200);
	want(fx, "GET", "/api/v1/rulelists/rl/rules/1", 404);
}

static void test_lookup(void **state)
{
	struct api_fixture *fx = *state;

	post(fx, "/api/v1/rulelists",
	     "rulelist: {name: rl, rules: [{name: hit, match: {op: starts, path: /IP/src_addr, "
	     "value: '10.'}, action: {rewrite: [{path: /a/b, value: 1}], route: {name: way, "
	     "destination: x}}}]}",
	     200);
	post(fx, "/api/v1/rulelists/rl/lookup", "metadata: {IP: {src_addr: 10.1.1.1}}", 200);
	assert_string_equal(str_at(fx, "/rulelist"), "rl");
	assert_string_equal(str_at(fx, "/rule"), "hit");
	assert_string_equal(str_at(fx, "/action/route"), "way");
	assert_int_equal(num_at(fx, "/metadata/a/b"), 1);
	post(fx, "/api/v1/rulelists/rl/lookup", "metadata: {}", 404);
	post(fx, "/api/v1/rulelists/rl/lookup", "metadata: 5", 422);
	post(fx, "/api/v1/rulelists/rl/lookup", "IP: {}", 422);
	post(fx, "/api/v1/rulelists/no/lookup", "metadata: {}", 404);
}

static void test_config_posted_back_changes_nothing(void **state)
{
	struct api_fixture *fx = *state;
	char *before, *body;

	post(fx, "/api/v1/listeners", control, 200);
	post(fx, "/api/v1/listeners",
	     "listener: {name: zero, spec: {protocol: Fake, port: 0}, rules: [{action: {route: "
	     "{destination: gone}}}]}",
	     200);
	want(fx, "GET", "/api/v1/config", 200);
	assert_string_equal(str_at(fx, "/version"), "1.2.3");
	assert_string_equal(str_at(fx, "/admin/version"), "1.2.3");
	assert_true(cJSON_IsArray(l7mp_json_get(fx->json, "/sessions")));
	assert_true(cJSON_IsArray(l7mp_json_get(fx->json, "/endpoints")));
	before = strdup(fx->text);
	body = l7mp_asprintf("{\"config\": %s}", before);
	assert_int_equal(fixture_request(fx, "POST", "/api/v1/config", "application/json", before),
	                 200);
	assert_int_equal(fixture_request(fx, "POST", "/api/v1/config", "application/json", body),
	                 200);
	want(fx, "GET", "/api/v1/config", 200);
	assert_string_equal(fx->text, before);
	free(before);
	free(body);
	post(fx, "/api/v1/config", "config: 5", 422);
	post(fx, "/api/v1/config", "listeners: [{name: l, spec: {protocol: Nope}}]", 422);
	want(fx, "GET", "/api/v1/listeners/zero", 200);
	post(fx, "/api/v1/config", "listeners: []", 200);
	assert_int_equal(l7mp_model_count(fx->model, L7MP_OBJ_LISTENER), 0);
	assert_false(fixture_listens(1234));
}

static void test_admin(void **state)
{
	struct api_fixture *fx = *state;

	post(fx, "/api/v1/admin", "admin: {limits: {max_body: 2048}}", 200);
	post(fx, "/api/v1/admin", "{limits: {max_queue: 8192}}", 200);
	want(fx, "GET", "/api/v1/admin", 200);
	assert_int_equal(num_at(fx, "/limits/max_body"), 2048);
	assert_int_equal(num_at(fx, "/limits/max_queue"), 8192);
	post(fx, "/api/v1/admin", "admin: {limits: {max_body: x}}", 422);
	post(fx, "/api/v1/admin", "admin: 1", 422);
}

static void test_openapi(void **state)
{
	struct api_fixture *fx = *state;
	struct l7mp_document *doc = NULL;
	struct l7mp_error err = {0};
	cJSON *json;

	want(fx, "GET", "/api/v1/openapi.json", 200);
	assert_true(cJSON_IsObject(l7mp_json_get(fx->json, "/paths")));
	json = cJSON_Duplicate(fx->json, true);
	want(fx, "GET", "/api/v1/openapi.yaml", 200);
	assert_string_equal(fixture_header(fx, "Content-Type"), "application/yaml");
	assert_int_equal(
	        l7mp_document_parse(L7MP_SYNTAX_YAML, fx->text, strlen(fx->text), &doc, &err), 0);
	assert_true(l7mp_json_equal(l7mp_document_root(doc), json));
	l7mp_document_free(&doc);
	cJSON_Delete(json);
}

/* ---- the stage, in a real session ---- */

static cJSON *request(const char *method, const char *target, const char *body)
{
	cJSON *m = fixture_metadata(method, target, body ? YAML : NULL, "localhost");
	char length[24];

	if (body) {
		snprintf(length, sizeof(length), "%zu", strlen(body));
		l7mp_json_add_str(l7mp_json_get(m, "/HTTP/headers"), "content-length", length);
	}
	return m;
}

static cJSON *answer_of(const struct fake_source *s)
{
	return l7mp_json_parse(s->text.s ? s->text.s : "", s->text.len, NULL, NULL, 0);
}

static int status_of(const struct fake_source *s)
{
	return (int)l7mp_json_num(l7mp_json_member(s->meta, "HTTP"), "status", 0);
}

static void test_request_is_a_session(void **state)
{
	struct api_fixture *fx = *state;
	struct fake_source *s;
	cJSON *list;

	post(fx, "/api/v1/listeners", control, 200);
	s = fixture_accept(fx, 1234, request("GET", "/api/v1/sessions", NULL), NULL);
	fixture_settle(fx);
	assert_true(s->closed);
	assert_false(s->aborted);
	assert_true(s->shut);
	assert_int_equal(s->status, 200);
	assert_int_equal(status_of(s), 200);
	list = answer_of(s);
	assert_int_equal(cJSON_GetArraySize(list), 1);
	assert_string_equal(l7mp_json_str(list->child, "status", ""), "CONNECTED");
	assert_string_equal(
	        l7mp_json_str(l7mp_json_member(list->child, "destination"), "origin", ""), "ctl");
	cJSON_Delete(list);
	fake_source_free(s);
	assert_int_equal(l7mp_sessions_count(fx->sessions, L7MP_SESSION_CONNECTED), 0);
}

/* The request ends its own session: the answer still comes, whole. */
static void expect_answer(struct api_fixture *fx, const char *method, const char *target,
                          const char *body)
{
	struct fake_source *s = fixture_accept(fx, 1234, request(method, target, body), body);

	fixture_settle(fx);
	if (status_of(s) != 200 || !s->text.s)
		fail_msg("%s %s: %d %s", method, target, status_of(s), s->text.s);
	assert_string_equal(s->text.s, "{\"status\":200,\"message\":\"OK\"}\n");
	assert_true(s->closed);
	assert_false(s->aborted);
	fake_source_free(s);
}

static void test_answers_survive_their_own_end(void **state)
{
	struct api_fixture *fx = *state;

	post(fx, "/api/v1/listeners", control, 200);
	expect_answer(fx, "POST", "/api/v1/config",
	              "config: {listeners: [{name: control, spec: {protocol: Fake, port: 1234}, "
	              "rules: [{name: new, action: {route: {destination: {name: ctl2, spec: "
	              "{protocol: L7MPController}}}}}]}]}");
	assert_true(fixture_listens(1234));
	expect_answer(fx, "DELETE", "/api/v1/clusters/ctl2?recursive=true", NULL);
	post(fx, "/api/v1/clusters", "cluster: {name: ctl2, spec: {protocol: L7MPController}}",
	     200);
	expect_answer(fx, "POST", "/api/v1/config", "{\"listeners\":[]}");
	assert_false(fixture_listens(1234));
	post(fx, "/api/v1/listeners", control, 200);
	expect_answer(fx, "DELETE", "/api/v1/listeners/control?recursive=true", NULL);
	assert_false(fixture_listens(1234));
	post(fx, "/api/v1/config", "listeners: []", 200);
	post(fx, "/api/v1/listeners", control, 200);
}

static void test_session_deletes_itself(void **state)
{
	struct api_fixture *fx = *state;
	struct fake_source *s;
	char *target;

	post(fx, "/api/v1/listeners", control, 200);
	s = fixture_accept(fx, 1234, request("GET", "/api/v1/sessions", NULL), NULL);
	/* The fixture counts names up: this is what the next session is called. */
	target = l7mp_asprintf("/api/v1/sessions/Fake-%d",
	                       1 + atoi(l7mp_session_name(l7mp_sessions_first(fx->sessions)) + 5));
	fixture_settle(fx);
	fake_source_free(s);
	expect_answer(fx, "DELETE", target, NULL);
	free(target);
	want(fx, "DELETE", "/api/v1/sessions/none", 404);
}

static void test_body_limit(void **state)
{
	struct api_fixture *fx = *state;
	char *big = malloc(5000);
	struct fake_source *s;
	cJSON *m;

	memset(big, ' ', 4999);
	big[4999] = '\0';
	post(fx, "/api/v1/listeners", control, 200);
	post(fx, "/api/v1/admin", "limits: {max_body: 2048}", 200);
	/* Announced. */
	s = fixture_accept(fx, 1234, request("POST", "/api/v1/clusters", big), big);
	fixture_settle(fx);
	assert_int_equal(status_of(s), 413);
	assert_true(s->shut);
	fake_source_free(s);
	/* Not announced. */
	m = request("POST", "/api/v1/clusters", NULL);
	l7mp_json_add_str(l7mp_json_get(m, "/HTTP/headers"), "transfer-encoding", "chunked");
	s = fixture_accept(fx, 1234, m, big);
	fixture_settle(fx);
	assert_int_equal(status_of(s), 413);
	fake_source_free(s);
	assert_int_equal(fx->stats.refusals[L7MP_REFUSE_MAX_BODY], 2);
	/* Its end never comes: refused at once, and the connection does not stay. */
	s = fixture_accept(fx, 1234, request("POST", "/api/v1/clusters", big), NULL);
	s->end_pending = false;
	fixture_settle(fx);
	assert_int_equal(status_of(s), 413);
	assert_false(s->closed);
	l7mp_loop_advance(fx->loop, 1100);
	assert_true(s->closed);
	assert_false(s->aborted);
	fake_source_free(s);
	free(big);
}

static void test_bodies_of_refused_clients_are_not_kept(void **state)
{
	struct api_fixture *fx = *state;
	cJSON *m = request("POST", "/api/v1/clusters", "cluster: {}");
	cJSON *ip = l7mp_json_member(m, "IP");
	struct fake_source *s;

	post(fx, "/api/v1/listeners", control, 200);
	cJSON_ReplaceItemInObject(ip, "src_addr", cJSON_CreateString("192.0.2.1"));
	s = fixture_accept(fx, 1234, m, NULL);
	s->end_pending = false;
	fixture_settle(fx);
	assert_int_equal(status_of(s), 403);
	l7mp_loop_advance(fx->loop, 1100);
	assert_true(s->closed);
	fake_source_free(s);
}

static void test_needs_http(void **state)
{
	struct api_fixture *fx = *state;
	struct fake_source *s;

	post(fx, "/api/v1/listeners", control, 200);
	s = fixture_accept(fx, 1234, cJSON_CreateObject(), NULL);
	fixture_settle(fx);
	assert_int_equal(s->status, 502);
	assert_true(s->closed);
	fake_source_free(s);
}

static void test_prometheus(void **state)
{
	struct api_fixture *fx = *state;
	struct fake_source *s;

	post(fx, "/api/v1/listeners",
	     "listener: {name: 'm\"x', spec: {protocol: Fake, port: 99}, rules: [{action: {route: "
	     "{destination: {name: p, spec: {protocol: prometheus}}}}}]}",
	     200);
	fx->stats.drops[L7MP_DROP_QUEUE] = 17;
	s = fixture_accept(fx, 99, request("GET", "/metrics", NULL), NULL);
	fixture_settle(fx);
	assert_int_equal(status_of(s), 200);
	assert_non_null(strstr(s->text.s, "l7mp_build_info{version=\"1.2.3\"} 1\n"));
	assert_non_null(strstr(s->text.s, "l7mp_drops_total{reason=\"queue\"} 17\n"));
	assert_non_null(strstr(s->text.s, "listener_requests_total{listenerName=\"m\\\"x\","
	                                  "protocol=\"Fake\"} 1\n"));
	assert_non_null(strstr(s->text.s, "cluster_requests_total{clusterName=\"p\","
	                                  "protocol=\"Prometheus\"} 1\n"));
	assert_non_null(strstr(s->text.s,
	                       "l7mp_rest_requests_total{method=\"POST\",path=\"/listeners\","
	                       "code=\"200\"} 1\n"));
	assert_non_null(strstr(s->text.s, "l7mp_sessions{state=\"CONNECTED\"} 1\n"));
	fake_source_free(s);
	s = fixture_accept(fx, 99, request("POST", "/metrics", "x"), "x");
	fixture_settle(fx);
	assert_int_equal(status_of(s), 405);
	fake_source_free(s);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(test_success_is_told_in_full),
	        T(test_objects),
	        T(test_replace_in_place),
	        T(test_port_in_use_changes_nothing),
	        T(test_schema_errors_are_listed),
	        T(test_strict),
	        T(test_rules_by_position_and_name),
	        T(test_lookup),
	        T(test_config_posted_back_changes_nothing),
	        T(test_admin),
	        T(test_openapi),
	        T(test_request_is_a_session),
	        T(test_answers_survive_their_own_end),
	        T(test_session_deletes_itself),
	        T(test_body_limit),
	        T(test_bodies_of_refused_clients_are_not_kept),
	        T(test_needs_http),
	        T(test_prometheus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
