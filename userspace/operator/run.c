/* SPDX-License-Identifier: MIT */
/*
 * The operator: watches the cluster, and shortly after a change renders one document for each proxy
 * and writes statuses, once for all changes that have arrived until then.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/slice.h"
#include "metrics.h"
#include "operator.h"

#define RENDER_MS 20  /* delay from the first change to rendering */
#define STATUS_MS 100 /* delay from the first change to writing statuses */

#define REFLECTORS_MAX (OP_KINDS * OP_NAMESPACES_MAX)
#define LEFT_OUT_MAX   1000

static const char *const conditions_of_large =
        "the object is larger than l7mp-operator takes (1 MiB), and is left out";

struct cache {
	struct op_operator *op;
	enum op_kind kind;
	struct kube_reflector *reflector;
};

/* An object that was rejected, and the text for its status. */
struct left_out {
	UT_hash_handle hh;
	enum op_kind kind;
	char *key; /* "kind ns/name" */
	char *ns, *name, *uid, *reason, *note;
	bool told;     /* the writer has its status */
	uint64_t pass; /* the last one that has seen it */
};

/* Statuses are computed in a pass over all objects, in slices. */
struct pass {
	struct op_rendered *rendered; /* of which the objects are; NULL: there is no pass */
	size_t next;                  /* of its objects, the next one */
	uint64_t number;
	bool again; /* something has changed meanwhile */
	bool failed;
};

struct op_operator {
	const struct op_run_options *options;
	struct l7mp_loop *loop;
	struct kube_client *client;
	struct op_store *store;
	struct cache *caches;
	size_t n_caches, n_synced;
	struct kube_lease *lease; /* NULL: no leader election, this instance leads */
	struct kube_events *events;
	struct op_peers *peers;
	struct op_writer *writer;
	struct op_serve *serve;
	struct op_renderer *renderer;
	struct op_rendered *rendered;
	struct l7mp_timer render_timer, status_timer;
	struct pass pass;
	struct l7mp_slice slice; /* of the pass */
	uint64_t since_ms;       /* time of the first change that is not rendered yet */
	uint64_t held_ms;        /* time of the first put or delete since rendering began */
	/* Of the rendering in progress: its start, and its first change. */
	uint64_t began_ns, made_since_ms;
	uint64_t rendered_ms; /* what the last one took */
	bool leads, stopping;
	struct left_out *left_out;
	struct op_metrics metrics;
	uv_signal_t signals[2];
	int n_signals;
	char identity[300];
	struct l7mp_log_limit log;
};

static bool synced(const struct op_operator *op)
{
	return op->n_synced == op->n_caches;
}

/* ---- rejected objects ---- */

static char *left_out_key(enum op_kind kind, const char *ns, const char *name)
{
	return l7mp_asprintf("%d %s/%s", kind, ns, name);
}

static void left_out_free(struct op_operator *op, struct left_out *l)
{
	if (l->hh.tbl)
		HASH_DEL(op->left_out, l);
	free(l->key);
	free(l->ns);
	free(l->name);
	free(l->uid);
	free(l->reason);
	free(l->note);
	free(l);
}

static void left_out_forget(struct op_operator *op, enum op_kind kind, const char *ns,
                            const char *name)
{
	struct left_out *l = NULL;
	char *key = op->left_out ? left_out_key(kind, ns, name) : NULL;

	if (key)
		HASH_FIND_STR(op->left_out, key, l);
	if (l)
		left_out_free(op, l);
	free(key);
}

static void left_out_add(struct op_operator *op, enum op_kind kind, const struct kube_event *e)
{
	struct left_out *l = calloc(1, sizeof(*l));

	left_out_forget(op, kind, e->ns, e->name);
	if (!l)
		return;
	l->kind = kind;
	l->key = left_out_key(kind, e->ns, e->name);
	l->ns = strdup(e->ns);
	l->name = strdup(e->name);
	l->uid = strdup(e->uid);
	l->reason = strdup(e->reason);
	l->note = strdup(e->note);
	if (l->key && l->ns && l->name && l->uid && l->reason && l->note &&
	    HASH_COUNT(op->left_out) < LEFT_OUT_MAX)
		HASH_ADD_KEYPTR(hh, op->left_out, l->key, strlen(l->key), l);
	if (!l->hh.tbl)
		left_out_free(op, l);
}

