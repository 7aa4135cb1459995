/* SPDX-License-Identifier: MIT */
/*
 * The receiving side of the datagram engine: recvmmsg(2) batches into slots that the loop owns.
 * Splits GRO receives into their datagrams, and reads what the control messages say about each.
 */
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <netinet/udp.h>
#include <string.h>

#include "dgram_int.h"

#define DG_ROUNDS    4     /* recvmmsg calls of one socket in an iteration, for fairness */
#define DG_COPYBREAK 4096u /* up to here a datagram is copied and its slot stays */

struct dg_info {
	uint8_t hops; /* 0: not known */
	int gso_size; /* 0: one datagram */
	bool has_overflow;
	uint32_t overflow; /* datagrams that the kernel dropped since the socket was made */
	bool cred;
	struct ucred ucred;
	uint32_t tos; /* flags of the buffer: L7MP_BUF_TOS and the byte; 0: none */
	bool vlan;
	uint16_t vlan_tci, vlan_tpid;
};

/*
 * ---- control messages ----
 *
 * Packet info: ip(7), ipv6(7). UDP_GRO: udp(7). PACKET_AUXDATA: packet(7).
 */

#ifndef SOL_UDP
#define SOL_UDP 17
#endif

/* Returns the local port, which is read from the socket when it is first needed. */
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
	/* An IPv4 datagram of a dual-stack socket: IP_PKTINFO says more. */
	if (IN6_IS_ADDR_V4MAPPED(&info.ipi6_addr))
		return;
	if (IN6_IS_ADDR_MULTICAST(&info.ipi6_addr))
		return; /* no address to answer from: the kernel chooses */
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

static uint8_t parse_hops(const struct cmsghdr *c)
{
	int n;

	memcpy(&n, CMSG_DATA(c), sizeof(n));
	return n > 0 && n <= UINT8_MAX ? (uint8_t)n : 0;
}

/* One byte in IPv4, an integer in IPv6. */
static void parse_tos(const struct cmsghdr *c, struct dg_info *info)
{
	int tos = *(const uint8_t *)CMSG_DATA(c);

	if (c->cmsg_level == IPPROTO_IPV6)
		memcpy(&tos, CMSG_DATA(c), sizeof(tos));
	info->tos = L7MP_BUF_TOS | (uint32_t)(tos & 0xff) << L7MP_BUF_TOS_SHIFT;
}

/*
 * Reads the control messages of a datagram; `to` is the packet info's address, else its len is 0.
 */
static void cmsg_parse(struct l7mp_dgram *d, struct msghdr *msg, struct dg_info *info,
                       struct l7mp_addr *to)
{
	*info = (struct dg_info){0};
	to->len = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)
			parse_in6(d, c, to);
		else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
			parse_in(d, c, to);
		else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) ||
		         (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT))
			info->hops = parse_hops(c);
		else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) ||
		         (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS))
			parse_tos(c, info);
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

/* ---- the slots of a batch ---- */

/*
 * The number of slots: they stay below 4 MiB in total, so sockets with huge datagrams have smaller
 * batches.
 */
static size_t batch_size(const struct l7mp_dgram *d)
{
	size_t n = DG_BATCH * (size_t)DG_SLOT / d->max;

	return n > DG_BATCH ? DG_BATCH : n ? n : 1;
}

/* Allocates the slot's buffer unless it still has one. */
static int slot_fill(struct l7mp_dgram *d, struct l7mp_dgram_shared *sh, size_t i)
{
	size_t want = d->max > DG_SLOT ? d->max : DG_SLOT;

	if (sh->slot[i] && l7mp_buf_tailroom(sh->slot[i]) < want) {
		l7mp_buf_unref(sh->slot[i]);
		sh->slot[i] = NULL;
	}
	if (!sh->slot[i])
		sh->slot[i] = l7mp_buf_new(l7mp_loop_bufs(d->loop), want);
	return sh->slot[i] ? 0 : -ENOMEM;
}

/*
 * Sets up the message headers; after a call for a socket of the same kind only those that were
 * changed. Returns the number of usable ones.
 */
