/* SPDX-License-Identifier: MIT */
/*
 * Bodies of the REST API that are not objects of the model. These tables are only for
 * documentation; no input is validated with them.
 */
#include "l7mp/model.h"
#include "l7mp/rest.h"

#define END                 \
	{                   \
		.key = NULL \
	}
#define STR(k, text)                                         \
	{                                                    \
		.key = k, .type = L7MP_T_STRING, .doc = text \
	}
#define INT(k, text)                                      \
	{                                                 \
		.key = k, .type = L7MP_T_INT, .doc = text \
	}
#define OBJ(k, table, text)                                                \
	{                                                                  \
		.key = k, .type = L7MP_T_OBJECT, .sub = table, .doc = text \
	}
#define ARR(k, of, text)                                                \
	{                                                               \
		.key = k, .type = L7MP_T_ARRAY, .item = of, .doc = text \
	}
/* The same, of an answer that always has it. */
#define STR_R(k, text)                                                                 \
	{                                                                              \
		.key = k, .type = L7MP_T_STRING, .flags = L7MP_F_REQUIRED, .doc = text \
	}
#define INT_R(k, text)                                                              \
	{                                                                           \
		.key = k, .type = L7MP_T_INT, .flags = L7MP_F_REQUIRED, .doc = text \
	}
#define BOOL_R(k, text)                                                              \
	{                                                                            \
		.key = k, .type = L7MP_T_BOOL, .flags = L7MP_F_REQUIRED, .doc = text \
	}
#define OBJ_R(k, table, text)                                                            \
	{                                                                                \
		.key = k, .type = L7MP_T_OBJECT, .flags = L7MP_F_REQUIRED, .sub = table, \
		.doc = text                                                              \
	}
#define ARR_R(k, of, text)                                                                        \
	{                                                                                         \
		.key = k, .type = L7MP_T_ARRAY, .flags = L7MP_F_REQUIRED, .item = of, .doc = text \
	}
#define ANY(k, text)                                      \
	{                                                 \
		.key = k, .type = L7MP_T_ANY, .doc = text \
	}

static const struct l7mp_field any_item = {.type = L7MP_T_ANY};

/* ---- answers ---- */

static const struct l7mp_field status_fields[] = {
        INT_R("status", "200"),
        STR_R("message", "OK"),
        STR("hash", "Of `POST /config?owner=`: as `GET /status` has it for the owner now"),
        INT("generation", "Of `POST /config?owner=`: as `GET /status` has it now"),
        END,
};
const struct l7mp_schema l7mp_rest_status = {
        .name = "status", .doc = "A change that was made", .fields = status_fields};

static const struct l7mp_field issue_fields[] = {
        STR_R("path", "Where in the body, `listeners[0].spec.port`"),
        STR_R("reason", "What was expected and what was found"),
        INT("line", "In the body, when the parser knows it"),
        END,
};
static const struct l7mp_schema issue = {
        .name = "issue", .doc = "One thing that is wrong with a body", .fields = issue_fields};
static const struct l7mp_field issue_item = {.type = L7MP_T_OBJECT, .sub = &issue};
static const struct l7mp_field error_issues = {
        .type = L7MP_T_ARRAY, .item = &issue_item, .doc = "Every issue that was found"};
static const struct l7mp_field error_text = {
        .type = L7MP_T_STRING,
        .doc = "What the HTTP listener refuses before the API is asked: what is wrong with the "
               "request's head; `message` is then the status' phrase"};
static const struct l7mp_field *const error_contents[] = {&error_issues, &error_text, NULL};
static const struct l7mp_field error_fields[] = {
        INT_R("status", "The HTTP status"),
        STR_R("message", "What is wrong, as one sentence"),
        {.key = "content",
         .type = L7MP_T_ONEOF,
         .flags = L7MP_F_REQUIRED,
         .alternatives = error_contents,
         .doc = "More about it"},
        END,
};
const struct l7mp_schema l7mp_rest_error = {
        .name = "error", .doc = "Every error has this body", .fields = error_fields};

/* ---- sessions ---- */

