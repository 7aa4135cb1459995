/* SPDX-License-Identifier: MIT */
#include "l7mp/stats.h"

#include <errno.h>

#define STAT_NAME(id, text, doc) text,
static const char *const drop_names[L7MP_DROP_COUNT] = {L7MP_DROPS(STAT_NAME)};
static const char *const refuse_names[L7MP_REFUSE_COUNT] = {L7MP_REFUSALS(STAT_NAME)};

const char *l7mp_drop_name(enum l7mp_drop reason)
{
	return (unsigned)reason < L7MP_DROP_COUNT ? drop_names[reason] : "unknown";
}

const char *l7mp_refuse_name(enum l7mp_refuse reason)
{
	return (unsigned)reason < L7MP_REFUSE_COUNT ? refuse_names[reason] : "unknown";
}

enum l7mp_drop l7mp_drop_from_errno(int err)
{
	switch (-err) {
	case EMSGSIZE:
		return L7MP_DROP_TOO_LARGE;
	case ERANGE:
		return L7MP_DROP_TOO_SHORT;
	case EAGAIN:
	case ENOBUFS:
		return L7MP_DROP_QUEUE;
	case ENOTCONN:
	case EPIPE:
		return L7MP_DROP_NOT_CONNECTED;
	case ECONNREFUSED:
		return L7MP_DROP_REFUSED;
	case EDESTADDRREQ:
		return L7MP_DROP_NO_RECEIVER;
	case EBADMSG:
	case EPROTO:
		return L7MP_DROP_MALFORMED;
	case ENOMEM:
		return L7MP_DROP_MEMORY;
	case ETIME:
		return L7MP_DROP_TTL;
	case ECANCELED:
	case ECONNRESET:
		return L7MP_DROP_CLOSED;
	default:
		return L7MP_DROP_SEND;
	}
}
