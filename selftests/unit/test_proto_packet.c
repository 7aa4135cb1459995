/* SPDX-License-Identifier: MIT */
/*
 * AF_PACKET: frames over a veth pair in a network namespace of the test's own; and frames as such.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/protos.h"
#include "proto/packet/frame.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_proto_packet, NULL};
#define PACKET (&l7mp_proto_packet)
#define TYPE   0x88b5

static struct pfix fix;

static void sh(const char *cmd)
{
	if (system(cmd))
		fail_msg("failed: %s", cmd);
}

static void make_veth(void)
{
	sh("ip link add va type veth peer name vb && ip link set va address 02:00:00:00:00:0a && "
	   "ip link set vb address 02:00:00:00:00:0b && "
	   "for i in va vb; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; ip link set $i "
	   "up; "
	   "done");
}

static int setup(void **state)
{
	pfix_new(&fix, protos);
	make_veth();
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	return system("ip link del va 2>/dev/null; true");
}

/* An independent raw socket on an interface. */
static int raw(const char *interface)
{
	struct sockaddr_ll ll = {.sll_family = AF_PACKET,
	                         .sll_protocol = htons(ETH_P_ALL),
	                         .sll_ifindex = (int)if_nametoindex(interface)};
	int on = 1,
	    fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL));

	assert_true(fd >= 0);
	assert_int_equal(
	        setsockopt(fd, SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, &on, sizeof(on)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&ll, sizeof(ll)), 0);
	return fd;
}

/* A frame to `a` with this type and text. Returns its length. */
static size_t frame(uint8_t *f, uint16_t type, const char *text)
{
	memcpy(f, "\x02\0\0\0\0\x0a\x02\0\0\0\0\x0b", 12);
	f[12] = (uint8_t)(type >> 8);
	f[13] = (uint8_t)type;
	memcpy(f + 14, text, strlen(text) + 1);
	return 14 + strlen(text) + 1;
}

static void inject(int fd, uint16_t type, const char *text)
{
	uint8_t f[256];
	size_t n = frame(f, type, text);

	assert_int_equal(send(fd, f, n, 0), n);
}

/* Ethernet, IPv4, UDP, checksums left out but for IP's length fields. */
static size_t udp_frame(uint8_t *f, uint32_t src, uint16_t sport, uint16_t fragment)
{
	size_t n = frame(f, ETHERTYPE_IP, "");
	uint8_t ip[28] = {0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17};
	uint32_t dst = htonl(0x0a000002);

	(void)n;
	ip[6] = (uint8_t)(fragment >> 8);
	ip[7] = (uint8_t)fragment;
	src = htonl(src);
	memcpy(ip + 12, &src, 4);
	memcpy(ip + 16, &dst, 4);
	ip[20] = (uint8_t)(sport >> 8);
	ip[21] = (uint8_t)sport;
	ip[23] = 53;
	ip[25] = 8;
	memcpy(f + 14, ip, 28);
	return 42;
}

static void singleton(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, PACKET, "l", "{'interface':'va'}", NULL);
	struct l7mp_flow_end flow;
	struct pconn *c;
	uint8_t out[64];
	char buf[2048];
	int fd = raw("vb");
	size_t n;

	assert_non_null(l);
	/* It starts at once, without a frame. */
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	assert_string_equal(c->name, "PACKET:va-02:00:00:00:00:0a-1");
	assert_true(c->never_idle);
	assert_int_equal(c->peer.sa.sa_family, AF_PACKET);
	assert_string_equal(l7mp_json_get(c->metadata, "/Ethernet/interface")->valuestring, "va");
	inject(fd, TYPE, "one");
	inject(fd, ETHERTYPE_ARP, "two");
	assert_true(pfix_until_n(f, &c->messages, 2, 1000));
	assert_int_equal(c->len, 18 + 1 + 18);
	n = frame(out, TYPE, "three");
	assert_int_equal(pfix_write(c, out, n), 0);
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), n);
	assert_memory_equal(buf, out, n);
	/* What it sent itself does not come back to it. */
	pfix_turn(f, 20);
	assert_int_equal(c->messages, 2);
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_SOCKET);
	assert_int_equal(flow.l4, 0);
	assert_int_equal(flow.ifindex, if_nametoindex("va"));
	close(fd);
	pfix_unlisten(l);
}

