/* SPDX-License-Identifier: MIT */
/*
 * Private to the UDP protocol: what its files share. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/dgram.h"
#include "l7mp/log.h"
#include "l7mp/loop.h"
#include "l7mp/proto.h"
#include "net/net.h"
#include "net/shared_socket.h"

/* Largest payloads: 65,535 less the IPv4 and UDP headers; IPv6 does not count its own header. */
#define UDP_MAX4 65507
#define UDP_MAX6 65527

struct udp_listener;
struct udp_upstream;

/* ---- key.c ---- */

/*
 * The peer's address and port, and the local address, in a third of the space of two struct
 * l7mp_addr. Also the key of a listener's sessions, hence without padding; IPv4 is mapped.
 */
struct udp_key {
	uint8_t peer[16];
	uint8_t local[16]; /* zero: unknown */
	uint32_t scope;    /* interface of a link-local peer */
	uint16_t port;     /* the peer's, network order */
	uint16_t family;   /* AF_INET, AF_INET6 */
};
_Static_assert(sizeof(struct udp_key) == 40, "no padding in a key");

/* local->len may be 0: unknown. */
void udp_key_set(struct udp_key *key, const struct l7mp_addr *peer, const struct l7mp_addr *local);
/* The inverse; local_port in host order. local->len is 0 when the address is unknown. */
void udp_key_addrs(const struct udp_key *key, uint16_t local_port, struct l7mp_addr *peer,
                   struct l7mp_addr *local);

/* ---- the protocol's state in the process ---- */

struct udp_state {
	struct l7mp_shared_table table; /* of the listeners' sockets; first */
	struct udp_bound *bound;        /* upstreams with a fixed local port */
	unsigned next_port;             /* where the next search in a range of ports begins */
};

/* ---- latch.c: latching on the peer ---- */

struct udp_latch {
	bool on;
	bool same_address;  /* clusters: only another port of the endpoint's address */
	uint64_t window_ms; /* for this long after the first datagram another source may replace the
	                     * peer */
	/* Clusters: for this long after the session's start the first source is learnt. */
	uint64_t timeout_ms;
	/*
	 * Loop time of the first datagram, set by the owner. 0: unknown, so the window has ended.
	 */
	uint64_t since_ms;
};

/* The alternatives of `options.latch` in the two specs. */
extern const struct l7mp_field *const udp_latch_listener[], *const udp_latch_cluster[];
/* Reads validated options, which may be NULL. */
void udp_latch_read(const cJSON *options, struct udp_latch *out);
/* Whether another source may still become the peer after the first datagram. */
bool udp_latch_is_open(const struct udp_latch *latch, uint64_t now_ms);

/* An upstream whose cluster has options.latch. */
struct udp_latching {
	struct udp_latch latch;
	const struct l7mp_shared_table *table; /* the listeners' sockets: never a peer */
	struct l7mp_addr meant;       /* the endpoint's address: destination until `received` */
	uint64_t began_ms;            /* loop time of the session's start */
	struct l7mp_log_limit events; /* limits change events: sources may alternate within the
	                               * window */
	bool received;                /* the key's peer has sent, to the key's local address */
	bool settled;                 /* ... and no other source may replace it */
};

/* For a cluster with options.latch: makes u->learning. Returns 0 or -ENOMEM. */
int udp_latching_new(struct udp_upstream *u, const struct l7mp_connect *p);
/* Nothing was received so far, and the first source may still differ from the endpoint. */
bool udp_latching_waits(const struct udp_upstream *u);
/*
 * Whether the datagram is for the session: from the peer, or from a source that becomes the peer.
 * The peer may send to another local address, and is then answered from that.
 */
bool udp_latching_accepts(struct udp_upstream *u, const struct l7mp_buf *buf,
                          const struct l7mp_addr *from, const struct l7mp_addr *to);

/* ---- socket.c: the socket of a listener ---- */

