/* SPDX-License-Identifier: MIT */
/* UDP: the table of its operations and specs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "l7mp/protos.h"
#include "udp_int.h"

static int udp_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	struct udp_state *st = calloc(1, sizeof(*st));

	if (!st)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	st->env = env;
	*state = st;
	return 0;
}

static void udp_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

static const struct l7mp_field connect_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_ADDRESS,
         .doc = "only datagrams from this IP address are taken; others are dropped and counted"},
        {.key = "port",
         .type = L7MP_T_INT,
         .min = 1,
         .max = 65535,
         .doc = "only datagrams from this port are taken; others are dropped and counted"},
        {0},
};
static const struct l7mp_schema connect_schema = {
        .name = "udp-connect",
        .doc = "The peers that a UDP listener takes",
        .fields = connect_fields,
};

static const char *const modes[] = {"server", "singleton", NULL};
static const struct l7mp_field option_fields[] = {
        {.key = "mode",
         .type = L7MP_T_ENUM,
         .flags = L7MP_F_NOCASE,
         .values = modes,
         .doc = "server: a session per peer; singleton: one session, which starts at once when "
                "connect has address and port, else with the first peer's datagram. Default: "
                "singleton when connect has both"},
        {.key = "dscp",
         .type = L7MP_T_INT,
         .min = 0,
         .max = 63,
         .doc = "DSCP of what is sent to the peers; such sessions are not offloaded"},
        {.key = "rcvbuf",
         .type = L7MP_T_INT,
         .min = 4096,
         .max = 1 << 30,
         .doc = "the socket's receive buffer in bytes; 4 MiB if the kernel allows it; what "
                "the kernel drops for want of room is counted (receive-buffer)"},
        {.key = "sndbuf",
         .type = L7MP_T_INT,
         .min = 4096,
         .max = 1 << 30,
         .doc = "the socket's send buffer in bytes"},
        {.key = "reuseport",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "share the port with other processes (SO_REUSEPORT); the kernel spreads the peers"},
        {0},
};
static const struct l7mp_schema options_schema = {
        .name = "udp-options",
        .doc = "How a UDP listener works",
        .fields = option_fields,
};

static const struct l7mp_field listener_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_ADDRESS,
         .doc = "IP address to listen on; without it all addresses, IPv4 and IPv6"},
        {.key = "port",
         .type = L7MP_T_INT,
         .flags = L7MP_F_REQUIRED,
         .min = 0,
         .max = 65535,
         .doc = "port to listen on; 0 takes a free one, and GET shows which"},
        {.key = "connect",
         .type = L7MP_T_OBJECT,
         .sub = &connect_schema,
         .doc = "which peers are taken"},
        {.key = "options",
         .type = L7MP_T_OBJECT,
         .sub = &options_schema,
         .doc = "mode and socket options"},
        {0},
};

static void check_listener(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *connect = l7mp_json_member(spec, "connect");
	const cJSON *options = l7mp_json_member(spec, "options");
	const char *mode = l7mp_json_str(options, "mode", "server");
	char at[256];

	if (strcasecmp(mode, "singleton") || l7mp_json_member(connect, "address"))
		return;
	snprintf(at, sizeof(at), "%s.connect.address", path);
	l7mp_issues_add(issues, false, options, at, "required with options.mode: singleton");
}

static const struct l7mp_schema listener_spec = {
        .name = "udp-listener",
        .doc = "Receives UDP datagrams; a session per peer, answered from the address that the "
               "peer wrote to",
        .fields = listener_fields,
        .check = check_listener,
};

static const struct l7mp_field bind_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_ADDRESS,
         .doc = "local IP address to send from"},
        {.key = "port",
         .type = L7MP_T_INT,
         .min = 0,
         .max = 65535,
         .def = "0",
         .doc = "local port to send from; 0 takes a free one"},
        {0},
};
static const struct l7mp_schema bind_schema = {
        .name = "udp-bind",
        .doc = "Where datagrams are sent from",
        .fields = bind_fields,
};

static const struct l7mp_field up_option_fields[] = {
        {.key = "dscp", .type = L7MP_T_INT, .min = 0, .max = 63, .doc = "DSCP of what is sent"},
        {.key = "rcvbuf",
         .type = L7MP_T_INT,
         .min = 4096,
         .max = 1 << 30,
         .doc = "a session's receive buffer in bytes; 1 MiB if the kernel allows it"},
        {.key = "sndbuf",
         .type = L7MP_T_INT,
         .min = 4096,
         .max = 1 << 30,
         .doc = "a session's send buffer in bytes"},
        {0},
};
static const struct l7mp_schema up_options_schema = {
        .name = "udp-cluster-options",
        .doc = "Options of a UDP cluster's sockets",
        .fields = up_option_fields,
};

static const struct l7mp_field cluster_fields[] = {
        {.key = "port",
         .type = L7MP_T_INT,
         .flags = L7MP_F_REQUIRED,
         .min = 1,
         .max = 65535,
         .doc = "port of the endpoints"},
        {.key = "bind",
         .type = L7MP_T_OBJECT,
         .sub = &bind_schema,
         .doc = "local address and port to send from"},
        {.key = "options",
         .type = L7MP_T_OBJECT,
         .sub = &up_options_schema,
         .doc = "socket options"},
        {0},
};
static const struct l7mp_schema cluster_spec = {
        .name = "udp-cluster",
        .doc = "Sends to a UDP server from a connected socket of each session's own",
        .fields = cluster_fields,
};

static const struct l7mp_field endpoint_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_HOST,
         .doc = "IP address or host name; a name is resolved again at each connect"},
        {0},
};
static const struct l7mp_schema endpoint_spec = {
        .name = "udp-endpoint",
        .doc = "A UDP server",
        .fields = endpoint_fields,
};

const struct l7mp_proto l7mp_proto_udp = {
        .desc =
                {
                        .name = "UDP",
                        .doc = "UDP datagrams over IPv4 and IPv6; a peer that is not reachable "
                               "does not end a session",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                        .idle_timeout = 60,
                },
        .start = udp_start,
        .stop = udp_stop,
        .listen = udp_listen,
        .activate = udp_activate,
        .unlisten = udp_unlisten,
        .bound = udp_bound,
        .connect = udp_connect,
};
