/* SPDX-License-Identifier: MIT */
/*
 * Builds the draft tree: objects of a document with their inline objects as children. Documents
 * have passed the schema check; for others this code only avoids crashes.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/model_private.h"

static void parse_object(struct l7mp_build *b, struct l7mp_draft *d, const cJSON *doc);

char *l7mp_path_key(const char *path, const char *key)
{
	return l7mp_asprintf("%s%s%s", path, *path ? "." : "", key);
}

static char *path_index(const char *path, size_t i)
{
	return l7mp_asprintf("%s[%zu]", path, i);
}

void l7mp_draft_free(struct l7mp_draft *d)
{
	if (!d)
		return;
	for (int s = 0; s < L7MP_KIND_SLOTS; s++) {
		for (size_t i = 0; i < d->refs[s].n; i++) {
			free(d->refs[s].v[i].name);
			l7mp_draft_free(d->refs[s].v[i].draft);
		}
		free(d->refs[s].v);
	}
	l7mp_object_unref(d->object);
	free(d->name);
	free(d->path);
	free(d);
}

/* Creates a draft. Takes path. NULL: out of memory, b->oom is set. */
static struct l7mp_draft *draft_new(struct l7mp_build *b, enum l7mp_obj_kind kind, const cJSON *doc,
                                    char *path)
{
	struct l7mp_draft *d = calloc(1, sizeof(*d));
	const char *name = l7mp_json_str(doc, "name", NULL);

	if (!d) {
		free(path);
		b->oom = true;
		return NULL;
	}
	d->kind = kind;
	d->path = path;
	d->object = l7mp_object_new(kind);
	d->name = name ? strdup(name) : NULL;
	if (!d->path || !d->object || (name && !d->name)) {
		l7mp_draft_free(d);
		b->oom = true;
		return NULL;
	}
	return d;
}

/* ---- references ---- */

static void reserve(struct l7mp_build *b, struct l7mp_draft *d, enum l7mp_slot slot, int n)
{
	struct l7mp_draft_refs *refs = l7mp_draft_slot(d, slot);

	refs->v = n > 0 ? calloc((size_t)n, sizeof(refs->v[0])) : NULL;
	if (n > 0 && !refs->v)
		b->oom = true;
}

/* Adds a reference, given as a name or an inline object, to the reserved slot. Takes path. */
static void add_ref(struct l7mp_build *b, struct l7mp_draft *d, enum l7mp_slot slot,
                    const cJSON *node, char *path)
{
	struct l7mp_draft_refs *refs = l7mp_draft_slot(d, slot);
	struct l7mp_draft_ref *ref = &refs->v[refs->n];
	struct l7mp_draft *child;

	if (b->oom || !node) {
		free(path);
		return;
	}
	if (cJSON_IsString(node)) {
		ref->name = strdup(node->valuestring);
		if (ref->name)
			refs->n++;
		else
			b->oom = true;
		free(path);
		return;
	}
	child = draft_new(b, l7mp_slot(slot)->target, node, path);
	if (!child)
		return;
	child->owner = d;
	child->slot = slot;
	ref->draft = child;
	refs->n++;
	parse_object(b, child, node);
}

static void parse_ref(struct l7mp_build *b, struct l7mp_draft *d, enum l7mp_slot slot,
                      const cJSON *doc, const char *key)
{
	const cJSON *node = l7mp_json_member(doc, key);

	if (!node)
		return;
	reserve(b, d, slot, 1);
	add_ref(b, d, slot, node, l7mp_path_key(d->path, key));
}

static void parse_refs(struct l7mp_build *b, struct l7mp_draft *d, enum l7mp_slot slot,
                       const cJSON *array, const char *path)
{
	const cJSON *node;
	size_t i = 0;

	if (!cJSON_IsArray(array))
		return;
	reserve(b, d, slot, cJSON_GetArraySize(array));
	cJSON_ArrayForEach (node, array)
		add_ref(b, d, slot, node, path_index(path, i++));
}

static void parse_refs_of(struct l7mp_build *b, struct l7mp_draft *d, enum l7mp_slot slot,
                          const cJSON *doc, const char *key)
{
	char *path = l7mp_path_key(d->path, key);

	if (path)
		parse_refs(b, d, slot, l7mp_json_member(doc, key), path);
	else
		b->oom = true;
	free(path);
}

/* ---- values ---- */

static cJSON *copy_tree(struct l7mp_build *b, const cJSON *node)
{
	cJSON *copy = node ? cJSON_Duplicate(node, true) : NULL;

	if (node && !copy)
		b->oom = true;
	return copy;
}

/* An empty object is equivalent to none. */
static cJSON *copy_options(struct l7mp_build *b, const cJSON *node)
{
	return cJSON_IsObject(node) && node->child ? copy_tree(b, node) : NULL;
}

