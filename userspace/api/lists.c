/* SPDX-License-Identifier: MIT */
/*
 * GET of lists and of the whole config as streams: each step creates one item as a small tree and
 * prints it at its place, in any ?format=. So a list costs the memory of one item and of the pieces
 * not yet read.
 *
 * Objects never change once they are in the model: a list holds references to those that existed at
 * the time of the request, and shows exactly these even if the model changes meanwhile (in a
 * recursive view, other objects are shown as of the moment when the item is created). Sessions
 * begin and end: see l7mp_session_cursor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_int.h"

#define INDENT 2
/* Maximum number of sessions of a page: they are counted before the head is sent. */
#define PAGE_MAX  10000
#define SKIP_STEP 64 /* sessions skipped per step */
#define PARTS_MAX 10
#define WORDS_MAX 8 /* of ?filter= */

/* ---- a JSON text that grows item by item ---- */

struct writer {
	enum l7mp_json_format format;
	unsigned depth;
	bool first; /* the innermost container is still empty */
};

static bool indented(const struct writer *w)
{
	return w->format == L7MP_JSON_LINES || w->format == L7MP_JSON_DIFFY;
}

static void write_newline(const struct writer *w, struct l7mp_str *out)
{
	if (indented(w))
		l7mp_str_addf(out, "\n%*s", (int)(w->depth * INDENT), "");
}

static void write_separator(struct writer *w, struct l7mp_str *out)
{
	if (!w->depth)
		return;
	if (!w->first)
		l7mp_str_add(out, w->format == L7MP_JSON_SPACE ? ", " : ",");
	write_newline(w, out);
	w->first = false;
}

/* Keys are plain words: formats without quotes omit theirs. */
static void write_key(struct writer *w, struct l7mp_str *out, const char *key)
{
	const char *quote = w->format == L7MP_JSON_TERSE ? "" : "\"";

	write_separator(w, out);
	l7mp_str_addf(out, "%s%s%s%s", quote, key, quote,
	              w->format == L7MP_JSON_PLAIN ? ":" : ": ");
}

static void write_open(struct writer *w, struct l7mp_str *out, const char *bracket)
{
	l7mp_str_add(out, bracket);
	w->depth++;
	w->first = true;
}

static void write_close(struct writer *w, struct l7mp_str *out, const char *bracket)
{
	w->depth--;
	if (!w->first)
		write_newline(w, out);
	l7mp_str_add(out, bracket);
	if (!w->depth)
		l7mp_str_add(out, "\n");
	w->first = false;
}

/*
 * Prints node, which it takes. The only line breaks in the printed text are those of its layout;
 * they are indented further.
 */
static int write_node(const struct writer *w, struct l7mp_str *out, cJSON *node)
{
	char *text = node ? l7mp_json_print(node, w->format) : NULL;

	cJSON_Delete(node);
	if (!text)
		return -ENOMEM;
	for (char *line = text; line;) {
		char *end = strchr(line, '\n');
		size_t len = end ? (size_t)(end - line) : strlen(line);

		l7mp_str_addn(out, line, len);
		line = end && end[1] ? end + 1 : NULL;
		if (line)
			write_newline(w, out);
	}
	free(text);
	return 0;
}

/* ---- lists ---- */

struct part {
	const char *key; /* NULL: the list is the whole text */
	enum part_kind {
		PART_NODE,     /* `node` */
		PART_OBJECTS,  /* objects[first..first + n) */
		PART_SESSIONS, /* sessions from the cursor */
		/* flows of the sessions from the cursor; those of one session together */
		PART_FLOWS,
	} what;
	cJSON *node; /* owned */
	size_t first, n;
};

struct list {
	struct api_stream base;
	struct l7mp_api *api;
	struct writer writer;
	bool recursive;
	bool owned; /* only objects of config_owner */
	unsigned config_owner;
	bool config; /* objects in the form that POST /config takes */
	struct part parts[PARTS_MAX];
	size_t n_parts, at;           /* number of parts; the current one */
	bool begun;                   /* the outer object was opened */
	bool open;                    /* the part's list was opened */
	size_t item;                  /* index in the part */
	cJSON *flows;                 /* flows of the last session not yet shown */
	struct l7mp_object **objects; /* references held */
	size_t n_objects;

