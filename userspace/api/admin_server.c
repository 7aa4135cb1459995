/* SPDX-License-Identifier: MIT */
/*
 * The admin server: civetweb in separate threads, so that an operator can connect whatever the data
 * plane's listeners, sessions and limits are doing. This is the only file that uses civetweb 1.15,
 * whose pitfalls are handled here:
 *
 *  - It reads at most 64 header fields, and stops silently at a folded or nameless one; the
 *    following fields, including the framing, are treated as absent. Such requests are rejected,
 *    and keep-alive is off, so that data after a request is never read as another one.
 *  - mg_read waits for a full buffer, and its time-out restarts with each byte. A timer of the loop
 *    ends that (admin_request.c).
 *  - mg_stop joins the threads, which may be waiting for the loop, so it runs on a separate thread.
 *  - mg_start changes the actions of SIGCHLD and SIGPIPE.
 *  - It has no call that takes a listening socket: at an upgrade it binds another one, whose
 *    descriptor is replaced (replace_socket).
 *  - mg_stop leaks connections that were accepted but not yet served: they stay open, and their
 *    clients wait. They are found and closed afterwards.
 *
 * An engine is one running instance of civetweb. A new address is bound by a new engine before the
 * old one is stopped; when only the number of threads changes, the new engine starts after the old
 * one has stopped.
 *
 * Threads: begin_request and the functions that it calls run on civetweb's threads; the rest on the
 * loop.
 */
#include "admin_server.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "admin_request.h"
#include "api_int.h"
#include "l7mp/hash.h"
#include "l7mp/listening.h"
#include "l7mp/log.h"
#include "l7mp/mailbox.h"
#include "net/net.h"

#define HEAD_TIMEOUT_MS "5000"
#define FIELDS_MAX      64 /* civetweb's MG_MAX_HEADERS: with that many, some may be missing */
/*
 * mg_read returns when it has all requested bytes. civetweb 1.15 returns earlier after the wake
 * signal, 1.16 (Debian 13) does not. With few bytes per call, a body that arrives byte by byte is
 * checked often enough in both. 4 MiB take a thread a quarter of a second.
 */
#define BODY_STEP     32
#define DISCARD_MAX   (8 * 1024 * 1024) /* bytes of an unwanted body that are read */
#define RESTART_MS    1000
#define STOP_GRACE_MS 2000
#define GIVEN_REST_MS 250

struct engine {
	struct l7mp_mail stopped_mail;
	struct l7mp_api_server *server;
	struct l7mp_mailbox *mailbox; /* borrowed from the server */
	struct l7mp_api *api;
	struct mg_context *mg;
	struct l7mp_admin_server where;
	_Atomic uint16_t port; /* the port that was bound */
	int fd;                /* civetweb's listening socket; -1: not found */
	atomic_bool given;     /* another process has the socket; fd is then an eventfd */
	pthread_t stopper;
	atomic_uint busy; /* requests in progress */
	atomic_bool retiring;
	pthread_t owner; /* the loop's thread */
	/* during mg_start: civetweb's message is the reason of a failure */
	atomic_bool starting;
	char message[200];
};

struct l7mp_api_server {
	struct l7mp_api *api;
	struct l7mp_loop *loop;
	struct l7mp_mailbox *mailbox; /* NULL: no engine was started yet */
	struct engine *current;       /* NULL: off, or between two engines */
	struct engine *next;          /* bound, until it is committed or rolled back */
	struct l7mp_admin_server want;
	struct l7mp_timer restart;
	unsigned stopping; /* engines whose threads are being joined */
	bool stopped;
	void (*done)(void *arg);
	void *done_arg;
};

/* ---- a request, on civetweb's thread ---- */

struct conn {
	struct mg_connection *mg;
	const struct mg_request_info *ri;
	struct engine *engine;
	struct admin_request *rq;
	long long length; /* length of the body; -1: chunked */
	bool http10, head, expects;
	bool started; /* the answer has begun */
};

static bool put(struct conn *c, const void *data, size_t len)
{
	bool ok;

	if (c->rq)
		admin_request_io(c->rq, true, 0);
	ok = mg_write(c->mg, data, len) == (int)len;
	if (c->rq)
		admin_request_io(c->rq, false, ok ? len : 0);
	return ok;
}

static const char *phrase(int status)
{
	return mg_get_response_code_text(NULL, status);
}

