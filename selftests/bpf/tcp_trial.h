/* SPDX-License-Identifier: MIT */
/*
 * One TCP segment of a pair of connections through the tc program, and what the model says of it.
 * The translated segment leaves through a TAP device, where it is read when the original goes up at
 * the same time.
 */
#pragma once

#include "rig.h"
#include "tcp_model.h"

#define TRIAL_PAIR    77U
#define TRIAL_PAIR_ID 4711U
#define TRIAL_MODEL   -1 /* the verdict is what the model says */

struct trial {
	struct l7mp_tcp_pair pair;
	int dir;
	struct packet in, key_of, to;
	struct tcp_header tcp;           /* of `in` */
	struct l7mp_flow6_action action; /* made of key_of and to */
	uint32_t from;                   /* interface */
	size_t gso_size, cut;
	bool no_flow;
	int doff; /* in words; 0: the right one */
	uint64_t started_ns;
};

/* The namespace, the programs, the TAP device. Ends the process where there is none. */
void trial_init(struct rig *r);
/* The same without a TAP device: for packets of real devices. */
void trial_init_rig(struct rig *r);
/* Two connections in the middle of their lives, and a segment with data. */
void trial_base(struct trial *t, int family);
void trial_options(struct trial *t, const char *bytes, size_t n);
/* Time stamps as Linux lays them out. */
void trial_time_stamps(struct trial *t);
/* Numbers that fit: the next data, and all acknowledged. */
void trial_fit(struct trial *t);
void trial_action(struct trial *t);
/* What the model is asked about it. */
void trial_question(const struct trial *t, struct tcp_question *q);
/* Puts the flow and the pair into the maps. */
void trial_put(struct trial *t, struct l7mp_flow_key *key);
/*
 * After a segment in TRANS, which is stamped by a clock: tells the model what the stamp was, as the
 * pair has it. False: it is not of the time since trial_put.
 */
bool trial_stamped(const struct trial *t, struct tcp_question *q);
/* Compares the pair in the map, and the counter. */
bool trial_noted(const struct trial *t, const struct tcp_answer *a,
                 const struct l7mp_flow_key *key);
/* Runs it; `verdict` or TRIAL_MODEL. Notes say what was wrong. */
bool trial_run(struct trial *t, int verdict);
/* Was this verdict the right one in some trial? */
bool trial_seen(enum l7mp_verdict v);
const char *trial_verdict(int v);
