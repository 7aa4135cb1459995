/* SPDX-License-Identifier: MIT */
/* Receiving: batches into slots that the loop owns, GRO receives split into their datagrams. */
#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "dgram_int.h"

/* Slots that together stay below 4 MiB: sockets with huge datagrams get smaller batches. */
static size_t batch_size(const struct l7mp_dgram *d)
{
	size_t n = DG_BATCH * (size_t)DG_SLOT / d->max;

	return n > DG_BATCH ? DG_BATCH : n ? n : 1;
}

/* The slot keeps its buffer for as long as datagrams are copied out of it. */
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
 * Sets the headers up, only those that the last call changed when that was for a
 * socket of the same kind. Returns how many are usable.
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

/* In place, and only what differs: this is done for each datagram. */
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

/* Offsets in the virtio_net_hdr count from the frame's first byte: behind the tag they are further away. */
static void shift_vnet(struct virtio_net_hdr *h, uint16_t by)
{
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		h->csum_start = (uint16_t)(h->csum_start + by);
	if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		h->hdr_len = (uint16_t)(h->hdr_len + by);
}

/* The tag that the card took off goes back behind the MAC addresses, into the headroom. */
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

/* A buffer for bytes of the slot: a copy when small, else a share of the slot itself. */
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
		if (info->vlan)
			put_vlan(d, buf, info);
		d->ops->recv(d->arg, buf, from, to);
	} while (off < total && !d->closed);
}

/* One message of the batch; the socket may be closed afterwards. */
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
		l7mp_dgram_cmsg_parse(d, msg, &info, &to);
	if (sh->has_name)
		fix_name(&sh->rname[i], msg);
	/* Larger ones leave with the slot's buffer; the slot gets another one for the next batch. */
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

/* Messages received; *more: there may be more. */
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

size_t l7mp_dgram_receive(struct l7mp_dgram *d)
{
	bool more = true;
	size_t n = 0;

	for (int i = 0; i < DG_ROUNDS && more && d->reading && !d->closed && !d->ended; i++)
		n += round_once(d, &more);
	if (d->ended)
		l7mp_dgram_watch(d);
	return n;
}

size_t l7mp_dgram_drain(struct l7mp_dgram *d)
{
	size_t n;

	l7mp_dgram_enter(d);
	n = l7mp_dgram_receive(d);
	if (!d->closed)
		l7mp_dgram_flush(d);
	l7mp_dgram_leave(d);
	return n;
}
