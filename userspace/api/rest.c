/* SPDX-License-Identifier: MIT */
/*
 * The REST API: finds the operation of a request in the table of rest.h, reads its query and body,
 * and answers, or builds the requested change of the model.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api_int.h"
#include "l7mp/log.h"
#include "l7mp/openapi.h"

/* ---- versions of objects ---- */

/*
 * ETags (RFC 9110, section 8.8.3): the version of an object is the number of the commit that added
 * it; that of a list, of a recursive view or of the whole config is the number of the last commit.
 * A random number of this process is the prefix, because commit numbers restart with each process.
 */

static void etag(const struct l7mp_api *api, char kind, uint64_t version, char *buf, size_t size)
{
	snprintf(buf, size, "\"%llx-%c%llu\"", (unsigned long long)api->boot, kind,
	         (unsigned long long)version);
}

static void model_etag(const struct l7mp_api *api, char *buf, size_t size)
{
	etag(api, 'm', l7mp_model_generation(api->params.model), buf, size);
}

/* Sets the version of the object; if `recursive` or the object is NULL, of the whole model. */
static void set_etag(const struct api_request *rq, const struct l7mp_object *o,
                     struct api_response *rs)
{
	if (!o || rq->recursive)
		model_etag(rq->api, rs->etag, sizeof(rs->etag));
	else
		etag(rq->api, 'o', o->generation, rs->etag, sizeof(rs->etag));
}

/*
 * Whether If-Match is absent or has the version of `o` (NULL: of the model). If not, fills rs with
 * 412.
 */
static bool if_match(const struct api_request *rq, const struct l7mp_object *o,
                     struct api_response *rs)
{
	char object[48] = "", model[48];

	if (!rq->if_match)
		return true;
	model_etag(rq->api, model, sizeof(model));
	if (o)
		etag(rq->api, 'o', o->generation, object, sizeof(object));
	if (api_etag_listed(rq->if_match, model, false) ||
	    (o && api_etag_listed(rq->if_match, object, false)))
		return true;
	api_fail(rs, 412, "%s has changed: its ETag is %s now, If-Match asks for %.80s",
	         o ? o->name : "the configuration", o ? object : model, rq->if_match);
	return false;
}

/* ---- changes ---- */

static bool is_strict(const struct api_request *rq)
{
	return l7mp_model_admin(rq->api->params.model)->strict;
}

/* NULL with rs filled: out of memory. */
static struct l7mp_change *begin_change(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_change *c = NULL;

	if (l7mp_change_new(rq->api->params.model, is_strict(rq), &c)) {
		api_fail(rs, 500, "out of memory");
		return NULL;
	}
	return c;
}

/* A change was built with the result `rc`: stores it in rq->change, or fills rs and frees it. */
static void built_change(struct api_request *rq, struct l7mp_change **c, int rc,
                         const struct l7mp_error *err, struct api_response *rs)
{
	if (!rc) {
		rq->change = *c;
		*c = NULL;
		return;
	}
	api_fail_issues(rs, err, l7mp_change_issues(*c));
	l7mp_change_free(c);
}

/* ---- bodies ---- */

struct media_type {
	const char *name;
	enum l7mp_syntax syntax;
};

static const struct media_type media_types[] = {
        {"application/json", L7MP_SYNTAX_JSON}, {"application/x-json", L7MP_SYNTAX_JSON},
        {"text/json", L7MP_SYNTAX_JSON},        {"text/x-json", L7MP_SYNTAX_JSON},
        {"text/yaml", L7MP_SYNTAX_YAML},        {"text/x-yaml", L7MP_SYNTAX_YAML},
        {"application/yaml", L7MP_SYNTAX_YAML}, {"application/x-yaml", L7MP_SYNTAX_YAML},
};

static const struct media_type *find_type(const char *text)
{
	size_t len;

	text += strspn(text, " \t");
	len = strcspn(text, "; \t");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(media_types); i++)
		if (strlen(media_types[i].name) == len &&
		    !strncasecmp(media_types[i].name, text, len))
			return &media_types[i];
	return NULL;
}

/*
 * Parses rq's body by its content type into rq->document. Returns the root, which is an object,
 * borrowed; or NULL with rs filled (400, 415, 422).
 */
