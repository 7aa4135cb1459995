/* SPDX-License-Identifier: MIT */
/*
 * What a test run can't give a program: packets of real devices. Two TAP devices with
 * virtio headers stand for a virtual machine's: frames come in with a tag in the skb,
 * with a partial checksum, with many segments, and leave through the other one as they would
 * on a wire. A TUN device carries packets without a link header.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "rig.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif
#define VNET 10 /* struct virtio_net_hdr */

struct port {
	int fd;
	uint32_t ifindex;
	uint8_t mac[6];
};

static struct rig rig;
static struct port in, out, tun;

static void open_port(struct port *p, const char *name, int flags)
{
	struct ifreq ifr = {.ifr_flags = (short)(flags | IFF_NO_PI | IFF_VNET_HDR)};
	char command[256];
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), len = VNET;

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	p->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (p->fd < 0 || ioctl(p->fd, TUNSETIFF, &ifr) || ioctl(p->fd, TUNSETVNETHDRSZ, &len)) {
		tap_skip("no /dev/net/tun here", "packets of real devices");
		exit(tap_done());
	}
	snprintf(command, sizeof(command),
	         "ip link set %s up mtu 1500 && echo 1 >/proc/sys/net/ipv6/conf/%s/disable_ipv6",
	         name, name);
	if (system(command))
		tap_bail("can't bring %s up", name);
	p->ifindex = if_nametoindex(name);
	if (flags & IFF_TAP && !ioctl(s, SIOCGIFHWADDR, &ifr))
		memcpy(p->mac, ifr.ifr_hwaddr.sa_data, 6);
	close(s);
}

static void attach_tc(const struct port *p, int prog)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)p->ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = prog, .handle = 1, .priority = 1);
	int rc = bpf_tc_hook_create(&hook);

	if ((rc && rc != -EEXIST) || bpf_tc_attach(&hook, &opts))
		tap_bail("tc: can't attach: %s", strerror(errno));
}

static void send_frame(const struct port *p, const struct virtio_net_hdr *vnet,
                       const uint8_t *frame, size_t len)
{
	uint8_t buf[VNET + PACKET_MAX];

	memcpy(buf, vnet, VNET);
	memcpy(buf + VNET, frame, len);
	if (write(p->fd, buf, VNET + len) != (ssize_t)(VNET + len))
		tap_note("write: %s", strerror(errno));
}

/* The next UDP frame that leaves a port, without its virtio header; 0: none. */
static size_t receive(const struct port *p, uint8_t out_frame[static PACKET_MAX])
{
	uint8_t buf[VNET + PACKET_MAX];
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};

	while (poll(&pfd, 1, 300) > 0) {
		ssize_t n = read(p->fd, buf, sizeof(buf));

		/* The kernel itself looks for routers and tells of groups. */
		if (n <= VNET + 6 || (p == &tun && buf[VNET] >> 4 == 6 && buf[VNET + 6] != 17) ||
		    (p != &tun && buf[VNET] == 0x33 && buf[VNET + 1] == 0x33))
			continue;
		memcpy(out_frame, buf + VNET, (size_t)n - VNET);
		return (size_t)n - VNET;
	}
	return 0;
}

static void base(int family, struct packet *p, struct packet *to)
{
	memset(p, 0, sizeof(*p));
	p->family = family;
	p->ext = -1;
	p->protocol = 17;
	p->ttl = 64;
	p->payload = 120;
	p->fill = 3;
	p->sport = 5004;
	p->dport = 6004;
	for (int i = 0; i < (family == 4 ? 4 : 16); i++) {
		p->saddr[i] = (uint8_t)(0x20 + i);
		p->daddr[i] = (uint8_t)(0x30 + i);
	}
	memcpy(p->dmac, in.mac, 6);
	memcpy(p->smac, "\x02\x00\x00\x00\x00\x99", 6);
	*to = *p;
	for (int i = 0; i < (family == 4 ? 4 : 16); i++) {
		to->saddr[i] = (uint8_t)(0x25 + 3 * i);
		to->daddr[i] = (uint8_t)(0x41 + 5 * i);
	}
	to->sport = 7;
	to->dport = 60000;
	to->ttl = 63;
	to->frag = 0x4000; /* DF */
	memcpy(to->smac, out.mac, 6);
	memcpy(to->dmac, "\x02\x00\x00\x00\x00\x77", 6);
}