/* {"status": {"conditions": [{"type": "Accepted", "status": "False", ...}]}} */
static cJSON *left_out_body(const struct left_out *l, const char *now)
{
	cJSON *body = cJSON_CreateObject(), *status = cJSON_CreateObject();
	cJSON *list = cJSON_CreateArray(), *c = cJSON_CreateObject();
	int rc = l7mp_json_add_str(c, "type", "Accepted") ||
	         l7mp_json_add_str(c, "status", "False") ||
	         l7mp_json_add_str(c, "reason", l->reason) ||
	         l7mp_json_add_str(c, "message", l->note) ||
	         l7mp_json_add_str(c, "lastTransitionTime", now);

	if (!list || !cJSON_AddItemToArray(list, c)) {
		cJSON_Delete(c);
		rc = -ENOMEM;
	}
	rc = l7mp_json_add(status, "conditions", list) || rc;
	rc = l7mp_json_add(body, "status", status) || rc;
	if (!rc)
		return body;
	cJSON_Delete(body);
	return NULL;
}

/* Fills in what is to be written for a rejected object. */
static int left_out_write(const struct left_out *l, const char *now, struct op_write *w)
{
	const struct op_kind_info *info = &op_kinds[l->kind];

	*w = (struct op_write){
	        .write = OP_WRITE_STATUS,
	        .group = strdup(info->group),
	        .version = strdup(info->version),
	        .plural = strdup(info->plural),
	        .kind = strdup(info->kind),
	        .ns = strdup(l->ns),
	        .name = strdup(l->name),
	        .uid = strdup(l->uid),
	        .body = left_out_body(l, now),
	};
	return w->group && w->version && w->plural && w->kind && w->ns && w->name && w->uid &&
	                       w->body
	               ? 0
	               : -ENOMEM;
}

/* Not for kinds of the Gateway API, whose conditions are elsewhere; they only get an event. */
static int left_out_set(struct op_operator *op, struct left_out *l, const char *now)
{
	const struct op_object object = {l->kind, l->ns, l->name, 0};
	struct op_writes writes = {.w = calloc(1, sizeof(*writes.w)), .n = 1};
	int rc = -ENOMEM;

	if (!writes.w)
		return rc;
	if (!left_out_write(l, now, writes.w))
		rc = op_writer_set(op->writer, &object, &writes, op->events);
	op_writes_free(&writes);
	l->told = !rc;
	return rc;
}

/* Of the rejected objects, in slices. Returns whether all are done, or -ENOMEM. */
static int left_out_statuses(struct op_operator *op, const char *now)
{
	for (struct left_out *l = op->left_out; l; l = l->hh.next) {
		const struct op_object object = {l->kind, l->ns, l->name, 0};

		if (l->pass == op->pass.number || strcmp(op_kinds[l->kind].group, "l7mp.io") != 0)
			continue;
		l->pass = op->pass.number;
		if (l->told)
			op_writer_keep(op->writer, &object);
		else if (left_out_set(op, l, now))
			return -ENOMEM;
		if (l7mp_slice_over(op->loop))
			return false;
	}
	return true;
}

/* ---- rendering ---- */

static void want_statuses(struct op_operator *op, uint64_t ms)
{
	op->pass.again = true;
	if (op->leads && !op->pass.rendered && !l7mp_timer_armed(&op->status_timer))
		(void)l7mp_timer_start(op->loop, &op->status_timer, ms); /* reserved */
}

/*
 * Until RENDER_MS after the first change: what it has waited for the rendering before counts. But
 * not at once after that one, so that a change each millisecond does not keep a processor busy.
 */
