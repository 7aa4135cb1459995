/* SPDX-License-Identifier: MIT */
/* The documents of all proxies: which units go where, what can't go together, and the text. */
#include "render.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "l7mp/model.h"

/* ---- helpers ---- */

int op_grow(void *array, size_t n, size_t *cap, size_t size)
{
	void **p = array, *v;
	size_t more = *cap ? 2 * *cap : 8;

	if (n < *cap)
		return 0;
	v = realloc(*p, more * size);
	if (!v)
		return -ENOMEM;
	*p = v;
	*cap = more;
	return 0;
}

/* Adds to a sum. A NULL text differs from an empty one. */
static uint64_t add_text(uint64_t sum, const char *text)
{
	return text ? l7mp_hash_stable(text, strlen(text), sum) : sum + 1;
}

static uint64_t add_number(uint64_t sum, uint64_t n)
{
	return l7mp_hash_stable(&n, sizeof(n), sum);
}

/* Too long a name keeps its beginning and gets a hash of all of it. */
static char *shorten(char *name)
{
	size_t n = name ? strlen(name) : 0;

	if (n > L7MP_NAME_MAX) {
		uint64_t h = l7mp_hash_stable(name, n, 0);

		snprintf(name + L7MP_NAME_MAX - 17, 18, "~%016llx", (unsigned long long)h);
	}
	return name;
}

char *op_name(const char *group, const char *plural, const char *ns, const char *name,
              const char *part)
{
	if (!ns)
		return shorten(l7mp_asprintf("%s/%s", plural, part));
	return shorten(l7mp_asprintf("/%s%s%s/v1/namespaces/%s/%s/%s%s%s", *group ? "apis" : "api",
	                             *group ? "/" : "", group, ns, plural, name, part ? "/" : "",
	                             part ? part : ""));
}

void op_refuse_node(struct op_node *n, const char *reason, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	if (n->reason)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	free(n->message); /* notes */
	n->reason = reason;
	n->message = strdup(text);
}

#define NOTES_MAX 1000

void op_note(struct op_node *n, const char *fmt, ...)
{
	char text[512], *all;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n->reason || (n->message && strlen(n->message) > NOTES_MAX) ||
	    (n->message && strstr(n->message, text)))
		return;
	all = l7mp_asprintf("%s%s%s", n->message ? n->message : "", n->message ? "; " : "", text);
	if (!all)
		return;
	free(n->message);
	n->message = all;
}

/* ---- manifests ---- */

struct op_manifest *op_manifest_ref(struct op_manifest *m)
{
	if (m)
		atomic_fetch_add(&m->refs, 1);
	return m;
}

void op_manifest_unref(struct op_manifest *m)
{
	if (m && atomic_fetch_sub(&m->refs, 1) == 1)
		free(m);
}

static int by_id(const void *a, const void *b)
{
	const struct op_manifest_entry *p = a, *q = b;

	return p->id < q->id ? -1 : p->id > q->id;
}

uint64_t op_manifest_get(const struct op_manifest *m, uint64_t id)
{
	const struct op_manifest_entry want = {.id = id};
	const struct op_manifest_entry *t =
	        m && m->n ? bsearch(&want, m->v, m->n, sizeof(want), by_id) : NULL;

	return t ? t->hash : 0;
}

/* ---- units ---- */

struct op_unit *op_unit_get(struct op_render *x, enum op_section section, const char *name,
                            bool *made)
{
	struct op_unit *u = NULL;
	char *key = l7mp_asprintf("%d %s", section, name);

	*made = false;
	if (key)
		HASH_FIND_STR(x->r->units, key, u);
	if (u || !key) {
		x->oom = x->oom || !key;
		free(key);
		return u;
	}
	u = calloc(1, sizeof(*u));
	if (u) {
		u->section = section;
		u->key = key;
		u->name = strdup(name);
		if (u->name)
			HASH_ADD_KEYPTR(hh, x->r->units, u->key, strlen(u->key), u);
		if (u->name && u->hh.tbl) {
			if (x->before)
				HASH_FIND_STR(x->before->units, u->key, u->was);
			*made = true;
			return u;
		}
		free(u->name);
		free(u);
	}
	free(key);
	x->oom = true;
	return NULL;
}

void op_unit_depend(struct op_render *x, struct op_unit *u, struct op_unit *on)
{
	for (size_t i = 0; i < u->n_deps; i++)
		if (u->deps[i] == on)
			return;
	if (op_grow(&u->deps, u->n_deps, &u->cap_deps, sizeof(struct op_unit *)))
		x->oom = true;
	else
		u->deps[u->n_deps++] = on;
}

void op_unit_claim(struct op_render *x, struct op_unit *u, const char *fmt, ...)
{
	char text[400], *copy;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	copy = strdup(text);
	if (!copy || op_grow(&u->claims, u->n_claims, &u->cap_claims, sizeof(*u->claims))) {
		free(copy);
		x->oom = true;
	} else {
		u->claims[u->n_claims++] = copy;
	}
}

