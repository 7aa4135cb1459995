/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto_fix.h"

/* ---- the owner of streams ---- */

static void keep(struct pconn *c, const void *data, size_t len)
{
	bool sep = c->messages && c->stream && c->stream->kind == L7MP_KIND_DATAGRAM;

	/* In doubling steps: ASan's realloc copies each time, and tests move many MB. */
	if (c->len + len + 2 > c->size) {
		c->size = 2 * (c->len + len + 2);
		c->data = realloc(c->data, c->size);
		assert_non_null(c->data);
	}
	if (sep)
		c->data[c->len++] = '|';
	memcpy(c->data + c->len, data, len);
	c->len += len;
	c->data[c->len] = '\0';
	c->messages++;
}

static void on_open(void *owner)
{
	struct pconn *c = owner;

	assert_false(c->accepted);
	assert_false(c->opened);
	c->opened = true;
}

static void on_data(void *owner, struct l7mp_buf *buf)
{
	struct pconn *c = owner;

	assert_int_equal(c->closed, 0);
	keep(c, buf->data, buf->len);
	if (c->echo)
		(void)l7mp_stream_write(c->stream, buf);
	else
		l7mp_buf_unref(buf);
}

static void on_drain(void *owner)
{
	((struct pconn *)owner)->drained = true;
}

static void on_end(void *owner, int code)
{
	struct pconn *c = owner;

	(void)code;
	assert_false(c->ended);
	c->ended = true;
}

static void on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct pconn *c = owner;

	(void)bytes;
	assert_true(err < 0);
	c->lost += (unsigned)packets;
}

static void on_notice(void *owner, const char *event, const char *message)
{
	struct pconn *c = owner;

	assert_non_null(event);
	snprintf(c->message, sizeof(c->message), "%s", message);
	c->notices++;
}

static void on_moved(void *owner)
{
	((struct pconn *)owner)->moved++;
}

static void on_closed(void *owner, const struct l7mp_error *err)
{
	struct pconn *c = owner;

	c->closed++;
	assert_int_equal(c->closed, 1);
	c->failed = err->code != L7MP_OK;
	if (c->failed)
		snprintf(c->message, sizeof(c->message), "%s", err->message);
	c->stream = NULL;
}

static const struct l7mp_stream_events stream_events = {
        .open = on_open,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .lost = on_lost,
        .notice = on_notice,
        .moved = on_moved,
        .closed = on_closed,
};

static struct pconn *conn_new(struct pfix *f, struct l7mp_stream *s)
{
	struct pconn *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	assert_true(f->n_conns < PFIX_CONNS);
	f->conns[f->n_conns++] = c;
	c->fix = f;
	c->stream = s;
	l7mp_stream_attach(s, &stream_events, c);
	return c;
}

/* ---- listening ---- */

static int on_admit(void *arg, const struct l7mp_addr *peer)
{
	struct pfix *f = arg;

	(void)peer;
	f->admits++;
	return f->admit_rc;
}

static void on_accept(void *arg, struct l7mp_accept *a)
{
	struct pfix *f = arg;
	struct pconn *c = conn_new(f, a->stream);

	c->accepted = true;
	c->name = a->name;
	c->metadata = a->metadata;
	c->peer = a->peer;
	c->never_idle = a->never_idle;
	c->echo = f->echo;
	if (f->answer && a->stream->ops->result)
		a->stream->ops->result(a->stream, 200, "OK");
	if (f->refuse)
		l7mp_stream_close(a->stream, true);
	else
		l7mp_stream_pause(a->stream, false);
	/* Never from inside close. */
	assert_int_equal(c->closed, 0);
}

const struct l7mp_listen_events pfix_listen_events = {
        .admit = on_admit,
        .accept = on_accept,
};

static cJSON *parse(const char *text)
{
	char copy[2048];
	cJSON *node;

	if (!text)
		return NULL;
	snprintf(copy, sizeof(copy), "%s", text);
	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	node = cJSON_Parse(copy);
	assert_non_null(node);
	return node;
}

