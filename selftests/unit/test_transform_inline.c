/* SPDX-License-Identifier: MIT */
/* Echo, Discard and Logger: streams without a descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_transform_echo, &l7mp_transform_discard,
                                                  &l7mp_transform_logger, NULL};

static struct pfix fix;
static char path[64], spec[160];

static int setup(void **state)
{
	int fd;

	pfix_new(&fix, protos);
	snprintf(path, sizeof(path), "/tmp/l7mp-logger-XXXXXX");
	fd = mkstemp(path);
	if (fd < 0)
		return -1;
	close(fd);
	snprintf(spec, sizeof(spec), "{'log_file':'%s','log_prefix':'[in] '}", path);
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	return unlink(path);
}

static struct pconn *open_one(struct pfix *f, const struct l7mp_proto *p, const char *s,
                              enum l7mp_kind kind)
{
	struct pconn *c = pfix_connect_kind(f, p, s, NULL, kind);

	assert_non_null(c);
	assert_true(c->stream->is_transformer);
	assert_int_equal(c->stream->kind, kind);
	assert_int_equal(pfix_write(c, "early", 5), -ENOTCONN);
	assert_true(pfix_until(f, &c->opened, 1000));
	return c;
}

/* A thread writes the file: waits until it has what is wanted, up to a minute. */
static void file_is(const char *want)
{
	char *text;
	size_t len;

	for (int i = 0; i < 6000; i++) {
		assert_int_equal(l7mp_read_file(path, 1 << 20, &text, &len), 0);
		if (!strcmp(text, want))
			break;
		free(text);
		text = NULL;
		usleep(10000);
	}
	assert_non_null(text);
	free(text);
}

static void ends_in_order(struct pfix *f, struct pconn *c)
{
	l7mp_stream_shutdown(c->stream, 0);
	l7mp_stream_shutdown(c->stream, 0);
	assert_true(c->ended);
	assert_int_equal(pfix_write(c, "late", 4), -EPIPE);
	l7mp_stream_close(c->stream, false);
	l7mp_stream_close(c->stream, true);
	assert_int_equal(c->closed, 0);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_false(c->failed);
}

static void echo(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_echo, NULL, L7MP_KIND_DATAGRAM);
	struct l7mp_flow_end flow;

	assert_int_equal(pfix_write(c, "a", 1), 0);
	assert_int_equal(pfix_write(c, "", 0), 0);
	assert_int_equal(pfix_write(c, "b", 1), 0);
	assert_string_equal(c->data, "a||b");
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_REFLECT);
	ends_in_order(f, c);
}

static void closed_before_it_opened(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = pfix_connect_kind(f, &l7mp_transform_echo, NULL, NULL, L7MP_KIND_STREAM);

	l7mp_stream_close(c->stream, false);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_false(c->opened);
}

static void discard(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_discard, NULL, L7MP_KIND_DATAGRAM);
	struct l7mp_flow_end flow;

	assert_int_equal(pfix_write(c, "abc", 3), 0);
	assert_int_equal(pfix_write(c, "de", 2), 0);
	assert_int_equal(c->messages, 0);
	assert_int_equal(f->stats.drops[L7MP_DROP_DISCARD], 2);
	assert_int_equal(f->stats.drop_bytes[L7MP_DROP_DISCARD], 5);
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_DROP);
	ends_in_order(f, c);
}

static void logger_writes_what_passes(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_logger, spec, L7MP_KIND_DATAGRAM);
	struct l7mp_flow_end flow;

	pfix_write(c, "typed line\n", 11);
	pfix_write(c, "no newline", 10);
	pfix_write(c, "", 0);
	assert_string_equal(c->data, "typed line\n|no newline|");
	pfix_turn(f, 5);
	file_is("[in] typed line\n[in] no newline\n[in] \n");
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_NONE);
	assert_int_equal(flow.reason, L7MP_REASON_TRANSFORMER);
	ends_in_order(f, c);
}

