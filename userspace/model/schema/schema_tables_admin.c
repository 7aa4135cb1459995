/* SPDX-License-Identifier: MIT */
/* The table of the admin object. */
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "schema_tables_int.h"

static const struct l7mp_field limit_fields[] = {
        {
                .key = "max_sessions",
                .type = L7MP_T_INT,
                .min = 1,
                .max = 10000000,
                .def = "100000",
                .doc = "Sessions at once",
        },
        {
                .key = "max_sessions_per_source",
                .type = L7MP_T_INT,
                .min = 1,
                .max = 10000000,
                .def = "20000",
                .doc = "Sessions at once of one source address (IPv6: of one /64)",
        },
        {
                .key = "new_sessions_per_second",
                .type = L7MP_T_INT,
                .min = 1,
                .max = 10000000,
                .def = "20000",
                .doc = "New sessions in a second, for each listener",
        },
        {
                .key = "max_flows",
                .type = L7MP_T_INT,
                .min = 2,
                .max = 16777216,
                .def = "262144",
                .doc = "Entries in the kernel's flow tables, IPv4 and IPv6 together, two for each "
                       "offloaded session",
        },
        {
                .key = "max_body",
                .type = L7MP_T_INT,
                .min = 1024,
                .max = 1073741824,
                .def = "4194304",
                .doc = "Bytes in the body of a REST request",
        },
        {
                .key = "max_queue",
                .type = L7MP_T_INT,
                .min = 4096,
                .max = 1073741824,
                .def = "1048576",
                .doc = "Bytes waiting in one pipe of a session",
        },
        {
                .key = "max_processes",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 1000000,
                .def = "256",
                .doc = "Processes of `STDIO-fork` clusters at once",
        },
        {
                .key = "max_pipes",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 65536,
                .def = "256",
                .doc = "Pipes that move bytes from socket to socket inside of the kernel, held "
                       "while a receiver is slower; 0: bytes are always copied",
        },
        {
                .key = "max_memory",
                .type = L7MP_T_INT,
                .min = 8388608,
                .max = 1099511627776,
                .doc = "Bytes of sessions, buffers and unfinished messages. Default: half of what "
                       "the machine or the cgroup has",
        },
        {.key = NULL},
};
static const struct l7mp_schema limits = {
        .name = "limits",
        .doc = "Bounds that hold whatever a peer does; each has a counter of refusals",
        .fields = limit_fields,
};

static const struct l7mp_field server_fields[] = {
        {
                .key = "enabled",
                .type = L7MP_T_BOOL,
                .def = "true",
                .doc = "`false` turns a server off that was on",
        },
        {
                .key = "address",
                .type = L7MP_T_STRING,
                .pattern = L7MP_P_ADDRESS,
                .def = "\"127.0.0.1\"",
                .doc = "IPv4 address to listen on",
        },
        {
                .key = "port",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 65535,
                .def = "1235",
                .doc = "Port to listen on; 0: a free one, which is logged",
        },
        {
                .key = "threads",
                .type = L7MP_T_INT,
                .min = 1,
                .max = 64,
                .def = "4",
                .doc = "Requests at once; one more is answered with 503",
        },
        {.key = NULL},
};
static const struct l7mp_schema server = {
        .name = "admin-server",
        .doc = "A server of its own for the REST API, `/metrics`, `/healthz` and `/readyz`, "
               "outside "
               "the listeners and limits of the data plane; without this object there is none",
        .fields = server_fields,
};

static const struct l7mp_field metrics_fields[] = {
        {
                .key = "sessions",
                .type = L7MP_T_BOOL,
                .def = "false",
                .doc = "A series for each session that a Metric cluster counts; what a scrape "
                       "costs "
                       "grows with the sessions then",
        },
        {.key = NULL},
};
static const struct l7mp_schema metrics = {
        .name = "admin-metrics",
        .doc = "What metrics there are",
        .fields = metrics_fields,
};

static const char *const log_levels[] = {"silly", "verbose", "info",   "notice",
                                         "warn",  "error",   "silent", NULL};
