/* SPDX-License-Identifier: MIT */
/* JSONSocket: both ends, against plain sockets and against each other. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {
        &l7mp_proto_jsonsocket, &l7mp_proto_udp,
        &l7mp_proto_tcp,        &l7mp_proto_unix,
        &l7mp_proto_unix_dgram, &l7mp_proto_unix_seqpacket,
        &l7mp_proto_ws,         NULL};
#define JS (&l7mp_proto_jsonsocket)

static struct pfix fix;
static struct l7mp_proto_listener *listener;
static char got[70000];

static int setup(void **state)
{
	pfix_new(&fix, protos);
	fix.limits.max_queue = 1 << 20;
	listener = NULL;
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	if (listener)
		pfix_unlisten(listener);
	pfix_free(*state);
	return 0;
}

static struct pconn *last(struct pfix *f)
{
	return f->conns[f->n_conns - 1];
}

/* The port of the transport. */
static unsigned listen_on(struct pfix *f, const char *transport)
{
	char spec[200];
	cJSON *bound;
	unsigned port;

	snprintf(spec, sizeof(spec),
	         "{'protocol':'JSONSocket','transport':{'protocol':'%s','address':'127.0.0.1',"
	         "'port':0}}",
	         transport);
	listener = pfix_listen(f, JS, "l", spec, NULL);
	if (!listener)
		fail_msg("%s", f->err.message);
	for (char *p = spec; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	bound = cJSON_Parse(spec);
	listener->proto->bound(listener, bound);
	port = (unsigned)l7mp_json_num(l7mp_json_member(bound, "transport"), "port", 0);
	cJSON_Delete(bound);
	assert_true(port > 0);
	return port;
}

static void result(struct pconn *c, int status, const char *message)
{
	c->stream->ops->result(c->stream, status, message);
	if (status != 200)
		l7mp_stream_close(c->stream, false);
}

static const char *receive(struct pfix *f, int fd, unsigned ms)
{
	ssize_t n = pfix_recv(f, fd, got, sizeof(got) - 1, NULL, ms);

	got[n > 0 ? n : 0] = '\0';
	return n < 0 ? "(nothing)" : got;
}

static void udp_send(int fd, unsigned port, const char *text)
{
	assert_int_equal(pfix_sendto(fd, "127.0.0.1", port, text, strlen(text)), 0);
}

#define ANSWER(status, message)                                                            \
	"{\"JSONSocketVersion\":1,\"JSONSocketStatus\":" #status ",\"JSONSocketMessage\":" \
	"\"" message "\"}"
#define OK      ANSWER(200, "OK")
#define HEADER  "{\"JSONSocketVersion\":1,\"a\":{\"b\":[true]}}"
#define PADDING "                                                                                "

/* ---- listener over UDP ---- */

static void udp_handshake(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");
	int fd = pfix_udp("127.0.0.1", 0);
	struct l7mp_flow_end flow;
	struct pconn *c;

	udp_send(fd, port, HEADER);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = last(f);
	assert_string_equal(c->name, "JSONSocket:l-1");
	assert_true(cJSON_IsTrue(l7mp_json_get(c->metadata, "/JSONSocket/a/b/0")));
	assert_non_null(l7mp_json_get(c->metadata, "/UDP/src_port"));
	assert_false(c->never_idle);
	assert_int_equal(c->stream->kind, L7MP_KIND_DATAGRAM);
	assert_int_equal(l7mp_addr_port(&c->peer), pfix_fd_port(fd));
	/* Nothing before the route has answered; a repeated header is no payload. */
	udp_send(fd, port, HEADER);
	assert_string_equal(receive(f, fd, 20), "(nothing)");
	assert_int_equal(c->messages, 0);
	result(c, 200, "OK");
	assert_string_equal(receive(f, fd, 1000), OK);
	/* The answer may have been lost. */
	udp_send(fd, port, HEADER);
	assert_string_equal(receive(f, fd, 1000), OK);
	assert_int_equal(c->messages, 0);
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.reason, L7MP_REASON_NOT_ESTABLISHED);
	pfix_write(c, "first of the server", 19);
	assert_string_equal(receive(f, fd, 1000), "first of the server");
	udp_send(fd, port, HEADER);
	assert_string_equal(receive(f, fd, 1000), OK);
	/* The first other datagram: from now on everything is payload. */
	udp_send(fd, port, "one");
	udp_send(fd, port, HEADER);
	assert_true(pfix_until_n(f, &c->messages, 2, 1000));
	assert_string_equal(c->data, "one|" HEADER);
	assert_string_equal(receive(f, fd, 20), "(nothing)");
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_SOCKET);
	assert_true(flow.json_up); /* the header of a restarted client must reach user space */
	close(fd);
}

