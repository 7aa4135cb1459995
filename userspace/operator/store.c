/* SPDX-License-Identifier: MIT */
/* The store: the cluster's objects, reduced to the parts that rendering uses. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core.h"

#define GATEWAY "gateway.networking.k8s.io"

const struct op_kind_info op_kinds[OP_KINDS] = {
        [OP_NAMESPACE] = {"Namespace", "namespaces", "", "v1", false, false, false},
        [OP_POD] = {"Pod", "pods", "", "v1", true, false, false},
        [OP_SERVICE] = {"Service", "services", "", "v1", true, false, false},
        [OP_SLICE] = {"EndpointSlice", "endpointslices", "discovery.k8s.io", "v1", true, false,
                      false},
        [OP_SECRET] = {"Secret", "secrets", "", "v1", true, false, false},
        [OP_VSVC] = {"VirtualService", "virtualservices", "l7mp.io", "v1", true, true, true},
        [OP_TARGET] = {"Target", "targets", "l7mp.io", "v1", true, true, true},
        [OP_RULE] = {"Rule", "rules", "l7mp.io", "v1", true, true, true},
        [OP_ROUTE] = {"Route", "routes", "l7mp.io", "v1", true, true, true},
        [OP_GATEWAYCLASS] = {"GatewayClass", "gatewayclasses", GATEWAY, "v1", false, true, true},
        [OP_GATEWAY] = {"Gateway", "gateways", GATEWAY, "v1", true, true, true},
        [OP_LISTENERSET] = {"ListenerSet", "listenersets", GATEWAY, "v1", true, true, true},
        [OP_UDPROUTE] = {"UDPRoute", "udproutes", GATEWAY, "v1", true, true, true},
        [OP_TCPROUTE] = {"TCPRoute", "tcproutes", GATEWAY, "v1", true, true, true},
        [OP_GRANT] = {"ReferenceGrant", "referencegrants", GATEWAY, "v1", true, false, true},
};

const struct op_settings op_settings_default = {
        .controller = "l7mp.io/gateway-controller",
        .container = "l7mp",
        .port = 1235,
        .max_document = 4 * 1024 * 1024,
};

enum op_kind op_kind_find(const char *api_version, const char *kind)
{
	const char *slash = api_version ? strchr(api_version, '/') : NULL;
	size_t group = slash ? (size_t)(slash - api_version) : 0;

	for (int k = 0; api_version && kind && k < OP_KINDS; k++) {
		const struct op_kind_info *i = &op_kinds[k];

		/* Ignore the version: older ones of the Gateway API have the same fields. */
		if (strcmp(i->kind, kind) == 0 && strlen(i->group) == group &&
		    memcmp(i->group, api_version, group) == 0)
			return (enum op_kind)k;
	}
	return OP_KINDS;
}

/* ---- pieces of an object ---- */

/* Copies a string of an object; an absent one is "". */
static char *copy(const cJSON *object, const char *key)
{
	return strdup(l7mp_json_str(object, key, ""));
}

static void free_labels(struct op_labels *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].key);
		free(l->v[i].value);
	}
	free(l->v);
	*l = (struct op_labels){0};
}

static void free_ports(struct op_port *ports, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(ports[i].name);
		free(ports[i].protocol);
	}
	free(ports);
}

static void free_pod(struct op_pod *p)
{
	if (!p)
		return;
	free(p->ip);
	free(p->host_ip);
	free(p->node);
	free(p->phase);
	free(p->account);
	free(p->container_id);
	free(p);
}

static void free_service(struct op_service *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_addresses; i++)
		free(s->addresses[i]);
	free(s->addresses);
	free_ports(s->ports, s->n_ports);
	free(s->cluster_ip);
	free(s->type);
	free(s);
}

static void free_slice(struct op_slice *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_endpoints; i++) {
		free(s->endpoints[i].address);
		free(s->endpoints[i].pod);
	}
	free(s->endpoints);
	free_ports(s->ports, s->n_ports);
	free(s->service);
	free(s);
}

static void free_obj(struct op_obj *o)
{
	if (!o)
		return;
	free_labels(&o->labels);
	free_pod(o->pod);
	free_service(o->service);
	free_slice(o->slice);
	cJSON_Delete(o->spec);
	cJSON_Delete(o->owners);
	cJSON_Delete(o->status);
	free(o->key);
	free(o->ns);
	free(o->name);
	free(o->uid);
	free(o->created);
	free(o->version);
	free(o);
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct op_label *)a)->key, ((const struct op_label *)b)->key);
}

