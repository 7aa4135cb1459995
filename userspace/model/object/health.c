/* SPDX-License-Identifier: MIT */
/*
 * The health of endpoints. The loop counts, while the thread that prints documents reads: a lock
 * for each keeps the counters, the time and the text of the last error together.
 */
#include "l7mp/health.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"

struct l7mp_health {
	atomic_uint refs;
	pthread_mutex_t lock; /* protects the fields below */
	uint64_t sessions, connects, failed, lost, success_ms, failure_ms;
	char *error; /* NULL: none, or no memory */
};

int l7mp_health_new(struct l7mp_health **out)
{
	struct l7mp_health *h = calloc(1, sizeof(*h));

	*out = NULL;
	if (!h)
		return -ENOMEM;
	if (pthread_mutex_init(&h->lock, NULL)) {
		free(h);
		return -ENOMEM;
	}
	atomic_init(&h->refs, 1);
	*out = h;
	return 0;
}

struct l7mp_health *l7mp_health_ref(struct l7mp_health *h)
{
	if (h)
		atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
	return h;
}

void l7mp_health_unref(struct l7mp_health *h)
{
	if (!h || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) != 1)
		return;
	pthread_mutex_destroy(&h->lock);
	free(h->error);
	free(h);
}

/* Copies at most `size` - 1 bytes, without cutting a character, and makes them UTF-8. */
static char *copy_text(const char *text, size_t size)
{
	struct l7mp_str s = {0};
	size_t len;

	l7mp_str_add_utf8(&s, text, strnlen(text, size));
	len = s.len;
	if (len >= size) {
		len = size - 1;
		while (len && ((unsigned char)s.s[len] & 0xc0) == 0x80)
			len--;
		s.s[len] = '\0';
	}
	return l7mp_str_take(&s);
}

/* With the lock held; takes `error`. */
static void set_failure(struct l7mp_health *h, char *error)
{
	free(h->error);
	h->error = error;
	h->failure_ms = l7mp_wallclock_ms();
}

void l7mp_health_begins(struct l7mp_health *h)
{
	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	h->connects++;
	pthread_mutex_unlock(&h->lock);
}

void l7mp_health_failed(struct l7mp_health *h, const char *why)
{
	char *error;

	if (!h)
		return;
	error = copy_text(why, L7MP_HEALTH_ERROR);
	pthread_mutex_lock(&h->lock);
	h->failed++;
	set_failure(h, error);
	pthread_mutex_unlock(&h->lock);
}

void l7mp_health_connected(struct l7mp_health *h, bool attempt)
{
	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	h->sessions++;
	if (attempt)
		h->success_ms = l7mp_wallclock_ms();
	pthread_mutex_unlock(&h->lock);
}

void l7mp_health_left(struct l7mp_health *h, const char *why)
{
	char *error;

	if (!h)
		return;
	error = why ? copy_text(why, L7MP_HEALTH_ERROR) : NULL;
	pthread_mutex_lock(&h->lock);
	h->sessions--;
	if (why) {
		h->lost++;
		set_failure(h, error);
	}
	pthread_mutex_unlock(&h->lock);
}

void l7mp_health_unreachable(struct l7mp_health *h, const char *why)
{
	char *error;

	if (!h)
		return;
	error = copy_text(why, L7MP_HEALTH_ERROR);
	pthread_mutex_lock(&h->lock);
	h->lost++;
	set_failure(h, error);
	pthread_mutex_unlock(&h->lock);
}

void l7mp_health_read(struct l7mp_health *h, struct l7mp_health_state *out)
{
	memset(out, 0, sizeof(*out));
	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	out->sessions = h->sessions;
	out->connects = h->connects;
	out->failed = h->failed;
	out->lost = h->lost;
	out->success_ms = h->success_ms;
	out->failure_ms = h->failure_ms;
	if (h->error)
		memcpy(out->error, h->error, strlen(h->error) + 1);
	pthread_mutex_unlock(&h->lock);
}