#define OTHER "{\"JSONSocketVersion\":1,\"a\":2}"

/* A different header from the same address and port: the client was restarted. */
static void udp_client_begins_anew(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");
	int fd = pfix_udp("127.0.0.1", 0);
	struct pconn *c;

	udp_send(fd, port, HEADER);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 30000));
	c = last(f);
	result(c, 200, "OK");
	assert_string_equal(receive(f, fd, 30000), OK);
	udp_send(fd, port, "one");
	/* Payload, however much it looks like a header. */
	udp_send(fd, port, HEADER);
	udp_send(fd, port, "{\"JSONSocketVersion\":\"1\"}");
	udp_send(fd, port, "{\"JSONSocketVersion\":1");
	udp_send(fd, port, "[{\"JSONSocketVersion\":1}]");
	udp_send(fd, port, "{\"a\":1}");
	assert_true(pfix_until_n(f, &c->messages, 6, 30000));
	assert_int_equal(c->closed, 0);
	udp_send(fd, port, OTHER);
	assert_true(pfix_until_size(f, &f->n_conns, 2, 30000));
	assert_int_equal(c->closed, 1);
	assert_true(c->failed);
	assert_non_null(strstr(c->message, "restarted"));
	c = last(f);
	assert_int_equal(l7mp_json_num(l7mp_json_get(c->metadata, "/JSONSocket"), "a", 0), 2);
	/* Before the route has answered, and again: back to the first. */
	udp_send(fd, port, OTHER);
	udp_send(fd, port, "  \n" HEADER);
	assert_true(pfix_until_size(f, &f->n_conns, 3, 30000));
	assert_int_equal(c->closed, 1);
	assert_int_equal(c->messages, 0);
	c = last(f);
	result(c, 200, "OK");
	assert_string_equal(receive(f, fd, 30000), OK);
	udp_send(fd, port, "two");
	assert_true(pfix_until_n(f, &c->messages, 1, 30000));
	assert_string_equal(c->data, "two");
	/* Nobody listens any more: the old session ends all the same, the new one is not begun. */
	pfix_unlisten(listener);
	listener = NULL;
	udp_send(fd, port, OTHER);
	assert_true(pfix_until_n(f, &c->closed, 1, 30000));
	assert_int_equal(f->n_conns, 3);
	close(fd);
}

/* The limits refuse the new one: it is told so, in no more bytes than it has sent. */
static void udp_anew_refused(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");
	int fd = pfix_udp("127.0.0.1", 0);

	udp_send(fd, port, HEADER);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 30000));
	result(last(f), 200, "OK");
	assert_string_equal(receive(f, fd, 30000), OK);
	f->admit_rc = -16;
	udp_send(fd, port, OTHER);
	assert_true(pfix_until_n(f, &last(f)->closed, 1, 30000));
	assert_string_equal(receive(f, fd, 50), "(nothing)");
	udp_send(fd, port, OTHER PADDING PADDING);
	assert_string_equal(receive(f, fd, 30000), ANSWER(503, "a limit refuses the session"));
	close(fd);
}