static cJSON *parse_body(struct api_request *rq, struct api_response *rs)
{
	const char *given = rq->content_type;
	const struct media_type *type = given ? find_type(given) : NULL;
	struct l7mp_error err = {0};
	cJSON *root;

	if (rq->document) /* parsed already */
		return l7mp_document_root(rq->document);
	if (!type) {
		api_fail(rs, 415,
		         "content type: expected application/json, text/json, text/yaml, "
		         "application/yaml or one of their x- forms, got %.80s",
		         given ? given : "none");
		return NULL;
	}
	if (!rq->body_len) {
		api_fail(rs, 400, "the body is empty, expected a document");
		return NULL;
	}
	if (l7mp_document_parse(type->syntax, rq->body, rq->body_len, &rq->document, &err)) {
		api_fail_error(rs, &err);
		return NULL;
	}
	/* Free the text, which may be large. */
	free(rq->body);
	rq->body = NULL;
	root = l7mp_document_root(rq->document);
	if (!cJSON_IsObject(root)) {
		api_fail(rs, 422, "expected an object, got %s", l7mp_json_type(root));
		api_add_content(rs, "", "expected an object", 0);
		return NULL;
	}
	return root;
}

/*
 * The same, but returns the member `wrapper` of the root. Other members are rejected in strict mode
 * (422), and logged otherwise.
 */
static cJSON *parse_wrapped(struct api_request *rq, const char *wrapper, struct api_response *rs)
{
	cJSON *root = parse_body(rq, rs);
	cJSON *inner = l7mp_json_member(root, wrapper);
	const cJSON *other;

	if (!root)
		return NULL;
	if (!inner) {
		char reason[64];

		snprintf(reason, sizeof(reason), "expected an object with the key '%s'", wrapper);
		api_fail(rs, 422, "%s", reason);
		api_add_content(rs, "", reason, 0);
		return NULL;
	}
	cJSON_ArrayForEach (other, root) {
		if (other == inner)
			continue;
		if (!is_strict(rq)) {
			l7mp_log_warn("api", "%s %s: unknown key beside '%s': '%.80s'", rq->method,
			              rq->route->path, wrapper, other->string);
			continue;
		}
		if (!rs->status)
			api_fail(rs, 422, "the document is not valid: keys beside '%s'", wrapper);
		api_add_content(rs, other->string, "unknown key", 0);
	}
	return rs->status ? NULL : inner;
}

/* ---- listeners, clusters, endpoints, rule lists, rules and routes ---- */

static enum l7mp_obj_kind kind_of(const struct api_request *rq)
{
	return rq->route->kind;
}

static void *find_object(struct api_request *rq, enum l7mp_obj_kind kind, struct api_response *rs)
{
	void *o = l7mp_model_find(rq->api->params.model, kind, rq->args[0]);

	if (!o)
		api_fail(rs, 404, "no %s is named '%s'", l7mp_obj_kind_name(kind), rq->args[0]);
	return o;
}

void api_show_bound(struct l7mp_api *api, const struct l7mp_object *o, cJSON *json)
{
	cJSON *spec = l7mp_json_member(json, "spec");

	if (o->kind == L7MP_OBJ_LISTENER && spec)
		l7mp_runtime_bound(api->params.runtime, (const struct l7mp_listener *)o, spec);
}

static cJSON *show(struct api_request *rq, const struct l7mp_object *o)
{
	cJSON *json = l7mp_object_to_json(rq->api->params.model, o, rq->recursive);

	if (json)
		api_show_bound(rq->api, o, json);
	return json;
}

static void list_objects(struct api_request *rq, struct api_response *rs)
{
	api_list_objects(rq, kind_of(rq), rs);
	if (rs->stream)
		set_etag(rq, NULL, rs);
}

static void get_object(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_object *o = find_object(rq, kind_of(rq), rs);

	if (!o)
		return;
	set_etag(rq, o, rs);
	api_json(rs, show(rq, o));
}

static void add_object(struct api_request *rq, struct api_response *rs)
{
	const char *wrapper = l7mp_obj_kind_name(kind_of(rq));
	const cJSON *doc = parse_wrapped(rq, wrapper, rs);
	struct l7mp_change *c = doc ? begin_change(rq, rs) : NULL;
	struct l7mp_error err = {0};

	if (c)
		built_change(rq, &c, l7mp_change_add(c, kind_of(rq), doc, wrapper, &err), &err, rs);
}

/*
 * GET of a cluster shows the number of its endpoints; put back, it stands for the present
 * endpoints.
 */
static bool fill_endpoints(const struct api_request *rq, const struct l7mp_object *o, cJSON *doc)
{
	cJSON *shown = l7mp_json_member(doc, "endpoints"), *now, *endpoints;

	if (kind_of(rq) != L7MP_OBJ_CLUSTER || !cJSON_IsNumber(shown))
		return true;
	cJSON_DeleteItemFromObjectCaseSensitive(doc, "endpoints");
	if (!o)
		return true;
	now = l7mp_object_to_config(rq->api->params.model, o);
	endpoints = cJSON_DetachItemFromObjectCaseSensitive(now, "endpoints");
	cJSON_Delete(now);
	return endpoints && !l7mp_json_add(doc, "endpoints", endpoints);
}

