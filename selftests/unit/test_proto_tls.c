/* SPDX-License-Identifier: MIT */
/*
 * TLS on real sockets, over TCP and WebSocket: handshakes, checks, half-close, back-pressure,
 * reload. Certificates are made by openssl(1).
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/protos.h"
#include "l7mp/tls.h"
#include "l7mp/util.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_proto_tcp, &l7mp_proto_ws, NULL};
#define TCP (&l7mp_proto_tcp)
#define WS  (&l7mp_proto_ws)

static char dir[] = "/tmp/l7mp-tls-XXXXXX";
static struct pfix fix;

/* ---- certificates ---- */

static void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *fmt, ...)
{
	char command[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	if (system(command) != 0) {
		fprintf(stderr, "failed: %s\n", command);
		exit(1);
	}
}

static void make_ca(const char *name)
{
	shell("cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
	      "-keyout %s.key -out %s.pem -subj '/CN=%s' -days 30 2>/dev/null",
	      dir, name, name, name);
}

/* `days` below zero: expired. */
static void make_cert(const char *ca, const char *name, const char *san, int days)
{
	/* OpenSSL 3.4 and later take no days below zero, those before it no dates. */
	const char *until = days > 0 ? "-days 10"
	                             : "$(openssl x509 -help 2>&1 | grep -q not_after && echo "
	                               "-not_before 20200101000000Z -not_after 20200102000000Z || "
	                               "echo -days -1)";

	shell("cd %s && openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
	      "-keyout %s.key -out %s.csr -subj '/CN=%s' 2>/dev/null && "
	      "echo 'subjectAltName=%s' > ext && "
	      "openssl x509 -req -in %s.csr -CA %s.pem -CAkey %s.key -CAcreateserial %s "
	      "-extfile ext -out %s.pem 2>/dev/null",
	      dir, name, name, name, san, name, ca, ca, until, name);
}

static int make_all(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	make_ca("ca");
	make_ca("other");
	make_cert("ca", "server", "DNS:localhost,DNS:relay.example,IP:127.0.0.1,IP:::1", 10);
	make_cert("ca", "second", "DNS:localhost,IP:127.0.0.1", 10);
	make_cert("ca", "expired", "IP:127.0.0.1", -1);
	make_cert("ca", "wrong", "DNS:somewhere.example", 10);
	make_cert("ca", "client", "DNS:client.example", 10);
	make_cert("other", "untrusted", "DNS:untrusted.example", 10);
	shell("cd %s && openssl ec -in server.key -aes128 -passout pass:x -out locked.key "
	      "2>/dev/null",
	      dir);
	return 0;
}

static int remove_all(void **state)
{
	(void)state;
	shell("rm -rf %s", dir);
	return 0;
}

static int setup(void **state)
{
	pfix_new(&fix, protos);
	fix.answer = true;
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	return 0;
}

/* ---- a listener and a client ---- */

/* `tls` in the text of a spec; '@' stands for the directory of the files. */
static const char *expand(const char *text, char *buf, size_t size)
{
	struct l7mp_str s = {0};

	for (; *text; text++)
		if (*text == '@')
			l7mp_str_add(&s, dir);
		else
			l7mp_str_addn(&s, text, 1);
	snprintf(buf, size, "%s", s.s);
	l7mp_str_free(&s);
	return buf;
}

#define SERVER_TLS "'cert':'@/server.pem','key':'@/server.key'"

static struct l7mp_proto_listener *listen_tls(struct pfix *f, const struct l7mp_proto *p,
                                              const char *tls)
{
	char raw[512], spec[600];

	snprintf(raw, sizeof(raw), "{'address':'127.0.0.1','port':0,'tls':{%s}}", tls);
	return pfix_listen(f, p, "l", expand(raw, spec, sizeof(spec)), NULL);
}

static struct pconn *connect_tls(struct pfix *f, const struct l7mp_proto *p, unsigned port,
                                 const char *tls, const char *address)
{
	char raw[512], spec[600];

	snprintf(raw, sizeof(raw), "{'port':%u,'tls':{%s}}", port, tls);
	return pfix_connect(f, p, expand(raw, spec, sizeof(spec)), address);
}

static bool is_closed(struct pfix *f, struct pconn *c)
{
	return pfix_until_n(f, &c->closed, 1, 5000);
}

/* A pair whose handshake worked; the listener is gone. */
static void pair(struct pfix *f, const struct l7mp_proto *p, const char *server, const char *client,
                 struct pconn **c, struct pconn **s)
{
	struct l7mp_proto_listener *l = listen_tls(f, p, server);
	size_t n = f->n_conns;

	assert_non_null(l);
	*c = connect_tls(f, p, pfix_port(l), client, "127.0.0.1");
	assert_non_null(*c);
	assert_true(pfix_until_size(f, &f->n_conns, n + 2, 5000));
	assert_true(pfix_until(f, &(*c)->opened, 5000));
	*s = f->conns[n + 1];
	assert_true((*s)->accepted);
	pfix_unlisten(l);
}

/* ---- tests ---- */

static void both_ways_and_half_close(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;

	pair(f, TCP, SERVER_TLS, "'ca':'@/ca.pem'", &c, &s);
	assert_int_equal(pfix_write(c, "hello", 5), 0);
	l7mp_stream_pause(s->stream, false);
	l7mp_stream_pause(c->stream, false);
	assert_true(pfix_until_size(f, &s->len, 5, 5000));
	l7mp_stream_shutdown(c->stream, 0);
	assert_true(pfix_until(f, &s->ended, 5000));
	assert_int_equal(s->notices, 0); /* close_notify came */
	assert_int_equal(pfix_write(s, "still here", 10), 0);
	assert_true(pfix_until_size(f, &c->len, 10, 5000));
	assert_memory_equal(c->data, "still here", 10);
	l7mp_stream_shutdown(s->stream, 0);
	assert_true(pfix_until(f, &c->ended, 5000));
}

static void metadata_says_what_was_agreed(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;
	const cJSON *tls;

	pair(f, TCP, SERVER_TLS ",'client_ca':'@/ca.pem'",
	     "'ca':'@/ca.pem','sni':'relay.example','cert':'@/client.pem','key':'@/client.key'", &c,
	     &s);
	tls = l7mp_json_member(s->metadata, "TLS");
	assert_string_equal(l7mp_json_str(tls, "version", ""), "TLSv1.3");
	assert_string_equal(l7mp_json_str(tls, "sni", ""), "relay.example");
	assert_string_equal(l7mp_json_str(tls, "client_subject", ""), "CN=client");
	assert_true(strlen(l7mp_json_str(tls, "cipher", "")) > 5);
	assert_string_equal(l7mp_json_str(l7mp_json_member(s->metadata, "IP"), "src_addr", ""),
	                    "127.0.0.1");
	assert_int_equal(c->notices, 1);
}

/* A client whose connect must fail, and what it then says. */
static void must_fail(struct pfix *f, const struct l7mp_proto *p, const char *server,
                      const char *client, const char *says)
{
	struct l7mp_proto_listener *l = listen_tls(f, p, server);
	uint64_t refused = f->stats.refusals[L7MP_REFUSE_TLS];
	struct pconn *c;

	assert_non_null(l);
	c = connect_tls(f, p, pfix_port(l), client, "127.0.0.1");
	assert_non_null(c);
	assert_true(is_closed(f, c));
	assert_false(c->opened);
	assert_true(c->failed);
	if (!strstr(c->message, says))
		fail_msg("expected '%s' in '%s'", says, c->message);
	for (int k = 0; k < 300 && f->stats.refusals[L7MP_REFUSE_TLS] == refused; k++)
		pfix_turn(f, 10); /* the listener heard of it too */
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_TLS], refused + 1);
	pfix_unlisten(l);
}

