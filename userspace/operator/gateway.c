/* SPDX-License-Identifier: MIT */
/*
 * The kinds of the Gateway API (gateway.networking.k8s.io/v1): translates the GatewayClasses of
 * this controller, their Gateways with their ListenerSets, and the UDPRoutes and TCPRoutes attached
 * to them.
 *
 * A Gateway is served by the proxies in pods of its namespace with the label
 * gateway.networking.k8s.io/gateway-name, and by those with l7mp.io/gateway-class in any namespace.
 * UDP and TCP listeners use the oldest attached route. No route kind is supported for HTTP
 * listeners: they answer 404, like a listener without routes. HTTPS and TLS are not supported.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "l7mp/model.h"

#define GROUP         "gateway.networking.k8s.io"
#define MAX_LISTENERS 64 /* of a Gateway or a ListenerSet, as in their schema */
#define MAX_PARENTS   32
#define MAX_BACKENDS  16

enum protocol { P_UDP, P_TCP, P_HTTP, P_HTTPS, P_TLS, P_UNKNOWN };
static const char *const protocol_names[] = {"UDP", "TCP", "HTTP", "HTTPS", "TLS"};

struct listener {
	struct op_node *node; /* its Gateway or ListenerSet */
	const cJSON *json;
	const char *name, *hostname;
	enum protocol protocol;
	unsigned port;
	/* The owner of its unit: its own index, or that of another HTTP listener on its port. */
	int tag;
	int source;                   /* 0: the Gateway, else the number of the ListenerSet */
	const char *conflict;         /* reason */
	const char *unresolved, *why; /* ResolvedRefs: reason and message */
	bool takes_kind;              /* allowedRoutes includes the supported kind of route */
	size_t attached;
	struct op_unit *cluster; /* of the oldest route */
};

struct gateway {
	struct op_node *node;
	struct listener *listeners; /* the Gateway's own first, then those of ListenerSets by age */
	size_t n, cap;
	struct op_node **sets; /* accepted ones, by age */
	size_t n_sets, cap_sets;
	UT_hash_handle hh; /* by node */
};

struct gateways {
	struct op_render *x;
	struct gateway *all; /* of this controller's classes */
};

static const char *text(const cJSON *object, const char *key)
{
	return l7mp_json_str(object, key, "");
}

static bool is(const cJSON *object, const char *key, const char *value, const char *fallback)
{
	return strcmp(l7mp_json_str(object, key, fallback), value) == 0;
}

static bool usable(const struct listener *l)
{
	return l->protocol <= P_HTTP && !l->conflict;
}

/* By age, then by name, which is the same order for all controllers. */
static int node_by_age(const void *a, const void *b)
{
	const struct op_node *p = *(const struct op_node *const *)a;
	const struct op_node *q = *(const struct op_node *const *)b;
	int c = strcmp(p->created, q->created);

	c = c ? c : strcmp(p->ns, q->ns);
	return c ? c : strcmp(p->name, q->name);
}

/* Nodes of a kind, oldest first. Heap; NULL: oom. */
static struct op_node **nodes_by_age(struct op_render *x, enum op_kind kind, size_t *n)
{
	struct op_node **v = calloc(x->r->n_nodes + 1, sizeof(struct op_node *));

	*n = 0;
	if (!v) {
		x->oom = true;
		return NULL;
	}
	for (size_t i = 0; i < x->r->n_nodes; i++)
		if (x->r->nodes[i]->kind == kind)
			v[(*n)++] = x->r->nodes[i];
	if (*n)
		qsort(v, *n, sizeof(struct op_node *), node_by_age);
	return v;
}

/* ---- namespaces ---- */

static bool labels_match(const struct op_obj *ns, const cJSON *selector)
{
	const cJSON *l, *e, *v;

	cJSON_ArrayForEach (l, l7mp_json_member(selector, "matchLabels")) {
		const char *value = op_label(ns, l->string);

		if (!value || !cJSON_IsString(l) || strcmp(value, l->valuestring) != 0)
			return false;
	}
	cJSON_ArrayForEach (e, l7mp_json_member(selector, "matchExpressions")) {
		const char *value = op_label(ns, text(e, "key"));
		bool in = false;

		cJSON_ArrayForEach (v, l7mp_json_member(e, "values"))
			in = in ||
			     (value && cJSON_IsString(v) && strcmp(v->valuestring, value) == 0);
		if (!((is(e, "operator", "In", "") && in) ||
		      (is(e, "operator", "NotIn", "") && !in) ||
		      (is(e, "operator", "Exists", "") && value) ||
		      (is(e, "operator", "DoesNotExist", "") && !value)))
			return false;
	}
	return true;
}

