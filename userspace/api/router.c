/* SPDX-License-Identifier: MIT */
/* Routing of requests to handlers: split the path, match, read the query, count. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api_int.h"

/* Matches "/a/{x}/b" against decoded segments; args point into the segments. */
static bool match(const char *pattern, char *const *segments, size_t n, const char **args)
{
	size_t i = 0;
	size_t n_args = 0;

	while (*pattern == '/') {
		size_t len = strcspn(++pattern, "/");

		if (i == n)
			return false;
		if (*pattern == '{') {
			if (!*segments[i])
				return false;
			if (n_args < API_MAX_ARGS)
				args[n_args++] = segments[i];
		} else if (strlen(segments[i]) != len || memcmp(segments[i], pattern, len)) {
			return false;
		}
		pattern += len;
		i++;
	}
	return i == n;
}

static void add_method(char *allow, size_t size, const char *method)
{
	size_t used = strlen(allow);

	snprintf(allow + used, size - used, "%s%s", used ? ", " : "", method);
}

/* Sets rq->route and args, or fills rs with 404 or 405. */
static void find_route(struct api_request *rq, char *const *segments, size_t n,
                       struct api_response *rs)
{
	char allow[sizeof(rs->allow)] = "";
	const char *args[API_MAX_ARGS];

	for (const struct l7mp_rest_route *r = l7mp_rest_routes; r->method; r++) {
		if (!match(r->path, segments, n, args))
			continue;
		if (!strcmp(r->method, rq->method)) {
			rq->route = r;
			rq->binding = api_binding(r->op);
			memcpy(rq->args, args, sizeof(args));
			return;
		}
		add_method(allow, sizeof(allow), r->method);
		if (!strcmp(r->method, "GET"))
			add_method(allow, sizeof(allow), "HEAD");
	}
	if (!*allow) {
		api_fail(rs, 404, "no such path: '%s'", rq->raw_path);
		return;
	}
	api_fail(rs, 405, "method %s is not possible here, expected one of %s", rq->method, allow);
	memcpy(rs->allow, allow, sizeof(allow));
}

static void split_path(struct api_request *rq, struct api_response *rs)
{
	const char *path = rq->raw_path;
	const size_t base = strlen(API_BASE);
	int n;

	if (!path) {
		api_fail(rs, 400, "the session's metadata has no HTTP.url.path");
		return;
	}
	if (strncmp(path, API_BASE, base) || (path[base] && path[base] != '/')) {
		api_fail(rs, 404, "no such path; the API is below " API_BASE);
		return;
	}
	rq->path = strdup(path[base] ? path + base : "/");
	if (!rq->path) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	n = api_split_path(rq->path, rq->segments, API_MAX_SEGMENTS);
	if (n == -EINVAL)
		api_fail(rs, 400,
		         "bad path: expected UTF-8 text with escapes like %%2F and no %%00");
	else if (n < 0)
		api_fail(rs, 404, "no such path: too many segments");
	else
		rq->n_segments = (size_t)n;
}

static void bad_query(struct api_response *rs, const char *key, const char *value,
                      const char *expected)
{
	api_fail(rs, 400, "query parameter '%s': expected %s%s%.40s", key, expected,
	         value ? ", got " : "", value ? value : "");
}

static void read_recursive(struct api_request *rq, struct api_response *rs)
{
	char *value;

	if (api_query_get(rq->raw_query, "recursive", &value)) {
		bad_query(rs, "recursive", NULL, "true or false");
		return;
	}
	if (!value)
		return;
	rq->recursive = !*value || !strcasecmp(value, "true") || !strcmp(value, "1");
	if (!rq->recursive && strcasecmp(value, "false") && strcmp(value, "0"))
		bad_query(rs, "recursive", value, "true or false");
	free(value);
}

static void read_format(struct api_request *rq, struct api_response *rs)
{
	static const char expected[] = "plain, terse, space, lines or diffy";
	char *value;

	if (api_query_get(rq->raw_query, "format", &value)) {
		bad_query(rs, "format", NULL, expected);
		return;
	}
	if (value && l7mp_json_format_parse(value, &rq->format)) {
		rq->format = L7MP_JSON_PLAIN;
		bad_query(rs, "format", value, expected);
	}
	free(value);
}

static void read_limit(struct api_request *rq, struct api_response *rs)
{
	static const char expected[] = "a number, how many items at most";
	char *value;

	if (api_query_get(rq->raw_query, "limit", &value)) {
		bad_query(rs, "limit", NULL, expected);
		return;
	}
	if (!value)
		return;
	errno = 0;
	rq->limit = strtoull(value, NULL, 10);
	if (!*value || value[strspn(value, "0123456789")] || errno)
		bad_query(rs, "limit", value, expected);
	free(value);
}

static void read_query(struct api_request *rq, struct api_response *rs)
{
	read_recursive(rq, rs);
	if (!rs->status)
		read_format(rq, rs);
	if (!rs->status)
		read_limit(rq, rs);
	if (!rs->status && api_query_get(rq->raw_query, "after", &rq->after))
		bad_query(rs, "after", NULL, "where the list continues");
}

void api_count(struct l7mp_api *api, const struct l7mp_rest_route *route, int status)
{
	struct api_count *bigger;

	for (size_t i = 0; i < api->n_counts; i++) {
		if (api->counts[i].route == route && api->counts[i].status == status) {
			api->counts[i].n++;
			return;
		}
	}
	/* Bounded: routes and statuses are closed lists. */
	bigger = realloc(api->counts, (api->n_counts + 1) * sizeof(*bigger));
	if (!bigger)
		return;
	api->counts = bigger;
	bigger[api->n_counts++] = (struct api_count){.route = route, .status = status, .n = 1};
}

/* Rule lists and recursive views may be large. */
static bool is_large(const struct api_request *rq)
{
	return rq->recursive || rq->route->kind == L7MP_OBJ_RULELIST;
}

void api_dispatch(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_api *api = rq->api;
	unsigned flags;

	if (rq->too_large)
		api_fail(rs, 413, "the body is too large, expected at most %u bytes",
		         api->params.env->limits->max_body);
	if (!rs->status)
		split_path(rq, rs);
	if (!rs->status)
		find_route(rq, rq->segments, rq->n_segments, rs);
	if (!rs->status)
		read_query(rq, rs);
	if (!rs->status && api->stopping && strcmp(rq->method, "GET"))
		api_fail(rs, 503, "the proxy is shutting down");
	if (rs->status)
		return;
	flags = rq->binding.flags;
	if (flags & (API_CHANGE | API_READ) || (flags & API_READ_IF_LARGE && is_large(rq)))
		return;
	rq->binding.handler(rq, rs);
	if (!rs->status)
		api_fail(rs, 500, "out of memory");
}

void api_request_clear(struct api_request *rq)
{
	free(rq->session);
	free(rq->raw_path);
	free(rq->raw_query);
	free(rq->content_type);
	free(rq->if_match);
	free(rq->body);
	free(rq->method);
	free(rq->path);
	free(rq->after);
	l7mp_document_free(&rq->document);
	memset(rq, 0, sizeof(*rq));
}
