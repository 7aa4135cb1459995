/* SPDX-License-Identifier: MIT */
/*
 * The proxies. Pod addresses are reused, so a proxy is identified by its boot id (GET /status)
 * before the first POST, and whenever its configuration may have changed since the last one. A boot
 * id that is new is accepted only if the API server, queried at that
 * moment, confirms that the pod still has the address, and that no younger pod with a proxy has it.
 * The POST carries the boot id and the generation of the configuration (If-Match), so that another
 * process that has taken over the address meanwhile refuses it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "operator.h"

#define IN_FLIGHT_MAX 64 /* maximum number of proxies with a request at the same time */
#define REQUEST_MS    5000
#define POST_MS       20000
#define ANSWER_MAX    (1024 * 1024)
#define CHECK_MS      60000
#define BACKOFF_MIN   100
#define BACKOFF_MAX   30000
#define RACES_MAX     5 /* POSTs in a row that failed with 412 */

const char *const op_peer_states[OP_PEER_STATES] = {"pending", "programmed", "failed", "foreign"};

struct peer {
	UT_hash_handle hh;
	struct peer *prev, *next; /* in the queue of waiting proxies */
	struct op_peers *peers;
	char *uid, *boot;
	char *error;                /* of the last attempt; NULL: success, or no attempt */
	struct op_rendered *wanted; /* the wanted document: p, of this result */
	const struct op_proxy *p;
	struct op_rendered *sent; /* the document being sent */
	const struct op_proxy *sp;
	enum op_peer_state state;
	bool queued, busy, seen, retry_now;
	char boot_id[20];     /* of the process that belongs to this pod; "": unknown */
	char answered_id[20]; /* of the process that answered last */
	char hash[20];        /* of the operator's objects there, as returned when the document was
	                    * accepted */
	double generation;    /* of its configuration */
	bool fresh; /* generation is that after our last document: no need to ask for it */
	unsigned races;
	uint64_t sent_since_ms; /* since_ms of the document being sent */
	uint64_t since_ms;      /* time of the first change that it does not have yet; 0: it has all
	                         * */
	struct kube_backoff backoff;
	struct l7mp_timer timer;
	struct kube_http_request *http;
	struct kube_request *kube;
};

struct op_peers {
	struct l7mp_loop *loop;
	struct kube_client *client;
	struct kube_http *http;
	struct op_store *store;
	const struct op_run_options *options;
	struct op_peers_events events;
	void *arg;
	struct peer *table, *queue;
	struct kube_file ca, cert, key, token;
	bool leads;
	struct op_peers_stats stats;
	struct l7mp_log_limit log;
};

static const struct kube_resource pod_resource = {"", "v1", "pods"};

static void check(struct peer *x);
static void next(struct op_peers *ps);

/* ---- requests ---- */

static bool read_files(struct op_peers *ps, bool now, struct l7mp_error *err)
{
	struct kube_file *const files[] = {&ps->ca, &ps->cert, &ps->key, &ps->token};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(files); i++)
		if (kube_file_read(files[i], l7mp_loop_now(ps->loop), now, err))
			return false;
	return true;
}

static int request(struct peer *x, const char *method, const char *path, const char *body,
                   uint64_t timeout_ms, void (*done)(void *arg, const struct kube_http_answer *a))
{
	struct op_peers *ps = x->peers;
	const struct kube_http_tls tls = {.ca = ps->ca.text,
	                                  .cert = ps->cert.text,
	                                  .key = ps->key.text,
	                                  .name = ps->options->proxy_name};
	char *bearer = NULL, *match = NULL, *url;
	const char *headers[4] = {"Content-Type: application/json"};
	struct kube_http_call call = {
	        .method = method,
	        .headers = headers,
	        .body = body,
	        .body_len = body ? strlen(body) : 0,
	        .tls = ps->ca.path ? &tls : NULL,
	        .timeout_ms = timeout_ms,
	        .max_body = ANSWER_MAX,
	        .done = done,
	        .arg = x,
	};
	const char *boot = x->answered_id + strspn(x->answered_id, "0");
	size_t n = 1;
	int rc = -ENOMEM;

	url = l7mp_asprintf(strchr(x->p->address, ':') ? "%s://[%s]:%u%s" : "%s://%s:%u%s",
	                    ps->ca.path ? "https" : "http", x->p->address, x->p->port, path);
	call.url = url;
	if (ps->token.text) {
		bearer = l7mp_asprintf("Authorization: Bearer %s", ps->token.text);
		headers[n++] = bearer;
	}
	if (body) { /* the ETag of its whole configuration (docs/api.md) */
		match = l7mp_asprintf("If-Match: \"%s-m%.0f\"", boot, x->generation);
		headers[n++] = match;
	}
	if (url && (bearer || !ps->token.text) && (match || !body))
		rc = kube_http_start(ps->http, &call, &x->http);
	free(url);
	free(bearer);
	free(match);
	return rc;
}