/* GET of a listener shows the bound port; put back, it stands for the requested port. */
static bool fill_spec(const struct api_request *rq, const struct l7mp_object *o, cJSON *doc)
{
	cJSON *spec = l7mp_json_member(doc, "spec"), *shown, *own;
	const struct l7mp_listener *l = (const struct l7mp_listener *)o;
	bool same;

	if (kind_of(rq) != L7MP_OBJ_LISTENER || !o || !spec)
		return true;
	shown = cJSON_Duplicate(l->spec, true);
	if (!shown)
		return false;
	l7mp_runtime_bound(rq->api->params.runtime, l, shown);
	same = l7mp_json_equal(shown, spec);
	cJSON_Delete(shown);
	if (!same)
		return true;
	own = cJSON_Duplicate(l->spec, true);
	if (own && cJSON_ReplaceItemInObjectCaseSensitive(doc, "spec", own))
		return true;
	cJSON_Delete(own);
	return false;
}

/* Returns the contents of the wrapper, or the unwrapped object in the form that GET shows. */
static cJSON *put_body(struct api_request *rq, const char *wrapper, struct api_response *rs)
{
	cJSON *root = parse_body(rq, rs);

	if (!root || !l7mp_json_member(root, wrapper))
		return root;
	return parse_wrapped(rq, wrapper, rs);
}

static void put_object(struct api_request *rq, struct api_response *rs)
{
	enum l7mp_obj_kind kind = kind_of(rq);
	const char *wrapper = l7mp_obj_kind_name(kind);
	struct l7mp_object *o = l7mp_model_find(rq->api->params.model, kind, rq->args[0]);
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	cJSON *doc;

	/* An endpoint is added through its cluster. */
	if (!o && kind == L7MP_OBJ_ENDPOINT)
		find_object(rq, kind, rs);
	else if (!o && rq->if_match)
		api_fail(rs, 412, "no %s is named '%s', so no ETag matches", wrapper, rq->args[0]);
	doc = rs->status || !if_match(rq, o, rs) ? NULL : put_body(rq, wrapper, rs);
	if (!doc)
		return;
	if (!fill_endpoints(rq, o, doc) || !fill_spec(rq, o, doc)) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	c = begin_change(rq, rs);
	if (c)
		built_change(rq, &c, l7mp_change_put(c, kind, rq->args[0], doc, wrapper, &err),
		             &err, rs);
}

static void delete_object(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_object *o = find_object(rq, kind_of(rq), rs);
	struct l7mp_error err = {0};
	struct l7mp_change *c;

	if (!o || !if_match(rq, o, rs))
		return;
	c = begin_change(rq, rs);
	if (c)
		built_change(rq, &c,
		             l7mp_change_delete(c, kind_of(rq), rq->args[0], rq->recursive, &err),
		             &err, rs);
}

static void list_endpoints(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_cluster *cluster = find_object(rq, L7MP_OBJ_CLUSTER, rs);
	cJSON *json, *list;

	if (!cluster)
		return;
	/*
	 * As in the recursive view of the cluster: a virtual one has one endpoint, named after it.
	 */
	json = l7mp_object_to_json(rq->api->params.model, cluster, true);
	list = cJSON_DetachItemFromObjectCaseSensitive(json, "endpoints");
	cJSON_Delete(json);
	set_etag(rq, &cluster->obj, rs);
	api_json(rs, list);
}

static void add_endpoint(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_object *cluster;
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc;

	cluster = find_object(rq, L7MP_OBJ_CLUSTER, rs);
	if (!cluster || !if_match(rq, cluster, rs))
		return;
	doc = parse_wrapped(rq, "endpoint", rs);
	c = doc ? begin_change(rq, rs) : NULL;
	if (c)
		built_change(rq, &c,
		             l7mp_change_add_endpoint(c, rq->args[0], doc, "endpoint", &err), &err,
		             rs);
}

/* ---- the rules of a rule list, and dry-run look-ups ---- */

static struct l7mp_rulelist *find_rulelist(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_rulelist *l =
	        l7mp_model_find(rq->api->params.model, L7MP_OBJ_RULELIST, rq->args[0]);

	if (!l)
		api_fail(rs, 404, "no rulelist is named '%s'", rq->args[0]);
	return l;
}