static void date_text(char *buf, size_t size)
{
	static const char days[] = "SunMonTueWedThuFriSat";
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	time_t now = time(NULL);
	struct tm tm;

	/* strftime(3) would use the locale. */
	gmtime_r(&now, &tm);
	snprintf(buf, size, "%.3s, %02d %.3s %d %02d:%02d:%02d GMT", days + 3 * (tm.tm_wday % 7),
	         tm.tm_mday, months + 3 * (tm.tm_mon % 12), tm.tm_year + 1900, tm.tm_hour,
	         tm.tm_min, tm.tm_sec);
}

/*
 * Writes the status line, Date, the given lines and the framing. length -1: chunked, or with
 * HTTP/1.0 until the end of the connection.
 */
static bool add_head(const struct conn *c, struct l7mp_str *out, int status, const char *headers,
                     long long length)
{
	char date[64];

	date_text(date, sizeof(date));
	l7mp_str_addf(out, "HTTP/1.1 %d %s\r\nDate: %s\r\n%sConnection: close\r\n", status,
	              phrase(status), date, headers);
	if (status == 304)
		; /* has no body, and its length would be that of the file */
	else if (length >= 0)
		l7mp_str_addf(out, "Content-Length: %lld\r\n", length);
	else if (!c->http10)
		l7mp_str_add(out, "Transfer-Encoding: chunked\r\n");
	l7mp_str_add(out, "\r\n");
	return !out->oom;
}

/* Refuses a request without the loop. */
static void refuse(struct conn *c, int status, const char *message)
{
	struct l7mp_str out = {0}, body = {0};
	cJSON *json = cJSON_CreateObject();
	char *text;

	l7mp_json_add_num(json, "status", status);
	l7mp_json_add_str(json, "message", message);
	l7mp_json_add(json, "content", cJSON_CreateArray());
	text = l7mp_json_print(json, L7MP_JSON_PLAIN);
	cJSON_Delete(json);
	l7mp_str_add(&body, text ? text : "");
	free(text);
	if (add_head(c, &out, status,
	             status == 503 ? "Content-Type: application/json\r\nRetry-After: 1\r\n"
	                           : "Content-Type: application/json\r\n",
	             (long long)body.len)) {
		if (!c->head)
			l7mp_str_addn(&out, body.s, body.len);
		if (!out.oom)
			(void)put(c, out.s, out.len);
	}
	l7mp_str_free(&out);
	l7mp_str_free(&body);
}

static const char *find(const struct mg_request_info *ri, const char *name, int *count)
{
	const char *value = NULL;

	*count = 0;
	for (int i = 0; i < ri->num_headers; i++) {
		if (strcasecmp(ri->http_headers[i].name, name) != 0)
			continue;
		value = ri->http_headers[i].value;
		(*count)++;
	}
	return value;
}

/*
 * Detects whether civetweb has parsed the whole head. It overwrites each byte of the parsed line
 * breaks, and the last byte of the head, with NUL. So each field must begin two bytes after the end
 * of the previous text; otherwise civetweb has skipped a blank or a bare line feed. After the last
 * field the rest of the empty line must follow; otherwise civetweb has stopped there.
 */
static bool read_to_the_end(const struct mg_request_info *ri)
{
	const char *end = ri->http_version + strlen(ri->http_version);

	for (int i = 0; i < ri->num_headers; i++) {
		if (ri->http_headers[i].name != end + 2)
			return false;
		end = ri->http_headers[i].value + strlen(ri->http_headers[i].value);
	}
	/* Without any field the empty line was parsed together with the end of the request line. */
	return !end[1] && end[2] == (ri->num_headers ? '\r' : '\0') && !end[3];
}

/*
 * Whether there is a blank between a field's name and its colon, which civetweb ignores; RFC 9112,
 * section 5.1, requires a rejection.
 */
static bool has_blank_name(const struct mg_request_info *ri)
{
	for (int i = 0; i < ri->num_headers; i++) {
		const char *after = ri->http_headers[i].name + strlen(ri->http_headers[i].name) + 1;

		if (after < ri->http_headers[i].value && !*after)
			return true;
	}
	return false;
}

static const char not_a_path[] = "expected the path of something on this server";

static const char *check_head(const struct mg_request_info *ri)
{
	if (ri->request_uri[0] != '/')
		return not_a_path;
	if (ri->num_headers >= FIELDS_MAX)
		return "more than 63 header fields";
	if (!read_to_the_end(ri))
		return "a header field that is folded or has no name, or a bare line feed";
	if (has_blank_name(ri))
		return "a blank between a field's name and its colon";
	return NULL;
}