static const struct l7mp_field endpoint_ref_fields[] = {
        STR_R("name", "The endpoint's name"),
        OBJ_R("spec", NULL, "The endpoint's spec"),
        END,
};
static const struct l7mp_schema endpoint_ref = {
        .name = "stage-endpoint", .doc = "The endpoint of a stage", .fields = endpoint_ref_fields};

/* clang-format off */
#define STAGE_ADDRESSES                                                                   \
	STR("local", "Address and port of its socket; of UDP and TCP without TLS"),       \
	STR("peer", "... and of its peer, also when that was learnt (options.latch)")
/* clang-format on */
static const struct l7mp_field source_fields[] = {
        STR_R("origin", "The listener that emitted the session"),
        STR_R("listener", "The same"),
        STR_R("status", "State of the stage"),
        STAGE_ADDRESSES,
        END,
};
static const struct l7mp_schema source = {
        .name = "source", .doc = "The source of a session", .fields = source_fields};

static const char *const stage_states[] = {"INIT",     "CONNECTED", "READY", "DISCONNECTED",
                                           "RETRYING", "END",       NULL};
static const struct l7mp_field stage_fields[] = {
        STR_R("origin", "The cluster of the stage"),
        OBJ("endpoint", &endpoint_ref, "The endpoint that was picked"),
        {.key = "status",
         .type = L7MP_T_ENUM,
         .flags = L7MP_F_REQUIRED,
         .values = stage_states,
         .doc = "State of the stage"},
        STAGE_ADDRESSES,
        END,
};
static const struct l7mp_schema stage = {
        .name = "stage", .doc = "A stage of a session", .fields = stage_fields};
static const struct l7mp_field stage_item = {.type = L7MP_T_OBJECT, .sub = &stage};

static const struct l7mp_field event_fields[] = {
        STR_R("event", "INIT, CONNECT, DISCONNECT, ERROR, WARNING, END ..."),
        STR_R("timestamp", "ISO 8601, UTC, with milliseconds"),
        STR("message", "What happened"),
        ANY("content", "More about it"),
        END,
};
static const struct l7mp_schema event = {
        .name = "event", .doc = "Something that happened to a session", .fields = event_fields};
static const struct l7mp_field event_item = {.type = L7MP_T_OBJECT, .sub = &event};

#define PACKETS INT_R("packets", "Packets, on streams reads")
#define BYTES   INT_R("bytes", "Bytes of payload")
static const struct l7mp_field count_fields[] = {PACKETS, BYTES, END};
static const struct l7mp_schema count = {
        .name = "count", .doc = "What took one path", .fields = count_fields};
static const struct l7mp_field transfer_fields[] = {
        PACKETS,
        BYTES,
        OBJ_R("slow", &count, "In user space"),
        OBJ_R("fast", &count, "In the kernel"),
        END,
};
static const struct l7mp_schema transfer = {
        .name = "transfer", .doc = "What passed in one direction", .fields = transfer_fields};
static const struct l7mp_field rtp_fields[] = {
        INT_R("packets", "RTP packets"),
        INT_R("lost", "That did not come (RFC 3550, A.3); duplicates count against it"),
        INT_R("reordered", "That came after a later one, or twice"),
        INT_R("others", "Datagrams that are not RTP: STUN, DTLS, RTCP on the same port"),
        INT("ssrc", "Of the last packet"),
        INT("payload_type", "Of the last packet"),
        INT("sources", "How often another SSRC came, the first one too"),
        INT("clock_rate", "Hz, of the last packet's payload type"),
        {.key = "jitter_ms", .type = L7MP_T_NUMBER, .doc = "Interarrival jitter (RFC 3550, A.8)"},
        END,
};
static const struct l7mp_schema rtp = {
        .name = "rtp-stream", .doc = "What is known of an RTP stream", .fields = rtp_fields};
static const struct l7mp_field rtp_stats_fields[] = {
        OBJ_R("ingress", &rtp, "From the source to the destination"),
        OBJ_R("egress", &rtp, "From the destination to the source"),
        END,
};
static const struct l7mp_schema rtp_stats = {
        .name = "rtp-stats", .doc = "RTP of a session", .fields = rtp_stats_fields};
