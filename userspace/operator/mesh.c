/* SPDX-License-Identifier: MIT */
/*
 * The kinds of l7mp.io: a VirtualService becomes a listener, a Target a cluster, a Rule a rule in a
 * rule list of the proxy's own config, a Route a route. A Route, and also a Target, is put on each
 * proxy with an object that refers to it. A reference to a VirtualService or a Service creates a
 * cluster from it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core.h"
#include "l7mp/model.h"

static void build(struct op_render *x, struct op_node *n);
static void link_again(struct op_render *x, struct op_unit *u);

/* ---- references ---- */

struct reference {
	char ns[64], name[254];
	char port[64];     /* of a Service: "" if not given */
	enum op_kind kind; /* OP_KINDS: any */
	bool path;         /* a path, not a name */
};

static bool copy_part(char *out, size_t size, const char *from, size_t len)
{
	if (!len || len >= size)
		return false;
	memcpy(out, from, len);
	out[len] = 0;
	return true;
}

static enum op_kind kind_by(const char *word, size_t len, bool plural)
{
	static const enum op_kind kinds[] = {OP_TARGET, OP_VSVC, OP_ROUTE, OP_SERVICE};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(kinds); i++) {
		const struct op_kind_info *k = &op_kinds[kinds[i]];
		const char *name = plural ? k->plural : k->kind;

		if (strlen(name) == len && strncasecmp(name, word, len) == 0)
			return kinds[i];
	}
	return OP_KINDS;
}

static const char *after(const char *text, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(text, prefix, n) == 0 ? text + n : NULL;
}

/* NS/WORD/NAME, or WORD/NS/NAME with `first`. */
static bool parse_path(const char *rest, bool first, struct reference *out)
{
	const char *a = strchr(rest, '/'), *b = a ? strchr(a + 1, '/') : NULL;
	const char *word = first ? rest : a + 1, *ns = first ? a + 1 : rest;

	if (!b || strchr(b + 1, '/'))
		return false;
	out->path = true;
	out->kind = kind_by(word, (size_t)((first ? a : b) - word), !first);
	return out->kind != OP_KINDS &&
	       copy_part(out->ns, sizeof(out->ns), ns, (size_t)((first ? b : a) - ns)) &&
	       copy_part(out->name, sizeof(out->name), b + 1, strlen(b + 1));
}

/*
 * Returns false when the text can't be a reference to an object: then it is a name in the proxy's
 * own config.
 */
static bool parse_reference(const char *text, const char *own_ns, struct reference *out)
{
	const char *rest, *slash;
	char *colon;

	*out = (struct reference){.kind = OP_KINDS};
	if ((rest = after(text, "/apis/l7mp.io/v1/namespaces/")) ||
	    (rest = after(text, "/api/v1/namespaces/"))) {
		if (!parse_path(rest, false, out))
			return false;
	} else if ((rest = after(text, "/l7mp.io/v1/")) || (rest = after(text, "/v1/"))) {
		if (!parse_path(rest, true, out))
			return false;
	} else {
		slash = strchr(text, '/');
		if (!copy_part(out->ns, sizeof(out->ns), slash ? text : own_ns,
		               slash ? (size_t)(slash - text) : strlen(own_ns)))
			return false;
		rest = slash ? slash + 1 : text;
		if (strchr(rest, '/') ||
		    !copy_part(out->name, sizeof(out->name), rest, strlen(rest)))
			return false;
	}
	colon = strrchr(out->name, ':');
	if (colon && copy_part(out->port, sizeof(out->port), colon + 1, strlen(colon + 1)))
		*colon = 0;
	return true;
}

static const struct op_obj *find_kind(struct op_render *x, const struct reference *ref,
                                      enum op_kind kind)
{
	/* Only a Service has a port; other names may have a colon in them. */
	if ((ref->kind != OP_KINDS && ref->kind != kind) || (*ref->port && kind != OP_SERVICE))
		return NULL;
	op_memo_object(x, kind, ref->ns, ref->name);
	return op_find(x->s, kind, ref->ns, ref->name);
}