/* ---- the end of an attempt ---- */

static void wait_ms(struct peer *x, uint64_t ms)
{
	(void)l7mp_timer_start(x->peers->loop, &x->timer, ms); /* reserved */
}

static void settle(struct peer *x)
{
	x->busy = false;
	x->peers->stats.in_flight--;
	op_rendered_unref(x->sent);
	x->sent = NULL;
	x->sp = NULL;
}

static void enqueue(struct peer *x)
{
	struct op_peers *ps = x->peers;

	l7mp_timer_stop(ps->loop, &x->timer);
	if (!x->queued) {
		x->queued = true;
		DL_APPEND(ps->queue, x);
		ps->stats.waiting++;
	}
	next(ps);
}

static bool has_it(const struct peer *x)
{
	return op_store_applied_hash(x->peers->store, x->p) == x->p->hash;
}

/* `text` NULL: success. */
static void set_error(struct peer *x, const char *text)
{
	free(x->error);
	x->error = text ? strdup(text) : NULL;
}

static void fail(struct peer *x, enum op_peer_state state, const char *text)
{
	struct op_peers *ps = x->peers;
	const struct op_proxy *p = x->p;
	uint32_t suppressed;

	x->state = state;
	x->fresh = false;
	set_error(x, text);
	x->races = 0;
	if (l7mp_log_allowed(&ps->log, l7mp_loop_now(ps->loop), 10000, 10, &suppressed))
		l7mp_log_warn("proxy", "%s/%s at %s: %s", p->ns, p->name, p->address, text);
	(void)op_store_failed(ps->store, p, text);
	settle(x);
	wait_ms(x, kube_backoff_next(&x->backoff));
	ps->events.changed(ps->arg, false);
	next(ps);
}

static void succeed(struct peer *x)
{
	struct op_peers *ps = x->peers;
	/* What the proxy of a pod that is gone by now says is not kept. */
	bool same = x->sp && x->sp->hash == x->p->hash;

	x->state = has_it(x) ? OP_PEER_PROGRAMMED : OP_PEER_PENDING;
	set_error(x, NULL);
	x->races = 0;
	x->sent_since_ms = 0;
	kube_backoff_reset(&x->backoff);
	settle(x);
	if (!has_it(x) && !same) {
		enqueue(x); /* another document is wanted meanwhile */
		return;
	}
	x->since_ms = 0;
	wait_ms(x, CHECK_MS / 2 + kube_random(0, CHECK_MS / 2));
	next(ps);
}

/* ---- writing ---- */

/* Excludes an object that the proxy has refused. Returns whether one was found. */
static bool blame(struct peer *x, const cJSON *answer, const char *text)
{
	struct op_peers *ps = x->peers;
	const cJSON *issue;
	struct op_object object;
	bool any = false;

	cJSON_ArrayForEach (issue, l7mp_json_member(answer, "content")) {
		const char *reason = l7mp_json_str(issue, "reason", text);

		if (!op_blame(x->sp, l7mp_json_str(issue, "path", NULL), reason, &object))
			continue;
		any = !op_store_refuse(ps->store, x->sp, &object, reason) || any;
	}
	if (!any && op_blame(x->sp, NULL, text, &object))
		any = !op_store_refuse(ps->store, x->sp, &object, text);
	ps->stats.refusals += any;
	return any;
}

