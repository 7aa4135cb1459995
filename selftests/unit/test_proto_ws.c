/* SPDX-License-Identifier: MIT */
/*
 * WebSocket listeners and clusters on a real loop. Most tests connect a cluster to a
 * listener of this process; what a well-behaved peer would never send comes from a
 * thread with a raw socket.
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

struct end {
	struct rig *rig;
	struct l7mp_stream *s; /* NULL: closed */
	bool echo;
	bool hold; /* stay paused */
	bool open, full;
	int drains, end_code, ends, messages;
	size_t bytes, lost;
	uint32_t flags; /* of the last message */
	char last[64];
	bool closed;
	struct l7mp_error error;
};

struct rig {
	struct l7mp_loop *loop;
	struct l7mp_stats stats;
	struct l7mp_limits limits;
	struct l7mp_env env;
	void *states[2];
	struct l7mp_proto_listener *listener;
	uint16_t port;
	int admit, accepted;
	int status;         /* that accepted streams are answered with; 0: 200 */
	const char *chosen; /* subprotocol that accepted streams are told; NULL: none */
	bool hold;          /* accepted ends stay paused and don't echo */
	struct end *server; /* the last accepted one */
	struct end *all[64];
	size_t n_all;
	char name[128];
	cJSON *metadata;
	bool (*until)(struct rig *r, void *arg);
	void *until_arg;
	uint64_t deadline;
	struct l7mp_timer timer;
};

static const struct l7mp_proto *const protos[] = {&l7mp_proto_ws, NULL};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- ends ---- */

static struct end *end_new(struct rig *r)
{
	struct end *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	assert_true(r->n_all < L7MP_ARRAY_SIZE(r->all));
	r->all[r->n_all++] = e;
	e->rig = r;
	e->end_code = -1;
	return e;
}

static void on_open(void *arg)
{
	struct end *e = arg;

	e->open = true;
	if (!e->hold)
		l7mp_stream_pause(e->s, false);
}

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct end *e = arg;

	assert_false(e->closed);
	e->messages++;
	e->bytes += buf->len;
	e->flags = buf->flags;
	snprintf(e->last, sizeof(e->last), "%.*s", (int)(buf->len < 60 ? buf->len : 60), buf->data);
	if (e->echo)
		l7mp_stream_write(e->s, buf);
	else
		l7mp_buf_unref(buf);
}

static void on_drain(void *arg)
{
	struct end *e = arg;

	e->drains++;
	e->full = false;
}

static void on_end(void *arg, int code)
{
	struct end *e = arg;

	e->ends++;
	e->end_code = code;
}

static void on_lost(void *arg, int err, uint64_t packets, uint64_t bytes)
{
	(void)err;
	(void)bytes;
	((struct end *)arg)->lost += packets;
}

static void on_closed(void *arg, const struct l7mp_error *err)
{
	struct end *e = arg;

	assert_false(e->closed);
	e->closed = true;
	e->error = *err;
	e->s = NULL;
}

static const struct l7mp_stream_events events = {
        .open = on_open,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .lost = on_lost,
        .closed = on_closed,
};

static int on_admit(void *arg, const struct l7mp_addr *peer)
{
	(void)peer;
	return ((struct rig *)arg)->admit;
}

static void on_accept(void *arg, struct l7mp_accept *a)
{
	struct rig *r = arg;
	struct end *e = end_new(r);

	r->accepted++;
	r->server = e;
	snprintf(r->name, sizeof(r->name), "%s", a->name);
	free(a->name);
	cJSON_Delete(r->metadata);
	r->metadata = a->metadata;
	e->s = a->stream;
	e->echo = !r->hold;
	l7mp_stream_attach(e->s, &events, e);
	if (r->chosen)
		e->s->ops->subprotocol(e->s, r->chosen);
	e->s->ops->result(e->s, r->status ? r->status : 200, "as the test says");
	if (r->status)
		l7mp_stream_close(e->s, false);
	else if (!r->hold)
		l7mp_stream_pause(e->s, false);
}

