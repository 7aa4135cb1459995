/* SPDX-License-Identifier: MIT */
/* One address as the spec of a listener or cluster. The options after its commas: options.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/addr.h"
#include "l7mp/protodesc.h"
#include "oneliner_int.h"

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

int oneliner_put(cJSON *tree, const char *pointer, cJSON *value, struct l7mp_error *err)
{
	return tree && value && !l7mp_json_set(tree, pointer, value) ? 0 : no_memory(err);
}

int oneliner_put_str(cJSON *tree, const char *pointer, const char *value, struct l7mp_error *err)
{
	return oneliner_put(tree, pointer, cJSON_CreateString(value), err);
}

int oneliner_put_num(cJSON *tree, const char *pointer, double value, struct l7mp_error *err)
{
	return oneliner_put(tree, pointer, cJSON_CreateNumber(value), err);
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
		rc = oneliner_put_str(e->spec, "address", host, err);
	return rc ? rc : oneliner_put_num(e->spec, "port", port, err);
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
			rc = oneliner_put_num(e->spec, port_at, port, err);
		if (!rc && host)
			rc = oneliner_put_str(e->spec, address, host, err);
		if (rc)
			return rc;
	} else if (bind && bind->value) {
		rc = oneliner_put_str(e->spec, address, bind->value, err);
		if (rc)
			return rc;
	} else if (e->word->family && !strncmp(address, "bind", 4)) {
		/* Binding to the wildcard of a family restricts connects to that family. */
		rc = oneliner_put_str(e->spec, address,
		                      e->word->family == 4 ? "0.0.0.0" : "::", err);
		if (rc)
			return rc;
	}
	if (!sp || !sp->value)
		return 0;
	snprintf(text, sizeof(text), "%s", sp->value);
	rc = oneliner_host_port(t, text, sp->value_at, true, &host, &port, err);
	return rc ? rc : oneliner_put_num(e->spec, port_at, port, err);
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
		rc = oneliner_put_num(e->spec, "port", 0, err);
		if (!rc)
			rc = oneliner_put_str(e->spec, "connect/address", host, err);
		if (!rc)
			rc = oneliner_put_num(e->spec, "connect/port", port, err);
		return rc ? rc : connect_from(t, e, "address", "port", err);
	}
	e->address = cJSON_CreateString(host);
	rc = e->address ? oneliner_put_num(e->spec, "port", port, err) : no_memory(err);
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
		rc = oneliner_put_str(e->spec, "path", slash, err);
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
		return oneliner_put_str(e->spec, "filename", name, err);
	e->address = cJSON_CreateString(name);
	return e->address ? 0 : no_memory(err);
}

static int interface(char *text, struct oneliner_end *e, struct l7mp_error *err)
{
	if (e->role == L7MP_ROLE_LISTENER)
		return oneliner_put_str(e->spec, "interface", text, err);
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
	return oneliner_put(e->spec, "command", words, err);
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
	w = rc ? NULL : oneliner_find_word(inner->keyword);
	if (!rc && (!w || !(w->role & e->role) || w->form == FORM_NESTED))
		rc = oneliner_wrong(t, err, t->text_at, "'%s' can't carry a JSONSocket here",
		                    inner->keyword);
	if (!rc) {
		/* The options that follow belong to the transport. */
		memcpy(inner->options, t->options, sizeof(t->options));
		inner->n = t->n;
		rc = oneliner_translate(registry, inner, w, e->role, &ie, err);
		for (size_t i = 0; i < t->n; i++)
			t->options[i].used = true;
	}
	if (!rc) {
		e->address = ie.address;
		ie.address = NULL;
		rc = oneliner_put(e->spec, "transport", ie.spec, err);
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
		return oneliner_put_str(e->spec, "query", t->text, err);
	default:
		return nested(registry, t, e, err);
	}
}

/* ---- one address ---- */

int oneliner_translate(const struct l7mp_registry *registry, struct oneliner_text *t,
                       const struct oneliner_word *w, unsigned role, struct oneliner_end *out,
                       struct l7mp_error *err)
{
	int rc;

	out->word = w;
	out->role = role;
	out->spec = cJSON_CreateObject();
	rc = oneliner_put_str(out->spec, "protocol", w->protocol, err);
	if (!rc)
		rc = read_text(registry, t, out, err);
	return rc ? rc : oneliner_read_options(registry, t, out, err);
}
