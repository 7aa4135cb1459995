/* SPDX-License-Identifier: MIT */
/* TLS settings: an SSL_CTX built from files, rebuilt on request. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "tls_int.h"

/* Maximum number of cached client settings; typical configurations have fewer. */
#define KEPT_MAX 64

struct l7mp_tls_ctx {
	struct l7mp_tls_ctx *prev, *next; /* in the set */
	struct l7mp_tls_set *set;         /* NULL: the set was freed */
	cJSON *tls;
	SSL_CTX *ssl;
	bool server;
	unsigned refs;
};

struct l7mp_tls_set {
	struct l7mp_tls_ctx *all;
	unsigned kept;
};

/* ---- files ---- */

static int wrong(struct l7mp_error *err, int rc, const char *key, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
static int wrong(struct l7mp_error *err, int rc, const char *key, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s", text);
	if (err)
		snprintf(err->path, sizeof(err->path), "tls.%s", key);
	return rc;
}

/* Rejects FIFOs and devices, which could block the loop. */
static int readable(const char *path, const char *key, struct l7mp_error *err)
{
	struct stat st;
	int rc = 0;

	if (stat(path, &st))
		rc = -errno;
	else if (!S_ISREG(st.st_mode))
		return wrong(err, -EINVAL, key, "'%s' is not a file", path);
	else if (access(path, R_OK))
		rc = -errno;
	return rc ? wrong(err, rc, key, "can't read '%s': %s", path, strerror(-rc)) : 0;
}

/* Fails: a daemon can't prompt for a passphrase. */
static int no_passphrase(char *buf, int size, int rwflag, void *arg)
{
	(void)buf;
	(void)size;
	(void)rwflag;
	*(bool *)arg = true;
	return -1;
}

static int use_cert(SSL_CTX *ssl, const char *path, struct l7mp_error *err)
{
	char why[160];
	int rc = readable(path, "cert", err);

	if (rc)
		return rc;
	if (SSL_CTX_use_certificate_chain_file(ssl, path) != 1)
		return wrong(err, -EINVAL, "cert",
		             "'%s' has no PEM certificate that can be used: %s", path,
		             l7mp_tls_reason(why, sizeof(why)));
	if (X509_cmp_current_time(X509_get0_notAfter(SSL_CTX_get0_certificate(ssl))) < 0)
		l7mp_log_warn("tls", "the certificate in '%s' has expired", path);
	return 0;
}

static int use_key(SSL_CTX *ssl, const char *path, const char *cert, struct l7mp_error *err)
{
	bool passphrase_requested = false;
	char why[160];
	unsigned long e;
	int ok, rc = readable(path, "key", err);

	if (rc)
		return rc;
	SSL_CTX_set_default_passwd_cb(ssl, no_passphrase);
	SSL_CTX_set_default_passwd_cb_userdata(ssl, &passphrase_requested);
	ok = SSL_CTX_use_PrivateKey_file(ssl, path, SSL_FILETYPE_PEM);
	SSL_CTX_set_default_passwd_cb_userdata(ssl, NULL);
	SSL_CTX_set_default_passwd_cb(ssl, NULL);
	e = ERR_peek_last_error();
	if (passphrase_requested) {
		ERR_clear_error();
		return wrong(err, -EINVAL, "key",
		             "'%s' is encrypted: expected a key without a passphrase", path);
	}
	if (ok != 1 && ERR_GET_LIB(e) == ERR_LIB_X509) {
		ERR_clear_error();
		return wrong(err, -EINVAL, "key", "'%s' does not belong to the certificate in '%s'",
		             path, cert);
	}
	if (ok != 1)
		return wrong(err, -EINVAL, "key",
		             "'%s' has no PEM private key that can be used: %s", path,
		             l7mp_tls_reason(why, sizeof(why)));
	return 0;
}

static int use_identity(SSL_CTX *ssl, const cJSON *tls, struct l7mp_error *err)
{
	const char *cert = l7mp_json_str(tls, "cert", NULL), *key = l7mp_json_str(tls, "key", NULL);
	int rc;

	if (!cert || !key)
		return 0;
	rc = use_cert(ssl, cert, err);
	return rc ? rc : use_key(ssl, key, cert, err);
}

static int use_ca(SSL_CTX *ssl, const char *path, const char *key, struct l7mp_error *err)
{
	char why[160];
	int rc = readable(path, key, err);

	if (rc)
		return rc;
	if (SSL_CTX_load_verify_file(ssl, path) != 1)
		return wrong(err, -EINVAL, key, "'%s' has no PEM certificate that can be used: %s",
		             path, l7mp_tls_reason(why, sizeof(why)));
	return 0;
}

/* ---- data beside a server's SSL_CTX: further certificates, ALPN ---- */

/* Stored as ex data of the SSL_CTX of new connections, and freed with it. */
struct server_extra {
	SSL_CTX **certs; /* one for each further certificate */
	size_t n_certs;
	unsigned char *alpn; /* RFC 7301 wire format; NULL: the client's offer is ignored */
	unsigned alpn_len;
};

static void extra_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl,
                          void *argp)
{
	struct server_extra *x = ptr;

	(void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
	if (!x)
		return;
	for (size_t i = 0; i < x->n_certs; i++)
		SSL_CTX_free(x->certs[i]);
	free(x->certs);
	free(x->alpn);
	free(x);
}

static int extra_index(void)
{
	static int index = -1; /* OpenSSL's index of the ex data, allocated once per process */

	if (index < 0)
		index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, extra_free_cb);
	return index;
}

