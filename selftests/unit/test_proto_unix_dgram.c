/* SPDX-License-Identifier: MIT */
/* UNIX datagram sockets: a session per path, unnamed senders, peers that go. */
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

static const struct l7mp_proto *const protos[] = {&l7mp_proto_unix_dgram, NULL};
#define UDG (&l7mp_proto_unix_dgram)

static struct pfix fix;
static char dir[64], path[96], spec[160];

static int setup(void **state)
{
	pfix_new(&fix, protos);
	snprintf(dir, sizeof(dir), "/tmp/l7mp-udg-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/sock", dir);
	snprintf(spec, sizeof(spec), "{'filename':'%s'}", path);
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	pfix_free(*state);
	snprintf(cmd, sizeof(cmd), "%s/a", dir);
	unlink(cmd);
	snprintf(cmd, sizeof(cmd), "%s/b", dir);
	unlink(cmd);
	unlink(path);
	return rmdir(dir);
}

static void address(struct sockaddr_un *un, const char *name, socklen_t *len)
{
	*un = (struct sockaddr_un){.sun_family = AF_UNIX};
	strcpy(un->sun_path, name);
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
	if (name[0] == '@')
		un->sun_path[0] = '\0';
	else
		*len += 1;
}

/* A plain socket; name NULL: unnamed, "a": in our directory, "@a": abstract. */
static int sock(const char *name)
{
	struct sockaddr_un un;
	char full[100];
	socklen_t len;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	if (!name)
		return fd;
	if (name[0] == '@')
		snprintf(full, sizeof(full), "%s", name);
	else
		snprintf(full, sizeof(full), "%s/%s", dir, name);
	address(&un, full, &len);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, len), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	struct sockaddr_un un;
	socklen_t len;

	address(&un, path, &len);
	assert_int_equal(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&un, len),
	                 strlen(text));
}

static void a_session_per_path(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDG, "l", spec, NULL);
	int a = sock("a"), b = sock("@l7mp-test-udg-b");
	char buf[64], want[100];

	assert_non_null(l);
	f->echo = true;
	say(a, "a1");
	say(b, "b1");
	say(a, "a2");
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	assert_int_equal(pfix_recv(f, a, buf, sizeof(buf), NULL, 1000), 2);
	assert_string_equal(buf, "a1");
	assert_int_equal(pfix_recv(f, a, buf, sizeof(buf), NULL, 1000), 2);
	assert_string_equal(buf, "a2");
	assert_int_equal(pfix_recv(f, b, buf, sizeof(buf), NULL, 1000), 2);
	assert_string_equal(buf, "b1");
	assert_int_equal(f->n_conns, 2);
	assert_string_equal(f->conns[0]->name, "UNIXD:l-1");
	snprintf(want, sizeof(want), "%s/a", dir);
	assert_string_equal(l7mp_json_get(f->conns[0]->metadata, "/UNIX/peer")->valuestring, want);
	assert_string_equal(l7mp_json_get(f->conns[1]->metadata, "/UNIX/peer")->valuestring,
	                    "@l7mp-test-udg-b");
	assert_int_equal(l7mp_json_get(f->conns[0]->metadata, "/UNIX/pid")->valueint, getpid());
	assert_int_equal(l7mp_json_get(f->conns[0]->metadata, "/UNIX/uid")->valueint, getuid());
	close(a);
	close(b);
	pfix_unlisten(l);
}

static void unnamed_senders_are_one_way(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDG, "l", spec, NULL);
	int a = sock(NULL), b = sock(NULL);

	say(a, "1");
	say(b, "2");
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_true(pfix_until_n(f, &f->conns[0]->messages, 2, 1000));
	assert_string_equal(f->conns[0]->data, "1|2");
	assert_null(l7mp_json_get(f->conns[0]->metadata, "/UNIX/peer"));
	assert_int_equal(pfix_write(f->conns[0], "x", 1), -EDESTADDRREQ);
	assert_int_equal(l7mp_drop_from_errno(-EDESTADDRREQ), L7MP_DROP_NO_RECEIVER);
	close(a);
	close(b);
	pfix_unlisten(l);
}

/*
 * It is counted and noticed, and when the peer comes back under its name the session is still
 * there.
 */
static void a_peer_goes_and_comes_back(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDG, "l", spec, NULL);
	struct pconn *c;
	char buf[16], file[100];
	int a = sock("a");

	say(a, "x");
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	close(a);
	assert_int_equal(pfix_write(c, "y", 1), 0);
	assert_true(pfix_until_n(f, &c->lost, 1, 1000)); /* ECONNREFUSED */
	assert_int_equal(c->notices, 1);
	assert_non_null(strstr(c->message, "the peer has closed"));
	snprintf(file, sizeof(file), "%s/a", dir);
	unlink(file);
	assert_int_equal(pfix_write(c, "z", 1), 0);
	assert_true(pfix_until_n(f, &c->lost, 2, 1000)); /* ENOENT */
	assert_int_equal(c->notices, 1);                 /* not each of them */
	a = sock("a");
	assert_int_equal(pfix_write(c, "back", 4), 0);
	assert_int_equal(pfix_recv(f, a, buf, sizeof(buf), NULL, 1000), 4);
	assert_int_equal(c->closed, 0);
	close(a);
	pfix_unlisten(l);
}

