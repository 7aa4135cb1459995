/* SPDX-License-Identifier: MIT */
/* Metadata of a session from a request's head. Thread: any. */
#pragma once

#include "head.h"
#include "l7mp/addr.h"
#include "l7mp/json.h"

/*
 * Returns {version, method, url: {url, href, protocol, host, port, path, query}, headers}: the
 * value of `HTTP` in a session's metadata. `scheme` is "http", "https", "ws" or "wss". Field names
 * are in lower case; repeated fields are joined by ", " (Cookie by "; "). Bytes that are not UTF-8
 * are interpreted as Latin-1. `local` replaces a missing Host. Owned by the caller; NULL: no
 * memory.
 */
cJSON *l7mp_http_request_metadata(const struct l7mp_http_request *req, const char *scheme,
                                  const struct l7mp_addr *local);

/* Adds a string that need not be UTF-8, as above. Returns 0 or -ENOMEM. */
int l7mp_http_add_text(cJSON *object, const char *key, const char *text);
