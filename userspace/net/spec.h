/* SPDX-License-Identifier: MIT */
/*
 * Keys of listener and cluster specs that several protocols have, and the functions that read them.
 * The L7MP_SPEC_* macros are elements of an array of struct l7mp_field. Private to net/ and proto/.
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/schema.h"

/* ---- keys of listeners ---- */

#define L7MP_SPEC_LISTEN_ADDRESS                                                          \
	{                                                                                 \
		.key = "address", .type = L7MP_T_STRING, .pattern = L7MP_P_ADDRESS,       \
		.doc = "IP address to listen on; without it all addresses, IPv4 and IPv6" \
	}
#define L7MP_SPEC_LISTEN_PORT L7MP_SPEC_LISTEN_PORT_FLAGS(L7MP_F_REQUIRED)
/* The same as an optional key: flags 0. */
#define L7MP_SPEC_LISTEN_PORT_FLAGS(flags_)                                                   \
	{                                                                                     \
		.key = "port", .type = L7MP_T_INT, .flags = (flags_), .min = 0, .max = 65535, \
		.doc = "port to listen on; 0 takes a free one, and GET shows which"           \
	}
/* The name of a UNIX socket to listen on. */
#define L7MP_SPEC_LISTEN_FILENAME \
	L7MP_SPEC_LISTEN_FILENAME_FLAGS(L7MP_F_REQUIRED, "path of the socket")
/* The same as an optional key. */
#define L7MP_SPEC_LISTEN_FILENAME_FLAGS(flags_, what)                                            \
	{                                                                                        \
		.key = "filename", .type = L7MP_T_STRING, .flags = (flags_),                     \
		.pattern = L7MP_P_FILENAME,                                                      \
		.doc = what ", or @name for an abstract one; a socket that is there already is " \
		            "replaced only if nothing listens on it"                             \
	}
#define L7MP_SPEC_LISTEN_TLS(text)                                                                 \
	{                                                                                          \
		.key = "tls", .type = L7MP_T_OBJECT, .sub = &l7mp_tls_listener_schema, .doc = text \
	}

/* Permissions of that socket: three elements. */
#define L7MP_SPEC_UNIX_ACCESS                                                                  \
	{.key = "mode",                                                                        \
	 .type = L7MP_T_ONEOF,                                                                 \
	 .alternatives = l7mp_unix_modes,                                                      \
	 .doc = "permissions of the socket's file, in octal as chmod(1) takes them "           \
	        "(`0660`); without it the umask decides"},                                     \
	        {.key = "owner",                                                               \
	         .type = L7MP_T_ONEOF,                                                         \
	         .alternatives = l7mp_unix_owners,                                             \
	         .doc = "user that owns the file, by name or number; needs CAP_CHOWN"},        \
	{                                                                                      \
		.key = "group", .type = L7MP_T_ONEOF, .alternatives = l7mp_unix_owners,        \
		.doc = "group of the file, by name or number; one that the proxy's user is in" \
	}
extern const struct l7mp_field *const l7mp_unix_modes[], *const l7mp_unix_owners[];

/* ---- keys of clusters and endpoints ---- */

#define L7MP_SPEC_ENDPOINT_PORT                                                        \
	{                                                                              \
		.key = "port", .type = L7MP_T_INT, .flags = L7MP_F_REQUIRED, .min = 1, \
		.max = 65535, .doc = "port of the endpoints"                           \
	}
#define L7MP_SPEC_BIND                                                          \
	{                                                                       \
		.key = "bind", .type = L7MP_T_OBJECT, .sub = &l7mp_bind_schema, \
		.doc = "local address and port to connect or send from"         \
	}
#define L7MP_SPEC_CLUSTER_TLS(text)                                                               \
	{                                                                                         \
		.key = "tls", .type = L7MP_T_OBJECT, .sub = &l7mp_tls_cluster_schema, .doc = text \
	}
/* The address of an endpoint: an IP address or a host name. */
#define L7MP_SPEC_ENDPOINT_HOST                                                            \
	{                                                                                  \
		.key = "address", .type = L7MP_T_STRING, .flags = L7MP_F_REQUIRED,         \
		.pattern = L7MP_P_HOST,                                                    \
		.doc = "IP address or host name; a name is resolved again at each connect" \
	}
#define L7MP_SPEC_ENDPOINT_OWN_PORT                                                  \
	{                                                                            \
		.key = "port", .type = L7MP_T_INT, .min = 1, .max = 65535,           \
		.doc = "port of this endpoint, in the place of the cluster's `port`" \
	}
/* The address of an endpoint: the name of a UNIX socket. */
#define L7MP_SPEC_ENDPOINT_FILENAME                                                \
	{                                                                          \
		.key = "address", .type = L7MP_T_STRING, .flags = L7MP_F_REQUIRED, \
		.pattern = L7MP_P_FILENAME,                                        \
		.doc = "path of the server's socket, or @name for an abstract one" \
	}

/* ---- keys of `options` ---- */

/* A number in 0..63, or "pass". */
extern const struct l7mp_field *const l7mp_dscp_alternatives[];

#define L7MP_SPEC_RCVBUF(text)                                                                \
	{                                                                                     \
		.key = "rcvbuf", .type = L7MP_T_INT, .min = 4096, .max = 1 << 30, .doc = text \
	}
