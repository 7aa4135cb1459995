/* SPDX-License-Identifier: MIT */
/* UNIX stream sockets: whose path it is, who the peer is, half-close. */
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

static const struct l7mp_proto *const protos[] = {&l7mp_proto_unix, NULL};
#define UNIX (&l7mp_proto_unix)

static struct pfix fix;
static char dir[64], path[96], spec[160];

static int setup(void **state)
{
	pfix_new(&fix, protos);
	snprintf(dir, sizeof(dir), "/tmp/l7mp-unix-XXXXXX");
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

static bool is_socket(void)
{
	struct stat st;

	return !lstat(path, &st) && S_ISSOCK(st.st_mode);
}

/* A socket of another process at our path. */
static int foreign(int type, bool listens)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	if (listens)
		assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static void talk(struct pfix *f, const char *address, const char *filename)
{
	struct pconn *c = pfix_connect(f, UNIX, NULL, address), *s;

	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	s = f->conns[1];
	assert_string_equal(s->name, "UNIX:l-1");
	assert_string_equal(l7mp_json_get(s->metadata, "/UNIX/filename")->valuestring, filename);
	assert_int_equal(l7mp_json_get(s->metadata, "/UNIX/pid")->valueint, getpid());
	assert_int_equal(l7mp_json_get(s->metadata, "/UNIX/uid")->valueint, getuid());
	assert_int_equal(l7mp_json_get(s->metadata, "/UNIX/gid")->valueint, getgid());
	assert_int_equal(s->peer.len, 0);
	pfix_write(c, "ask", 3);
	l7mp_stream_shutdown(c->stream, 0);
	assert_true(pfix_until(f, &s->ended, 1000));
	assert_string_equal(s->data, "ask");
	pfix_write(s, "answer", 6);
	l7mp_stream_shutdown(s->stream, 0);
	assert_true(pfix_until(f, &c->ended, 1000));
	assert_string_equal(c->data, "answer");
}

static void by_path(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UNIX, "l", spec, NULL);
	struct l7mp_flow_end flow;

	assert_non_null(l);
	talk(f, path, path);
	l7mp_stream_flow(f->conns[0]->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_NONE);
	assert_int_equal(flow.reason, L7MP_REASON_PROTOCOL);
	assert_true(is_socket());
	pfix_unlisten(l);
	assert_false(is_socket());
	/* Its sessions go on. */
	assert_int_equal(f->conns[1]->closed, 0);
}

static void abstract(void **state)
{
	struct pfix *f = *state;
	char name[128], s[160];
	struct l7mp_proto_listener *l;

	snprintf(name, sizeof(name), "@%s", dir);
	snprintf(s, sizeof(s), "{'filename':'%s'}", name);
	l = pfix_listen(f, UNIX, "l", s, NULL);
	assert_non_null(l);
	assert_null(pfix_listen(f, UNIX, "m", s, NULL));
	assert_non_null(strstr(f->err.message, "address already in use"));
	talk(f, name, name);
	pfix_unlisten(l);
}

static void a_stale_socket_is_replaced(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l;

	close(foreign(SOCK_STREAM, true));
	assert_true(is_socket());
	l = pfix_listen(f, UNIX, "l", spec, NULL);
	assert_non_null(l);
	pfix_unlisten(l);
	assert_false(is_socket());
}

static void a_live_socket_is_left_alone(void **state)
{
	struct pfix *f = *state;
	int fd = foreign(SOCK_STREAM, true);

	assert_null(pfix_listen(f, UNIX, "l", spec, NULL));
	assert_non_null(strstr(f->err.message, "another process listens there"));
	assert_string_equal(f->err.path, "filename");
	assert_true(is_socket());
	close(fd);
	unlink(path);
	/* One of another type is in use, too. */
	fd = foreign(SOCK_DGRAM, false);
	assert_null(pfix_listen(f, UNIX, "l", spec, NULL));
	assert_true(is_socket());
	close(fd);
}

static void a_file_is_left_alone(void **state)
{
	struct pfix *f = *state;
	FILE *file = fopen(path, "w");
	struct stat st;

	fputs("precious", file);
	fclose(file);
	assert_null(pfix_listen(f, UNIX, "l", spec, NULL));
	assert_non_null(strstr(f->err.message, "is not a socket"));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 8);
	unlink(path);
	/* Nor is what a link points to. */
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_null(pfix_listen(f, UNIX, "l", spec, NULL));
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
}

static void socket_of_another_process_stays(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UNIX, "l", spec, NULL);
	int fd;

	unlink(path);
	fd = foreign(SOCK_STREAM, true);
	pfix_unlisten(l);
	assert_true(is_socket());
	close(fd);
}

static void replaced_without_a_gap(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UNIX, "l", spec, NULL), *m;
	struct pconn *c = pfix_connect(f, UNIX, NULL, path);

	assert_non_null(c);
	m = pfix_listen(f, UNIX, "l", spec, l);
	assert_non_null(m);
	pfix_unlisten(l);
	assert_true(is_socket());
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	pfix_unlisten(m);
	assert_false(is_socket());
}

static void nobody_there(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = pfix_connect(f, UNIX, NULL, path);
	char want[200];

	if (c) {
		assert_true(pfix_until_n(f, &c->closed, 1, 1000));
		assert_true(c->failed);
		snprintf(want, sizeof(want), "UNIX connect to %s: no such name or file", path);
		assert_string_equal(c->message, want);
	}
	snprintf(spec, sizeof(spec), "{'filename':'%s/no/dir'}", dir);
	assert_null(pfix_listen(f, UNIX, "l", spec, NULL));
	assert_non_null(strstr(f->err.message, "no such name or file"));
}

/* Two of one change want the same address: the second is refused before the first is active. */
static void one_change_one_address(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UNIX, "l", spec, NULL), *m, *n;

	f->inactive = true;
	m = pfix_listen(f, UNIX, "m", spec, l);
	assert_non_null(m);
	assert_null(pfix_listen(f, UNIX, "n", spec, l));
	pfix_unlisten(m);
	n = pfix_listen(f, UNIX, "n", spec, l);
	assert_non_null(n);
	pfix_unlisten(l);
	UNIX->activate(n);
	pfix_unlisten(n);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(by_path),
	        T(abstract),
	        T(a_stale_socket_is_replaced),
	        T(a_live_socket_is_left_alone),
	        T(a_file_is_left_alone),
	        T(socket_of_another_process_stays),
	        T(replaced_without_a_gap),
	        T(nobody_there),
	        T(one_change_one_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
