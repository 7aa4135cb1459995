/* SPDX-License-Identifier: MIT */
/* Private to rendering: units of documents, the objects that they come from, and their proxies. */
#pragma once

#include <stdatomic.h>

#include "memo.h"
#include "selector.h"

enum op_section { OP_LISTENERS, OP_CLUSTERS, OP_RULES, OP_ROUTES, OP_SECTIONS };

struct op_node;

/* One object of a proxy: the same for all proxies that have it. */
struct op_unit {
	enum op_section section;
	char *name, *key; /* the key is unique: "section name" */
	char *text;       /* as JSON; NULL: it could not be made, and is in no document */
	size_t len;
	uint64_t hash;
	struct op_node *node;  /* in whose status it is shown; NULL: made for a Service reference */
	int tag;               /* which listener of a Gateway */
	struct op_unit **deps; /* units that every document with this one needs */
	size_t n_deps, cap_deps;
	/* Claims that no two units of a proxy may share: "udp 53 ADDRESS", "cluster NAME". */
	char **claims;
	size_t n_claims, cap_claims;
	char *rulelist; /* of rules: inserted there */
	double position;
	uint32_t order;   /* by section and name */
	uint32_t age;     /* by the age of the object that it comes from, oldest first */
	uint32_t visited; /* in which closure */
	/* While rendering: the unit of this key in the result before, and of that one the new one
	 * when nothing that a document or its order is made from has changed. */
	struct op_unit *was, *became;
	bool compared, reused;
	struct op_memo memo;
	UT_hash_handle hh;
};

struct op_placed {
	uint32_t proxy;
	int tag;
	const char *why; /* NULL: it is in the document; else why not */
	bool refused;    /* by the proxy; else by another object */
};

/* An object that has a status. */
struct op_node {
	enum op_kind kind;
	char *ns, *name, *uid, *created;
	double generation;
	uint64_t digest, id;
	const struct op_obj *obj; /* while rendering */
	struct op_unit *unit;     /* of l7mp.io kinds; NULL: none */
	/* l7mp.io kinds */
	const char *reason; /* NULL: accepted */
	char *message;      /* why not; or what to say beside "accepted" */
	bool resolved;      /* unit is final */
	bool optional;      /* needs no proxy: a Route, or a Target that is only referred to */
	/* Of a UDPRoute or TCPRoute: why ResolvedRefs is False; NULL: it is True. */
	const char *unresolved;
	char *unresolved_text;
	/* Gateway API kinds: the status, without what proxies and clocks say. */
	cJSON *status;
	bool served;   /* there are proxies for it */
	cJSON *owners; /* for updateOwners; NULL: none */
	struct op_placed *placed;
	size_t n_placed, cap_placed;
	uint64_t sum;      /* of all of it that a status is made from */
	UT_hash_handle hh; /* by obj */
};

/* What was sent to a proxy: the objects, and for each a hash of it and its dependencies. */
struct op_manifest {
	atomic_uint
	        refs; /* the store's, and those of results, which the renderer's thread may free */
	size_t n;
	struct op_manifest_entry {
		uint64_t id, hash;
	} v[]; /* sorted by id */
};
struct op_manifest *op_manifest_ref(struct op_manifest *m);
void op_manifest_unref(struct op_manifest *m);
/* Returns the hash of an object, 0: it is not there. */
uint64_t op_manifest_get(const struct op_manifest *m, uint64_t id);

/* A document and what belongs to it: results share it while it stays the same. */
struct op_paper {
	atomic_uint refs;
	struct op_document doc;
	char *text; /* of doc */
	uint64_t hash;
	struct op_manifest *manifest;
	size_t n_objects;
};

/* Proxies with the same document. */
struct op_group {
	uint64_t key;
	struct op_unit **want; /* what they should have, by order */
	size_t n_want;
	struct op_unit **units; /* what they have */
	size_t n_units;
	struct op_unit **inserts; /* in the order of rule_inserts */
	size_t n_inserts;
	struct op_paper *paper;
	const char **why; /* of `want`: NULL, or why it is not among `units` */
	UT_hash_handle hh;
};

struct op_entry {
	struct op_proxy pub; /* first: op_blame and op_store_applied get it */
	struct op_group *group;
	uint64_t sum;             /* of its pod, and of the process there */
	const struct op_obj *pod; /* while rendering */
	struct op_unit **roots;
	size_t n_roots, cap_roots;
};

struct op_result {
	struct op_node **nodes; /* by kind, namespace and name */
	size_t n_nodes;
	struct op_node *by_obj;
	struct op_unit *units;
	struct op_group *groups;
	struct op_entry *proxies; /* by namespace and name */
	size_t n_proxies;
	char **texts; /* of op_placed.why */
	size_t n_texts, cap_texts;
	uint64_t seen[OP_KINDS]; /* versions of the store */
};

struct op_render {
	const struct op_store *s;
	struct op_result *r;
	struct op_result *before; /* NULL: none */
	bool changed[OP_KINDS];   /* since then */
	struct op_memo *memo;     /* of the unit that is being made; NULL: nothing is recorded */
	bool oom;
};

/* What a proxy has said at its present boot; NULL: nothing. */
const struct op_known *op_known(const struct op_store *s, const struct op_proxy *p);