static uint64_t render_delay(const struct op_operator *op)
{
	uint64_t waited = l7mp_loop_now(op->loop) - op->since_ms;
	uint64_t least = op->rendered_ms / 2 < RENDER_MS ? op->rendered_ms / 2 : RENDER_MS;

	return waited + least < RENDER_MS ? RENDER_MS - waited : least;
}

static void want_render(struct op_operator *op)
{
	if (!op->since_ms)
		op->since_ms = l7mp_loop_now(op->loop);
	/*
	 * Wait for all lists, or existing objects would be taken for deleted; and for a rendering
	 * in progress, whose end starts the next one.
	 */
	if (synced(op) && !op_renderer_busy(op->renderer) && !l7mp_timer_armed(&op->render_timer))
		(void)l7mp_timer_start(op->loop, &op->render_timer, render_delay(op));
}

/* Notes the time of a change during rendering, which is applied to the store afterwards. */
static void remember_when(struct op_operator *op)
{
	if (!op->held_ms && op_renderer_busy(op->renderer))
		op->held_ms = l7mp_loop_now(op->loop);
}

static void render_later(struct op_operator *op)
{
	l7mp_log_error("operator", "out of memory: the documents are not rendered");
	(void)l7mp_timer_start(op->loop, &op->render_timer, 1000);
}

static void on_render(struct l7mp_timer *timer, void *arg)
{
	struct op_operator *op = arg;
	int rc;

	(void)timer;
	op->began_ns = uv_hrtime();
	op->held_ms = 0;
	rc = op_renderer_start(op->renderer);
	if (rc == -EBUSY) /* on_rendered renders again if something has changed */
		return;
	if (rc) {
		render_later(op);
		return;
	}
	op->made_since_ms = op->since_ms;
	op->since_ms = 0;
}

static void on_rendered(void *arg, struct op_rendered *r, bool changed)
{
	struct op_operator *op = arg;
	uint64_t since = op->made_since_ms, now = l7mp_loop_now(op->loop);

	if (changed && !op->since_ms)
		op->since_ms = op->held_ms ? op->held_ms : now;
	if (!r) {
		op->since_ms = since;
		render_later(op);
		return;
	}
	op_rendered_unref(op->rendered);
	op->rendered = r;
	op->metrics.renders++;
	op->rendered_ms = (uv_hrtime() - op->began_ns) / 1000000;
	op_histogram_add(&op->metrics.render, op->rendered_ms);
	op_peers_set(op->peers, r, since ? since : now);
	if (op->since_ms)
		want_render(op);
	want_statuses(op, STATUS_MS);
}

/* ---- statuses ---- */

static void end_pass(struct op_operator *op)
{
	l7mp_slice_cancel(op->loop, &op->slice);
	op_rendered_unref(op->pass.rendered);
	op->pass.rendered = NULL;
}

static void on_statuses(struct l7mp_timer *timer, void *arg)
{
	struct op_operator *op = arg;

	(void)timer;
	if (!op->leads || !op->rendered)
		return;
	op->pass.rendered = op_rendered_ref(op->rendered);
	op->pass.next = 0;
	op->pass.number++;
	op->pass.again = false;
	op->pass.failed = false;
	op_writer_begin(op->writer);
	l7mp_slice_post(op->loop, &op->slice);
}

static void next_status(struct op_operator *op, const char *now)
{
	struct op_object object;
	struct op_writes writes;
	int rc = op_status_of(op->store, op->pass.rendered->result, op->pass.next++, now, &object,
	                      &writes);

	if (rc == 1)
		op_writer_keep(op->writer, &object);
	else if (!rc)
		rc = op_writer_set(op->writer, &object, &writes, op->events);
	if (rc == -ENOMEM)
		op->pass.failed = true;
	op_writes_free(&writes);
}

