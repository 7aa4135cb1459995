/* SPDX-License-Identifier: MIT */
/* The L7mpController cluster: the REST API as a stage of the data plane. */
#include "api_int.h"

static int controller_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                              struct l7mp_error *err)
{
	return api_answer_connect(params, &api_service_rest, out, err);
}

static const char *const controller_aliases[] = {"L7mpController", NULL};

const struct l7mp_proto l7mp_proto_controller = {
        .desc = {.name = "L7MPController",
                 .aliases = controller_aliases,
                 .doc = "The REST API; refuses sessions without HTTP metadata",
                 .roles = L7MP_ROLE_CLUSTER,
                 .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_OPERATOR,
                 .kind = L7MP_KIND_STREAM},
        .connect = controller_connect,
};
