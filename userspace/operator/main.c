/* SPDX-License-Identifier: MIT */
/* l7mp-operator: the controller of the service mesh. */
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/log.h"
#include "l7mp/registry_all.h"
#include "offline.h"
#include "operator.h"

static const char help[] =
        "Usage: l7mp-operator [OPTION]...\n"
        "       l7mp-operator --render [OPTION]... FILE|DIR...\n"
        "       l7mp-operator --crds\n"
        "Makes l7mp proxies in a Kubernetes cluster do what objects of the cluster say.\n"
        "\n"
        "The cluster:\n"
        "      --kubeconfig FILE      default: $KUBECONFIG, in a pod its service account, else\n"
        "                             ~/.kube/config\n"
        "      --context NAME         a context of the kubeconfig (default: its current one)\n"
        "      --service-account DIR  where a pod's token and CA are\n"
        "  -n, --namespace NS[,NS]    only objects of these namespaces (default: all)\n"
        "      --secrets NS[,NS]      namespaces where Secrets may be looked for (default: none)\n"
        "      --lease NAME           the Lease that says which instance leads (default:\n"
        "                             l7mp-operator); --no-lease: this one always does\n"
        "      --lease-namespace NS   default: the namespace of the pod or context\n"
        "      --identity NAME        of this instance (default: its host name and a number)\n"
        "\n"
        "The proxies:\n"
        "      --any-namespace        selectors reach all namespaces, as in the original, without\n"
        "                             ReferenceGrants\n"
        "      --container NAME       the proxies' container (default: l7mp)\n"
        "      --admin-port PORT      the proxies' admin server (default: 1235)\n"
        "      --controller NAME      of our GatewayClasses (default: l7mp.io/gateway-controller)\n"
        "      --owner NAME           of our objects in the proxies (default: l7mp-operator)\n"
        "      --proxy-ca FILE        use HTTPS; the CA of the proxies' certificates\n"
        "      --proxy-cert FILE      our certificate, and its key:\n"
        "      --proxy-key FILE\n"
        "      --proxy-name NAME      what their certificates are for (default: their address)\n"
        "      --proxy-token FILE     the token of their API\n"
        "\n"
        "The process:\n"
        "      --listen [ADDR:]PORT   serve /metrics, /healthz and /readyz there\n"
        "  -l, --log-level LEVEL      silly verbose info notice warn error silent\n"
        "      --log-json             log as JSON\n"
        "  -V, --version              -h, --help\n"
        "\n"
        "Without a cluster:\n"
        "      --render FILE|DIR...   print the proxies' configs that the objects in YAML or JSON "
        "files make,\n"
        "                             and their statuses; '-': stdin\n"
        "      --statuses             with --render: print only the statuses\n"
        "      --crds                 print the CustomResourceDefinitions of l7mp.io/v1\n"
        "\n"
        "Exit status: 0 done, 1 an object was not accepted, a file can't be used or the start "
        "failed, 2 wrong usage.\n";

enum {
	OPT_RENDER = 256,
	OPT_CRDS,
	OPT_STATUSES,
	OPT_ANY_NAMESPACE,
	OPT_CONTAINER,
	OPT_PORT,
	OPT_CONTROLLER,
	OPT_KUBECONFIG,
	OPT_CONTEXT,
	OPT_SERVICE_ACCOUNT,
	OPT_SECRETS,
	OPT_LEASE,
	OPT_NO_LEASE,
	OPT_LEASE_NS,
	OPT_IDENTITY,
	OPT_OWNER,
	OPT_PROXY_CA,
	OPT_PROXY_CERT,
	OPT_PROXY_KEY,
	OPT_PROXY_NAME,
	OPT_PROXY_TOKEN,
	OPT_LISTEN,
	OPT_LOG_JSON,
};

static const struct option options[] = {
        {"render", no_argument, NULL, OPT_RENDER},
        {"crds", no_argument, NULL, OPT_CRDS},
        {"statuses", no_argument, NULL, OPT_STATUSES},
        {"any-namespace", no_argument, NULL, OPT_ANY_NAMESPACE},
        {"container", required_argument, NULL, OPT_CONTAINER},
        {"admin-port", required_argument, NULL, OPT_PORT},
        {"controller", required_argument, NULL, OPT_CONTROLLER},
        {"kubeconfig", required_argument, NULL, OPT_KUBECONFIG},
        {"context", required_argument, NULL, OPT_CONTEXT},
        {"service-account", required_argument, NULL, OPT_SERVICE_ACCOUNT},
        {"namespace", required_argument, NULL, 'n'},
        {"secrets", required_argument, NULL, OPT_SECRETS},
        {"lease", required_argument, NULL, OPT_LEASE},
        {"no-lease", no_argument, NULL, OPT_NO_LEASE},
        {"lease-namespace", required_argument, NULL, OPT_LEASE_NS},
        {"identity", required_argument, NULL, OPT_IDENTITY},
        {"owner", required_argument, NULL, OPT_OWNER},
        {"proxy-ca", required_argument, NULL, OPT_PROXY_CA},
        {"proxy-cert", required_argument, NULL, OPT_PROXY_CERT},
        {"proxy-key", required_argument, NULL, OPT_PROXY_KEY},
        {"proxy-name", required_argument, NULL, OPT_PROXY_NAME},
        {"proxy-token", required_argument, NULL, OPT_PROXY_TOKEN},
        {"listen", required_argument, NULL, OPT_LISTEN},
        {"log-level", required_argument, NULL, 'l'},
        {"log-json", no_argument, NULL, OPT_LOG_JSON},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
};

