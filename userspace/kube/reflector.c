/* SPDX-License-Identifier: MIT */
/*
 * List and watch of one kind of objects: listed in pages, then followed by watches, each of which
 * resumes where the last one ended. When a watch can't be resumed (410, or an ERROR event) the kind
 * is listed again; afterwards objects that no longer exist are reported as deleted.
 *
 * For this purpose only the names of objects are kept.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kube_int.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"

#define PAGE          500
#define LIST_MS       300000 /* time limit of one page */
#define WATCH_MIN_S   240
#define WATCH_MAX_S   480
#define WATCH_SLACK_S 30
/* Back-off after errors that end when the server is available again, and after rejections. */
#define BACKOFF_MIN_MS    100
#define BACKOFF_MAX_MS    3000
#define REFUSED_MAX_MS    10000
#define ABSENT_MS         10000 /* interval of listing a kind that does not exist */
#define ABSENT_CONFIRM_MS 20000 /* after that its objects are reported as deleted */
#define SHORT_WATCH_MS    1000
#define KEY_MAX           512

struct known {
	UT_hash_handle hh;
	unsigned round; /* of the last list that had it */
	char key[];     /* NAMESPACE/NAME */
};

struct kube_reflector {
	struct kube_client *client;
	struct l7mp_loop *loop;
	struct kube_reflector_options options;
	struct kube_reflector_events events;
	void *arg;
	struct kube_request *request;
	struct l7mp_timer timer;
	struct kube_backoff backoff, refused;
	struct known *known;
	unsigned round;
	char *version; /* resourceVersion; NULL: list first */
	char *more;    /* the list's continue token */
	bool no_pages, got_error;
	unsigned expired;   /* consecutive lists whose continue token expired */
	uint64_t began_ms;  /* start of the watch */
	uint64_t absent_ms; /* since when the kind is missing; 0: it exists */
	struct kube_lines lines;
	struct kube_split split;
	struct kube_reflector_stats stats;
	char error[256];
	struct l7mp_log_limit log;
};

static void list_start(struct kube_reflector *r);
static void watch_start(struct kube_reflector *r);

static void on_timer(struct l7mp_timer *timer, void *arg)
{
	struct kube_reflector *r = arg;

	(void)timer;
	if (r->version)
		watch_start(r);
	else
		list_start(r);
}

static void wait_ms(struct kube_reflector *r, uint64_t ms)
{
	(void)l7mp_timer_start(r->loop, &r->timer, ms); /* reserved */
}

static void note_contact(struct kube_reflector *r)
{
	r->stats.last_contact_ms = l7mp_loop_now(r->loop);
}

/* ---- failures ---- */

static void failed(struct kube_reflector *r, const char *what, const char *text)
{
	uint32_t suppressed;

	r->stats.errors++;
	snprintf(r->error, sizeof(r->error), "%s: %s", what, text);
	if (l7mp_log_allowed(&r->log, l7mp_loop_now(r->loop), 30000, 3, &suppressed))
		l7mp_log_warn("kube", "%s: %s%s", r->options.kind, r->error,
		              suppressed ? " (and more such failures before)" : "");
}

static void again_later(struct kube_reflector *r, const struct kube_http_answer *a)
{
	/* A rejection (403) lasts longer than an unavailable server. */
	bool refused = !a->error && a->status >= 400 && a->status < 500 && a->status != 429;
	uint64_t ms = kube_backoff_next(refused ? &r->refused : &r->backoff);

	if (a->retry_after_ms > ms)
		ms = a->retry_after_ms < REFUSED_MAX_MS ? a->retry_after_ms : REFUSED_MAX_MS;
	wait_ms(r, ms);
}

static void succeeded(struct kube_reflector *r)
{
	kube_backoff_reset(&r->backoff);
	kube_backoff_reset(&r->refused);
	r->error[0] = '\0';
	r->absent_ms = 0;
	r->stats.absent = false;
}

/* ---- objects ---- */

static void forget(struct kube_reflector *r, struct known *k)
{
	HASH_DEL(r->known, k);
	free(k);
}

