/* SPDX-License-Identifier: MIT */
/*
 * Applies changes: binds all new listeners (undone when one fails), commits, starts accepting, and
 * only then closes listeners that are replaced or deleted. So a replaced listener shares its socket
 * with its successor and no client is refused.
 *
 * Each phase is a sequence of steps, one per listener or session, so that a change of many objects
 * occupies the loop for one slice at a time. The commit itself is one step whose time does not
 * depend on the size of the change, so that the new configuration becomes visible as a whole.
 */
#include "l7mp/runtime.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"
#include "l7mp/work.h"

struct binding {
	UT_hash_handle hh; /* by name */
	char *name;
	struct l7mp_source *source;
	struct l7mp_proto_listener *plistener;
	bool paused;
};

enum apply_phase {
	APPLY_COLLECT,  /* collects the listeners that will be closed */
	APPLY_PREPARE,  /* binds, one listener per step */
	APPLY_ADMIN,    /* the admin object; the last phase that can fail */
	APPLY_PLACE,    /* inserts new versions beside the old ones, invisible */
	APPLY_COMMIT,   /* makes them visible, all in one step */
	APPLY_SETTLE,   /* removes old versions from the tables */
	APPLY_ACTIVATE, /* new sockets accept, and replace the old ones in the table */
	APPLY_CLOSE,    /* closes replaced and deleted listeners */
	APPLY_FORGET,   /* removes counters of deleted objects; collects sessions to end */
	APPLY_END,      /* ends sessions, one per step */
	APPLY_OVER,
};

/* The state of applying one change. */
struct apply {
	struct l7mp_change *change;
	enum apply_phase phase;
	size_t n, i;                           /* items; the next one of this phase */
	struct binding **fresh;                /* one per item that is a listener, else NULL */
	struct l7mp_proto_listener **retiring; /* all listeners that will be closed */
	size_t n_retiring;
	struct l7mp_proto_listener **same; /* those of one protocol; temporary */
	struct l7mp_session_ender *ender;
	const char *session; /* session of the request, which is ended last */
	int rc;
	struct l7mp_error err;
};

struct l7mp_runtime {
	struct l7mp_env *env;
	struct l7mp_sessions *sessions;
	uv_mutex_t lock; /* protects bindings, which jobs read in another thread */
	struct binding *bindings;
	int (*before_admin)(void *arg, const struct l7mp_admin *next, struct l7mp_error *err);
	void (*on_admin)(void *arg, const struct l7mp_admin *admin);
	void *on_admin_arg;

	struct l7mp_runtime_job *waiting, *job; /* changes; job: the current one */
	size_t n_waiting;
	struct l7mp_work work;                      /* builds a change, or frees one */
	struct l7mp_runtime_job *readers, *reading; /* read-only jobs; reading: the one in the
	                                             * thread */
	size_t n_readers;
	struct l7mp_work read_work;
	struct l7mp_slice slice;
	struct l7mp_change *change; /* of `job` */
	struct apply apply;
	bool applying;
	bool stopping;
	bool paused; /* l7mp_runtime_pause */
	bool held;   /* l7mp_runtime_hold */
};

static void binding_free(struct binding **pp)
{
	struct binding *b = *pp;

	if (!b)
		return;
	*pp = NULL;
	if (b->plistener)
		b->plistener->proto->unlisten(b->plistener);
	l7mp_source_free(&b->source);
	free(b->name);
	free(b);
}

void l7mp_runtime_on_admin(struct l7mp_runtime *rt,
                           void (*cb)(void *arg, const struct l7mp_admin *admin), void *arg)
{
	rt->on_admin = cb;
	rt->on_admin_arg = arg;
}

void l7mp_runtime_before_admin(struct l7mp_runtime *rt,
                               int (*cb)(void *arg, const struct l7mp_admin *next,
                                         struct l7mp_error *err))
{
	rt->before_admin = cb;
}

static struct binding *find(const struct l7mp_runtime *rt, const char *name)
{
	struct binding *b;

	HASH_FIND_STR(rt->bindings, name, b);
	return b;
}

