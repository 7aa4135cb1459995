/* SPDX-License-Identifier: MIT */
#include "l7mp/metrics.h"

#include <inttypes.h>
#include <string.h>

void l7mp_metrics_head(struct l7mp_str *out, const char *name, const char *type, const char *help)
{
	l7mp_str_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* The format requires escapes for backslash, quote and line feed. */
static void add_value(struct l7mp_str *out, const char *value)
{
	while (*value) {
		size_t n = strcspn(value, "\\\"\n");

		l7mp_str_add_utf8(out, value, n);
		value += n;
		if (!*value)
			break;
		l7mp_str_add(out, *value == '\n' ? "\\n" : *value == '"' ? "\\\"" : "\\\\");
		value++;
	}
}

void l7mp_metrics_sample(struct l7mp_str *out, const char *name, const struct l7mp_label *labels,
                         uint64_t value)
{
	l7mp_str_add(out, name);
	for (const struct l7mp_label *l = labels; l && l->key; l++) {
		l7mp_str_addf(out, "%s%s=\"", l == labels ? "{" : ",", l->key);
		add_value(out, l->value);
		l7mp_str_add(out, "\"");
	}
	l7mp_str_addf(out, "%s %" PRIu64 "\n", labels && labels->key ? "}" : "", value);
}

void l7mp_metrics_plain(struct l7mp_str *out, const char *name, const char *type, const char *help,
                        uint64_t value)
{
	l7mp_metrics_head(out, name, type, help);
	l7mp_metrics_sample(out, name, NULL, value);
}