static const struct l7mp_listen_events listen_events = {.admit = on_admit, .accept = on_accept};

/* ---- rig ---- */

static void look(struct l7mp_timer *t, void *arg)
{
	struct rig *r = arg;

	if (r->until(r, r->until_arg) || now_ms() > r->deadline)
		l7mp_loop_stop(r->loop);
	else
		l7mp_timer_start(r->loop, t, 2);
}

/* Runs the loop until the condition holds; false: it did not within 10 s. */
static bool run_until(struct rig *r, bool (*until)(struct rig *r, void *arg), void *arg)
{
	r->until = until;
	r->until_arg = arg;
	r->deadline = now_ms() + 10000;
	l7mp_timer_init(&r->timer, look, r);
	l7mp_timer_start(r->loop, &r->timer, 1);
	l7mp_loop_run(r->loop);
	return until(r, arg);
}

static bool later(struct rig *r, void *arg)
{
	(void)r;
	return now_ms() >= *(uint64_t *)arg;
}

static void run_ms(struct rig *r, unsigned ms)
{
	uint64_t until = now_ms() + ms;

	run_until(r, later, &until);
}

static struct l7mp_proto_listener *listen_on(struct rig *r, const char *text)
{
	cJSON *spec = cJSON_Parse(text);
	struct l7mp_listen p = {
	        .env = &r->env, .name = "test", .spec = spec, .events = &listen_events, .arg = r};
	struct l7mp_proto_listener *l = NULL;
	struct l7mp_error err = {0};

	if (l7mp_proto_ws.listen(&p, &l, &err) < 0)
		fail_msg("%s", err.message);
	l7mp_proto_ws.activate(l);
	cJSON_Delete(spec);
	spec = cJSON_Parse("{\"port\":0}");
	l7mp_proto_ws.bound(l, spec);
	r->port = (uint16_t)l7mp_json_num(spec, "port", 0);
	assert_int_not_equal(r->port, 0);
	cJSON_Delete(spec);
	return l;
}

static struct end *dial(struct rig *r, const char *spec_text, const cJSON *metadata, bool hold)
{
	cJSON *spec = cJSON_Parse(spec_text);
	struct end *e = end_new(r);
	struct l7mp_connect p = {.env = &r->env,
	                         .cluster = "c",
	                         .cluster_spec = spec,
	                         .address = l7mp_json_str(spec, "test", "127.0.0.1"),
	                         .metadata = metadata,
	                         .session = "s",
	                         .in_kind = L7MP_KIND_DATAGRAM};
	struct l7mp_error err = {0};

	if (!l7mp_json_member(spec, "port"))
		l7mp_json_add_num(spec, "port", r->port);
	e->hold = hold;
	if (l7mp_proto_ws.connect(&p, &e->s, &err) < 0)
		fail_msg("%s", err.message);
	l7mp_stream_attach(e->s, &events, e);
	cJSON_Delete(spec);
	return e;
}

static int set_up(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	l7mp_log_set_level(L7MP_LOG_ERROR);
	assert_int_equal(l7mp_loop_new(&r->loop), 0);
	r->env.loop = r->loop;
	r->env.stats = &r->stats;
	r->limits.max_queue = 1 << 20;
	r->env.limits = &r->limits;
	r->env.protos = protos;
	r->env.states = r->states;
	r->listener = listen_on(r, "{\"address\":\"127.0.0.1\",\"port\":0}");
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	for (size_t i = 0; i < r->n_all; i++)
		if (r->all[i]->s)
			l7mp_stream_close(r->all[i]->s, true);
	if (r->listener)
		l7mp_proto_ws.unlisten(r->listener);
	run_ms(r, 20);
	for (size_t i = 0; i < r->n_all; i++) {
		assert_true(r->all[i]->closed);
		free(r->all[i]);
	}
	l7mp_proto_ws.stop(&r->env, r->states[0]);
	l7mp_loop_run(r->loop); /* ends by itself, or a handle was forgotten */
	assert_int_equal(l7mp_buf_pool_used(l7mp_loop_bufs(r->loop)), 0);
	assert_int_equal(l7mp_buf_pool_held(l7mp_loop_bufs(r->loop)), 0);
	assert_int_equal(l7mp_loop_free(&r->loop), 0);
	cJSON_Delete(r->metadata);
	free(r);
	return 0;
}