/* Rejects a reference into another namespace without a ReferenceGrant. */
static bool may_refer(struct op_translate *t, const struct op_obj *to, const char *text)
{
	const struct op_obj *from = t->node->obj;

	op_memo_grant(t->x, from->kind, from->ns, to->kind, to->ns, to->name);
	if (t->x->s->settings.any_namespace ||
	    op_granted(t->x->s, from->kind, from->ns, op_kinds[to->kind].group,
	               op_kinds[to->kind].kind, to->ns, to->name))
		return true;
	t->failed = true;
	op_refuse_node(t->node, "RefNotPermitted",
	               "%s: no ReferenceGrant in namespace %s lets a %s of namespace %s refer to "
	               "'%.200s'",
	               t->path, to->ns, op_kinds[from->kind].kind, from->ns, text);
	return false;
}

static char *out_of_memory(struct op_translate *t)
{
	t->x->oom = true;
	t->failed = true;
	return NULL;
}

/* A name without an object: a name in the proxy's own config. */
static char *own_name(struct op_translate *t, const struct reference *ref, bool parsed,
                      const char *text)
{
	char *name = strdup(parsed && ref->path ? ref->name : text);

	if (!name)
		return out_of_memory(t);
	if (parsed)
		op_note(t->node,
		        "'%.200s' is no object: taken for a name in the proxy's own config", text);
	if (strpbrk(name, " \t\r\n") || !*name || strlen(name) > L7MP_NAME_MAX) {
		op_translate_fail(t, "expected a name, got '%.80s'", text);
		free(name);
		return NULL;
	}
	return name;
}

/* ---- clusters of VirtualServices and Services ---- */

/* Returns the listener's spec without keys that only listeners have. */
static cJSON *linked_spec(struct op_translate *t, const cJSON *listener)
{
	static const char *const gone[] = {"connect", "address", "options", "tls"};
	cJSON *spec = op_translate_spec(t, l7mp_json_member(listener, "spec"));
	cJSON *transport = spec ? l7mp_json_member(spec, "transport") : NULL;

	for (size_t i = 0; spec && i < L7MP_ARRAY_SIZE(gone); i++) {
		cJSON_DeleteItemFromObjectCaseSensitive(spec, gone[i]);
		if (transport)
			cJSON_DeleteItemFromObjectCaseSensitive(transport, gone[i]);
	}
	return spec;
}

/*
 * The endpoints of a linked VirtualService are the pods that it selects itself, in its own
 * namespace and with its own grants. An invalid selector selects none; its status reports that.
 */
static int linked_endpoints(struct op_render *x, const struct op_obj *vsvc, const char *cluster,
                            cJSON *list)
{
	const cJSON *selector = l7mp_json_member(vsvc->spec, "selector");
	char why[200];
	int rc = list ? op_pod_endpoints(x->s, vsvc, selector, cluster, list, why, sizeof(why))
	              : -ENOMEM;

	op_memo_pods(x, vsvc, selector);
	return rc == -EINVAL ? 0 : rc;
}

/* Adds round robin, for generated clusters. */
static int add_policy(cJSON *cluster)
{
	cJSON *lb = cJSON_CreateObject();

	if (l7mp_json_add_str(lb, "policy", "RoundRobin")) {
		cJSON_Delete(lb);
		return -ENOMEM;
	}
	return l7mp_json_add(cluster, "loadbalancer", lb);
}

/*
 * Creates the cluster of a VirtualService that is referred to by name. Errors are reported in its
 * own status; the cluster is then missing.
 */
static void vsvc_cluster(struct op_render *x, struct op_unit *u, const struct op_obj *vsvc)
{
	struct op_node scratch = {.kind = OP_VSVC, .obj = vsvc};
	struct op_translate own = {.x = x, .node = &scratch, .unit = u};
	const cJSON *listener = l7mp_json_member(vsvc->spec, "listener");
	cJSON *c = cJSON_CreateObject(), *spec = linked_spec(&own, listener);
	int rc = c ? 0 : -ENOMEM;

	if (spec && !rc) {
		rc = l7mp_json_add_str(c, "name", u->name);
		rc = rc ? rc : l7mp_json_add(c, "endpoints", cJSON_CreateArray());
		rc = rc ? rc : linked_endpoints(x, vsvc, u->name, l7mp_json_member(c, "endpoints"));
		rc = rc ? rc : add_policy(c);
		if (!rc) {
			rc = l7mp_json_add(c, "spec", spec);
			spec = NULL;
		}
		if (!rc && op_translate_check(&own, &l7mp_schema_cluster, c, "spec.listener")) {
			op_unit_text(x, u, c);
			c = NULL;
		}
	}
	if (rc)
		x->oom = true;
	cJSON_Delete(spec);
	cJSON_Delete(c);
	free(scratch.message);
}