static const struct l7mp_field stats_fields[] = {
        OBJ_R("ingress", &transfer, "From the source to the destination"),
        OBJ_R("egress", &transfer, "From the destination to the source"),
        INT_R("drops", "Datagrams that were dropped"),
        OBJ("rtp", &rtp_stats, "With the listener's `options.rtp`"),
        END,
};
static const struct l7mp_schema stats = {
        .name = "stats", .doc = "Counters of a session", .fields = stats_fields};

static const struct l7mp_field pipes_fields[] = {
        INT_R("total", "How many pipes there are"),
        INT_R("offloaded", "How many of them the kernel carries"),
        END,
};
static const struct l7mp_schema pipes = {
        .name = "pipes", .doc = "Pipes of a session", .fields = pipes_fields};
static const struct l7mp_field seen_at = {.type = L7MP_T_STRING, .doc = "ISO 8601, UTC"};
static const struct l7mp_field never_seen = {.type = L7MP_T_ANY, .doc = "null: not yet"};
static const struct l7mp_field *const last_seen[] = {&seen_at, &never_seen, NULL};
static const struct l7mp_field translation_fields[] = {
        INT_R("sequence_delta", "Added to sequence numbers, modulo 2^32"),
        INT_R("acknowledgement_delta",
              "Added to acknowledgement numbers and SACK blocks, modulo 2^32"),
        BOOL_R("timestamps", "Whether both connections have time stamps"),
        INT("timestamp_delta",
            "Added to time stamps, modulo 2^32; missing until the first segment of phase `fast`"),
        INT_R("window_scale_in", "Window scale of received segments"),
        INT_R("window_scale_out", "Window scale of sent segments"),
        BOOL_R("sack", "Whether SACK blocks are translated; else they are blanked"),
        END,
};
static const struct l7mp_schema translation = {
        .name = "translation",
        .doc = "How the segments of one direction of a TCP session are translated",
        .fields = translation_fields};
static const struct l7mp_field direction_fields[] = {
        STR_R("from", "Stage"),
        STR_R("to", "Stage"),
        STR_R("state", "slow, pending, fast or refused"),
        STR_R("reason", "Why it is not fast; GET /offload explains each"),
        STR_R("phase", "TCP: how far it is on its way into the kernel or back; else empty"),
        STR_R("hook", "Where the kernel takes it: xdp or tc"),
        STR_R("interface", "... and at which interface"),
        PACKETS,
        BYTES,
        {.key = "last_seen",
         .type = L7MP_T_ONEOF,
         .alternatives = last_seen,
         .doc = "The last packet that the kernel carried"},
        OBJ("tcp", &translation, "TCP in the phases `trans`, `fast` and `stop`"),
        END,
};
static const struct l7mp_schema direction = {
        .name = "direction", .doc = "One direction through the kernel", .fields = direction_fields};
static const struct l7mp_field direction_item = {.type = L7MP_T_OBJECT, .sub = &direction};
static const struct l7mp_field session_offload_fields[] = {
        STR_R("state", "fast, partial or slow"),
        OBJ_R("pipes", &pipes, "Their numbers"),
        ARR_R("directions", &direction_item, "Each direction"),
        END,
};
static const struct l7mp_schema session_offload = {.name = "session-offload",
                                                   .doc = "A session's way through the kernel",
                                                   .fields = session_offload_fields};

static const char *const session_states[] = {"INIT",       "CONNECTED", "DISCONNECTED",
                                             "FINALIZING", "DESTROYED", NULL};
static const struct l7mp_field session_fields[] = {
        STR_R("name", "The session's name"),
        OBJ_R("metadata", NULL, "What is known of it: addresses, ports, HTTP request ..."),
        OBJ_R("source", &source, "The source"),
        OBJ_R("destination", &stage, "The destination"),
        ARR_R("ingress", &stage_item, "Transformers from the source to the destination"),
        ARR_R("egress", &stage_item, "Transformers from the destination to the source"),
        {.key = "status",
         .type = L7MP_T_ENUM,
         .flags = L7MP_F_REQUIRED,
         .values = session_states,
         .doc = "State"},
        ARR_R("events", &event_item, "The last of what happened"),
        OBJ_R("stats", &stats, "What passed"),
        OBJ_R("offload", &session_offload, "Whether the kernel carries it, and why not"),
        END,
};
const struct l7mp_schema l7mp_rest_session = {
        .name = "session", .doc = "A live session", .fields = session_fields};

