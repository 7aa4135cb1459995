/* SPDX-License-Identifier: MIT */
/* Texts for TLS errors, and for the negotiated parameters. */
#include <ctype.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "tls_int.h"

#define ALERT_OFFSET \
	1000 /* SSL_AD_REASON_OFFSET: reasons from here on are alerts received from the peer */

const char *l7mp_tls_reason(char *buf, size_t size)
{
	unsigned long e = ERR_peek_error();
	const char *text = e ? ERR_reason_error_string(e) : NULL;

	if (text)
		snprintf(buf, size, "%s", text);
	else if (e)
		snprintf(buf, size, "error %lx", e);
	else
		snprintf(buf, size, "unknown error");
	ERR_clear_error();
	return buf;
}

/* Appends text chosen by a peer; escapes characters that could break a line or mislead a reader. */
static void add_plain(struct l7mp_str *out, const char *text, size_t n)
{
	for (size_t i = 0; i < n && i < 80; i++)
		l7mp_str_addn(out,
		              isalnum((unsigned char)text[i]) || strchr(".-*_", text[i]) ? &text[i]
		                                                                         : "?",
		              1);
}

/* Adds the names that a certificate is for. */
static void add_names(struct l7mp_str *out, X509 *cert)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	int shown = 0;

	for (int i = 0; i < sk_GENERAL_NAME_num(names) && shown < 4; i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		char ip[L7MP_ADDR_STRLEN];
		struct l7mp_addr a = {0};

		if (n->type == GEN_DNS) {
			l7mp_str_add(out, shown++ ? ", " : "");
			add_plain(out, (const char *)ASN1_STRING_get0_data(n->d.dNSName),
			          (size_t)ASN1_STRING_length(n->d.dNSName));
		} else if (n->type == GEN_IPADD) {
			int len = ASN1_STRING_length(n->d.iPAddress);

			l7mp_addr_any(&a, len == 4 ? AF_INET : AF_INET6, 0);
			if (len == 4)
				memcpy(&a.in.sin_addr, ASN1_STRING_get0_data(n->d.iPAddress), 4);
			else if (len == 16)
				memcpy(&a.in6.sin6_addr, ASN1_STRING_get0_data(n->d.iPAddress), 16);
			l7mp_str_add(out, shown++ ? ", " : "");
			l7mp_str_add(out, l7mp_addr_ip(&a, ip));
		}
	}
	if (sk_GENERAL_NAME_num(names) > shown)
		l7mp_str_add(out, ", ...");
	if (!names)
		l7mp_str_add(out, "no subjectAltName (a CN alone does not count)");
	else if (!shown)
		l7mp_str_add(out, "no name");
	GENERAL_NAMES_free(names);
}

static void add_x509_name(struct l7mp_str *out, const X509_NAME *name, long max)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text;
	long n;

	if (!bio)
		return;
	/* Control characters and non-ASCII characters are escaped. */
	if (X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 | ASN1_STRFLGS_ESC_CTRL) >= 0) {
		n = BIO_get_mem_data(bio, &text);
		l7mp_str_addn(out, text, (size_t)(n > max ? max : n));
	}
	BIO_free(bio);
}

static void add_time(struct l7mp_str *out, const ASN1_TIME *t)
{
	struct tm tm;

	if (ASN1_TIME_to_tm(t, &tm) == 1)
		l7mp_str_addf(out, "%04d-%02d-%02d %02d:%02d UTC", tm.tm_year + 1900, tm.tm_mon + 1,
		              tm.tm_mday, tm.tm_hour, tm.tm_min);
}

/* Adds the certificate that verification stopped at. */
static void add_verify(struct l7mp_str *out, X509 *cert, long why, const char *name)
{
	switch (why) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		l7mp_str_add(out, "the certificate has expired");
		if (cert && X509_cmp_current_time(X509_get0_notAfter(cert)) < 0) {
			l7mp_str_add(out, ": it was valid until ");
			add_time(out, X509_get0_notAfter(cert));
		}
		break;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		l7mp_str_add(out, "the certificate is not valid yet");
		break;
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		l7mp_str_addf(out, "the certificate has the wrong name: expected %s", name);
		if (cert) {
			l7mp_str_add(out, ", got ");
			add_names(out, cert);
		}
		break;
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
		l7mp_str_add(out, "the certificate is signed by an unknown CA");
		if (cert) {
			l7mp_str_add(out, ": ");
			add_x509_name(out, X509_get_issuer_name(cert), 256);
		}
		break;
	default:
		l7mp_str_addf(out, "the certificate is refused: %s",
		              X509_verify_cert_error_string(why));
	}
}