static const struct op_port *pick_port(const struct op_service *v, const char *want)
{
	for (size_t i = 0; i < v->n_ports; i++) {
		char number[8];

		snprintf(number, sizeof(number), "%u", v->ports[i].port);
		if (!*want || strcmp(want, v->ports[i].name) == 0 || strcmp(want, number) == 0)
			return &v->ports[i];
	}
	return NULL;
}

static bool port_of_slice(const struct op_slice *slice, const struct op_port *port, uint16_t *out)
{
	for (size_t i = 0; i < slice->n_ports; i++)
		if (strcmp(slice->ports[i].name, port->name) == 0 &&
		    strcmp(slice->ports[i].protocol, port->protocol) == 0) {
			*out = slice->ports[i].port;
			return *out != 0;
		}
	return false;
}

static int by_object_name(const void *a, const void *b)
{
	return op_by_name(a, b);
}

int op_service_endpoints(const struct op_store *s, const struct op_obj *service,
                         const struct op_port *port, struct op_backends *out)
{
	const struct op_index *all = op_slices_of(s, service->ns, service->name);
	struct op_pods slices = {0};
	int rc = 0;

	for (size_t i = 0; all && i < all->n && !rc; i++)
		rc = op_pods_add(&slices, all->v[i]);
	if (slices.n)
		qsort(slices.v, slices.n, sizeof(struct op_obj *), by_object_name);
	for (size_t i = 0; i < slices.n && !rc; i++) {
		const struct op_slice *slice = slices.v[i]->slice;
		uint16_t number;

		if (!port_of_slice(slice, port, &number))
			continue;
		for (size_t k = 0; k < slice->n_endpoints && !rc; k++) {
			const struct op_endpoint *e = &slice->endpoints[k];
			bool twice = false;

			/* An endpoint may temporarily be in two slices. */
			for (size_t j = 0; j < out->n && !twice && slices.n > 1; j++)
				twice = out->v[j].port == number &&
				        strcmp(out->v[j].address, e->address) == 0;
			if (twice)
				continue;
			rc = op_grow(&out->v, out->n, &out->cap, sizeof(*out->v));
			if (!rc)
				out->v[out->n++] = (struct op_backend){e->address, number,
				                                       e->ready && !e->terminating};
		}
	}
	op_pods_free(&slices);
	return rc;
}

static cJSON *service_cluster(struct op_render *x, const struct op_obj *service,
                              const struct op_port *port, const char *name)
{
	cJSON *c = cJSON_CreateObject(), *spec = cJSON_CreateObject(), *list = cJSON_CreateArray();
	struct op_backends b = {0};
	int rc = op_service_endpoints(x->s, service, port, &b);

	op_memo_backends(x, service);
	rc = rc ? rc : l7mp_json_add_str(c, "name", name);
	rc = rc ? rc : l7mp_json_add_str(spec, "protocol", port->protocol);
	rc = rc ? rc : l7mp_json_add_num(spec, "port", port->port);
	for (size_t i = 0; i < b.n && !rc; i++) {
		cJSON *e = op_endpoint_json(name, b.v[i].address, b.v[i].port, b.v[i].ready);

		if (!e || !cJSON_AddItemToArray(list, e)) {
			cJSON_Delete(e);
			rc = -ENOMEM;
		}
	}
	free(b.v);
	if (rc || !c || !list) {
		cJSON_Delete(spec);
		cJSON_Delete(list);
		cJSON_Delete(c);
		return NULL;
	}
	if (l7mp_json_add(c, "spec", spec) || l7mp_json_add(c, "endpoints", list) ||
	    add_policy(c)) {
		cJSON_Delete(c);
		return NULL;
	}
	return c;
}

/* ---- resolving ---- */

static char *use(struct op_translate *t, struct op_unit *u, const struct op_obj *obj,
                 const struct op_port *port)
{
	char *name = u ? strdup(u->name) : NULL;

	if (!name)
		return out_of_memory(t);
	op_unit_depend(t->x, t->unit, u);
	op_memo_link(t->x, obj, port);
	return name;
}

static struct op_unit *unit_of_node(struct op_render *x, const struct op_obj *obj)
{
	struct op_node *n = op_node_of(x, obj);

	if (!n->resolved)
		build(x, n);
	return n->unit;
}

