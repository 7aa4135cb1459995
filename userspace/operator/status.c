/* SPDX-License-Identifier: MIT */
/* Computes what to write to the API server: statuses, statuses of owners, events. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core.h"

struct statuses {
	const struct op_store *s;
	const struct op_result *r;
	const char *now;
	struct op_writes *out;
	size_t cap;
};

/* ---- conditions ---- */

int op_condition(cJSON *list, const char *type, bool status, const char *reason,
                 const char *message, double generation)
{
	cJSON *c = cJSON_CreateObject();

	if (l7mp_json_add_str(c, "type", type) ||
	    l7mp_json_add_str(c, "status", status ? "True" : "False") ||
	    l7mp_json_add_str(c, "reason", reason) || l7mp_json_add_str(c, "message", message) ||
	    l7mp_json_add_num(c, "observedGeneration", generation) ||
	    !cJSON_AddItemToArray(list, c)) {
		cJSON_Delete(c);
		return -ENOMEM;
	}
	return 0;
}

/* Adds an incomplete condition: without a reason, and with the tag as its message. */
int op_condition_programmed(cJSON *list, int tag, double generation)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", tag);
	return op_condition(list, "Programmed", false, "", text, generation);
}

static const cJSON *find_condition(const cJSON *list, const char *type)
{
	const cJSON *c;

	cJSON_ArrayForEach (c, list)
		if (strcmp(l7mp_json_str(c, "type", ""), type) == 0)
			return c;
	return NULL;
}

static bool same_text(const cJSON *a, const cJSON *b, const char *key)
{
	return strcmp(l7mp_json_str(a, key, ""), l7mp_json_str(b, key, "")) == 0;
}

/* Adds lastTransitionTime: of the last change of `status`. Returns 0 or -ENOMEM. */
static int add_times(cJSON *wanted, const cJSON *present, const char *now)
{
	cJSON *c;

	cJSON_ArrayForEach (c, wanted) {
		const cJSON *was = find_condition(present, l7mp_json_str(c, "type", ""));
		const char *since = was && same_text(was, c, "status")
		                            ? l7mp_json_str(was, "lastTransitionTime", now)
		                            : now;

		if (l7mp_json_add_str(c, "lastTransitionTime", since))
			return -ENOMEM;
	}
	return 0;
}

/* ---- Programmed: do the proxies have the object? ---- */

struct programmed {
	size_t selected, done, conflicts, refused, failed;
	char text[700]; /* about the first proxies that don't have it */
	char conflict[500];
};

static void say(char *text, size_t size, const struct op_proxy *p, const char *why)
{
	size_t n = strlen(text);

	if (n && strstr(text, why)) /* already there, of another listener or proxy */
		return;
	/* As far as they fit; the counts are complete. */
	if (n < size / 2)
		snprintf(text + n, size - n, "%s%s/%s: %.300s", n ? "; " : "", p->ns, p->name, why);
}

/* `tag` -1: all units of the object. */
static struct programmed count(const struct statuses *x, const struct op_node *n, int tag)
{
	struct programmed c = {0};

	for (size_t i = 0; i < n->n_placed; i++) {
		const struct op_placed *at = &n->placed[i];
		const struct op_entry *e = &x->r->proxies[at->proxy];
		const struct op_known *k = op_known(x->s, &e->pub);
		uint64_t want = op_manifest_get(e->group->paper->manifest, n->id);

		if (tag >= 0 && at->tag != tag)
			continue;
		c.selected++;
		if (at->why && !at->refused) {
			c.conflicts++;
			say(c.conflict, sizeof(c.conflict), &e->pub, at->why);
		} else if (at->why) {
			c.refused++;
			say(c.text, sizeof(c.text), &e->pub, at->why);
		} else if (k && op_manifest_get(k->manifest, n->id) == want) {
			c.done++;
		} else if (k && k->error) {
			c.failed++;
			say(c.text, sizeof(c.text), &e->pub, k->error);
		}
	}
	return c;
}

static int programmed_condition(cJSON *list, const struct programmed *c, double generation)
{
	const char *reason = c->refused              ? "Refused"
	                     : c->failed             ? "Failed"
	                     : !c->selected          ? "NoProxies"
	                     : c->done < c->selected ? "Pending"
	                                             : "Programmed";
	char message[900];

	if (!c->selected)
		snprintf(message, sizeof(message), "no proxy has it");
	else
		snprintf(message, sizeof(message), "%zu/%zu proxies%s%s", c->done, c->selected,
		         *c->text ? "; " : "", c->text);
	return op_condition(list, "Programmed", strcmp(reason, "Programmed") == 0, reason, message,
	                    generation);
}

