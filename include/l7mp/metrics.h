/* SPDX-License-Identifier: MIT */
/*
 * Prometheus' text format 0.0.4, for whoever has metrics to show. All lines of one
 * metric must stay together: head, then its samples.
 */
#pragma once

#include <stdint.h>

#include "l7mp/util.h"

/* "# HELP" and "# TYPE"; type "counter" or "gauge"; help without line breaks or backslashes. */
void l7mp_metrics_head(struct l7mp_str *out, const char *name, const char *type, const char *help);

struct l7mp_label {
	const char *key;
	const char *value; /* escaped here; what is not UTF-8 becomes U+FFFD */
};
/* One sample; `labels` ends with key NULL and may itself be NULL. */
void l7mp_metrics_sample(struct l7mp_str *out, const char *name, const struct l7mp_label *labels,
                         uint64_t value);
/* head and one sample without labels */
void l7mp_metrics_plain(struct l7mp_str *out, const char *name, const char *type, const char *help,
                        uint64_t value);