static void sizes(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, PACKET, "l", "{'interface':'va'}", NULL);
	uint8_t out[9100];
	char buf[9100];
	struct pconn *c;
	int fd = raw("vb");

	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	frame(out, TYPE, "x");
	assert_int_equal(pfix_write(c, out, 13), -ERANGE);
	assert_int_equal(pfix_write(c, out, 14), 0);
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), 14);
	assert_int_equal(pfix_write(c, out, 1515), -EMSGSIZE);
	assert_int_equal(pfix_write(c, out, 1514), 0);
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), 1514);
	/* A tag does not count. */
	frame(out, ETHERTYPE_VLAN, "");
	assert_int_equal(pfix_write(c, out, 1518), 0);
	assert_int_equal(pfix_write(c, out, 1519), -EMSGSIZE);
	/* The MTU is looked at again. */
	sh("ip link set va mtu 9000; ip link set vb mtu 9000");
	frame(out, TYPE, "");
	assert_int_equal(pfix_write(c, out, 9014), 0);
	pfix_turn(f, 5);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 1514); /* the tag is beside it */
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), 9014);
	close(fd);
	pfix_unlisten(l);
}

/*
 * The kernel keeps other types away; one that is behind a tag is found, and the tag comes with it.
 */
static void ethertype(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l =
	        pfix_listen(f, PACKET, "l", "{'interface':'va','ethertype':'0x88b5'}", NULL);
	uint8_t tagged[64];
	struct pconn *c;
	int fd = raw("vb");

	assert_non_null(l);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	inject(fd, ETHERTYPE_ARP, "no");
	inject(fd, TYPE, "yes");
	frame(tagged, ETHERTYPE_VLAN, "");
	memcpy(tagged + 14,
	       "\x00\x07\x88\xb5"
	       "tag",
	       8);
	assert_int_equal(send(fd, tagged, 22, 0), 22);
	memcpy(tagged + 14,
	       "\x00\x07\x08\x06"
	       "tag",
	       8);
	assert_int_equal(send(fd, tagged, 22, 0), 22);
	inject(fd, TYPE, "end");
	assert_true(pfix_until_n(f, &c->messages, 3, 1000));
	assert_int_equal(c->len, 18 + 1 + 22 + 1 + 18);
	assert_memory_equal(c->data + 14, "yes", 4);
	assert_memory_equal(c->data + 19 + 12, "\x81\x00\x00\x07\x88\xb5tag", 10);
	close(fd);
	pfix_unlisten(l);
}

static void server(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l =
	        pfix_listen(f, PACKET, "l", "{'interface':'va','options':{'mode':'server'}}", NULL);
	uint8_t u[64];
	struct pconn *c;
	int fd = raw("vb");

	assert_non_null(l);
	pfix_turn(f, 20);
	assert_int_equal(f->n_conns, 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(send(fd, u, udp_frame(u, 0x0a000001, 1000, 0), 0), 42);
		assert_int_equal(send(fd, u, udp_frame(u, 0x0a000001, 1001, 0), 0), 42);
		assert_int_equal(send(fd, u, udp_frame(u, 0x0a000001, 1000, 0x2000), 0), 42);
		assert_int_equal(send(fd, u, udp_frame(u, 0x0a000001, 7, 3), 0), 42);
		inject(fd, TYPE, "x");
	}
	assert_true(pfix_until_size(f, &f->n_conns, 4, 1000));
	c = f->conns[3];
	assert_true(pfix_until_n(f, &c->messages, 2, 1000));
	assert_string_equal(c->name, "PACKET:va-02:00:00:00:00:0b-02:00:00:00:00:0a-0x88b5-4");
	assert_int_equal(l7mp_json_get(c->metadata, "/Ethernet/type")->valueint, TYPE);
	assert_null(l7mp_json_get(c->metadata, "/IP"));
	c = f->conns[0];
	assert_string_equal(c->name, "PACKET:va-UDP:10.0.0.1:1000-10.0.0.2:53-1");
	assert_int_equal(c->messages, 2);
	assert_string_equal(l7mp_json_get(c->metadata, "/IP/src_addr")->valuestring, "10.0.0.1");
	assert_int_equal(l7mp_json_get(c->metadata, "/UDP/src_port")->valueint, 1000);
	assert_string_equal(l7mp_json_get(c->metadata, "/Ethernet/src")->valuestring,
	                    "02:00:00:00:00:0b");
	assert_int_equal(c->peer.sa.sa_family, AF_INET);
	/* All fragments go by their addresses. */
	assert_string_equal(f->conns[2]->name, "PACKET:va-IP17:10.0.0.1-10.0.0.2-3");
	assert_int_equal(f->conns[2]->messages, 4);
	assert_int_equal(f->n_conns, 4);
	close(fd);
	pfix_unlisten(l);
}

