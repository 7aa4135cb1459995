/* SPDX-License-Identifier: MIT */
/* The offload engine's copy of the admin settings that it uses. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/abi.h"
#include "settings.h"

void off_settings_no_ifs(struct off_settings *s)
{
	for (size_t i = 0; i < s->n_ifs; i++)
		free(s->ifs[i]);
	s->n_ifs = 0;
	s->all = false;
}

void off_settings_clear(struct off_settings *s)
{
	off_settings_no_ifs(s);
	free(s->ifs);
	free(s->instance);
	memset(s, 0, sizeof(*s));
}

int off_settings_copy(struct off_settings *out, const struct l7mp_admin *admin)
{
	memset(out, 0, sizeof(*out));
	out->start = admin->offload;
	out->mode = admin->offload_mode;
	out->tcp = admin->offload_tcp;
	out->drain = admin->offload_drain;
	out->max_flows = admin->limits.max_flows ? admin->limits.max_flows : L7MP_FLOWS_DEFAULT;
	out->instance = strdup(l7mp_admin_instance(admin));
	out->ifs = calloc(admin->n_offload_ifs + 1, sizeof(*out->ifs));
	if (!out->instance || !out->ifs)
		goto nomem;
	for (size_t i = 0; i < admin->n_offload_ifs; i++) {
		if (!strcmp(admin->offload_ifs[i], "all"))
			out->all = true;
		out->ifs[i] = strdup(admin->offload_ifs[i]);
		if (!out->ifs[i])
			goto nomem;
		out->n_ifs++;
	}
	return 0;
nomem:
	off_settings_clear(out);
	return -ENOMEM;
}

bool off_settings_names(const struct off_settings *s, const char *ifname)
{
	for (size_t i = 0; i < s->n_ifs; i++)
		if (!strcmp(s->ifs[i], ifname))
			return true;
	return false;
}
