/* SPDX-License-Identifier: MIT */
/*
 * HTTP on libcurl's multi interface: its callbacks say which sockets to watch and when to call it
 * next; the loop reports ready sockets. libcurl must not be called from its own callbacks, so
 * requests that end in one are only marked, and removed later.
 */
#include "l7mp/kube_http.h"

#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "l7mp/hash.h"
#include "l7mp/util.h"

#define CONNECT_MS 10000L
/* A peer that vanished is detected after 30 + 3 * 10 s. */
#define KEEPALIVE_IDLE  30L
#define KEEPALIVE_STEP  10L
#define KEEPALIVE_COUNT 3

struct kube_http {
	struct l7mp_loop *loop;
	CURLM *multi;
	struct l7mp_timer timer;
	struct l7mp_task reaper;
	struct kube_http_request *requests, *dead; /* utlist */
};

struct watched {
	uv_poll_t poll;
	int events; /* that libcurl waits for: UV_READABLE, UV_WRITABLE */
	struct kube_http *http;
	curl_socket_t fd;
};

struct kube_http_request {
	struct kube_http_request *prev, *next;
	struct kube_http *http;
	CURL *easy;
	struct curl_slist *headers, *connect_to;
	struct l7mp_str body;
	size_t max_body;
	bool too_large, refused;
	int (*data)(void *arg, const char *bytes, size_t n);
	void (*done)(void *arg, const struct kube_http_answer *answer);
	void *arg;
	char error[CURL_ERROR_SIZE];
};

/* ---- the end of requests ---- */

static void request_free(struct kube_http_request *r)
{
	if (r->easy) {
		curl_multi_remove_handle(r->http->multi, r->easy);
		curl_easy_cleanup(r->easy);
	}
	curl_slist_free_all(r->headers);
	curl_slist_free_all(r->connect_to);
	l7mp_str_free(&r->body);
	free(r);
}

static void reap(struct l7mp_task *task, void *arg)
{
	struct kube_http *h = arg;

	(void)task;
	while (h->dead) {
		struct kube_http_request *r = h->dead;

		DL_DELETE(h->dead, r);
		request_free(r);
	}
}

void kube_http_cancel(struct kube_http_request **pp)
{
	struct kube_http_request *r = *pp;

	if (!r)
		return;
	*pp = NULL;
	r->done = NULL;
	r->data = NULL;
	DL_DELETE(r->http->requests, r);
	DL_APPEND(r->http->dead, r);
	l7mp_task_post(r->http->loop, &r->http->reaper);
}

/*
 * The texts of OpenSSL for: the alert by which a server rejects the client certificate (with TLS
 * 1.3 after the handshake), and the first bytes of a server without TLS.
 */
static void explain_tls(struct kube_http_request *r)
{
	static const char *const alerts[] = {"unknown ca",          "bad certificate",
	                                     "certificate expired", "certificate revoked",
	                                     "certificate unknown", "unsupported certificate",
	                                     "certificate required"};
	const char *alert = strstr(r->error, "alert ");

	if (strstr(r->error, "wrong version number"))
		snprintf(r->error, sizeof(r->error), "the server does not speak TLS");
	for (size_t i = 0; alert && i < L7MP_ARRAY_SIZE(alerts); i++) {
		if (!strstr(alert, alerts[i]))
			continue;
		snprintf(r->error, sizeof(r->error),
		         "the server refused our certificate (TLS alert: %s)", alerts[i]);
		return;
	}
}

static const char *error_text(struct kube_http_request *r, CURLcode code)
{
	if (r->body.oom)
		return "out of memory";
	if (r->too_large)
		return "the answer is too large";
	if (r->refused)
		return "the answer makes no sense";
	explain_tls(r);
	return *r->error ? r->error : curl_easy_strerror(code);
}

static void complete(struct kube_http_request *r, CURLcode code)
{
	struct kube_http_answer a = {.body = r->body.s ? r->body.s : "", .len = r->body.len};
	curl_off_t after = 0;

	curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &a.status);
	curl_easy_getinfo(r->easy, CURLINFO_RETRY_AFTER, &after);
	if (after > 0)
		a.retry_after_ms = after > 3600 ? 3600000 : (uint64_t)after * 1000;
	if (code || r->body.oom)
		a.error = error_text(r, code);
	DL_DELETE(r->http->requests, r);
	r->done(r->arg, &a);
	request_free(r);
}

/* Outside of libcurl: callbacks may start and cancel requests. */
static void finish(struct kube_http *h)
{
	const CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(h->multi, &left))) {
		struct kube_http_request *r = NULL;
		CURLcode code = m->data.result;

		if (m->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r);
		if (r && r->done) /* a cancelled one is removed by the reaper */
			complete(r, code);
	}
}

static void act(struct kube_http *h, curl_socket_t fd, int events)
{
	int running;

	curl_multi_socket_action(h->multi, fd, events, &running);
	finish(h);
}

/* ---- sockets and timer for libcurl ---- */

