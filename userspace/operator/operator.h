/* SPDX-License-Identifier: MIT */
/*
 * The running operator: caches of the cluster's objects (kube.h), rendering (render.h), the proxies
 * (peer.c), writes to the API server (writer.c), and its own HTTP server (serve.c).
 *
 * Thread: loop only, except where stated.
 */
#pragma once

#include "l7mp/kube.h"
#include "l7mp/util.h"
#include "render.h"

#define OP_NAMESPACES_MAX 64

struct op_run_options {
	struct op_settings settings;
	const char *kubeconfig, *context, *service_account;
	const char *namespaces[OP_NAMESPACES_MAX]; /* n 0: all */
	size_t n_namespaces;
	const char *secrets[OP_NAMESPACES_MAX]; /* namespaces whose Secrets are listed */
	size_t n_secrets;
	const char *listen;           /* "[ADDR:]PORT"; NULL: no HTTP server */
	const char *lease, *lease_ns; /* lease NULL: no lease, this instance always leads */
	const char *identity;         /* NULL: host name and a random number */
	const char *owner;            /* of the objects in the proxies */
	/* Files for the connections to the proxies; without a CA they are plain HTTP. */
	const char *proxy_ca, *proxy_cert, *proxy_key, *proxy_token;
	const char *proxy_name; /* the name in the proxies' certificates; NULL: their address */
};
/* Runs until SIGTERM or SIGINT. Returns the exit status. */
int op_run(const struct l7mp_registry *registry, const struct op_run_options *options);

/* ---- a histogram of seconds ---- */

#define OP_BUCKETS 12
struct op_histogram {
	uint64_t count, sum_ms;
	uint64_t bucket[OP_BUCKETS]; /* at most op_bucket_ms[i], not cumulative */
};
void op_histogram_add(struct op_histogram *h, uint64_t ms);
void op_histogram_print(struct l7mp_str *out, const char *name, const char *help,
                        const struct op_histogram *h);

/* ---- reference-counted results ---- */

struct op_renderer;
struct op_rendered {
	struct op_result *result;
	unsigned refs;
	struct op_renderer *renderer;
	struct op_rendered *next; /* in the list of unreferenced results */
};
struct op_rendered *op_rendered_ref(struct op_rendered *r);
void op_rendered_unref(struct op_rendered *r);

/* ---- renderer.c: rendering in a worker thread ---- */

/*
 * `done` gets the result of each op_renderer_start, with a reference that it owns; NULL: out of
 * memory. The store has been released before. `changed`: another rendering is needed for changes
 * that arrived meanwhile.
 */
typedef void (*op_renderer_done)(void *arg, struct op_rendered *r, bool changed);
int op_renderer_new(struct l7mp_loop *loop, struct op_store *store, op_renderer_done done,
                    void *arg, struct op_renderer **out);
/*
 * Runs the loop until the thread is done; afterwards nothing is started, and `done` is not called.
 */
void op_renderer_stop(struct op_renderer *r);
/* After op_renderer_stop, when all references were dropped. */
void op_renderer_free(struct op_renderer **r);
/*
 * Freezes the store and renders it in a worker thread. Returns 0; -EBUSY while rendering, or after
 * op_renderer_stop; another negative errno.
 */
int op_renderer_start(struct op_renderer *r);
bool op_renderer_busy(const struct op_renderer *r);

/* ---- peer.c: the proxies ---- */

struct op_peers;
struct op_peers_events {
	/* A proxy's answer has changed the store: statuses or, with `render`, documents. */
	void (*changed)(void *arg, bool render);
};
int op_peers_new(struct kube_client *client, struct op_store *store,
                 const struct op_run_options *options, const struct op_peers_events *events,
                 void *arg, struct op_peers **out);
void op_peers_free(struct op_peers **p);
/* Sets the wanted documents. `since_ms`: loop time of the first change that led to them. */
void op_peers_set(struct op_peers *p, struct op_rendered *r, uint64_t since_ms);
/* Enables or disables writing to the proxies. After disabling no request is in flight. */
void op_peers_lead(struct op_peers *p, bool leads);
enum op_peer_state {
	OP_PEER_PENDING,    /* never tried, or a new document */
	OP_PEER_PROGRAMMED, /* has its document */
	OP_PEER_FAILED,     /* can't be reached, or refused */
	OP_PEER_FOREIGN,    /* another process answers at its address */
	OP_PEER_STATES,
};
extern const char *const op_peer_states[OP_PEER_STATES];
struct op_peers_stats {
	uint64_t posts, posts_failed, checks, refusals;
	size_t in_flight, waiting;
	size_t state[OP_PEER_STATES];
	struct op_histogram latency;
};
const struct op_peers_stats *op_peers_stats(struct op_peers *p);
/*
 * The list of proxies for /proxies (docs/operator.md), by namespace and name: a tree owned by the
 * caller, or NULL. Limits of proxies, and of objects per proxy:
 */
#define OP_SHOWN_PROXIES 5000
#define OP_SHOWN_OBJECTS 100
cJSON *op_peers_tree(struct op_peers *p);

/* ---- writer.c: statuses ---- */

struct op_writer;
int op_writer_new(struct kube_client *client, struct op_writer **out);
void op_writer_free(struct op_writer **w);
/*
 * A pass over all objects, in slices: begin, then op_writer_set or op_writer_keep for each object,
 * then op_writer_end until it returns true.
 */
void op_writer_begin(struct op_writer *w);
/*
 * What is to be written for an object: replaces what was before, so that writes that wait and are
 * missing now are cancelled. Events go to `events`. Takes the bodies. Returns 0, or -ENOMEM: some
 * are missing.
 */
int op_writer_set(struct op_writer *w, const struct op_object *o, struct op_writes *writes,
                  struct kube_events *events);
/* What is to be written for an object is what it was before. */
void op_writer_keep(struct op_writer *w, const struct op_object *o);
/* Drops one object that the pass has not seen. Returns true when there is none left. */
bool op_writer_end(struct op_writer *w);
/* Stops all writing, and forgets what was written. */
void op_writer_stop(struct op_writer *w);
struct op_writer_stats {
	uint64_t written, conflicts, failed;
	size_t in_flight, waiting;
};
const struct op_writer_stats *op_writer_stats(const struct op_writer *w);

/* ---- serve.c: /metrics, /healthz, /readyz, /proxies ---- */

struct op_serve;
struct op_serve_page {
	int status;
	const char *type;
	struct l7mp_str body;
};
/*
 * Listens on "[ADDR:]PORT" (IPv4). `page` is called on the loop for each request that is one of
 * the paths. Returns 0, or a negative errno with err set.
 */
int op_serve_new(struct l7mp_loop *loop, const char *listen,
                 void (*page)(void *arg, const char *path, struct op_serve_page *out), void *arg,
                 struct op_serve **out, struct l7mp_error *err);
void op_serve_free(struct op_serve **s);
