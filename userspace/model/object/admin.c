/* SPDX-License-Identifier: MIT */
/* The admin object: defaults, merging a document, and keys that may change at run time. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/model_private.h"

static const struct {
	const char *key;
	size_t offset;
} limit_keys[] = {
        {"max_sessions", offsetof(struct l7mp_limits, max_sessions)},
        {"max_sessions_per_source", offsetof(struct l7mp_limits, max_sessions_per_source)},
        {"new_sessions_per_second", offsetof(struct l7mp_limits, new_sessions_per_second)},
        {"max_flows", offsetof(struct l7mp_limits, max_flows)},
        {"max_body", offsetof(struct l7mp_limits, max_body)},
        {"max_queue", offsetof(struct l7mp_limits, max_queue)},
        {"max_processes", offsetof(struct l7mp_limits, max_processes)},
        {"max_pipes", offsetof(struct l7mp_limits, max_pipes)},
};

static const char *const start_names[] = {"init", "no_init", "disable", NULL};
static const char *const mode_names[] = {"auto", "native", "generic", "tc", NULL};
static const char *const format_names[] = {"text", "json", NULL};

static uint32_t *limit(struct l7mp_limits *l, size_t i)
{
	return (uint32_t *)((char *)l + limit_keys[i].offset);
}

void l7mp_admin_clear(struct l7mp_admin *a)
{
	free(a->log_file);
	free(a->access_log_path);
	free(a->offload_ifs);
	free(a->instance);
	free(a->api_token_file);
	*a = (struct l7mp_admin){0};
}

/* ---- merging ---- */

static int copy_text(char **to, const char *from)
{
	char *copy = from ? strdup(from) : NULL;

	if (from && !copy)
		return -ENOMEM;
	free(*to);
	*to = copy;
	return 0;
}

static int admin_copy(struct l7mp_admin *out, const struct l7mp_admin *base)
{
	*out = *base;
	out->log_file = out->access_log_path = out->instance = out->api_token_file = NULL;
	out->offload_ifs = NULL;
	if (base->n_offload_ifs) {
		out->offload_ifs = l7mp_names_pack((const char *const *)base->offload_ifs,
		                                   base->n_offload_ifs);
		if (!out->offload_ifs)
			return -ENOMEM;
	}
	if (copy_text(&out->log_file, base->log_file) ||
	    copy_text(&out->access_log_path, base->access_log_path) ||
	    copy_text(&out->instance, base->instance) ||
	    copy_text(&out->api_token_file, base->api_token_file))
		return -ENOMEM;
	return 0;
}

static int merge_text(char **to, const cJSON *doc, const char *key)
{
	const cJSON *node = l7mp_json_member(doc, key);

	return cJSON_IsString(node) ? copy_text(to, node->valuestring) : 0;
}

/* Returns the index of the key's value in the names; `now` when the key is absent. */
static int merge_enum(const cJSON *doc, const char *key, const char *const *names, int now)
{
	const char *text = l7mp_json_str(doc, key, NULL);

	for (int i = 0; text && names[i]; i++)
		if (!strcasecmp(names[i], text))
			return i;
	return now;
}

/* "eth0, eth1" or ["eth0", "eth1"] */
static int merge_ifs(struct l7mp_admin *a, const cJSON *node)
{
	const cJSON *item = cJSON_IsArray(node) ? node->child : node;
	const char **names = NULL;
	size_t n = 0, cap = 0;
	char *text, *save, *word;
	char **packed = NULL;
	struct l7mp_str all = {0};
	int rc = 0;

	if (!cJSON_IsArray(node) && !cJSON_IsString(node))
		return 0;
	for (; item; item = cJSON_IsArray(node) ? item->next : NULL)
		if (cJSON_IsString(item))
			l7mp_str_addf(&all, "%s,", item->valuestring);
	text = all.s;
	for (word = text ? strtok_r(text, ", \t", &save) : NULL; word && !rc;
	     word = strtok_r(NULL, ", \t", &save)) {
		if (n == cap) {
			const char **more =
			        realloc(names, (cap = cap ? cap * 2 : 8) * sizeof(*more));

			if (!more)
				rc = -ENOMEM;
			else
				names = more;
		}
		if (!rc)
			names[n++] = word;
	}
	if (all.oom)
		rc = -ENOMEM;
	if (!rc && n && !(packed = l7mp_names_pack(names, n)))
		rc = -ENOMEM;
	if (!rc) {
		free(a->offload_ifs);
		a->offload_ifs = packed;
		a->n_offload_ifs = n;
	}
	free(names);
	l7mp_str_free(&all);
	return rc;
}