/* A slice of a pass: some objects, then those left out, then what the writer may forget. */
static void on_slice(struct l7mp_slice *slice, void *arg)
{
	struct op_operator *op = arg;
	size_t n = op_status_count(op->pass.rendered->result);
	char now[KUBE_TIME_LEN];
	bool all = false, swept = false;
	int rc;

	kube_time(now);
	snprintf(now + 19, sizeof(now) - 19, "Z"); /* without fraction, as in metav1.Time */
	while (op->pass.next < n && !l7mp_slice_over(op->loop))
		next_status(op, now);
	if (op->pass.next == n && !l7mp_slice_over(op->loop)) {
		rc = left_out_statuses(op, now);
		op->pass.failed = op->pass.failed || rc < 0;
		all = rc;
	}
	while (all && !swept && !l7mp_slice_over(op->loop))
		swept = op_writer_end(op->writer);
	if (!swept) {
		l7mp_slice_post(op->loop, slice);
		return;
	}
	end_pass(op);
	if (op->pass.failed)
		op_status_forget(op->store);
	if (op->pass.failed || op->pass.again)
		want_statuses(op, op->pass.failed ? 1000 : STATUS_MS);
}

static void peers_changed(void *arg, bool render)
{
	if (render)
		want_render(arg);
	want_statuses(arg, STATUS_MS);
}

/* ---- objects ---- */

static void leave_out(struct cache *c, const char *ns, const char *name, const char *uid,
                      const char *reason, const char *note)
{
	struct op_operator *op = c->op;
	const struct op_kind_info *info = &op_kinds[c->kind];
	char version[300];
	const struct kube_event event = {.api_version = version,
	                                 .kind = info->kind,
	                                 .ns = ns,
	                                 .name = name,
	                                 .uid = uid,
	                                 .type = "Warning",
	                                 .reason = reason,
	                                 .note = note};
	uint32_t suppressed;

	op->metrics.left_out++;
	remember_when(op);
	/* Don't keep the old version: after a restart it would not be known either. */
	if (op_store_delete(op->store, c->kind, ns, name))
		want_render(op);
	if (l7mp_log_allowed(&op->log, l7mp_loop_now(op->loop), 30000, 5, &suppressed))
		l7mp_log_warn("operator", "%s %s%s%s: %s", info->kind, ns, *ns ? "/" : "", name,
		              note);
	snprintf(version, sizeof(version), "%s%s%s", info->group, *info->group ? "/" : "",
	         info->version);
	if (!info->status)
		return;
	left_out_add(op, c->kind, &event);
	want_statuses(op, STATUS_MS);
	if (op->leads)
		kube_events_emit(op->events, &event);
}

static void on_put(void *arg, const cJSON *object)
{
	struct cache *c = arg;
	struct op_operator *op = c->op;
	const cJSON *metadata = l7mp_json_member(object, "metadata");
	struct l7mp_error err = {0};
	bool changed = false;
	char text[400];

	if (op_store_put(op->store, c->kind, object, &changed, &err)) {
		leave_out(c, l7mp_json_str(metadata, "namespace", ""),
		          l7mp_json_str(metadata, "name", ""), l7mp_json_str(metadata, "uid", ""),
		          "NotAccepted", l7mp_error_text(&err, text, sizeof(text)));
		return;
	}
	remember_when(op);
	left_out_forget(op, c->kind, l7mp_json_str(metadata, "namespace", ""),
	                l7mp_json_str(metadata, "name", ""));
	if (changed)
		want_render(op);
	else if (op_kinds[c->kind].status)
		want_statuses(op, STATUS_MS); /* only its status or version has changed */
}

static void on_del(void *arg, const char *ns, const char *name)
{
	struct cache *c = arg;

	remember_when(c->op);
	left_out_forget(c->op, c->kind, ns, name);
	if (op_store_delete(c->op->store, c->kind, ns, name))
		want_render(c->op);
}

static void on_too_large(void *arg, const char *ns, const char *name, const char *uid, size_t bytes)
{
	(void)bytes;
	leave_out(arg, ns, name, uid, "TooLarge", conditions_of_large);
}