static void logger_escapes_what_is_not_text(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_logger, spec, L7MP_KIND_STREAM);
	static const char bytes[] =
	        "tab\tesc\x1b[2J nul\0 \xc3\xa9 \xff\xc3( \xed\xa0\x80 \xc2\x9b";
	static const char partial[] = "cut \xe2\x82";

	pfix_write(c, bytes, sizeof(bytes) - 1);
	pfix_write(c, partial, sizeof(partial) - 1);
	pfix_turn(f, 5);
	assert_int_equal(c->len, sizeof(bytes) + sizeof(partial) - 2);
	assert_memory_equal(c->data, bytes, sizeof(bytes) - 1);
	file_is("[in] tab\tesc\\x1b[2J nul\\x00 \xc3\xa9 \\xff\\xc3( \\xed\\xa0\\x80 \\xc2\\x9b\n"
	        "[in] cut \\xe2\\x82\n");
}

static void loggers_share_a_file(void **state)
{
	struct pfix *f = *state;
	char other[160];
	struct pconn *a, *b;
	FILE *file = fopen(path, "w");

	fputs("kept\n", file);
	fclose(file);
	snprintf(other, sizeof(other), "{'log_file':'%s'}", path);
	a = open_one(f, &l7mp_transform_logger, spec, L7MP_KIND_DATAGRAM);
	b = open_one(f, &l7mp_transform_logger, other, L7MP_KIND_DATAGRAM);
	pfix_write(a, "1", 1);
	pfix_write(b, "2", 1);
	pfix_turn(f, 2);
	l7mp_stream_close(a->stream, false);
	assert_true(pfix_until_n(f, &a->closed, 1, 1000));
	/* Still open for the other; what it wrote last is not lost by closing at once. */
	pfix_write(b, "3", 1);
	l7mp_stream_close(b->stream, false);
	assert_true(pfix_until_n(f, &b->closed, 1, 1000));
	pfix_turn(f, 2);
	file_is("kept\n[in] 1\n2\n3\n");
}

static void logger_says_why_not(void **state)
{
	struct pfix *f = *state;

	assert_null(pfix_connect_kind(f, &l7mp_transform_logger, "{'log_file':'/tmp'}", NULL,
	                              L7MP_KIND_STREAM));
	assert_string_equal(f->err.message, "Logger: log_file /tmp: Is a directory");
}

/* The standard output is a pipe that nobody reads for a while. */
static void slow_standard_output(void **state)
{
	struct pfix *f = *state;
	int p[2], saved = dup(STDOUT_FILENO);
	static char block[1000], got[1 << 20];
	size_t total = 0, sent = 0;
	struct pconn *c;
	ssize_t n;

	fflush(stdout);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(dup2(p[1], STDOUT_FILENO), STDOUT_FILENO);
	close(p[1]);
	c = open_one(f, &l7mp_transform_logger, NULL, L7MP_KIND_STREAM);
	memset(block, 'x', sizeof(block));
	for (int i = 0; i < 300; i++) {
		pfix_write(c, block, sizeof(block));
		sent += sizeof(block) + 1;
		if (i % 10 == 0)
			pfix_turn(f, 0);
	}
	pfix_turn(f, 5);
	/* The loop went on all the same; now it has a reader. */
	assert_int_equal(c->messages, 300);
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 1000 && total < sent; i++) {
		n = read(p[0], got + total, sizeof(got) - total);
		if (n > 0)
			total += (size_t)n;
		pfix_turn(f, 2);
	}
	dup2(saved, STDOUT_FILENO);
	close(saved);
	assert_int_equal(total, sent);
	for (size_t i = 0; i < total; i++)
		assert_int_equal(got[i], i % 1001 == 1000 ? '\n' : 'x');
	close(p[0]);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(echo),
	        T(closed_before_it_opened),
	        T(discard),
	        T(logger_writes_what_passes),
	        T(logger_escapes_what_is_not_text),
	        T(loggers_share_a_file),
	        T(logger_says_why_not),
	        T(slow_standard_output),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