static int read_labels(const cJSON *meta, struct op_labels *out)
{
	const cJSON *labels = l7mp_json_member(meta, "labels"), *l;

	int n = cJSON_IsObject(labels) ? cJSON_GetArraySize(labels) : 0;

	if (!n)
		return 0;
	out->v = calloc((size_t)(n < OP_MAX_LABELS ? n : OP_MAX_LABELS), sizeof(*out->v));
	if (!out->v)
		return -ENOMEM;
	cJSON_ArrayForEach (l, labels) {
		if (!cJSON_IsString(l) || out->n == OP_MAX_LABELS)
			continue;
		out->v[out->n].key = strdup(l->string);
		out->v[out->n].value = strdup(l->valuestring);
		out->n++;
		if (!out->v[out->n - 1].key || !out->v[out->n - 1].value)
			return -ENOMEM;
	}
	qsort(out->v, out->n, sizeof(*out->v), by_key);
	return 0;
}

static uint16_t port_number(const cJSON *object, const char *key)
{
	double n = l7mp_json_num(object, key, 0);

	return n >= 1 && n <= 65535 ? (uint16_t)n : 0;
}

/* The status of a container, or of a native sidecar, which is an initContainer. */
static const cJSON *container_status(const cJSON *status, const char *name)
{
	static const char *const lists[] = {"containerStatuses", "initContainerStatuses"};
	const cJSON *c;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(lists); i++)
		cJSON_ArrayForEach (c, l7mp_json_member(status, lists[i]))
			if (strcmp(l7mp_json_str(c, "name", ""), name) == 0)
				return c;
	return NULL;
}

static bool condition_true(const cJSON *status, const char *type)
{
	const cJSON *c;

	cJSON_ArrayForEach (c, l7mp_json_member(status, "conditions"))
		if (strcmp(l7mp_json_str(c, "type", ""), type) == 0)
			return strcmp(l7mp_json_str(c, "status", ""), "True") == 0;
	return false;
}

static int read_pod(const struct op_store *s, const cJSON *object, struct op_obj *o)
{
	const cJSON *meta = l7mp_json_member(object, "metadata");
	const cJSON *spec = l7mp_json_member(object, "spec");
	const cJSON *status = l7mp_json_member(object, "status");
	const cJSON *notes = l7mp_json_member(meta, "annotations"), *c;
	struct op_pod *p = calloc(1, sizeof(*p));
	char *end;
	long port;

	if (!(o->pod = p))
		return -ENOMEM;
	p->ip = copy(status, "podIP");
	p->host_ip = copy(status, "hostIP");
	p->node = copy(spec, "nodeName");
	p->phase = copy(status, "phase");
	p->account = copy(spec, "serviceAccountName");
	if (!p->ip || !p->host_ip || !p->node || !p->phase || !p->account)
		return -ENOMEM;
	p->ready = condition_true(status, "Ready");
	p->terminating = cJSON_IsString(l7mp_json_member(meta, "deletionTimestamp"));
	p->over = strcmp(p->phase, "Succeeded") == 0 || strcmp(p->phase, "Failed") == 0;
	p->host_network = l7mp_json_bool(spec, "hostNetwork", false);
	port = strtol(l7mp_json_str(notes, OP_ANNOTATION_PORT, "0"), &end, 10);
	p->port = !*end && port > 0 && port < 65536 ? (uint16_t)port : s->settings.port;
	c = container_status(status,
	                     l7mp_json_str(notes, OP_ANNOTATION_CONTAINER, s->settings.container));
	if (c) {
		p->container_id = copy(c, "containerID");
		if (!p->container_id)
			return -ENOMEM;
		p->proxy = l7mp_json_bool(c, "ready", false) && *p->ip && !p->over;
	}
	return 0;
}