static struct l7mp_buf *text_buf(struct rig *r, const char *text, uint32_t flags)
{
	struct l7mp_buf *b = l7mp_buf_copy(l7mp_loop_bufs(r->loop), text, strlen(text));

	b->flags = flags;
	return b;
}

/* ---- conditions ---- */

static bool is_open(struct rig *r, void *arg)
{
	(void)r;
	return ((struct end *)arg)->open || ((struct end *)arg)->closed;
}

static bool is_closed(struct rig *r, void *arg)
{
	(void)r;
	return ((struct end *)arg)->closed;
}

static bool both_closed(struct rig *r, void *arg)
{
	return ((struct end *)arg)->closed && r->server && r->server->closed;
}

struct count {
	struct end *e;
	int messages;
	size_t bytes;
};

static bool has_got(struct rig *r, void *arg)
{
	struct count *c = arg;

	(void)r;
	return c->e->messages >= c->messages && c->e->bytes >= c->bytes;
}

static void wait_open(struct rig *r, struct end *e)
{
	assert_true(run_until(r, is_open, e));
	if (!e->open)
		fail_msg("not open: %s", e->error.message);
}

static void wait_messages(struct rig *r, struct end *e, int messages)
{
	struct count c = {.e = e, .messages = messages};

	if (!run_until(r, has_got, &c))
		fail_msg("expected %d messages, got %d", messages, e->messages);
}

/* ---- raw peers ---- */

struct raw {
	struct rig *rig;
	const char *send; /* the head */
	size_t send_len;
	const uint8_t *then; /* after the answer's head */
	size_t then_len;
	char got[8192];
	size_t n;
	pthread_t thread;
	atomic_bool done;
};

static void *run_raw(void *arg)
{
	struct raw *w = arg;
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(w->rig->port)};
	struct timeval tv = {.tv_sec = 7};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	bool sent = false;

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	if (connect(fd, (struct sockaddr *)&sin, sizeof(sin)) == 0) {
		size_t half = w->send_len / 2; /* in two pieces, as a network may */

		send(fd, w->send, half, MSG_NOSIGNAL);
		usleep(20000);
		send(fd, w->send + half, w->send_len - half, MSG_NOSIGNAL);
		for (;;) {
			ssize_t n = recv(fd, w->got + w->n, sizeof(w->got) - w->n - 1, 0);

			if (n <= 0)
				break;
			w->n += (size_t)n;
			if (w->then_len && !sent && strstr(w->got, "\r\n\r\n")) {
				send(fd, w->then, w->then_len, MSG_NOSIGNAL);
				sent = true;
			}
			if (sent && memchr(strstr(w->got, "\r\n\r\n"), 0x88,
			                   w->n - (size_t)(strstr(w->got, "\r\n\r\n") - w->got)))
				break; /* a Close frame */
		}
	}
	close(fd);
	atomic_store(&w->done, true);
	return NULL;
}

static bool raw_done(struct rig *r, void *arg)
{
	(void)r;
	return atomic_load(&((struct raw *)arg)->done);
}

static void start_raw(struct rig *r, struct raw *w)
{
	w->rig = r;
	if (!w->send_len)
		w->send_len = strlen(w->send);
	pthread_create(&w->thread, NULL, run_raw, w);
}

static void finish_raw(struct rig *r, struct raw *w)
{
	assert_true(run_until(r, raw_done, w));
	pthread_join(w->thread, NULL);
}

static void ask(struct rig *r, struct raw *w)
{
	start_raw(r, w);
	finish_raw(r, w);
}

static void has(const char *got, const char *part)
{
	if (!strstr(got, part))
		fail_msg("expected \"%s\" in \"%s\"", part, got);
}

