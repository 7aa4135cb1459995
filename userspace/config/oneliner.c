/* SPDX-License-Identifier: MIT */
/*
 * One-liners: parses the text of an address, finds its keyword, translates the address to the spec
 * of a listener or cluster, and makes a config of two of them.
 */
#include "l7mp/oneliner.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/addr.h"
#include "l7mp/protodesc.h"

#define ONELINER_LEN   4096
#define ONELINER_PARTS 64

/* ---- the text of an address: KEYWORD[:text][,name[=value]]... ---- */

struct oneliner_part {
	char *name;
	char *value; /* NULL: without '=' */
	size_t at;   /* position of the name in the argument, from 0 */
	size_t value_at;
	bool used;
};
struct oneliner_text {
	const char *label; /* "argument 1", "--via" */
	const char *arg;
	char keyword[40]; /* upper case */
	char *text;       /* after the colon, still quoted; NULL: none */
	size_t text_at;
	struct oneliner_part options[ONELINER_PARTS];
	size_t n;
	char store[ONELINER_LEN + 1];
};

/* Sets err for position `at`, counted from 0. Returns -EINVAL. */
static int wrong(const struct oneliner_text *t, struct l7mp_error *err, size_t at, const char *fmt,
                 ...) __attribute__((format(printf, 4, 5)));
static int wrong(const struct oneliner_text *t, struct l7mp_error *err, size_t at, const char *fmt,
                 ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA, "%s ('%.80s'), at %zu: %s", t->label,
	                      t->arg, at + 1, text);
}

/*
 * Returns the end of the text: a character of `stop` outside of quotes and brackets, or the
 * terminator; NULL: a quote is not closed.
 */
static char *scan(char *s, const char *stop)
{
	char quote = '\0';

	for (; *s; s++) {
		if (*s == '\\' && s[1] && quote != '\'')
			s++;
		else if (quote)
			quote = *s == quote ? '\0' : quote;
		else if (*s == '"' || *s == '\'')
			quote = *s;
		else if (strchr(stop, *s))
			return s;
	}
	return quote ? NULL : s;
}

/* Removes quotes and backslashes, in place. */
static void unquote(char *text)
{
	char *out = text, quote = '\0';

	for (; *text; text++) {
		if (*text == '\\' && text[1] && quote != '\'')
			*out++ = *++text;
		else if (quote ? *text == quote : *text == '"' || *text == '\'')
			quote = quote ? '\0' : *text;
		else
			*out++ = *text;
	}
	*out = '\0';
}

static int split_options(struct oneliner_text *t, char *s, struct l7mp_error *err)
{
	while (s) {
		struct oneliner_part *p = &t->options[t->n];
		char *end = scan(s, ","), *equals;
		bool more;

		if (t->n == ONELINER_PARTS)
			return wrong(t, err, (size_t)(s - t->store), "too many options");
		if (!end)
			return wrong(t, err, (size_t)(s - t->store), "a quote that is not closed");
		more = *end == ',';
		*end = '\0';
		equals = scan(s, "=");
		p->name = s;
		p->at = (size_t)(s - t->store);
		if (equals && *equals) {
			*equals = '\0';
			p->value = equals + 1;
			p->value_at = (size_t)(p->value - t->store);
			unquote(p->value);
		}
		if (!*p->name)
			return wrong(t, err, p->at, "expected an option after the comma");
		t->n++;
		s = more ? end + 1 : NULL;
	}
	return 0;
}

static int split_address(const char *label, const char *arg, struct oneliner_text *t,
                         struct l7mp_error *err)
{
	char *end, *s = t->store;
	bool colon;
	size_t n;

	memset(t, 0, sizeof(*t));
	t->label = label;
	t->arg = arg;
	if (strlen(arg) > ONELINER_LEN)
		return wrong(t, err, ONELINER_LEN, "longer than %d bytes", ONELINER_LEN);
	strcpy(t->store, arg);
	end = strpbrk(s, ":,");
	if (!end)
		end = s + strlen(s);
	n = (size_t)(end - s);
	if (!n || n >= sizeof(t->keyword))
		return wrong(t, err, 0, "expected an address like TCP-LISTEN:8080");
	for (size_t i = 0; i < n; i++)
		t->keyword[i] = (char)toupper((unsigned char)s[i]);
	colon = *end == ':';
	if (colon) {
		t->text = end + 1;
		t->text_at = (size_t)(t->text - t->store);
		end = scan(t->text, ",");
		if (!end)
			return wrong(t, err, t->text_at, "a quote that is not closed");
	}
	if (!*end)
		return 0;
	*end = '\0';
	return split_options(t, end + 1, err);
}