static void udp_early_payload(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");
	int fd = pfix_udp("127.0.0.1", 0);
	struct pconn *c;

	udp_send(fd, port, HEADER);
	udp_send(fd, port, "early");
	udp_send(fd, port, HEADER); /* not answered yet: no payload */
	udp_send(fd, port, "");
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = last(f);
	assert_true(pfix_until_n(f, &c->messages, 2, 1000));
	assert_string_equal(c->data, "early|");
	result(c, 200, "OK");
	assert_string_equal(receive(f, fd, 1000), OK);
	udp_send(fd, port, HEADER);
	assert_true(pfix_until_n(f, &c->messages, 3, 1000));
	close(fd);
}

static void udp_refused(struct pfix *f, unsigned port, const char *text, const char *want)
{
	int fd = pfix_udp("127.0.0.1", 0);
	size_t conns = f->n_conns;

	udp_send(fd, port, text);
	assert_string_equal(receive(f, fd, *want == '(' ? 20 : 1000), want);
	assert_int_equal(f->n_conns, conns);
	close(fd);
}

static void udp_bad_headers(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");
	static const char *const bad[] = {
	        "",
	        "{",
	        "[1]",
	        "1",
	        "{}",
	        "{\"JSONSocketVersion\":\"1\"}",
	        "{\"JSONSocketVersion\":0}",
	        "{\"JSONSocketVersion\":-1}",
	        "{\"JSONSocketVersion\":0.5}",
	        "{\"JSONSocketVersion\":null}",
	        "{\"JSONSocketVersion\":1}{}",
	        "{\"JSONSocketVersion\":1,\"JSONSocketVersion\":1}",
	};
	char text[300];

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(bad); i++) {
		int fd = pfix_udp("127.0.0.1", 0);

		snprintf(text, sizeof(text), "%s%s%s", bad[i], PADDING, PADDING);
		udp_send(fd, port, text);
		assert_non_null(strstr(receive(f, fd, 1000), "\"JSONSocketStatus\":400,"));
		assert_true(strlen(got) <= strlen(text));
		close(fd);
	}
	assert_int_equal(f->n_conns, 0);
	assert_int_equal(f->admits, 0);
	assert_int_equal(f->stats.drops[L7MP_DROP_MALFORMED], L7MP_ARRAY_SIZE(bad));
	udp_refused(f, port, "{\"JSONSocketVersion\":2}" PADDING PADDING,
	            ANSWER(505, "JSONSocketVersion: only version 1 is supported"));
}

/* Nothing longer than what the source has sent. */
static void udp_no_amplification(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");
	char text[128] = "{\"JSONSocketVersion\":2}";
	char want[256];

	udp_refused(f, port, "x", "(nothing)");
	udp_refused(f, port, "{\"JSONSocketVersion\":2}", "(nothing)");
	for (size_t n = strlen(text); n < sizeof(text) - 1; n++) {
		int fd = pfix_udp("127.0.0.1", 0);

		text[n] = ' ';
		udp_send(fd, port, text);
		receive(f, fd, n + 1 < sizeof(ANSWER(505, "")) - 1 ? 3 : 1000);
		if (n + 1 < sizeof(ANSWER(505, "")) - 1)
			assert_string_equal(got, "");
		else
			assert_non_null(strstr(got, "\"JSONSocketStatus\":505"));
		assert_true(strlen(got) <= n + 1);
		close(fd);
	}
	/* The same for a route that fails; what was sent twice counts twice. */
	for (int copies = 1; copies <= 3; copies++) {
		int fd = pfix_udp("127.0.0.1", 0);
		size_t conns = f->n_conns;

		for (int i = 0; i < copies; i++)
			udp_send(fd, port, "{\"JSONSocketVersion\":1}");
		assert_true(pfix_until_size(f, &f->n_conns, conns + 1, 1000));
		pfix_turn(f, 5);
		result(last(f), 404, "no rule");
		snprintf(want, sizeof(want), "%s", copies < 3 ? "(nothing)" : ANSWER(404, ""));
		assert_string_equal(receive(f, fd, copies < 3 ? 20 : 1000), want);
		close(fd);
	}
}