#define SHAKE                                                                       \
	"Host: ex.org\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" \
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

/* ---- tests ---- */

static void accepts_and_describes(void **state)
{
	struct rig *r = *state;
	static const uint8_t close_frame[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8};
	struct raw w = {.send = "GET /chat/a?x=1 HTTP/1.1\r\n" SHAKE
	                        "X-Odd: yes\r\nSec-WebSocket-Protocol: super.chat, other\r\n"
	                        "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
	                .then = close_frame,
	                .then_len = sizeof(close_frame)};

	r->chosen = "other";
	ask(r, &w);
	has(w.got, "HTTP/1.1 101 ");
	has(w.got, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); /* RFC 6455, section 1.3 */
	has(w.got, "\r\nSec-WebSocket-Protocol: other\r\n");
	assert_null(strstr(w.got, "xtensions"));
	assert_int_equal(r->accepted, 1);
	assert_int_equal(strncmp(r->name, "WS:127.0.0.1:", 13), 0);
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/path")->valuestring, "/chat/a");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/query")->valuestring, "x=1");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/headers/x-odd")->valuestring, "yes");
	assert_int_equal(l7mp_json_get(r->metadata, "/TCP/dst_port")->valuedouble, r->port);
	run_until(r, is_closed, r->server);
	assert_int_equal(r->server->end_code, 1000);
	assert_int_equal(r->server->error.code, L7MP_OK);
}

/* What a client sends behind its Close frame is not heard (RFC 6455, section 1.4). */
static void hears_nothing_after_close(void **state)
{
	struct rig *r = *state;
	static const uint8_t frames[] = {0x82, 0x81, 0, 0, 0, 0, 'a',        /* a message */
	                                 0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8, /* Close, 1000 */
	                                 0x82, 0x81, 0, 0, 0, 0, 'b'};       /* another one */
	struct raw w = {.send = "GET / HTTP/1.1\r\n" SHAKE "\r\n",
	                .then = frames,
	                .then_len = sizeof(frames)};

	ask(r, &w);
	assert_true(run_until(r, is_closed, r->server));
	assert_int_equal(r->server->messages, 1);
	assert_string_equal(r->server->last, "a");
	assert_int_equal(r->server->end_code, 1000);
	assert_int_equal(r->server->error.code, L7MP_OK);
}

static void refuses_other_requests(void **state)
{
	static const struct {
		const char *send, *answer;
	} cases[] = {
	        {"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 426 Upgrade Required\r\n"},
	        {"GET /b HTTP/1.1\r\n" SHAKE "\r\n", "HTTP/1.1 404 Not Found\r\n"},
	        {"POST /a HTTP/1.1\r\n" SHAKE "\r\n", "HTTP/1.1 405 Method Not Allowed\r\n"},
	        {"GET /a HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
	         "HTTP/1.1 426"},
	        {"GET /a HTTP/1.1\r\nbad header\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"},
	        {"\x16\x03\x01\x02\x01\x01noise\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"},
	        {"GET /a HTTP/1.1\r\nHost", "HTTP/1.1 408 Request Timeout\r\n"},
	};
	struct rig *r = *state;

	l7mp_proto_ws.unlisten(r->listener);
	r->listener = listen_on(r, "{\"address\":\"127.0.0.1\",\"port\":0,\"path\":\"/a\"}");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		struct raw w = {.send = cases[i].send};

		ask(r, &w);
		has(w.got, cases[i].answer);
		has(w.got, "\"status\":4");
	}
	struct raw good = {.send = "GET /a?b HTTP/1.1\r\n" SHAKE "\r\n"};

	start_raw(r, &good);
	run_ms(r, 200);
	assert_int_equal(r->accepted, 1);
	l7mp_stream_close(r->server->s, true);
	finish_raw(r, &good);
	has(good.got, "101 ");
}

/* What the route says instead of connecting is what the client hears, and no 101. */
static void answers_for_the_route(void **state)
{
	struct rig *r = *state;
	struct raw w = {.send = "GET / HTTP/1.1\r\n" SHAKE "\r\n"};

	r->status = 503;
	ask(r, &w);
	has(w.got, "HTTP/1.1 503 Service Unavailable\r\n");
	has(w.got, "as the test says");
	assert_true(run_until(r, is_closed, r->server));
}