/* Digits are a position (below `end`), other text is the name of a rule of the list. */
static bool find_position(const struct api_request *rq, const struct l7mp_rulelist *l, size_t end,
                          size_t *out, struct api_response *rs)
{
	const char *text = rq->args[1];
	unsigned long long n;

	if (text[strspn(text, "0123456789")]) {
		for (size_t i = 0; i < l->n_rules; i++) {
			if (!strcmp(l->rules[i], text)) {
				*out = i;
				return true;
			}
		}
		api_fail(rs, 404, "rulelist '%s' has no rule named '%s'", l->obj.name, text);
		return false;
	}
	errno = 0;
	n = strtoull(text, NULL, 10);
	if (errno || n >= end) {
		api_fail(rs, 404, "rulelist '%s' has no position %.20s: it has %zu rule%s",
		         l->obj.name, text, l->n_rules, l->n_rules == 1 ? "" : "s");
		return false;
	}
	*out = (size_t)n;
	return true;
}

static void get_rule(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_rulelist *l = find_rulelist(rq, rs);
	const void *rule;
	size_t pos;

	if (!l || !find_position(rq, l, l->n_rules, &pos, rs))
		return;
	rule = l7mp_model_find(rq->api->params.model, L7MP_OBJ_RULE, l->rules[pos]);
	if (rule) {
		set_etag(rq, rule, rs);
		api_json(rs, l7mp_object_to_json(rq->api->params.model, rule, rq->recursive));
	} else
		api_fail(rs, 404, "the rule '%s' at position %zu of rulelist '%s' does not exist",
		         l->rules[pos], pos, l->obj.name);
}

static void insert_rule(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_rulelist *l = find_rulelist(rq, rs);
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc;
	size_t pos;

	if (!l || !find_position(rq, l, l->n_rules + 1, &pos, rs) || !if_match(rq, &l->obj, rs))
		return;
	doc = parse_wrapped(rq, "rule", rs);
	c = doc ? begin_change(rq, rs) : NULL;
	if (c)
		built_change(rq, &c,
		             l7mp_change_insert_rule(c, rq->args[0], pos, doc, "rule", &err), &err,
		             rs);
}

static void remove_rule(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_rulelist *l = find_rulelist(rq, rs);
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	size_t pos;

	if (!l || !find_position(rq, l, l->n_rules, &pos, rs) || !if_match(rq, &l->obj, rs))
		return;
	c = begin_change(rq, rs);
	if (c)
		built_change(rq, &c,
		             l7mp_change_remove_rule(c, rq->args[0], pos, rq->recursive, &err),
		             &err, rs);
}

static cJSON *lookup_to_json(const struct api_request *rq, const struct l7mp_lookup *found)
{
	cJSON *out = cJSON_CreateObject();
	cJSON *rule = l7mp_object_to_json(rq->api->params.model, found->rule, rq->recursive);
	cJSON *action = cJSON_DetachItemFromObjectCaseSensitive(rule, "action");

	cJSON_Delete(rule);
	l7mp_json_add_str(out, "rulelist", found->rulelist->obj.name);
	l7mp_json_add_str(out, "rule", found->rule->obj.name);
	l7mp_json_add(out, "action", action ? action : cJSON_CreateObject());
	return out;
}

static void look_up(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_effort effort = L7MP_EFFORT;
	struct l7mp_lookup found = {0};
	struct l7mp_error err = {0};
	cJSON *metadata, *json;
	const cJSON *given;
	int rc;

	if (!find_rulelist(rq, rs))
		return;
	given = parse_wrapped(rq, "metadata", rs);
	if (!given)
		return;
	if (!cJSON_IsObject(given)) {
		api_fail(rs, 422, "metadata: expected an object, got %s", l7mp_json_type(given));
		api_add_content(rs, "metadata", "expected an object", 0);
		return;
	}
	metadata = cJSON_Duplicate(given, true);
	if (!metadata) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	rc = l7mp_rules_lookup(rq->api->params.model, rq->args[0], metadata, &effort, &found, &err);
	if (rc == -ENOENT) {
		api_fail(rs, 404, "no rule of rulelist '%s' matches", rq->args[0]);
	} else if (rc) {
		api_fail_error(rs, &err);
	} else {
		json = lookup_to_json(rq, &found);
		l7mp_json_add(json, "metadata", metadata);
		metadata = NULL;
		api_json(rs, json);
	}
	cJSON_Delete(metadata);
	l7mp_lookup_clear(&found);
}

/* ---- the whole config, admin and the OpenAPI texts ---- */