static int read_ports(const cJSON *list, struct op_port **out, size_t *n)
{
	const cJSON *p;

	int max = cJSON_GetArraySize(list);

	if (max > OP_MAX_PORTS)
		max = OP_MAX_PORTS;
	*out = calloc((size_t)max + 1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	cJSON_ArrayForEach (p, list) {
		struct op_port *port = &(*out)[*n];

		if (*n == (size_t)max)
			break;
		port->port = port_number(p, "port");
		port->name = copy(p, "name");
		port->protocol = strdup(l7mp_json_str(p, "protocol", "TCP"));
		(*n)++;
		if (!port->name || !port->protocol)
			return -ENOMEM;
	}
	return 0;
}

static int add_address(struct op_service *v, const cJSON *address)
{
	if (!cJSON_IsString(address) || !*address->valuestring ||
	    v->n_addresses >= OP_MAX_ADDRESSES)
		return 0;
	v->addresses[v->n_addresses] = strdup(address->valuestring);
	return v->addresses[v->n_addresses++] ? 0 : -ENOMEM;
}

static int read_service(const cJSON *object, struct op_obj *o)
{
	const cJSON *spec = l7mp_json_member(object, "spec"), *a;
	const cJSON *balancer = l7mp_json_get(object, "/status/loadBalancer/ingress");
	struct op_service *v = calloc(1, sizeof(*v));
	int rc;

	if (!(o->service = v))
		return -ENOMEM;
	v->cluster_ip = copy(spec, "clusterIP");
	v->type = copy(spec, "type");
	v->addresses = calloc(OP_MAX_ADDRESSES, sizeof(*v->addresses));
	if (!v->cluster_ip || !v->type || !v->addresses)
		return -ENOMEM;
	rc = read_ports(l7mp_json_member(spec, "ports"), &v->ports, &v->n_ports);
	cJSON_ArrayForEach (a, balancer) {
		const cJSON *ip = l7mp_json_member(a, "ip");

		rc = rc ? rc : add_address(v, ip ? ip : l7mp_json_member(a, "hostname"));
	}
	cJSON_ArrayForEach (a, l7mp_json_member(spec, "externalIPs"))
		rc = rc ? rc : add_address(v, a);
	return rc;
}

static bool slice_condition(const cJSON *endpoint, const char *key, bool fallback)
{
	const cJSON *c = l7mp_json_member(l7mp_json_member(endpoint, "conditions"), key);

	return cJSON_IsBool(c) ? cJSON_IsTrue(c) : fallback;
}

static int read_slice(const cJSON *object, struct op_obj *o)
{
	const cJSON *list = l7mp_json_member(object, "endpoints"), *e;
	struct op_slice *v = calloc(1, sizeof(*v));
	int n = cJSON_GetArraySize(list);

	if (!(o->slice = v))
		return -ENOMEM;
	v->service = strdup(l7mp_json_str(l7mp_json_get(object, "/metadata/labels"),
	                                  "kubernetes.io/service-name", ""));
	v->endpoints = calloc((size_t)n + 1, sizeof(*v->endpoints));
	if (!v->service || !v->endpoints)
		return -ENOMEM;
	cJSON_ArrayForEach (e, list) {
		const cJSON *addresses = l7mp_json_member(e, "addresses");
		const cJSON *first = cJSON_IsArray(addresses) ? addresses->child : NULL;
		const cJSON *target = l7mp_json_member(e, "targetRef");
		bool pod = strcmp(l7mp_json_str(target, "kind", ""), "Pod") == 0;
		struct op_endpoint *out = &v->endpoints[v->n_endpoints];

		if (!cJSON_IsString(first) || v->n_endpoints == OP_MAX_ENDPOINTS)
			continue;
		out->address = strdup(first->valuestring);
		out->pod = strdup(pod ? l7mp_json_str(target, "name", "") : "");
		out->ready = slice_condition(e, "ready", true);
		out->serving = slice_condition(e, "serving", out->ready);
		out->terminating = slice_condition(e, "terminating", false);
		v->n_endpoints++;
		if (!out->address || !out->pod)
			return -ENOMEM;
	}
	return read_ports(l7mp_json_member(object, "ports"), &v->ports, &v->n_ports);
}

/* ---- the digest of the parts that rendering uses ---- */

static void digest_text(struct l7mp_str *t, const char *text)
{
	l7mp_str_add(t, text ? text : "-");
	l7mp_str_addn(t, "", 1);
}

static void digest_tree(struct l7mp_str *t, const cJSON *node)
{
	char *text = node ? cJSON_PrintUnformatted(node) : NULL;

	if (node && !text)
		t->oom = 1;
	digest_text(t, text);
	cJSON_free(text);
}

static void digest_ports(struct l7mp_str *t, const struct op_port *ports, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		digest_text(t, ports[i].name);
		digest_text(t, ports[i].protocol);
		l7mp_str_addf(t, "%u,", ports[i].port);
	}
}

static void digest_kind(struct l7mp_str *t, const struct op_obj *o)
{
	if (o->pod) {
		const struct op_pod *p = o->pod;

		digest_text(t, p->ip);
		digest_text(t, p->host_ip);
		digest_text(t, p->node);
		digest_text(t, p->phase);
		digest_text(t, p->account);
		digest_text(t, p->container_id);
		l7mp_str_addf(t, "%u%d%d%d%d", p->port, p->proxy, p->ready, p->terminating,
		              p->host_network);
	}
	if (o->service) {
		digest_text(t, o->service->cluster_ip);
		digest_text(t, o->service->type);
		for (size_t i = 0; i < o->service->n_addresses; i++)
			digest_text(t, o->service->addresses[i]);
		digest_ports(t, o->service->ports, o->service->n_ports);
	}
	if (o->slice) {
		digest_text(t, o->slice->service);
		digest_ports(t, o->slice->ports, o->slice->n_ports);
		for (size_t i = 0; i < o->slice->n_endpoints; i++) {
			const struct op_endpoint *e = &o->slice->endpoints[i];

			digest_text(t, e->address);
			digest_text(t, e->pod);
			l7mp_str_addf(t, "%d%d%d", e->ready, e->serving, e->terminating);
		}
	}
}