/* Refuses ambiguous framing (RFC 9112, section 6). */
static const char *read_framing(struct conn *c)
{
	int lengths, codings, hosts, n;
	const char *length = find(c->ri, "Content-Length", &lengths);
	const char *coding = find(c->ri, "Transfer-Encoding", &codings);

	find(c->ri, "Host", &hosts);
	c->http10 = strcmp(c->ri->http_version, "1.1") != 0;
	c->expects = !c->http10 && find(c->ri, "Expect", &n);
	if (hosts > 1 || (hosts == 0 && !c->http10))
		return "expected exactly one Host header";
	if (lengths + codings > 1)
		return "expected one Content-Length or one Transfer-Encoding header";
	if (coding && (strcasecmp(coding, "chunked") != 0 || c->http10))
		return "expected the Transfer-Encoding to be chunked, in HTTP/1.1";
	if (length && (!*length || length[strspn(length, "0123456789")] || strlen(length) > 18))
		return "expected Content-Length to be a number";
	c->length = coding ? -1 : length ? strtoll(length, NULL, 10) : 0;
	return NULL;
}

/* Returns {"HTTP": {"method", "url", "headers"}}; repeated fields are joined. NULL: no memory. */
static cJSON *make_metadata(const struct mg_request_info *ri)
{
	cJSON *root = cJSON_CreateObject();
	cJSON *http = cJSON_AddObjectToObject(root, "HTTP");
	cJSON *url = cJSON_AddObjectToObject(http, "url");
	cJSON *headers = cJSON_AddObjectToObject(http, "headers");
	int rc = l7mp_json_add_str(http, "method", ri->request_method);

	rc |= l7mp_json_add_str(url, "path", ri->local_uri_raw);
	rc |= l7mp_json_add_str(url, "query", ri->query_string ? ri->query_string : "");
	for (int i = 0; i < ri->num_headers && !rc; i++) {
		const char *name = ri->http_headers[i].name, *value = ri->http_headers[i].value;
		cJSON *old = cJSON_GetObjectItem(headers, name);

		if (old) {
			char *both = l7mp_asprintf("%s, %s", old->valuestring, value);

			rc = both && cJSON_SetValuestring(old, both) ? 0 : -ENOMEM;
			free(both);
		} else {
			rc = l7mp_json_add_str(headers, name, value);
		}
	}
	if (!rc)
		return root;
	cJSON_Delete(root);
	return NULL;
}

/* Whether this request is a browser's, for a page. */
static bool wants_page(const struct mg_request_info *ri)
{
	int n;
	const char *accept = find(ri, "Accept", &n);

	return accept && strstr(accept, "text/html");
}

static bool is_console(const char *path)
{
	return !strcmp(path, "/console") || !strncmp(path, "/console/", 9);
}

static enum admin_target target_of(const struct mg_request_info *ri, const char *path,
                                   const char **api_path)
{
	static const struct {
		const char *path;
		enum admin_target target;
		const char *api_path;
	} known[] = {
	        {"/metrics", ADMIN_METRICS, "/metrics"},
	        {"/healthz", ADMIN_HEALTH, "/healthz"},
	        {"/readyz", ADMIN_READY, "/readyz"},
	        {"/openapi.json", ADMIN_REST, API_BASE "/openapi.json"},
	        {"/openapi.yaml", ADMIN_REST, API_BASE "/openapi.yaml"},
	};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(known); i++) {
		if (!strcmp(path, known[i].path)) {
			*api_path = known[i].api_path;
			return known[i].target;
		}
	}
	*api_path = path;
	if (is_console(path) || (!strcmp(path, "/") && wants_page(ri)))
		return ADMIN_CONSOLE;
	return ADMIN_REST;
}

static struct admin_request *make_request(struct conn *c)
{
	struct engine *e = c->engine;
	struct admin_head head = {
	        .method = c->ri->request_method, .query = c->ri->query_string, .length = c->length};
	const char *path = c->ri->local_uri_raw ? c->ri->local_uri_raw : "";
	const char *local = e->where.address;
	char link[128] = "";
	const char *host;

