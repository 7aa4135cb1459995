/* SPDX-License-Identifier: MIT */
/*
 * HTTP listeners on a real loop with real sockets. The owner of the streams here
 * stands in for a session: what it does depends on the path. Clients are threads
 * with blocking sockets, so that a wrong answer can't be hidden by a client library.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/proto.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"

struct rig {
	struct l7mp_loop *loop;
	struct l7mp_stats stats;
	struct l7mp_limits limits;
	struct l7mp_env env;
	void *states[4];
	struct l7mp_proto_listener *listener;
	uint16_t port;
	int admit; /* what admit answers */
	int open;  /* streams that are not closed */
	int accepted;
	int expected;    /* sessions to wait for */
	int ended_badly; /* closed with an error */
	char name[128];
	cJSON *metadata; /* of the last one */
	char last_error[512];
};

struct owner {
	struct rig *rig;
	struct l7mp_stream *s;
	char path[64];
	struct l7mp_timer timer;
	bool full;
	size_t bytes;
	size_t burst; /* left to write */
};

static const struct l7mp_proto *const protos[] = {&l7mp_proto_http, NULL};

/* ---- the stand-in for sessions ---- */

static struct l7mp_buf *text_buf(struct owner *o, const char *text)
{
	return l7mp_buf_copy(l7mp_loop_bufs(o->rig->loop), text, strlen(text));
}

static void write_meta(struct owner *o, const char *meta, const char *text)
{
	struct l7mp_buf *b = text_buf(o, text);

	b->meta = cJSON_Parse(meta);
	assert_non_null(b->meta);
	l7mp_stream_write(o->s, b);
}

static void burst_some(struct owner *o)
{
	char block[4096];

	memset(block, 'x', sizeof(block));
	while (o->burst && !o->full) {
		size_t n = o->burst < sizeof(block) ? o->burst : sizeof(block);
		struct l7mp_buf *b = l7mp_buf_copy(l7mp_loop_bufs(o->rig->loop), block, n);
		int rc;

		o->burst -= n;
		rc = l7mp_stream_write(o->s, b);
		assert_true(rc >= 0);
		o->full = rc == L7MP_STREAM_FULL;
	}
	if (!o->burst)
		l7mp_stream_shutdown(o->s, 0);
}

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct owner *o = arg;

	o->bytes += buf->len;
	assert_true(buf->len <= 32768);
	if (strcmp(o->path, "/echo") == 0) {
		int rc = l7mp_stream_write(o->s, buf);

		if (rc == L7MP_STREAM_FULL) {
			o->full = true;
			l7mp_stream_pause(o->s, true);
		}
		return;
	}
	l7mp_buf_unref(buf);
}

static void on_drain(void *arg)
{
	struct owner *o = arg;

	o->full = false;
	if (strcmp(o->path, "/burst") == 0)
		burst_some(o);
	else
		l7mp_stream_pause(o->s, false);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct owner *o = arg;

	(void)t;
	if (strcmp(o->path, "/abort") == 0) {
		l7mp_stream_close(o->s, true);
	} else if (strcmp(o->path, "/slow") == 0) {
		l7mp_stream_write(o->s, text_buf(o, "late"));
		l7mp_stream_shutdown(o->s, 0);
	}
}

static void on_end(void *arg, int code)
{
	struct owner *o = arg;
	char text[64];

	(void)code;
	if (strcmp(o->path, "/echo") == 0) {
		l7mp_stream_shutdown(o->s, 0);
	} else if (strcmp(o->path, "/meta") == 0) {
		write_meta(o,
		           "{\"HTTP\":{\"status\":201,\"headers\":{\"X-A\":\"b\\r\\nEvil: 1\","
		           "\"Content-Type\":\"text/plain\"}}}",
		           "made");
		l7mp_stream_close(o->s, false);
	} else if (strcmp(o->path, "/count") == 0) {
		snprintf(text, sizeof(text), "%zu", o->bytes);
		l7mp_stream_write(o->s, text_buf(o, text));
		l7mp_stream_shutdown(o->s, 0);
	} else if (strcmp(o->path, "/abort") == 0) {
		l7mp_stream_write(o->s, text_buf(o, "partial"));
		l7mp_timer_start(o->rig->loop, &o->timer, 50);
	} else if (strcmp(o->path, "/slow") == 0) {
		l7mp_timer_start(o->rig->loop, &o->timer, 400);
	} else if (strcmp(o->path, "/burst") == 0) {
		o->burst = 3 * 1000 * 1000;
		burst_some(o);
	} /* /hang: never */
}