static struct op_unit *unit_of_vsvc(struct op_render *x, const struct op_obj *vsvc)
{
	char *name = op_name("l7mp.io", "virtualservices", vsvc->ns, vsvc->name, NULL);
	bool made = false;
	struct op_unit *u = name ? op_unit_get(x, OP_CLUSTERS, name, &made) : NULL;
	struct op_memo *outer;

	free(name);
	if (!u || !made || op_unit_reuse(x, u))
		return u;
	outer = op_unit_begin(x, u);
	op_memo_object(x, OP_VSVC, vsvc->ns, vsvc->name);
	vsvc_cluster(x, u, vsvc);
	op_unit_end(x, u, outer);
	return u;
}

static struct op_unit *unit_of_service(struct op_render *x, const struct op_obj *service,
                                       const struct op_port *port)
{
	struct op_unit *u;
	struct op_memo *outer;
	bool made = false;
	char number[16], *name;
	cJSON *c;

	snprintf(number, sizeof(number), "%u-%s", port->port, port->protocol);
	name = op_name("", "services", service->ns, service->name, number);
	u = name ? op_unit_get(x, OP_CLUSTERS, name, &made) : NULL;
	free(name);
	if (!u || !made || op_unit_reuse(x, u))
		return u;
	outer = op_unit_begin(x, u);
	op_memo_object(x, OP_SERVICE, service->ns, service->name);
	c = service_cluster(x, service, port, u->name);
	op_unit_text(x, u, c);
	op_unit_end(x, u, outer);
	return u;
}

static char *use_service(struct op_translate *t, const struct op_obj *service,
                         const struct reference *ref)
{
	const struct op_port *port = pick_port(service->service, ref->port);

	if (!port) {
		op_translate_fail(t, "Service %s has no port '%s'", service->key, ref->port);
		return NULL;
	}
	if (strcmp(port->protocol, "UDP") != 0 && strcmp(port->protocol, "TCP") != 0) {
		op_translate_fail(t, "Service %s: expected a UDP or TCP port", service->key);
		return NULL;
	}
	return use(t, unit_of_service(t->x, service, port), service, port);
}

/* Target, then VirtualService, then Service, else a name of the proxy's own config. */
char *op_resolve_cluster(struct op_translate *t, const char *text)
{
	static const enum op_kind kinds[] = {OP_TARGET, OP_VSVC, OP_SERVICE};
	struct reference ref;
	bool parsed = parse_reference(text, t->node->obj->ns, &ref);

	for (size_t i = 0; parsed && i < L7MP_ARRAY_SIZE(kinds); i++) {
		const struct op_obj *o = find_kind(t->x, &ref, kinds[i]);

		if (!o)
			continue;
		if (!may_refer(t, o, text))
			return NULL;
		return kinds[i] == OP_TARGET ? use(t, unit_of_node(t->x, o), o, NULL)
		       : kinds[i] == OP_VSVC ? use(t, unit_of_vsvc(t->x, o), o, NULL)
		                             : use_service(t, o, &ref);
	}
	return own_name(t, &ref, parsed, text);
}

char *op_resolve_route(struct op_translate *t, const char *text)
{
	struct reference ref;
	bool parsed = parse_reference(text, t->node->obj->ns, &ref);
	const struct op_obj *o = parsed ? find_kind(t->x, &ref, OP_ROUTE) : NULL;

	if (!o)
		return own_name(t, &ref, parsed, text);
	return may_refer(t, o, text) ? use(t, unit_of_node(t->x, o), o, NULL) : NULL;
}

/* ---- VirtualService ---- */

/* The listener's address, which is exclusive. */
static void claim_address(struct op_translate *t, const cJSON *spec)
{
	const cJSON *transport = l7mp_json_member(spec, "transport");
	const char *protocol, *file, *l4;
	const struct l7mp_protodesc *d;
	double port;

	if (transport)
		spec = transport;
	protocol = l7mp_json_str(spec, "protocol", "");
	d = l7mp_registry_find(t->x->s->registry, protocol);
	file = l7mp_json_str(spec, "filename", NULL);
	port = l7mp_json_num(spec, "port", 0);
	if (!d)
		return;
	l4 = strcmp(d->name, "UDP") == 0 ? "udp" : "tcp";
	if (file)
		op_unit_claim(t->x, t->unit, "file %s", file);
	else if (port > 0)
		op_unit_claim(t->x, t->unit, "%s %.0f %s", l4, port,
		              l7mp_json_str(spec, "address", ""));
}