	/* ---- sessions ---- */
	struct l7mp_session_cursor cursor;
	bool has_sessions;
	bool placed;                      /* the cursor is at the beginning of the page */
	char *after_text;                 /* the value of ?after=; NULL: from the beginning */
	uint64_t after;                   /* the page begins after this id */
	struct l7mp_session_cursor probe; /* searches the end of the page */
	bool probing;
	uint64_t limit, counted, last;
	char *filter; /* of which these are parts */
	const char *words[WORDS_MAX + 1];
	char *path; /* for the Link header, with the other query parameters */
};

static struct list *list_of(struct api_stream *st)
{
	return l7mp_container_of(st, struct list, base);
}

static void list_free(struct api_stream *st)
{
	struct list *l = list_of(st);

	for (size_t i = 0; i < l->n_parts; i++)
		cJSON_Delete(l->parts[i].node);
	for (size_t i = 0; i < l->n_objects; i++)
		l7mp_object_unref(l->objects[i]);
	free(l->objects);
	cJSON_Delete(l->flows);
	l7mp_cursor_close(&l->cursor);
	l7mp_cursor_close(&l->probe);
	free(l->path);
	free(l->after_text);
	free(l->filter);
	free(l);
}

static cJSON *object_tree(const struct list *l, const struct l7mp_object *o)
{
	const struct l7mp_model *m = l->api->params.model;
	cJSON *json;

	if (l->config)
		return l7mp_object_to_config(m, o);
	json = l7mp_object_to_json(m, o, l->recursive);
	if (json && !l->parts[l->at].key)
		api_show_bound(l->api, o, json);
	return json;
}

/* Whether a list of sessions or of their flows includes this one. */
static bool is_listed(const struct list *l, const struct l7mp_session *s)
{
	if (l->parts[l->at].what == PART_FLOWS && !l7mp_session_flow(s))
		return false;
	return !l->words[0] || l7mp_session_has_words(s, l->words);
}

/*
 * Returns the next flow, or NULL and *skip: none found in this step, but more sessions follow.
 * Flows are found through their sessions.
 */
static cJSON *next_flow(struct list *l, bool *skip, bool *end)
{
	const struct l7mp_api_params *params = &l->api->params;
	cJSON *item = cJSON_DetachItemFromArray(l->flows, 0);
	const struct l7mp_session *s;

	if (item)
		return item;
	cJSON_Delete(l->flows);
	l->flows = NULL;
	s = l7mp_cursor_next(&l->cursor);
	*end = !s;
	*skip = s && (!is_listed(l, s) || !params->offload_flow);
	if (!s || *skip)
		return NULL;
	l->flows = params->offload_flow(params->arg, l7mp_session_flow(s));
	item = cJSON_DetachItemFromArray(l->flows, 0);
	*skip = l->flows && !item;
	return item;
}

/* Returns the next item of the part as a tree; *end when there is none. */
static cJSON *next_item(struct list *l, const struct part *p, bool *skip, bool *end)
{
	struct l7mp_session *s;

	if (p->what == PART_FLOWS)
		return next_flow(l, skip, end);
	if (p->what == PART_OBJECTS) {
		*end = l->item == p->n;
		return *end ? NULL : object_tree(l, l->objects[p->first + l->item++]);
	}
	s = l7mp_cursor_next(&l->cursor);
	*end = !s;
	*skip = s && !is_listed(l, s);
	return s && !*skip ? l7mp_session_to_json(s) : NULL;
}

/* Does one step. Returns 1: the part continues; 0: it is complete. */
static int part_step(struct list *l, struct l7mp_str *out)
{
	struct part *p = &l->parts[l->at];
	struct writer *w = &l->writer;
	bool end = false, skip = false;
	cJSON *node;

	if (!l->open && p->key)
		write_key(w, out, p->key);
	if (p->what == PART_NODE) {
		node = p->node;
		p->node = NULL;
		return write_node(w, out, node);
	}
	if (!l->open) {
		write_open(w, out, "[");
		l->open = true;
		l->item = 0;
		return 1;
	}
	node = next_item(l, p, &skip, &end);
	if (skip)
		return 1;
	if (end) {
		write_close(w, out, "]");
		l->open = false;
		return 0;
	}
	if (!node)
		return -ENOMEM;
	write_separator(w, out);
	return write_node(w, out, node) ? -ENOMEM : 1;
}