/* ---- writes ---- */

static struct op_write *add_write(struct statuses *x, enum op_write_kind what,
                                  const struct op_node *n)
{
	struct op_writes *out = x->out;
	struct op_write *w;

	if (op_grow(&out->w, out->n, &x->cap, sizeof(*out->w)))
		return NULL;
	w = &out->w[out->n];
	*w = (struct op_write){.write = what};
	w->group = strdup(op_kinds[n->kind].group);
	w->version = strdup(op_kinds[n->kind].version);
	w->plural = strdup(op_kinds[n->kind].plural);
	w->kind = strdup(op_kinds[n->kind].kind);
	w->ns = strdup(n->ns);
	w->name = strdup(n->name);
	w->uid = strdup(n->uid);
	out->n++;
	return w->group && w->version && w->plural && w->kind && w->ns && w->name && w->uid ? w
	                                                                                    : NULL;
}

void op_writes_free(struct op_writes *ws)
{
	for (size_t i = 0; i < ws->n; i++) {
		struct op_write *w = &ws->w[i];

		free(w->group);
		free(w->version);
		free(w->plural);
		free(w->kind);
		free(w->ns);
		free(w->name);
		free(w->uid);
		cJSON_Delete(w->body);
	}
	free(ws->w);
	*ws = (struct op_writes){0};
}

/* Adds a warning event: reason and text of the first condition that is False. */
static int add_event(struct statuses *x, const struct op_node *n, const cJSON *conditions)
{
	const cJSON *c;
	struct op_write *w;

	cJSON_ArrayForEach (c, conditions) {
		const char *reason = l7mp_json_str(c, "reason", "");

		if (strcmp(l7mp_json_str(c, "status", ""), "False") != 0 ||
		    strcmp(reason, "Pending") == 0 || strcmp(reason, "NoProxies") == 0)
			continue;
		w = add_write(x, OP_WRITE_EVENT, n);
		if (!w)
			return -ENOMEM;
		w->body = cJSON_CreateObject();
		return l7mp_json_add_str(w->body, "type", "Warning") ||
		                       l7mp_json_add_str(w->body, "reason", reason) ||
		                       l7mp_json_add_str(w->body, "note",
		                                         l7mp_json_str(c, "message", ""))
		               ? -ENOMEM
		               : 0;
	}
	return 0;
}

/* Adds a write of `status` (taken) if one of its members differs from the present status. */
static int add_status(struct statuses *x, const struct op_node *n, const struct op_obj *o,
                      cJSON *status)
{
	bool same = true;
	const cJSON *m;
	cJSON *meta;
	struct op_write *w;

	cJSON_ArrayForEach (m, status) {
		const cJSON *was = l7mp_json_member(o->status, m->string);

		/* In a merge patch null removes a member. */
		same = same && (cJSON_IsNull(m) ? !was : was && l7mp_json_equal(m, was));
	}
	if (same) {
		cJSON_Delete(status);
		return 0;
	}
	w = add_write(x, OP_WRITE_STATUS, n);
	if (w)
		w->body = cJSON_CreateObject();
	meta = cJSON_CreateObject();
	if (!w || !w->body ||
	    (*o->version && l7mp_json_add_str(meta, "resourceVersion", o->version))) {
		cJSON_Delete(meta);
		cJSON_Delete(status);
		return -ENOMEM;
	}
	if (*o->version ? l7mp_json_add(w->body, "metadata", meta) : (cJSON_Delete(meta), 0)) {
		cJSON_Delete(status);
		return -ENOMEM;
	}
	return l7mp_json_add(w->body, "status", status);
}

/* ---- the kinds of l7mp.io ---- */

static int mesh_conditions(const struct op_node *n, const struct programmed *c, cJSON *list)
{
	bool accepted = !n->reason && !c->conflicts;
	const char *reason = n->reason ? n->reason : accepted ? "Accepted" : "Conflicted";
	const char *message = n->message ? n->message : "";
	int rc = op_condition(list, "Accepted", accepted, reason,
	                      !n->reason && c->conflicts ? c->conflict : message, n->generation);

	/* Not for a VirtualService without rules, which proxies don't get. */
	if (!rc && (n->reason || !n->unit || n->unit->len))
		rc = programmed_condition(list, c, n->generation);
	return rc;
}