void op_unit_text(struct op_render *x, struct op_unit *u, cJSON *tree)
{
	u->text = tree ? cJSON_PrintUnformatted(tree) : NULL;
	cJSON_Delete(tree);
	if (!u->text) {
		x->oom = true;
		return;
	}
	u->len = strlen(u->text);
	u->hash = l7mp_hash_stable(u->text, u->len, u->section + 1);
	if (u->rulelist) {
		char more[L7MP_NAME_MAX + 32];

		snprintf(more, sizeof(more), "%s %.0f", u->rulelist, u->position);
		u->hash = l7mp_hash_stable(more, strlen(more), u->hash);
	}
}

struct op_memo *op_unit_begin(struct op_render *x, struct op_unit *u)
{
	struct op_memo *outer = x->memo;

	x->memo = &u->memo;
	return outer;
}

void op_unit_end(struct op_render *x, struct op_unit *u, struct op_memo *outer)
{
	u->memo.made = !x->oom;
	x->memo = outer;
}

#define MOVE(to, from, member) ((to)->member = (from)->member, (from)->member = NULL)

bool op_unit_reuse(struct op_render *x, struct op_unit *u)
{
	struct op_unit *was = u->was;
	const struct op_node *n = was ? was->node : NULL;

	if (!was || !n != !u->node || !op_memo_holds(x, &was->memo))
		return false;
	if (n && n->message) {
		u->node->message = strdup(n->message);
		if (!u->node->message) {
			x->oom = true;
			return false;
		}
	}
	if (n && n->unresolved_text && u->section == OP_CLUSTERS) {
		u->node->unresolved_text = strdup(n->unresolved_text);
		if (!u->node->unresolved_text) {
			x->oom = true;
			return false;
		}
	}
	if (n) {
		u->node->reason = n->reason;
		u->node->optional = n->optional;
		u->node->unresolved = n->unresolved;
	}
	u->memo = was->memo;
	was->memo = (struct op_memo){0};
	MOVE(u, was, text);
	MOVE(u, was, claims);
	u->n_claims = u->cap_claims = was->n_claims;
	was->n_claims = was->cap_claims = 0;
	MOVE(u, was, rulelist);
	u->position = was->position;
	u->len = was->len;
	u->hash = was->hash;
	u->reused = true;
	return true;
}

static void free_unit(struct op_unit *u)
{
	for (size_t i = 0; i < u->n_claims; i++)
		free(u->claims[i]);
	op_memo_clear(&u->memo);
	free(u->claims);
	free(u->deps);
	free(u->rulelist);
	cJSON_free(u->text);
	free(u->name);
	free(u->key);
	free(u);
}

/* ---- nodes and proxies ---- */

struct op_node *op_node_of(const struct op_render *x, const struct op_obj *obj)
{
	struct op_node *n;

	HASH_FIND_PTR(x->r->by_obj, &obj, n);
	return n;
}

static void free_node(struct op_node *n)
{
	if (!n)
		return;
	free(n->ns);
	free(n->name);
	free(n->uid);
	free(n->created);
	free(n->message);
	free(n->unresolved_text);
	free(n->placed);
	cJSON_Delete(n->status);
	cJSON_Delete(n->owners);
	free(n);
}

static struct op_node *new_node(const struct op_obj *o)
{
	struct op_node *n = calloc(1, sizeof(*n));
	char id[400];

	if (!n)
		return NULL;
	n->kind = o->kind;
	n->obj = o;
	n->ns = strdup(o->ns);
	n->name = strdup(o->name);
	n->uid = strdup(o->uid);
	n->created = strdup(o->created);
	n->generation = o->generation;
	n->digest = o->digest;
	snprintf(id, sizeof(id), "%d %s", o->kind, o->key);
	n->id = l7mp_hash_stable(id, strlen(id), 0);
	if (o->owners)
		n->owners = cJSON_Duplicate(o->owners, true);
	if (n->ns && n->name && n->uid && n->created && (!o->owners || n->owners))
		return n;
	free_node(n);
	return NULL;
}

static int add_nodes(struct op_render *x)
{
	struct op_result *r = x->r;
	struct op_pods all = {0};
	size_t total = 0;
	int rc = 0;

	for (int k = 0; k < OP_KINDS; k++)
		if (op_kinds[k].status)
			total += HASH_COUNT(x->s->objects[k]);
	r->nodes = calloc(total + 1, sizeof(struct op_node *));
	if (!r->nodes)
		return -ENOMEM;
	for (int k = 0; k < OP_KINDS && !rc; k++) {
		if (!op_kinds[k].status)
			continue;
		all.n = 0;
		for (const struct op_obj *o = x->s->objects[k]; o && !rc; o = o->hh.next)
			rc = op_pods_add(&all, o);
		if (all.n)
			qsort(all.v, all.n, sizeof(struct op_obj *), op_by_name);
		for (size_t i = 0; i < all.n && !rc; i++) {
			struct op_node *n = new_node(all.v[i]);

			if (!n) {
				rc = -ENOMEM;
				break;
			}
			r->nodes[r->n_nodes++] = n;
			HASH_ADD_PTR(r->by_obj, obj, n);
			if (!n->hh.tbl)
				rc = -ENOMEM;
		}
	}
	op_pods_free(&all);
	return rc;
}

