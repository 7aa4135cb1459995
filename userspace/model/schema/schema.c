/* SPDX-License-Identifier: MIT */
/* Validation of a document against schema tables, and texts that describe the expected values. */
#include "l7mp/schema.h"

#include <arpa/inet.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "l7mp/model.h"
#include "l7mp/protodesc.h"
#include "l7mp/util.h"

/*
 * Trees that a program has built may be deeper than parsed ones, and tables are recursive (route ->
 * cluster -> ...).
 */
#define DEPTH_MAX 128

/* The state of a check. */
struct check {
	const struct l7mp_registry *registry;
	struct l7mp_issues *issues;
	const struct l7mp_protodesc *cluster; /* protocol of the endpoints below; NULL: unknown */
	/*
	 * Inside a protocol's spec: "", or the key of the section being checked. NULL: elsewhere.
	 */
	const char *spec_section;
	int depth;
};

const struct l7mp_field *l7mp_schema_field(const struct l7mp_schema *schema, const char *key)
{
	if (!schema || !key)
		return NULL;
	for (const struct l7mp_field *f = schema->fields; f && f->key; f++)
		if (strcmp(f->key, key) == 0)
			return f;
	return NULL;
}

cJSON *l7mp_schema_default(const struct l7mp_schema *schema, const char *key)
{
	const struct l7mp_field *f = l7mp_schema_field(schema, key);

	return f && f->def ? cJSON_Parse(f->def) : NULL;
}

/* ---- string formats ---- */

static const char blanks[] = " \t\n\v\f\r";

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_address(const char *s)
{
	char host[INET6_ADDRSTRLEN];
	unsigned char raw[16];
	const char *zone = strchr(s, '%');
	size_t n = zone ? (size_t)(zone - s) : strlen(s);

	if (n >= sizeof(host))
		return false;
	memcpy(host, s, n);
	host[n] = 0;
	if (!zone && inet_pton(AF_INET, host, raw) == 1)
		return true;
	/* A link-local address has a zone: fe80::1%eth0 (RFC 4007). */
	return inet_pton(AF_INET6, host, raw) == 1 && (!zone || zone[1]);
}

/*
 * RFC 1123, plus underscores, which are in use. A last label that consists only of digits would be
 * an invalid IPv4 address.
 */
static bool is_hostname(const char *s)
{
	size_t len = strlen(s), label = 0;
	bool digits = true;

	if (len && s[len - 1] == '.')
		len--;
	if (!len || len > 253)
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = s[i];

		if (c == '.') {
			if (!label || s[i - 1] == '-')
				return false;
			label = 0;
			digits = true;
			continue;
		}
		if (!is_alnum(c) && c != '_' && (c != '-' || !label))
			return false;
		if (c < '0' || c > '9')
			digits = false;
		if (++label > 63)
			return false;
	}
	return label && s[len - 1] != '-' && !digits;
}

static bool is_mac(const char *s)
{
	for (int i = 0; i < 17; i++) {
		bool hex = (s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f') ||
		           (s[i] >= 'A' && s[i] <= 'F');

		if (i % 3 == 2 ? s[i] != ':' : !hex)
			return false;
	}
	return s[17] == 0;
}

static bool is_filename(const char *s)
{
	size_t n = strlen(s);

	/*
	 * sun_path needs a byte for the terminator. An abstract name's '@' stands for its leading
	 * NUL.
	 */
	return n > (size_t)(s[0] == '@') && n < sizeof(((struct sockaddr_un *)0)->sun_path);
}

static bool no_control(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s <= ' ' || *s == 0x7f)
			return false;
	return true;
}

bool l7mp_schema_pattern_ok(enum l7mp_schema_pattern p, const char *s)
{
	switch (p) {
	case L7MP_P_NONE:
		return true;
	case L7MP_P_NAME:
		return *s && !s[strcspn(s, blanks)];
	case L7MP_P_ADDRESS:
		return is_address(s);
	case L7MP_P_HOST:
		return is_address(s) || is_hostname(s);
	case L7MP_P_POINTER:
		return l7mp_json_pointer_valid(s);
	case L7MP_P_FILENAME:
		return is_filename(s);
	case L7MP_P_PATH:
		return *s != 0;
	case L7MP_P_MAC:
		return is_mac(s);
	case L7MP_P_URLPATH:
		return *s == '/' && no_control(s);
	case L7MP_P_IFNAME:
		return *s && strlen(s) <= 15 && !s[strcspn(s, blanks)] && !strpbrk(s, "/:[]{}\"'");
	}
	return false;
}

