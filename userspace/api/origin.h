/* SPDX-License-Identifier: MIT */
/*
 * Classifies clients of the REST API, which may be used without a token only from this host. A
 * relay makes that difficult, because it turns remote clients into local ones: a connection that
 * the controller sees as coming from 127.0.0.1 may have been made by a cluster of this proxy for a
 * remote client. So all TCP connections of clusters are recorded here by both addresses while their
 * sockets exist.
 *
 * Each TCP connection is classified when it is accepted, on the loop, in the iteration in which
 * accept(2) returned it, and the result is kept for all of its requests:
 *  - the client's address is not of this host: REMOTE;
 *  - the other end is a socket of one of the clusters: the origin of that session's own client;
 *  - the other end is the socket of another process: LOCAL;
 *  - the other end is gone: GONE. A connection that a cluster has closed before it was accepted
 *    looks like any other closed one; but a socket that is still open is recorded here if it
 *    belongs to a cluster.
 * A request is served only if its client is LOCAL and still connected. Datagrams can be forged, and
 * FIFOs have no peer: sessions from them are UNKNOWN. A UNIX client is LOCAL unless it is a cluster
 * (net/stream_listener.c).
 *
 * A connection of another l7mp's cluster, such as those of the old process after an upgrade, is
 * RELAYED: it has the mark of l7mp/relaymark.h. A process started by STDIO-fork, and a proxy of
 * another kind, are other processes.
 *
 * Thread: loop only.
 */
#pragma once

#include "host.h"
#include "l7mp/session.h"

struct api_origins;

/* Creates the observer of all connections of `sessions`; both are borrowed and must outlive it. */
int api_origins_new(struct l7mp_sessions *sessions, struct api_host *host,
                    struct api_origins **out);
void api_origins_free(struct api_origins **origins);

/*
 * Clients of this port are queued for threads before they are classified, so connections to it are
 * remembered after their end. At most eight ports.
 */
void api_origins_queued_port(struct api_origins *o, uint16_t port, bool on);

/*
 * Returns the origin of the session's client, as of the time when the connection was accepted.
 * LOCAL only while the client is connected.
 */
enum l7mp_origin api_origin_of_session(struct api_origins *o, const struct l7mp_session *s);
/*
 * Classifies a TCP connection with these addresses that a thread has accepted some time ago; called
 * once for each connection.
 */
enum l7mp_origin api_origin_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                          const struct l7mp_addr *local);
/*
 * Finds the address of the original client of a session or connection, through all listeners of
 * this proxy in between. len 0: none (a UNIX socket, a FIFO).
 */
void api_origin_source_of_session(struct api_origins *o, const struct l7mp_session *s,
                                  struct l7mp_addr *out);
void api_origin_source_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                     const struct l7mp_addr *local, struct l7mp_addr *out);
