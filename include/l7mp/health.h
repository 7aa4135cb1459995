/* SPDX-License-Identifier: MIT */
/*
 * What sessions have found out about an endpoint by connecting to it; of a cluster without
 * endpoints, about the cluster. Configuration objects refer to it, and are otherwise immutable: a
 * new version of an endpoint with the same address shares it, any other endpoint has a new one.
 *
 * Thread: any. All functions accept NULL, for objects that are not in the model.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct l7mp_health;

#define L7MP_HEALTH_ERROR 256
struct l7mp_health_state {
	uint64_t sessions;   /* stages of sessions that are connected now */
	uint64_t connects;   /* attempts to connect */
	uint64_t failed;     /* attempts that failed, also by time-out */
	uint64_t lost;       /* connections that an error ended, or (UDP) that got one */
	uint64_t success_ms; /* wall clock of the last attempt that succeeded; 0: none did */
	uint64_t failure_ms; /* ... of the last attempt that failed or connection that was lost */
	char error[L7MP_HEALTH_ERROR]; /* its error, as UTF-8; truncated */
};

/* Makes one with zero counters and one reference. Returns 0 or -ENOMEM. */
int l7mp_health_new(struct l7mp_health **out);
struct l7mp_health *l7mp_health_ref(struct l7mp_health *h);
/* Gives up a reference; the last one frees it. */
void l7mp_health_unref(struct l7mp_health *h);

/* An attempt to connect begins. */
void l7mp_health_begins(struct l7mp_health *h);
/* The attempt has failed. `why` may be any text. */
void l7mp_health_failed(struct l7mp_health *h, const char *why);
/*
 * A stage is connected. `attempt`: by an attempt that has begun here; otherwise its connection goes
 * on from an earlier process.
 */
void l7mp_health_connected(struct l7mp_health *h, bool attempt);
/* A connected stage has left. `why`: the error that ended the connection; NULL: there is none. */
void l7mp_health_left(struct l7mp_health *h, const char *why);

/* The peer of a connected stage can't be reached, but the stage stays: counted as lost. */
void l7mp_health_unreachable(struct l7mp_health *h, const char *why);

/* Reads a consistent state; all zero for NULL. */
void l7mp_health_read(struct l7mp_health *h, struct l7mp_health_state *out);