const char *l7mp_schema_pattern_text(enum l7mp_schema_pattern p)
{
	switch (p) {
	case L7MP_P_NONE:
		return NULL;
	case L7MP_P_NAME:
		return "a name without white space";
	case L7MP_P_ADDRESS:
		return "an IPv4 or IPv6 address";
	case L7MP_P_HOST:
		return "an IP address or a host name";
	case L7MP_P_POINTER:
		return "a JSON pointer";
	case L7MP_P_FILENAME:
		return "a path of at most 107 bytes (@name: an abstract socket)";
	case L7MP_P_PATH:
		return "a file path";
	case L7MP_P_MAC:
		return "a MAC address (aa:bb:cc:dd:ee:ff)";
	case L7MP_P_URLPATH:
		return "a URL path that begins with /";
	case L7MP_P_IFNAME:
		return "an interface name of 1..15 bytes without blanks, slashes, colons, "
		       "brackets, braces and quotes";
	}
	return NULL;
}

const char *l7mp_schema_pattern_regex(enum l7mp_schema_pattern p)
{
	switch (p) {
	case L7MP_P_NAME:
		return "^\\S+$";
	case L7MP_P_MAC:
		return "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$";
	case L7MP_P_URLPATH:
		return "^/\\S*$";
	case L7MP_P_IFNAME:
		return "^[^\\s/:\\[\\]{}\"']{1,15}$";
	case L7MP_P_POINTER:
		return "^([^~]|~[01])*$";
	case L7MP_P_PATH:
	case L7MP_P_FILENAME:
		return "^[\\s\\S]+$";
	default:
		return NULL;
	}
}

/* ---- texts: the expected value of a field ---- */

static bool ranged(const struct l7mp_field *f)
{
	return f->min != 0 || f->max != 0;
}

static void list_values(const struct l7mp_field *f, char *buf, size_t size)
{
	size_t n = (size_t)snprintf(buf, size, "one of ");

	for (const char *const *v = f->values; v && *v && n < size; v++)
		n += (size_t)snprintf(buf + n, size - n, "%s%s", v == f->values ? "" : ", ", *v);
}

static void describe_oneof(const struct l7mp_field *f, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = 0;
	for (const struct l7mp_field *const *a = f->alternatives; a && *a && n < size; a++) {
		char one[128];
		const char *sep = a == f->alternatives ? "" : a[1] ? ", " : " or ";

		n += (size_t)snprintf(buf + n, size - n, "%s%s", sep,
		                      l7mp_schema_describe(*a, one, sizeof(one)));
	}
}

static void describe_number(const struct l7mp_field *f, char *buf, size_t size)
{
	const char *what = f->type == L7MP_T_INT ? "an integer" : "a number";

	if (ranged(f) && f->max == L7MP_EXACT_MAX)
		snprintf(buf, size, "%s, at least %.15g", what, f->min);
	else if (ranged(f))
		snprintf(buf, size, "%s in %.15g..%.15g", what, f->min, f->max);
	else
		snprintf(buf, size, "%s", what);
}

static void describe_string(const struct l7mp_field *f, char *buf, size_t size)
{
	const char *text = l7mp_schema_pattern_text(f->pattern);

	if (text)
		snprintf(buf, size, "%s", text);
	else if (f->max > 0)
		snprintf(buf, size, "a string of %.0f..%.0f bytes", f->min, f->max);
	else
		snprintf(buf, size, "a string");
}

const char *l7mp_schema_describe(const struct l7mp_field *f, char *buf, size_t size)
{
	switch (f->type) {
	case L7MP_T_INT:
	case L7MP_T_NUMBER:
		describe_number(f, buf, size);
		break;
	case L7MP_T_STRING:
		describe_string(f, buf, size);
		break;
	case L7MP_T_ENUM:
		list_values(f, buf, size);
		break;
	case L7MP_T_ONEOF:
		describe_oneof(f, buf, size);
		break;
	case L7MP_T_REF:
		snprintf(buf, size, "a name or %s object", f->sub ? f->sub->name : "an");
		break;
	case L7MP_T_BOOL:
		snprintf(buf, size, "true or false");
		break;
	case L7MP_T_ARRAY:
		snprintf(buf, size, "an array");
		break;
	case L7MP_T_OBJECT:
	case L7MP_T_MAP:
		snprintf(buf, size, "an object");
		break;
	case L7MP_T_PROTOCOL_SPEC:
		snprintf(buf, size, "an object with the protocol's keys");
		break;
	case L7MP_T_ANY:
		snprintf(buf, size, "any value");
		break;
	}
	return buf;
}