static int usage(const char *message)
{
	fprintf(stderr, "l7mp-operator: %s\nTry 'l7mp-operator --help'.\n", message);
	return 2;
}

struct arguments {
	struct op_offline_options offline; /* with --render */
	struct op_run_options run;
	bool render, crds, log_json, version, help;
};

/* Splits "a,b" into names, in place. */
static int add_names(char *text, const char **names, size_t *n)
{
	char *save, *name;

	for (name = strtok_r(text, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		if (*n == OP_NAMESPACES_MAX)
			return usage("at most 64 namespaces");
		names[(*n)++] = name;
	}
	return 0;
}

static int set_port(struct op_settings *s, const char *text)
{
	char *end;
	long port = strtol(text, &end, 10);

	if (*end || end == text || port < 1 || port > 65535)
		return usage("--admin-port: expected 1..65535");
	s->port = (uint16_t)port;
	return 0;
}

static int set_level(const char *text)
{
	enum l7mp_log_level level;

	if (l7mp_log_level_parse(text, &level))
		return usage("--log-level: expected one of silly verbose info notice warn error "
		             "silent");
	l7mp_log_set_level(level);
	return 0;
}

/* Options whose value is only stored. */
static const char **text_of(struct arguments *a, int c)
{
	switch (c) {
	case OPT_CONTAINER:
		return &a->run.settings.container;
	case OPT_CONTROLLER:
		return &a->run.settings.controller;
	case OPT_KUBECONFIG:
		return &a->run.kubeconfig;
	case OPT_CONTEXT:
		return &a->run.context;
	case OPT_SERVICE_ACCOUNT:
		return &a->run.service_account;
	case OPT_LEASE:
		return &a->run.lease;
	case OPT_LEASE_NS:
		return &a->run.lease_ns;
	case OPT_IDENTITY:
		return &a->run.identity;
	case OPT_OWNER:
		return &a->run.owner;
	case OPT_PROXY_CA:
		return &a->run.proxy_ca;
	case OPT_PROXY_CERT:
		return &a->run.proxy_cert;
	case OPT_PROXY_KEY:
		return &a->run.proxy_key;
	case OPT_PROXY_NAME:
		return &a->run.proxy_name;
	case OPT_PROXY_TOKEN:
		return &a->run.proxy_token;
	case OPT_LISTEN:
		return &a->run.listen;
	default:
		return NULL;
	}
}

static int take_option(struct arguments *a, int c)
{
	const char **text = text_of(a, c);

	if (text) {
		*text = optarg;
		return **text ? 0 : usage("an option's value is empty");
	}
	switch (c) {
	case OPT_RENDER:
		a->render = true;
		return 0;
	case OPT_CRDS:
		a->crds = true;
		return 0;
	case OPT_STATUSES:
		a->offline.statuses_only = true;
		return 0;
	case OPT_ANY_NAMESPACE:
		a->run.settings.any_namespace = true;
		return 0;
	case OPT_PORT:
		return set_port(&a->run.settings, optarg);
	case OPT_SECRETS:
		return add_names(optarg, a->run.secrets, &a->run.n_secrets);
	case OPT_NO_LEASE:
		a->run.lease = NULL;
		return 0;
	case OPT_LOG_JSON:
		a->log_json = true;
		return 0;
	case 'n':
		return add_names(optarg, a->run.namespaces, &a->run.n_namespaces);
	case 'l':
		return set_level(optarg);
	case 'V':
		a->version = true;
		return 0;
	case 'h':
		a->help = true;
		return 0;
	default:
		return usage("wrong option");
	}
}

/* Checks options that are only valid together. */
static int check(const struct arguments *a)
{
	const struct op_run_options *o = &a->run;

	if (!o->proxy_cert != !o->proxy_key)
		return usage("--proxy-cert and --proxy-key need each other");
	if (!o->proxy_ca && (o->proxy_cert || o->proxy_name))
		return usage("--proxy-cert, --proxy-key and --proxy-name need --proxy-ca");
	if (!a->render && a->offline.statuses_only)
		return usage("--statuses needs --render");
	if (!a->render && a->offline.n_files)
		return usage("unexpected argument: files need --render");
	if (a->render && !a->offline.n_files)
		return usage("--render: expected files or directories");
	return 0;
}

int main(int argc, char **argv)
{
	struct arguments a = {
	        .run = {.settings = op_settings_default,
	                .service_account = KUBE_SERVICE_ACCOUNT,
	                .lease = "l7mp-operator",
	                .owner = "l7mp-operator"},
	};
	int c, rc = 0;

	setlocale(LC_CTYPE, "C.UTF-8");
	while (!rc && (c = getopt_long(argc, argv, "n:l:Vh", options, NULL)) != -1)
		rc = take_option(&a, c);
	if (rc)
		return rc;
	if (a.version) {
		puts("l7mp-operator " L7MP_VERSION);
		return 0;
	}
	if (a.help) {
		fputs(help, stdout);
		return 0;
	}
	if (a.crds)
		return op_offline_crds(&l7mp_all_registry);
	a.offline.settings = a.run.settings;
	a.offline.files = argv + optind;
	a.offline.n_files = argc - optind;
	rc = check(&a);
	if (rc)
		return rc;
	if (a.render)
		return op_offline_render(&l7mp_all_registry, &a.offline);
	if (a.log_json && l7mp_log_open("stderr", true))
		return 1;
	return op_run(&l7mp_all_registry, &a.run);
}