static int owner_writes(struct statuses *x, const struct op_node *n)
{
	const cJSON *owner;

	cJSON_ArrayForEach (owner, n->owners) {
		const char *version = l7mp_json_str(owner, "apiVersion", "");
		const char *kind = l7mp_json_str(owner, "kind", ""), *slash = strchr(version, '/');
		struct op_write *w = add_write(x, OP_WRITE_OWNER, n);
		cJSON *applied = cJSON_CreateObject(), *children = cJSON_CreateObject();
		cJSON *status = cJSON_CreateObject();
		char *plural;
		int rc;

		if (!w || !n->unit || l7mp_json_add_num(applied, n->unit->name, n->generation) ||
		    l7mp_json_add(children, "applied", applied)) {
			cJSON_Delete(children);
			cJSON_Delete(status);
			return -ENOMEM;
		}
		rc = l7mp_json_add(status, "children", children);
		w->body = cJSON_CreateObject();
		rc = rc ? rc : l7mp_json_add(w->body, "status", status);
		/*
		 * Owners are in the same namespace; the plural is formed as by the original l7mp.
		 */
		plural = l7mp_asprintf("%ss", kind);
		free(w->group);
		free(w->version);
		free(w->plural);
		free(w->kind);
		free(w->name);
		free(w->uid);
		w->group = slash ? strndup(version, (size_t)(slash - version)) : strdup("");
		w->version = strdup(slash ? slash + 1 : version);
		for (char *p = plural; p && *p; p++)
			*p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
		w->plural = plural;
		w->kind = strdup(kind);
		w->name = strdup(l7mp_json_str(owner, "name", ""));
		w->uid = strdup(l7mp_json_str(owner, "uid", ""));
		if (rc || !w->group || !w->version || !w->plural || !w->kind || !w->name || !w->uid)
			return -ENOMEM;
	}
	return 0;
}

static int mesh_status(struct statuses *x, const struct op_node *n, const struct op_obj *o)
{
	struct programmed c = count(x, n, -1);
	cJSON *status = cJSON_CreateObject(), *list = cJSON_CreateArray();
	char proxies[48];
	int rc;

	snprintf(proxies, sizeof(proxies), "%zu/%zu", c.done, c.selected);
	rc = l7mp_json_add(status, "conditions", list);
	rc = rc ? rc : mesh_conditions(n, &c, list);
	rc = rc ? rc : add_times(list, l7mp_json_member(o->status, "conditions"), x->now);
	rc = rc ? rc : l7mp_json_add_str(status, "proxies", proxies);
	if (!rc)
		rc = add_event(x, n, list);
	if (rc) {
		cJSON_Delete(status);
		return rc;
	}
	rc = add_status(x, n, o, status);
	if (!rc && n->owners && c.selected && c.done == c.selected)
		rc = owner_writes(x, n);
	return rc;
}

/* ---- the kinds of the Gateway API ---- */

static int set_condition(cJSON *c, bool status, const char *reason, const char *message)
{
	cJSON *s = cJSON_CreateString(status ? "True" : "False");
	cJSON *r = cJSON_CreateString(reason), *m = cJSON_CreateString(message);

	if (!s || !r || !m) {
		cJSON_Delete(s);
		cJSON_Delete(r);
		cJSON_Delete(m);
		return -ENOMEM;
	}
	cJSON_ReplaceItemInObjectCaseSensitive(c, "status", s);
	cJSON_ReplaceItemInObjectCaseSensitive(c, "reason", r);
	cJSON_ReplaceItemInObjectCaseSensitive(c, "message", m);
	return 0;
}

static cJSON *own_condition(cJSON *list, const char *type)
{
	cJSON *c;

	cJSON_ArrayForEach (c, list)
		if (strcmp(l7mp_json_str(c, "type", ""), type) == 0)
			return c;
	return NULL;
}

