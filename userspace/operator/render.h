/* SPDX-License-Identifier: MIT */
/*
 * From the objects of a cluster to the documents of its proxies: a store of the objects, and a
 * function that renders one document for each proxy from it.
 *
 * The store keeps only the parts of an object that the function reads, so that 10,000 pods cost a
 * few MB, and reports whether a change concerns any of them. The function has no input but the
 * store and the settings: no I/O, no clock. Its result does not depend on the order of events.
 *
 * How the reconciler (run.c) uses it:
 *  1. op_store_put and op_store_delete for each event of a watch; op_store_relist_begin before, and
 *     op_store_relist_end after all pages of a LIST.
 *  2. When one of them has returned "changed", some 20 ms later: op_render. It takes tens of
 *     milliseconds in large clusters, so it runs in a thread (renderer.c), between op_store_hold
 *     and op_store_release.
 *  3. For each op_proxy whose `hash` is not op_store_applied_hash: query its boot id, POST
 *     /api/v1/config?owner=OWNER with `document->text`; then op_store_applied or op_store_failed.
 *     When it refuses one object of many: op_blame, op_store_refuse, go to 2.
 *  4. op_status_of for each object, in slices; PATCH what it returns, nothing else.
 *
 * Thread: any, one at a time; op_render and op_statuses only read the store. While the store is
 * held one thread may be in op_render and another one in anything else.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/protodesc.h"

/* ---- kinds ---- */

enum op_kind {
	OP_NAMESPACE, /* labels, for allowedRoutes */
	OP_POD,
	OP_SERVICE,
	OP_SLICE,  /* EndpointSlice */
	OP_SECRET, /* only that it exists; its data is never kept */
	OP_VSVC,
	OP_TARGET,
	OP_RULE,
	OP_ROUTE,
	OP_GATEWAYCLASS,
	OP_GATEWAY,
	OP_LISTENERSET,
	OP_UDPROUTE,
	OP_TCPROUTE,
	OP_GRANT, /* ReferenceGrant */
	OP_KINDS,
};

struct op_kind_info {
	const char *kind;    /* "VirtualService" */
	const char *plural;  /* "virtualservices" */
	const char *group;   /* "l7mp.io"; "" of the core */
	const char *version; /* "v1", the one that is listed and watched */
	bool namespaced;
	bool status;   /* op_statuses writes statuses of this kind */
	bool optional; /* its CRD may be missing in a cluster: no error */
};
extern const struct op_kind_info op_kinds[OP_KINDS];
/* Finds a kind by apiVersion and kind of an object; OP_KINDS: not one of ours. */
enum op_kind op_kind_find(const char *api_version, const char *kind);

/* ---- the store ---- */

struct op_settings {
	const char *controller; /* spec.controllerName of our GatewayClasses */
	const char *container;  /* name of the proxy's container: "l7mp" */
	uint16_t port;          /* of the proxies' admin server, unless the pod's annotation says */
	bool any_namespace;     /* selectors reach all namespaces, without ReferenceGrants */
	size_t max_document;    /* bytes of one proxy's document; what is beyond is left out */
};
/* "l7mp.io/gateway-controller", "l7mp", 1235, false, 4 MiB (the proxy's default max_body). */
extern const struct op_settings op_settings_default;

struct op_store;

/*
 * Makes an empty store. `registry` (protocol names and schema tables) and the strings of `settings`
 * are borrowed. Returns 0 or -ENOMEM.
 */
int op_store_new(const struct l7mp_registry *registry, const struct op_settings *settings,
                 struct op_store **out);
void op_store_free(struct op_store **s);

/*
 * Adds an object, or replaces the one of its kind, namespace and name. The object is borrowed, as
 * the API server sends it; kind and apiVersion may be absent, as in items of lists. *changed (may
 * be NULL) is set when anything that op_render reads has changed; a changed status or
 * resourceVersion alone does not count, but is remembered for op_statuses.
 *
 * An object whose spec makes no sense is stored all the same, and gets a condition that says why.
 * Returns 0; -EINVAL with err set when it has no metadata.name (or namespace) or one that is no
 * name, or is more than OP_MAX_OBJECT bytes; -ENOMEM. On failure the store is as before.
 */