/* Converts a JSON array of names to RFC 7301's wire format; heap. NULL: no memory. */
static unsigned char *alpn_wire(const cJSON *names, unsigned *len)
{
	const cJSON *name;
	unsigned char *out;
	size_t n = 0;

	cJSON_ArrayForEach (name, names)
		n += 1 + strlen(name->valuestring);
	out = malloc(n);
	n = 0;
	cJSON_ArrayForEach (name, names) {
		size_t one = strlen(name->valuestring);

		if (!out)
			break;
		out[n++] = (unsigned char)one;
		memcpy(out + n, name->valuestring, one);
		n += one;
	}
	*len = (unsigned)n;
	return out;
}

static int alpn_select_cb(SSL *ssl, const unsigned char **out, unsigned char *outlen,
                          const unsigned char *in, unsigned inlen, void *arg)
{
	const struct server_extra *x = arg;
	unsigned char *chosen;

	(void)ssl;
	if (SSL_select_next_proto(&chosen, outlen, x->alpn, x->alpn_len, in, inlen) !=
	    OPENSSL_NPN_NEGOTIATED)
		/* no_application_protocol: RFC 7301, section 3.2 */
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static bool cert_is_for(SSL_CTX *ssl, const char *name)
{
	return X509_check_host(SSL_CTX_get0_certificate(ssl), name, 0, L7MP_TLS_HOST_FLAGS, NULL) ==
	       1;
}

/* Selects the certificate by the name that the client requests (RFC 6066, section 3). */
static int servername_cb(SSL *ssl, int *alert, void *arg)
{
	const struct server_extra *x = arg;
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

	(void)alert;
	if (!name || cert_is_for(SSL_get_SSL_CTX(ssl), name))
		return SSL_TLSEXT_ERR_OK;
	for (size_t i = 0; i < x->n_certs; i++) {
		if (cert_is_for(x->certs[i], name)) {
			SSL_set_SSL_CTX(ssl, x->certs[i]);
			break;
		}
	}
	return SSL_TLSEXT_ERR_OK;
}

/* OpenSSL uses the callbacks of the selected SSL_CTX, so all of them need these. */
static void use_extra(SSL_CTX *ssl, struct server_extra *x)
{
	if (x->alpn)
		SSL_CTX_set_alpn_select_cb(ssl, alpn_select_cb, x);
}

static int add_certificate(struct server_extra *x, const cJSON *item, size_t i,
                           struct l7mp_error *err)
{
	SSL_CTX *ssl = SSL_CTX_new(TLS_server_method());
	char key[64];
	int rc;

	if (!ssl)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	x->certs[x->n_certs++] = ssl;
	rc = use_identity(ssl, item, err);
	if (rc && err) { /* "tls.cert" becomes "tls.certificates[1].cert" */
		snprintf(key, sizeof(key), "%s", err->path + strlen("tls."));
		snprintf(err->path, sizeof(err->path), "tls.certificates[%zu].%s", i, key);
	}
	use_extra(ssl, x);
	return rc;
}

static int fill_extra(SSL_CTX *ssl, const cJSON *tls, struct l7mp_error *err)
{
	const cJSON *certs = l7mp_json_member(tls, "certificates"), *item;
	const cJSON *alpn = l7mp_json_member(tls, "alpn");
	struct server_extra *x;
	size_t i = 0;
	int rc = 0;

	if (!certs && !alpn)
		return 0;
	x = calloc(1, sizeof(*x));
	if (!x || extra_index() < 0 || !SSL_CTX_set_ex_data(ssl, extra_index(), x)) {
		free(x);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	x->certs = calloc((size_t)cJSON_GetArraySize(certs) + 1, sizeof(SSL_CTX *));
	if (alpn)
		x->alpn = alpn_wire(alpn, &x->alpn_len);
	if (!x->certs || (alpn && !x->alpn))
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	use_extra(ssl, x);
	cJSON_ArrayForEach (item, certs) {
		rc = add_certificate(x, item, i++, err);
		if (rc)
			return rc;
	}
	SSL_CTX_set_tlsext_servername_callback(ssl, servername_cb);
	SSL_CTX_set_tlsext_servername_arg(ssl, x);
	return 0;
}

/* The trusted CAs are taken from the selected SSL_CTX, too. */
static void share_trust(SSL_CTX *ssl, const struct server_extra *x)
{
	for (size_t i = 0; x && i < x->n_certs; i++) {
		STACK_OF(X509_NAME) *names = SSL_dup_CA_list(SSL_CTX_get_client_CA_list(ssl));

		SSL_CTX_set1_cert_store(x->certs[i], SSL_CTX_get_cert_store(ssl));
		if (names)
			SSL_CTX_set_client_CA_list(x->certs[i], names);
	}
}

/* ---- settings ---- */

static int fill_server(SSL_CTX *ssl, const cJSON *tls, struct l7mp_error *err)
{
	static const unsigned char id[] = "l7mp";
	const char *ca = l7mp_json_str(tls, "client_ca", NULL);
	STACK_OF(X509_NAME) * names;
	int rc;

	SSL_CTX_set_options(ssl, SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_session_id_context(ssl, id, sizeof(id) - 1);
	rc = use_identity(ssl, tls, err);
	if (!rc)
		rc = fill_extra(ssl, tls, err);
	if (rc || !ca)
		return rc;
	rc = use_ca(ssl, ca, "client_ca", err);
	if (rc)
		return rc;
	names = SSL_load_client_CA_file(ca); /* sent to clients, which select a certificate by it */
	if (names)
		SSL_CTX_set_client_CA_list(ssl, names);
	SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, l7mp_tls_verify);
	share_trust(ssl, SSL_CTX_get_ex_data(ssl, extra_index()));
	return 0;
}

static int fill_client(SSL_CTX *ssl, const cJSON *tls, struct l7mp_error *err)
{
	const char *ca = l7mp_json_str(tls, "ca", NULL);
	const cJSON *alpn = l7mp_json_member(tls, "alpn");
	int rc = 0;

	if (alpn) {
		unsigned len;
		unsigned char *wire = alpn_wire(alpn, &len);

		/* This OpenSSL function returns 0 for success. */
		if (!wire || SSL_CTX_set_alpn_protos(ssl, wire, len))
			rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
		free(wire);
		if (rc)
			return rc;
	}
	if (!l7mp_json_bool(tls, "insecure", false)) {
		SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, l7mp_tls_verify);
		if (ca)
			rc = use_ca(ssl, ca, "ca", err);
		else if (SSL_CTX_set_default_verify_paths(ssl) != 1)
			rc = wrong(err, -EIO, "ca", "the system's CAs can't be read");
	}
	return rc ? rc : use_identity(ssl, tls, err);
}

static int build(const cJSON *tls, bool server, SSL_CTX **out, struct l7mp_error *err)
{
	SSL_CTX *ssl = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	int rc;

	ERR_clear_error();
	if (!ssl)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION);
	SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_AUTO_RETRY);
	/* Sessions are resumed by tickets, which the client stores. */
	SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
	rc = server ? fill_server(ssl, tls, err) : fill_client(ssl, tls, err);
	ERR_clear_error();
	if (rc) {
		SSL_CTX_free(ssl);
		return rc;
	}
	*out = ssl;
	return 0;
}