#define L7MP_SPEC_SNDBUF                                                          \
	{                                                                         \
		.key = "sndbuf", .type = L7MP_T_INT, .min = 4096, .max = 1 << 30, \
		.doc = "the socket's send buffer in bytes"                        \
	}
#define L7MP_SPEC_DSCP                                                                          \
	{                                                                                       \
		.key = "dscp", .type = L7MP_T_ONEOF, .alternatives = l7mp_dscp_alternatives,    \
		.def = "0",                                                                     \
		.doc = "DSCP of what is sent, in user space and in the kernel; pass: DSCP and " \
		       "ECN of what came in by UDP"                                             \
	}
#define L7MP_SPEC_REUSEPORT                                                                      \
	{                                                                                        \
		.key = "reuseport", .type = L7MP_T_BOOL, .def = "false",                         \
		.doc = "share the port with other processes (SO_REUSEPORT); the kernel spreads " \
		       "the "                                                                    \
		       "peers"                                                                   \
	}

/* In the `options` of protocols on TCP. */
#define L7MP_SPEC_USER_TIMEOUT                                                                  \
	{                                                                                       \
		.key = "user_timeout", .type = L7MP_T_INT, .min = 0, .max = 86400, .def = "30", \
		.doc = "seconds after which a peer that takes nothing of what was sent to it "  \
		       "is given up (TCP_USER_TIMEOUT); 0: the system's"                        \
	}
/* `options` of protocols on TCP. */
#define L7MP_SPEC_CONNECTION_OPTIONS                                                             \
	{                                                                                        \
		.key = "options", .type = L7MP_T_OBJECT, .sub = &l7mp_connection_options_schema, \
		.doc = "options of the connections"                                              \
	}

/* {address, port}: the value of `bind`. */
extern const struct l7mp_schema l7mp_bind_schema;
/* {user_timeout}. */
extern const struct l7mp_schema l7mp_connection_options_schema;

/* ---- reading validated specs ---- */

/* The key `port`; 0: absent. NULL is allowed. */
uint16_t l7mp_spec_port(const cJSON *spec);
/* The port to connect to: the endpoint's own, or its cluster's. */
struct l7mp_connect;
uint16_t l7mp_spec_connect_port(const struct l7mp_connect *p);
/* The key `filename`, borrowed; "": absent. NULL is allowed. */
const char *l7mp_spec_filename(const cJSON *spec);

/* options.user_timeout in ms; absent: L7MP_TCP_USER_TIMEOUT_MS. NULL is allowed. */
unsigned l7mp_spec_user_timeout(const cJSON *spec);

/* The local address of a listener: `address` and `port`. */
struct l7mp_bind_addr {
	struct l7mp_addr addr;
	bool dual; /* no address: both families, by one IPv6 socket (IPv4 on hosts without IPv6) */
};
/*
 * From a spec with `address` (numeric; absent: that of L7MP_LISTEN_ADDRESS in the environment, else
 * all addresses) and `port` (absent: 0); NULL is allowed. 0, or -EINVAL with err.
 */
int l7mp_bind_addr_from_spec(const cJSON *spec, struct l7mp_bind_addr *out, struct l7mp_error *err);
/* Replaces `port` by the port that was bound: the `bound` operation of struct l7mp_proto. */
void l7mp_bind_addr_to_spec(const struct l7mp_bind_addr *bound, cJSON *spec);
/*
 * Reads the value of `bind` (may be NULL) for a connection of `family`. out->len is 0 when nothing
 * needs to be bound; a port without an address gives the wildcard of the family. Returns 0;
 * -EAFNOSUPPORT: the address is of the other family.
 */
int l7mp_bind_for_family(const cJSON *bind, int family, struct l7mp_addr *out);

struct l7mp_socket_options {
	int rcvbuf, sndbuf; /* bytes; 0: the system's default */
	int dscp;           /* of sent packets; with `pass`, of those without a received DSCP */
	bool dscp_pass;     /* DSCP and ECN of received packets are copied to the sent ones */
	bool reuseport;
};
/* From `options`, which may be NULL. */
void l7mp_socket_options_read(const cJSON *options, struct l7mp_socket_options *out);
/* Returns the TOS byte (IPv6: traffic class) of packets sent by a socket with these options. */
static inline uint8_t l7mp_socket_options_tos(const struct l7mp_socket_options *options)
{
	return (uint8_t)(options->dscp << 2);
}
/*
 * Sets the options of a UDP socket, and the header fields of sent packets to the same values as the
 * kernel fast path: DF is set in IPv4 (RFC 1191; larger packets are fragmented here), the flow
 * label of IPv6 is zero. `options` is a struct l7mp_socket_options, void * so that the function can
 * be passed to l7mp_bind_addr_socket. 0 or negative errno.
 */
int l7mp_socket_options_apply(int fd, void *options);
/*
 * Sets the receive buffer. Beyond net.core.rmem_max this needs CAP_NET_ADMIN; without it the size
 * is limited to that. Returns 0 or a negative errno.
 */
int l7mp_socket_set_rcvbuf(int fd, int bytes);
int l7mp_socket_set_sndbuf(int fd, int bytes);