static cJSON *admin_json(const struct l7mp_api *api)
{
	cJSON *json = l7mp_admin_to_json(l7mp_model_admin(api->params.model));

	cJSON_DeleteItemFromObjectCaseSensitive(json, "version");
	if (l7mp_json_add_str(json, "version", api->params.version)) {
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}

static void get_config(struct api_request *rq, struct api_response *rs)
{
	api_list_config(rq, rq->owner && *rq->owner ? NULL : admin_json(rq->api), rs);
	if (rs->stream)
		set_etag(rq, NULL, rs);
}

/*
 * Returns the contents of {"config": {...}} or the bare object. NULL with rs filled: not an object,
 * or there are other members beside the wrapper, which is ambiguous.
 */
static const cJSON *unwrap_document(const cJSON *root, const char *wrapper, struct api_response *rs)
{
	const cJSON *inner = l7mp_json_member(root, wrapper), *other;

	if (!inner)
		return root;
	other = root->child == inner ? inner->next : root->child;
	if (other) {
		api_fail(rs, 422, "%.80s: unknown key beside '%s', expected '%s' alone",
		         other->string, wrapper, wrapper);
		api_add_content(rs, other->string, "unknown key", 0);
		return NULL;
	}
	if (cJSON_IsObject(inner))
		return inner;
	api_fail(rs, 422, "%s: expected an object, got %s", wrapper, l7mp_json_type(inner));
	api_add_content(rs, wrapper, "expected an object", 0);
	return NULL;
}

static void set_config(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc = parse_body(rq, rs);

	if (!doc || !if_match(rq, NULL, rs))
		return;
	doc = unwrap_document(doc, "config", rs);
	c = doc ? begin_change(rq, rs) : NULL;
	if (c)
		built_change(rq, &c, l7mp_change_config(c, doc, rq->owner, &err), &err, rs);
}

/* ---- status ---- */

static void print_hash(uint64_t hash, char buf[17])
{
	snprintf(buf, 17, "%016llx", (unsigned long long)hash);
}

static cJSON *owner_json(const struct l7mp_config_owner *owner)
{
	cJSON *json = cJSON_CreateObject();
	char hash[17];

	print_hash(owner->hash, hash);
	if (!l7mp_json_add_str(json, "name", owner->name) &&
	    !l7mp_json_add(json, "objects", cJSON_CreateNumber((double)owner->objects)) &&
	    !l7mp_json_add_str(json, "hash", hash))
		return json;
	cJSON_Delete(json);
	return NULL;
}

static void get_status(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_model *m = rq->api->params.model;
	cJSON *json = cJSON_CreateObject(), *owners = cJSON_CreateArray();
	uint64_t sum = 0;
	bool failed = !json || !owners;
	char boot[17], hash[17];

	for (unsigned i = 0; !failed && i < L7MP_CONFIG_OWNERS; i++) {
		struct l7mp_config_owner o = l7mp_model_owner(m, i);
		cJSON *item = o.name ? owner_json(&o) : NULL;

		sum += o.hash;
		failed = o.name && !cJSON_AddItemToArray(owners, item);
	}
	print_hash(rq->api->boot, boot);
	print_hash(sum, hash);
	failed = failed || l7mp_json_add_str(json, "boot_id", boot) ||
	         l7mp_json_add_str(json, "version", rq->api->params.version) ||
	         l7mp_json_add(json, "generation",
	                       cJSON_CreateNumber((double)l7mp_model_generation(m))) ||
	         l7mp_json_add_str(json, "hash", hash);
	if (failed)
		cJSON_Delete(owners);
	else
		failed = l7mp_json_add(json, "owners", owners);
	if (failed) {
		cJSON_Delete(json);
		json = NULL;
	}
	api_json(rs, json);
}

void api_add_hash(const struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_model *m = rq->api->params.model;
	char hash[17];
	int number;

	if (!rq->owner || !rs->json)
		return;
	number = l7mp_model_find_owner(m, rq->owner);
	print_hash(number < 0 ? 0 : l7mp_model_owner(m, (unsigned)number).hash, hash);
	l7mp_json_add_str(rs->json, "hash", hash);
	(void)l7mp_json_add_num(rs->json, "generation", (double)l7mp_model_generation(m));
}

static void get_admin(struct api_request *rq, struct api_response *rs)
{
	set_etag(rq, NULL, rs);
	api_json(rs, admin_json(rq->api));
}

static void set_admin(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc = parse_body(rq, rs);

	if (!doc || !if_match(rq, NULL, rs))
		return;
	doc = unwrap_document(doc, "admin", rs);
	c = doc ? begin_change(rq, rs) : NULL;
	if (c)
		built_change(rq, &c, l7mp_change_admin(c, doc, "admin", &err), &err, rs);
}

static cJSON *openapi(const struct l7mp_api *api)
{
	return l7mp_openapi(api->params.registry, api->params.version);
}

static void get_openapi_json(struct api_request *rq, struct api_response *rs)
{
	api_json(rs, openapi(rq->api));
}

static void get_openapi_yaml(struct api_request *rq, struct api_response *rs)
{
	cJSON *json = openapi(rq->api);

	api_text(rs, json ? l7mp_yaml_print(json) : NULL, "application/yaml");
	cJSON_Delete(json);
}

/* ---- sessions and the kernel fast path ---- */

static void list_sessions(struct api_request *rq, struct api_response *rs)
{
	api_list_sessions(rq, rs);
}

static struct l7mp_session *find_session(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_session *s = l7mp_sessions_find(rq->api->params.sessions, rq->args[0]);

	if (!s)
		api_fail(rs, 404, "no session is named '%s'", rq->args[0]);
	return s;
}

static void get_session(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_session *s = find_session(rq, rs);

	if (s)
		api_json(rs, l7mp_session_to_json(s));
}

static void end_session(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_session *s = find_session(rq, rs);

	if (!s)
		return;
	l7mp_session_end(s, "deleted over the REST API");
	api_ok(rs);
}

/* Describes the reasons in a session's `offload`. */
static cJSON *reasons(void)
{
#define REASON(id, text, doc) {text, doc},
	static const struct {
		const char *name, *doc;
	} list[] = {L7MP_REASONS(REASON)};
#undef REASON
	cJSON *json = cJSON_CreateObject();

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(list); i++)
		if (*list[i].name)
			l7mp_json_add_str(json, list[i].name, list[i].doc);
	return json;
}