/* Returns whether the object may be reported. */
static bool remember(struct kube_reflector *r, const char *ns, const char *name)
{
	struct known *k;
	char key[KEY_MAX];
	int len = snprintf(key, sizeof(key), "%s/%s", ns, name);

	if (len < 0 || (size_t)len >= sizeof(key))
		return false;
	HASH_FIND(hh, r->known, key, (unsigned)len, k);
	if (!k) {
		if (HASH_COUNT(r->known) >= KUBE_OBJECTS_MAX)
			return false;
		k = calloc(1, sizeof(*k) + (size_t)len + 1);
		if (!k)
			return false;
		memcpy(k->key, key, (size_t)len + 1);
		HASH_ADD_KEYPTR(hh, r->known, k->key, (unsigned)len, k);
		if (!k->hh.tbl) {
			free(k);
			return false;
		}
	}
	k->round = r->round;
	return true;
}

static void report_deleted(struct kube_reflector *r, const char *ns, const char *name)
{
	struct known *k;
	char key[KEY_MAX];
	int len = snprintf(key, sizeof(key), "%s/%s", ns, name);

	if (len < 0 || (size_t)len >= sizeof(key))
		return;
	HASH_FIND(hh, r->known, key, (unsigned)len, k);
	if (!k)
		return;
	forget(r, k);
	r->events.del(r->arg, ns, name);
}

static void bad(struct kube_reflector *r, const char *text)
{
	uint32_t suppressed;

	r->stats.bad++;
	if (l7mp_log_allowed(&r->log, l7mp_loop_now(r->loop), 30000, 3, &suppressed))
		l7mp_log_warn("kube", "%s: an object was left out: %s", r->options.kind, text);
}

static void put(struct kube_reflector *r, const cJSON *object)
{
	const cJSON *metadata = l7mp_json_member(object, "metadata");
	const char *name = l7mp_json_str(metadata, "name", "");
	const char *ns = l7mp_json_str(metadata, "namespace", "");

	if (!*name) {
		bad(r, "it has no name");
		return;
	}
	if (!remember(r, ns, name)) {
		bad(r, "there are too many, or its name is too long");
		return;
	}
	r->events.put(r->arg, object);
}

/* Finds a member in the beginning of an object that is too large; "" if it isn't in there. */
static void prefix_text(const char *text, size_t len, const char *const *keys, char *out,
                        size_t size)
{
	const char *value;
	size_t n;

	out[0] = '\0';
	if (kube_prefix_find(text, len, keys, &value, &n) && n >= 2 && value[0] == '"' &&
	    n - 2 < size && !memchr(value, '\\', n)) {
		memcpy(out, value + 1, n - 2);
		out[n - 2] = '\0';
	}
}

/* `watched`: the text is that of an event. */
static void too_large(struct kube_reflector *r, const char *text, size_t len, size_t bytes,
                      bool watched)
{
	const char *name_keys[] = {"object", "metadata", "name", NULL};
	const char *ns_keys[] = {"object", "metadata", "namespace", NULL};
	const char *uid_keys[] = {"object", "metadata", "uid", NULL};
	char name[256], ns[256], uid[64], what[600];

	prefix_text(text, len, name_keys + !watched, name, sizeof(name));
	prefix_text(text, len, ns_keys + !watched, ns, sizeof(ns));
	prefix_text(text, len, uid_keys + !watched, uid, sizeof(uid));
	snprintf(what, sizeof(what), "%s%s%s has %zu bytes, more than %d", ns, *ns ? "/" : "",
	         *name ? name : "(name unknown)", bytes, KUBE_OBJECT_MAX);
	bad(r, what);
	if (*name && (*ns || !r->options.namespaced) && remember(r, ns, name))
		r->events.too_large(r->arg, ns, name, uid, bytes);
}

/* ---- lists ---- */

static int on_item(void *arg, const char *text, size_t len, size_t bytes)
{
	struct kube_reflector *r = arg;
	char message[160];
	cJSON *object;
	int line;

	if (bytes > len) {
		too_large(r, text, len, bytes, false);
		return 0;
	}
	object = l7mp_json_parse(text, len, &line, message, sizeof(message));
	if (object)
		put(r, object);
	else
		bad(r, message);
	cJSON_Delete(object);
	return 0;
}

static int on_list_data(void *arg, const char *bytes, size_t n)
{
	struct kube_reflector *r = arg;

	note_contact(r);
	return kube_split_feed(&r->split, bytes, n);
}