static const char *const log_formats[] = {"text", "json", NULL};
static const struct l7mp_field offload_tcp_fields[] = {
        {
                .key = "enabled",
                .type = L7MP_T_BOOL,
                .def = "true",
                .doc = "`false`: none",
        },
        {
                .key = "after_bytes",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 1073741824,
                .def = "65536",
                .doc = "Bytes that user space relays first, of both directions together, unless "
                       "`after_ms` is reached before",
        },
        {
                .key = "after_ms",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 3600000,
                .def = "20",
                .doc = "Age of the session, in ms, unless `after_bytes` is reached before; it is "
                       "looked at when data passes",
        },
        {.key = NULL},
};
static const struct l7mp_schema offload_tcp = {
        .name = "offload_tcp",
        .doc = "TCP sessions that are moved into the kernel: docs/fastpath.md",
        .fields = offload_tcp_fields,
};

static const struct l7mp_field offload_drain_fields[] = {
        {
                .key = "idle",
                .type = L7MP_T_INT,
                .min = 1,
                .max = 86400,
                .def = "60",
                .doc = "Seconds in which the kernel has forwarded no packet of these flows: they "
                       "are "
                       "taken to have ended",
        },
        {
                .key = "deadline",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 86400,
                .def = "300",
                .doc = "Seconds after which they are removed in any case; 0: at once",
        },
        {.key = NULL},
};
static const struct l7mp_schema offload_drain = {
        .name = "offload_drain",
        .doc = "How long the flows go on that a proxy with another ABI of programs and maps has "
               "left in the kernel: docs/fastpath.md",
        .fields = offload_drain_fields,
};

static const char *const offload_starts[] = {"init", "no_init", "disable", NULL};
static const char *const offload_modes[] = {"auto", "native", "generic", "tc", NULL};

static const struct l7mp_field ifs_string = {
        .type = L7MP_T_STRING, .doc = "Interface names with commas between, or `all`"};
static const struct l7mp_field ifs_item = {.type = L7MP_T_STRING, .pattern = L7MP_P_IFNAME};
static const struct l7mp_field ifs_array = {
        .type = L7MP_T_ARRAY, .item = &ifs_item, .doc = "Interface names, or `all`"};
static const struct l7mp_field *const ifs_alternatives[] = {&ifs_string, &ifs_array, NULL};

static const struct l7mp_field admin_fields[] = {
        {
                .key = "log_level",
                .type = L7MP_T_ENUM,
                .flags = L7MP_F_NOCASE,
                .values = log_levels,
                .def = "\"info\"",
                .doc = "The least level that is logged",
        },
        {
                .key = "log_file",
                .type = L7MP_T_STRING,
                .pattern = L7MP_P_PATH,
                .def = "\"stderr\"",
                .doc = "`stdout`, `stderr` or a path",
        },
        {
                .key = "log_format",
                .type = L7MP_T_ENUM,
                .values = log_formats,
                .def = "\"text\"",
                .doc = "`json` writes one JSON object a line",
        },
        {
                .key = "access_log_path",
                .type = L7MP_T_STRING,
                .pattern = L7MP_P_PATH,
                .doc = "A file that gets one JSON line for each session that ended",
        },
        {
                .key = "strict",
                .type = L7MP_T_BOOL,
                .def = "false",
                .doc = "Unknown keys are errors instead of warnings",
        },
        {
                .key = "offload",
                .type = L7MP_T_ENUM,
                .values = offload_starts,
                .def = "\"init\"",
                .doc = "`init`: load and attach the kernel fast path; `no_init`: use what is "
                       "attached and pinned "
                       "already; `disable`: none",
        },
        {
                .key = "offload_ifs",
                .type = L7MP_T_ONEOF,
                .alternatives = ifs_alternatives,
                .def = "[]",
                .doc = "Interfaces that the fast path is attached to; `all`: every one that is up "
                       "now or later, except loopback, which must be named",
        },
        {
                .key = "offload_mode",
                .type = L7MP_T_ENUM,
                .values = offload_modes,
                .def = "\"auto\"",
                .doc = "Where it is attached: native or generic XDP, or tc; `auto` picks for each "
                       "interface",
        },
        {
                .key = "offload_tcp",
                .type = L7MP_T_OBJECT,
                .sub = &offload_tcp,
                .doc = "Which TCP sessions the fast path takes",
        },
        {
                .key = "offload_drain",
                .type = L7MP_T_OBJECT,
                .sub = &offload_drain,
                .doc = "Flows that another version of the proxy has left in the kernel",
        },
        {
                .key = "instance",
                .type = L7MP_T_STRING,
                .min = 1,
                .max = 64,
                .pattern = L7MP_P_NAME,
                .def = "\"default\"",
                .doc = "Name of the directory below /sys/fs/bpf/l7mp/ that the maps are pinned in; "
                       "one daemon "
                       "for each",
        },
        {
                .key = "api_token_file",
                .type = L7MP_T_STRING,
                .pattern = L7MP_P_PATH,
                .doc = "A file whose first line is the token that every REST request must carry; "
                       "without it the "
                       "API answers only clients on this host",
        },
        {
                .key = "server",
                .type = L7MP_T_OBJECT,
                .sub = &server,
                .doc = "The admin server; off unless this is given",
        },
        {
                .key = "read_without_token",
                .type = L7MP_T_BOOL,
                .def = "false",
                .doc = "Clients on this host may read without the token, as if there were none; "
                       "what changes something needs it",
        },
        {
                .key = "console",
                .type = L7MP_T_BOOL,
                .def = "true",
                .doc = "The admin server has the console at `/console/`",
        },
        {
                .key = "drain_timeout",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 86400,
                .def = "0",
                .doc = "Seconds that sessions get to end after SIGTERM, while new ones are "
                       "refused, before the proxy ends; 0: they are ended at once",
        },
        {
                .key = "metrics",
                .type = L7MP_T_OBJECT,
                .sub = &metrics,
                .doc = "What metrics there are",
        },
        {
                .key = "limits",
                .type = L7MP_T_OBJECT,
                .sub = &limits,
                .doc = "Bounds on sessions, flows and memory",
        },
        {
                .key = "version",
                .type = L7MP_T_STRING,
                .flags = L7MP_F_READONLY,
                .doc = "The program's version",
        },
        {.key = NULL},
};

