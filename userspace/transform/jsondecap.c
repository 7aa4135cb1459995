/* SPDX-License-Identifier: MIT */
/*
 * JSONDecap: {"payload":"<base64>", ...} becomes the payload; all other members, including the
 * metadata, are ignored.
 *
 * A datagram is one object. A byte stream is a sequence of objects with any white space between
 * them. After text that is not an object, everything up to the next newline is skipped; an object
 * that is valid JSON but has no valid payload is dropped alone.
 */
#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/jsonframe.h"
#include "l7mp/log.h"
#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "transform.h"

/* The longest object in a byte stream; for datagrams the sender's protocol has a limit. */
#define STREAM_OBJECT_MAX (1U << 20)
/* The largest WebSocket message, after JSONEncap. */
#define DATAGRAM_MAX (32U << 20)
/* Default of `object_timeout`. */
#define OBJECT_TIMEOUT_S 60
#define LOG_INTERVAL_MS  10000
#define LOG_BURST        5

struct decap_state {
	/* Shared by all sessions, because peers cause these records. */
	struct l7mp_log_limit log_limit;
};

struct decap {
	struct l7mp_transform t;
	struct decap_state *state;
	const char *session;
	struct l7mp_jsonframe frame;
	struct l7mp_str held; /* the beginning of an incomplete object */
	bool skipping;        /* everything up to the next newline */
	size_t charged;       /* bytes of `held` charged to the loop's memory */
	uint32_t timeout_ms;  /* time limit for receiving a complete object */
	struct l7mp_timer timer;
};

static void log_dropped(struct decap *d, const char *what)
{
	uint32_t suppressed = 0;

	if (!l7mp_log_allowed(&d->state->log_limit, l7mp_loop_now(d->t.env->loop), LOG_INTERVAL_MS,
	                      LOG_BURST, &suppressed))
		return;
	l7mp_log_warn("jsondecap", "%s: dropped: %s", d->session, what);
	if (suppressed)
		l7mp_log_warn("jsondecap", "%u similar messages suppressed", suppressed);
}

/*
 * Decodes base64 (RFC 4648, section 4) into out, which has room for len / 4 * 3 bytes. Strict: no
 * white space, complete padding, unused bits zero. Returns the number of bytes or -EINVAL.
 */
static int base64_decode(const char *text, size_t len, uint8_t *out)
{
	size_t pad = 0;
	char last[5];
	int n;

	if (!len)
		return 0;
	if (len % 4 || len > INT_MAX)
		return -EINVAL;
	while (pad < 2 && text[len - 1 - pad] == '=')
		pad++;
	/* OpenSSL accepts '=' anywhere, and strips white space and '-' at both ends. */
	if (memchr(text, '=', len - pad))
		return -EINVAL;
	n = EVP_DecodeBlock(out, (const unsigned char *)text, (int)len);
	if (n < 0 || (size_t)n != len / 4 * 3)
		return -EINVAL;
	/* OpenSSL ignores the unused bits before the padding, so compare them. */
	EVP_EncodeBlock((unsigned char *)last, out + n - 3, 3 - (int)pad);
	return memcmp(last, text + len - 4, 4) ? -EINVAL : n - (int)pad;
}

/*
 * Returns the payload of one object. On failure returns NULL and sets `why`; *bad_json: the text is
 * not JSON.
 */
static struct l7mp_buf *unwrap(struct decap *d, const char *text, size_t len, bool *bad_json,
                               char *why, size_t size)
{
	const cJSON *payload;
	struct l7mp_buf *out = NULL;
	cJSON *root;
	size_t n;
	int rc;

	root = l7mp_json_parse(text, len, NULL, why, size);
	*bad_json = !root;
	if (!root)
		return NULL;
	payload = l7mp_json_member(root, "payload");
	snprintf(why, size, "expected an object with a base64 string \"payload\"");
	if (cJSON_IsString(payload)) {
		n = strlen(payload->valuestring);
		out = l7mp_buf_new(l7mp_loop_bufs(d->t.env->loop), n / 4 * 3 + 1);
		if (!out)
			snprintf(why, size, "out of memory");
		rc = out ? base64_decode(payload->valuestring, n, out->data) : -ENOMEM;
		if (rc >= 0) {
			out->len = (uint32_t)rc;
		} else if (out) {
			l7mp_buf_unref(out);
			out = NULL;
		}
	}
	cJSON_Delete(root);
	return out;
}