static cJSON *listener_rules(struct op_translate *t, const cJSON *listener)
{
	const cJSON *rules = l7mp_json_member(listener, "rules");
	const cJSON *ref = l7mp_json_member(listener, "rulesRef"), *r;
	cJSON *out;
	int i = 0;

	if (rules && ref) {
		op_translate_fail(t, "expected one of rules and rulesRef");
		return NULL;
	}
	ref = ref ? ref : cJSON_IsString(rules) ? rules : NULL;
	if (ref)
		return cJSON_Duplicate(ref, true);
	/* An inline rule list. */
	if (cJSON_IsObject(rules))
		rules = l7mp_json_member(rules, "rules");
	if (!cJSON_IsArray(rules) || cJSON_GetArraySize(rules) > OP_MAX_RULES) {
		op_translate_fail(t, "rules: expected an array of at most %d rules", OP_MAX_RULES);
		return NULL;
	}
	out = cJSON_CreateArray();
	cJSON_ArrayForEach (r, rules) {
		size_t mark = op_translate_enter(t, ".rules[%d]", i++);
		cJSON *rule = op_translate_rule(t, r);

		op_translate_leave(t, mark);
		if (!rule || !cJSON_AddItemToArray(out, rule)) {
			cJSON_Delete(rule);
			cJSON_Delete(out);
			return NULL;
		}
	}
	return out;
}

static void build_vsvc(struct op_translate *t)
{
	const cJSON *listener = l7mp_json_member(t->node->obj->spec, "listener");
	cJSON *out, *spec = NULL, *rules = NULL;

	op_translate_enter(t, "spec.listener");
	if (!cJSON_IsObject(listener)) {
		op_translate_fail(t, "missing, expected an object");
		return;
	}
	op_translate_enter(t, ".spec");
	spec = op_translate_spec(t, l7mp_json_member(listener, "spec"));
	t->path[strlen("spec.listener")] = 0;
	if (!spec)
		return;
	claim_address(t, spec);
	/* Without rules it is only a destination for other objects. */
	if (!l7mp_json_member(listener, "rules") && !l7mp_json_member(listener, "rulesRef")) {
		op_note(t->node, "it has no rules: a destination for others, no listener");
		cJSON_Delete(spec);
		return;
	}
	rules = listener_rules(t, listener);
	if (!rules) {
		cJSON_Delete(spec);
		return;
	}
	out = cJSON_CreateObject();
	if (l7mp_json_add_str(out, "name", t->unit->name) || l7mp_json_add(out, "spec", spec) ||
	    l7mp_json_add(out, "rules", rules) ||
	    (l7mp_json_member(listener, "options") &&
	     l7mp_json_add(out, "options",
	                   cJSON_Duplicate(l7mp_json_member(listener, "options"), true)))) {
		t->x->oom = true;
		cJSON_Delete(out);
		return;
	}
	if (op_translate_check(t, &l7mp_schema_listener, out, t->path))
		op_unit_text(t->x, t->unit, out);
	else
		cJSON_Delete(out);
}

/* ---- Target ---- */

/* Adds the linked VirtualService: its spec, and one more group of endpoints. */
static cJSON *linked(struct op_translate *t, const char *text, const cJSON *cluster)
{
	struct reference ref;
	bool parsed = parse_reference(text, t->node->obj->ns, &ref);
	const struct op_obj *vsvc = parsed ? find_kind(t->x, &ref, OP_VSVC) : NULL;
	cJSON *whole, *out, *spec;
	int rc = 0;

	if (!vsvc) {
		op_translate_fail(t, "there is no VirtualService '%.200s'", text);
		return NULL;
	}
	if (!may_refer(t, vsvc, text))
		return NULL;
	spec = linked_spec(t, l7mp_json_member(vsvc->spec, "listener"));
	if (!spec)
		return NULL;
	whole = cJSON_IsObject(cluster) ? cJSON_Duplicate(cluster, true) : cJSON_CreateObject();
	cJSON_DeleteItemFromObjectCaseSensitive(whole, "spec");
	if (l7mp_json_add(whole, "spec", spec)) {
		t->x->oom = true;
		cJSON_Delete(whole);
		return NULL;
	}
	out = op_translate_cluster(t, whole, t->unit->name);
	cJSON_Delete(whole);
	if (!out)
		return NULL;
	if (!l7mp_json_member(out, "endpoints"))
		rc = l7mp_json_add(out, "endpoints", cJSON_CreateArray());
	rc = rc ? rc
	        : linked_endpoints(t->x, vsvc, t->unit->name, l7mp_json_member(out, "endpoints"));
	if (rc) {
		t->x->oom = true;
		cJSON_Delete(out);
		return NULL;
	}
	return out;
}