static void bad_certificates_are_named(void **state)
{
	struct pfix *f = *state;
	const struct l7mp_proto *const both[] = {TCP, WS};

	for (size_t i = 0; i < 2; i++) {
		must_fail(f, both[i], "'cert':'@/expired.pem','key':'@/expired.key'",
		          "'ca':'@/ca.pem'", "the certificate has expired: it was valid until");
		must_fail(f, both[i], "'cert':'@/wrong.pem','key':'@/wrong.key'", "'ca':'@/ca.pem'",
		          "the certificate has the wrong name: expected 127.0.0.1, got "
		          "somewhere.example");
		must_fail(f, both[i], SERVER_TLS, "'ca':'@/ca.pem','sni':'other.example'",
		          "expected other.example, got localhost, relay.example, 127.0.0.1");
		must_fail(f, both[i], SERVER_TLS, "'ca':'@/other.pem'",
		          "the certificate is signed by an unknown CA: CN=ca");
	}
}

static void insecure_takes_any(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;

	pair(f, TCP, "'cert':'@/expired.pem','key':'@/expired.key'", "'insecure':true", &c, &s);
	pair(f, WS, "'cert':'@/wrong.pem','key':'@/wrong.key'", "'insecure':true", &c, &s);
}

/* In TLS 1.3 the client is done before the server has seen that something is missing. */
static void client_certificates(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_tls(f, TCP, SERVER_TLS ",'client_ca':'@/ca.pem'");
	struct pconn *c;
	size_t n = f->n_conns;

	c = connect_tls(f, TCP, pfix_port(l), "'ca':'@/ca.pem'", "127.0.0.1");
	assert_true(pfix_until(f, &c->opened, 5000));
	l7mp_stream_pause(c->stream, false);
	assert_true(is_closed(f, c));
	assert_non_null(strstr(c->message, "certificate required"));
	c = connect_tls(f, TCP, pfix_port(l),
	                "'ca':'@/ca.pem','cert':'@/untrusted.pem','key':'@/untrusted.key'",
	                "127.0.0.1");
	assert_true(pfix_until(f, &c->opened, 5000));
	l7mp_stream_pause(c->stream, false);
	assert_true(is_closed(f, c));
	assert_non_null(strstr(c->message, "unknown ca"));
	assert_int_equal(f->n_conns, n + 2); /* no session was emitted */
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_TLS], 2);
	pfix_unlisten(l);
}

