/* SPDX-License-Identifier: MIT */
/* The text of /metrics. */
#pragma once

#include "operator.h"

/* Of one kind, all its namespaces together. */
struct op_kind_metrics {
	bool any;
	uint64_t objects, lists, relists, watches, events, bookmarks, errors, bad;
	uint64_t lag_ms; /* of the one that is silent for the longest time */
};

struct op_metrics {
	bool leads, synced;
	uint64_t renders, left_out, store_bytes, loop_latency_us, now_ms;
	struct op_histogram render;
	/* Private. */
	struct op_kind_metrics kinds[OP_KINDS];
};

void op_metrics_print(struct l7mp_str *out, const struct op_metrics *m,
                      const struct op_peers_stats *peers, const struct op_writer_stats *writer,
                      const struct kube_events_stats *events,
                      const struct kube_client_stats *client);
/* The reflectors: begin, each of them, print. */
void op_metrics_reflectors_begin(struct op_metrics *m);
void op_metrics_reflector(struct op_metrics *m, const struct kube_reflector *r);
void op_metrics_reflectors_print(struct l7mp_str *out, const struct op_metrics *m);
