/* SPDX-License-Identifier: MIT */
/* The options of an address, after its commas: socat's names, and the keys of the spec. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/addr.h"
#include "l7mp/protodesc.h"
#include "oneliner_int.h"

static int number(const struct oneliner_text *t, const struct oneliner_part *p, double max,
                  double *out, struct l7mp_error *err)
{
	char *end = NULL;
	double n = -1;

	/* strtod(3) would also accept blanks, "nan" and "inf". */
	if (p->value && isdigit((unsigned char)*p->value))
		n = strtod(p->value, &end);
	if (!end || *end || n < 0 || n > max)
		return oneliner_wrong(t, err, p->value ? p->value_at : p->at,
		                      "%s: expected a number in 0..%.0f", p->name, max);
	*out = n;
	return 0;
}

/* socat's names of keys of the spec: X(option, pointer in the spec) */
static int renamed(struct oneliner_text *t, struct oneliner_end *e, struct l7mp_error *err)
{
	const bool is_unix = !strncasecmp(e->word->protocol, "UNIX", 4);
	const struct {
		const char *option, *pointer;
		double max; /* 0: text */
	} names[] = {
	        {"dscp", "options/dscp", 63},
	        {"rcvbuf", "options/rcvbuf", 1 << 30},
	        {"so-rcvbuf", "options/rcvbuf", 1 << 30},
	        {"sndbuf", "options/sndbuf", 1 << 30},
	        {"so-sndbuf", "options/sndbuf", 1 << 30},
	        {"mode", is_unix ? "mode" : "options/mode", 0},
	        {is_unix ? "user" : "", "owner", 0},
	        {"cd", "cwd", 0},
	        {"chdir", "cwd", 0},
	        {"protocol", "subprotocol", 0},
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const struct oneliner_part *p = oneliner_option(t, names[i].option);
		double n;
		int rc;

		if (!p)
			continue;
		if (!i && p->value && !strcasecmp(p->value, "pass")) { /* dscp */
			rc = oneliner_put_str(e->spec, names[i].pointer, "pass", err);
			if (rc)
				return rc;
			continue;
		}
		if (!names[i].max && !p->value)
			return oneliner_wrong(t, err, p->at, "%s: expected a value", p->name);
		rc = names[i].max ? number(t, p, names[i].max, &n, err) : 0;
		if (!rc)
			rc = names[i].max
			             ? oneliner_put_num(e->spec, names[i].pointer, n, err)
			             : oneliner_put_str(e->spec, names[i].pointer, p->value, err);
		if (rc)
			return rc;
	}
	return 0;
}

static const struct oneliner_part *either(struct oneliner_text *t, const char *a, const char *b,
                                          const char *c)
{
	const struct oneliner_part *p = oneliner_option(t, a);

	if (!p && b)
		p = oneliner_option(t, b);
	if (!p && c)
		p = oneliner_option(t, c);
	return p && p->value ? p : NULL;
}

static int tls(struct oneliner_text *t, struct oneliner_end *e, struct l7mp_error *err)
{
	bool listener = e->role == L7MP_ROLE_LISTENER;
	const struct oneliner_part *cert = either(t, "cert", "certificate", NULL);
	const struct oneliner_part *key = either(t, "key", NULL, NULL);
	const struct oneliner_part *ca = either(t, "cafile", "ca", "client_ca");
	const struct oneliner_part *name = either(t, "commonname", "snihost", "sni");
	const struct oneliner_part *verify = either(t, "verify", NULL, NULL);
	bool any = verify && !strcmp(verify->value, "0");
	int rc = oneliner_put(e->spec, "tls", cJSON_CreateObject(), err);

	if (!rc && listener && !cert)
		rc = oneliner_wrong(t, err, 0, "expected the option cert=FILE");
	if (!rc && cert)
		rc = oneliner_put_str(e->spec, "tls/cert", cert->value, err);
	if (!rc && cert) /* as with socat, the key may be in the same file */
		rc = oneliner_put_str(e->spec, "tls/key", key ? key->value : cert->value, err);
	if (!rc && ca && !(listener && any))
		rc = oneliner_put_str(e->spec, listener ? "tls/client_ca" : "tls/ca", ca->value,
		                      err);
	if (!rc && name && !listener)
		rc = oneliner_put_str(e->spec, "tls/sni", name->value, err);
	if (!rc && any && !listener)
		rc = oneliner_put(e->spec, "tls/insecure", cJSON_CreateTrue(), err);
	return rc;
}