/* ---- objects as GET shows them, where that differs ---- */

static const struct l7mp_field endpoints_number = {.type = L7MP_T_INT, .doc = "How many there are"};
static const struct l7mp_field endpoint_item = {.type = L7MP_T_OBJECT,
                                                .sub = &l7mp_schema_endpoint};
static const struct l7mp_field endpoints_array = {
        .type = L7MP_T_ARRAY, .item = &endpoint_item, .doc = "With `?recursive=true`"};
static const struct l7mp_field *const endpoints_alternatives[] = {&endpoints_number,
                                                                  &endpoints_array, NULL};
static const struct l7mp_field cluster_fields[] = {
        STR_R("name", "The cluster's name"),
        OBJ_R("spec", NULL, "As it was given"),
        {.key = "endpoints",
         .type = L7MP_T_ONEOF,
         .alternatives = endpoints_alternatives,
         .doc = "Their number, or the endpoints"},
        OBJ_R("loadbalancer", NULL, "`policy` and `key`"),
        OBJ_R("options", NULL, "As they were given"),
        OBJ("health", &l7mp_schema_health,
            "Sums over the endpoints; in `/config` only with `recursive`"),
        END,
};
const struct l7mp_schema l7mp_rest_cluster = {
        .name = "cluster-view", .doc = "A cluster as GET shows it", .fields = cluster_fields};

static const struct l7mp_field endpoint_fields[] = {
        STR_R("name", "The endpoint's name"),
        OBJ("spec", NULL, "As it was given"),
        {.key = "weight", .type = L7MP_T_NUMBER, .doc = "Its share"},
        {.key = "drop", .type = L7MP_T_BOOL, .doc = "Its share is refused; only when it is"},
        OBJ("health", &l7mp_schema_health,
            "What sessions have found out; in `/config` only with `recursive`"),
        END,
};
const struct l7mp_schema l7mp_rest_endpoint = {
        .name = "endpoint-view", .doc = "An endpoint as GET shows it", .fields = endpoint_fields};

/* ---- rule look-up ---- */

static const struct l7mp_field lookup_fields[] = {
        {.key = "metadata",
         .type = L7MP_T_OBJECT,
         .flags = L7MP_F_REQUIRED,
         .doc = "As a session would have it"},
        END,
};
const struct l7mp_schema l7mp_rest_lookup = {
        .name = "lookup-request", .doc = "Metadata to be matched", .fields = lookup_fields};

static const struct l7mp_field found_fields[] = {
        STR_R("rulelist", "The rule list that decided"),
        STR_R("rule", "The rule that matched"),
        OBJ_R("action", NULL, "Its action"),
        OBJ_R("metadata", NULL, "The metadata after rewriting"),
        END,
};
const struct l7mp_schema l7mp_rest_found = {
        .name = "lookup-answer", .doc = "What a session would get", .fields = found_fields};

/* ---- offload ---- */

static const struct l7mp_field removal_fields[] = {
        STR_R("session", "Its name; empty when it is not known"),
        STR_R("reason", "Why it was removed"),
        END,
};
static const struct l7mp_schema removal_schema = {
        .name = "offload-removal",
        .doc = "A session that was in the kernel and could not be taken over",
        .fields = removal_fields};
static const struct l7mp_field removal_item = {.type = L7MP_T_OBJECT, .sub = &removal_schema};
static const struct l7mp_field adopted_fields[] = {
        INT_R("sessions", "How many sessions were taken over"),
        INT_R("removed", "How many flows were removed"),
        ARR_R("removals", &removal_item, "The last 32 of these"),
        END,
};
static const struct l7mp_schema adopted_schema = {
        .name = "offload-adopted",
        .doc = "What an earlier process of the instance had left in the kernel",
        .fields = adopted_fields};