static cJSON *no_offload(void)
{
	cJSON *json = cJSON_CreateObject();

	l7mp_json_add_str(json, "state", "disabled");
	l7mp_json_add_str(json, "reason", "this program runs without the kernel fast path");
	l7mp_json_add(json, "interfaces", cJSON_CreateArray());
	l7mp_json_add(json, "maps", cJSON_CreateArray());
	return json;
}

static void get_offload(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_api_params *p = &rq->api->params;
	cJSON *json = p->offload ? p->offload(p->arg) : no_offload();

	if (json && !l7mp_json_member(json, "reasons"))
		l7mp_json_add(json, "reasons", reasons());
	api_json(rs, json);
}

static void list_flows(struct api_request *rq, struct api_response *rs)
{
	api_list_flows(rq, rs);
}

/* ---- draining ---- */

static void get_drain(struct api_request *rq, struct api_response *rs)
{
	api_json(rs, l7mp_drain_to_json(rq->api->params.drain));
}

/* Reads {"timeout": seconds}. Returns false with rs filled. */
static bool read_timeout(struct api_request *rq, struct api_response *rs, double *out)
{
	const cJSON *doc = parse_body(rq, rs);

	if (!doc)
		return false;
	for (const cJSON *v = doc->child; v; v = v->next) {
		if (strcmp(v->string, "timeout") != 0) {
			api_fail(rs, 422, "%.80s: unknown key, expected timeout", v->string);
			api_add_content(rs, v->string, "unknown key", 0);
			return false;
		}
		if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0) ||
		    v->valuedouble > L7MP_DRAIN_MAX_S) {
			api_fail(rs, 422, "timeout: expected 0..%d seconds", L7MP_DRAIN_MAX_S);
			api_add_content(rs, v->string, "expected seconds", 0);
			return false;
		}
		*out = v->valuedouble;
	}
	return true;
}

static void begin_drain(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_drain *drain = rq->api->params.drain;
	double seconds = l7mp_model_admin(rq->api->params.model)->drain_timeout;

	if (rq->body_len && !read_timeout(rq, rs, &seconds))
		return;
	l7mp_drain_begin(drain, (uint64_t)(seconds * 1000), "api", 0);
	get_drain(rq, rs);
}

static void cancel_drain(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};

	if (l7mp_drain_cancel(rq->api->params.drain, &err))
		api_fail_error(rs, &err);
	else
		api_ok(rs);
}

/* ---- upgrades ---- */

static void get_upgrade(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_api_params *p = &rq->api->params;

	api_json(rs, p->upgrade ? p->upgrade(p->arg) : cJSON_CreateObject());
}

static void begin_upgrade(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_api_params *p = &rq->api->params;
	struct l7mp_error err = {0};

	if (!p->begin_upgrade)
		api_fail(rs, 503, "upgrades are not possible here");
	else if (p->begin_upgrade(p->arg, &err))
		api_fail(rs, err.code == L7MP_ERR_LIMIT ? 503 : 500, "%s", err.message);
	else
		get_upgrade(rq, rs);
}

