/* SPDX-License-Identifier: MIT */
/*
 * AF_PACKET flows: the filter of their sockets, and the kinds of frames that the programs look up
 * on each interface.
 *
 * A socket whose frames the kernel relays gets a filter program of a few instructions, which stores
 * the socket's id in cb and tail-calls l7mp_tap. The socket keeps it: without flows, and even
 * without an engine, it has the effect of the socket's own filter.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "l7mp/log.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#define IDLE_MAX  64        /* taps kept for sockets without flows */
#define EMPTY_MAX (1 << 20) /* more frames than fit into a socket's buffer */

struct off_tap {
	struct off_tap *prev, *next; /* most recently used last */
	uint64_t cookie;             /* of the socket */
	uint32_t id;
	uint32_t ifindex;
	uint16_t type; /* EtherType; 0: all */
	unsigned n;    /* directions of flows */
	int fd;        /* the socket's, borrowed, during adoption; else -1 */
};

/* ---- the program that calls l7mp_tap ---- */

#define INSN(c, dst, src, o, i) \
	((struct bpf_insn){.code = (c), .dst_reg = (dst), .src_reg = (src), .off = (o), .imm = (i)})
#define SET_CB(n, value)                                                    \
	INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, (__s32)(value)), \
	        INSN(BPF_STX | BPF_MEM | BPF_W, BPF_REG_1, BPF_REG_3,       \
	             offsetof(struct __sk_buff, cb[n]), 0)

static int load_front(const struct l7mp_offload_engine *e, uint32_t id, uint16_t type)
{
	const struct bpf_insn insns[] = {
	        SET_CB(0, id),
	        SET_CB(1, type),
	        SET_CB(2, 0),
	        INSN(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_2, BPF_PSEUDO_MAP_FD, 0, e->frames.tails),
	        INSN(0, 0, 0, 0, 0),
	        INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, 0),
	        INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_tail_call),
	        /* Not reached: the map entry is never deleted. */
	        INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, -1),
	        INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	int fd = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "l7mp_tap_id", "Dual MIT/GPL", insns,
	                       sizeof(insns) / sizeof(insns[0]), NULL);

	return fd < 0 ? -errno : fd;
}

/* Replaces the socket's filter atomically. */
static int attach(const struct l7mp_offload_engine *e, const struct off_tap *t, int fd)
{
	int prog = load_front(e, t->id, t->type), rc;

	if (prog < 0)
		return prog;
	rc = setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &prog, sizeof(prog)) ? -errno : 0;
	close(prog);
	return rc;
}

/* ---- sockets ---- */

static bool is_tag(uint16_t type)
{
	return type == 0x8100 || type == 0x88a8;
}

/* Can a frame match both types? */
static bool overlap(uint16_t a, uint16_t b)
{
	return !a || !b || a == b || is_tag(a) || is_tag(b);
}

/*
 * The programs relay a frame for one socket only. If two of our sockets receive the same frames,
 * only the first one can be offloaded.
 */
static bool in_conflict(const struct off_frames *f, const struct off_tap *mine, uint32_t ifindex,
                        uint16_t type)
{
	const struct off_tap *t;

	DL_FOREACH (f->taps, t)
		if (t != mine && t->n && t->ifindex == ifindex && overlap(t->type, type))
			return true;
	return mine && mine->n && mine->ifindex != ifindex;
}

static void forget_idle(struct off_frames *f)
{
	struct off_tap *t, *next;
	unsigned n = 0;

	DL_FOREACH (f->taps, t)
		n += !t->n;
	DL_FOREACH_SAFE (f->taps, t, next) {
		if (n <= IDLE_MAX)
			return;
		if (t->n)
			continue;
		DL_DELETE(f->taps, t);
		free(t);
		n--;
	}
}

static bool has_id(const struct off_frames *f, uint32_t id)
{
	const struct off_tap *t;

	DL_FOREACH (f->taps, t)
		if (t->id == id)
			return true;
	return false;
}

/* id: the one in a previous daemon's flow, which is kept unless it is in use; 0: a new one. */
static struct off_tap *tap_new(struct l7mp_offload_engine *e, const struct l7mp_flow_end *end,
                               uint64_t cookie, uint32_t id)
{
	struct off_tap *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return NULL;
	t->cookie = cookie;
	t->id = id && !has_id(&e->frames, id) ? id : ++e->frames.last_tap;
	t->fd = -1;
	t->type = end->frame.filter;
	rc = attach(e, t, end->fd);
	if (!rc) {
		DL_APPEND(e->frames.taps, t);
		return t;
	}
	if (l7mp_log_allowed(&e->log_limit, l7mp_loop_now(e->loop), 10000, 3, NULL))
		l7mp_log_error(OFF_MODULE, "a packet socket can't have our filter: %s",
		               strerror(-rc));
	free(t);
	return NULL;
}