static void on_closed(void *arg, const struct l7mp_error *err)
{
	struct owner *o = arg;

	o->rig->open--;
	if (err->code != L7MP_OK) {
		o->rig->ended_badly++;
		snprintf(o->rig->last_error, sizeof(o->rig->last_error), "%s", err->message);
	}
	l7mp_timer_stop(o->rig->loop, &o->timer);
	free(o);
}

static const struct l7mp_stream_events events = {
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .closed = on_closed,
};

static int on_admit(void *arg, const struct l7mp_addr *peer)
{
	struct rig *r = arg;

	assert_true(l7mp_addr_is_loopback(peer));
	return r->admit;
}

static void on_accept(void *arg, struct l7mp_accept *a)
{
	struct rig *r = arg;
	struct owner *o = calloc(1, sizeof(*o));
	const cJSON *url = l7mp_json_get(a->metadata, "/HTTP/url");

	assert_non_null(o);
	r->accepted++;
	r->open++;
	o->rig = r;
	o->s = a->stream;
	snprintf(o->path, sizeof(o->path), "%s", l7mp_json_str(url, "path", "?"));
	l7mp_timer_init(&o->timer, on_timer, o);
	snprintf(r->name, sizeof(r->name), "%s", a->name);
	free(a->name);
	cJSON_Delete(r->metadata);
	r->metadata = a->metadata;
	l7mp_stream_attach(o->s, &events, o);
	if (strcmp(o->path, "/none") == 0) {
		o->s->ops->result(o->s, 404, "no rule matched");
		l7mp_stream_close(o->s, false);
		return;
	}
	if (strcmp(o->path, "/timeout") == 0) {
		o->s->ops->result(o->s, 504, "too late");
		l7mp_stream_close(o->s, true); /* the answer goes out all the same */
		return;
	}
	o->s->ops->result(o->s, 200, "OK");
	l7mp_stream_pause(o->s, false);
}

static const struct l7mp_listen_events listen_events = {.admit = on_admit, .accept = on_accept};

/* The parts of session/ that protocols need, without the rest. */

static int listen_on(struct rig *r, const char *spec, struct l7mp_proto_listener *const *retiring,
                     size_t n, struct l7mp_proto_listener **out, struct l7mp_error *err)
{
	cJSON *tree = cJSON_Parse(spec);
	struct l7mp_listen p = {.env = &r->env,
	                        .name = "test",
	                        .spec = tree,
	                        .events = &listen_events,
	                        .arg = r,
	                        .retiring = retiring,
	                        .n_retiring = n};
	int rc;

	assert_non_null(tree);
	rc = l7mp_proto_http.listen(&p, out, err);
	cJSON_Delete(tree);
	return rc;
}

static uint16_t port_of(const struct l7mp_proto_listener *l)
{
	cJSON *spec = cJSON_Parse("{\"port\":0}");
	uint16_t port;

	l7mp_proto_http.bound(l, spec);
	port = (uint16_t)l7mp_json_num(spec, "port", 0);
	cJSON_Delete(spec);
	return port;
}

