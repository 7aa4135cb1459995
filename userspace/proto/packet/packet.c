/* SPDX-License-Identifier: MIT */
/*
 * AF_PACKET: whole Ethernet frames of one interface (packet(7)). A listener has one session
 * (singleton) or one for each conversation (server). A session of a cluster has its own socket,
 * unless its source is a server: such sessions from one interface share a socket, and each gets the
 * answers of its conversation. All sockets are shared sockets (shared_socket.h).
 *
 * PACKET_VNET_HDR marks frames that were merged and checksums that were left to hardware, so that
 * frames can be delivered as on the wire.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "net/shared_socket.h"

/* ---- the interface ---- */

struct pkt_interface {
	/* Set by the user: */
	char name[IF_NAMESIZE];
	uint16_t ethertype; /* 0: all */
	bool promiscuous;
	/* Read from the kernel: */
	uint32_t ifindex, mtu;
	uint8_t mac[6];
	bool up;
};

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#define RCVBUF (4 << 20)

/* A number, "0x88b5", or one of ipv4 ipv6 arp vlan qinq lldp eapol. -EINVAL. */
static int pkt_ethertype_parse(const cJSON *node, uint16_t *out)
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
 * The filter drops outgoing frames of this host (PACKET_IGNORE_OUTGOING does it earlier, on kernels
 * that have it), and frames of another EtherType. The EtherType is the one after one VLAN tag,
 * whether the tag is in the frame or was removed by the device.
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

/*
 * Opens a non-blocking socket that receives the frames of the interface with `ethertype` that were
 * not sent by this host; none before that filter is attached. Returns the descriptor and sets the
 * fields read from the kernel, or negative errno (-ENODEV; -EINVAL: not an Ethernet interface;
 * -EPERM).
 */