static size_t setup(struct l7mp_dgram *d, struct l7mp_dgram_shared *sh)
{
	bool has_name = !d->connected;
	bool has_control = (d->flags & (L7MP_DGRAM_PKTINFO | L7MP_DGRAM_GRO | L7MP_DGRAM_CRED)) ||
	                   d->family == AF_PACKET;
	size_t n = batch_size(d);

	if (sh->has_name != has_name || sh->has_control != has_control || sh->size != d->max) {
		sh->has_name = has_name;
		sh->has_control = has_control;
		sh->size = d->max;
		sh->dirty = DG_BATCH;
	}
	for (size_t i = 0; i < sh->dirty && i < n; i++) {
		struct msghdr *msg = &sh->rmsg[i].msg_hdr;

		if (slot_fill(d, sh, i)) {
			sh->size = 0; /* all of them next time */
			return i;
		}
		sh->riov[i] = (struct iovec){.iov_base = sh->slot[i]->data, .iov_len = d->max};
		msg->msg_iov = &sh->riov[i];
		msg->msg_iovlen = 1;
		msg->msg_name = has_name ? &sh->rname[i].sa : NULL;
		msg->msg_namelen = has_name ? sizeof(struct sockaddr_un) : 0;
		msg->msg_control = has_control ? sh->rcontrol[i].bytes : NULL;
		msg->msg_controllen = has_control ? sizeof(sh->rcontrol[i]) : 0;
	}
	sh->dirty = 0;
	return n;
}

/* ---- one message ---- */

/* Normalises the sender's address in place, as this is done for each datagram. */
static void fix_name(struct l7mp_addr *from, const struct msghdr *msg)
{
	from->len = msg->msg_namelen;
	if (!msg->msg_name || msg->msg_namelen <= sizeof(sa_family_t)) {
		from->len = 0;
	} else if (from->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&from->in6.sin6_addr)) {
		struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = from->in6.sin6_port};

		memcpy(&in.sin_addr, &from->in6.sin6_addr.s6_addr[12], sizeof(in.sin_addr));
		from->in = in;
		from->len = sizeof(in);
	} else if (from->sa.sa_family == AF_UNIX) {
		struct l7mp_addr tmp = *from;

		if (l7mp_addr_from_sockaddr(from, &tmp.sa, msg->msg_namelen))
			from->len = 0;
	}
}

static void dropped(struct l7mp_dgram *d, int err, uint32_t len)
{
	if (d->ops->dropped)
		d->ops->dropped(d->arg, err, len);
}

/*
 * Offsets in the virtio_net_hdr count from the first byte of the frame, so a tag that is inserted
 * moves them.
 */
static void shift_vnet(struct virtio_net_hdr *h, uint16_t by)
{
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		h->csum_start = (uint16_t)(h->csum_start + by);
	if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		h->hdr_len = (uint16_t)(h->hdr_len + by);
}

/* Inserts the VLAN tag that the NIC removed behind the MAC addresses, using the headroom. */
static void put_vlan(const struct l7mp_dgram *d, struct l7mp_buf *buf, const struct dg_info *info)
{
	uint16_t tag[2] = {htons(info->vlan_tpid), htons(info->vlan_tci)};
	struct virtio_net_hdr h;
	size_t before = 12 + (d->flags & L7MP_DGRAM_VNET ? sizeof(h) : 0);

	if (buf->len < before || l7mp_buf_headroom(buf) < sizeof(tag))
		return;
	memmove(buf->data - sizeof(tag), buf->data, before);
	buf->data -= sizeof(tag);
	buf->len += sizeof(tag);
	memcpy(buf->data + before, tag, sizeof(tag));
	if (before == 12)
		return;
	memcpy(&h, buf->data, sizeof(h));
	shift_vnet(&h, sizeof(tag));
	memcpy(buf->data, &h, sizeof(h));
}

/* Returns a buffer for bytes of the slot: a copy when they are few, else a slice of the slot. */
static struct l7mp_buf *take(struct l7mp_dgram *d, struct l7mp_buf *whole, bool copy, size_t off,
                             size_t len)
{
	if (copy)
		return l7mp_buf_copy(l7mp_loop_bufs(d->loop), whole->data + off, len);
	if (!off && len == whole->len)
		return l7mp_buf_ref(whole);
	return l7mp_buf_slice(whole, off, len);
}