static int set_up(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct l7mp_error err = {0};

	l7mp_log_set_level(L7MP_LOG_ERROR);
	assert_int_equal(l7mp_loop_new(&r->loop), 0);
	r->env.loop = r->loop;
	r->env.stats = &r->stats;
	r->env.limits = &r->limits;
	r->env.protos = protos;
	r->env.states = r->states;
	if (listen_on(r, "{\"address\":\"127.0.0.1\",\"port\":0}", NULL, 0, &r->listener, &err) < 0)
		fail_msg("%s", err.message);
	l7mp_proto_http.activate(r->listener);
	r->port = port_of(r->listener);
	assert_int_not_equal(r->port, 0);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	if (r->listener)
		l7mp_proto_http.unlisten(r->listener);
	l7mp_proto_http.stop(&r->env, r->states[0]);
	l7mp_loop_run(r->loop);
	assert_int_equal(r->open, 0);
	assert_int_equal(l7mp_buf_pool_used(l7mp_loop_bufs(r->loop)), 0);
	cJSON_Delete(r->metadata);
	assert_int_equal(l7mp_loop_free(&r->loop), 0);
	free(r);
	return 0;
}

/* ---- clients ---- */

struct client {
	struct rig *rig;
	const char *send;
	size_t send_len;
	bool half_close;
	size_t leave_after; /* > 0: close after so many bytes came */
	unsigned leave_ms;  /* > 0: close after so long */
	char *got;
	size_t n;
	unsigned took_ms;
	pthread_t thread;
	atomic_bool done;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int dial(uint16_t port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (struct sockaddr *)&sin, sizeof(sin)) < 0) {
		close(fd);
		return -errno;
	}
	return fd;
}

struct sender {
	int fd;
	const struct client *c;
};

/* Sends beside receiving, as a client that streams does. */
static void *send_all(void *arg)
{
	struct sender *s = arg;

	for (size_t off = 0; off < s->c->send_len;) {
		ssize_t n = send(s->fd, s->c->send + off, s->c->send_len - off, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		off += (size_t)n;
	}
	if (s->c->half_close)
		shutdown(s->fd, SHUT_WR);
	return NULL;
}

static void *run_client(void *arg)
{
	struct client *c = arg;
	uint64_t start = now_ms();
	struct sender s = {.fd = dial(c->rig->port), .c = c};
	size_t cap = 1 << 16;
	pthread_t thread;

	c->got = calloc(1, cap);
	if (s.fd < 0)
		goto out;
	if (c->leave_ms) {
		struct timeval tv = {.tv_sec = c->leave_ms / 1000,
		                     .tv_usec = (c->leave_ms % 1000) * 1000};
		setsockopt(s.fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	}
	pthread_create(&thread, NULL, send_all, &s);
	for (;;) {
		ssize_t n = recv(s.fd, c->got + c->n, cap - c->n - 1, 0);

		if (n <= 0)
			break;
		c->n += (size_t)n;
		if (c->leave_after && c->n >= c->leave_after)
			break;
		if (cap - c->n < 2) {
			cap *= 2;
			c->got = realloc(c->got, cap);
		}
	}
	c->got[c->n] = '\0';
	pthread_join(thread, NULL);
	close(s.fd);
out:
	c->took_ms = (unsigned)(now_ms() - start);
	atomic_store(&c->done, true);
	return NULL;
}

struct waiter {
	struct rig *rig;
	struct client *c;
	size_t n;
	bool streams_too;
	struct l7mp_timer timer;
	uint64_t until;
};

static void look(struct l7mp_timer *t, void *arg)
{
	struct waiter *w = arg;
	size_t done = 0;

	(void)t;
	for (size_t i = 0; i < w->n; i++)
		done += atomic_load(&w->c[i].done);
	if ((done == w->n &&
	     (!w->streams_too || (w->rig->open == 0 && w->rig->accepted >= w->rig->expected))) ||
	    now_ms() > w->until) {
		l7mp_loop_stop(w->rig->loop);
		return;
	}
	l7mp_timer_start(w->rig->loop, &w->timer, 5);
}

/* Runs the clients beside the loop until they are done (and, by `streams`, all streams closed). */
static void run_clients(struct rig *r, struct client *c, size_t n, bool streams)
{
	struct waiter w = {
	        .rig = r, .c = c, .n = n, .streams_too = streams, .until = now_ms() + 20000};

	for (size_t i = 0; i < n; i++) {
		c[i].rig = r;
		if (!c[i].send_len)
			c[i].send_len = strlen(c[i].send);
		pthread_create(&c[i].thread, NULL, run_client, &c[i]);
	}
	l7mp_timer_init(&w.timer, look, &w);
	l7mp_timer_start(r->loop, &w.timer, 1);
	l7mp_loop_run(r->loop);
	for (size_t i = 0; i < n; i++) {
		assert_true(atomic_load(&c[i].done));
		pthread_join(c[i].thread, NULL);
	}
}

static char *ask(struct rig *r, const char *request)
{
	struct client c = {.send = request};

	run_clients(r, &c, 1, true);
	return c.got;
}

static void has(const char *got, const char *part)
{
	if (!strstr(got, part))
		fail_msg("expected \"%s\" in \"%s\"", part, got);
}

#define CLOSE "Connection: close\r\n"

/* ---- tests ---- */

static void echoes_and_describes(void **state)
{
	struct rig *r = *state;
	char *got = ask(r, "POST /echo?a=%20b&c HTTP/1.1\r\nHost: ex.org:99\r\nX-Thing: 1\r\n"
	                   "x-thing: 2\r\nContent-Length: 5\r\n" CLOSE "\r\nhello");
	char expected[64];

	has(got, "HTTP/1.1 200 OK\r\n");
	has(got, "Content-Type: application/octet-stream\r\n");
	has(got, "hello");
	assert_null(strstr(got, "Access-Control"));
	snprintf(expected, sizeof(expected), "-127.0.0.1:%u-1", r->port);
	assert_int_equal(strncmp(r->name, "HTTP:127.0.0.1:", 15), 0);
	has(r->name, expected);
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/path")->valuestring, "/echo");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/query")->valuestring, "a=%20b&c");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/host")->valuestring, "ex.org");
	assert_int_equal(l7mp_json_get(r->metadata, "/HTTP/url/port")->valuedouble, 99);
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/url")->valuestring,
	                    "/echo?a=%20b&c");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/href")->valuestring,
	                    "http://ex.org:99/echo?a=%20b&c");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/method")->valuestring, "POST");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/headers/x-thing")->valuestring,
	                    "1, 2");
	assert_string_equal(l7mp_json_get(r->metadata, "/IP/src_addr")->valuestring, "127.0.0.1");
	assert_int_equal(l7mp_json_get(r->metadata, "/TCP/dst_port")->valuedouble, r->port);
	free(got);
}

