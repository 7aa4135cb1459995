/* SPDX-License-Identifier: MIT */
/*
 * UDP load: udp_load SRC_NS DST_NS RELAY SINK FLOWS SIZE SECONDS WINDOW [BURST]
 *
 * One thread sends FLOWS flows round robin to RELAY, another receives on SINK. The
 * sender keeps at most WINDOW datagrams on the way, so the rate settles at what the
 * relay carries without loss; what is lost anyway is counted after a stall of 50 ms.
 * Prints: packets/s, lost, bytes.   Ping mode (WINDOW 1): also p50 and p99 one-way latency in ns.
 */
#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>

#define BATCH 32

struct load {
	const char *src_ns, *dst_ns;
	struct sockaddr_storage relay, sink;
	socklen_t relay_len, sink_len;
	int flows, size, burst;
	double seconds;
	long window;
};

static _Atomic uint64_t sent, received, lost;
static _Atomic int stop, ready;
static uint64_t *latency;
static size_t n_latency, cap_latency = 1u << 20;

static void *sink(void *arg)
{
	struct load *l = arg;
	static char bufs[BATCH][2048];
	struct mmsghdr msgs[BATCH];
	struct iovec iov[BATCH];
	struct timeval tv = {.tv_usec = 20000};
	int fd;

	enter_netns(l->dst_ns);
	fd = socket_or_die(l->sink.ss_family, SOCK_DGRAM);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	if (bind(fd, (struct sockaddr *)&l->sink, l->sink_len))
		DIE("bind sink");
	memset(msgs, 0, sizeof(msgs));
	for (int i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){bufs[i], sizeof(bufs[i])};
		msgs[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
	}
	ready = 1;
	while (!stop) {
		int n = recvmmsg(fd, msgs, BATCH, MSG_WAITFORONE, NULL);

		if (n <= 0)
			continue;
		if (l->window == 1 && n_latency < cap_latency) {
			uint64_t then;

			memcpy(&then, bufs[0], sizeof(then));
			latency[n_latency++] = now_ns() - then;
		}
		received += (uint64_t)n;
	}
	close(fd);
	return NULL;
}

static void wait_for_room(struct load *l)
{
	uint64_t seen = received, since = now_ns();

	while ((long)(sent - received - lost) >= l->window) {
		if (received != seen) {
			seen = received;
			since = now_ns();
		} else if (now_ns() - since > 50000000ull) {
			lost += sent - received - lost;
			return;
		}
		sched_yield();
	}
}

static void generate(struct load *l)
{
	static char payload[BATCH][65536];
	struct mmsghdr msgs[BATCH];
	struct iovec iov[BATCH];
	int *fds = calloc((size_t)l->flows, sizeof(*fds));
	uint64_t end;
	int flow = 0, batch = l->window < BATCH ? (int)l->window : BATCH;

	enter_netns(l->src_ns);
	for (int i = 0; i < l->flows; i++) {
		fds[i] = socket_or_die(l->relay.ss_family, SOCK_DGRAM);
		if (connect(fds[i], (struct sockaddr *)&l->relay, l->relay_len))
			DIE("connect");
	}
	memset(msgs, 0, sizeof(msgs));
	for (int i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){payload[i], (size_t)l->size};
		msgs[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
	}
	end = now_ns() + (uint64_t)(l->seconds * 1e9);
	while (now_ns() < end) {
		/* Many flows: a small burst from each, as many talkers would send. */
		int burst = l->flows > 1 && batch > l->burst ? l->burst : batch, n;
		uint64_t stamp;

		wait_for_room(l);
		stamp = now_ns();
		memcpy(payload[0], &stamp, sizeof(stamp));
		n = sendmmsg(fds[flow], msgs, (unsigned)burst, 0);
		if (n > 0)
			sent += (uint64_t)n;
		flow = flow + 1 == l->flows ? 0 : flow + 1;
	}
	for (int i = 0; i < l->flows; i++)
		close(fds[i]);
	free(fds);
}

int main(int argc, char **argv)
{
	struct load l;
	pthread_t t;
	uint64_t start, took;

	if (argc != 9 && argc != 10) {
		fprintf(stderr,
		        "usage: udp_load SRC_NS DST_NS RELAY SINK FLOWS SIZE SECONDS WINDOW "
		        "[BURST]\n");
		return 2;
	}
	l.src_ns = argv[1];
	l.dst_ns = argv[2];
	l.relay_len = parse_addr(argv[3], &l.relay);
	l.sink_len = parse_addr(argv[4], &l.sink);
	l.flows = atoi(argv[5]);
	l.size = atoi(argv[6]);
	l.seconds = atof(argv[7]);
	l.window = atol(argv[8]);
	l.burst = argc == 10 ? atoi(argv[9]) : 4;
	latency = malloc(cap_latency * sizeof(*latency));
	pthread_create(&t, NULL, sink, &l);
	while (!ready)
		sched_yield();
	start = now_ns();
	generate(&l);
	took = now_ns() - start;
	usleep(50000);
	stop = 1;
	pthread_join(t, NULL);
	qsort(latency, n_latency, sizeof(*latency), compare_u64);
	printf("{\"pps\": %.0f, \"sent\": %llu, \"received\": %llu",
	       (double)received * 1e9 / (double)took, (unsigned long long)sent,
	       (unsigned long long)received);
	if (n_latency)
		printf(", \"p50_ns\": %llu, \"p99_ns\": %llu",
		       (unsigned long long)latency[n_latency / 2],
		       (unsigned long long)latency[n_latency * 99 / 100]);
	printf("}\n");
	return 0;
}