static void on_synced(void *arg)
{
	struct cache *c = arg;
	struct op_operator *op = c->op;

	op->n_synced++;
	if (!synced(op))
		return;
	l7mp_log_notice("operator", "all objects are known");
	op->since_ms = 0; /* don't measure the time of the initial lists */
	want_render(op);
}

static int add_cache(struct op_operator *op, enum op_kind kind, const char *ns)
{
	static const struct kube_reflector_events events = {
	        .put = on_put, .del = on_del, .too_large = on_too_large, .synced = on_synced};
	const struct op_kind_info *info = &op_kinds[kind];
	struct cache *c = &op->caches[op->n_caches];
	const struct kube_reflector_options options = {
	        .resource = {info->group, info->version, info->plural},
	        .kind = info->kind,
	        .ns = ns,
	        .namespaced = info->namespaced,
	        /* Nothing else is needed of these, and Secrets must not be received. */
	        .metadata_only = kind == OP_SECRET || kind == OP_NAMESPACE,
	        .optional = info->optional,
	        /* Rights on some namespaces don't include cluster-scoped kinds. */
	        .forbidden_ok = !info->namespaced && op->options->n_namespaces,
	};
	int rc;

	*c = (struct cache){.op = op, .kind = kind};
	op->n_caches++;
	rc = kube_reflector_new(op->client, &options, &events, c, &c->reflector);
	return rc;
}

static int add_caches(struct op_operator *op)
{
	const struct op_run_options *o = op->options;
	int rc = 0;

	op->caches = calloc(REFLECTORS_MAX, sizeof(*op->caches));
	if (!op->caches)
		return -ENOMEM;
	for (int k = 0; k < OP_KINDS && !rc; k++) {
		bool secrets = k == OP_SECRET;
		const char *const *ns = secrets ? o->secrets : o->namespaces;
		size_t n = secrets ? o->n_secrets : op_kinds[k].namespaced ? o->n_namespaces : 0;

		if (!n && !secrets)
			rc = add_cache(op, (enum op_kind)k, NULL);
		for (size_t i = 0; i < n && !rc; i++)
			rc = add_cache(op, (enum op_kind)k, ns[i]);
	}
	return rc;
}

/* ---- leader election ---- */

static void lead(struct op_operator *op, bool leads)
{
	op->leads = leads;
	op->metrics.leads = leads;
	if (!leads) {
		l7mp_timer_stop(op->loop, &op->status_timer);
		end_pass(op);
		op_writer_stop(op->writer);
		op_status_forget(op->store);
		for (struct left_out *l = op->left_out; l; l = l->hh.next)
			l->told = false;
	}
	op_peers_lead(op->peers, leads);
	if (leads)
		want_statuses(op, STATUS_MS);
}

static void on_lease(void *arg, bool held)
{
	lead(arg, held);
}

/* ---- pages ---- */

static void print_metrics(struct op_operator *op, struct op_serve_page *page)
{
	struct op_metrics *m = &op->metrics;

	m->now_ms = l7mp_loop_now(op->loop);
	m->synced = synced(op);
	m->store_bytes = op_store_bytes(op->store);
	m->loop_latency_us = l7mp_loop_latency_us(op->loop, true);
	op_metrics_print(&page->body, m, op_peers_stats(op->peers), op_writer_stats(op->writer),
	                 kube_events_stats(op->events), kube_client_stats(op->client));
	op_metrics_reflectors_begin(m);
	for (size_t i = 0; i < op->n_caches; i++)
		op_metrics_reflector(m, op->caches[i].reflector);
	op_metrics_reflectors_print(&page->body, m);
	page->type = "text/plain; version=0.0.4; charset=utf-8";
	if (page->body.oom)
		page->status = 500;
}

