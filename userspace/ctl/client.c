/* SPDX-License-Identifier: MIT */
/*
 * A small blocking client of the REST API, with libcurl. The API's address is given by --api or
 * L7MP_API; otherwise the default address of the admin server is tried, then that of the original
 * l7mp's example.
 */
#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"
#include "l7mp/addr.h"

#define ADMIN_SERVER  "http://127.0.0.1:1235"
#define EXAMPLE       "http://127.0.0.1:1234"
#define DEFAULT_TOKEN "/etc/l7mp/token"
#define FIND_TIMEOUT  5L
/* Attempts for 503 with Retry-After, which means that nothing was done. */
#define TRIES 5
/* The largest answer: 100,000 sessions, the default limit of a proxy, have about 250 MB. */
#define ANSWER_MAX ((size_t)512 * 1024 * 1024)

struct ctl_client {
	CURL *curl;
	char *base; /* first part of URLs, without a slash at the end */
	bool found; /* it was discovered, not given by the user */
	bool sent_token;
	bool retry; /* the last answer had Retry-After */
	/* why the default token is not sent; NULL: it is, or there is none */
	const char *no_token;
	char why[100];
	struct curl_slist *headers;
	char error[CURL_ERROR_SIZE];
	long local_port;
	struct l7mp_str answer; /* body of the answer that is being received */
	bool too_large;         /* it was cut off at ANSWER_MAX */
};

char *ctl_path(const char *first, ...)
{
	struct l7mp_str s = {0};
	const char *segment;
	va_list ap;

	va_start(ap, first);
	for (segment = first; segment; segment = va_arg(ap, const char *)) {
		/* Escapes all but unreserved characters (RFC 3986). */
		char *escaped = curl_easy_escape(NULL, segment, 0);

		l7mp_str_add(&s, "/");
		l7mp_str_add(&s, escaped ? escaped : "");
		s.oom |= !escaped;
		curl_free(escaped);
	}
	va_end(ap);
	return l7mp_str_take(&s);
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct ctl_client *cl = arg;

	cl->too_large = cl->too_large || size * n > ANSWER_MAX - cl->answer.len;
	if (cl->too_large)
		return 0;
	l7mp_str_addn(&cl->answer, data, size * n);
	return cl->answer.oom ? 0 : size * n;
}

static void answer_clear(struct ctl_client *cl)
{
	l7mp_str_free(&cl->answer);
	cl->too_large = false;
}

static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
	struct ctl_client *cl = arg;

	if (size * n > 12 && !strncasecmp(data, "Retry-After:", 12))
		cl->retry = true;
	return size * n;
}

/* Returns whether the API is at a loopback address or a UNIX socket. */
static bool is_local(const struct ctl_client *cl)
{
	CURLU *url = curl_url();
	struct l7mp_addr addr;
	char *host = NULL, *start;
	bool local = false;

	if (url && !curl_url_set(url, CURLUPART_URL, cl->base, 0) &&
	    !curl_url_get(url, CURLUPART_HOST, &host, 0)) {
		start = host + (*host == '[');
		start[strcspn(start, "]")] = '\0';
		local = !strcasecmp(start, "localhost") ||
		        (!l7mp_addr_parse(&addr, start, 0) && l7mp_addr_is_loopback(&addr));
	}
	curl_free(host);
	curl_url_cleanup(url);
	return local;
}