static void cluster(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = pfix_connect(f, PACKET,
	                               "{'rewrite':{'src_mac':'02:00:00:00:00:99','dst_mac':"
	                               "'02:00:00:00:00:0B'}}",
	                               "va");
	struct l7mp_flow_end flow;
	uint8_t out[64];
	char buf[256];
	int fd = raw("vb");
	size_t n = frame(out, TYPE, "x");

	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_int_equal(pfix_write(c, out, n), 0);
	assert_int_equal(pfix_recv(f, fd, buf, sizeof(buf), NULL, 1000), n);
	assert_memory_equal(buf, "\x02\0\0\0\0\x0b\x02\0\0\0\0\x99\x88\xb5x", 16);
	inject(fd, TYPE, "back");
	assert_true(pfix_until_n(f, &c->messages, 1, 1000));
	assert_memory_equal(c->data + 14, "back", 4);
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_SOCKET);
	assert_true(flow.frame.any);
	assert_true(flow.frame.set_src && flow.frame.set_dst);
	assert_memory_equal(flow.frame.src_mac, "\x02\0\0\0\0\x99", 6);
	assert_memory_equal(flow.frame.dst_mac, "\x02\0\0\0\0\x0b", 6);
	assert_null(pfix_connect(f, PACKET, NULL, "nope"));
	assert_non_null(strstr(f->err.message, "interface nope: there is no such interface"));
	assert_null(pfix_connect(f, PACKET, NULL, "lo"));
	assert_non_null(strstr(f->err.message, "not an Ethernet interface"));
	sh("ip link set va down");
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_string_equal(c->message, "AF_PACKET va: the interface is down");
	assert_null(pfix_connect(f, PACKET, NULL, "va"));
	assert_non_null(strstr(f->err.message, "is down"));
	close(fd);
}

static struct pconn *upstream(struct pfix *f, const char *metadata, const char *spec)
{
	cJSON *m = cJSON_Parse(metadata);
	struct pconn *c;

	assert_non_null(m);
	f->metadata = m;
	c = pfix_connect(f, PACKET, spec, "va");
	f->metadata = NULL;
	cJSON_Delete(m);
	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	return c;
}

#define ETHERNET                                                            \
	"\"Ethernet\":{\"interface\":\"vx\",\"src\":\"02:00:00:00:00:01\"," \
	"\"dst\":\"02:00:00:00:00:02\",\"type\":"
#define OF_PORT(port)                                                                     \
	"{" ETHERNET "2048},\"IP\":{\"src_addr\":\"10.0.0.2\",\"dst_addr\":\"10.0.0.1\"," \
	"\"protocol\":17},\"UDP\":{\"src_port\":53,\"dst_port\":" port "}}"