static void refused(struct peer *x, const struct kube_http_answer *a)
{
	struct op_peers *ps = x->peers;
	cJSON *answer = l7mp_json_parse(a->body, a->len, NULL, NULL, 0);
	const char *message = l7mp_json_str(answer, "message", "no message");
	char text[600];

	snprintf(text, sizeof(text), "%ld: %s", a->status, message);
	ps->stats.posts_failed++;
	if (a->status >= 400 && a->status < 500 && a->status != 401 && a->status != 403 &&
	    a->status != 429 && blame(x, answer, message)) {
		cJSON_Delete(answer);
		x->state = OP_PEER_FAILED;
		set_error(x, text);
		settle(x);
		/* Retry even if no document without the object follows. */
		x->retry_now = true;
		wait_ms(x, kube_backoff_next(&x->backoff));
		ps->events.changed(ps->arg, true);
		next(ps);
		return;
	}
	cJSON_Delete(answer);
	x->retry_now = true;
	fail(x, OP_PEER_FAILED, text);
}

static void on_posted(void *arg, const struct kube_http_answer *a)
{
	struct peer *x = arg;
	struct op_peers *ps = x->peers;
	cJSON *answer;
	bool again;

	x->http = NULL;
	if (a->error) {
		ps->stats.posts_failed++;
		fail(x, OP_PEER_FAILED, a->error);
		return;
	}
	x->fresh = false;
	if (a->status == 412 && ++x->races < RACES_MAX) { /* changed since, or another process */
		check(x);
		return;
	}
	if (a->status < 200 || a->status > 299) {
		refused(x, a);
		return;
	}
	answer = l7mp_json_parse(a->body, a->len, NULL, NULL, 0);
	snprintf(x->hash, sizeof(x->hash), "%s", l7mp_json_str(answer, "hash", ""));
	x->generation = l7mp_json_num(answer, "generation", 0);
	x->fresh = x->generation > 0;
	cJSON_Delete(answer);
	again = op_store_applied(ps->store, x->sp) > 0;
	if (x->sent_since_ms)
		op_histogram_add(&ps->stats.latency, l7mp_loop_now(ps->loop) - x->sent_since_ms);
	x->sent_since_ms = 0;
	ps->events.changed(ps->arg, again);
	succeed(x);
}

static void post(struct peer *x)
{
	struct op_peers *ps = x->peers;
	struct l7mp_str path = {0}, body = {0};
	int rc = -ENOMEM;

	op_rendered_unref(x->sent);
	x->sent = op_rendered_ref(x->wanted);
	x->sp = x->p;
	if (!x->sent_since_ms)
		x->sent_since_ms = x->since_ms;
	x->since_ms = 0; /* later changes are measured separately */
	l7mp_str_add(&path, "/api/v1/config?owner=");
	kube_http_escape(&path, ps->options->owner);
	l7mp_str_add(&body, "{\"config\":");
	l7mp_str_addn(&body, x->p->document->text, x->p->document->len);
	l7mp_str_add(&body, "}");
	ps->stats.posts++;
	if (!path.oom && !body.oom)
		rc = request(x, "POST", path.s, body.s, POST_MS, on_posted);
	l7mp_str_free(&path);
	l7mp_str_free(&body);
	if (rc)
		fail(x, OP_PEER_FAILED, l7mp_errno_text(rc));
}

/* ---- queries ---- */

static const char *owner_hash(const cJSON *status, const char *owner)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, l7mp_json_member(status, "owners"))
		if (!strcmp(l7mp_json_str(o, "name", ""), owner))
			return l7mp_json_str(o, "hash", "");
	return "0000000000000000"; /* no objects, as after an empty document */
}

/* The process belongs to the pod. */
static void go_on(struct peer *x, const char *hash)
{
	if (has_it(x) && !strcmp(hash, x->hash)) {
		succeed(x);
		return;
	}
	if (has_it(x))
		l7mp_log_notice("proxy", "%s/%s: has other objects than it was given", x->p->ns,
		                x->p->name);
	post(x);
}

