/* SPDX-License-Identifier: MIT */
/*
 * The datagram engine: UDP, UNIX datagram and seqpacket sockets and AF_PACKET (dgram.h).
 *
 * Receives in recvmmsg(2) batches into slots that the loop owns, and splits GRO receives into their
 * datagrams. Sends from a queue per socket in sendmmsg(2) batches, with runs of datagrams to one
 * peer as UDP GSO sends; a datagram that is alone by sendto(2).
 *
 * A sendmmsg(2) call that sent some messages hides the error of the next one, and for a connected
 * UDP socket it may have consumed an ICMP error that an earlier datagram caused. The rest is tried
 * again, one message first, so that every error is seen and only the datagram concerned is lost.
 */
#include "l7mp/dgram.h"
#include "loop_int.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DG_BATCH     64         /* messages of one recvmmsg or sendmmsg */
#define DG_ROUNDS    4          /* recvmmsg calls of one socket in a turn, for fairness */
#define DG_SLOT      65536u     /* bytes of a receive slot, unless a socket asks for more */
#define DG_COPYBREAK 4096u      /* up to here a datagram is copied and its slot stays */
#define DG_IOV       1024       /* datagrams of one sendmmsg, GSO segments counted */
#define DG_QUEUE_MAX (1u << 20) /* bytes queued for sending per socket, with DG_COST each */
#define DG_COST      128u       /* what an entry costs beside its payload */
#define DG_EARLY     256        /* queued messages that don't wait for the end of the turn */
#define DG_FREE_MAX  4096       /* queue entries that are kept for the next turn */
/* a UNIX receiver that reads nothing for that long loses datagrams */
#define DG_STALL_MS  1000
#define DG_GSO_SEGS  64          /* UDP_MAX_SEGMENTS of older kernels */
#define DG_GSO_BYTES 65000u      /* below 64 KiB less any header */
#define DG_LOW       (64u << 10) /* waiting bytes below which `drain` is called */
#define DG_GSO_SURE  1200u       /* a segment that fits every path's MTU, practically */

/*
 * One queued datagram. The destination is at the end of the allocation, and has the size that it
 * needs: UNIX addresses are longer.
 */
struct dg_msg {
	struct dg_msg *next;
	struct l7mp_buf *buf;
	uint64_t tag;
	uint32_t len;
	uint32_t stamp;   /* loop time in ms, when it was queued */
	uint32_t repeats; /* in the lost list: how many more like this */
	int err;          /* of its first attempt; in the lost list: why it was lost */
	uint8_t from_family;
	uint8_t hops; /* the TTL to leave with; 0: the socket's */
	bool plain;   /* never as a part of a GSO send */
	bool has_tos;
	uint8_t tos;
	bool retried; /* was sent again after an error that an earlier datagram had caused */
	uint32_t from_ifindex;
	struct in6_addr from; /* mapped when the socket is IPv6, else the first 4 bytes */
	struct sockaddr_un *un;
	socklen_t to_len;
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_ll ll;
	} to;
};

struct dg_queue {
	struct dg_msg *head;
	struct dg_msg **tail;
};

struct l7mp_dgram {
	struct l7mp_io io;
	struct l7mp_loop *loop;
	const struct l7mp_dgram_ops *ops;
	void *arg;
	uint32_t flags;
	uint32_t max;
	uint16_t family;
	in_port_t port; /* local, network order; 0: not known yet */
	bool connected, udp;
	bool reading, ended, closed;
	bool blocked;  /* waiting for EPOLLOUT */
	bool draining; /* was blocked: `drain` has to be called */
	bool has_cred; /* credentials of the present datagram are known */
	struct ucred cred;
	uint8_t busy;     /* inside of a callback: free it later */
	uint16_t gso_max; /* largest GSO segment; 0: the kernel has no GSO */
	struct dg_queue queue, lost;
	size_t queued_bytes, queued;
	int pending_err; /* for the error callback */
	bool counts_overflow;
	uint32_t overflow; /* the kernel's drop counter as last reported */
	struct l7mp_flush flush;
	struct l7mp_timer timer; /* for UNIX receivers that are full */
};

