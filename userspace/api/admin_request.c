/* SPDX-License-Identifier: MIT */
#include "admin_request.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "admin_server.h"
#include "api_int.h"
#include "l7mp/loop.h"
#include "l7mp/mailbox.h"

#define LOOP_WAIT_S   120 /* time limit of a thread's wait for the loop */
#define CUT_AGAIN_MS  250 /* interval of further signals until the thread has stopped */
#define HEALTH_WAIT_S 5

enum order { ORDER_ADMIT, ORDER_RUN, ORDER_NEXT };

struct admin_request {
	struct l7mp_mail mail;      /* the next step; the thread posts one at a time */
	struct l7mp_mail drop_mail; /* the last mail */
	struct l7mp_mailbox *mailbox;
	struct l7mp_api *api;
	pthread_t thread;
	atomic_int refs; /* references: the thread's, and the loop's from the first mail to the last
	                  * */
	bool posted;     /* used by the thread: whether the first mail was posted */

	/* Used by the thread until it posts a step, then by the loop. */
	enum order order;
	enum admin_target target;
	char *method, *path, *query;
	cJSON *metadata;
	long long length;
	struct api_client client;
	char *body;
	size_t body_len;
	bool too_large;

	/* Used by the loop. */
	struct api_exchange *exchange; /* NULL: not begun */
	struct l7mp_timer timer;
	uint64_t since; /* loop time when the thread began to read or write; */
	uint64_t spent; /* ms spent in earlier reads and writes of this phase */

	pthread_mutex_t mu; /* protects the fields below */
	pthread_cond_t cv;
	unsigned step; /* steps completed by the loop */
	bool admitted, head_there, end, broken;
	size_t max_body;
	int status;
	char *headers;
	long long answer_length;
	char *piece;
	size_t piece_len;
	bool in_io, expired;
	size_t moved; /* bytes read or written since `since` */
};

static void unref(struct admin_request *r)
{
	if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
		return;
	pthread_cond_destroy(&r->cv);
	pthread_mutex_destroy(&r->mu);
	cJSON_Delete(r->metadata);
	free(r->method);
	free(r->path);
	free(r->query);
	free(r->body);
	free(r->headers);
	free(r->piece);
	free(r);
}

/* ---- functions called on the loop ---- */

/* The body and the answer have separate time limits. */
static void begin_phase(struct admin_request *r)
{
	r->spent = 0;
	pthread_mutex_lock(&r->mu);
	r->moved = 0;
	pthread_mutex_unlock(&r->mu);
}

/* The thread is about to read or write. */
static void watch(struct admin_request *r)
{
	struct l7mp_loop *loop = r->api->params.env->loop;

	r->since = l7mp_loop_now(loop);
	(void)l7mp_timer_start(loop, &r->timer, ADMIN_PATIENCE_MS);
}

/* The thread waits for the loop; this time is not counted as the client's. */
static void unwatch(struct admin_request *r)
{
	struct l7mp_loop *loop = r->api->params.env->loop;

	if (l7mp_timer_armed(&r->timer))
		r->spent += l7mp_loop_now(loop) - r->since;
	l7mp_timer_stop(loop, &r->timer);
}

/*
 * The thread may be in a read or write of civetweb, whose time-out restarts with each byte. A
 * signal makes its poll(2) fail. It is sent repeatedly until the thread has left, because it may
 * have arrived just before the poll.
 */
static void on_timer(struct l7mp_timer *timer, void *arg)
{
	struct admin_request *r = arg;
	struct l7mp_loop *loop = r->api->params.env->loop;
	uint64_t passed = r->spent + l7mp_loop_now(loop) - r->since;
	uint64_t paid;

	pthread_mutex_lock(&r->mu);
	paid = ADMIN_PATIENCE_MS + r->moved / ADMIN_RATE;
	if (passed >= paid)
		r->expired = true;
	if (r->expired && r->in_io)
		pthread_kill(r->thread, ADMIN_WAKE_SIGNAL);
	pthread_mutex_unlock(&r->mu);
	(void)l7mp_timer_start(loop, timer, passed >= paid ? CUT_AGAIN_MS : paid - passed);
}

/* Called with mu held. */
static void stepped(struct admin_request *r)
{
	r->step++;
	pthread_cond_signal(&r->cv);
}

static void add_header(void *arg, const char *name, const char *value)
{
	l7mp_str_addf(arg, "%s: %s\r\n", name, value);
}