/* Returns an option and marks it as used; NULL: not given. */
static const struct oneliner_part *take_option(struct oneliner_text *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++) {
		if (strcasecmp(t->options[i].name, name))
			continue;
		t->options[i].used = true;
		return &t->options[i];
	}
	return NULL;
}

/* Whether the whole text is one quoted string. */
static bool in_quotes(const char *s)
{
	char quote = *s++;

	if (quote != '"' && quote != '\'')
		return false;
	for (; *s && *s != quote; s++)
		if (*s == '\\' && s[1] && quote == '"')
			s++;
	return *s && !s[1];
}

/* Returns an array of the words of a command line, respecting quotes; NULL with err. */
static cJSON *split_words(const struct oneliner_text *t, struct l7mp_error *err)
{
	cJSON *words = cJSON_CreateArray();
	char copy[ONELINER_LEN + 1], *s = copy;

	snprintf(copy, sizeof(copy), "%s", t->text ? t->text : "");
	/* socat protects commas and blanks of a command by quoting all of it */
	if (in_quotes(s))
		unquote(s);
	while (words) {
		char *end;
		cJSON *word;
		bool more;

		s += strspn(s, " \t");
		if (!*s)
			break;
		end = scan(s, " \t");
		if (!end) {
			cJSON_Delete(words);
			wrong(t, err, t->text_at, "a quote that is not closed");
			return NULL;
		}
		more = *end != '\0';
		*end = '\0';
		unquote(s);
		word = cJSON_CreateString(s);
		if (!word || !cJSON_AddItemToArray(words, word)) {
			cJSON_Delete(words);
			words = NULL;
			break;
		}
		s = more ? end + 1 : end;
	}
	if (!words)
		l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return words;
}

/*
 * Splits "host:port", "[::1]:port", or only "port" when `host` may be absent, in place: *host is
 * NULL then.
 */
static int split_host_port(const struct oneliner_text *t, char *text, size_t at, bool host_optional,
                           const char **host, int *port, struct l7mp_error *err)
{
	char *colon, *end, *number = text;
	unsigned long n;

	*host = NULL;
	if (*text == '[') {
		end = strchr(text, ']');
		if (!end || end[1] != ':')
			return wrong(t, err, at, "expected [ADDRESS]:PORT");
		*end = '\0';
		*host = text + 1;
		number = end + 2;
	} else {
		colon = strrchr(text, ':');
		if (colon && memchr(text, ':', (size_t)(colon - text)))
			return wrong(t, err, at,
			             "expected an IPv6 address in brackets, like [::1]:80");
		if (colon) {
			*colon = '\0';
			*host = text;
			number = colon + 1;
		} else if (!host_optional) {
			return wrong(t, err, at, "expected HOST:PORT, got '%s'", text);
		}
	}
	if (*host && !**host) {
		if (!host_optional)
			return wrong(t, err, at, "expected a host before the colon");
		*host = NULL;
	}
	at += (size_t)(number - text);
	/* getservbyname(3) is not thread-safe, but there is no other thread yet. */
	if (isalpha((unsigned char)*number)) {
		const char *l4 = strncmp(t->keyword, "UDP", 3) ? "tcp" : "udp";
		const struct servent *service = getservbyname(number, l4);

		if (!service)
			return wrong(
			        t, err, at,
			        "expected a port in %d..65535, got '%s', which is no %s service",
			        host_optional ? 0 : 1, number, l4);
		*port = ntohs((uint16_t)service->s_port);
		return 0;
	}
	errno = 0;
	n = strtoul(number, &end, 10);
	if (!isdigit((unsigned char)*number) || *end || errno || n > 65535 ||
	    (!n && !host_optional))
		return wrong(t, err, at, "expected a port in %d..65535, got '%s'",
		             host_optional ? 0 : 1, number);
	*port = (int)n;
	return 0;
}

/* ---- keywords, including those of socat and websocat ---- */