static void accept_process(struct peer *x)
{
	snprintf(x->boot_id, sizeof(x->boot_id), "%s", x->answered_id);
	x->hash[0] = '\0';
	op_store_forget(x->peers->store, x->uid);
	post(x);
}

/* The port of the proxy that a pod is to run; 0: none. */
static unsigned proxy_port(const struct op_settings *s, const cJSON *pod)
{
	static const char *const lists[] = {"containers", "initContainers"};
	const cJSON *notes = l7mp_json_get(pod, "/metadata/annotations"), *c;
	const char *name = l7mp_json_str(notes, OP_ANNOTATION_CONTAINER, s->container);
	unsigned long port = strtoul(l7mp_json_str(notes, OP_ANNOTATION_PORT, "0"), NULL, 10);

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(lists); i++)
		cJSON_ArrayForEach (c, l7mp_json_member(l7mp_json_member(pod, "spec"), lists[i]))
			if (!strcmp(l7mp_json_str(c, "name", ""), name))
				return port > 0 && port < 65536 ? (unsigned)port : s->port;
	return 0;
}

/*
 * Does another pod that is not older have the same address, too, and a proxy on the port? An
 * address may be assigned to a new pod before the API server has deleted the old one.
 */
static bool taken(const struct peer *x, const cJSON *pods)
{
	const struct op_settings *settings = &x->peers->options->settings;
	const char *created = "~"; /* behind all times */
	const cJSON *pod;

	cJSON_ArrayForEach (pod, pods)
		if (!strcmp(l7mp_json_str(l7mp_json_member(pod, "metadata"), "uid", ""), x->uid))
			created = l7mp_json_str(l7mp_json_member(pod, "metadata"),
			                        "creationTimestamp", "");
	cJSON_ArrayForEach (pod, pods) {
		const cJSON *metadata = l7mp_json_member(pod, "metadata");
		const cJSON *status = l7mp_json_member(pod, "status");
		const char *phase = l7mp_json_str(status, "phase", "");

		if (strcmp(l7mp_json_str(metadata, "uid", ""), x->uid) != 0 &&
		    !strcmp(l7mp_json_str(status, "podIP", ""), x->p->address) &&
		    strcmp(phase, "Succeeded") != 0 && strcmp(phase, "Failed") != 0 &&
		    strcmp(l7mp_json_str(metadata, "creationTimestamp", ""), created) >= 0 &&
		    proxy_port(settings, pod) == x->p->port)
			return true;
	}
	return false;
}

/* The pods that have the address, as the API server has them now. */
static void on_pods(void *arg, const struct kube_http_answer *a)
{
	struct peer *x = arg;
	cJSON *list = kube_answer_json(a);
	const cJSON *pods = l7mp_json_member(list, "items");
	bool known = cJSON_IsArray(pods), other = known && taken(x, pods);
	char text[300], why[200];

	x->kube = NULL;
	cJSON_Delete(list);
	if (known && !other) {
		accept_process(x);
		return;
	}
	if (other) {
		fail(x, OP_PEER_FOREIGN, "the address belongs to another pod");
		return;
	}
	kube_answer_text(a, why, sizeof(why));
	snprintf(text, sizeof(text), "can't be distinguished from another process: %s", why);
	fail(x, OP_PEER_FOREIGN, text);
}

/* Sends a GET to the API server; a failure to do so is the peer's. Frees what the path holds. */
static void query_kube(struct peer *x, struct l7mp_str *path,
                       void (*done)(void *arg, const struct kube_http_answer *a))
{
	struct kube_call call = {
	        .method = "GET", .path = path->s, .timeout_ms = REQUEST_MS, .done = done, .arg = x};
	int rc = -ENOMEM;

	if (!path->oom)
		rc = kube_request_start(x->peers->client, &call, &x->kube);
	l7mp_str_free(path);
	if (rc)
		fail(x, OP_PEER_FAILED, l7mp_errno_text(rc));
}

