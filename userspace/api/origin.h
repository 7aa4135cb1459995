/* SPDX-License-Identifier: MIT */
/*
 * Who may use the REST API without a token: clients on this host. A relay makes
 * that hard to tell, because it turns remote clients into local ones: what the
 * controller sees as 127.0.0.1 may be a connection that one of our own clusters made
 * for a remote client. So all TCP connections of clusters are known here for as
 * long as their sockets exist, by protocol and both addresses.
 *
 * Each TCP connection is judged when it is accepted, on the loop, in the turn in which accept(2)
 * returned it, and the verdict is kept for all of its requests:
 *   - the client's address is not of this host: REMOTE;
 *   - the other end is one of our clusters' sockets: as that session's own client was judged;
 *   - the other end is the socket of another process: LOCAL;
 *   - the other end is gone: GONE. A connection that our own cluster closed before it was
 *     accepted looks like any other closed one; but nobody can hold its socket open without
 *     being known here.
 * A request is served only if its client is LOCAL and still there. Datagrams can be forged, and
 * FIFOs have no peer: sessions that come from them are UNKNOWN. A UNIX client is LOCAL unless it
 * is a cluster (net/stream_listener.c).
 *
 * A connection of another l7mp's cluster, such as those of the old process after an upgrade, is
 * RELAYED: it has the mark of l7mp/relaymark.h. A process that STDIO-fork has started, and a proxy
 * of another kind, are other processes.
 *
 * Thread: loop only.
 */
#pragma once

#include "host.h"
#include "l7mp/session.h"

struct api_origins;

/* Makes the observer of all connections of `sessions`; both are borrowed and must outlive it. */
int api_origins_new(struct l7mp_sessions *sessions, struct api_host *host,
                    struct api_origins **out);
void api_origins_free(struct api_origins **origins);

/*
 * Clients of this port wait in a queue of threads before they are looked up, so connections to it
 * are kept after they ended. At most eight ports.
 */
void api_origins_queued_port(struct api_origins *o, uint16_t port, bool on);

/*
 * Whose session is it: its client's verdict, as it was when the connection was accepted. LOCAL
 * only while the client is there.
 */
enum l7mp_origin api_origin_of_session(struct api_origins *o, const struct l7mp_session *s);
/*
 * Judges a TCP connection that a thread has accepted with these addresses, some time ago; once for
 * each connection.
 */
enum l7mp_origin api_origin_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                          const struct l7mp_addr *local);
/*
 * Finds the address of the client that a session or connection works for, through all of our own
 * listeners that it came through. len 0: it has none (a UNIX socket, a FIFO).
 */
void api_origin_source_of_session(struct api_origins *o, const struct l7mp_session *s,
                                  struct l7mp_addr *out);
void api_origin_source_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                     const struct l7mp_addr *local, struct l7mp_addr *out);