/* Copies status and headers of the answer. Returns false when out of memory. */
static bool take_head(struct admin_request *r)
{
	const struct api_response *rs = api_exchange_head(r->exchange);
	struct l7mp_str lines = {0};
	char *text;

	l7mp_str_add(&lines, "");
	api_each_header(rs, add_header, &lines);
	text = l7mp_str_take(&lines);
	pthread_mutex_lock(&r->mu);
	r->status = rs->status;
	r->headers = text;
	r->answer_length = api_exchange_length(r->exchange);
	r->head_there = text != NULL;
	pthread_mutex_unlock(&r->mu);
	return text;
}

/* Passes the next piece to the thread, if it waits and a piece is available. */
static void feed(void *arg)
{
	struct admin_request *r = arg;
	char *text = NULL;
	size_t len = 0;
	int rc = 0;

	if (!r->exchange)
		rc = -ENOMEM;
	else if (!api_exchange_head(r->exchange))
		return;
	else if (!r->headers && !take_head(r))
		rc = -ENOMEM;
	if (!rc)
		rc = api_exchange_read(r->exchange, &text, &len);
	if (rc == -EAGAIN)
		return; /* called again when data is available */
	watch(r);
	pthread_mutex_lock(&r->mu);
	if (rc > 0) {
		r->piece = text;
		r->piece_len = len;
	} else if (rc == 0) {
		r->end = true;
	} else {
		r->broken = true;
	}
	stepped(r);
	pthread_mutex_unlock(&r->mu);
}

static void probe(struct api_request *rq, struct api_response *rs, bool yes)
{
	if (strcmp(rq->method, "GET") != 0) {
		api_fail(rs, 405, "method %.20s is not possible here, expected GET", rq->method);
		strcpy(rs->allow, "GET, HEAD");
	} else if (yes) {
		api_ok(rs);
	} else {
		api_fail(rs, 503, "the proxy is %s",
		         rq->api->stopping               ? "shutting down"
		         : rq->api->params.env->draining ? "draining"
		                                         : "starting");
	}
}

static void health_answer(struct api_request *rq, struct api_response *rs)
{
	probe(rq, rs, true);
}

static void ready_answer(struct api_request *rq, struct api_response *rs)
{
	probe(rq, rs, api_is_ready(rq->api));
}

static const struct api_service health = {.proto = "healthz", .answer = health_answer};
static const struct api_service ready = {.proto = "readyz", .answer = ready_answer};

static const struct api_service *const services[] = {
        [ADMIN_REST] = &api_service_rest,
        [ADMIN_METRICS] = &api_service_metrics,
        [ADMIN_CONSOLE] = &api_service_console,
        [ADMIN_HEALTH] = &health,
        [ADMIN_READY] = &ready,
};

/* Begins the answer; `refusal` (taken) is NULL when the client is allowed. */
static void run(struct admin_request *r, struct api_response *refusal)
{
	struct api_call call = {
	        .service = services[r->target],
	        .method = r->method,
	        .path = r->path,
	        .query = r->query,
	        .content_type = api_header(r->metadata, "content-type"),
	        .if_match = api_header(r->metadata, "if-match"),
	        .if_none_match = api_header(r->metadata, "if-none-match"),
	        .body = r->body,
	        .body_len = r->body_len,
	        .large_pieces = true,
	        .too_large = r->too_large,
	        .refusal = refusal,
	};

	r->body = NULL;
	unwatch(r);
	begin_phase(r);
	if (r->too_large)
		r->api->params.env->stats->refusals[L7MP_REFUSE_MAX_BODY]++;
	if (api_exchange_new(r->api, &call, feed, r, &r->exchange))
		feed(r);
}

/* Probes are answered for every client, because they reveal only yes or no. */
static void admit(struct admin_request *r)
{
	struct api_response refusal = {0};

	if (r->target == ADMIN_CONSOLE)
		api_authorize_page(r->api, &r->client, r->metadata, &refusal);
	else if (r->target == ADMIN_REST || r->target == ADMIN_METRICS)
		api_authorize(r->api, &r->client, r->metadata, &refusal);
	if (refusal.status || r->length == 0) {
		run(r, refusal.status ? &refusal : NULL);
		return;
	}
	watch(r);
	pthread_mutex_lock(&r->mu);
	r->admitted = true;
	r->max_body = r->api->params.env->limits->max_body;
	stepped(r);
	pthread_mutex_unlock(&r->mu);
}

static void on_mail(struct l7mp_mail *mail, void *arg)
{
	struct admin_request *r = l7mp_container_of(mail, struct admin_request, mail);

	(void)arg;
	switch (r->order) {
	case ORDER_ADMIT:
		admit(r);
		break;
	case ORDER_RUN:
		run(r, NULL);
		break;
	case ORDER_NEXT:
		unwatch(r);
		feed(r);
		break;
	}
}

