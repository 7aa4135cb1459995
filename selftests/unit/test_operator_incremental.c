/* SPDX-License-Identifier: MIT */
/*
 * Rendering from the result before gives what rendering from nothing gives: over long random
 * sequences of changes. And it makes only what has changed.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/registry_all.h"
#include "l7mp/util.h"
#include "operator/core.h"

#define NOW "2026-01-01T00:00:00Z"

/* ---- random objects ---- */

static uint64_t rng;

static unsigned below(unsigned n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)(rng >> 11) % n;
}

static const char *pick(const char *const *list, size_t n)
{
	return list[below((unsigned)n)];
}
#define PICK(...)                                \
	pick((const char *const[]){__VA_ARGS__}, \
	     sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

static const char *some_ns(void)
{
	return PICK("a", "a", "b", "c");
}

struct text {
	char s[4096];
};

static struct text selector(void)
{
	struct text t;
	unsigned n = below(8);

	if (n < 4)
		snprintf(t.s, sizeof(t.s), "{'matchLabels': {'app': 'l%u'}}", below(4));
	else if (n == 4)
		snprintf(t.s, sizeof(t.s),
		         "{'matchNamespace': '%s', 'matchLabels': {'app': 'l%u'}}", some_ns(),
		         below(4));
	else if (n == 5)
		snprintf(t.s, sizeof(t.s), "{'matchService': 's%u'}", below(3));
	else if (n == 6)
		snprintf(t.s, sizeof(t.s),
		         "{'matchExpressions': [{'key': 'app', 'operator': '%s', 'values': "
		         "['l%u', 'l3']}]}",
		         PICK("In", "NotIn", "Bad"), below(3));
	else
		snprintf(t.s, sizeof(t.s), "{}");
	return t;
}

static struct text reference(void)
{
	struct text t;
	unsigned n = below(6), i = below(4);

	if (n < 2)
		snprintf(t.s, sizeof(t.s), "%s%u", PICK("t", "t", "v", "s", "nothing"), i);
	else if (n <= 3)
		snprintf(t.s, sizeof(t.s), "%s/%s%u", some_ns(), PICK("t", "t", "v", "s"), i);
	else if (n == 4)
		snprintf(t.s, sizeof(t.s), "s%u:%s", i, PICK("53", "80", "dns"));
	else
		snprintf(t.s, sizeof(t.s), "/apis/l7mp.io/v1/namespaces/%s/%s", some_ns(),
		         PICK("targets/t0", "targets/t1", "virtualservices/v0"));
	return t;
}

static struct text cluster(void)
{
	struct text t, s = selector();

	if (below(2))
		snprintf(t.s, sizeof(t.s),
		         "{'spec': {'UDP': {'port': %u}}, 'endpoints': [{'selector': %.2000s}]}",
		         7 + below(2), s.s);
	else
		snprintf(t.s, sizeof(t.s),
		         "{%s'spec': {'UDP': {'port': %u}}, 'endpoints': [{%s'spec': {'address': "
		         "'10.9.0.%u'}}]}",
		         PICK("", "", "'name': 'inline', "), 7 + below(2),
		         PICK("", "", "'name': 'e', "), below(9));
	return t;
}

static struct text route(void)
{
	struct text t, r = reference(), c = cluster();

	if (below(3))
		snprintf(t.s, sizeof(t.s), "{'destination': '%.200s'}", r.s);
	else
		snprintf(t.s, sizeof(t.s), "{'destination': %.2000s}", c.s);
	return t;
}

static struct text rule(void)
{
	struct text t, r = route();

	if (below(3))
		snprintf(t.s, sizeof(t.s), "{'action': {'route': %.3000s}}", r.s);
	else
		snprintf(t.s, sizeof(t.s), "{'action': {'routeRef': '%s%u'}}", PICK("r", "b/r"),
		         below(3));
	return t;
}

/* metadata of an object: the same age for the same name, unless it was made again. */
static struct text meta(const char *ns, const char *prefix, unsigned i, unsigned generation)
{
	static unsigned uids;
	struct text t;

	snprintf(t.s, sizeof(t.s),
	         "'metadata': {%s%s%s'name': '%s%u', 'uid': '%s-%s%u-%u', 'generation': %u, "
	         "'resourceVersion': '%u', 'creationTimestamp': '2026-01-01T00:00:%02uZ'}",
	         *ns ? "'namespace': '" : "", ns, *ns ? "', " : "", prefix, i, ns, prefix, i,
	         below(20) ? 0 : ++uids, generation, below(100000), below(20) ? i : below(60));
	return t;
}

static struct text pod(void)
{
	struct text t;
	unsigned i = below(10);
	bool proxy = i < 5;

	snprintf(
	        t.s, sizeof(t.s),
	        "{'metadata': {'namespace': '%s', 'name': 'p%u', 'uid': 'u%u', 'labels': {%s'app': "
	        "'l%u'%s}%s}, 'spec': {'nodeName': 'n'}, 'status': {'podIP': '%s10.0.0.%u', "
	        "'phase': '%s', 'conditions': [{'type': 'Ready', 'status': '%s'}], "
	        "'containerStatuses': [{'name': '%s', 'ready': %s, 'containerID': 'c%u'}]}}",
	        i % 3 ? "a" : "b", i, below(20) ? i : below(1000), below(3) ? "" : "'x': 'y', ",
	        below(4),
	        proxy ? PICK(", 'gateway.networking.k8s.io/gateway-name': 'g0'",
	                     ", 'l7mp.io/gateway-class': 'class0'", "", "")
	              : "",
	        below(9) ? "" : ", 'deletionTimestamp': '2026-01-01T00:00:00Z'", "", 1 + below(12),
	        PICK("Running", "Running", "Running", "Succeeded"), PICK("True", "True", "False"),
	        proxy ? "l7mp" : "app", PICK("true", "true", "true", "false"), below(2));
	return t;
}

static struct text gateway_listeners(const char *names)
{
	struct text t = {{0}};
	size_t n = 0;

	for (unsigned i = 0, count = 1 + below(3); i < count; i++)
		n += (size_t)snprintf(
		        t.s + n, sizeof(t.s) - n,
		        "%s{'name': '%s%u', 'protocol': '%s', 'port': %u, 'allowedRoutes': "
		        "{'namespaces': {'from': '%s', 'selector': {'matchLabels': {'k': 'v'}}}}}",
		        i ? ", " : "", names, i, PICK("UDP", "TCP", "HTTP", "TLS"), 53 + below(3),
		        PICK("Same", "All", "Selector"));
	return t;
}

static struct text parent(void)
{
	struct text t;

	snprintf(t.s, sizeof(t.s), "{'kind': '%s', 'name': '%s', 'namespace': '%s'%s}",
	         PICK("Gateway", "Gateway", "ListenerSet"), PICK("g0", "g1", "ls0"), some_ns(),
	         PICK("", "", ", 'sectionName': 'l0'", ", 'port': 53"));
	return t;
}

/* Of a kind, a random object as JSON with single quotes. */
static struct text object(enum op_kind kind)
{
	const char *ns = some_ns();
	unsigned i = below(4), g = 1 + below(3);
	struct text t, m = {{0}}, s = selector(), c = cluster(), r = rule(), p = parent(), l;

	switch (kind) {
	case OP_NAMESPACE:
		snprintf(t.s, sizeof(t.s), "{'metadata': {'name': '%s', 'labels': {'k': '%s'}}}",
		         ns, PICK("v", "w"));
		break;
	case OP_POD:
		return pod();
	case OP_SERVICE:
		snprintf(t.s, sizeof(t.s),
		         "{'metadata': {'namespace': '%s', 'name': 's%u', 'labels': "
		         "{'gateway.networking.k8s.io/gateway-name': '%s'}}, 'spec': {'clusterIP': "
		         "'10.5.0.%u', 'ports': [{'name': 'dns', 'port': %s, 'protocol': '%s'}]}}",
		         ns, i, PICK("g0", "none"), below(3), PICK("53", "80"),
		         PICK("UDP", "UDP", "TCP", "SCTP"));
		break;
	case OP_SLICE:
		snprintf(t.s, sizeof(t.s),
		         "{'metadata': {'namespace': '%s', 'name': 'sl%u', 'labels': "
		         "{'kubernetes.io/service-name': 's%u'}}, 'addressType': 'IPv4', 'ports': "
		         "[{'name': 'dns', 'port': %u, 'protocol': 'UDP'}], 'endpoints': "
		         "[{'addresses': ['10.0.0.%u'], 'conditions': {'ready': %s}, 'targetRef': "
		         "{'kind': 'Pod', 'name': 'p%u'}}]}",
		         ns, below(6), below(3), 53 + below(2), below(12), PICK("true", "false"),
		         below(10));
		break;
	case OP_SECRET:
		snprintf(t.s, sizeof(t.s), "{'metadata': {'namespace': '%s', 'name': 'x%u'}}", ns,
		         i);
		break;
	case OP_VSVC:
		m = meta(ns, "v", i, g);
		snprintf(t.s, sizeof(t.s),
		         "{%.400s, 'spec': {%s%.300s, 'listener': {'spec': {'%s': {'port': %u%s}}%s"
		         "%.2500s%s}}}",
		         m.s, "'selector': ", s.s, PICK("UDP", "UDP", "TCP", "NONE"), 53 + below(4),
		         PICK("", "", ", 'address': '127.0.0.1'"), below(5) ? ", 'rules': [" : "",
		         r.s, "]");
		if (!strstr(t.s, "'rules': [")) /* without rules */
			snprintf(t.s, sizeof(t.s),
			         "{%.400s, 'spec': {'selector': %.300s, 'listener': {'spec': "
			         "{'UDP': "
			         "{'port': %u}}}}}",
			         m.s, s.s, 53 + below(4));
		break;
	case OP_TARGET:
		m = meta(ns, "t", i, g);
		if (below(5))
			snprintf(t.s, sizeof(t.s),
			         "{%.400s, 'spec': {%s%.300s%s'cluster': %.2500s}}", m.s,
			         "'selector': ", s.s, ", ", c.s);
		else
			snprintf(t.s, sizeof(t.s),
			         "{%.400s, 'spec': {'linkedVirtualService': '%s%u'}}", m.s,
			         PICK("v", "b/v"), below(4));
		break;
	case OP_RULE:
		m = meta(ns, "u", i, g);
		snprintf(t.s, sizeof(t.s),
		         "{%.400s, 'spec': {'selector': %.300s, 'rulelist': '%s', 'position': %u, "
		         "'rule': %.2500s}}",
		         m.s, s.s, PICK("list", "other", "bad name"), below(3), r.s);
		break;
	case OP_ROUTE:
		m = meta(ns, "r", i, g);
		c = route();
		c.s[strlen(c.s) - 1] = 0;
		snprintf(t.s, sizeof(t.s), "{%.400s, 'spec': %.2500s}}", m.s, c.s);
		break;
	case OP_GATEWAYCLASS:
		snprintf(t.s, sizeof(t.s),
		         "{'metadata': {'name': 'class0'}, 'spec': {'controllerName': '%s'}}",
		         PICK("l7mp.io/gateway-controller", "l7mp.io/gateway-controller", "x"));
		break;
	case OP_GATEWAY:
		m = meta(ns, "g", below(2), g);
		l = gateway_listeners("l");
		snprintf(t.s, sizeof(t.s),
		         "{%.400s, 'spec': {'gatewayClassName': 'class0', 'allowedListeners': "
		         "{'namespaces': {'from': '%s'}}, 'listeners': [%.2500s]}}",
		         m.s, PICK("All", "Same", "None"), l.s);
		break;
	case OP_LISTENERSET:
		m = meta(ns, "ls", below(2), g);
		l = gateway_listeners("s");
		snprintf(t.s, sizeof(t.s),
		         "{%.400s, 'spec': {'parentRef': {'name': 'g0', 'namespace': '%s'}, "
		         "'listeners': [%.2500s]}}",
		         m.s, some_ns(), l.s);
		break;
	case OP_UDPROUTE:
	case OP_TCPROUTE:
		m = meta(ns, "gr", i, g);
		snprintf(t.s, sizeof(t.s),
		         "{%.400s, 'spec': {'parentRefs': [%.400s], 'rules': [{'backendRefs': "
		         "[{'name': 's%u', 'port': 53, 'namespace': '%s', 'weight': %u}]}]}}",
		         m.s, p.s, below(3), some_ns(), below(3));
		break;
	case OP_GRANT:
		snprintf(
		        t.s, sizeof(t.s),
		        "{'metadata': {'namespace': '%s', 'name': 'gt%u'}, 'spec': {'from': "
		        "[{'group': "
		        "'l7mp.io', 'kind': 'VirtualService', 'namespace': '%s'}, {'group': "
		        "'gateway.networking.k8s.io', 'kind': 'UDPRoute', 'namespace': '%s'}], "
		        "'to': "
		        "[{'group': 'l7mp.io', 'kind': 'Target'%s}, {'group': '', 'kind': '%s'}]}}",
		        ns, i, some_ns(), some_ns(), PICK("", ", 'name': 't0'"),
		        PICK("Service", "Pod"));
		break;
	case OP_KINDS:
		break;
	}
	return t;
}

/* The objects as they were put last, by kind, namespace and name. */
static struct {
	char *key, *text;
} put_last[2000];
static size_t n_put;

static char **text_at(const char *kind, const char *ns, const char *name)
{
	char key[400];
	size_t i = 0;

	snprintf(key, sizeof(key), "%s %s/%s", kind, ns, name);
	while (i < n_put && strcmp(put_last[i].key, key) != 0)
		i++;
	if (i == n_put) {
		assert_true(n_put < L7MP_ARRAY_SIZE(put_last));
		put_last[n_put++].key = strdup(key);
	}
	return &put_last[i].text;
}

/* As it was put last, unless it was deleted. */
static char *text_of(const char *kind, const char *ns, const char *name)
{
	return *text_at(kind, ns, name);
}

static void set_text(enum op_kind kind, const cJSON *object, const char *text)
{
	const cJSON *m = l7mp_json_member(object, "metadata");
	char **at = text_at(op_kinds[kind].kind, l7mp_json_str(m, "namespace", ""),
	                    l7mp_json_str(m, "name", ""));

	free(*at);
	*at = text ? strdup(text) : NULL;
}

static void forget_texts(void)
{
	while (n_put) {
		n_put--;
		free(put_last[n_put].key);
		free(put_last[n_put].text);
		put_last[n_put].text = NULL;
	}
}

static void put(struct op_store *s, enum op_kind kind, const char *text)
{
	char *copy = strdup(text);
	struct l7mp_error err = {0};
	cJSON *tree;

	assert_non_null(copy);
	for (char *p = copy; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	tree = cJSON_Parse(copy);
	if (!tree)
		fail_msg("no JSON: %s", copy);
	if (op_store_put(s, kind, tree, NULL, &err))
		fail_msg("%s: %s", copy, err.message);
	set_text(kind, tree, text);
	cJSON_Delete(tree);
	free(copy);
}

/* A kind, those of l7mp.io and pods more often. */
static enum op_kind some_kind(void)
{
	static const enum op_kind often[] = {OP_POD,    OP_POD,  OP_VSVC,   OP_VSVC,
	                                     OP_TARGET, OP_RULE, OP_TARGET, OP_ROUTE};
	unsigned n = below(2 * L7MP_ARRAY_SIZE(often));

	return n < L7MP_ARRAY_SIZE(often) ? often[n] : (enum op_kind)below(OP_KINDS);
}

static void change(struct op_store *s)
{
	enum op_kind kind = some_kind();
	struct text t = object(kind);

	put(s, kind, t.s);
	if (below(4))
		return;
	/* Delete one instead, of the same form of name. */
	{
		const cJSON *m;
		cJSON *tree;

		for (char *p = t.s; *p; p++)
			*p = *p == '\'' ? '"' : *p;
		tree = cJSON_Parse(t.s);
		m = l7mp_json_member(tree, "metadata");
		assert_true(op_store_delete(s, kind, l7mp_json_str(m, "namespace", ""),
		                            l7mp_json_str(m, "name", "")));
		set_text(kind, tree, NULL);
		cJSON_Delete(tree);
	}
}

/* ---- statuses, only of what has changed ---- */

/* What the caller of op_status_of remembers of an object. */
struct remembered {
	char key[400], *writes;
};
struct memory {
	struct remembered *v;
	size_t n, skipped, computed;
};

static char *print_writes(const struct op_writes *w)
{
	struct l7mp_str t = {0};

	l7mp_str_add(&t, "");
	for (size_t i = 0; i < w->n; i++) {
		char *body = cJSON_PrintUnformatted(w->w[i].body);

		l7mp_str_addf(&t, "%d %s %s %s/%s %s %s\n", w->w[i].write, w->w[i].plural,
		              w->w[i].kind, w->w[i].ns, w->w[i].name, w->w[i].uid, body);
		free(body);
	}
	return l7mp_str_take(&t);
}

static struct remembered *recall(struct memory *m, const struct op_object *o)
{
	struct remembered *r;
	char key[sizeof(r->key)];

	snprintf(key, sizeof(key), "%d %s/%s", o->kind, o->ns, o->name);
	for (size_t i = 0; i < m->n; i++)
		if (!strcmp(m->v[i].key, key))
			return &m->v[i];
	m->v = realloc(m->v, (m->n + 1) * sizeof(*m->v));
	assert_non_null(m->v);
	r = &m->v[m->n++];
	memcpy(r->key, key, sizeof(key));
	r->writes = strdup("");
	return r;
}

static void free_memory(struct memory *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->v[i].writes);
	free(m->v);
	m->v = NULL;
	m->n = 0;
}

/* The API server does what is to be written: it sends the object with its new status. */
static void write_status(struct op_store *s, const struct op_write *w, const char *text)
{
	static unsigned version = 1000000;
	enum op_kind kind = OP_KINDS;
	struct l7mp_error err = {0};
	char number[16], *copy = strdup(text);
	cJSON *tree;

	assert_non_null(copy);
	for (char *p = copy; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	tree = cJSON_Parse(copy);
	assert_non_null(tree);
	for (int k = 0; k < OP_KINDS; k++)
		if (!strcmp(op_kinds[k].kind, w->kind))
			kind = (enum op_kind)k;
	snprintf(number, sizeof(number), "%u", version++);
	cJSON_DeleteItemFromObject(cJSON_GetObjectItem(tree, "metadata"), "resourceVersion");
	cJSON_AddStringToObject(cJSON_GetObjectItem(tree, "metadata"), "resourceVersion", number);
	cJSON_AddItemToObject(tree, "status",
	                      cJSON_Duplicate(cJSON_GetObjectItem(w->body, "status"), true));
	assert_int_equal(op_store_put(s, kind, tree, NULL, &err), 0);
	cJSON_Delete(tree);
	free(copy);
}

/* All that was returned last, object by object, is what is returned of all objects at once. */
static void statuses_add_up(struct op_store *s, const struct op_result *r, struct memory *m)
{
	struct l7mp_str all = {0};
	struct op_writes w;
	char *want;

	l7mp_str_add(&all, "");
	for (size_t i = 0; i < op_status_count(r); i++) {
		struct op_object o;
		int rc = op_status_of(s, r, i, NOW, &o, &w);
		struct remembered *k = recall(m, &o);

		assert_true(rc == 0 || rc == 1 || rc == -ENOENT);
		m->skipped += rc == 1;
		m->computed += !rc;
		if (rc != 1) {
			free(k->writes);
			k->writes = print_writes(&w);
		}
		assert_true(!rc || !w.n);
		l7mp_str_add(&all, k->writes);
		op_writes_free(&w);
	}
	assert_int_equal(op_statuses(s, r, NOW, &w), 0);
	want = print_writes(&w);
	assert_string_equal(all.s, want);
	for (size_t i = 0; i < w.n; i++) {
		char *text = w.w[i].write == OP_WRITE_STATUS && !below(3)
		                     ? text_of(w.w[i].kind, w.w[i].ns, w.w[i].name)
		                     : NULL;

		if (text)
			write_status(s, &w.w[i], text);
	}
	op_writes_free(&w);
	free(want);
	l7mp_str_free(&all);
}

/* ---- comparing ---- */

static void same_writes(const struct op_store *s, const struct op_result *a,
                        const struct op_result *b)
{
	struct op_writes v, w;

	assert_int_equal(op_statuses(s, a, NOW, &v), 0);
	assert_int_equal(op_statuses(s, b, NOW, &w), 0);
	assert_int_equal(v.n, w.n);
	for (size_t i = 0; i < v.n; i++) {
		char *x = cJSON_PrintUnformatted(v.w[i].body),
		     *y = cJSON_PrintUnformatted(w.w[i].body);

		assert_int_equal(v.w[i].write, w.w[i].write);
		assert_string_equal(v.w[i].kind, w.w[i].kind);
		assert_string_equal(v.w[i].name, w.w[i].name);
		assert_string_equal(x, y);
		free(x);
		free(y);
	}
	op_writes_free(&v);
	op_writes_free(&w);
}

static void same_blame(const struct op_proxy *p, const struct op_proxy *q)
{
	static const char *const sections[] = {"listeners", "clusters", "rules", "routes",
	                                       "rule_inserts"};
	struct op_object x, y;
	char path[40];

	for (size_t k = 0; k < L7MP_ARRAY_SIZE(sections); k++)
		for (int i = 0; i < 3; i++) {
			bool found;

			snprintf(path, sizeof(path), "%s[%d]", sections[k], i);
			found = op_blame(p, path, NULL, &x);
			assert_int_equal(found, op_blame(q, path, NULL, &y));
			if (!found)
				continue;
			assert_int_equal(x.kind, y.kind);
			assert_int_equal(x.part, y.part);
			assert_string_equal(x.ns, y.ns);
			assert_string_equal(x.name, y.name);
		}
}

static void same_objects(const struct op_proxy *p, const struct op_proxy *q)
{
	size_t n, m;
	struct op_object *x = op_proxy_objects(p, &n), *y = op_proxy_objects(q, &m);

	assert_int_equal(n, m);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(x[i].kind, y[i].kind);
		assert_string_equal(x[i].ns, y[i].ns);
		assert_string_equal(x[i].name, y[i].name);
	}
	free(x);
	free(y);
}

static void same_results(const struct op_result *a, const struct op_result *b)
{
	assert_int_equal(op_result_count(a), op_result_count(b));
	for (size_t i = 0; i < op_result_count(a); i++) {
		const struct op_proxy *p = op_result_proxy(a, i), *q = op_result_proxy(b, i);

		assert_string_equal(p->ns, q->ns);
		assert_string_equal(p->name, q->name);
		assert_string_equal(p->uid, q->uid);
		assert_string_equal(p->address, q->address);
		assert_string_equal(p->boot, q->boot);
		assert_string_equal(p->document->text, q->document->text);
		assert_int_equal(p->document->len, q->document->len);
		assert_int_equal(p->n_objects, q->n_objects);
		assert_true(p->hash == q->hash);
		same_objects(p, q);
		same_blame(p, q);
	}
}

/* A proxy says something of the document that it has. */
static void answer(struct op_store *s, const struct op_result *r)
{
	size_t n = op_result_count(r);
	const struct op_proxy *p = n ? op_result_proxy(r, below((unsigned)n)) : NULL;
	struct op_object o;
	char path[40];

	snprintf(path, sizeof(path), "%s[%u]", PICK("listeners", "clusters", "routes"), below(3));
	if (p && below(2))
		assert_true(op_store_applied(s, p) >= 0);
	else if (p && op_blame(p, path, NULL, &o))
		assert_int_equal(op_store_refuse(s, p, &o, "refused"), 0);
	else if (p)
		assert_int_equal(op_store_failed(s, p, "no route to host"), 0);
}

static void sequence(uint64_t seed, size_t max_document, bool any_namespace, int steps)
{
	struct op_settings settings = op_settings_default;
	struct op_store *s = NULL;
	struct op_result *before = NULL;
	struct memory memory = {0};

	rng = seed * 0x9e3779b97f4a7c15u + 1;
	settings.max_document = max_document;
	settings.any_namespace = any_namespace;
	assert_int_equal(op_store_new(&l7mp_all_registry, &settings, &s), 0);
	for (int i = 0; i < 60; i++)
		change(s);
	for (int i = 0; i < steps; i++) {
		struct op_result *next = NULL, *scratch = NULL;
		bool held = below(2);

		for (unsigned n = below(3); n; n--)
			change(s);
		if (before && !below(4))
			answer(s, before);
		/* While the store is held, changes are for later. */
		if (held)
			assert_int_equal(op_store_hold(s), 0);
		if (held && below(2))
			change(s);
		assert_int_equal(op_render(s, before, &next), 0);
		assert_int_equal(op_render(s, NULL, &scratch), 0);
		same_results(next, scratch);
		if (held)
			assert_int_equal(op_store_release(s, NULL), 0);
		same_writes(s, next, scratch);
		for (unsigned n = below(3); n; n--) {
			statuses_add_up(s, next, &memory);
			answer(s, next);
		}
		if (!below(30)) { /* it has lost them */
			free_memory(&memory);
			op_status_forget(s);
		}
		op_result_free(&scratch);
		op_result_free(&before);
		before = next;
	}
	/* Some were skipped, and not all. */
	assert_true(memory.skipped > memory.computed && memory.computed > 0);
	free_memory(&memory);
	forget_texts();
	op_result_free(&before);
	op_store_free(&s);
}

static int steps(int full)
{
	const char *mode = getenv("L7MP_TEST_MODE");

	return mode && !strcmp(mode, "full") ? full : full / 3;
}

static void test_same_as_from_nothing(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 6; seed++)
		sequence(seed, op_settings_default.max_document, seed % 3 == 0, steps(300));
}

