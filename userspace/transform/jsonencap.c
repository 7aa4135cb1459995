/* SPDX-License-Identifier: MIT */
/*
 * JSONEncap: each datagram (for a byte stream: each read) becomes an object {"metadata":<the
 * session's>,"payload":"<base64>"}. When its input or output is a byte stream, each object ends
 * with a newline.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "transform.h"

/* Length of n bytes in base64 (RFC 4648, section 4). */
#define BASE64_LEN(n) (((size_t)(n) + 2) / 3 * 4)

struct encap {
	struct l7mp_transform t;
	const cJSON *metadata; /* the session's; constant after a stage has connected */
	struct l7mp_str head;  /* the text before the payload, printed once */
	bool newline;
};

/* Returns 0 or -ENOMEM. */
static int print_head(struct encap *e)
{
	char *text;
	size_t len;

	if (e->head.s)
		return 0;
	text = e->metadata ? l7mp_json_print(e->metadata, L7MP_JSON_PLAIN) : strdup("{}");
	if (!text)
		return -ENOMEM;
	len = strlen(text);
	if (len && text[len - 1] == '\n')
		len--;
	l7mp_str_add(&e->head, "{\"metadata\":");
	l7mp_str_add_utf8(&e->head, text, len);
	l7mp_str_add(&e->head, ",\"payload\":\"");
	free(text);
	if (!e->head.oom)
		return 0;
	l7mp_str_free(&e->head);
	return -ENOMEM;
}

static struct l7mp_buf *wrap(struct encap *e, const struct l7mp_buf *in)
{
	size_t need = e->head.len + BASE64_LEN(in->len) + 4;
	struct l7mp_buf *out = l7mp_buf_new(l7mp_loop_bufs(e->t.env->loop), need);
	char *p;

	if (!out)
		return NULL;
	p = (char *)out->data;
	memcpy(p, e->head.s, e->head.len);
	p += e->head.len;
	/* EVP_EncodeBlock writes a terminator; there is room, as three bytes follow. */
	EVP_EncodeBlock((unsigned char *)p, in->data, (int)in->len);
	p += BASE64_LEN(in->len);
	*p++ = '"';
	*p++ = '}';
	if (e->newline)
		*p++ = '\n';
	out->len = (uint32_t)(p - (char *)out->data);
	out->flags = L7MP_BUF_TEXT;
	return out;
}

static int encap_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct encap *e = (struct encap *)s;
	int rc = l7mp_transform_check(&e->t, buf);
	struct l7mp_buf *out;

	if (rc)
		return rc;
	out = print_head(e) ? NULL : wrap(e, buf);
	l7mp_buf_unref(buf);
	if (!out)
		return -ENOMEM;
	l7mp_transform_emit(&e->t, out);
	return 0;
}

static void encap_release(struct l7mp_transform *t)
{
	l7mp_str_free(&((struct encap *)t)->head);
}

static const struct l7mp_transform_ops ops = {
        .stream = L7MP_TRANSFORM_STREAM_OPS(encap_write, l7mp_transform_flow_none),
        .release = encap_release,
};

static int encap_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                         struct l7mp_error *err)
{
	struct encap *e = l7mp_transform_new(sizeof(*e), params, &ops);

	if (!e)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	e->metadata = params->metadata;
	e->newline = params->in_kind == L7MP_KIND_STREAM || params->out_kind == L7MP_KIND_STREAM;
	*out = &e->t.base;
	return 0;
}

static const char *const aliases[] = {"INLINE/JSONEncap", NULL};

const struct l7mp_proto l7mp_transform_jsonencap = {
        .desc =
                {
                        .name = "JSONEncap",
                        .aliases = aliases,
                        .doc = "Wraps each datagram as `{\"metadata\": <the session's>, "
                               "\"payload\": <base64>}`; with a byte stream before or behind it "
                               "objects end with a newline",
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS |
                                 L7MP_PROTO_STATELESS,
                        .kind = L7MP_KIND_DATAGRAM,
                },
        .connect = encap_connect,
};
