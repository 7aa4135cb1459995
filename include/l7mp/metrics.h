/* SPDX-License-Identifier: MIT */
/*
 * Writes metrics in the Prometheus text format, version 0.0.4. The format wants all lines of a
 * metric together: write its head, then all of its samples. Allocation failures are recorded in
 * out->oom.
 *
 * Thread: any.
 */
#pragma once

#include <stdint.h>

#include "l7mp/util.h"

/*
 * Writes the lines "# HELP" and "# TYPE". `type` is "counter", "gauge" or "histogram"; `help` must
 * have no line breaks and no backslashes.
 */
void l7mp_metrics_head(struct l7mp_str *out, const char *name, const char *type, const char *help);

struct l7mp_label {
	const char *key;
	const char *value; /* any text; it is escaped, and invalid UTF-8 becomes U+FFFD */
};
/* Writes one sample. `labels` ends with an entry whose key is NULL; it may be NULL itself. */
void l7mp_metrics_sample(struct l7mp_str *out, const char *name, const struct l7mp_label *labels,
                         uint64_t value);
/* Writes the head and a single sample without labels. */
void l7mp_metrics_plain(struct l7mp_str *out, const char *name, const char *type, const char *help,
                        uint64_t value);