static void on_timer(struct l7mp_timer *timer, void *arg)
{
	(void)timer;
	act(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int set_timer(CURLM *multi, long timeout_ms, void *arg)
{
	struct kube_http *h = arg;

	(void)multi;
	if (timeout_ms < 0)
		l7mp_timer_stop(h->loop, &h->timer);
	else
		(void)l7mp_timer_start(h->loop, &h->timer, (uint64_t)timeout_ms); /* reserved */
	return 0;
}

/*
 * `status` below zero: the socket has an error, and libuv has stopped the watch. Data that arrived
 * before it (an answer, or a TLS alert) must still be read, and reading reports the error, too.
 */
static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct watched *w = poll->data;
	int flags = status < 0 ? CURL_CSELECT_IN | CURL_CSELECT_OUT : 0;

	if (events & UV_READABLE)
		flags |= CURL_CSELECT_IN;
	if (events & UV_WRITABLE)
		flags |= CURL_CSELECT_OUT;
	act(w->http, w->fd, flags);
	/* Closed handles are freed after this callback. */
	if (status < 0 && !uv_is_closing((uv_handle_t *)poll))
		(void)uv_poll_start(poll, w->events, on_poll);
}

static void on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static struct watched *watched_new(struct kube_http *h, curl_socket_t fd)
{
	struct watched *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->http = h;
	w->fd = fd;
	w->poll.data = w;
	if (uv_poll_init_socket(l7mp_loop_uv(h->loop), &w->poll, fd)) {
		free(w);
		return NULL;
	}
	return w;
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *data)
{
	struct kube_http *h = arg;
	struct watched *w = data;

	(void)easy;
	if (what == CURL_POLL_REMOVE) {
		curl_multi_assign(h->multi, fd, NULL);
		if (w)
			uv_close((uv_handle_t *)&w->poll, on_closed);
		return 0;
	}
	if (!w) {
		w = watched_new(h, fd);
		if (!w)
			return -1;
		curl_multi_assign(h->multi, fd, w);
	}
	w->events =
	        (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
	return uv_poll_start(&w->poll, w->events, on_poll) ? -1 : 0;
}

/* ---- the client ---- */

int kube_http_new(struct l7mp_loop *loop, unsigned connections, struct kube_http **out)
{
	struct kube_http *h = calloc(1, sizeof(*h));

	*out = NULL;
	if (!h)
		return -ENOMEM;
	h->loop = loop;
	l7mp_timer_init(&h->timer, on_timer, h);
	l7mp_task_init(&h->reaper, reap, h);
	if (l7mp_timer_reserve(loop, &h->timer)) {
		free(h);
		return -ENOMEM;
	}
	h->multi = curl_global_init(CURL_GLOBAL_DEFAULT) ? NULL : curl_multi_init();
	if (!h->multi) {
		l7mp_timer_give_back(loop, &h->timer);
		free(h);
		return -ENOMEM;
	}
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, set_socket);
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)connections);
	*out = h;
	return 0;
}

void kube_http_free(struct kube_http **pp)
{
	struct kube_http *h = *pp;

	if (!h)
		return;
	*pp = NULL;
	while (h->requests) {
		struct kube_http_request *r = h->requests;

		kube_http_cancel(&r);
	}
	reap(NULL, h);
	curl_multi_cleanup(h->multi);
	l7mp_task_cancel(h->loop, &h->reaper);
	l7mp_timer_give_back(h->loop, &h->timer);
	free(h);
	curl_global_cleanup();
}

/* ---- requests ---- */

static size_t on_data(char *bytes, size_t size, size_t n, void *arg)
{
	struct kube_http_request *r = arg;
	long status = 0;

	n *= size;
	if (!r->done)
		return 0; /* cancelled */
	curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
	if (r->data && status == 200) {
		r->refused = r->data(r->arg, bytes, n) != 0;
		return r->refused ? 0 : n;
	}
	if (n > r->max_body - r->body.len) {
		r->too_large = true;
		return 0;
	}
	l7mp_str_addn(&r->body, bytes, n);
	return r->body.oom ? 0 : n;
}

static int on_socket_made(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	int count = KEEPALIVE_COUNT;

	(void)arg;
	(void)purpose;
	/* Not all kinds of sockets support it; then the kernel's default applies. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	return CURL_SOCKOPT_OK;
}

static int add_line(struct curl_slist **list, const char *line)
{
	struct curl_slist *longer = line ? curl_slist_append(*list, line) : NULL;

	if (!longer)
		return -ENOMEM;
	*list = longer;
	return 0;
}

static int set_blob(CURL *easy, CURLoption option, const char *pem)
{
	struct curl_blob blob = {.data = (void *)pem, .len = strlen(pem), .flags = CURL_BLOB_COPY};

	return curl_easy_setopt(easy, option, &blob) ? -ENOMEM : 0;
}

/*
 * Verification is by the host of the URL, so a URL with the other name is used, connected to the
 * real host.
 */
static int set_name(struct kube_http_request *r, const char *url, const char *name)
{
	CURLU *u = curl_url();
	char *host = NULL, *port = NULL, *longer = NULL, *line;
	int rc = -ENOMEM;

	if (!u)
		return rc;
	if (curl_url_set(u, CURLUPART_URL, url, CURLU_PATH_AS_IS) ||
	    curl_url_get(u, CURLUPART_HOST, &host, 0) ||
	    curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) ||
	    curl_url_set(u, CURLUPART_HOST, name, 0) ||
	    curl_url_get(u, CURLUPART_URL, &longer, 0)) {
		rc = -EINVAL;
		goto out;
	}
	line = l7mp_asprintf("::%s:%s", host, port);
	rc = add_line(&r->connect_to, line);
	free(line);
	line = l7mp_asprintf("Host: %s:%s", host, port);
	if (!rc)
		rc = add_line(&r->headers, line);
	free(line);
	if (!rc && (curl_easy_setopt(r->easy, CURLOPT_URL, longer) ||
	            curl_easy_setopt(r->easy, CURLOPT_CONNECT_TO, r->connect_to)))
		rc = -ENOMEM;
out:
	curl_free(host);
	curl_free(port);
	curl_free(longer);
	curl_url_cleanup(u);
	return rc;
}