static void synced(struct kube_reflector *r)
{
	if (r->stats.synced)
		return;
	r->stats.synced = true;
	r->events.synced(r->arg);
}

/* Reports objects that were not in the list as deleted. */
static void drop_unseen(struct kube_reflector *r)
{
	struct known *k, *next;

	HASH_ITER (hh, r->known, k, next) {
		char *slash;

		if (k->round == r->round)
			continue;
		HASH_DEL(r->known, k);
		slash = strchr(k->key, '/');
		*slash = '\0';
		r->events.del(r->arg, k->key, slash + 1);
		free(k);
	}
}

static void list_complete(struct kube_reflector *r)
{
	drop_unseen(r);
	r->stats.relists += r->stats.lists != 0;
	r->stats.lists++;
	r->expired = 0;
	r->no_pages = false;
	succeeded(r);
	l7mp_log_info("kube", "%s: %u objects listed", r->options.kind, HASH_COUNT(r->known));
	synced(r);
	watch_start(r);
}

static void list_forget(struct kube_reflector *r)
{
	free(r->more);
	r->more = NULL;
	kube_split_clear(&r->split);
}

/* The server does not know the kind, or does not allow listing it. */
static void list_absent(struct kube_reflector *r)
{
	uint64_t now = l7mp_loop_now(r->loop);

	if (!r->absent_ms)
		r->absent_ms = now;
	r->stats.absent = true;
	/* The server may be starting and not know its custom resources yet. */
	if (!HASH_COUNT(r->known) || now - r->absent_ms >= ABSENT_CONFIRM_MS) {
		r->round++;
		drop_unseen(r);
		synced(r);
	}
	note_contact(r);
	wait_ms(r, ABSENT_MS / 2 + kube_random(0, ABSENT_MS / 2));
}

static void list_failed(struct kube_reflector *r, const struct kube_http_answer *a)
{
	char text[256];
	bool expired = !a->error && a->status == 410;

	list_forget(r);
	if (!a->error && ((r->options.optional && a->status == 404) ||
	                  (r->options.forbidden_ok && a->status == 403))) {
		list_absent(r);
		return;
	}
	if (expired && ++r->expired >= 2)
		r->no_pages = true; /* list without pages, as tokens expire too early */
	failed(r, "list", kube_answer_text(a, text, sizeof(text)));
	again_later(r, a);
}

static void on_list_done(void *arg, const struct kube_http_answer *a)
{
	struct kube_reflector *r = arg;
	struct kube_http_answer broken = {.status = 0, .error = "the list is incomplete"};
	cJSON *metadata = NULL;
	const char *version, *more;

	r->request = NULL;
	if (a->error || a->status != 200) {
		list_failed(r, a);
		return;
	}
	if (r->split.complete && r->split.metadata.s)
		metadata =
		        l7mp_json_parse(r->split.metadata.s, r->split.metadata.len, NULL, NULL, 0);
	version = l7mp_json_str(metadata, "resourceVersion", "");
	more = l7mp_json_str(metadata, "continue", "");
	free(r->more);
	r->more = *more ? strdup(more) : NULL;
	free(r->version);
	r->version = NULL;
	if (!*version || (*more && !r->more)) {
		cJSON_Delete(metadata);
		list_failed(r, &broken);
		return;
	}
	kube_split_clear(&r->split);
	if (r->more) {
		cJSON_Delete(metadata);
		list_start(r);
		return;
	}
	r->version = strdup(version);
	cJSON_Delete(metadata);
	if (r->version)
		list_complete(r);
	else
		list_failed(r, &broken);
}

static const char *accept_of(const struct kube_reflector *r, bool list)
{
	if (!r->options.metadata_only)
		return NULL;
	return list ? "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	            : "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
}

static void request(struct kube_reflector *r, struct l7mp_str *path, struct kube_call *call)
{
	struct kube_http_answer none = {.error = "out of memory"};
	int rc = -ENOMEM;

	call->method = "GET";
	call->path = path->s;
	call->arg = r;
	if (!path->oom)
		rc = kube_request_start(r->client, call, &r->request);
	l7mp_str_free(path);
	if (rc) {
		failed(r, "request", none.error);
		again_later(r, &none);
	}
}

