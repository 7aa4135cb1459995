/* SPDX-License-Identifier: MIT */
/*
 * TCP segments of real devices, which a test run can't give the program: with a partial checksum,
 * with many segments, with a tag beside the frame. Two TAP devices with virtio headers stand for a
 * virtual machine's. What leaves is read from the second one, as whole packets or as segments; what
 * goes up from a packet socket behind the tc program.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp_trial.h"

#define VNET    10 /* struct virtio_net_hdr */
#define WAIT_MS 60000

struct port {
	int fd;
	uint32_t ifindex;
	uint8_t mac[6];
};

struct frame {
	struct virtio_net_hdr vnet;
	uint8_t bytes[PACKET_MAX];
	size_t len;
};

static struct rig rig;
static struct port in, out;
static int above[2], above_vlan; /* IPv4 and IPv6 from `in`; IPv4 from its VLAN device */

static void open_port(struct port *p, const char *name)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	char command[256];
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), len = VNET;

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	p->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (p->fd < 0 || ioctl(p->fd, TUNSETIFF, &ifr) || ioctl(p->fd, TUNSETVNETHDRSZ, &len)) {
		tap_skip("no /dev/net/tun here", "TCP segments of real devices");
		exit(tap_done());
	}
	snprintf(command, sizeof(command),
	         "echo 1 >/proc/sys/net/ipv6/conf/%s/disable_ipv6 && ip link set %s up mtu 1500",
	         name, name);
	if (system(command))
		tap_bail("can't bring %s up", name);
	p->ifindex = if_nametoindex(name);
	if (!ioctl(s, SIOCGIFHWADDR, &ifr))
		memcpy(p->mac, ifr.ifr_hwaddr.sa_data, 6);
	close(s);
}

static int packet_socket(int proto, uint32_t ifindex)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET,
	                         .sll_protocol = htons((uint16_t)proto),
	                         .sll_ifindex = (int)ifindex};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;

	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&at, sizeof(at)))
		tap_bail("packet socket: %s", strerror(errno));
	return fd;
}

static void set_up(void)
{
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = rig.prog_tc, .handle = 1, .priority = 1);
	int rc;

	open_port(&in, "l7tap0");
	open_port(&out, "l7tap1");
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)in.ifindex, .attach_point = BPF_TC_INGRESS);
	rc = bpf_tc_hook_create(&hook);
	if ((rc && rc != -EEXIST) || bpf_tc_attach(&hook, &opts))
		tap_bail("tc: can't attach: %s", strerror(errno));
	above[0] = packet_socket(ETH_P_IP, in.ifindex);
	above[1] = packet_socket(ETH_P_IPV6, in.ifindex);
	above_vlan = -1;
	if (!system("ip link add link l7tap0 name l7vlan type vlan id 100 2>/dev/null && "
	            "echo 1 >/proc/sys/net/ipv6/conf/l7vlan/disable_ipv6 && "
	            "ip link set l7vlan up"))
		above_vlan = packet_socket(ETH_P_IP, if_nametoindex("l7vlan"));
}

/* The next frame that a descriptor has; the kernel's own are left out. */
static bool receive(int fd, struct frame *f, int wait_ms)
{
	uint8_t buf[VNET + PACKET_MAX];
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	while (poll(&pfd, 1, wait_ms) > 0) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n <= VNET + 14 || buf[VNET] == 0x33 || buf[VNET] == 0xff)
			continue;
		memcpy(&f->vnet, buf, VNET);
		f->len = (size_t)n - VNET;
		memcpy(f->bytes, buf + VNET, f->len);
		return true;
	}
	return false;
}