static const char *known_reason(int reason)
{
	switch (reason) {
	case SSL_R_HTTP_REQUEST:
	case SSL_R_HTTPS_PROXY_REQUEST:
		return "the peer speaks plain HTTP, expected TLS";
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_BAD_RECORD_TYPE:
	case SSL_R_PACKET_LENGTH_TOO_LONG:
	case SSL_R_RECORD_LENGTH_MISMATCH:
	case SSL_R_UNEXPECTED_MESSAGE:
	case SSL_R_LENGTH_MISMATCH:
	case SSL_R_BAD_PACKET:
		return "what the peer sends is not TLS";
	case SSL_R_UNSUPPORTED_PROTOCOL:
	case SSL_R_UNKNOWN_PROTOCOL:
	case SSL_R_VERSION_TOO_LOW:
		return "the peer has no TLS version that is allowed here (1.2 or later)";
	case SSL_R_NO_SHARED_CIPHER:
		return "no cipher that both sides have";
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
		return "the client showed no certificate, one is required";
	default:
		return NULL;
	}
}

/* Returns "certificate required": OpenSSL's words without "tlsv13 alert ". */
static const char *alert_name(unsigned long e)
{
	const char *text = ERR_reason_error_string(e);
	const char *alert = text ? strstr(text, "alert ") : NULL;

	return alert ? alert + 6 : text ? text : "unknown";
}

int l7mp_tls_verify(int ok, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	X509 **bad = ssl ? SSL_get_app_data(ssl) : NULL;
	X509 *cert = X509_STORE_CTX_get_current_cert(store);

	if (!ok && bad && !*bad && cert && X509_up_ref(cert) == 1)
		*bad = cert;
	return ok;
}

void l7mp_tls_failure(SSL *ssl, int code, const char *name, char *buf, size_t size)
{
	X509 **bad = SSL_get_app_data(ssl);
	unsigned long e = ERR_peek_error();
	int reason = ERR_GET_REASON(e);
	long verify = SSL_get_verify_result(ssl);
	struct l7mp_str out = {0};
	const char *known = known_reason(reason);

	if (ERR_GET_LIB(e) != ERR_LIB_SSL)
		known = NULL;
	if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED && verify != X509_V_OK) {
		add_verify(&out, bad ? *bad : NULL, verify, name ? name : "");
	} else if (ERR_GET_LIB(e) == ERR_LIB_SSL && reason >= ALERT_OFFSET) {
		l7mp_str_addf(&out, "the peer refused with the alert \"%s\"", alert_name(e));
	} else if (known) {
		l7mp_str_add(&out, known);
	} else if (e) {
		l7mp_str_addf(&out, "TLS failed: %s", l7mp_tls_reason(buf, size));
	} else {
		l7mp_str_addf(&out, "TLS failed (%d)", code);
	}
	ERR_clear_error();
	snprintf(buf, size, "%s", out.s ? out.s : "TLS failed");
	l7mp_str_free(&out);
}

/* ---- what was agreed on ---- */

char *l7mp_tls_subject(SSL *ssl)
{
	X509 *cert = SSL_get1_peer_certificate(ssl);
	struct l7mp_str out = {0};

	if (!cert)
		return NULL;
	add_x509_name(&out, X509_get_subject_name(cert), LONG_MAX);
	X509_free(cert);
	return out.s ? l7mp_str_take(&out) : NULL;
}

char *l7mp_tls_common_name(SSL *ssl)
{
	X509 *cert = SSL_get1_peer_certificate(ssl);
	X509_NAME *name = cert ? X509_get_subject_name(cert) : NULL;
	int at = name ? X509_NAME_get_index_by_NID(name, NID_commonName, -1) : -1;
	unsigned char *text = NULL;
	char *cn = NULL;
	int len;

	if (at >= 0 && X509_NAME_get_index_by_NID(name, NID_commonName, at) < 0) {
		len = ASN1_STRING_to_UTF8(&text,
		                          X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
		/* With NUL in it, it would be another name for a reader of C strings. */
		if (len > 0 && strlen((char *)text) == (size_t)len)
			cn = strdup((char *)text);
		OPENSSL_free(text);
		ERR_clear_error();
	}
	X509_free(cert);
	return cn;
}
