/* SPDX-License-Identifier: MIT */
/*
 * Events (events.k8s.io/v1). They are only created, never patched, so one permission less is
 * needed: repetitions of an event are counted, and after ten minutes it is written once more, with
 * the count.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kube_int.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"

#define QUIET_MS     600000
#define MEMORY_MAX   1000 /* maximum number of remembered events */
#define QUEUE_MAX    100
#define BURST        25
#define REFILL_MS    1000      /* one more event */
#define ACTION       "Program" /* the `action` of all events */
#define INSTANCE_MAX 128       /* the API's limits */
#define NOTE_MAX     1024

static const struct kube_resource resource = {"events.k8s.io", "v1", "events"};

/* An event that was written, or repeated since. */
struct memory {
	UT_hash_handle hh;
	struct memory *prev, *next; /* in the order of the first occurrence */
	uint64_t key;
	uint64_t since_ms;
	unsigned count; /* repetitions since it was written */
	char *ns;
	cJSON *body;
};

struct queued {
	struct queued *prev, *next;
	char *ns;
	cJSON *body;
};

struct kube_events {
	struct kube_client *client;
	struct l7mp_loop *loop;
	char *component, *instance;
	struct memory *table, *order;
	struct queued *queue;
	size_t n_queued;
	unsigned tokens;
	uint64_t refilled_ms, names;
	struct kube_request *request;
	struct l7mp_timer timer;
	struct l7mp_task task; /* sends asynchronously, because events are also emitted in callbacks
	                        * of requests */
	struct kube_events_stats stats;
	struct l7mp_log_limit log;
};

static void send_next(struct kube_events *ev);

static void memory_free(struct kube_events *ev, struct memory *m)
{
	HASH_DEL(ev->table, m);
	DL_DELETE(ev->order, m);
	free(m->ns);
	cJSON_Delete(m->body);
	free(m);
}

static void queued_free(struct kube_events *ev, struct queued *q)
{
	DL_DELETE(ev->queue, q);
	ev->n_queued--;
	free(q->ns);
	cJSON_Delete(q->body);
	free(q);
}

/* ---- bodies ---- */

static cJSON *regarding(const struct kube_event *e)
{
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "apiVersion", e->api_version) ||
	         l7mp_json_add_str(o, "kind", e->kind) || l7mp_json_add_str(o, "name", e->name);

	if (e->ns && *e->ns)
		rc = rc || l7mp_json_add_str(o, "namespace", e->ns);
	if (e->uid && *e->uid)
		rc = rc || l7mp_json_add_str(o, "uid", e->uid);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

/* All fields except name, time and series. */
static cJSON *make_body(const struct kube_events *ev, const struct kube_event *e)
{
	cJSON *body = cJSON_CreateObject();
	char note[NOTE_MAX + 1];
	size_t n = strlen(e->note);

	if (n > NOTE_MAX) /* truncate between characters */
		for (n = NOTE_MAX; n && ((unsigned char)e->note[n] & 0xc0) == 0x80; n--)
			;
	memcpy(note, e->note, n);
	note[n] = '\0';
	if (!l7mp_json_add_str(body, "apiVersion", "events.k8s.io/v1") &&
	    !l7mp_json_add_str(body, "kind", "Event") &&
	    !l7mp_json_add(body, "regarding", regarding(e)) &&
	    !l7mp_json_add_str(body, "type", e->type) &&
	    !l7mp_json_add_str(body, "reason", e->reason) &&
	    !l7mp_json_add_str(body, "action", ACTION) && !l7mp_json_add_str(body, "note", note) &&
	    !l7mp_json_add_str(body, "reportingController", ev->component) &&
	    !l7mp_json_add_str(body, "reportingInstance", ev->instance))
		return body;
	cJSON_Delete(body);
	return NULL;
}