/* Never one that the client did not offer; of the listener's list the first that it did. */
static void chooses_a_subprotocol(void **state)
{
	static const struct {
		const char *offer, *chosen, *told;
	} cases[] = {
	        {"a, b", NULL, "b"}, {"c,a", NULL, "c"}, {"x", NULL, NULL},  {"a", "", NULL},
	        {"a", "b", NULL},    {"a,x", "x", "x"},  {"bb", NULL, NULL}, {"B", NULL, NULL},
	};
	struct rig *r = *state;
	char send[300], told[100];

	l7mp_proto_ws.unlisten(r->listener);
	r->listener = listen_on(r, "{\"address\":\"127.0.0.1\",\"port\":0,"
	                           "\"subprotocol\":[\"b\",\"c\"]}");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		static const uint8_t close_frame[] = {0x88, 0x80, 0, 0, 0, 0};
		struct raw w = {.send = send, .then = close_frame, .then_len = sizeof(close_frame)};

		snprintf(send, sizeof(send),
		         "GET / HTTP/1.1\r\n" SHAKE "Sec-WebSocket-Protocol: %s\r\n\r\n",
		         cases[i].offer);
		snprintf(told, sizeof(told), "Protocol: %s\r\n", cases[i].told);
		r->chosen = cases[i].chosen;
		ask(r, &w);
		has(w.got, "HTTP/1.1 101 ");
		if (cases[i].told)
			has(w.got, told);
		else if (strstr(w.got, "Sec-WebSocket-Protocol"))
			fail_msg("case %zu: %s", i, w.got);
	}
}

static void allows_origins(void **state)
{
	struct rig *r = *state;
	static const uint8_t close_frame[] = {0x88, 0x80, 0, 0, 0, 0};
	struct raw bad = {.send = "GET / HTTP/1.1\r\n" SHAKE "Origin: http://evil\r\n\r\n"};
	struct raw good = {.send = "GET / HTTP/1.1\r\n" SHAKE "Origin: http://ours\r\n\r\n",
	                   .then = close_frame,
	                   .then_len = sizeof(close_frame)};

	l7mp_proto_ws.unlisten(r->listener);
	r->listener = listen_on(r, "{\"address\":\"127.0.0.1\",\"port\":0,"
	                           "\"origins\":[\"http://ours\"]}");
	ask(r, &bad);
	has(bad.got, "HTTP/1.1 403 Forbidden\r\n");
	assert_int_equal(r->accepted, 0);
	ask(r, &good);
	has(good.got, "HTTP/1.1 101 ");
}

static bool is_pinged(struct rig *r, void *arg)
{
	struct raw *w = arg;
	const char *end = memmem(w->got, w->n, "\r\n\r\n", 4);

	(void)r;
	return end && memmem(end, w->n - (size_t)(end - w->got), "\x89\x04l7mp", 6);
}

/* A peer that does not answer is dropped; one that does is not. */
static void pings(void **state)
{
	struct rig *r = *state;
	struct raw w = {.send = "GET / HTTP/1.1\r\n" SHAKE "\r\n"};
	struct end *e;

	l7mp_proto_ws.unlisten(r->listener);
	r->listener = listen_on(r, "{\"address\":\"127.0.0.1\",\"port\":0,"
	                           "\"ping_interval\":0.2}");
	start_raw(r, &w);
	assert_true(run_until(r, is_pinged, &w));
	assert_true(run_until(r, is_closed, r->server));
	assert_int_equal(r->server->error.code, L7MP_ERR_TIMEOUT);
	has(r->server->error.message, "does not answer pings");
	finish_raw(r, &w);
	e = dial(r, "{\"ping_interval\":0.2}", NULL, false);
	wait_open(r, e);
	run_ms(r, 1500);
	assert_false(e->closed);
	assert_false(r->server->closed);
}

