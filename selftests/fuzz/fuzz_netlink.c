/* SPDX-License-Identifier: MIT */
/*
 * What offload/path and offload/hook read from netlink, against a kernel that says what the input
 * says: events about links, routes, neighbours, addresses, rules and tc, and the answers to the
 * questions that these cause. The library's socket calls are replaced by the linker (--wrap; the
 * Makefile says so); messages are parsed by the library itself.
 *
 * The input is a row of records: what it is (1 byte: see enum record), its length (2 bytes, little
 * endian), its bytes.
 */
#include "fuzz.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <sys/eventfd.h>

#include "l7mp/log.h"
#include "offload/engine.h"
#include "offload/hook/hook.h"

enum record {
	EVENTS, /* messages of the groups that are subscribed to */
	ANSWER, /* to the next question; without one: ENOENT */
	LOST,   /* events were lost */
	FLOW,   /* a flow begins: 4 or 16 bytes of destination */
	TC,     /* the filters of an interface are asked for */
	FEATURES,
	RECORDS
};

#define FLOWS     8
#define QUESTIONS 4096 /* of one input: more is a loop without an end */

static struct l7mp_loop *loop;
static struct off_path path;
static struct off_use uses[FLOWS];
static struct l7mp_flow *const flow = (struct l7mp_flow *)&uses; /* opaque to offload/path */
static struct off_nexthop *used[FLOWS];
static unsigned n_flows, questions;
static bool working;

/* ---- the library's sockets ---- */

static struct {
	const uint8_t *at, *end; /* the rest of the input */
	const uint8_t *events;   /* to be received */
	size_t n_events;
	bool lost;
	uint32_t seq; /* of the question; 0: none */
} kernel;

/* Stand for the two sockets; never looked into. */
static int watch_socket, ask_socket;
static bool watch_open;
static int fd = -1;

struct mnl_socket *__wrap_mnl_socket_open2(int bus, int flags);
int __wrap_mnl_socket_bind(struct mnl_socket *nl, unsigned int groups, pid_t pid);
int __wrap_mnl_socket_close(struct mnl_socket *nl);
int __wrap_mnl_socket_get_fd(const struct mnl_socket *nl);
unsigned int __wrap_mnl_socket_get_portid(const struct mnl_socket *nl);
int __wrap_mnl_socket_setsockopt(const struct mnl_socket *nl, int type, void *buf, socklen_t len);
ssize_t __wrap_mnl_socket_sendto(const struct mnl_socket *nl, const void *req, size_t size);
ssize_t __wrap_mnl_socket_recvfrom(const struct mnl_socket *nl, void *buf, size_t size);
int __wrap_mnl_cb_run(const void *buf, size_t n, unsigned int seq, unsigned int port, mnl_cb_t cb,
                      void *arg);
int __real_mnl_cb_run(const void *buf, size_t n, unsigned int seq, unsigned int port, mnl_cb_t cb,
                      void *arg);

struct mnl_socket *__wrap_mnl_socket_open2(int bus, int flags)
{
	(void)bus;
	(void)flags;
	if (watch_open)
		return (struct mnl_socket *)&ask_socket;
	watch_open = true;
	return (struct mnl_socket *)&watch_socket;
}

int __wrap_mnl_socket_bind(struct mnl_socket *nl, unsigned int groups, pid_t pid)
{
	(void)nl;
	(void)groups;
	(void)pid;
	return 0;
}

int __wrap_mnl_socket_close(struct mnl_socket *nl)
{
	(void)nl;
	return 0;
}

int __wrap_mnl_socket_get_fd(const struct mnl_socket *nl)
{
	(void)nl;
	return fd;
}

unsigned int __wrap_mnl_socket_get_portid(const struct mnl_socket *nl)
{
	(void)nl;
	return 7;
}

int __wrap_mnl_socket_setsockopt(const struct mnl_socket *nl, int type, void *buf, socklen_t len)
{
	(void)nl;
	(void)type;
	(void)buf;
	(void)len;
	return 0;
}

ssize_t __wrap_mnl_socket_sendto(const struct mnl_socket *nl, const void *req, size_t size)
{
	const struct nlmsghdr *nlh = req;

	(void)nl;
	FUZZ_CHECK(size == nlh->nlmsg_len && size >= sizeof(*nlh));
	FUZZ_CHECK(++questions < QUESTIONS);
	kernel.seq = nlh->nlmsg_seq;
	return (ssize_t)size;
}

/* The next record: its kind, -1 at the end. */
static int next_record(const uint8_t **data, size_t *n)
{
	size_t len;
	int kind;

	if (kernel.end - kernel.at < 3)
		return -1;
	kind = kernel.at[0] % RECORDS;
	len = kernel.at[1] | (size_t)kernel.at[2] << 8;
	kernel.at += 3;
	if (len > (size_t)(kernel.end - kernel.at))
		len = (size_t)(kernel.end - kernel.at);
	*data = kernel.at;
	*n = len;
	kernel.at += len;
	return kind;
}