enum oneliner_form {
	FORM_NONE,    /* no text */
	FORM_PORT,    /* [ADDRESS:]PORT */
	FORM_HOST,    /* HOST:PORT */
	FORM_URL,     /* HOST[:PORT][/PATH] */
	FORM_URLPORT, /* [ADDRESS:]PORT[/PATH] */
	FORM_PATH,    /* a file's path */
	FORM_NAME,    /* an abstract UNIX name */
	FORM_COMMAND,
	FORM_IFACE,
	FORM_POINTER, /* JSON pointer */
	FORM_NESTED,  /* another address */
};
struct oneliner_word {
	const char *keyword;
	unsigned role; /* L7MP_ROLE_LISTENER, _CLUSTER or both */
	const char *protocol;
	enum oneliner_form form;
	int family; /* 4, 6; 0: any */
	bool tls;
};

#define L L7MP_ROLE_LISTENER
#define C L7MP_ROLE_CLUSTER

/* X(suffix of the keyword, family) */
#define FAMILIES(X) X("", 0) X("4", 4) X("6", 6)

#define UDP_WORDS(v, f)                                                                            \
	{"UDP" v "-LISTEN", L, "UDP", FORM_PORT, f, 0}, {"UDP" v "-L", L, "UDP", FORM_PORT, f, 0}, \
	        {"UDP" v "-RECVFROM", L, "UDP", FORM_PORT, f, 0},                                  \
	        {"UDP" v "-RECV", L, "UDP", FORM_PORT, f, 0},                                      \
	        {"UDP" v, L | C, "UDP", FORM_HOST, f, 0},                                          \
	        {"UDP" v "-CONNECT", L | C, "UDP", FORM_HOST, f, 0},                               \
	        {"UDP" v "-C", L | C, "UDP", FORM_HOST, f, 0},                                     \
	        {"UDP" v "-SENDTO", C, "UDP", FORM_HOST, f, 0},                                    \
	        {"UDP" v "-DATAGRAM", L | C, "UDP", FORM_HOST, f, 0},
#define TCP_WORDS(v, f)                                                                            \
	{"TCP" v "-LISTEN", L, "TCP", FORM_PORT, f, 0}, {"TCP" v "-L", L, "TCP", FORM_PORT, f, 0}, \
	        {"TCP" v, C, "TCP", FORM_HOST, f, 0},                                              \
	        {"TCP" v "-CONNECT", C, "TCP", FORM_HOST, f, 0},                                   \
	        {"TCP" v "-C", C, "TCP", FORM_HOST, f, 0},
#define TLS_WORDS(v)                                                                   \
	{v "-LISTEN", L, "TCP", FORM_PORT, 0, 1}, {v "-L", L, "TCP", FORM_PORT, 0, 1}, \
	        {v, C, "TCP", FORM_HOST, 0, 1}, {v "-CONNECT", C, "TCP", FORM_HOST, 0, 1},
#define WS_WORDS(v, tls)                                          \
	{v "-LISTEN", L, "WebSocket", FORM_URLPORT, 0, tls},      \
	        {v "-L", L, "WebSocket", FORM_URLPORT, 0, tls},   \
	        {v, C, "WebSocket", FORM_URL, 0, tls},            \
	        {v "-CONNECT", C, "WebSocket", FORM_URL, 0, tls}, \
	        {v "-C", C, "WebSocket", FORM_URL, 0, tls},
#define UNIX_WORDS(v, form)                                               \
	{v "-LISTEN", L, "UnixDomainSocket", form, 0, 0},                 \
	        {v "-L", L, "UnixDomainSocket", form, 0, 0},              \
	        {v "-CONNECT", C, "UnixDomainSocket", form, 0, 0},        \
	        {v "-CLIENT", C, "UnixDomainSocket", form, 0, 0},         \
	        {v "-C", C, "UnixDomainSocket", form, 0, 0},              \
	        {v, C, "UnixDomainSocket", form, 0, 0},                   \
	        {v "-RECVFROM", L, "UNIX/dgram", form, 0, 0},             \
	        {v "-RECV", L, "UNIX/dgram", form, 0, 0},                 \
	        {v "-SENDTO", C, "UNIX/dgram", form, 0, 0},               \
	        {v "-SEQPACKET-LISTEN", L, "UNIX/seqpacket", form, 0, 0}, \
	        {v "-SEQPACKET", C, "UNIX/seqpacket", form, 0, 0},

