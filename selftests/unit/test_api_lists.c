/* SPDX-License-Identifier: MIT */
/* Lists that are made while they are read: in slices, in pages, while what they show changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_fixture.h"
#include "l7mp/slice.h"

#define PIECE_MAX (40 * 1024) /* a piece and the last item in it */

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

/* ---- sessions that stay: requests whose body never ends ---- */

struct crowd {
	struct api_fixture *fx;
	struct fake_source *sources[1000];
	size_t n;
};

static void crowd_begin(struct crowd *c, struct api_fixture *fx)
{
	memset(c, 0, sizeof(*c));
	c->fx = fx;
	assert_int_equal(
	        fixture_request(fx, "POST", "/api/v1/listeners", "text/yaml",
	                        "listener: {name: l, spec: {protocol: Fake, port: 1234}, rules: "
	                        "[{action: {route: {name: way, destination: {name: ctl, spec: "
	                        "{protocol: L7mpController}}}}}]}"),
	        200);
}

static void crowd_add(struct crowd *c, size_t n)
{
	while (n--) {
		cJSON *m = fixture_metadata("POST", "/api/v1/config", "text/yaml", "localhost");
		struct fake_source *s = fixture_accept(c->fx, 1234, m, NULL);

		s->end_pending = false;
		c->sources[c->n++] = s;
	}
	fixture_settle(c->fx);
}

static void crowd_end(struct crowd *c)
{
	struct l7mp_session *s;

	for (s = l7mp_sessions_first(c->fx->sessions); s; s = l7mp_sessions_next(s))
		l7mp_session_end(s, "test");
	fixture_settle(c->fx);
	for (size_t i = 0; i < c->n; i++)
		fake_source_free(c->sources[i]);
}

/* Ends each `every`th session that lives. */
static void crowd_thin(struct crowd *c, unsigned every)
{
	struct l7mp_session *s;
	unsigned i = 0;

	for (s = l7mp_sessions_first(c->fx->sessions); s; s = l7mp_sessions_next(s))
		if (i++ % every == 0)
			l7mp_session_end(s, "test");
	fixture_settle(c->fx);
	assert_int_equal(l7mp_sessions_count(c->fx->sessions, L7MP_SESSION_FINALIZING), 0);
}

static void ignore(void *arg)
{
	(void)arg;
}

static struct api_exchange *get(struct api_fixture *fx, const char *target)
{
	cJSON *m = fixture_metadata("GET", target, NULL, "localhost");
	struct api_exchange *x = fixture_begin(fx, m, NULL, ignore, NULL);

	cJSON_Delete(m);
	return x;
}

/* The next piece, after as many iterations as it takes; 0 at the end. */
static size_t read_piece(struct api_fixture *fx, struct api_exchange *x, struct l7mp_str *text)
{
	for (int i = 0; i < 100000; i++) {
		char *piece = NULL;
		size_t len = 0;
		int rc = api_exchange_head(x) ? api_exchange_read(x, &piece, &len) : -EAGAIN;

		assert_true(rc == -EAGAIN || rc >= 0);
		if (rc == 0)
			return 0;
		if (rc == 1) {
			l7mp_str_addn(text, piece, len);
			free(piece);
			return len;
		}
		l7mp_loop_turn(fx->loop);
	}
	fail_msg("no piece comes");
	return 0;
}

static const char *name_at(const cJSON *list, int i)
{
	return l7mp_json_str(cJSON_GetArrayItem(list, i), "name", "");
}

static bool has(const cJSON *list, const char *name)
{
	const cJSON *item;

	cJSON_ArrayForEach (item, list)
		if (!strcmp(l7mp_json_str(item, "name", ""), name))
			return true;
	return false;
}