	head.target = target_of(c->ri, path, &head.path);
	if (l7mp_addr_parse(&head.peer, c->ri->remote_addr, (uint16_t)c->ri->remote_port))
		return NULL;
	/* Bound to all addresses: civetweb reveals the local address only as part of a link. */
	if (!strcmp(local, "0.0.0.0")) {
		mg_get_request_link(c->mg, link, sizeof(link));
		host = strstr(link, "://");
		if (!host)
			return NULL;
		host += 3;
		link[(size_t)(host - link) + strcspn(host, ":/")] = '\0';
		local = host;
	}
	/* With port 0 a request may arrive before the port is known: it is refused. */
	if (l7mp_addr_parse(&head.local, local, e->where.port ? e->where.port : e->port))
		return NULL;
	head.metadata = make_metadata(c->ri);
	if (!head.metadata)
		return NULL;
	(void)l7mp_json_set(head.metadata, "/HTTP/url/path", cJSON_CreateString(head.path));
	return admin_request_new(e->api, e->mailbox, &head);
}

/*
 * Reads at most n bytes. 0: the end; -1: the client is too slow or has closed, or its chunks are
 * malformed.
 */
static int read_some(struct conn *c, char *buf, size_t n)
{
	int got;

	admin_request_io(c->rq, true, 0);
	got = mg_read(c->mg, buf, n);
	admin_request_io(c->rq, false, got > 0 ? (size_t)got : 0);
	return admin_request_expired(c->rq) ? -1 : got;
}

/* Returns 0 and the body (heap), else the status of the refusal. */
static int read_body(struct conn *c, struct l7mp_str *body, bool *too_large)
{
	size_t max = admin_request_max_body(c->rq);
	char buf[BODY_STEP];
	int status = 0;
	size_t seen = 0;

	if (c->expects && (c->length < 0 || c->length <= (long long)max) &&
	    !put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25))
		status = 400;
	*too_large = c->length > (long long)max;
	while (!status && !*too_large && (c->length < 0 || seen < (size_t)c->length)) {
		size_t n = BODY_STEP;
		int got;

		if (c->length >= 0 && (size_t)c->length - seen < n)
			n = (size_t)c->length - seen;
		got = read_some(c, buf, n);
		if (got == 0 && c->length < 0)
			break;
		if (got <= 0)
			status = admin_request_expired(c->rq) || c->length >= 0 ? 408 : 400;
		else
			seen += (size_t)got;
		*too_large = seen > max;
		if (!status && !*too_large)
			l7mp_str_addn(body, buf, (size_t)got);
		if (body->oom)
			status = 503;
		/* civetweb ends a chunked body with a short read. */
		if (c->length < 0 && got < (int)n)
			break;
	}
	return status;
}

static void write_answer(struct conn *c)
{
	struct l7mp_str out = {0};
	const char *headers;
	long long length;
	char *text = NULL;
	bool chunked;
	size_t len;
	int status, rc = 0;

	if (!admin_request_wait_head(c->rq, &status, &headers, &length)) {
		refuse(c, 503, "the event loop has not answered in time");
		return;
	}
	chunked = length < 0 && !c->http10 && !c->head;
	add_head(c, &out, status, headers, length);
	while (!c->head && (rc = admin_request_wait_piece(c->rq, &text, &len)) > 0) {
		if (chunked)
			l7mp_str_addf(&out, "%zx\r\n", len);
		l7mp_str_addn(&out, text, len);
		if (chunked)
			l7mp_str_add(&out, "\r\n");
		free(text);
		if (out.oom || !put(c, out.s, out.len) || admin_request_expired(c->rq)) {
			l7mp_str_free(&out);
			return; /* the client detects that the answer is incomplete */
		}
		l7mp_str_free(&out);
	}
	if (!c->head && rc < 0) {
		l7mp_str_free(&out);
		return;
	}
	if (chunked)
		l7mp_str_add(&out, "0\r\n\r\n");
	if (out.len && !out.oom)
		(void)put(c, out.s, out.len);
	l7mp_str_free(&out);
}

/*
 * Reads the rest of a refused body: if the socket were closed with unread data, the kernel would
 * send a reset.
 */
static void discard_rest(struct conn *c)
{
	char buf[BODY_STEP];
	size_t seen = 0;
	int got = 1;

	while (got > 0 && seen < DISCARD_MAX && !admin_request_expired(c->rq)) {
		got = read_some(c, buf, sizeof(buf));
		seen += got > 0 ? (size_t)got : 0;
		if (got < (int)sizeof(buf))
			break;
	}
}

static void run(struct conn *c, struct l7mp_str *body, bool too_large)
{
	size_t len = too_large ? 0 : body->len;
	char *text = len ? l7mp_str_take(body) : NULL;

	admin_request_run(c->rq, text, len, too_large);
}

