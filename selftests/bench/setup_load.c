/* SPDX-License-Identifier: MIT */
/*
 * Session set-ups, seen from outside: setup_load DEV GATEWAY_MAC PIN_DIR SESSIONS WINDOW BASE
 *
 * Sends the first datagram of each of SESSIONS flows out of DEV, as live_flows.c numbers them
 * (11.0.0.1 and up, 50 source ports each, to 10.0.0.1:9000, from number BASE on), and looks
 * in the pinned flow table for the flow of each. At most WINDOW of them are on the way. What is not
 * there after 200 ms is sent again, and said. One thread does it, on a core of its own: it asks
 * for the oldest flow that is missing, so that a later one which is there first is seen late, never
 * early.
 *
 * One line of JSON: sessions/s from the first datagram to the last flow; p50, p99 and largest
 * time in us from just before a datagram was sent until its flow is seen to carry packets; the cost
 * of one look.
 */
#include "bench.h"

#include <bpf/bpf.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdbool.h>
#include <sys/ioctl.h>

#include "l7mp/abi.h"
#include "live_frame.h"

#define PAYLOAD   20
#define RESEND_NS 200000000ull
#define GIVE_UP   50

struct load {
	int packet, table, handover;
	uint8_t frame[FRAME_MAX];
	size_t len;
	uint32_t l3_sum, l4_sum;
};

static int packet_socket(const char *dev)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(dev)};

	if (fd < 0 || !to.sll_ifindex || bind(fd, (struct sockaddr *)&to, sizeof(to)))
		DIE("%s", dev);
	return fd;
}

static void flow_of(uint32_t i, uint32_t *addr, uint16_t *port)
{
	*addr = htonl(0x0b000001 + i / LIVE_PER_CLIENT);
	*port = htons((uint16_t)(LIVE_PORT_BASE + i % LIVE_PER_CLIENT));
}

static void send_first(struct load *l, uint32_t i)
{
	uint8_t *ip = l->frame + ETH_HLEN;
	uint32_t addr, add;
	uint16_t port, check;

	flow_of(i, &addr, &port);
	add = (addr & 0xffff) + (addr >> 16);
	memcpy(ip + 12, &addr, 4);
	check = (uint16_t)~frame_fold(l->l3_sum + add);
	memcpy(ip + 10, &check, 2);
	memcpy(ip + 20, &port, 2);
	check = (uint16_t)~frame_fold(l->l4_sum + add + port);
	check = check ? check : 0xffff;
	memcpy(ip + 26, &check, 2);
	while (send(l->packet, l->frame, l->len, 0) < 0)
		if (errno != ENOBUFS)
			DIE("send");
}

static bool is_fast(const struct load *l, uint32_t i)
{
	struct l7mp_flow4_key key = {.dport = htons(LIVE_GW_PORT), .l4 = IPPROTO_UDP};
	struct l7mp_flow_action action;
	uint32_t addr;

	flow_of(i, &addr, &key.sport);
	memcpy(key.saddr, &addr, 4);
	inet_pton(AF_INET, "10.0.0.1", key.daddr);
	if (!bpf_map_lookup_elem(l->table, &key, &action)) {
		struct l7mp_handover h;

		/* As the programs see it: one whose numbers differ passes its packets up. */
		return !(action.flags & L7MP_FLOW_HANDOVER) ||
		       (!bpf_map_lookup_elem(l->handover, &action.handover, &h) &&
		        h.passed == h.relayed);
	}
	if (errno != ENOENT)
		DIE("flows");
	return false;
}

static uint64_t look_ns(const struct load *l)
{
	uint64_t t0 = now_ns();

	for (int i = 0; i < 1000; i++)
		(void)is_fast(l, 0xffffff);
	return (now_ns() - t0) / 1000;
}

int main(int argc, char **argv)
{
	static struct load l;
	uint32_t n, window, base, sent = 0, seen = 0, resent = 0;
	uint64_t *since, *took, start, t, last;
	uint8_t mac[ETH_ALEN];
	char pin[256];

	errno = EINVAL;
	if (argc != 7 || sscanf(argv[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2],
	                        &mac[3], &mac[4], &mac[5]) != 6)
		DIE("usage: setup_load DEV GATEWAY_MAC PIN_DIR SESSIONS WINDOW BASE");
	n = (uint32_t)atoi(argv[4]);
	window = (uint32_t)atoi(argv[5]);
	base = (uint32_t)atoi(argv[6]);
	since = calloc(n, sizeof(*since));
	took = calloc(n, sizeof(*took));
	l.packet = packet_socket(argv[1]);
	snprintf(pin, sizeof(pin), "%s/" L7MP_MAP_FLOWS4, argv[3]);
	l.table = bpf_obj_get(pin);
	snprintf(pin, sizeof(pin), "%s/handover", argv[3]);
	l.handover = bpf_obj_get(pin);
	if (!n || !since || !took || l.table < 0 || l.handover < 0)
		DIE("%s", argv[3]);
	l.len = frame_build(mac, false, PAYLOAD, l.frame);
	l.l3_sum = frame_fold(frame_sum_words(l.frame + ETH_HLEN, 20));
	l.l4_sum = frame_udp_sum(l.frame, false);
	start = last = now_ns();
	while (seen < n) {
		if (sent < n && sent - seen < window) {
			since[sent] = now_ns();
			send_first(&l, base + sent++);
			continue;
		}
		t = now_ns();
		if (is_fast(&l, base + seen)) {
			took[seen] = now_ns() - since[seen];
			last = now_ns();
			seen++;
		} else if (t - last > RESEND_NS && t - since[seen] > RESEND_NS) {
			if (++resent > GIVE_UP) {
				errno = ETIMEDOUT;
				DIE("session %u of %u does not become fast", seen, n);
			}
			last = t;
			send_first(&l, base + seen);
		}
	}
	t = now_ns() - start;
	qsort(took, n, sizeof(*took), compare_u64);
	printf("{\"sessions_per_s\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, "
	       "\"resent\": %u, \"look_ns\": %lu}\n",
	       n * 1e9 / (double)t, (double)took[n / 2] / 1e3, (double)took[n * 99ull / 100] / 1e3,
	       (double)took[n - 1] / 1e3, resent, look_ns(&l));
	return 0;
}