static int pkt_interface_open(struct pkt_interface *i)
{
	/*
	 * Protocol 0: nothing is received before the filter is attached and bind(2) sets the
	 * protocol.
	 */
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

/*
 * Reads index, MTU, address and state again, and rebinds fd if the interface was deleted and
 * created under the same name. Returns 0, also when it is down; -ENODEV, -EINVAL.
 */
static int pkt_interface_refresh(struct pkt_interface *i, int fd)
{
	uint32_t before = i->ifindex;
	int rc = read_state(i, fd);

	if (!rc && i->ifindex != before)
		rc = bind_to(i, fd);
	return rc;
}

/* Returns the text for an error of these functions or of the socket. Static. */
static const char *pkt_interface_error(int rc)
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

/* ---- sockets ---- */

/* After this time a singleton whose session could not be started retries. */
#define START_AGAIN_MS 1000
/* Interval of checks while an interface is down or deleted. */
#define CHECK_MS 1000

/* Upstream: the sessions of a cluster that are conversations of a server's interface. */
enum pkt_mode { PKT_SINGLETON, PKT_SERVER, PKT_UPSTREAM };

/* The key of the only session of a singleton or a cluster. */
static const uint8_t only_key[1] = {0};

struct packet_socket {
	struct l7mp_shared_socket shared; /* first */
	struct pkt_interface interface;
	enum pkt_mode mode;
	bool rewrite_src, rewrite_dst; /* clusters: addresses that are rewritten in sent frames */
	uint8_t src_mac[6], dst_mac[6];
	char from[IF_NAMESIZE]; /* upstream: the server's interface */
	bool down;
	struct l7mp_timer check_timer; /* while the interface is down */
};

/* A session of a cluster whose `open` is to be emitted. */
struct packet_open {
	struct l7mp_task task;
	struct packet_socket *socket; /* a reference */
	uint64_t id;                  /* of the session, which may have been freed */
	uint16_t key_len;
	uint8_t key[sizeof(struct pkt_key)];
};

struct packet_listener {
	struct l7mp_shared_listener shared; /* first */
	/* Singleton: there is a session, which may have lost its stream and may reopen it later. */
	bool has_session;
	struct l7mp_shared_session *emitting; /* the session that is being emitted */
};

static struct packet_socket *socket_of(const struct packet_listener *l)
{
	return (struct packet_socket *)l->shared.socket;
}

/* ---- state of the interface ---- */

/* Returns 0 when the interface is up; otherwise schedules checks until it is. */
static int check_interface(struct packet_socket *s)
{
	int rc = pkt_interface_refresh(&s->interface, l7mp_dgram_fd(s->shared.dgram));

	if (!rc && !s->interface.up)
		rc = -ENETDOWN;
	s->down = rc != 0;
	if (rc && !l7mp_timer_armed(&s->check_timer))
		(void)l7mp_timer_start(s->shared.env->loop, &s->check_timer, CHECK_MS);
	return rc;
}

static void interface_came_up(struct packet_socket *s)
{
	struct packet_listener *l = (struct packet_listener *)s->shared.listener;

	s->down = false;
	l7mp_timer_stop(s->shared.env->loop, &s->check_timer);
	l7mp_log_notice("packet", "interface %s is up", s->interface.name);
	if (l && s->mode == PKT_SINGLETON && !l->has_session && !s->shared.sessions)
		l7mp_shared_listener_start(&l->shared, 0);
}

static void on_check_timer(struct l7mp_timer *t, void *arg)
{
	struct packet_socket *s = arg;

	(void)t;
	if (!check_interface(s))
		interface_came_up(s);
}

/* ---- new sessions ---- */

static struct l7mp_shared_session *only_session_new(struct packet_socket *s)
{
	return l7mp_shared_session_new(&s->shared, only_key, sizeof(only_key),
	                               s->interface.mtu + PKT_MIN);
}

static int reopen(void *arg, struct l7mp_stream **out)
{
	struct packet_listener *l = arg;
	struct l7mp_shared_session *p;
	int rc = check_interface(socket_of(l));

	if (rc)
		return rc;
	p = only_session_new(socket_of(l));
	if (!p)
		return -ENOMEM;
	*out = &p->base;
	return 0;
}

static void session_ended(void *arg)
{
	struct packet_listener *l = arg;

	/* The next frame begins another session. */
	l->has_session = false;
}

/* Emits the session of a singleton, with its first frame when there is one (takes buf). */
static void emit_singleton(struct packet_listener *l, struct l7mp_buf *buf)
{
	struct packet_socket *s = socket_of(l);
	struct pkt_info own = {.l3 = 0};
	struct l7mp_accept a = {
	        .reopen = reopen, .reopen_arg = l, .ended = session_ended, .never_idle = true};
	struct pkt_key key = {.type = ETH_P_ALL};
	struct l7mp_addr unused;
	struct l7mp_shared_session *p;
	char mac[L7MP_ADDR_STRLEN];

	memcpy(key.src, s->interface.mac, 6);
	memcpy(own.src_mac, s->interface.mac, 6);
	pkt_key_addrs(&key, s->interface.ifindex, &a.peer, &unused);
	p = l7mp_shared_session_admit(&l->shared, &a, only_key, sizeof(only_key),
	                              s->interface.mtu + PKT_MIN, buf);
	if (!p) {
		l7mp_shared_listener_start(&l->shared, START_AGAIN_MS);
		return;
	}
	a.name = l7mp_asprintf("PACKET:%s-%s-%llu", s->interface.name, l7mp_addr_ip(&a.peer, mac),
	                       (unsigned long long)p->id);
	a.metadata = pkt_metadata(s->interface.name, &own);
	l->has_session = true;
	l->emitting = p;
	/* The owner may have deleted the listener in this call; p keeps s alive. */
	if (l7mp_shared_session_emit(&l->shared, p, &a, buf) && s->shared.listener == &l->shared)
		l->emitting = NULL;
}

/* Emits the session of a conversation; takes buf. */
static void emit_conversation(struct packet_listener *l, struct l7mp_buf *buf,
                              const struct pkt_info *info)
{
	struct packet_socket *s = socket_of(l);
	struct l7mp_accept a = {.stream = NULL};
	struct l7mp_addr dst;
	struct l7mp_shared_session *p;
	char *text;

	pkt_key_addrs(&info->key, s->interface.ifindex, &a.peer, &dst);
	p = l7mp_shared_session_admit(&l->shared, &a, &info->key, sizeof(info->key),
	                              s->interface.mtu + PKT_MIN, buf);
	if (!p)
		return;
	text = pkt_key_name(&info->key);
	if (text)
		a.name = l7mp_asprintf("PACKET:%s-%s-%llu", s->interface.name, text,
		                       (unsigned long long)p->id);
	free(text);
	a.metadata = pkt_metadata(s->interface.name, info);
	(void)l7mp_shared_session_emit(&l->shared, p, &a, buf);
}

/* Handles a frame without a session; takes buf. */
static void first_frame(struct packet_listener *l, struct l7mp_buf *buf,
                        const struct pkt_info *info)
{
	if (socket_of(l)->mode == PKT_SERVER)
		emit_conversation(l, buf, info);
	else if (l->has_session || l7mp_timer_armed(&l->shared.start_timer))
		l7mp_shared_socket_drop(l->shared.socket, L7MP_DROP_NOT_CONNECTED, buf);
	else
		emit_singleton(l, buf);
}

/* Starts the session of a singleton without a frame. */
static void start_singleton(struct l7mp_shared_listener *base)
{
	struct packet_listener *l = (struct packet_listener *)base;

	/* When the interface is down, interface_came_up starts the session. */
	if (!l->has_session && !base->socket->sessions && !check_interface(socket_of(l)))
		emit_singleton(l, NULL);
}

static void on_removed(struct l7mp_shared_session *p)
{
	struct packet_listener *l = (struct packet_listener *)p->socket->listener;

	/* If it was emitted, session_ended or reopen follows. */
	if (!l || l->emitting != p)
		return;
	/* Closed while being emitted: it was refused. */
	l->emitting = NULL;
	l->has_session = false;
	l7mp_shared_listener_start(&l->shared, START_AGAIN_MS);
}

/* ---- receiving ---- */

static void on_frame(void *arg, struct l7mp_buf *buf)
{
	struct packet_socket *s = arg;
	const void *key = only_key;
	uint16_t len = sizeof(only_key);
	struct l7mp_shared_session *p;
	struct pkt_info info;

	if (!pkt_parse(buf->data, buf->len, &info)) {
		l7mp_shared_socket_drop(&s->shared, L7MP_DROP_TOO_SHORT, buf);
		return;
	}
	if (s->mode != PKT_SINGLETON) {
		key = &info.key;
		len = sizeof(info.key);
	}
	p = l7mp_shared_find(&s->shared, key, len);
	/*
	 * An answer of no conversation, for example to a broadcast: delivered once, to the oldest
	 * session.
	 */
	if (!p && s->mode == PKT_UPSTREAM)
		p = s->shared.sessions;
	if (p)
		l7mp_shared_deliver(p, buf);
	else if (s->shared.listener)
		first_frame((struct packet_listener *)s->shared.listener, buf, &info);
	else /* the listener was deleted; its sessions continue */
		l7mp_shared_socket_drop(&s->shared, L7MP_DROP_PEER, buf);
}

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct packet_socket *s = arg;
	struct l7mp_env *env = s->shared.env;
	uint32_t len = buf->len;
	int rc;

	(void)from;
	(void)to;
	if (s->down)
		interface_came_up(s);
	/* A session that is ended by one of the frames may hold the last reference. */
	l7mp_shared_socket_ref(&s->shared);
	rc = pkt_unpack(env->loop, buf, on_frame, s);
	if (rc)
		l7mp_stats_drop(env->stats, l7mp_drop_from_errno(rc), 1, len);
	l7mp_shared_socket_unref(&s->shared);
}

