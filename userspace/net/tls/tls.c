/* SPDX-License-Identifier: MIT */
/*
 * One TLS connection: OpenSSL between two memory BIOs, on top of a byte stream.
 *
 * Received data is decrypted in `pump`, in the byte stream's callbacks or in a task, never inside a
 * call of the owner. Memory is bounded: while the owner does not read, the byte stream is not read
 * either; encrypted data is written to the byte stream at once and counts in its queue.
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/util.h"
#include "tls_int.h"

#define RECORD      16384 /* plain text of one record */
#define ANSWERS_MAX 65536 /* bytes of answers to key updates that a peer leaves unread */

/* A part of a subject could be mistaken for another one, so a longer one is refused. */
#define SUBJECT_MAX 4096

struct l7mp_tls {
	struct l7mp_loop *loop;
	const struct l7mp_stream_io_ops *ops;
	void *arg;
	struct l7mp_stream_io *sio;
	SSL *ssl;
	BIO *in, *out;         /* cipher text from and to the peer; they are ssl's */
	X509 *bad;             /* the certificate that was refused */
	char *name;            /* the name that the server's certificate must have */
	struct l7mp_task task; /* work that must not be done inside a call of the owner */
	int err;               /* negative errno to report by the task */
	size_t answers;        /* bytes of protocol answers that the peer has not read */
	char why[320];
	bool open, reading;
	bool eof; /* the byte stream's end */
	bool ended, truncated;
	bool shut, failed, full, closing;
};

/* Writes OpenSSL's cipher text to the byte stream. */
static int flush(struct l7mp_tls *t)
{
	int rc = 0;

	for (;;) {
		size_t n = BIO_ctrl_pending(t->out);
		struct l7mp_buf *buf;

		if (!n)
			return rc;
		buf = l7mp_buf_new(l7mp_loop_bufs(t->loop), n < 65536 ? n : 65536);
		if (!buf)
			return -ENOMEM;
		buf->len = (uint32_t)BIO_read(t->out, buf->data, (int)(n < 65536 ? n : 65536));
		rc = l7mp_stream_io_write(t->sio, buf);
		if (rc < 0) {
			(void)BIO_reset(t->out);
			return rc;
		}
	}
}

static void fail(struct l7mp_tls *t, int err)
{
	if (t->failed || t->closing)
		return;
	t->failed = true;
	t->err = err;
	(void)flush(t); /* the alert */
	l7mp_stream_io_read(t->sio, false);
	l7mp_task_post(t->loop, &t->task);
}

static void fail_ssl(struct l7mp_tls *t, int code)
{
	if (code == SSL_ERROR_SYSCALL && !ERR_peek_error())
		snprintf(t->why, sizeof(t->why), "TLS failed");
	else
		l7mp_tls_failure(t->ssl, code, t->name, t->why, sizeof(t->why));
	fail(t, -EPROTO);
}

/* ---- reading ---- */

/* Continues the handshake. Returns false when it needs more input, or has failed. */
static bool handshake(struct l7mp_tls *t)
{
	int rc, code;

	ERR_clear_error();
	rc = SSL_do_handshake(t->ssl);
	code = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(t->ssl, rc);
	if (code != SSL_ERROR_NONE && code != SSL_ERROR_WANT_READ) {
		fail_ssl(t, code);
		return false;
	}
	(void)flush(t);
	if (code == SSL_ERROR_WANT_READ) {
		if (t->eof) {
			snprintf(t->why, sizeof(t->why),
			         "the peer closed the connection during the TLS handshake");
			fail(t, -ECONNRESET);
		}
		return false;
	}
	t->open = true;
	if (!t->reading)
		l7mp_stream_io_read(t->sio, false);
	t->ops->connected(t->arg);
	return !t->closing;
}

static void end(struct l7mp_tls *t, bool truncated)
{
	t->ended = true;
	t->truncated = truncated;
	t->ops->end(t->arg);
}

/*
 * Sends protocol answers (key updates, alerts). Bounded, because a peer could request them again
 * and again without reading them.
 */
static bool flush_answers(struct l7mp_tls *t)
{
	t->answers += BIO_ctrl_pending(t->out);
	(void)flush(t);
	if (!l7mp_stream_io_queued(t->sio))
		t->answers = 0;
	if (t->answers <= ANSWERS_MAX)
		return true;
	snprintf(t->why, sizeof(t->why), "the peer requests key updates that it does not read");
	fail(t, -EPROTO);
	return false;
}