/* Some objects do not fit: which ones depends on all of them. */
static void test_small_documents(void **state)
{
	(void)state;
	for (unsigned seed = 101; seed <= 104; seed++)
		sequence(seed, 1500, false, steps(150));
}

/* ---- only what has changed ---- */

static void test_only_what_changed(void **state)
{
	struct op_settings settings = op_settings_default;
	struct op_result *before = NULL, *next = NULL;
	struct op_store *s = NULL;
	char text[600];

	(void)state;
	assert_int_equal(op_store_new(&l7mp_all_registry, &settings, &s), 0);
	for (int i = 0; i < 5; i++) {
		snprintf(text, sizeof(text),
		         "{'metadata': {'namespace': 'a', 'name': 'p%d', 'uid': 'u%d', 'labels': "
		         "{'app': "
		         "'l%d'}}, 'status': {'podIP': '10.0.0.%d', 'phase': 'Running', "
		         "'conditions': "
		         "[{'type': 'Ready', 'status': 'True'}], 'containerStatuses': [{'name': "
		         "'l7mp', "
		         "'ready': true, 'containerID': 'c'}]}}",
		         i, i, i, i + 1);
		put(s, OP_POD, text);
	}
	for (int i = 0; i < 5; i++) {
		snprintf(text, sizeof(text),
		         "{'metadata': {'namespace': 'a', 'name': 't%d'}, 'spec': {'selector': "
		         "{'matchLabels': {'app': 'l%d'}}, 'cluster': {'spec': {'UDP': {'port': "
		         "7}}, "
		         "'endpoints': [{'selector': {'matchLabels': {'app': 'backend%d'}}}]}}}",
		         i, i, i);
		put(s, OP_TARGET, text);
	}
	assert_int_equal(op_render(s, NULL, &before), 0);
	/* A backend of one of them. */
	put(s, OP_POD,
	    "{'metadata': {'namespace': 'a', 'name': 'b', 'labels': {'app': 'backend3'}}, "
	    "'status': "
	    "{'podIP': '10.0.0.99', 'phase': 'Running', 'conditions': [{'type': 'Ready', 'status': "
	    "'True'}]}}");
	assert_int_equal(op_render(s, before, &next), 0);
	for (size_t i = 0; i < 5; i++) {
		const struct op_proxy *p = op_result_proxy(before, i),
		                      *q = op_result_proxy(next, i);

		/* Not only equal, but the same text in memory. */
		assert_int_equal(p->document->text == q->document->text, i != 3);
		assert_int_equal(strstr(q->document->text, "10.0.0.99") != NULL, i == 3);
	}
	forget_texts();
	op_result_free(&before);
	op_result_free(&next);
	op_store_free(&s);
}