/* Sessions of a server get the answers of their conversation; the oldest gets what is nobody's. */
static void answers(void **state)
{
	struct pfix *f = *state;
	struct pconn *a = upstream(f, OF_PORT("5000"), NULL), *b, *again, *macs, *other;
	struct l7mp_flow_end flow[2];
	uint8_t out[64];
	int fd = raw("vb");

	b = upstream(f, OF_PORT("5001"), NULL);
	(void)send(fd, out, udp_frame(out, 0x0a000001, 5001, 0), 0);
	assert_true(pfix_until_n(f, &b->messages, 1, 1000));
	(void)send(fd, out, udp_frame(out, 0x0a000001, 5000, 0), 0);
	assert_true(pfix_until_n(f, &a->messages, 1, 1000));
	(void)send(fd, out, udp_frame(out, 0x0a000001, 5002, 0), 0);
	assert_true(pfix_until_n(f, &a->messages, 2, 1000));
	assert_int_equal(b->messages, 1);
	l7mp_stream_flow(a->stream, &flow[0]);
	l7mp_stream_flow(b->stream, &flow[1]);
	assert_int_equal(flow[0].fd, flow[1].fd);
	assert_false(flow[0].frame.any);
	assert_int_equal(flow[0].frame.sport, htons(5000));
	assert_int_equal(flow[0].frame.dport, htons(53));
	assert_memory_equal(flow[0].frame.dst, "\x0a\0\0\2", 4);

	/* One conversation twice, as by two listeners: each has a socket, and gets its copy. */
	again = upstream(f, OF_PORT("5001"), NULL);
	(void)send(fd, out, udp_frame(out, 0x0a000001, 5001, 0), 0);
	assert_true(pfix_until_n(f, &again->messages, 1, 1000));
	assert_true(pfix_until_n(f, &b->messages, 2, 1000));
	l7mp_stream_close(again->stream, false);

	/* By link addresses: as the rewrite has made them. */
	macs = upstream(f, "{" ETHERNET "35003}}", "{'rewrite':{'src_mac':'02:00:00:00:00:0a'}}");
	other = upstream(f, "{" ETHERNET "35003,\"vlan\":5}}",
	                 "{'rewrite':{'src_mac':'02:00:00:00:00:0a'}}");
	frame(out, 0x88bb, "x");
	memcpy(out + 6, "\x02\0\0\0\0\x02", 6);
	assert_int_equal(send(fd, out, 16, 0), 16);
	assert_true(pfix_until_n(f, &macs->messages, 1, 1000));
	assert_int_equal(other->messages, 0);
	close(fd);
}

/* What the metadata of a frame says is its conversation again. */
static void keys_of_metadata(void **state)
{
	uint8_t f[128];
	struct pkt_info i;
	struct pkt_key key;
	size_t n;

	(void)state;
	for (int kind = 0; kind < 5; kind++) {
		cJSON *m;

		n = kind == 0 ? frame(f, TYPE, "text") : udp_frame(f, 0x0a000001, 5000, 0);
		if (kind == 2)
			f[23] = IPPROTO_ICMP;
		if (kind == 3)
			f[20] = 0x20; /* more fragments */
		if (kind == 4) {
			static const uint8_t v6[6] = {0x60, 0, 0, 0, 0, 0};

			memset(f + 14, 7, 40);
			f[37] = 8;
			memcpy(f + 14, v6, sizeof(v6));
			f[12] = 0x86;
			f[13] = 0xdd;
			f[20] = 59; /* nothing follows */
			n = 54;
		}
		assert_true(pkt_parse(f, n, &i));
		m = pkt_metadata("va", &i);
		assert_true(pkt_key_of_metadata(m, &key));
		assert_memory_equal(&key, &i.key, sizeof(key));
		pkt_key_reverse(&key);
		assert_memory_not_equal(&key, &i.key, sizeof(key));
		pkt_key_reverse(&key);
		assert_memory_equal(&key, &i.key, sizeof(key));
		cJSON_DeleteItemFromObject(cJSON_GetObjectItem(m, "Ethernet"), "type");
		assert_false(pkt_key_of_metadata(m, &key));
		cJSON_Delete(m);
	}
	assert_false(pkt_key_of_metadata(NULL, &key));
}