/* Room for packet info of both families and three integer messages, and for PACKET_AUXDATA. */
union dg_control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo)) +
	           3 * CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint32_t))];
};

/* Buffers of a batch, shared by all sockets of the loop, so that an idle socket needs none. */
struct l7mp_dgram_shared {
	bool tos_wanted; /* some socket sends with the TOS that another one received */
	/* receiving: entries [0, dirty) were used and have to be set up again */
	size_t dirty, size;
	bool has_name, has_control;
	struct l7mp_buf *slot[DG_BATCH];
	struct mmsghdr rmsg[DG_BATCH];
	struct iovec riov[DG_BATCH];
	struct l7mp_addr rname[DG_BATCH];
	union dg_control rcontrol[DG_BATCH];
	/* sending */
	struct mmsghdr smsg[DG_BATCH];
	struct iovec siov[DG_IOV];
	union dg_control scontrol[DG_BATCH];
	uint16_t group[DG_BATCH]; /* datagrams in each message */
	struct dg_msg *free;
	size_t n_free;
};

static inline void dg_queue_init(struct dg_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}
static inline void dg_queue_push(struct dg_queue *q, struct dg_msg *m)
{
	m->next = NULL;
	*q->tail = m;
	q->tail = &m->next;
}
static inline struct dg_msg *dg_queue_pop(struct dg_queue *q)
{
	struct dg_msg *m = q->head;

	if (m) {
		q->head = m->next;
		if (!q->head)
			q->tail = &q->head;
	}
	return m;
}

/* ---- declared before they are defined ---- */

static void dg_watch(struct l7mp_dgram *d); /* epoll interest from the state */
static inline void dg_enter(struct l7mp_dgram *d)
{
	d->busy++;
}
static void dg_leave(struct l7mp_dgram *d); /* may free d */
static struct dg_msg *dg_msg_new(struct l7mp_dgram *d);
static void dg_msg_free(struct l7mp_dgram *d, struct dg_msg *m);

static size_t dg_receive(struct l7mp_dgram *d);

static void dg_send_queue(struct l7mp_dgram *d); /* calls no callback */
static void dg_report(struct l7mp_dgram *d);     /* lost and error callbacks; inside enter/leave */
static void dg_flush_cb(struct l7mp_flush *f, void *arg);
static void dg_stall_cb(struct l7mp_timer *t, void *arg);

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
 * Reads the control messages of a datagram; `to` is the packet info's address, else its len is 0.
 */
static void dg_cmsg_parse(struct l7mp_dgram *d, struct msghdr *msg, struct dg_info *info,
                          struct l7mp_addr *to);
/* Writes the control messages for sending: source address and segment size. */
static void dg_cmsg_build(const struct l7mp_dgram *d, const struct dg_msg *m, int gso_size,
                          union dg_control *room, struct msghdr *msg);

/*
 * ---- control messages ----
 *
 * Packet info: ip(7), ipv6(7). UDP_GRO and UDP_SEGMENT: udp(7). PACKET_AUXDATA: packet(7).
 */

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
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

