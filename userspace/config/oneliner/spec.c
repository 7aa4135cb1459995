/* SPDX-License-Identifier: MIT */
/* One-liners: an address and its options as the spec of a listener or cluster. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/addr.h"
#include "oneliner_private.h"

void oneliner_end_clear(struct oneliner_end *e)
{
	cJSON_Delete(e->spec);
	cJSON_Delete(e->address);
	cJSON_Delete(e->options);
	cJSON_Delete(e->retry);
	memset(e, 0, sizeof(*e));
}

static int no_memory(struct l7mp_error *err)
{
	return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

/* *Takes* value. */
static int put(cJSON *tree, const char *pointer, cJSON *value, struct l7mp_error *err)
{
	return tree && value && !l7mp_json_set(tree, pointer, value) ? 0 : no_memory(err);
}

static int put_str(cJSON *tree, const char *pointer, const char *value, struct l7mp_error *err)
{
	return put(tree, pointer, cJSON_CreateString(value), err);
}

static int put_num(cJSON *tree, const char *pointer, double value, struct l7mp_error *err)
{
	return put(tree, pointer, cJSON_CreateNumber(value), err);
}

/* ---- the text after the keyword ---- */

static int check_family(const struct oneliner_text *t, const struct oneliner_word *w,
                        const char *host, struct l7mp_error *err)
{
	struct l7mp_addr a;
	int family;

	if (!w->family || l7mp_addr_parse(&a, host, 0))
		return 0;
	family = l7mp_addr_family(&a) == AF_INET ? 4 : 6;
	if (family == w->family)
		return 0;
	return oneliner_wrong(t, err, t->text_at, "expected an IPv%d address, got %s", w->family,
	                      host);
}

static int listen_at(struct oneliner_text *t, char *text, struct oneliner_end *e,
                     struct l7mp_error *err)
{
	const struct oneliner_part *bind = oneliner_option(t, "bind");
	const struct oneliner_word *w = e->word;
	const char *host;
	int port, rc = oneliner_host_port(t, text, t->text_at, true, &host, &port, err);

	if (rc)
		return rc;
	if (bind && bind->value)
		host = bind->value;
	if (host && !strcmp(host, "*"))
		host = NULL;
	if (host)
		rc = check_family(t, w, host, err);
	else if (w->family)
		host = w->family == 4 ? "0.0.0.0" : "::";
	if (!rc && host)
		rc = put_str(e->spec, "address", host, err);
	return rc ? rc : put_num(e->spec, "port", port, err);
}

/* bind=ADDRESS[:PORT], sourceport=PORT */
static int connect_from(struct oneliner_text *t, struct oneliner_end *e, const char *address,
                        const char *port_at, struct l7mp_error *err)
{
	const struct oneliner_part *bind = oneliner_option(t, "bind");
	const struct oneliner_part *sp = oneliner_option(t, "sourceport");
	const char *host;
	char text[300];
	struct l7mp_addr a;
	int port, rc;

	if (!sp)
		sp = oneliner_option(t, "sp");
	if (bind && bind->value && l7mp_addr_parse(&a, bind->value, 0)) {
		snprintf(text, sizeof(text), "%s", bind->value);
		rc = oneliner_host_port(t, text, bind->value_at, true, &host, &port, err);
		if (!rc && port)
			rc = put_num(e->spec, port_at, port, err);
		if (!rc && host)
			rc = put_str(e->spec, address, host, err);
		if (rc)
			return rc;
	} else if (bind && bind->value) {
		rc = put_str(e->spec, address, bind->value, err);
		if (rc)
			return rc;
	} else if (e->word->family && !strncmp(address, "bind", 4)) {
		/* Binding to the wildcard of a family restricts connects to that family. */
		rc = put_str(e->spec, address, e->word->family == 4 ? "0.0.0.0" : "::", err);
		if (rc)
			return rc;
	}
	if (!sp || !sp->value)
		return 0;
	snprintf(text, sizeof(text), "%s", sp->value);
	rc = oneliner_host_port(t, text, sp->value_at, true, &host, &port, err);
	return rc ? rc : put_num(e->spec, port_at, port, err);
}

static int connect_to(struct oneliner_text *t, char *text, struct oneliner_end *e,
                      struct l7mp_error *err)
{
	const char *host;
	int port, rc = oneliner_host_port(t, text, t->text_at, false, &host, &port, err);