/* ---- datagrams ---- */

static int datagram(struct decap *d, struct l7mp_buf *buf)
{
	struct l7mp_buf *out = NULL;
	char why[160] = "longer than 32 MiB";
	bool bad_json;

	if (buf->len <= DATAGRAM_MAX)
		out = unwrap(d, (const char *)buf->data, buf->len, &bad_json, why, sizeof(why));
	l7mp_buf_unref(buf);
	if (!out) {
		log_dropped(d, why);
		return -EBADMSG; /* counted by the writer */
	}
	l7mp_transform_emit(&d->t, out);
	return 0;
}

/* ---- byte streams ---- */

static void malformed(struct decap *d, size_t bytes, const char *why)
{
	log_dropped(d, why);
	l7mp_str_free(&d->held);
	if (d->t.base.events->lost)
		d->t.base.events->lost(d->t.base.owner, -EBADMSG, 1, bytes);
}

/* Starts to skip: after text that is not an object, the next one is recognised after a newline. */
static void skip(struct decap *d, size_t bytes, const char *why)
{
	memset(&d->frame, 0, sizeof(d->frame));
	d->skipping = true;
	malformed(d, bytes, why);
}

/* Processes a complete object: the bytes held so far, and n more at p. */
static void object(struct decap *d, const char *p, size_t n)
{
	size_t len = d->held.len + n;
	char why[160] = "out of memory";
	bool bad_json = false;
	struct l7mp_buf *out = NULL;

	if (d->held.len) {
		l7mp_str_addn(&d->held, p, n);
		p = d->held.s;
	}
	if (len > STREAM_OBJECT_MAX)
		snprintf(why, sizeof(why), "an object of more than %u bytes", STREAM_OBJECT_MAX);
	else if (!d->held.oom)
		out = unwrap(d, p, len, &bad_json, why, sizeof(why));
	if (!out) {
		if (bad_json)
			skip(d, len, why);
		else
			malformed(d, len, why);
		return;
	}
	l7mp_str_free(&d->held);
	if (out->len)
		l7mp_transform_emit(&d->t, out);
	else
		l7mp_buf_unref(out);
}

/* Updates the memory charged for the incomplete object, and starts its deadline. */
static void account(struct decap *d)
{
	struct l7mp_loop *loop = d->t.env->loop;

	l7mp_buf_pool_charge(l7mp_loop_bufs(loop), (ptrdiff_t)d->held.len - (ptrdiff_t)d->charged);
	d->charged = d->held.len;
	if (!d->held.len)
		l7mp_timer_stop(loop, &d->timer);
	else if (!l7mp_timer_armed(&d->timer))
		(void)l7mp_timer_start(loop, &d->timer, d->timeout_ms);
}

/* Consumes up to one object, or a part of one. Returns the number of bytes. */
static size_t take(struct decap *d, const char *p, size_t n)
{
	size_t start = 0, used;
	const char *nl;

	if (d->skipping) {
		nl = memchr(p, '\n', n);
		d->skipping = !nl;
		return nl ? (size_t)(nl - p) + 1 : n;
	}
	if (d->held.len && l7mp_memory_short_unfinished(d->t.env, n)) {
		d->t.env->stats->refusals[L7MP_REFUSE_MAX_MEMORY]++;
		skip(d, d->held.len, "limits.max_memory is reached");
		return 0;
	}
	switch (l7mp_jsonframe_take(&d->frame, p, n, &start, &used)) {
	case L7MP_JSONFRAME_DONE:
		l7mp_timer_stop(d->t.env->loop, &d->timer); /* each object has its own deadline */
		object(d, p + start, used - start);
		break;
	case L7MP_JSONFRAME_MORE:
		l7mp_str_addn(&d->held, p + start, used - start);
		if (d->held.oom)
			skip(d, used, "out of memory");
		else if (d->held.len > STREAM_OBJECT_MAX)
			skip(d, d->held.len, "an object without an end");
		break;
	case L7MP_JSONFRAME_BAD:
		skip(d, d->held.len + used, "not a JSON object");
		return used - 1; /* the last byte may be the newline */
	case L7MP_JSONFRAME_SPACE:
		break;
	}
	return used;
}