static void serve(struct conn *c)
{
	struct l7mp_str body = {0};
	bool too_large = false;
	int status = 0;

	c->rq = make_request(c);
	if (!c->rq) {
		refuse(c, 503, "out of memory");
		return;
	}
	if (admin_request_admit(c->rq)) {
		status = read_body(c, &body, &too_large);
		if (!status)
			run(c, &body, too_large);
	}
	if (status == 408)
		refuse(c, status, "the request's body did not arrive in time");
	else if (status == 400)
		refuse(c, status,
		       "the chunked body is malformed, has extensions or trailers, or is cut "
		       "short");
	else if (status)
		refuse(c, status, "out of memory");
	else
		write_answer(c);
	l7mp_str_free(&body);
	if (!status && c->length && !c->expects)
		discard_rest(c);
	admin_request_drop(c->rq);
}

/*
 * The number of requests in progress up to which this one is answered. A page's files are requested
 * concurrently and not retried, so they may also use the thread reserved for "busy" answers.
 */
static unsigned slots(const struct conn *c)
{
	const char *path = c->ri->local_uri_raw;

	return c->engine->where.threads + (path && is_console(path) ? 1U : 0U);
}

/* Marks a connection that was answered, for connection_close. */
static char answered;

static int begin_request(struct mg_connection *mg)
{
	struct conn c = {.mg = mg, .ri = mg_get_request_info(mg)};
	const char *wrong;
	int n;

	mg_set_user_connection_data(mg, &answered);
	/*
	 * Otherwise civetweb reads the rest of the body, with a time-out that restarts with each
	 * byte.
	 */
	mg_disable_connection_keep_alive(mg);
	c.engine = c.ri->user_data;
	c.head = !strcmp(c.ri->request_method, "HEAD");
	wrong = check_head(c.ri);
	if (!wrong)
		wrong = read_framing(&c);
	if (wrong) {
		refuse(&c, 400, wrong);
	} else if (c.expects && strcasecmp(find(c.ri, "Expect", &n), "100-continue") != 0) {
		refuse(&c, 417, "expected nothing but 100-continue");
	} else if (atomic_load(&c.engine->retiring) && !atomic_load(&c.engine->given)) {
		refuse(&c, 503, "this server is being stopped");
	} else if (atomic_fetch_add(&c.engine->busy, 1) >= slots(&c)) {
		atomic_fetch_sub(&c.engine->busy, 1);
		refuse(&c, 503, "all threads of the admin server are busy (admin.server.threads)");
	} else {
		serve(&c);
		atomic_fetch_sub(&c.engine->busy, 1);
	}
	return 200; /* answered: civetweb must do nothing more */
}

/* Requests that civetweb can't parse. */
static int http_error(struct mg_connection *mg, int status, const char *text)
{
	struct conn c = {.mg = mg};

	mg_set_user_connection_data(mg, &answered);
	refuse(&c, status, text ? text : "the request can't be read");
	return 0;
}

/* civetweb closes without an answer on requests for other servers (http://elsewhere/, *). */
static void connection_close(const struct mg_connection *mg)
{
	struct conn c = {.mg = (struct mg_connection *)mg};
	const struct mg_request_info *ri = mg_get_request_info(mg);

	if (!mg_get_user_connection_data(mg) && ri && ri->request_uri)
		refuse(&c, 400, not_a_path);
}

static int log_message(const struct mg_connection *mg, const char *text)
{
	struct engine *e = mg_get_user_data(mg_get_context(mg));

	if (e && atomic_load(&e->starting) && pthread_equal(e->owner, pthread_self()))
		snprintf(e->message, sizeof(e->message), "%s", text);
	l7mp_log_silly("admin", "civetweb: %s", text);
	return 1;
}

/* ---- engines, on the loop ---- */

static void wake_handler(int signum)
{
	(void)signum;
}

/* mg_start changes these signals' actions for the whole process. */
static const int touched_signals[] = {SIGCHLD, SIGPIPE};