static void query_same_address(struct peer *x)
{
	const struct op_run_options *o = x->peers->options;
	struct l7mp_str path = {0};

	kube_path(&path, &pod_resource, o->n_namespaces ? x->p->ns : NULL, NULL, NULL);
	l7mp_str_add(&path, "?fieldSelector=status.podIP%3D");
	kube_http_escape(&path, x->p->address);
	query_kube(x, &path, on_pods);
}

/* The pod, as the API server has it now. */
static void on_pod(void *arg, const struct kube_http_answer *a)
{
	struct peer *x = arg;
	cJSON *pod = kube_answer_json(a);
	const cJSON *metadata = l7mp_json_member(pod, "metadata");
	const char *uid = l7mp_json_str(metadata, "uid", "");
	const char *ip = l7mp_json_str(l7mp_json_member(pod, "status"), "podIP", "");
	bool same = !strcmp(uid, x->uid) && !strcmp(ip, x->p->address);
	char text[300], why[200];

	x->kube = NULL;
	cJSON_Delete(pod);
	if (!same && !a->error && (a->status == 200 || a->status == 404)) {
		fail(x, OP_PEER_FOREIGN, "the address belongs to another pod");
		return;
	}
	if (!same) {
		kube_answer_text(a, why, sizeof(why));
		snprintf(text, sizeof(text), "can't be distinguished from another process: %s",
		         why);
		fail(x, OP_PEER_FOREIGN, text);
		return;
	}
	query_same_address(x);
}

static void verify(struct peer *x)
{
	struct l7mp_str path = {0};

	kube_path(&path, &pod_resource, x->p->ns, x->p->name, NULL);
	query_kube(x, &path, on_pod);
}

static void on_status(void *arg, const struct kube_http_answer *a)
{
	struct peer *x = arg;
	struct op_peers *ps = x->peers;
	cJSON *status = kube_answer_json(a);
	const char *id = l7mp_json_str(status, "boot_id", "");
	char text[300];

	x->http = NULL;
	if (a->error || a->status == 401 || a->status == 403)
		(void)read_files(ps, true, NULL); /* the files may have been replaced */
	if (!*id || strlen(id) > 16 || strspn(id, "0123456789abcdef") != strlen(id)) {
		if (status)
			snprintf(text, sizeof(text),
			         "GET /status: expected the answer of an "
			         "l7mp-proxy, with a boot_id");
		else
			kube_answer_text(a, text, sizeof(text));
		cJSON_Delete(status);
		fail(x, OP_PEER_FAILED, text);
		return;
	}
	snprintf(x->answered_id, sizeof(x->answered_id), "%s", id);
	x->generation = l7mp_json_num(status, "generation", 0);
	if (strcmp(id, x->boot_id) != 0) {
		verify(x);
	} else {
		char hash[20];

		snprintf(hash, sizeof(hash), "%s", owner_hash(status, ps->options->owner));
		go_on(x, hash);
	}
	cJSON_Delete(status);
}

static void check(struct peer *x)
{
	int rc;

	x->peers->stats.checks++;
	rc = request(x, "GET", "/api/v1/status", NULL, REQUEST_MS, on_status);
	if (rc)
		fail(x, OP_PEER_FAILED, l7mp_errno_text(rc));
}

/*
 * Sends the document, after a question for the process and its generation unless the answer is
 * known; a process that has another one refuses the document (412).
 */
static void begin(struct peer *x)
{
	struct l7mp_error err = {0};

	if (!read_files(x->peers, false, &err))
		fail(x, OP_PEER_FAILED, err.message);
	else if (x->fresh && !has_it(x))
		post(x);
	else
		check(x);
}

/* Starts requests to waiting proxies, up to the limit. */
static void next(struct op_peers *ps)
{
	while (ps->leads && ps->queue && ps->stats.in_flight < IN_FLIGHT_MAX) {
		struct peer *x = ps->queue;

		DL_DELETE(ps->queue, x);
		x->queued = false;
		ps->stats.waiting--;
		x->busy = true;
		x->retry_now = false;
		ps->stats.in_flight++;
		begin(x);
	}
}

static void on_timer(struct l7mp_timer *timer, void *arg)
{
	(void)timer;
	enqueue(arg);
}