static void build_target(struct op_translate *t)
{
	const cJSON *spec = t->node->obj->spec;
	const cJSON *cluster = l7mp_json_member(spec, "cluster");
	const cJSON *link = l7mp_json_member(spec, "linkedVirtualService");
	cJSON *out;

	t->node->optional = !l7mp_json_member(spec, "selector");
	if (!cluster && !link) {
		op_translate_enter(t, "spec");
		op_translate_fail(t, "expected cluster or linkedVirtualService");
		return;
	}
	if (link && !cJSON_IsString(link)) {
		op_translate_enter(t, "spec.linkedVirtualService");
		op_translate_fail(t, "expected the name of a VirtualService");
		return;
	}
	op_translate_enter(t, link ? "spec.linkedVirtualService" : "spec.cluster");
	out = link ? linked(t, link->valuestring, cluster)
	           : op_translate_cluster(t, cluster, t->unit->name);
	if (!out)
		return;
	if (op_translate_check(t, &l7mp_schema_cluster, out, "spec.cluster"))
		op_unit_text(t->x, t->unit, out);
	else
		cJSON_Delete(out);
}

/* ---- Rule, Route ---- */

static void build_rule(struct op_translate *t)
{
	const cJSON *spec = t->node->obj->spec;
	const char *list = l7mp_json_str(spec, "rulelist", "");
	const cJSON *position = l7mp_json_member(spec, "position");
	double at = cJSON_IsNumber(position) ? position->valuedouble : 0;
	cJSON *out;

	op_translate_enter(t, "spec.rulelist");
	if (!l7mp_schema_pattern_ok(L7MP_P_NAME, list) || strlen(list) > L7MP_NAME_MAX) {
		op_translate_fail(t, "expected the name of a rule list");
		return;
	}
	t->path[0] = 0;
	op_translate_enter(t, "spec.position");
	if ((position && !cJSON_IsNumber(position)) || at < 0 || at > 1000000 ||
	    at > (double)(long)at) {
		op_translate_fail(t, "expected an integer in 0..1000000");
		return;
	}
	t->path[0] = 0;
	op_translate_enter(t, "spec.rule");
	out = op_translate_rule(t, l7mp_json_member(spec, "rule"));
	if (!out)
		return;
	if (!cJSON_IsObject(out)) {
		op_translate_fail(t, "expected a rule object");
		cJSON_Delete(out);
		return;
	}
	cJSON_DeleteItemFromObjectCaseSensitive(out, "name");
	t->unit->rulelist = strdup(list);
	t->unit->position = at;
	if (!t->unit->rulelist || l7mp_json_add_str(out, "name", t->unit->name)) {
		t->x->oom = true;
		cJSON_Delete(out);
		return;
	}
	if (op_translate_check(t, &l7mp_schema_rule, out, t->path))
		op_unit_text(t->x, t->unit, out);
	else
		cJSON_Delete(out);
}

static void build_route(struct op_translate *t)
{
	cJSON *out;

	t->node->optional = true;
	op_translate_enter(t, "spec");
	out = op_translate_route(t, t->node->obj->spec);
	if (!out)
		return;
	if (l7mp_json_add_str(out, "name", t->unit->name)) {
		t->x->oom = true;
		cJSON_Delete(out);
		return;
	}
	if (op_translate_check(t, &l7mp_schema_route, out, t->path))
		op_unit_text(t->x, t->unit, out);
	else
		cJSON_Delete(out);
}

/* ---- all ---- */

static const struct {
	enum op_kind kind;
	enum op_section section;
	void (*build)(struct op_translate *t);
} kinds[] = {
        {OP_ROUTE, OP_ROUTES, build_route},
        {OP_TARGET, OP_CLUSTERS, build_target},
        {OP_RULE, OP_RULES, build_rule},
        {OP_VSVC, OP_LISTENERS, build_vsvc},
};