/* `from`: All, Same, Selector or None. */
static bool lets_in(const struct op_render *x, const cJSON *namespaces, const char *fallback,
                    const char *own_ns, const char *other_ns)
{
	const char *from = l7mp_json_str(namespaces, "from", fallback);
	const struct op_obj *ns;

	if (strcmp(from, "All") == 0)
		return true;
	if (strcmp(from, "Same") == 0)
		return strcmp(own_ns, other_ns) == 0;
	ns = strcmp(from, "Selector") == 0 ? op_find(x->s, OP_NAMESPACE, NULL, other_ns) : NULL;
	return ns && labels_match(ns, l7mp_json_member(namespaces, "selector"));
}

/* ---- listeners ---- */

static const char *route_kind(const struct listener *l)
{
	return l->protocol == P_UDP ? "UDPRoute" : l->protocol == P_TCP ? "TCPRoute" : NULL;
}

/* allowedRoutes.kinds: unsupported ones are an error, the others apply. */
static void read_kinds(struct listener *l)
{
	const cJSON *kinds = l7mp_json_member(l7mp_json_member(l->json, "allowedRoutes"), "kinds");
	const char *ours = route_kind(l);
	const cJSON *k;

	l->takes_kind = ours && (!kinds || !kinds->child);
	cJSON_ArrayForEach (k, kinds) {
		if (ours && is(k, "group", GROUP, GROUP) && is(k, "kind", ours, "")) {
			l->takes_kind = true;
		} else {
			l->unresolved = "InvalidRouteKinds";
			l->why = "allowedRoutes.kinds: expected UDPRoute of a UDP, TCPRoute of a "
			         "TCP listener";
		}
	}
}

static void read_certificates(const struct op_render *x, struct listener *l)
{
	const cJSON *refs = l7mp_json_member(l7mp_json_member(l->json, "tls"), "certificateRefs");
	const cJSON *r;

	cJSON_ArrayForEach (r, refs) {
		const char *ns = l7mp_json_str(r, "namespace", l->node->ns);

		if (!is(r, "group", "", "") || !is(r, "kind", "Secret", "Secret")) {
			l->unresolved = "InvalidCertificateRef";
			l->why = "certificateRefs: expected a Secret";
		} else if (!op_granted(x->s, l->node->kind, l->node->ns, "", "Secret", ns,
		                       text(r, "name"))) {
			l->unresolved = "RefNotPermitted";
			l->why = "certificateRefs: no ReferenceGrant allows the Secret";
		} else if (!op_find(x->s, OP_SECRET, ns, text(r, "name"))) {
			l->unresolved = "InvalidCertificateRef";
			l->why = "certificateRefs: there is no such Secret";
		}
	}
}

static void add_listeners(struct gateways *g, struct gateway *gw, struct op_node *node, int source)
{
	const cJSON *list = l7mp_json_member(node->obj->spec, "listeners"), *e;
	int tag = 0;

	cJSON_ArrayForEach (e, list) {
		struct listener l = {.node = node, .json = e, .source = source, .tag = tag};
		double port = l7mp_json_num(e, "port", 0);

		if (tag++ == MAX_LISTENERS)
			break;
		l.name = text(e, "name");
		l.hostname = text(e, "hostname");
		l.port = port >= 1 && port <= 65535 ? (unsigned)port : 0;
		for (l.protocol = P_UDP; l.protocol < P_UNKNOWN; l.protocol++)
			if (is(e, "protocol", protocol_names[l.protocol], ""))
				break;
		read_kinds(&l);
		read_certificates(g->x, &l);
		if (op_grow(&gw->listeners, gw->n, &gw->cap, sizeof(l))) {
			g->x->oom = true;
			return;
		}
		gw->listeners[gw->n++] = l;
	}
}

/* Returns the reason why two listeners conflict; NULL: they do not. */
static const char *clash(const struct listener *a, const struct listener *b)
{
	if (a->port != b->port || (a->protocol == P_UDP) != (b->protocol == P_UDP))
		return NULL;
	if (a->protocol != b->protocol || a->protocol == P_UDP || a->protocol == P_TCP)
		return "ProtocolConflict";
	return strcmp(a->hostname, b->hostname) == 0 ? "HostnameConflict" : NULL;
}

/* Of two in one object both are in conflict; of two in different objects only the later one. */
static void find_conflicts(struct gateway *gw)
{
	for (size_t i = 0; i < gw->n; i++)
		for (size_t j = 0; j < i; j++) {
			struct listener *a = &gw->listeners[j], *b = &gw->listeners[i];
			const char *reason = clash(a, b);

			if (!reason || (a->source != b->source && a->conflict))
				continue;
			b->conflict = reason;
			if (a->source == b->source)
				a->conflict = reason;
		}
	/* HTTP listeners on one port are one listener of the proxy. */
	for (size_t i = 0; i < gw->n; i++)
		for (size_t j = 0; j < i; j++)
			if (usable(&gw->listeners[i]) && usable(&gw->listeners[j]) &&
			    gw->listeners[i].protocol == P_HTTP &&
			    gw->listeners[j].protocol == P_HTTP &&
			    gw->listeners[i].port == gw->listeners[j].port &&
			    gw->listeners[i].node == gw->listeners[j].node) {
				gw->listeners[i].tag = gw->listeners[j].tag;
				break;
			}
}