struct l7mp_proto_listener *pfix_listen(struct pfix *f, const struct l7mp_proto *p,
                                        const char *name, const char *spec,
                                        struct l7mp_proto_listener *retiring)
{
	cJSON *node = parse(spec);
	struct l7mp_listen params = {.env = &f->env,
	                             .name = name,
	                             .spec = node,
	                             .events = &pfix_listen_events,
	                             .arg = f,
	                             .retiring = &retiring,
	                             .n_retiring = retiring ? 1 : 0};
	struct l7mp_proto_listener *l = NULL;
	int rc;

	memset(&f->err, 0, sizeof(f->err));
	rc = p->listen(&params, &l, &f->err);
	cJSON_Delete(node);
	if (rc) {
		assert_true(rc < 0);
		assert_string_not_equal(f->err.message, "");
		return NULL;
	}
	if (!f->inactive)
		p->activate(l);
	return l;
}

void pfix_unlisten(struct l7mp_proto_listener *l)
{
	l->proto->unlisten(l);
}

unsigned pfix_port(const struct l7mp_proto_listener *l)
{
	cJSON *spec = cJSON_CreateObject();
	unsigned port;

	l->proto->bound(l, spec);
	port = (unsigned)l7mp_json_num(spec, "port", 0);
	cJSON_Delete(spec);
	return port;
}

struct pconn *pfix_connect_kind(struct pfix *f, const struct l7mp_proto *p,
                                const char *cluster_spec, const char *address, enum l7mp_kind kind)
{
	cJSON *spec = parse(cluster_spec);
	struct l7mp_connect params = {.env = &f->env,
	                              .cluster = f->cluster ? f->cluster : "test",
	                              .cluster_spec = spec,
	                              .address = address,
	                              .metadata = f->metadata,
	                              .session = f->session ? f->session : "session",
	                              .in_kind = kind,
	                              .out_kind = f->out_kind,
	                              .restore = f->restore,
	                              .same_endpoint = f->restore};
	struct l7mp_stream *s = NULL;
	struct pconn *c;
	int rc;

	memset(&f->err, 0, sizeof(f->err));
	rc = p->connect(&params, &s, &f->err);
	cJSON_Delete(spec);
	if (rc) {
		assert_true(rc < 0);
		assert_string_not_equal(f->err.message, "");
		return NULL;
	}
	c = conn_new(f, s);
	l7mp_stream_pause(s, false);
	assert_false(c->opened);
	return c;
}

struct pconn *pfix_connect(struct pfix *f, const struct l7mp_proto *p, const char *cluster_spec,
                           const char *address)
{
	return pfix_connect_kind(f, p, cluster_spec, address, p->desc.kind);
}

int pfix_write(struct pconn *c, const void *data, size_t len)
{
	struct l7mp_buf *buf = l7mp_buf_copy(l7mp_loop_bufs(c->fix->loop), data, len);

	assert_non_null(buf);
	return l7mp_stream_write(c->stream, buf);
}

/* ---- life ---- */

void pfix_new(struct pfix *f, const struct l7mp_proto *const *protos)
{
	size_t n = 0;

	memset(f, 0, sizeof(*f));
	for (; protos[n]; n++)
		f->protos[n] = protos[n];
	assert_true(n < PFIX_PROTOS);
	assert_int_equal(l7mp_loop_new(&f->loop), 0);
	f->env = (struct l7mp_env){.loop = f->loop,
	                           .stats = &f->stats,
	                           .limits = &f->limits,
	                           .protos = f->protos,
	                           .states = f->states};
}