static int fill_proxy(struct op_entry *e, const struct op_obj *o)
{
	struct op_proxy *p = &e->pub;

	e->pod = o;
	p->ns = strdup(o->ns);
	p->name = strdup(o->name);
	p->uid = strdup(o->uid);
	p->address = strdup(o->pod->ip);
	p->node = strdup(o->pod->node);
	p->port = o->pod->port;
	p->boot = l7mp_asprintf("%s/%s", o->uid, o->pod->container_id ? o->pod->container_id : "");
	if (!p->ns || !p->name || !p->uid || !p->address || !p->node || !p->boot)
		return -ENOMEM;
	e->sum = add_text(add_text(add_text(0, p->ns), p->name), p->boot);
	return 0;
}

static int add_proxies(struct op_render *x)
{
	struct op_result *r = x->r;
	struct op_pods pods = {0};
	int rc = 0;

	for (const struct op_obj *o = x->s->objects[OP_POD]; o && !rc; o = o->hh.next)
		if (o->pod->proxy)
			rc = op_pods_add(&pods, o);
	if (pods.n)
		qsort(pods.v, pods.n, sizeof(struct op_obj *), op_by_name);
	r->proxies = rc ? NULL : calloc(pods.n + 1, sizeof(*r->proxies));
	if (!r->proxies)
		rc = -ENOMEM;
	for (size_t i = 0; i < pods.n && !rc; i++) {
		r->n_proxies = i + 1;
		rc = fill_proxy(&r->proxies[i], pods.v[i]);
	}
	op_pods_free(&pods);
	return rc;
}

static int entry_by_name(const void *a, const void *b)
{
	const struct op_obj *p = *(const struct op_obj *const *)a;
	const struct op_obj *q = ((const struct op_entry *)b)->pod;

	return op_by_name(&p, &q);
}

struct op_entry *op_proxy_of(const struct op_render *x, const struct op_obj *pod)
{
	if (!pod->pod->proxy || !x->r->n_proxies)
		return NULL;
	return bsearch(&pod, x->r->proxies, x->r->n_proxies, sizeof(*x->r->proxies), entry_by_name);
}

void op_place(struct op_render *x, struct op_entry *p, struct op_unit *u)
{
	if (op_grow(&p->roots, p->n_roots, &p->cap_roots, sizeof(struct op_unit *)))
		x->oom = true;
	else
		p->roots[p->n_roots++] = u;
}

static void place_node(struct op_render *x, struct op_unit *u, size_t proxy, const char *why,
                       bool refused)
{
	struct op_node *n = u->node;

	if (!n)
		return;
	if (op_grow(&n->placed, n->n_placed, &n->cap_placed, sizeof(*n->placed)))
		x->oom = true;
	else
		n->placed[n->n_placed++] =
		        (struct op_placed){(uint32_t)proxy, u->tag, why, refused};
}

/* Keeps a text for as long as the result lives. */
static const char *keep_text(struct op_render *x, char *text)
{
	struct op_result *r = x->r;

	if (!text || op_grow(&r->texts, r->n_texts, &r->cap_texts, sizeof(*r->texts))) {
		free(text);
		x->oom = true;
		return "out of memory";
	}
	return r->texts[r->n_texts++] = text;
}

/* ---- order ---- */

static int unit_by_key(const void *a, const void *b)
{
	const struct op_unit *p = *(const struct op_unit *const *)a;
	const struct op_unit *q = *(const struct op_unit *const *)b;

	return p->section != q->section ? (int)p->section - (int)q->section
	                                : strcmp(p->name, q->name);
}

/* The API server's times have one format and compare as strings. Units without owner come first. */
static int unit_by_age(const void *a, const void *b)
{
	const struct op_unit *p = *(const struct op_unit *const *)a;
	const struct op_unit *q = *(const struct op_unit *const *)b;
	int c = 0;

	if (!p->node != !q->node)
		return p->node ? 1 : -1;
	if (p->node) {
		c = strcmp(p->node->created, q->node->created);
		c = c ? c : strcmp(p->node->ns, q->node->ns);
		c = c ? c : strcmp(p->node->name, q->node->name);
	}
	return c ? c : unit_by_key(a, b);
}

static int unit_by_order(const void *a, const void *b)
{
	const struct op_unit *p = *(const struct op_unit *const *)a;
	const struct op_unit *q = *(const struct op_unit *const *)b;

	return p->order < q->order ? -1 : p->order > q->order;
}

static int unit_by_rank(const void *a, const void *b)
{
	const struct op_unit *p = *(const struct op_unit *const *)a;
	const struct op_unit *q = *(const struct op_unit *const *)b;

	return p->age < q->age ? -1 : p->age > q->age;
}

static int unit_by_insert(const void *a, const void *b)
{
	const struct op_unit *p = *(const struct op_unit *const *)a;
	const struct op_unit *q = *(const struct op_unit *const *)b;
	int c = strcmp(p->rulelist, q->rulelist);

	if (c)
		return c;
	if (p->position < q->position || p->position > q->position)
		return p->position < q->position ? -1 : 1;
	return unit_by_rank(a, b);
}