static void on_error(void *arg, int err)
{
	struct packet_socket *s = arg;

	if (err == -EINVAL) {
		/* A merged frame without a virtio_net_hdr type (of a tunnel). */
		l7mp_stats_drop(s->shared.env->stats, L7MP_DROP_TOO_LARGE, 1, 0);
		return;
	}
	l7mp_shared_socket_warn(&s->shared, "packet", s->interface.name, pkt_interface_error(err));
	if (err != -ENETDOWN && err != -ENODEV && err != -ENXIO)
		return;
	err = check_interface(s);
	if (err)
		l7mp_shared_socket_fail(&s->shared, err);
}

static const struct l7mp_dgram_ops dgram_ops = {
        .recv = on_recv,
        .lost = l7mp_shared_on_lost,
        .error = on_error,
        .dropped = l7mp_shared_on_dropped,
        .overflow = l7mp_shared_on_overflow,
        .drain = l7mp_shared_on_drain,
};

/* ---- sending ---- */

static bool too_large(struct packet_socket *s, const struct l7mp_buf *buf)
{
	uint16_t type = (uint16_t)(buf->data[12] << 8 | buf->data[13]);
	uint32_t extra = PKT_MIN + (type == 0x8100 || type == 0x88a8 ? 4 : 0);

	if (buf->len <= s->interface.mtu + extra)
		return false;
	/* The MTU may have been raised since it was read. */
	return pkt_interface_refresh(&s->interface, l7mp_dgram_fd(s->shared.dgram)) ||
	       buf->len > s->interface.mtu + extra;
}