static int list_step(struct api_stream *st, struct l7mp_str *out)
{
	struct list *l = list_of(st);
	bool outer = l->parts[0].key != NULL;
	int rc;

	if (outer && !l->begun) {
		write_open(&l->writer, out, "{");
		l->begun = true;
	}
	rc = part_step(l, out);
	if (rc)
		return rc;
	if (++l->at < l->n_parts)
		return 1;
	if (outer)
		write_close(&l->writer, out, "}");
	return 0;
}

/*
 * Objects are printed in a worker thread, which uses no other data of the loop; sessions on the
 * loop.
 */
static bool list_in_job(const struct api_stream *st)
{
	const struct list *l = l7mp_container_of(st, const struct list, base);

	return l->at < l->n_parts && l->parts[l->at].what == PART_OBJECTS;
}

static struct list *list_new(struct api_request *rq)
{
	struct list *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->base.step = list_step;
	l->base.in_job = list_in_job;
	l->base.free = list_free;
	l->api = rq->api;
	l->recursive = rq->recursive;
	l->writer.format = rq->format;
	l->limit = rq->limit;
	l->last = UINT64_MAX;
	l->owned = rq->owner != NULL;
	if (rq->owner) {
		int number = l7mp_model_find_owner(rq->api->params.model, rq->owner);

		l->config_owner = number < 0 ? L7MP_CONFIG_OWNERS : (unsigned)number;
	}
	return l;
}

/* ---- objects ---- */

/* Escapes a text for a query. NULL: out of memory. */
static char *percent_encode(const char *text)
{
	static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	                           "-._~";
	struct l7mp_str out = {0};

	for (; *text; text++) {
		if (strchr(safe, *text))
			l7mp_str_addn(&out, text, 1);
		else
			l7mp_str_addf(&out, "%%%02X", (unsigned)(unsigned char)*text);
	}
	return l7mp_str_take(&out);
}

/* Returns `path?` with the same query except for after=; the caller appends its value. */
static char *page_path(const struct api_request *rq, uint64_t limit)
{
	static const char *const formats[] = {"plain", "terse", "space", "lines", "diffy"};
	char format[32] = "", *filter = NULL, *path;

	if (rq->format != L7MP_JSON_PLAIN)
		snprintf(format, sizeof(format), "format=%s&", formats[rq->format]);
	if (rq->filter) {
		filter = percent_encode(rq->filter);
		if (!filter)
			return NULL;
	}
	path = l7mp_asprintf("%s?%s%s%s%s%slimit=%llu&after=", rq->raw_path,
	                     rq->recursive ? "recursive=true&" : "", format,
	                     filter ? "filter=" : "", filter ? filter : "", filter ? "&" : "",
	                     (unsigned long long)limit);
	free(filter);
	return path;
}

/* Takes references to at most max objects of a kind, beginning with `o`. Returns the next one. */
static int hold(struct list *l, enum l7mp_obj_kind kind, struct l7mp_object *o, uint64_t max,
                struct l7mp_object **next)
{
	size_t n = l7mp_model_count(l->api->params.model, kind);
	struct part *p = &l->parts[l->n_parts];
	struct l7mp_object **v =
	        realloc(l->objects, (l->n_objects + n + 1) * sizeof(struct l7mp_object *));

	if (!v)
		return -ENOMEM;
	l->objects = v;
	*p = (struct part){.what = PART_OBJECTS, .first = l->n_objects};
	for (; o && p->n < max; o = l7mp_model_next(o)) {
		if (l->owned && o->config_owner != l->config_owner)
			continue;
		v[l->n_objects++] = l7mp_object_ref(o);
		p->n++;
	}
	l->n_parts++;
	*next = o;
	return 0;
}