static int retry(struct oneliner_text *t, struct oneliner_end *e, struct l7mp_error *err)
{
	const struct oneliner_part *times = oneliner_option(t, "retry");
	const struct oneliner_part *forever = oneliner_option(t, "forever");
	const struct oneliner_part *interval = oneliner_option(t, "interval");
	double n = 1000000, seconds = 1;
	int rc = 0;

	if (!times && !forever)
		return 0;
	if (times)
		rc = number(t, times, 1000000, &n, err);
	if (!rc && interval)
		rc = number(t, interval, 3600, &seconds, err);
	if (rc)
		return rc;
	e->retry = cJSON_CreateObject();
	rc = oneliner_put_str(e->retry, "retry_on", "always", err);
	if (!rc)
		rc = oneliner_put_num(e->retry, "num_retries", n, err);
	return rc ? rc : oneliner_put_num(e->retry, "timeout", (double)(long)(seconds * 1000), err);
}

/* An option for behaviour that is always on: only its negation is rejected. */
static int always(struct oneliner_text *t, const char *name, struct l7mp_error *err)
{
	const struct oneliner_part *p = oneliner_option(t, name);

	if (!p || !p->value || !strcmp(p->value, "1"))
		return 0;
	return oneliner_wrong(t, err, p->value_at, "%s is always on", p->name);
}

/* range=NETWORK[/BITS], max-children=N */
static int who_may(struct oneliner_text *t, struct oneliner_end *e, struct l7mp_error *err)
{
	const struct oneliner_part *range = oneliner_option(t, "range");
	const struct oneliner_part *children = oneliner_option(t, "max-children");
	struct l7mp_addr net;
	unsigned bits;
	double n;
	int rc = 0;

	if ((range || children) && !e->options)
		e->options = cJSON_CreateObject();
	if (range && (!range->value || l7mp_addr_parse_net(range->value, &net, &bits)))
		return oneliner_wrong(t, err, range->value ? range->value_at : range->at,
		                      "range: expected a network like 10.0.0.0/8 or fd00::/8");
	if (range)
		rc = oneliner_put_str(e->options, "range", range->value, err);
	if (!rc && children)
		rc = number(t, children, 1e7, &n, err);
	if (!rc && children)
		rc = oneliner_put_num(e->options, "max_sessions", n, err);
	return rc;
}

static int listener_options(struct oneliner_text *t, struct oneliner_end *e, struct l7mp_error *err)
{
	static const char *const names[] = {"idle_timeout", "track"};
	int rc = 0;

	for (size_t i = 0; !rc && i < 2; i++) {
		const struct oneliner_part *p = oneliner_option(t, names[i]);
		double n;

		if (!p)
			continue;
		rc = number(t, p, 1e9, &n, err);
		if (!rc && !e->options)
			e->options = cJSON_CreateObject();
		if (!rc)
			rc = oneliner_put_num(e->options, names[i], n, err);
	}
	if (!rc)
		rc = who_may(t, e, err);
	if (!rc)
		rc = always(t, "fork", err);
	return rc ? rc : always(t, "reuseaddr", err);
}

static bool over_tcp(const struct oneliner_word *w)
{
	return !strcmp(w->protocol, "TCP") || !strcmp(w->protocol, "WebSocket") ||
	       !strcmp(w->protocol, "HTTP");
}