static void dg_cmsg_parse(struct l7mp_dgram *d, struct msghdr *msg, struct dg_info *info,
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

static void dg_cmsg_build(const struct l7mp_dgram *d, const struct dg_msg *m, int gso_size,
                          union dg_control *room, struct msghdr *msg)
{
	size_t len = 0;

	if (m->from_family && d->family == AF_INET6) {
		/* A dual-stack socket needs a mapped IPv4 source address; it ignores IP_PKTINFO. */
		struct in6_pktinfo info = {.ipi6_addr = m->from, .ipi6_ifindex = m->from_ifindex};

		len = put(room, len, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
	} else if (m->from_family) {
		struct in_pktinfo info = {0};

		memcpy(&info.ipi_spec_dst, &m->from, sizeof(info.ipi_spec_dst));
		len = put(room, len, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	}
	if (m->hops) {
		bool v4 = d->family == AF_INET || IN6_IS_ADDR_V4MAPPED(&m->to.in6.sin6_addr);
		int hops = m->hops;

		len = put(room, len, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_HOPLIMIT,
		          &hops, sizeof(hops));
	}
	if (gso_size) {
		uint16_t size = (uint16_t)gso_size;

		len = put(room, len, SOL_UDP, UDP_SEGMENT, &size, sizeof(size));
	}
	if (m->has_tos) {
		const struct in6_addr *to = m->to_len ? &m->to.in6.sin6_addr : NULL;
		bool v4 = d->family == AF_INET || (to && IN6_IS_ADDR_V4MAPPED(to));
		int tos = m->tos;

		len = put(room, len, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS,
		          &tos, sizeof(tos));
	}
	msg->msg_control = len ? room->bytes : NULL;
	msg->msg_controllen = len;
}

/* ---- receiving ---- */

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
		dg_cmsg_parse(d, msg, &info, &to);
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

/* Receives one batch. Returns the number of messages; *more: there may be more. */
static size_t round_once(struct l7mp_dgram *d, bool *more)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	size_t n = setup(d, sh);
	int r, err;

	*more = false;
	if (!n)
		return 0; /* no memory: tried again in the next turn */
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

static size_t dg_receive(struct l7mp_dgram *d)
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

/* ---- sending ---- */

#define UDP4_MAX 65507u
#define UDP6_MAX 65527u

/* ---- queueing ---- */

static int set_to(struct l7mp_dgram *d, struct dg_msg *m, const struct l7mp_addr *to)
{
	m->un = NULL;
	m->to_len = 0;
	if (!to || !to->len)
		return 0;
	if (to->sa.sa_family == AF_INET && d->family == AF_INET6) {
		m->to.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6,
		                                  .sin6_port = to->in.sin_port};
		m->to.in6.sin6_addr.s6_addr[10] = m->to.in6.sin6_addr.s6_addr[11] = 0xff;
		memcpy(&m->to.in6.sin6_addr.s6_addr[12], &to->in.sin_addr, 4);
		m->to_len = sizeof(m->to.in6);
	} else if (to->len <= sizeof(m->to)) {
		memcpy(&m->to, &to->sa, to->len);
		m->to_len = to->len;
	} else {
		m->un = malloc(sizeof(*m->un));
		if (!m->un)
			return -ENOMEM;
		memcpy(m->un, &to->un, to->len);
		m->to_len = to->len;
	}
	return 0;
}

static void set_from(struct l7mp_dgram *d, struct dg_msg *m, const struct l7mp_addr *from)
{
	m->from_family = 0;
	m->from_ifindex = 0;
	if (!from || !from->len || !d->udp)
		return;
	if (from->sa.sa_family == AF_INET6) {
		m->from = from->in6.sin6_addr;
		if (IN6_IS_ADDR_LINKLOCAL(&m->from))
			m->from_ifindex = from->in6.sin6_scope_id;
	} else if (from->sa.sa_family == AF_INET) {
		memset(&m->from, 0, sizeof(m->from));
		if (d->family == AF_INET6) {
			m->from.s6_addr[10] = m->from.s6_addr[11] = 0xff;
			memcpy(&m->from.s6_addr[12], &from->in.sin_addr, 4);
		} else {
			memcpy(&m->from, &from->in.sin_addr, 4);
		}
	}
	m->from_family = (uint8_t)from->sa.sa_family;
}

static bool too_large(const struct l7mp_dgram *d, const struct l7mp_addr *to, uint32_t len)
{
	if (!d->udp || len <= UDP4_MAX)
		return false;
	if (len > UDP6_MAX)
		return true;
	return d->family == AF_INET || (to && l7mp_addr_family(to) == AF_INET);
}

static int refuse(struct l7mp_buf *buf, int err)
{
	l7mp_buf_unref(buf);
	return err;
}

int l7mp_dgram_send(struct l7mp_dgram *d, struct l7mp_buf *buf, const struct l7mp_addr *to,
                    const struct l7mp_addr *from, uint64_t tag)
{
	struct dg_msg *m;

	if (too_large(d, to, buf->len))
		return refuse(buf, -EMSGSIZE);
	if (d->queued && d->queued_bytes + buf->len + DG_COST > DG_QUEUE_MAX)
		return refuse(buf, -ENOBUFS);
	m = dg_msg_new(d);
	if (!m)
		return refuse(buf, -ENOMEM);
	m->buf = NULL;
	if (set_to(d, m, to)) {
		dg_msg_free(d, m);
		return refuse(buf, -ENOMEM);
	}
	set_from(d, m, from);
	m->buf = buf;
	m->tag = tag;
	m->len = buf->len;
	m->hops = d->udp && m->to_len && (buf->flags & L7MP_BUF_HOPS) ? buf->hops : 0;
	m->stamp = (uint32_t)l7mp_loop_now(d->loop);
	m->repeats = 0;
	m->err = 0;
	m->plain = m->retried = false;
	m->has_tos = d->flags & L7MP_DGRAM_SEND_TOS && buf->flags & L7MP_BUF_TOS;
	m->tos = m->has_tos ? (uint8_t)(buf->flags >> L7MP_BUF_TOS_SHIFT) : 0;
	dg_queue_push(&d->queue, m);
	d->queued++;
	d->queued_bytes += m->len + DG_COST;
	if (d->blocked)
		return 0;
	if (d->queued >= DG_EARLY || d->queued_bytes >= DG_QUEUE_MAX / 2)
		dg_send_queue(d);
	else
		l7mp_flush_request(d->loop, &d->flush);
	return 0;
}

/* ---- one batch ---- */

static inline const struct sockaddr *msg_to(const struct dg_msg *m)
{
	return m->un ? (const struct sockaddr *)m->un : &m->to.sa;
}

static bool same_to(const struct dg_msg *a, const struct dg_msg *b)
{
	return a->to_len == b->to_len && !memcmp(msg_to(a), msg_to(b), a->to_len);
}

static bool same_path(const struct dg_msg *a, const struct dg_msg *b)
{
	return same_to(a, b) && a->hops == b->hops && a->has_tos == b->has_tos &&
	       a->tos == b->tos && a->from_family == b->from_family &&
	       a->from_ifindex == b->from_ifindex &&
	       (!a->from_family || !memcmp(&a->from, &b->from, sizeof(a->from)));
}

/*
 * Returns how many messages from m on can be one GSO send: same addresses and equal sizes, except
 * that the last may be shorter.
 */
static size_t run_length(const struct l7mp_dgram *d, const struct dg_msg *m, size_t room)
{
	const uint32_t seg = m->len;
	uint32_t total = seg;
	size_t n = 1;

	if (m->plain || !seg || seg > d->gso_max)
		return 1;
	if (room > DG_GSO_SEGS)
		room = DG_GSO_SEGS;
	for (const struct dg_msg *next = m->next; next && n < room; next = next->next) {
		if (next->plain || !next->len || next->len > seg ||
		    total + next->len > DG_GSO_BYTES || !same_path(m, next))
			break;
		total += next->len;
		n++;
		if (next->len < seg)
			break;
	}
	return n;
}

/* Builds the next batch; the messages stay queued. Returns the number of messages. */
static unsigned build(struct l7mp_dgram *d, unsigned limit)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	struct dg_msg *m = d->queue.head;
	size_t iov = 0;
	unsigned n = 0;

	for (; m && n < limit && iov < DG_IOV; n++) {
		struct msghdr *msg = &sh->smsg[n].msg_hdr;
		size_t run = run_length(d, m, DG_IOV - iov);

		*msg = (struct msghdr){.msg_iov = &sh->siov[iov], .msg_iovlen = run};
		if (m->to_len) {
			msg->msg_name = m->un ? (void *)m->un : (void *)&m->to;
			msg->msg_namelen = m->to_len;
		}
		if (m->from_family || m->hops || m->has_tos || run > 1)
			dg_cmsg_build(d, m, run > 1 ? (int)m->len : 0, &sh->scontrol[n], msg);
		sh->group[n] = (uint16_t)run;
		for (; run; run--, m = m->next)
			sh->siov[iov++] =
			        (struct iovec){.iov_base = m->buf->data, .iov_len = m->len};
	}
	return n;
}

static struct dg_msg *unqueue(struct l7mp_dgram *d)
{
	struct dg_msg *m = dg_queue_pop(&d->queue);

	d->queued--;
	d->queued_bytes -= m->len + DG_COST;
	return m;
}

static void sent(struct l7mp_dgram *d, unsigned n)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;

	for (unsigned i = 0; i < n; i++)
		for (unsigned k = sh->group[i]; k; k--)
			dg_msg_free(d, unqueue(d));
}