/* Down, up, gone, and another one of the same name: a server's next frames make new sessions. */
static void the_interface_comes_and_goes(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l =
	        pfix_listen(f, PACKET, "l", "{'interface':'va','options':{'mode':'server'}}", NULL);
	int fd = raw("vb");

	inject(fd, TYPE, "1");
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	sh("ip link set va down");
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	assert_true(f->conns[0]->failed);
	sh("ip link set va up");
	inject(fd, TYPE, "2");
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	close(fd);
	sh("ip link del va");
	assert_true(pfix_until_n(f, &f->conns[1]->closed, 1, 1000));
	assert_string_equal(f->conns[1]->message, "AF_PACKET va: there is no such interface");
	make_veth();
	pfix_turn(f, 1200);
	fd = raw("vb");
	inject(fd, TYPE, "3");
	assert_true(pfix_until_size(f, &f->n_conns, 3, 1000));
	close(fd);
	pfix_unlisten(l);
}

/* The same by the reopen of a singleton; and the next session after the first one. */
static struct l7mp_accept last;
static void keep_accept(void *arg, struct l7mp_accept *a)
{
	last = *a;
	pfix_listen_events.accept(arg, a);
}

static void singleton_again(void **state)
{
	struct pfix *f = *state;
	struct l7mp_listen_events events = pfix_listen_events;
	struct l7mp_proto_listener *l = pfix_listen(f, PACKET, "l", "{'interface':'va'}", NULL);
	struct l7mp_stream *s;
	int fd = raw("vb");

	events.accept = keep_accept;
	l->events = &events;
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	sh("ip link set va down");
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	assert_int_equal(last.reopen(last.reopen_arg, &s), -ENETDOWN);
	sh("ip link set va up");
	inject(fd, TYPE, "dropped");
	pfix_turn(f, 20);
	assert_int_equal(f->n_conns, 1);
	assert_true(f->stats.drops[L7MP_DROP_NOT_CONNECTED] >= 1);
	assert_int_equal(last.reopen(last.reopen_arg, &s), 0);
	last.stream = s;
	last.name = NULL;
	last.metadata = NULL;
	pfix_listen_events.accept(f, &last);
	inject(fd, TYPE, "2");
	assert_true(pfix_until_n(f, &f->conns[1]->messages, 1, 1000));
	l7mp_stream_close(f->conns[1]->stream, false);
	last.ended(last.reopen_arg);
	inject(fd, TYPE, "3");
	assert_true(pfix_until_size(f, &f->n_conns, 3, 1000));
	close(fd);
	pfix_unlisten(l);
}

static uint16_t sum(const uint8_t *p, size_t n, uint32_t s)
{
	for (size_t i = 0; i < n; i++)
		s += i % 2 ? p[i] : (uint32_t)p[i] << 8;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

/* A frame that the sender left to the card: TCP with a partial checksum, merged, with a tag. */
static void merged_and_partial(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, PACKET, "l", "{'interface':'va'}", NULL);
	struct {
		struct virtio_net_hdr h;
		uint8_t f[18 + 20 + 20 + 4000];
	} __attribute__((packed)) m = {{0}, {0}};
	int fd = raw("vb"), on = 1;
	uint8_t *ip = m.f + 18, *tcp = ip + 20, *p;
	struct pconn *c;
	size_t total = 0;

	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), 0);
	frame(m.f, ETHERTYPE_VLAN, "");
	memcpy(m.f + 14, "\x00\x05\x08\x00", 4);
	memcpy(ip, "\x45\0\x0f\xc8\x12\x34\x40\0\x40\x06\0\0\x0a\0\0\x01\x0a\0\0\x02", 20);
	memcpy(tcp, "\x10\0\0\x50\xff\xff\xff\xf0\0\0\0\x01\x50\x19\x20\0\0\0\0\0", 20);
	for (int i = 0; i < 4000; i++)
		tcp[20 + i] = (uint8_t)(i * 7);
	/* The pseudo header's sum. */
	uint16_t pseudo = sum(ip + 12, 8, 6 + 4020);
	tcp[16] = (uint8_t)(pseudo >> 8);
	tcp[17] = (uint8_t)pseudo;
	m.h = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
	                              .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
	                              .hdr_len = 58,
	                              .gso_size = 1400,
	                              .csum_start = 38,
	                              .csum_offset = 16};
	assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
	assert_true(pfix_until_n(f, &c->messages, 3, 1000));
	assert_int_equal(c->len, 3 * 58 + 4000 + 2);
	p = (uint8_t *)c->data;
	for (unsigned i = 0; i < 3; i++) {
		size_t n = i < 2 ? 1400 : 1200;
		uint32_t seq;

		assert_memory_equal(p, m.f, 18);
		assert_int_equal(p[20] << 8 | p[21], 40 + n);
		assert_int_equal(sum(p + 18, 20, 0), 0xffff);
		assert_int_equal(sum(p + 38, 20 + n, sum(p + 30, 8, 6 + 20 + (uint32_t)n)), 0xffff);
		memcpy(&seq, p + 42, 4);
		assert_int_equal(ntohl(seq), 0xfffffff0u + i * 1400);
		assert_int_equal(p[51], i < 2 ? 0x10 : 0x19); /* FIN and PSH only at the end */
		assert_memory_equal(p + 58, tcp + 20 + total, n);
		total += n;
		p += 58 + n + 1;
	}
	close(fd);
	pfix_unlisten(l);
}