static int add_token(struct ctl *c, struct ctl_client *cl)
{
	const char *path = c->token ? c->token : DEFAULT_TOKEN;
	struct curl_slist *longer;
	char *text, *token, *line;
	size_t len;
	int rc;

	if (!c->token && !is_local(cl)) {
		/* Another host has no business with the token of this host's proxy. */
		cl->no_token = "is not sent to another host: name its token with --token";
		return CTL_OK;
	}
	rc = l7mp_read_file(path, 4096, &text, &len);
	if (rc && !c->token) {
		/* A missing default token is no error: the proxy may answer without one. */
		snprintf(cl->why, sizeof(cl->why), "can't be read: %s", strerror(-rc));
		cl->no_token = rc == -ENOENT ? NULL : cl->why;
		return CTL_OK;
	}
	if (rc) {
		ctl_error("%s: can't read the token: %s", path, strerror(-rc));
		return CTL_FAILED;
	}
	/* White space around the token is removed, as in the proxy: both may read the same file. */
	token = text + strspn(text, " \t\r\n\v\f");
	len = strcspn(token, "\r\n");
	while (len && isspace((unsigned char)token[len - 1]))
		len--;
	if (!len) {
		ctl_error("%s: expected a token, the file is empty", path);
		free(text);
		return CTL_FAILED;
	}
	token[len] = '\0';
	line = l7mp_asprintf("Authorization: Bearer %s", token);
	free(text);
	longer = line ? curl_slist_append(cl->headers, line) : NULL;
	free(line);
	if (!longer)
		return CTL_FAILED;
	cl->headers = longer;
	cl->sent_token = true;
	return CTL_OK;
}

/* Returns whether the admin server answers at its default address. No token is sent for this. */
static bool admin_server_answers(struct ctl_client *cl)
{
	struct l7mp_str *text = &cl->answer;
	char message[80];
	int line = 0;
	cJSON *answer = NULL;

	curl_easy_setopt(cl->curl, CURLOPT_URL, ADMIN_SERVER "/healthz");
	curl_easy_setopt(cl->curl, CURLOPT_TIMEOUT, FIND_TIMEOUT);
	if (!curl_easy_perform(cl->curl) && text->s)
		answer = l7mp_json_parse(text->s, text->len, &line, message, sizeof(message));
	answer_clear(cl);
	line = l7mp_json_member(answer, "status") && l7mp_json_member(answer, "message");
	cJSON_Delete(answer);
	return line;
}

/* Discovers the API: sets cl->base, and libcurl's options for it. */
static int find_api(struct ctl *c, struct ctl_client *cl)
{
	const char *api = c->api;
	size_t len;

	cl->found = !api;
	if (!api)
		api = admin_server_answers(cl) ? ADMIN_SERVER : EXAMPLE;
	curl_easy_setopt(cl->curl, CURLOPT_TIMEOUT, c->timeout);
	if (!strncmp(api, "unix:@", 6)) {
		curl_easy_setopt(cl->curl, CURLOPT_ABSTRACT_UNIX_SOCKET, api + 6);
		api = "http://localhost";
	} else if (!strncmp(api, "unix:", 5)) {
		curl_easy_setopt(cl->curl, CURLOPT_UNIX_SOCKET_PATH, api + 5);
		api = "http://localhost";
	}
	len = strlen(api);
	while (len && api[len - 1] == '/')
		len--;
	cl->base = strndup(api, len);
	if (cl->base)
		return CTL_OK;
	ctl_error("out of memory");
	return CTL_FAILED;
}