static char *copy_text(struct l7mp_build *b, const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		b->oom = true;
	return copy;
}

static enum l7mp_offload_policy parse_offload(const cJSON *doc)
{
	return strcasecmp(l7mp_json_str(doc, "offload", "auto"), "never") ? L7MP_OFFLOAD_AUTO
	                                                                  : L7MP_OFFLOAD_NEVER;
}

static const struct l7mp_protodesc *parse_protocol(struct l7mp_build *b, const struct l7mp_draft *d,
                                                   const cJSON *spec)
{
	const char *name = l7mp_json_str(spec, "protocol", NULL);
	const struct l7mp_protodesc *proto = name ? l7mp_registry_find(b->registry, name) : NULL;

	if (!proto && !b->oom)
		l7mp_issues_add(b->issues, false, spec, d->path, "unknown protocol \"%s\"",
		                name ? name : "");
	return proto;
}

/* ---- kinds ---- */

static void parse_range(struct l7mp_build *b, struct l7mp_draft *d, struct l7mp_listener *l,
                        const cJSON *options)
{
	const char *range = l7mp_json_str(options, "range", NULL);
	char *path;

	if (!range || !l7mp_addr_parse_net(range, &l->range, &l->range_bits))
		return;
	path = l7mp_path_key(d->path, "options.range");
	l7mp_issues_add(b->issues, false, l7mp_json_member(options, "range"), path ? path : d->path,
	                "expected a network like 10.0.0.0/8 or fd00::/8, got \"%s\"", range);
	free(path);
}

static void parse_listener(struct l7mp_build *b, struct l7mp_draft *d, const cJSON *doc)
{
	struct l7mp_listener *l = (struct l7mp_listener *)d->object;
	const cJSON *options = l7mp_json_member(doc, "options");
	double idle = l7mp_json_num(options, "idle_timeout", -1);

	l->spec = copy_tree(b, l7mp_json_member(doc, "spec"));
	l->proto = parse_protocol(b, d, l->spec);
	l->options = copy_options(b, options);
	l->track_ms = (uint32_t)(l7mp_json_num(options, "track", 0) * 1000);
	l->max_sessions = (uint32_t)l7mp_json_num(options, "max_sessions", 0);
	l->idle_timeout_ms = idle < 0 ? -1 : (int64_t)(idle * 1000);
	l->offload = parse_offload(options);
	parse_range(b, d, l, options);
	parse_ref(b, d, L7MP_SLOT_RULES, doc, "rules");
}

static const struct {
	const char *name;
	enum l7mp_lb_policy policy;
} policies[] = {
        {"Trivial", L7MP_LB_TRIVIAL},     {"HashRing", L7MP_LB_HASH},
        {"ConsistentHash", L7MP_LB_HASH}, {"RoundRobin", L7MP_LB_ROUND_ROBIN},
        {"Random", L7MP_LB_RANDOM},
};

/* A virtual cluster may have only the one endpoint that GET shows for it. */
static void check_virtual(struct l7mp_build *b, const struct l7mp_draft *d, const cJSON *endpoints)
{
	const struct l7mp_cluster *c = (const struct l7mp_cluster *)d->object;
	const char *shown = endpoints ? l7mp_json_str(endpoints->child, "name", "") : "";
	char *path;

	if (!endpoints || !endpoints->child || b->oom)
		return;
	if (!endpoints->child->next && d->name && !strcmp(shown, d->name))
		return;
	path = l7mp_path_key(d->path, "endpoints");
	l7mp_issues_add(b->issues, false, endpoints, path ? path : d->path,
	                "expected none: a cluster of protocol %s has no endpoints", c->proto->name);
	free(path);
}

static void parse_cluster(struct l7mp_build *b, struct l7mp_draft *d, const cJSON *doc)
{
	struct l7mp_cluster *c = (struct l7mp_cluster *)d->object;
	const cJSON *lb = l7mp_json_member(doc, "loadbalancer");
	const char *policy = l7mp_json_str(lb, "policy", "Trivial");

	c->spec = copy_tree(b, l7mp_json_member(doc, "spec"));
	c->proto = parse_protocol(b, d, c->spec);
	c->options = copy_options(b, l7mp_json_member(doc, "options"));
	c->lb_policy_name = copy_text(b, policy);
	c->lb_key = copy_text(b, l7mp_json_str(lb, "key", NULL));
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(policies); i++)
		if (!strcasecmp(policy, policies[i].name))
			c->lb_policy = policies[i].policy;
	if (c->proto && c->proto->flags & L7MP_PROTO_VIRTUAL)
		check_virtual(b, d, l7mp_json_member(doc, "endpoints"));
	else
		parse_refs_of(b, d, L7MP_SLOT_ENDPOINTS, doc, "endpoints");
}