static int send_frame(struct l7mp_shared_session *p, struct l7mp_buf *buf, uint64_t tag)
{
	struct packet_socket *s = (struct packet_socket *)p->socket;
	const size_t head = sizeof(struct virtio_net_hdr);
	int rc = 0;

	if (buf->len < PKT_MIN)
		rc = -ERANGE;
	else if (s->down)
		rc = -ENETDOWN;
	else if (too_large(s, buf))
		rc = -EMSGSIZE;
	if (rc) {
		l7mp_buf_unref(buf);
		return rc;
	}
	buf = l7mp_buf_own(buf, head, buf->len);
	if (!buf)
		return -ENOMEM;
	if (s->rewrite_dst)
		memcpy(buf->data, s->dst_mac, 6);
	if (s->rewrite_src)
		memcpy(buf->data + 6, s->src_mac, 6);
	buf->data -= head;
	buf->len += (uint32_t)head;
	memset(buf->data, 0, head);
	return l7mp_dgram_send(s->shared.dgram, buf, NULL, NULL, tag);
}

static void flow_frame(const struct l7mp_shared_session *p, const struct packet_socket *s,
                       struct l7mp_flow_frame *out)
{
	struct pkt_key key;

	out->filter = s->interface.ethertype;
	out->set_src = s->rewrite_src;
	out->set_dst = s->rewrite_dst;
	memcpy(out->src_mac, s->src_mac, sizeof(out->src_mac));
	memcpy(out->dst_mac, s->dst_mac, sizeof(out->dst_mac));
	out->any = p->key_len != sizeof(key);
	if (out->any)
		return;
	memcpy(&key, p->key, sizeof(key));
	out->family = key.family;
	out->l4 = key.proto;
	memcpy(out->src, key.src, sizeof(out->src));
	memcpy(out->dst, key.dst, sizeof(out->dst));
	out->sport = key.sport;
	out->dport = key.dport;
	out->type = key.type;
	memcpy(out->vlan, key.vlan, sizeof(out->vlan));
}