static void print_ready(struct op_operator *op, struct op_serve_page *page)
{
	page->status = synced(op) && !op->stopping ? 200 : 503;
	if (op->stopping) {
		l7mp_str_add(&page->body, "stopping\n");
	} else if (synced(op)) {
		l7mp_str_addf(&page->body, "ready: %s\n", op->leads ? "leads" : "stands by");
	} else {
		l7mp_str_add(&page->body, "not ready: waiting for the lists of");
		for (size_t i = 0; i < op->n_caches; i++) {
			const struct kube_reflector *r = op->caches[i].reflector;
			const struct kube_reflector_stats *s = kube_reflector_stats(r);

			if (!s->synced)
				l7mp_str_addf(
				        &page->body, " %s%s%s%s", kube_reflector_options(r)->kind,
				        *s->error ? " (" : "", s->error, *s->error ? ")" : "");
		}
		l7mp_str_add(&page->body, "\n");
	}
}

static void print_proxies(struct op_operator *op, struct op_serve_page *page)
{
	cJSON *o = cJSON_CreateObject();
	char *text;

	l7mp_json_add_str(o, "identity", op->identity);
	cJSON_AddBoolToObject(o, "leads", op->leads);
	l7mp_json_add_num(o, "proxy_count",
	                  op->rendered ? (double)op_result_count(op->rendered->result) : 0);
	cJSON_AddItemToObject(o, "proxies", op_peers_tree(op->peers));
	text = cJSON_PrintUnformatted(o);
	cJSON_Delete(o);
	page->type = "application/json";
	page->status = text ? 200 : 500;
	l7mp_str_add(&page->body, text ? text : "");
	cJSON_free(text);
}

static void on_page(void *arg, const char *path, struct op_serve_page *page)
{
	struct op_operator *op = arg;

	page->status = 200;
	page->type = "text/plain; charset=utf-8";
	if (!strcmp(path, "/metrics"))
		print_metrics(op, page);
	else if (!strcmp(path, "/readyz"))
		print_ready(op, page);
	else if (!strcmp(path, "/proxies"))
		print_proxies(op, page);
	else
		l7mp_str_add(&page->body, "ok\n");
}

/* ---- start and end ---- */

static void close_signals(struct op_operator *op)
{
	while (op->n_signals)
		uv_close((uv_handle_t *)&op->signals[--op->n_signals], NULL);
}

static void released(void *arg)
{
	struct op_operator *op = arg;

	l7mp_loop_stop(op->loop);
}

static void on_signal(uv_signal_t *handle, int signum)
{
	struct op_operator *op = handle->data;

	if (op->stopping) { /* the second signal */
		l7mp_loop_stop(op->loop);
		return;
	}
	l7mp_log_notice("operator", "%s: stopping; the proxies keep what they have",
	                signum == SIGINT ? "SIGINT" : "SIGTERM");
	op->stopping = true;
	if (op->lease) {
		kube_lease_release(op->lease, released, op);
		return;
	}
	lead(op, false);
	l7mp_loop_stop(op->loop);
}

static int watch_signals(struct op_operator *op)
{
	static const int numbers[] = {SIGTERM, SIGINT};

	for (int i = 0; i < 2; i++) {
		int rc = uv_signal_init(l7mp_loop_uv(op->loop), &op->signals[i]);

		if (rc)
			return rc;
		op->n_signals = i + 1;
		op->signals[i].data = op;
		rc = uv_signal_start(&op->signals[i], on_signal, numbers[i]);
		if (rc)
			return rc;
	}
	return 0;
}

static void name_ourselves(struct op_operator *op)
{
	char host[200] = "l7mp-operator";

	if (op->options->identity) {
		snprintf(op->identity, sizeof(op->identity), "%s", op->options->identity);
		return;
	}
	(void)gethostname(host, sizeof(host) - 1);
	snprintf(op->identity, sizeof(op->identity), "%s_%08x%08x", host,
	         kube_random(0, UINT32_MAX - 1), kube_random(0, UINT32_MAX - 1));
}