/* Junk of all lengths, headers cut anywhere: nothing but frames comes of it. */
static void junk(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l =
	        pfix_listen(f, PACKET, "l", "{'interface':'va','options':{'mode':'server'}}", NULL);
	static const uint16_t types[] = {0x0800, 0x86dd, 0x8100, 0x88a8, 0x0806};
	uint8_t x[80];
	unsigned got = 0;
	int fd = raw("vb");

	srand(7);
	f->refuse = true;
	for (unsigned n = 0; n < 250; n++) {
		bool tagged = n % 5 == 2 || n % 5 == 3; /* cut tags don't get past the kernel */
		size_t len = (tagged ? 20 : 14) + (size_t)rand() % 58;

		frame(x, types[n % 5], "");
		for (size_t i = 14; i < len; i++)
			x[i] = (uint8_t)(rand() % 8 ? rand() : 0x45);
		if (n % 5 < 2)
			x[14] = n % 5 ? 0x60 : 0x45;
		if (send(fd, x, len, 0) > 0)
			got++;
		if (n % 50 == 49)
			pfix_turn(f, 5);
	}
	assert_true(got > 200);
	pfix_turn(f, 50);
	assert_int_equal(f->stats.drops[L7MP_DROP_NO_MATCH], got);
	close(fd);
	pfix_unlisten(l);
}

static void check(const char *text, bool listener, const char *want)
{
	const struct l7mp_schema *s =
	        listener ? PACKET->desc.listener_spec : PACKET->desc.cluster_spec;
	struct l7mp_issues is;
	cJSON *node = cJSON_Parse(text);

	l7mp_issues_init(&is, false);
	l7mp_schema_check(s, NULL, node, "spec", &is);
	if (!want) {
		assert_int_equal(is.errors, 0);
	} else {
		assert_true(is.errors > 0);
		assert_non_null(strstr(is.v[0].reason, want));
	}
	l7mp_issues_clear(&is);
	cJSON_Delete(node);
}

static void specs(void **state)
{
	(void)state;
	check("{\"interface\":\"a\",\"ethertype\":2048}", true, NULL);
	check("{\"interface\":\"a\",\"ethertype\":\"IPv6\"}", true, NULL);
	check("{\"interface\":\"a\",\"ethertype\":\"0x88B5\"}", true, NULL);
	check("{\"interface\":\"a\",\"ethertype\":\"bogus\"}", true, "got \"bogus\"");
	check("{\"interface\":\"a\",\"ethertype\":\"0x5ff\"}", true, "got \"0x5ff\"");
	check("{\"rewrite\":{\"src_mac\":\"02:00:00:00:00:0g\"}}", false, "aa:bb:cc");
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(singleton),
	        T(sizes),
	        T(ethertype),
	        T(server),
	        T(cluster),
	        T(answers),
	        cmocka_unit_test(keys_of_metadata),
	        T(the_interface_comes_and_goes),
	        T(singleton_again),
	        T(merged_and_partial),
	        T(junk),
	        cmocka_unit_test(specs),
	};

	if (unshare(CLONE_NEWNET)) {
		printf("ok 1 - AF_PACKET # SKIP needs root\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