/*
 * A `server` object enables the server unless it has enabled: false; absent keys keep their values.
 */
static void merge_server(struct l7mp_admin_server *s, const cJSON *doc)
{
	const char *address = l7mp_json_str(doc, "address", s->address);

	if (!cJSON_IsObject(doc))
		return;
	s->enabled = l7mp_json_bool(doc, "enabled", true);
	if (address != s->address && strlen(address) < sizeof(s->address))
		strcpy(s->address, address);
	s->port = (uint16_t)l7mp_json_num(doc, "port", s->port);
	s->threads = (uint16_t)l7mp_json_num(doc, "threads", s->threads);
}

static void merge_offload_tcp(struct l7mp_offload_tcp *t, const cJSON *doc)
{
	t->enabled = l7mp_json_bool(doc, "enabled", t->enabled);
	t->after_bytes = (uint32_t)l7mp_json_num(doc, "after_bytes", t->after_bytes);
	t->after_ms = (uint32_t)l7mp_json_num(doc, "after_ms", t->after_ms);
}

static void merge_offload_drain(struct l7mp_offload_drain *d, const cJSON *doc)
{
	d->idle = (uint32_t)l7mp_json_num(doc, "idle", d->idle);
	d->deadline = (uint32_t)l7mp_json_num(doc, "deadline", d->deadline);
}

int l7mp_admin_merge(const struct l7mp_admin *base, const cJSON *doc, struct l7mp_admin *out)
{
	const cJSON *limits = l7mp_json_member(doc, "limits");
	int rc = admin_copy(out, base);

	(void)l7mp_log_level_parse(l7mp_json_str(doc, "log_level", ""), &out->log_level);
	out->log_json = merge_enum(doc, "log_format", format_names, out->log_json) == 1;
	out->strict = l7mp_json_bool(doc, "strict", out->strict);
	out->offload =
	        (enum l7mp_offload_start)merge_enum(doc, "offload", start_names, (int)out->offload);
	out->offload_mode = (enum l7mp_offload_mode)merge_enum(doc, "offload_mode", mode_names,
	                                                       (int)out->offload_mode);
	merge_offload_tcp(&out->offload_tcp, l7mp_json_member(doc, "offload_tcp"));
	merge_offload_drain(&out->offload_drain, l7mp_json_member(doc, "offload_drain"));
	merge_server(&out->server, l7mp_json_member(doc, "server"));
	out->read_without_token =
	        l7mp_json_bool(doc, "read_without_token", out->read_without_token);
	out->console = l7mp_json_bool(doc, "console", out->console);
	out->drain_timeout = (uint32_t)l7mp_json_num(doc, "drain_timeout", out->drain_timeout);
	out->metrics_sessions =
	        l7mp_json_bool(l7mp_json_member(doc, "metrics"), "sessions", out->metrics_sessions);
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(limit_keys); i++)
		*limit(&out->limits, i) =
		        (uint32_t)l7mp_json_num(limits, limit_keys[i].key, *limit(&out->limits, i));
	out->limits.max_memory =
	        (uint64_t)l7mp_json_num(limits, "max_memory", (double)out->limits.max_memory);
	if (!rc)
		rc = merge_text(&out->log_file, doc, "log_file");
	if (!rc)
		rc = merge_text(&out->access_log_path, doc, "access_log_path");
	if (!rc)
		rc = merge_text(&out->instance, doc, "instance");
	if (!rc)
		rc = merge_text(&out->api_token_file, doc, "api_token_file");
	if (!rc)
		rc = merge_ifs(out, l7mp_json_member(doc, "offload_ifs"));
	if (rc)
		l7mp_admin_clear(out);
	return rc;
}