/* ---- errors ---- */

/*
 * Records a lost message for a later report. Equal ones in a row are one entry, so that the list
 * stays short.
 */
static void lose(struct l7mp_dgram *d, struct dg_msg *m, int err)
{
	struct dg_msg *last =
	        d->lost.head ? l7mp_container_of(d->lost.tail, struct dg_msg, next) : NULL;

	if (last && last->err == err && last->tag == m->tag && last->len == m->len) {
		last->repeats++;
		dg_msg_free(d, m);
		return;
	}
	m->err = err;
	l7mp_buf_unref(m->buf);
	m->buf = NULL;
	dg_queue_push(&d->lost, m);
}

/* After a refused GSO send: its datagrams are sent one by one, and later runs are shorter. */
static void unsegment(struct l7mp_dgram *d, int err)
{
	struct dg_msg *m = d->queue.head;
	unsigned n = d->loop->dgram->group[0];

	if ((err == EINVAL || err == EMSGSIZE) && m->len > DG_GSO_SURE)
		d->gso_max = (uint16_t)(m->len - 1); /* beyond the path's MTU */
	else if (err == EINVAL || err == EIO || err == EOPNOTSUPP || err == ENOPROTOOPT)
		d->gso_max = 0;
	for (; n; n--, m = m->next)
		m->plain = true;
}

