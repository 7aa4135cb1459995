/* SPDX-License-Identifier: MIT */
/* The text of requests, who may ask, which handler answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api_fixture.h"
#include "l7mp/rest.h"

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

static void test_percent_decode(void **state)
{
	static const struct {
		const char *in, *out; /* NULL: refused */
	} cases[] = {
	        {"", ""},
	        {"plain", "plain"},
	        {"a%2Fb", "a/b"},
	        {"%2f%2F", "//"},
	        {"%41%62", "Ab"},
	        {"a%", NULL},
	        {"a%2", NULL},
	        {"a%zz", NULL},
	        {"a%00b", NULL},
	        {"%", NULL},
	        {"%25", "%"},
	        {"%252F", "%2F"},
	        {"%C3%A9", "\xc3\xa9"},
	        {"%C3", NULL},
	        {"%FF", NULL},
	        {"%ED%A0%80", NULL},
	        {"%C0%AF", NULL},
	        {"%F4%90%80%80", NULL},
	        {"a+b", "a+b"},
	        {"%0A", "\n"},
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		char *s = strdup(cases[i].in);
		int rc = api_percent_decode(s);

		if (cases[i].out) {
			assert_int_equal(rc, 0);
			assert_string_equal(s, cases[i].out);
		} else {
			assert_int_equal(rc, -EINVAL);
		}
		free(s);
	}
}

static int split(const char *text, char *buf, char **seg, size_t max)
{
	strcpy(buf, text);
	return api_split_path(buf, seg, max);
}

static void test_split_path(void **state)
{
	char buf[128];
	char *seg[4];

	(void)state;
	assert_int_equal(split("/", buf, seg, 4), 0);
	assert_int_equal(split("/a/b%2Fc/", buf, seg, 4), 2);
	assert_string_equal(seg[0], "a");
	assert_string_equal(seg[1], "b/c");
	assert_int_equal(split("/a//b", buf, seg, 4), 3);
	assert_string_equal(seg[1], "");
	assert_int_equal(split("a", buf, seg, 4), -EINVAL);
	assert_int_equal(split("", buf, seg, 4), -EINVAL);
	assert_int_equal(split("/%zz", buf, seg, 4), -EINVAL);
	assert_int_equal(split("/1/2/3/4", buf, seg, 4), 4);
	assert_int_equal(split("/1/2/3/4/5", buf, seg, 4), -E2BIG);
}

static void test_query(void **state)
{
	char *v;

	(void)state;
	assert_int_equal(api_query_get("a=1&b=x%20y+z&c", "b", &v), 0);
	assert_string_equal(v, "x y z");
	free(v);
	assert_int_equal(api_query_get("a=1&c", "c", &v), 0);
	assert_string_equal(v, "");
	free(v);
	assert_int_equal(api_query_get("ab=1", "a", &v), 0);
	assert_null(v);
	assert_int_equal(api_query_get("", "a", &v), 0);
	assert_null(v);
	assert_int_equal(api_query_get("&&a=2&", "a", &v), 0);
	assert_string_equal(v, "2");
	free(v);
	assert_int_equal(api_query_get("a=%4", "a", &v), -EINVAL);
	assert_null(v);
}