int op_store_put(struct op_store *s, enum op_kind kind, const cJSON *object, bool *changed,
                 struct l7mp_error *err);
/* Removes an object; `ns` is NULL or "" for kinds without namespace. Returns whether it existed. */
bool op_store_delete(struct op_store *s, enum op_kind kind, const char *ns, const char *name);
/*
 * Relisting: begin, op_store_put for each item, end, which removes what was not put since the
 * begin and returns whether it removed any.
 */
void op_store_relist_begin(struct op_store *s, enum op_kind kind); /* not while held */
bool op_store_relist_end(struct op_store *s, enum op_kind kind);
size_t op_store_count(const struct op_store *s, enum op_kind kind);
/* An estimate of the bytes that the store holds, for metrics. */
size_t op_store_bytes(const struct op_store *s);

#define OP_MAX_OBJECT (1024 * 1024) /* bytes of one object as JSON: above etcd's limit */

/*
 * Holds the store still, so that op_render may read it in another thread: until op_store_release
 * what is put and deleted, and what is refused or lifted, is remembered and changes nothing that
 * op_render reads. op_store_put then never sets *changed, op_store_delete returns whether the
 * object will be missed. Returns 0, or -ENOMEM: then it is not held. Not nested.
 */
int op_store_hold(struct op_store *s);
/*
 * Applies what was remembered. *changed (may be NULL) is set when anything that op_render reads
 * has changed. Returns 0; -ENOMEM: some objects are as they were before.
 */
int op_store_release(struct op_store *s, bool *changed);

/* ---- rendering ---- */

/* Annotations of a pod: the container that is the proxy, and the port of its admin server. */
#define OP_ANNOTATION_CONTAINER "l7mp.io/container"
#define OP_ANNOTATION_PORT      "l7mp.io/admin-port"
/* Labels of pods that serve a Gateway, or all Gateways of a class in all namespaces. */
#define OP_LABEL_GATEWAY       "gateway.networking.k8s.io/gateway-name"
#define OP_LABEL_GATEWAY_CLASS "l7mp.io/gateway-class"

/* A document, which several proxies may share. */
struct op_document {
	/*
	 * {"listeners":[…],"clusters":[…],"rules":[…],"routes":[…],"rule_inserts":[…]}: what
	 * POST /config?owner= takes (docs/api.md, Owners). Rules for rule lists of the proxy's own
	 * config are in `rule_inserts`, by position, age and name.
	 */
	const char *text;
	size_t len;
};

struct op_proxy {
	const char *ns, *name; /* of the pod */
	const char *uid;       /* of the pod */
	const char *address;   /* podIP */
	const char *node;      /* spec.nodeName, or "" */
	uint16_t port;         /* of the admin server */
	/*
	 * Changes when the proxy's container was restarted: "uid/containerID". The proxy's own boot
	 * id must be queried, too, before a POST: an address may belong to another pod by now.
	 */
	const char *boot;
	uint64_t hash; /* of the document */
	const struct op_document *document;
	size_t n_objects; /* of the cluster's, in this document */
};

struct op_result;

/*
 * Makes the documents of all proxies, in the order of namespace and name: also empty ones, so that
 * what was deleted vanishes. `before` is the last result of the same store, or NULL: what did not
 * change since is taken over from it, so that a change costs little more than what it concerns. The
 * result is the same either way. `before` stays what it was for all other functions; op_render
 * itself can't use it twice.
 *
 * Returns 0 and a result that the caller frees; it refers to neither the store nor `before`.
 * -ENOMEM otherwise.
 */
int op_render(const struct op_store *s, struct op_result *before, struct op_result **out);
void op_result_free(struct op_result **r);
size_t op_result_count(const struct op_result *r);
const struct op_proxy *op_result_proxy(const struct op_result *r, size_t i);

struct op_object {
	enum op_kind kind;
	const char *ns, *name;
	int part; /* which listener of a Gateway or ListenerSet, from 0 */
};
/*
 * The objects that are in a proxy's document (n_objects), by kind, namespace and name; `part` is 0.
 * The array is the caller's (free), the strings are borrowed from the result. NULL: there are none,
 * or out of memory.
 */
