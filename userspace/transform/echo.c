/* SPDX-License-Identifier: MIT */
/* Echo: sends back what it receives. */
#include <errno.h>
#include <string.h>

#include "l7mp/transforms.h"
#include "transform.h"

static int echo_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct l7mp_transform *t = (struct l7mp_transform *)s;
	int rc = l7mp_transform_check(t, buf);

	if (!rc)
		rc = l7mp_transform_check_hops(&buf);
	if (!rc)
		l7mp_transform_emit(t, buf);
	return rc;
}

static void echo_flow(struct l7mp_stream *s, struct l7mp_flow_end *out)
{
	(void)s;
	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_REFLECT;
}

static const struct l7mp_transform_ops ops = {
        .stream = L7MP_TRANSFORM_STREAM_OPS(echo_write, echo_flow),
};

static int echo_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	struct l7mp_transform *t = l7mp_transform_new(sizeof(*t), params, &ops);

	if (!t)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	*out = &t->base;
	return 0;
}

static const char *const aliases[] = {"INLINE/Echo", NULL};

const struct l7mp_proto l7mp_transform_echo = {
        .desc =
                {
                        .name = "Echo",
                        .aliases = aliases,
                        .doc = "Sends back everything that it receives",
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS |
                                 L7MP_PROTO_STATELESS,
                        .kind = L7MP_KIND_DATAGRAM,
                },
        .connect = echo_connect,
};