static int ctx_new(struct l7mp_tls_set *set, const cJSON *tls, bool server,
                   struct l7mp_tls_ctx **out, struct l7mp_error *err)
{
	struct l7mp_tls_ctx *ctx = calloc(1, sizeof(*ctx));
	int rc;

	if (ctx)
		ctx->tls = cJSON_Duplicate(tls, true);
	if (!ctx || !ctx->tls) {
		free(ctx);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	rc = build(tls, server, &ctx->ssl, err);
	if (rc) {
		cJSON_Delete(ctx->tls);
		free(ctx);
		return rc;
	}
	ctx->set = set;
	ctx->server = server;
	ctx->refs = 1;
	DL_APPEND(set->all, ctx);
	*out = ctx;
	return 0;
}

SSL_CTX *l7mp_tls_ctx_ssl(const struct l7mp_tls_ctx *ctx)
{
	return ctx->ssl;
}

const char *l7mp_tls_ctx_sni(const struct l7mp_tls_ctx *ctx)
{
	return l7mp_json_str(ctx->tls, "sni", NULL);
}

struct l7mp_tls_ctx *l7mp_tls_ctx_ref(struct l7mp_tls_ctx *ctx)
{
	ctx->refs++;
	return ctx;
}

void l7mp_tls_ctx_unref(struct l7mp_tls_ctx **pp)
{
	struct l7mp_tls_ctx *ctx = *pp;

	*pp = NULL;
	if (!ctx || --ctx->refs)
		return;
	if (ctx->set)
		DL_DELETE(ctx->set->all, ctx);
	SSL_CTX_free(ctx->ssl); /* connections hold references */
	cJSON_Delete(ctx->tls);
	free(ctx);
}

/* ---- the set ---- */

int l7mp_tls_set_new(struct l7mp_tls_set **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

void l7mp_tls_set_free(struct l7mp_tls_set **pp)
{
	struct l7mp_tls_set *set = *pp;
	struct l7mp_tls_ctx *ctx, *next;

	*pp = NULL;
	if (!set)
		return;
	DL_FOREACH_SAFE (set->all, ctx, next) {
		DL_DELETE(set->all, ctx);
		ctx->set = NULL;
		if (!ctx->server)
			l7mp_tls_ctx_unref(&ctx);
	}
	free(set);
}

int l7mp_tls_set_server(struct l7mp_tls_set *set, const cJSON *tls, struct l7mp_tls_ctx **out,
                        struct l7mp_error *err)
{
	return ctx_new(set, tls, true, out, err);
}

/* Removes a cached one; its users keep their references. */
static void forget_one(struct l7mp_tls_set *set)
{
	struct l7mp_tls_ctx *ctx;

	DL_FOREACH (set->all, ctx) {
		if (ctx->server)
			continue;
		DL_DELETE(set->all, ctx);
		ctx->set = NULL;
		set->kept--;
		l7mp_tls_ctx_unref(&ctx);
		return;
	}
}

int l7mp_tls_set_client(struct l7mp_tls_set *set, const cJSON *tls, struct l7mp_tls_ctx **out,
                        struct l7mp_error *err)
{
	struct l7mp_tls_ctx *ctx;
	int rc;

	DL_FOREACH (set->all, ctx) {
		if (!ctx->server && l7mp_json_equal(ctx->tls, tls)) {
			ctx->refs++;
			*out = ctx;
			return 0;
		}
	}
	if (set->kept >= KEPT_MAX)
		forget_one(set);
	rc = ctx_new(set, tls, false, out, err);
	if (rc)
		return rc;
	(*out)->refs++; /* the set's reference */
	set->kept++;
	return 0;
}

void l7mp_tls_set_reload(struct l7mp_tls_set *set)
{
	struct l7mp_tls_ctx *ctx;

	DL_FOREACH (set->all, ctx) {
		struct l7mp_error err = {0};
		SSL_CTX *fresh;

		if (build(ctx->tls, ctx->server, &fresh, &err)) {
			l7mp_log_error("tls", "%s: %s; what was read before stays in use", err.path,
			               err.message);
			continue;
		}
		SSL_CTX_free(ctx->ssl);
		ctx->ssl = fresh;
	}
}