/* Decrypts and emits one piece of plain text. Returns false when there is none now. */
static bool take(struct l7mp_tls *t)
{
	struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(t->loop), RECORD);
	size_t n = 0;
	int rc, code;

	if (!buf) {
		fail(t, -ENOMEM);
		return false;
	}
	ERR_clear_error();
	rc = SSL_read_ex(t->ssl, buf->data, RECORD, &n);
	if (rc == 1) {
		buf->len = (uint32_t)n;
		t->ops->data(t->arg, buf);
		return true;
	}
	l7mp_buf_unref(buf);
	code = SSL_get_error(t->ssl, rc);
	if (!flush_answers(t))
		return false;
	if (code == SSL_ERROR_ZERO_RETURN)
		end(t, false);
	else if (code != SSL_ERROR_WANT_READ)
		fail_ssl(t, code);
	else if (t->eof)
		end(t, true);
	return false;
}

static void pump(struct l7mp_tls *t)
{
	if (!t->open && !t->failed && !t->closing && !handshake(t))
		return;
	while (t->reading && !t->ended && !t->failed && !t->closing)
		if (!take(t))
			return;
}

/* ---- the byte stream's callbacks ---- */

static void on_connected(void *arg)
{
	struct l7mp_tls *t = arg;

	l7mp_stream_io_read(t->sio, true);
	pump(t);
}

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct l7mp_tls *t = arg;
	int n = t->failed || t->ended ? (int)buf->len : BIO_write(t->in, buf->data, (int)buf->len);
	bool ok = n == (int)buf->len;

	l7mp_buf_unref(buf);
	if (!ok)
		fail(t, -ENOMEM);
	pump(t);
}

static void on_drain(void *arg)
{
	struct l7mp_tls *t = arg;

	if (!t->full)
		return;
	t->full = false;
	if (t->ops->drain)
		t->ops->drain(t->arg);
}

static void on_end(void *arg)
{
	struct l7mp_tls *t = arg;

	t->eof = true;
	pump(t);
}

static void on_error(void *arg, int err)
{
	struct l7mp_tls *t = arg;

	/*
	 * A rejected handshake often ends with an alert followed by a reset; the alert is more
	 * informative.
	 */
	if (t->failed)
		return;
	t->failed = true;
	t->ops->error(t->arg, err);
}

/* OpenSSL's memory per connection, measured: buffers for records, keys, the handshake. */
#define TLS_COST (24 * 1024)

static void tls_free(struct l7mp_tls *t)
{
	l7mp_buf_pool_charge(l7mp_loop_bufs(t->loop), -TLS_COST);
	l7mp_task_cancel(t->loop, &t->task);
	SSL_free(t->ssl);
	X509_free(t->bad);
	free(t->name);
	free(t);
}

static void on_closed(void *arg)
{
	struct l7mp_tls *t = arg;
	void (*closed)(void *) = t->ops->closed;
	void *owner = t->arg;

	tls_free(t);
	if (closed)
		closed(owner);
}

static const struct l7mp_stream_io_ops below = {
        .connected = on_connected,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .error = on_error,
        .closed = on_closed,
};

static void on_task(struct l7mp_task *task, void *arg)
{
	struct l7mp_tls *t = arg;
	int err = t->err;

	(void)task;
	if (t->closing)
		return;
	if (!err) {
		pump(t);
		return;
	}
	t->err = 0;
	t->ops->error(t->arg, err);
}

/* ---- creating connections ---- */

/* Requires that the certificate is valid for t->name. */
static int expect(struct l7mp_tls *t)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(t->ssl);
	struct l7mp_addr a;
	char ip[L7MP_ADDR_STRLEN];
	size_t n = strlen(t->name);

	if (!l7mp_addr_parse(&a, t->name, 0)) {
		l7mp_addr_ip(&a, ip);
		ip[strcspn(ip, "%")] = '\0';
		return X509_VERIFY_PARAM_set1_ip_asc(param, ip) == 1 ? 0 : -EINVAL;
	}
	if (n && t->name[n - 1] == '.') /* a name with a trailing dot; certificates have none */
		t->name[n - 1] = '\0';
	X509_VERIFY_PARAM_set_hostflags(param, L7MP_TLS_HOST_FLAGS);
	if (X509_VERIFY_PARAM_set1_host(param, t->name, 0) != 1 ||
	    SSL_set_tlsext_host_name(t->ssl, t->name) != 1)
		return -EINVAL;
	return 0;
}

