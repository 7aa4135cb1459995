/* SPDX-License-Identifier: MIT */
/*
 * JSONSocket as a protocol: its transports, the specs of its listeners and clusters, and its table.
 * The two ends of the handshake are listener.c and upstream.c (handshake.c has its messages), the
 * streams after it stream.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "jsonsocket.h"
#include "l7mp/protos.h"
#include "net/net.h"

/* ---- transports ---- */

static const struct jsock_transport transports[] = {
        {"UDP", NULL, true, true},
        {"UNIX/dgram", NULL, true, false},
        {"UNIX/seqpacket", NULL, false, false},
        {"WebSocket", "WS", false, false},
        {"TCP", NULL, false, false},
        {"UnixDomainSocket", "UNIX/stream", false, false},
};

/* Finds a transport by name or alias; NULL: unknown. */
static const struct jsock_transport *transport_find(const char *name)
{
	for (size_t i = 0; name && i < L7MP_ARRAY_SIZE(transports); i++) {
		const struct jsock_transport *t = &transports[i];

		if (!strcasecmp(t->name, name) || (t->alias && !strcasecmp(t->alias, name)))
			return t;
	}
	return NULL;
}

const struct l7mp_proto *jsock_transport_proto(const struct l7mp_env *env, const cJSON *spec,
                                               const struct jsock_transport **out,
                                               struct l7mp_error *err)
{
	const char *name = l7mp_json_str(l7mp_json_member(spec, "transport"), "protocol", "");
	const struct l7mp_proto *proto;

	*out = transport_find(name);
	proto = *out ? l7mp_proto_find(env, name) : NULL;
	if (!proto)
		l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
		               "transport.protocol: JSONSocket can't use \"%s\"", name);
	return proto;
}

/* The `check` of both specs' schemas. */
static void check_transport(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *t = l7mp_json_member(spec, "transport");
	const cJSON *name = l7mp_json_member(t, "protocol");
	char at[256];

	if (!cJSON_IsString(name) || transport_find(name->valuestring))
		return;
	snprintf(at, sizeof(at), "%s.transport.protocol", path);
	l7mp_issues_add(issues, false, name, at,
	                "expected one of: UDP, UNIX/dgram, UNIX/seqpacket, WebSocket, TCP, "
	                "UnixDomainSocket");
}

/* ---- the spec of a cluster ---- */

static const struct l7mp_field from_to_fields[] = {
        {.key = "from",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_POINTER,
         .doc = "JSON pointer into the session's metadata; what is not there is left out"},
        {.key = "to",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_POINTER,
         .doc = "JSON pointer into the header; the root takes the members of an object"},
        {0},
};

static const struct l7mp_schema from_to = {
        .name = "jsonsocket-path",
        .doc = "Copies a part of the metadata",
        .fields = from_to_fields,
};

static const struct l7mp_field path_text = {.type = L7MP_T_STRING, .pattern = L7MP_P_POINTER};
static const struct l7mp_field path_object = {.type = L7MP_T_OBJECT, .sub = &from_to};
static const struct l7mp_field *const path_kinds[] = {&path_text, &path_object, NULL};

static const struct l7mp_field set_fields[] = {
        {.key = "key",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .min = 1,
         .max = 1000,
         .pattern = L7MP_P_POINTER,
         .doc = "name, or JSON pointer, in the header"},
        {.key = "value", .type = L7MP_T_ANY, .flags = L7MP_F_REQUIRED, .doc = "any JSON value"},
        {0},
};

static const struct l7mp_schema set_schema = {
        .name = "jsonsocket-set",
        .doc = "Puts a value",
        .fields = set_fields,
};

static const struct l7mp_field item_fields[] = {
        {.key = "path",
         .type = L7MP_T_ONEOF,
         .alternatives = path_kinds,
         .doc = "copies metadata: `{ from, to }`; a JSON pointer alone copies to the root of the "
                "header, the members of an object or any other value under its own name"},
        {.key = "set",
         .type = L7MP_T_OBJECT,
         .sub = &set_schema,
         .doc = "puts a value: `{ key, value }`"},
        {0},
};

static void check_item(const cJSON *item, const char *path, struct l7mp_issues *issues)
{
	if (!l7mp_json_member(item, "path") == !l7mp_json_member(item, "set"))
		l7mp_issues_add(issues, false, item, path, "expected either path or set");
}

static const struct l7mp_schema item_schema = {
        .name = "jsonsocket-header",
        .doc = "A part of the header: `path` or `set`",
        .fields = item_fields,
        .check = check_item,
};

static const struct l7mp_field item = {.type = L7MP_T_OBJECT, .sub = &item_schema};

static const struct l7mp_field cluster_fields[] = {
        {.key = "transport",
         .type = L7MP_T_PROTOCOL_SPEC,
         .flags = L7MP_F_REQUIRED,
         .min = L7MP_ROLE_CLUSTER,
         .doc = "the cluster spec of what carries it: UDP, UNIX/dgram, UNIX/seqpacket, WebSocket, "
                "TCP or UnixDomainSocket; the endpoints are the transport's"},
        {.key = "header",
         .type = L7MP_T_ARRAY,
         .item = &item,
         .def = "[]",
         .doc = "what the header has beside JSONSocketVersion, in this order"},
        {0},
};

static const struct l7mp_schema cluster_spec = {
        .name = "jsonsocket-cluster",
        .doc = "Connects by the transport, sends the header and is connected when the server "
               "answers with a 2xx status",
        .fields = cluster_fields,
        .check = check_transport,
};

static const struct l7mp_field endpoint_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .min = 1,
         .max = 255,
         .doc = "as the transport's endpoints have it: IP address, host name or path"},
        L7MP_SPEC_ENDPOINT_OWN_PORT,
        {0},
};

static const struct l7mp_schema endpoint_spec = {
        .name = "jsonsocket-endpoint",
        .doc = "A JSONSocket server",
        .fields = endpoint_fields,
};

/* ---- the spec of a listener ---- */

static const struct l7mp_field listener_fields[] = {
        {.key = "transport",
         .type = L7MP_T_PROTOCOL_SPEC,
         .flags = L7MP_F_REQUIRED,
         .min = L7MP_ROLE_LISTENER,
         .doc = "the listener spec of what carries it: UDP, UNIX/dgram, UNIX/seqpacket, WebSocket, "
                "TCP or UnixDomainSocket"},
        {0},
};

static const struct l7mp_schema listener_spec = {
        .name = "jsonsocket-listener",
        .doc = "Emits a session for each client of the transport whose first message is a "
               "JSONSocket header, which becomes `JSONSocket` in the session's metadata",
        .fields = listener_fields,
        .check = check_transport,
};

/* ---- the protocol ---- */

static int jsock_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct jsock_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void jsock_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

const struct l7mp_proto l7mp_proto_jsonsocket = {
        .desc =
                {
                        .name = "JSONSocket",
                        .cost = 3000,
                        .doc = "A JSON header and its answer in front of another protocol's "
                               "stream (docs/jsonsocket.md); it carries what the transport carries",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                        .idle_timeout = 60, /* of transports that have one */
                },
        .start = jsock_start,
        .stop = jsock_stop,
        .listen = jsock_listen,
        .activate = jsock_activate,
        .pause = jsock_pause,
        .resume = jsock_resume,
        .hand = jsock_hand,
        .unlisten = jsock_unlisten,
        .bound = jsock_bound,
        .connect = jsock_connect,
};
