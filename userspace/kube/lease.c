/* SPDX-License-Identifier: MIT */
/*
 * Leader election by a Lease. Whether another instance's lease has expired is determined by the
 * local clock, from the last observed change, so that the machines' clocks need not agree. A holder
 * that could not renew stops before another instance may take over (renew_s < duration_s).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kube_int.h"
#include "l7mp/log.h"

#define RELEASE_MS 2000

static const struct kube_resource leases = {"coordination.k8s.io", "v1", "leases"};

enum step { IDLE, GET, WRITE, RELEASE };

struct kube_lease {
	struct kube_client *client;
	struct l7mp_loop *loop;
	char *ns, *name, *identity, *holder;
	uint32_t duration_ms, renew_ms, retry_ms;
	void (*changed)(void *arg, bool held);
	void *arg;
	void (*released)(void *arg);
	void *released_arg;
	enum step step;
	struct kube_request *request;
	struct l7mp_timer retry, deadline;
	bool held;
	bool releasing;   /* to be released once the request in progress has ended */
	uint64_t sent_ms; /* of the write in progress */
	cJSON *record;    /* the Lease as last read or written; NULL: unknown */
	char *seen;       /* its spec as text, to detect changes */
	uint64_t seen_ms; /* local time of its last change */
	struct l7mp_log_limit log;
};

static void attempt(struct kube_lease *l);

static void set_held(struct kube_lease *l, bool held)
{
	if (l->held == held)
		return;
	l->held = held;
	l7mp_log_notice("lease", "%s/%s: %s", l->ns, l->name,
	                held ? "this instance leads" : "this instance no longer leads");
	l->changed(l->arg, held);
}

static void again(struct kube_lease *l)
{
	l->step = IDLE;
	/* Adds jitter, so that instances do not retry simultaneously. */
	(void)l7mp_timer_start(l->loop, &l->retry, l->retry_ms + kube_random(0, l->retry_ms / 5));
}

static void on_retry(struct l7mp_timer *timer, void *arg)
{
	(void)timer;
	attempt(arg);
}

static void on_deadline(struct l7mp_timer *timer, void *arg)
{
	struct kube_lease *l = arg;

	(void)timer;
	l7mp_log_warn("lease", "%s/%s: not renewed for %u s", l->ns, l->name, l->renew_ms / 1000);
	set_held(l, false);
}

static void complain(struct kube_lease *l, const char *what, const struct kube_http_answer *a)
{
	char text[256];
	uint32_t suppressed;

	if (l7mp_log_allowed(&l->log, l7mp_loop_now(l->loop), 30000, 3, &suppressed))
		l7mp_log_warn("lease", "%s %s/%s: %s", what, l->ns, l->name,
		              kube_answer_text(a, text, sizeof(text)));
}

/* Processes a Lease that was read or written. */
static void observe(struct kube_lease *l, cJSON *record)
{
	const cJSON *spec = l7mp_json_member(record, "spec");
	char *seen = spec ? cJSON_PrintUnformatted(spec) : NULL;
	char *holder = strdup(l7mp_json_str(spec, "holderIdentity", ""));

	cJSON_Delete(l->record);
	l->record = record;
	if (holder) {
		free(l->holder);
		l->holder = holder;
	}
	if (!seen || !l->seen || strcmp(seen, l->seen) != 0)
		l->seen_ms = l7mp_loop_now(l->loop);
	free(l->seen);
	l->seen = seen;
}

/* ---- writing ---- */

static int set_time(cJSON *spec, const char *key)
{
	char now[KUBE_TIME_LEN];

	cJSON_DeleteItemFromObjectCaseSensitive(spec, key);
	return l7mp_json_add_str(spec, key, kube_time(now));
}

static int set_num(cJSON *spec, const char *key, double value)
{
	cJSON_DeleteItemFromObjectCaseSensitive(spec, key);
	return l7mp_json_add_num(spec, key, value);
}

static int set_text(cJSON *spec, const char *key, const char *value)
{
	cJSON_DeleteItemFromObjectCaseSensitive(spec, key);
	return l7mp_json_add_str(spec, key, value);
}