static void put_proxy(struct op_store *s, int uid)
{
	char text[400];

	snprintf(text, sizeof(text),
	         "{'metadata': {'namespace': 'a', 'name': 'p', 'uid': 'u%d', 'labels': "
	         "{'gateway.networking.k8s.io/gateway-name': 'g'}}, 'status': {'podIP': "
	         "'10.0.0.1', 'phase': 'Running', 'containerStatuses': [{'name': 'l7mp', 'ready': "
	         "true, 'containerID': 'c'}]}}",
	         uid);
	put(s, OP_POD, text);
}

/* The unit of a name's end: was it taken over from the result before? */
static bool reused(const struct op_result *r, const char *end)
{
	for (const struct op_unit *u = r->units; u; u = u->hh.next) {
		size_t n = strlen(u->name), k = strlen(end);

		if (n >= k && !strcmp(u->name + n - k, end))
			return u->reused;
	}
	fail_msg("no unit %s", end);
	return false;
}

static void put_gateway(struct op_store *s, int port)
{
	char text[500];

	snprintf(text, sizeof(text),
	         "{'metadata': {'namespace': 'a', 'name': 'g', 'generation': %d}, 'spec': "
	         "{'gatewayClassName': 'class0', 'listeners': [{'name': 'one', 'protocol': 'UDP', "
	         "'port': %d}, {'name': 'two', 'protocol': 'UDP', 'port': 54}]}}",
	         port, port);
	put(s, OP_GATEWAY, text);
}

