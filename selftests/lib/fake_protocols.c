/* SPDX-License-Identifier: MIT */
#include "fake_protocols.h"

static const struct l7mp_field listen_fields[] = {
        {.key = "port", .type = L7MP_T_INT, .flags = L7MP_F_REQUIRED, .min = 0, .max = 65535},
        {.key = "address", .type = L7MP_T_STRING, .pattern = L7MP_P_ADDRESS},
        {.key = "connect", .type = L7MP_T_OBJECT},
        {.key = NULL},
};
static const struct l7mp_field cluster_fields[] = {
        {.key = "port", .type = L7MP_T_INT, .flags = L7MP_F_REQUIRED, .min = 1, .max = 65535},
        {.key = NULL},
};
static const struct l7mp_field endpoint_fields[] = {
        {.key = "address", .type = L7MP_T_STRING, .flags = L7MP_F_REQUIRED, .pattern = L7MP_P_HOST},
        {.key = NULL},
};
static const struct l7mp_field logger_fields[] = {
        {.key = "log_prefix", .type = L7MP_T_STRING},
        {.key = NULL},
};
static const struct l7mp_schema listen_spec = {.name = "listen", .fields = listen_fields};
static const struct l7mp_schema cluster_spec = {.name = "connect", .fields = cluster_fields};
static const struct l7mp_schema endpoint_spec = {.name = "endpoint", .fields = endpoint_fields};
static const struct l7mp_schema logger_spec = {.name = "logger", .fields = logger_fields};

static const struct l7mp_protodesc udp = {
        .name = "UDP",
        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
        .kind = L7MP_KIND_DATAGRAM,
        .listener_spec = &listen_spec,
        .cluster_spec = &cluster_spec,
        .endpoint_spec = &endpoint_spec,
        .idle_timeout = 60,
};
static const struct l7mp_protodesc http = {
        .name = "HTTP",
        .roles = L7MP_ROLE_LISTENER,
        .kind = L7MP_KIND_STREAM,
        .listener_spec = &listen_spec,
};
static const char *const ws_aliases[] = {"WS", NULL};
static const struct l7mp_protodesc ws = {
        .name = "WebSocket",
        .aliases = ws_aliases,
        .roles = L7MP_ROLE_CLUSTER,
        .kind = L7MP_KIND_DATAGRAM,
        .cluster_spec = &cluster_spec,
        .endpoint_spec = &endpoint_spec,
};
static const struct l7mp_protodesc echo = {
        .name = "Echo",
        .roles = L7MP_ROLE_CLUSTER,
        .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS,
        .kind = L7MP_KIND_DATAGRAM,
};
static const char *const logger_aliases[] = {"INLINE/Logger", NULL};
static const struct l7mp_protodesc logger = {
        .name = "Logger",
        .aliases = logger_aliases,
        .roles = L7MP_ROLE_CLUSTER,
        .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS,
        .kind = L7MP_KIND_DATAGRAM,
        .cluster_spec = &logger_spec,
};
static const struct l7mp_protodesc controller = {
        .name = "L7mpController",
        .roles = L7MP_ROLE_CLUSTER,
        .flags = L7MP_PROTO_VIRTUAL,
        .kind = L7MP_KIND_STREAM,
};

static const struct l7mp_protodesc *const descs[] = {&udp,    &http,       &ws, &echo,
                                                     &logger, &controller, NULL};
const struct l7mp_registry fake_registry = {descs};