static int number_units(struct op_render *x)
{
	size_t n = HASH_COUNT(x->r->units), i = 0;
	struct op_unit **v = calloc(n + 1, sizeof(struct op_unit *));

	if (!v)
		return -ENOMEM;
	for (struct op_unit *u = x->r->units; u; u = u->hh.next)
		v[i++] = u;
	qsort(v, n, sizeof(struct op_unit *), unit_by_key);
	for (i = 0; i < n; i++)
		v[i]->order = (uint32_t)i;
	qsort(v, n, sizeof(struct op_unit *), unit_by_age);
	for (i = 0; i < n; i++)
		v[i]->age = (uint32_t)i;
	free(v);
	return 0;
}

/* ---- groups: proxies that are to have the same ---- */

struct list {
	struct op_unit **v;
	size_t n, cap;
};

static bool usable(const struct op_unit *u)
{
	return u->text && !(u->node && u->node->reason);
}

static int close_over(struct list *l, struct op_unit *u, uint32_t stamp)
{
	if (u->visited == stamp || !usable(u))
		return 0;
	u->visited = stamp;
	if (op_grow(&l->v, l->n, &l->cap, sizeof(struct op_unit *)))
		return -ENOMEM;
	l->v[l->n++] = u;
	for (size_t i = 0; i < u->n_deps; i++)
		if (close_over(l, u->deps[i], stamp))
			return -ENOMEM;
	return 0;
}

/* Takes out what this proxy has refused. */
static void take_out_refused(struct op_render *x, size_t proxy, struct list *l)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++) {
		struct op_unit *u = l->v[i];
		const struct op_refusal *f =
		        u->node ? op_refused(x->s, x->r->proxies[proxy].pod, u->node->obj, u->tag)
		                : NULL;

		if (f)
			place_node(x, u, proxy, keep_text(x, strdup(f->message)), true);
		else
			l->v[n++] = u;
	}
	l->n = n;
}

static struct op_group *group_of(struct op_render *x, const struct list *l, bool *made)
{
	struct l7mp_str t = {0};
	struct op_group *g = NULL;
	uint64_t key;

	*made = false;
	for (size_t i = 0; i < l->n; i++)
		l7mp_str_addn(&t, &l->v[i]->order, sizeof(l->v[i]->order));
	if (t.oom) {
		l7mp_str_free(&t);
		return NULL;
	}
	key = l7mp_hash(t.s ? t.s : "", t.len);
	l7mp_str_free(&t);
	HASH_FIND(hh, x->r->groups, &key, sizeof(key), g);
	if (g)
		return g;
	g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	g->key = key;
	g->want = calloc(l->n + 1, sizeof(struct op_unit *));
	g->units = calloc(l->n + 1, sizeof(struct op_unit *));
	g->why = calloc(l->n + 1, sizeof(*g->why));
	if (g->want && g->units && g->why)
		HASH_ADD(hh, x->r->groups, key, sizeof(g->key), g);
	if (!g->want || !g->units || !g->why || !g->hh.tbl) {
		free(g->want);
		free(g->units);
		free(g->why);
		free(g);
		return NULL;
	}
	if (l->n)
		memcpy(g->want, l->v, l->n * sizeof(struct op_unit *));
	g->n_want = l->n;
	*made = true;
	return g;
}

/* ---- conflicts ---- */

struct claim {
	char *key; /* without the address */
	const char *address;
	const struct op_unit *unit;
	struct claim *next; /* with the same key */
	UT_hash_handle hh;
};

/* "udp 53 ADDRESS": two listeners on a port can be beside each other on two addresses. */
static const char *address_of(const char *text, size_t *key)
{
	const char *space;

	*key = strlen(text);
	if (strncmp(text, "udp ", 4) != 0 && strncmp(text, "tcp ", 4) != 0)
		return "";
	space = strchr(text + 4, ' ');
	*key = space ? (size_t)(space - text) : *key;
	return space ? space + 1 : "";
}

static bool any_address(const char *a)
{
	return !*a || strcmp(a, "0.0.0.0") == 0 || strcmp(a, "::") == 0;
}

static const struct claim *find_conflict(struct claim *claims, const char *text)
{
	size_t len;
	const char *address = address_of(text, &len);
	struct claim *c;

	HASH_FIND(hh, claims, text, len, c);
	for (; c; c = c->next)
		if (any_address(c->address) || any_address(address) ||
		    strcmp(c->address, address) == 0)
			return c;
	return NULL;
}

static int add_claim(struct claim **claims, const struct op_unit *u, const char *text)
{
	size_t len;
	const char *address = address_of(text, &len);
	struct claim *c = calloc(1, sizeof(*c)), *first;

	if (!c)
		return -ENOMEM;
	c->key = strndup(text, len);
	c->address = address;
	c->unit = u;
	if (!c->key) {
		free(c);
		return -ENOMEM;
	}
	HASH_FIND(hh, *claims, text, len, first);
	if (first) {
		c->next = first->next;
		first->next = c;
		return 0;
	}
	HASH_ADD_KEYPTR(hh, *claims, c->key, len, c);
	if (c->hh.tbl)
		return 0;
	free(c->key);
	free(c);
	return -ENOMEM;
}

