/* SPDX-License-Identifier: MIT */
/*
 * TLS 1.2 and 1.3 over byte streams (RFC 5246, RFC 8446), by OpenSSL with memory
 * BIOs over sio.h. A connection has the operations of a struct l7mp_stream_io and calls
 * the same struct l7mp_stream_io_ops, `connected` after the handshake in both roles.
 *
 * Renegotiation is refused, close_notify is an end of stream in each direction.
 * Thread: loop only.
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

/* Certificates, keys and what is trusted, as read from files; counted references. */
struct l7mp_tls_ctx;
/* All settings that a protocol uses, so that their files can be read again. */
struct l7mp_tls_set;

int l7mp_tls_set_new(struct l7mp_tls_set **out);
void l7mp_tls_set_free(
        struct l7mp_tls_set **set); /* settings that are still referred to stay usable */
/*
 * A reference. A client's are kept and shared by clusters with an equal `tls`. 0, or
 * negative errno with err: path "tls.cert", message "can't read '/x': no such file".
 */
int l7mp_tls_set_server(struct l7mp_tls_set *set, const cJSON *tls, struct l7mp_tls_ctx **out,
                        struct l7mp_error *err);
int l7mp_tls_set_client(struct l7mp_tls_set *set, const cJSON *tls, struct l7mp_tls_ctx **out,
                        struct l7mp_error *err);
/*
 * Reads all files again for connections from now on; those that are there keep what
 * they have. What can't be read is logged, and the old settings stay.
 */
void l7mp_tls_set_reload(struct l7mp_tls_set *set);
struct l7mp_tls_ctx *l7mp_tls_ctx_ref(struct l7mp_tls_ctx *ctx);
void l7mp_tls_ctx_unref(struct l7mp_tls_ctx **ctx); /* NULL inside is fine */

/* ---- connections ---- */

struct l7mp_tls;

/* An accepted descriptor; takes fd also on failure. The handshake starts at once. */
int l7mp_tls_accept(struct l7mp_loop *loop, struct l7mp_tls_ctx *ctx, int fd,
                    const struct l7mp_stream_io_ops *ops, void *arg, struct l7mp_tls **out);
/*
 * `name`: whom the server's certificate must be for, a host name or an IP address,
 * unless the settings name another; a host name is also sent (SNI). `local` as in
 * l7mp_stream_io_connect_tcp.
 */
int l7mp_tls_connect(struct l7mp_loop *loop, struct l7mp_tls_ctx *ctx, const char *name,
                     const struct l7mp_addr *remote, const struct l7mp_addr *local,
                     const struct l7mp_stream_io_ops *ops, void *arg, struct l7mp_tls **out);
/*
 * Another owner, from the next event on; not from inside a call of the connection but `connected`.
 */
void l7mp_tls_set_owner(struct l7mp_tls *t, const struct l7mp_stream_io_ops *ops, void *arg);
void l7mp_tls_read(struct l7mp_tls *t, bool on);
int l7mp_tls_write(struct l7mp_tls *t, struct l7mp_buf *buf); /* as l7mp_stream_io_write */
void l7mp_tls_cork(struct l7mp_tls *t, bool on);              /* as l7mp_stream_io_cork */
size_t l7mp_tls_queued(const struct l7mp_tls *t);             /* as l7mp_stream_io_queued */
void l7mp_tls_shutdown(struct l7mp_tls *t);                   /* close_notify */
/* As l7mp_stream_io_close; after a failed handshake the peer still gets its alert. */
void l7mp_tls_close(struct l7mp_tls *t, bool abort);
/* Aborts and calls nothing any more. Nulls the pointer. */
void l7mp_tls_drop(struct l7mp_tls **t);
int l7mp_tls_fd(const struct l7mp_tls *t);
int l7mp_tls_local(const struct l7mp_tls *t, struct l7mp_addr *out);

/* Why TLS failed, after `error`: "the certificate has expired ..."; "" when TLS is not to blame. */
const char *l7mp_tls_why(const struct l7mp_tls *t);
/* The peer ended without close_notify: what it sent may be cut short. After `end`. */
bool l7mp_tls_truncated(const struct l7mp_tls *t);
/*
 * { version, cipher, sni, alpn, client_subject }, the last three when there are any. NULL: no
 * memory.
 */
cJSON *l7mp_tls_metadata(const struct l7mp_tls *t);
/* "TLSv1.3, TLS_AES_256_GCM_SHA384" */
const char *l7mp_tls_summary(const struct l7mp_tls *t, char *buf, size_t size);
