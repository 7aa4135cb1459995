/* SPDX-License-Identifier: MIT */
/*
 * Sync: broadcast groups. Data written to one member is emitted at once by all other members of its
 * group. A slow receiver does not delay the others: the queue of its own session overflows.
 *
 * A member leaves its group when it is freed, never during a broadcast; until then a closing one is
 * skipped. New members are appended.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/hash.h"
#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "transform.h"

struct member;

struct group {
	UT_hash_handle hh;
	struct member *members;
	size_t len;
	char key[]; /* cluster, NUL, query, NUL, the value as text */
};

struct sync_state {
	struct group *groups;
};

struct member {
	struct l7mp_transform t;
	struct sync_state *state;
	struct group *group;
	struct member *prev, *next;
};

/* ---- groups ---- */

/* Equal values have the same text, because keys are sorted. Heap; NULL: no memory. */
static char *make_key(const char *cluster, const char *query, const cJSON *value, size_t *len)
{
	char *text = l7mp_json_print(value, L7MP_JSON_DIFFY);
	struct l7mp_str key = {0};

	if (!text)
		return NULL;
	l7mp_str_addn(&key, cluster, strlen(cluster) + 1);
	l7mp_str_addn(&key, query, strlen(query) + 1);
	l7mp_str_add(&key, text);
	free(text);
	*len = key.len;
	return l7mp_str_take(&key);
}

static struct group *group_get(struct sync_state *st, const char *key, size_t len)
{
	struct group *g;

	HASH_FIND(hh, st->groups, key, len, g);
	if (g)
		return g;
	g = calloc(1, sizeof(*g) + len + 1);
	if (!g)
		return NULL;
	memcpy(g->key, key, len);
	g->len = len;
	HASH_ADD_KEYPTR(hh, st->groups, g->key, g->len, g);
	if (g->hh.tbl)
		return g;
	free(g);
	return NULL;
}

static void leave(struct l7mp_transform *t)
{
	struct member *m = (struct member *)t;

	if (!m->group)
		return;
	DL_DELETE(m->group->members, m);
	if (m->group->members)
		return;
	HASH_DEL(m->state->groups, m->group);
	free(m->group);
}

/* ---- the stream ---- */

static int sync_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct member *self = (struct member *)s, *m;
	int rc = l7mp_transform_check(&self->t, buf);
	size_t receivers = 0;

	if (!rc)
		rc = l7mp_transform_check_hops(&buf);
	if (rc)
		return rc;
	DL_FOREACH (self->group->members, m) {
		struct l7mp_buf *copy;

		if (m == self || !m->t.open || m->t.closing)
			continue;
		receivers++;
		/* Each receiver has its own queue. */
		copy = l7mp_buf_slice(buf, 0, buf->len);
		if (copy)
			l7mp_transform_emit(&m->t, copy);
		else if (m->t.base.events->lost)
			m->t.base.events->lost(m->t.base.owner, -ENOMEM, 1, buf->len);
	}
	l7mp_buf_unref(buf);
	return receivers ? 0 : -EDESTADDRREQ;
}

/* A member whose peer has finished writing still receives. */
static void sync_shutdown(struct l7mp_stream *s, int code)
{
	(void)code;
	((struct l7mp_transform *)s)->shut = true;
}

static const struct l7mp_transform_ops ops = {
        .stream = {.write = sync_write,
                   .pause = l7mp_transform_pause,
                   .shutdown = sync_shutdown,
                   .close = l7mp_transform_close},
        .release = leave,
};

static int join(struct member *m, const struct l7mp_connect *params, const char *query,
                const cJSON *value)
{
	size_t len;
	char *key = make_key(params->cluster ? params->cluster : "", query, value, &len);

	if (!key)
		return -ENOMEM;
	m->group = group_get(m->state, key, len);
	free(key);
	if (!m->group)
		return -ENOMEM;
	DL_APPEND(m->group->members, m);
	return 0;
}

static int sync_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	struct sync_state *state = l7mp_proto_state(params->env, &l7mp_transform_sync, err);
	const char *query = l7mp_json_str(params->cluster_spec, "query", "");
	const cJSON *value = l7mp_json_get(params->metadata, query);
	struct member *m;

	if (!state)
		return -ENOMEM;
	if (!value || cJSON_IsNull(value))
		return l7mp_error_set(err, -ENOENT, L7MP_ERR_UPSTREAM,
		                      "Sync: the session's metadata has no value at %s", query);
	m = l7mp_transform_new(sizeof(*m), params, &ops);
	if (!m)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	/* A member does not emit the data that is written to it. */
	m->t.base.is_transformer = false;
	m->t.base.kind = L7MP_KIND_DATAGRAM;
	m->state = state;
	if (join(m, params, query, value)) {
		l7mp_transform_discard_new(&m->t);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	*out = &m->t.base;
	return 0;
}

static int sync_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct sync_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void sync_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

static const struct l7mp_field cluster_fields[] = {
        {.key = "query",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_POINTER,
         .doc = "JSON pointer into the session's metadata; sessions with an equal value there are "
                "one group, a session without a value (or with null) is refused"},
        {0},
};
static const struct l7mp_schema cluster_spec = {
        .name = "sync-cluster",
        .doc = "Groups sessions by a value of their metadata",
        .fields = cluster_fields,
};

static const char *const aliases[] = {"INLINE/Sync", NULL};

const struct l7mp_proto l7mp_transform_sync = {
        .desc =
                {
                        .name = "Sync",
                        .aliases = aliases,
                        .doc = "Broadcast groups: what one session sends, every other session with "
                               "the same value at `query` receives, as datagrams (each read of a "
                               "byte stream is one); for a slow receiver they are dropped and "
                               "counted, the others are not held up",
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL,
                        .kind = L7MP_KIND_DATAGRAM,
                        .cluster_spec = &cluster_spec,
                },
        .start = sync_start,
        .stop = sync_stop,
        .connect = sync_connect,
};