static void free_claims(struct claim *claims)
{
	struct claim *c, *next, *more;

	HASH_ITER (hh, claims, c, next) {
		HASH_DEL(claims, c);
		while (c) {
			more = c->next;
			free(c->key);
			free(c);
			c = more;
		}
	}
}

static const char *conflict_text(struct op_render *x, const char *text, const struct op_unit *with)
{
	size_t len;
	bool port = strncmp(text, "udp ", 4) == 0 || strncmp(text, "tcp ", 4) == 0;

	address_of(text, &len);
	return keep_text(x, l7mp_asprintf("%s%.*s is taken by %s %s/%s, which is older",
	                                  port ? "port " : "", (int)len, text,
	                                  op_kinds[with->node->kind].kind, with->node->ns,
	                                  with->node->name));
}

/* The oldest gets what two of them want. */
static int resolve_conflicts(struct op_render *x, struct op_group *g)
{
	struct op_unit **old = calloc(g->n_want + 1, sizeof(struct op_unit *));
	struct claim *claims = NULL;
	size_t n = 0;
	int rc = old ? 0 : -ENOMEM;

	for (size_t i = 0; i < g->n_want && !rc; i++)
		if (g->want[i]->n_claims)
			old[n++] = g->want[i];
	if (n > 1)
		qsort(old, n, sizeof(struct op_unit *), unit_by_rank);
	for (size_t i = 0; i < n && !rc; i++) {
		struct op_unit *u = old[i];
		const struct claim *c = NULL;
		size_t k;

		for (k = 0; k < u->n_claims && !c; k++)
			c = find_conflict(claims, u->claims[k]);
		if (c) {
			struct op_unit **at = bsearch(&u, g->want, g->n_want,
			                              sizeof(struct op_unit *), unit_by_order);

			g->why[at - g->want] = conflict_text(x, u->claims[k - 1], c->unit);
			continue;
		}
		for (k = 0; k < u->n_claims && !rc; k++)
			rc = add_claim(&claims, u, u->claims[k]);
	}
	free_claims(claims);
	free(old);
	return rc;
}

/* ---- documents ---- */

static void paper_unref(struct op_paper *p)
{
	if (!p || atomic_fetch_sub(&p->refs, 1) != 1)
		return;
	op_manifest_unref(p->manifest);
	free(p->text);
	free(p);
}

static const char *const section_names[OP_SECTIONS] = {"listeners", "clusters", "rules", "routes"};

/* What a rule's entry in rule_inserts costs beside its names. */
#define INSERT_BYTES 64

/* Leaves out the youngest when there is too much. */
static void bound(struct op_render *x, struct op_group *g)
{
	size_t total = 256, max = x->s->settings.max_document;
	struct op_unit **old;
	size_t n = g->n_want;

	for (size_t i = 0; i < n; i++)
		total += g->why[i] ? 0 : g->want[i]->len + 1 + INSERT_BYTES;
	if (total <= max)
		return;
	old = calloc(n + 1, sizeof(struct op_unit *));
	if (!old) {
		x->oom = true;
		return;
	}
	memcpy(old, g->want, n * sizeof(struct op_unit *));
	qsort(old, n, sizeof(struct op_unit *), unit_by_rank);
	while (n-- && total > max) {
		struct op_unit **at = bsearch(&old[n], g->want, g->n_want, sizeof(struct op_unit *),
		                              unit_by_order);

		if (g->why[at - g->want])
			continue;
		g->why[at - g->want] = "the proxy's document is full: it is among the youngest";
		total -= old[n]->len + 1 + INSERT_BYTES;
	}
	free(old);
}

static int write_inserts(struct op_group *g, struct l7mp_str *t)
{
	size_t n = 0;

	g->inserts = calloc(g->n_units + 1, sizeof(struct op_unit *));
	if (!g->inserts)
		return -ENOMEM;
	for (size_t i = 0; i < g->n_units; i++)
		if (g->units[i]->rulelist)
			g->inserts[n++] = g->units[i];
	g->n_inserts = n;
	if (n)
		qsort(g->inserts, n, sizeof(struct op_unit *), unit_by_insert);
	l7mp_str_add(t, ",\"rule_inserts\":[");
	for (size_t i = 0; i < n; i++) {
		cJSON *e = cJSON_CreateObject();
		char *text = NULL;

		if (!l7mp_json_add_str(e, "rulelist", g->inserts[i]->rulelist) &&
		    !l7mp_json_add_num(e, "position", g->inserts[i]->position) &&
		    !l7mp_json_add_str(e, "rule", g->inserts[i]->name))
			text = cJSON_PrintUnformatted(e);
		cJSON_Delete(e);
		if (!text)
			return -ENOMEM;
		l7mp_str_add(t, i ? "," : "");
		l7mp_str_add(t, text);
		cJSON_free(text);
	}
	l7mp_str_add(t, "]}");
	return 0;
}