static int digest(struct op_obj *o)
{
	struct l7mp_str t = {0};

	digest_text(&t, o->uid);
	digest_text(&t, o->created);
	l7mp_str_addf(&t, "%.0f", o->generation);
	for (size_t i = 0; i < o->labels.n; i++) {
		digest_text(&t, o->labels.v[i].key);
		digest_text(&t, o->labels.v[i].value);
	}
	digest_tree(&t, o->spec);
	digest_tree(&t, o->owners);
	digest_kind(&t, o);
	if (t.oom) {
		l7mp_str_free(&t);
		return -ENOMEM;
	}
	o->digest = l7mp_hash_stable(t.s, t.len, 0);
	/* Estimate: a JSON tree takes about five times its text. */
	o->bytes = sizeof(*o) + (o->spec ? 5 : 2) * t.len;
	l7mp_str_free(&t);
	return 0;
}

/* ---- an object ---- */

static int duplicate(const cJSON *object, const char *key, cJSON **out)
{
	const cJSON *node = l7mp_json_member(object, key);

	if (!node)
		return 0;
	*out = cJSON_Duplicate(node, true);
	return *out ? 0 : -ENOMEM;
}

static int read_kind(const struct op_store *s, const cJSON *object, struct op_obj *o)
{
	const cJSON *meta = l7mp_json_member(object, "metadata");
	int rc = 0;

	switch (o->kind) {
	case OP_POD:
		return read_pod(s, object, o);
	case OP_SERVICE:
		return read_service(object, o);
	case OP_SLICE:
		return read_slice(object, o);
	case OP_NAMESPACE:
	case OP_SECRET:
		return 0;
	default:
		rc = duplicate(object, "spec", &o->spec);
		if (!rc && l7mp_json_bool(o->spec, "updateOwners", false))
			rc = duplicate(meta, "ownerReferences", &o->owners);
		if (!rc && op_kinds[o->kind].status)
			rc = duplicate(object, "status", &o->status);
		return rc;
	}
}

static int read_object(const struct op_store *s, enum op_kind kind, const cJSON *object,
                       struct op_obj **out)
{
	const cJSON *meta = l7mp_json_member(object, "metadata");
	const char *ns = op_kinds[kind].namespaced ? l7mp_json_str(meta, "namespace", "") : "";
	struct op_obj *o = calloc(1, sizeof(*o));
	int rc;

	if (!o)
		return -ENOMEM;
	o->kind = kind;
	o->ns = strdup(ns);
	o->name = copy(meta, "name");
	o->key = l7mp_asprintf("%s/%s", ns, l7mp_json_str(meta, "name", ""));
	o->uid = copy(meta, "uid");
	o->created = copy(meta, "creationTimestamp");
	o->version = copy(meta, "resourceVersion");
	o->generation = l7mp_json_num(meta, "generation", 0);
	rc = o->ns && o->name && o->key && o->uid && o->created && o->version ? 0 : -ENOMEM;
	/* Only objects of these kinds are selected by their labels. */
	if (!rc && (kind == OP_POD || kind == OP_NAMESPACE || kind == OP_SERVICE))
		rc = read_labels(meta, &o->labels);
	if (!rc)
		rc = read_kind(s, object, o);
	if (!rc)
		rc = digest(o);
	if (rc)
		free_obj(o);
	else
		*out = o;
	return rc;
}

/* Names become parts of paths and texts: only characters of RFC 1123 names and ':'. */
static bool is_name(const char *s, size_t max)
{
	size_t n = strlen(s);

	return n > 0 && n <= max &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:") == n;
}

static size_t tree_size(const cJSON *node, size_t left)
{
	size_t n = 2;

	if (node->string)
		n += strlen(node->string) + 3;
	if (cJSON_IsString(node))
		n += strlen(node->valuestring);
	else if (!node->child)
		n += 4;
	for (const cJSON *c = node->child; c && n <= left; c = c->next)
		n += tree_size(c, left - n);
	return n;
}

