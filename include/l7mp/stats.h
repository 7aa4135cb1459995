/* SPDX-License-Identifier: MIT */
/*
 * The counters of the process, and the complete lists of reasons for drops and refusals, whose
 * texts metrics, API and docs show. Every datagram that is not delivered is counted with exactly
 * one drop reason.
 *
 * Thread: loop only.
 */
#pragma once

#include <stdint.h>

/* X(identifier, text, what it means) */
#define L7MP_DROPS(X)                                                                              \
	X(RECEIVE_BUFFER, "receive-buffer",                                                        \
	  "dropped by the kernel before they were read: a socket's receive buffer was full")       \
	X(PEER, "peer", "a datagram from a peer that the listener does not accept")                \
	X(QUEUE, "queue", "the bounded queue before a stage was full")                             \
	X(NOT_CONNECTED, "not-connected", "a stage was not connected and could not be queued for") \
	X(TOO_LARGE, "too-large", "larger than the next stage can carry")                          \
	X(TOO_SHORT, "too-short", "shorter than the next stage's smallest message")                \
	X(SEND, "send", "the kernel refused to send")                                              \
	X(REFUSED, "refused", "the upstream host answered port unreachable")                       \
	X(NO_RECEIVER, "no-receiver", "there is no receiver: an unnamed peer, an empty group")     \
	X(MALFORMED, "malformed", "not what the transformer or protocol expects")                  \
	X(NO_MATCH, "no-match", "no rule matched the session that the datagram would start")       \
	X(LIMIT, "limit", "a configured limit, or draining, refused the session it would start")   \
	X(MEMORY, "memory", "out of memory")                                                       \
	X(CLOSED, "closed", "the session ended before it was delivered")                           \
	X(TTL, "ttl", "to be sent back, but its TTL has expired")                                  \
	X(LOOP, "loop", "from one of the proxy's own listeners: it would loop")                    \
	X(DISCARD, "discard", "written to a Discard cluster")

#define L7MP_REFUSALS(X)                                                                        \
	X(MAX_SESSIONS, "max_sessions", "sessions in all")                                      \
	X(LISTENER_SESSIONS, "options.max_sessions", "sessions of one listener")                \
	X(MAX_SESSIONS_PER_SOURCE, "max_sessions_per_source", "sessions of one source address") \
	X(NEW_SESSIONS_PER_SECOND, "new_sessions_per_second", "session rate of one listener")   \
	X(MAX_FLOWS, "max_flows", "kernel flows")                                               \
	X(MAX_BODY, "max_body", "REST body")                                                    \
	X(MAX_QUEUE, "max_queue", "bytes queued in a pipe")                                     \
	X(MAX_PROCESSES, "max_processes", "processes of STDIO-fork clusters")                   \
	X(MAX_MEMORY, "max_memory", "bytes of sessions, buffers and unfinished messages")       \
	X(DESCRIPTORS, "descriptors", "file descriptors of the process")                        \
	X(RANGE, "range", "clients outside of a listener's options.range")                      \
	X(TLS, "tls", "TLS handshakes of clients that failed")                                  \
	X(DROP, "drop", "sessions that an endpoint with `drop` would have got")                 \
	X(DRAINING, "draining", "sessions that would have begun while the proxy drains")

#define L7MP_STAT_ENUM(id, text, doc) L7MP_DROP_##id,
enum l7mp_drop { L7MP_DROPS(L7MP_STAT_ENUM) L7MP_DROP_COUNT };
#undef L7MP_STAT_ENUM
#define L7MP_STAT_ENUM(id, text, doc) L7MP_REFUSE_##id,
enum l7mp_refuse { L7MP_REFUSALS(L7MP_STAT_ENUM) L7MP_REFUSE_COUNT };
#undef L7MP_STAT_ENUM

/* Of RTP streams that have ended, in one direction. */
#define L7MP_RTP_JITTER_BOUNDS 8
/* clang-format off */
#define L7MP_RTP_JITTER_BOUNDS_MS {1, 2, 5, 10, 20, 50, 100, 200}
/* clang-format on */
struct l7mp_rtp_totals {
	uint64_t streams;
	uint64_t packets;
	uint64_t lost;
	uint64_t jitter_us;                          /* sum of the streams' last jitter */
	uint64_t jitter[L7MP_RTP_JITTER_BOUNDS + 1]; /* streams by it; the last: above all bounds */
};

struct l7mp_stats {
	uint64_t drops[L7MP_DROP_COUNT]; /* datagrams */
	uint64_t drop_bytes[L7MP_DROP_COUNT];
	uint64_t refusals[L7MP_REFUSE_COUNT];
	/* Sessions that ended to make room under this limit: their sources may be forged. */
	uint64_t evictions[L7MP_REFUSE_COUNT];
	uint64_t sessions_started;
	uint64_t sessions_ended;
	uint64_t retries;
	/* Indexed by enum l7mp_direction. */
	uint64_t slow_packets[2]; /* relayed in user space */
	uint64_t slow_bytes[2];
	uint64_t fast_packets[2]; /* relayed in the kernel, as of the last poll of its counters */
	uint64_t fast_bytes[2];
	struct l7mp_rtp_totals rtp[2];
	/* Datagrams read right after their flow had begun, which later ones may have overtaken. */
	uint64_t handover_late;
};

/* Return the text of a reason. Static. */
const char *l7mp_drop_name(enum l7mp_drop reason);
const char *l7mp_refuse_name(enum l7mp_refuse reason);
/* Counts dropped packets and their payload bytes. */
static inline void l7mp_stats_drop(struct l7mp_stats *s, enum l7mp_drop reason, uint64_t packets,
                                   uint64_t bytes)
{
	s->drops[reason] += packets;
	s->drop_bytes[reason] += bytes;
}
/*
 * Returns the drop reason for the negative errno of a failed write: EMSGSIZE too-large,
 * ERANGE too-short, EAGAIN ENOBUFS queue, ENOTCONN EPIPE not-connected, ECONNREFUSED
 * refused, EDESTADDRREQ no-receiver, EBADMSG EPROTO malformed, ENOMEM memory,
 * ECANCELED ECONNRESET closed, ETIME ttl; any other: send.
 */
enum l7mp_drop l7mp_drop_from_errno(int err);