/* Whether only an ICMP message can cause this error; others may be the datagram's own. */
static bool is_icmp(int err)
{
	return err == ECONNREFUSED || err == ENOPROTOOPT || err == EHOSTDOWN || err == ENONET;
}

/*
 * Moves the datagrams for one UNIX receiver out of the queue, as an unconnected socket can't be
 * polled for one receiver; datagrams for others are sent.
 */
static void set_aside(struct l7mp_dgram *d, struct dg_queue *aside)
{
	struct dg_queue rest;
	const struct dg_msg *full = d->queue.head;
	struct dg_msg *m;
	uint32_t now = (uint32_t)l7mp_loop_now(d->loop);

	dg_queue_init(&rest);
	while ((m = dg_queue_pop(&d->queue))) {
		/* The first one is freed last, as the others are compared with it. */
		if (m == full || same_to(m, full))
			dg_queue_push(aside, m);
		else
			dg_queue_push(&rest, m);
	}
	d->queue = rest;
	if (!rest.head)
		d->queue.tail = &d->queue.head;
	for (m = aside->head; m && now - m->stamp > DG_STALL_MS; m = aside->head) {
		dg_queue_pop(aside);
		d->queued--;
		d->queued_bytes -= m->len + DG_COST;
		lose(d, m, -EAGAIN);
	}
}

/* The first message of the queue failed. Returns false when sending has to wait. */
static bool failed(struct l7mp_dgram *d, int err, struct dg_queue *aside)
{
	struct dg_msg *m = d->queue.head;

	if (err == EINTR)
		return true;
	if (err == EAGAIN && d->family == AF_UNIX && !d->connected) {
		set_aside(d, aside);
		return true;
	}
	if (err == EAGAIN) {
		d->blocked = true;
		return false;
	}
	/* A connected UDP socket fails once for an ICMP error that an earlier datagram caused. */
	if (d->udp && d->connected && is_icmp(err))
		d->pending_err = -err;
	/*
	 * A packet filter that rejects a datagram also answers it with an ICMP error, for which the
	 * second attempt fails. The error to report is that of the filter.
	 */
	if (m->retried && m->err == EPERM)
		err = EPERM;
	if (d->udp && d->connected && !m->retried) {
		m->retried = true;
		m->err = err;
		return true;
	}
	if (d->loop->dgram->group[0] > 1) {
		unsegment(d, err);
		return true;
	}
	if (err == EPIPE || err == ECONNRESET || err == ENOTCONN ||
	    (err == ECONNREFUSED && d->connected))
		d->pending_err = -err;
	lose(d, unqueue(d), -err);
	return true;
}

