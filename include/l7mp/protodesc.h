/* SPDX-License-Identifier: MIT */
/*
 * Descriptions of protocols and transformers: names, roles, kind and schema tables, which is all
 * that the model needs to know of them. The operations are in proto.h.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/schema.h"

enum l7mp_kind {
	L7MP_KIND_DATAGRAM, /* message boundaries are kept */
	L7MP_KIND_STREAM,   /* bytes without boundaries */
};

enum l7mp_role {
	L7MP_ROLE_LISTENER = 1 << 0,
	L7MP_ROLE_CLUSTER = 1 << 1,
	L7MP_ROLE_ENDPOINT = 1 << 2, /* used in schema tables only (L7MP_T_PROTOCOL_SPEC) */
};

enum l7mp_proto_flags {
	/* A cluster without endpoints. The API shows one endpoint with the cluster's name. */
	L7MP_PROTO_VIRTUAL = 1 << 0,
	L7MP_PROTO_KEEPS_KIND = 1 << 1, /* a transformer whose output has the kind of its input */
	L7MP_PROTO_PASS = 1 << 2,       /* may stand in an ingress or egress chain */
	/* A listener whose sessions begin with one datagram: its source address may be forged. */
	L7MP_PROTO_FORGEABLE = 1 << 3,
	L7MP_PROTO_REQUESTS = 1 << 4, /* a listener whose sessions are HTTP requests */
	/* A cluster that serves the operator: a tenth of each limit is kept for its sessions. */
	L7MP_PROTO_OPERATOR = 1 << 5,
	/* A cluster whose connections of a previous process can be restored (session.h). */
	L7MP_PROTO_RESTORES = 1 << 6,
	/* A stateless transformer: another process can create it again at a hand-over. */
	L7MP_PROTO_STATELESS = 1 << 7,
	/*
	 * A cluster whose sessions can be restored after a crash, from their flows in the kernel,
	 * but can't be handed over from one process to another.
	 */
	L7MP_PROTO_ADOPTS = 1 << 8,
};

struct l7mp_protodesc {
	const char *name;           /* the canonical spelling: "UnixDomainSocket" */
	const char *const *aliases; /* ends with NULL; may be NULL */
	const char *doc;            /* for the reference page */
	unsigned roles;             /* enum l7mp_role */
	unsigned flags;             /* enum l7mp_proto_flags */
	enum l7mp_kind kind;
	/* The keys of its specs besides `protocol`; NULL: none. */
	const struct l7mp_schema *listener_spec;
	const struct l7mp_schema *cluster_spec;
	const struct l7mp_schema
	        *endpoint_spec; /* keys of endpoints[].spec, `address` among them */
	/* Idle time-out of listener sessions when the config names none, in s; 0: never. */
	unsigned idle_timeout;
	/* Bytes that a stream takes beside buffers (selftests/bench/memory.py measures it). */
	unsigned cost;
};

/* The protocols of this program; daemon/ defines it and passes it down. */
struct l7mp_registry {
	const struct l7mp_protodesc *const *descs; /* ends with NULL */
};
/* Finds a description by a name or an alias, in any case; NULL if unknown. Any thread. */
const struct l7mp_protodesc *l7mp_registry_find(const struct l7mp_registry *r, const char *name);