/* ---- GatewayClass, and selection of Gateways ---- */

static bool our_class(const struct op_render *x, const struct op_obj *class)
{
	return class && is(class->spec, "controllerName", x->s->settings.controller, "");
}

static int add_feature(cJSON *list, const char *name)
{
	cJSON *f = cJSON_CreateObject();

	if (!l7mp_json_add_str(f, "name", name) && cJSON_AddItemToArray(list, f))
		return 0;
	cJSON_Delete(f);
	return -ENOMEM;
}

static void class_status(struct op_render *x, struct op_node *n)
{
	static const char *const features[] = {"Gateway", "ReferenceGrant", "TCPRoute", "UDPRoute"};
	cJSON *status = cJSON_CreateObject(), *list = cJSON_CreateArray();
	bool parameters = l7mp_json_member(n->obj->spec, "parametersRef");
	int rc = l7mp_json_add(status, "conditions", list);

	n->status = status;
	rc = rc ? rc
	        : op_condition(list, "Accepted", !parameters,
	                       parameters ? "InvalidParameters" : "Accepted",
	                       parameters ? "parametersRef is not supported" : "", n->generation);
	list = cJSON_CreateArray();
	rc = l7mp_json_add(status, "supportedFeatures", list) ? -ENOMEM : rc;
	for (size_t i = 0; !rc && i < L7MP_ARRAY_SIZE(features); i++)
		rc = add_feature(list, features[i]);
	if (rc)
		x->oom = true;
}

static struct gateway *find_gateway(const struct gateways *g, const struct op_node *node)
{
	struct gateway *gw;

	HASH_FIND_PTR(g->all, &node, gw);
	return gw;
}

static void add_gateway(struct gateways *g, struct op_node *n)
{
	struct op_render *x = g->x;
	const char *class = text(n->obj->spec, "gatewayClassName");
	struct gateway *gw;

	if (!our_class(x, op_find(x->s, OP_GATEWAYCLASS, NULL, class)))
		return;
	gw = calloc(1, sizeof(*gw));
	if (gw) {
		gw->node = n;
		HASH_ADD_PTR(g->all, node, gw);
	}
	if (!gw || !gw->hh.tbl) {
		free(gw);
		x->oom = true;
		return;
	}
	add_listeners(g, gw, n, 0);
}

/* ---- ListenerSet ---- */

static void status_of_set(struct op_render *x, struct op_node *n, const char *reason)
{
	cJSON *status = cJSON_CreateObject(), *list = cJSON_CreateArray();
	int rc = l7mp_json_add(status, "conditions", list);

	n->status = status;
	rc = rc ? rc
	        : op_condition(list, "Accepted", false, reason,
	                       "allowedListeners of the Gateway does not let this namespace in",
	                       n->generation);
	rc = rc ? rc : op_condition(list, "Programmed", false, reason, "", n->generation);
	rc = rc ? rc : l7mp_json_add(status, "listeners", cJSON_CreateArray());
	if (rc)
		x->oom = true;
}

static struct gateway *parent_gateway(const struct gateways *g, const cJSON *ref, const char *own)
{
	const struct op_obj *o;

	if (!is(ref, "group", GROUP, GROUP) || !is(ref, "kind", "Gateway", "Gateway"))
		return NULL;
	o = op_find(g->x->s, OP_GATEWAY, l7mp_json_str(ref, "namespace", own), text(ref, "name"));
	return o ? find_gateway(g, op_node_of(g->x, o)) : NULL;
}

static void add_set(struct gateways *g, struct op_node *n)
{
	struct gateway *gw = parent_gateway(g, l7mp_json_member(n->obj->spec, "parentRef"), n->ns);
	const cJSON *allowed;

	if (!gw)
		return;
	allowed = l7mp_json_member(l7mp_json_member(gw->node->obj->spec, "allowedListeners"),
	                           "namespaces");
	if (!lets_in(g->x, allowed, "None", gw->node->ns, n->ns)) {
		status_of_set(g->x, n, "NotAllowed");
		return;
	}
	if (op_grow(&gw->sets, gw->n_sets, &gw->cap_sets, sizeof(struct op_node *))) {
		g->x->oom = true;
		return;
	}
	gw->sets[gw->n_sets++] = n;
	add_listeners(g, gw, n, (int)gw->n_sets);
}

/* ---- backends of routes ---- */

struct share {
	double weight; /* of the backend */
	struct op_backends backends;
	bool drop;
};

static void free_share(struct share *s)
{
	free(s->backends.v);
}

struct route {
	struct op_node *node;
	const char *protocol; /* "UDP", "TCP" */
	struct op_unit *unit;
};

/* Keeps the first reason. Returns 0 or -ENOMEM. */
static int unresolved(struct route *r, const char *reason, const char *what, const char *ns,
                      const char *name)
{
	struct op_node *n = r->node;

	if (n->unresolved)
		return 0;
	n->unresolved = reason;
	n->unresolved_text = l7mp_asprintf("backendRef %.63s/%.150s: %s", ns, name, what);
	return n->unresolved_text ? 0 : -ENOMEM;
}

