/* SPDX-License-Identifier: MIT */
/* PIPE: FIFOs made and removed, writers and readers that come and go. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/protos.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_proto_pipe, NULL};
#define PIPE (&l7mp_proto_pipe)

static struct pfix fix;
static char dir[64], in[96], out[96], spec[256];

/* The session layer's part: keeps what a listener may be asked for. */
static struct l7mp_accept last;
static bool stays; /* a session came of it */

static int setup(void **state)
{
	pfix_new(&fix, protos);
	snprintf(dir, sizeof(dir), "/tmp/l7mp-pipe-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(in, sizeof(in), "%s/in", dir);
	snprintf(out, sizeof(out), "%s/out", dir);
	snprintf(spec, sizeof(spec), "{'filename':'%s','output':'%s'}", in, out);
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	/* Fails when a FIFO that was made is left. */
	return rmdir(dir);
}

static bool there(const char *path)
{
	struct stat st;

	return !lstat(path, &st) && S_ISFIFO(st.st_mode);
}

static int writer(const char *path)
{
	int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int reader(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* Reads until there are n bytes. */
static void expect(struct pfix *f, int fd, const char *want)
{
	char buf[256];
	size_t have = 0;

	for (int i = 0; i < 2000 && have < strlen(want); i++) {
		ssize_t n = read(fd, buf + have, sizeof(buf) - have);

		if (n > 0)
			have += (size_t)n;
		else
			pfix_turn(f, 1);
	}
	assert_int_equal(have, strlen(want));
	assert_memory_equal(buf, want, have);
}

/* As the session does it when all is over. */
static void session_over(struct pfix *f, struct pconn *c)
{
	if (c->stream)
		l7mp_stream_close(c->stream, false);
	assert_true(pfix_until_n(f, &c->closed, 1, 6000));
	last.ended(last.reopen_arg);
}

static void (*plain_accept)(void *arg, struct l7mp_accept *a);
static void keep_accept(void *arg, struct l7mp_accept *a)
{
	last = *a;
	stays = true;
	plain_accept(arg, a);
}
static int keep_admit(void *arg, const struct l7mp_addr *peer)
{
	return pfix_listen_events.admit(arg, peer);
}
static struct l7mp_listen_events events = {.admit = keep_admit, .accept = keep_accept};

static struct l7mp_proto_listener *listen_on(struct pfix *f, const char *s,
                                             struct l7mp_proto_listener *old)
{
	struct l7mp_proto_listener *l;

	plain_accept = pfix_listen_events.accept;
	l = pfix_listen(f, PIPE, "l", s, old);
	if (l)
		l->events = &events;
	return l;
}

static void both_ways(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_on(f, spec, NULL);
	struct pconn *c;
	int w, r;

	assert_non_null(l);
	assert_true(there(in) && there(out));
	pfix_turn(f, 10);
	w = writer(in);
	r = reader(out);
	pfix_turn(f, 20);
	assert_int_equal(f->n_conns, 0); /* a writer that has sent nothing makes no session */
	assert_int_equal(write(w, "ask", 3), 3);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	assert_string_equal(c->name, "PIPE:l-1");
	assert_string_equal(l7mp_json_get(c->metadata, "/PIPE/filename")->valuestring, in);
	assert_string_equal(l7mp_json_get(c->metadata, "/PIPE/output")->valuestring, out);
	assert_true(pfix_until_size(f, &c->len, 3, 1000));
	close(w);
	assert_true(pfix_until(f, &c->ended, 1000));
	assert_int_equal(pfix_write(c, "answer", 6), 0);
	expect(f, r, "answer");
	l7mp_stream_shutdown(c->stream, 0);
	session_over(f, c);
	close(r);
	pfix_unlisten(l);
	assert_false(there(in) || there(out));
}

/* A writer after the other, sessions after the other; what one says meanwhile is not lost. */
static void one_after_the_other(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_on(f, spec, NULL);
	struct pconn *c;
	int w;

	pfix_turn(f, 10);
	w = writer(in);
	close(w); /* says nothing */
	pfix_turn(f, 20);
	w = writer(in);
	assert_int_equal(write(w, "1", 1), 1);
	close(w);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	assert_true(pfix_until(f, &c->ended, 1000));
	/* The session is not over yet, the next one writes and leaves. */
	w = writer(in);
	assert_int_equal(write(w, "2", 1), 1);
	close(w);
	pfix_turn(f, 20);
	assert_int_equal(f->n_conns, 1);
	session_over(f, c);
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	c = f->conns[1];
	assert_true(pfix_until(f, &c->ended, 1000));
	assert_string_equal(c->data, "2");
	session_over(f, c);
	pfix_unlisten(l);
}

/* With a route that retries: the session opens its source again for the next writer. */
static void opened_again(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_on(f, spec, NULL);
	struct l7mp_stream *s;
	struct pconn *c;
	int w;

	pfix_turn(f, 10);
	w = writer(in);
	assert_int_equal(write(w, "1", 1), 1);
	close(w);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	assert_true(pfix_until(f, &c->ended, 1000));
	l7mp_stream_close(c->stream, false);
	w = writer(in); /* before it is open again */
	assert_int_equal(write(w, "2", 1), 1);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	pfix_turn(f, 150);
	assert_int_equal(f->n_conns, 1); /* no other session for it */
	assert_int_equal(last.reopen(last.reopen_arg, &s), 0);
	last.stream = s;
	last.name = NULL;
	last.metadata = NULL;
	plain_accept(f, &last);
	c = f->conns[1];
	assert_true(pfix_until_size(f, &c->len, 1, 1000));
	assert_string_equal(c->data, "2");
	close(w);
	assert_true(pfix_until(f, &c->ended, 1000));
	session_over(f, c);
	pfix_unlisten(l);
}

/* Answers wait for a reader, and hold back who sends them. */
static void output_without_a_reader(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_on(f, spec, NULL);
	struct pconn *c;
	int w, r;

	pfix_turn(f, 10);
	w = writer(in);
	assert_int_equal(write(w, "x", 1), 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	assert_int_equal(pfix_write(c, "late", 4), L7MP_STREAM_FULL);
	pfix_turn(f, 120);
	assert_false(c->drained);
	r = reader(out);
	expect(f, r, "late");
	assert_true(pfix_until(f, &c->drained, 1000));
	assert_int_equal(pfix_write(c, "more", 4), 0);
	expect(f, r, "more");
	/* The reader goes: an error of the source. */
	close(r);
	(void)pfix_write(c, "x", 1);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_true(c->failed);
	assert_non_null(strstr(c->message, "its reader has closed"));
	last.ended(last.reopen_arg);
	close(w);
	pfix_unlisten(l);
}

static void one_way(void **state)
{
	struct pfix *f = *state;
	char s[160];
	struct l7mp_proto_listener *l;
	int w;

	snprintf(s, sizeof(s), "{'filename':'%s'}", in);
	l = listen_on(f, s, NULL);
	pfix_turn(f, 10);
	w = writer(in);
	assert_int_equal(write(w, "x", 1), 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_int_equal(pfix_write(f->conns[0], "answer", 6), 0);
	assert_int_equal(pfix_write(f->conns[0], "answer", 6), 0);
	assert_int_equal(f->stats.drops[L7MP_DROP_NO_RECEIVER], 2);
	session_over(f, f->conns[0]);
	close(w);
	pfix_unlisten(l);
}

/* Refused: by a limit, the bytes wait; by the rules, the next ones may have more luck. */
static void refused(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_on(f, spec, NULL);
	int w;

	f->admit_rc = -EBUSY;
	pfix_turn(f, 10);
	w = writer(in);
	assert_int_equal(write(w, "1", 1), 1);
	pfix_turn(f, 50);
	assert_int_equal(f->n_conns, 0);
	f->admit_rc = 0;
	f->refuse = true;
	assert_true(pfix_until_size(f, &f->n_conns, 1, 2000));
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	f->refuse = false;
	assert_int_equal(write(w, "2", 1), 1);
	assert_true(pfix_until_size(f, &f->n_conns, 2, 2000));
	assert_true(pfix_until_size(f, &f->conns[1]->len, 1, 1000));
	assert_string_equal(f->conns[1]->data, "2");
	session_over(f, f->conns[1]);
	close(w);
	pfix_unlisten(l);
}

/* What a killed proxy has left is taken over and removed, unless another one reads it. */
static void left_behind(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l;
	struct stat st;
	int reader;

	l = listen_on(f, spec, NULL);
	assert_non_null(l);
	assert_int_equal(lstat(in, &st), 0);
	assert_true(st.st_mode & S_ISVTX);
	pfix_unlisten(l);
	pfix_turn(f, 10);
	assert_false(there(in));

	assert_int_equal(mkfifo(in, 0600 | S_ISVTX), 0);
	assert_int_equal(mkfifo(out, 0600 | S_ISVTX), 0);
	l = listen_on(f, spec, NULL);
	assert_non_null(l);
	reader = open(out, O_RDONLY | O_NONBLOCK);
	assert_true(reader >= 0);
	pfix_unlisten(l);
	pfix_turn(f, 10);
	assert_false(there(in));
	assert_true(there(out));
	close(reader);
	unlink(out);
}

static void what_is_there_stays(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l;
	struct stat st;

	assert_int_equal(mkfifo(in, 0600), 0);
	close(open(out, O_WRONLY | O_CREAT, 0600));
	assert_null(listen_on(f, spec, NULL));
	assert_non_null(strstr(f->err.message, "is not a FIFO"));
	assert_string_equal(f->err.path, "output");
	unlink(out);
	l = listen_on(f, spec, NULL);
	assert_non_null(l);
	assert_null(listen_on(f, spec, NULL));
	assert_non_null(strstr(f->err.message, "another listener reads it"));
	pfix_turn(f, 10);
	pfix_unlisten(l);
	assert_true(there(in)); /* not ours */
	assert_int_equal(lstat(out, &st), -1);
	unlink(in);
}

/* A change replaces the listener: the session goes on, the new one reads after it. */
static void replaced(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = listen_on(f, spec, NULL), *m;
	int w;

	pfix_turn(f, 10);
	w = writer(in);
	assert_int_equal(write(w, "1", 1), 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	m = listen_on(f, spec, l);
	assert_non_null(m);
	pfix_unlisten(l);
	assert_int_equal(write(w, "2", 1), 1);
	assert_true(pfix_until_size(f, &f->conns[0]->len, 2, 1000));
	l7mp_stream_close(f->conns[0]->stream, false);
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	assert_int_equal(write(w, "3", 1), 1);
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	assert_true(pfix_until_size(f, &f->conns[1]->len, 1, 1000));
	session_over(f, f->conns[1]);
	close(w);
	pfix_unlisten(m);
	assert_false(there(in));
}

static void cluster(void **state)
{
	struct pfix *f = *state;
	char cs[160];
	struct pconn *c;
	int r, w;

	snprintf(cs, sizeof(cs), "{'input':'%s'}", in);
	assert_null(pfix_connect(f, PIPE, cs, out));
	assert_non_null(strstr(f->err.message, "it has no reader"));
	pfix_turn(f, 10);
	assert_true(there(out) && there(in)); /* so that a peer can open them */
	r = reader(out);
	c = pfix_connect(f, PIPE, cs, out);
	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_null(pfix_connect(f, PIPE, cs, out));
	assert_non_null(strstr(f->err.message, "another session reads it"));
	w = writer(in);
	pfix_write(c, "ask", 3);
	expect(f, r, "ask");
	assert_int_equal(write(w, "answer", 6), 6);
	close(w);
	assert_true(pfix_until(f, &c->ended, 1000));
	assert_string_equal(c->data, "answer");
	close(r);
	pfix_write(c, "x", 1);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_non_null(strstr(c->message, "its reader has closed"));
	/* Write-only: the end of writing is the end. */
	r = reader(out);
	c = pfix_connect(f, PIPE, NULL, out);
	assert_true(pfix_until(f, &c->opened, 1000));
	pfix_write(c, "bye", 3);
	l7mp_stream_shutdown(c->stream, 0);
	assert_false(c->ended);
	assert_true(pfix_until(f, &c->ended, 1000));
	expect(f, r, "bye");
	close(r);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(both_ways),    T(one_after_the_other),
	        T(opened_again), T(output_without_a_reader),
	        T(one_way),      T(refused),
	        T(left_behind),  T(what_is_there_stays),
	        T(replaced),     T(cluster),
	};

	/* As the daemon does. */
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