static struct l7mp_tls *tls_new(struct l7mp_loop *loop, struct l7mp_tls_ctx *ctx,
                                const struct l7mp_stream_io_ops *ops, void *arg)
{
	struct l7mp_tls *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->loop = loop;
	t->ops = ops;
	t->arg = arg;
	l7mp_buf_pool_charge(l7mp_loop_bufs(loop), TLS_COST);
	l7mp_task_init(&t->task, on_task, t);
	t->ssl = SSL_new(l7mp_tls_ctx_ssl(ctx));
	t->in = BIO_new(BIO_s_mem());
	t->out = BIO_new(BIO_s_mem());
	if (!t->ssl || !t->in || !t->out) {
		BIO_free(t->in);
		BIO_free(t->out);
		tls_free(t);
		return NULL;
	}
	/* For a memory BIO empty means "retry", not EOF. */
	BIO_set_mem_eof_return(t->in, -1);
	SSL_set_bio(t->ssl, t->in, t->out);
	SSL_set_app_data(t->ssl, &t->bad);
	return t;
}

int l7mp_tls_accept(struct l7mp_loop *loop, struct l7mp_tls_ctx *ctx, int fd,
                    const struct l7mp_stream_io_ops *ops, void *arg, struct l7mp_tls **out)
{
	struct l7mp_tls *t = tls_new(loop, ctx, ops, arg);
	int rc;

	if (!t) {
		close(fd);
		return -ENOMEM;
	}
	SSL_set_accept_state(t->ssl);
	rc = l7mp_stream_io_open_tcp(loop, fd, &below, t, &t->sio);
	if (rc) {
		tls_free(t);
		return rc;
	}
	l7mp_stream_io_read(t->sio, true);
	*out = t;
	return 0;
}

int l7mp_tls_connect(struct l7mp_loop *loop, struct l7mp_tls_ctx *ctx, const char *name,
                     const struct l7mp_addr *remote, const struct l7mp_addr *local,
                     const struct l7mp_stream_io_ops *ops, void *arg, struct l7mp_tls **out)
{
	const char *sni = l7mp_tls_ctx_sni(ctx);
	struct l7mp_tls *t = tls_new(loop, ctx, ops, arg);
	int rc = -ENOMEM;

	if (!t)
		return rc;
	t->name = strdup(sni ? sni : name);
	if (t->name)
		rc = expect(t);
	SSL_set_connect_state(t->ssl);
	if (!rc)
		rc = l7mp_stream_io_connect_tcp(loop, remote, local, &below, t, &t->sio);
	if (rc) {
		tls_free(t);
		return rc;
	}
	*out = t;
	return 0;
}

void l7mp_tls_set_owner(struct l7mp_tls *t, const struct l7mp_stream_io_ops *ops, void *arg)
{
	t->ops = ops;
	t->arg = arg;
}

/* ---- operations of the owner ---- */

void l7mp_tls_read(struct l7mp_tls *t, bool on)
{
	if (t->reading == on)
		return;
	t->reading = on;
	if (!t->open || t->failed || t->closing)
		return;
	l7mp_stream_io_read(t->sio, on);
	/*
	 * Data received before may be buffered in OpenSSL, and no event of the byte stream would
	 * follow.
	 */
	if (on && !t->ended)
		l7mp_task_post(t->loop, &t->task);
}

int l7mp_tls_write(struct l7mp_tls *t, struct l7mp_buf *buf)
{
	size_t done = 0;
	int rc = 0;

	if (!t->open || t->shut || t->failed || t->closing) {
		l7mp_buf_unref(buf);
		/*
		 * A failure is about to be reported, which is more informative than a failed write.
		 */
		return t->failed && t->open && !t->closing ? 0 : t->open ? -EPIPE : -ENOTCONN;
	}
	ERR_clear_error();
	if (buf->len && SSL_write_ex(t->ssl, buf->data, buf->len, &done) != 1) {
		fail_ssl(t, SSL_get_error(t->ssl, 0));
		rc = -EPIPE;
	}
	l7mp_buf_unref(buf);
	if (!rc)
		rc = flush(t);
	if (rc == L7MP_STREAM_IO_FULL)
		t->full = true;
	/* The peer has closed; its alert with the reason may still have to be read. */
	return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc;
}

