/* SPDX-License-Identifier: MIT */
/* UDP as a protocol: the specs of its listeners and clusters, and its table. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "l7mp/protos.h"
#include "net/net.h"
#include "udp.h"

/* ---- listeners ---- */

static const struct l7mp_field connect_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_ADDRESS,
         .doc = "only datagrams from this IP address are accepted; others are dropped and counted"},
        {.key = "port",
         .type = L7MP_T_INT,
         .min = 1,
         .max = 65535,
         .doc = "only datagrams from this port are accepted; others are dropped and counted"},
        {0},
};
static const struct l7mp_schema connect_schema = {
        .name = "udp-connect",
        .doc = "The peers that a UDP listener takes",
        .fields = connect_fields,
};

static const struct l7mp_field port_number = {.type = L7MP_T_INT, .min = 0, .max = 65535};
static const struct l7mp_field port_range = {.type = L7MP_T_STRING, .min = 3, .max = 11};
static const struct l7mp_field *const port_alternatives[] = {&port_number, &port_range, NULL};

static const struct l7mp_field rtp_fields[] = {
        {.key = "clock_rate",
         .type = L7MP_T_INT,
         .min = 1,
         .max = 1000000,
         .def = "8000",
         .doc = "Hz, of payload types without a fixed one (96 to 127): 48000 for Opus, 90000 for "
                "video"},
        {0},
};
static const struct l7mp_schema rtp_schema = {
        .name = "udp-rtp",
        .doc = "Statistics of RTP",
        .fields = rtp_fields,
};
static const struct l7mp_field rtp_bool = {.type = L7MP_T_BOOL};
static const struct l7mp_field rtp_object = {.type = L7MP_T_OBJECT, .sub = &rtp_schema};
static const struct l7mp_field *const rtp_alternatives[] = {&rtp_bool, &rtp_object, NULL};

static const char *const modes[] = {"server", "singleton", NULL};
static const struct l7mp_field option_fields[] = {
        {.key = "mode",
         .type = L7MP_T_ENUM,
         .flags = L7MP_F_NOCASE,
         .values = modes,
         .doc = "server: a session per peer; singleton: one session, which starts at once when "
                "connect has address and port, else with the first peer's datagram. Default: "
                "singleton when connect has both"},
        {.key = "latch",
         .type = L7MP_T_ONEOF,
         .alternatives = udp_latch_listener,
         .doc = "one session, whose peer is the source of the first datagram; later ones from "
                "other sources are dropped and counted. After `idle_timeout` without data the "
                "session ends, and the next datagram begins another one"},
        {.key = "rtp",
         .type = L7MP_T_ONEOF,
         .alternatives = rtp_alternatives,
         .doc = "keep statistics of RTP (packets, loss, jitter, SSRC, payload type) of each "
                "session, in the kernel, too; shown in `stats.rtp`"},
        {.key = "rtcp",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "listen on the next port, too, for RTCP: its sessions go to the port after the "
                "endpoint's; with a range or 0 the port is an even one"},
        L7MP_SPEC_DSCP,
        L7MP_SPEC_RCVBUF(
                "the socket's receive buffer in bytes; 4 MiB if the kernel allows it; datagrams "
                "that the kernel drops because it is full are counted (receive-buffer)"),
        L7MP_SPEC_SNDBUF,
        L7MP_SPEC_REUSEPORT,
        {.key = "multicast_interface",
         .type = L7MP_T_STRING,
         .min = 1,
         .max = 15,
         .doc = "name of the interface on which the multicast group in `address` is joined; "
                "default: that of the route to it"},
        {0},
};
static const struct l7mp_schema options_schema = {
        .name = "udp-options",
        .doc = "How a UDP listener works",
        .fields = option_fields,
};