static void flow(struct l7mp_shared_session *p, struct l7mp_flow_end *out)
{
	struct packet_socket *s = (struct packet_socket *)p->socket;
	struct pkt_key own = {.type = ETH_P_ALL};
	bool conversation = p->key_len == sizeof(struct pkt_key);

	if (p->closing)
		return;
	out->kind = L7MP_FLOW_SOCKET;
	out->reason = L7MP_REASON_NONE;
	out->ifindex = s->interface.ifindex;
	out->fd = l7mp_dgram_fd(s->shared.dgram);
	flow_frame(p, s, &out->frame);
	memcpy(own.src, s->interface.mac, 6);
	if (conversation)
		memcpy(&own, p->key, sizeof(own));
	pkt_key_addrs(&own, s->interface.ifindex, &out->remote, &out->local);
	if (!conversation) {
		out->local = out->remote;
		out->remote.len = 0;
	}
}

/* ---- sockets ---- */

static bool matches(const struct l7mp_shared_socket *base, const void *arg)
{
	const struct packet_socket *s = (const struct packet_socket *)base, *want = arg;

	return !strcmp(s->interface.name, want->interface.name) && s->mode == want->mode &&
	       s->interface.ethertype == want->interface.ethertype &&
	       s->interface.promiscuous == want->interface.promiscuous;
}

static void describe(const struct l7mp_shared_socket *base, int err, struct l7mp_error *out)
{
	const struct packet_socket *s = (const struct packet_socket *)base;

	l7mp_error_set(out, err, L7MP_ERR_UPSTREAM, "AF_PACKET %s: %s", s->interface.name,
	               pkt_interface_error(err));
}

static void free_socket(struct l7mp_shared_socket *base)
{
	struct packet_socket *s = (struct packet_socket *)base;

	l7mp_timer_stop(base->env->loop, &s->check_timer);
	free(s);
}

static const struct l7mp_shared_ops shared_ops = {
        .matches = matches,
        .send = send_frame,
        .flow = flow,
        .describe = describe,
        .removed = on_removed,
        .free = free_socket,
        .back_pressure = true,
};

static void on_open_task(struct l7mp_task *t, void *arg)
{
	struct packet_open *o = arg;
	struct packet_socket *s = o->socket;
	struct l7mp_shared_session *p = l7mp_shared_lookup(&s->shared, o->key, o->key_len);

	(void)t;
	if (p && p->id == o->id) {
		l7mp_dgram_read(s->shared.dgram, true);
		p->base.events->open(p->base.owner);
	}
	l7mp_shared_socket_unref(&s->shared);
	free(o);
}

static int open_later(struct l7mp_shared_session *p)
{
	struct packet_open *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->socket = (struct packet_socket *)p->socket;
	l7mp_shared_socket_ref(p->socket);
	o->id = p->id;
	o->key_len = p->key_len;
	memcpy(o->key, p->key, p->key_len);
	l7mp_task_init(&o->task, on_open_task, o);
	l7mp_task_post(p->socket->env->loop, &o->task);
	return 0;
}

/* A new socket with the parameters of *want and one reference, not reading yet. */
static int socket_new(struct l7mp_env *env, struct l7mp_shared_table *table,
                      const struct packet_socket *want, struct packet_socket **out,
                      struct l7mp_error *err)
{
	struct packet_socket *s = malloc(sizeof(*s));
	int fd, rc;

	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	*s = *want;
	fd = pkt_interface_open(&s->interface);
	rc = fd < 0 ? fd
	            : l7mp_shared_socket_init(&s->shared, &shared_ops, env, table, fd,
	                                      L7MP_DGRAM_VNET, PKT_MAX, &dgram_ops);
	if (rc) {
		free(s);
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "interface %s: %s",
		                      want->interface.name, pkt_interface_error(rc));
	}
	s->down = !s->interface.up;
	l7mp_timer_init(&s->check_timer, on_check_timer, s);
	*out = s;
	return 0;
}

/* ---- listening ---- */

static int read_ethertype(const cJSON *spec, uint16_t *out, struct l7mp_error *err)
{
	const cJSON *node = l7mp_json_member(spec, "ethertype");

	*out = 0;
	if (!node || !pkt_ethertype_parse(node, out))
		return 0;
	return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA, "ethertype: not an EtherType");
}