/*
 * After a single message that followed a hidden error: reads the socket's error at once, to see
 * whether that message caused it.
 */
static void probe(struct l7mp_dgram *d)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (d->udp && d->connected && !getsockopt(d->io.fd, SOL_SOCKET, SO_ERROR, &err, &len) &&
	    err)
		d->pending_err = -err;
}

/* Whether the message is sent alone, because no other follows it, and needs no control messages. */
static bool is_single(const struct dg_msg *m)
{
	return !m->next && !m->from_family && !m->hops && !m->has_tos;
}

/*
 * Sends the next batch. Returns the number of messages sent or -1, as sendmmsg(2) does; *n: how
 * many it was asked to send.
 *
 * With many sessions most batches are one datagram: for it, sendto(2) has less to copy and check
 * than sendmmsg(2).
 */
static int send_batch(struct l7mp_dgram *d, unsigned limit, unsigned *n)
{
	const int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	const struct dg_msg *m = d->queue.head;

	if (is_single(m)) {
		const struct sockaddr *to = m->to_len ? msg_to(m) : NULL;

		*n = sh->group[0] = 1;
		return sendto(d->io.fd, m->buf->data, m->len, flags, to, m->to_len) < 0 ? -1 : 1;
	}
	*n = build(d, limit);
	if (*n == 1)
		return sendmsg(d->io.fd, &sh->smsg[0].msg_hdr, flags) < 0 ? -1 : 1;
	return sendmmsg(d->io.fd, sh->smsg, *n, flags);
}

static void dg_send_queue(struct l7mp_dgram *d)
{
	struct dg_queue aside;
	unsigned limit = DG_BATCH;

	dg_queue_init(&aside);
	while (d->queue.head && !d->blocked) {
		unsigned n;
		int r = send_batch(d, limit, &n);

		if (r < 0) {
			if (!failed(d, errno, &aside))
				break;
			limit = DG_BATCH;
			continue;
		}
		sent(d, (unsigned)r);
		if (limit == 1)
			probe(d);
		limit = (unsigned)r < n ? 1 : DG_BATCH;
	}
	if (aside.head) {
		d->queue = aside;
		d->blocked = true;
		(void)l7mp_timer_start(d->loop, &d->timer, 1);
	}
	if (d->blocked) {
		d->draining = true;
		dg_watch(d);
	}
	if (d->lost.head || d->pending_err)
		l7mp_flush_request(d->loop, &d->flush);
}

/* ---- at the end of the turn ---- */

static void dg_report(struct l7mp_dgram *d)
{
	struct dg_msg *m;
	int err = d->pending_err;

	while (!d->closed && (m = dg_queue_pop(&d->lost))) {
		for (uint32_t i = 0; i <= m->repeats && !d->closed && d->ops->lost; i++)
			d->ops->lost(d->arg, m->err, m->tag, m->len);
		dg_msg_free(d, m);
	}
	d->pending_err = 0;
	if (err && !d->closed && d->ops->error)
		d->ops->error(d->arg, err);
	if (!d->closed && !d->blocked)
		dg_watch(d);
	if (!d->closed && d->draining && (!d->blocked || d->queued_bytes < DG_LOW)) {
		d->draining = d->blocked;
		if (d->ops->drain)
			d->ops->drain(d->arg);
	}
}

static void dg_flush_cb(struct l7mp_flush *f, void *arg)
{
	struct l7mp_dgram *d = arg;

	(void)f;
	dg_enter(d);
	if (!d->blocked)
		dg_send_queue(d);
	l7mp_flush_cancel(d->loop, &d->flush);
	dg_report(d);
	dg_leave(d);
}

void l7mp_dgram_flush(struct l7mp_dgram *d)
{
	if (!d->blocked)
		dg_send_queue(d);
}

static void dg_stall_cb(struct l7mp_timer *t, void *arg)
{
	struct l7mp_dgram *d = arg;

	(void)t;
	dg_enter(d);
	d->blocked = false;
	dg_send_queue(d);
	dg_report(d);
	dg_leave(d);
}