static int client_new(struct ctl *c)
{
	struct ctl_client *cl = calloc(1, sizeof(*cl));

	c->client = cl;
	if (!cl || curl_global_init(CURL_GLOBAL_DEFAULT) || !(cl->curl = curl_easy_init())) {
		ctl_error("out of memory");
		return CTL_FAILED;
	}
	cl->headers = curl_slist_append(NULL, "Content-Type: application/json");
	/*
	 * Without an empty Expect header libcurl waits a second for "100 Continue" before a large
	 * body.
	 */
	if (cl->headers)
		curl_slist_append(cl->headers, "Expect:");
	curl_easy_setopt(cl->curl, CURLOPT_ERRORBUFFER, cl->error);
	curl_easy_setopt(cl->curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(cl->curl, CURLOPT_WRITEDATA, cl);
	curl_easy_setopt(cl->curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(cl->curl, CURLOPT_PROXY, "");
	curl_easy_setopt(cl->curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(cl->curl, CURLOPT_NOSIGNAL, 1L);
	/* Lists may have megabytes. */
	curl_easy_setopt(cl->curl, CURLOPT_BUFFERSIZE, 256L * 1024);
	curl_easy_setopt(cl->curl, CURLOPT_CONNECTTIMEOUT, 5L);
	curl_easy_setopt(cl->curl, CURLOPT_USERAGENT, "l7mpctl/" L7MP_VERSION);
	curl_easy_setopt(cl->curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(cl->curl, CURLOPT_HEADERDATA, cl);
	if (find_api(c, cl))
		return CTL_FAILED;
	return add_token(c, cl);
}

void ctl_client_free(struct ctl *c)
{
	if (!c->client)
		return;
	curl_slist_free_all(c->client->headers);
	curl_easy_cleanup(c->client->curl);
	answer_clear(c->client);
	free(c->client->base);
	free(c->client);
	c->client = NULL;
	curl_global_cleanup();
}

long ctl_local_port(const struct ctl *c)
{
	return c->client ? c->client->local_port : 0;
}

/* Whether the message of an error already has its only finding, except for the line. */
static bool is_said(const char *message, const char *path, const char *reason)
{
	size_t n = strlen(path);

	if (!n)
		return strstr(message, reason) != NULL;
	return !strncmp(message, path, n) && !strncmp(message + n, ": ", 2) &&
	       !strcmp(message + n + 2, reason);
}

static void print_refusal(long status, const cJSON *answer, const struct ctl_input *lines)
{
	const char *message = l7mp_json_str(answer, "message", "refused");
	const cJSON *e;

	ctl_error("%ld: %s", status, message);
	cJSON_ArrayForEach (e, l7mp_json_member(answer, "content")) {
		const char *path = l7mp_json_str(e, "path", "");
		const char *reason = l7mp_json_str(e, "reason", "");
		int line = lines ? ctl_input_line(lines, path) : 0;

		if (!line && is_said(message, path, reason))
			continue;
		fputs("  ", stderr);
		if (line) {
			ctl_print_safe(stderr, lines->name);
			fprintf(stderr, ":%d: ", line);
		}
		ctl_print_safe(stderr, path);
		fputs(*path ? ": " : "", stderr);
		ctl_print_safe(stderr, reason);
		fputc('\n', stderr);
	}
}

/* Whether the answer is an object, or with `list` a list of objects. */
static bool has_shape(const cJSON *answer, bool list)
{
	const cJSON *e;

	if (!list)
		return cJSON_IsObject(answer);
	cJSON_ArrayForEach (e, answer)
		if (!cJSON_IsObject(e))
			return false;
	return cJSON_IsArray(answer);
}

static int finish(struct ctl *c, const char *url, const struct ctl_input *lines, bool list,
                  cJSON **out)
{
	const struct l7mp_str *text = &c->client->answer;
	char message[128];
	long status = 0;
	int line = 0;
	cJSON *answer =
	        l7mp_json_parse(text->s ? text->s : "", text->len, &line, message, sizeof(message));

	curl_easy_getinfo(c->client->curl, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(c->client->curl, CURLINFO_LOCAL_PORT, &c->client->local_port);
	if (status >= 200 && status < 300 && has_shape(answer, list)) {
		*out = answer;
		return CTL_OK;
	}
	if (answer && status >= 200 && status < 300)
		ctl_error("%s answered %s, not %s: is this the REST API of l7mp-proxy?", url,
		          cJSON_IsArray(answer) ? "a list" : l7mp_json_type(answer),
		          list ? "a list of objects" : "an object");
	else if (cJSON_IsObject(answer))
		print_refusal(status, answer, lines);
	else
		ctl_error("%s answered %ld and no JSON: is this the REST API of l7mp-proxy?", url,
		          status);
	cJSON_Delete(answer);
	return CTL_FAILED;
}

static void set_method(CURL *curl, const char *method, const char *body)
{
	curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L);
	if (body) {
		curl_easy_setopt(curl, CURLOPT_POST, 1L);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	}
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
}

/* The HTTP status of the last answer; 0: there was none. */
static long last_status(const struct ctl *c)
{
	long status = 0;

	curl_easy_getinfo(c->client->curl, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

/*
 * Without an answer, and if the user did not give the address: explains where the API was looked
 * for. Of a token: why none was sent, or which one `where` refused.
 */
static void explain_where(const struct ctl *c, const char *where)
{
	const struct ctl_client *cl = c->client;

	if (cl->found && !last_status(c))
		fprintf(stderr, "  the API was looked for at " ADMIN_SERVER " and then at " EXAMPLE
		                "; --api URL or L7MP_API says where it is\n");
	if (cl->no_token)
		fprintf(stderr, "  " DEFAULT_TOKEN " %s\n", cl->no_token);
	if (last_status(c) != 401)
		return;
	fputs("  ", stderr);
	ctl_print_safe(stderr, where);
	if (cl->sent_token) {
		fputs(" refused the token in ", stderr);
		ctl_print_safe(stderr, c->token ? c->token : DEFAULT_TOKEN);
		fputc('\n', stderr);
	} else {
		fputs(" needs a token: give one with --token FILE\n", stderr);
	}
}

static void wait_a_second(void)
{
	const struct timespec second = {.tv_sec = 1};

	nanosleep(&second, NULL);
}

/* Sends the request, again while the answer is "busy". */
static CURLcode perform(struct ctl *c)
{
	struct ctl_client *cl = c->client;
	CURLcode code;

	for (int i = 0; i < TRIES; i++) {
		if (i)
			wait_a_second();
		answer_clear(cl);
		cl->retry = false;
		cl->error[0] = '\0';
		code = curl_easy_perform(cl->curl);
		if (code || last_status(c) != 503 || !cl->retry)
			break;
	}
	return code;
}

static void explain_failure(const struct ctl *c, const char *where, CURLcode code)
{
	const struct ctl_client *cl = c->client;

	if (cl->too_large)
		ctl_error("%s: the answer is larger than %zu MiB: is this the REST API of "
		          "l7mp-proxy? --limit N requests a part of a long list",
		          where, ANSWER_MAX / 1024 / 1024);
	else if (cl->answer.oom)
		ctl_error("%s: out of memory", where);
	else
		ctl_error("%s: %s", where, *cl->error ? cl->error : curl_easy_strerror(code));
}

static int request(struct ctl *c, const char *method, const char *path, const cJSON *body,
                   const struct ctl_input *lines, bool list, cJSON **out)
{
	char *url = NULL;
	char *text = NULL;
	int rc = c->client ? CTL_OK : client_new(c);

	*out = NULL;
	if (rc)
		return rc;
	url = path ? l7mp_asprintf("%s/api/v1%s", c->client->base, path) : NULL;
	text = body ? l7mp_json_print(body, L7MP_JSON_PLAIN) : NULL;
	rc = CTL_FAILED;
	if (!url || (body && !text)) {
		ctl_error("out of memory");
	} else {
		bool unix_api = c->api && !strncmp(c->api, "unix:", 5);
		const char *where = unix_api ? c->api : url;
		CURL *curl = c->client->curl;
		CURLcode code;

		set_method(curl, method, text);
		curl_easy_setopt(curl, CURLOPT_HTTPHEADER, c->client->headers);
		curl_easy_setopt(curl, CURLOPT_URL, url);
		code = perform(c);
		if (code)
			explain_failure(c, where, code);
		else
			rc = finish(c, where, lines, list, out);
		if (code || last_status(c) == 401 || last_status(c) == 403)
			explain_where(c, unix_api ? c->api : c->client->base);
		answer_clear(c->client);
	}
	free(url);
	free(text);
	return rc;
}

int ctl_request(struct ctl *c, const char *method, const char *path, const cJSON *body,
                const struct ctl_input *lines, cJSON **out)
{
	return request(c, method, path, body, lines, false, out);
}

int ctl_request_list(struct ctl *c, const char *path, cJSON **out)
{
	return request(c, "GET", path, NULL, NULL, true, out);
}
