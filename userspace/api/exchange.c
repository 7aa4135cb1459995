/* SPDX-License-Identifier: MIT */
/*
 * Processing of a request. The first slice routes it, and answers short requests. Potentially long
 * ones run as a runtime job (in a worker thread, while the model does not change), whose result is
 * a text or a change. Streams are produced in slices, one piece ahead of the reader.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_int.h"
#include "l7mp/log.h"
#include "l7mp/slice.h"

#define PIECE     (32 * 1024)
#define PIECE_MAX (256 * 1024)

enum exchange_state {
	EXCHANGE_NEW,    /* the first slice has not run yet */
	EXCHANGE_JOB,    /* a runtime job is queued or running */
	EXCHANGE_BEGIN,  /* a stream searches its beginning */
	EXCHANGE_STREAM, /* the head is known, and the body is being produced */
	EXCHANGE_TEXT,   /* the head is known, and the body is rs.text */
	EXCHANGE_BROKEN,
	EXCHANGE_OVER,
};

struct api_exchange {
	const struct api_service *service;
	struct l7mp_api *api;
	struct l7mp_loop *loop;
	void (*ready)(void *arg); /* NULL: the receiver has freed it */
	void *arg;
	enum exchange_state state;
	struct api_request rq;
	struct api_response rs;
	struct l7mp_slice slice;
	struct l7mp_runtime_job job;
	struct l7mp_str piece; /* of a stream: produced, not read yet */
	size_t piece_size;     /* maximum size of a piece, plus one item */
	bool large_pieces;
	size_t off;  /* bytes of rs.text that were read */
	int step_rc; /* result of the stream's last step, in a job */
	bool in_job; /* a job is waiting or running */
	bool wanted; /* the receiver waits for `ready` */
};

static void request_clear(struct api_request *rq)
{
	free(rq->session);
	free(rq->raw_path);
	free(rq->raw_query);
	free(rq->content_type);
	free(rq->if_match);
	free(rq->if_none_match);
	free(rq->body);
	free(rq->method);
	free(rq->path);
	free(rq->after);
	free(rq->filter);
	free(rq->owner);
	l7mp_document_free(&rq->document);
	memset(rq, 0, sizeof(*rq));
}

static void destroy(struct api_exchange *x)
{
	l7mp_slice_cancel(x->loop, &x->slice);
	request_clear(&x->rq);
	api_response_clear(&x->rs);
	l7mp_str_free(&x->piece);
	free(x);
}

/*
 * Notifies the receiver, or frees x if the receiver has freed it. Returns false when x was freed.
 */
static bool notify(struct api_exchange *x)
{
	if (!x->ready) {
		destroy(x);
		return false;
	}
	if (!x->wanted)
		return true;
	x->wanted = false;
	x->ready(x->arg);
	return false; /* the receiver may have freed it */
}

/* ---- producing the answer ---- */

/* The status is known: the answer begins. */
static void answered(struct api_exchange *x)
{
	if (x->rs.stream && x->rs.stream->begin && x->state != EXCHANGE_BEGIN) {
		x->state = EXCHANGE_BEGIN;
		l7mp_slice_post(x->loop, &x->slice);
		return;
	}
	if (!x->rs.status)
		api_fail(&x->rs, 500, "out of memory");
	if (x->service == &api_service_rest)
		api_count(x->api, x->rq.route, x->rs.status);
	if (x->rs.stream && !x->rq.head) {
		x->state = EXCHANGE_STREAM;
		l7mp_slice_post(x->loop, &x->slice);
	} else {
		if (!x->rs.stream)
			api_print(&x->rs, x->rq.format);
		x->state = x->rs.text || x->rs.stream ? EXCHANGE_TEXT : EXCHANGE_BROKEN;
	}
	l7mp_document_free(&x->rq.document);
	(void)notify(x);
}

/* Runs in a worker thread. */
static struct l7mp_change *job_build(void *arg)
{
	struct api_exchange *x = arg;

	x->rq.binding.handler(&x->rq, &x->rs);
	api_print(&x->rs, x->rq.format);
	/* Free the document here: it may be megabytes, which would occupy the loop. */
	l7mp_document_free(&x->rq.document);
	free(x->rq.body);
	x->rq.body = NULL;
	return x->rq.change;
}