	if (!rc)
		rc = check_family(t, e->word, host, err);
	if (rc)
		return rc;
	if (e->role == L7MP_ROLE_LISTENER) {
		/* A UDP socket with one peer: a singleton listener. */
		rc = put_num(e->spec, "port", 0, err);
		if (!rc)
			rc = put_str(e->spec, "connect/address", host, err);
		if (!rc)
			rc = put_num(e->spec, "connect/port", port, err);
		return rc ? rc : connect_from(t, e, "address", "port", err);
	}
	e->address = cJSON_CreateString(host);
	rc = e->address ? put_num(e->spec, "port", port, err) : no_memory(err);
	return rc ? rc : connect_from(t, e, "bind/address", "bind/port", err);
}

/* HOST[:PORT][/PATH], optionally with the leading slashes of a URL. */
static int url(struct oneliner_text *t, char *text, struct oneliner_end *e, bool listener,
               struct l7mp_error *err)
{
	char *slash, with_port[ONELINER_LEN + 8];
	int rc;

	if (!strncmp(text, "//", 2)) {
		text += 2;
		t->text_at += 2;
	}
	slash = strchr(text, '/');
	if (slash) {
		rc = put_str(e->spec, "path", slash, err);
		if (rc)
			return rc;
		*slash = '\0';
	}
	if (listener)
		return listen_at(t, text, e, err);
	if (*text && !strchr(text[0] == '[' ? text + strcspn(text, "]") : text, ':')) {
		snprintf(with_port, sizeof(with_port), "%s:%d", text, e->word->tls ? 443 : 80);
		text = with_port;
	}
	return connect_to(t, text, e, err);
}

static int file_path(struct oneliner_text *t, char *text, struct oneliner_end *e, bool abstract,
                     struct l7mp_error *err)
{
	char name[ONELINER_LEN + 2];

	(void)t;
	oneliner_unquote(text);
	snprintf(name, sizeof(name), "%s%s", abstract ? "@" : "", text);
	if (e->role == L7MP_ROLE_LISTENER)
		return put_str(e->spec, "filename", name, err);
	e->address = cJSON_CreateString(name);
	return e->address ? 0 : no_memory(err);
}

static int interface(char *text, struct oneliner_end *e, struct l7mp_error *err)
{
	if (e->role == L7MP_ROLE_LISTENER)
		return put_str(e->spec, "interface", text, err);
	e->address = cJSON_CreateString(text);
	return e->address ? 0 : no_memory(err);
}

static int command(struct oneliner_text *t, struct oneliner_end *e, struct l7mp_error *err)
{
	cJSON *words = oneliner_words(t, err);

	if (!words)
		return -EINVAL;
	if (!cJSON_GetArraySize(words)) {
		cJSON_Delete(words);
		return oneliner_wrong(t, err, t->text_at, "expected a command");
	}
	return put(e->spec, "command", words, err);
}

/* JSONSOCKET:UDP:host:port */
static int nested(const struct l7mp_registry *registry, struct oneliner_text *t,
                  struct oneliner_end *e, struct l7mp_error *err)
{
	struct oneliner_text *inner = malloc(sizeof(*inner));
	const struct oneliner_word *w;
	struct oneliner_end ie = {0};
	int rc;

	if (!inner)
		return no_memory(err);
	rc = oneliner_split(t->label, t->text, inner, err);
	w = rc ? NULL : oneliner_word(inner->keyword);
	if (!rc && (!w || !(w->role & e->role) || w->form == FORM_NESTED))
		rc = oneliner_wrong(t, err, t->text_at, "'%s' can't carry a JSONSocket here",
		                    inner->keyword);
	if (!rc) {
		/* The options that follow belong to the transport. */
		memcpy(inner->options, t->options, sizeof(t->options));
		inner->n = t->n;
		rc = oneliner_end(registry, inner, w, e->role, &ie, err);
		for (size_t i = 0; i < t->n; i++)
			t->options[i].used = true;
	}
	if (!rc) {
		e->address = ie.address;
		ie.address = NULL;
		rc = put(e->spec, "transport", ie.spec, err);
		ie.spec = NULL;
	}
	oneliner_end_clear(&ie);
	free(inner);
	return rc;
}

static int read_text(const struct l7mp_registry *registry, struct oneliner_text *t,
                     struct oneliner_end *e, struct l7mp_error *err)
{
	static const char *const expected[] = {[FORM_PORT] = "[ADDRESS:]PORT",
	                                       [FORM_HOST] = "HOST:PORT",
	                                       [FORM_URL] = "HOST:PORT[/PATH]",
	                                       [FORM_URLPORT] = "[ADDRESS:]PORT[/PATH]",
	                                       [FORM_PATH] = "a path",
	                                       [FORM_NAME] = "a name",
	                                       [FORM_COMMAND] = "a command",
	                                       [FORM_IFACE] = "an interface",
	                                       [FORM_POINTER] = "a JSON pointer",
	                                       [FORM_NESTED] = "an address"};
	enum oneliner_form form = e->word->form;