static int write_document(struct op_group *g)
{
	struct op_paper *p = g->paper;
	struct l7mp_str t = {0};
	size_t i = 0;

	for (int s = 0; s < OP_SECTIONS; s++) {
		const char *comma = "";

		l7mp_str_addf(&t, "%s\"%s\":[", s ? "," : "{", section_names[s]);
		for (; i < g->n_units && g->units[i]->section == (enum op_section)s; i++) {
			l7mp_str_add(&t, comma);
			l7mp_str_addn(&t, g->units[i]->text, g->units[i]->len);
			comma = ",";
		}
		l7mp_str_add(&t, "]");
	}
	if (write_inserts(g, &t) || t.oom) {
		l7mp_str_free(&t);
		return -ENOMEM;
	}
	p->doc.len = t.len;
	p->doc.text = p->text = l7mp_str_take(&t);
	p->hash = l7mp_hash_stable(p->text, p->doc.len, 0);
	p->hash = p->hash ? p->hash : 1; /* 0 means: none */
	return 0;
}

/* An object's hash at a proxy: of its units and what they depend on. */
static int write_manifest(struct op_group *g)
{
	struct op_manifest *m = calloc(1, sizeof(*m) + g->n_units * sizeof(m->v[0]));
	size_t n = 0;

	if (!m)
		return -ENOMEM;
	atomic_init(&m->refs, 1);
	for (size_t i = 0; i < g->n_units; i++) {
		const struct op_unit *u = g->units[i];
		uint64_t sum = u->hash;

		if (!u->node)
			continue;
		for (size_t k = 0; k < u->n_deps; k++) {
			sum += l7mp_hash_stable(&u->deps[k]->hash, sizeof(uint64_t), 1);
			for (size_t j = 0; j < u->deps[k]->n_deps; j++)
				sum += l7mp_hash_stable(&u->deps[k]->deps[j]->hash,
				                        sizeof(uint64_t), 2);
		}
		m->v[n].id = u->node->id;
		m->v[n++].hash = l7mp_hash_stable(&sum, sizeof(sum), 3);
	}
	if (n)
		qsort(m->v, n, sizeof(m->v[0]), by_id);
	/* One entry an object. */
	for (size_t i = 0; i < n; i++) {
		if (m->n && m->v[m->n - 1].id == m->v[i].id)
			m->v[m->n - 1].hash += m->v[i].hash;
		else
			m->v[m->n++] = m->v[i];
	}
	for (size_t i = 0; i < m->n; i++)
		m->v[i].hash |= 1; /* 0 means: not there */
	g->paper->manifest = m;
	g->paper->n_objects = m->n;
	return 0;
}

static void take_units(struct op_group *g)
{
	for (size_t i = 0; i < g->n_want; i++)
		if (!g->why[i])
			g->units[g->n_units++] = g->want[i];
}

/* Whether a group wants what another one of the result before wanted, all of it unchanged. */
static bool wants_the_same(const struct op_group *g, const struct op_group *before)
{
	if (!before || before->n_want != g->n_want)
		return false;
	for (size_t i = 0; i < g->n_want; i++)
		if (before->want[i]->became != g->want[i])
			return false;
	return true;
}

static int reuse_group(struct op_render *x, struct op_group *g, const struct op_group *before)
{
	for (size_t i = 0; i < g->n_want; i++)
		if (before->why[i])
			g->why[i] = keep_text(x, strdup(before->why[i]));
	take_units(g);
	g->inserts = calloc(before->n_inserts + 1, sizeof(struct op_unit *));
	if (!g->inserts)
		return -ENOMEM;
	g->n_inserts = before->n_inserts;
	for (size_t i = 0; i < g->n_inserts; i++)
		g->inserts[i] = before->inserts[i]->became;
	g->paper = before->paper;
	atomic_fetch_add(&g->paper->refs, 1);
	return 0;
}

/* `before`: the group that the proxy had; NULL: none. */
static int make_group(struct op_render *x, struct op_group *g, const struct op_group *before)
{
	if (wants_the_same(g, before))
		return reuse_group(x, g, before);
	g->paper = calloc(1, sizeof(*g->paper));
	if (!g->paper)
		return -ENOMEM;
	atomic_init(&g->paper->refs, 1);
	if (resolve_conflicts(x, g))
		return -ENOMEM;
	bound(x, g);
	take_units(g);
	return write_document(g) || write_manifest(g) ? -ENOMEM : 0;
}

static int entry_by_entry(const void *a, const void *b)
{
	const struct op_proxy *p = &((const struct op_entry *)a)->pub;
	const struct op_proxy *q = &((const struct op_entry *)b)->pub;
	int c = strcmp(p->ns, q->ns);

	return c ? c : strcmp(p->name, q->name);
}

static const struct op_group *group_before(const struct op_render *x, const struct op_entry *e)
{
	const struct op_result *b = x->before;
	const struct op_entry *was =
	        b && b->n_proxies ? bsearch(e, b->proxies, b->n_proxies, sizeof(*e), entry_by_entry)
	                          : NULL;

	return was ? was->group : NULL;
}

