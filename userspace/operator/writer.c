/* SPDX-License-Identifier: MIT */
/*
 * Writes statuses to the API server. The writer keeps, of each object, what is to be written and
 * what it has sent, so that each write is sent only once. A status has the resourceVersion of the
 * object that it was computed from: if the object has changed meanwhile (409), the watch reports
 * the change and a new status follows.
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

/* A write. */
struct entry {
	struct entry *prev, *next;               /* in the queue */
	struct entry *prev_sister, *next_sister; /* those of the object */
	struct item *item;
	enum op_write_kind write;
	char *path;
	char *uid;
	cJSON *body;      /* what is to be written; NULL: of an event */
	uint64_t digest;  /* of body */
	uint64_t sending; /* digest of the body that the request has */
	uint64_t sent;    /* digest of the body sent last, if the answer was success or 409 */
	bool wanted, queued;
	struct kube_request *request;
	struct kube_backoff backoff;
	uint64_t not_before_ms;  /* loop time */
	struct l7mp_timer timer; /* the end of the back-off */
};

/* An object, which may have been left out, with all its writes. */
struct item {
	UT_hash_handle hh;
	struct item *prev, *next; /* by the pass that has seen it last */
	struct op_writer *writer;
	char *key; /* "kind ns/name" */
	uint64_t pass;
	struct entry *entries;
};

struct op_writer {
	struct kube_client *client;
	struct l7mp_loop *loop;
	struct item *table, *order;
	struct entry *queue;
	uint64_t pass;
	struct op_writer_stats stats;
	struct l7mp_log_limit log;
};

static void send_next(struct op_writer *w);

static void dequeue(struct entry *e)
{
	struct op_writer *w = e->item->writer;

	if (!e->queued)
		return;
	DL_DELETE(w->queue, e);
	e->queued = false;
	w->stats.waiting--;
}

static void enqueue(struct entry *e)
{
	struct op_writer *w = e->item->writer;

	if (e->queued)
		return;
	e->queued = true;
	DL_APPEND(w->queue, e);
	w->stats.waiting++;
}

static void item_free(struct item *t)
{
	struct op_writer *w = t->writer;

	HASH_DEL(w->table, t);
	DL_DELETE(w->order, t);
	free(t->key);
	free(t);
}

static void entry_free(struct entry *e)
{
	struct op_writer *w = e->item->writer;

	if (e->request)
		w->stats.in_flight--;
	kube_request_cancel(&e->request);
	dequeue(e);
	l7mp_timer_give_back(w->loop, &e->timer);
	DL_DELETE2(e->item->entries, e, prev_sister, next_sister);
	free(e->path);
	free(e->uid);
	cJSON_Delete(e->body);
	free(e);
}

/* Drops the writes that aren't wanted, and the item when there are none left. */
static void item_tidy(struct item *t)
{
	struct entry *e, *tmp;

	/* Don't abort a request in progress: it might or might not have taken effect. */
	DL_FOREACH_SAFE2(t->entries, e, tmp, next_sister)
	if (!e->wanted && !e->request)
		entry_free(e);
	if (!t->entries)
		item_free(t);
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

/* Sends what is to be written, unless that is what was sent last, or it is to wait. */
static void consider(struct entry *e)
{
	if (!e->wanted || !e->body || e->digest == e->sent)
		dequeue(e);
	else if (!e->request && l7mp_loop_now(e->item->writer->loop) >= e->not_before_ms)
		enqueue(e);
}

static void on_timer(struct l7mp_timer *timer, void *arg)
{
	struct entry *e = arg;
	struct op_writer *w = e->item->writer;

	(void)timer;
	consider(e);
	send_next(w);
}

static void try_again(struct op_writer *w, struct entry *e)
{
	uint64_t ms = kube_backoff_next(&e->backoff);

	e->not_before_ms = l7mp_loop_now(w->loop) + ms;
	(void)l7mp_timer_start(w->loop, &e->timer, ms); /* reserved */
}

static void on_written(void *arg, const struct kube_http_answer *a)
{
	struct entry *e = arg;
	struct item *t = e->item;
	struct op_writer *w = t->writer;
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
		e->sent = e->sending;
		kube_backoff_reset(&e->backoff);
		consider(e);
	} else {
		try_again(w, e);
	}
	if (!ok && !late && !gone &&
	    l7mp_log_allowed(&w->log, l7mp_loop_now(w->loop), 30000, 3, &suppressed))
		l7mp_log_warn("status", "%s: %s", e->path, kube_answer_text(a, text, sizeof(text)));
	item_tidy(t);
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

		dequeue(e);
		e->sending = e->digest;
		if (kube_request_start(w->client, &call, &e->request))
			try_again(w, e);
		else
			w->stats.in_flight++;
	}
}

/* ---- requested writes ---- */

static struct item *item_find(const struct op_writer *w, const char *key)
{
	struct item *t;

	HASH_FIND_STR(w->table, key, t);
	return t;
}

/* The pass has seen it. */
static void item_seen(struct item *t)
{
	struct op_writer *w = t->writer;

	t->pass = w->pass;
	DL_DELETE(w->order, t);
	DL_APPEND(w->order, t);
}

