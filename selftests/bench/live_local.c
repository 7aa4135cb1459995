/* SPDX-License-Identifier: MIT */
/*
 * The local sender of live_gen.c: sockets instead of frames, the same sinks. A socket a flow,
 * sent to in turn; one flow is sent in batches.
 */
#include "bench.h"

#include "live_gen.h"

#define BATCH    64
#define FLOWS    1000
#define PORT     20000 /* of the first flow */
#define STALL_NS 50000000ull
#define STALLS   10

static void open_sockets(const struct local_load *l, int *fds)
{
	struct sockaddr_storage gw, from;
	char text[32];

	parse_addr("10.0.0.1:9000", &gw);
	for (unsigned i = 0; i < l->flows; i++) {
		snprintf(text, sizeof(text), "10.255.255.254:%u", PORT + i);
		parse_addr(text, &from);
		fds[i] = socket_or_die(AF_INET, SOCK_DGRAM);
		if (setsockopt(fds[i], SOL_SOCKET, SO_BINDTODEVICE, l->device,
		               (socklen_t)strlen(l->device)) ||
		    bind(fds[i], (struct sockaddr *)&from, sizeof(struct sockaddr_in)) ||
		    connect(fds[i], (struct sockaddr *)&gw, sizeof(struct sockaddr_in)))
			DIE("a local sender on %s", l->device);
	}
}

/* False when nothing has come for a while, too often. */
static int wait_for_room(const struct local_load *l, unsigned burst)
{
	volatile struct live_state *s = l->state;
	uint64_t seen = s->sunk, since = now_ns();
	static int stalls;

	if (s->sent == 0)
		stalls = 0;
	while ((int64_t)(s->sent + burst - s->sunk - s->lost) > (int64_t)l->window) {
		sched_yield(); /* a relay of the same priority has its turn */
		if (s->sunk != seen) {
			seen = s->sunk;
			since = now_ns();
		} else if (now_ns() - since > STALL_NS) {
			s->lost = s->sent - s->sunk;
			return ++stalls < STALLS;
		} else if (now_ns() - since > STALL_NS / 1000) {
			usleep(20); /* and threads of the kernel theirs */
		}
	}
	return 1;
}

void local_send(const struct local_load *l)
{
	static char payload[2048];
	volatile struct live_state *s = l->state;
	struct mmsghdr msgs[BATCH];
	struct iovec iov = {payload, l->size};
	unsigned flow = 0, max = l->flows > 1 ? 1 : BATCH;
	int fds[FLOWS];
	struct local_load rest = *l;

	errno = EINVAL;
	if (l->flows < 1 || l->flows > FLOWS)
		DIE("%u flows", l->flows);
	open_sockets(l, fds);
	memset(msgs, 0, sizeof(msgs));
	for (unsigned i = 0; i < BATCH; i++)
		msgs[i].msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
	s->start_ns = now_ns();
	while (s->sent < l->packets) {
		uint64_t left = l->packets - s->sent;
		unsigned burst = left < max ? (unsigned)left : max;
		int n;

		if (!wait_for_room(l, burst))
			break;
		n = sendmmsg(fds[flow], msgs, burst, 0);
		if (n > 0)
			s->sent += (uint64_t)n;
		flow = flow + 1 == l->flows ? 0 : flow + 1;
	}
	rest.window = 0;
	wait_for_room(&rest, 0);
	for (unsigned i = 0; i < l->flows; i++)
		close(fds[i]);
}
