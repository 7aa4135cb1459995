/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/app.h"
#include "l7mp/log.h"

static const char usage[] =
        "usage: l7mp-proxy -c FILE [options]\n"
        "       l7mp-proxy [options] ADDRESS ADDRESS\n"
        "       l7mp-proxy --doctor [-i IFS]\n"
        "\n"
        "  -c, --config FILE       configuration: YAML when FILE ends in .yaml or .yml, else JSON\n"
        "  -l, --log-level LEVEL   silly verbose info notice warn error silent\n"
        "  -s, --strict            unknown keys in the configuration are errors\n"
        "  -o, --offload MODE      init (prepare and attach), no_init (use what is attached), "
        "disable\n"
        "  -i, --offload-ifs IFS   interfaces of the kernel fast path: IF[,IF...] or all\n"
        "  -t, --check             check the configuration and exit\n"
        "      --doctor            print what the kernel fast path finds on this machine (JSON) "
        "and exit\n"
        "  -V, --version           print the version and exit\n"
        "  -h, --help              print this and exit\n"
        "\n"
        "Two addresses, as socat has them, in the place of a file:\n"
        "      --via ADDRESS       a transformer from the first to the second; may be repeated\n"
        "      --back ADDRESS      a transformer from the second to the first; may be repeated\n"
        "  -u                      only from the first to the second; -U: the other way\n"
        "  -T SECONDS              sessions end after so long without traffic\n"
        "      --api [ADDR:]PORT   serve the REST API there; without it there is none\n"
        "  l7mp-proxy UDP-LISTEN:15000 WS:127.0.0.1:16000/path --via Logger\n"
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
	return 0;
}

enum { OPT_VIA = 256, OPT_BACK, OPT_API, OPT_DOCTOR };

static int add_to_chain(const char **chain, size_t *n, const char *value)
{
	if (*n == L7MP_OPTIONS_CHAIN) {
		fprintf(stderr, "l7mp-proxy: at most %d transformers in one direction\n",
		        L7MP_OPTIONS_CHAIN);
		return -E2BIG;
	}
	chain[(*n)++] = value;
	return 0;
}

static int parse_seconds(const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	if (text[0] >= '0' && text[0] <= '9' && !*end && *out > 0 && *out <= 2592000)
		return 0;
	fprintf(stderr, "l7mp-proxy: -T: expected seconds, more than 0, got '%s'\n", text);
	return -EINVAL;
}

/* A file or two addresses, not both. */
static int check_arguments(struct l7mp_options *o, int n, char **args)
{
	bool chain = o->oneliner.n_via || o->oneliner.n_back || o->oneliner.api ||
	             o->oneliner.only_forth || o->oneliner.only_back ||
	             o->oneliner.idle_timeout > 0;

	if ((o->oneliner.only_forth && (o->oneliner.only_back || o->oneliner.n_back)) ||
	    (o->oneliner.only_back && o->oneliner.n_via)) {
		fprintf(stderr, "l7mp-proxy: -u leaves nothing to -U and --back, -U nothing to "
		                "--via\n");
		return -EINVAL;
	}

	if (o->doctor && (o->config || n || chain)) {
		fprintf(stderr, "l7mp-proxy: --doctor takes no configuration, only -i\n");
		return -EINVAL;
	}
	if (o->doctor)
		return 0;
	if (o->config && n) {
		fprintf(stderr, "l7mp-proxy: unexpected argument '%s': a file is given with -c\n",
		        args[0]);
		return -EINVAL;
	}
	if (o->config && chain) {
		fprintf(stderr, "l7mp-proxy: --via, --back, --api, -u, -U and -T belong to two "
		                "addresses, a file is given with -c\n");
		return -EINVAL;
	}
	if (o->config)
		return 0;
	if (!n && !chain) {
		fprintf(stderr, "l7mp-proxy: no configuration: give one with -c FILE, or two "
		                "addresses (see -h)\n");
		return -EINVAL;
	}
	if (n != 2) {
		fprintf(stderr, "l7mp-proxy: expected two addresses, got %d%s%s%s\n", n,
		        n > 2 ? "; the third is '" : "", n > 2 ? args[2] : "", n > 2 ? "'" : "");
		return -EINVAL;
	}
	o->oneliner.first = args[0];
	o->oneliner.second = args[1];
	o->oneliner.via = o->via;
	o->oneliner.back = o->back;
	return 0;
}

/* Takes an option whose value is kept as text. Returns false when `opt` is another one. */
static bool take_text(struct l7mp_options *o, int opt)
{
	const struct {
		int opt;
		const char **out;
	} texts[] = {
	        {'c', &o->config},      {'l', &o->log_level},        {'o', &o->offload},
	        {'i', &o->offload_ifs}, {OPT_API, &o->oneliner.api},
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		if (texts[i].opt != opt)
			continue;
		*texts[i].out = optarg;
		return true;
	}
	return false;
}

/* Returns L7MP_OPTIONS_RUN to continue. */
static enum l7mp_options_result take_option(struct l7mp_options *o, int opt)
{
	int rc = 0;

	switch (opt) {
	case 's':
		o->strict = true;
		break;
	case 't':
		o->check_only = true;
		break;
	case 'u':
		o->oneliner.only_forth = true;
		break;
	case 'U':
		o->oneliner.only_back = true;
		break;
	case 'T':
		rc = parse_seconds(optarg, &o->oneliner.idle_timeout);
		break;
	case OPT_VIA:
		rc = add_to_chain(o->via, &o->oneliner.n_via, optarg);
		break;
	case OPT_BACK:
		rc = add_to_chain(o->back, &o->oneliner.n_back, optarg);
		break;
	case OPT_DOCTOR:
		o->doctor = true;
		break;
	case 'V':
		puts("l7mp-proxy " L7MP_VERSION);
		return L7MP_OPTIONS_DONE;
	case 'h':
		fputs(usage, stdout);
		return L7MP_OPTIONS_DONE;
	default: /* getopt(3) has printed the error */
		fprintf(stderr, "l7mp-proxy: see l7mp-proxy -h\n");
		return L7MP_OPTIONS_ERROR;
	}
	return rc ? L7MP_OPTIONS_ERROR : L7MP_OPTIONS_RUN;
}

static const struct option long_options[] = {
        {"config", required_argument, NULL, 'c'},
        {"log-level", required_argument, NULL, 'l'},
        {"strict", no_argument, NULL, 's'},
        {"offload", required_argument, NULL, 'o'},
        {"offload-ifs", required_argument, NULL, 'i'},
        {"check", no_argument, NULL, 't'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {"via", required_argument, NULL, OPT_VIA},
        {"back", required_argument, NULL, OPT_BACK},
        {"api", required_argument, NULL, OPT_API},
        {"doctor", no_argument, NULL, OPT_DOCTOR},
        {NULL, 0, NULL, 0},
};

enum l7mp_options_result l7mp_options_parse(int argc, char **argv, struct l7mp_options *out)
{
	static const char shorts[] = "c:l:so:i:tuUT:Vh";
	enum l7mp_options_result result;
	int opt;

	memset(out, 0, sizeof(*out));
	out->argv = argv;
	while ((opt = getopt_long(argc, argv, shorts, long_options, NULL)) != -1) {
		result = take_text(out, opt) ? L7MP_OPTIONS_RUN : take_option(out, opt);
		if (result != L7MP_OPTIONS_RUN)
			return result;
	}
	if (check_arguments(out, argc - optind, argv + optind))
		return L7MP_OPTIONS_ERROR;
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