static const struct oneliner_word keywords[] = {
        /* clang-format off */
	FAMILIES(UDP_WORDS)
	FAMILIES(TCP_WORDS)
	TLS_WORDS("OPENSSL")
	TLS_WORDS("SSL")
	TLS_WORDS("TLS")
	WS_WORDS("WS", 0)
	WS_WORDS("WEBSOCKET", 0)
	WS_WORDS("WSS", 1)
	UNIX_WORDS("UNIX", FORM_PATH)
	UNIX_WORDS("ABSTRACT", FORM_NAME)
	{"HTTP-LISTEN", L, "HTTP", FORM_PORT, 0, 0},
	{"HTTP-L", L, "HTTP", FORM_PORT, 0, 0},
	{"PIPE", L | C, "PIPE", FORM_PATH, 0, 0},
	{"FIFO", L | C, "PIPE", FORM_PATH, 0, 0},
	{"EXEC", C, "STDIO-fork", FORM_COMMAND, 0, 0},
	{"STDIO", L | C, "Stdio", FORM_NONE, 0, 0},
	{"-", L | C, "Stdio", FORM_NONE, 0, 0},
	{"PACKET", L | C, "AF_PACKET", FORM_IFACE, 0, 0},
	{"INTERFACE", L | C, "AF_PACKET", FORM_IFACE, 0, 0},
	{"ECHO", C, "Echo", FORM_NONE, 0, 0},
	{"MIRROR", C, "Echo", FORM_NONE, 0, 0},
	{"DISCARD", C, "Discard", FORM_NONE, 0, 0},
	{"LOGGER", C, "Logger", FORM_NONE, 0, 0},
	{"METRIC", C, "Metric", FORM_NONE, 0, 0},
	{"JSONENCAP", C, "JSONEncap", FORM_NONE, 0, 0},
	{"JSONDECAP", C, "JSONDecap", FORM_NONE, 0, 0},
	{"SYNC", C, "Sync", FORM_POINTER, 0, 0},
	{"JSONSOCKET-LISTEN", L, "JSONSocket", FORM_NESTED, 0, 0},
	{"JSONSOCKET", C, "JSONSocket", FORM_NESTED, 0, 0},
	{"L7MPCONTROLLER", C, "L7mpController", FORM_NONE, 0, 0},
	{"PROMETHEUS", C, "Prometheus", FORM_NONE, 0, 0},
        /* clang-format on */
};
#undef L
#undef C

static const struct oneliner_word *find_word(const char *keyword)
{
	for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
		if (strcmp(keywords[i].keyword, keyword) == 0)
			return &keywords[i];
	return NULL;
}

/* ---- an address as a spec ---- */

/* The translation of one address. It owns its trees. */
struct oneliner_end {
	const struct oneliner_word *word;
	unsigned role; /* L7MP_ROLE_LISTENER or L7MP_ROLE_CLUSTER */
	cJSON *spec;
	cJSON *address; /* of a cluster's endpoint; NULL: none */
	cJSON *options; /* of a listener; NULL: none */
	cJSON *retry;   /* NULL: none */
};

static void end_clear(struct oneliner_end *e)
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
	return wrong(t, err, t->text_at, "expected an IPv%d address, got %s", w->family, host);
}

static int listen_at(struct oneliner_text *t, char *text, struct oneliner_end *e,
                     struct l7mp_error *err)
{
	const struct oneliner_part *bind = take_option(t, "bind");
	const struct oneliner_word *w = e->word;
	const char *host;
	int port, rc = split_host_port(t, text, t->text_at, true, &host, &port, err);

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
	const struct oneliner_part *bind = take_option(t, "bind");
	const struct oneliner_part *sp = take_option(t, "sourceport");
	const char *host;
	char text[300];
	struct l7mp_addr a;
	int port, rc;

	if (!sp)
		sp = take_option(t, "sp");
	if (bind && bind->value && l7mp_addr_parse(&a, bind->value, 0)) {
		snprintf(text, sizeof(text), "%s", bind->value);
		rc = split_host_port(t, text, bind->value_at, true, &host, &port, err);
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
	rc = split_host_port(t, text, sp->value_at, true, &host, &port, err);
	return rc ? rc : put_num(e->spec, port_at, port, err);
}

static int connect_to(struct oneliner_text *t, char *text, struct oneliner_end *e,
                      struct l7mp_error *err)
{
	const char *host;
	int port, rc = split_host_port(t, text, t->text_at, false, &host, &port, err);

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
	unquote(text);
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
	cJSON *words = split_words(t, err);

