/* SPDX-License-Identifier: MIT */
/* Exchanges: what a worker and the loop share of one request. Thread: both. */
#include "http_int.h"

#include <stdlib.h>
#include <string.h>

void l7mp_http_chunkq_init(struct l7mp_http_chunkq *q)
{
	q->head = NULL;
	q->tail = &q->head;
	q->bytes = 0;
}

void l7mp_http_chunkq_push(struct l7mp_http_chunkq *q, struct l7mp_http_chunk *c)
{
	c->next = NULL;
	*q->tail = c;
	q->tail = &c->next;
	q->bytes += c->len;
}

struct l7mp_http_chunk *l7mp_http_chunkq_pop(struct l7mp_http_chunkq *q)
{
	struct l7mp_http_chunk *c = q->head;

	if (!c)
		return NULL;
	q->head = c->next;
	if (!q->head)
		q->tail = &q->head;
	q->bytes -= c->len;
	c->next = NULL;
	return c;
}

void l7mp_http_chunkq_clear(struct l7mp_http_chunkq *q)
{
	struct l7mp_http_chunk *c;

	while ((c = l7mp_http_chunkq_pop(q)))
		free(c);
}

void l7mp_http_chunkq_move(struct l7mp_http_chunkq *q, struct l7mp_http_chunkq *from)
{
	if (!from->head)
		return;
	*q->tail = from->head;
	q->tail = from->tail;
	q->bytes += from->bytes;
	l7mp_http_chunkq_init(from);
}

struct l7mp_http_chunk *l7mp_http_chunk_new(const void *data, size_t len)
{
	struct l7mp_http_chunk *c = malloc(sizeof(*c) + len);

	if (!c)
		return NULL;
	c->next = NULL;
	c->len = len;
	if (data && len)
		memcpy(c->data, data, len);
	return c;
}

struct l7mp_http_xchg *l7mp_http_xchg_new(struct l7mp_http_engine *engine)
{
	struct l7mp_http_xchg *x = calloc(1, sizeof(*x));
	pthread_condattr_t attr;

	if (!x)
		return NULL;
	atomic_init(&x->refs, 1);
	x->engine = engine;
	x->mail.cb = l7mp_http_stream_mail;
	l7mp_http_chunkq_init(&x->in);
	l7mp_http_chunkq_init(&x->out);
	pthread_mutex_init(&x->mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&x->cv, &attr);
	pthread_condattr_destroy(&attr);
	return x;
}

void l7mp_http_xchg_unref(struct l7mp_http_xchg *x)
{
	if (atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
		return;
	l7mp_http_chunkq_clear(&x->in);
	l7mp_http_chunkq_clear(&x->out);
	l7mp_http_reply_free(x->reply);
	cJSON_Delete(x->http);
	pthread_cond_destroy(&x->cv);
	pthread_mutex_destroy(&x->mu);
	free(x);
}

bool l7mp_http_xchg_mail(struct l7mp_http_xchg *x)
{
	bool post;

	pthread_mutex_lock(&x->mu);
	post = !x->mailed;
	x->mailed = true;
	pthread_mutex_unlock(&x->mu);
	if (!post)
		return true;
	atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
	if (l7mp_mailbox_post(x->engine->mailbox, &x->mail) == 0)
		return true;
	l7mp_http_xchg_unref(x);
	return false;
}