/* ---- scalars ---- */

static bool may_be_list(const struct l7mp_field *f)
{
	if (f->type == L7MP_T_ONEOF)
		for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++)
			if (may_be_list(*a))
				return true;
	return f->type == L7MP_T_ARRAY;
}

/* Adds the error "expected <field>, got <node>". */
static void mismatch(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                     const char *path)
{
	char want[256], got[80];

	l7mp_issues_add(ctx->issues, false, node, path, "expected %s%s, got %s",
	                l7mp_schema_describe(f, want, sizeof(want)),
	                cJSON_IsNull(node) && may_be_list(f) ? " ([] for none)" : "",
	                l7mp_json_brief(node, got, sizeof(got)));
}

static void check_number(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                         const char *path)
{
	double v = node->valuedouble;
	char got[80];

	if (!isfinite(v) || (f->type == L7MP_T_INT && v != floor(v))) {
		mismatch(ctx, f, node, path);
		return;
	}
	if (ranged(f) && (v < f->min || v > f->max))
		l7mp_issues_add(ctx->issues, false, node, path, "expected %.15g..%.15g, got %s",
		                f->min, f->max, l7mp_json_brief(node, got, sizeof(got)));
}

static void check_string(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                         const char *path)
{
	size_t len = strlen(node->valuestring);

	if (!l7mp_schema_pattern_ok(f->pattern, node->valuestring))
		mismatch(ctx, f, node, path);
	else if (f->max > 0 && ((double)len < f->min || (double)len > f->max))
		l7mp_issues_add(ctx->issues, false, node, path,
		                "expected %.0f..%.0f bytes of text, got %zu", f->min, f->max, len);
}

static void check_enum(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                       const char *path)
{
	for (const char *const *v = f->values; v && *v; v++)
		if ((f->flags & L7MP_F_NOCASE) ? strcasecmp(*v, node->valuestring) == 0
		                               : strcmp(*v, node->valuestring) == 0)
			return;
	mismatch(ctx, f, node, path);
}

/* Checks a value whose JSON type is correct. */
static void check_scalar(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                         const char *path)
{
	switch (f->type) {
	case L7MP_T_INT:
	case L7MP_T_NUMBER:
		check_number(ctx, f, node, path);
		break;
	case L7MP_T_STRING:
		check_string(ctx, f, node, path);
		break;
	case L7MP_T_ENUM:
		check_enum(ctx, f, node, path);
		break;
	default:
		break;
	}
}

/* ---- objects ---- */

static void check_field(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                        const char *path);

/* Returns "path.key", or path["odd key"], or "key" when path is empty. Heap. */
static char *join(const char *path, const char *key)
{
	static const char plain[] =
	        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

	if (!*key || key[strspn(key, plain)])
		return l7mp_asprintf("%s[\"%.100s\"]", path, key);
	return l7mp_asprintf("%s%s%s", path, *path ? "." : "", key);
}

/* Writes the known keys, "name, spec, rules", for the error about an unknown one. */
static void known_keys(const struct l7mp_schema *schema, const char *extra, struct l7mp_str *out)
{
	if (extra)
		l7mp_str_add(out, extra);
	for (const struct l7mp_field *f = schema->fields; f && f->key; f++) {
		if (f->flags & L7MP_F_READONLY)
			continue;
		if (out->len)
			l7mp_str_add(out, ", ");
		l7mp_str_add(out, f->key);
	}
}

static bool spec_has_key(const struct l7mp_schema *spec, const char *section, const char *key)
{
	const struct l7mp_field *f;

	if (!*section)
		return l7mp_schema_field(spec, key);
	f = l7mp_schema_field(spec, section);
	return f && f->type == L7MP_T_OBJECT && l7mp_schema_field(f->sub, key);
}

/*
 * Whether the spec of another protocol has this key. Configs of the original l7mp have keys such as
 * `port` and `bind` also for protocols that do not use them.
 */
static bool is_other_protocols(const struct check *ctx, const char *key)
{
	if (!ctx->spec_section || !ctx->registry)
		return false;
	for (const struct l7mp_protodesc *const *d = ctx->registry->descs; d && *d; d++)
		if (spec_has_key((*d)->listener_spec, ctx->spec_section, key) ||
		    spec_has_key((*d)->cluster_spec, ctx->spec_section, key) ||
		    spec_has_key((*d)->endpoint_spec, ctx->spec_section, key))
			return true;
	return false;
}