static const struct op_port *port_of(const struct op_service *s, double port, const char *protocol)
{
	for (size_t i = 0; i < s->n_ports; i++)
		if (s->ports[i].port == (unsigned)port &&
		    strcmp(s->ports[i].protocol, protocol) == 0)
			return &s->ports[i];
	return NULL;
}

/* Resolves a backendRef; the share of one without target is dropped. */
static int read_backend(struct op_render *x, struct route *r, const cJSON *ref, struct share *out)
{
	const char *ns = l7mp_json_str(ref, "namespace", r->node->ns), *name = text(ref, "name");
	double port = l7mp_json_num(ref, "port", 0), weight = l7mp_json_num(ref, "weight", 1);
	const struct op_obj *service;
	const struct op_port *found;

	out->weight = weight >= 0 && weight <= 1000000 ? weight : 0;
	out->drop = true;
	if (!is(ref, "group", "", "") || !is(ref, "kind", "Service", "Service"))
		return unresolved(r, "InvalidKind", "expected a Service", ns, name);
	op_memo_grant(x, r->node->kind, r->node->ns, OP_SERVICE, ns, name);
	if (!op_granted(x->s, r->node->kind, r->node->ns, "", "Service", ns, name))
		return unresolved(r, "RefNotPermitted", "no ReferenceGrant allows it", ns, name);
	op_memo_object(x, OP_SERVICE, ns, name);
	service = op_find(x->s, OP_SERVICE, ns, name);
	found = service ? port_of(service->service, port, r->protocol) : NULL;
	if (!found)
		return unresolved(r, "BackendNotFound",
		                  service ? "the Service has no such port of the protocol"
		                          : "there is no such Service",
		                  ns, name);
	op_memo_backends(x, service);
	if (op_service_endpoints(x->s, service, found, &out->backends))
		return -ENOMEM;
	for (size_t i = 0; i < out->backends.n; i++)
		out->drop = out->drop && !out->backends.v[i].ready;
	return 0;
}

/*
 * The backend's weight is divided among its endpoints that accept new sessions. Names contain the
 * number of the backend, as a Service may occur in two of them.
 */
static int add_share(cJSON *list, const char *cluster, const struct share *s, int number)
{
	char prefix[L7MP_NAME_MAX + 16];
	size_t ready = 0;
	cJSON *e;

	snprintf(prefix, sizeof(prefix), "%s/%d", cluster, number);
	for (size_t i = 0; i < s->backends.n; i++)
		ready += s->backends.v[i].ready;
	for (size_t i = 0; i < s->backends.n; i++) {
		const struct op_backend *b = &s->backends.v[i];

		e = op_endpoint_json(prefix, b->address, b->port,
		                     b->ready ? s->weight / (double)ready : 0);
		if (!e || !cJSON_AddItemToArray(list, e))
			return -ENOMEM;
	}
	if (!s->drop || s->weight <= 0)
		return 0;
	/* The address of an endpoint that drops its share: never connected. */
	e = op_endpoint_json(prefix, "0.0.0.0", 9, s->weight);
	if (!l7mp_json_add_bool(e, "drop", true) && cJSON_AddItemToArray(list, e))
		return 0;
	cJSON_Delete(e);
	return -ENOMEM;
}

static int add_backends(struct op_render *x, struct route *r, cJSON *list, unsigned *port)
{
	const cJSON *rules = l7mp_json_member(r->node->obj->spec, "rules"), *ref;
	const cJSON *first = cJSON_IsArray(rules) ? rules->child : NULL;
	int i = 0, rc = 0;

	cJSON_ArrayForEach (ref, l7mp_json_member(first, "backendRefs")) {
		struct share s = {0};

		if (i == MAX_BACKENDS)
			break;
		rc = read_backend(x, r, ref, &s);
		if (!rc)
			rc = add_share(list, r->unit->name, &s, i);
		if (!*port && s.backends.n)
			*port = s.backends.v[0].port;
		free_share(&s);
		if (rc)
			return rc;
		i++;
	}
	return 0;
}

/* Makes the cluster of a route. NULL: oom. */
static cJSON *route_cluster(struct op_render *x, struct route *r)
{
	cJSON *c = cJSON_CreateObject(), *spec = cJSON_CreateObject(), *list = cJSON_CreateArray();
	cJSON *lb = cJSON_CreateObject();
	unsigned port = 0;
	int rc = list ? add_backends(x, r, list, &port) : -ENOMEM;

	rc = rc ? rc : l7mp_json_add_str(c, "name", r->unit->name);
	rc = rc ? rc : l7mp_json_add_str(spec, "protocol", r->protocol);
	/* Each endpoint has its own port; the cluster needs one, too. */
	rc = rc ? rc : l7mp_json_add_num(spec, "port", port ? port : 9);
	rc = rc ? rc : l7mp_json_add_str(lb, "policy", "RoundRobin");
	if (rc) {
		cJSON_Delete(spec);
		cJSON_Delete(list);
		cJSON_Delete(lb);
		cJSON_Delete(c);
		return NULL;
	}
	if (l7mp_json_add(c, "spec", spec) | l7mp_json_add(c, "endpoints", list) |
	    l7mp_json_add(c, "loadbalancer", lb)) {
		cJSON_Delete(c);
		return NULL;
	}
	return c;
}