/* Each session at most once; those that lived all through are there; those that came later not. */
static void test_sessions_come_and_go(void **state)
{
	struct api_fixture *fx = *state;
	struct l7mp_str text = {0};
	struct api_exchange *x;
	struct l7mp_session *s;
	uint64_t last = 0;
	struct crowd c;
	size_t len;
	cJSON *list;
	int pieces = 0;

	crowd_begin(&c, fx);
	crowd_add(&c, 400);
	l7mp_loop_spend_each(fx->loop, 100);
	for (s = l7mp_sessions_first(fx->sessions); s; s = l7mp_sessions_next(s))
		last = l7mp_session_id(s);
	x = get(fx, "/api/v1/sessions");
	while ((len = read_piece(fx, x, &text))) {
		assert_true(len <= PIECE_MAX);
		if (pieces++ < 3) {
			crowd_thin(&c, 7);
			crowd_add(&c, 20);
		}
	}
	assert_true(pieces > 5);
	api_exchange_free(&x);
	list = l7mp_json_parse(text.s, text.len, NULL, NULL, 0);
	assert_true(cJSON_IsArray(list));
	for (int i = 1; i < cJSON_GetArraySize(list); i++) /* Fake-<number>, counting up */
		assert_true(atoi(name_at(list, i) + 5) > atoi(name_at(list, i - 1) + 5));
	for (s = l7mp_sessions_first(fx->sessions); s; s = l7mp_sessions_next(s))
		assert_int_equal(has(list, l7mp_session_name(s)), l7mp_session_id(s) <= last);
	cJSON_Delete(list);
	l7mp_str_free(&text);
	crowd_end(&c);
}

/*
 * What one iteration does for a list is bounded by the clock, and others get their turn meanwhile.
 */
static void test_turns_are_short(void **state)
{
	struct api_fixture *fx = *state;
	struct l7mp_str text = {0};
	struct api_exchange *x, *other;
	int turns = 0, other_done_at = 0;
	struct crowd c;

	crowd_begin(&c, fx);
	crowd_add(&c, 200);
	/*
	 * A hundred µs for each session: 5 of them, and what the loop itself looks, an iteration.
	 */
	l7mp_loop_spend_each(fx->loop, 100);
	x = get(fx, "/api/v1/sessions");
	other = get(fx, "/api/v1/admin");
	for (;;) {
		uint64_t before = l7mp_loop_clock_us(fx->loop);
		char *piece = NULL;
		size_t len = 0;
		int rc;

		l7mp_loop_turn(fx->loop);
		turns++;
		assert_true(l7mp_loop_clock_us(fx->loop) - before <= L7MP_SLICE_US + 500);
		if (!other_done_at && api_exchange_head(other))
			other_done_at = turns;
		rc = api_exchange_head(x) ? api_exchange_read(x, &piece, &len) : -EAGAIN;
		if (rc == 1)
			l7mp_str_addn(&text, piece, len);
		free(piece);
		if (!rc)
			break;
	}
	assert_true(turns >= 200 / 5);
	assert_in_range(other_done_at, 1, 5);
	api_exchange_free(&other);
	api_exchange_free(&x);
	l7mp_str_free(&text);
	crowd_end(&c);
}

/* A client that does not read costs one piece, whatever the list is long. */
static void test_slow_reader(void **state)
{
	struct api_fixture *fx = *state;
	struct l7mp_str text = {0};
	struct api_exchange *x;
	uint64_t slices;
	struct crowd c;

	crowd_begin(&c, fx);
	crowd_add(&c, 300);
	x = get(fx, "/api/v1/sessions");
	assert_true(read_piece(fx, x, &text) <= PIECE_MAX);
	for (int i = 0; i < 20; i++)
		l7mp_loop_turn(fx->loop);
	slices = l7mp_loop_slice_stats(fx->loop)->count;
	for (int i = 0; i < 100; i++)
		l7mp_loop_turn(fx->loop);
	assert_int_equal(l7mp_loop_slice_stats(fx->loop)->count, slices);
	/* The client goes: nothing is left of it, sessions can be freed. */
	api_exchange_free(&x);
	l7mp_str_free(&text);
	crowd_end(&c);
}

/* A reader in another thread gets few pieces, whole, however often it asks. */
static void test_large_pieces(void **state)
{
	struct api_fixture *fx = *state;
	const struct api_call call = {.service = &api_service_rest,
	                              .method = "GET",
	                              .path = "/api/v1/sessions",
	                              .large_pieces = true};
	struct api_exchange *x;
	struct crowd c;
	size_t expected = 32 * 1024, total = 0;

	crowd_begin(&c, fx);
	crowd_add(&c, 900);
	l7mp_loop_spend_each(fx->loop, 100);
	assert_int_equal(api_exchange_new(fx->api, &call, ignore, NULL, &x), 0);
	for (;;) {
		char *piece = NULL;
		size_t len = 0;
		int rc;

		l7mp_loop_turn(fx->loop);
		rc = api_exchange_head(x) ? api_exchange_read(x, &piece, &len) : -EAGAIN;
		free(piece);
		if (!rc)
			break;
		if (rc != 1)
			continue;
		total += len;
		if (len < expected)
			continue; /* the last one */
		assert_true(len < expected + 8 * 1024);
		expected = expected < 256 * 1024 ? expected * 2 : expected;
	}
	assert_true(total > 512 * 1024);
	/* Only one was not whole. */
	assert_int_equal(expected, 256 * 1024);
	api_exchange_free(&x);
	crowd_end(&c);
}

