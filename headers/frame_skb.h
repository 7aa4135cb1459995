/* SPDX-License-Identifier: MIT */
/* AF_PACKET frames as skbs: the filter of packet sockets, and the tc program (frame.h). */
#pragma once

#include "frame.h"
#include "skb.h"

/* From <linux/if_packet.h>, which conflicts with BPF's definitions. */
#define L7MP_PACKET_OTHERHOST 3
#define L7MP_PACKET_OUTGOING  4

#define L7MP_FRAME_GOES_ON (-1001) /* to the stack; not a valid action */

static __always_inline struct l7mp_frame_cpu *l7mp_frame_cpu_get(void)
{
	__u64 zero = 0;

	return bpf_map_lookup_elem(&frame_cpu, &zero);
}

/* Loads the frame's first bytes. skb->len excludes `front` bytes of link header. 0, or -1. */
static __always_inline int l7mp_frame_load(struct __sk_buff *skb, struct l7mp_frame *f, __u32 front)
{
	__u32 len = skb->len + front, n = len;
	long rc;

	if (len < ETH_HLEN)
		return -1;
	if (n >= L7MP_FRAME_HEAD) {
		n = L7MP_FRAME_HEAD;
	} else {
		for (int i = 0; i < L7MP_FRAME_WORDS; i++)
			f->words[i] = 0;
	}
	/* bpf_skb_load_bytes_relative reads the linear part only, which may lack headers. */
	rc = front ? bpf_skb_load_bytes_relative(skb, 0, f->bytes, n, BPF_HDR_START_MAC)
	           : bpf_skb_load_bytes(skb, 0, f->bytes, n);
	if (rc)
		return -1;
	f->len = len;
	f->ifindex = skb->ifindex;
	f->gso = skb->gso_size;
	f->beside = f->beside_id = 0;
	if (skb->vlan_present) {
		f->beside = (__u32)bpf_ntohs((__be16)skb->vlan_proto) << 16 | (__u16)skb->vlan_tci;
		f->beside_id = skb->vlan_tci & 0xfff;
	}
	l7mp_frame_classify(f);
	return 0;
}

/* ---- the filter of packet sockets ---- */

static __always_inline void l7mp_frame_note_it(struct l7mp_frame_cpu *c, __u32 state)
{
	struct l7mp_frame_note *n = &c->note;

	for (int i = 0; i < L7MP_NOTE_WORDS; i++)
		n->words[i] = c->frame.words[i];
	n->known = L7MP_WORD64(c->frame.len, c->frame.ifindex);
	n->beside = c->frame.beside;
	if (state == L7MP_NOTE_TAKEN)
		n->decision = c->frame.decision;
	n->state = state;
}

/* 1: the kernel relays the frame, and the socket must not get it. */
static __always_inline int l7mp_tap_takes(struct l7mp_frame_cpu *c, __u32 tap, __u16 type,
                                          __u32 kinds)
{
	const struct l7mp_frame_action *a = NULL;
	int verdict;

	/* The previous note is still set: the tc program did not run for its frame. */
	if (c->note.state == L7MP_NOTE_TAKEN)
		c->note.missed = 1;
	c->note.state = L7MP_NOTE_NONE;
	/* A socket has flows of conversations, or one for its EtherType (singleton mode). */
	a = l7mp_frame_lookup(&c->frame, kinds & L7MP_FRAMES_EXACT);
	if (!a || a->tap != tap)
		a = kinds & ~L7MP_FRAMES_EXACT ? l7mp_frame_any(&c->frame, type) : NULL;
	if (!a || a->tap != tap)
		return 0;
	verdict = l7mp_frame_judge(&c->frame, a);
	if (verdict == L7MP_VERDICT_FORWARDED && !c->note.missed) {
		l7mp_frame_note_it(c, L7MP_NOTE_TAKEN);
		return 1;
	}
	/* Note it, so that the tc program doesn't decide differently. */
	l7mp_frame_note_it(c, L7MP_NOTE_LEFT);
	if (verdict != L7MP_VERDICT_FORWARDED)
		l7mp_count_verdict((__u32)verdict);
	return 0;
}

/*
 * The calling program has stored in cb: the socket's id, the EtherType that it accepts (0: all),
 * and the bytes of link header that skb->len excludes.
 */
