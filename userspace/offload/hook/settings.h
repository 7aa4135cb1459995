/* SPDX-License-Identifier: MIT */
/* The offload engine's copy of the admin settings that it uses. Thread: loop only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/model.h"

struct off_settings {
	enum l7mp_offload_start start;
	enum l7mp_offload_mode mode;
	char **ifs;
	size_t n_ifs;
	bool all;
	char *instance;
	uint32_t max_flows;
	struct l7mp_offload_tcp tcp;
	struct l7mp_offload_drain drain;
};
/* Copies the settings; the caller frees the copy with off_settings_clear. 0 or -ENOMEM. */
int off_settings_copy(struct off_settings *out, const struct l7mp_admin *admin);
void off_settings_clear(struct off_settings *s);
void off_settings_no_ifs(struct off_settings *s); /* no interface is wanted any more */
/* Is the interface listed by its name in offload_ifs? "all" doesn't count. */
bool off_settings_names(const struct off_settings *s, const char *ifname);
