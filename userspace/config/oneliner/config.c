/* SPDX-License-Identifier: MIT */
/* The config of a one-liner: a listener and a cluster, with the transformers between them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/oneliner.h"
#include "l7mp/protodesc.h"
#include "oneliner_int.h"

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
		return oneliner_wrong(t, err, 0, "there is no shell here: expected EXEC:command");
	return oneliner_wrong(t, err, 0, "unknown address type '%s' (see docs/oneliners.md)",
	                      t->keyword);
}

static int argument_read(const char *label, const char *arg, struct argument *a,
                         struct l7mp_error *err)
{
	int rc = oneliner_split(label, arg, &a->text, err);

	if (rc)
		return rc;
	/* Like socat's: a pipe without a name echoes. */
	if ((!strcmp(a->text.keyword, "PIPE") || !strcmp(a->text.keyword, "FIFO")) && !a->text.text)
		strcpy(a->text.keyword, "ECHO");
	a->word = oneliner_find_word(a->text.keyword);
	return a->word ? 0 : unknown(&a->text, err);
}

static void argument_free(struct argument *a)
{
	if (a)
		oneliner_end_clear(&a->end);
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
			rc = oneliner_wrong(&a->text, err, 0, "%s can't be part of a chain",
			                    a->text.keyword);
		if (!rc)
			rc = oneliner_translate(registry, &a->text, a->word, L7MP_ROLE_CLUSTER,
			                        &a->end, err);
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
	rc = oneliner_host_port(t, t->store, 0, true, &host, &port, err);
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
		return oneliner_wrong(&a->text, err, 0,
		                      "one of the two addresses has to listen: neither %s nor %s "
		                      "does",
		                      a->text.keyword, b->text.keyword);
	if (!((*dest)->word->role & L7MP_ROLE_CLUSTER))
		return oneliner_wrong(&b->text, err, 0,
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
		rc = oneliner_translate(registry, &listener->text, listener->word,
		                        L7MP_ROLE_LISTENER, &listener->end, err);
	if (!rc)
		rc = oneliner_translate(registry, &dest->text, dest->word, L7MP_ROLE_CLUSTER,
		                        &dest->end, err);
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