/* Builds the new Lease; `holder` "": released. */
static cJSON *wanted(struct kube_lease *l, const char *holder)
{
	cJSON *lease = l->record ? cJSON_Duplicate(l->record, true) : cJSON_CreateObject();
	cJSON *spec = l7mp_json_member(lease, "spec");
	double transitions = l7mp_json_num(spec, "leaseTransitions", 0);
	bool renews = !strcmp(l->holder, l->identity);
	int rc = 0;

	if (!l->record) {
		cJSON *metadata = cJSON_CreateObject();

		rc = l7mp_json_add_str(metadata, "name", l->name) ||
		     l7mp_json_add_str(metadata, "namespace", l->ns);
		rc = l7mp_json_add(lease, "metadata", metadata) || rc ||
		     l7mp_json_add_str(lease, "apiVersion", "coordination.k8s.io/v1") ||
		     l7mp_json_add_str(lease, "kind", "Lease");
	}
	if (!cJSON_IsObject(spec)) {
		cJSON_DeleteItemFromObjectCaseSensitive(lease, "spec");
		spec = cJSON_CreateObject();
		rc = l7mp_json_add(lease, "spec", spec) || rc;
	}
	if (!rc && !renews)
		rc = set_time(spec, "acquireTime") ||
		     set_num(spec, "leaseTransitions", transitions + (l->record != NULL));
	if (!rc)
		rc = set_text(spec, "holderIdentity", holder) || set_time(spec, "renewTime") ||
		     set_num(spec, "leaseDurationSeconds", *holder ? l->duration_ms / 1000 : 1);
	if (!rc)
		return lease;
	cJSON_Delete(lease);
	return NULL;
}

static void finish_release(struct kube_lease *l)
{
	void (*done)(void *arg) = l->released;

	l7mp_timer_stop(l->loop, &l->retry);
	kube_request_cancel(&l->request);
	l->released = NULL;
	if (done)
		done(l->released_arg);
}

static int write_lease(struct kube_lease *l, const char *holder);

/* Writes that there is no holder, if this instance still holds it. */
static void give_back(struct kube_lease *l)
{
	l->step = RELEASE;
	if (!l->record || strcmp(l->holder, l->identity) != 0 || write_lease(l, ""))
		(void)l7mp_timer_start(l->loop, &l->retry, 0); /* done */
}

static void on_given_back(struct kube_lease *l, const struct kube_http_answer *a)
{
	if (!a->error && a->status == 409) {
		attempt(l); /* it has changed: read it again */
		return;
	}
	if (a->error || a->status < 200 || a->status > 299)
		complain(l, "can't give back", a);
	finish_release(l);
}

static void on_written(void *arg, const struct kube_http_answer *a)
{
	struct kube_lease *l = arg;
	cJSON *record;
	uint64_t now = l7mp_loop_now(l->loop);

	l->request = NULL;
	if (l->step == RELEASE) {
		on_given_back(l, a);
		return;
	}
	record = kube_answer_json(a);
	if (record)
		observe(l, record);
	if (l->releasing) {
		give_back(l);
		return;
	}
	if (!record) {
		/* 409: another instance was faster, or the Lease has changed. */
		if (a->error || a->status != 409)
			complain(l, "can't write", a);
		again(l);
		return;
	}
	/* Counted from the time of sending: until then it is certainly held. */
	if (now - l->sent_ms < l->renew_ms) {
		(void)l7mp_timer_start(l->loop, &l->deadline, l->renew_ms - (now - l->sent_ms));
		set_held(l, true);
	}
	again(l);
}

static int write_lease(struct kube_lease *l, const char *holder)
{
	cJSON *lease = wanted(l, holder);
	struct l7mp_str path = {0};
	struct kube_call call = {
	        .method = l->record ? "PUT" : "POST",
	        .body = lease,
	        .timeout_ms = l->renew_ms / 2,
	        .done = on_written,
	        .arg = l,
	};
	int rc = -ENOMEM;

	kube_path(&path, &leases, l->ns, l->record ? l->name : NULL, NULL);
	call.path = path.s;
	l->sent_ms = l7mp_loop_now(l->loop);
	if (lease && !path.oom)
		rc = kube_request_start(l->client, &call, &l->request);
	cJSON_Delete(lease);
	l7mp_str_free(&path);
	return rc;
}

/* ---- reading ---- */