void l7mp_runtime_bound(const struct l7mp_runtime *rt, const struct l7mp_listener *l, cJSON *spec)
{
	struct l7mp_runtime *m = (struct l7mp_runtime *)rt; /* the lock is not regarded as part of
	                                                     * its state */
	const struct binding *b;

	uv_mutex_lock(&m->lock);
	b = find(rt, l->obj.name);
	if (b && b->plistener->proto->bound)
		b->plistener->proto->bound(b->plistener, spec);
	uv_mutex_unlock(&m->lock);
}

struct l7mp_proto_listener *l7mp_runtime_listener(const struct l7mp_runtime *rt, const char *name,
                                                  struct l7mp_source **source)
{
	const struct binding *b = find(rt, name);

	*source = b ? b->source : NULL;
	return b ? b->plistener : NULL;
}

/* ---- pausing ---- */

static void pause_one(struct binding *b)
{
	const struct l7mp_proto *proto = b->plistener->proto;

	b->source->stays = l7mp_admission_serves_operator(b->source);
	if (b->paused || b->source->stays || !proto->pause)
		return;
	proto->pause(b->plistener);
	b->paused = true;
}

void l7mp_runtime_pause(struct l7mp_runtime *rt)
{
	struct binding *b, *next;

	rt->paused = true;
	HASH_ITER (hh, rt->bindings, b, next)
		pause_one(b);
}

/* Takes the lock, because a job reads the bindings in another thread. */
static int resume_one(struct l7mp_runtime *rt, struct binding *b, struct l7mp_error *err)
{
	int rc;

	uv_mutex_lock(&rt->lock);
	rc = b->plistener->proto->resume(b->plistener, err);
	uv_mutex_unlock(&rt->lock);
	return rc;
}

int l7mp_runtime_resume(struct l7mp_runtime *rt, struct l7mp_error *err)
{
	struct binding *b, *next;
	int rc = 0;

	HASH_ITER (hh, rt->bindings, b, next) {
		if (!b->paused)
			continue;
		rc = resume_one(rt, b, err);
		if (rc) {
			snprintf(err->path, sizeof(err->path), "listener '%.100s'", b->name);
			break;
		}
		b->paused = false;
	}
	rt->paused = rc != 0;
	if (rc)
		l7mp_runtime_pause(rt);
	return rc;
}

size_t l7mp_runtime_paused(const struct l7mp_runtime *rt, size_t *open)
{
	size_t n = 0;

	*open = 0;
	for (const struct binding *b = rt->bindings; b; b = b->hh.next)
		*(b->paused ? &n : open) += 1;
	return n;
}

/* ---- preparing ---- */

static const struct l7mp_listener *old_listener(const struct l7mp_change_item *item)
{
	return (const struct l7mp_listener *)item->old_object;
}

static const struct l7mp_listener *new_listener(const struct l7mp_change_item *item)
{
	return (const struct l7mp_listener *)item->new_object;
}

/* A replaced listener with an equal spec keeps its socket and only gets new rules. */
static bool keeps_socket(const struct l7mp_runtime *rt, const struct l7mp_change_item *item)
{
	return item->old_object && item->new_object && find(rt, item->old_object->name) &&
	       old_listener(item)->proto == new_listener(item)->proto &&
	       l7mp_json_equal(old_listener(item)->spec, new_listener(item)->spec);
}

static int listen_one(struct l7mp_runtime *rt, struct l7mp_listener *l, const struct apply *w,
                      struct binding **out, struct l7mp_error *err)
{
	const struct l7mp_proto *proto = l7mp_proto_of(rt->env, l->proto);
	struct l7mp_listen params = {.env = rt->env,
	                             .name = l->obj.name,
	                             .spec = l->spec,
	                             .events = &l7mp_source_events,
	                             .retiring = w->same};
	struct binding *b;
	int rc;

	if (!proto || !proto->listen)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_REALISE, "protocol %s can't listen",
		                      l->proto->name);
	for (size_t i = 0; i < w->n_retiring; i++)
		if (w->retiring[i]->proto == proto ||
		    (w->retiring[i]->proto->stream_listener && proto->stream_listener))
			w->same[params.n_retiring++] = w->retiring[i];
	b = calloc(1, sizeof(*b));
	if (!b)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	b->name = strdup(l->obj.name);
	rc = b->name ? l7mp_source_new(rt->sessions, l, &b->source) : -ENOMEM;
	if (rc) {
		binding_free(&b);
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	}
	params.arg = b->source;
	rc = proto->listen(&params, &b->plistener, err);
	if (rc) {
		b->plistener = NULL;
		binding_free(&b);
		return rc;
	}
	*out = b;
	return 0;
}

