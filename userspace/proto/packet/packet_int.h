/* SPDX-License-Identifier: MIT */
/*
 * AF_PACKET, private: whole Ethernet frames of one interface (packet(7)).
 *
 * What comes in is made what it would be on a wire: tags that the card took off are put
 * back, checksums that were left to hardware are completed, and frames that the kernel
 * merged (GRO, GSO) are split again; PACKET_VNET_HDR says which. Thread: loop only.
 */
#pragma once

#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>

#include "net/hub.h"

#define PKT_MIN 14     /* the Ethernet header */
#define PKT_MAX 65600u /* a merged frame: 64 KiB of IP, the header, tags */

/* ---- packet_frame.c: frames as such ---- */

/* Where a frame goes: which session of a server it belongs to. All of it is the key: no padding. */
struct pkt_key {
	uint8_t src[16], dst[16]; /* IP (IPv4: the first 4 bytes), or MAC */
	uint16_t sport, dport;    /* network order; 0: the protocol has none, or a fragment */
	uint16_t type;            /* EtherType behind the tags, host order */
	uint16_t vlan[2];         /* outer and inner id; 0xffff: none */
	uint8_t family;           /* AF_INET, AF_INET6; 0: MAC addresses */
	uint8_t proto;            /* of IP */
};
_Static_assert(sizeof(struct pkt_key) == 44, "no padding in a key");

struct pkt_info {
	struct pkt_key key;
	uint8_t src_mac[6], dst_mac[6];
	uint16_t l3, l4,
	        end; /* offsets; l4 0: no transport header (fragment, unknown); end: of the IP packet */
};
/* False: shorter than an Ethernet header. What can't be parsed further is keyed by its MAC addresses. */
bool pkt_parse(const uint8_t *frame, size_t len, struct pkt_info *out);
/* The two ends, with ports where there are any; MAC addresses as packet addresses. */
void pkt_key_addrs(const struct pkt_key *key, uint32_t ifindex, struct l7mp_addr *src,
                   struct l7mp_addr *dst);
/* "UDP:10.0.0.1:1-10.0.0.2:2", "IP47:10.0.0.1-10.0.0.2", "02:..:01-02:..:02-0x88b5". Heap; NULL: no memory. */
char *pkt_key_name(const struct pkt_key *key);
cJSON *pkt_metadata(const char *interface, const struct pkt_info *info);
/*
 * One receive, headed by its virtio_net_hdr, as the frames that it would be on a wire.
 * Takes buf; calls emit, which takes its buffer, for each. 0; -EBADMSG malformed, -EMSGSIZE a merged frame
 * of a kind that can't be split, -ENOMEM: then the rest is lost.
 */
int pkt_unpack(struct l7mp_loop *loop, struct l7mp_buf *buf,
               void (*emit)(void *arg, struct l7mp_buf *buf), void *arg);

/* ---- packet_sock.c: the socket ---- */

enum pkt_mode { PKT_SINGLETON, PKT_SERVER };

struct pkt_params {
	char interface[IF_NAMESIZE];
	uint16_t ethertype; /* 0: all */
	bool promiscuous;
	enum pkt_mode mode;
	bool rewrite_src, rewrite_dst;
	uint8_t src_mac[6], dst_mac[6];
};

struct packet_listener;

struct packet_sock {
	struct l7mp_hub hub;
	struct packet_sock *prev, *next; /* of listeners, in *list */
	struct packet_sock **list;       /* NULL: a cluster's */
	struct pkt_params params;
	uint32_t ifindex;
	uint32_t mtu;
	uint8_t mac[6];
	bool down;
	struct packet_listener *listener; /* active; NULL: new sessions are turned away */
	struct packet_listener *heir;
	struct l7mp_timer timer; /* looks whether the interface is back */
	struct l7mp_task opened; /* a cluster's `open` */
	struct l7mp_log_limit log_limit;
};
/* A number, "0x88b5", or a name (ipv4 ipv6 arp vlan qinq lldp eapol). -EINVAL. */
int pkt_ethertype_parse(const cJSON *node, uint16_t *out);
/* An open socket with one reference, not reading yet. */
int packet_sock_new(struct l7mp_env *env, const struct pkt_params *params, uint64_t *last_id,
                    struct packet_sock **out, struct l7mp_error *err);
/* Is the interface there and up? Binds to it again when it is another one of the same name. 0, -ENODEV, -ENETDOWN ... */
int packet_sock_check(struct packet_sock *s);
/* The only peer of a singleton or cluster. NULL: no memory. */
struct l7mp_hub_peer *packet_sock_only(struct packet_sock *s);
extern const uint8_t packet_only_key[1];

/* ---- packet.c ---- */
/* A frame without a session; takes buf. */
void packet_listener_first(struct packet_listener *l, struct l7mp_buf *buf,
                           const struct pkt_info *info);
void packet_listener_left(struct packet_listener *l, struct l7mp_hub_peer *p);
/* The interface works again. */
void packet_listener_up(struct packet_listener *l);

/* ---- packet_spec.c ---- */
extern const struct l7mp_schema packet_listener_spec, packet_cluster_spec, packet_endpoint_spec;