struct op_object *op_proxy_objects(const struct op_proxy *p, size_t *n);

/* ---- what the proxies say ---- */

/*
 * What the proxies say is kept until their pods go: of a pod that is not in the store nothing is.
 */

/*
 * The proxy has confirmed its document. Returns 0 or -ENOMEM; 1 when op_render is to be called
 * again, because what the proxy refused may be possible now: an object that moved to another name
 * wants the port that the one before it still had.
 */
int op_store_applied(struct op_store *s, const struct op_proxy *p);
/*
 * The last try failed: `error` in the proxy's own words, or those of the connection. What was
 * applied before still counts. Returns 0 or -ENOMEM.
 */
int op_store_failed(struct op_store *s, const struct op_proxy *p, const char *error);
/* The proxy has lost its objects: its boot id is another one. */
void op_store_forget(struct op_store *s, const char *uid);
/* Returns the hash of the document that was applied last at the present `boot`; 0: none. */
uint64_t op_store_applied_hash(const struct op_store *s, const struct op_proxy *p);

/*
 * Finds the object that a proxy's error is about, by the path of the error ("listeners[3].spec",
 * may be NULL), or by the name of an object of the proxy in `text`. Returns whether it was found;
 * *out is borrowed from the result.
 */
bool op_blame(const struct op_proxy *p, const char *path, const char *text, struct op_object *out);
/*
 * Leaves an object, or that part of it, out of the document of a proxy; after the next document
 * that it confirms it is tried once more, and then left out until the object or the proxy's `boot`
 * changes. `message` is the proxy's own text, which the object's condition shows. Returns 0 or
 * -ENOMEM.
 */
int op_store_refuse(struct op_store *s, const struct op_proxy *p, const struct op_object *object,
                    const char *message);

/* ---- statuses and events ---- */

enum op_write_kind {
	OP_WRITE_STATUS, /* PATCH …/status of an object of our kinds */
	OP_WRITE_OWNER,  /* PATCH …/status of an owner (updateOwners) */
	OP_WRITE_EVENT,  /* create an Event */
};
struct op_write {
	enum op_write_kind write;
	char *group, *version, *plural, *kind; /* of the object */
	char *ns, *name, *uid;                 /* ns "": none */
	/*
	 * Of a status: a merge patch (RFC 7386), {"metadata": {"resourceVersion"}, "status"}; a
	 * 409 means that the object has changed meanwhile and will be put again.
	 * Of an owner: {"status": {"children": {"applied": {NAME: generation}}}}; repeated, so
	 * the caller has to remember what it has sent.
	 * Of an event: {"type", "reason", "note"}; repeated, too: the caller drops those that
	 * equal the last one of the same object and reason.
	 */
	cJSON *body;
};
struct op_writes {
	struct op_write *w;
	size_t n;
};

/*
 * Computes what has to be written to the API server, in the order of kind, namespace and name.
 * `now` is an RFC 3339 time for lastTransitionTime. Objects whose status is right already, or that
 * have changed since the result was made, are left out. `out` is the caller's, and does not refer
 * to the store or the result. Returns 0 or -ENOMEM.
 */
int op_statuses(const struct op_store *s, const struct op_result *r, const char *now,
                struct op_writes *out);
void op_writes_free(struct op_writes *w);

/*
 * The same for one object, which is number `i` of op_status_count, and only when something has
 * changed. Returns 0; 1 when the status is made from the same as at the last call for this object,
 * so that what was returned then is still right; -ENOENT when the object is gone or has changed
 * since the result was made, so that nothing is to be written; or -ENOMEM. `out` is empty unless 0
 * is returned. Stores in the store what the status was made from. *object gets the object, borrowed
 * from the result.
 */
int op_status_of(struct op_store *s, const struct op_result *r, size_t i, const char *now,
                 struct op_object *object, struct op_writes *out);
size_t op_status_count(const struct op_result *r);
/* Makes op_status_of return what has to be written once more: the caller has lost it. */
void op_status_forget(struct op_store *s);