static void files_are_named(void **state)
{
	struct pfix *f = *state;
	static const struct {
		const char *tls, *path, *says;
	} cases[] = {
	        {"'cert':'@/none.pem','key':'@/server.key'", "tls.cert", "No such file"},
	        {"'cert':'@','key':'@/server.key'", "tls.cert", "is not a file"},
	        {"'cert':'@/ext','key':'@/server.key'", "tls.cert", "no PEM certificate"},
	        {"'cert':'@/server.pem','key':'@/second.key'", "tls.key",
	         "does not belong to the certificate in"},
	        {"'cert':'@/server.pem','key':'@/locked.key'", "tls.key", "is encrypted"},
	        {"'cert':'@/server.pem','key':'@/server.pem'", "tls.key", "no PEM private key"},
	        {SERVER_TLS ",'client_ca':'@/server.key'", "tls.client_ca", "no PEM certificate"},
	};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		assert_null(listen_tls(f, i % 2 ? WS : TCP, cases[i].tls));
		assert_string_equal(f->err.path, cases[i].path);
		if (!strstr(f->err.message, cases[i].says))
			fail_msg("expected '%s' in '%s'", cases[i].says, f->err.message);
		assert_non_null(strstr(f->err.message, dir));
		assert_int_equal(f->err.code, L7MP_ERR_REALISE);
	}
	assert_null(connect_tls(f, TCP, 1, "'ca':'@/none.pem'", "127.0.0.1"));
	assert_non_null(strstr(f->err.message, "none.pem"));
	assert_null(connect_tls(f, WS, 1, "'ca':'@/none.pem'", "127.0.0.1"));
	assert_non_null(strstr(f->err.message, "none.pem"));
}

static void noise_is_dropped(void **state)
{
	struct pfix *f = *state;
	static const char noises[][40] = {"GET / HTTP/1.1\r\n\r\n", "",
	                                  "\x16\x03\x01\x40\x00 this is no hello at all"};
	const struct l7mp_proto *const both[] = {TCP, WS};
	uint64_t before = 0;

	for (size_t p = 0; p < 2; p++) {
		struct l7mp_proto_listener *l = listen_tls(f, both[p], SERVER_TLS);

		for (size_t i = 0; i < L7MP_ARRAY_SIZE(noises); i++) {
			int fd = pfix_tcp("127.0.0.1", pfix_port(l));
			char buf[256];

			before = f->stats.refusals[L7MP_REFUSE_TLS];
			pfix_turn(f, 20);
			assert_int_equal(send(fd, noises[i], sizeof(noises[i]), MSG_NOSIGNAL),
			                 sizeof(noises[i]));
			shutdown(fd, SHUT_WR);
			for (int k = 0; k < 100 && f->stats.refusals[L7MP_REFUSE_TLS] == before;
			     k++)
				pfix_turn(f, 10);
			assert_int_equal(f->stats.refusals[L7MP_REFUSE_TLS], before + 1);
			(void)!recv(fd, buf, sizeof(buf), 0);
			close(fd);
		}
		pfix_unlisten(l);
	}
	assert_int_equal(f->n_conns, 0);
}

