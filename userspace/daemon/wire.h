/* SPDX-License-Identifier: MIT */
/*
 * The messages between two processes at an upgrade: frames on a SOCK_SEQPACKET socket pair, which
 * the new process has inherited from the old one, so that no other process can be at its other end.
 *
 * Each frame is one message of at most WIRE_MAX bytes: the header, a payload, and descriptors
 * (SCM_RIGHTS). Received frames are validated here: size, magic, version, number of descriptors.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION 1
/* A UDP datagram fits, including the preceding fields. */
#define WIRE_MAX (96 * 1024)
#define WIRE_FDS 4

/* In the order of an upgrade. "old" sends to "new" or the reverse. */
enum wire_type {
	WIRE_HELLO = 1, /* new: {version, records, instance, abi}: its configuration is valid */
	WIRE_LISTENER,  /* old: a listening socket, with the name of its listener */
	WIRE_BIND,      /* old: end of the listeners; new binds the others */
	WIRE_BOUND,     /* new: every listener has a socket; {flows}: they may stay in the kernel */
	WIRE_SESSION,   /* old: a session's record and its descriptors */
	WIRE_BYTES,     /* old: a piece queued in this session; struct wire_bytes */
	WIRE_MAKE,      /* old: the session is complete */
	WIRE_REFUSED,   /* new: {name, reason}: its configuration does not allow the session */
	WIRE_STAYS,     /* old: a session on a listener's datagram socket that stays in the old
	                 * process */
	WIRE_COMMIT,    /* old: end of the sessions; reads from none of the sockets any more */
	WIRE_RUNNING,   /* new: takes over; from here on no rollback */
	WIRE_GIVEN,     /* old: has closed the sockets handed over, and notified the service manager
	                 * */
	WIRE_DATAGRAM,  /* new, later: a datagram for a session that has stayed */
	WIRE_GONE,      /* old, later: a session that had stayed has ended */
	WIRE_FAST_PATH, /* old, before BIND: the lock of the instance, which both share */
	WIRE_TYPES,
};

struct wire_header {
	uint32_t magic;
	uint16_t version;
	uint16_t type; /* enum wire_type */
};

struct wire_bytes {
	uint16_t stage;
	uint8_t queue; /* 1: written to the stage's stream; 0: queued in the pipe after it */
	uint8_t hops;
	uint16_t flags;
	uint16_t unused;
};

struct wire_frame {
	enum wire_type type;
	size_t len;
	unsigned n_fds;
	int fds[WIRE_FDS]; /* close-on-exec; owned by the receiver */
	uint8_t data[WIRE_MAX + 1];
};

/*
 * Sends, without waiting. The payload is `head` followed by `body`. Returns 0; -EAGAIN: retry
 * later; -EMSGSIZE; -EPIPE: the other end is closed.
 */
int wire_send(int fd, enum wire_type type, const void *head, size_t head_len, const void *body,
              size_t body_len, const int *fds, unsigned n_fds);
/* The same with a string or nothing (NULL) as payload. */
int wire_send_text(int fd, enum wire_type type, const char *text, const int *fds, unsigned n_fds);
/*
 * Receives a frame. data[len] is 0. wait_ms: how long to wait (-1: not at all). Returns 0; -EAGAIN:
 * none now, -ETIMEDOUT; -EPIPE: the other end is closed; -EPROTO: malformed, or of another version.
 * On failure it contains no descriptors.
 */
int wire_recv(int fd, struct wire_frame *f, int wait_ms);
void wire_close_fds(struct wire_frame *f);

/*
 * Precedes the header of a frame in a file. Descriptors are sockets, identified by their cookies
 * (SO_COOKIE), which are the same in each process that has the socket.
 */
struct wire_stored {
	uint32_t len; /* of the payload */
	uint32_t n_fds;
	uint64_t cookies[WIRE_FDS];
};

/* Returns the cookie of a socket; 0: not a socket. */
uint64_t wire_cookie(int fd);
/* Appends a frame to a file, as wire_send(). Returns 0; -EMSGSIZE; another negative errno. */
int wire_store(int file, enum wire_type type, const void *head, size_t head_len, const void *body,
               size_t body_len, const int *fds, unsigned n_fds);
/*
 * Reads the next frame of a file. f->fds are -1 (f->n_fds of them), cookies[] identifies them.
 * Returns 0; -ENODATA: at the end; -EPROTO: malformed, or of another version; another negative
 * errno.
 */
int wire_load(int file, struct wire_frame *f, uint64_t cookies[static WIRE_FDS]);
