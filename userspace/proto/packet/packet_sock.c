/* SPDX-License-Identifier: MIT */
/* The packet socket: filter, interface, sending, and what happens when the interface goes. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "l7mp/util.h"
#include "net/net.h"
#include "packet_int.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#define RCVBUF   (4 << 20)
#define CHECK_MS 1000 /* how often a lost interface is looked for */

const uint8_t packet_only_key[1] = {0};

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

/* ---- the kernel's filter ---- */

/*
 * What this host sends does not come in (PACKET_IGNORE_OUTGOING says so too, where the kernel has
 * it), nor what is of another type; the type is the one behind one tag, wherever that is.
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

/* ---- the interface ---- */

static int ask(int fd, const char *interface, unsigned long what, struct ifreq *ifr)
{
	memset(ifr, 0, sizeof(*ifr));
	snprintf(ifr->ifr_name, sizeof(ifr->ifr_name), "%s", interface);
	return ioctl(fd, what, ifr) ? -errno : 0;
}

/* Index, MTU and address as they are now. -ENODEV, -EINVAL (not Ethernet), or 0 with *up. */
static int learn(struct packet_sock *s, int fd, bool *up)
{
	struct ifreq ifr;
	const char *name = s->params.interface;
	int rc = ask(fd, name, SIOCGIFINDEX, &ifr);
	uint32_t ifindex = (uint32_t)ifr.ifr_ifindex;

	if (!rc)
		rc = ask(fd, name, SIOCGIFHWADDR, &ifr);
	if (!rc && ifr.ifr_hwaddr.sa_family != ARPHRD_ETHER)
		rc = -EINVAL;
	if (rc)
		return rc;
	memcpy(s->mac, ifr.ifr_hwaddr.sa_data, 6);
	rc = ask(fd, name, SIOCGIFMTU, &ifr);
	if (!rc) {
		s->mtu = (uint32_t)ifr.ifr_mtu;
		rc = ask(fd, name, SIOCGIFFLAGS, &ifr);
	}
	*up = !rc && (ifr.ifr_flags & IFF_UP);
	s->ifindex = ifindex;
	return rc;
}

static int bind_to(const struct packet_sock *s, int fd)
{
	struct sockaddr_ll ll = {.sll_family = AF_PACKET,
	                         .sll_protocol = htons(ETH_P_ALL),
	                         .sll_ifindex = (int)s->ifindex};
	struct packet_mreq mr = {.mr_ifindex = (int)s->ifindex, .mr_type = PACKET_MR_PROMISC};

	if (bind(fd, (struct sockaddr *)&ll, sizeof(ll)))
		return -errno;
	if (s->params.promiscuous &&
	    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mr, sizeof(mr)))
		return -errno;
	return 0;
}

static const char *why(int rc)
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

/* A socket that takes in nothing before filter and interface are set. */
static int open_fd(struct packet_sock *s)
{
	int rc, size = RCVBUF, fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	bool up;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	rc = attach_filter(fd, s->params.ethertype);
	if (!rc)
		rc = learn(s, fd, &up);
	if (!rc)
		rc = bind_to(s, fd);
	if (!rc) {
		s->down = !up;
		return fd;
	}
	close(fd);
	return rc;
}

int packet_sock_check(struct packet_sock *s)
{
	uint32_t before = s->ifindex;
	int fd = l7mp_dgram_fd(s->hub.dgram), rc;
	bool up = false;

	rc = learn(s, fd, &up);
	if (!rc && s->ifindex != before)
		rc = bind_to(s, fd);
	if (!rc && !up)
		rc = -ENETDOWN;
	s->down = rc != 0;
	if (rc && !l7mp_timer_armed(&s->timer))
		(void)l7mp_timer_start(s->hub.env->loop, &s->timer, CHECK_MS);
	return rc;
}

static void came_up(struct packet_sock *s)
{
	s->down = false;
	l7mp_timer_stop(s->hub.env->loop, &s->timer);
	l7mp_log_notice("packet", "interface %s is up", s->params.interface);
	if (s->listener)
		packet_listener_up(s->listener);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct packet_sock *s = arg;

	(void)t;
	if (!packet_sock_check(s))
		came_up(s);
}

/* ---- frames in ---- */

static void on_frame(void *arg, struct l7mp_buf *buf)
{
	struct packet_sock *s = arg;
	const void *key = packet_only_key;
	uint16_t len = sizeof(packet_only_key);
	struct l7mp_hub_peer *p;
	struct pkt_info info;

	if (!pkt_parse(buf->data, buf->len, &info)) {
		l7mp_hub_drop(&s->hub, L7MP_DROP_TOO_SHORT, buf);
		return;
	}
	if (s->params.mode == PKT_SERVER) {
		key = &info.key;
		len = sizeof(info.key);
	}
	p = l7mp_hub_find(&s->hub, key, len);
	if (p)
		p->base.events->data(p->base.owner, buf);
	else if (s->listener)
		packet_listener_first(s->listener, buf, &info);
	else
		l7mp_hub_drop(&s->hub, L7MP_DROP_PEER, buf);
}

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct packet_sock *s = arg;
	uint32_t len = buf->len;
	int rc;

	(void)from;
	(void)to;
	if (s->down)
		came_up(s);
	/* The sessions that it starts or ends may let go of the socket. */
	l7mp_hub_ref(&s->hub);
	rc = pkt_unpack(s->hub.env->loop, buf, on_frame, s);
	if (rc)
		l7mp_stats_drop(s->hub.env->stats, l7mp_drop_from_errno(rc), 1, len);
	l7mp_hub_unref(&s->hub);
}