/* Logs the issues found by the validation of the change. */
static void log_warnings(const struct api_request *rq, struct l7mp_change *c)
{
	const struct l7mp_issues *issues = l7mp_change_issues(c);

	for (size_t i = 0; i < issues->n; i++)
		if (issues->v[i].warning)
			l7mp_log_warn("api", "%s %s: %s: %s", rq->method, rq->route->path,
			              issues->v[i].path, issues->v[i].reason);
}

static int job_built(void *arg, struct l7mp_change *c, struct l7mp_error *err)
{
	struct api_exchange *x = arg;

	(void)err;
	log_warnings(&x->rq, c);
	return 0;
}

static void job_done(void *arg, struct l7mp_change *c, int rc, const struct l7mp_error *err)
{
	struct api_exchange *x = arg;

	if (rc) {
		struct l7mp_error conflict = *err;

		/* An owner must learn that the name or port is in use. */
		if (rc == -EADDRINUSE && x->rq.owner)
			conflict.code = L7MP_ERR_EXISTS;
		api_response_clear(&x->rs);
		api_fail_error(&x->rs, &conflict);
	} else if (c) {
		api_ok(&x->rs);
		api_add_hash(&x->rq, &x->rs);
	}
	answered(x);
}

static void submit(struct api_exchange *x)
{
	int rc;

	x->job = (struct l7mp_runtime_job){.build = job_build,
	                                   .built = job_built,
	                                   .done = job_done,
	                                   .arg = x,
	                                   .session = x->rq.session,
	                                   .reads = !(x->rq.binding.flags & API_CHANGE)};
	x->state = EXCHANGE_JOB;
	rc = l7mp_runtime_submit(x->api->params.runtime, &x->job);
	if (!rc)
		return;
	if (rc == -EBUSY)
		api_fail(&x->rs, 503, "%d requests wait already", L7MP_RUNTIME_JOBS);
	else
		api_fail(&x->rs, 503, "the proxy is shutting down");
	x->rs.retry = true;
	answered(x);
}

static void begin(struct api_exchange *x)
{
	if (!x->rs.status)
		x->service->answer(&x->rq, &x->rs);
	if (x->rs.status)
		answered(x);
	else
		submit(x);
}

/* ---- bodies that are produced while they are read ---- */

static void find_beginning(struct api_exchange *x)
{
	while (x->rs.stream && x->rs.stream->begin(x->rs.stream, &x->rs) > 0) {
		if (!l7mp_slice_over(x->loop))
			continue;
		l7mp_slice_post(x->loop, &x->slice);
		return;
	}
	answered(x);
}

/* Handles the result of the last step: continues later, ends, or aborts. */
static void produced(struct api_exchange *x, int rc)
{
	struct api_stream *st = x->rs.stream;

	if (rc > 0 && x->piece.len < x->piece_size) {
		l7mp_slice_post(x->loop, &x->slice);
		return;
	}
	if (rc <= 0) {
		st->free(st);
		x->rs.stream = NULL;
		x->state = rc < 0 ? EXCHANGE_BROKEN : EXCHANGE_OVER;
	}
	(void)notify(x);
}

static bool step_in_job(const struct api_stream *st)
{
	return st->in_job && st->in_job(st);
}

/* Runs in a worker thread. */
static struct l7mp_change *steps_run(void *arg)
{
	struct api_exchange *x = arg;
	struct api_stream *st = x->rs.stream;

	do
		x->step_rc = st->step(st, &x->piece);
	while (x->step_rc > 0 && x->piece.len < x->piece_size && step_in_job(st));
	return NULL;
}

static void steps_done(void *arg, struct l7mp_change *c, int rc, const struct l7mp_error *err)
{
	struct api_exchange *x = arg;

	(void)c;
	(void)err;
	x->in_job = false;
	if (!x->ready) {
		destroy(x);
		return;
	}
	produced(x, x->piece.oom ? -ENOMEM : rc ? rc : x->step_rc);
}

static void produce(struct api_exchange *x)
{
	struct api_stream *st = x->rs.stream;
	int rc = 1;

	if (x->in_job)
		return;
	while (rc > 0 && x->piece.len < x->piece_size && !step_in_job(st)) {
		rc = st->step(st, &x->piece);
		if (x->piece.oom)
			rc = -ENOMEM;
		if (rc > 0 && l7mp_slice_over(x->loop))
			break;
	}
	if (rc <= 0 || x->piece.len >= x->piece_size || !step_in_job(st)) {
		produced(x, rc);
		return;
	}
	x->in_job = true;
	x->job = (struct l7mp_runtime_job){
	        .build = steps_run, .done = steps_done, .arg = x, .reads = true, .goes_on = true};
	rc = l7mp_runtime_submit(x->api->params.runtime, &x->job);
	if (rc) {
		x->in_job = false;
		produced(x, rc);
	}
}

