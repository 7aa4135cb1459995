/* SPDX-License-Identifier: MIT */
/*
 * Protocols for unit tests of sessions: no sockets, every step on command.
 *
 * FakeStream and FakeDgram are listeners and clusters, FakeEcho sends back (or, in a
 * chain, passes on) from inside write as real transformers do, FakePass is one that
 * the fast path may skip. A stream that has said `closed` keeps its record for the
 * test, but any further operation on it aborts.
 */
#pragma once

#include "l7mp/proto.h"
#include "l7mp/session.h"

struct fake_stream {
	struct l7mp_stream base;
	struct fake_world *w;
	struct fake_stream *next; /* in order of making */
	struct l7mp_task task;
	char address[64]; /* of the endpoint */
	char cluster[64];
	char session[64];
	enum l7mp_kind in_kind;
	struct l7mp_flow_end flow;
	struct l7mp_addr local;  /* len 0: none */
	struct l7mp_addr remote; /* of a TCP connection; len 0: not known yet */
	bool not_tcp;            /* it has no remote address at all */
	uint64_t passed_packets;

	/* what the session did */
	bool paused, shut, closing, aborted, gone, opened;
	int shut_code;
	unsigned pauses;
	int status; /* of result; 0: not given */
	bool wants_result;
	char *written; /* all writes, each followed by '|' */
	size_t n_written, bytes_written;

	/* how it behaves */
	bool echo;
	bool slow_close; /* close is not answered before fake_closed */
	int write_rc;    /* L7MP_STREAM_FULL or negative errno */
	void (*on_write)(struct fake_stream *st);
};

struct fake_listener {
	struct l7mp_proto_listener base;
	struct fake_world *w;
	struct fake_listener *next;
	char name[64];
	bool active;
	size_t n_retiring;
};

struct fake_world {
	struct l7mp_loop *loop;
	struct fake_stream *streams, *last;
	struct fake_listener *listeners;
	bool hold_open;          /* connects open only by fake_open */
	int connect_rc;          /* what connect returns */
	int refuse;              /* that many connects fail with ECONNREFUSED, asynchronously */
	const char *listen_fail; /* listener that can't be bound */
	unsigned connects, unlistened;
	unsigned restored; /* connects that went on with a connection */
	int reopen_rc;
	unsigned reopens;
};

extern const struct l7mp_proto fake_proto_stream, fake_proto_dgram, fake_proto_echo,
        fake_proto_pass,
        /* Listeners: of datagrams from any source, of requests. A cluster: the operator's. */
        fake_proto_forged, fake_proto_request, fake_proto_operator;

void fake_world_free(struct fake_world *w);
struct fake_listener *fake_listener(struct fake_world *w, const char *name);
/* n-th connect of the cluster, from 0; NULL. */
struct fake_stream *fake_connected(struct fake_world *w, const char *cluster, unsigned n);

/* A client of the listener; NULL when not admitted. */
struct fake_stream *fake_accept(struct fake_world *w, const char *listener, const char *session,
                                const char *peer);
struct fake_stream *fake_accept_with(struct fake_world *w, const char *listener,
                                     struct l7mp_accept *a, bool wants_result);

struct fake_stream *fake_make(struct fake_world *w, const struct l7mp_proto *proto);
void fake_open(struct fake_stream *st);
void fake_data(struct fake_stream *st, const char *text);
void fake_bytes(struct fake_stream *st, size_t len);
void fake_end(struct fake_stream *st, int code);
void fake_drain(struct fake_stream *st);
/* err 0: an orderly end */
void fake_closed(struct fake_stream *st, int err);