static struct mg_context *start_civetweb(struct engine *e, const char *ports, const char *threads)
{
	static const struct mg_callbacks callbacks = {
	        .begin_request = begin_request,
	        .http_error = http_error,
	        .connection_close = connection_close,
	        .log_message = log_message,
	};
	const char *options[] = {"listening_ports",
	                         ports,
	                         "num_threads",
	                         threads,
	                         "request_timeout_ms",
	                         HEAD_TIMEOUT_MS,
	                         "enable_keep_alive",
	                         "no",
	                         "tcp_nodelay",
	                         "1",
	                         "decode_url",
	                         "no",
	                         "decode_query_string",
	                         "no",
	                         "enable_auth_domain_check",
	                         "no",
	                         "access_control_allow_origin",
	                         "",
	                         "access_control_allow_methods",
	                         "",
	                         "access_control_allow_headers",
	                         "",
	                         "enable_directory_listing",
	                         "no",
	                         NULL};
	struct sigaction saved[L7MP_ARRAY_SIZE(touched_signals)];
	sigset_t all, before;
	struct mg_context *mg;

	/* The loop handles the process's signals; threads inherit this mask. */
	sigfillset(&all);
	sigdelset(&all, ADMIN_WAKE_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(saved); i++)
		sigaction(touched_signals[i], NULL, &saved[i]);
	mg = mg_start(&callbacks, e, options);
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(saved); i++)
		sigaction(touched_signals[i], &saved[i], NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return mg;
}