/* ---- life of a socket ---- */

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

static struct l7mp_dgram_shared *shared_get(struct l7mp_loop *loop)
{
	if (!loop->dgram)
		loop->dgram = calloc(1, sizeof(*loop->dgram));
	return loop->dgram;
}

void l7mp_dgram_shared_free(struct l7mp_dgram_shared **sharedp)
{
	struct l7mp_dgram_shared *sh = *sharedp;

	if (!sh)
		return;
	*sharedp = NULL;
	for (size_t i = 0; i < DG_BATCH; i++)
		l7mp_buf_unref(sh->slot[i]);
	while (sh->free) {
		struct dg_msg *m = sh->free;

		sh->free = m->next;
		free(m);
	}
	free(sh);
}

static struct dg_msg *dg_msg_new(struct l7mp_dgram *d)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	struct dg_msg *m = sh->free;

	if (!m)
		return malloc(sizeof(*m));
	sh->free = m->next;
	sh->n_free--;
	return m;
}

static void dg_msg_free(struct l7mp_dgram *d, struct dg_msg *m)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;

	l7mp_buf_unref(m->buf);
	free(m->un);
	if (sh->n_free >= DG_FREE_MAX) {
		free(m);
		return;
	}
	m->next = sh->free;
	sh->free = m;
	sh->n_free++;
}

static void dg_watch(struct l7mp_dgram *d)
{
	uint32_t events = 0;

	if (d->closed)
		return;
	if (d->reading && !d->ended)
		events |= EPOLLIN;
	if (d->blocked && !l7mp_timer_armed(&d->timer))
		events |= EPOLLOUT;
	/* Only adding a descriptor can fail, for lack of memory; the next change tries again. */
	if (l7mp_io_set(d->loop, &d->io, events) && d->blocked)
		(void)l7mp_timer_start(d->loop, &d->timer, 1);
}

static void io_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_dgram *d = l7mp_container_of(io, struct l7mp_dgram, io);

	dg_enter(d);
	if (d->blocked && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		d->blocked = false;
		dg_send_queue(d);
		dg_report(d);
	}
	if (d->reading && !d->closed && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		dg_receive(d);
	dg_leave(d);
}

/* Reads from the kernel the socket's family, whether it is connected, and its port. */
static int learn(struct l7mp_dgram *d)
{
	struct l7mp_addr a = {0};
	socklen_t len = sizeof(struct sockaddr_un);

	if (getsockname(d->io.fd, &a.sa, &len))
		return -errno;
	d->family = a.sa.sa_family;
	d->udp = d->family == AF_INET || d->family == AF_INET6;
	if (d->udp)
		d->port = a.in.sin_port;
	len = sizeof(struct sockaddr_un);
	d->connected = !getpeername(d->io.fd, &a.sa, &len);
	return 0;
}

static int set_options(struct l7mp_dgram *d)
{
	int on = 1, fd = d->io.fd;

	if (d->loop->dgram->tos_wanted)
		d->flags |= L7MP_DGRAM_RECV_TOS;
	if (!d->udp)
		d->flags &= ~(unsigned)(L7MP_DGRAM_PKTINFO | L7MP_DGRAM_GRO | L7MP_DGRAM_GSO |
		                        L7MP_DGRAM_RECV_TOS);
	/* VLAN tags that the card took off come beside the frame. */
	if (d->family == AF_PACKET)
		(void)setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on));
	if (d->family != AF_PACKET)
		d->flags &= ~(unsigned)L7MP_DGRAM_VNET;
	if ((d->flags & L7MP_DGRAM_VNET) &&
	    setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)))
		return -errno;
	if ((d->flags & L7MP_DGRAM_CRED) &&
	    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)))
		return -errno;
	if ((d->flags & L7MP_DGRAM_PKTINFO) && d->family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on)))
		return -errno;
	/*
	 * Also on IPv6 sockets, for the IPv4 peers of a dual-stack one: IPV6_PKTINFO tells the
	 * address that a datagram was sent to, which may be a broadcast address, not our own.
	 */
	if ((d->flags & L7MP_DGRAM_PKTINFO) &&
	    setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)))
		return -errno;
	if (d->flags & L7MP_DGRAM_RECV_TOS) {
		/* IPv4 also on IPv6 sockets, for the IPv4 peers of a dual-stack one. */
		(void)setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on));
		if (d->family == AF_INET6)
			(void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(on));
	}
	/* A kernel without these still relays. A dual-stack socket needs both for the TTL. */
	if (d->udp && (d->flags & L7MP_DGRAM_HOPS)) {
		(void)setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof(on));
		if (d->family == AF_INET6)
			(void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof(on));
	}
	if (d->family != AF_UNIX && d->ops->overflow) /* those hold the sender up */
		d->counts_overflow = !setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof(on));
	if ((d->flags & L7MP_DGRAM_GRO) && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on)))
		d->flags &= ~(unsigned)L7MP_DGRAM_GRO;
	if (d->flags & L7MP_DGRAM_GSO)
		d->gso_max = UINT16_MAX;
	return 0;
}