void pfix_free(struct pfix *f)
{
	for (size_t i = 0; i < f->n_conns; i++)
		if (f->conns[i]->stream)
			l7mp_stream_close(f->conns[i]->stream, true);
	for (size_t i = 0; i < f->n_conns; i++) {
		struct pconn *c = f->conns[i];

		assert_true(pfix_until_n(f, &c->closed, 1, 2000));
		free(c->name);
		cJSON_Delete(c->metadata);
		free(c->data);
		free(c);
	}
	for (size_t i = 0; f->protos[i]; i++)
		if (f->states[i] && f->protos[i]->stop)
			f->protos[i]->stop(&f->env, f->states[i]);
	pfix_turn(f, 5);
	assert_int_equal(l7mp_loop_free(&f->loop), 0);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void turn(struct pfix *f)
{
	struct timespec nap = {.tv_nsec = 100000};

	l7mp_loop_turn(f->loop);
	nanosleep(&nap, NULL);
}

/* A limit is for what never comes: a busy machine delays anything, so it is a minute at least. */
static uint64_t limit(unsigned ms)
{
	return now_ms() + (ms > 60000 ? ms : 60000);
}

bool pfix_until(struct pfix *f, const bool *flag, unsigned ms)
{
	for (uint64_t end = limit(ms); !*flag && now_ms() < end;)
		turn(f);
	return *flag;
}

bool pfix_until_n(struct pfix *f, const unsigned *counter, unsigned n, unsigned ms)
{
	for (uint64_t end = limit(ms); *counter < n && now_ms() < end;)
		turn(f);
	return *counter >= n;
}

bool pfix_until_size(struct pfix *f, const size_t *counter, size_t n, unsigned ms)
{
	for (uint64_t end = limit(ms); *counter < n && now_ms() < end;)
		turn(f);
	return *counter >= n;
}

void pfix_turn(struct pfix *f, unsigned ms)
{
	for (uint64_t end = now_ms() + ms; now_ms() < end;)
		turn(f);
}

/* ---- plain sockets ---- */

static void address(struct l7mp_addr *a, const char *ip, unsigned port)
{
	assert_int_equal(l7mp_addr_parse(a, ip, (uint16_t)port), 0);
}

int pfix_udp(const char *ip, unsigned port)
{
	struct l7mp_addr a;
	int fd;

	address(&a, ip, port);
	fd = socket(l7mp_addr_family(&a), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, &a.sa, a.len), 0);
	return fd;
}

unsigned pfix_fd_port(int fd)
{
	struct l7mp_addr a;

	a.len = sizeof(a.in6);
	assert_int_equal(getsockname(fd, &a.sa, &a.len), 0);
	return l7mp_addr_port(&a);
}

int pfix_sendto(int fd, const char *ip, unsigned port, const void *data, size_t len)
{
	struct l7mp_addr a;

	address(&a, ip, port);
	return sendto(fd, data, len, 0, &a.sa, a.len) == (ssize_t)len ? 0 : -errno;
}

ssize_t pfix_recv(struct pfix *f, int fd, char *buf, size_t size, char *from, unsigned ms)
{
	uint64_t end = now_ms() + ms;

	do {
		struct sockaddr_storage ss;
		socklen_t len = sizeof(ss);
		ssize_t n = recvfrom(fd, buf, size - 1, 0, (struct sockaddr *)&ss, &len);

		if (n >= 0) {
			struct l7mp_addr a;

			buf[n] = '\0';
			if (from) {
				l7mp_addr_from_sockaddr(&a, (struct sockaddr *)&ss, len);
				l7mp_addr_str(&a, from);
			}
			return n;
		}
		if (errno != EAGAIN)
			return -1;
		turn(f);
	} while (now_ms() < end);
	return -1;
}

int pfix_tcp(const char *ip, unsigned port)
{
	struct l7mp_addr a;
	int fd, rc;

	address(&a, ip, port);
	fd = socket(l7mp_addr_family(&a), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	rc = connect(fd, &a.sa, a.len);
	assert_true(rc == 0 || errno == EINPROGRESS);
	return fd;
}
