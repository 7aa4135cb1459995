/* SPDX-License-Identifier: MIT */
/*
 * Writes statuses to the API server. op_statuses returns a write each time until a watch shows that
 * it was made; the writer remembers what it has sent, so that each write is sent only once. A
 * status has the resourceVersion of the object that it was computed from: if the object has changed
 * meanwhile (409), the watch reports the change and a new status follows.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "operator.h"

#define IN_FLIGHT_MAX 8
#define BACKOFF_MIN   200
#define BACKOFF_MAX   30000

struct entry {
	UT_hash_handle hh;
	struct entry *prev, *next; /* in the queue */
	struct op_writer *writer;
	char *key; /* "group/version/plural/ns/name what" */
	char *path;
	cJSON *body;     /* to be sent */
	uint64_t digest; /* of body */
	uint64_t sent;   /* digest of the body sent last, if the answer was success or 409 */
	bool wanted, queued, stale;
	struct kube_request *request;
	struct kube_backoff backoff;
	uint64_t not_before_ms; /* loop time */
};

struct op_writer {
	struct kube_client *client;
	struct l7mp_loop *loop;
	void (*again)(void *arg);
	void *arg;
	struct entry *table, *queue;
	struct l7mp_timer timer;
	struct op_writer_stats stats;
	struct l7mp_log_limit log;
};

static void send_next(struct op_writer *w);

static void entry_free(struct entry *e)
{
	struct op_writer *w = e->writer;

	if (e->request)
		w->stats.in_flight--;
	kube_request_cancel(&e->request);
	if (e->queued) {
		DL_DELETE(w->queue, e);
		w->stats.waiting--;
	}
	HASH_DEL(w->table, e);
	free(e->key);
	free(e->path);
	cJSON_Delete(e->body);
	free(e);
}

/* ---- sent writes ---- */

/* Removes transition times, which differ in each computation until the status is written. */
static void forget_times(cJSON *node)
{
	cJSON *child;

	cJSON_DeleteItemFromObjectCaseSensitive(node, "lastTransitionTime");
	cJSON_ArrayForEach (child, node)
		if (cJSON_IsObject(child) || cJSON_IsArray(child))
			forget_times(child);
}

static uint64_t digest_of(const cJSON *body)
{
	cJSON *copy = cJSON_Duplicate(body, true);
	char *text = NULL;
	uint64_t digest = 0;

	if (copy) {
		forget_times(copy);
		text = cJSON_PrintUnformatted(copy);
	}
	if (text)
		digest = l7mp_hash(text, strlen(text)) | 1;
	cJSON_Delete(copy);
	free(text);
	return digest;
}

static void on_timer(struct l7mp_timer *timer, void *arg)
{
	struct op_writer *w = arg;

	(void)timer;
	w->again(w->arg);
}

static void try_again(struct op_writer *w, struct entry *e)
{
	uint64_t ms = kube_backoff_next(&e->backoff);

	e->not_before_ms = l7mp_loop_now(w->loop) + ms;
	if (!l7mp_timer_armed(&w->timer) || w->timer.due > e->not_before_ms)
		(void)l7mp_timer_start(w->loop, &w->timer, ms);
}

static void on_written(void *arg, const struct kube_http_answer *a)
{
	struct entry *e = arg;
	struct op_writer *w = e->writer;
	bool ok = !a->error && a->status >= 200 && a->status <= 299;
	bool gone = !a->error && a->status == 404, late = !a->error && a->status == 409;
	char text[256];
	uint32_t suppressed;

	e->request = NULL;
	w->stats.in_flight--;
	if (ok)
		w->stats.written++;
	else if (late)
		w->stats.conflicts++;
	else
		w->stats.failed++;
	if (ok || late || gone) {
		e->sent = e->digest;
		kube_backoff_reset(&e->backoff);
	} else {
		try_again(w, e);
	}
	if (!ok && !late && !gone &&
	    l7mp_log_allowed(&w->log, l7mp_loop_now(w->loop), 30000, 3, &suppressed))
		l7mp_log_warn("status", "%s: %s", e->path, kube_answer_text(a, text, sizeof(text)));
	if (e->stale)
		w->again(w->arg);
	if (!e->wanted)
		entry_free(e);
	send_next(w);
}

static void send_next(struct op_writer *w)
{
	while (w->queue && w->stats.in_flight < IN_FLIGHT_MAX) {
		struct entry *e = w->queue;
		struct kube_call call = {
		        .method = "PATCH",
		        .path = e->path,
		        .content_type = "application/merge-patch+json",
		        .body = e->body,
		        .timeout_ms = 10000,
		        .done = on_written,
		        .arg = e,
		};

		DL_DELETE(w->queue, e);
		e->queued = false;
		e->stale = false;
		w->stats.waiting--;
		if (kube_request_start(w->client, &call, &e->request))
			try_again(w, e);
		else
			w->stats.in_flight++;
	}
}