static int start_lease(struct op_operator *op)
{
	const struct op_run_options *o = op->options;
	const struct kube_lease_options lease = {
	        .ns = o->lease_ns ? o->lease_ns : kube_client_config(op->client)->ns,
	        .name = o->lease,
	        .identity = op->identity,
	};

	if (o->lease)
		return kube_lease_new(op->client, &lease, on_lease, op, &op->lease);
	lead(op, true);
	return 0;
}

static int start(struct op_operator *op, const struct l7mp_registry *registry,
                 struct l7mp_error *err)
{
	static const struct op_peers_events events = {.changed = peers_changed};
	const struct op_run_options *o = op->options;
	struct kube_config *config = NULL;
	int rc = kube_config_find(o->kubeconfig, o->context, o->service_account, &config, err);

	if (rc)
		return rc;
	l7mp_log_notice("operator", "the API server is %s, by %s", config->server, config->what);
	if (config->insecure)
		l7mp_log_warn("operator", "its certificate is not verified");
	if (!o->proxy_ca)
		l7mp_log_notice("operator",
		                "the proxies are reached by plain HTTP (no --proxy-ca)");
	name_ourselves(op);
	rc = kube_client_new(op->loop, config, &op->client);
	if (!rc)
		rc = op_store_new(registry, &o->settings, &op->store);
	if (!rc)
		rc = op_renderer_new(op->loop, op->store, on_rendered, op, &op->renderer);
	if (!rc)
		rc = kube_events_new(op->client, "l7mp-operator", op->identity, &op->events);
	if (!rc)
		rc = op_peers_new(op->client, op->store, o, &events, op, &op->peers);
	if (!rc)
		rc = op_writer_new(op->client, &op->writer);
	if (!rc)
		rc = l7mp_timer_reserve(op->loop, &op->render_timer);
	if (!rc)
		rc = l7mp_timer_reserve(op->loop, &op->status_timer);
	if (!rc)
		rc = add_caches(op);
	if (!rc)
		rc = start_lease(op);
	if (!rc)
		rc = watch_signals(op);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "can't start: %s",
		                      l7mp_errno_text(rc));
	return o->listen ? op_serve_new(op->loop, o->listen, on_page, op, &op->serve, err) : 0;
}

static void stop(struct op_operator *op)
{
	op_serve_free(&op->serve);
	end_pass(op);
	op_renderer_stop(op->renderer);
	kube_lease_free(&op->lease);
	for (size_t i = 0; i < op->n_caches; i++)
		kube_reflector_free(&op->caches[i].reflector);
	free(op->caches);
	op_peers_free(&op->peers);
	op_writer_free(&op->writer);
	kube_events_free(&op->events);
	l7mp_timer_give_back(op->loop, &op->render_timer);
	l7mp_timer_give_back(op->loop, &op->status_timer);
	op_rendered_unref(op->rendered);
	op_renderer_free(&op->renderer);
	op_store_free(&op->store);
	while (op->left_out)
		left_out_free(op, op->left_out);
	kube_client_free(&op->client);
	close_signals(op);
}

int op_run(const struct l7mp_registry *registry, const struct op_run_options *options)
{
	struct op_operator op = {.options = options};
	struct l7mp_error err = {0};
	int rc;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	/* The pool has one work item at a time (renderer.c), so one thread and malloc arena do. */
	(void)setenv("UV_THREADPOOL_SIZE", "1", 1);
	if (l7mp_loop_new(&op.loop)) {
		fprintf(stderr, "l7mp-operator: out of memory\n");
		return 1;
	}
	l7mp_timer_init(&op.render_timer, on_render, &op);
	l7mp_timer_init(&op.status_timer, on_statuses, &op);
	l7mp_slice_init(&op.slice, on_slice, &op);
	rc = start(&op, registry, &err);
	if (rc)
		fprintf(stderr, "l7mp-operator: %s\n", err.message);
	else
		l7mp_loop_run(op.loop);
	stop(&op);
	if (l7mp_loop_free(&op.loop))
		l7mp_log_error("operator", "a module left a handle open");
	return rc ? 1 : 0;
}