static void udp_limits(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");

	f->admit_rc = -EBUSY;
	udp_refused(f, port, HEADER PADDING PADDING, ANSWER(503, "a limit refuses the session"));
	assert_int_equal(f->stats.drops[L7MP_DROP_LIMIT], 1);
}

static void too_many_values(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");
	static char text[60000];
	size_t n = (size_t)snprintf(text, sizeof(text), "{\"JSONSocketVersion\":1,\"a\":[1");

	while (n < sizeof(text) - 10)
		n += (size_t)snprintf(text + n, sizeof(text) - n, ",1");
	snprintf(text + n, sizeof(text) - n, "]}");
	udp_refused(f, port, text, ANSWER(400, "more than 100 values"));
}

static void udp_status_of_the_session(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "UDP");
	int fd = pfix_udp("127.0.0.1", 0);

	udp_send(fd, port, HEADER PADDING);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	result(last(f), 502, "\"quoted\" \xc3\xa9");
	assert_string_equal(receive(f, fd, 1000), ANSWER(502, "\\\"quoted\\\" \xc3\xa9"));
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	/* Then the client restarts. */
	udp_send(fd, port, HEADER);
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	close(fd);
}

static void unlisten_keeps_sessions(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP");
	int up = pfix_tcp("127.0.0.1", port), pending = pfix_tcp("127.0.0.1", port);

	pfix_turn(f, 10);
	assert_int_equal(send(up, HEADER "\n", sizeof(HEADER), 0), sizeof(HEADER));
	assert_int_equal(send(pending, "{", 1, 0), 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	pfix_unlisten(listener);
	listener = NULL;
	result(last(f), 200, "OK");
	assert_string_equal(receive(f, up, 1000), OK "\n");
	assert_int_equal(pfix_recv(f, pending, got, sizeof(got), NULL, 1000) <= 0, 1);
	close(up);
	close(pending);
}

/* ---- listener over TCP ---- */

static void tcp_send(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Header and payload in one piece, and byte by byte. */
static void tcp_handshake(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP");
	static const char text[] = " \n" HEADER "\n\npay\nload";

	for (size_t step = 1; step <= sizeof(text); step += step < 4 ? 1 : 20) {
		int fd = pfix_tcp("127.0.0.1", port);
		size_t conns = f->n_conns;
		struct l7mp_flow_end flow;
		struct pconn *c;

		pfix_turn(f, 5);
		for (size_t off = 0; off < sizeof(text) - 1; off += step) {
			size_t n = sizeof(text) - 1 - off < step ? sizeof(text) - 1 - off : step;

			assert_int_equal(send(fd, text + off, n, 0), n);
			if (step < sizeof(text))
				pfix_turn(f, 1);
		}
		assert_true(pfix_until_size(f, &f->n_conns, conns + 1, 1000));
		c = last(f);
		assert_true(c->never_idle);
		assert_true(pfix_until_size(f, &c->len, 9, 1000));
		assert_string_equal(c->data, "\npay\nload");
		result(c, 200, "OK");
		pfix_write(c, "back", 4);
		pfix_turn(f, 10);
		receive(f, fd, 1000);
		assert_string_equal(got, OK "\nback");
		l7mp_stream_flow(c->stream, &flow);
		assert_int_equal(flow.kind, L7MP_FLOW_SOCKET);
		assert_false(flow.json_up);
		l7mp_stream_close(c->stream, false);
		close(fd);
	}
}

static void tcp_without_newline(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP");
	int fd = pfix_tcp("127.0.0.1", port);
	struct l7mp_flow_end flow;

	pfix_turn(f, 5);
	tcp_send(fd, HEADER);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	result(last(f), 200, "OK");
	assert_string_equal(receive(f, fd, 1000), OK "\n");
	l7mp_stream_flow(last(f)->stream, &flow);
	assert_int_equal(flow.reason, L7MP_REASON_NOT_ESTABLISHED);
	tcp_send(fd, "payload");
	assert_true(pfix_until_size(f, &last(f)->len, 7, 1000));
	assert_string_equal(last(f)->data, "payload");
	shutdown(fd, SHUT_WR);
	assert_true(pfix_until(f, &last(f)->ended, 1000));
	close(fd);
}

static void tcp_refused(struct pfix *f, unsigned port, const char *text, bool end, const char *want)
{
	int fd = pfix_tcp("127.0.0.1", port);

	pfix_turn(f, 5);
	tcp_send(fd, text);
	if (end)
		shutdown(fd, SHUT_WR);
	if (!strstr(receive(f, fd, 1000), want))
		fail_msg("%s: got %s", text, got);
	assert_string_equal(receive(f, fd, 1000), ""); /* closed */
	assert_int_equal(f->n_conns, 0);
	close(fd);
}

static void tcp_bad_headers(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP");

	tcp_refused(f, port, "GET / HTTP/1.1\r\n", false, "\"JSONSocketStatus\":400,");
	tcp_refused(f, port, "{}\n", false, "expected the number 1");
	tcp_refused(f, port, "{x}\n", false, "\"JSONSocketStatus\":400,");
	tcp_refused(f, port, "{\"JSONSocketVersion\":3}\n", false, "\"JSONSocketStatus\":505,");
	tcp_refused(f, port, "{\"JSONSocketVersion\":1", true, "is not complete");
}

static void tcp_header_without_end(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP");
	int fd = pfix_tcp("127.0.0.1", port);
	static char text[70000];

	memset(text, ' ', sizeof(text) - 1);
	text[0] = '{';
	pfix_turn(f, 5);
	for (size_t off = 0; off < sizeof(text) - 1;) {
		ssize_t n = send(fd, text + off, sizeof(text) - 1 - off, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			break;
		off += n > 0 ? (size_t)n : 0;
		pfix_turn(f, 1);
	}
	assert_non_null(strstr(receive(f, fd, 1000), "at most 64 KiB"));
	close(fd);
}

/* The oldest silent ones make room. */
static void tcp_silent_clients(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP");
	static int fds[520];
	int fd;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(fds); i++) {
		fds[i] = pfix_tcp("127.0.0.1", port);
		if (i % 32 == 0)
			pfix_turn(f, 2);
	}
	pfix_turn(f, 20);
	fd = pfix_tcp("127.0.0.1", port);
	pfix_turn(f, 5);
	tcp_send(fd, HEADER);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_true(recv(fds[0], got, sizeof(got), 0) <= 0 && errno != EAGAIN);
	assert_string_equal(receive(f, fds[519], 5), "(nothing)");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(fds); i++)
		close(fds[i]);
	close(fd);
}

/* Nothing that comes in any pieces may do more than be refused. */
static void random_headers(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP"), seed = 8259;

	f->refuse = true;
	for (int i = 0; i < 200; i++) {
		char text[sizeof(HEADER) + 8] = HEADER "\nx";
		int fd = pfix_tcp("127.0.0.1", port);
		size_t len = strlen(text);

		for (int k = rand_r(&seed) % 4; k > 0; k--)
			text[(size_t)rand_r(&seed) % len] =
			        "{}[]\"\\\n,:1 \xff"[rand_r(&seed) % 12];
		pfix_turn(f, 1);
		for (size_t off = 0; off < len;) {
			size_t n = 1 + (size_t)rand_r(&seed) % (len - off);

			if (send(fd, text + off, n, MSG_NOSIGNAL) < 0)
				break;
			off += n;
			if (i % 3)
				pfix_turn(f, 1);
		}
		if (i % 2)
			shutdown(fd, SHUT_WR);
		pfix_turn(f, 1);
		close(fd);
		if (f->n_conns > PFIX_CONNS - 2)
			break;
	}
	assert_true(f->n_conns > 5);
}

static unsigned descriptors(void)
{
	unsigned n = 0;
	DIR *dir = opendir("/proc/self/fd");

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Refused clients that do not hang up hold no descriptors of ours. */
static void refused_clients_cost_nothing(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP"), before = descriptors();
	static int fds[100];

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(fds); i++) {
		fds[i] = pfix_tcp("127.0.0.1", port);
		pfix_turn(f, 2);
		tcp_send(fds[i], "x");
	}
	pfix_turn(f, 50);
	assert_int_equal(descriptors(), before + L7MP_ARRAY_SIZE(fds));
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

/* ---- cluster ---- */

static const char cluster_spec[] =
        "{'protocol':'JSONSocket','transport':{'protocol':'%s','port':%u},'header':["
        "{'path':'/IP'},{'path':'/n'},{'path':{'from':'/IP/src','to':'/deep/er'}},"
        "{'path':{'from':'/absent','to':'/x'}},{'set':{'key':'who','value':{'me':1}}},"
        "{'set':{'key':'JSONSocketVersion','value':7}}]}";
#define MADE                                                                                  \
	"{\"JSONSocketVersion\":1,\"src\":\"1.2.3.4\",\"n\":5,\"deep\":{\"er\":\"1.2.3.4\"}," \
	"\"who\":{\"me\":1}}"

static struct pconn *connect_to(struct pfix *f, const char *transport, unsigned port)
{
	cJSON *metadata = cJSON_Parse("{\"IP\":{\"src\":\"1.2.3.4\"},\"n\":5}");
	char spec[600];
	struct pconn *c;

	snprintf(spec, sizeof(spec), cluster_spec, transport, port);
	f->metadata = metadata;
	c = pfix_connect(f, JS, spec, "127.0.0.1");
	f->metadata = NULL;
	cJSON_Delete(metadata);
	if (!c)
		fail_msg("%s", f->err.message);
	return c;
}

static void answer_to(int fd, const char *from, const char *text)
{
	unsigned port = (unsigned)atoi(strrchr(from, ':') + 1);

	udp_send(fd, port, text);
}

static void udp_cluster(void **state)
{
	struct pfix *f = *state;
	int fd = pfix_udp("127.0.0.1", 0);
	struct pconn *c = connect_to(f, "UDP", pfix_fd_port(fd));
	struct l7mp_flow_end flow;
	char from[64];
	ssize_t n;

	n = pfix_recv(f, fd, got, sizeof(got), from, 1000);
	assert_int_equal(n, 256); /* padded */
	assert_memory_equal(got, MADE, sizeof(MADE) - 1);
	/* Lost: it is sent again, not too often. */
	n = pfix_recv(f, fd, got, sizeof(got), from, 300);
	assert_int_equal(n, -1);
	n = pfix_recv(f, fd, got, sizeof(got), from, 1000);
	assert_int_equal(n, 256);
	/* Something that overtook the answer is not the answer, and no payload. */
	answer_to(fd, from, "data");
	pfix_turn(f, 20);
	assert_false(c->opened);
	answer_to(fd, from, OK);
	assert_true(pfix_until(f, &c->opened, 1000));
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.reason, L7MP_REASON_NOT_ESTABLISHED);
	answer_to(fd, from, OK);
	answer_to(fd, from, "payload");
	answer_to(fd, from, OK);
	assert_true(pfix_until_n(f, &c->messages, 2, 1000));
	assert_string_equal(c->data, "payload|" OK);
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_SOCKET);
	pfix_write(c, "up", 2);
	assert_string_equal(receive(f, fd, 1000), "up");
	assert_string_equal(receive(f, fd, 700), "(nothing)");
	close(fd);
}

