/* SPDX-License-Identifier: MIT */
/* UNIX seqpacket sockets: boundaries, both ends of a connection, back-pressure. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/protos.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_proto_unix_seqpacket, NULL};
#define SEQ (&l7mp_proto_unix_seqpacket)

static struct pfix fix;
static char dir[64], path[96], spec[160];

static int setup(void **state)
{
	pfix_new(&fix, protos);
	snprintf(dir, sizeof(dir), "/tmp/l7mp-seq-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/sock", dir);
	snprintf(spec, sizeof(spec), "{'filename':'%s'}", path);
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	unlink(path);
	return rmdir(dir);
}

/* A plain client, non-blocking. */
static int client(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

static struct pconn *accepted(struct pfix *f, size_t n)
{
	assert_true(pfix_until_size(f, &f->n_conns, n, 1000));
	return f->conns[n - 1];
}

static void boundaries_are_kept(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, SEQ, "l", spec, NULL);
	struct pconn *s;
	char buf[64];
	int fd;

	assert_non_null(l);
	fd = client();
	s = accepted(f, 1);
	assert_string_equal(s->name, "UNIXS:l-1");
	assert_string_equal(l7mp_json_get(s->metadata, "/UNIX/filename")->valuestring, path);
	assert_int_equal(l7mp_json_get(s->metadata, "/UNIX/pid")->valueint, getpid());
	assert_int_equal(send(fd, "one", 3, 0), 3);
	assert_int_equal(send(fd, "two\0!", 5, 0), 5);
	assert_true(pfix_until_n(f, &s->messages, 2, 1000));
	assert_memory_equal(s->data, "one|two\0!", 9);
	pfix_write(s, "a", 1);
	pfix_write(s, "bc", 2);
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), 1);
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), 2);
	assert_string_equal(buf, "bc");
	close(fd);
	pfix_unlisten(l);
}

static void half_close(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, SEQ, "l", spec, NULL);
	struct pconn *c = pfix_connect(f, SEQ, NULL, path), *s;

	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	s = accepted(f, 2);
	pfix_write(c, "ask", 3);
	l7mp_stream_shutdown(c->stream, 0);
	assert_true(pfix_until(f, &s->ended, 1000));
	assert_string_equal(s->data, "ask");
	assert_int_equal(pfix_write(c, "more", 4), -EPIPE);
	pfix_write(s, "answer", 6);
	l7mp_stream_shutdown(s->stream, 0);
	assert_true(pfix_until(f, &c->ended, 1000));
	assert_string_equal(c->data, "answer");
	pfix_unlisten(l);
}

/* An empty message would be the end of the connection to its receiver. */
static void empty_messages_are_refused(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, SEQ, "l", spec, NULL);
	struct pconn *s;
	char buf[8];
	int fd = client();

	s = accepted(f, 1);
	assert_int_equal(pfix_write(s, "", 0), -ERANGE);
	assert_int_equal(pfix_write(s, "x", 1), 0);
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), 1);
	assert_int_equal(s->closed, 0);
	close(fd);
	pfix_unlisten(l);
}

static void largest(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, SEQ, "l", spec, NULL);
	struct pconn *c = pfix_connect(f, SEQ, NULL, path), *s;
	uint32_t max;
	char *big;

	assert_true(pfix_until(f, &c->opened, 1000));
	s = accepted(f, 2);
	max = c->stream->max_write;
	assert_true(max >= 65536);
	big = calloc(1, max + 1);
	big[max - 1] = 'x';
	assert_int_equal(pfix_write(c, big, max + 1), -EMSGSIZE);
	assert_int_equal(pfix_write(c, big, max), 0);
	assert_true(pfix_until_n(f, &s->messages, 1, 1000));
	assert_int_equal(s->len, max);
	assert_memory_equal(s->data, big, max);
	free(big);
	pfix_unlisten(l);
}

/* A reader that does not read holds its writer back; nothing is lost. */
static void back_pressure(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, SEQ, "l", spec, NULL);
	struct pconn *s;
	char msg[16384] = {0}, buf[16385];
	unsigned sent = 0, got = 0;
	int fd = client(), rc = 0;

	s = accepted(f, 1);
	while (rc != L7MP_STREAM_FULL && sent < 1000) {
		memcpy(msg, &sent, sizeof(sent));
		rc = pfix_write(s, msg, sizeof(msg));
		assert_true(rc >= 0);
		sent++;
		pfix_turn(f, 1);
	}
	assert_int_equal(rc, L7MP_STREAM_FULL);
	assert_false(s->drained);
	while (got < sent) {
		assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), sizeof(msg));
		assert_memory_equal(buf, &got, sizeof(got));
		got++;
	}
	assert_true(pfix_until(f, &s->drained, 1000));
	assert_int_equal(s->lost, 0);
	close(fd);
	pfix_unlisten(l);
}

/* What waits at a close still arrives, and the end after it. */
static void close_waits_for_the_queue(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, SEQ, "l", spec, NULL);
	struct pconn *s;
	char msg[16384] = {0}, buf[16385];
	unsigned sent = 0;
	int fd = client();

	s = accepted(f, 1);
	while (pfix_write(s, msg, sizeof(msg)) == 0 && sent < 1000) {
		sent++;
		pfix_turn(f, 1);
	}
	sent++;
	l7mp_stream_close(s->stream, false);
	for (unsigned i = 0; i < sent; i++)
		assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), sizeof(msg));
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), 0);
	assert_true(pfix_until_n(f, &s->closed, 1, 1000));
	assert_false(s->failed);
	close(fd);
	pfix_unlisten(l);
}

static void the_peer_vanishes(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, SEQ, "l", spec, NULL);
	struct pconn *s;
	int fd = client();

	s = accepted(f, 1);
	send(fd, "last words", 10, 0);
	close(fd);
	pfix_write(s, "into the void", 13);
	assert_true(pfix_until_n(f, &s->closed, 1, 1000));
	assert_true(s->failed);
	assert_string_equal(s->data, "last words");
	pfix_unlisten(l);
}

static void paused_reads_nothing(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, SEQ, "l", spec, NULL);
	struct pconn *s;
	int fd = client();

	s = accepted(f, 1);
	l7mp_stream_pause(s->stream, true);
	send(fd, "x", 1, 0);
	pfix_turn(f, 20);
	assert_int_equal(s->messages, 0);
	l7mp_stream_pause(s->stream, false);
	assert_true(pfix_until_n(f, &s->messages, 1, 1000));
	close(fd);
	pfix_unlisten(l);
}

static void nobody_there(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = pfix_connect(f, SEQ, NULL, path);

	assert_null(c);
	assert_non_null(strstr(f->err.message, "UNIX/seqpacket connect to"));
	assert_non_null(strstr(f->err.message, "no such name or file"));
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(boundaries_are_kept),
	        T(half_close),
	        T(empty_messages_are_refused),
	        T(largest),
	        T(back_pressure),
	        T(close_waits_for_the_queue),
	        T(the_peer_vanishes),
	        T(paused_reads_nothing),
	        T(nobody_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