/* ---- what openssl says ---- */

static void no_old_versions(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_tls(f, TCP, SERVER_TLS);
	char command[256];
	FILE *p;

	snprintf(command, sizeof(command),
	         "openssl s_client -tls1_1 -cipher DEFAULT@SECLEVEL=0 -connect 127.0.0.1:%u "
	         "</dev/null >/dev/null 2>&1",
	         pfix_port(l));
	p = popen(command, "r");
	assert_non_null(p);
	for (int k = 0; k < 300 && !f->stats.refusals[L7MP_REFUSE_TLS]; k++)
		pfix_turn(f, 10);
	assert_int_not_equal(pclose(p), 0);
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_TLS], 1);
	assert_int_equal(f->n_conns, 0);
	pfix_unlisten(l);
}

/* A reader that does not read stops the writer; all arrives in the end. */
static void back_pressure(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;
	static char block[32768];
	size_t sent = 0, target = 24 * 1024 * 1024;
	int rc = 0;

	pair(f, TCP, SERVER_TLS, "'ca':'@/ca.pem'", &c, &s);
	l7mp_stream_pause(s->stream, true);
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)(i * 7);
	while (sent < target) {
		c->drained = false;
		rc = pfix_write(c, block, sizeof(block));
		assert_true(rc >= 0);
		sent += sizeof(block);
		if (rc == L7MP_STREAM_FULL)
			break;
	}
	assert_int_equal(rc, L7MP_STREAM_FULL);
	/* The kernel's buffers may grow and take the queue meanwhile: then it is drained here. */
	pfix_turn(f, 200);
	assert_int_equal(s->len, 0);
	l7mp_stream_pause(s->stream, false);
	while (sent < target) {
		if (rc == L7MP_STREAM_FULL)
			assert_true(pfix_until(f, &c->drained, 5000));
		c->drained = false;
		rc = pfix_write(c, block, sizeof(block));
		assert_true(rc >= 0);
		sent += sizeof(block);
	}
	assert_true(pfix_until_size(f, &s->len, target, 20000));
	for (size_t i = 0; i < target; i += sizeof(block))
		assert_memory_equal(s->data + i, block, sizeof(block));
}

static void end_without_close_notify(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_tls(f, TCP, SERVER_TLS);
	char command[256];
	FILE *p;
	struct pconn *s;

	/* A client that is killed sends a bare FIN. */
	snprintf(command, sizeof(command),
	         "(sleep 0.2; echo data; sleep 5) | timeout -s KILL 1 openssl s_client -quiet "
	         "-connect 127.0.0.1:%u >/dev/null 2>&1",
	         pfix_port(l));
	p = popen(command, "r");
	assert_non_null(p);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 5000));
	s = f->conns[0];
	l7mp_stream_pause(s->stream, false);
	assert_true(pfix_until(f, &s->ended, 5000));
	assert_int_equal(s->len, 5);
	assert_int_equal(s->notices, 1);
	pclose(p);
	pfix_unlisten(l);
}

/* ---- reload ---- */

static void reload_reads_files_again(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l;
	struct pconn *c, *old;
	size_t n;

	shell("cd %s && cp expired.pem live.pem && cp expired.key live.key", dir);
	l = listen_tls(f, TCP, "'cert':'@/live.pem','key':'@/live.key'");
	old = connect_tls(f, TCP, pfix_port(l), "'insecure':true", "127.0.0.1");
	assert_true(pfix_until(f, &old->opened, 5000));

	shell("cd %s && cp server.pem live.pem && cp server.key live.key", dir);
	c = connect_tls(f, TCP, pfix_port(l), "'ca':'@/ca.pem'", "127.0.0.1");
	assert_true(is_closed(f, c)); /* not before it was asked for */
	l7mp_proto_tcp.reload(&f->env, l7mp_proto_state(&f->env, TCP, NULL));
	c = connect_tls(f, TCP, pfix_port(l), "'ca':'@/ca.pem'", "127.0.0.1");
	assert_true(pfix_until(f, &c->opened, 5000));

	/* What can't be read leaves what is. */
	shell("cd %s && echo broken > live.pem", dir);
	l7mp_proto_tcp.reload(&f->env, l7mp_proto_state(&f->env, TCP, NULL));
	c = connect_tls(f, TCP, pfix_port(l), "'ca':'@/ca.pem'", "127.0.0.1");
	assert_true(pfix_until(f, &c->opened, 5000));

	/* The connection from before goes on. */
	n = old->len;
	assert_int_equal(old->closed, 0);
	assert_int_equal(pfix_write(old, "x", 1), 0);
	assert_int_equal(old->len, n);
	pfix_unlisten(l);
}