void api_list_objects(struct api_request *rq, enum l7mp_obj_kind kind, struct api_response *rs)
{
	const struct l7mp_model *m = rq->api->params.model;
	struct l7mp_object *first = l7mp_model_first(m, kind), *next = NULL;
	struct list *l;

	if (rq->after) {
		first = l7mp_model_find(m, kind, rq->after);
		if (!first) {
			api_fail(rs, 404, "after: no %s is named '%s'", l7mp_obj_kind_name(kind),
			         rq->after);
			return;
		}
		first = l7mp_model_next(first);
	}
	l = list_new(rq);
	if (!l || hold(l, kind, first, rq->limit, &next)) {
		if (l)
			list_free(&l->base);
		api_fail(rs, 500, "out of memory");
		return;
	}
	if (next && l->n_objects) {
		char *path = page_path(rq, rq->limit);
		char *name = percent_encode(l->objects[l->n_objects - 1]->name);

		if (path && name)
			rs->link = l7mp_asprintf("<%s%s>; rel=\"next\"", path, name);
		free(path);
		free(name);
	}
	api_streamed(rs, &l->base, api_json_type(rq->format));
}

/* ---- sessions ---- */

/* Reads ?after=, which is an id from the Link header of the previous page, or a session's name. */
static bool read_after(struct list *l, struct api_response *rs)
{
	const struct l7mp_session *s;

	errno = 0;
	l->after = strtoull(l->after_text, NULL, 10);
	if (*l->after_text && !l->after_text[strspn(l->after_text, "0123456789")] && !errno)
		return true;
	s = l7mp_sessions_find(l->api->params.sessions, l->after_text);
	if (s) {
		l->after = l7mp_session_id(s);
		return true;
	}
	api_fail(rs, 404,
	         "after: no session is named '%.200s' any more; the Link header of a page has the "
	         "position of the next one",
	         l->after_text);
	return false;
}

/* Finds the beginning of the page. Returns 1: not found yet. */
static int place(struct list *l)
{
	if (!l->placed) {
		l7mp_cursor_open(&l->cursor, l->api->params.sessions);
		l->placed = true;
	}
	for (int i = 0; i < SKIP_STEP; i++) {
		if (!l->cursor.at || l7mp_session_id(l->cursor.at) > l->after)
			return 0;
		(void)l7mp_cursor_next(&l->cursor);
	}
	return 1;
}

/* Finds the end of the page. */
static int probe(struct list *l)
{
	if (!l->probing) {
		l7mp_cursor_copy(&l->probe, &l->cursor);
		l->probing = true;
	}
	for (int i = 0; i < SKIP_STEP; i++) {
		const struct l7mp_session *s;

		/* When the page is full: whether there is another one. */
		if (!l->probe.at || (l->counted == l->limit && is_listed(l, l->probe.at)))
			return 0;
		s = l7mp_cursor_next(&l->probe);
		if (l->counted == l->limit)
			continue;
		l->last = l7mp_session_id(s);
		l->counted += is_listed(l, s);
	}
	return 1;
}

static int sessions_begin(struct api_stream *st, struct api_response *rs)
{
	struct list *l = list_of(st);

	/* On failure the stream was freed. */
	if (!l->placed && l->after_text && !read_after(l, rs))
		return 0;
	if (place(l))
		return 1;
	if (l->limit == UINT64_MAX)
		return 0;
	if (l->limit && probe(l))
		return 1;
	if (!l->limit)
		l7mp_cursor_close(&l->cursor);
	else if (l->probe.at)
		rs->link = l7mp_asprintf("<%s%llu>; rel=\"next\"", l->path,
		                         (unsigned long long)l->last);
	l7mp_cursor_limit(&l->cursor, l->last);
	l7mp_cursor_close(&l->probe);
	return 0;
}

/* Reads ?limit= and ?after= for sessions. Returns false with rs filled. */
static bool page_of_sessions(struct api_request *rq, struct list *l, struct api_response *rs)
{
	l->base.begin = sessions_begin;
	if (l->limit != UINT64_MAX) {
		if (l->limit > PAGE_MAX)
			l->limit = PAGE_MAX;
		l->path = page_path(rq, l->limit);
		if (!l->path) {
			api_fail(rs, 500, "out of memory");
			return false;
		}
	}
	l->after_text = rq->after;
	rq->after = NULL;
	return true;
}

/* Takes ?filter= and splits it at its blanks. Returns false with rs filled. */
static bool split_filter(struct api_request *rq, struct list *l, struct api_response *rs)
{
	size_t n = 0;
	char *save;

	l->filter = rq->filter;
	rq->filter = NULL;
	for (char *word = l->filter ? strtok_r(l->filter, " \t", &save) : NULL; word;
	     word = strtok_r(NULL, " \t", &save)) {
		if (n == WORDS_MAX) {
			api_fail(rs, 400, "query parameter 'filter': expected at most %d words",
			         WORDS_MAX);
			return false;
		}
		l->words[n++] = word;
	}
	return true;
}