static struct off_tap *tap_find(const struct off_frames *f, uint64_t cookie)
{
	struct off_tap *t;

	DL_FOREACH (f->taps, t)
		if (t->cookie == cookie)
			return t;
	return NULL;
}

static enum l7mp_reason tap_take(struct l7mp_offload_engine *e, const struct l7mp_flow_end *end,
                                 uint32_t id, struct off_tap **out)
{
	struct off_frames *f = &e->frames;
	socklen_t len = sizeof(uint64_t);
	uint64_t cookie = 0;
	struct off_tap *t;

	if (getsockopt(end->fd, SOL_SOCKET, SO_COOKIE, &cookie, &len))
		return L7MP_REASON_KERNEL;
	t = tap_find(f, cookie);
	if (in_conflict(f, t, end->ifindex, end->frame.filter)) {
		e->was_refused = true;
		return L7MP_REASON_CONFLICT;
	}
	if (!t)
		t = tap_new(e, end, cookie, id);
	if (!t)
		return L7MP_REASON_KERNEL;
	DL_DELETE(f->taps, t);
	DL_APPEND(f->taps, t);
	t->ifindex = end->ifindex;
	t->n++;
	*out = t;
	return L7MP_REASON_NONE;
}

/* ---- kinds of frames per interface ---- */

static unsigned kind_of(const struct l7mp_frame_key *key)
{
	if (key->family != L7MP_FAMILY_ANY)
		return 0;
	return !key->type ? 3 : is_tag(key->type) ? 2 : 1;
}

_Static_assert(L7MP_FRAMES_EXACT == 1 << 0 && L7MP_FRAMES_TYPE == 1 << 1 &&
                       L7MP_FRAMES_TAG == 1 << 2 && L7MP_FRAMES_ALL == 1 << 3,
               "the results of kind_of");

static uint32_t kinds_at(const struct l7mp_offload_engine *e, uint32_t at)
{
	const uint32_t *n = e->frames.n_of_kind[at];
	uint32_t kinds = 0;

	for (unsigned i = 0; i < 4; i++)
		kinds |= n[i] ? 1U << i : 0;
	return kinds;
}

static int count_kind(struct l7mp_offload_engine *e, const struct l7mp_frame_key *key, bool more)
{
	uint32_t at = key->ifindex % L7MP_IFS_MAX, kinds, *n = e->frames.n_of_kind[at];
	unsigned kind = kind_of(key);

	n[kind] = more ? n[kind] + 1 : n[kind] - 1;
	if (n[kind] > 1 || (more ? n[kind] != 1 : n[kind] != 0))
		return 0;
	kinds = kinds_at(e, at);
	return bpf_map_update_elem(e->table.maps.frame_ifs, &at, &kinds, BPF_ANY) ? -errno : 0;
}

/* ---- flows ---- */

enum l7mp_reason off_frames_join(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                 const struct l7mp_flow_end *a, const struct l7mp_flow_end *b)
{
	const struct l7mp_flow_end *ends[2] = {a, b};

	flow->links_seen = e->frames.links;
	DL_APPEND2(e->frames.flows, flow, fprev, fnext);
	for (int i = 0; i < 2; i++) {
		enum l7mp_reason reason = tap_take(e, ends[i], 0, &flow->tap[i]);

		if (reason)
			return reason;
		flow->dir[i].frames.tap = flow->tap[i]->id;
		flow->counted |= (uint8_t)(1U << i);
		if (count_kind(e, &flow->dir[i].frame, true))
			return L7MP_REASON_KERNEL;
	}
	return L7MP_REASON_NONE;
}

/* ---- flows of a previous daemon ---- */

/* Doesn't write the map, which has all kinds; the counts are complete only after the last flow. */
void off_frames_claim(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	for (int i = 0; i < 2; i++) {
		const struct l7mp_frame_key *key = &flow->dir[i].frame;

		e->frames.n_of_kind[key->ifindex % L7MP_IFS_MAX][kind_of(key)]++;
		flow->counted |= (uint8_t)(1U << i);
		if (flow->dir[i].frames.tap > e->frames.last_tap)
			e->frames.last_tap = flow->dir[i].frames.tap;
	}
}

void off_frames_claimed(struct l7mp_offload_engine *e)
{
	for (uint32_t i = 0; i < L7MP_IFS_MAX; i++) {
		uint32_t kinds = kinds_at(e, i), now = 0;

		if ((bpf_map_lookup_elem(e->table.maps.frame_ifs, &i, &now) || now != kinds) &&
		    bpf_map_update_elem(e->table.maps.frame_ifs, &i, &kinds, BPF_ANY))
			l7mp_log_warn(OFF_MODULE, "can't note which frames are relayed: %s",
			              strerror(errno));
	}
}