static void udp_cluster_refused(void **state)
{
	struct pfix *f = *state;
	int fd = pfix_udp("127.0.0.1", 0);
	struct pconn *c = connect_to(f, "UDP", pfix_fd_port(fd));
	char from[64];

	assert_true(pfix_recv(f, fd, got, sizeof(got), from, 1000) > 0);
	answer_to(fd, from, ANSWER(404, "no rule matches"));
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_false(c->opened);
	assert_string_equal(c->message, "JSONSocket: the server answered 404: no rule matches");
	close(fd);
}

static int tcp_server(unsigned *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 5), 0);
	*port = pfix_fd_port(fd);
	return fd;
}

static int accept_one(struct pfix *f, int server)
{
	int fd = -1;

	for (int i = 0; i < 1000 && fd < 0; i++) {
		pfix_turn(f, 1);
		fd = accept4(server, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	}
	assert_true(fd >= 0);
	return fd;
}

static void tcp_cluster(void **state)
{
	struct pfix *f = *state;
	unsigned port;
	int server = tcp_server(&port), fd;
	struct pconn *c = connect_to(f, "TCP", port);

	fd = accept_one(f, server);
	assert_string_equal(receive(f, fd, 1000), MADE "\n");
	tcp_send(fd, "{\"JSONSocketVersion\":1,\"JSONSocketStatus\":299}");
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_int_equal(c->stream->kind, L7MP_KIND_STREAM);
	tcp_send(fd, "\n\n");
	tcp_send(fd, "payload");
	assert_true(pfix_until_size(f, &c->len, 8, 1000));
	assert_string_equal(c->data, "\npayload");
	close(fd);
	close(server);
}

static void tcp_cluster_fails(void **state)
{
	struct pfix *f = *state;
	static const struct {
		const char *text, *want;
	} cases[] = {
	        {"HTTP/1.1 400 Bad Request\r\n", "JSONSocket: the server's first message is not an "
	                                         "answer"},
	        {"{\"JSONSocketVersion\":1}", "JSONSocket: the server's first message is not an "
	                                      "answer"},
	        {ANSWER(505, ""), "JSONSocket: the server answered 505: "},
	        {"", "JSONSocket: the server ended before it answered"},
	};
	unsigned port;
	int server = tcp_server(&port);

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		struct pconn *c = connect_to(f, "TCP", port);
		int fd = accept_one(f, server);

		tcp_send(fd, cases[i].text);
		shutdown(fd, SHUT_WR);
		assert_true(pfix_until_n(f, &c->closed, 1, 1000));
		assert_true(c->failed);
		assert_string_equal(c->message, cases[i].want);
		close(fd);
	}
	close(server);
}