static void on_error(void *arg, int err)
{
	struct packet_sock *s = arg;
	uint32_t more;

	if (err == -EINVAL) {
		/* A merged frame of a kind that has no virtio_net_hdr (a tunnel's). */
		l7mp_stats_drop(s->hub.env->stats, L7MP_DROP_TOO_LARGE, 1, 0);
		return;
	}
	if (l7mp_log_allowed(&s->log_limit, l7mp_loop_now(s->hub.env->loop), 10000, 3, &more))
		l7mp_log_warn("packet", "%s: %s (%u like it not logged)", s->params.interface,
		              why(err), more);
	if (err != -ENETDOWN && err != -ENODEV && err != -ENXIO)
		return;
	err = packet_sock_check(s);
	if (err)
		l7mp_hub_fail(&s->hub, err);
}

static const struct l7mp_dgram_ops dgram_ops = {
        .recv = on_recv,
        .lost = l7mp_hub_on_lost,
        .error = on_error,
        .dropped = l7mp_hub_on_dropped,
        .drain = l7mp_hub_on_drain,
};

/* ---- frames out ---- */

static bool too_large(struct packet_sock *s, const struct l7mp_buf *buf)
{
	uint16_t type = (uint16_t)(buf->data[12] << 8 | buf->data[13]);
	uint32_t extra = PKT_MIN + (type == 0x8100 || type == 0x88a8 ? 4 : 0);
	bool up;

	if (buf->len <= s->mtu + extra)
		return false;
	/* It may have been raised meanwhile. */
	return learn(s, l7mp_dgram_fd(s->hub.dgram), &up) || buf->len > s->mtu + extra;
}

static int send_frame(struct l7mp_hub_peer *p, struct l7mp_buf *buf, uint64_t tag)
{
	struct packet_sock *s = (struct packet_sock *)p->hub;
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
	if (s->params.rewrite_dst)
		memcpy(buf->data, s->params.dst_mac, 6);
	if (s->params.rewrite_src)
		memcpy(buf->data + 6, s->params.src_mac, 6);
	buf->data -= head;
	buf->len += (uint32_t)head;
	memset(buf->data, 0, head);
	return l7mp_dgram_send(s->hub.dgram, buf, NULL, NULL, tag);
}

static void flow(struct l7mp_hub_peer *p, struct l7mp_flow_end *out)
{
	struct packet_sock *s = (struct packet_sock *)p->hub;
	struct pkt_key own = {.type = ETH_P_ALL};

	if (s->params.rewrite_src || s->params.rewrite_dst)
		return; /* what leaves is not what was written */
	out->kind = L7MP_FLOW_SOCKET;
	out->reason = L7MP_REASON_NONE;
	out->ifindex = s->ifindex;
	memcpy(own.src, s->mac, 6);
	if (p->key_len == sizeof(struct pkt_key))
		memcpy(&own, p->key, sizeof(own));
	pkt_key_addrs(&own, s->ifindex, &out->remote, &out->local);
	if (p->key_len != sizeof(struct pkt_key)) {
		out->local = out->remote;
		out->remote.len = 0;
	}
}

static void describe(const struct l7mp_hub *hub, int err, struct l7mp_error *out)
{
	const struct packet_sock *s = (const struct packet_sock *)hub;

	l7mp_error_set(out, err, L7MP_ERR_UPSTREAM, "AF_PACKET %s: %s", s->params.interface,
	               why(err));
}

static void left(struct l7mp_hub_peer *p)
{
	struct packet_sock *s = (struct packet_sock *)p->hub;

	if (s->listener)
		packet_listener_left(s->listener, p);
}

static void destroy(struct l7mp_hub *hub)
{
	struct packet_sock *s = (struct packet_sock *)hub;

	l7mp_timer_stop(hub->env->loop, &s->timer);
	l7mp_task_cancel(hub->env->loop, &s->opened);
	if (s->list)
		DL_DELETE(*s->list, s);
	free(s);
}

static const struct l7mp_hub_ops hub_ops = {
        .send = send_frame,
        .flow = flow,
        .describe = describe,
        .left = left,
        .destroy = destroy,
};

/* ---- making ---- */

static void on_opened(struct l7mp_task *t, void *arg)
{
	struct packet_sock *s = arg;
	struct l7mp_hub_peer *p = s->hub.peers;

	(void)t;
	if (!p)
		return;
	l7mp_dgram_read(s->hub.dgram, true);
	p->base.events->open(p->base.owner);
}

int packet_sock_new(struct l7mp_env *env, const struct pkt_params *params, uint64_t *last_id,
                    struct packet_sock **out, struct l7mp_error *err)
{
	struct packet_sock *s = calloc(1, sizeof(*s));
	int fd, rc;

	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	s->params = *params;
	fd = open_fd(s);
	rc = fd < 0 ? fd
	            : l7mp_dgram_new(env->loop, fd, L7MP_DGRAM_VNET, PKT_MAX, &dgram_ops, s,
	                             &s->hub.dgram);
	if (rc) {
		free(s);
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "interface %s: %s",
		                      params->interface, why(rc));
	}
	s->hub.ops = &hub_ops;
	s->hub.env = env;
	s->hub.refs = 1;
	s->hub.last_id = last_id;
	l7mp_timer_init(&s->timer, on_timer, s);
	l7mp_task_init(&s->opened, on_opened, s);
	*out = s;
	return 0;
}

struct l7mp_hub_peer *packet_sock_only(struct packet_sock *s)
{
	return l7mp_hub_peer_new(&s->hub, packet_only_key, sizeof(packet_only_key),
	                         s->mtu + PKT_MIN);
}