static void run(struct l7mp_slice *slice, void *arg)
{
	struct api_exchange *x = arg;

	(void)slice;
	if (x->state == EXCHANGE_NEW)
		begin(x);
	else if (x->state == EXCHANGE_BEGIN)
		find_beginning(x);
	else if (x->state == EXCHANGE_STREAM)
		produce(x);
}

/* ---- functions for the receiver ---- */

static char *copy(const char *text, bool *failed)
{
	char *c = text ? strdup(text) : NULL;

	*failed |= text && !c;
	return c;
}

int api_exchange_new(struct l7mp_api *api, const struct api_call *call, void (*ready)(void *arg),
                     void *arg, struct api_exchange **out)
{
	struct api_exchange *x = calloc(1, sizeof(*x));
	bool failed = false;

	if (!x) {
		free(call->body);
		return -ENOMEM;
	}
	x->service = call->service;
	x->api = api;
	x->loop = api->params.env->loop;
	x->ready = ready;
	x->arg = arg;
	x->wanted = true;
	x->piece_size = PIECE;
	x->large_pieces = call->large_pieces;
	l7mp_slice_init(&x->slice, run, x);
	x->rq = (struct api_request){.api = api,
	                             .exchange = x,
	                             .session = copy(call->session, &failed),
	                             .raw_path = copy(call->path, &failed),
	                             .raw_query = copy(call->query ? call->query : "", &failed),
	                             .content_type = copy(call->content_type, &failed),
	                             .if_match = copy(call->if_match, &failed),
	                             .if_none_match = copy(call->if_none_match, &failed),
	                             .method = copy(call->method, &failed),
	                             .body = call->body,
	                             .body_len = call->body_len,
	                             .too_large = call->too_large,
	                             .limit = UINT64_MAX};
	if (failed) {
		destroy(x);
		return -ENOMEM;
	}
	if (!strcmp(x->rq.method, "HEAD")) {
		strcpy(x->rq.method, "GET");
		x->rq.head = true;
	}
	if (call->refusal) {
		x->rs = *call->refusal;
		memset(call->refusal, 0, sizeof(*call->refusal));
	}
	l7mp_slice_post(x->loop, &x->slice);
	*out = x;
	return 0;
}

void api_exchange_free(struct api_exchange **xp)
{
	struct api_exchange *x = *xp;

	if (!x)
		return;
	*xp = NULL;
	x->ready = NULL;
	if ((x->state == EXCHANGE_JOB || x->in_job) &&
	    !l7mp_runtime_withdraw(x->api->params.runtime, &x->job))
		return; /* job_done or steps_done frees it */
	destroy(x);
}

const struct api_response *api_exchange_head(const struct api_exchange *x)
{
	return x->state >= EXCHANGE_STREAM ? &x->rs : NULL;
}

long long api_exchange_length(const struct api_exchange *x)
{
	return x->rs.text ? (long long)x->rs.text_len : -1;
}

static int read_text(struct api_exchange *x, char **text, size_t *len)
{
	size_t left = x->rs.text_len - x->off;

	if (x->rq.head || !left) {
		x->state = EXCHANGE_OVER;
		return 0;
	}
	*len = left < PIECE ? left : PIECE;
	*text = malloc(*len);
	if (!*text)
		return -EIO;
	memcpy(*text, x->rs.text + x->off, *len);
	x->off += *len;
	return 1;
}

int api_exchange_read(struct api_exchange *x, char **text, size_t *len)
{
	if (x->state == EXCHANGE_TEXT)
		return read_text(x, text, len);
	if (x->in_job) {
		x->wanted = true;
		return -EAGAIN;
	}
	if (x->piece.len &&
	    !(x->large_pieces && x->state == EXCHANGE_STREAM && x->piece.len < x->piece_size)) {
		*len = x->piece.len;
		*text = l7mp_str_take(&x->piece);
		if (x->large_pieces && x->piece_size < PIECE_MAX)
			x->piece_size *= 2;
		if (x->state == EXCHANGE_STREAM)
			l7mp_slice_post(x->loop, &x->slice);
		return *text ? 1 : -EIO;
	}
	if (x->state == EXCHANGE_BROKEN)
		return -EIO;
	if (x->state == EXCHANGE_OVER)
		return 0;
	x->wanted = true;
	return -EAGAIN;
}