static int read_listener(const cJSON *spec, struct packet_socket *out, struct l7mp_error *err)
{
	const cJSON *options = l7mp_json_member(spec, "options");
	const char *mode = l7mp_json_str(options, "mode", "");

	snprintf(out->interface.name, sizeof(out->interface.name), "%s",
	         l7mp_json_str(spec, "interface", ""));
	out->mode = strcasecmp(mode, "server") ? PKT_SINGLETON : PKT_SERVER;
	out->interface.promiscuous = l7mp_json_bool(options, "promiscuous", false);
	return read_ethertype(spec, &out->interface.ethertype, err);
}

/* Gets a reference to a free socket that matches the spec, or to a new one. */
static int open_socket(struct l7mp_shared_listener *l, struct l7mp_shared_table *table,
                       const struct l7mp_listen *params, struct l7mp_shared_socket **out,
                       struct l7mp_error *err)
{
	struct packet_socket want = {.mode = PKT_SINGLETON}, *s;
	int rc = read_listener(params->spec, &want, err);
	uint32_t hash;

	(void)l;
	if (rc)
		return rc;
	hash = (uint32_t)l7mp_hash(want.interface.name, strlen(want.interface.name));
	*out = l7mp_shared_socket_find(table, hash, &want, params);
	if (*out)
		return 0;
	rc = socket_new(params->env, table, &want, &s, err);
	if (rc) {
		if (err)
			snprintf(err->path, sizeof(err->path), "interface");
		return rc;
	}
	l7mp_shared_socket_publish(&s->shared, hash);
	*out = &s->shared;
	return 0;
}

static int packet_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                         struct l7mp_error *err)
{
	return l7mp_shared_listen(sizeof(struct packet_listener), &l7mp_proto_packet, params,
	                          open_socket, start_singleton, out, err);
}

/* ---- sessions of a previous process ---- */

static void key_of_frame(const struct l7mp_flow_frame *f, struct pkt_key *out)
{
	memset(out, 0, sizeof(*out));
	out->family = f->family;
	out->proto = f->l4;
	memcpy(out->src, f->src, sizeof(out->src));
	memcpy(out->dst, f->dst, sizeof(out->dst));
	out->sport = f->sport;
	out->dport = f->dport;
	out->type = f->type;
	memcpy(out->vlan, f->vlan, sizeof(out->vlan));
}

/* Does the listener's socket receive these frames, as the ones of one session? */
static bool receives(const struct packet_socket *s, const struct l7mp_restore_end *end)
{
	const struct l7mp_flow_frame *f = end->frame;
	uint16_t type = s->interface.ethertype;

	if (!f || s->interface.ifindex != end->ifindex || f->any != (s->mode == PKT_SINGLETON))
		return false;
	if (f->any || !type)
		return f->any ? f->filter == type : true;
	return type == ETHERTYPE_VLAN || type == 0x88a8 ? f->vlan[0] != 0xffff : f->type == type;
}

/* The metadata of a conversation are those of the record: its keys lack the link addresses. */
static int packet_restore(struct l7mp_proto_listener *base, const char *name,
                          struct l7mp_restore_end *end, struct l7mp_accept *a,
                          struct l7mp_error *err)
{
	struct packet_listener *l = (struct packet_listener *)base;
	struct packet_socket *s = socket_of(l);
	bool singleton = s->mode == PKT_SINGLETON;
	struct pkt_key key = {.type = ETH_P_ALL};
	struct l7mp_shared_session *p;
	struct l7mp_addr dst;
	int rc = check_interface(s);

	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "interface %s: %s",
		                      s->interface.name, pkt_interface_error(rc));
	if (!receives(s, end))
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM,
		                      "listener '%s' has other sessions: another interface, "
		                      "EtherType or mode",
		                      l->shared.name);
	if (singleton)
		memcpy(key.src, s->interface.mac, sizeof(s->interface.mac));
	else
		key_of_frame(end->frame, &key);
	if (singleton ? l->has_session || s->shared.sessions
	              : l7mp_shared_lookup(&s->shared, &key, sizeof(key)) != NULL)
		return l7mp_error_set(err, -EEXIST, L7MP_ERR_UPSTREAM,
		                      "another session has its frames");
	p = singleton ? only_session_new(s)
	              : l7mp_shared_session_new(&s->shared, &key, sizeof(key),
	                                        s->interface.mtu + PKT_MIN);
	if (!p)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l7mp_shared_session_named(s->shared.table, name);
	pkt_key_addrs(&key, s->interface.ifindex, &a->peer, &dst);
	a->stream = &p->base;
	if (!singleton)
		return 0;
	a->reopen = reopen;
	a->reopen_arg = l;
	a->ended = session_ended;
	a->never_idle = true;
	l->has_session = true;
	return 0;
}

