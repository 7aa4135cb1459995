/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "l7mp/app.h"
#include "l7mp/log.h"

static const char usage[] =
        "usage: l7mp-proxy -c FILE [options]\n"
        "\n"
        "  -c, --config FILE       configuration: YAML when FILE ends in .yaml or .yml, else JSON\n"
        "  -l, --log-level LEVEL   silly verbose info notice warn error silent\n"
        "  -s, --strict            unknown keys in the configuration are errors\n"
        "  -o, --offload MODE      init (prepare and attach), no_init (use what is attached), "
        "disable\n"
        "  -i, --offload-ifs IFS   interfaces of the kernel fast path: IF[,IF...] or all\n"
        "  -t, --check             check the configuration and exit\n"
        "  -V, --version           print the version and exit\n"
        "  -h, --help              print this and exit\n"
        "\n"
        "The command line overrides the file. See l7mp-proxy(8).\n";

static int known(const char *value, const char *const *values)
{
	for (; *values; values++)
		if (strcmp(value, *values) == 0)
			return 1;
	return 0;
}

static int check_values(const struct l7mp_options *o)
{
	static const char *const offloads[] = {"init", "no_init", "disable", NULL};
	enum l7mp_log_level level;

	if (o->log_level && l7mp_log_level_parse(o->log_level, &level)) {
		fprintf(stderr,
		        "l7mp-proxy: --log-level: expected one of silly verbose info notice warn "
		        "error silent, got '%s'\n",
		        o->log_level);
		return -EINVAL;
	}
	if (o->offload && !known(o->offload, offloads)) {
		fprintf(stderr,
		        "l7mp-proxy: --offload: expected init, no_init or disable, got '%s'\n",
		        o->offload);
		return -EINVAL;
	}
	if (!o->config) {
		fprintf(stderr, "l7mp-proxy: no configuration: give one with -c FILE (see -h)\n");
		return -EINVAL;
	}
	return 0;
}

enum l7mp_options_result l7mp_options_parse(int argc, char **argv, struct l7mp_options *out)
{
	static const struct option longs[] = {
	        {"config", required_argument, NULL, 'c'},
	        {"log-level", required_argument, NULL, 'l'},
	        {"strict", no_argument, NULL, 's'},
	        {"offload", required_argument, NULL, 'o'},
	        {"offload-ifs", required_argument, NULL, 'i'},
	        {"check", no_argument, NULL, 't'},
	        {"version", no_argument, NULL, 'V'},
	        {"help", no_argument, NULL, 'h'},
	        {NULL, 0, NULL, 0},
	};
	int c;

	memset(out, 0, sizeof(*out));
	while ((c = getopt_long(argc, argv, "c:l:so:i:tVh", longs, NULL)) != -1) {
		switch (c) {
		case 'c':
			out->config = optarg;
			break;
		case 'l':
			out->log_level = optarg;
			break;
		case 's':
			out->strict = true;
			break;
		case 'o':
			out->offload = optarg;
			break;
		case 'i':
			out->offload_ifs = optarg;
			break;
		case 't':
			out->check_only = true;
			break;
		case 'V':
			puts("l7mp-proxy " L7MP_VERSION);
			return L7MP_OPTIONS_DONE;
		case 'h':
			fputs(usage, stdout);
			return L7MP_OPTIONS_DONE;
		default: /* getopt has said what was wrong */
			fprintf(stderr, "l7mp-proxy: see l7mp-proxy -h\n");
			return L7MP_OPTIONS_ERROR;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "l7mp-proxy: unexpected argument '%s' (see -h)\n", argv[optind]);
		return L7MP_OPTIONS_ERROR;
	}
	return check_values(out) ? L7MP_OPTIONS_ERROR : L7MP_OPTIONS_RUN;
}

int l7mp_options_override(const struct l7mp_options *o, cJSON *config)
{
	const struct {
		const char *pointer;
		cJSON *value;
		bool given;
	} over[] = {
	        {"/admin/log_level", o->log_level ? cJSON_CreateString(o->log_level) : NULL,
	         o->log_level},
	        {"/admin/strict", o->strict ? cJSON_CreateTrue() : NULL, o->strict},
	        {"/admin/offload", o->offload ? cJSON_CreateString(o->offload) : NULL, o->offload},
	        {"/admin/offload_ifs", o->offload_ifs ? cJSON_CreateString(o->offload_ifs) : NULL,
	         o->offload_ifs},
	};
	int rc = 0;

	for (size_t i = 0; i < sizeof(over) / sizeof(over[0]); i++) {
		if (!over[i].given)
			continue;
		if (!over[i].value)
			rc = -ENOMEM;
		else if (!rc)
			rc = l7mp_json_set(config, over[i].pointer, over[i].value);
		else
			cJSON_Delete(over[i].value);
	}
	return rc;
}