	if (form == FORM_NONE)
		return t->text && *t->text
		               ? oneliner_wrong(t, err, t->text_at,
		                                "%s takes nothing after the colon", t->keyword)
		               : 0;
	if (!t->text || !*t->text)
		return oneliner_wrong(t, err, strlen(t->keyword), "expected %s:%s", t->keyword,
		                      expected[form]);
	switch (form) {
	case FORM_PORT:
		return listen_at(t, t->text, e, err);
	case FORM_HOST:
		return connect_to(t, t->text, e, err);
	case FORM_URL:
	case FORM_URLPORT:
		return url(t, t->text, e, form == FORM_URLPORT, err);
	case FORM_PATH:
	case FORM_NAME:
		return file_path(t, t->text, e, form == FORM_NAME, err);
	case FORM_COMMAND:
		return command(t, e, err);
	case FORM_IFACE:
		return interface(t->text, e, err);
	case FORM_POINTER:
		return put_str(e->spec, "query", t->text, err);
	default:
		return nested(registry, t, e, err);
	}
}

/* ---- options after the commas: socat's names and the spec's own ---- */

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
			rc = put_str(e->spec, names[i].pointer, "pass", err);
			if (rc)
				return rc;
			continue;
		}
		if (!names[i].max && !p->value)
			return oneliner_wrong(t, err, p->at, "%s: expected a value", p->name);
		rc = names[i].max ? number(t, p, names[i].max, &n, err) : 0;
		if (!rc)
			rc = names[i].max ? put_num(e->spec, names[i].pointer, n, err)
			                  : put_str(e->spec, names[i].pointer, p->value, err);
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
	int rc = put(e->spec, "tls", cJSON_CreateObject(), err);

	if (!rc && listener && !cert)
		rc = oneliner_wrong(t, err, 0, "expected the option cert=FILE");
	if (!rc && cert)
		rc = put_str(e->spec, "tls/cert", cert->value, err);
	if (!rc && cert) /* as with socat, the key may be in the same file */
		rc = put_str(e->spec, "tls/key", key ? key->value : cert->value, err);
	if (!rc && ca && !(listener && any))
		rc = put_str(e->spec, listener ? "tls/client_ca" : "tls/ca", ca->value, err);
	if (!rc && name && !listener)
		rc = put_str(e->spec, "tls/sni", name->value, err);
	if (!rc && any && !listener)
		rc = put(e->spec, "tls/insecure", cJSON_CreateTrue(), err);
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
	rc = put_str(e->retry, "retry_on", "always", err);
	if (!rc)
		rc = put_num(e->retry, "num_retries", n, err);
	return rc ? rc : put_num(e->retry, "timeout", (double)(long)(seconds * 1000), err);
}

/* An option that says what is always so here: only its opposite is refused. */
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
		rc = put_str(e->options, "range", range->value, err);
	if (!rc && children)
		rc = number(t, children, 1e7, &n, err);
	if (!rc && children)
		rc = put_num(e->options, "max_sessions", n, err);
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
			rc = put_num(e->options, names[i], n, err);
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
		rc = put_num(e->spec, "options/dscp", (double)((int)n >> 2), err);
	}
	if (!rc && share)
		rc = put(e->spec, "options/reuseport",
		         cJSON_CreateBool(!share->value || strcmp(share->value, "0")), err);
	if (rc || !peer)
		return rc;
	if (!l7mp_addr_parse(&a, peer->value, 0))
		return put_str(e->spec, "connect/address", peer->value, err);
	snprintf(text, sizeof(text), "%s", peer->value);
	rc = oneliner_host_port(t, text, peer->value_at, true, &host, &port, err);
	if (!rc && host)
		rc = put_str(e->spec, "connect/address", host, err);
	return rc ? rc : put_num(e->spec, "connect/port", port, err);
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
	return put(e->spec, pointer, value, err);
}

static int read_options(const struct l7mp_registry *registry, struct oneliner_text *t,
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
			rc = put_str(e->spec, "bind/filename", bind->value, err);
	}
	for (size_t i = 0; !rc && i < t->n; i++)
		if (!t->options[i].used)
			rc = spec_key(registry, t, &t->options[i], e, err);
	return rc;
}

/* ---- one address ---- */

int oneliner_end(const struct l7mp_registry *registry, struct oneliner_text *t,
                 const struct oneliner_word *w, unsigned role, struct oneliner_end *out,
                 struct l7mp_error *err)
{
	int rc;

	out->word = w;
	out->role = role;
	out->spec = cJSON_CreateObject();
	rc = put_str(out->spec, "protocol", w->protocol, err);
	if (!rc)
		rc = read_text(registry, t, out, err);
	return rc ? rc : read_options(registry, t, out, err);
}