static struct item *item_new(struct op_writer *w, const char *key)
{
	struct item *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->writer = w;
	t->key = strdup(key);
	if (t->key)
		HASH_ADD_KEYPTR(hh, w->table, t->key, strlen(t->key), t);
	if (!t->key || !t->hh.tbl) {
		free(t->key);
		free(t);
		return NULL;
	}
	DL_APPEND(w->order, t);
	t->pass = w->pass;
	return t;
}

static struct entry *entry_new(struct item *t, const struct op_write *o, struct l7mp_str *path)
{
	struct entry *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->item = t;
	e->write = o->write;
	e->path = l7mp_str_take(path);
	e->uid = strdup(o->uid);
	e->backoff = (struct kube_backoff){.min_ms = BACKOFF_MIN, .max_ms = BACKOFF_MAX};
	l7mp_timer_init(&e->timer, on_timer, e);
	if (!e->path || !e->uid || l7mp_timer_reserve(t->writer->loop, &e->timer)) {
		free(e->path);
		free(e->uid);
		free(e);
		return NULL;
	}
	DL_APPEND2(t->entries, e, prev_sister, next_sister);
	return e;
}

/* Finds or makes the entry of a write. NULL: out of memory. */
static struct entry *entry_get(struct item *t, const struct op_write *o)
{
	const struct kube_resource res = {o->group, o->version, o->plural};
	struct l7mp_str path = {0};
	struct entry *e;

	kube_path(&path, &res, o->ns, o->name, "status");
	if (path.oom) {
		l7mp_str_free(&path);
		return NULL;
	}
	/* An object of the same name may be another one by now. */
	DL_FOREACH2(t->entries, e, next_sister)
	if (e->write == o->write && !strcmp(e->path, path.s) && !strcmp(e->uid, o->uid))
		break;
	if (!e)
		e = entry_new(t, o, &path);
	l7mp_str_free(&path);
	return e;
}

/* op_status_of also repeats events: emit only those that are new or have changed. */
static void emit(struct entry *e, const struct op_write *o, uint64_t digest,
                 struct kube_events *events)
{
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

	if (e->sent == digest)
		return;
	e->sent = digest;
	snprintf(version, sizeof(version), "%s%s%s", o->group, *o->group ? "/" : "", o->version);
	kube_events_emit(events, &event);
}

static int submit(struct item *t, struct op_write *o, struct kube_events *events)
{
	struct entry *e = entry_get(t, o);
	uint64_t digest = digest_of(o->body);

	if (!e || !digest)
		return -ENOMEM;
	e->wanted = true;
	if (o->write == OP_WRITE_EVENT) {
		emit(e, o, digest, events);
		return 0;
	}
	cJSON_Delete(e->body);
	e->body = o->body;
	o->body = NULL;
	e->digest = digest;
	consider(e);
	return 0;
}

#define KEY_MAX 400

static void make_key(char key[KEY_MAX], const struct op_object *o)
{
	snprintf(key, KEY_MAX, "%d %s/%s", o->kind, o->ns, o->name);
}

void op_writer_begin(struct op_writer *w)
{
	w->pass++;
}

void op_writer_keep(struct op_writer *w, const struct op_object *o)
{
	char key[KEY_MAX];
	struct item *t;

	make_key(key, o);
	t = item_find(w, key);
	if (t)
		item_seen(t);
}

int op_writer_set(struct op_writer *w, const struct op_object *o, struct op_writes *writes,
                  struct kube_events *events)
{
	char key[KEY_MAX];
	struct item *t;
	struct entry *e;
	int rc = 0;

	make_key(key, o);
	t = item_find(w, key);
	if (!t && !writes->n)
		return 0;
	if (t)
		item_seen(t);
	else
		t = item_new(w, key);
	if (!t)
		return -ENOMEM;
	DL_FOREACH2(t->entries, e, next_sister)
	e->wanted = false;
	for (size_t i = 0; i < writes->n && !rc; i++)
		rc = submit(t, &writes->w[i], events);
	DL_FOREACH2(t->entries, e, next_sister)
	consider(e);
	item_tidy(t);
	send_next(w);
	return rc;
}

bool op_writer_end(struct op_writer *w)
{
	struct item *t = w->order;
	struct entry *e;

	if (!t || t->pass == w->pass)
		return true;
	DL_FOREACH2(t->entries, e, next_sister)
	{
		e->wanted = false;
		consider(e);
	}
	item_seen(t); /* a request in progress may keep it */
	item_tidy(t);
	return false;
}

void op_writer_stop(struct op_writer *w)
{
	while (w->table) {
		struct item *t = w->table;

		while (t->entries)
			entry_free(t->entries);
		item_free(t);
	}
}

int op_writer_new(struct kube_client *client, struct op_writer **out)
{
	struct op_writer *w = calloc(1, sizeof(*w));

	*out = w;
	if (!w)
		return -ENOMEM;
	w->client = client;
	w->loop = kube_client_loop(client);
	return 0;
}

void op_writer_free(struct op_writer **pp)
{
	struct op_writer *w = *pp;

	if (!w)
		return;
	*pp = NULL;
	op_writer_stop(w);
	free(w);
}

const struct op_writer_stats *op_writer_stats(const struct op_writer *w)
{
	return &w->stats;
}
