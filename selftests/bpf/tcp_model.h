/* SPDX-License-Identifier: MIT */
/*
 * What must become of a TCP segment of a pair, on paper: written from the contract (abi_tcp.h),
 * RFC 9293, 7323 and 2018, byte by byte, sharing nothing with the programs.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/abi.h"
#include "l7mp/abi_tcp.h"
#include "packet.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_URG 0x20
#define TCP_ECE 0x40
#define TCP_CWR 0x80

/* What the model is asked. */
struct tcp_question {
	struct l7mp_tcp_pair pair; /* before */
	int dir;
	const struct packet *in; /* with its TCP header; what is wrong with it, the caller says */
	const struct packet
	        *to; /* addresses, ports, link addresses and `tos` of the translated one */
	uint32_t mtu;
	size_t gso_size;
	uint16_t flow_flags;
	uint8_t tos;
	/* The time stamp delta that the program learned, when it had to, or made by its clock. */
	uint32_t learned;
};

struct tcp_answer {
	struct l7mp_tcp_pair pair; /* after; last_seen is left out */
	enum l7mp_verdict verdict;
	bool sent, up; /* `out` leaves; `copy` goes up */
	struct packet out, copy;
	struct tcp_header out_tcp, copy_tcp;
	bool learns; /* the time stamp delta */
};

/* Where the time stamps option begins; negative: none. */
int tcp_model_ts(const struct tcp_header *t);
void tcp_model(const struct tcp_question *q, struct tcp_answer *a);
