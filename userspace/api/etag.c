/* SPDX-License-Identifier: MIT */
/*
 * ETags (RFC 9110, 8.8.3): the version of an object is the number of the commit that put it in;
 * that of a list, of a recursive view or of the whole config is the number of the last commit.
 * A random number of this process comes first, as the numbers begin anew with each start.
 */
#include <string.h>

#include "api_int.h"

static void etag(const struct l7mp_api *api, char kind, uint64_t version, char *buf, size_t size)
{
	snprintf(buf, size, "\"%llx-%c%llu\"", (unsigned long long)api->boot, kind,
	         (unsigned long long)version);
}

static void model_etag(const struct l7mp_api *api, char *buf, size_t size)
{
	etag(api, 'm', l7mp_model_generation(api->params.model), buf, size);
}

void api_set_etag(const struct api_request *rq, const struct l7mp_object *o,
                  struct api_response *rs)
{
	if (!o || rq->recursive)
		model_etag(rq->api, rs->etag, sizeof(rs->etag));
	else
		etag(rq->api, 'o', o->generation, rs->etag, sizeof(rs->etag));
}

/*
 * Returns whether `tag`, with its quotes, is in the list "a", W/"b", "c". Weak ones never match
 * (13.1.1).
 */
static bool listed(const char *list, const char *tag)
{
	size_t len = strlen(tag);

	while (*list) {
		list += strspn(list, " \t,");
		if (!strncmp(list, tag, len) && (!list[len] || strchr(" \t,", list[len])))
			return true;
		list += strcspn(list, ",");
	}
	return false;
}

bool api_if_match(const struct api_request *rq, const struct l7mp_object *o,
                  struct api_response *rs)
{
	char object[48] = "", model[48];

	if (!rq->if_match)
		return true;
	model_etag(rq->api, model, sizeof(model));
	if (o)
		etag(rq->api, 'o', o->generation, object, sizeof(object));
	if (!strcmp(rq->if_match, "*") || listed(rq->if_match, model) ||
	    (o && listed(rq->if_match, object)))
		return true;
	api_fail(rs, 412, "%s has changed: its ETag is %s now, If-Match asks for %.80s",
	         o ? o->name : "the configuration", o ? object : model, rq->if_match);
	return false;
}