/* ---- WebSocket ---- */

static void websocket_messages(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;
	static char big[1 << 20];
	const cJSON *http;

	memset(big, 'b', sizeof(big));
	pair(f, WS, SERVER_TLS, "'ca':'@/ca.pem'", &c, &s);
	http = l7mp_json_member(s->metadata, "HTTP");
	assert_string_equal(l7mp_json_str(l7mp_json_member(http, "url"), "protocol", ""), "wss");
	assert_non_null(l7mp_json_member(s->metadata, "TLS"));
	l7mp_stream_pause(c->stream, false);
	l7mp_stream_pause(s->stream, false);
	assert_int_equal(pfix_write(c, "one", 3), 0);
	assert_int_equal(pfix_write(c, "two", 3), 0);
	assert_true(pfix_until_n(f, &s->messages, 2, 5000));
	assert_memory_equal(s->data, "one|two", 7);
	assert_true(pfix_write(s, big, sizeof(big)) >= 0);
	assert_true(pfix_until_n(f, &c->messages, 1, 10000));
	assert_true(c->len >= sizeof(big));
	l7mp_stream_close(c->stream, false);
	assert_true(pfix_until(f, &s->ended, 5000));
	l7mp_stream_close(s->stream, false);
	assert_true(is_closed(f, c));
	assert_true(is_closed(f, s));
	assert_false(c->failed);
	assert_false(s->failed);
}

/* The source address of the connection itself, not of the library's socket. */
static void websocket_local_address(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;
	struct l7mp_addr local;

	pair(f, WS, SERVER_TLS, "'ca':'@/ca.pem'", &c, &s);
	assert_int_equal(c->stream->ops->local(c->stream, &local), 0);
	assert_true(l7mp_addr_equal(&local, &s->peer));
}

static void websocket_aborts(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;

	pair(f, WS, SERVER_TLS, "'ca':'@/ca.pem'", &c, &s);
	l7mp_stream_pause(s->stream, false);
	l7mp_stream_close(c->stream, true);
	assert_true(is_closed(f, c));
	assert_true(is_closed(f, s));
	assert_true(s->failed);
}

/* Everything in progress is freed without a leak (the fixture looks). */
static void closing_early(void **state)
{
	struct pfix *f = *state;
	const struct l7mp_proto *const both[] = {TCP, WS};

	for (size_t i = 0; i < 2; i++) {
		struct l7mp_proto_listener *l = listen_tls(f, both[i], SERVER_TLS);
		struct pconn *c;

		for (unsigned ms = 0; ms < 8; ms++) {
			c = connect_tls(f, both[i], pfix_port(l), "'ca':'@/ca.pem'", "127.0.0.1");
			assert_non_null(c);
			pfix_turn(f, ms);
			if (c->stream)
				l7mp_stream_close(c->stream, ms & 1);
			assert_true(is_closed(f, c));
		}
		connect_tls(f, both[i], pfix_port(l), "'ca':'@/ca.pem'", "127.0.0.1");
		pfix_turn(f, 1);
		pfix_unlisten(l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	        T(both_ways_and_half_close),
	        T(metadata_says_what_was_agreed),
	        T(bad_certificates_are_named),
	        T(insecure_takes_any),
	        T(client_certificates),
	        T(files_are_named),
	        T(noise_is_dropped),
	        T(no_old_versions),
	        T(back_pressure),
	        T(end_without_close_notify),
	        T(reload_reads_files_again),
	        T(websocket_messages),
	        T(websocket_local_address),
	        T(websocket_aborts),
	        T(closing_early),
	};

	return cmocka_run_group_tests(tests, make_all, remove_all);
}
