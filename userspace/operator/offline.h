/* SPDX-License-Identifier: MIT */
/* Operations without a cluster. */
#pragma once

#include "render.h"

struct op_offline_options {
	struct op_settings settings;
	char **files; /* files and directories; "-": stdin */
	int n_files;
	bool statuses_only;
};
/*
 * Prints the result of rendering objects from files: YAML documents, one for each proxy, then one
 * with all statuses. Objects of other kinds are skipped. Messages go to stderr. Returns the exit
 * status: 0; 1 when a file can't be used or an object was not accepted.
 */
int op_offline_render(const struct l7mp_registry *registry, const struct op_offline_options *o);
/* Prints the CustomResourceDefinitions as YAML. Returns the exit status. */
int op_offline_crds(const struct l7mp_registry *registry);