static int check_object(enum op_kind kind, const cJSON *object, struct l7mp_error *err)
{
	const cJSON *meta = l7mp_json_member(object, "metadata");
	const char *name = l7mp_json_str(meta, "name", ""), *ns;

	if (!is_name(name, 253))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA,
		                      "metadata.name: expected a name of letters, digits, '-' and "
		                      "'.' with at most 253 bytes");
	ns = l7mp_json_str(meta, "namespace", "");
	if (op_kinds[kind].namespaced && !is_name(ns, 63))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA,
		                      "metadata.namespace: expected a name of at most 63 bytes");
	if (tree_size(object, OP_MAX_OBJECT) > OP_MAX_OBJECT)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_TOO_LARGE,
		                      "%s %s: expected an object of at most %d bytes",
		                      op_kinds[kind].kind, name, OP_MAX_OBJECT);
	return 0;
}

/* ---- the index of labels ---- */

const char *op_label(const struct op_obj *o, const char *key)
{
	const struct op_label want = {.key = (char *)key};
	const struct op_label *l =
	        o->labels.n ? bsearch(&want, o->labels.v, o->labels.n, sizeof(want), by_key) : NULL;

	return l ? l->value : NULL;
}

#define INDEX_KEY 400

/* Builds an index key and returns its length. Longer keys than labels can have are hashed. */
static size_t index_key(char key[INDEX_KEY], const char *a, char between, const char *b)
{
	int n = snprintf(key, INDEX_KEY, "%s%c%s", a, between, b);
	uint64_t h[2];

	if (n >= 0 && n < INDEX_KEY)
		return (size_t)n;
	h[0] = l7mp_hash_stable(a, strlen(a), 0);
	h[1] = l7mp_hash_stable(b, strlen(b), h[0]);
	return (size_t)snprintf(key, INDEX_KEY, "%c%016llx%016llx", between,
	                        (unsigned long long)h[0], (unsigned long long)h[1]);
}

static struct op_index *find_index(struct op_index *table, const char *a, char between,
                                   const char *b)
{
	char key[INDEX_KEY];
	struct op_index *i;

	HASH_FIND(hh, table, key, index_key(key, a, between, b), i);
	return i;
}

const struct op_index *op_labelled(const struct op_store *s, const char *key, const char *value)
{
	return find_index(s->labels, key, '=', value);
}

const struct op_index *op_slices_of(const struct op_store *s, const char *ns, const char *service)
{
	return find_index(s->slices, ns, '/', service);
}

static int index_by(struct op_index **table, struct op_obj *o, const char *a, char between,
                    const char *b)
{
	struct op_index *i = find_index(*table, a, between, b);

	if (!i) {
		char key[INDEX_KEY];

		i = calloc(1, sizeof(*i));
		if (!i)
			return -ENOMEM;
		(void)index_key(key, a, between, b);
		i->key = strdup(key);
		if (i->key)
			HASH_ADD_KEYPTR(hh, *table, i->key, strlen(i->key), i);
		if (!i->key || !i->hh.tbl) {
			free(i->key);
			free(i);
			return -ENOMEM;
		}
	}
	if (i->n == i->cap) {
		size_t cap = i->cap ? 2 * i->cap : 4;
		struct op_obj **v = realloc(i->v, cap * sizeof(struct op_obj *));

		if (!v)
			return -ENOMEM;
		i->v = v;
		i->cap = cap;
	}
	i->v[i->n++] = o;
	return 0;
}

static void unindex_by(struct op_index **table, const struct op_obj *o, const char *a, char between,
                       const char *b)
{
	struct op_index *i = find_index(*table, a, between, b);

	for (size_t j = 0; i && j < i->n; j++)
		if (i->v[j] == o) {
			i->v[j] = i->v[--i->n];
			break;
		}
	if (!i || i->n)
		return;
	HASH_DEL(*table, i);
	free(i->v);
	free(i->key);
	free(i);
}

static void unindex(struct op_store *s, const struct op_obj *o)
{
	for (size_t k = 0; o->kind == OP_POD && k < o->labels.n; k++)
		unindex_by(&s->labels, o, o->labels.v[k].key, '=', o->labels.v[k].value);
	if (o->kind == OP_SLICE)
		unindex_by(&s->slices, o, o->ns, '/', o->slice->service);
}

static int index_object(struct op_store *s, struct op_obj *o)
{
	int rc = 0;

	for (size_t k = 0; o->kind == OP_POD && k < o->labels.n && !rc; k++)
		rc = index_by(&s->labels, o, o->labels.v[k].key, '=', o->labels.v[k].value);
	if (o->kind == OP_SLICE)
		rc = index_by(&s->slices, o, o->ns, '/', o->slice->service);
	if (rc)
		unindex(s, o);
	return rc;
}

/* ---- the store ---- */

static void free_refusal(struct op_refusal *r)
{
	free(r->key);
	free(r->boot);
	free(r->message);
	free(r);
}

static void drop_refusal(struct op_refusal **table, struct op_refusal *r)
{
	HASH_DEL(*table, r);
	free_refusal(r);
}

