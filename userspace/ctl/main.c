/* SPDX-License-Identifier: MIT */
/* l7mpctl: the operator's command line tool, a client of the REST API. */
#include <getopt.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

static const char help[] =
        "Usage: l7mpctl [OPTION]... COMMAND [ARGUMENT]...\n"
        "Shows and changes the state of a running l7mp-proxy, over its REST API.\n"
        "\n"
        "Commands:\n"
        "  listeners|clusters|rulelists|rules|routes\n"
        "            list | get NAME | add [-f FILE] | replace NAME [-f FILE] | delete NAME [-r]\n"
        "  endpoints list | get NAME | add CLUSTER [-f FILE] | replace NAME [-f FILE] | delete "
        "NAME [-r]\n"
        "  rulelists insert LIST POSITION [RULE | -f FILE] | remove LIST POSITION [-r]\n"
        "  lookup RULELIST [-f FILE]         which rule metadata would match (a dry run)\n"
        "  sessions  list | get NAME | delete NAME | watch [-i SECONDS]\n"
        "  explain SESSION                   its route, and why it is or isn't in the kernel\n"
        "  config    dump | load FILE | check FILE\n"
        "  admin     get | set KEY=VALUE... | set -f FILE\n"
        "  offload | flows                   the kernel fast path\n"
        "  drain     [--timeout SECONDS] [--wait] | show | cancel\n"
        "                                    take no new sessions, let existing ones end\n"
        "  upgrade   [show]                  start the program file again and hand over to it\n"
        "  doctor    [IF[,IF...]|all]        can this machine do that, and what to change; no "
        "proxy is asked\n"
        "  kube-inject [-f FILE] [--mode explicit|redirect] [--image IMAGE]\n"
        "                                    print Kubernetes manifests with the proxy as a "
        "sidecar; no proxy is asked\n"
        "  kube status [--kubeconfig FILE] [--context NAME] [--namespace NS]\n"
        "                                    the proxies of a cluster, as its l7mp-operator (in "
        "NS, "
        "l7mp-system) sees them\n"
        "  version\n"
        "\n"
        "Options:\n"
        "  -a, --api URL          where the API is: http[s]://HOST:PORT or unix:PATH (default: "
        "$L7MP_API,\n"
        "                         else http://127.0.0.1:1235 if it answers, else "
        "http://127.0.0.1:1234)\n"
        "  -t, --token FILE       bearer token (default: $L7MP_TOKEN_FILE, else, for an API on "
        "this\n"
        "                         host, /etc/l7mp/token if it is there)\n"
        "  -f, --file FILE        document to send, YAML when it ends in .yaml or .yml, else "
        "JSON;\n"
        "                         '-' or no -f: stdin\n"
        "  -o, --output FORMAT    table, json or yaml\n"
        "  -r, --recursive        whole objects; with delete: what was made for it too, and its "
        "sessions end\n"
        "  -n, --limit N          sessions or flows to list, 0: all (default: 200 in a table)\n"
        "  -i, --interval SECONDS between looks of 'sessions watch' (default 1)\n"
        "      --timeout SECONDS  for one request (default 60); of drain: until the sessions "
        "that are left\n"
        "                         are ended, 0: never (default: admin.drain_timeout)\n"
        "      --wait             drain: until no session is left\n"
        "      --mode, --image    of kube-inject: how traffic reaches the sidecar, and its image "
        "(default: l7mp:latest)\n"
        "      --kubeconfig, --context, --namespace\n"
        "                         of kube status: the cluster, and where its l7mp-operator is\n"
        "  -V, --version          -h, --help\n"
        "\n"
        "Exit status: 0 done, 1 refused or not reachable, 2 wrong usage.\n";

static int show_version(struct ctl *c, int argc, char **argv)
{
	cJSON *admin = NULL;
	int rc;

	(void)argv;
	if (argc)
		return ctl_usage("version: takes no arguments");
	puts("l7mpctl    " L7MP_VERSION);
	fflush(stdout);
	rc = ctl_request(c, "GET", "/admin", NULL, NULL, &admin);
	if (!rc) {
		printf("l7mp-proxy ");
		ctl_print_safe(stdout, l7mp_json_str(admin, "version", "unknown"));
		putchar('\n');
	}
	cJSON_Delete(admin);
	return rc;
}

static const struct ctl_command own_commands[] = {{"version", show_version}, {NULL, NULL}};
static const struct ctl_command *const commands[] = {
        ctl_object_commands, ctl_session_commands, ctl_offload_commands, ctl_drain_commands,
        ctl_inject_commands, ctl_kube_commands,    ctl_upgrade_commands, own_commands};

enum {
	OPT_TIMEOUT = 256,
	OPT_WAIT,
	OPT_MODE,
	OPT_IMAGE,
	OPT_KUBECONFIG,
	OPT_CONTEXT,
	OPT_NAMESPACE
};