static void keeps_the_connection(void **state)
{
	struct rig *r = *state;
	char *got =
	        ask(r, "GET /count HTTP/1.1\r\nHost: a\r\n\r\n"
	               "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n" CLOSE "\r\nabc");

	has(got, "Content-Length: 1\r\n\r\n0HTTP/1.1 200 OK");
	has(got, "Connection: close\r\n\r\n3");
	assert_int_equal(r->accepted, 2);
	free(got);
}

static void sets_the_head(void **state)
{
	char *got = ask(*state, "GET /meta HTTP/1.1\r\nHost: a\r\n" CLOSE "\r\n");

	has(got, "HTTP/1.1 201 Created\r\n");
	has(got, "X-A: b  Evil: 1\r\n");
	has(got, "Content-Type: text/plain\r\n");
	has(got, "Content-Length: 4\r\n");
	has(got, "\r\n\r\nmade");
	free(got);
}

static void answers_head_without_body(void **state)
{
	char *got = ask(*state, "HEAD /meta HTTP/1.1\r\nHost: a\r\n" CLOSE "\r\n");

	has(got, "HTTP/1.1 201 Created\r\n");
	has(got, "Content-Length: 4\r\n");
	assert_string_equal(got + strlen(got) - 4, "\r\n\r\n");
	free(got);
}

