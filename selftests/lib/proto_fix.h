/* SPDX-License-Identifier: MIT */
/*
 * A stand for protocols in unit tests: a real loop, an env, an owner for each
 * stream that keeps what it was told, and plain sockets for the other end.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/proto.h"

#define PFIX_PROTOS 8
#define PFIX_CONNS  256

struct pfix;

/* A stream and what its owner was told. */
struct pconn {
	struct pfix *fix;
	struct l7mp_stream *stream; /* NULL after closed */
	char *name;
	cJSON *metadata;
	struct l7mp_addr peer;
	bool never_idle;
	bool accepted, opened, ended, drained;
	unsigned closed; /* how often: must be 1 at the end */
	bool failed;     /* closed with an error */
	char message[512];
	unsigned notices, lost, moved;
	unsigned messages; /* data events */
	char *data;        /* all bytes, messages separated by '|' when datagram */
	size_t len, size;  /* used, allocated */
	bool echo;         /* write back what comes in */
};

struct pfix {
	struct l7mp_loop *loop;
	struct l7mp_stats stats;
	struct l7mp_limits limits;
	const struct l7mp_proto *protos[PFIX_PROTOS];
	void *states[PFIX_PROTOS];
	struct l7mp_env env;
	int admit_rc;
	unsigned admits;
	bool inactive; /* listen without activate */
	bool refuse;   /* close streams in accept, as a session without a rule does */
	bool echo;     /* for streams accepted from now on */
	bool answer;   /* they are told 200 when they wait for the result of the set-up */
	struct pconn *conns[PFIX_CONNS];
	size_t n_conns;
	struct l7mp_error err; /* of the last listen or connect */
	/* What connect is given from now on; NULL: none, "test", "session". */
	const cJSON *metadata;
	const char *cluster, *session;
	enum l7mp_kind out_kind;
	struct l7mp_restore_end *restore; /* of an endpoint with the name that it had */
};

/* `protos` ends with NULL. For cmocka: *state becomes a struct pfix *. */
void pfix_new(struct pfix *f, const struct l7mp_proto *const *protos);
/*
 * Closes what is open, stops the protocols and fails the test when something is left: a stream, a
 * handle, a buffer.
 */
void pfix_free(struct pfix *f);

extern const struct l7mp_listen_events pfix_listen_events;
/* `spec` is JSON text, with ' for ". Activated. NULL when it failed: see f->err. */
struct l7mp_proto_listener *pfix_listen(struct pfix *f, const struct l7mp_proto *p,
                                        const char *name, const char *spec,
                                        struct l7mp_proto_listener *retiring);
void pfix_unlisten(struct l7mp_proto_listener *l);
/* The port that was bound. */
unsigned pfix_port(const struct l7mp_proto_listener *l);
/* NULL when it failed at once: see f->err. */
struct pconn *pfix_connect(struct pfix *f, const struct l7mp_proto *p, const char *cluster_spec,
                           const char *address);
struct pconn *pfix_connect_kind(struct pfix *f, const struct l7mp_proto *p,
                                const char *cluster_spec, const char *address, enum l7mp_kind kind);
int pfix_write(struct pconn *c, const void *data, size_t len);

/*
 * Turns the loop until `*flag`, or until a counter has come to n. False: it never came, in ms or a
 * minute, whichever is more.
 */
bool pfix_until(struct pfix *f, const bool *flag, unsigned ms);
bool pfix_until_n(struct pfix *f, const unsigned *counter, unsigned n, unsigned ms);
bool pfix_until_size(struct pfix *f, const size_t *counter, size_t n, unsigned ms);
void pfix_turn(struct pfix *f, unsigned ms);

/* ---- the other end: plain sockets, non-blocking ---- */
int pfix_udp(const char *ip, unsigned port); /* bound; port 0: any */
unsigned pfix_fd_port(int fd);
int pfix_sendto(int fd, const char *ip, unsigned port, const void *data, size_t len);
/*
 * Turns the loop until the socket has something; returns its length or -1. `from` may be NULL:
 * "ip:port".
 */
ssize_t pfix_recv(struct pfix *f, int fd, char *buf, size_t size, char *from, unsigned ms);
int pfix_tcp(const char *ip, unsigned port); /* connecting */
