/* SPDX-License-Identifier: MIT */
/* Scalars: ranges, named string checks, and their descriptions. */
#include <arpa/inet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "schema_int.h"

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
	/* A link-local address carries its interface: fe80::1%eth0 (RFC 4007). */
	return inet_pton(AF_INET6, host, raw) == 1 && (!zone || zone[1]);
}

/*
 * RFC 1123, and underscores, which are in use. A last label of digits only would be an invalid IPv4
 * address.
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

	/* sun_path needs a byte for the terminator; an abstract name's '@' is its leading NUL. */
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
		return *s && strlen(s) <= 15 && !s[strcspn(s, blanks)] && !strchr(s, '/');
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
		return "an interface name of 1..15 bytes";
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
		return "^[^\\s/]{1,15}$";
	case L7MP_P_POINTER:
		return "^([^~]|~[01])*$";
	case L7MP_P_PATH:
	case L7MP_P_FILENAME:
		return "^[\\s\\S]+$";
	default:
		return NULL;
	}
}

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

	if (ranged(f))
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

static void check_number(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f, const cJSON *node,
                         const char *path)
{
	double v = node->valuedouble;
	char got[80];

	if (!isfinite(v) || (f->type == L7MP_T_INT && v != floor(v))) {
		l7mp_schema_mismatch(ctx, f, node, path);
		return;
	}
	if (ranged(f) && (v < f->min || v > f->max))
		l7mp_issues_add(ctx->issues, false, node, path, "expected %.15g..%.15g, got %s",
		                f->min, f->max, l7mp_json_brief(node, got, sizeof(got)));
}

static void check_string(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f, const cJSON *node,
                         const char *path)
{
	size_t len = strlen(node->valuestring);

	if (!l7mp_schema_pattern_ok(f->pattern, node->valuestring))
		l7mp_schema_mismatch(ctx, f, node, path);
	else if (f->max > 0 && ((double)len < f->min || (double)len > f->max))
		l7mp_issues_add(ctx->issues, false, node, path,
		                "expected %.0f..%.0f bytes of text, got %zu", f->min, f->max, len);
}

static void check_enum(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f, const cJSON *node,
                       const char *path)
{
	for (const char *const *v = f->values; v && *v; v++)
		if ((f->flags & L7MP_F_NOCASE) ? strcasecmp(*v, node->valuestring) == 0
		                               : strcmp(*v, node->valuestring) == 0)
			return;
	l7mp_schema_mismatch(ctx, f, node, path);
}

/* Checks a value whose JSON type is right. */
void l7mp_schema_check_scalar(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                              const cJSON *node, const char *path)
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