static const struct l7mp_field draining_fields[] = {
        INT_R("abi", "Version of these maps and programs"),
        STR_R("path", "Directory of the pins"),
        INT_R("entries", "Entries of flows4 and flows6, two per session, when this process began"),
        INT("packets", "How many packets they have forwarded; null: not known"),
        STR_R("began", "When they were set aside"),
        INT_R("idle", "Seconds since the last packet: admin.offload_drain.idle"),
        INT_R("left", "Seconds until the deadline: admin.offload_drain.deadline"),
        END,
};
static const struct l7mp_schema draining_schema = {
        .name = "offload-draining",
        .doc = "Flows of another ABI version, which go on until they end",
        .fields = draining_fields};
static const struct l7mp_field draining_item = {.type = L7MP_T_OBJECT, .sub = &draining_schema};
static const struct l7mp_field drained_fields[] = {
        INT_R("abi", "Version of the maps and programs"),
        INT_R("entries", "Entries of flows4 and flows6, two per session, that there were"),
        INT("packets", "How many packets they have forwarded; null: not known"),
        STR_R("began", "When they were set aside"),
        STR_R("ended", "When they were removed"),
        STR_R("reason", "Why they were removed"),
        END,
};
static const struct l7mp_schema drained_schema = {
        .name = "offload-drained",
        .doc = "Flows of another ABI version that were removed",
        .fields = drained_fields};
static const struct l7mp_field drained_item = {.type = L7MP_T_OBJECT, .sub = &drained_schema};

static const struct l7mp_field offload_fields[] = {
        STR_R("state", "Whether the fast path is there"),
        STR("reason", "Why not"),
        INT("abi", "Version of the maps"),
        ARR("interfaces", &any_item, "Per interface: the hook in use, and why"),
        ARR("maps", &any_item, "Per map: pin path, entries, capacity"),
        ANY("verdicts", "Counters by reason"),
        STR("instance", "Name of the pin directory"),
        STR("offload", "As configured"),
        STR("mode", "Which hook is taken"),
        ANY("flows", "Counters of the flow table"),
        ANY("reasons", "What the reasons mean"),
        OBJ("adopted", &adopted_schema, "What was taken over from an earlier process"),
        ARR("draining", &draining_item, "What goes on of another ABI version"),
        ARR("drained", &drained_item, "The last 8 of these that were removed"),
        END,
};
const struct l7mp_schema l7mp_rest_offload = {
        .name = "offload", .doc = "The kernel fast path", .fields = offload_fields};
const struct l7mp_schema l7mp_rest_flow = {
        .name = "flow", .doc = "One entry of the kernel's flow table", .fields = NULL};

/* ---- status ---- */

static const struct l7mp_field owner_fields[] = {
        STR_R("name", "The owner; empty: the objects without owner"),
        INT_R("objects", "Its objects, endpoints and inserted rules included"),
        STR_R("hash",
              "Of these objects: equal for equal objects, whatever their order, as long as the "
              "process runs"),
        END,
};
static const struct l7mp_schema owner = {.name = "config-owner",
                                         .doc = "What a client has set with `POST /config?owner=`",
                                         .fields = owner_fields};
static const struct l7mp_field owner_item = {.type = L7MP_T_OBJECT, .sub = &owner};
static const struct l7mp_field proxy_status_fields[] = {
        STR_R("boot_id", "Another one after each start of the process"),
        STR_R("version", "The program's version"),
        INT_R("generation", "How many changes were committed since the start"),
        STR_R("hash", "Of all objects"),
        ARR_R("owners", &owner_item, "Whose objects there are"),
        END,
};
const struct l7mp_schema l7mp_rest_proxy_status = {
        .name = "proxy-status",
        .doc = "Which process answers, and which configuration it has",
        .fields = proxy_status_fields};

/* ---- drain ---- */

static const struct l7mp_field drain_listener_fields[] = {
        INT_R("closed", "Those on connections, which are refused"),
        INT_R("open", "Those on datagrams and frames, and those that serve the operator, too"),
        END,
};
static const struct l7mp_schema drain_listeners = {.name = "drain-listeners",
                                                   .doc = "Listeners by whether they are closed",
                                                   .fields = drain_listener_fields};
