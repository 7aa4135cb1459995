/* SPDX-License-Identifier: MIT */
/* Control messages: packet info (ip(7), ipv6(7)), UDP_GRO and UDP_SEGMENT (udp(7)), PACKET_AUXDATA (packet(7)). */
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/udp.h>
#include <string.h>

#include "dgram_int.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

/* The port is the socket's; one that was bound late is asked for when first needed. */
static in_port_t local_port(struct l7mp_dgram *d)
{
	struct sockaddr_in6 sa;
	socklen_t len = sizeof(sa);

	if (!d->port && !getsockname(d->io.fd, (struct sockaddr *)&sa, &len))
		d->port = sa.sin6_port; /* at the same place in sockaddr_in */
	return d->port;
}

static void set_to4(struct l7mp_dgram *d, struct in_addr ip, struct l7mp_addr *to)
{
	to->len = sizeof(to->in);
	to->in = (struct sockaddr_in){
	        .sin_family = AF_INET, .sin_port = local_port(d), .sin_addr = ip};
}

static void parse_in(struct l7mp_dgram *d, const struct cmsghdr *c, struct l7mp_addr *to)
{
	struct in_pktinfo info;

	memcpy(&info, CMSG_DATA(c), sizeof(info));
	/* The local address: differs from the packet's when that was a broadcast or multicast. */
	set_to4(d, info.ipi_spec_dst.s_addr ? info.ipi_spec_dst : info.ipi_addr, to);
}

static void parse_in6(struct l7mp_dgram *d, const struct cmsghdr *c, struct l7mp_addr *to)
{
	struct in6_pktinfo info;

	memcpy(&info, CMSG_DATA(c), sizeof(info));
	if (IN6_IS_ADDR_V4MAPPED(&info.ipi6_addr)) {
		struct in_addr v4;

		memcpy(&v4, &info.ipi6_addr.s6_addr[12], sizeof(v4));
		if (!IN_MULTICAST(ntohl(v4.s_addr)) && v4.s_addr != INADDR_BROADCAST)
			set_to4(d, v4, to);
		return;
	}
	if (IN6_IS_ADDR_MULTICAST(&info.ipi6_addr))
		return; /* nothing to answer from: the kernel chooses */
	to->len = sizeof(to->in6);
	to->in6 = (struct sockaddr_in6){
	        .sin6_family = AF_INET6, .sin6_port = local_port(d), .sin6_addr = info.ipi6_addr};
	if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr))
		to->in6.sin6_scope_id = info.ipi6_ifindex;
}

static void parse_aux(const struct cmsghdr *c, struct dg_info *info)
{
	struct tpacket_auxdata aux;

	memcpy(&aux, CMSG_DATA(c), sizeof(aux));
	if (!(aux.tp_status & TP_STATUS_VLAN_VALID))
		return;
	info->vlan = true;
	info->vlan_tci = aux.tp_vlan_tci;
	info->vlan_tpid =
	        aux.tp_status & TP_STATUS_VLAN_TPID_VALID ? aux.tp_vlan_tpid : ETH_P_8021Q;
}

void l7mp_dgram_cmsg_parse(struct l7mp_dgram *d, struct msghdr *msg, struct dg_info *info,
                           struct l7mp_addr *to)
{
	*info = (struct dg_info){0};
	to->len = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)
			parse_in6(d, c, to);
		else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
			parse_in(d, c, to);
		else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO)
			memcpy(&info->gso_size, CMSG_DATA(c), sizeof(int));
		else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL) {
			memcpy(&info->overflow, CMSG_DATA(c), sizeof(info->overflow));
			info->has_overflow = true;
		} else if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA)
			parse_aux(c, info);
		else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&info->ucred, CMSG_DATA(c), sizeof(info->ucred));
			info->cred = true;
		}
	}
}

static size_t put(union dg_control *room, size_t off, int level, int type, const void *data,
                  size_t len)
{
	struct cmsghdr *c = (struct cmsghdr *)(room->bytes + off);

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), data, len);
	return off + CMSG_SPACE(len);
}

void l7mp_dgram_cmsg_build(const struct l7mp_dgram *d, const struct dg_msg *m, int gso_size,
                           union dg_control *room, struct msghdr *msg)
{
	size_t len = 0;

	if (m->from_family && d->family == AF_INET6) {
		/* An IPv4 source of a dual-stack socket goes in mapped; IP_PKTINFO would be ignored. */
		struct in6_pktinfo info = {.ipi6_addr = m->from, .ipi6_ifindex = m->from_ifindex};

		len = put(room, len, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
	} else if (m->from_family) {
		struct in_pktinfo info = {0};

		memcpy(&info.ipi_spec_dst, &m->from, sizeof(info.ipi_spec_dst));
		len = put(room, len, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	}
	if (gso_size) {
		uint16_t size = (uint16_t)gso_size;

		len = put(room, len, SOL_UDP, UDP_SEGMENT, &size, sizeof(size));
	}
	msg->msg_control = len ? room->bytes : NULL;
	msg->msg_controllen = len;
}