static void put_slice(struct op_store *s, int address)
{
	char text[400];

	snprintf(text, sizeof(text),
	         "{'metadata': {'namespace': 'a', 'name': 'sl', 'labels': "
	         "{'kubernetes.io/service-name': 's'}}, 'ports': [{'name': 'dns', 'port': 53, "
	         "'protocol': 'UDP'}], 'endpoints': [{'addresses': ['10.1.0.%d']}]}",
	         address);
	put(s, OP_SLICE, text);
}

static void render_again(struct op_store *s, struct op_result **r)
{
	struct op_result *next = NULL;

	assert_int_equal(op_render(s, *r, &next), 0);
	op_result_free(r);
	*r = next;
}

/* A route to another namespace; any_namespace is of l7mp.io's kinds only. */
static void check_grant(struct op_store *s, struct op_result **r)
{
	put(s, OP_SERVICE,
	    "{'metadata': {'namespace': 'b', 'name': 's'}, 'spec': {'ports': [{'name': 'dns', "
	    "'port': 53, 'protocol': 'UDP'}]}}");
	put(s, OP_UDPROUTE,
	    "{'metadata': {'namespace': 'a', 'name': 'to-b'}, 'spec': {'parentRefs': [{'name': "
	    "'g'}], 'rules': [{'backendRefs': [{'name': 's', 'namespace': 'b', 'port': 53}]}]}}");
	render_again(s, r);
	render_again(s, r);
	assert_true(reused(*r, "/to-b"));
	put(s, OP_GRANT,
	    "{'metadata': {'namespace': 'b', 'name': 'gt'}, 'spec': {'from': [{'group': "
	    "'gateway.networking.k8s.io', 'kind': 'UDPRoute', 'namespace': 'a'}], 'to': "
	    "[{'group': '', 'kind': 'Service'}]}}");
	render_again(s, r);
	assert_true(!reused(*r, "/to-b") && reused(*r, "/route"));
}

