/* SPDX-License-Identifier: MIT */
/* AF_PACKET: what its specs may hold. */
#include <stdio.h>

#include "packet_int.h"

static const struct l7mp_field ethertype_number = {
        .type = L7MP_T_INT, .min = 0x0600, .max = 0xffff};
static const struct l7mp_field ethertype_text = {.type = L7MP_T_STRING, .min = 3, .max = 6};
static const struct l7mp_field *const ethertypes[] = {&ethertype_number, &ethertype_text, NULL};
#define ETHERTYPE_DOC                                                                           \
	"only frames of this EtherType, behind a VLAN tag too: a number, \"0x88b5\", or ipv4, " \
	"ipv6, "                                                                                \
	"arp, vlan, qinq, lldp, eapol; the kernel keeps all others away"

static void check_ethertype(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *node = l7mp_json_member(spec, "ethertype");
	char at[256];
	uint16_t type;

	if (!cJSON_IsString(node) || !pkt_ethertype_parse(node, &type))
		return;
	snprintf(at, sizeof(at), "%.200s.ethertype", path);
	l7mp_issues_add(issues, false, node, at,
	                "expected 0x0600..0xffff or ipv4, ipv6, arp, vlan, qinq, lldp, eapol, got "
	                "\"%s\"",
	                node->valuestring);
}

static const char *const modes[] = {"singleton", "server", NULL};
static const struct l7mp_field option_fields[] = {
        {.key = "mode",
         .type = L7MP_T_ENUM,
         .flags = L7MP_F_NOCASE,
         .values = modes,
         .def = "\"singleton\"",
         .doc = "singleton: one session with all frames, which starts at once; server: a session "
                "for each 5-tuple (IP; fragments and protocols without ports go by their "
                "addresses) "
                "or MAC pair and EtherType"},
        {.key = "promiscuous",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "also take in frames that are for other stations"},
        {0},
};
static const struct l7mp_schema options_schema = {
        .name = "packet-options",
        .doc = "How an AF_PACKET listener works",
        .fields = option_fields,
};
static const struct l7mp_field listener_fields[] = {
        {.key = "interface",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_IFNAME,
         .doc = "Ethernet interface whose incoming frames are taken; those that this host sends "
                "are not"},
        {.key = "ethertype",
         .type = L7MP_T_ONEOF,
         .alternatives = ethertypes,
         .doc = ETHERTYPE_DOC},
        {.key = "options",
         .type = L7MP_T_OBJECT,
         .sub = &options_schema,
         .doc = "mode, promiscuous"},
        {0},
};
const struct l7mp_schema packet_listener_spec = {
        .name = "packet-listener",
        .doc = "Takes in whole Ethernet frames from an interface, and sends what comes back from "
               "it",
        .fields = listener_fields,
        .check = check_ethertype,
};

static const struct l7mp_field rewrite_fields[] = {
        {.key = "src_mac",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_MAC,
         .doc = "source address of the frames that are sent"},
        {.key = "dst_mac",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_MAC,
         .doc = "destination address of the frames that are sent"},
        {0},
};
static const struct l7mp_schema rewrite_schema = {
        .name = "packet-rewrite",
        .doc = "MAC addresses that frames get",
        .fields = rewrite_fields,
};
static const struct l7mp_field cluster_fields[] = {
        {.key = "rewrite",
         .type = L7MP_T_OBJECT,
         .sub = &rewrite_schema,
         .doc = "MAC addresses of the frames that are sent"},
        {.key = "ethertype",
         .type = L7MP_T_ONEOF,
         .alternatives = ethertypes,
         .doc = ETHERTYPE_DOC},
        {.key = "promiscuous",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "also take in frames that are for other stations"},
        {0},
};
const struct l7mp_schema packet_cluster_spec = {
        .name = "packet-cluster",
        .doc = "Sends whole Ethernet frames from an interface; each session gets all that come in "
               "there",
        .fields = cluster_fields,
        .check = check_ethertype,
};
static const struct l7mp_field endpoint_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_IFNAME,
         .doc = "name of an Ethernet interface"},
        {0},
};
const struct l7mp_schema packet_endpoint_spec = {
        .name = "packet-endpoint",
        .doc = "An interface",
        .fields = endpoint_fields,
};