/* ---- the set ---- */

static void stop(struct peer *x)
{
	struct op_peers *ps = x->peers;

	l7mp_timer_stop(ps->loop, &x->timer);
	kube_http_cancel(&x->http);
	kube_request_cancel(&x->kube);
	if (x->busy)
		settle(x);
	if (x->queued) {
		DL_DELETE(ps->queue, x);
		ps->stats.waiting--;
		x->queued = false;
	}
}

static void peer_free(struct peer *x)
{
	stop(x);
	HASH_DEL(x->peers->table, x);
	l7mp_timer_give_back(x->peers->loop, &x->timer);
	op_rendered_unref(x->wanted);
	free(x->uid);
	free(x->boot);
	free(x->error);
	free(x);
}

static struct peer *peer_new(struct op_peers *ps, const struct op_proxy *p)
{
	struct peer *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->peers = ps;
	x->uid = strdup(p->uid);
	x->boot = strdup("");
	x->backoff = (struct kube_backoff){.min_ms = BACKOFF_MIN, .max_ms = BACKOFF_MAX};
	l7mp_timer_init(&x->timer, on_timer, x);
	if (x->uid && x->boot && !l7mp_timer_reserve(ps->loop, &x->timer)) {
		HASH_ADD_KEYPTR(hh, ps->table, x->uid, strlen(x->uid), x);
		if (x->hh.tbl)
			return x;
		l7mp_timer_give_back(ps->loop, &x->timer);
	}
	free(x->uid);
	free(x->boot);
	free(x);
	return NULL;
}

static void want(struct peer *x, struct op_rendered *r, const struct op_proxy *p, uint64_t since_ms)
{
	bool restarted = strcmp(x->boot, p->boot) != 0;
	bool moved = !x->p || strcmp(x->p->address, p->address) || x->p->port != p->port;
	bool other = !x->p || x->p->hash != p->hash;
	char *boot = restarted ? strdup(p->boot) : NULL;

	if (boot) {
		free(x->boot);
		x->boot = boot;
	}
	op_rendered_ref(r);
	op_rendered_unref(x->wanted);
	x->wanted = r;
	x->p = p;
	x->seen = true;
	if ((restarted || moved) && x->busy)
		stop(x); /* its answer is obsolete */
	if (restarted || moved) {
		kube_backoff_reset(&x->backoff);
		x->fresh = false;
	}
	if (!x->since_ms && other && !has_it(x))
		x->since_ms = since_ms;
	if (has_it(x) && !restarted && !moved)
		return;
	if (x->state == OP_PEER_PROGRAMMED)
		x->state = OP_PEER_PENDING;
	/* Changes do not shorten the back-off of an unreachable proxy. */
	if (!x->busy &&
	    (restarted || moved || (other && (x->retry_now || x->state == OP_PEER_PENDING))))
		enqueue(x);
}

void op_peers_set(struct op_peers *ps, struct op_rendered *r, uint64_t since_ms)
{
	struct peer *x, *tmp;
	size_t n = op_result_count(r->result);

	for (x = ps->table; x; x = x->hh.next)
		x->seen = false;
	for (size_t i = 0; i < n; i++) {
		const struct op_proxy *p = op_result_proxy(r->result, i);

		HASH_FIND_STR(ps->table, p->uid, x);
		if (!x)
			x = peer_new(ps, p);
		if (x)
			want(x, r, p, since_ms);
		else
			l7mp_log_error("proxy", "%s/%s: out of memory", p->ns, p->name);
	}
	HASH_ITER (hh, ps->table, x, tmp) {
		if (!x->seen)
			peer_free(x);
	}
	next(ps);
}

void op_peers_lead(struct op_peers *ps, bool leads)
{
	struct peer *x;

	if (ps->leads == leads)
		return;
	ps->leads = leads;
	for (x = ps->table; x; x = x->hh.next) {
		stop(x);
		x->fresh = false;
		kube_backoff_reset(&x->backoff);
		if (!leads)
			x->state = OP_PEER_PENDING;
	}
	if (!leads)
		return;
	for (x = ps->table; x; x = x->hh.next)
		enqueue(x);
}