static const struct l7mp_field drain_fields[] = {
        STR_R("state", "`serving`, `draining`, or `drained`: no session is left"),
        INT_R("sessions", "Sessions now, those of the API and of metrics not counted"),
        OBJ_R("listeners", &drain_listeners, "How many are closed"),
        STR("by", "Who began: `api` or `SIGTERM`; this and the following only while it drains"),
        {.key = "elapsed",
         .type = L7MP_T_NUMBER,
         .doc = "Seconds from its beginning until now, or until no session was left"},
        {.key = "timeout", .type = L7MP_T_NUMBER, .doc = "As given, in seconds; 0: none"},
        {.key = "remaining", .type = L7MP_T_NUMBER, .doc = "Seconds until the deadline"},
        INT("sessions_at_start", "Sessions when it began"),
        INT("sessions_ended_at_deadline", "Sessions that did not end by themselves"),
        INT("refused", "Sessions that would have begun"),
        END,
};
const struct l7mp_schema l7mp_rest_drain = {
        .name = "drain", .doc = "The progress of draining", .fields = drain_fields};
static const struct l7mp_field drain_request_fields[] = {
        {.key = "timeout",
         .type = L7MP_T_NUMBER,
         .min = 0,
         .max = 86400,
         .doc = "Seconds until the sessions that are left are ended; 0: never. Default: "
                "`admin.drain_timeout`"},
        END,
};
const struct l7mp_schema l7mp_rest_drain_request = {
        .name = "drain-request", .doc = "How to drain", .fields = drain_request_fields};

/* ---- upgrade ---- */

static const struct l7mp_field upgrade_fields[] = {
        STR_R("state", "`serving`, `upgrading`, or `replaced`: another process has taken over"),
        INT_R("pid", "Of the process that answers"),
        STR("version", "Of its program"),
        STR("step", "While an upgrade goes on: what it is at"),
        INT("new_pid", "Of the process that takes over"),
        STR("failed", "Why the last upgrade from this process has failed"),
        STR("failed_at", "When"),
        INT("sessions_moved", "After this process was replaced: sessions that went on there"),
        INT("sessions_left", "Those that stayed until they end"),
        STR("took_over_at", "When this process took over from another one"),
        INT("sessions_taken", "Sessions that it got then"),
        INT("sessions_refused", "Sessions that its configuration did not allow"),
        END,
};
const struct l7mp_schema l7mp_rest_upgrade = {
        .name = "upgrade", .doc = "The state of an upgrade", .fields = upgrade_fields};

/* ---- requests: the object under its kind's name ---- */

#define REQUEST(kind, table, text)                                 \
	static const struct l7mp_field kind##_request_fields[] = { \
	        {.key = #kind,                                     \
	         .type = L7MP_T_OBJECT,                            \
	         .flags = L7MP_F_REQUIRED,                         \
	         .sub = &(table),                                  \
	         .doc = text},                                     \
	        END,                                               \
	};                                                         \
	const struct l7mp_schema l7mp_rest_##kind##_request = {    \
	        .name = #kind "-request", .doc = text, .fields = kind##_request_fields}

REQUEST(admin, l7mp_schema_admin, "The keys to be changed");
REQUEST(listener, l7mp_schema_listener, "The listener");
REQUEST(cluster, l7mp_schema_cluster, "The cluster");
REQUEST(endpoint, l7mp_schema_endpoint, "The endpoint");
REQUEST(rulelist, l7mp_schema_rulelist, "The rule list");
REQUEST(route, l7mp_schema_route, "The route");

static const struct l7mp_field rule_request_fields[] = {
        {.key = "rule",
         .type = L7MP_T_REF,
         .flags = L7MP_F_REQUIRED,
         .sub = &l7mp_schema_rule,
         .doc = "The rule; where it is inserted into a rule list also the name of a rule"},
        END,
};
const struct l7mp_schema l7mp_rest_rule_request = {
        .name = "rule-request", .doc = "The rule", .fields = rule_request_fields};

static const struct l7mp_field config_fields[] = {
        {.key = "config",
         .type = L7MP_T_OBJECT,
         .sub = &l7mp_schema_config,
         .doc = "The whole config; it may also be given bare, without this wrapper"},
        END,
};
const struct l7mp_schema l7mp_rest_config = {
        .name = "config-request", .doc = "The whole config", .fields = config_fields};
