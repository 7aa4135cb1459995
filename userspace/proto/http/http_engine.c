/* SPDX-License-Identifier: MIT */
/*
 * civetweb: the only file that knows it. It runs with one listening descriptor on
 * a throw-away port whose place our own listening socket takes (dup3), so that
 * binding, its errors and the moment of the first accept are ours, and a port can
 * be closed while requests go on. While nothing is to be accepted an eventfd is in
 * that place; writing to it wakes civetweb's accepting thread.
 *
 * Threads: begin_request and what it calls run on civetweb's workers, the rest on
 * the loop, mg_stop on a thread of its own.
 */
#include "http_int.h"

#include <civetweb.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "l7mp/log.h"

/* ---- a request, on its worker ---- */

int l7mp_http_conn_read(struct l7mp_http_conn *c, void *buf, size_t len)
{
	return mg_read(c->mg, buf, len);
}

bool l7mp_http_conn_write(struct l7mp_http_conn *c, const void *buf, size_t len)
{
	return mg_write(c->mg, buf, len) == (int)len;
}

void l7mp_http_conn_close_after(struct l7mp_http_conn *c)
{
	mg_disable_connection_keep_alive(c->mg);
}

static const char *find_header(const struct mg_request_info *ri, const char *name, int *count)
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
 * Framing that two readers could understand in two ways is refused (RFC 9112,
 * section 6): NULL, or what is wrong.
 */
static const char *read_framing(const struct mg_request_info *ri, struct l7mp_http_conn *c)
{
	int lengths, codings, hosts;
	const char *length = find_header(ri, "Content-Length", &lengths);
	const char *coding = find_header(ri, "Transfer-Encoding", &codings);
	const char *connection;

	find_header(ri, "Host", &hosts);
	c->http10 = strcmp(ri->http_version, "1.1") != 0;
	c->head = strcmp(ri->request_method, "HEAD") == 0;
	if (hosts > 1 || (hosts == 0 && !c->http10))
		return "expected exactly one Host header";
	if (lengths + codings > 1)
		return "expected one Content-Length or one Transfer-Encoding header";
	if (coding && (strcasecmp(coding, "chunked") != 0 || c->http10))
		return "expected the Transfer-Encoding to be chunked, in HTTP/1.1";
	if (length &&
	    (!*length || strspn(length, "0123456789") != strlen(length) || strlen(length) > 18))
		return "expected Content-Length to be a number";
	c->chunked = coding != NULL;
	c->length = length ? strtoll(length, NULL, 10) : 0;
	connection = find_header(ri, "Connection", &hosts);
	/* As civetweb will decide when the handler returns. */
	c->client_keeps = connection ? strcasestr(connection, "keep-alive") != NULL : !c->http10;
	return NULL;
}

/* civetweb tells the address that the client connected to only as part of a link. */
static int local_addr(struct mg_connection *mg, uint16_t port, struct l7mp_addr *out)
{
	char link[128] = "";
	char *host, *end;

	mg_get_request_link(mg, link, sizeof(link)); /* may be cut behind the host */
	host = strstr(link, "://");
	if (!host)
		return -EINVAL;
	host += 3;
	end = host + strcspn(host, ":/");
	*end = '\0';
	return l7mp_addr_parse(out, host, port);
}

static cJSON *request_metadata(const struct mg_request_info *ri, const struct l7mp_addr *local)
{
	struct l7mp_http_header headers[MG_MAX_HEADERS];
	struct l7mp_http_head head = {
	        .scheme = "http",
	        .version = ri->http_version,
	        .method = ri->request_method,
	        .path = ri->local_uri_raw,
	        .query = ri->query_string,
	        .headers = headers,
	};

	for (int i = 0; i < ri->num_headers && i < MG_MAX_HEADERS; i++) {
		headers[i].name = ri->http_headers[i].name;
		headers[i].value = ri->http_headers[i].value;
		head.n_headers++;
	}
	return l7mp_http_metadata(&head, local);
}