static void add_issue(struct l7mp_issues *issues, const cJSON *node, const char *path,
                      const char *key, const char *want)
{
	char *sub = l7mp_asprintf("%s%s%s", path, *path ? "." : "", key);
	char got[80];

	l7mp_issues_add(issues, false, node, sub ? sub : path, "expected %s, got %s", want,
	                l7mp_json_brief(node, got, sizeof(got)));
	free(sub);
}

/* Checks a list such as "eth0, lo"; an empty string is not an interface. */
static bool ifs_list_ok(const char *s)
{
	if (!s[strspn(s, " ")])
		return true;
	for (;;) {
		char one[17];
		size_t n;

		s += strspn(s, " ");
		n = strcspn(s, " ,");
		if (!n || n >= sizeof(one))
			return false;
		memcpy(one, s, n);
		one[n] = 0;
		if (!l7mp_schema_pattern_ok(L7MP_P_IFNAME, one))
			return false;
		s += n;
		s += strspn(s, " ");
		if (!*s)
			return true;
		if (*s++ != ',')
			return false;
	}
}

static void check_admin(const cJSON *admin, const char *path, struct l7mp_issues *issues)
{
	const cJSON *ifs = l7mp_json_member(admin, "offload_ifs");
	const cJSON *instance = l7mp_json_member(admin, "instance");
	const cJSON *address = l7mp_json_get(admin, "/server/address");

	if (cJSON_IsString(ifs) && !ifs_list_ok(ifs->valuestring))
		add_issue(issues, ifs, path, "offload_ifs",
		          "interface names of 1..15 bytes without brackets and quotes, with commas "
		          "between, or all");
	/* Debian builds civetweb without IPv6. */
	if (cJSON_IsString(address) && strchr(address->valuestring, ':'))
		add_issue(issues, address, path, "server.address", "an IPv4 address");
	/* The instance is used as a directory name. */
	if (cJSON_IsString(instance) &&
	    (strchr(instance->valuestring, '/') || instance->valuestring[0] == '.'))
		add_issue(issues, instance, path, "instance",
		          "a name without / that does not begin with a dot");
}

const struct l7mp_schema l7mp_schema_admin = {
        .name = "admin",
        .doc = "The process itself: logs, limits, offload",
        .fields = admin_fields,
        .check = check_admin,
};