static void list_start(struct kube_reflector *r)
{
	struct kube_call call = {
	        .accept = accept_of(r, true),
	        .timeout_ms = LIST_MS,
	        .data = on_list_data,
	        .done = on_list_done,
	};
	struct l7mp_str path = {0};
	uint32_t page = r->options.page ? r->options.page : PAGE;

	r->stats.watching = false;
	if (!r->more)
		r->round++;
	r->split.max = KUBE_OBJECT_MAX;
	r->split.item = on_item;
	r->split.arg = r;
	kube_path(&path, &r->options.resource, r->options.ns, NULL, NULL);
	if (!r->no_pages)
		l7mp_str_addf(&path, "?limit=%u", page);
	if (r->more) {
		l7mp_str_add(&path, "&continue=");
		kube_http_escape(&path, r->more);
	}
	request(r, &path, &call);
}

/* ---- watches ---- */

static void set_version(struct kube_reflector *r, const cJSON *object)
{
	const char *version =
	        l7mp_json_str(l7mp_json_member(object, "metadata"), "resourceVersion", "");
	char *copy = *version ? strdup(version) : NULL;

	if (!copy)
		return; /* the next event has a newer version */
	free(r->version);
	r->version = copy;
}

static int on_error_event(struct kube_reflector *r, const cJSON *object)
{
	char text[200];

	snprintf(text, sizeof(text), "%d: %.150s", (int)l7mp_json_num(object, "code", 0),
	         l7mp_json_str(object, "message", "no message"));
	failed(r, "watch", text);
	r->got_error = true;
	return -ECONNRESET; /* ends the watch */
}

static int on_event(struct kube_reflector *r, const cJSON *event)
{
	const char *type = l7mp_json_str(event, "type", "");
	const cJSON *object = l7mp_json_member(event, "object");
	const cJSON *metadata = l7mp_json_member(object, "metadata");

	if (!strcmp(type, "ERROR"))
		return on_error_event(r, object);
	if (!strcmp(type, "BOOKMARK")) {
		r->stats.bookmarks++;
	} else if (!strcmp(type, "ADDED") || !strcmp(type, "MODIFIED")) {
		r->stats.events++;
		put(r, object);
	} else if (!strcmp(type, "DELETED")) {
		r->stats.events++;
		report_deleted(r, l7mp_json_str(metadata, "namespace", ""),
		               l7mp_json_str(metadata, "name", ""));
	} else {
		bad(r, "an event of an unknown type");
	}
	set_version(r, object);
	return 0;
}

/* An event that is too large: the beginning of the line names its object. */
static void large_event(struct kube_reflector *r, const char *text, size_t len, size_t bytes)
{
	const char *type_keys[] = {"type", NULL};
	const char *name_keys[] = {"object", "metadata", "name", NULL};
	const char *ns_keys[] = {"object", "metadata", "namespace", NULL};
	char type[16], name[256], ns[256];

	r->stats.events++;
	prefix_text(text, len, type_keys, type, sizeof(type));
	if (strcmp(type, "DELETED") != 0) {
		too_large(r, text, len, bytes, true);
		return;
	}
	prefix_text(text, len, name_keys, name, sizeof(name));
	prefix_text(text, len, ns_keys, ns, sizeof(ns));
	report_deleted(r, ns, name);
}

static int on_line(void *arg, const char *text, size_t len, size_t bytes)
{
	struct kube_reflector *r = arg;
	char message[160];
	cJSON *event;
	int line, rc;

	if (bytes > len) {
		large_event(r, text, len, bytes);
		return 0;
	}
	event = l7mp_json_parse(text, len, &line, message, sizeof(message));
	if (!event) {
		bad(r, message);
		return 0;
	}
	rc = on_event(r, event);
	cJSON_Delete(event);
	return rc;
}

static int on_watch_data(void *arg, const char *bytes, size_t n)
{
	struct kube_reflector *r = arg;

	note_contact(r);
	return kube_lines_feed(&r->lines, bytes, n);
}

static void relist(struct kube_reflector *r)
{
	free(r->version);
	r->version = NULL;
}