static void tells_errors(void **state)
{
	struct rig *r = *state;
	char *got =
	        ask(r, "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n" CLOSE "\r\nabc");

	has(got, "HTTP/1.1 404 Not Found\r\n");
	has(got, "Content-Type: application/json\r\n");
	has(got, "{\"status\":404,\"message\":\"Not Found\",\"content\":\"no rule matched\"}");
	free(got);
	got = ask(r, "GET /timeout HTTP/1.1\r\nHost: a\r\n" CLOSE "\r\n");
	has(got, "HTTP/1.1 504 Gateway Timeout\r\n");
	free(got);
	r->admit = -EBUSY;
	got = ask(r, "GET /echo HTTP/1.1\r\nHost: a\r\n" CLOSE "\r\n");
	has(got, "HTTP/1.1 503 Service Unavailable\r\n");
	has(got, "\"status\":503");
	free(got);
}

static void breaks_off_aborted_bodies(void **state)
{
	char *got = ask(*state, "GET /abort HTTP/1.1\r\nHost: a\r\n\r\n");

	has(got, "Transfer-Encoding: chunked\r\n");
	has(got, "7\r\npartial\r\n");
	assert_null(strstr(got, "\r\n0\r\n"));
	free(got);
}

static void waits_with_continue(void **state)
{
	struct rig *r = *state;
	struct client c = {.send = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
	                           "Content-Length: 2\r\n\r\n",
	                   .leave_after = 25};
	char *got;

	run_clients(r, &c, 1, true);
	assert_string_equal(c.got, "HTTP/1.1 100 Continue\r\n\r\n");
	free(c.got);
	/* Who does not wait is not invited. */
	got = ask(r, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
	             "Content-Length: 2\r\n" CLOSE "\r\nhi");
	assert_int_equal(strncmp(got, "HTTP/1.1 200 OK", 15), 0);
	free(got);
	got = ask(r, "POST /none HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
	             "Content-Length: 2\r\n\r\n");
	assert_int_equal(strncmp(got, "HTTP/1.1 404", 12), 0);
	has(got, "Connection: close");
	free(got);
	got = ask(r, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n"
	             "Content-Length: 2\r\n\r\n");
	assert_int_equal(strncmp(got, "HTTP/1.1 417", 12), 0);
	free(got);
}

/* A chunked body of 2 MB through the bounded queues, echoed while it comes. */
static void streams_large_bodies(void **state)
{
	struct rig *r = *state;
	struct l7mp_str req = {0};
	size_t total = 0, seen = 0;
	const char *p;
	char *got;

	l7mp_str_add(&req, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" CLOSE
	                   "\r\n");
	for (int i = 0; i < 200; i++) {
		size_t n = 1 + (size_t)(i * 7919) % 20000;
		char *fill = malloc(n);

		memset(fill, 'a' + i % 26, n);
		l7mp_str_addf(&req, "%zx\r\n", n);
		l7mp_str_addn(&req, fill, n);
		l7mp_str_add(&req, "\r\n");
		total += n;
		free(fill);
	}
	l7mp_str_add(&req, "0\r\n\r\n");
	struct client c = {.send = req.s, .send_len = req.len};

	run_clients(r, &c, 1, true);
	got = c.got;
	has(got, "Transfer-Encoding: chunked\r\n");
	p = strstr(got, "\r\n\r\n") + 4;
	for (;;) { /* decode, check each byte against what was sent */
		char *end;
		unsigned long n = strtoul(p, &end, 16);

		assert_true(end > p);
		p = end + 2;
		if (n == 0)
			break;
		seen += n;
		p += n + 2;
	}
	assert_int_equal(seen, total);
	free(got);
	l7mp_str_free(&req);
}

static void sends_large_answers(void **state)
{
	char *got = ask(*state, "GET /burst HTTP/1.0\r\n\r\n");
	char *body = strstr(got, "\r\n\r\n");

	has(got, "Connection: close\r\n");
	assert_null(strstr(got, "chunked"));
	assert_non_null(body);
	assert_int_equal(strlen(body + 4), 3000000);
	free(got);
}