static int add_name(struct kube_events *ev, cJSON *body, const char *ns)
{
	const char *object = l7mp_json_str(l7mp_json_member(body, "regarding"), "name", "");
	cJSON *metadata = cJSON_CreateObject();
	char name[280];
	int rc;

	snprintf(name, sizeof(name), "%.230s.%llx%llx", object,
	         (unsigned long long)l7mp_wallclock_ms(), (unsigned long long)ev->names++);
	rc = l7mp_json_add_str(metadata, "name", name) ||
	     l7mp_json_add_str(metadata, "namespace", ns);
	return l7mp_json_add(body, "metadata", metadata) || rc;
}

/* `count`: occurrences since it was last written. */
static int add_times(cJSON *body, unsigned count)
{
	cJSON *series;
	char now[KUBE_TIME_LEN];

	kube_time(now);
	if (l7mp_json_add_str(body, "eventTime", now))
		return -ENOMEM;
	if (count < 2) /* a series has at least two */
		return 0;
	series = cJSON_CreateObject();
	if (l7mp_json_add_num(series, "count", count) ||
	    l7mp_json_add_str(series, "lastObservedTime", now)) {
		cJSON_Delete(series);
		return -ENOMEM;
	}
	return l7mp_json_add(body, "series", series);
}

/* ---- sending ---- */

static void refill(struct kube_events *ev)
{
	uint64_t now = l7mp_loop_now(ev->loop), n = (now - ev->refilled_ms) / REFILL_MS;

	ev->refilled_ms += n * REFILL_MS;
	ev->tokens = n > BURST - ev->tokens ? BURST : ev->tokens + (unsigned)n;
}

static void on_created(void *arg, const struct kube_http_answer *a)
{
	struct kube_events *ev = arg;
	char text[200];
	uint32_t suppressed;

	ev->request = NULL;
	if (!a->error && a->status >= 200 && a->status <= 299) {
		ev->stats.created++;
	} else {
		ev->stats.failed++;
		if (l7mp_log_allowed(&ev->log, l7mp_loop_now(ev->loop), 60000, 1, &suppressed))
			l7mp_log_warn("kube", "an event was not written: %s",
			              kube_answer_text(a, text, sizeof(text)));
	}
	send_next(ev);
}

static void send_next(struct kube_events *ev)
{
	struct queued *q = ev->queue;
	struct l7mp_str path = {0};
	struct kube_call call = {.method = "POST", .done = on_created, .arg = ev};
	int rc = -ENOMEM;

	if (ev->request || !q)
		return;
	refill(ev);
	if (!ev->tokens) {
		(void)l7mp_timer_start(ev->loop, &ev->timer, REFILL_MS);
		return;
	}
	ev->tokens--;
	kube_path(&path, &resource, q->ns, NULL, NULL);
	call.path = path.s;
	call.body = q->body;
	if (!path.oom)
		rc = kube_request_start(ev->client, &call, &ev->request);
	l7mp_str_free(&path);
	ev->stats.failed += rc != 0;
	queued_free(ev, q);
}

/* Takes body. */
static void queue(struct kube_events *ev, const char *ns, cJSON *body)
{
	struct queued *q = ev->n_queued < QUEUE_MAX ? calloc(1, sizeof(*q)) : NULL;

	if (q)
		q->ns = strdup(ns);
	if (!q || !q->ns || !body) {
		free(q);
		cJSON_Delete(body);
		ev->stats.dropped++;
		return;
	}
	q->body = body;
	DL_APPEND(ev->queue, q);
	ev->n_queued++;
	l7mp_task_post(ev->loop, &ev->task);
}

/* Writes the repetitions, and removes the event from memory. */
static void end_memory(struct kube_events *ev, struct memory *m)
{
	cJSON *body = m->body;

	if (m->count && body) {
		m->body = NULL;
		if (add_name(ev, body, m->ns) || add_times(body, m->count)) {
			cJSON_Delete(body);
			body = NULL;
		}
		queue(ev, m->ns, body);
	}
	memory_free(ev, m);
}

static void on_task(struct l7mp_task *task, void *arg)
{
	(void)task;
	send_next(arg);
}

static void on_timer(struct l7mp_timer *timer, void *arg)
{
	struct kube_events *ev = arg;
	uint64_t now = l7mp_loop_now(ev->loop);

	while (ev->order && now - ev->order->since_ms >= QUIET_MS)
		end_memory(ev, ev->order);
	send_next(ev);
	if (ev->order && !l7mp_timer_armed(timer))
		(void)l7mp_timer_start(ev->loop, timer, QUIET_MS / 10);
}