static void parse_endpoint(struct l7mp_build *b, struct l7mp_draft *d, const cJSON *doc)
{
	struct l7mp_endpoint *e = (struct l7mp_endpoint *)d->object;

	e->spec = copy_tree(b, l7mp_json_member(doc, "spec"));
	e->address = l7mp_json_str(e->spec, "address", NULL);
	e->weight = l7mp_json_num(doc, "weight", l7mp_json_num(e->spec, "weight", 1));
	e->drop = cJSON_IsTrue(l7mp_json_member(doc, "drop"));
}

static void parse_rule(struct l7mp_build *b, struct l7mp_draft *d, const cJSON *doc)
{
	struct l7mp_rule *r = (struct l7mp_rule *)d->object;
	const cJSON *match = l7mp_json_member(doc, "match"), *item;
	const cJSON *action = l7mp_json_member(doc, "action");
	const cJSON *rewrite = l7mp_json_member(action, "rewrite");
	int n = cJSON_IsArray(rewrite) ? cJSON_GetArraySize(rewrite) : 0;
	char *own = d->path;

	r->match = cJSON_IsObject(match) ? copy_tree(b, match) : NULL;
	r->rewrite = n ? calloc((size_t)n, sizeof(r->rewrite[0])) : NULL;
	if (n && !r->rewrite)
		b->oom = true;
	for (item = n ? rewrite->child : NULL; item && !b->oom; item = item->next) {
		struct l7mp_rewrite *w = &r->rewrite[r->n_rewrite++];

		w->path = copy_text(b, l7mp_json_str(item, "path", ""));
		w->value = copy_tree(b, l7mp_json_member(item, "value"));
	}
	d->path = l7mp_path_key(own, "action");
	if (d->path) {
		parse_ref(b, d, L7MP_SLOT_ROUTE, action, "route");
		parse_ref(b, d, L7MP_SLOT_APPLY, action, "apply");
	} else {
		b->oom = true;
	}
	free(d->path);
	d->path = own;
}

static void parse_route(struct l7mp_build *b, struct l7mp_draft *d, const cJSON *doc)
{
	static const char *const names[] = {"never", "connect-failure", "disconnect", "always"};
	struct l7mp_route *r = (struct l7mp_route *)d->object;
	const cJSON *retry = l7mp_json_member(doc, "retry");
	const char *on = l7mp_json_str(retry, "retry_on", "never");

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++)
		if (!strcasecmp(on, names[i]))
			r->retry_on = (enum l7mp_retry_on)i;
	r->num_retries = (uint32_t)l7mp_json_num(retry, "num_retries", 1);
	r->timeout_ms = (uint32_t)l7mp_json_num(retry, "timeout", 2000);
	r->offload = parse_offload(doc);
	parse_ref(b, d, L7MP_SLOT_DESTINATION, doc,
	          l7mp_json_member(doc, "destination") ? "destination" : "cluster");
	parse_refs_of(b, d, L7MP_SLOT_INGRESS, doc, "ingress");
	parse_refs_of(b, d, L7MP_SLOT_EGRESS, doc, "egress");
}

static void parse_object(struct l7mp_build *b, struct l7mp_draft *d, const cJSON *doc)
{
	switch (d->kind) {
	case L7MP_OBJ_LISTENER:
		parse_listener(b, d, doc);
		break;
	case L7MP_OBJ_CLUSTER:
		parse_cluster(b, d, doc);
		break;
	case L7MP_OBJ_ENDPOINT:
		parse_endpoint(b, d, doc);
		break;
	case L7MP_OBJ_RULELIST:
		/* A listener's `rules` may be an array of rules. */
		if (cJSON_IsArray(doc))
			parse_refs(b, d, L7MP_SLOT_LIST, doc, d->path);
		else
			parse_refs_of(b, d, L7MP_SLOT_LIST, doc, "rules");
		break;
	case L7MP_OBJ_RULE:
		parse_rule(b, d, doc);
		break;
	case L7MP_OBJ_ROUTE:
		parse_route(b, d, doc);
		break;
	case L7MP_OBJ_KINDS:
		break;
	}
}

struct l7mp_draft *l7mp_draft_parse(struct l7mp_build *b, enum l7mp_obj_kind kind, const cJSON *doc,
                                    const char *path)
{
	struct l7mp_draft *d = draft_new(b, kind, doc, strdup(path));

	if (!d)
		return NULL;
	parse_object(b, d, doc);
	if (b->oom || b->issues->errors) {
		l7mp_draft_free(d);
		return NULL;
	}
	return d;
}
