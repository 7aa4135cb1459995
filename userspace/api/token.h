/* SPDX-License-Identifier: MIT */
/* The token of admin.api_token_file, and the rate limit of wrong tokens. Thread: loop only. */
#pragma once

#include <stdbool.h>

#include "l7mp/addr.h"
#include "l7mp/error.h"
#include "l7mp/loop.h"

struct api_token;

int api_token_new(struct l7mp_loop *loop, struct api_token **out);
void api_token_free(struct api_token **t);

/*
 * Sets the file, which is read for each request, so that a token is changed by replacing it; NULL:
 * none. It must be a regular file of root or of the proxy's user, and not readable or writable by
 * others. Returns 0, or a negative errno with err: the old one stays.
 */
int api_token_set_file(struct api_token *t, const char *path, struct l7mp_error *err);
bool api_token_is_set(const struct api_token *t);

enum api_token_verdict {
	API_TOKEN_RIGHT,
	API_TOKEN_WRONG,
	API_TOKEN_TOO_OFTEN, /* too many wrong tokens of the source */
};
/*
 * Checks `authorization` (the header's value, or NULL). `source` is the client's address; len 0: a
 * UNIX client. The token of a source that is not `local` is ignored while the source has sent too
 * many wrong ones. One on this host is always checked: an attacker there can't be distinguished
 * from the operator, who must not be locked out. Takes the same time for every wrong token.
 */
enum api_token_verdict api_token_check(struct api_token *t, const char *authorization,
                                       const struct l7mp_addr *source, bool local);
