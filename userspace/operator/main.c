/* SPDX-License-Identifier: MIT */
/* l7mp-operator: the controller of the service mesh. */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/registry_all.h"
#include "offline.h"

static const char help[] =
        "Usage: l7mp-operator [OPTION]...\n"
        "       l7mp-operator --render [OPTION]... FILE|DIR...\n"
        "Makes l7mp proxies in a Kubernetes cluster do what objects of the cluster say.\n"
        "\n"
        "  --render FILE|DIR...   print the proxies' configs that the objects in YAML or JSON "
        "files make,\n"
        "                         and their statuses, without a cluster; '-': stdin\n"
        "      --statuses         with --render: print only the statuses\n"
        "      --any-namespace    selectors reach all namespaces, as in the original, without\n"
        "                         ReferenceGrants\n"
        "      --container NAME   the proxies' container (default: l7mp)\n"
        "      --admin-port PORT  the proxies' admin server (default: 1235)\n"
        "  -V, --version          -h, --help\n"
        "\n"
        "Exit status: 0 done, 1 an object was not accepted or a file can't be used, 2 wrong "
        "usage.\n";

enum { OPT_RENDER = 256, OPT_STATUSES, OPT_ANY_NAMESPACE, OPT_CONTAINER, OPT_PORT };

static const struct option options[] = {
        {"render", no_argument, NULL, OPT_RENDER},
        {"statuses", no_argument, NULL, OPT_STATUSES},
        {"any-namespace", no_argument, NULL, OPT_ANY_NAMESPACE},
        {"container", required_argument, NULL, OPT_CONTAINER},
        {"admin-port", required_argument, NULL, OPT_PORT},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
};

static int usage(const char *message)
{
	fprintf(stderr, "l7mp-operator: %s\nTry 'l7mp-operator --help'.\n", message);
	return 2;
}

int main(int argc, char **argv)
{
	struct op_offline_options o = {.settings = op_settings_default};
	bool render = false;
	char *end;
	long port;
	int c;

	setlocale(LC_CTYPE, "C.UTF-8");
	while ((c = getopt_long(argc, argv, "Vh", options, NULL)) != -1) {
		switch (c) {
		case OPT_RENDER:
			render = true;
			break;
		case OPT_STATUSES:
			o.statuses_only = true;
			break;
		case OPT_ANY_NAMESPACE:
			o.settings.any_namespace = true;
			break;
		case OPT_CONTAINER:
			o.settings.container = optarg;
			break;
		case OPT_PORT:
			port = strtol(optarg, &end, 10);
			if (*end || port < 1 || port > 65535)
				return usage("--admin-port: expected 1..65535");
			o.settings.port = (uint16_t)port;
			break;
		case 'V':
			puts("l7mp-operator " L7MP_VERSION);
			return 0;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return usage("wrong option");
		}
	}
	o.files = argv + optind;
	o.n_files = argc - optind;
	if (render)
		return o.n_files ? op_offline_render(&l7mp_all_registry, &o)
		                 : usage("--render: expected files or directories");
	/*
	 * Here the running mode begins: kubeconfig or the cluster's own credentials, the
	 * reflectors, the lease, the reconciler.
	 */
	return usage("expected --render");
}