static void add_flow(const struct port *from, const struct packet *p, const struct packet *to,
                     uint32_t ifindex, uint16_t flags, struct l7mp_flow_key *key)
{
	struct l7mp_flow6_action a;

	rig_action(&rig, p, to, &a);
	a.action.ifindex = ifindex;
	a.action.flags = flags;
	a.action.in_ifindex = from->ifindex;
	memcpy(a.action.in_mac, in.mac, sizeof(a.action.in_mac));
	a.action.verb = L7MP_VERB_FORWARD;
	rig_key(p, key);
	rig_put(&rig, key, &a);
	rig_verdicts_start(&rig);
}

static bool same(const uint8_t *got, size_t n, const uint8_t *want, size_t len)
{
	if (n == len && !memcmp(got, want, len))
		return true;
	tap_dump("expected", want, len);
	tap_dump("got", got, n);
	return false;
}

static bool counted(const struct l7mp_flow_key *key, uint64_t packets, uint64_t bytes)
{
	struct l7mp_flow_counter c = rig_counter(&rig, key);
	uint64_t v[L7MP_VERDICT_COUNT];

	rig_verdicts(&rig, v);
	if (c.packets == packets && c.bytes == bytes && v[L7MP_VERDICT_FORWARDED] == 1)
		return true;
	tap_note("%llu packets, %llu bytes, %llu forwarded", (unsigned long long)c.packets,
	         (unsigned long long)c.bytes, (unsigned long long)v[L7MP_VERDICT_FORWARDED]);
	for (int i = 0; i < L7MP_VERDICT_COUNT; i++)
		if (v[i])
			tap_note("verdict %d: %llu", i, (unsigned long long)v[i]);
	return false;
}

static void through_tc(const char *what, int family, int n_vlans, bool partial)
{
	struct virtio_net_hdr vnet = {0};
	struct packet p, to;
	struct l7mp_flow_key key;
	uint8_t frame[PACKET_MAX], want[PACKET_MAX], got[PACKET_MAX];
	size_t len, n, l4;
	bool ok;

	base(family, &p, &to);
	p.n_vlans = n_vlans;
	for (int i = 0; i < n_vlans; i++) {
		p.vlan_proto[i] = i + 1 < n_vlans ? 0x88a8 : 0x8100;
		p.vlan_tci[i] = (uint16_t)(100 + i);
	}
	add_flow(&in, &p, &to, out.ifindex, 0, &key);
	len = packet_build(&p, frame);
	l4 = packet_payload_at(&p) - 8;
	if (partial) { /* only the pseudo header's sum, uncomplemented; the device does the rest */
		size_t a = family == 4 ? 4 : 16;
		uint16_t sum = packet_sum(p.saddr, a, 17 + 8 + (uint32_t)p.payload);

		sum = packet_sum(p.daddr, a, sum);
		frame[l4 + 6] = (uint8_t)(sum >> 8);
		frame[l4 + 7] = (uint8_t)sum;
		vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		vnet.csum_start = (uint16_t)l4;
		vnet.csum_offset = 6;
	}
	send_frame(&in, &vnet, frame, len);
	n = receive(&out, got);
	len = packet_build(&to, want);
	ok = same(got, n, want, len) & counted(&key, 1, p.payload);
	tap_result(ok, "tc, IPv%d: %s", family, what);
	rig_del(&rig, &key);
}

/* One GSO packet in, its segments out, each whole and with a right checksum. */
static void segments(int family)
{
	struct virtio_net_hdr vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
	                              .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4,
	                              .gso_size = 500,
	                              .csum_offset = 6};
	struct packet p, to;
	struct l7mp_flow_key key;
	uint8_t frame[PACKET_MAX], want[PACKET_MAX], got[PACKET_MAX];
	size_t len, l4, total = 1700, at = 0, a = family == 4 ? 4 : 16;
	uint16_t sum;
	bool ok = true;

	base(family, &p, &to);
	p.payload = total;
	add_flow(&in, &p, &to, out.ifindex, 0, &key);
	len = packet_build(&p, frame);
	l4 = packet_payload_at(&p) - 8;
	sum = packet_sum(p.daddr, a, packet_sum(p.saddr, a, 17 + 8 + (uint32_t)total));
	frame[l4 + 6] = (uint8_t)(sum >> 8);
	frame[l4 + 7] = (uint8_t)sum;
	vnet.csum_start = (uint16_t)l4;
	vnet.hdr_len = (uint16_t)(l4 + 8);
	send_frame(&in, &vnet, frame, len);
	for (unsigned i = 0; at < total; i++) {
		size_t n = receive(&out, got);

		if (!n && !i) {
			uint64_t v[L7MP_VERDICT_COUNT];

			rig_verdicts(&rig, v);
			if (!v[L7MP_VERDICT_FORWARDED]) {
				tap_skip("this kernel takes no UDP segments from a TAP device",
				         "tc, IPv%d: a GSO packet leaves in segments", family);
				rig_del(&rig, &key);
				return;
			}
		}
		to.payload = total - at < 500 ? total - at : 500;
		to.bytes = frame + l4 + 8 + at;
		to.id = (uint16_t)i; /* the kernel numbers the segments */
		len = packet_build(&to, want);
		ok &= same(got, n, want, len);
		at += to.payload;
	}
	ok &= counted(&key, 4, total);
	tap_result(ok, "tc, IPv%d: a GSO packet leaves in segments, each counted", family);
	rig_del(&rig, &key);
}