static void test_paths_and_methods(void **state)
{
	static const struct {
		const char *method, *target;
		int status;
		const char *allow;
	} cases[] = {
	        {"GET", "/api/v1/config", 200, NULL},
	        {"GET", "/api/v1/config/", 200, NULL},
	        {"HEAD", "/api/v1/clusters", 200, NULL},
	        {"GET", "/api/v1/clusters", 200, NULL},
	        {"GET", "/api/v1/clusters?recursive=true&format=lines", 200, NULL},
	        {"GET", "/api/v1/clusters?recursive=maybe", 400, NULL},
	        {"GET", "/api/v1/clusters?recursive=%zz", 400, NULL},
	        {"GET", "/api/v1/clusters?format=nice", 400, NULL},
	        {"GET", "/api/v1/clusters?other=1", 200, NULL},
	        {"GET", "/api/v1/clusters/none", 404, NULL},
	        {"GET", "/api/v1/clusters//", 404, NULL},
	        {"GET", "/api/v1/clusters/%00", 400, NULL},
	        {"GET", "/api/v1/clusters/a%2", 400, NULL},
	        {"GET", "/api/v1", 404, NULL},
	        {"GET", "/api/v1/", 404, NULL},
	        {"GET", "/api/v10/config", 404, NULL},
	        {"GET", "/", 404, NULL},
	        {"GET", "/api/v1/nothing", 404, NULL},
	        {"GET", "/api/v1/1/2/3/4/5/6/7/8/9/10", 404, NULL},
	        {"GET", "/api/v1/openapi.json", 200, NULL},
	        {"GET", "/api/v1/offload", 200, NULL},
	        {"GET", "/api/v1/offload/flows", 200, NULL},
	        {"GET", "/api/v1/sessions", 200, NULL},
	        {"PATCH", "/api/v1/clusters", 405, "GET, HEAD, POST"},
	        {"OPTIONS", "/api/v1/clusters/x", 405, "GET, HEAD, PUT, DELETE"},
	        {"DELETE", "/api/v1/config", 405, "GET, HEAD, POST"},
	        {"GET", "/api/v1/rulelists/a/lookup", 405, "POST"},
	        {"get", "/api/v1/config", 405, "GET, HEAD, POST"},
	};
	struct api_fixture *fx = *state;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		int status = fixture_request(fx, cases[i].method, cases[i].target, NULL, NULL);

		if (status != cases[i].status)
			fail_msg("%s %s: %d", cases[i].method, cases[i].target, status);
		if (cases[i].allow)
			assert_string_equal(fixture_header(fx, "Allow"), cases[i].allow);
		if (!strcmp(cases[i].method, "HEAD")) {
			assert_null(fx->text);
			assert_null(fixture_header(fx, "Content-Length")); /* it is a stream */
		} else if (status != 200) {
			assert_int_equal(l7mp_json_num(fx->json, "status", 0), status);
			assert_true(*fixture_message(fx));
			assert_true(cJSON_IsArray(l7mp_json_member(fx->json, "content")));
		}
	}
}

static void test_content_types(void **state)
{
	static const struct {
		const char *type, *body;
		int status;
	} cases[] = {
	        {"application/json",
	         "{\"cluster\":{\"name\":\"a\",\"spec\":{\"protocol\":\"Fake\"}}}", 200},
	        {"text/x-json; charset=utf-8",
	         "{\"cluster\":{\"name\":\"b\",\"spec\":{\"protocol\":\"Fake\"}}}", 200},
	        {"Text/X-YAML", "cluster: {name: c, spec: {protocol: fake}}", 200},
	        {"application/yaml;x=y", "cluster: {name: d, spec: {protocol: Fake}}", 200},
	        {" text/json ", "{\"cluster\":{\"name\":\"e\",\"spec\":{\"protocol\":\"Fake\"}}}",
	         200},
	        {"application/x-www-form-urlencoded", "{}", 415},
	        {"application/jsonx", "{}", 415},
	        {"application/jso", "{}", 415},
	        {"", "{}", 415},
	        {NULL, "{}", 415},
	        {NULL, NULL, 415},
	        {"application/json", NULL, 400},
	        {"application/json", "{\"cluster\":", 400},
	        {"application/json", "{} {}", 400},
	        {"text/yaml", "a: [1", 400},
	        {"application/json", "[1]", 422},
	        {"application/json", "3", 422},
	        {"application/json", "{\"name\":\"x\"}", 422},
	        {"application/json", "{\"cluster\":5}", 422},
	        {"application/json", "{\"cluster\":{\"spec\":{\"protocol\":\"Nope\"}}}", 422},
	        {"application/json",
	         "{\"cluster\":{\"name\":\"a\",\"spec\":{\"protocol\":\"Fake\"}}}", 409},
	};
	struct api_fixture *fx = *state;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		int status = fixture_request(fx, "POST", "/api/v1/clusters", cases[i].type,
		                             cases[i].body);

		if (status != cases[i].status)
			fail_msg("%s: %s: %d %s", cases[i].type, cases[i].body, status, fx->text);
		if (status == 422)
			assert_true(cJSON_GetArraySize(l7mp_json_member(fx->json, "content")) > 0);
	}
	assert_int_equal(l7mp_model_count(fx->model, L7MP_OBJ_CLUSTER), 5);
}