static void relays_messages(void **state)
{
	struct rig *r = *state;
	struct end *e = dial(r, "{}", NULL, false);
	size_t big = 15 * 1000 * 1000; /* more than the kernel takes at once */
	char *block = malloc(big);
	struct l7mp_buf *b, *shared;

	assert_int_equal(l7mp_stream_write(e->s, text_buf(r, "early", 0)), -ENOTCONN);
	wait_open(r, e);
	assert_int_equal(l7mp_stream_write(e->s, text_buf(r, "text", L7MP_BUF_TEXT)), 0);
	wait_messages(r, e, 1);
	assert_string_equal(e->last, "text");
	assert_int_equal(e->flags & L7MP_BUF_TEXT, L7MP_BUF_TEXT);
	l7mp_stream_write(e->s, text_buf(r, "binary", 0));
	l7mp_stream_write(e->s, text_buf(r, "", 0));
	wait_messages(r, e, 3);
	assert_int_equal(e->flags & L7MP_BUF_TEXT, 0);
	assert_int_equal(e->bytes, 10);
	/* A shared buffer must not be masked in place. */
	shared = text_buf(r, "shared", 0);
	l7mp_stream_write(e->s, l7mp_buf_ref(shared));
	l7mp_stream_write(e->s, l7mp_buf_ref(shared));
	wait_messages(r, e, 5);
	assert_string_equal(e->last, "shared");
	assert_memory_equal(shared->data, "shared", 6);
	l7mp_buf_unref(shared);
	memset(block, 'z', big);
	b = l7mp_buf_copy(l7mp_loop_bufs(r->loop), block, big);
	assert_int_equal(l7mp_stream_write(e->s, b), L7MP_STREAM_FULL);
	wait_messages(r, e, 6);
	assert_int_equal(e->bytes, 22 + big);
	assert_int_equal(e->drains, 1);
	free(block);
	l7mp_stream_close(e->s, false);
	assert_true(run_until(r, both_closed, e));
	assert_int_equal(e->error.code, L7MP_OK);
	assert_int_equal(r->server->end_code, 1000);
	assert_int_equal(r->server->error.code, L7MP_OK);
}

/* What was sent before our Close frame is answered after it: the half-close works. */
static void half_closes_with_code(void **state)
{
	struct rig *r = *state;
	struct end *e = dial(r, "{}", NULL, false);

	wait_open(r, e);
	for (int i = 0; i < 50; i++)
		l7mp_stream_write(e->s, text_buf(r, "ping", 0));
	l7mp_stream_shutdown(e->s, 4001);
	assert_int_equal(l7mp_stream_write(e->s, text_buf(r, "late", 0)), -EPIPE);
	assert_true(run_until(r, both_closed, e));
	assert_int_equal(r->server->messages, 50);
	assert_int_equal(e->messages, 50);
	assert_int_equal(r->server->end_code, 4001);
	assert_int_equal(e->error.code, L7MP_OK);
}