/*
 * All messages are about this question, and none is longer than what was received, as the kernel's
 * are. (Of one of more than 2 GiB mnl_nlmsg_ok would think that it fits.)
 */
static void number(void *buf, size_t n)
{
	struct nlmsghdr *nlh = buf;
	int left = (int)n;

	for (; left >= (int)sizeof(*nlh); nlh = mnl_nlmsg_next(nlh, &left)) {
		if (nlh->nlmsg_len > (uint32_t)left)
			nlh->nlmsg_len = (uint32_t)left;
		if (!mnl_nlmsg_ok(nlh, left))
			break;
		nlh->nlmsg_seq = kernel.seq;
		nlh->nlmsg_pid = 0;
	}
}

static ssize_t answer(void *buf, size_t size)
{
	const uint8_t *before = kernel.at, *data = NULL;
	size_t n = 0;
	struct nlmsghdr *nlh = buf;

	memset(nlh, 0, sizeof(*nlh));
	if (next_record(&data, &n) == ANSWER && n >= sizeof(*nlh) && n <= size) {
		memcpy(buf, data, n);
		number(buf, n);
		return (ssize_t)n;
	}
	kernel.at = before;
	mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = NLMSG_ERROR;
	nlh->nlmsg_seq = kernel.seq;
	*(struct nlmsgerr *)mnl_nlmsg_put_extra_header(nlh, sizeof(struct nlmsgerr)) =
	        (struct nlmsgerr){.error = -ENOENT};
	return (ssize_t)nlh->nlmsg_len;
}

ssize_t __wrap_mnl_socket_recvfrom(const struct mnl_socket *nl, void *buf, size_t size)
{
	size_t n = kernel.n_events;

	if ((const void *)nl == &ask_socket)
		return answer(buf, size);
	if (kernel.lost) {
		kernel.lost = false;
		errno = ENOBUFS;
		return -1;
	}
	kernel.n_events = 0;
	if (!n || n > size) {
		errno = EAGAIN;
		return -1;
	}
	memcpy(buf, kernel.events, n);
	number(buf, n);
	return (ssize_t)n;
}

/* Messages are read from memory of just their size, so that the sanitizer sees reads behind it. */
int __wrap_mnl_cb_run(const void *buf, size_t n, unsigned int seq, unsigned int port, mnl_cb_t cb,
                      void *arg)
{
	void *copy = calloc(1, MNL_ALIGN(n)); /* its attributes end at a multiple of 4 */
	int rc;

	FUZZ_CHECK(copy != NULL);
	memcpy(copy, buf, n);
	rc = __real_mnl_cb_run(copy, n, seq, port, cb, arg);
	free(copy);
	return rc;
}

/* The library reads an attribute as it is asked to, whatever its length. */
uint16_t __wrap_mnl_attr_get_u16(const struct nlattr *attr);
uint32_t __wrap_mnl_attr_get_u32(const struct nlattr *attr);
uint64_t __wrap_mnl_attr_get_u64(const struct nlattr *attr);
const char *__wrap_mnl_attr_get_str(const struct nlattr *attr);
uint16_t __real_mnl_attr_get_u16(const struct nlattr *attr);
uint32_t __real_mnl_attr_get_u32(const struct nlattr *attr);
uint64_t __real_mnl_attr_get_u64(const struct nlattr *attr);
const char *__real_mnl_attr_get_str(const struct nlattr *attr);

uint16_t __wrap_mnl_attr_get_u16(const struct nlattr *attr)
{
	FUZZ_CHECK(mnl_attr_get_payload_len(attr) >= 2);
	return __real_mnl_attr_get_u16(attr);
}

uint32_t __wrap_mnl_attr_get_u32(const struct nlattr *attr)
{
	FUZZ_CHECK(mnl_attr_get_payload_len(attr) >= 4);
	return __real_mnl_attr_get_u32(attr);
}

uint64_t __wrap_mnl_attr_get_u64(const struct nlattr *attr)
{
	FUZZ_CHECK(mnl_attr_get_payload_len(attr) >= 8);
	return __real_mnl_attr_get_u64(attr);
}

const char *__wrap_mnl_attr_get_str(const struct nlattr *attr)
{
	const char *text = __real_mnl_attr_get_str(attr);

	FUZZ_CHECK(memchr(text, 0, mnl_attr_get_payload_len(attr)));
	return text;
}

/* ---- the owner of the path ---- */