static const struct l7mp_field listener_fields[] = {
        L7MP_SPEC_LISTEN_ADDRESS,
        {.key = "port",
         .type = L7MP_T_ONEOF,
         .flags = L7MP_F_REQUIRED,
         .alternatives = port_alternatives,
         .doc = "port to listen on; 0 takes a free one, `\"30000-30999\"` a free one of a range, "
                "and GET shows which"},
        {.key = "connect",
         .type = L7MP_T_OBJECT,
         .sub = &connect_schema,
         .doc = "which peers are accepted"},
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
	const cJSON *port = l7mp_json_member(spec, "port");
	unsigned first, last;
	char at[256], got[80];

	if (cJSON_IsString(port) && udp_port_range(port->valuestring, &first, &last)) {
		snprintf(at, sizeof(at), "%s.port", path);
		l7mp_issues_add(issues, false, port, at,
		                "expected an integer in 0..65535 or a range like \"30000-30999\", "
		                "got %s",
		                l7mp_json_brief(port, got, sizeof(got)));
	}
	if (l7mp_json_member(options, "latch") && l7mp_json_member(options, "mode") &&
	    strcasecmp(mode, "singleton")) {
		snprintf(at, sizeof(at), "%s.options.latch", path);
		l7mp_issues_add(issues, false, options, at, "not with options.mode: server");
	}
	if (l7mp_json_member(options, "latch"))
		return;
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

/* ---- clusters ---- */

static const struct l7mp_field cluster_option_fields[] = {
        {.key = "latch",
         .type = L7MP_T_ONEOF,
         .alternatives = udp_latch_cluster,
         .doc = "each session learns its endpoint's address: the first source that writes to "
                "it is the peer, and is sent to from then on, as the one in the spec may be "
                "behind NAT; later ones from other sources are dropped and counted. The kernel "
                "takes over when the peer is known"},
        L7MP_SPEC_DSCP,
        L7MP_SPEC_RCVBUF("a session's receive buffer in bytes; 1 MiB if the kernel allows it"),
        L7MP_SPEC_SNDBUF,
        {.key = "dns_refresh",
         .type = L7MP_T_NUMBER,
         .min = 0,
         .max = 86400,
         .def = "0",
         .doc = "seconds after which the name of the endpoint is looked up again for running "
                "sessions: one whose address is no longer among the answers moves to another; "
                "0: only at connect. An answer is used for its TTL, at least a second"},
        {0},
};
static const struct l7mp_schema cluster_options = {
        .name = "udp-cluster-options",
        .doc = "Options of a UDP cluster's sockets",
        .fields = cluster_option_fields,
};

static void check_cluster(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *options = l7mp_json_member(spec, "options");
	struct udp_latch latch;
	char at[256];

	udp_latch_read(options, &latch);
	if (!latch.on || l7mp_json_num(options, "dns_refresh", 0) <= 0)
		return;
	snprintf(at, sizeof(at), "%s.options.latch", path);
	l7mp_issues_add(
	        issues, false, options, at,
	        "not with options.dns_refresh: the peer is who writes, not who has the name");
}

static const struct l7mp_field cluster_fields[] = {
        L7MP_SPEC_ENDPOINT_PORT,
        L7MP_SPEC_BIND,
        {.key = "options", .type = L7MP_T_OBJECT, .sub = &cluster_options, .doc = "socket options"},
        {0},
};
static const struct l7mp_schema cluster_spec = {
        .name = "udp-cluster",
        .doc = "Sends to a UDP server from a connected socket of each session's own",
        .fields = cluster_fields,
        .check = check_cluster,
};

static const struct l7mp_field endpoint_fields[] = {
        L7MP_SPEC_ENDPOINT_HOST,
        L7MP_SPEC_ENDPOINT_OWN_PORT,
        {0},
};
static const struct l7mp_schema endpoint_spec = {
        .name = "udp-endpoint",
        .doc = "A UDP server",
        .fields = endpoint_fields,
};

/* ---- the protocol ---- */

static int udp_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct udp_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

const struct l7mp_proto l7mp_proto_udp = {
        .desc =
                {
                        .name = "UDP",
                        .doc = "UDP datagrams over IPv4 and IPv6; a peer that is not reachable "
                               "does not end a session",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_FORGEABLE | L7MP_PROTO_RESTORES,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                        .idle_timeout = 60,
                },
        .start = udp_start,
        .stop = l7mp_shared_stop,
        .listen = udp_listen,
        .activate = udp_activate,
        .restore = udp_restore,
        .hand = l7mp_shared_hand,
        .unlisten = udp_unlisten,
        .bound = udp_bound,
        .connect = udp_connect,
};