static bool may_take(const struct kube_lease *l)
{
	const cJSON *spec = l7mp_json_member(l->record, "spec");
	double seconds = l7mp_json_num(spec, "leaseDurationSeconds", 0);

	if (!l->record || !*l->holder || !strcmp(l->holder, l->identity))
		return true;
	if (!(seconds > 0 && seconds <= 3600))
		seconds = (double)l->duration_ms / 1000;
	return l7mp_loop_now(l->loop) - l->seen_ms >= (uint64_t)(seconds * 1000);
}

static void on_read(void *arg, const struct kube_http_answer *a)
{
	struct kube_lease *l = arg;
	cJSON *record = kube_answer_json(a);

	l->request = NULL;
	if (record)
		observe(l, record);
	if (l->releasing) {
		give_back(l);
		return;
	}
	if (!record && !a->error && a->status == 404) {
		cJSON_Delete(l->record);
		l->record = NULL;
		l->holder[0] = '\0';
	} else if (!record) {
		complain(l, "can't read", a);
		again(l);
		return;
	}
	/* Another instance holds it, so it is lost regardless of the deadline. */
	if (record && *l->holder && strcmp(l->holder, l->identity) != 0) {
		l7mp_timer_stop(l->loop, &l->deadline);
		set_held(l, false);
	}
	l->step = WRITE;
	if (!may_take(l) || write_lease(l, l->identity))
		again(l);
}

static void attempt(struct kube_lease *l)
{
	struct l7mp_str path = {0};
	struct kube_call call = {
	        .method = "GET", .timeout_ms = l->renew_ms / 2, .done = on_read, .arg = l};
	int rc = -ENOMEM;

	l->step = GET;
	kube_path(&path, &leases, l->ns, l->name, NULL);
	call.path = path.s;
	if (!path.oom)
		rc = kube_request_start(l->client, &call, &l->request);
	l7mp_str_free(&path);
	if (rc)
		again(l);
}

/* ---- the object ---- */

int kube_lease_new(struct kube_client *client, const struct kube_lease_options *o,
                   void (*changed)(void *arg, bool held), void *arg, struct kube_lease **out)
{
	struct kube_lease *l = calloc(1, sizeof(*l));

	*out = NULL;
	if (!l)
		return -ENOMEM;
	l->client = client;
	l->loop = kube_client_loop(client);
	l->ns = strdup(o->ns);
	l->name = strdup(o->name);
	l->identity = strdup(o->identity);
	l->holder = strdup("");
	l->duration_ms = (o->duration_s ? o->duration_s : 15) * 1000;
	l->renew_ms = (o->renew_s ? o->renew_s : 10) * 1000;
	l->retry_ms = (o->retry_s ? o->retry_s : 2) * 1000;
	l->changed = changed;
	l->arg = arg;
	l7mp_timer_init(&l->retry, on_retry, l);
	l7mp_timer_init(&l->deadline, on_deadline, l);
	if (!l->ns || !l->name || !l->identity || !l->holder ||
	    l7mp_timer_reserve(l->loop, &l->retry) || l7mp_timer_reserve(l->loop, &l->deadline)) {
		kube_lease_free(&l);
		return -ENOMEM;
	}
	(void)l7mp_timer_start(l->loop, &l->retry, 0);
	*out = l;
	return 0;
}

void kube_lease_free(struct kube_lease **pp)
{
	struct kube_lease *l = *pp;

	if (!l)
		return;
	*pp = NULL;
	kube_request_cancel(&l->request);
	l7mp_timer_give_back(l->loop, &l->retry);
	l7mp_timer_give_back(l->loop, &l->deadline);
	cJSON_Delete(l->record);
	free(l->seen);
	free(l->ns);
	free(l->name);
	free(l->identity);
	free(l->holder);
	free(l);
}

static void on_release_time(struct l7mp_timer *timer, void *arg)
{
	(void)timer;
	finish_release(arg);
}

void kube_lease_release(struct kube_lease *l, void (*done)(void *arg), void *arg)
{
	bool held = l->held;

	l7mp_timer_stop(l->loop, &l->deadline);
	l->released = done;
	l->released_arg = arg;
	l->releasing = true;
	set_held(l, false);
	l->retry.cb = on_release_time;
	(void)l7mp_timer_start(l->loop, &l->retry, held || l->request ? RELEASE_MS : 0);
	if (held && !l->request)
		give_back(l);
}

bool kube_lease_held(const struct kube_lease *l)
{
	return l->held;
}

const char *kube_lease_holder(const struct kube_lease *l)
{
	return l->holder;
}