/* Makes a list of sessions, or of their flows. */
static void list_walk(struct api_request *rq, enum part_kind what, struct api_response *rs)
{
	struct list *l = list_new(rq);

	if (!l) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	l->parts[l->n_parts++].what = what;
	if (!page_of_sessions(rq, l, rs) || !split_filter(rq, l, rs)) {
		list_free(&l->base);
		return;
	}
	api_streamed(rs, &l->base, api_json_type(rq->format));
}

void api_list_sessions(struct api_request *rq, struct api_response *rs)
{
	list_walk(rq, PART_SESSIONS, rs);
}

void api_list_flows(struct api_request *rq, struct api_response *rs)
{
	list_walk(rq, PART_FLOWS, rs);
}

/* ---- the whole config ---- */

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct part *)a)->key, ((const struct part *)b)->key);
}

static void add_node(struct list *l, const char *key, cJSON *node)
{
	l->parts[l->n_parts++] = (struct part){.key = key, .what = PART_NODE, .node = node};
}

static cJSON *insert_json(const struct l7mp_rulelist *list, const struct l7mp_rule_insert *in)
{
	cJSON *json = cJSON_CreateObject();

	l7mp_json_add_str(json, "rulelist", list->obj.name);
	l7mp_json_add(json, "position", cJSON_CreateNumber(in->position));
	l7mp_json_add_str(json, "rule", list->rules[in->at]);
	return json;
}

/*
 * Returns the rules that the owner has inserted into lists of others, in the form of POST /config.
 */
static cJSON *inserts(const struct list *l)
{
	cJSON *array = cJSON_CreateArray();

	for (struct l7mp_object *o = l7mp_model_first(l->api->params.model, L7MP_OBJ_RULELIST); o;
	     o = l7mp_model_next(o)) {
		const struct l7mp_rulelist *list = (const struct l7mp_rulelist *)o;

		for (size_t i = 0; i < list->n_inserts; i++)
			if (list->inserts[i].config_owner == l->config_owner)
				cJSON_AddItemToArray(array, insert_json(list, &list->inserts[i]));
	}
	return array;
}

static int add_parts(struct list *l, cJSON *admin)
{
	static const enum l7mp_obj_kind order[] = {L7MP_OBJ_LISTENER, L7MP_OBJ_CLUSTER,
	                                           L7MP_OBJ_RULELIST, L7MP_OBJ_RULE,
	                                           L7MP_OBJ_ROUTE,    L7MP_OBJ_ENDPOINT};
	const struct l7mp_model *m = l->api->params.model;
	struct l7mp_object *next;

	if (admin)
		add_node(l, "admin", admin);
	if (l->owned && l->config_owner)
		add_node(l, "rule_inserts", inserts(l));
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(order); i++) {
		if (hold(l, order[i], l7mp_model_first(m, order[i]), UINT64_MAX, &next))
			return -ENOMEM;
		l->parts[l->n_parts - 1].key = l7mp_obj_kind_plural(order[i]);
	}
	if (!l->owned)
		l->parts[l->n_parts++] = (struct part){.key = "sessions", .what = PART_SESSIONS};
	add_node(l, "version", cJSON_CreateString(l->api->params.version));
	if (l->writer.format == L7MP_JSON_DIFFY)
		qsort(l->parts, l->n_parts, sizeof(l->parts[0]), by_key);
	return 0;
}

void api_list_config(struct api_request *rq, cJSON *admin, struct api_response *rs)
{
	struct list *l = list_new(rq);

	if (!l || add_parts(l, admin)) {
		if (l)
			list_free(&l->base);
		else
			cJSON_Delete(admin);
		api_fail(rs, 500, "out of memory");
		return;
	}
	/* Specs are shown as given, so that posting them back changes nothing. */
	l->config = !rq->recursive;
	if (!page_of_sessions(rq, l, rs)) {
		list_free(&l->base);
		return;
	}
	api_streamed(rs, &l->base, api_json_type(rq->format));
}