static void build_route(struct op_render *x, struct route *r)
{
	char *name =
	        op_name(GROUP, op_kinds[r->node->kind].plural, r->node->ns, r->node->name, NULL);
	struct op_translate t = {.x = x, .node = r->node};
	struct op_memo *outer;
	bool made;
	cJSON *c;

	r->unit = name ? op_unit_get(x, OP_CLUSTERS, name, &made) : NULL;
	free(name);
	if (!r->unit) {
		x->oom = true;
		return;
	}
	r->unit->node = r->node;
	if (op_unit_reuse(x, r->unit))
		return;
	t.unit = r->unit;
	outer = op_unit_begin(x, r->unit);
	op_memo_object(x, r->node->kind, r->node->ns, r->node->name);
	c = route_cluster(x, r);
	if (!c)
		x->oom = true;
	else if (op_translate_check(&t, &l7mp_schema_cluster, c, "spec"))
		op_unit_text(x, r->unit, c);
	else
		cJSON_Delete(c);
	op_unit_end(x, r->unit, outer);
}

/* ---- attaching routes ---- */

/* Finds the listeners of a parentRef; `set`: those of a ListenerSet. */
static bool means(const struct listener *l, const struct op_node *parent, const cJSON *ref)
{
	const cJSON *section = l7mp_json_member(ref, "sectionName");
	const cJSON *port = l7mp_json_member(ref, "port");

	return l->node == parent &&
	       (!cJSON_IsString(section) || strcmp(section->valuestring, l->name) == 0) &&
	       (!cJSON_IsNumber(port) || (unsigned)port->valuedouble == l->port);
}

static bool lets_route_in(const struct op_render *x, const struct listener *l,
                          const struct op_node *route)
{
	const cJSON *allowed = l7mp_json_member(l->json, "allowedRoutes");
	const char *kind = route_kind(l);

	return kind && l->takes_kind && strcmp(kind, op_kinds[route->kind].kind) == 0 &&
	       lets_in(x, l7mp_json_member(allowed, "namespaces"), "Same", l->node->ns, route->ns);
}

/* Returns the reason why the route is not accepted, NULL: it is. */
static const char *attach(struct op_render *x, struct gateway *gw, const struct op_node *parent,
                          const cJSON *ref, const struct route *r)
{
	const char *reason = "NoMatchingParent";

	for (size_t i = 0; i < gw->n; i++) {
		struct listener *l = &gw->listeners[i];

		if (!means(l, parent, ref))
			continue;
		if (!lets_route_in(x, l, r->node)) {
			reason = reason && strcmp(reason, "NoMatchingParent") == 0
			                 ? "NotAllowedByListeners"
			                 : reason;
			continue;
		}
		reason = NULL;
		l->attached++;
		if (!l->cluster)
			l->cluster = r->unit;
	}
	return reason;
}

/* Finds the Gateway of a parentRef, and the object with the listeners. */
static struct gateway *find_parent(struct gateways *g, const cJSON *ref, const char *own_ns,
                                   const struct op_node **parent)
{
	struct gateway *gw;
	const struct op_obj *o;

	if (is(ref, "group", GROUP, GROUP) && is(ref, "kind", "ListenerSet", "Gateway")) {
		o = op_find(g->x->s, OP_LISTENERSET, l7mp_json_str(ref, "namespace", own_ns),
		            text(ref, "name"));
		*parent = o ? op_node_of(g->x, o) : NULL;
		return o ? parent_gateway(g, l7mp_json_member(o->spec, "parentRef"), o->ns) : NULL;
	}
	gw = parent_gateway(g, ref, own_ns);
	*parent = gw ? gw->node : NULL;
	return gw;
}

static const char *why_not_attached(const char *reason)
{
	if (!reason)
		return "";
	return strcmp(reason, "NoMatchingParent") == 0
	               ? "the parent has no listener with this sectionName and port"
	               : "no listener that is meant takes this kind of route from this namespace";
}

