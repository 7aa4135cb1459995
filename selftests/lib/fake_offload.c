/* SPDX-License-Identifier: MIT */
#include "fake_offload.h"

#include <stdlib.h>
#include <string.h>

static void subscribe(void *ctx, const struct l7mp_offload_events *events, void *arg)
{
	struct fake_offload *o = ctx;

	o->events = events;
	o->arg = arg;
}

static int add(void *ctx, const struct l7mp_flow_end *a, const struct l7mp_flow_end *b,
               const struct l7mp_flow_owner *owner, struct l7mp_flow **out)
{
	struct fake_offload *o = ctx;
	struct l7mp_flow *f;

	o->adds++;
	if (o->refuse)
		return (int)o->refuse;
	f = calloc(1, sizeof(*f));
	f->a = *a;
	f->b = *b;
	f->cookie = owner->cookie;
	f->next = o->flows;
	o->flows = f;
	*out = f;
	return 0;
}

static void take(struct fake_offload *o, struct l7mp_flow *f)
{
	struct l7mp_flow **at = &o->flows;

	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	free(f);
}

static void remove_flow(void *ctx, struct l7mp_flow **flow, struct l7mp_flow_counters final[2])
{
	struct fake_offload *o = ctx;

	o->removes++;
	if (o->on_remove)
		o->on_remove(o->on_remove_arg);
	memcpy(final, (*flow)->now, sizeof((*flow)->now));
	take(o, *flow);
	*flow = NULL;
}

static void read_flow(void *ctx, struct l7mp_flow *flow, bool fresh,
                      struct l7mp_flow_counters now[2])
{
	struct fake_offload *o = ctx;

	o->fresh_reads += fresh;
	memcpy(now, flow->now, sizeof(flow->now));
}

static int own(void *ctx, struct l7mp_flow *flow, uint64_t cookie, const int fd[2],
               struct l7mp_rtp_stream *rtp, const struct l7mp_flow_end *ends)
{
	struct fake_offload *o = ctx;

	(void)fd;
	(void)rtp;
	(void)ends;
	flow->cookie = cookie;
	flow->begun = o->own_rc == 0;
	return o->own_rc;
}

struct l7mp_flow *fake_offload_old(struct fake_offload *o)
{
	struct l7mp_flow *f = calloc(1, sizeof(*f));

	f->next = o->flows;
	o->flows = f;
	return f;
}

static void recheck(void *ctx, struct l7mp_flow *flow)
{
	struct fake_offload *o = ctx;

	(void)flow;
	o->rechecks++;
}

static void where(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
                  const char **hook, const char **interface)
{
	(void)ctx;
	(void)flow;
	*hook = "tc";
	*interface = dir == L7MP_INGRESS ? "eth0" : "eth1";
}

void fake_offload_init(struct fake_offload *o)
{
	memset(o, 0, sizeof(*o));
	o->ops = (struct l7mp_offload){.ctx = o,
	                               .subscribe = subscribe,
	                               .add = add,
	                               .remove = remove_flow,
	                               .read = read_flow,
	                               .recheck = recheck,
	                               .own = own,
	                               .where = where};
}

void fake_offload_begin(struct fake_offload *o, bool late)
{
	for (struct l7mp_flow *f = o->flows; f; f = f->next) {
		if (f->begun)
			continue;
		f->begun = true;
		o->events->begun(o->arg, f->cookie, late);
	}
}

bool fake_offload_ready(struct fake_offload *o)
{
	return o->events->ready(o->arg, o->flows->cookie);
}

void fake_offload_withdraw(struct fake_offload *o, enum l7mp_reason reason)
{
	struct l7mp_flow f = *o->flows;

	take(o, o->flows);
	o->events->withdrawn(o->arg, f.cookie, reason, f.now);
}

void fake_offload_retry(struct fake_offload *o)
{
	o->events->retry(o->arg);
}