static void test_cancelled_at_any_moment(void **state)
{
	struct api_fixture *fx = *state;
	static const char *const targets[] = {"/api/v1/sessions", "/api/v1/config",
	                                      "/api/v1/sessions?limit=20", "/api/v1/listeners",
	                                      "/api/v1/clusters/ctl/endpoints"};
	struct crowd c;

	crowd_begin(&c, fx);
	crowd_add(&c, 50);
	l7mp_loop_spend_each(fx->loop, 100);
	for (size_t t = 0; t < L7MP_ARRAY_SIZE(targets); t++) {
		for (int turns = 0; turns < 20; turns++) {
			struct api_exchange *x = get(fx, targets[t]);
			struct l7mp_str text = {0};

			for (int i = 0; i < turns; i++) {
				char *piece = NULL;
				size_t len;

				l7mp_loop_turn(fx->loop);
				if (api_exchange_head(x))
					(void)api_exchange_read(x, &piece, &len);
				free(piece);
			}
			api_exchange_free(&x);
			assert_null(x);
			l7mp_str_free(&text);
			fixture_settle(fx);
		}
	}
	crowd_end(&c);
}

/* ---- pages ---- */

/* The target of the Link header's next page; false: there is none. */
static bool next_page(const struct api_fixture *fx, char *target, size_t size)
{
	const char *link = fixture_header(fx, "Link");
	const char *end = link ? strchr(link, '>') : NULL;

	if (!end)
		return false;
	assert_string_equal(end, ">; rel=\"next\"");
	assert_true(*link == '<' && (size_t)(end - link) < size);
	memcpy(target, link + 1, (size_t)(end - link - 1));
	target[end - link - 1] = '\0';
	return true;
}

static void test_pages_of_sessions(void **state)
{
	struct api_fixture *fx = *state;
	char target[256] = "/api/v1/sessions?limit=7&format=space";
	int seen = 0, pages = 0, before = -1;
	struct crowd c;

	crowd_begin(&c, fx);
	crowd_add(&c, 40);
	do {
		const cJSON *item;

		assert_int_equal(fixture_request(fx, "GET", target, NULL, NULL), 200);
		assert_true(cJSON_GetArraySize(fx->json) <= 7);
		cJSON_ArrayForEach (item, fx->json) {
			int number = atoi(l7mp_json_str(item, "name", "") + 5);

			assert_true(number > before);
			before = number;
			seen++;
		}
		/* The last one of the page may be gone before the next page is asked for. */
		if (pages++ == 2)
			crowd_thin(&c, 20);
		assert_true(fx->text[strlen(fx->text) - 2] == ']');
	} while (next_page(fx, target, sizeof(target)));
	assert_in_range(pages, 6, 7);
	assert_in_range(seen, 38, 40);
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/sessions?limit=0", NULL, NULL), 200);
	assert_string_equal(fx->text, "[]\n");
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/sessions?after=99999", NULL, NULL),
	                 200);
	assert_string_equal(fx->text, "[]\n");
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/sessions?after=nobody", NULL, NULL),
	                 404);
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/sessions?limit=x", NULL, NULL), 400);
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/sessions?limit=-1", NULL, NULL), 400);
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/config?limit=2", NULL, NULL), 200);
	assert_int_equal(cJSON_GetArraySize(l7mp_json_member(fx->json, "sessions")), 2);
	assert_non_null(fixture_header(fx, "Link"));
	crowd_end(&c);
}

static void test_pages_of_objects(void **state)
{
	struct api_fixture *fx = *state;
	char target[256] = "/api/v1/routes?limit=4", body[128];
	int seen = 0;

	for (int i = 0; i < 10; i++) {
		snprintf(body, sizeof(body), "route: {name: a/%d&, destination: c}", i);
		assert_int_equal(fixture_request(fx, "POST", "/api/v1/routes", "text/yaml", body),
		                 200);
	}
	do {
		assert_int_equal(fixture_request(fx, "GET", target, NULL, NULL), 200);
		for (int i = 0; i < cJSON_GetArraySize(fx->json); i++) {
			snprintf(body, sizeof(body), "a/%d&", seen++);
			assert_string_equal(name_at(fx->json, i), body);
		}
	} while (next_page(fx, target, sizeof(target)));
	assert_int_equal(seen, 10);
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/routes?after=x", NULL, NULL), 404);
}