static int add_parent(struct op_render *x, cJSON *parents, const cJSON *ref, const char *refused,
                      const struct route *r)
{
	cJSON *p = cJSON_CreateObject(), *list = cJSON_CreateArray();
	double generation = r->node->generation;
	int rc = l7mp_json_add(p, "parentRef", cJSON_Duplicate(ref, true));

	rc = l7mp_json_add(p, "conditions", list) ? -ENOMEM : rc;
	rc = rc ? rc : l7mp_json_add_str(p, "controllerName", x->s->settings.controller);
	rc = rc ? rc
	        : op_condition(list, "Accepted", !refused, refused ? refused : "Accepted",
	                       why_not_attached(refused), generation);
	rc = rc ? rc
	        : op_condition(list, "ResolvedRefs", !r->node->unresolved,
	                       r->node->unresolved ? r->node->unresolved : "ResolvedRefs",
	                       r->node->unresolved ? r->node->unresolved_text : "", generation);
	if (!rc && cJSON_AddItemToArray(parents, p))
		return 0;
	cJSON_Delete(p);
	return -ENOMEM;
}

static void add_route(struct gateways *g, struct op_node *n)
{
	struct op_render *x = g->x;
	struct route r = {.node = n, .protocol = n->kind == OP_UDPROUTE ? "UDP" : "TCP"};
	const cJSON *refs = l7mp_json_member(n->obj->spec, "parentRefs"), *ref;
	cJSON *parents = cJSON_CreateArray();
	int count = 0;

	n->status = cJSON_CreateObject();
	if (l7mp_json_add(n->status, "parents", parents)) {
		x->oom = true;
		return;
	}
	cJSON_ArrayForEach (ref, refs) {
		const struct op_node *parent;
		struct gateway *gw = find_parent(g, ref, n->ns, &parent);

		if (!gw || count++ == MAX_PARENTS)
			continue;
		if (!r.unit)
			build_route(x, &r);
		if (x->oom || !r.unit)
			return;
		if (add_parent(x, parents, ref, attach(x, gw, parent, ref, &r), &r))
			x->oom = true;
	}
}

/* ---- units of the proxies ---- */

static cJSON *listener_tree(const struct listener *l, const char *name)
{
	cJSON *tree = cJSON_CreateObject(), *spec = cJSON_CreateObject();
	cJSON *rules = cJSON_CreateArray(), *rule, *action, *route;
	int rc = l7mp_json_add_str(tree, "name", name);

	rc = l7mp_json_add_str(spec, "protocol", protocol_names[l->protocol]) ? -ENOMEM : rc;
	rc = l7mp_json_add_num(spec, "port", l->port) ? -ENOMEM : rc;
	rc = l7mp_json_add(tree, "spec", spec) ? -ENOMEM : rc;
	if (!rc && l->cluster) {
		rule = cJSON_CreateObject();
		action = cJSON_CreateObject();
		route = cJSON_CreateObject();
		rc = l7mp_json_add_str(route, "destination", l->cluster->name);
		rc = l7mp_json_add(action, "route", route) ? -ENOMEM : rc;
		rc = l7mp_json_add(rule, "action", action) ? -ENOMEM : rc;
		if (!cJSON_AddItemToArray(rules, rule)) {
			cJSON_Delete(rule);
			rc = -ENOMEM;
		}
	}
	rc = l7mp_json_add(tree, "rules", rules) ? -ENOMEM : rc;
	if (rc) {
		cJSON_Delete(tree);
		return NULL;
	}
	return tree;
}

/* The unit is made from the listener's part of this text, and nothing in the store. */
static void build_listener(struct op_render *x, const struct listener *l, struct op_unit *u)
{
	char *from = l7mp_asprintf("%d %s %u %s", l->tag, protocol_names[l->protocol], l->port,
	                           l->cluster ? l->cluster->name : "");
	const char *was = u->was ? u->was->memo.from : NULL;
	struct op_memo *outer;

	if (from && was && strcmp(from, was) == 0 && op_unit_reuse(x, u)) {
		free(from);
		return;
	}
	outer = op_unit_begin(x, u);
	u->memo.from = from;
	x->oom = x->oom || !from;
	op_unit_claim(x, u, "%s %u ", l->protocol == P_UDP ? "udp" : "tcp", l->port);
	op_unit_text(x, u, listener_tree(l, u->name));
	op_unit_end(x, u, outer);
}

static struct op_unit *listener_unit(struct op_render *x, const struct listener *l)
{
	char *name =
	        op_name(GROUP, op_kinds[l->node->kind].plural, l->node->ns, l->node->name, l->name);
	struct op_unit *u;
	bool made;

	u = name ? op_unit_get(x, OP_LISTENERS, name, &made) : NULL;
	free(name);
	if (!u) {
		x->oom = true;
		return NULL;
	}
	if (!made) /* two listeners of one name, which the API server rejects */
		return NULL;
	u->node = l->node;
	u->tag = l->tag;
	if (l->cluster)
		op_unit_depend(x, u, l->cluster);
	build_listener(x, l, u);
	return u;
}