static __always_inline int l7mp_tap_main(struct __sk_buff *skb)
{
	struct l7mp_frame_cpu *c = l7mp_frame_cpu_get();
	__u32 tap = skb->cb[0], kinds;
	__u16 type = (__u16)skb->cb[1];

	if (skb->pkt_type == L7MP_PACKET_OUTGOING)
		return 0;
	if (!c || l7mp_frame_load(skb, &c->frame, skb->cb[2]))
		return -1;
	if (!l7mp_frame_is_of(&c->frame, type))
		return 0;
	kinds = l7mp_frame_kinds(c->frame.ifindex);
	return kinds && l7mp_tap_takes(c, tap, type, kinds) ? 0 : -1;
}

/* ---- tc ---- */

/* Sends the frame; or a copy, if the stack must get it, too. An action, or GOES_ON. */
static __noinline int l7mp_frame_send(struct __sk_buff *skb, struct l7mp_frame_decision *w)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	__be16 old[6];
	long rc;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return L7MP_FRAME_GOES_ON;
	if (skb->pkt_type == L7MP_PACKET_OTHERHOST && !(l7mp_frame_flags(w) & L7MP_FLOW_COPY)) {
		l7mp_frame_write(eth, w);
		l7mp_frame_count(w);
		l7mp_count_verdict(L7MP_VERDICT_FORWARDED);
		return (int)bpf_redirect(l7mp_frame_egress(w), 0);
	}
	for (int i = 0; i < 6; i++)
		old[i] = ((const __be16 *)eth)[i];
	l7mp_frame_write(eth, w);
	rc = bpf_clone_redirect(skb, l7mp_frame_egress(w), 0);
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return L7MP_FRAME_GOES_ON; /* not reached; for the verifier */
	for (int i = 0; i < 6; i++)
		((__be16 *)eth)[i] = old[i];
	if (!rc) {
		l7mp_frame_count(w);
		l7mp_count_verdict(L7MP_VERDICT_FRAME_COPIED);
	}
	return L7MP_FRAME_GOES_ON;
}

/* Is this the frame that the note was written for? */
static __always_inline int l7mp_frame_noted(struct __sk_buff *skb, struct l7mp_frame_cpu *c)
{
	const struct l7mp_frame_note *n = &c->note;
	const __u64 *words = (void *)(long)skb->data;
	__u32 beside = 0;
	__u64 differ;

	if (skb->vlan_present)
		beside = (__u32)bpf_ntohs((__be16)skb->vlan_proto) << 16 | (__u16)skb->vlan_tci;
	if (n->known != L7MP_WORD64(skb->len, skb->ifindex) || n->beside != beside)
		return 0;
	differ = 0;
	if ((void *)(words + L7MP_NOTE_WORDS) <= (void *)(long)skb->data_end) {
		for (int i = 0; i < L7MP_NOTE_WORDS; i++)
			differ |= n->words[i] ^ words[i];
		return !differ;
	}
	if (l7mp_frame_load(skb, &c->frame, 0))
		return 0;
	for (int i = 0; i < L7MP_NOTE_WORDS; i++)
		differ |= n->words[i] ^ c->frame.words[i];
	return !differ;
}

/* Decides for a frame that no filter has seen, because the sockets' process has ended. */
static __always_inline int l7mp_frame_unseen(struct __sk_buff *skb, struct l7mp_frame_cpu *c,
                                             __u32 kinds)
{
	const struct l7mp_frame_action *a;

	if (l7mp_frame_load(skb, &c->frame, 0))
		return L7MP_FRAME_GOES_ON;
	a = l7mp_frame_lookup(&c->frame, kinds);
	/* The entry is not active yet: frames that a filter has seen before must go first. */
	if (!a || a->flags & L7MP_FLOW_HANDOVER)
		return L7MP_FRAME_GOES_ON;
	if (l7mp_frame_judge(&c->frame, a) != L7MP_VERDICT_FORWARDED)
		return L7MP_FRAME_GOES_ON;
	return l7mp_frame_send(skb, &c->frame.decision);
}

static __noinline int l7mp_frame_tc(struct __sk_buff *skb, __u32 kinds)
{
	struct l7mp_frame_cpu *c = l7mp_frame_cpu_get();
	__u32 state;

	if (!c)
		return L7MP_FRAME_GOES_ON;
	state = c->note.state;
	if (state == L7MP_NOTE_NONE)
		return l7mp_frame_unseen(skb, c, kinds);
	c->note.state = L7MP_NOTE_NONE;
	if (!l7mp_frame_noted(skb, c)) {
		c->note.missed = 1;
		return l7mp_frame_unseen(skb, c, kinds);
	}
	c->note.missed = 0;
	return state == L7MP_NOTE_TAKEN ? l7mp_frame_send(skb, &c->note.decision)
	                                : L7MP_FRAME_GOES_ON;
}
