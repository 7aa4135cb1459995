/* SPDX-License-Identifier: MIT */
/* PIPE: what its specs may hold. */
#include <stdio.h>
#include <string.h>

#include "pipe_int.h"

static const struct l7mp_field listener_fields[] = {
        {.key = "filename",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_PATH,
         .doc = "FIFO that is read; made when it is missing, and then removed at the end"},
        {.key = "output",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .doc = "FIFO that answers are written to; made when it is missing, and then removed at "
                "the "
                "end. Answers wait, and hold back who sends them, until somebody reads it. Without "
                "it they are dropped and counted"},
        {0},
};

static void check_listener(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *output = l7mp_json_member(spec, "output");
	char at[256];

	if (!cJSON_IsString(output) ||
	    strcmp(output->valuestring, l7mp_json_str(spec, "filename", "")))
		return;
	snprintf(at, sizeof(at), "%.200s.output", path);
	l7mp_issues_add(issues, false, output, at,
	                "expected another path than filename: it would read its own answers");
}

const struct l7mp_schema pipe_listener_spec = {
        .name = "pipe-listener",
        .doc = "Reads a FIFO; one session at a time, which begins with the first byte and ends "
               "when "
               "the last writer leaves, unless the route retries on disconnects",
        .fields = listener_fields,
        .check = check_listener,
};

static const struct l7mp_field cluster_fields[] = {
        {.key = "input",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .doc = "FIFO that answers are read from, by one session at a time; made when it is "
                "missing, and then removed when the proxy ends"},
        {0},
};
const struct l7mp_schema pipe_cluster_spec = {
        .name = "pipe-cluster",
        .doc = "Writes to a FIFO; connected when somebody reads it",
        .fields = cluster_fields,
};

static const struct l7mp_field endpoint_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_PATH,
         .doc = "FIFO that is written; made when it is missing, and then removed when the proxy "
                "ends"},
        {0},
};
const struct l7mp_schema pipe_endpoint_spec = {
        .name = "pipe-endpoint",
        .doc = "A FIFO",
        .fields = endpoint_fields,
};