static void test_parse_error_has_line(void **state)
{
	struct api_fixture *fx = *state;
	const cJSON *content;

	assert_int_equal(fixture_request(fx, "POST", "/api/v1/clusters", "application/json",
	                                 "{\n\"cluster\": {\n nonsense"),
	                 400);
	content = cJSON_GetArrayItem(l7mp_json_member(fx->json, "content"), 0);
	assert_int_equal(l7mp_json_num(content, "line", 0), 3);
	assert_non_null(strstr(fixture_message(fx), "line 3"));
}

static void test_host_is_local(void **state)
{
	static const struct {
		const char *host;
		bool local;
	} cases[] = {
	        {"localhost", true},
	        {"LocalHost:1234", true},
	        {"localhost.", true},
	        {"127.0.0.1", true},
	        {"127.8.9.10:80", true},
	        {"[::1]:1234", true},
	        {"[::1]", true},
	        {"myhost", true},
	        {"MYHOST.example.org:1", true},
	        {"myhost.example", false},
	        {"myhos", false},
	        {"192.0.2.1", false},
	        {"[2001:db8::1]:80", false},
	        {"evil.example.org", false},
	        {"localhost.evil.org", false},
	        {"localhost:1234, evil.org", false},
	        {"localhost:12x", false},
	        {"localhost,evil", false},
	        {"localhost@evil.org", false},
	        {"127.0.0.1.evil.org", false},
	        {"", false},
	        {":80", false},
	        {"[::1", false},
	        {"[]", false},
	        {"[::1]x", false},
	};
	struct api_fixture *fx = *state;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++)
		if (api_host_is_local(fx->api, cases[i].host) != cases[i].local)
			fail_msg("%s", cases[i].host);
}

static cJSON *request_with(const char *src, const char *host, const char *origin)
{
	cJSON *m = fixture_metadata("GET", "/api/v1/admin", NULL, host);
	cJSON *ip = l7mp_json_member(m, "IP");

	cJSON_DeleteItemFromObject(ip, "src_addr");
	l7mp_json_add_str(ip, "src_addr", src);
	if (origin)
		l7mp_json_add_str(l7mp_json_get(m, "/HTTP/headers"), "Origin", origin);
	return m;
}

static void test_only_local_clients(void **state)
{
	struct api_fixture *fx = *state;

	assert_int_equal(fixture_dispatch(fx, request_with("127.0.0.1", NULL, NULL), NULL), 200);
	assert_int_equal(fixture_dispatch(fx, request_with("::1", "localhost", NULL), NULL), 200);
	assert_int_equal(
	        fixture_dispatch(fx, request_with("::ffff:127.0.0.1", "localhost", NULL), NULL),
	        200);
	assert_int_equal(fixture_dispatch(fx, request_with("192.0.2.7", "localhost", NULL), NULL),
	                 403);
	assert_int_equal(fixture_dispatch(fx, request_with("nonsense", "localhost", NULL), NULL),
	                 403);
	assert_int_equal(fixture_dispatch(fx, request_with("127.0.0.1", "evil.org", NULL), NULL),
	                 403);
	assert_int_equal(
	        fixture_dispatch(
	                fx, request_with("127.0.0.1", "localhost", "http://localhost:8080"), NULL),
	        200);
	assert_int_equal(fixture_dispatch(fx,
	                                  request_with("127.0.0.1", "localhost", "http://evil.org"),
	                                  NULL),
	                 403);
	assert_int_equal(fixture_dispatch(fx, request_with("127.0.0.1", "localhost", "null"), NULL),
	                 403);
}

