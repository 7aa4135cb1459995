/* SPDX-License-Identifier: MIT */
/*
 * UDP, private: a listener's socket is shared by all its sessions.
 *
 *   udp_listener --ref--> udp_sock <--ref-- udp_peer (a session's source stream) ...
 *
 * The socket lives until the last of them is gone, so sessions go on after their
 * listener was deleted, and a new listener on the same address takes the
 * socket over. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/dgram.h"
#include "l7mp/hash.h"
#include "l7mp/proto.h"
#include "net/net.h"

/* Largest payloads: 65,535 less the IPv4 and UDP headers; IPv6 does not count its own. */
#define UDP_MAX4 65507
#define UDP_MAX6 65527

struct udp_sock;
struct udp_listener;

#define UDP_SOCK_BUCKETS 1024

struct udp_state {
	struct l7mp_env *env;
	struct udp_sock *socks[UDP_SOCK_BUCKETS]; /* by port */
	uint64_t last_id;                         /* of session names */
};

/* What tells the sessions of a socket apart; without padding, IPv4 as mapped. */
struct udp_key {
	uint8_t peer[16];
	uint8_t local[16]; /* zero: not known */
	uint32_t scope;    /* of a link-local peer */
	uint16_t port;     /* the peer's, network order */
	uint16_t family;
};

/* A session's source: one peer of a shared socket. */
struct udp_peer {
	struct l7mp_stream base;
	struct udp_sock *sock;    /* reference held */
	struct udp_listener *one; /* the listener whose only session this is */
	struct udp_key key;
	uint32_t id;
	bool closing;
	struct l7mp_task task; /* closed */
	UT_hash_handle hh;
};

struct udp_sock {
	struct udp_sock *prev, *next;
	struct udp_state *state;
	unsigned refs;
	struct l7mp_dgram *dgram;
	struct l7mp_bind_addr bind_addr;
	struct udp_listener *listener; /* active; NULL: new peers are turned away */
	struct udp_listener *heir;     /* will be, when its change is committed: nobody else may */
	struct udp_peer *peers;
	struct udp_peer *last; /* who sent the datagram before this one */
	struct l7mp_log_limit log_limit;
	bool marks; /* DSCP is set, so packets must not pass by in the kernel */
};

enum udp_mode { UDP_SERVER, UDP_SINGLETON };

struct udp_options {
	int rcvbuf, sndbuf; /* bytes; 0: our default, the system's */
	int dscp;           /* -1: none */
	bool reuseport;
};

struct udp_listener {
	struct l7mp_proto_listener base;
	struct udp_state *state;
	char *name;
	struct udp_sock *sock;
	struct l7mp_addr peer_ip; /* len 0: any; `connect` of the spec */
	uint16_t peer_port;       /* 0: any */
	enum udp_mode mode;
	struct udp_options options;
	struct udp_peer *one;    /* the session of a singleton */
	struct l7mp_timer timer; /* a singleton's start, and another try when it was refused */
	bool active;
};

/* ---- udp_sock.c ---- */
/* A socket for `want`: one that is there and free (or belongs to one of `retiring`), or a new one. A reference. */
int udp_sock_get(struct udp_state *st, const struct l7mp_bind_addr *want,
                 const struct l7mp_listen *params, const struct udp_options *opt,
                 struct udp_sock **out, struct l7mp_error *err);
void udp_sock_unref(struct udp_sock **sock);
/* Prepares a socket before bind(2); arg is a struct udp_options *. */
int udp_prepare(int fd, void *arg);
/* dscp, rcvbuf, sndbuf and reuseport of an `options` object, which may be NULL. */
void udp_options_read(const cJSON *options, struct udp_options *out);

/* ---- udp_peer.c ---- */
void udp_key_set(struct udp_key *key, const struct l7mp_addr *peer, const struct l7mp_addr *local);
void udp_key_addrs(const struct udp_key *key, uint16_t local_port, struct l7mp_addr *peer,
                   struct l7mp_addr *local);
struct udp_peer *udp_peer_find(struct udp_sock *sock, const struct udp_key *key);
/* By the tag that a lost datagram was sent with; NULL when it has gone. */
struct udp_peer *udp_peer_find_tag(struct udp_sock *sock, uint64_t tag);
/* In the table of sock; NULL: no memory. */
struct udp_peer *udp_peer_new(struct udp_sock *sock, const struct udp_key *key);
/* The peer writes to another of our addresses. */
void udp_peer_rekey(struct udp_peer *p, const struct udp_key *key);

/* ---- udp_listen.c ---- */
int udp_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
               struct l7mp_error *err);
void udp_activate(struct l7mp_proto_listener *base);
void udp_unlisten(struct l7mp_proto_listener *base);
void udp_bound(const struct l7mp_proto_listener *base, cJSON *spec);
/* A datagram from a peer without a session; takes buf. */
void udp_listener_first(struct udp_listener *l, struct l7mp_buf *buf, const struct l7mp_addr *from,
                        const struct l7mp_addr *to);

/* ---- udp_up.c ---- */
int udp_connect(const struct l7mp_connect *p, struct l7mp_stream **out, struct l7mp_error *err);