/* Prefixes an error with its place: "listeners[0].spec.port" or "listener 'name'.spec". */
static void place_error(const struct l7mp_change_item *item, int rc, struct l7mp_error *err)
{
	char within[128];

	if (err->code == L7MP_OK)
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s", strerror(-rc));
	snprintf(within, sizeof(within), "%s%.120s", err->path[0] ? "." : "", err->path);
	if (item->path && item->path[0])
		snprintf(err->path, sizeof(err->path), "%.120s.spec%s", item->path, within);
	else
		snprintf(err->path, sizeof(err->path), "listener '%.100s'%s",
		         item->new_object->name, within);
}

/* ---- steps ---- */

static void collect_one(const struct l7mp_runtime *rt, struct apply *w,
                        const struct l7mp_change_item *item)
{
	const struct binding *b;

	if (item->kind != L7MP_OBJ_LISTENER || !item->old_object || keeps_socket(rt, item))
		return;
	b = find(rt, item->old_object->name);
	if (b)
		w->retiring[w->n_retiring++] = b->plistener;
}

/* Binds the listener of one item, if it needs a new socket. */
static int prepare_one(struct l7mp_runtime *rt, struct apply *w,
                       const struct l7mp_change_item *item)
{
	int rc;

	if (item->kind != L7MP_OBJ_LISTENER || !item->new_object || keeps_socket(rt, item))
		return 0;
	rc = listen_one(rt, (struct l7mp_listener *)item->new_object, w, &w->fresh[w->i], &w->err);
	if (rc)
		place_error(item, rc, &w->err);
	return rc;
}

static void check_admin(struct l7mp_runtime *rt, struct apply *w)
{
	const struct l7mp_admin *admin = l7mp_change_new_admin(w->change);

	if (admin && rt->before_admin)
		w->rc = rt->before_admin(rt->on_admin_arg, admin, &w->err);
}

static void commit(struct l7mp_runtime *rt, struct apply *w)
{
	bool admin = l7mp_change_new_admin(w->change) != NULL;

	l7mp_change_flip(w->change);
	/* Sessions that begin from now on do not use deleted objects. */
	if (l7mp_ender_new(rt->sessions, &w->ender))
		w->ender = NULL;
	else
		l7mp_ender_spare(w->ender, w->session);
	if (admin && rt->on_admin)
		rt->on_admin(rt->on_admin_arg, l7mp_model_admin(rt->env->model));
}

/* Puts the new socket into the table; the old one is then in w->fresh. */
static void activate_one(struct l7mp_runtime *rt, struct apply *w,
                         const struct l7mp_change_item *item)
{
	struct binding *old = NULL, *fresh = w->fresh[w->i];

	if (item->kind != L7MP_OBJ_LISTENER)
		return;
	if (item->old_object)
		old = find(rt, item->old_object->name);
	if (old && item->new_object && !fresh) {
		l7mp_source_set_listener(old->source, (struct l7mp_listener *)item->new_object);
		return;
	}
	uv_mutex_lock(&rt->lock);
	if (old)
		HASH_DEL(rt->bindings, old);
	if (fresh)
		HASH_ADD_KEYPTR(hh, rt->bindings, fresh->name, strlen(fresh->name), fresh);
	uv_mutex_unlock(&rt->lock);
	w->fresh[w->i] = old;
	if (!fresh)
		return;
	if (!fresh->hh.tbl) {
		/*
		 * Without memory for the table the commit stands, but the listener is not served.
		 */
		l7mp_log_error("runtime", "listener %s: out of memory", fresh->name);
		binding_free(&fresh);
		return;
	}
	if (rt->held)
		return;
	fresh->plistener->proto->activate(fresh->plistener);
	if (rt->paused)
		pause_one(fresh);
}

void l7mp_runtime_hold(struct l7mp_runtime *rt, bool on)
{
	struct binding *b, *next;

	if (rt->held == on)
		return;
	rt->held = on;
	if (on)
		return;
	HASH_ITER (hh, rt->bindings, b, next)
		b->plistener->proto->activate(b->plistener);
}