/* tun: no link header on receive; back to it, or out with the flow's link header. */
static void without_link(int family, bool to_tap)
{
	struct virtio_net_hdr vnet = {0};
	struct packet p, to;
	struct l7mp_flow_key key;
	uint8_t frame[PACKET_MAX], want[PACKET_MAX], got[PACKET_MAX];
	size_t len, n;
	bool ok;

	base(family, &p, &to);
	if (to_tap)
		add_flow(&tun, &p, &to, out.ifindex, 0, &key);
	else
		add_flow(&tun, &p, &to, tun.ifindex, L7MP_FLOW_NEIGH | L7MP_FLOW_TC_ONLY, &key);
	len = packet_build(&p, frame);
	send_frame(&tun, &vnet, frame + 14, len - 14);
	n = receive(to_tap ? &out : &tun, got);
	len = packet_build(&to, want);
	ok = same(got, n, to_tap ? want : want + 14, to_tap ? len : len - 14) &
	     counted(&key, 1, p.payload);
	tap_result(ok, "tc, IPv%d: a packet without a link header, out of %s", family,
	           to_tap ? "an Ethernet device" : "a TUN device");
	rig_del(&rig, &key);
}

/* Native XDP from one TAP device to the other, with tags that the flow adds. */
static void through_xdp(int family, int n_vlans)
{
	struct virtio_net_hdr vnet = {0};
	struct packet p, to;
	struct l7mp_flow_key key;
	uint8_t frame[PACKET_MAX], want[PACKET_MAX], got[PACKET_MAX];
	size_t len, n;
	bool ok;

	base(family, &p, &to);
	to.n_vlans = n_vlans;
	to.vlan_proto[0] = to.vlan_proto[1] = 0x8100;
	to.vlan_tci[0] = 11;
	to.vlan_tci[1] = 12;
	add_flow(&in, &p, &to, out.ifindex, 0, &key);
	len = packet_build(&p, frame);
	send_frame(&in, &vnet, frame, len);
	n = receive(&out, got);
	len = packet_build(&to, want);
	ok = same(got, n, want, len) & counted(&key, 1, p.payload);
	tap_result(ok, "xdp, IPv%d: redirected to the device of the flow, %d tags", family,
	           n_vlans);
	rig_del(&rig, &key);
}

int main(void)
{
	rig_init(&rig, 64);
	open_port(&in, "l7tap0", IFF_TAP);
	open_port(&out, "l7tap1", IFF_TAP);
	open_port(&tun, "l7tun", IFF_TUN);
	if (system("ip addr add 192.0.2.1/24 dev l7tun && ip route add default dev l7tun && "
	           "echo 0 >/proc/sys/net/ipv6/conf/l7tun/disable_ipv6 && "
	           "ip -6 addr add 2001:db8::1/64 dev l7tun nodad && "
	           "ip -6 route add default dev l7tun && ip link set l7tun up"))
		tap_bail("can't set up the TUN device");
	attach_tc(&in, rig.prog_tc);
	attach_tc(&tun, rig.prog_tc_l3);
	for (int family = 4; family <= 6; family += 2) {
		through_tc("plain", family, 0, false);
		through_tc("a tag in the skb", family, 1, false);
		through_tc("a tag in the skb, one in the frame", family, 2, false);
		through_tc("a partial checksum is completed on transmit", family, 0, true);
		through_tc("a partial checksum behind a tag", family, 1, true);
		segments(family);
		without_link(family, false);
		without_link(family, true);
	}
	if (bpf_xdp_attach((int)in.ifindex, rig.prog_xdp, XDP_FLAGS_DRV_MODE, NULL) ||
	    bpf_map_update_elem(rig.devices, &out.ifindex, &out.ifindex, BPF_ANY)) {
		tap_skip("no native XDP on TAP devices here", "xdp");
		return tap_done();
	}
	for (int family = 4; family <= 6; family += 2)
		for (int n = 0; n <= 2; n++)
			through_xdp(family, n);
	return tap_done();
}