static void closed_in_the_handshake(void **state)
{
	struct pfix *f = *state;
	unsigned port;
	int server = tcp_server(&port);

	for (int turns = 0; turns < 6; turns++) {
		struct pconn *c = connect_to(f, "TCP", port);

		pfix_turn(f, (unsigned)turns);
		l7mp_stream_close(c->stream, turns % 2);
		assert_int_equal(c->closed, 0);
		assert_true(pfix_until_n(f, &c->closed, 1, 6000));
		close(accept_one(f, server));
	}
	close(server);
}

/* ---- both ends ---- */

static void both_ends(struct pfix *f, struct pconn *up)
{
	struct pconn *c;
	size_t i, n = f->n_conns;

	assert_true(pfix_until_size(f, &f->n_conns, n + 1, 2000));
	c = last(f);
	assert_string_equal(l7mp_json_str(l7mp_json_member(c->metadata, "JSONSocket"), "src", ""),
	                    "1.2.3.4");
	result(c, 200, "OK");
	assert_true(pfix_until(f, &up->opened, 2000));
	for (i = 0; i < 20; i++) {
		assert_true(pfix_write(up, "\nping", 5) >= 0);
		assert_true(pfix_write(c, "\npong", 5) >= 0);
	}
	assert_true(pfix_until_size(f, &c->len, 100, 2000));
	assert_true(pfix_until_size(f, &up->len, 100, 2000));
	assert_memory_equal(c->data, "\nping", 5);
	assert_memory_equal(up->data, "\npong", 5);
	l7mp_stream_close(up->stream, false);
	assert_true(pfix_until_n(f, &up->closed, 1, 6000));
}