static void unknown_key(struct check *ctx, const struct l7mp_schema *schema, const char *extra,
                        const cJSON *child, const char *path)
{
	struct l7mp_str keys = {0};

	if (is_other_protocols(ctx, child->string)) {
		l7mp_issues_add(ctx->issues, true, child, path,
		                "has no effect here: it is a key of other protocols");
		return;
	}
	known_keys(schema, extra, &keys);
	l7mp_issues_add(ctx->issues, !ctx->issues->strict, child, path,
	                keys.len ? "unknown key, expected one of: %s"
	                         : "unknown key, none is expected here%s",
	                keys.s ? keys.s : "");
	l7mp_str_free(&keys);
}

/*
 * In YAML an empty section ("options:" without content) is null, which is treated as absent. Not
 * for lists, where absent may mean that all members are deleted; an empty list is written [].
 */
static bool is_absent(const struct l7mp_field *f, const cJSON *child)
{
	if (!cJSON_IsNull(child) || (f->flags & L7MP_F_REQUIRED) || may_be_list(f))
		return false;
	return f->type == L7MP_T_OBJECT || f->type == L7MP_T_MAP || f->type == L7MP_T_ONEOF;
}

static void check_member(struct check *ctx, const struct l7mp_schema *schema, const char *extra,
                         const cJSON *child, const char *path)
{
	const char *key = child->string ? child->string : "";
	const struct l7mp_field *f = l7mp_schema_field(schema, key);
	char *sub;

	if (f && ((f->flags & L7MP_F_READONLY) || is_absent(f, child)))
		return;
	if (!f && extra && strcmp(extra, key) == 0)
		return;
	sub = join(path, key);
	if (!sub) {
		l7mp_issues_add(ctx->issues, false, child, path, "out of memory");
		return;
	}
	if (f)
		check_field(ctx, f, child, sub);
	else
		unknown_key(ctx, schema, extra, child, sub);
	free(sub);
}

static void check_required(struct check *ctx, const struct l7mp_schema *schema, const cJSON *node,
                           const char *path)
{
	for (const struct l7mp_field *f = schema->fields; f && f->key; f++) {
		char want[256];
		char *sub;

		if (!(f->flags & L7MP_F_REQUIRED) || l7mp_json_member(node, f->key))
			continue;
		sub = join(path, f->key);
		l7mp_issues_add(ctx->issues, false, node, sub ? sub : path, "missing, expected %s",
		                l7mp_schema_describe(f, want, sizeof(want)));
		free(sub);
	}
}

/* `extra` (may be NULL) is one more known key, for example `protocol`. */
static void check_object(struct check *ctx, const struct l7mp_schema *schema, const char *extra,
                         const cJSON *node, const char *path)
{
	const struct l7mp_protodesc *outer = ctx->cluster;
	const cJSON *child;

	if (++ctx->depth > DEPTH_MAX) {
		l7mp_issues_add(ctx->issues, false, node, path,
		                "nested too deep, expected at most %d levels", DEPTH_MAX);
		ctx->depth--;
		return;
	}
	/* The protocol of a cluster determines the fields of its endpoints. */
	if (schema == &l7mp_schema_cluster)
		ctx->cluster = l7mp_registry_find(
		        ctx->registry,
		        l7mp_json_str(l7mp_json_member(node, "spec"), "protocol", NULL));
	check_required(ctx, schema, node, path);
	cJSON_ArrayForEach (child, node)
		check_member(ctx, schema, extra, child, path);
	if (schema->check)
		schema->check(node, path, ctx->issues);
	ctx->cluster = outer;
	ctx->depth--;
}

/* ---- the spec of a protocol: {protocol: UDP, ...} ---- */

static const struct l7mp_field no_fields[] = {{.key = NULL}};
static const struct l7mp_schema no_keys = {.name = "spec", .fields = no_fields};

/*
 * The original l7mp documents an endpoint's weight both beside `spec` (README) and in it (OpenAPI);
 * both are accepted.
 */
static const struct l7mp_field weight = {
        .key = "weight", .type = L7MP_T_NUMBER, .min = 0, .max = 1000000};

static const char *role_name(unsigned role)
{
	return role == L7MP_ROLE_LISTENER ? "listener" : "cluster";
}

static void list_protocols(const struct l7mp_registry *r, unsigned role, struct l7mp_str *out)
{
	for (const struct l7mp_protodesc *const *d = r->descs; d && *d; d++)
		if ((*d)->roles & role)
			l7mp_str_addf(out, "%s%s", out->len ? ", " : "", (*d)->name);
}