/* Restoring a session: is this endpoint the egress interface of its flow? */
static bool is_meant(const struct l7mp_connect *p)
{
	return p->restore->frame && p->address && if_nametoindex(p->address) == p->restore->ifindex;
}

static void packet_activate(struct l7mp_proto_listener *base)
{
	struct packet_listener *l = (struct packet_listener *)base;
	struct packet_socket *s = socket_of(l);

	l7mp_shared_activate(base);
	if (s->down)
		l7mp_log_warn("packet", "%s: interface %s is down; waiting for it", l->shared.name,
		              s->interface.name);
	if (s->mode == PKT_SINGLETON)
		l7mp_shared_listener_start(&l->shared, 0);
}

/* ---- connecting ---- */

static int read_cluster(const struct l7mp_connect *p, struct packet_socket *out,
                        struct l7mp_error *err)
{
	const cJSON *rewrite = l7mp_json_member(p->cluster_spec, "rewrite");

	snprintf(out->interface.name, sizeof(out->interface.name), "%s",
	         p->address ? p->address : "");
	out->interface.promiscuous = l7mp_json_bool(p->cluster_spec, "promiscuous", false);
	out->rewrite_src = pkt_mac_parse(l7mp_json_str(rewrite, "src_mac", NULL), out->src_mac);
	out->rewrite_dst = pkt_mac_parse(l7mp_json_str(rewrite, "dst_mac", NULL), out->dst_mac);
	return read_ethertype(p->cluster_spec, &out->interface.ethertype, err);
}

/* For a session that is a conversation of a server: sets `key` to that of its answers here. */
static bool answers_of(const struct l7mp_connect *p, struct packet_socket *want,
                       struct pkt_key *key)
{
	const cJSON *e = l7mp_json_member(p->metadata, "Ethernet");

	if (!pkt_key_of_metadata(p->metadata, key))
		return false;
	pkt_key_reverse(key);
	if (!key->family && want->rewrite_src)
		memcpy(key->dst, want->src_mac, sizeof(want->src_mac));
	if (!key->family && want->rewrite_dst)
		memcpy(key->src, want->dst_mac, sizeof(want->dst_mac));
	want->mode = PKT_UPSTREAM;
	snprintf(want->from, sizeof(want->from), "%s", l7mp_json_str(e, "interface", ""));
	return true;
}

static bool same_rewrite(const struct packet_socket *a, const struct packet_socket *b)
{
	return a->rewrite_src == b->rewrite_src && a->rewrite_dst == b->rewrite_dst &&
	       !memcmp(a->src_mac, b->src_mac, sizeof(a->src_mac)) &&
	       !memcmp(a->dst_mac, b->dst_mac, sizeof(a->dst_mac));
}

/* Returns a reference to the socket shared by such conversations; NULL: not possible. */
static struct packet_socket *find_upstream(struct l7mp_shared_table *table, uint32_t hash,
                                           const struct packet_socket *want,
                                           const struct pkt_key *key)
{
	struct l7mp_shared_socket *base;

	DL_FOREACH (table->buckets[hash % L7MP_SHARED_BUCKETS], base) {
		struct packet_socket *s = (struct packet_socket *)base;

		if (!matches(base, want) || strcmp(s->from, want->from) != 0 ||
		    !same_rewrite(s, want) || l7mp_shared_lookup(base, key, sizeof(*key)))
			continue;
		if (s->down && !check_interface(s))
			interface_came_up(s);
		l7mp_shared_socket_ref(base);
		return s;
	}
	return NULL;
}