static int make_proxy(struct op_render *x, size_t i, struct list *l)
{
	struct op_entry *e = &x->r->proxies[i];
	struct op_group *g;
	bool made;

	l->n = 0;
	for (size_t k = 0; k < e->n_roots; k++)
		if (close_over(l, e->roots[k], (uint32_t)i + 1))
			return -ENOMEM;
	if (op_any_refused(x->s))
		take_out_refused(x, i, l);
	if (l->n)
		qsort(l->v, l->n, sizeof(struct op_unit *), unit_by_order);
	g = group_of(x, l, &made);
	if (!g || (made && make_group(x, g, group_before(x, e))))
		return -ENOMEM;
	for (size_t k = 0; k < g->n_want; k++)
		place_node(x, g->want[k], i, g->why[k], false);
	e->group = g;
	e->pub.document = &g->paper->doc;
	e->pub.hash = g->paper->hash;
	e->pub.n_objects = g->paper->n_objects;
	return 0;
}

static int make_proxies(struct op_render *x)
{
	struct list l = {0};
	int rc = 0;

	for (size_t i = 0; i < x->r->n_proxies && !rc; i++)
		rc = make_proxy(x, i, &l);
	free(l.v);
	return rc;
}

/* What statuses say of nodes (status.c): op_status_of compares the sums. */
static int sum_nodes(struct op_result *r)
{
	for (size_t i = 0; i < r->n_nodes; i++) {
		struct op_node *n = r->nodes[i];
		uint64_t sum = add_text(add_text(n->digest, n->reason), n->message);
		char *status = n->status ? cJSON_PrintUnformatted(n->status) : NULL;

		if (n->status && !status)
			return -ENOMEM;
		sum = add_text(sum, status);
		cJSON_free(status);
		sum = add_number(sum, (n->unit ? 1 : 0) | (n->unit && n->unit->len ? 2 : 0) |
		                              (n->served ? 4 : 0));
		for (size_t k = 0; k < n->n_placed; k++) {
			const struct op_placed *at = &n->placed[k];
			const struct op_entry *e = &r->proxies[at->proxy];

			sum = add_number(add_number(sum, e->sum), (uint64_t)at->tag);
			sum = add_number(add_text(sum, at->why), at->refused);
		}
		n->sum = sum;
	}
	return 0;
}

/* What is only good while rendering. */
static void forget_store(struct op_result *r)
{
	struct op_node *n, *next;

	HASH_ITER (hh, r->by_obj, n, next)
		HASH_DEL(r->by_obj, n);
	for (size_t i = 0; i < r->n_nodes; i++)
		r->nodes[i]->obj = NULL;
	for (size_t i = 0; i < r->n_proxies; i++) {
		free(r->proxies[i].roots);
		r->proxies[i].roots = NULL;
		r->proxies[i].pod = NULL;
	}
	/* The next rendering may take over those with a memo. */
	for (struct op_unit *u = r->units; u; u = u->hh.next) {
		u->was = NULL;
		if (u->memo.made)
			continue;
		cJSON_free(u->text);
		u->text = NULL;
	}
}

/* ---- what is as before ---- */

static bool same_node(const struct op_node *a, const struct op_node *b)
{
	return !a == !b && (!a || (a->id == b->id && strcmp(a->created, b->created) == 0));
}

static bool same_claims(const struct op_unit *was, const struct op_unit *u)
{
	if (u->reused) /* it has those of the one before */
		return true;
	if (was->n_claims != u->n_claims)
		return false;
	for (size_t i = 0; i < u->n_claims; i++)
		if (strcmp(was->claims[i], u->claims[i]) != 0)
			return false;
	return true;
}

/*
 * Sets `became` of the unit before when nothing has changed that a document with it is made from:
 * its text, its order and age, its claims, and all that of its dependencies. Of those that refer to
 * each other in a circle it says no.
 */
static bool is_as_before(struct op_unit *u)
{
	struct op_unit *was = u->was;
	bool same;

	if (!was || u->compared)
		return was && was->became == u;
	u->compared = true;
	same = was->hash == u->hash && was->len == u->len && was->n_deps == u->n_deps &&
	       same_node(was->node, u->node) && was->tag == u->tag && same_claims(was, u);
	for (size_t i = 0; i < u->n_deps && same; i++)
		same = is_as_before(u->deps[i]) && was->deps[i]->became == u->deps[i];
	if (same)
		was->became = u;
	return same;
}

static void compare(struct op_render *x)
{
	if (!x->before)
		return;
	for (struct op_unit *u = x->before->units; u; u = u->hh.next)
		u->became = NULL;
	for (struct op_unit *u = x->r->units; u; u = u->hh.next)
		is_as_before(u);
}

static void begin(struct op_render *x)
{
	for (int k = 0; k < OP_KINDS; k++) {
		x->r->seen[k] = x->s->version[k];
		x->changed[k] = !x->before || x->before->seen[k] != x->s->version[k];
	}
}