static int with_token(struct api_fixture *fx, const char *authorization)
{
	cJSON *m = request_with("192.0.2.7", "foreign.org", NULL);

	if (authorization)
		l7mp_json_add_str(l7mp_json_get(m, "/HTTP/headers"), "authorization",
		                  authorization);
	return fixture_dispatch(fx, m, NULL);
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void test_token(void **state)
{
	struct api_fixture *fx = *state;
	char path[] = "/tmp/l7mp-token-XXXXXX";
	struct l7mp_error err = {0};
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	assert_true(l7mp_api_set_token_file(fx->api, path, &err) < 0); /* empty */
	assert_non_null(strstr(err.message, "empty"));
	assert_true(l7mp_api_set_token_file(fx->api, "/nonexistent/token", &err) < 0);
	write_file(path, "  secret one \r\nmore\n");
	assert_int_equal(l7mp_api_set_token_file(fx->api, path, &err), 0);
	assert_int_equal(with_token(fx, "Bearer secret one"), 200);
	assert_int_equal(with_token(fx, "bearer   secret one"), 200);
	assert_int_equal(with_token(fx, NULL), 401);
	assert_string_equal(fixture_header(fx, "WWW-Authenticate"), "Bearer realm=\"l7mp\"");
	assert_int_equal(with_token(fx, "Bearer secret"), 401);
	assert_int_equal(with_token(fx, "Bearer secret one2"), 401);
	assert_int_equal(with_token(fx, "Basic secret one"), 401);
	assert_int_equal(with_token(fx, "Bearer"), 401);
	assert_int_equal(with_token(fx, ""), 401);
	/* Being local does not help without the token. */
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/admin", NULL, NULL), 401);
	write_file(path, "changed\n");
	assert_int_equal(with_token(fx, "Bearer secret one"), 401);
	assert_int_equal(with_token(fx, "Bearer changed"), 200);
	unlink(path);
	assert_int_equal(with_token(fx, "Bearer changed"), 401);
	assert_int_equal(l7mp_api_set_token_file(fx->api, NULL, &err), 0);
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/admin", NULL, NULL), 200);
}

/* Each route of the one table has a handler, and the router finds this route by its path. */
static void test_each_route_is_served(void **state)
{
	struct api_fixture *fx = *state;

	for (const struct l7mp_rest_route *r = l7mp_rest_routes; r->method; r++) {
		struct api_request rq = {.api = fx->api};
		struct api_response rs = {0};
		struct l7mp_str path = {0};

		l7mp_str_addf(&path, "%s%s", API_BASE, r->path);
		rq.raw_path = l7mp_str_take(&path);
		rq.raw_query = strdup("");
		rq.method = strdup(r->method);
		api_service_rest.answer(&rq, &rs);
		assert_ptr_equal(rq.route, r);
		assert_non_null(rq.binding.handler);
		api_response_clear(&rs);
		free(rq.raw_path);
		free(rq.raw_query);
		free(rq.method);
		free(rq.path);
	}
}

static void test_statuses(void **state)
{
	static const int expected[] = {400, 400, 401, 403, 404, 405, 409,
	                               413, 415, 422, 500, 502, 503, 504};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(expected); i++) {
		const struct l7mp_error err = {.code = (enum l7mp_code)(i + 1)};
		struct api_response rs = {0};

		api_fail_error(&rs, &err);
		assert_int_equal(rs.status, expected[i]);
		api_response_clear(&rs);
	}
}

static void sum(void *arg, const char *method, const char *path, int status, uint64_t count)
{
	uint64_t *n = arg;

	(void)method;
	if (!strcmp(path, "/clusters/{name}") && status == 404)
		n[0] += count;
	if (!strcmp(path, "other") && status == 404)
		n[1] += count;
}

static void test_requests_are_counted(void **state)
{
	struct api_fixture *fx = *state;
	uint64_t n[2] = {0, 0};

	fixture_request(fx, "GET", "/api/v1/clusters/a", NULL, NULL);
	fixture_request(fx, "GET", "/api/v1/clusters/b", NULL, NULL);
	fixture_request(fx, "GET", "/api/v1/x", NULL, NULL);
	l7mp_api_each_request_count(fx->api, sum, n);
	assert_int_equal(n[0], 2);
	assert_int_equal(n[1], 1);
}

static void test_stopping(void **state)
{
	struct api_fixture *fx = *state;

	l7mp_api_set_stopping(fx->api);
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/config", NULL, NULL), 200);
	assert_int_equal(fixture_request(fx, "DELETE", "/api/v1/clusters/a", NULL, NULL), 503);
	assert_int_equal(
	        fixture_request(fx, "POST", "/api/v1/clusters", "text/yaml", "cluster: {}"), 503);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_percent_decode),
	        cmocka_unit_test(test_split_path),
	        cmocka_unit_test(test_query),
	        cmocka_unit_test_setup_teardown(test_each_route_is_served, setup, teardown),
	        cmocka_unit_test(test_statuses),
	        cmocka_unit_test_setup_teardown(test_paths_and_methods, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_content_types, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_parse_error_has_line, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_host_is_local, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_only_local_clients, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_token, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_requests_are_counted, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_stopping, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