/* Tries to bind the address, because civetweb's message has only an error number. */
static int try_bind(const struct l7mp_admin_server *where, struct l7mp_error *err)
{
	struct l7mp_bind_addr want = {.dual = false}, bound;
	int fd = l7mp_addr_parse(&want.addr, where->address, where->port);

	if (!fd)
		fd = l7mp_bind_addr_socket(&want, SOCK_STREAM, l7mp_listen_hold, NULL, &bound, err);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

/*
 * civetweb can't be given a socket: it binds its own, and the descriptor of that is replaced by the
 * other process's socket. Its thread still polls the old socket, and is woken by a connection to
 * it, which is never accepted.
 */
static int replace_socket(struct engine *e, int handed, uint16_t port)
{
	struct l7mp_addr own;
	int keep = dup(e->fd), wake = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = 0;

	if (keep < 0 || wake < 0 || l7mp_fd_local(e->fd, &own) ||
	    dup3(handed, e->fd, O_CLOEXEC) < 0)
		rc = -errno;
	else if (connect(wake, &own.sa, own.len))
		l7mp_log_verbose("admin", "the server's thread is not woken");
	if (keep >= 0)
		close(keep);
	if (wake >= 0)
		close(wake);
	if (!rc)
		e->port = port;
	return rc;
}

/* Takes the socket that another process has handed over for this address, or returns -ENOENT. */
static int take_handed(const struct l7mp_api_server *s, const struct l7mp_admin_server *where,
                       uint16_t *port)
{
	struct l7mp_bind_addr want = {.dual = false}, bound;
	int fd;

	if (l7mp_addr_parse(&want.addr, where->address, where->port))
		return -ENOENT;
	fd = l7mp_handed_inet(s->api->params.env->handed, SOCK_STREAM, "", &want, &bound);
	if (fd >= 0)
		*port = l7mp_addr_port(&bound.addr);
	return fd;
}

static int engine_start(struct l7mp_api_server *s, const struct l7mp_admin_server *where,
                        struct engine **out, struct l7mp_error *err)
{
	struct engine *e;
	struct mg_server_port port;
	char ports[40], threads[16];
	uint16_t handed_port = 0;
	int handed = take_handed(s, where, &handed_port);
	int rc = handed >= 0 ? 0 : try_bind(where, err);

	if (rc)
		return rc;
	e = calloc(1, sizeof(*e));
	if (!e) {
		if (handed >= 0)
			close(handed);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	e->server = s;
	e->mailbox = s->mailbox;
	e->api = s->api;
	e->where = *where;
	e->owner = pthread_self();
	atomic_init(&e->starting, true);
	atomic_init(&e->given, false);
	if (handed >= 0)
		snprintf(ports, sizeof(ports), "127.0.0.1:0");
	else
		snprintf(ports, sizeof(ports), "%s:%u", where->address, where->port);
	/* One more thread, to answer that all are busy. */
	snprintf(threads, sizeof(threads), "%u", where->threads + 1U);
	mg_init_library(0);
	e->mg = start_civetweb(e, ports, threads);
	if (!e->mg) {
		mg_exit_library();
		rc = l7mp_error_set(err, -EAGAIN, L7MP_ERR_REALISE, "can't be started: %s",
		                    *e->message ? e->message : "out of resources");
		free(e);
		if (handed >= 0)
			close(handed);
		return rc;
	}
	memset(&port, 0, sizeof(port));
	if (mg_get_server_ports(e->mg, 1, &port) == 1)
		e->port = (uint16_t)port.port;
	e->fd = l7mp_listening_find(e->port);
	if (handed >= 0) {
		rc = e->fd >= 0 ? replace_socket(e, handed, handed_port) : -ENOENT;
		close(handed);
		if (rc)
			l7mp_log_error("admin", "can't go on with the server's socket: %s",
			               strerror(-rc));
	}
	atomic_store(&e->starting, false);
	api_origins_queued_port(s->api->origins, e->port, true);
	*out = e;
	return 0;
}

static void check_done(struct l7mp_api_server *s)
{
	void (*done)(void *arg) = s->done;

	if (!s->stopped || s->stopping)
		return;
	l7mp_mailbox_close(&s->mailbox);
	s->done = NULL;
	if (done)
		done(s->done_arg);
}

static void announce(const struct l7mp_api_server *s)
{
	l7mp_log_notice("admin", "the admin server listens on %s:%u", s->want.address,
	                s->current->port);
}

static void start_wanted(struct l7mp_api_server *s)
{
	struct l7mp_error err = {0};

	if (s->stopped || s->current || s->stopping || !s->want.enabled)
		return;
	if (!engine_start(s, &s->want, &s->current, &err)) {
		announce(s);
		return;
	}
	l7mp_log_error("admin", "the admin server is down: %s%s%s; trying again", err.path,
	               *err.path ? ": " : "", err.message);
	(void)l7mp_timer_start(s->loop, &s->restart, RESTART_MS);
}

static void on_restart(struct l7mp_timer *timer, void *arg)
{
	(void)timer;
	start_wanted(arg);
}

static void engine_freed(struct engine *e)
{
	struct l7mp_api_server *s = e->server;

	api_origins_queued_port(s->api->origins, e->port, false);
	mg_exit_library();
	free(e);
	s->stopping--;
	start_wanted(s);
	check_done(s);
}

static void on_stopped(struct l7mp_mail *mail, void *arg)
{
	struct engine *e = l7mp_container_of(mail, struct engine, stopped_mail);

	(void)arg;
	pthread_join(e->stopper, NULL);
	engine_freed(e);
}

static bool is_tcp(int fd)
{
	int protocol;
	socklen_t len = sizeof(protocol);

	return !getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) && protocol == IPPROTO_TCP;
}

/*
 * Closes the connections that mg_stop has leaked: no other code has sockets with the server's
 * address, because it could not bind it. A new engine at the same address starts only after this.
 */
static void close_left(const struct engine *e)
{
	DIR *dir = opendir("/proc/self/fd");
	struct l7mp_addr server, local;
	struct sockaddr_storage sa;

	if (!dir || l7mp_addr_parse(&server, e->where.address, e->port))
		goto out;
	for (struct dirent *entry; (entry = readdir(dir));) {
		int fd = atoi(entry->d_name);
		socklen_t len = sizeof(sa);

		if (fd <= STDERR_FILENO || fd == dirfd(dir) ||
		    getsockname(fd, (struct sockaddr *)&sa, &len) ||
		    l7mp_addr_from_sockaddr(&local, (struct sockaddr *)&sa, len))
			continue;
		if (l7mp_addr_port(&local) == e->port && is_tcp(fd) &&
		    (l7mp_addr_is_any(&server) || l7mp_addr_equal_ip(&local, &server)))
			close(fd);
	}
out:
	if (dir)
		closedir(dir);
}

/* civetweb writes nothing after mg_stop, so requests in progress get some time to finish. */
static void *stopper(void *arg)
{
	struct engine *e = arg;
	struct l7mp_listening_wake wake = {-1, -1};
	const uint64_t one = 1;

	/*
	 * When another process has the port, connections accepted before that are served; the
	 * number of those not yet begun is unknown.
	 */
	for (int ms = 0, rest = 0; ms < STOP_GRACE_MS; ms += 5) {
		rest = atomic_load(&e->busy) ? 0 : rest + 5;
		if (rest > (atomic_load(&e->given) ? GIVEN_REST_MS : 0))
			break;
		usleep(5000);
	}
	/* Otherwise its thread notices only after up to two seconds. */
	if (!atomic_load(&e->given))
		l7mp_listening_wake(e->fd, &wake);
	else if (write(e->fd, &one, sizeof(one)) != sizeof(one))
		l7mp_log_verbose("admin", "the server's thread is not woken");
	mg_stop(e->mg);
	l7mp_listening_woken(&wake);
	close_left(e);
	l7mp_mailbox_post(e->mailbox, &e->stopped_mail);
	return NULL;
}

static void engine_stop(struct engine *e)
{
	sigset_t all, before;
	int rc;

	e->server->stopping++;
	atomic_store(&e->retiring, true);
	e->stopped_mail.cb = on_stopped;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&e->stopper, NULL, stopper, e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!rc)
		return;
	/* Threads that wait for the loop time out, so that stopping ends. */
	l7mp_log_error("admin", "no thread to stop the admin server with: %s", strerror(rc));
	mg_stop(e->mg);
	close_left(e);
	engine_freed(e);
}