/* The proxies that serve a Gateway. */
static void pods_of(struct op_render *x, const struct op_node *n, struct op_pods *out)
{
	const struct op_index *own = op_labelled(x->s, OP_LABEL_GATEWAY, n->name);
	const struct op_index *shared =
	        op_labelled(x->s, OP_LABEL_GATEWAY_CLASS, text(n->obj->spec, "gatewayClassName"));
	int rc = 0;

	for (size_t i = 0; own && i < own->n; i++)
		if (strcmp(own->v[i]->ns, n->ns) == 0 && own->v[i]->pod->proxy && !rc)
			rc = op_pods_add(out, own->v[i]);
	for (size_t i = 0; shared && i < shared->n; i++)
		if (shared->v[i]->pod->proxy && !rc && !op_label(shared->v[i], OP_LABEL_GATEWAY))
			rc = op_pods_add(out, shared->v[i]);
	if (rc)
		x->oom = true;
	if (out->n)
		qsort(out->v, out->n, sizeof(struct op_obj *), op_by_name);
}

static void place_listeners(struct op_render *x, struct gateway *gw, const struct op_pods *pods)
{
	for (size_t i = 0; i < gw->n && !x->oom; i++) {
		const struct listener *l = &gw->listeners[i];
		bool shares = false;
		struct op_unit *u;

		for (size_t j = 0; j < i; j++)
			shares = shares || (gw->listeners[j].node == l->node &&
			                    gw->listeners[j].tag == l->tag);
		if (!usable(l) || !l->port || shares)
			continue;
		u = listener_unit(x, l);
		for (size_t k = 0; u && k < pods->n; k++)
			op_place(x, op_proxy_of(x, pods->v[k]), u);
	}
}

/* ---- statuses ---- */

static int add_kinds(cJSON *entry, const struct listener *l)
{
	cJSON *list = cJSON_CreateArray(), *k;
	int rc = l7mp_json_add(entry, "supportedKinds", list);

	if (rc || !l->takes_kind)
		return rc;
	k = cJSON_CreateObject();
	rc = l7mp_json_add_str(k, "group", GROUP);
	rc = rc ? rc : l7mp_json_add_str(k, "kind", route_kind(l));
	if (!rc && cJSON_AddItemToArray(list, k))
		return 0;
	cJSON_Delete(k);
	return -ENOMEM;
}

static int listener_conditions(cJSON *list, const struct listener *l)
{
	double gen = l->node->generation;
	bool supported = l->protocol <= P_HTTP;
	const char *bad = l->conflict ? l->conflict : supported ? NULL : "UnsupportedProtocol";
	const char *note =
	        l->protocol == P_HTTP ? "no kind of route of ours is for HTTP: it answers 404" : "";
	int rc = op_condition(list, "Accepted", !bad, bad ? bad : "Accepted",
	                      l->conflict  ? "another listener has the port"
	                      : !supported ? "expected UDP, TCP or HTTP"
	                                   : note,
	                      gen);

	rc = rc ? rc
	        : op_condition(list, "ResolvedRefs", !l->unresolved,
	                       l->unresolved ? l->unresolved : "ResolvedRefs",
	                       l->unresolved ? l->why : "", gen);
	rc = rc ? rc
	        : op_condition(list, "Conflicted", l->conflict,
	                       l->conflict ? l->conflict : "NoConflicts", "", gen);
	if (rc)
		return rc;
	if (bad)
		return op_condition(list, "Programmed", false, l->conflict ? bad : "Invalid", "",
		                    gen);
	return op_condition_programmed(list, l->tag, gen);
}

static int add_listener_status(cJSON *listeners, const struct listener *l)
{
	cJSON *e = cJSON_CreateObject(), *list = cJSON_CreateArray();
	int rc = l7mp_json_add_str(e, "name", l->name);

	rc = l7mp_json_add(e, "conditions", list) ? -ENOMEM : rc;
	rc = rc ? rc : add_kinds(e, l);
	rc = rc ? rc : l7mp_json_add_num(e, "attachedRoutes", (double)l->attached);
	rc = rc ? rc : listener_conditions(list, l);
	if (!rc && cJSON_AddItemToArray(listeners, e))
		return 0;
	cJSON_Delete(e);
	return -ENOMEM;
}

/*
 * Builds the status of a Gateway or ListenerSet, except for the proxies' part. A Gateway whose
 * listeners all have protocols unknown to the Gateway API is not accepted; for known but
 * unsupported protocols the listeners' statuses say so.
 */
static void status_of(struct op_render *x, struct gateway *gw, struct op_node *n)
{
	cJSON *status = cJSON_CreateObject(), *list = cJSON_CreateArray();
	cJSON *listeners = cJSON_CreateArray();
	size_t all = 0, good = 0, known = 0;
	bool accepted;
	int rc = l7mp_json_add(status, "conditions", list);

	n->status = status;
	rc = l7mp_json_add(status, "listeners", listeners) ? -ENOMEM : rc;
	for (size_t i = 0; i < gw->n && !rc; i++) {
		const struct listener *l = &gw->listeners[i];

		if (l->node != n)
			continue;
		all++;
		good += usable(l);
		known += l->protocol != P_UNKNOWN && !l->conflict;
		rc = add_listener_status(listeners, l);
	}
	accepted = n->kind == OP_GATEWAY ? known > 0 || !all : good > 0;
	rc = rc ? rc
	        : op_condition(list, "Accepted", accepted,
	                       good == all ? "Accepted" : "ListenersNotValid",
	                       good == all ? "" : "some listeners can't be used", n->generation);
	if (!rc)
		rc = accepted
		             ? op_condition_programmed(list, -1, n->generation)
		             : op_condition(list, "Programmed", false,
		                            n->kind == OP_GATEWAY ? "Invalid" : "ListenersNotValid",
		                            "", n->generation);
	if (rc)
		x->oom = true;
}