/* ---- emitting ---- */

static uint64_t key_of(const struct kube_event *e)
{
	const char *const parts[] = {e->kind, e->ns, e->name, e->uid, e->reason, e->note};
	struct l7mp_str s = {0};
	uint64_t key;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(parts); i++) {
		l7mp_str_add(&s, parts[i] ? parts[i] : "");
		l7mp_str_addn(&s, "", 1);
	}
	key = l7mp_hash(s.s ? s.s : "", s.len);
	l7mp_str_free(&s);
	return key;
}

static void remember(struct kube_events *ev, uint64_t key, const char *ns, const cJSON *body)
{
	struct memory *m = calloc(1, sizeof(*m));

	if (!m)
		return;
	if (HASH_COUNT(ev->table) >= MEMORY_MAX)
		end_memory(ev, ev->order);
	m->key = key;
	m->ns = strdup(ns);
	m->body = cJSON_Duplicate(body, true);
	m->since_ms = l7mp_loop_now(ev->loop);
	if (m->ns && m->body)
		HASH_ADD(hh, ev->table, key, sizeof(m->key), m);
	if (!m->ns || !m->body || !m->hh.tbl) {
		free(m->ns);
		cJSON_Delete(m->body);
		free(m);
		return;
	}
	DL_APPEND(ev->order, m);
	if (!l7mp_timer_armed(&ev->timer))
		(void)l7mp_timer_start(ev->loop, &ev->timer, QUIET_MS / 10);
}

void kube_events_emit(struct kube_events *ev, const struct kube_event *e)
{
	/* Those of objects without namespace are kept in this one, as kubectl expects. */
	const char *ns = e->ns && *e->ns ? e->ns : "default";
	uint64_t key = key_of(e);
	struct memory *m;
	cJSON *body;

	HASH_FIND(hh, ev->table, &key, sizeof(key), m);
	if (m && l7mp_loop_now(ev->loop) - m->since_ms < QUIET_MS) {
		m->count++;
		ev->stats.repeated++;
		return;
	}
	if (m)
		end_memory(ev, m);
	body = make_body(ev, e);
	if (body)
		remember(ev, key, ns, body);
	if (body && (add_name(ev, body, ns) || add_times(body, 1))) {
		cJSON_Delete(body);
		body = NULL;
	}
	queue(ev, ns, body);
}

/* ---- the object ---- */

int kube_events_new(struct kube_client *client, const char *component, const char *instance,
                    struct kube_events **out)
{
	struct kube_events *ev = calloc(1, sizeof(*ev));

	*out = NULL;
	if (!ev)
		return -ENOMEM;
	ev->client = client;
	ev->loop = kube_client_loop(client);
	ev->component = strdup(component);
	ev->instance = l7mp_asprintf("%.*s", INSTANCE_MAX, instance);
	ev->tokens = BURST;
	ev->refilled_ms = l7mp_loop_now(ev->loop);
	l7mp_timer_init(&ev->timer, on_timer, ev);
	l7mp_task_init(&ev->task, on_task, ev);
	if (!ev->component || !ev->instance || l7mp_timer_reserve(ev->loop, &ev->timer)) {
		kube_events_free(&ev);
		return -ENOMEM;
	}
	*out = ev;
	return 0;
}

void kube_events_free(struct kube_events **pp)
{
	struct kube_events *ev = *pp;

	if (!ev)
		return;
	*pp = NULL;
	kube_request_cancel(&ev->request);
	l7mp_timer_give_back(ev->loop, &ev->timer);
	l7mp_task_cancel(ev->loop, &ev->task);
	while (ev->order)
		memory_free(ev, ev->order);
	while (ev->queue)
		queued_free(ev, ev->queue);
	free(ev->component);
	free(ev->instance);
	free(ev);
}

const struct kube_events_stats *kube_events_stats(const struct kube_events *ev)
{
	return &ev->stats;
}