static void passes_the_session_s_request(void **state)
{
	struct rig *r = *state;
	cJSON *meta =
	        cJSON_Parse("{\"HTTP\":{\"url\":{\"path\":\"/p q\",\"query\":\"a=b\"},\"headers\":{"
	                    "\"host\":\"virtual.example\",\"x-tag\":\"v\\r\\nInjected: "
	                    "1\",\"connection\":\"x-hop\","
	                    "\"x-hop\":\"1\",\"content-length\":\"5\",\"sec-websocket-key\":\"k\","
	                    "\"origin\":\"http://o\"}}}");
	struct end *e = dial(r, "{\"path\":\"/unused\"}", meta, false);
	const cJSON *headers;

	wait_open(r, e);
	wait_messages(r, e, 0);
	headers = l7mp_json_get(r->metadata, "/HTTP/headers");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/url")->valuestring, "/p%20q?a=b");
	assert_string_equal(l7mp_json_str(headers, "host", ""), "virtual.example");
	assert_string_equal(l7mp_json_str(headers, "x-tag", ""), "v  Injected: 1");
	assert_string_equal(l7mp_json_str(headers, "origin", ""), "http://o");
	assert_null(l7mp_json_member(headers, "x-hop"));
	assert_null(l7mp_json_member(headers, "content-length"));
	assert_null(l7mp_json_member(headers, "injected"));
	cJSON_Delete(meta);
	r->chosen = "chat";
	meta = cJSON_Parse("{\"UDP\":{\"src_port\":1}}"); /* a UDP session has none */
	e = dial(r, "{\"path\":\"/spec\",\"subprotocol\":\"chat\",\"test\":\"localhost\"}", meta,
	         false);
	wait_open(r, e);
	assert_string_equal(e->s->subprotocol, "chat");
	assert_string_equal(l7mp_json_get(r->metadata, "/HTTP/url/path")->valuestring, "/spec");
	headers = l7mp_json_get(r->metadata, "/HTTP/headers");
	assert_string_equal(l7mp_json_str(headers, "sec-websocket-protocol", ""), "chat");
	assert_int_equal(strncmp(l7mp_json_str(headers, "host", ""), "localhost:", 10), 0);
	cJSON_Delete(meta);
}

static void fails_and_connects_later(void **state)
{
	struct rig *r = *state;
	char spec[64];
	struct end *e;

	snprintf(spec, sizeof(spec), "{\"address\":\"127.0.0.1\",\"port\":%u}", r->port);
	l7mp_proto_ws.unlisten(r->listener);
	r->listener = NULL;
	for (int i = 0; i < 5; i++) {
		e = dial(r, "{}", NULL, false);
		assert_true(run_until(r, is_closed, e));
		assert_int_equal(e->error.code, L7MP_ERR_UPSTREAM);
		has(e->error.message, "127.0.0.1:");
	}
	r->listener = listen_on(r, spec);
	e = dial(r, "{}", NULL, false);
	wait_open(r, e);
	e = dial(r, "{\"test\":\"no-such-host.invalid\"}", NULL, false);
	assert_true(run_until(r, is_closed, e));
	has(e->error.message, "no-such-host.invalid");
	/* A peer that is no WebSocket server. */
	l7mp_proto_ws.unlisten(r->listener);
	r->listener = listen_on(r, "{\"address\":\"127.0.0.1\",\"port\":0,\"path\":\"/other\"}");
	e = dial(r, "{}", NULL, false);
	assert_true(run_until(r, is_closed, e));
	has(e->error.message, "404");
}

static void gives_up_while_connecting(void **state)
{
	struct rig *r = *state;
	struct end *a = dial(r, "{}", NULL, false);
	struct end *b = dial(r, "{\"test\":\"localhost\"}", NULL, false);

	l7mp_stream_close(a->s, false); /* before the address is known */
	assert_false(a->closed);
	run_ms(r, 1);
	if (b->s)
		l7mp_stream_close(b->s, true); /* somewhere on the way */
	assert_true(run_until(r, is_closed, a));
	assert_true(run_until(r, is_closed, b));
	assert_false(a->open);
}

static void bounds_the_queue(void **state)
{
	struct rig *r = *state;
	struct end *e;
	char block[8192];
	int rc = 0, n = 0, full = 0;
	struct count c;

	r->hold = true; /* the listener's side reads nothing */
	e = dial(r, "{}", NULL, false);
	wait_open(r, e);
	run_ms(r, 50);
	memset(block, 'q', sizeof(block));
	for (int round = 0; round < 3000 && rc != -ENOBUFS; round++) {
		rc = l7mp_stream_write(
		        e->s, l7mp_buf_copy(l7mp_loop_bufs(r->loop), block, sizeof(block)));
		full += rc == L7MP_STREAM_FULL;
		n += rc >= 0;
		if (round % 16 == 0)
			run_ms(r, 2);
	}
	assert_int_equal(rc, -ENOBUFS);
	assert_true(full > 0);
	run_ms(r, 50);
	assert_int_equal(r->server->messages, 0);
	l7mp_stream_pause(r->server->s, false); /* now it does */
	c = (struct count){.e = r->server, .messages = n};
	assert_true(run_until(r, has_got, &c));
	assert_int_equal(r->server->messages, n);
	assert_true(e->drains > 0);
}