struct udp_socket {
	struct l7mp_shared_socket shared; /* first */
	struct l7mp_bind_addr bind_addr;
	unsigned ifindex; /* a multicast address: of the group's interface; 0: by route */
	uint8_t tos;      /* of sent datagrams: options.dscp */
	bool keep_tos;
};

/*
 * Gets a reference to a free socket for `want`, or to a new one. Returns 0, or negative errno with
 * err.
 */
int udp_socket_get(struct l7mp_shared_table *table, const struct l7mp_bind_addr *want,
                   const struct l7mp_listen *params, struct udp_listener *l,
                   struct l7mp_shared_socket **out, struct l7mp_error *err);
/*
 * Joins or leaves the group to which the socket is bound; 0: the interface is chosen by route.
 * Returns 0 or negative errno.
 */
int udp_socket_membership(const struct udp_socket *s, unsigned ifindex, bool join);
void udp_socket_set_tos(struct udp_socket *s, const struct l7mp_socket_options *options);
/* Writes the addresses of a session; local->len is 0 when it is unknown. */
void udp_session_addrs(const struct l7mp_shared_session *p, struct l7mp_addr *peer,
                       struct l7mp_addr *local);
/*
 * Whether the datagram comes from an address on which a listener of this process receives. From
 * there only answers are sent, and forged datagrams meant to make two sockets answer each other.
 * False for a singleton whose configured peer is `to`.
 */
bool udp_from_ourselves(const struct l7mp_shared_table *table, const struct l7mp_addr *from,
                        const struct l7mp_addr *to);

/* ---- listener.c ---- */

enum udp_mode { UDP_SERVER, UDP_SINGLETON };

struct udp_listener {
	struct l7mp_shared_listener shared; /* first */
	struct l7mp_addr peer_ip;           /* `connect` of the spec; len 0: any */
	uint16_t peer_port;                 /* 0: any */
	enum udp_mode mode;
	unsigned ifindex;          /* options.multicast_interface */
	struct udp_latch latch;    /* the singleton's peer is the first source */
	struct udp_listener *rtcp; /* options.rtcp: the listener on the next port */
	bool is_rtcp;              /* this listener is for RTCP */
	uint32_t rtp_clock_rate;   /* options.rtp: Hz; 0: no statistics */
	struct l7mp_socket_options options;
};

static inline struct udp_socket *udp_listener_socket(const struct udp_listener *l)
{
	return (struct udp_socket *)l->shared.socket;
}
/* Handles a datagram without a session, which may begin one; takes buf. */
void udp_listener_first(struct udp_listener *l, struct l7mp_buf *buf, const struct l7mp_addr *from,
                        const struct l7mp_addr *to);
/* The callbacks of l7mp_shared_listen: reads the spec and gets a socket; begins a session. */
int udp_listener_open(struct l7mp_shared_listener *base, struct l7mp_shared_table *table,
                      const struct l7mp_listen *params, struct l7mp_shared_socket **out,
                      struct l7mp_error *err);
/* Emits the session of a singleton with a configured peer, before the peer has sent a datagram. */
void udp_listener_start(struct l7mp_shared_listener *base);
/* Operations of struct l7mp_proto. */
int udp_restore(struct l7mp_proto_listener *base, const char *name, struct l7mp_restore_end *end,
                struct l7mp_accept *a, struct l7mp_error *err);
void udp_activate(struct l7mp_proto_listener *base);
void udp_unlisten(struct l7mp_proto_listener *base);
void udp_bound(const struct l7mp_proto_listener *base, cJSON *spec);

/* ---- ports.c: which ports a listener gets ---- */

/* Reads "30000-30999". 0 or -EINVAL. */
int udp_port_range(const char *text, unsigned *first, unsigned *last);
/* The operation of struct l7mp_proto. */
int udp_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
               struct l7mp_error *err);

/* ---- names.c: the addresses of an endpoint with a host name ---- */

/* Datagrams kept until the server has answered, to be sent again to another address. */
#define UDP_KEPT_MAX 8