static void bad_protocol(struct check *ctx, unsigned role, const char *what, const cJSON *node,
                         const char *path)
{
	struct l7mp_str known = {0};
	char *sub = join(path, "protocol");

	list_protocols(ctx->registry, role, &known);
	l7mp_issues_add(ctx->issues, false, node, sub ? sub : path, "%s, expected one of: %s", what,
	                known.s ? known.s : "(none)");
	l7mp_str_free(&known);
	free(sub);
}

/* Returns the protocol that `spec.protocol` names, or NULL after adding an error. */
static const struct l7mp_protodesc *find_protocol(struct check *ctx, unsigned role,
                                                  const cJSON *node, const char *path)
{
	const cJSON *name = l7mp_json_member(node, "protocol");
	const struct l7mp_protodesc *d;
	char text[128], got[64];

	if (!cJSON_IsString(name)) {
		if (name)
			snprintf(text, sizeof(text), "not a protocol's name: %s",
			         l7mp_json_brief(name, got, sizeof(got)));
		bad_protocol(ctx, role, name ? text : "missing", name ? name : node, path);
		return NULL;
	}
	d = l7mp_registry_find(ctx->registry, name->valuestring);
	l7mp_json_brief(name, got, sizeof(got));
	if (!d)
		snprintf(text, sizeof(text), "unknown protocol %s", got);
	else if (!(d->roles & role))
		snprintf(text, sizeof(text), "%s can't be used as a %s", d->name, role_name(role));
	else
		return d;
	bad_protocol(ctx, role, text, name, path);
	return NULL;
}

static void check_spec_keys(struct check *ctx, const struct l7mp_schema *table, const char *extra,
                            const cJSON *node, const char *path)
{
	const char *outer = ctx->spec_section;

	ctx->spec_section = "";
	check_object(ctx, table ? table : &no_keys, extra, node, path);
	ctx->spec_section = outer;
}

static void check_endpoint_spec(struct check *ctx, const cJSON *node, const char *path)
{
	const cJSON *w = l7mp_json_member(node, "weight");
	const struct l7mp_schema *table;

	if (!ctx->cluster) /* unknown protocol: reported elsewhere */
		return;
	table = ctx->cluster->endpoint_spec;
	if (w && !l7mp_schema_field(table, "weight")) {
		char *sub = join(path, "weight");

		check_field(ctx, &weight, w, sub ? sub : path);
		free(sub);
	}
	check_spec_keys(ctx, table, "weight", node, path);
}

static void check_spec(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                       const char *path)
{
	unsigned role = (unsigned)f->min;
	const struct l7mp_protodesc *d;
	const struct l7mp_schema *table;

	if (role == L7MP_ROLE_ENDPOINT) {
		check_endpoint_spec(ctx, node, path);
		return;
	}
	if (!ctx->registry)
		return;
	d = find_protocol(ctx, role, node, path);
	if (!d)
		return;
	table = role == L7MP_ROLE_LISTENER ? d->listener_spec : d->cluster_spec;
	check_spec_keys(ctx, table, "protocol", node, path);
}

/* ---- fields of other types ---- */

static void check_array(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                        const char *path)
{
	int n = cJSON_GetArraySize(node), i = 0;
	const cJSON *child;

	if (f->max > 0 && (n < f->min || n > f->max)) {
		l7mp_issues_add(ctx->issues, false, node, path,
		                "expected %.0f..%.0f elements, got %d", f->min, f->max, n);
		return;
	}
	if (!f->item)
		return;
	cJSON_ArrayForEach (child, node) {
		char *sub = l7mp_asprintf("%s[%d]", path, i++);

		check_field(ctx, f->item, child, sub ? sub : path);
		free(sub);
	}
}

static void check_map(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                      const char *path)
{
	const cJSON *child;

	if (!f->item)
		return;
	cJSON_ArrayForEach (child, node) {
		char *sub = join(path, child->string ? child->string : "");

		check_field(ctx, f->item, child, sub ? sub : path);
		free(sub);
	}
}

/*
 * Whether the field could have this JSON type; selects the alternative whose errors are reported.
 */