/* ---- the operations ---- */

/* A switch without default: gcc's and clang's -Wswitch names the operation that has no handler. */
static struct api_binding binding_of(enum l7mp_rest_op op)
{
#define BIND(op, handler, flags)            \
	case L7MP_REST_OP_##op:             \
		return (struct api_binding) \
		{                           \
			handler, flags      \
		}

	switch (op) {
		BIND(LIST, list_objects, API_READ);
		BIND(ADD, add_object, API_CHANGE);
		BIND(GET, get_object, API_READ_IF_LARGE);
		BIND(PUT, put_object, API_CHANGE);
		BIND(DELETE, delete_object, API_CHANGE);
		BIND(CONFIG_GET, get_config, API_READ);
		BIND(CONFIG_SET, set_config, API_CHANGE);
		BIND(ADMIN_GET, get_admin, 0);
		BIND(ADMIN_SET, set_admin, API_CHANGE);
		BIND(ENDPOINTS_LIST, list_endpoints, API_READ);
		BIND(ENDPOINTS_ADD, add_endpoint, API_CHANGE);
		BIND(RULE_GET, get_rule, API_READ_IF_LARGE);
		BIND(RULE_INSERT, insert_rule, API_CHANGE);
		BIND(RULE_REMOVE, remove_rule, API_CHANGE);
		BIND(LOOKUP, look_up, API_READ);
		BIND(SESSIONS_LIST, list_sessions, 0);
		BIND(SESSION_GET, get_session, 0);
		BIND(SESSION_END, end_session, 0);
		BIND(OFFLOAD_GET, get_offload, 0);
		BIND(FLOWS_LIST, list_flows, 0);
		BIND(DRAIN_GET, get_drain, 0);
		BIND(DRAIN_BEGIN, begin_drain, 0);
		BIND(DRAIN_CANCEL, cancel_drain, 0);
		BIND(STATUS_GET, get_status, 0);
		BIND(UPGRADE_GET, get_upgrade, 0);
		BIND(UPGRADE_BEGIN, begin_upgrade, 0);
		BIND(OPENAPI_JSON, get_openapi_json, API_READ);
		BIND(OPENAPI_YAML, get_openapi_yaml, API_READ);
	}
#undef BIND
	abort();
}

/* ---- routing ---- */

/* Matches "/a/{x}/b" against decoded segments; args point into the segments. */
static bool match(const char *pattern, char *const *segments, size_t n, const char **args)
{
	size_t i = 0;
	size_t n_args = 0;

	while (*pattern == '/') {
		size_t len = strcspn(++pattern, "/");

		if (i == n)
			return false;
		if (*pattern == '{') {
			if (!*segments[i])
				return false;
			if (n_args < API_MAX_ARGS)
				args[n_args++] = segments[i];
		} else if (strlen(segments[i]) != len || memcmp(segments[i], pattern, len)) {
			return false;
		}
		pattern += len;
		i++;
	}
	return i == n;
}

static void add_method(char *allow, size_t size, const char *method)
{
	size_t used = strlen(allow);

	snprintf(allow + used, size - used, "%s%s", used ? ", " : "", method);
}

/* Sets rq->route and args, or fills rs with 404 or 405. */
static void find_route(struct api_request *rq, char *const *segments, size_t n,
                       struct api_response *rs)
{
	char allow[sizeof(rs->allow)] = "";
	const char *args[API_MAX_ARGS];

	for (const struct l7mp_rest_route *r = l7mp_rest_routes; r->method; r++) {
		if (!match(r->path, segments, n, args))
			continue;
		if (!strcmp(r->method, rq->method)) {
			rq->route = r;
			rq->binding = binding_of(r->op);
			memcpy(rq->args, args, sizeof(args));
			return;
		}
		add_method(allow, sizeof(allow), r->method);
		if (!strcmp(r->method, "GET"))
			add_method(allow, sizeof(allow), "HEAD");
	}
	if (!*allow) {
		api_fail(rs, 404, "no such path: '%s'", rq->raw_path);
		return;
	}
	api_fail(rs, 405, "method %s is not possible here, expected one of %s", rq->method, allow);
	memcpy(rs->allow, allow, sizeof(allow));
}