/* Returns the defaults of the table as a document. NULL: out of memory. */
static cJSON *defaults_of(const struct l7mp_schema *schema)
{
	cJSON *out = cJSON_CreateObject();

	for (const struct l7mp_field *f = schema->fields; f->key; f++) {
		cJSON *value = NULL;

		if (f->type == L7MP_T_OBJECT && f->sub)
			value = defaults_of(f->sub);
		else if (f->def)
			value = l7mp_schema_default(schema, f->key);
		else
			continue;
		if (l7mp_json_add(out, f->key, value)) {
			cJSON_Delete(out);
			return NULL;
		}
	}
	return out;
}

int l7mp_admin_defaults(struct l7mp_admin *a)
{
	const struct l7mp_admin nothing = {0};
	cJSON *doc = defaults_of(&l7mp_schema_admin);
	int rc = doc ? l7mp_admin_merge(&nothing, doc, a) : -ENOMEM;

	if (!rc)
		a->limits.max_memory = l7mp_machine_memory() / 2;
	if (!rc)
		a->server.enabled = false; /* off unless a document has the object */
	cJSON_Delete(doc);
	return rc;
}

/* ---- comparing ---- */

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static bool same_ifs(const struct l7mp_admin *a, const struct l7mp_admin *b)
{
	if (a->n_offload_ifs != b->n_offload_ifs)
		return false;
	for (size_t i = 0; i < a->n_offload_ifs; i++)
		if (strcmp(a->offload_ifs[i], b->offload_ifs[i]) != 0)
			return false;
	return true;
}

static bool same_server(const struct l7mp_admin_server *a, const struct l7mp_admin_server *b)
{
	return a->enabled == b->enabled && !strcmp(a->address, b->address) && a->port == b->port &&
	       a->threads == b->threads;
}

const char *l7mp_admin_fixed_key(const struct l7mp_admin *a, const struct l7mp_admin *b)
{
	if (!same_text(a->log_file, b->log_file))
		return "log_file";
	if (a->log_json != b->log_json)
		return "log_format";
	if (!same_text(a->access_log_path, b->access_log_path))
		return "access_log_path";
	if (a->strict != b->strict)
		return "strict";
	if (!same_text(a->instance, b->instance))
		return "instance";
	if (!same_text(a->api_token_file, b->api_token_file))
		return "api_token_file";
	return NULL;
}

static bool same_limits(const struct l7mp_limits *a, const struct l7mp_limits *b)
{
	struct l7mp_limits x = *a, y = *b;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(limit_keys); i++)
		if (*limit(&x, i) != *limit(&y, i))
			return false;
	return a->max_memory == b->max_memory;
}

static bool same_offload_tcp(const struct l7mp_offload_tcp *a, const struct l7mp_offload_tcp *b)
{
	return a->enabled == b->enabled && a->after_bytes == b->after_bytes &&
	       a->after_ms == b->after_ms;
}

static bool same_offload_drain(const struct l7mp_offload_drain *a,
                               const struct l7mp_offload_drain *b)
{
	return a->idle == b->idle && a->deadline == b->deadline;
}

bool l7mp_admin_equal(const struct l7mp_admin *a, const struct l7mp_admin *b)
{
	return !l7mp_admin_fixed_key(a, b) && a->log_level == b->log_level &&
	       same_server(&a->server, &b->server) && a->console == b->console &&
	       a->read_without_token == b->read_without_token &&
	       a->drain_timeout == b->drain_timeout && a->metrics_sessions == b->metrics_sessions &&
	       a->offload == b->offload && a->offload_mode == b->offload_mode && same_ifs(a, b) &&
	       same_offload_tcp(&a->offload_tcp, &b->offload_tcp) &&
	       same_offload_drain(&a->offload_drain, &b->offload_drain) &&
	       same_limits(&a->limits, &b->limits);
}