static int upstream_socket(const struct l7mp_connect *p, struct l7mp_shared_table *table,
                           const struct packet_socket *want, const struct pkt_key *key,
                           struct packet_socket **out, struct l7mp_error *err)
{
	uint32_t hash = (uint32_t)l7mp_hash(want->interface.name, strlen(want->interface.name));
	int rc;

	if (want->mode != PKT_UPSTREAM)
		return socket_new(p->env, table, want, out, err);
	*out = find_upstream(table, hash, want, key);
	if (*out)
		return 0;
	rc = socket_new(p->env, table, want, out, err);
	if (!rc)
		l7mp_shared_socket_publish(&(*out)->shared, hash);
	return rc;
}

static struct l7mp_shared_session *upstream_session(struct packet_socket *s,
                                                    const struct pkt_key *key)
{
	if (s->mode != PKT_UPSTREAM)
		return only_session_new(s);
	return l7mp_shared_session_new(&s->shared, key, sizeof(*key), s->interface.mtu + PKT_MIN);
}

static int packet_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                          struct l7mp_error *err)
{
	struct l7mp_shared_table *table = l7mp_proto_state(p->env, &l7mp_proto_packet, err);
	struct packet_socket *s, want = {.mode = PKT_SINGLETON};
	struct l7mp_shared_session *session;
	struct pkt_key key;
	int rc;

	if (!table)
		return -ENOMEM;
	if (p->restore && !is_meant(p))
		return -EXDEV;
	rc = read_cluster(p, &want, err);
	(void)answers_of(p, &want, &key);
	if (!rc)
		rc = upstream_socket(p, table, &want, &key, &s, err);
	if (rc) {
		if (err)
			err->code = L7MP_ERR_UPSTREAM;
		return rc;
	}
	session = s->down ? NULL : upstream_session(s, &key);
	if (s->down) {
		rc = l7mp_error_set(err, -ENETDOWN, L7MP_ERR_UPSTREAM,
		                    "AF_PACKET %s: the interface is down", want.interface.name);
	} else if (!session || open_later(session)) {
		rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
		if (session)
			l7mp_shared_session_discard(session);
	} else {
		*out = &session->base;
	}
	l7mp_shared_socket_unref(&s->shared); /* the session has its own reference */
	return rc;
}

/* ---- tables ---- */

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
         .doc = "Ethernet interface whose incoming frames are received; those that this host sends "
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

static const struct l7mp_schema listener_spec = {
        .name = "packet-listener",
        .doc = "Receives whole Ethernet frames from an interface, and sends answers on it",
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

static const struct l7mp_schema cluster_spec = {
        .name = "packet-cluster",
        .doc = "Sends whole Ethernet frames on an interface; a session gets all frames that arrive "
               "there, or, when it is one of an AF_PACKET server, the answers of its conversation",
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

static const struct l7mp_schema endpoint_spec = {
        .name = "packet-endpoint",
        .doc = "An interface",
        .fields = endpoint_fields,
};

static const char *const aliases[] = {"Packet", NULL};

const struct l7mp_proto l7mp_proto_packet = {
        .desc =
                {
                        .name = "AF_PACKET",
                        .aliases = aliases,
                        .doc = "Whole Ethernet frames, as they are on the wire; shorter than 14 "
                               "bytes or larger than the interface's MTU they are dropped",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_FORGEABLE | L7MP_PROTO_ADOPTS,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                        .idle_timeout = 60,
                },
        .start = l7mp_shared_start,
        .stop = l7mp_shared_stop,
        .listen = packet_listen,
        .activate = packet_activate,
        .restore = packet_restore,
        .unlisten = l7mp_shared_unlisten,
        .connect = packet_connect,
};
