/* SPDX-License-Identifier: MIT */
/* Private to the pure part of the operator: what the store keeps, and what rendering is made of. */
#pragma once

#include "l7mp/hash.h"
#include "l7mp/util.h"
#include "render.h"

/* Bounds on what one object may hold; the API server has most of them itself. */
#define OP_MAX_LABELS    256
#define OP_MAX_ENDPOINTS 1000 /* of a slice */
#define OP_MAX_PORTS     250  /* of a service or slice */
#define OP_MAX_ADDRESSES 16   /* of a service's load balancer, of a Gateway */
#define OP_MAX_RULES     1000 /* of a VirtualService */
#define OP_MAX_TERMS     64   /* of a selector */
#define OP_MAX_DEPTH     16   /* of references and inline objects */
#define OP_MAX_REFUSALS  4096

struct op_label {
	char *key, *value;
};

struct op_labels {
	struct op_label *v; /* sorted by key */
	size_t n;
};

/* Of a pod, what selectors and endpoints need. */
struct op_pod {
	char *ip, *host_ip, *node, *phase, *account;
	char *container_id; /* of the proxy's container; NULL: there is none, or it never ran */
	uint16_t port;      /* of the admin server */
	bool proxy;         /* has the container, and it is ready */
	bool ready, terminating, over, host_network;
};

struct op_port {
	char *name, *protocol;
	uint16_t port;
};

struct op_service {
	char *cluster_ip, *type;
	char **addresses; /* of its load balancer, then spec.externalIPs */
	size_t n_addresses;
	struct op_port *ports;
	size_t n_ports;
};

struct op_endpoint {
	char *address, *pod; /* pod: the target's name, "" if it is no pod */
	bool ready, serving, terminating;
};

struct op_slice {
	char *service; /* name; "" without the label */
	struct op_port *ports;
	size_t n_ports;
	struct op_endpoint *endpoints;
	size_t n_endpoints;
};

/* An object. */
struct op_obj {
	enum op_kind kind;
	char *key; /* "ns/name" */
	char *ns;  /* "": none */
	char *name, *uid, *created, *version;
	double generation;
	struct op_labels labels;
	cJSON *spec;        /* custom resources; NULL when absent or no object */
	cJSON *owners;      /* metadata.ownerReferences, with updateOwners */
	cJSON *status;      /* as the API server has it */
	struct op_pod *pod; /* these, by kind */
	struct op_service *service;
	struct op_slice *slice;
	uint64_t digest; /* of all that rendering reads */
	uint64_t told;   /* op_status_of: a sum of what the status was made from; 0: not yet */
	size_t bytes;
	bool fresh;   /* put since the list began */
	bool deleted; /* deleted while the store is held: in its list `deleted` */
	struct op_obj *next_deleted;
	UT_hash_handle hh;
};

/* All pods with a label, or all slices of a service. */
struct op_index {
	char *key; /* "key=value": keys of labels have no '='; of slices "ns/service" */
	struct op_obj **v;
	size_t n, cap;
	UT_hash_handle hh;
};

/* What a proxy refused. */
struct op_refusal {
	char *key; /* "uid kind ns/name part" */
	char *boot, *message;
	uint64_t digest; /* of the object */
	unsigned tries;  /* so often the proxy has refused it */
	bool lifted;     /* to be tried again */
	UT_hash_handle hh;
};

/* What the proxy of a pod has said. */
struct op_manifest;
struct op_known {
	char *uid, *boot;
	uint64_t hash; /* of the document that it has; 0: none */
	struct op_manifest *manifest;
	char *error; /* of the last try; NULL: none */
	UT_hash_handle hh;
};

struct op_store {
	const struct l7mp_registry *registry;
	struct op_settings settings;
	struct op_obj *objects[OP_KINDS];
	struct op_index *labels, *slices;
	/* Of each kind: raised by each change of what rendering reads. */
	uint64_t version[OP_KINDS];
	struct op_refusal *refusals;
	struct op_known *known;
	uint64_t told_epoch; /* raised by op_status_forget */
	size_t bytes;
	/* While op_render reads `objects`, `labels` and `shown`: what comes meanwhile. */
	bool held;
	struct op_refusal *shown; /* a copy of `refusals` */
	struct op_obj *later[OP_KINDS];
	struct op_obj *deleted;
};

/* Finds an object; "" or NULL for no namespace. */
struct op_obj *op_find(const struct op_store *s, enum op_kind kind, const char *ns,
                       const char *name);
const char *op_label(const struct op_obj *o, const char *key);
/* The pods with a label; NULL: none. */
const struct op_index *op_labelled(const struct op_store *s, const char *key, const char *value);
/* The EndpointSlices of a Service; NULL: none. */
const struct op_index *op_slices_of(const struct op_store *s, const char *ns, const char *service);
/* What op_render is to leave out, as of op_store_hold when the store is held. */
bool op_any_refused(const struct op_store *s);
const struct op_refusal *op_refused(const struct op_store *s, const struct op_obj *pod,
                                    const struct op_obj *object, int part);