/* The exchange with all that the loop wants to know of the request. */
static struct l7mp_http_xchg *make_xchg(struct l7mp_http_engine *e, struct mg_connection *mg,
                                        const struct mg_request_info *ri)
{
	struct l7mp_http_xchg *x = l7mp_http_xchg_new(e);
	const char *expect;
	int n;

	if (!x)
		return NULL;
	expect = find_header(ri, "Expect", &n);
	x->expect = expect != NULL;
	if (l7mp_addr_parse(&x->peer, ri->remote_addr, (uint16_t)ri->remote_port) == 0 &&
	    local_addr(mg, (uint16_t)ri->server_port, &x->local) == 0)
		x->http = request_metadata(ri, &x->local);
	if (x->http)
		return x;
	l7mp_http_xchg_unref(x);
	return NULL;
}

static int begin_request(struct mg_connection *mg)
{
	const struct mg_request_info *ri = mg_get_request_info(mg);
	struct l7mp_http_engine *e = ri->user_data;
	struct l7mp_http_conn c = {.mg = mg, .fd = -1};
	const char *wrong = read_framing(ri, &c);
	const char *expect;
	struct l7mp_http_xchg *x;
	int status, n;

	if (wrong) {
		l7mp_http_worker_refuse(&c, 400, wrong);
		return 400;
	}
	expect = find_header(ri, "Expect", &n);
	if (expect && strcasecmp(expect, "100-continue") != 0) {
		l7mp_http_worker_refuse(&c, 417, "expected nothing but 100-continue");
		return 417;
	}
	x = make_xchg(e, mg, ri);
	if (!x) {
		l7mp_http_worker_refuse(&c, 503, "out of memory");
		return 503;
	}
	if (c.http10 || (!c.chunked && c.length == 0))
		x->expect = false;
	status = l7mp_http_worker_run(&c, x);
	l7mp_http_xchg_unref(x);
	return status;
}

/* What civetweb itself refuses: requests that it can't read. */
static int http_error(struct mg_connection *mg, int status, const char *text)
{
	struct l7mp_http_conn c = {.mg = mg, .fd = -1};

	l7mp_http_worker_refuse(&c, status, text);
	return 0;
}

static int init_connection(const struct mg_connection *mg, void **data)
{
	struct l7mp_http_engine *e = mg_get_user_data(mg_get_context(mg));

	(void)data;
	atomic_fetch_add_explicit(&e->busy, 1, memory_order_relaxed);
	return 0;
}

static void connection_close(const struct mg_connection *mg)
{
	struct l7mp_http_engine *e = mg_get_user_data(mg_get_context(mg));

	atomic_fetch_sub_explicit(&e->busy, 1, memory_order_relaxed);
}

bool l7mp_http_engine_crowded(struct l7mp_http_engine *e)
{
	/* Idle connections hold a worker each: they may never hold more than half of them. */
	return atomic_load_explicit(&e->busy, memory_order_relaxed) > e->threads / 2;
}

static int log_message(const struct mg_connection *mg, const char *text)
{
	struct l7mp_http_engine *e = mg_get_user_data(mg_get_context(mg));

	if (e && pthread_equal(e->owner, pthread_self()))
		snprintf(e->message, sizeof(e->message), "%s", text);
	l7mp_log_silly("http", "civetweb: %s", text);
	return 1;
}

/* ---- the engine, on the loop ---- */

void l7mp_http_library(bool on)
{
	if (on)
		mg_init_library(0);
	else
		mg_exit_library();
}

static struct mg_context *start_civetweb(struct l7mp_http_engine *e)
{
	static const struct mg_callbacks callbacks = {
	        .begin_request = begin_request,
	        .http_error = http_error,
	        .init_connection = init_connection,
	        .connection_close = connection_close,
	        /* No log_access: civetweb would call localtime() then, which is not thread-safe. */
	        .log_message = log_message,
	};
	char threads[16], stall[16];
	const char *options[] = {
	        "listening_ports",
	        "127.0.0.1:0",
	        "num_threads",
	        threads,
	        "request_timeout_ms",
	        stall,
	        "enable_keep_alive",
	        "yes",
	        "keep_alive_timeout_ms",
	        "500",
	        "connection_queue",
	        "1024",
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
	        NULL,
	};