static void gateway_units(bool any_namespace)
{
	struct op_settings settings = op_settings_default;
	struct op_result *r = NULL;
	struct op_store *s = NULL;

	settings.any_namespace = any_namespace;
	assert_int_equal(op_store_new(&l7mp_all_registry, &settings, &s), 0);
	put_proxy(s, 0);
	put(s, OP_GATEWAYCLASS,
	    "{'metadata': {'name': 'class0'}, 'spec': {'controllerName': "
	    "'l7mp.io/gateway-controller'}}");
	put_gateway(s, 53);
	put(s, OP_SERVICE,
	    "{'metadata': {'namespace': 'a', 'name': 's'}, 'spec': {'ports': [{'name': 'dns', "
	    "'port': 53, 'protocol': 'UDP'}]}}");
	put_slice(s, 1);
	put(s, OP_UDPROUTE,
	    "{'metadata': {'namespace': 'a', 'name': 'route'}, 'spec': {'parentRefs': [{'name': "
	    "'g'}], 'rules': [{'backendRefs': [{'name': 's', 'port': 53}]}]}}");
	render_again(s, &r);
	assert_non_null(strstr(op_result_proxy(r, 0)->document->text, "10.1.0.1"));
	/* Something else. */
	put(s, OP_TARGET, "{'metadata': {'namespace': 'a', 'name': 't'}, 'spec': {}}");
	render_again(s, &r);
	assert_true(reused(r, "/route") && reused(r, "/one") && reused(r, "/two"));
	put_slice(s, 2);
	render_again(s, &r);
	assert_true(!reused(r, "/route") && reused(r, "/one") && reused(r, "/two"));
	assert_non_null(strstr(op_result_proxy(r, 0)->document->text, "10.1.0.2"));
	put_gateway(s, 55);
	render_again(s, &r);
	assert_true(reused(r, "/route") && !reused(r, "/one") && reused(r, "/two"));
	check_grant(s, &r);
	put(s, OP_SERVICE,
	    "{'metadata': {'namespace': 'a', 'name': 's'}, 'spec': {'ports': [{'name': 'dns', "
	    "'port': 54, 'protocol': 'UDP'}]}}");
	render_again(s, &r);
	assert_true(!reused(r, "/route") && reused(r, "/to-b"));
	assert_null(strstr(op_result_proxy(r, 0)->document->text, "10.1.0.2"));
	assert_true(op_store_delete(s, OP_UDPROUTE, "a", "route"));
	render_again(s, &r);
	assert_true(!reused(r, "/one") && !reused(r, "/two")); /* they go to `to-b` */
	op_result_free(&r);
	op_store_free(&s);
	forget_texts();
}