/* Makes a partial checksum whole, as the device would. */
static void complete(struct frame *f)
{
	size_t start = f->vnet.csum_start, at = start + f->vnet.csum_offset;
	uint16_t sum;

	if (!(f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || at + 2 > f->len)
		return;
	sum = (uint16_t)~packet_sum(f->bytes + start, f->len - start, 0);
	f->bytes[at] = (uint8_t)(sum >> 8);
	f->bytes[at + 1] = (uint8_t)sum;
}

/* Takes the complement off the checksum of a frame, so that it is partial. */
static void make_partial(const struct trial *t, struct frame *f)
{
	size_t n = t->in.family == 4 ? 4 : 16;
	size_t l4 = packet_payload_at(&t->in) - 20 - t->tcp.options_len;
	uint16_t sum = packet_sum(t->in.saddr, n, 6 + (uint32_t)(f->len - l4));

	sum = packet_sum(t->in.daddr, n, sum);
	f->bytes[l4 + 16] = (uint8_t)(sum >> 8);
	f->bytes[l4 + 17] = (uint8_t)sum;
	f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	f->vnet.csum_start = (uint16_t)l4;
	f->vnet.csum_offset = 16;
}

static void send_segment(struct trial *t, bool partial)
{
	uint8_t buf[VNET + PACKET_MAX];
	struct frame f = {.len = 0};

	f.len = packet_build(&t->in, f.bytes);
	if (partial)
		make_partial(t, &f);
	if (t->gso_size) {
		f.vnet.gso_type =
		        t->in.family == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
		f.vnet.gso_size = (uint16_t)t->gso_size;
		f.vnet.hdr_len = (uint16_t)packet_payload_at(&t->in);
	}
	memcpy(buf, &f.vnet, VNET);
	memcpy(buf + VNET, f.bytes, f.len);
	if (write(in.fd, buf, VNET + f.len) != (ssize_t)(VNET + f.len))
		tap_note("write: %s", strerror(errno));
}

static bool same(const char *what, const struct frame *got, const struct packet *want)
{
	uint8_t right[PACKET_MAX];
	size_t len = packet_build(want, right);

	if (got->len == len && !memcmp(got->bytes, right, len))
		return true;
	tap_note("%s:", what);
	tap_dump("expected", right, len);
	tap_dump("got", got->bytes, got->len);
	return false;
}

/* One packet leaves: as it is, or as the segments that the device does not make itself. */
static bool leaves(const struct trial *t, const struct tcp_answer *a, bool whole)
{
	size_t mss = t->gso_size && !whole ? t->gso_size : t->in.payload, at = 0;
	uint8_t all[PACKET_MAX];
	struct packet p = a->out;
	struct tcp_header h = a->out_tcp;
	struct frame f;
	bool ok = true;

	packet_build(&a->out, all);
	p.tcp = &h;
	do {
		p.payload = t->in.payload - at < mss ? t->in.payload - at : mss;
		p.bytes = all + packet_payload_at(&a->out) + at;
		h.seq = a->out_tcp.seq + (uint32_t)at;
		h.flags = a->out_tcp.flags;
		if (at + p.payload < t->in.payload)
			h.flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
		if (!receive(out.fd, &f, WAIT_MS)) {
			tap_note("nothing leaves at %zu", at);
			return false;
		}
		complete(&f);
		ok &= same("what leaves", &f, &p);
		if (whole && t->gso_size && f.vnet.gso_size != t->gso_size) {
			tap_note("segments of %u", f.vnet.gso_size);
			ok = false;
		}
		at += p.payload;
		p.id++;
	} while (at < t->in.payload);
	return ok;
}

static bool goes_up(const struct tcp_answer *a, int fd)
{
	struct frame f;

	if (!receive(fd, &f, WAIT_MS)) {
		tap_note("nothing goes up");
		return false;
	}
	complete(&f);
	return same("what goes up", &f, &a->copy);
}

static void drain(void)
{
	struct frame f;

	while (receive(above[0], &f, 0) || receive(above[1], &f, 0) || receive(out.fd, &f, 0))
		;
}

struct variant {
	const char *name;
	const char *options;
	size_t options_len, gso_size;
	bool partial, whole; /* whole: the egress takes many segments, and partial checksums */
};

static const struct variant variants[] = {
        {"plain", "", 0, 0, false, false},
        {"partial checksum", "", 0, 0, true, false},
        {"partial checksum, left to the device", "", 0, 0, true, true},
        {"partial checksum, time stamps", "\1\1\10\12\1\2\3\4\5\6\7\10", 12, 0, true, false},
        {"partial checksum, SACK at an odd offset", "\1\5\12\1\2\3\4\5\6\7\10\0", 12, 0, true,
         true},
        {"many segments", "\1\1\10\12\1\2\3\4\5\6\7\10", 12, 1000, true, false},
        {"many segments, left to the device", "\1\1\10\12\1\2\3\4\5\6\7\10", 12, 1000, true, true},
        {"many segments with SACK", "\1\1\1\5\12\1\2\3\4\5\6\7\10\0\0\0", 16, 1000, true, true},
};

static void base(struct trial *t, int family)
{
	trial_base(t, family);
	memcpy(t->in.dmac, in.mac, 6);
	trial_fit(t);
	t->in.tcp = &t->tcp;
	t->to.dmac[5] = 0x77;
}

static void make(struct trial *t, struct l7mp_flow_key *key)
{
	t->key_of = t->in;
	trial_action(t);
	t->action.action.ifindex = out.ifindex;
	t->action.action.in_ifindex = in.ifindex;
	memcpy(t->action.action.in_mac, in.mac, 6);
	trial_put(t, key);
}

static void one(const struct variant *v, int family, uint32_t phase)
{
	static const char *const phases[] = {"", "", "TRANS", "FAST", "STOP"};
	struct tcp_question q;
	struct tcp_answer a;
	struct l7mp_flow_key key;
	struct trial t;
	bool ok;

	if (ioctl(out.fd, TUNSETOFFLOAD, v->whole ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0))
		tap_bail("TUNSETOFFLOAD: %s", strerror(errno));
	base(&t, family);
	t.pair.phase = phase;
	trial_options(&t, v->options, v->options_len);
	t.tcp.flags |= TCP_FIN;
	if (v->gso_size) {
		t.gso_size = v->gso_size;
		t.in.payload = 2800;
	}
	make(&t, &key);
	drain();
	trial_question(&t, &q);
	send_segment(&t, v->partial);
	ok = trial_stamped(&t, &q);
	tcp_model(&q, &a);
	ok &= leaves(&t, &a, v->whole);
	if (a.up)
		ok &= goes_up(&a, above[family == 6]);
	ok &= trial_noted(&t, &a, &key);
	tap_result(ok, "%s, IPv%d: %s", phases[phase], family, v->name);
	rig_del(&rig, &key);
}

/* The original goes up with its tag: to the VLAN device. */
static void tagged(int family)
{
	struct tcp_question q;
	struct tcp_answer a;
	struct l7mp_flow_key key;
	struct trial t;
	bool ok;

	if (above_vlan < 0) {
		tap_skip("no VLAN devices here", "TRANS: a tag");
		return;
	}
	base(&t, family);
	t.pair.phase = L7MP_TCP_TRANS;
	t.in.n_vlans = 1;
	t.in.vlan_proto[0] = 0x8100;
	t.in.vlan_tci[0] = 100;
	make(&t, &key);
	drain();
	trial_question(&t, &q);
	tcp_model(&q, &a);
	send_segment(&t, false);
	ok = leaves(&t, &a, true);
	a.copy.n_vlans = 0; /* taken off by the VLAN device */
	ok &= goes_up(&a, above_vlan);
	ok &= trial_noted(&t, &a, &key);
	tap_result(ok, "TRANS, IPv%d: the original goes up with its tag", family);
	rig_del(&rig, &key);
}

int main(void)
{
	trial_init_rig(&rig);
	set_up();
	for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++)
		for (uint32_t phase = L7MP_TCP_TRANS; phase <= L7MP_TCP_STOP; phase++)
			for (int family = 4; family <= 6; family += 2)
				one(&variants[i], family, phase);
	tagged(4);
	return tap_done();
}