void l7mp_tls_cork(struct l7mp_tls *t, bool on)
{
	l7mp_stream_io_cork(t->sio, on);
}

size_t l7mp_tls_queued(const struct l7mp_tls *t)
{
	return l7mp_stream_io_queued(t->sio);
}

void l7mp_tls_shutdown(struct l7mp_tls *t)
{
	if (t->shut || !t->open || t->failed || t->closing)
		return;
	t->shut = true;
	ERR_clear_error();
	(void)SSL_shutdown(t->ssl);
	ERR_clear_error();
	(void)flush(t);
}

void l7mp_tls_close(struct l7mp_tls *t, bool abort)
{
	bool alert = t->failed && *t->why;

	if (!t->closing) {
		if (!abort)
			l7mp_tls_shutdown(t);
		t->closing = true;
		l7mp_task_cancel(t->loop, &t->task);
	}
	/* A reset would discard the alert with the reason. */
	l7mp_stream_io_close(t->sio, abort && !alert);
}

static const struct l7mp_stream_io_ops nobody = {0};

void l7mp_tls_drop(struct l7mp_tls **pp)
{
	struct l7mp_tls *t = *pp;

	*pp = NULL;
	if (!t)
		return;
	l7mp_tls_set_owner(t, &nobody, NULL);
	l7mp_tls_close(t, true);
}

/* ---- getters ---- */

int l7mp_tls_fd(const struct l7mp_tls *t)
{
	return l7mp_stream_io_fd(t->sio);
}

int l7mp_tls_local(const struct l7mp_tls *t, struct l7mp_addr *out)
{
	return l7mp_stream_io_local(t->sio, out);
}

const char *l7mp_tls_why(const struct l7mp_tls *t)
{
	return t->why;
}

bool l7mp_tls_truncated(const struct l7mp_tls *t)
{
	return t->truncated;
}

const char *l7mp_tls_summary(const struct l7mp_tls *t, char *buf, size_t size)
{
	snprintf(buf, size, "%s, %s", SSL_get_version(t->ssl), SSL_get_cipher_name(t->ssl));
	return buf;
}

/* Adds SNI or ALPN, in which a peer may send any bytes: all but printable ASCII is shown as '?'. */
static int add_plain(cJSON *object, const char *key, const unsigned char *text, size_t len)
{
	char plain[256];
	size_t n = 0;

	for (; n < sizeof(plain) - 1 && n < len; n++)
		plain[n] = text[n] > 0x20 && text[n] < 0x7f ? (char)text[n] : '?';
	plain[n] = '\0';
	return l7mp_json_add_str(object, key, plain);
}

const char *l7mp_tls_refusal(const struct l7mp_tls *t)
{
	char *subject = l7mp_tls_subject(t->ssl);
	size_t len = subject ? strlen(subject) : 0;

	free(subject);
	return len > SUBJECT_MAX
	               ? "the subject of the client's certificate is longer than 4096 bytes"
	               : NULL;
}

cJSON *l7mp_tls_metadata(const struct l7mp_tls *t)
{
	const char *sni = SSL_get_servername(t->ssl, TLSEXT_NAMETYPE_host_name);
	cJSON *object = cJSON_CreateObject();
	char *subject = SSL_is_server(t->ssl) ? l7mp_tls_subject(t->ssl) : NULL;
	char *cn = subject ? l7mp_tls_common_name(t->ssl) : NULL;
	const unsigned char *alpn;
	unsigned alpn_len;
	int rc = 0;

	SSL_get0_alpn_selected(t->ssl, &alpn, &alpn_len);

	rc |= l7mp_json_add_str(object, "version", SSL_get_version(t->ssl));
	rc |= l7mp_json_add_str(object, "cipher", SSL_get_cipher_name(t->ssl));
	if (sni)
		rc |= add_plain(object, "sni", (const unsigned char *)sni, strlen(sni));
	if (alpn_len)
		rc |= add_plain(object, "alpn", alpn, alpn_len);
	if (subject)
		rc |= l7mp_json_add_str(object, "client_subject", subject);
	if (cn)
		rc |= l7mp_json_add_str(object, "client_cn", cn);
	free(subject);
	free(cn);
	if (rc) {
		cJSON_Delete(object);
		return NULL;
	}
	return object;
}
