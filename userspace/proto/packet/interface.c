/* SPDX-License-Identifier: MIT */
#include "interface.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/util.h"
#include "net/net.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#define RCVBUF (4 << 20)

int pkt_ethertype_parse(const cJSON *node, uint16_t *out)
{
	static const struct {
		const char *name;
		uint16_t type;
	} names[] = {{"ipv4", 0x0800}, {"ipv6", 0x86dd}, {"arp", 0x0806},  {"vlan", 0x8100},
	             {"qinq", 0x88a8}, {"lldp", 0x88cc}, {"eapol", 0x888e}};
	char *end;
	unsigned long v;

	if (cJSON_IsNumber(node)) {
		*out = (uint16_t)node->valuedouble;
		return 0;
	}
	if (!cJSON_IsString(node))
		return -EINVAL;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++) {
		*out = names[i].type;
		if (!strcasecmp(node->valuestring, names[i].name))
			return 0;
	}
	errno = 0;
	v = strncasecmp(node->valuestring, "0x", 2) ? 0 : strtoul(node->valuestring, &end, 16);
	if (v < 0x0600 || v > 0xffff || *end)
		return -EINVAL;
	*out = (uint16_t)v;
	return 0;
}

/*
 * The filter drops the frames that this host sends (PACKET_IGNORE_OUTGOING does it earlier, on
 * kernels that have it), and those of another EtherType. The EtherType is the one behind one
 * VLAN tag, wherever the tag is: in the frame, or taken off by the device.
 */
static int attach_filter(int fd, uint16_t type)
{
#define LD(size, at) BPF_STMT(BPF_LD | BPF_##size | BPF_ABS, (uint32_t)(at))
#define JEQ(v, t, f) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(v), t, f)
#define RET(v)       BPF_STMT(BPF_RET | BPF_K, v)
	struct sock_filter all[] = {
	        LD(W, SKF_AD_OFF + SKF_AD_PKTTYPE),
	        JEQ(PACKET_OUTGOING, 0, 1),
	        RET(0),
	        RET(0x40000),
	};
	struct sock_filter one[] = {
	        /* 0 */ LD(W, SKF_AD_OFF + SKF_AD_PKTTYPE),
	        /* 1 */ JEQ(PACKET_OUTGOING, 6, 0),
	        /* 2 */ LD(H, 12),
	        /* 3 */ JEQ(type, 5, 0),
	        /* 4 */ JEQ(0x8100, 1, 0),
	        /* 5 */ JEQ(0x88a8, 0, 2),
	        /* 6 */ LD(H, 16),
	        /* 7 */ JEQ(type, 1, 0),
	        /* 8 */ RET(0),
	        /* 9 */ RET(0x40000),
	};
	struct sock_filter tagged[] = {
	        /* 0 */ LD(W, SKF_AD_OFF + SKF_AD_PKTTYPE),
	        /* 1 */ JEQ(PACKET_OUTGOING, 6, 0),
	        /* 2 */ LD(H, 12),
	        /* 3 */ JEQ(type, 5, 0),
	        /* 4 */ LD(W, SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT),
	        /* 5 */ JEQ(0, 2, 0),
	        /* 6 */ LD(W, SKF_AD_OFF + SKF_AD_VLAN_TPID),
	        /* 7 */ JEQ(type, 1, 0),
	        /* 8 */ RET(0),
	        /* 9 */ RET(0x40000),
	};
	struct sock_fprog prog = {L7MP_ARRAY_SIZE(all), all};
	int on = 1;

	if (type == 0x8100 || type == 0x88a8)
		prog = (struct sock_fprog){L7MP_ARRAY_SIZE(tagged), tagged};
	else if (type)
		prog = (struct sock_fprog){L7MP_ARRAY_SIZE(one), one};
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)))
		return -errno;
	(void)setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on));
	return 0;
}

static int query(int fd, const char *interface, unsigned long request, struct ifreq *ifr)
{
	memset(ifr, 0, sizeof(*ifr));
	snprintf(ifr->ifr_name, sizeof(ifr->ifr_name), "%s", interface);
	return ioctl(fd, request, ifr) ? -errno : 0;
}

static int read_state(struct pkt_interface *i, int fd)
{
	struct ifreq ifr;
	int rc = query(fd, i->name, SIOCGIFINDEX, &ifr);
	uint32_t ifindex = (uint32_t)ifr.ifr_ifindex;

	i->up = false;
	if (!rc)
		rc = query(fd, i->name, SIOCGIFHWADDR, &ifr);
	if (!rc && ifr.ifr_hwaddr.sa_family != ARPHRD_ETHER)
		rc = -EINVAL;
	if (rc)
		return rc;
	memcpy(i->mac, ifr.ifr_hwaddr.sa_data, 6);
	rc = query(fd, i->name, SIOCGIFMTU, &ifr);
	if (!rc) {
		i->mtu = (uint32_t)ifr.ifr_mtu;
		rc = query(fd, i->name, SIOCGIFFLAGS, &ifr);
	}
	i->up = !rc && (ifr.ifr_flags & IFF_UP);
	i->ifindex = ifindex;
	return rc;
}

static int bind_to(const struct pkt_interface *i, int fd)
{
	struct sockaddr_ll ll = {.sll_family = AF_PACKET,
	                         .sll_protocol = htons(ETH_P_ALL),
	                         .sll_ifindex = (int)i->ifindex};
	struct packet_mreq mr = {.mr_ifindex = (int)i->ifindex, .mr_type = PACKET_MR_PROMISC};

	if (bind(fd, (struct sockaddr *)&ll, sizeof(ll)))
		return -errno;
	if (i->promiscuous && setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mr, sizeof(mr)))
		return -errno;
	return 0;
}

int pkt_interface_open(struct pkt_interface *i)
{
	/* Protocol 0: nothing is received before the filter is attached and bind(2) says what. */
	int rc, fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	(void)l7mp_socket_set_rcvbuf(fd, RCVBUF);
	rc = attach_filter(fd, i->ethertype);
	if (!rc)
		rc = read_state(i, fd);
	if (!rc)
		rc = bind_to(i, fd);
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

int pkt_interface_refresh(struct pkt_interface *i, int fd)
{
	uint32_t before = i->ifindex;
	int rc = read_state(i, fd);

	if (!rc && i->ifindex != before)
		rc = bind_to(i, fd);
	return rc;
}

const char *pkt_interface_error(int rc)
{
	switch (rc) {
	case -ENODEV:
	case -ENXIO:
		return "there is no such interface";
	case -EINVAL:
		return "not an Ethernet interface";
	case -EPERM:
	case -EACCES:
		return "permission denied (packet sockets need CAP_NET_RAW)";
	case -ENETDOWN:
		return "the interface is down";
	default:
		return l7mp_errno_text(rc);
	}
}