	if (!words)
		return -EINVAL;
	if (!cJSON_GetArraySize(words)) {
		cJSON_Delete(words);
		return wrong(t, err, t->text_at, "expected a command");
	}
	return put(e->spec, "command", words, err);
}

/*
 * Translates an address to a listener or a cluster. Returns 0, or a negative errno with err set.
 * The caller clears *out with end_clear() in either case.
 */
static int translate(const struct l7mp_registry *registry, struct oneliner_text *t,
                     const struct oneliner_word *w, unsigned role, struct oneliner_end *out,
                     struct l7mp_error *err);

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
	rc = split_address(t->label, t->text, inner, err);
	w = rc ? NULL : find_word(inner->keyword);
	if (!rc && (!w || !(w->role & e->role) || w->form == FORM_NESTED))
		rc = wrong(t, err, t->text_at, "'%s' can't carry a JSONSocket here",
		           inner->keyword);
	if (!rc) {
		/* The options that follow belong to the transport. */
		memcpy(inner->options, t->options, sizeof(t->options));
		inner->n = t->n;
		rc = translate(registry, inner, w, e->role, &ie, err);
		for (size_t i = 0; i < t->n; i++)
			t->options[i].used = true;
	}
	if (!rc) {
		e->address = ie.address;
		ie.address = NULL;
		rc = put(e->spec, "transport", ie.spec, err);
		ie.spec = NULL;
	}
	end_clear(&ie);
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
		return t->text && *t->text ? wrong(t, err, t->text_at,
		                                   "%s takes nothing after the colon", t->keyword)
		                           : 0;
	if (!t->text || !*t->text)
		return wrong(t, err, strlen(t->keyword), "expected %s:%s", t->keyword,
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
		return wrong(t, err, p->value ? p->value_at : p->at,
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
		const struct oneliner_part *p = take_option(t, names[i].option);
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
			return wrong(t, err, p->at, "%s: expected a value", p->name);
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
	const struct oneliner_part *p = take_option(t, a);

	if (!p && b)
		p = take_option(t, b);
	if (!p && c)
		p = take_option(t, c);
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
		rc = wrong(t, err, 0, "expected the option cert=FILE");
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
	const struct oneliner_part *times = take_option(t, "retry");
	const struct oneliner_part *forever = take_option(t, "forever");
	const struct oneliner_part *interval = take_option(t, "interval");
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

/* An option for behaviour that is always on: only its negation is rejected. */
static int always(struct oneliner_text *t, const char *name, struct l7mp_error *err)
{
	const struct oneliner_part *p = take_option(t, name);

	if (!p || !p->value || !strcmp(p->value, "1"))
		return 0;
	return wrong(t, err, p->value_at, "%s is always on", p->name);
}

/* range=NETWORK[/BITS], max-children=N */
static int who_may(struct oneliner_text *t, struct oneliner_end *e, struct l7mp_error *err)
{
	const struct oneliner_part *range = take_option(t, "range");
	const struct oneliner_part *children = take_option(t, "max-children");
	struct l7mp_addr net;
	unsigned bits;
	double n;
	int rc = 0;

	if ((range || children) && !e->options)
		e->options = cJSON_CreateObject();
	if (range && (!range->value || l7mp_addr_parse_net(range->value, &net, &bits)))
		return wrong(t, err, range->value ? range->value_at : range->at,
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
		const struct oneliner_part *p = take_option(t, names[i]);
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
	const struct oneliner_part *share = take_option(t, "reuseport");
	const struct oneliner_part *tos = take_option(t, "tos");
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
	rc = split_host_port(t, text, peer->value_at, true, &host, &port, err);
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
		return wrong(t, err, p->at, "%s has no option '%s'", t->keyword, p->name);
	if (!p->value)
		return wrong(t, err, p->at, "%s: expected a value", p->name);
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

static int translate(const struct l7mp_registry *registry, struct oneliner_text *t,
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

/* ---- the config of a one-liner ---- */

#define LISTENER_NAME   "listener"
#define CLUSTER_NAME    "cluster"
#define CONTROLLER_NAME "controller-listener"
#define LINGER_S        0.5 /* time for the last answers from a peer that does not signal its end */

/* One argument: its text, and the role it can have. */
struct argument {
	struct oneliner_text text;
	const struct oneliner_word *word;
	struct oneliner_end end;
};

static int unknown(const struct oneliner_text *t, struct l7mp_error *err)
{
	if (!strcmp(t->keyword, "SYSTEM") || !strcmp(t->keyword, "SHELL"))
		return wrong(t, err, 0, "there is no shell here: expected EXEC:command");
	return wrong(t, err, 0, "unknown address type '%s' (see docs/oneliners.md)", t->keyword);
}

static int argument_read(const char *label, const char *arg, struct argument *a,
                         struct l7mp_error *err)
{
	int rc = split_address(label, arg, &a->text, err);

	if (rc)
		return rc;
	/* Like socat's: a pipe without a name echoes. */
	if ((!strcmp(a->text.keyword, "PIPE") || !strcmp(a->text.keyword, "FIFO")) && !a->text.text)
		strcpy(a->text.keyword, "ECHO");
	a->word = find_word(a->text.keyword);
	return a->word ? 0 : unknown(&a->text, err);
}

static void argument_free(struct argument *a)
{
	if (a)
		end_clear(&a->end);
	free(a);
}

/* Makes a cluster of the parsed address; empties e. NULL: no memory. */
static cJSON *cluster(struct oneliner_end *e, const char *name)
{
	cJSON *c = cJSON_CreateObject(), *spec = e->spec, *address = e->address;
	int rc = 0;

	e->spec = e->address = NULL;
	if (name)
		rc |= l7mp_json_add_str(c, "name", name);
	rc |= l7mp_json_add(c, "spec", spec);
	if (address)
		rc |= l7mp_json_add(c, "endpoints", cJSON_CreateArray());
	if (address)
		rc |= l7mp_json_set(c, "endpoints/0/spec/address", address);
	if (rc) {
		cJSON_Delete(c);
		return NULL;
	}
	return c;
}

/* A Logger in a chain prints time and direction by default. */
static int logger_defaults(struct oneliner_end *e, const char *prefix)
{
	int rc = 0;

	if (strcmp(e->word->protocol, "Logger"))
		return 0;
	if (prefix && !l7mp_json_member(e->spec, "log_prefix"))
		rc |= l7mp_json_add_str(e->spec, "log_prefix", prefix);
	if (!l7mp_json_member(e->spec, "log_time"))
		rc |= l7mp_json_add(e->spec, "log_time", cJSON_CreateTrue());
	return rc ? -ENOMEM : 0;
}

/* The transformers of one direction into `list`. */
static int chain(const struct l7mp_registry *registry, const char *label, const char *const *texts,
                 size_t n, cJSON *list, struct l7mp_error *err)
{
	const char *prefix = strcmp(label, "--via") ? "< " : "> ";

	for (size_t i = 0; i < n; i++) {
		struct argument *a = calloc(1, sizeof(*a));
		cJSON *c = NULL;
		int rc = -ENOMEM;

		if (a)
			rc = argument_read(label, texts[i], a, err);
		if (!rc && !(a->word->role & L7MP_ROLE_CLUSTER))
			rc = wrong(&a->text, err, 0, "%s can't be part of a chain",
			           a->text.keyword);
		if (!rc)
			rc = translate(registry, &a->text, a->word, L7MP_ROLE_CLUSTER, &a->end,
			               err);
		if (!rc)
			rc = logger_defaults(&a->end, prefix);
		if (!rc) {
			c = cluster(&a->end, NULL);
			rc = c && cJSON_AddItemToArray(list, c) ? 0 : -ENOMEM;
		}
		argument_free(a);
		if (rc == -ENOMEM)
			l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
		if (rc)
			return rc;
	}
	return 0;
}

static int add_api(cJSON *listeners, const char *api, struct l7mp_error *err)
{
	struct oneliner_text *t = calloc(1, sizeof(*t));
	cJSON *l = cJSON_CreateObject();
	const char *host;
	int port, rc;

	if (!t || !l)
		goto oom;
	t->label = "--api";
	t->arg = api;
	snprintf(t->store, sizeof(t->store), "%s", api);
	rc = split_host_port(t, t->store, 0, true, &host, &port, err);
	if (rc) {
		free(t);
		cJSON_Delete(l);
		return rc;
	}
	rc = l7mp_json_add_str(l, "name", CONTROLLER_NAME);
	rc |= l7mp_json_set(l, "spec/protocol", cJSON_CreateString("HTTP"));
	rc |= l7mp_json_set(l, "spec/address", cJSON_CreateString(host ? host : "127.0.0.1"));
	rc |= l7mp_json_set(l, "spec/port", cJSON_CreateNumber(port));
	rc |= l7mp_json_add(l, "rules", cJSON_CreateArray());
	rc |= l7mp_json_set(l, "rules/0/action/route/destination/name",
	                    cJSON_CreateString("l7mp-controller"));
	rc |= l7mp_json_set(l, "rules/0/action/route/destination/spec/protocol",
	                    cJSON_CreateString("L7mpController"));
	free(t);
	t = NULL;
	if (!rc && cJSON_AddItemToArray(listeners, l))
		return 0;
oom:
	free(t);
	cJSON_Delete(l);
	return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

/*
 * Decides which address is the listener: the first, if it can be one; else the order is reversed
 * (socat - TCP-LISTEN:8080).
 */
static int choose(struct argument *a, struct argument *b, struct argument **listener,
                  struct argument **dest, struct l7mp_error *err)
{
	bool a_only_cluster = !(a->word->role & L7MP_ROLE_LISTENER);
	bool b_only_listener = !(b->word->role & L7MP_ROLE_CLUSTER);

	*listener =
	        a_only_cluster || (b_only_listener && a->word->role & L7MP_ROLE_CLUSTER) ? b : a;
	*dest = *listener == a ? b : a;
	if (!((*listener)->word->role & L7MP_ROLE_LISTENER))
		return wrong(&a->text, err, 0,
		             "one of the two addresses has to listen: neither %s nor %s "
		             "does",
		             a->text.keyword, b->text.keyword);
	if (!((*dest)->word->role & L7MP_ROLE_CLUSTER))
		return wrong(&b->text, err, 0,
		             "one of the two addresses has to connect: %s and %s listen",
		             a->text.keyword, b->text.keyword);
	return 0;
}

/* Standard input as a client: the proxy ends with it, as socat does. */
static int client(struct oneliner_end *e, const struct oneliner_word *dest)
{
	bool datagrams = !strcmp(dest->protocol, "UDP") || !strcmp(dest->protocol, "UNIX/dgram") ||
	                 !strcmp(dest->protocol, "AF_PACKET");
	int rc = l7mp_json_add(e->spec, "exit", cJSON_CreateTrue());

	if (datagrams && !l7mp_json_member(e->spec, "linger"))
		rc |= l7mp_json_add_num(e->spec, "linger", LINGER_S);
	return rc;
}

/* socat's -u and -U: data in the other direction goes to a Discard. */
static int one_way(const struct l7mp_oneliner *o, cJSON *forth, cJSON *back, bool swapped)
{
	cJSON *list = o->only_forth != swapped ? back : forth, *c;

	if (!o->only_forth && !o->only_back)
		return 0;
	c = cJSON_CreateObject();
	if (l7mp_json_set(c, "spec/protocol", cJSON_CreateString("Discard")) ||
	    !cJSON_AddItemToArray(list, c)) {
		cJSON_Delete(c);
		return -ENOMEM;
	}
	return 0;
}

/* -T, for a listener without an idle_timeout of its own. */
static int idle_timeout(const struct l7mp_oneliner *o, struct oneliner_end *e)
{
	if (o->idle_timeout <= 0 || l7mp_json_member(e->options, "idle_timeout"))
		return 0;
	if (!e->options)
		e->options = cJSON_CreateObject();
	return l7mp_json_add_num(e->options, "idle_timeout", o->idle_timeout);
}

static cJSON *compose(const struct l7mp_registry *registry, const struct l7mp_oneliner *o,
                      struct argument *listener, struct argument *dest, bool swapped,
                      struct l7mp_error *err)
{
	cJSON *config = cJSON_CreateObject(), *listeners = cJSON_CreateArray();
	cJSON *l = cJSON_CreateObject(), *route = cJSON_CreateObject();
	cJSON *forth = cJSON_CreateArray(), *back = cJSON_CreateArray();
	int rc = l7mp_json_add(config, "listeners", listeners), bad;

	rc |= idle_timeout(o, &listener->end);
	if (!strcmp(listener->word->protocol, "Stdio"))
		rc |= client(&listener->end, dest->word);
	rc |= logger_defaults(&dest->end, NULL);
	rc |= l7mp_json_add_str(l, "name", LISTENER_NAME);
	rc |= l7mp_json_add(l, "spec", listener->end.spec);
	listener->end.spec = NULL;
	if (listener->end.options)
		rc |= l7mp_json_add(l, "options", listener->end.options);
	listener->end.options = NULL;
	rc |= l7mp_json_add(route, "destination", cluster(&dest->end, CLUSTER_NAME));
	if (dest->end.retry)
		rc |= l7mp_json_add(route, "retry", dest->end.retry);
	dest->end.retry = NULL;
	bad = chain(registry, "--via", o->via, o->n_via, swapped ? back : forth, err);
	if (!bad)
		bad = chain(registry, "--back", o->back, o->n_back, swapped ? forth : back, err);
	rc |= one_way(o, forth, back, swapped);
	rc |= l7mp_json_add(route, "ingress", forth);
	rc |= l7mp_json_add(route, "egress", back);
	rc |= l7mp_json_add(l, "rules", cJSON_CreateArray());
	rc |= l7mp_json_set(l, "rules/0/action/route", route);
	if (rc || !cJSON_AddItemToArray(listeners, l)) {
		cJSON_Delete(l);
		rc = -ENOMEM;
	}
	if (!rc && !bad && o->api)
		bad = add_api(listeners, o->api, err);
	if (rc && !bad)
		bad = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (!bad)
		return config;
	cJSON_Delete(config);
	return NULL;
}

cJSON *l7mp_oneliner_config(const struct l7mp_registry *registry, const struct l7mp_oneliner *o,
                            struct l7mp_error *err)
{
	struct argument *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
	struct argument *listener = NULL, *dest = NULL;
	cJSON *config = NULL;
	int rc = a && b ? 0 : l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");

	if (!rc)
		rc = argument_read("argument 1", o->first, a, err);
	if (!rc)
		rc = argument_read("argument 2", o->second, b, err);
	if (!rc)
		rc = choose(a, b, &listener, &dest, err);
	if (!rc)
		rc = translate(registry, &listener->text, listener->word, L7MP_ROLE_LISTENER,
		               &listener->end, err);
	if (!rc)
		rc = translate(registry, &dest->text, dest->word, L7MP_ROLE_CLUSTER, &dest->end,
		               err);
	if (!rc)
		config = compose(registry, o, listener, dest, listener == b, err);
	argument_free(a);
	argument_free(b);
	return config;
}

/* ---- where a finding of the schema comes from ---- */

static const char *says(char *buf, size_t size, const char *label, const char *arg)
{
	snprintf(buf, size, "%s ('%.80s')", label, arg);
	return buf;
}

const char *l7mp_oneliner_where(const struct l7mp_oneliner *o, const char *path, char *buf,
                                size_t size)
{
	static const char spec[] = "listeners[0].spec", options[] = "listeners[0].options";
	static const char route[] = "listeners[0].rules[0].action.route.";
	struct argument *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
	struct argument *listener = NULL, *dest = NULL;
	bool swapped, ok = a && b && !argument_read("", o->first, a, NULL) &&
	                   !argument_read("", o->second, b, NULL) &&
	                   !choose(a, b, &listener, &dest, NULL);

	swapped = listener == b;
	argument_free(a);
	argument_free(b);
	if (!ok)
		return NULL;
	if (!strncmp(path, spec, sizeof(spec) - 1) || !strncmp(path, options, sizeof(options) - 1))
		return swapped ? says(buf, size, "argument 2", o->second)
		               : says(buf, size, "argument 1", o->first);
	if (!strncmp(path, "listeners[1]", 12) && o->api)
		return says(buf, size, "--api", o->api);
	if (strncmp(path, route, sizeof(route) - 1))
		return NULL;
	path += sizeof(route) - 1;
	if (!strncmp(path, "destination", 11) || !strncmp(path, "retry", 5))
		return swapped ? says(buf, size, "argument 1", o->first)
		               : says(buf, size, "argument 2", o->second);
	if (!strncmp(path, "ingress", 7) || !strncmp(path, "egress", 6)) {
		const char *bracket = strchr(path, '[');
		size_t i = bracket ? strtoul(bracket + 1, NULL, 10) : 0;
		bool via = (*path == 'i') != swapped;

		if (via && i < o->n_via)
			return says(buf, size, "--via", o->via[i]);
		if (!via && i < o->n_back)
			return says(buf, size, "--back", o->back[i]);
	}
	return NULL;
}