/* connect=ADDRESS[:PORT]: the only peer that a UDP listener accepts datagrams from */
static int udp_options(struct oneliner_text *t, struct oneliner_end *e, struct l7mp_error *err)
{
	const struct oneliner_part *peer = either(t, "connect", NULL, NULL);
	const struct oneliner_part *share = oneliner_option(t, "reuseport");
	const struct oneliner_part *tos = oneliner_option(t, "tos");
	struct l7mp_addr a;
	const char *host;
	char text[128];
	double n;
	int port, rc = 0;

	if (tos) {
		rc = number(t, tos, 255, &n, err); /* may be hexadecimal */
		if (rc)
			return rc;
		rc = oneliner_put_num(e->spec, "options/dscp", (double)((int)n >> 2), err);
	}
	if (!rc && share)
		rc = oneliner_put(e->spec, "options/reuseport",
		                  cJSON_CreateBool(!share->value || strcmp(share->value, "0")),
		                  err);
	if (rc || !peer)
		return rc;
	if (!l7mp_addr_parse(&a, peer->value, 0))
		return oneliner_put_str(e->spec, "connect/address", peer->value, err);
	snprintf(text, sizeof(text), "%s", peer->value);
	rc = oneliner_host_port(t, text, peer->value_at, true, &host, &port, err);
	if (!rc && host)
		rc = oneliner_put_str(e->spec, "connect/address", host, err);
	return rc ? rc : oneliner_put_num(e->spec, "connect/port", port, err);
}

/* Any other option is a key of the protocol's spec: "path=/x", "options.mode=server". */
static int spec_key(const struct l7mp_registry *registry, const struct oneliner_text *t,
                    const struct oneliner_part *p, struct oneliner_end *e, struct l7mp_error *err)
{
	const struct l7mp_protodesc *d = l7mp_registry_find(registry, e->word->protocol);
	const struct l7mp_schema *schema = NULL;
	char first[64], pointer[160];
	cJSON *value = NULL;
	char message[80];
	int line;

	if (d)
		schema = e->role == L7MP_ROLE_LISTENER ? d->listener_spec : d->cluster_spec;
	snprintf(first, sizeof(first), "%.*s", (int)strcspn(p->name, "."), p->name);
	if (!schema || !l7mp_schema_field(schema, first))
		return oneliner_wrong(t, err, p->at, "%s has no option '%s'", t->keyword, p->name);
	if (!p->value)
		return oneliner_wrong(t, err, p->at, "%s: expected a value", p->name);
	snprintf(pointer, sizeof(pointer), "%s", p->name);
	for (char *s = pointer; *s; s++)
		if (*s == '.')
			*s = '/';
	/* Numbers, true, false and objects as JSON; everything else is text. */
	value = l7mp_json_parse(p->value, strlen(p->value), &line, message, sizeof(message));
	if (!value)
		value = cJSON_CreateString(p->value);
	return oneliner_put(e->spec, pointer, value, err);
}

int oneliner_read_options(const struct l7mp_registry *registry, struct oneliner_text *t,
                          struct oneliner_end *e, struct l7mp_error *err)
{
	bool udp = !strcmp(e->word->protocol, "UDP");
	int rc = 0;

	if (e->word->tls)
		rc = tls(t, e, err);
	if (!rc && e->role == L7MP_ROLE_LISTENER)
		rc = listener_options(t, e, err);
	if (!rc && e->role == L7MP_ROLE_CLUSTER)
		rc = retry(t, e, err);
	if (!rc && udp)
		rc = udp_options(t, e, err);
	if (!rc && over_tcp(e->word))
		rc = always(t, "keepalive", err);
	if (!rc && over_tcp(e->word))
		rc = always(t, "nodelay", err);
	if (!rc && (udp || strcmp(e->word->protocol, "TCP")))
		rc = renamed(t, e, err);
	if (!rc && !strcmp(e->word->protocol, "UNIX/dgram") && e->role == L7MP_ROLE_CLUSTER) {
		const struct oneliner_part *bind = either(t, "bind", NULL, NULL);

		if (bind)
			rc = oneliner_put_str(e->spec, "bind/filename", bind->value, err);
	}
	for (size_t i = 0; !rc && i < t->n; i++)
		if (!t->options[i].used)
			rc = spec_key(registry, t, &t->options[i], e, err);
	return rc;
}