static void test_gateway_units(void **state)
{
	(void)state;
	gateway_units(false);
	gateway_units(true);
}

/* What proxies say after their pods have gone is not kept. */
static void test_pods_come_and_go(void **state)
{
	struct op_settings settings = op_settings_default;
	struct op_result *r = NULL;
	struct op_store *s = NULL;

	(void)state;
	assert_int_equal(op_store_new(&l7mp_all_registry, &settings, &s), 0);
	for (int i = 0; i < 200; i++) {
		const struct op_proxy *p;

		put_proxy(s, i);
		render_again(s, &r);
		p = op_result_proxy(r, 0);
		if (i % 2) /* the name is given to another pod, or it is deleted */
			put_proxy(s, i + 1000);
		else
			assert_true(op_store_delete(s, OP_POD, "a", "p"));
		assert_int_equal(op_store_applied(s, p), 0);
		assert_int_equal(op_store_failed(s, p, "no route to host"), 0);
		assert_int_equal(HASH_COUNT(s->known), 0);
	}
	render_again(s, &r);
	assert_int_equal(op_store_applied(s, op_result_proxy(r, 0)), 0);
	assert_int_equal(HASH_COUNT(s->known), 1);
	op_result_free(&r);
	op_store_free(&s);
	forget_texts();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_same_as_from_nothing), cmocka_unit_test(test_small_documents),
	        cmocka_unit_test(test_only_what_changed),    cmocka_unit_test(test_gateway_units),
	        cmocka_unit_test(test_pods_come_and_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
