/* SPDX-License-Identifier: MIT */
/*
 * Who may use the REST API without a token: clients on this host. A relay makes
 * that hard to tell, because it turns remote clients into local ones: what the
 * controller sees as 127.0.0.1 may be a connection that one of our own clusters made
 * for somebody elsewhere. So all TCP connections of clusters are known here for as
 * long as their sockets exist, by protocol and both addresses.
 *
 * A connection is judged by its addresses, while its client's socket exists:
 *   - the client's address is not of this host: foreign;
 *   - the other end is one of our clusters' sockets: as the client of that session is;
 *   - the other end is the socket of another process: local;
 *   - the other end is gone: not served. That is what makes the rule tight. A request
 *     whose connection was closed by our own cluster before it was accepted looks
 *     like any other; but nobody can hold its socket open without being known here.
 * Datagrams can be forged, and FIFOs have no peer: sessions that come from them are
 * foreign. A UNIX client is local unless it is this process.
 *
 * Thread: loop only.
 */
#pragma once

#include "host.h"
#include "l7mp/session.h"

struct api_origins;

/* Watches the connections of `sessions`; both are borrowed and must outlive it. */
int api_origins_new(struct l7mp_sessions *sessions, struct api_host *host,
                    struct api_origins **out);
void api_origins_free(struct api_origins **origins);

/*
 * Clients of this port wait in a queue of threads before they are looked up: connections to it
 * that have ended by then are remembered. At most eight at a time.
 */
void api_origins_queued_port(struct api_origins *o, uint16_t port, bool on);

/* NULL: the client is on this host. Else a static text that says why it is not to be served. */
const char *api_origin_of_session(struct api_origins *o, const struct l7mp_session *s);
/*
 * The address of the client that a session or connection works for, through all of our own
 * listeners that it came through. len 0: it has none (a UNIX socket, a FIFO).
 */
void api_origin_source_of_session(struct api_origins *o, const struct l7mp_session *s,
                                  struct l7mp_addr *out);
void api_origin_source_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                     const struct l7mp_addr *local, struct l7mp_addr *out);

/* The same as api_origin_of_session for a TCP connection that was accepted with these addresses. */
const char *api_origin_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                     const struct l7mp_addr *local);