static int set_tls(struct kube_http_request *r, const struct kube_http_call *call)
{
	const struct kube_http_tls *tls = call->tls;
	int rc = 0;

	if (!tls)
		return 0;
	if (tls->ca)
		rc = set_blob(r->easy, CURLOPT_CAINFO_BLOB, tls->ca);
	if (!rc && tls->cert)
		rc = set_blob(r->easy, CURLOPT_SSLCERT_BLOB, tls->cert);
	if (!rc && tls->key)
		rc = set_blob(r->easy, CURLOPT_SSLKEY_BLOB, tls->key);
	if (!rc && tls->name)
		rc = set_name(r, call->url, tls->name);
	if (!rc && tls->insecure) {
		curl_easy_setopt(r->easy, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(r->easy, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	curl_easy_setopt(r->easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	return rc;
}

static int set_body(struct kube_http_request *r, const struct kube_http_call *call)
{
	CURLcode code = 0;

	if (call->body) {
		curl_easy_setopt(r->easy, CURLOPT_POST, 1L);
		curl_easy_setopt(r->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_len);
		code = curl_easy_setopt(r->easy, CURLOPT_COPYPOSTFIELDS, call->body);
	}
	if (!code)
		code = curl_easy_setopt(r->easy, CURLOPT_CUSTOMREQUEST, call->method);
	return code ? -ENOMEM : 0;
}

static void set_common(struct kube_http_request *r, const struct kube_http_call *call)
{
	CURL *e = r->easy;

	curl_easy_setopt(e, CURLOPT_PRIVATE, r);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, r->error);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, r);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	/*
	 * A watch has its own connection anyway, and no request must queue behind a large answer.
	 */
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
	curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)call->timeout_ms);
	curl_easy_setopt(e, CURLOPT_USERAGENT, "l7mp-operator/" L7MP_VERSION);
	curl_easy_setopt(e, CURLOPT_PROXY, call->proxy ? call->proxy : "");
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPIDLE, KEEPALIVE_IDLE);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPINTVL, KEEPALIVE_STEP);
	curl_easy_setopt(e, CURLOPT_SOCKOPTFUNCTION, on_socket_made);
	/* libcurl resolves names in a thread, for which the loop must not wait. */
	curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
}

static int prepare(struct kube_http_request *r, const struct kube_http_call *call)
{
	int rc = 0;

	set_common(r, call);
	if (curl_easy_setopt(r->easy, CURLOPT_URL, call->url))
		return -ENOMEM;
	for (size_t i = 0; !rc && call->headers && call->headers[i]; i++)
		rc = add_line(&r->headers, call->headers[i]);
	/* libcurl would wait a second for "100 Continue" before a large body. */
	if (!rc)
		rc = add_line(&r->headers, "Expect:");
	if (!rc)
		rc = set_tls(r, call);
	if (!rc)
		rc = set_body(r, call);
	if (!rc && curl_easy_setopt(r->easy, CURLOPT_HTTPHEADER, r->headers))
		rc = -ENOMEM;
	return rc;
}

int kube_http_start(struct kube_http *h, const struct kube_http_call *call,
                    struct kube_http_request **out)
{
	struct kube_http_request *r = calloc(1, sizeof(*r));
	int rc = -ENOMEM;

	*out = NULL;
	if (!r)
		return rc;
	r->http = h;
	r->max_body = call->max_body;
	r->data = call->data;
	r->done = call->done;
	r->arg = call->arg;
	r->easy = curl_easy_init();
	if (r->easy)
		rc = prepare(r, call);
	if (!rc && curl_multi_add_handle(h->multi, r->easy))
		rc = -ENOMEM;
	if (rc) {
		request_free(r);
		return rc;
	}
	DL_APPEND(h->requests, r);
	*out = r;
	return 0;
}

void kube_http_escape(struct l7mp_str *out, const char *text)
{
	static const char hex[] = "0123456789ABCDEF";

	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		    c == '-' || c == '.' || c == '_' || c == '~') {
			l7mp_str_addn(out, text, 1);
		} else {
			char esc[3] = {'%', hex[c >> 4], hex[c & 15]};

			l7mp_str_addn(out, esc, 3);
		}
	}
}