static void changed(void *arg, enum off_path_event event, struct off_link *link)
{
	(void)arg;
	FUZZ_CHECK((event == OFF_PATH_LINK || event == OFF_PATH_LINK_REMOVED ||
	            event == OFF_PATH_HOOK) == (link != NULL));
	if (event == OFF_PATH_WORK)
		working = true;
	if (event == OFF_PATH_LINK && link->ifindex % 2) /* as the engine does with some */
		link->hook = OFF_HOOK_TC;
	if (link) {
		FUZZ_CHECK(memchr(link->name, 0, sizeof(link->name)));
		FUZZ_CHECK(memchr(link->kind, 0, sizeof(link->kind)));
		FUZZ_CHECK(off_link_find(&path, link->ifindex) == link);
		(void)off_link_served(&path, link);
		(void)off_link_has_upper(&path, link);
	}
}

static void work(void)
{
	struct off_nexthop *nh;

	working = false;
	while ((nh = off_nexthop_next_dirty(&path))) {
		FUZZ_CHECK(nh->reason < L7MP_REASON_COUNT);
		FUZZ_CHECK(nh->reason || nh->ifindex);
		FUZZ_CHECK(nh->reason || nh->local || off_link_find(&path, nh->ifindex));
		while (off_nexthop_next_flow(nh))
			;
		off_nexthop_done(&path, nh);
	}
}

static void begin_flow(const uint8_t *data, size_t n)
{
	struct l7mp_addr local, remote;
	unsigned i = n_flows % FLOWS;
	struct off_nexthop *nh;
	bool v6 = n >= 16;
	uint8_t dst[16] = {10};

	memcpy(dst, data, n < 16 ? n : 16);
	FUZZ_CHECK(!l7mp_addr_parse(&local, v6 ? "2001:db8::1" : "10.0.0.1", 1000));
	remote = local;
	if (v6)
		memcpy(&remote.in6.sin6_addr, dst, 16);
	else
		memcpy(&remote.in.sin_addr, dst, 4);
	if (used[i])
		off_nexthop_unuse(&path, used[i], &uses[i]);
	used[i] = NULL;
	nh = off_nexthop_get(&path, IPPROTO_UDP, &local, &remote);
	if (!nh)
		return;
	memset(&uses[i], 0, sizeof(uses[i]));
	uses[i].flow = flow;
	off_nexthop_use(nh, &uses[i]);
	used[i] = nh;
	n_flows++;
}

static void receive(void)
{
	FUZZ_CHECK(eventfd_write(fd, 1) == 0);
	l7mp_loop_turn(loop);
	FUZZ_CHECK(!kernel.n_events && !kernel.lost);
}

static void ask_features(void)
{
	struct off_hooks h = {.path = &path};
	struct off_link l = {.ifindex = 1};

	(void)off_xdp_in_driver(1);
	(void)off_xdp_can_send(&h, &l);
}

static void play(int kind, const uint8_t *data, size_t n)
{
	unsigned before;

	switch ((enum record)kind) {
	case EVENTS:
		kernel.events = data;
		kernel.n_events = n <= 32 << 10 ? n : 0;
		receive();
		break;
	case ANSWER: /* nothing was asked */
	case RECORDS:
		break;
	case LOST:
		kernel.lost = true;
		receive();
		break;
	case FLOW:
		begin_flow(data, n);
		break;
	case TC:
		(void)off_tc_find(&path.nl, 1, 1, 2, &before);
		break;
	case FEATURES:
		ask_features();
		break;
	}
	work();
}

static void start(void)
{
	l7mp_log_set_level(L7MP_LOG_ERROR);
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	FUZZ_CHECK(fd >= 0);
	FUZZ_CHECK(!l7mp_loop_new(&loop));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *bytes;
	size_t n;
	int kind;

	if (!loop)
		start();
	memset(&path, 0, sizeof(path));
	memset(used, 0, sizeof(used));
	n_flows = questions = 0;
	kernel.at = data;
	kernel.end = data + size;
	watch_open = false;
	path.loop = loop;
	path.changed = changed;
	FUZZ_CHECK(!off_monitor_start(&path) && !off_recheck_start(&path) &&
	           !off_neigh_start(&path));
	FUZZ_CHECK(!off_nl_open(&path.nl, NETLINK_ROUTE));
	(void)off_links_dump(&path);
	off_routes_check_ports(&path);
	while ((kind = next_record(&bytes, &n)) >= 0)
		play(kind, bytes, n);
	for (unsigned i = 0; i < FLOWS; i++)
		if (used[i])
			off_nexthop_unuse(&path, used[i], &uses[i]);
	off_nexthops_clear(&path);
	FUZZ_CHECK(!path.neighs && !path.nexthops && !path.dirty);
	off_links_clear(&path);
	FUZZ_CHECK(!path.links);
	off_neigh_stop(&path);
	off_recheck_stop(&path);
	off_monitor_stop(&path);
	off_nl_close(&path.nl);
	l7mp_loop_turn(loop);
	return 0;
}