static const struct op_port *port_again(const struct op_service *v, const struct op_link *l)
{
	for (size_t i = 0; i < v->n_ports; i++)
		if (v->ports[i].port == l->port && strcmp(v->ports[i].protocol, l->protocol) == 0)
			return &v->ports[i];
	return NULL;
}

/* Creates the unit of an object, on the first visit of it or of a reference to it. */
static void build(struct op_render *x, struct op_node *n)
{
	struct op_translate t = {.x = x, .node = n};
	struct op_memo *outer;
	size_t k = 0;
	bool made;
	char *name;

	n->resolved = true;
	while (kinds[k].kind != n->kind)
		k++;
	name = op_name("l7mp.io", op_kinds[n->kind].plural, n->ns, n->name, NULL);
	if (name)
		n->unit = op_unit_get(x, kinds[k].section, name, &made);
	else
		x->oom = true;
	free(name);
	if (!n->unit)
		return;
	n->unit->node = n;
	if (op_unit_reuse(x, n->unit)) {
		link_again(x, n->unit);
		return;
	}
	t.unit = n->unit;
	outer = op_unit_begin(x, n->unit);
	op_memo_object(x, n->kind, n->ns, n->name);
	if (!n->obj->spec)
		op_refuse_node(n, "Invalid", "spec: missing, expected an object");
	else
		kinds[k].build(&t);
	op_unit_end(x, n->unit, outer);
}

/* The objects are there, as before: the memo holds. */
static void link_again(struct op_render *x, struct op_unit *u)
{
	struct op_memo *outer = x->memo;

	x->memo = NULL;
	for (size_t i = 0; i < u->memo.n_links && !x->oom; i++) {
		const struct op_link *l = &u->memo.links[i];
		const struct op_obj *o = op_find(x->s, l->kind, l->ns, l->name);
		struct op_unit *on = NULL;

		if (o && o->kind == OP_SERVICE) {
			const struct op_port *port = port_again(o->service, l);

			on = port ? unit_of_service(x, o, port) : NULL;
		} else if (o && o->kind == OP_VSVC) {
			on = unit_of_vsvc(x, o);
		} else if (o) {
			on = unit_of_node(x, o);
		}
		if (on)
			op_unit_depend(x, u, on);
		else
			x->oom = true;
	}
	x->memo = outer;
}

/* Adds the proxies that an object selects to its memo. */
static int find_places(struct op_render *x, struct op_node *n, const cJSON *selector)
{
	struct op_memo *m = &n->unit->memo;
	struct op_pods pods = {0};
	char why[200];
	int rc = op_select(x->s, n->obj, selector, &pods, why, sizeof(why));

	m->n_places = 0;
	if (rc == -EINVAL)
		op_refuse_node(n, "Invalid", "spec.%s", why);
	for (size_t i = 0; i < pods.n && !rc; i++) {
		struct op_entry *p = op_proxy_of(x, pods.v[i]);

		if (!p)
			continue;
		rc = op_grow(&m->places, m->n_places, &m->cap_places, sizeof(*m->places));
		if (!rc)
			m->places[m->n_places++] = (uint32_t)(p - x->r->proxies);
	}
	m->placed = !rc;
	op_pods_free(&pods);
	return rc;
}

/* Puts an object on the proxies that it selects. */
static void place(struct op_render *x, struct op_node *n)
{
	const cJSON *selector = l7mp_json_member(n->obj->spec, "selector");
	const struct op_memo *m = &n->unit->memo;

	if (!selector && !n->optional) {
		op_refuse_node(n, "Invalid", "spec.selector: missing, expected an object");
		return;
	}
	if (n->kind == OP_ROUTE)
		return;
	if ((!m->placed || !op_memo_pods_hold(x)) && find_places(x, n, selector) == -ENOMEM)
		x->oom = true;
	for (size_t i = 0; i < m->n_places && n->unit->text && !n->reason; i++)
		op_place(x, &x->r->proxies[m->places[i]], n->unit);
}

void op_mesh(struct op_render *x)
{
	for (size_t k = 0; k < L7MP_ARRAY_SIZE(kinds); k++)
		for (size_t i = 0; i < x->r->n_nodes && !x->oom; i++) {
			struct op_node *n = x->r->nodes[i];

			if (n->kind != kinds[k].kind)
				continue;
			if (!n->resolved)
				build(x, n);
			if (!x->oom)
				place(x, n);
		}
}