void l7mp_runtime_hand(struct l7mp_runtime *rt, enum l7mp_hand step)
{
	struct binding *b, *next;

	HASH_ITER (hh, rt->bindings, b, next) {
		if (b->plistener->proto->hand) {
			(void)b->plistener->proto->hand(b->plistener, step);
		} else if (step == L7MP_HAND_GIVE) {
			uv_mutex_lock(&rt->lock);
			HASH_DEL(rt->bindings, b);
			uv_mutex_unlock(&rt->lock);
			binding_free(&b);
		}
	}
}

int l7mp_runtime_each_socket(struct l7mp_runtime *rt,
                             int (*cb)(void *arg, const char *listener, int fd), void *arg)
{
	struct binding *b, *next;
	int rc = 0;

	HASH_ITER (hh, rt->bindings, b, next) {
		const struct l7mp_proto *proto = b->plistener->proto;
		int fd = proto->hand ? proto->hand(b->plistener, L7MP_HAND_SOCKET) : -ENOENT;

		if (!rc && fd >= 0)
			rc = cb(arg, b->name, fd);
	}
	return rc;
}

static void forget_one(struct l7mp_runtime *rt, struct apply *w,
                       const struct l7mp_change_item *item)
{
	if (!item->old_object)
		return;
	if (item->end_sessions && (!w->ender || l7mp_ender_add(w->ender, item->old_object)))
		l7mp_log_error("runtime", "%s '%s': out of memory, its sessions go on",
		               l7mp_obj_kind_name(item->kind), item->old_object->name);
	if (!item->new_object)
		l7mp_sessions_forget(rt->sessions, item->kind, item->old_object->name);
}

/* Executes the step of the current phase for item w->i. */
static void item_step(struct l7mp_runtime *rt, struct apply *w)
{
	const struct l7mp_change_item *item = l7mp_change_item(w->change, w->i);

	switch (w->phase) {
	case APPLY_COLLECT:
		collect_one(rt, w, item);
		break;
	case APPLY_PREPARE:
		w->rc = prepare_one(rt, w, item);
		break;
	case APPLY_PLACE:
		l7mp_change_place(w->change, w->i);
		break;
	case APPLY_SETTLE:
		l7mp_change_settle(w->change, w->i);
		break;
	case APPLY_ACTIVATE:
		activate_one(rt, w, item);
		break;
	case APPLY_CLOSE:
		binding_free(&w->fresh[w->i]);
		break;
	default:
		forget_one(rt, w, item);
		break;
	}
	w->i++;
}

/* Executes one step. Returns false at the end; w->rc is the result. */
static bool apply_step(struct l7mp_runtime *rt, struct apply *w)
{
	bool more;

	if (w->phase == APPLY_OVER)
		return false;
	if (w->phase == APPLY_ADMIN || w->phase == APPLY_COMMIT) {
		if (w->phase == APPLY_ADMIN)
			check_admin(rt, w);
		else
			commit(rt, w);
		more = false;
	} else if (w->phase == APPLY_END) {
		more = w->ender && l7mp_ender_step(w->ender);
	} else {
		more = w->i < w->n;
		if (more)
			item_step(rt, w);
	}
	if (w->rc) {
		w->phase = APPLY_OVER;
	} else if (!more) {
		w->phase++;
		w->i = 0;
	}
	return w->phase != APPLY_OVER;
}