static void reassembles_and_refuses(void **state)
{
	/* "Hel" + ping + "lo" as a fragmented text message, masked with zeros. */
	static const uint8_t frames[] = {0x01, 0x83, 0,    0, 0, 0, 'H', 'e',
	                                 'l',  0x89, 0x81, 0, 0, 0, 0,   'p',
	                                 0x80, 0x82, 0,    0, 0, 0, 'l', 'o'};
	static const uint8_t invalid[] = {0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28};
	static const uint8_t large[] = {0x82, 0xff, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0, 'x'};
	struct rig *r = *state;
	struct raw w = {.send = "GET / HTTP/1.1\r\n" SHAKE "\r\n",
	                .then = frames,
	                .then_len = sizeof(frames)};
	struct raw u = {.send = "GET / HTTP/1.1\r\n" SHAKE "\r\n",
	                .then = invalid,
	                .then_len = sizeof(invalid)};
	const char *after;

	start_raw(r, &w);
	run_ms(r, 200);
	assert_int_equal(r->server->messages, 1);
	assert_string_equal(r->server->last, "Hello");
	assert_true(r->server->flags & L7MP_BUF_TEXT);
	l7mp_stream_close(r->server->s, true);
	finish_raw(r, &w);
	after = strstr(w.got, "\r\n\r\n") + 4;
	assert_non_null(memmem(after, w.n - (size_t)(after - w.got), "\x8a\x01p", 3)); /* pong */
	assert_non_null(memmem(after, w.n - (size_t)(after - w.got), "\x81\x05Hello", 7));
	ask(r, &u);
	after = strstr(u.got, "\r\n\r\n") + 4;
	assert_non_null(memmem(after, u.n - (size_t)(after - u.got), "\x03\xef", 2)); /* 1007 */
	run_until(r, is_closed, r->server);
	assert_int_equal(r->server->messages, 0);
	struct raw l = {.send = "GET / HTTP/1.1\r\n" SHAKE "\r\n",
	                .then = large,
	                .then_len = sizeof(large)};

	ask(r, &l);
	after = strstr(l.got, "\r\n\r\n") + 4;
	assert_non_null(memmem(after, l.n - (size_t)(after - l.got), "\x03\xf1", 2)); /* 1009 */
	run_until(r, is_closed, r->server);
	assert_int_equal(r->server->error.code, L7MP_ERR_TOO_LARGE);
}

static void sees_dropped_connections(void **state)
{
	struct rig *r = *state;
	struct end *e = dial(r, "{}", NULL, false);

	wait_open(r, e);
	l7mp_stream_close(r->server->s, true);
	l7mp_stream_close(r->server->s, true);
	assert_true(run_until(r, both_closed, e));
	assert_int_equal(e->ends, 0);
	assert_int_equal(e->error.code, L7MP_ERR_UPSTREAM);
	has(e->error.message, "without a Close frame");
	/* Unlisten in the middle of handshakes, then a peer that never answers a Close frame. */
	struct raw half = {.send = "GET / HTTP/1.1\r\nHost: "};

	start_raw(r, &half);
	run_ms(r, 100);
	l7mp_proto_ws.unlisten(r->listener);
	r->listener = NULL;
	finish_raw(r, &half);
	assert_int_equal(half.n, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	        T(accepts_and_describes),
	        T(hears_nothing_after_close),
	        T(refuses_other_requests),
	        T(answers_for_the_route),
	        T(chooses_a_subprotocol),
	        T(allows_origins),
	        T(pings),
	        T(relays_messages),
	        T(half_closes_with_code),
	        T(passes_the_session_s_request),
	        T(fails_and_connects_later),
	        T(gives_up_while_connecting),
	        T(bounds_the_queue),
	        T(reassembles_and_refuses),
	        T(sees_dropped_connections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