static void drop_refusals(struct op_refusal **table)
{
	struct op_refusal *r, *next;

	HASH_ITER (hh, *table, r, next)
		drop_refusal(table, r);
}

int op_store_new(const struct l7mp_registry *registry, const struct op_settings *settings,
                 struct op_store **out)
{
	struct op_store *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->registry = registry;
	s->settings = *settings;
	*out = s;
	return 0;
}

static struct op_obj *find_in(struct op_obj *table, const char *ns, const char *name)
{
	char key[63 + 1 + 253 + 1];
	struct op_obj *o;
	int n = snprintf(key, sizeof(key), "%s/%s", ns ? ns : "", name);

	if (n < 0 || (size_t)n >= sizeof(key))
		return NULL;
	HASH_FIND(hh, table, key, (size_t)n, o);
	return o;
}

struct op_obj *op_find(const struct op_store *s, enum op_kind kind, const char *ns,
                       const char *name)
{
	return find_in(s->objects[kind], ns, name);
}

/* Replaces an object, but keeps the state of its proxy, which may be the same one. */
static void replace_object(struct op_store *s, struct op_obj *o)
{
	s->version[o->kind]++;
	unindex(s, o);
	HASH_DEL(s->objects[o->kind], o);
	s->bytes -= o->bytes;
	free_obj(o);
}

/* What a pod's proxy has said and refused goes with the pod. */
static void forget_pod(struct op_store *s, const char *uid)
{
	size_t n = strlen(uid);
	struct op_refusal *r, *next;

	op_store_forget(s, uid);
	HASH_ITER (hh, s->refusals, r, next)
		if (strncmp(r->key, uid, n) == 0 && r->key[n] == ' ')
			drop_refusal(&s->refusals, r);
}

static void remove_object(struct op_store *s, struct op_obj *o)
{
	if (o->kind == OP_POD)
		forget_pod(s, o->uid);
	replace_object(s, o);
}

/* Drops an object that was put while the store was held. False if `o` is NULL. */
static bool drop_later(struct op_store *s, struct op_obj *o)
{
	if (!o)
		return false;
	HASH_DEL(s->later[o->kind], o);
	free_obj(o);
	return true;
}

void op_store_free(struct op_store **sp)
{
	struct op_store *s = *sp;
	struct op_obj *o, *next;

	if (!s)
		return;
	for (int k = 0; k < OP_KINDS; k++) {
		HASH_ITER (hh, s->objects[k], o, next)
			remove_object(s, o);
		HASH_ITER (hh, s->later[k], o, next)
			drop_later(s, o);
	}
	drop_refusals(&s->refusals);
	drop_refusals(&s->shown);
	free(s);
	*sp = NULL;
}

/*
 * Adds an object, or replaces the one of its key. Takes `o`, also when it fails. *changed (may be
 * NULL) as for op_store_put.
 */
static int take_object(struct op_store *s, struct op_obj *o, bool *changed)
{
	enum op_kind kind = o->kind;
	struct op_obj *was;

	o->fresh = true;
	HASH_FIND(hh, s->objects[kind], o->key, strlen(o->key), was);
	if (changed && (!was || was->digest != o->digest))
		*changed = true;
	/* Most updates of pods don't change the digest: keep the old object in the index. */
	if (was && was->digest == o->digest) {
		cJSON *status = was->status;
		char *version = was->version;

		if (!*o->version || strcmp(version, o->version) != 0)
			was->told = 0;
		was->status = o->status;
		was->version = o->version;
		was->fresh = true;
		o->status = status;
		o->version = version;
		free_obj(o);
		return 0;
	}
	if (index_object(s, o))
		goto oom;
	/* Add before deleting the old object of the same key, so that a failure changes nothing. */
	HASH_ADD_KEYPTR(hh, s->objects[kind], o->key, strlen(o->key), o);
	if (!o->hh.tbl) {
		unindex(s, o);
		goto oom;
	}
	if (was && kind == OP_POD && strcmp(was->uid, o->uid) != 0)
		forget_pod(s, was->uid); /* a new pod with the old one's name */
	if (was)
		replace_object(s, was);
	s->version[kind]++;
	s->bytes += o->bytes;
	return 0;
oom:
	free_obj(o);
	return -ENOMEM;
}

/* While the store is held: adds an object to `later`. Takes `o`, also when it fails. */
static int keep_for_later(struct op_store *s, struct op_obj *o)
{
	(void)drop_later(s, find_in(s->later[o->kind], o->ns, o->name));
	HASH_ADD_KEYPTR(hh, s->later[o->kind], o->key, strlen(o->key), o);
	if (o->hh.tbl)
		return 0;
	free_obj(o);
	return -ENOMEM;
}