/* An object was not completed in time: its remainder is skipped. */
static void on_timer(struct l7mp_timer *timer, void *arg)
{
	struct decap *d = arg;

	(void)timer;
	if (!d->held.len || d->t.closing)
		return;
	skip(d, d->held.len, "an object that is not complete in time (object_timeout)");
	account(d);
}

static int decap_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct decap *d = (struct decap *)s;
	int rc = l7mp_transform_check(&d->t, buf);
	const char *p;

	if (rc)
		return rc;
	if (d->t.base.kind == L7MP_KIND_DATAGRAM)
		return datagram(d, buf);
	p = (const char *)buf->data;
	for (size_t off = 0; off < buf->len && !d->t.closing;)
		off += take(d, p + off, buf->len - off);
	account(d);
	l7mp_buf_unref(buf);
	return 0;
}

static void decap_flush(struct l7mp_transform *t)
{
	struct decap *d = (struct decap *)t;

	if (d->held.len)
		malformed(d, d->held.len, "the stream ended inside of an object");
}

static void decap_release(struct l7mp_transform *t)
{
	struct decap *d = (struct decap *)t;

	l7mp_str_free(&d->held);
	account(d);
}

static const struct l7mp_transform_ops ops = {
        .stream = L7MP_TRANSFORM_STREAM_OPS(decap_write, l7mp_transform_flow_none),
        .flush = decap_flush,
        .release = decap_release,
};

static int decap_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                         struct l7mp_error *err)
{
	struct decap_state *state = l7mp_proto_state(params->env, &l7mp_transform_jsondecap, err);
	struct decap *d;

	if (!state)
		return -ENOMEM;
	d = l7mp_transform_new(sizeof(*d), params, &ops);
	if (!d)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	d->state = state;
	d->session = params->session ? params->session : "?";
	d->timeout_ms = (uint32_t)(1000 * l7mp_json_num(params->cluster_spec, "object_timeout",
	                                                OBJECT_TIMEOUT_S));
	l7mp_timer_init(&d->timer, on_timer, d);
	*out = &d->t.base;
	return 0;
}

static int decap_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct decap_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void decap_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

static const struct l7mp_field cluster_fields[] = {
        {.key = "object_timeout",
         .type = L7MP_T_NUMBER,
         .min = 0.1,
         .max = 86400,
         .def = "60",
         .doc = "seconds within which an object that has begun on a byte stream has to be "
                "complete; else it is dropped"},
        {0},
};
static const struct l7mp_schema cluster_spec = {
        .name = "jsondecap-cluster",
        .doc = "Unwraps objects",
        .fields = cluster_fields,
};

static const char *const aliases[] = {"INLINE/JSONDecap", NULL};

const struct l7mp_proto l7mp_transform_jsondecap = {
        .desc =
                {
                        .name = "JSONDecap",
                        .aliases = aliases,
                        .doc = "The inverse of JSONEncap: `payload` (base64) is passed on, "
                               "everything else in the object is ignored; other text is dropped, "
                               "counted (`malformed`) and logged. From a byte stream it "
                               "reads consecutive objects of up to 1 MiB; after text that is not "
                               "JSON it goes on behind the next newline",
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS,
                        .kind = L7MP_KIND_DATAGRAM,
                        .cluster_spec = &cluster_spec,
                },
        .start = decap_start,
        .stop = decap_stop,
        .connect = decap_connect,
};