static void split_path(struct api_request *rq, struct api_response *rs)
{
	const char *path = rq->raw_path;
	const size_t base = strlen(API_BASE);
	int n;

	if (!path) {
		api_fail(rs, 400, "the session's metadata has no HTTP.url.path");
		return;
	}
	if (strncmp(path, API_BASE, base) || (path[base] && path[base] != '/')) {
		api_fail(rs, 404, "no such path; the API is below " API_BASE);
		return;
	}
	rq->path = strdup(path[base] ? path + base : "/");
	if (!rq->path) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	n = api_split_path(rq->path, rq->segments, API_MAX_SEGMENTS);
	if (n == -EINVAL)
		api_fail(rs, 400,
		         "bad path: expected UTF-8 text with escapes like %%2F and no %%00");
	else if (n < 0)
		api_fail(rs, 404, "no such path: too many segments");
	else
		rq->n_segments = (size_t)n;
}

static void bad_query(struct api_response *rs, const char *key, const char *value,
                      const char *expected)
{
	api_fail(rs, 400, "query parameter '%s': expected %s%s%.40s", key, expected,
	         value ? ", got " : "", value ? value : "");
}

static void read_recursive(struct api_request *rq, struct api_response *rs)
{
	char *value;

	if (api_query_get(rq->raw_query, "recursive", &value)) {
		bad_query(rs, "recursive", NULL, "true or false");
		return;
	}
	if (!value)
		return;
	rq->recursive = !*value || !strcasecmp(value, "true") || !strcmp(value, "1");
	if (!rq->recursive && strcasecmp(value, "false") && strcmp(value, "0"))
		bad_query(rs, "recursive", value, "true or false");
	free(value);
}

static void read_format(struct api_request *rq, struct api_response *rs)
{
	static const char expected[] = "plain, terse, space, lines or diffy";
	char *value;

	if (api_query_get(rq->raw_query, "format", &value)) {
		bad_query(rs, "format", NULL, expected);
		return;
	}
	if (value && l7mp_json_format_parse(value, &rq->format)) {
		rq->format = L7MP_JSON_PLAIN;
		bad_query(rs, "format", value, expected);
	}
	free(value);
}

static void read_limit(struct api_request *rq, struct api_response *rs)
{
	static const char expected[] = "a number, how many items at most";
	char *value;

	if (api_query_get(rq->raw_query, "limit", &value)) {
		bad_query(rs, "limit", NULL, expected);
		return;
	}
	if (!value)
		return;
	errno = 0;
	rq->limit = strtoull(value, NULL, 10);
	if (!*value || value[strspn(value, "0123456789")] || errno)
		bad_query(rs, "limit", value, expected);
	free(value);
}

static void read_query(struct api_request *rq, struct api_response *rs)
{
	read_recursive(rq, rs);
	if (!rs->status)
		read_format(rq, rs);
	if (!rs->status)
		read_limit(rq, rs);
	if (!rs->status && api_query_get(rq->raw_query, "after", &rq->after))
		bad_query(rs, "after", NULL, "where the list continues");
	if (!rs->status && rq->route->flags & L7MP_REST_FILTERED &&
	    api_query_get(rq->raw_query, "filter", &rq->filter))
		bad_query(rs, "filter", NULL, "words to search for");
	if (!rs->status && api_query_get(rq->raw_query, "owner", &rq->owner))
		bad_query(rs, "owner", NULL, "a name");
	if (!rs->status && rq->owner && !(rq->route->flags & L7MP_REST_OWNER))
		bad_query(rs, "owner", NULL, "nothing of the kind here");
}

/* Rule lists and recursive views may be large. */
static bool is_large(const struct api_request *rq)
{
	return rq->recursive || rq->route->kind == L7MP_OBJ_RULELIST;
}

/*
 * Finds the operation and reads the query; calls its handler, if it runs on the loop. If rs->status
 * is 0 afterwards, rq->binding must run in a worker thread.
 */
static void dispatch(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_api *api = rq->api;
	unsigned flags;

	if (rq->too_large)
		api_fail(rs, 413, "the body is too large, expected at most %u bytes",
		         api->params.env->limits->max_body);
	if (!rs->status)
		split_path(rq, rs);
	if (!rs->status)
		find_route(rq, rq->segments, rq->n_segments, rs);
	if (!rs->status)
		read_query(rq, rs);
	if (!rs->status && api->stopping && strcmp(rq->method, "GET"))
		api_fail(rs, 503, "the proxy is shutting down");
	else if (!rs->status && api->busy && strcmp(rq->method, "GET"))
		api_fail(rs, 503, "an upgrade is going on: try again when it is done");
	if (rs->status)
		return;
	flags = rq->binding.flags;
	if (flags & (API_CHANGE | API_READ) || (flags & API_READ_IF_LARGE && is_large(rq)))
		return;
	rq->binding.handler(rq, rs);
	if (!rs->status)
		api_fail(rs, 500, "out of memory");
}

const struct api_service api_service_rest = {
        .proto = "L7mpController",
        .admit = api_authorize,
        .answer = dispatch,
};
