/* SPDX-License-Identifier: MIT */
/*
 * TLS inside net/.
 *
 *   spec.c     schema tables
 *   context.c  settings from files, kept for reloading
 *   tls.c      one connection
 *   text.c     texts for errors and negotiated parameters
 *   gate.c     a listener's handshakes
 */
#pragma once

#include <openssl/ssl.h>

#include "l7mp/log.h"
#include "l7mp/proto.h"
#include "l7mp/tls.h"

/*
 * For X509_check_host: match only subjectAltName, never the subject's CN (RFC 6125, RFC 9525
 * section 2), and do not treat "w*.example.com" as a wildcard.
 */
#define L7MP_TLS_HOST_FLAGS \
	(X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)

/* ---- context.c ---- */
SSL_CTX *l7mp_tls_ctx_ssl(const struct l7mp_tls_ctx *ctx); /* borrowed until the next reload */
/* Returns the name to expect instead of the endpoint's address; NULL: none. */
const char *l7mp_tls_ctx_sni(const struct l7mp_tls_ctx *ctx);

/* ---- text.c ---- */
/*
 * For SSL_CTX_set_verify: stores the first rejected certificate in the X509 * that the connection's
 * app data points to.
 */
int l7mp_tls_verify(int ok, X509_STORE_CTX *store);
/*
 * Describes why the last call on ssl failed (`code`: SSL_get_error's), from OpenSSL's error queue,
 * which it empties. `name`: the name expected by a client.
 */
void l7mp_tls_failure(SSL *ssl, int code, const char *name, char *buf, size_t size);
/* Returns the subject of the peer's certificate (RFC 2253), heap; NULL when there is none. */
char *l7mp_tls_subject(SSL *ssl);
/*
 * Returns the CN of the peer's certificate, UTF-8, heap; NULL when it has none, more than one, or
 * one with a NUL.
 */
char *l7mp_tls_common_name(SSL *ssl);
/* Writes OpenSSL's text for the oldest error of its queue, which it empties. */
const char *l7mp_tls_reason(char *buf, size_t size);

/* ---- tls.c ---- */
/* Returns why a client gets no session although its handshake is done; NULL: it gets one. */
const char *l7mp_tls_refusal(const struct l7mp_tls *t);

/* ---- gate.c ---- */

/*
 * The connections of a listener whose handshakes are in progress: each has 10 s, and their number
 * is bounded.
 */
struct l7mp_tls_gate;
struct l7mp_tls_gate_params {
	struct l7mp_env *env;
	struct l7mp_tls_ctx *ctx; /* taken, also on failure */
	const char *module;       /* static; for the log */
	const char *listener;     /* its name; copied */
	/*
	 * The handshake is done. Takes tls: sets its owner or drops it. Never called from inside
	 * l7mp_tls_gate_accept. `peer` and `origin` are the arguments of that call.
	 */
	void (*ready)(void *arg, struct l7mp_tls *tls, const struct l7mp_addr *peer,
	              enum l7mp_origin origin);
	void *arg;
};
int l7mp_tls_gate_new(const struct l7mp_tls_gate_params *params, struct l7mp_tls_gate **out);
/*
 * Creates the gate of a listener whose spec has `tls`, and reads the files. Returns 0, or a
 * negative errno with err.
 */
int l7mp_tls_gate_make(struct l7mp_tls_set *set, const cJSON *tls, const struct l7mp_listen *listen,
                       const char *module,
                       void (*ready)(void *arg, struct l7mp_tls *tls, const struct l7mp_addr *peer,
                                     enum l7mp_origin origin),
                       void *arg, struct l7mp_tls_gate **out, struct l7mp_error *err);
/* Takes fd. */
void l7mp_tls_gate_accept(struct l7mp_tls_gate *g, int fd, const struct l7mp_addr *peer,
                          enum l7mp_origin origin);
/* Drops the handshakes in progress. NULL inside is fine. */
void l7mp_tls_gate_free(struct l7mp_tls_gate **g);