int op_store_put(struct op_store *s, enum op_kind kind, const cJSON *object, bool *changed,
                 struct l7mp_error *err)
{
	struct op_obj *o = NULL;
	int rc = check_object(kind, object, err);

	if (rc)
		return rc;
	rc = read_object(s, kind, object, &o);
	if (!rc && s->held)
		rc = keep_for_later(s, o);
	else if (!rc)
		rc = take_object(s, o, changed);
	if (rc)
		l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	return rc;
}

bool op_store_delete(struct op_store *s, enum op_kind kind, const char *ns, const char *name)
{
	struct op_obj *o = op_find(s, kind, ns, name);
	bool later = drop_later(s, find_in(s->later[kind], ns, name));

	if (!o || (s->held && o->deleted))
		return later;
	if (!s->held) {
		remove_object(s, o);
		return true;
	}
	o->deleted = true;
	o->next_deleted = s->deleted;
	s->deleted = o;
	return true;
}

/* ---- holding the store ---- */

static int copy_refusals(struct op_store *s)
{
	for (const struct op_refusal *r = s->refusals; r; r = r->hh.next) {
		struct op_refusal *n = calloc(1, sizeof(*n));

		if (!n)
			return -ENOMEM;
		n->key = strdup(r->key);
		n->boot = strdup(r->boot);
		n->message = strdup(r->message);
		n->digest = r->digest;
		n->tries = r->tries;
		n->lifted = r->lifted;
		if (n->key && n->boot && n->message)
			HASH_ADD_KEYPTR(hh, s->shown, n->key, strlen(n->key), n);
		if (!n->hh.tbl) {
			free_refusal(n);
			return -ENOMEM;
		}
	}
	return 0;
}

int op_store_hold(struct op_store *s)
{
	if (copy_refusals(s)) {
		drop_refusals(&s->shown);
		return -ENOMEM;
	}
	s->held = true;
	return 0;
}

int op_store_release(struct op_store *s, bool *changed)
{
	struct op_obj *o, *next;
	int rc = 0;

	s->held = false;
	drop_refusals(&s->shown);
	/* Deletions first: objects that were put again afterwards are new ones. */
	while ((o = s->deleted)) {
		s->deleted = o->next_deleted;
		remove_object(s, o);
		if (changed)
			*changed = true;
	}
	for (int k = 0; k < OP_KINDS; k++) {
		HASH_ITER (hh, s->later[k], o, next) {
			HASH_DEL(s->later[k], o);
			if (take_object(s, o, changed))
				rc = -ENOMEM;
		}
	}
	return rc;
}

void op_store_relist_begin(struct op_store *s, enum op_kind kind)
{
	for (struct op_obj *o = s->objects[kind]; o; o = o->hh.next)
		o->fresh = false;
}

bool op_store_relist_end(struct op_store *s, enum op_kind kind)
{
	struct op_obj *o, *next;
	bool any = false;

	HASH_ITER (hh, s->objects[kind], o, next) {
		if (o->fresh)
			continue;
		remove_object(s, o);
		any = true;
	}
	return any;
}

size_t op_store_count(const struct op_store *s, enum op_kind kind)
{
	return HASH_COUNT(s->objects[kind]);
}

size_t op_store_bytes(const struct op_store *s)
{
	return s->bytes;
}

/* ---- state of the proxies ---- */

static struct op_known *find_known(const struct op_store *s, const char *uid)
{
	struct op_known *k;

	HASH_FIND_STR(s->known, uid, k);
	return k;
}

void op_store_forget(struct op_store *s, const char *uid)
{
	struct op_known *k = find_known(s, uid);

	if (!k)
		return;
	HASH_DEL(s->known, k);
	op_manifest_unref(k->manifest);
	free(k->uid);
	free(k->boot);
	free(k->error);
	free(k);
}

/* Whether its pod is still there: what a proxy says later is not kept, as nothing would drop it. */
static bool pod_is_there(const struct op_store *s, const struct op_proxy *p)
{
	const struct op_obj *pod = op_find(s, OP_POD, p->ns, p->name);

	return pod && strcmp(pod->uid, p->uid) == 0;
}

/* Returns the state of the proxy in its present boot; creates it if there is none. */
static struct op_known *get_known(struct op_store *s, const struct op_proxy *p)
{
	struct op_known *k = find_known(s, p->uid);

	if (k && strcmp(k->boot, p->boot) == 0)
		return k;
	op_store_forget(s, p->uid);
	k = calloc(1, sizeof(*k));
	if (!k)
		return NULL;
	k->uid = strdup(p->uid);
	k->boot = strdup(p->boot);
	if (k->uid && k->boot)
		HASH_ADD_KEYPTR(hh, s->known, k->uid, strlen(k->uid), k);
	if (k->uid && k->boot && k->hh.tbl)
		return k;
	free(k->uid);
	free(k->boot);
	free(k);
	return NULL;
}