/* ---- the text ---- */

/* Item by item it is what the printer makes of the whole tree. */
static void test_every_format(void **state)
{
	static const char *const formats[] = {"plain", "space", "lines", "diffy", "terse"};
	static const char *const paths[] = {"config", "listeners", "sessions", "rules"};
	struct api_fixture *fx = *state;
	struct crowd c;

	crowd_begin(&c, fx);
	crowd_add(&c, 3);
	for (size_t p = 0; p < L7MP_ARRAY_SIZE(paths); p++) {
		for (size_t f = 0; f < 5; f++) {
			for (int recursive = 0; recursive < 2; recursive++) {
				char target[128];
				cJSON *tree;
				char *text;

				snprintf(target, sizeof(target), "/api/v1/%s%s", paths[p],
				         recursive ? "?recursive=true" : "");
				assert_int_equal(fixture_request(fx, "GET", target, NULL, NULL),
				                 200);
				tree = cJSON_Duplicate(fx->json, true);
				snprintf(target, sizeof(target), "/api/v1/%s?format=%s%s", paths[p],
				         formats[f], recursive ? "&recursive=true" : "");
				assert_int_equal(fixture_request(fx, "GET", target, NULL, NULL),
				                 200);
				text = l7mp_json_print(tree,
				                       (const enum l7mp_json_format[]){
				                               L7MP_JSON_PLAIN, L7MP_JSON_SPACE,
				                               L7MP_JSON_LINES, L7MP_JSON_DIFFY,
				                               L7MP_JSON_TERSE}[f]);
				assert_string_equal(fx->text, text);
				free(text);
				cJSON_Delete(tree);
			}
		}
	}
	crowd_end(&c);
}

/* ---- versions ---- */

static int put_if(struct api_fixture *fx, const char *target, const char *match, const char *body)
{
	cJSON *m = fixture_metadata("PUT", target, "text/yaml", "localhost");

	l7mp_json_add_str(l7mp_json_get(m, "/HTTP/headers"), "if-match", match);
	return fixture_dispatch(fx, m, body);
}

static void test_etags(void **state)
{
	struct api_fixture *fx = *state;
	static const char r[] = "/api/v1/routes/r";
	char *tag, *list;

	assert_int_equal(put_if(fx, r, "*", "route: {destination: a}"), 412); /* none is there */
	assert_int_equal(fixture_request(fx, "PUT", r, "text/yaml", "route: {destination: a}"),
	                 200);
	assert_int_equal(fixture_request(fx, "GET", r, NULL, NULL), 200);
	tag = strdup(fixture_header(fx, "ETag"));
	assert_int_equal(fixture_request(fx, "GET", "/api/v1/config", NULL, NULL), 200);
	list = strdup(fixture_header(fx, "ETag"));
	/* Another object changes: the config is another one, the route is not. */
	assert_int_equal(fixture_request(fx, "PUT", "/api/v1/routes/other", "text/yaml",
	                                 "route: {destination: a}"),
	                 200);
	assert_int_equal(put_if(fx, r, list, "route: {destination: b}"), 412);
	assert_int_equal(put_if(fx, r, tag, "route: {destination: b}"), 200);
	assert_int_equal(put_if(fx, r, tag, "route: {destination: c}"), 412);
	assert_int_equal(put_if(fx, r, "\"x\", W/\"y\"", "route: {destination: c}"), 412);
	assert_int_equal(fixture_request(fx, "GET", r, NULL, NULL), 200);
	assert_string_equal(l7mp_json_str(fx->json, "destination", ""), "b");
	free(tag);
	tag = l7mp_asprintf("\"none\" , %s", fixture_header(fx, "ETag"));
	assert_int_equal(put_if(fx, r, tag, "route: {destination: d}"), 200);
	free(tag);
	free(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_sessions_come_and_go, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_turns_are_short, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_large_pieces, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_cancelled_at_any_moment, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_pages_of_sessions, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_pages_of_objects, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_every_format, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_etags, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