/* The state of an endpoint with a host name; freed when the address is final. */
struct udp_names {
	char *host;
	cJSON *bind; /* the cluster's, NULL: none */
	struct l7mp_resolve *resolve;
	struct l7mp_timer timer; /* the next look-up */
	uint64_t refresh_ms;     /* 0: look-ups only at connect */
	uint16_t port;
	int family;              /* tried first */
	struct l7mp_addr *addrs; /* until one has answered; then NULL */
	size_t n, next;
	bool resend;  /* first round: refused datagrams are sent to the next address */
	bool refused; /* the task is to change to the next address */
	uint64_t moved_ms;
	struct l7mp_buf *kept[UDP_KEPT_MAX];
	unsigned n_kept;
	size_t kept_bytes;
};

/* Makes u->names, without a look-up. NULL: no memory. */
struct udp_names *udp_names_new(struct udp_upstream *u, const struct l7mp_connect *p);
/* Makes u->names and looks the name up; then u opens or closes. Returns 0 or negative errno. */
int udp_names_start(struct udp_upstream *u, const struct l7mp_connect *p);
/* Frees u->names, which may be NULL. */
void udp_names_free(struct udp_upstream *u);
/* With options.dns_refresh: arms the timer of the next look-up. */
void udp_names_refresh_later(struct udp_upstream *u);
/* Keeps a copy of a sent datagram until the server has answered. */
void udp_names_keep(struct udp_upstream *u, struct l7mp_buf *buf);
/* The address in use is confirmed, or the only one. */
void udp_names_settle(struct udp_upstream *u);
/*
 * The address in use has an error. Returns true when nothing is lost by it, because the next
 * address is tried; its task then calls udp_names_move_on.
 */
bool udp_names_refused(struct udp_upstream *u, int err);
/* Changes to the next address. May fail the upstream. */
void udp_names_move_on(struct udp_upstream *u);

/* ---- upstream.c ---- */

/* An upstream whose cluster has a bind.port. */
struct udp_bound {
	struct udp_bound *prev, *next; /* of the protocol's state; prev NULL: not connected */
	struct udp_state *state;
	struct udp_upstream *upstream;
	struct l7mp_addr local;  /* local address that it is bound to */
	struct l7mp_addr client; /* address of the session's client; len 0: none */
	uint64_t session;        /* a hash of the session's name */
	uint64_t taken_ms;       /* when it took the port from another session; 0: it did not */
	uint64_t displaced[8];   /* sessions that had the port before; they don't get it back */
};

struct udp_upstream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_dgram *dgram;
	struct udp_names *names;       /* NULL: a numeric address, or no addresses left to try */
	struct udp_bound *bound;       /* NULL: no bind.port */
	struct udp_latching *latching; /* NULL: the peer is the endpoint's address */
	struct udp_key
	        key; /* peer and local address, once connected; local not before `received` */
	uint16_t local_port;
	bool rtcp; /* metadata UDP.rtcp: ports are one higher than in the specs */
	bool open, closing;
	int err;
	struct l7mp_socket_options options;
	struct l7mp_log_limit notice_limit;
	struct l7mp_task task; /* emits `open` or `closed`, or changes to another address */
};

/* The operation of struct l7mp_proto. */
int udp_connect(const struct l7mp_connect *p, struct l7mp_stream **out, struct l7mp_error *err);
/* Opens a socket to this address, and closes the one before. Returns 0 or negative errno. */
int udp_upstream_connect_to(struct udp_upstream *u, const struct l7mp_addr *remote,
                            const cJSON *bind);
/* Returns the endpoint's port; for RTCP the one after RTP's (RFC 3550, section 11). 0: none. */
uint16_t udp_upstream_port(const struct udp_upstream *u, const struct l7mp_connect *p);
/* The socket is ready: begins to read, and emits `open`. */
void udp_upstream_opened(struct udp_upstream *u);
/* Emits `closed` with the error u->err, and frees u. */
void udp_upstream_finish(struct udp_upstream *u);
void udp_upstream_fail(struct udp_upstream *u, int rc);