/* Completes Programmed, and Accepted if another Gateway uses the listener's port. */
static int fill(const struct statuses *x, const struct op_node *n, cJSON *list, size_t *clashes)
{
	cJSON *p = own_condition(list, "Programmed");
	int tag = p ? (int)strtol(l7mp_json_str(p, "message", "-1"), NULL, 10) : -1;
	struct programmed c;
	char message[900];
	int rc = 0;

	if (!p || *l7mp_json_str(p, "reason", ""))
		return 0;
	c = count(x, n, tag);
	if (tag >= 0 && c.conflicts) {
		*clashes += 1;
		rc = set_condition(own_condition(list, "Accepted"), false, "PortUnavailable",
		                   c.conflict);
		return rc ? rc : set_condition(p, false, "PortUnavailable", c.conflict);
	}
	snprintf(message, sizeof(message), "%zu/%zu programmed%s%s", c.done,
	         c.selected - c.conflicts, *c.text ? "; " : "", c.text);
	if (!n->served)
		return set_condition(p, false, tag < 0 ? "NoResources" : "Pending",
		                     "no proxy serves the Gateway");
	/* A Gateway itself is Programmed: the conditions of its listeners show refusals. */
	if (tag < 0 && c.done && c.done + c.conflicts + c.refused == c.selected)
		return set_condition(p, true, "Programmed", message);
	if (c.done + c.conflicts < c.selected)
		return set_condition(p, false, c.refused || c.failed ? "Invalid" : "Pending",
		                     message);
	return set_condition(p, true, "Programmed", message);
}

/* Keeps conditions whose types are set by other controllers. */
static int keep_foreign(cJSON *wanted, const cJSON *present)
{
	const cJSON *c;

	cJSON_ArrayForEach (c, present) {
		cJSON *copy;

		if (find_condition(wanted, l7mp_json_str(c, "type", "")))
			continue;
		copy = cJSON_Duplicate(c, true);
		if (!copy)
			return -ENOMEM;
		cJSON_AddItemToArray(wanted, copy);
	}
	return 0;
}

static const cJSON *find_listener(const cJSON *list, const char *name)
{
	const cJSON *l;

	cJSON_ArrayForEach (l, list)
		if (strcmp(l7mp_json_str(l, "name", ""), name) == 0)
			return l;
	return NULL;
}

static int fill_listeners(const struct statuses *x, const struct op_node *n, cJSON *status,
                          const cJSON *present, size_t *clashes)
{
	cJSON *l;
	int rc = 0;

	cJSON_ArrayForEach (l, l7mp_json_member(status, "listeners")) {
		const cJSON *was = find_listener(l7mp_json_member(present, "listeners"),
		                                 l7mp_json_str(l, "name", ""));
		cJSON *list = l7mp_json_member(l, "conditions");

		rc = rc ? rc : fill(x, n, list, clashes);
		rc = rc ? rc : add_times(list, l7mp_json_member(was, "conditions"), x->now);
		rc = rc ? rc : keep_foreign(list, l7mp_json_member(was, "conditions"));
	}
	return rc;
}

static int gateway_status(struct statuses *x, const struct op_node *n, const struct op_obj *o)
{
	cJSON *status = cJSON_Duplicate(n->status, true);
	cJSON *list = l7mp_json_member(status, "conditions");
	const cJSON *present = l7mp_json_member(o->status, "conditions");
	size_t clashes = 0, none = 0;
	int rc = status ? fill_listeners(x, n, status, o->status, &clashes) : -ENOMEM;

	rc = rc ? rc : fill(x, n, list, &none);
	/* The ports of all its listeners belong to other Gateways. */
	if (!rc && clashes && !count(x, n, -1).done &&
	    clashes == (size_t)cJSON_GetArraySize(l7mp_json_member(status, "listeners"))) {
		rc = set_condition(own_condition(list, "Accepted"), false, "ListenersNotValid",
		                   "the ports of all listeners are taken by others");
		rc = rc ? rc
		        : set_condition(own_condition(list, "Programmed"), false, "Invalid", "");
	}
	rc = rc ? rc : add_event(x, n, list);
	rc = rc ? rc : add_times(list, present, x->now);
	rc = rc ? rc : keep_foreign(list, present);
	if (rc) {
		cJSON_Delete(status);
		return rc;
	}
	return add_status(x, n, o, status);
}

static const cJSON *find_parent(const struct statuses *x, const cJSON *parents, const cJSON *want)
{
	const cJSON *p;

	cJSON_ArrayForEach (p, parents)
		if (strcmp(l7mp_json_str(p, "controllerName", ""), x->s->settings.controller) ==
		            0 &&
		    l7mp_json_equal(l7mp_json_member(p, "parentRef"),
		                    l7mp_json_member(want, "parentRef")))
			return p;
	return NULL;
}