/* ---- requested writes ---- */

static struct entry *entry_get(struct op_writer *w, const struct op_write *o)
{
	const struct kube_resource res = {o->group, o->version, o->plural};
	struct l7mp_str path = {0};
	struct entry *e = NULL;
	char *key;

	kube_path(&path, &res, o->ns, o->name, "status");
	key = path.oom ? NULL
	               : l7mp_asprintf("%s %d%s", path.s, o->write,
	                               /* each child of an owner is a separate write */
	                               o->write == OP_WRITE_OWNER ? o->uid : "");
	if (key)
		HASH_FIND_STR(w->table, key, e);
	if (e || !key) {
		free(key);
		l7mp_str_free(&path);
		return e;
	}
	e = calloc(1, sizeof(*e));
	if (!e) {
		free(key);
		l7mp_str_free(&path);
		return NULL;
	}
	e->writer = w;
	e->key = key;
	e->path = l7mp_str_take(&path);
	e->backoff = (struct kube_backoff){.min_ms = BACKOFF_MIN, .max_ms = BACKOFF_MAX};
	HASH_ADD_KEYPTR(hh, w->table, e->key, strlen(e->key), e);
	if (e->path && e->hh.tbl)
		return e;
	free(e->key);
	free(e->path);
	free(e);
	return NULL;
}

static void submit(struct op_writer *w, const struct op_write *o)
{
	struct entry *e = entry_get(w, o);
	uint64_t digest = digest_of(o->body);
	cJSON *body;

	if (!e)
		return;
	e->wanted = true;
	if (e->request) { /* send again after the answer */
		e->stale = e->stale || digest != e->digest;
		return;
	}
	if (digest == e->sent || l7mp_loop_now(w->loop) < e->not_before_ms)
		return;
	body = cJSON_Duplicate(o->body, true);
	if (!body)
		return;
	cJSON_Delete(e->body);
	e->body = body;
	e->digest = digest;
	if (!e->queued) {
		e->queued = true;
		DL_APPEND(w->queue, e);
		w->stats.waiting++;
	}
}

/* op_statuses also repeats events: emit only those that are new or have changed. */
static void emit(struct op_writer *w, const struct op_write *o, struct kube_events *events)
{
	struct entry *e = entry_get(w, o);
	uint64_t digest = digest_of(o->body);
	char version[300];
	const struct kube_event event = {
	        .api_version = version,
	        .kind = o->kind,
	        .ns = o->ns,
	        .name = o->name,
	        .uid = o->uid,
	        .type = l7mp_json_str(o->body, "type", "Warning"),
	        .reason = l7mp_json_str(o->body, "reason", ""),
	        .note = l7mp_json_str(o->body, "note", ""),
	};

	if (!e)
		return;
	e->wanted = true;
	if (e->sent == digest)
		return;
	e->sent = digest;
	snprintf(version, sizeof(version), "%s%s%s", o->group, *o->group ? "/" : "", o->version);
	kube_events_emit(events, &event);
}

void op_writer_submit(struct op_writer *w, const struct op_writes *writes,
                      struct kube_events *events)
{
	struct entry *e, *tmp;

	for (e = w->table; e; e = e->hh.next)
		e->wanted = false;
	for (size_t i = 0; i < writes->n; i++) {
		if (writes->w[i].write == OP_WRITE_EVENT)
			emit(w, &writes->w[i], events);
		else
			submit(w, &writes->w[i]);
	}
	HASH_ITER (hh, w->table, e, tmp) {
		/* Don't abort a request in progress: it might or might not have taken effect. */
		if (!e->wanted && !e->request)
			entry_free(e);
	}
	send_next(w);
}

void op_writer_stop(struct op_writer *w)
{
	while (w->table)
		entry_free(w->table);
	l7mp_timer_stop(w->loop, &w->timer);
}

int op_writer_new(struct kube_client *client, void (*again)(void *arg), void *arg,
                  struct op_writer **out)
{
	struct op_writer *w = calloc(1, sizeof(*w));

	*out = NULL;
	if (!w)
		return -ENOMEM;
	w->client = client;
	w->loop = kube_client_loop(client);
	w->again = again;
	w->arg = arg;
	l7mp_timer_init(&w->timer, on_timer, w);
	if (l7mp_timer_reserve(w->loop, &w->timer)) {
		free(w);
		return -ENOMEM;
	}
	*out = w;
	return 0;
}

void op_writer_free(struct op_writer **pp)
{
	struct op_writer *w = *pp;

	if (!w)
		return;
	*pp = NULL;
	op_writer_stop(w);
	l7mp_timer_give_back(w->loop, &w->timer);
	free(w);
}

const struct op_writer_stats *op_writer_stats(const struct op_writer *w)
{
	return &w->stats;
}