/* ---- the server, on the loop ---- */

int l7mp_api_server_new(struct l7mp_api *api, struct l7mp_api_server **out)
{
	struct l7mp_api_server *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->api = api;
	s->loop = api->params.env->loop;
	l7mp_timer_init(&s->restart, on_restart, s);
	*out = s;
	return 0;
}

static bool same_address(const struct engine *e, const struct l7mp_admin_server *want)
{
	return e && e->where.port && e->where.port == want->port &&
	       !strcmp(e->where.address, want->address);
}

static int make_ready(struct l7mp_api_server *s, struct l7mp_error *err)
{
	struct sigaction sa = {.sa_handler = wake_handler};

	if (s->mailbox)
		return 0;
	sigemptyset(&sa.sa_mask);
	sigaction(ADMIN_WAKE_SIGNAL, &sa, NULL);
	if (l7mp_mailbox_new(s->loop, s, &s->mailbox))
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static bool same_settings(const struct l7mp_admin_server *a, const struct l7mp_admin_server *b)
{
	return a->enabled == b->enabled && a->port == b->port && a->threads == b->threads &&
	       !strcmp(a->address, b->address);
}

int l7mp_api_server_prepare(struct l7mp_api_server *s, const struct l7mp_admin_server *want,
                            struct l7mp_error *err)
{
	int rc;

	if (s->stopped || !want->enabled || same_settings(&s->want, want) ||
	    same_address(s->current, want))
		return 0;
	if (s->next) {
		/* Left over from a change that was refused afterwards. */
		engine_stop(s->next);
		s->next = NULL;
	}
	/* The address may be in use by a server that is stopping: commit binds it then. */
	if (s->stopping && !s->current)
		return 0;
	rc = make_ready(s, err);
	if (!rc)
		rc = engine_start(s, want, &s->next, err);
	if (rc)
		snprintf(err->path, sizeof(err->path), "admin.server");
	return rc;
}

void l7mp_api_server_commit(struct l7mp_api_server *s, const struct l7mp_admin_server *want)
{
	if (s->stopped || same_settings(&s->want, want))
		return;
	s->want = *want;
	l7mp_timer_stop(s->loop, &s->restart);
	if (s->current)
		engine_stop(s->current);
	s->current = s->next;
	s->next = NULL;
	if (s->current)
		announce(s);
	else
		start_wanted(s);
}

void l7mp_api_server_stop(struct l7mp_api_server *s, void (*done)(void *arg), void *arg)
{
	s->stopped = true;
	s->done = done;
	s->done_arg = arg;
	l7mp_timer_stop(s->loop, &s->restart);
	if (s->next)
		engine_stop(s->next);
	if (s->current)
		engine_stop(s->current);
	s->next = s->current = NULL;
	check_done(s);
}

int l7mp_api_server_socket(const struct l7mp_api_server *s)
{
	return s->current && !atomic_load(&s->current->given) && s->current->fd >= 0
	               ? s->current->fd
	               : -ENOENT;
}

/* Its thread continues to wait on an eventfd that is never signalled. */
void l7mp_api_server_give(struct l7mp_api_server *s)
{
	struct engine *e = s->current;
	int nothing;

	if (l7mp_api_server_socket(s) < 0)
		return;
	nothing = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (nothing < 0 || dup3(nothing, e->fd, O_CLOEXEC) < 0)
		l7mp_log_error("admin", "can't let go of the server's socket: %s", strerror(errno));
	else
		atomic_store(&e->given, true);
	if (nothing >= 0)
		close(nothing);
}

void l7mp_api_server_free(struct l7mp_api_server **pp)
{
	free(*pp);
	*pp = NULL;
}