enum l7mp_reason off_frames_own(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                const struct l7mp_flow_end *a, const struct l7mp_flow_end *b)
{
	const struct l7mp_flow_end *ends[2] = {a, b};

	flow->links_seen = e->frames.links;
	DL_APPEND2(e->frames.flows, flow, fprev, fnext);
	for (int i = 0; i < 2; i++) {
		struct off_direction *d = &flow->dir[i];
		enum l7mp_reason reason = tap_take(e, ends[i], d->frames.tap, &flow->tap[i]);

		if (reason)
			return reason;
		flow->tap[i]->fd = ends[i]->fd;
		if (d->frames.tap == flow->tap[i]->id)
			continue;
		d->frames.tap = flow->tap[i]->id;
		off_action_renew(&e->table, &d->action6);
		if (off_entry_put(&e->table.maps, d, &d->action6, BPF_EXIST))
			return L7MP_REASON_KERNEL;
	}
	return L7MP_REASON_NONE;
}

/* Discards the socket's frames. Ends, because the kernel relays new ones. */
static void empty(int fd)
{
	/* Must hold a virtio_net_hdr, or recv fails although it dequeues the frame. */
	uint8_t head[64];

	for (unsigned i = 0; i < EMPTY_MAX; i++)
		if (recv(fd, head, sizeof(head), MSG_DONTWAIT | MSG_TRUNC) < 0 && errno == EAGAIN)
			return;
}

void off_frames_adopted(struct l7mp_offload_engine *e)
{
	struct off_tap *t;
	bool any = false;

	DL_FOREACH (e->frames.taps, t)
		any = any || t->fd >= 0;
	/* On another CPU a socket's former filter may still be running. */
	if (any)
		off_wait_for_programs();
	DL_FOREACH (e->frames.taps, t) {
		if (t->fd >= 0 && t->n)
			empty(t->fd);
		t->fd = -1;
	}
}

void off_frames_leave(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	if (flow->fprev)
		DL_DELETE2(e->frames.flows, flow, fprev, fnext);
	flow->fprev = NULL;
	for (int i = 0; i < 2; i++) {
		if (flow->counted & 1U << i)
			(void)count_kind(e, &flow->dir[i].frame, false);
		if (flow->tap[i])
			flow->tap[i]->n--;
		flow->tap[i] = NULL;
	}
	flow->counted = 0;
	forget_idle(&e->frames);
}

void off_frames_links_changed(struct l7mp_offload_engine *e)
{
	e->frames.links++;
	if (e->frames.flows && !l7mp_timer_armed(&e->work))
		(void)l7mp_timer_start(e->loop, &e->work, 0);
}

bool off_frames_waiting(const struct l7mp_offload_engine *e)
{
	return e->frames.flows && e->frames.flows->links_seen != e->frames.links;
}

struct l7mp_flow *off_frames_next(struct l7mp_offload_engine *e)
{
	struct l7mp_flow *flow = e->frames.flows;

	if (!off_frames_waiting(e))
		return NULL;
	DL_DELETE2(e->frames.flows, flow, fprev, fnext);
	DL_APPEND2(e->frames.flows, flow, fprev, fnext);
	flow->links_seen = e->frames.links;
	return flow;
}

/* ---- life ---- */

int off_frames_start(struct l7mp_offload_engine *e)
{
	const uint32_t zero = 0;
	struct off_frames *f = &e->frames;

	f->n_of_kind = calloc(L7MP_IFS_MAX, sizeof(*f->n_of_kind));
	if (!f->n_of_kind)
		return -ENOMEM;
	if (!f->tails)
		f->tails = bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "l7mp_tails", sizeof(zero),
		                          sizeof(zero), 1, NULL);
	if (f->tails < 0) {
		f->tails = 0;
		return -errno;
	}
	if (bpf_map_update_elem(f->tails, &zero, &e->table.maps.prog_tap, BPF_ANY))
		return -errno;
	/* During adoption keep the kinds of existing flows; otherwise there are no flows. */
	if (e->adoption.under_way)
		return 0;
	for (uint32_t i = 0; i < L7MP_IFS_MAX; i++)
		if (bpf_map_update_elem(e->table.maps.frame_ifs, &i, &zero, BPF_ANY))
			return -errno;
	return 0;
}

void off_frames_stop(struct l7mp_offload_engine *e)
{
	struct off_frames *f = &e->frames;
	struct off_tap *t, *next;

	DL_FOREACH_SAFE (f->taps, t, next) {
		DL_DELETE(f->taps, t);
		free(t);
	}
	free(f->n_of_kind);
	f->n_of_kind = NULL;
}

void off_frames_free(struct l7mp_offload_engine *e)
{
	if (e->frames.tails)
		close(e->frames.tails);
	e->frames.tails = 0;
}