/* One that does not read costs the others nothing but a moment. */
static void a_peer_that_does_not_read(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDG, "l", spec, NULL);
	int a = sock("a"), b = sock("b");
	char big[60000] = {0}, buf[16];
	struct pconn *ca, *cb;

	say(a, "x");
	say(b, "x");
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	ca = f->conns[0];
	cb = f->conns[1];
	for (int i = 0; i < 40; i++) {
		(void)pfix_write(ca, big, sizeof(big));
		pfix_turn(f, 1);
	}
	assert_true(pfix_write(cb, "y", 1) >= 0);
	assert_int_equal(pfix_recv(f, b, buf, sizeof(buf), NULL, 1500), 1);
	assert_true(pfix_until_n(f, &ca->lost, 1, 3000));
	assert_int_equal(pfix_write(ca, "n", 1), -EAGAIN);
	assert_int_equal(cb->lost, 0);
	close(a);
	close(b);
	pfix_unlisten(l);
}

static void cluster_is_answered(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDG, "l", spec, NULL);
	char bind[160], name[100];
	struct pconn *c, *d;
	struct stat st;

	f->echo = true;
	c = pfix_connect(f, UDG, NULL, path);
	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	pfix_write(c, "", 0);
	pfix_write(c, "hello", 5);
	assert_true(pfix_until_n(f, &c->messages, 2, 1000));
	assert_string_equal(c->data, "|hello");
	snprintf(name, sizeof(name), "%s/b", dir);
	snprintf(bind, sizeof(bind), "{'bind':{'filename':'%s'}}", name);
	d = pfix_connect(f, UDG, bind, path);
	assert_non_null(d);
	assert_true(pfix_until(f, &d->opened, 1000));
	assert_int_equal(lstat(name, &st), 0);
	pfix_write(d, "x", 1);
	assert_true(pfix_until_n(f, &d->messages, 1, 1000));
	/* One session at a time can have the name. */
	assert_null(pfix_connect(f, UDG, bind, path));
	assert_non_null(strstr(f->err.message, "in use"));
	l7mp_stream_close(d->stream, false);
	assert_true(pfix_until_n(f, &d->closed, 1, 1000));
	assert_int_equal(lstat(name, &st), -1);
	pfix_unlisten(l);
}

static void the_server_goes(void **state)
{
	struct pfix *f = *state;
	int a = sock("a");
	char name[100];
	struct pconn *c;

	snprintf(name, sizeof(name), "%s/a", dir);
	c = pfix_connect(f, UDG, NULL, name);
	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	close(a);
	pfix_write(c, "x", 1);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_true(c->failed);
	assert_non_null(strstr(c->message, "the peer has closed"));
	assert_int_equal(c->lost, 1);
	assert_null(pfix_connect(f, UDG, NULL, name));
	assert_non_null(strstr(f->err.message, "connection refused"));
}

static void limits_and_refusals(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDG, "l", spec, NULL);
	int a = sock("a");

	f->admit_rc = -EBUSY;
	say(a, "1");
	pfix_turn(f, 20);
	assert_int_equal(f->n_conns, 0);
	assert_int_equal(f->stats.drops[L7MP_DROP_LIMIT], 1);
	f->admit_rc = 0;
	f->refuse = true;
	say(a, "2");
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_int_equal(f->stats.drops[L7MP_DROP_NO_MATCH], 1);
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	close(a);
	pfix_unlisten(l);
}

/* The next listener on the same path takes the socket with its sessions over. */
static void replaced(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDG, "l", spec, NULL), *m;
	int a = sock("a"), b = sock("b");
	struct stat st;

	say(a, "1");
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_null(pfix_listen(f, UDG, "x", spec, NULL));
	m = pfix_listen(f, UDG, "m", spec, l);
	assert_non_null(m);
	pfix_unlisten(l);
	say(a, "2");
	say(b, "3");
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	assert_true(pfix_until_n(f, &f->conns[0]->messages, 2, 1000));
	assert_string_equal(f->conns[1]->name, "UNIXD:m-2");
	pfix_unlisten(m);
	/* Sessions go on; the path is there until the last of them has gone. */
	assert_int_equal(lstat(path, &st), 0);
	say(b, "4");
	assert_true(pfix_until_n(f, &f->conns[1]->messages, 2, 1000));
	l7mp_stream_close(f->conns[0]->stream, false);
	l7mp_stream_close(f->conns[1]->stream, false);
	assert_true(pfix_until_n(f, &f->conns[1]->closed, 1, 1000));
	pfix_turn(f, 5);
	assert_int_equal(lstat(path, &st), -1);
	close(a);
	close(b);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(a_session_per_path),         T(unnamed_senders_are_one_way),
	        T(a_peer_goes_and_comes_back), T(a_peer_that_does_not_read),
	        T(cluster_is_answered),        T(the_server_goes),
	        T(limits_and_refusals),        T(replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