int l7mp_dgram_new(struct l7mp_loop *loop, int fd, unsigned flags, size_t max_datagram,
                   const struct l7mp_dgram_ops *ops, void *arg, struct l7mp_dgram **out)
{
	struct l7mp_dgram *d = calloc(1, sizeof(*d));
	int rc = -ENOMEM;

	if (!d || !shared_get(loop))
		goto fail;
	l7mp_io_init(&d->io, fd, io_cb);
	d->loop = loop;
	d->ops = ops;
	d->arg = arg;
	d->flags = flags;
	d->max = max_datagram > DG_SLOT ? (uint32_t)max_datagram : DG_SLOT;
	rc = learn(d);
	if (!rc)
		rc = set_options(d);
	if (rc)
		goto fail;
	if (!(d->flags & L7MP_DGRAM_GRO) && max_datagram && max_datagram < d->max)
		d->max = (uint32_t)max_datagram;
	dg_queue_init(&d->queue);
	dg_queue_init(&d->lost);
	l7mp_flush_init(&d->flush, dg_flush_cb, d);
	l7mp_timer_init(&d->timer, dg_stall_cb, d);
	l7mp_loop_hold(loop);
	*out = d;
	return 0;
fail:
	free(d);
	close(fd);
	return rc;
}

void l7mp_dgram_read(struct l7mp_dgram *d, bool on)
{
	d->reading = on;
	dg_watch(d);
}

void l7mp_dgram_send_tos(struct l7mp_dgram *d, bool on)
{
	d->flags &= ~(unsigned)L7MP_DGRAM_SEND_TOS;
	if (!on || !d->udp)
		return;
	d->flags |= L7MP_DGRAM_SEND_TOS;
	d->loop->dgram->tos_wanted = true;
}

int l7mp_dgram_fd(const struct l7mp_dgram *d)
{
	return d->io.fd;
}

size_t l7mp_dgram_waiting(const struct l7mp_dgram *d)
{
	return d->blocked ? d->queued_bytes : 0;
}

bool l7mp_dgram_cred(const struct l7mp_dgram *d, struct ucred *out)
{
	*out = d->cred;
	return d->has_cred;
}

static void drop_all(struct l7mp_dgram *d, struct dg_queue *q)
{
	struct dg_msg *m;

	while ((m = dg_queue_pop(q)))
		dg_msg_free(d, m);
}

static void dg_leave(struct l7mp_dgram *d)
{
	if (!--d->busy && d->closed)
		free(d);
}

void l7mp_dgram_close(struct l7mp_dgram **dp)
{
	struct l7mp_dgram *d = *dp;

	if (!d)
		return;
	*dp = NULL;
	dg_enter(d);
	dg_send_queue(d);
	d->closed = true;
	l7mp_io_stop(d->loop, &d->io);
	close(d->io.fd);
	l7mp_flush_cancel(d->loop, &d->flush);
	l7mp_timer_stop(d->loop, &d->timer);
	drop_all(d, &d->queue);
	drop_all(d, &d->lost);
	l7mp_loop_release(d->loop);
	dg_leave(d);
}