static int add_address(cJSON *list, const char *value)
{
	bool name = strspn(value, "0123456789abcdefABCDEF.:") != strlen(value);
	cJSON *e;

	cJSON_ArrayForEach (e, list)
		if (is(e, "value", value, ""))
			return 0;
	if (cJSON_GetArraySize(list) == OP_MAX_ADDRESSES || !*value)
		return 0;
	e = cJSON_CreateObject();
	if (!l7mp_json_add_str(e, "type", name ? "Hostname" : "IPAddress") &&
	    !l7mp_json_add_str(e, "value", value) && cJSON_AddItemToArray(list, e))
		return 0;
	cJSON_Delete(e);
	return -ENOMEM;
}

/*
 * The addresses of its Services: of the load balancer, else the cluster IP; without a Service those
 * of the pods.
 */
static void add_addresses(struct op_render *x, struct op_node *n, const struct op_pods *pods)
{
	cJSON *list = cJSON_CreateArray();
	struct op_pods services = {0};
	int rc = l7mp_json_add(n->status, "addresses", list);

	for (const struct op_obj *o = x->s->objects[OP_SERVICE]; o && !rc; o = o->hh.next) {
		const char *label = op_label(o, OP_LABEL_GATEWAY);

		if (label && strcmp(label, n->name) == 0 && strcmp(o->ns, n->ns) == 0)
			rc = op_pods_add(&services, o);
	}
	if (services.n)
		qsort(services.v, services.n, sizeof(struct op_obj *), op_by_name);
	for (size_t i = 0; i < services.n && !rc; i++) {
		const struct op_service *v = services.v[i]->service;

		for (size_t k = 0; k < v->n_addresses && !rc; k++)
			rc = add_address(list, v->addresses[k]);
		if (!v->n_addresses && strcmp(v->cluster_ip, "None") != 0)
			rc = add_address(list, v->cluster_ip);
	}
	for (size_t i = 0; i < pods->n && !rc && !services.n; i++)
		rc = add_address(list, pods->v[i]->pod->ip);
	op_pods_free(&services);
	if (rc)
		x->oom = true;
}

static void finish(struct op_render *x, struct gateway *gw)
{
	struct op_pods pods = {0};

	pods_of(x, gw->node, &pods);
	gw->node->served = pods.n > 0;
	for (size_t i = 0; i < gw->n_sets; i++)
		gw->sets[i]->served = pods.n > 0;
	place_listeners(x, gw, &pods);
	status_of(x, gw, gw->node);
	if (!x->oom)
		add_addresses(x, gw->node, &pods);
	for (size_t i = 0; i < gw->n_sets && !x->oom; i++)
		status_of(x, gw, gw->sets[i]);
	if (!x->oom) {
		size_t attached = 0;

		for (size_t i = 0; i < gw->n_sets; i++) {
			const cJSON *c = l7mp_json_get(gw->sets[i]->status, "/conditions/0/status");

			attached += cJSON_IsString(c) && strcmp(c->valuestring, "True") == 0;
		}
		if (l7mp_json_add_num(gw->node->status, "attachedListenerSets", (double)attached))
			x->oom = true;
	}
	op_pods_free(&pods);
}

/* Calls a function for all nodes of a kind, oldest first. */
static void each(struct gateways *g, enum op_kind kind,
                 void (*fn)(struct gateways *g, struct op_node *n))
{
	size_t n = 0;
	struct op_node **v = nodes_by_age(g->x, kind, &n);

	for (size_t i = 0; v && i < n && !g->x->oom; i++)
		fn(g, v[i]);
	free(v);
}

static void add_class(struct gateways *g, struct op_node *n)
{
	if (our_class(g->x, n->obj))
		class_status(g->x, n);
}

void op_gateways(struct op_render *x)
{
	struct gateways g = {.x = x};
	struct gateway *gw, *next;

	each(&g, OP_GATEWAYCLASS, add_class);
	each(&g, OP_GATEWAY, add_gateway);
	each(&g, OP_LISTENERSET, add_set);
	HASH_ITER (hh, g.all, gw, next)
		find_conflicts(gw);
	each(&g, OP_UDPROUTE, add_route);
	each(&g, OP_TCPROUTE, add_route);
	HASH_ITER (hh, g.all, gw, next) {
		if (!x->oom)
			finish(x, gw);
		HASH_DEL(g.all, gw);
		free(gw->listeners);
		free(gw->sets);
		free(gw);
	}
}