static void sees_clients_leave(void **state)
{
	struct rig *r = *state;
	struct client mid_body = {
	        .send = "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nab",
	        .leave_ms = 100};
	struct client waiting = {.send = "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n", .leave_ms = 100};

	r->expected = 1;
	run_clients(r, &mid_body, 1, true);
	assert_int_equal(r->open, 0);
	assert_int_equal(r->ended_badly, 1);
	has(r->last_error, "went away");
	free(mid_body.got);
	r->expected = 2;
	run_clients(r, &waiting, 1, true);
	assert_int_equal(r->open, 0);
	assert_int_equal(r->ended_badly, 2);
	free(waiting.got);
}

static void answers_half_closed_clients(void **state)
{
	struct client c = {.send = "GET /slow HTTP/1.1\r\nHost: a\r\n" CLOSE "\r\n",
	                   .half_close = true};

	run_clients(*state, &c, 1, true);
	has(c.got, "late");
	free(c.got);
}

/*
 * A body of 2 bytes and then nothing: 408 after 5
 * s, however busy the machine is. A head has 10 s.
 */
static void cuts_stalled_requests(void **state)
{
	struct rig *r = *state;
	struct client c[2] = {
	        {.send = "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nab"},
	        {.send = "GET /count HTT"},
	};

	run_clients(r, c, 2, true);
	has(c[0].got, "HTTP/1.1 408 Request Timeout");
	assert_true(c[0].took_ms >= 4500);
	has(c[1].got, "HTTP/1.1 408 Request Timeout");
	assert_true(c[1].took_ms >= 9500);
	assert_int_equal(r->ended_badly, 1);
	has(r->last_error, "too slow");
	free(c[0].got);
	free(c[1].got);
}

/* Fifty requests in one piece are answered in their order. */
static void answers_pipelined_requests(void **state)
{
	struct rig *r = *state;
	struct l7mp_str req = {0};
	char *got, *p;

	for (int i = 0; i < 50; i++)
		l7mp_str_addf(&req,
		              "POST /echo HTTP/1.1\r\nHost: a\r\n%sContent-Length: 2\r\n\r\n%02d",
		              i == 49 ? CLOSE : "", i);
	p = got = ask(r, req.s);
	for (int i = 0; i < 50; i++) {
		char body[16];

		snprintf(body, sizeof(body), "\r\n\r\n%02d", i);
		p = strstr(p, body);
		assert_non_null(p);
	}
	assert_int_equal(r->accepted, 50);
	free(got);
	l7mp_str_free(&req);
}

static void refuses_ambiguous_framing(void **state)
{
	static const char *const bad[] = {
	        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: "
	        "chunked\r\n\r\n",
	        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: "
	        "2\r\n\r\nab",
	        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\na",
	        "GET /echo HTTP/1.1\r\n\r\n",
	        "GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	        "\x16\x03\x01\x02\x01\x01\x03\x02noise\r\n\r\n",
	        "GET /e cho HTTP/1.1\r\nHost: a\r\n\r\n",
	};
	struct rig *r = *state;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(bad); i++) {
		char *got = ask(r, bad[i]);

		has(got, "HTTP/1.1 400 Bad Request\r\n");
		has(got, "\"status\":400");
		free(got);
	}
	assert_int_equal(r->accepted, 0);
	char *got = ask(
	        r, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");

	has(got, "HTTP/1.1 400 Bad Request\r\n");
	free(got);
}

static void serves_many_at_once(void **state)
{
	struct rig *r = *state;
	struct client *c = calloc(200, sizeof(*c));
	char(*req)[160] = calloc(200, sizeof(*req));

	for (int i = 0; i < 200; i++) {
		snprintf(req[i], sizeof(req[i]),
		         "POST /echo HTTP/1.1\r\nHost: a\r\n" CLOSE
		         "Content-Length: 8\r\n\r\nclient%02x",
		         i);
		c[i].send = req[i];
	}
	run_clients(r, c, 200, true);
	for (int i = 0; i < 200; i++) {
		has(c[i].got, "HTTP/1.1 200 OK");
		has(c[i].got, req[i] + strlen(req[i]) - 8);
		free(c[i].got);
	}
	assert_int_equal(r->accepted, 200);
	free(req);
	free(c);
}