/* ---- showing ---- */

static int add_text(cJSON *out, const char *key, const char *text)
{
	return text ? l7mp_json_add_str(out, key, text) : 0;
}

static cJSON *limits_to_json(const struct l7mp_limits *limits)
{
	struct l7mp_limits copy = *limits;
	cJSON *out = cJSON_CreateObject();

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(limit_keys); i++)
		if (l7mp_json_add_num(out, limit_keys[i].key, *limit(&copy, i))) {
			cJSON_Delete(out);
			return NULL;
		}
	if (l7mp_json_add_num(out, "max_memory", (double)copy.max_memory)) {
		cJSON_Delete(out);
		return NULL;
	}
	return out;
}

/* Shown only while it is enabled, so that posting the answer back does not enable it. */
static int add_server(cJSON *out, const struct l7mp_admin_server *s)
{
	cJSON *json;

	if (!s->enabled)
		return 0;
	json = cJSON_CreateObject();
	l7mp_json_add_str(json, "address", s->address);
	l7mp_json_add_num(json, "port", s->port);
	l7mp_json_add_num(json, "threads", s->threads);
	return l7mp_json_add(out, "server", json);
}

static int add_offload_tcp(cJSON *out, const struct l7mp_offload_tcp *t)
{
	cJSON *json = cJSON_CreateObject();

	l7mp_json_add_bool(json, "enabled", t->enabled);
	l7mp_json_add_num(json, "after_bytes", t->after_bytes);
	l7mp_json_add_num(json, "after_ms", t->after_ms);
	return l7mp_json_add(out, "offload_tcp", json);
}

static int add_offload_drain(cJSON *out, const struct l7mp_offload_drain *d)
{
	cJSON *json = cJSON_CreateObject();

	l7mp_json_add_num(json, "idle", d->idle);
	l7mp_json_add_num(json, "deadline", d->deadline);
	return l7mp_json_add(out, "offload_drain", json);
}

static int add_metrics(cJSON *out, const struct l7mp_admin *a)
{
	cJSON *json = cJSON_CreateObject();

	l7mp_json_add_bool(json, "sessions", a->metrics_sessions);
	return l7mp_json_add(out, "metrics", json);
}

cJSON *l7mp_admin_to_json(const struct l7mp_admin *a)
{
	cJSON *out = cJSON_CreateObject();
	cJSON *ifs =
	        cJSON_CreateStringArray((const char *const *)a->offload_ifs, (int)a->n_offload_ifs);

	if (!ifs)
		ifs = cJSON_CreateArray();
	if (l7mp_json_add_str(out, "log_level", l7mp_log_level_name(a->log_level)) |
	    add_text(out, "log_file", a->log_file) |
	    l7mp_json_add_str(out, "log_format", format_names[a->log_json]) |
	    add_text(out, "access_log_path", a->access_log_path) |
	    l7mp_json_add_bool(out, "strict", a->strict) |
	    l7mp_json_add_str(out, "offload", start_names[a->offload]) |
	    l7mp_json_add(out, "offload_ifs", ifs) |
	    l7mp_json_add_str(out, "offload_mode", mode_names[a->offload_mode]) |
	    add_offload_tcp(out, &a->offload_tcp) | add_offload_drain(out, &a->offload_drain) |
	    add_text(out, "instance", a->instance) |
	    add_text(out, "api_token_file", a->api_token_file) | add_server(out, &a->server) |
	    l7mp_json_add_bool(out, "read_without_token", a->read_without_token) |
	    l7mp_json_add_bool(out, "console", a->console) |
	    l7mp_json_add_num(out, "drain_timeout", a->drain_timeout) | add_metrics(out, a) |
	    l7mp_json_add(out, "limits", limits_to_json(&a->limits)) |
	    l7mp_json_add_str(out, "version", L7MP_VERSION)) {
		cJSON_Delete(out);
		return NULL;
	}
	return out;
}