static void over_inet(void **state)
{
	struct pfix *f = *state;
	static const char *const names[] = {"UDP", "TCP", "WebSocket", "ws"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++) {
		unsigned port = listen_on(f, names[i]);

		both_ends(f, connect_to(f, names[i], port));
		pfix_unlisten(listener);
		listener = NULL;
	}
}

static void over_unix(void **state)
{
	struct pfix *f = *state;
	static const char *const names[] = {"UNIX/stream", "UNIX/seqpacket", "UNIX/dgram"};
	char spec[300], address[64];

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++) {
		cJSON *metadata = cJSON_Parse("{\"src\":\"1.2.3.4\"}");
		struct pconn *up;

		snprintf(address, sizeof(address), "@l7mp-js-%d-%zu", (int)getpid(), i);
		snprintf(spec, sizeof(spec), "{'transport':{'protocol':'%s','filename':'%s'}}",
		         names[i], address);
		listener = pfix_listen(f, JS, "l", spec, NULL);
		if (!listener)
			fail_msg("%s", f->err.message);
		snprintf(spec, sizeof(spec),
		         "{'transport':{'protocol':'%s'},'header':[{'path':'/src'}]}", names[i]);
		f->metadata = metadata;
		up = pfix_connect(f, JS, spec, address);
		f->metadata = NULL;
		cJSON_Delete(metadata);
		if (!up)
			fail_msg("%s: %s", names[i], f->err.message);
		both_ends(f, up);
		pfix_unlisten(listener);
		listener = NULL;
	}
}

