/* SPDX-License-Identifier: MIT */
/* STDIO-fork: what its specs may hold, and what a process is started with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fork_int.h"
#include "l7mp/util.h"

const char **fork_argv(const cJSON *command)
{
	size_t n = cJSON_IsArray(command) ? (size_t)cJSON_GetArraySize(command) : 1, i = 0;
	const char **argv = calloc(n + 1, sizeof(*argv));
	const cJSON *word;

	if (argv && cJSON_IsString(command))
		argv[0] = command->valuestring;
	else if (argv)
		cJSON_ArrayForEach (word, command)
			argv[i++] = cJSON_IsString(word) ? word->valuestring : "";
	return argv;
}

void fork_env_free(char **env)
{
	for (size_t i = 0; env && env[i]; i++)
		free(env[i]);
	free(env);
}

char **fork_env(const cJSON *map, const char *session)
{
	char **env = calloc((size_t)cJSON_GetArraySize(map) + 2, sizeof(*env));
	const cJSON *var;
	size_t n = 0;

	if (!env)
		return NULL;
	env[n] = l7mp_asprintf("L7MP_SESSION=%s", session ? session : "");
	cJSON_ArrayForEach (var, map)
		if (env[n])
			env[++n] = l7mp_asprintf("%s=%s", var->string,
			                         cJSON_IsString(var) ? var->valuestring : "");
	if (env[n])
		return env;
	fork_env_free(env);
	return NULL;
}

static const struct l7mp_field word = {.type = L7MP_T_STRING};
static const struct l7mp_field command_array = {
        .type = L7MP_T_ARRAY, .item = &word, .min = 1, .max = 4096};
static const struct l7mp_field command_string = {
        .type = L7MP_T_STRING, .min = 1, .max = 4096, .pattern = L7MP_P_PATH};
static const struct l7mp_field *const commands[] = {&command_array, &command_string, NULL};
static const char *const stderr_values[] = {"log", "discard", NULL};
static const struct l7mp_field cluster_fields[] = {
        {.key = "command",
         .type = L7MP_T_ONEOF,
         .flags = L7MP_F_REQUIRED,
         .alternatives = commands,
         .doc = "the program and its arguments, run without a shell; a string is a program without "
                "arguments; without a / it is looked up in PATH"},
        {.key = "env",
         .type = L7MP_T_MAP,
         .item = &word,
         .doc = "environment variables, beside the proxy's own and L7MP_SESSION (the session's "
                "name)"},
        {.key = "cwd", .type = L7MP_T_STRING, .pattern = L7MP_P_PATH, .doc = "working directory"},
        {.key = "stderr",
         .type = L7MP_T_ENUM,
         .values = stderr_values,
         .def = "\"log\"",
         .doc = "log: its lines go to the proxy's log, at most 20 a second for each session; "
                "discard: nowhere"},
        {0},
};

static void check_cluster(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *command = l7mp_json_member(spec, "command"), *var;
	const cJSON *program = cJSON_IsArray(command) ? command->child : NULL;
	char at[256];

	if (cJSON_IsString(program) && !program->valuestring[0]) {
		snprintf(at, sizeof(at), "%.200s.command[0]", path);
		l7mp_issues_add(issues, false, program, at, "expected a program, got \"\"");
	}
	cJSON_ArrayForEach (var, l7mp_json_member(spec, "env")) {
		if (var->string && var->string[0] && !strchr(var->string, '='))
			continue;
		snprintf(at, sizeof(at), "%.200s.env", path);
		l7mp_issues_add(issues, false, var, path,
		                "expected names of variables (not empty, without =), got \"%s\"",
		                var->string ? var->string : "");
	}
}

const struct l7mp_schema fork_cluster_spec = {
        .name = "fork-cluster",
        .doc = "Starts a process for each session; the session writes to its standard input and "
               "reads its standard output. Its exit ends the stage, and it is ended with the "
               "session",
        .fields = cluster_fields,
        .check = check_cluster,
};