static void goes_on_when_replaced(void **state)
{
	struct rig *r = *state;
	struct l7mp_proto_listener *second, *old = r->listener;
	struct l7mp_error err = {0};
	char spec[128];
	char *got;

	snprintf(spec, sizeof(spec), "{\"address\":\"127.0.0.1\",\"port\":%u}", r->port);
	assert_true(listen_on(r, spec, NULL, 0, &second, &err) < 0); /* in use, nobody retires */
	has(err.message, "in use");
	assert_int_equal(listen_on(r, spec, &old, 1, &second, &err), 0);
	l7mp_proto_http.unlisten(second); /* the change failed elsewhere */
	got = ask(r, "GET /count HTTP/1.1\r\nHost: a\r\n" CLOSE "\r\n");
	has(got, "200 OK");
	free(got);
	assert_int_equal(listen_on(r, spec, &old, 1, &second, &err), 0);
	l7mp_proto_http.activate(second);
	l7mp_proto_http.unlisten(old);
	r->listener = second;
	got = ask(r, "GET /count HTTP/1.1\r\nHost: a\r\n" CLOSE "\r\n");
	has(got, "200 OK");
	free(got);
}

static void unlisten_later(struct l7mp_timer *t, void *arg)
{
	struct rig *r = arg;
	int fd;

	if (r->open == 0) {
		l7mp_timer_start(r->loop, t, 5);
		return;
	}
	l7mp_proto_http.unlisten(r->listener);
	r->listener = NULL;
	fd = dial(r->port); /* closed at once */
	assert_int_equal(fd, -ECONNREFUSED);
}

static void answers_after_unlisten(void **state)
{
	struct rig *r = *state;
	struct l7mp_timer t;
	char *got;

	l7mp_timer_init(&t, unlisten_later, r);
	l7mp_timer_start(r->loop, &t, 5);
	got = ask(r, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
	has(got, "200 OK");
	has(got, "late");
	free(got);
}

static bool spec_valid(const char *text)
{
	cJSON *spec = cJSON_Parse(text);
	struct l7mp_issues issues;
	bool ok;

	assert_non_null(spec);
	l7mp_issues_init(&issues, false);
	l7mp_schema_check(l7mp_proto_http.desc.listener_spec, NULL, spec, "spec", &issues);
	ok = issues.errors == 0;
	l7mp_issues_clear(&issues);
	cJSON_Delete(spec);
	return ok;
}

static void wants_a_port_or_a_filename(void **state)
{
	(void)state;
	assert_true(spec_valid("{\"protocol\":\"HTTP\",\"port\":1}"));
	assert_true(spec_valid("{\"protocol\":\"HTTP\",\"port\":1,\"address\":\"::1\"}"));
	assert_true(spec_valid("{\"protocol\":\"HTTP\",\"filename\":\"/tmp/x\"}"));
	assert_false(spec_valid("{\"protocol\":\"HTTP\"}"));
	assert_false(spec_valid("{\"protocol\":\"HTTP\",\"filename\":\"/tmp/x\",\"port\":1}"));
	assert_false(spec_valid("{\"protocol\":\"HTTP\",\"port\":1,\"tls\":{}}"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	        T(echoes_and_describes),
	        T(keeps_the_connection),
	        T(sets_the_head),
	        T(answers_head_without_body),
	        T(tells_errors),
	        T(breaks_off_aborted_bodies),
	        T(waits_with_continue),
	        T(streams_large_bodies),
	        T(sends_large_answers),
	        T(sees_clients_leave),
	        T(answers_half_closed_clients),
	        T(cuts_stalled_requests),
	        T(refuses_ambiguous_framing),
	        T(serves_many_at_once),
	        T(goes_on_when_replaced),
	        T(answers_after_unlisten),
	        T(wants_a_port_or_a_filename),
	        T(answers_pipelined_requests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