static void apply_begin(struct apply *w, struct l7mp_change *change, const char *session)
{
	*w = (struct apply){.change = change, .session = session};
	w->n = l7mp_change_count(change);
	/* Three arrays of pointers. */
	w->fresh = calloc(w->n + 1, sizeof(void *));
	w->retiring = calloc(w->n + 1, sizeof(void *));
	w->same = calloc(w->n + 1, sizeof(void *));
	if (w->fresh && w->retiring && w->same)
		return;
	w->phase = APPLY_OVER;
	w->rc = l7mp_error_set(&w->err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

/* Clears all but the ender, which is freed later. */
static void apply_clear(struct apply *w)
{
	for (size_t i = 0; w->fresh && i < w->n; i++)
		binding_free(&w->fresh[i]);
	if (w->ender)
		l7mp_ender_finish(w->ender);
	free(w->fresh);
	free(w->retiring);
	free(w->same);
	w->fresh = NULL;
	w->retiring = w->same = NULL;
}

int l7mp_runtime_apply(struct l7mp_runtime *rt, struct l7mp_change *change, struct l7mp_error *err)
{
	struct apply w;

	apply_begin(&w, change, NULL);
	while (apply_step(rt, &w))
		;
	if (!w.rc)
		l7mp_change_close(change);
	apply_clear(&w);
	l7mp_ender_free(&w.ender);
	if (w.rc && err)
		*err = w.err;
	return w.rc;
}

/* ---- jobs ---- */

static void next_job(struct l7mp_runtime *rt);

static void discard_cb(void *arg)
{
	struct l7mp_runtime *rt = arg;

	l7mp_ender_free(&rt->apply.ender);
	l7mp_change_free(&rt->change);
}

static void discarded_cb(void *arg)
{
	next_job(arg);
}

/* Calls the job's owner, then frees the change in the worker thread, as it may be large. */
static void job_over(struct l7mp_runtime *rt, struct apply *w, int rc, const struct l7mp_error *err)
{
	struct l7mp_runtime_job *job = rt->job;

	job->done(job->arg, rt->change, rc, err);
	/* Send the answer first, because the session of the request may be ended last. */
	if (w)
		apply_clear(w);
	rt->job = NULL;
	if (rt->change) {
		l7mp_change_close(rt->change);
		if (!l7mp_work_start(rt->env->loop, &rt->work, discard_cb, discarded_cb, rt))
			return;
		discard_cb(rt);
	}
	next_job(rt);
}

/* Whether the model is being altered, or about to be; no thread may read it then. */
static bool altering(const struct l7mp_runtime *rt)
{
	return rt->applying && rt->apply.phase >= APPLY_PLACE && rt->apply.phase <= APPLY_SETTLE;
}

static void read_cb(void *arg)
{
	struct l7mp_runtime *rt = arg;

	(void)rt->reading->build(rt->reading->arg);
}

static void next_reader(struct l7mp_runtime *rt);

static void read_done_cb(void *arg)
{
	struct l7mp_runtime *rt = arg;
	struct l7mp_runtime_job *job = rt->reading;
	struct l7mp_error err = {0};

	rt->reading = NULL;
	if (altering(rt) && !rt->stopping)
		l7mp_slice_post(rt->env->loop, &rt->slice); /* it was delayed by this job */
	job->done(job->arg, NULL, 0, &err);
	next_reader(rt);
}

static void next_reader(struct l7mp_runtime *rt)
{
	struct l7mp_runtime_job *job = rt->readers;

	if (!job || rt->reading || altering(rt))
		return;
	DL_DELETE(rt->readers, job);
	job->prev = job->next = NULL;
	rt->n_readers--;
	rt->reading = job;
	if (l7mp_work_start(rt->env->loop, &rt->read_work, read_cb, read_done_cb, rt)) {
		/* Without a thread run on the loop. */
		read_cb(rt);
		read_done_cb(rt);
	}
}

static void apply_some(struct l7mp_slice *slice, void *arg)
{
	struct l7mp_runtime *rt = arg;

	for (;;) {
		if (altering(rt) && rt->reading)
			return; /* read_done_cb continues */
		if (!apply_step(rt, &rt->apply))
			break;
		next_reader(rt);
		if (!l7mp_slice_over(rt->env->loop))
			continue;
		l7mp_slice_post(rt->env->loop, slice);
		return;
	}
	rt->applying = false;
	job_over(rt, &rt->apply, rt->apply.rc, &rt->apply.err);
}

static void build_cb(void *arg)
{
	struct l7mp_runtime *rt = arg;

	rt->change = rt->job->build(rt->job->arg);
	if (rt->change)
		(void)l7mp_change_count(rt->change); /* sorts the items */
}

static void built_cb(void *arg)
{
	struct l7mp_runtime *rt = arg;
	struct l7mp_runtime_job *job = rt->job;
	struct l7mp_error err = {0};
	int rc = 0;

	if (rt->stopping)
		rc = l7mp_error_set(&err, -ESHUTDOWN, L7MP_ERR_LIMIT, "the proxy is stopping");
	else if (rt->change && job->built)
		rc = job->built(job->arg, rt->change, &err);
	if (rc || !rt->change) {
		job_over(rt, NULL, rc, &err);
		return;
	}
	rt->applying = true;
	apply_begin(&rt->apply, rt->change, job->session);
	l7mp_slice_post(rt->env->loop, &rt->slice);
}

static void next_job(struct l7mp_runtime *rt)
{
	struct l7mp_runtime_job *job = rt->waiting;

	if (!job || rt->job)
		return;
	DL_DELETE(rt->waiting, job);
	job->prev = job->next = NULL;
	rt->n_waiting--;
	rt->job = job;
	rt->change = NULL;
	if (l7mp_work_start(rt->env->loop, &rt->work, build_cb, built_cb, rt)) {
		/* Without a thread run on the loop. */
		build_cb(rt);
		built_cb(rt);
	}
}

int l7mp_runtime_submit(struct l7mp_runtime *rt, struct l7mp_runtime_job *job)
{
	size_t *n = job->reads ? &rt->n_readers : &rt->n_waiting;

	if (rt->stopping)
		return -ESHUTDOWN;
	if (*n >= L7MP_RUNTIME_JOBS && !job->goes_on)
		return -EBUSY;
	++*n;
	if (job->reads) {
		DL_APPEND(rt->readers, job);
		next_reader(rt);
		return 0;
	}
	DL_APPEND(rt->waiting, job);
	if (!rt->work.busy)
		next_job(rt);
	return 0;
}

bool l7mp_runtime_busy(const struct l7mp_runtime *rt)
{
	return rt->job || rt->waiting || rt->applying;
}

bool l7mp_runtime_withdraw(struct l7mp_runtime *rt, struct l7mp_runtime_job *job)
{
	if (!job->prev)
		return false;
	if (job->reads) {
		DL_DELETE(rt->readers, job);
		rt->n_readers--;
	} else {
		DL_DELETE(rt->waiting, job);
		rt->n_waiting--;
	}
	job->prev = job->next = NULL;
	return true;
}

static void stop_jobs(struct l7mp_runtime *rt)
{
	const struct l7mp_error err = {.code = L7MP_ERR_LIMIT, .message = "the proxy is stopping"};

	rt->stopping = true;
	while (rt->waiting || rt->readers) {
		struct l7mp_runtime_job *job = rt->waiting ? rt->waiting : rt->readers;

		(void)l7mp_runtime_withdraw(rt, job);
		job->done(job->arg, NULL, -ESHUTDOWN, &err);
	}
	if (!rt->applying)
		return;
	l7mp_slice_cancel(rt->env->loop, &rt->slice);
	/* Before anything is placed a job may still be reading the model. */
	if (rt->apply.phase < APPLY_PLACE || (rt->apply.phase == APPLY_PLACE && !rt->apply.i)) {
		rt->apply.rc = -ESHUTDOWN;
		rt->apply.err = err;
		rt->apply.phase = APPLY_OVER;
	}
	/* Stop before APPLY_END: all sessions are about to be ended anyway. */
	while (rt->apply.phase < APPLY_END && apply_step(rt, &rt->apply))
		;
	rt->applying = false;
	job_over(rt, &rt->apply, rt->apply.rc, &rt->apply.err);
}

/* ---- create and free ---- */

int l7mp_runtime_new(struct l7mp_env *env, struct l7mp_sessions *sessions,
                     struct l7mp_runtime **out)
{
	struct l7mp_runtime *rt = calloc(1, sizeof(*rt));

	if (!rt)
		return -ENOMEM;
	rt->env = env;
	rt->sessions = sessions;
	l7mp_slice_init(&rt->slice, apply_some, rt);
	if (uv_mutex_init(&rt->lock)) {
		free(rt);
		return -ENOMEM;
	}
	*out = rt;
	return 0;
}

void l7mp_runtime_stop(struct l7mp_runtime *rt)
{
	struct binding *b;

	stop_jobs(rt);
	b = rt->bindings;

	HASH_CLEAR(hh, rt->bindings);
	while (b) {
		struct binding *next = b->hh.next;

		binding_free(&b);
		b = next;
	}
}

void l7mp_runtime_free(struct l7mp_runtime **rt)
{
	if (!*rt)
		return;
	l7mp_runtime_stop(*rt);
	l7mp_slice_cancel((*rt)->env->loop, &(*rt)->slice);
	uv_mutex_destroy(&(*rt)->lock);
	free(*rt);
	*rt = NULL;
}