static bool fits(const struct l7mp_field *f, const cJSON *node)
{
	switch (f->type) {
	case L7MP_T_BOOL:
		return cJSON_IsBool(node);
	case L7MP_T_INT:
	case L7MP_T_NUMBER:
		return cJSON_IsNumber(node);
	case L7MP_T_STRING:
	case L7MP_T_ENUM:
		return cJSON_IsString(node);
	case L7MP_T_OBJECT:
	case L7MP_T_MAP:
	case L7MP_T_PROTOCOL_SPEC:
		return cJSON_IsObject(node);
	case L7MP_T_ARRAY:
		return cJSON_IsArray(node);
	case L7MP_T_REF:
		return cJSON_IsString(node) || cJSON_IsObject(node);
	case L7MP_T_ONEOF:
		for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++)
			if (fits(*a, node))
				return true;
		return false;
	case L7MP_T_ANY:
		return true;
	}
	return false;
}

static bool accepts(struct check *ctx, const struct l7mp_field *f, const cJSON *node)
{
	struct l7mp_issues tmp;
	struct check sub = *ctx;
	bool ok;

	l7mp_issues_init(&tmp, ctx->issues->strict);
	sub.issues = &tmp;
	check_field(&sub, f, node, "");
	ok = tmp.errors == 0;
	l7mp_issues_clear(&tmp);
	return ok;
}

static void check_oneof(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                        const char *path)
{
	const struct l7mp_field *only = NULL;
	int candidates = 0;

	for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++) {
		if (!fits(*a, node))
			continue;
		if (!only)
			only = *a;
		candidates++;
	}
	if (candidates > 1)
		for (const struct l7mp_field *const *a = f->alternatives; *a; a++)
			if (fits(*a, node) && accepts(ctx, *a, node)) {
				only = *a;
				break;
			}
	if (only)
		check_field(ctx, only, node, path);
	else
		mismatch(ctx, f, node, path);
}

static void check_ref(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                      const char *path)
{
	if (cJSON_IsObject(node) && f->sub)
		check_object(ctx, f->sub, NULL, node, path);
	else if (!cJSON_IsString(node) || !l7mp_schema_pattern_ok(L7MP_P_NAME, node->valuestring))
		mismatch(ctx, f, node, path);
}

static void check_section(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                          const char *path)
{
	const char *outer = ctx->spec_section;

	if (!f->sub)
		return;
	/* Only one level below a protocol's spec, such as `bind` or `options`. */
	ctx->spec_section = outer && !*outer && f->key ? f->key : NULL;
	check_object(ctx, f->sub, NULL, node, path);
	ctx->spec_section = outer;
}

static void check_field(struct check *ctx, const struct l7mp_field *f, const cJSON *node,
                        const char *path)
{
	switch (f->type) {
	case L7MP_T_ANY:
		return;
	case L7MP_T_ONEOF:
		check_oneof(ctx, f, node, path);
		return;
	case L7MP_T_REF:
		check_ref(ctx, f, node, path);
		return;
	default:
		break;
	}
	if (!fits(f, node)) {
		mismatch(ctx, f, node, path);
		return;
	}
	switch (f->type) {
	case L7MP_T_OBJECT:
		check_section(ctx, f, node, path);
		return;
	case L7MP_T_MAP:
		check_map(ctx, f, node, path);
		return;
	case L7MP_T_ARRAY:
		check_array(ctx, f, node, path);
		return;
	case L7MP_T_PROTOCOL_SPEC:
		check_spec(ctx, f, node, path);
		return;
	default:
		check_scalar(ctx, f, node, path);
	}
}

/* ---- documents ---- */

static void check_root(struct check *ctx, const struct l7mp_schema *schema, const cJSON *node,
                       const char *path)
{
	char got[80];

	if (cJSON_IsObject(node))
		check_object(ctx, schema, NULL, node, path);
	else
		l7mp_issues_add(ctx->issues, false, node, path, "expected %s %s object, got %s",
		                strchr("aeiou", schema->name[0]) ? "an" : "a", schema->name,
		                node ? l7mp_json_brief(node, got, sizeof(got)) : "nothing");
}

void l7mp_schema_check(const struct l7mp_schema *schema, const struct l7mp_registry *registry,
                       const cJSON *node, const char *path, struct l7mp_issues *issues)
{
	struct check ctx = {.registry = registry, .issues = issues};

	check_root(&ctx, schema, node, path ? path : "");
}

void l7mp_schema_check_endpoint(const struct l7mp_registry *registry,
                                const struct l7mp_protodesc *cluster_proto, const cJSON *node,
                                const char *path, struct l7mp_issues *issues)
{
	struct check ctx = {.registry = registry, .issues = issues, .cluster = cluster_proto};

	check_root(&ctx, &l7mp_schema_endpoint, node, path ? path : "");
}