#define REFUSAL_TRIES 2

/*
 * Lifts the proxy's refusals, so that refused objects are tried again, up to REFUSAL_TRIES times.
 * Returns 1 if there was any, else 0.
 */
static int lift_refusals(struct op_store *s, const struct op_proxy *p)
{
	size_t uid = strlen(p->uid);
	int any = 0;

	for (struct op_refusal *r = s->refusals; r; r = r->hh.next) {
		if (strncmp(r->key, p->uid, uid) != 0 || r->key[uid] != ' ' || r->lifted ||
		    r->tries >= REFUSAL_TRIES || strcmp(r->boot, p->boot) != 0)
			continue;
		r->lifted = true;
		any = 1;
	}
	return any;
}

int op_store_applied(struct op_store *s, const struct op_proxy *p)
{
	struct op_known *k;

	if (!pod_is_there(s, p))
		return 0;
	k = get_known(s, p);
	if (!k)
		return -ENOMEM;
	free(k->error);
	k->error = NULL;
	op_manifest_unref(k->manifest);
	k->manifest =
	        op_manifest_ref(l7mp_container_of(p, struct op_entry, pub)->group->paper->manifest);
	k->hash = p->hash;
	return lift_refusals(s, p);
}

int op_store_failed(struct op_store *s, const struct op_proxy *p, const char *error)
{
	struct op_known *k;
	char *copy;

	if (!pod_is_there(s, p))
		return 0;
	k = get_known(s, p);
	copy = l7mp_asprintf("%.500s", error);
	if (!k || !copy) {
		free(copy);
		return -ENOMEM;
	}
	free(k->error);
	k->error = copy;
	return 0;
}

uint64_t op_store_applied_hash(const struct op_store *s, const struct op_proxy *p)
{
	const struct op_known *k = op_known(s, p);

	return k ? k->hash : 0;
}

const struct op_known *op_known(const struct op_store *s, const struct op_proxy *p)
{
	const struct op_known *k = find_known(s, p->uid);

	return k && strcmp(k->boot, p->boot) == 0 ? k : NULL;
}

/* ---- refusals ---- */

static char *refusal_key(const char *uid, enum op_kind kind, const char *ns, const char *name,
                         int part)
{
	return l7mp_asprintf("%s %d %s/%s %d", uid, kind, ns, name, part);
}

int op_store_refuse(struct op_store *s, const struct op_proxy *p, const struct op_object *object,
                    const char *message)
{
	struct op_obj *o = op_find(s, object->kind, object->ns, object->name);
	struct op_refusal *r = NULL, *was = NULL;

	if (!o || !pod_is_there(s, p))
		return 0;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->key = refusal_key(p->uid, object->kind, object->ns, object->name, object->part);
	r->boot = strdup(p->boot);
	r->message = l7mp_asprintf("%.500s", message);
	r->digest = o->digest;
	if (!r->key || !r->boot || !r->message)
		goto oom;
	HASH_FIND_STR(s->refusals, r->key, was);
	r->tries = 1;
	if (was && was->digest == r->digest && strcmp(was->boot, r->boot) == 0)
		r->tries = was->tries + 1;
	if (was)
		drop_refusal(&s->refusals, was);
	else if (HASH_COUNT(s->refusals) >= OP_MAX_REFUSALS)
		drop_refusal(&s->refusals, s->refusals); /* the oldest one; it will be retried */
	HASH_ADD_KEYPTR(hh, s->refusals, r->key, strlen(r->key), r);
	if (r->hh.tbl)
		return 0;
oom:
	free_refusal(r);
	return -ENOMEM;
}

bool op_any_refused(const struct op_store *s)
{
	return s->held ? s->shown : s->refusals;
}

const struct op_refusal *op_refused(const struct op_store *s, const struct op_obj *pod,
                                    const struct op_obj *object, int part)
{
	struct op_refusal *r = NULL;
	const char *id = pod->pod->container_id;
	size_t uid = strlen(pod->uid);
	char *key;

	if (!op_any_refused(s))
		return NULL;
	key = refusal_key(pod->uid, object->kind, object->ns, object->name, part);
	if (key && s->held)
		HASH_FIND_STR(s->shown, key, r);
	else if (key)
		HASH_FIND_STR(s->refusals, key, r);
	free(key);
	if (!r || r->lifted || r->digest != object->digest || strncmp(r->boot, pod->uid, uid) ||
	    r->boot[uid] != '/' || strcmp(r->boot + uid + 1, id ? id : ""))
		return NULL;
	return r;
}