static void transports_are_checked(void **state)
{
	struct pfix *f = *state;

	assert_null(pfix_listen(f, JS, "l", "{'transport':{'protocol':'JSONSocket'}}", NULL));
	assert_string_equal(f->err.message,
	                    "transport.protocol: JSONSocket can't use \"JSONSocket\"");
	assert_null(pfix_connect(f, JS, "{'transport':{'protocol':'Echo'}}", "x"));
	assert_null(pfix_connect(
	        f, JS,
	        "{'transport':{'protocol':'TCP','port':1},'header':[{'set':{'key':'a','value':1}},"
	        "{'set':{'key':'a/b','value':1}}]}",
	        "127.0.0.1"));
	assert_string_equal(f->err.message,
	                    "JSONSocket: header[1] can't be set: its parent is not an object");
}

static void listener_is_replaced(void **state)
{
	struct pfix *f = *state;
	unsigned port = listen_on(f, "TCP");
	struct l7mp_proto_listener *old = listener;
	char spec[200];
	int fd;

	snprintf(spec, sizeof(spec),
	         "{'transport':{'protocol':'TCP','address':'127.0.0.1','port':%u}}", port);
	listener = pfix_listen(f, JS, "l", spec, old);
	assert_non_null(listener);
	pfix_unlisten(old);
	fd = pfix_tcp("127.0.0.1", port);
	pfix_turn(f, 5);
	tcp_send(fd, HEADER);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	close(fd);
	/* Without taking over, the port is taken. */
	assert_null(pfix_listen(f, JS, "l", spec, NULL));
	assert_string_equal(f->err.path, "transport.port");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	        T(udp_handshake),
	        T(udp_client_begins_anew),
	        T(udp_anew_refused),
	        T(udp_early_payload),
	        T(udp_bad_headers),
	        T(udp_no_amplification),
	        T(udp_limits),
	        T(too_many_values),
	        T(udp_status_of_the_session),
	        T(unlisten_keeps_sessions),
	        T(tcp_handshake),
	        T(tcp_without_newline),
	        T(tcp_bad_headers),
	        T(tcp_header_without_end),
	        T(tcp_silent_clients),
	        T(random_headers),
	        T(refused_clients_cost_nothing),
	        T(udp_cluster),
	        T(udp_cluster_refused),
	        T(tcp_cluster),
	        T(tcp_cluster_fails),
	        T(closed_in_the_handshake),
	        T(over_inet),
	        T(over_unix),
	        T(transports_are_checked),
	        T(listener_is_replaced),
	};

	l7mp_log_set_level(L7MP_LOG_SILENT);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