/* ---- render.c ---- */

/* Makes room for one more in a growing array. Returns 0 or -ENOMEM. */
int op_grow(void *array, size_t n, size_t *cap, size_t size);
struct op_node *op_node_of(const struct op_render *x, const struct op_obj *obj);
/* The proxy that a pod is; NULL: none. */
struct op_entry *op_proxy_of(const struct op_render *x, const struct op_obj *pod);
/* Finds or creates a unit; *made: it was created. NULL: out of memory (x->oom). */
struct op_unit *op_unit_get(struct op_render *x, enum op_section section, const char *name,
                            bool *made);
void op_unit_depend(struct op_render *x, struct op_unit *u, struct op_unit *on);
void op_unit_claim(struct op_render *x, struct op_unit *u, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
/*
 * Begins and ends making a unit: what it is made from is recorded meanwhile. Begin returns what end
 * wants; units are made while others are.
 */
struct op_memo *op_unit_begin(struct op_render *x, struct op_unit *u);
void op_unit_end(struct op_render *x, struct op_unit *u, struct op_memo *outer);
/*
 * Takes a unit over from the result before, with what is said of its node, but for dependencies
 * (memo.links). Returns false when there is none, or what it was made from has changed.
 */
bool op_unit_reuse(struct op_render *x, struct op_unit *u);
/* Sets the text of a unit. Takes the tree; NULL: out of memory. */
void op_unit_text(struct op_render *x, struct op_unit *u, cJSON *tree);
/* The proxy gets the unit and what it depends on. */
void op_place(struct op_render *x, struct op_entry *proxy, struct op_unit *u);
/* Refuses an object; the first reason stays. `reason` is static. */
void op_refuse_node(struct op_node *n, const char *reason, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
/* Adds to what is said beside "accepted". */
void op_note(struct op_node *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Returns the name that an object has at a proxy, at most 255 bytes. Heap; NULL: oom. */
char *op_name(const char *group, const char *plural, const char *ns, const char *name,
              const char *part);

/* ---- mesh.c: VirtualService, Target, Rule, Route ---- */

void op_mesh(struct op_render *x);
struct op_backend {
	const char *address; /* borrowed from the store */
	uint16_t port;
	bool ready; /* takes new sessions */
};
struct op_backends {
	struct op_backend *v;
	size_t n, cap;
};
/* Adds the endpoints that the slices of a Service have for one of its ports. 0 or -ENOMEM. */
int op_service_endpoints(const struct op_store *s, const struct op_obj *service,
                         const struct op_port *port, struct op_backends *out);

/* Makes the endpoint of a cluster: address, and port unless it is 0. NULL: oom. */
cJSON *op_endpoint_json(const char *cluster, const char *address, unsigned port, double weight);

/* ---- gateway.c: the kinds of the Gateway API ---- */

void op_gateways(struct op_render *x);

/* ---- status.c ---- */

/* Adds a condition, still without time. Returns 0 or -ENOMEM. */
int op_condition(cJSON *list, const char *type, bool status, const char *reason,
                 const char *message, double generation);
/*
 * Adds Programmed, which op_statuses fills in by the proxies that have the node's units with this
 * tag; -1: all of them.
 */
int op_condition_programmed(cJSON *list, int tag, double generation);

/* ---- translate.c: from the spelling of custom resources to the proxy's ---- */

struct op_translate {
	struct op_render *x;
	struct op_node *node;
	struct op_unit *unit; /* gets dependencies and claims */
	char path[256];       /* in the object, for messages */
	bool failed;
	int depth;
	int clusters; /* inline ones so far */
};
/* {UDP: {…}} or {protocol: UDP, …} -> {protocol, …}; NULL after failure. */
cJSON *op_translate_spec(struct op_translate *t, const cJSON *spec);
cJSON *op_translate_cluster(struct op_translate *t, const cJSON *cluster, const char *name);
cJSON *op_translate_rule(struct op_translate *t, const cJSON *rule);
cJSON *op_translate_route(struct op_translate *t, const cJSON *route);
/*
 * Adds an endpoint for each pod that a selector of `from` has, unless it is there already. Returns
 * 0, -EINVAL with `why` for a bad selector, or -ENOMEM.
 */
int op_pod_endpoints(const struct op_store *s, const struct op_obj *from, const cJSON *selector,
                     const char *cluster, cJSON *list, char *why, size_t size);
void op_translate_fail(struct op_translate *t, const char *fmt, ...)
        __attribute__((format(printf, 2, 3)));
/* Goes into a member for messages; returns what op_translate_leave wants. */
size_t op_translate_enter(struct op_translate *t, const char *fmt, ...)
        __attribute__((format(printf, 2, 3)));
void op_translate_leave(struct op_translate *t, size_t mark);
/*
 * Checks the result by the proxy's own tables, and removes keys that they don't know, for proxies
 * in strict mode. Returns whether it is valid; the node is refused otherwise.
 */
bool op_translate_check(struct op_translate *t, const struct l7mp_schema *schema, cJSON *tree,
                        const char *path);

/* mesh.c, for translate.c: resolve a reference to a name at the proxy. Heap; NULL after failure. */
char *op_resolve_cluster(struct op_translate *t, const char *ref);
char *op_resolve_route(struct op_translate *t, const char *ref);