static void on_drop(struct l7mp_mail *mail, void *arg)
{
	struct admin_request *r = l7mp_container_of(mail, struct admin_request, drop_mail);

	(void)arg;
	l7mp_timer_stop(r->api->params.env->loop, &r->timer);
	api_exchange_free(&r->exchange);
	unref(r);
}

/* ---- functions called on the thread ---- */

static char *copy(const char *text, bool *failed)
{
	char *c = strdup(text ? text : "");

	*failed |= !c;
	return c;
}

struct admin_request *admin_request_new(struct l7mp_api *api, struct l7mp_mailbox *mailbox,
                                        const struct admin_head *head)
{
	struct admin_request *r = calloc(1, sizeof(*r));
	pthread_condattr_t attr;
	bool failed = false;

	if (!r) {
		cJSON_Delete(head->metadata);
		return NULL;
	}
	r->mail.cb = on_mail;
	r->drop_mail.cb = on_drop;
	r->mailbox = mailbox;
	r->api = api;
	r->thread = pthread_self();
	atomic_init(&r->refs, 1);
	pthread_mutex_init(&r->mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->cv, &attr);
	pthread_condattr_destroy(&attr);
	l7mp_timer_init(&r->timer, on_timer, r);
	r->target = head->target;
	r->method = copy(head->method, &failed);
	r->path = copy(head->path, &failed);
	r->query = copy(head->query, &failed);
	r->metadata = head->metadata;
	r->length = head->length;
	r->client.peer = head->peer;
	r->client.local = head->local;
	if (!failed)
		return r;
	unref(r);
	return NULL;
}

void admin_request_drop(struct admin_request *r)
{
	/* Can't fail, because the mailbox outlives the threads. */
	if (r->posted)
		(void)l7mp_mailbox_post(r->mailbox, &r->drop_mail);
	unref(r);
}

/* Posts a step and waits. Returns whether the loop has completed it. */
static bool do_step(struct admin_request *r, enum order order)
{
	unsigned before;
	struct timespec until;
	bool done;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += r->target == ADMIN_HEALTH ? HEALTH_WAIT_S : LOOP_WAIT_S;
	pthread_mutex_lock(&r->mu);
	before = r->step;
	pthread_mutex_unlock(&r->mu);
	r->order = order;
	if (!r->posted)
		atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
	if (l7mp_mailbox_post(r->mailbox, &r->mail)) {
		if (!r->posted)
			unref(r);
		return false;
	}
	r->posted = true;
	pthread_mutex_lock(&r->mu);
	while (r->step == before && pthread_cond_timedwait(&r->cv, &r->mu, &until) != ETIMEDOUT)
		;
	done = r->step != before;
	pthread_mutex_unlock(&r->mu);
	return done;
}

bool admin_request_admit(struct admin_request *r)
{
	bool admitted;

	if (!do_step(r, ORDER_ADMIT))
		return false;
	pthread_mutex_lock(&r->mu);
	admitted = r->admitted;
	pthread_mutex_unlock(&r->mu);
	return admitted;
}

size_t admin_request_max_body(const struct admin_request *r)
{
	return r->max_body;
}

void admin_request_run(struct admin_request *r, char *body, size_t len, bool too_large)
{
	r->body = body;
	r->body_len = len;
	r->too_large = too_large;
	(void)do_step(r, ORDER_RUN);
}

void admin_request_io(struct admin_request *r, bool begins, size_t n)
{
	pthread_mutex_lock(&r->mu);
	r->in_io = begins;
	r->moved += n;
	pthread_mutex_unlock(&r->mu);
}

bool admin_request_expired(struct admin_request *r)
{
	bool expired;

	pthread_mutex_lock(&r->mu);
	expired = r->expired;
	pthread_mutex_unlock(&r->mu);
	return expired;
}

bool admin_request_wait_head(struct admin_request *r, int *status, const char **headers,
                             long long *length)
{
	bool there;

	pthread_mutex_lock(&r->mu);
	there = r->head_there;
	*status = r->status;
	*headers = r->headers;
	*length = r->answer_length;
	pthread_mutex_unlock(&r->mu);
	return there;
}

int admin_request_wait_piece(struct admin_request *r, char **text, size_t *len)
{
	int rc = -1;

	pthread_mutex_lock(&r->mu);
	if (!r->piece && !r->end && !r->broken) {
		pthread_mutex_unlock(&r->mu);
		if (!do_step(r, ORDER_NEXT))
			return -1;
		pthread_mutex_lock(&r->mu);
	}
	if (r->piece) {
		*text = r->piece;
		*len = r->piece_len;
		r->piece = NULL;
		rc = 1;
	} else if (r->end && !r->broken) {
		rc = 0;
	}
	pthread_mutex_unlock(&r->mu);
	return rc;
}