int op_render(const struct op_store *s, struct op_result *before, struct op_result **out)
{
	struct op_render x = {.s = s, .before = before, .r = calloc(1, sizeof(*x.r))};
	int rc;

	if (!x.r)
		return -ENOMEM;
	begin(&x);
	rc = add_nodes(&x);
	rc = rc ? rc : add_proxies(&x);
	if (!rc) {
		op_mesh(&x);
		if (!x.oom)
			op_gateways(&x);
		rc = x.oom ? -ENOMEM : number_units(&x);
	}
	if (!rc)
		compare(&x);
	rc = rc ? rc : make_proxies(&x);
	if (!rc && x.oom)
		rc = -ENOMEM;
	rc = rc ? rc : sum_nodes(x.r);
	forget_store(x.r);
	if (rc)
		op_result_free(&x.r);
	else
		*out = x.r;
	return rc;
}

void op_result_free(struct op_result **rp)
{
	struct op_result *r = *rp;
	struct op_unit *u, *unext;
	struct op_group *g, *gnext;

	if (!r)
		return;
	HASH_ITER (hh, r->groups, g, gnext) {
		HASH_DEL(r->groups, g);
		paper_unref(g->paper);
		free(g->want);
		free(g->units);
		free(g->inserts);
		free(g->why);
		free(g);
	}
	HASH_ITER (hh, r->units, u, unext) {
		HASH_DEL(r->units, u);
		free_unit(u);
	}
	for (size_t i = 0; i < r->n_nodes; i++)
		free_node(r->nodes[i]);
	for (size_t i = 0; i < r->n_proxies; i++) {
		struct op_proxy *p = &r->proxies[i].pub;

		free((char *)p->ns);
		free((char *)p->name);
		free((char *)p->uid);
		free((char *)p->address);
		free((char *)p->node);
		free((char *)p->boot);
	}
	for (size_t i = 0; i < r->n_texts; i++)
		free(r->texts[i]);
	free(r->texts);
	free(r->nodes);
	free(r->proxies);
	free(r);
	*rp = NULL;
}

size_t op_result_count(const struct op_result *r)
{
	return r->n_proxies;
}

const struct op_proxy *op_result_proxy(const struct op_result *r, size_t i)
{
	return i < r->n_proxies ? &r->proxies[i].pub : NULL;
}

/* ---- what a proxy's error is about ---- */

static const struct op_unit *unit_at(const struct op_group *g, enum op_section section, size_t i)
{
	for (size_t k = 0; k < g->n_units; k++)
		if (g->units[k]->section == section && i-- == 0)
			return g->units[k];
	return NULL;
}

static const struct op_unit *unit_by_path(const struct op_group *g, const char *path)
{
	const char *bracket = strchr(path, '[');
	char *end;
	unsigned long i = bracket ? strtoul(bracket + 1, &end, 10) : 0;
	size_t len = bracket ? (size_t)(bracket - path) : 0;

	/* It may begin with a key around the document. */
	if (strncmp(path, "config.", 7) == 0)
		return unit_by_path(g, path + 7);
	if (!bracket || *end != ']')
		return NULL;
	if (len == strlen("rule_inserts") && memcmp(path, "rule_inserts", len) == 0)
		return i < g->n_inserts ? g->inserts[i] : NULL;
	for (int s = 0; s < OP_SECTIONS; s++)
		if (strlen(section_names[s]) == len && memcmp(section_names[s], path, len) == 0)
			return unit_at(g, (enum op_section)s, i);
	return NULL;
}

/* The longest name, as one may be the beginning of another. */
static const struct op_unit *unit_by_name(const struct op_group *g, const char *text)
{
	const struct op_unit *best = NULL;
	size_t longest = 0;

	for (size_t i = 0; i < g->n_units; i++) {
		size_t n = strlen(g->units[i]->name);

		if (n > longest && strstr(text, g->units[i]->name)) {
			longest = n;
			best = g->units[i];
		}
	}
	return best;
}

bool op_blame(const struct op_proxy *p, const char *path, const char *text, struct op_object *out)
{
	const struct op_group *g = l7mp_container_of(p, struct op_entry, pub)->group;
	const struct op_unit *u = path ? unit_by_path(g, path) : NULL;

	if (!u && text)
		u = unit_by_name(g, text);
	if (!u || !u->node)
		return false;
	*out = (struct op_object){u->node->kind, u->node->ns, u->node->name, u->tag};
	return true;
}

static int object_order(const void *a, const void *b)
{
	const struct op_object *x = a, *y = b;
	int rc = (x->kind > y->kind) - (x->kind < y->kind);

	rc = rc ? rc : strcmp(x->ns, y->ns);
	return rc ? rc : strcmp(x->name, y->name);
}

struct op_object *op_proxy_objects(const struct op_proxy *p, size_t *n)
{
	const struct op_group *g = l7mp_container_of(p, struct op_entry, pub)->group;
	struct op_object *out = calloc(g->n_units ? g->n_units : 1, sizeof(*out));
	size_t all = 0;

	*n = 0;
	if (!out)
		return NULL;
	for (size_t i = 0; i < g->n_units; i++) {
		const struct op_node *node = g->units[i]->node;

		if (node)
			out[all++] = (struct op_object){node->kind, node->ns, node->name, 0};
	}
	qsort(out, all, sizeof(*out), object_order);
	for (size_t i = 0; i < all; i++)
		if (!*n || object_order(&out[*n - 1], &out[i]))
			out[(*n)++] = out[i];
	return out;
}
