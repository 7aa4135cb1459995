/* SPDX-License-Identifier: MIT */
/* l7mp-proxy --doctor: checks the machine, without a configuration. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/app.h"
#include "l7mp/log.h"
#include "l7mp/model.h"
#include "l7mp/offload.h"

/*
 * Splits "a,b" into names; the array and all names are in one piece of memory that the caller
 * frees.
 */
static char **split(const char *list, size_t *n)
{
	size_t most = 1, len = strlen(list) + 1;
	char **names, *text, *save = NULL;

	for (const char *p = list; *p; p++)
		most += *p == ',';
	*n = 0;
	names = calloc(1, most * sizeof(*names) + len);
	if (!names)
		return NULL;
	text = (char *)(names + most);
	memcpy(text, list, len);
	for (char *p = strtok_r(text, ", ", &save); p; p = strtok_r(NULL, ", ", &save))
		names[(*n)++] = p;
	return names;
}

int l7mp_app_doctor(const struct l7mp_options *options)
{
	struct l7mp_admin admin = {.offload = L7MP_OFFLOAD_INIT};
	enum l7mp_log_level level;
	cJSON *found;
	char *text;
	int rc = -ENOMEM;

	/* Only errors are logged, as stdout is for the report. */
	l7mp_log_set_level(L7MP_LOG_ERROR);
	if (options->log_level && !l7mp_log_level_parse(options->log_level, &level))
		l7mp_log_set_level(level);
	(void)l7mp_log_open("stderr", false);
	admin.offload_ifs =
	        split(options->offload_ifs ? options->offload_ifs : "", &admin.n_offload_ifs);
	found = admin.offload_ifs ? l7mp_offload_doctor(&admin) : NULL;
	text = found ? l7mp_json_print(found, L7MP_JSON_LINES) : NULL;
	if (text) {
		fputs(text, stdout);
		rc = l7mp_json_bool(found, "ok", false) ? 0 : -ENOTSUP;
		if (fflush(stdout))
			rc = -EIO;
	}
	if (rc == -ENOMEM || rc == -EIO)
		fprintf(stderr, "l7mp-proxy: --doctor: %s\n", strerror(-rc));
	free(text);
	cJSON_Delete(found);
	l7mp_log_close();
	free(admin.offload_ifs);
	return rc;
}