static void deliver(struct l7mp_dgram *d, struct l7mp_buf *whole, const struct dg_info *info,
                    const struct l7mp_addr *from, const struct l7mp_addr *to)
{
	size_t total = whole->len, off = 0;
	size_t seg = info->gso_size > 0 ? (size_t)info->gso_size : total;
	bool copy = total <= DG_COPYBREAK;

	do {
		size_t len = total - off < seg ? total - off : seg;
		struct l7mp_buf *buf = take(d, whole, copy, off, len);

		off += len;
		if (!buf) {
			dropped(d, -ENOMEM, (uint32_t)len);
			continue;
		}
		buf->hops = info->hops;
		buf->flags |= info->tos;
		if (info->vlan)
			put_vlan(d, buf, info);
		d->ops->recv(d->arg, buf, from, to);
	} while (off < total && !d->closed);
}

/* Delivers one message of the batch; the socket may be closed afterwards. */
static void message(struct l7mp_dgram *d, struct l7mp_dgram_shared *sh, size_t i)
{
	struct msghdr *msg = &sh->rmsg[i].msg_hdr;
	struct l7mp_buf *whole = sh->slot[i];
	static const struct l7mp_addr none;
	struct l7mp_addr to;
	struct dg_info info = {0};
	uint32_t len = sh->rmsg[i].msg_len;

	to.len = 0;
	if (msg->msg_flags & MSG_TRUNC) {
		dropped(d, -EMSGSIZE, len);
		return;
	}
	if (!len && (d->flags & L7MP_DGRAM_SEQPACKET)) {
		d->ended = true;
		if (d->ops->error)
			d->ops->error(d->arg, 0);
		return;
	}
	if (sh->has_control)
		cmsg_parse(d, msg, &info, &to);
	if (sh->has_name)
		fix_name(&sh->rname[i], msg);
	/* The slot's buffer went with a larger datagram: the next batch allocates another one. */
	if (len > DG_COPYBREAK)
		sh->slot[i] = NULL;
	whole->len = len;
	if (info.has_overflow && info.overflow != d->overflow) {
		uint32_t n = info.overflow - d->overflow; /* the kernel's counter wraps round */

		d->overflow = info.overflow;
		d->ops->overflow(d->arg, n);
	}
	d->has_cred = info.cred;
	d->cred = info.ucred;
	deliver(d, whole, &info, sh->has_name ? &sh->rname[i] : &none, &to);
	if (len > DG_COPYBREAK)
		l7mp_buf_unref(whole);
}

/* ---- batches ---- */

/* Receives one batch. Returns the number of messages; *more: there may be more. */
static size_t round_once(struct l7mp_dgram *d, bool *more)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	size_t n = setup(d, sh);
	int r, err;

	*more = false;
	if (!n)
		return 0; /* no memory: tried again in the next iteration */
	/* MSG_TRUNC: the real length of what did not fit */
	r = recvmmsg(d->io.fd, sh->rmsg, (unsigned)n, MSG_DONTWAIT | MSG_TRUNC, NULL);
	if (r < 0) {
		err = errno;
		if (err != EAGAIN && err != EINTR && d->ops->error)
			d->ops->error(d->arg, -err);
		return 0;
	}
	sh->dirty = (size_t)r;
	for (int i = 0; i < r && !d->closed && !d->ended; i++)
		message(d, sh, (size_t)i);
	if (r && !d->closed && d->ops->batch_end)
		d->ops->batch_end(d->arg);
	*more = (size_t)r == n;
	return (size_t)r;
}

size_t dg_receive(struct l7mp_dgram *d)
{
	bool more = true;
	size_t n = 0;

	for (int i = 0; i < DG_ROUNDS && more && d->reading && !d->closed && !d->ended; i++)
		n += round_once(d, &more);
	if (d->ended)
		dg_watch(d);
	return n;
}

size_t l7mp_dgram_drain(struct l7mp_dgram *d)
{
	size_t n;

	dg_enter(d);
	n = dg_receive(d);
	if (!d->closed)
		l7mp_dgram_flush(d);
	dg_leave(d);
	return n;
}