static void on_watch_done(void *arg, const struct kube_http_answer *a)
{
	struct kube_reflector *r = arg;
	uint64_t lived = l7mp_loop_now(r->loop) - r->began_ms;
	char text[256];

	r->request = NULL;
	r->stats.watching = false;
	/* Drop an incomplete event: the next watch resumes before it and repeats it. */
	kube_lines_clear(&r->lines);
	if (a->status == 200 && !a->error) { /* after timeoutSeconds, or the server restarts */
		succeeded(r);
		if (lived >= SHORT_WATCH_MS)
			watch_start(r);
		else
			wait_ms(r, kube_backoff_next(&r->backoff));
		return;
	}
	if (r->got_error || (!a->error && (a->status == 410 || a->status == 404 ||
	                                   a->status == 400 || a->status == 403)))
		relist(r);
	if (!r->got_error)
		failed(r, "watch", kube_answer_text(a, text, sizeof(text)));
	if (a->status == 200 && lived >= SHORT_WATCH_MS)
		kube_backoff_reset(&r->backoff);
	again_later(r, a);
}

static void watch_start(struct kube_reflector *r)
{
	uint32_t seconds = kube_random(WATCH_MIN_S, WATCH_MAX_S);
	struct kube_call call = {
	        .accept = accept_of(r, false),
	        .timeout_ms = (uint64_t)(seconds + WATCH_SLACK_S) * 1000,
	        .data = on_watch_data,
	        .done = on_watch_done,
	};
	struct l7mp_str path = {0};

	r->stats.watching = true;
	r->stats.watches++;
	r->got_error = false;
	r->began_ms = l7mp_loop_now(r->loop);
	r->lines.max = KUBE_OBJECT_MAX;
	r->lines.line = on_line;
	r->lines.arg = r;
	kube_path(&path, &r->options.resource, r->options.ns, NULL, NULL);
	l7mp_str_addf(&path, "?watch=true&allowWatchBookmarks=true&timeoutSeconds=%u", seconds);
	l7mp_str_add(&path, "&resourceVersion=");
	kube_http_escape(&path, r->version);
	request(r, &path, &call);
}

/* ---- the object ---- */

int kube_reflector_new(struct kube_client *client, const struct kube_reflector_options *options,
                       const struct kube_reflector_events *events, void *arg,
                       struct kube_reflector **out)
{
	struct kube_reflector *r = calloc(1, sizeof(*r));

	*out = NULL;
	if (!r)
		return -ENOMEM;
	r->client = client;
	r->loop = kube_client_loop(client);
	r->options = *options;
	r->options.ns = options->ns && *options->ns ? strdup(options->ns) : NULL;
	r->events = *events;
	r->arg = arg;
	r->backoff = (struct kube_backoff){.min_ms = BACKOFF_MIN_MS, .max_ms = BACKOFF_MAX_MS};
	r->refused = (struct kube_backoff){.min_ms = 1000, .max_ms = REFUSED_MAX_MS};
	r->stats.error = r->error;
	l7mp_timer_init(&r->timer, on_timer, r);
	if ((options->ns && *options->ns && !r->options.ns) ||
	    l7mp_timer_reserve(r->loop, &r->timer)) {
		free((char *)r->options.ns);
		free(r);
		return -ENOMEM;
	}
	note_contact(r);
	wait_ms(r, 0);
	*out = r;
	return 0;
}

void kube_reflector_free(struct kube_reflector **pp)
{
	struct kube_reflector *r = *pp;
	struct known *k;

	if (!r)
		return;
	*pp = NULL;
	kube_request_cancel(&r->request);
	l7mp_timer_give_back(r->loop, &r->timer);
	k = r->known;
	HASH_CLEAR(hh, r->known); /* frees the table only; hh.next stays valid */
	while (k) {
		struct known *next = k->hh.next;

		free(k);
		k = next;
	}
	list_forget(r);
	kube_lines_clear(&r->lines);
	free(r->version);
	free((char *)r->options.ns);
	free(r);
}

const struct kube_reflector_stats *kube_reflector_stats(const struct kube_reflector *r)
{
	/* The hash table has the count. */
	((struct kube_reflector *)r)->stats.objects = HASH_COUNT(r->known);
	return &r->stats;
}

const struct kube_reflector_options *kube_reflector_options(const struct kube_reflector *r)
{
	return &r->options;
}