/* Writes only our own entries in `parents`. */
static int route_status(struct statuses *x, const struct op_node *n, const struct op_obj *o)
{
	const cJSON *present = l7mp_json_member(o->status, "parents"), *p;
	cJSON *status = cJSON_CreateObject(), *list = cJSON_CreateArray(), *own;
	int rc = l7mp_json_add(status, "parents", list);

	cJSON_ArrayForEach (p, present) {
		cJSON *copy;

		if (strcmp(l7mp_json_str(p, "controllerName", ""), x->s->settings.controller) == 0)
			continue;
		copy = cJSON_Duplicate(p, true);
		if (!copy || !cJSON_AddItemToArray(list, copy))
			rc = -ENOMEM;
	}
	cJSON_ArrayForEach (own, l7mp_json_member(n->status, "parents")) {
		cJSON *copy = cJSON_Duplicate(own, true);
		const cJSON *was = find_parent(x, present, own);
		cJSON *conditions = l7mp_json_member(copy, "conditions");

		if (rc || !copy ||
		    add_times(conditions, l7mp_json_member(was, "conditions"), x->now) ||
		    add_event(x, n, conditions) || !cJSON_AddItemToArray(list, copy)) {
			cJSON_Delete(copy);
			rc = -ENOMEM;
		}
	}
	/* None of its parents is or was ours. */
	if (rc || (!present && !list->child)) {
		cJSON_Delete(status);
		return rc;
	}
	return add_status(x, n, o, status);
}

/* ---- all ---- */

/* The object, as it was rendered; NULL: it is gone or has changed. */
static struct op_obj *object_of(const struct op_store *s, const struct op_node *n)
{
	struct op_obj *o = op_find(s, n->kind, n->ns, n->name);

	return o && o->digest == n->digest ? o : NULL;
}

static int add_writes(struct statuses *x, const struct op_node *n, const struct op_obj *o)
{
	if (strcmp(op_kinds[n->kind].group, "l7mp.io") == 0)
		return mesh_status(x, n, o);
	if (!n->status)
		return 0;
	return n->kind == OP_UDPROUTE || n->kind == OP_TCPROUTE ? route_status(x, n, o)
	                                                        : gateway_status(x, n, o);
}

int op_statuses(const struct op_store *s, const struct op_result *r, const char *now,
                struct op_writes *out)
{
	struct statuses x = {.s = s, .r = r, .now = now, .out = out};
	int rc = 0;

	*out = (struct op_writes){0};
	for (size_t i = 0; i < r->n_nodes && !rc; i++) {
		const struct op_obj *o = object_of(s, r->nodes[i]);

		rc = o ? add_writes(&x, r->nodes[i], o) : 0;
	}
	if (rc)
		op_writes_free(out);
	return rc;
}

/* ---- only what has changed ---- */

/* What a proxy has said of an object, as far as `count` tells it apart. */
static uint64_t said(const struct op_known *k, uint64_t id, uint64_t want)
{
	if (!k)
		return 0;
	if (op_manifest_get(k->manifest, id) == want)
		return 1;
	return k->error ? l7mp_hash_stable(k->error, strlen(k->error), 0) : 0;
}

/*
 * Of all that the status is made from, except for the object's present status: op_store_put, which
 * alone changes that, clears `told`.
 */
static uint64_t sum_of(const struct op_store *s, const struct op_result *r, const struct op_node *n)
{
	uint64_t part[2] = {n->sum, s->told_epoch};
	uint64_t sum = l7mp_hash_stable(part, sizeof(part), 0);

	for (size_t i = 0; i < n->n_placed; i++) {
		const struct op_placed *at = &n->placed[i];
		const struct op_entry *e = &r->proxies[at->proxy];

		if (at->why)
			continue;
		part[0] = sum;
		part[1] = said(op_known(s, &e->pub), n->id,
		               op_manifest_get(e->group->paper->manifest, n->id));
		sum = l7mp_hash_stable(part, sizeof(part), 0);
	}
	return sum ? sum : 1;
}

int op_status_of(struct op_store *s, const struct op_result *r, size_t i, const char *now,
                 struct op_object *object, struct op_writes *out)
{
	struct statuses x = {.s = s, .r = r, .now = now, .out = out};
	const struct op_node *n = r->nodes[i];
	struct op_obj *o = object_of(s, n);
	uint64_t sum;
	int rc;

	*out = (struct op_writes){0};
	*object = (struct op_object){n->kind, n->ns, n->name, 0};
	if (!o)
		return -ENOENT;
	sum = sum_of(s, r, n);
	if (o->told == sum)
		return 1;
	rc = add_writes(&x, n, o);
	if (rc)
		op_writes_free(out);
	o->told = rc ? 0 : sum;
	return rc;
}

size_t op_status_count(const struct op_result *r)
{
	return r->n_nodes;
}

void op_status_forget(struct op_store *s)
{
	s->told_epoch++;
}
