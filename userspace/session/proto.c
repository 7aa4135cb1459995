/* SPDX-License-Identifier: MIT */
/* Look-up of protocols and their state; describing streams for offloading. */
#include "l7mp/proto.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "internal.h"

static bool has_name(const struct l7mp_protodesc *desc, const char *name)
{
	if (strcasecmp(desc->name, name) == 0)
		return true;
	for (const char *const *alias = desc->aliases; alias && *alias; alias++)
		if (strcasecmp(*alias, name) == 0)
			return true;
	return false;
}

const struct l7mp_proto *l7mp_proto_find(const struct l7mp_env *env, const char *name)
{
	for (size_t i = 0; env->protos[i]; i++)
		if (has_name(&env->protos[i]->desc, name))
			return env->protos[i];
	return NULL;
}

const struct l7mp_proto *l7mp_proto_of(const struct l7mp_env *env,
                                       const struct l7mp_protodesc *desc)
{
	for (size_t i = 0; env->protos[i]; i++)
		if (&env->protos[i]->desc == desc)
			return env->protos[i];
	return l7mp_proto_find(env, desc->name);
}

void *l7mp_proto_state(struct l7mp_env *env, const struct l7mp_proto *proto, struct l7mp_error *err)
{
	for (size_t i = 0; env->protos[i]; i++) {
		int rc;

		if (env->protos[i] != proto)
			continue;
		if (env->states[i] || !proto->start)
			return env->states[i];
		rc = proto->start(env, &env->states[i], err);
		if (rc) {
			env->states[i] = NULL;
			if (err && err->code == L7MP_OK)
				l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "%s can't start: %s",
				               proto->desc.name, strerror(-rc));
		}
		return env->states[i];
	}
	l7mp_error_set(err, -ENOENT, L7MP_ERR_INTERNAL, "%s is not one of this program's protocols",
	               proto->desc.name);
	return NULL;
}

void l7mp_stream_flow(struct l7mp_stream *s, struct l7mp_flow_end *out)
{
	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_NONE;
	out->reason = L7MP_REASON_PROTOCOL;
	if (s->ops->flow)
		s->ops->flow(s, out);
}

#define REASON_NAME(id, text, doc) text,
static const char *const reason_names[L7MP_REASON_COUNT] = {L7MP_REASONS(REASON_NAME)};

const char *l7mp_reason_name(enum l7mp_reason reason)
{
	return (unsigned)reason < L7MP_REASON_COUNT ? reason_names[reason] : "unknown";
}