static int set_path(struct kube_file *f, const char *path)
{
	f->path = path ? strdup(path) : NULL;
	return path && !f->path ? -ENOMEM : 0;
}

int op_peers_new(struct kube_client *client, struct op_store *store,
                 const struct op_run_options *options, const struct op_peers_events *events,
                 void *arg, struct op_peers **out)
{
	struct op_peers *ps = calloc(1, sizeof(*ps));
	int rc;

	*out = NULL;
	if (!ps)
		return -ENOMEM;
	ps->loop = kube_client_loop(client);
	ps->client = client;
	ps->store = store;
	ps->options = options;
	ps->events = *events;
	ps->arg = arg;
	ps->token.token = true;
	rc = kube_http_new(ps->loop, IN_FLIGHT_MAX, &ps->http);
	if (!rc)
		rc = set_path(&ps->ca, options->proxy_ca);
	if (!rc)
		rc = set_path(&ps->cert, options->proxy_cert);
	if (!rc)
		rc = set_path(&ps->key, options->proxy_key);
	if (!rc)
		rc = set_path(&ps->token, options->proxy_token);
	if (rc)
		op_peers_free(&ps);
	*out = ps;
	return rc;
}

void op_peers_free(struct op_peers **pp)
{
	struct op_peers *ps = *pp;

	if (!ps)
		return;
	*pp = NULL;
	while (ps->table)
		peer_free(ps->table);
	kube_http_free(&ps->http);
	kube_file_clear(&ps->ca);
	kube_file_clear(&ps->cert);
	kube_file_clear(&ps->key);
	kube_file_clear(&ps->token);
	free(ps);
}

const struct op_peers_stats *op_peers_stats(struct op_peers *ps)
{
	struct peer *x;

	memset(ps->stats.state, 0, sizeof(ps->stats.state));
	for (x = ps->table; x; x = x->hh.next)
		ps->stats.state[x->state]++;
	return &ps->stats;
}

/* ---- the list of proxies ---- */

static void add_objects(cJSON *to, const struct op_proxy *p)
{
	cJSON *list = cJSON_AddArrayToObject(to, "objects");
	size_t n = 0;
	struct op_object *objects = op_proxy_objects(p, &n);

	l7mp_json_add_num(to, "object_count", (double)n);
	for (size_t i = 0; i < n && i < OP_SHOWN_OBJECTS; i++) {
		const struct op_object *o = &objects[i];
		char *text = l7mp_asprintf("%s/%s%s%s", op_kinds[o->kind].kind, o->ns,
		                           *o->ns ? "/" : "", o->name);

		cJSON_AddItemToArray(list, text ? cJSON_CreateString(text) : NULL);
		free(text);
	}
	free(objects);
}

static cJSON *peer_tree(const struct peer *x)
{
	cJSON *o = cJSON_CreateObject();

	l7mp_json_add_str(o, "namespace", x->p->ns);
	l7mp_json_add_str(o, "name", x->p->name);
	l7mp_json_add_str(o, "node", x->p->node);
	l7mp_json_add_str(o, "address", x->p->address);
	l7mp_json_add_num(o, "port", x->p->port);
	l7mp_json_add_str(o, "state", op_peer_states[x->state]);
	l7mp_json_add_str(o, "boot_id", x->boot_id);
	l7mp_json_add_str(o, "hash", x->hash);
	add_objects(o, x->p);
	if (x->error)
		l7mp_json_add_str(o, "error", x->error);
	return o;
}

static int by_name(const struct peer *a, const struct peer *b)
{
	int rc = strcmp(a->p->ns, b->p->ns);

	return rc ? rc : strcmp(a->p->name, b->p->name);
}

cJSON *op_peers_tree(struct op_peers *ps)
{
	cJSON *list = cJSON_CreateArray();
	size_t n = 0;

	HASH_SORT(ps->table, by_name);
	for (const struct peer *x = ps->table; x && n < OP_SHOWN_PROXIES; x = x->hh.next, n++)
		cJSON_AddItemToArray(list, peer_tree(x));
	return list;
}
