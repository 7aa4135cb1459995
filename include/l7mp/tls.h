/* SPDX-License-Identifier: MIT */
/*
 * TLS 1.2 and 1.3 (RFC 5246, RFC 8446) over byte streams: OpenSSL with memory BIOs on top of
 * stream_io.h. A connection has the operations and callbacks of a struct l7mp_stream_io;
 * `connected` is called after the handshake in both roles.
 *
 * Renegotiation is refused. close_notify ends one direction of the stream. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/addr.h"
#include "l7mp/buf.h"
#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/loop.h"
#include "l7mp/schema.h"
#include "l7mp/stream_io.h"

/* ---- settings ---- */

/* `tls` of a listener's spec: { cert, key, client_ca, certificates, alpn }. */
extern const struct l7mp_schema l7mp_tls_listener_schema;
/* `tls` of a cluster's spec: { ca, sni, insecure, cert, key, alpn }. */
extern const struct l7mp_schema l7mp_tls_cluster_schema;

/* Certificates, keys and trusted CAs, as read from files. Reference-counted. */
struct l7mp_tls_ctx;
/* The set of all settings of a protocol, so that their files can be read again. */
struct l7mp_tls_set;

/* Makes an empty set. Returns 0 or -ENOMEM. */
int l7mp_tls_set_new(struct l7mp_tls_set **out);
/* Frees the set; settings with other references stay usable. Nulls the pointer. */
void l7mp_tls_set_free(struct l7mp_tls_set **set);
/*
 * Return a reference to the settings of a spec's `tls` object, which is borrowed. Client settings
 * are shared by clusters whose `tls` is equal. Return 0, or a negative errno with err set: path
 * "tls.cert", message "can't read '/x': no such file".
 */
int l7mp_tls_set_server(struct l7mp_tls_set *set, const cJSON *tls, struct l7mp_tls_ctx **out,
                        struct l7mp_error *err);
int l7mp_tls_set_client(struct l7mp_tls_set *set, const cJSON *tls, struct l7mp_tls_ctx **out,
                        struct l7mp_error *err);
/*
 * Reads all files again, for later connections; present ones are not affected. A file that can't be
 * read is logged, and the old settings stay.
 */
void l7mp_tls_set_reload(struct l7mp_tls_set *set);
/* Take and give up a reference. NULL inside is fine; unref nulls the pointer. */
struct l7mp_tls_ctx *l7mp_tls_ctx_ref(struct l7mp_tls_ctx *ctx);
void l7mp_tls_ctx_unref(struct l7mp_tls_ctx **ctx);

/* ---- connections ---- */

struct l7mp_tls;

/*
 * Starts a server's handshake on an accepted socket. Takes fd, also on failure. `ctx` is borrowed
 * for the call, `ops` and `arg` until `closed`. Returns 0 or a negative errno.
 */
int l7mp_tls_accept(struct l7mp_loop *loop, struct l7mp_tls_ctx *ctx, int fd,
                    const struct l7mp_stream_io_ops *ops, void *arg, struct l7mp_tls **out);
/*
 * Connects, and starts a client's handshake. The server's certificate must be valid for `name`, a
 * host name or an IP address, unless the settings have another name. A host name is also sent
 * (SNI). `local` as for l7mp_stream_io_connect_tcp. Returns 0 or a negative errno.
 */
int l7mp_tls_connect(struct l7mp_loop *loop, struct l7mp_tls_ctx *ctx, const char *name,
                     const struct l7mp_addr *remote, const struct l7mp_addr *local,
                     const struct l7mp_stream_io_ops *ops, void *arg, struct l7mp_tls **out);
/*
 * Sets another owner, from the next event on. Of all callbacks of the connection, only `connected`
 * may call this.
 */
void l7mp_tls_set_owner(struct l7mp_tls *t, const struct l7mp_stream_io_ops *ops, void *arg);
void l7mp_tls_read(struct l7mp_tls *t, bool on);              /* as l7mp_stream_io_read */
int l7mp_tls_write(struct l7mp_tls *t, struct l7mp_buf *buf); /* as l7mp_stream_io_write */
void l7mp_tls_cork(struct l7mp_tls *t, bool on);              /* as l7mp_stream_io_cork */
size_t l7mp_tls_queued(const struct l7mp_tls *t);             /* as l7mp_stream_io_queued */
void l7mp_tls_shutdown(struct l7mp_tls *t);                   /* sends close_notify */
/* As l7mp_stream_io_close; after a failed handshake the alert is still sent. */
void l7mp_tls_close(struct l7mp_tls *t, bool abort);
/* Aborts; no callback is called any more, not even `closed`. Nulls the pointer. */
void l7mp_tls_drop(struct l7mp_tls **t);
/* As the functions of stream_io.h. */
int l7mp_tls_fd(const struct l7mp_tls *t);
int l7mp_tls_local(const struct l7mp_tls *t, struct l7mp_addr *out);

/* After `error`: returns why TLS failed ("the certificate has expired ..."), "" if it did not. */
const char *l7mp_tls_why(const struct l7mp_tls *t);
/* After `end`: returns whether close_notify was missing, so that data may be cut off. */
bool l7mp_tls_truncated(const struct l7mp_tls *t);
/*
 * Returns { version, cipher, sni, alpn, client_subject, client_cn } for the session's metadata; the
 * last four only when there are any. A new tree; NULL when out of memory.
 */
cJSON *l7mp_tls_metadata(const struct l7mp_tls *t);
/* Writes "TLSv1.3, TLS_AES_256_GCM_SHA384". Returns `buf`. */
const char *l7mp_tls_summary(const struct l7mp_tls *t, char *buf, size_t size);