static const struct option options[] = {
        {"api", required_argument, NULL, 'a'},
        {"token", required_argument, NULL, 't'},
        {"file", required_argument, NULL, 'f'},
        {"output", required_argument, NULL, 'o'},
        {"recursive", no_argument, NULL, 'r'},
        {"interval", required_argument, NULL, 'i'},
        {"limit", required_argument, NULL, 'n'},
        {"timeout", required_argument, NULL, OPT_TIMEOUT},
        {"mode", required_argument, NULL, OPT_MODE},
        {"image", required_argument, NULL, OPT_IMAGE},
        {"kubeconfig", required_argument, NULL, OPT_KUBECONFIG},
        {"context", required_argument, NULL, OPT_CONTEXT},
        {"namespace", required_argument, NULL, OPT_NAMESPACE},
        {"wait", no_argument, NULL, OPT_WAIT},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
};

static int set_output(struct ctl *c, const char *text)
{
	static const char *const names[] = {"table", "json", "yaml"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++) {
		if (!strcmp(text, names[i])) {
			c->output = (enum ctl_output)i;
			c->output_given = true;
			return CTL_OK;
		}
	}
	return ctl_usage("--output: expected table, json or yaml, got '%s'", text);
}

static int set_seconds(const char *option, const char *text, double min, double max, double *out)
{
	char *end;
	double v = strtod(text, &end);

	if (!*text || *end || !(v >= min && v <= max))
		return ctl_usage("%s: expected %g..%g seconds, got '%s'", option, min, max, text);
	*out = v;
	return CTL_OK;
}

static int set_limit(struct ctl *c, const char *text)
{
	char *end;
	long v = strtol(text, &end, 10);

	if (!*text || *end || v < 0 || v > 1000000)
		return ctl_usage("--limit: expected 0..1000000, got '%s'", text);
	c->limit = v;
	return CTL_OK;
}

/* What --timeout means, but for draining. */
static int request_timeout(struct ctl *c)
{
	if (c->timeout_given < 1)
		return ctl_usage("--timeout: expected 1..86400 seconds, got '%g'",
		                 c->timeout_given);
	c->timeout = (long)c->timeout_given;
	return CTL_OK;
}

/* Takes an option whose value is kept as text. Returns false when `opt` is another one. */
static bool take_text(struct ctl *c, int opt)
{
	const struct {
		int opt;
		const char **out;
	} texts[] = {
	        {'a', &c->api},
	        {'t', &c->token},
	        {'f', &c->file},
	        {OPT_MODE, &c->mode},
	        {OPT_IMAGE, &c->image},
	        {OPT_KUBECONFIG, &c->kubeconfig},
	        {OPT_CONTEXT, &c->context},
	        {OPT_NAMESPACE, &c->kube_ns},
	};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(texts); i++) {
		if (texts[i].opt != opt)
			continue;
		*texts[i].out = optarg;
		return true;
	}
	return false;
}

/* Returns CTL_OK to continue, -1 when help or version was printed, or the exit status. */
static int take_option(struct ctl *c, int opt)
{
	switch (opt) {
	case 'o':
		return set_output(c, optarg);
	case 'r':
		c->recursive = true;
		return CTL_OK;
	case 'i':
		return set_seconds("--interval", optarg, 0.05, 86400, &c->interval);
	case 'n':
		return set_limit(c, optarg);
	case OPT_TIMEOUT:
		return set_seconds("--timeout", optarg, 0, 86400, &c->timeout_given);
	case OPT_WAIT:
		c->wait = true;
		return CTL_OK;
	case 'V':
		puts("l7mpctl " L7MP_VERSION);
		return -1;
	case 'h':
		fputs(help, stdout);
		return -1;
	default: /* getopt(3) has printed the error */
		fputs("Try 'l7mpctl --help'.\n", stderr);
		return CTL_USAGE;
	}
}

/* Returns as take_option does. */
static int parse_options(struct ctl *c, int argc, char **argv)
{
	int rc = CTL_OK;
	int opt;

	while (!rc && (opt = getopt_long(argc, argv, "a:t:f:o:rn:i:Vh", options, NULL)) != -1)
		if (!take_text(c, opt))
			rc = take_option(c, opt);
	if (!rc && c->timeout_given >= 0 && (optind == argc || strcmp(argv[optind], "drain") != 0))
		rc = request_timeout(c);
	return rc;
}

static int run(struct ctl *c, int argc, char **argv)
{
	if (!argc)
		return ctl_usage("expected a command");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(commands); i++)
		for (const struct ctl_command *cmd = commands[i]; cmd->name; cmd++)
			if (!strcmp(argv[0], cmd->name))
				return cmd->run(c, argc - 1, argv + 1);
	return ctl_usage("no command is named '%s'", argv[0]);
}

int main(int argc, char **argv)
{
	const char *api = getenv("L7MP_API");
	const char *token = getenv("L7MP_TOKEN_FILE");
	struct ctl c = {.api = api && *api ? api : NULL,
	                .token = token && *token ? token : NULL,
	                .interval = 1,
	                .limit = -1,
	                .timeout = CTL_REQUEST_S,
	                .timeout_given = -1};
	int rc;

	setlocale(LC_CTYPE, "");
	rc = parse_options(&c, argc, argv);
	if (!rc)
		rc = run(&c, argc - optind, argv + optind);
	ctl_client_free(&c);
	if (fflush(stdout) || ferror(stdout)) {
		ctl_error("can't write to stdout");
		rc = CTL_FAILED;
	}
	return rc < 0 ? CTL_OK : rc;
}