	snprintf(threads, sizeof(threads), "%d", e->threads);
	snprintf(stall, sizeof(stall), "%d", L7MP_HTTP_STALL_MS);
	return mg_start(&callbacks, e, options);
}

/* Finds the descriptor that civetweb listens with. */
static int find_slot(struct l7mp_http_engine *e)
{
	struct mg_server_port port;

	if (mg_get_server_ports(e->mg, 1, &port) != 1)
		return -EINVAL;
	e->slot_fd = l7mp_http_find_listening((uint16_t)port.port);
	if (e->slot_fd < 0)
		return -EBADF;
	e->first_fd = fcntl(e->slot_fd, F_DUPFD_CLOEXEC, 0);
	return e->first_fd < 0 ? -errno : 0;
}

int l7mp_http_engine_new(struct l7mp_http_state *state, struct l7mp_mailbox *mailbox, int listen_fd,
                         int threads, struct l7mp_http_engine **out, struct l7mp_error *err)
{
	struct l7mp_http_engine *e = calloc(1, sizeof(*e));
	int rc;

	if (!e) {
		close(listen_fd);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	e->state = state;
	e->owner = pthread_self();
	e->mailbox = l7mp_mailbox_ref(mailbox);
	e->listen_fd = listen_fd;
	e->threads = threads;
	e->slot_fd = -1;
	e->first_fd = -1;
	l7mp_timer_init(&e->unspin, l7mp_http_slot_unspin, e);
	e->park_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (e->park_fd < 0) {
		rc = -errno;
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "eventfd: %s", strerror(-rc));
		goto fail;
	}
	e->mg = start_civetweb(e);
	if (!e->mg) {
		rc = l7mp_error_set(err, -EAGAIN, L7MP_ERR_REALISE,
		                    "can't start %d HTTP workers: %s", threads,
		                    e->message[0] ? e->message : "out of resources");
		goto fail;
	}
	rc = find_slot(e);
	if (rc < 0) {
		l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "can't take over civetweb's port");
		mg_stop(e->mg); /* no request was ever accepted, so no worker waits for the loop */
		goto fail;
	}
	*out = e;
	return 0;
fail:
	e->mg = NULL;
	l7mp_http_engine_free(e);
	return rc;
}

static void stopped(struct l7mp_mail *mail, void *arg)
{
	struct l7mp_http_engine *e =
	        (struct l7mp_http_engine *)((char *)mail -
	                                    offsetof(struct l7mp_http_engine, stopped_mail));

	(void)arg;
	pthread_join(e->stopper, NULL);
	l7mp_http_engine_gone(e);
}

static void *stopper(void *arg)
{
	struct l7mp_http_engine *e = arg;

	l7mp_http_slot_ready(e, true);
	mg_stop(e->mg);
	l7mp_mailbox_post(e->mailbox, &e->stopped_mail);
	return NULL;
}

void l7mp_http_engine_stop(struct l7mp_http_engine *e)
{
	if (e->stopping)
		return;
	e->stopping = true;
	l7mp_http_engine_park(e);
	l7mp_timer_stop(l7mp_http_env(e->state)->loop, &e->unspin);
	e->stopped_mail.cb = stopped;
	if (pthread_create(&e->stopper, NULL, stopper, e) == 0)
		return;
	/* No request runs any more, so its workers don't wait for this thread. */
	l7mp_log_warn("http", "no thread to stop HTTP workers with: the loop does it itself");
	l7mp_http_slot_ready(e, true);
	mg_stop(e->mg);
	l7mp_http_engine_gone(e);
}

void l7mp_http_engine_free(struct l7mp_http_engine *e)
{
	if (e->listen_fd >= 0)
		close(e->listen_fd);
	if (e->first_fd >= 0)
		close(e->first_fd);
	if (e->park_fd >= 0)
		close(e->park_fd);
	l7mp_mailbox_unref(e->mailbox);
	free(e);
}
