/* SPDX-License-Identifier: MIT */
#include "l7mp/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ISSUES_KEPT 64

int l7mp_error_set(struct l7mp_error *err, int rc, enum l7mp_code code, const char *fmt, ...)
{
	char message[sizeof(err->message)];
	va_list ap;

	if (!err)
		return rc;
	/* The arguments may point into *err. */
	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	err->code = code;
	err->line = 0;
	err->path[0] = '\0';
	memcpy(err->message, message, sizeof(message));
	return rc;
}

const char *l7mp_error_text(const struct l7mp_error *err, char *buf, size_t size)
{
	if (size)
		snprintf(buf, size, "%s%s%s", err->path, err->path[0] ? ": " : "", err->message);
	return buf;
}

void l7mp_issues_init(struct l7mp_issues *is, bool strict)
{
	*is = (struct l7mp_issues){.strict = strict};
}

static void issue_clear(struct l7mp_issue *issue)
{
	free(issue->path);
	free(issue->reason);
}

void l7mp_issues_clear(struct l7mp_issues *is)
{
	for (size_t i = 0; i < is->n; i++)
		issue_clear(&is->v[i]);
	free(is->v);
	l7mp_issues_init(is, is->strict);
}

/*
 * Adds an issue and takes its strings; when these are NULL (out of memory) it is only counted. In a
 * full list an error replaces a warning, so that there is always an error to report.
 */
static void issues_put(struct l7mp_issues *is, struct l7mp_issue issue)
{
	size_t at = is->n;

	if (!issue.warning)
		is->errors++;
	if (!is->v)
		is->v = calloc(ISSUES_KEPT, sizeof(*is->v));
	if (!is->v || !issue.path || !issue.reason)
		goto drop;
	if (is->n == ISSUES_KEPT) {
		if (issue.warning)
			goto drop;
		while (at > 0 && !is->v[at - 1].warning)
			at--;
		if (at == 0)
			goto drop;
		at--;
		issue_clear(&is->v[at]);
	} else {
		is->n++;
	}
	is->v[at] = issue;
	return;
drop:
	issue_clear(&issue);
}

void l7mp_issues_add(struct l7mp_issues *is, bool warning, const struct cJSON *node,
                     const char *path, const char *fmt, ...)
{
	struct l7mp_issue issue = {.warning = warning, .node = node, .path = strdup(path)};
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&issue.reason, fmt, ap) < 0)
		issue.reason = NULL;
	va_end(ap);
	issues_put(is, issue);
}

void l7mp_issues_first(const struct l7mp_issues *is, struct l7mp_error *err)
{
	if (!is->errors || !err)
		return;
	for (size_t i = 0; i < is->n; i++) {
		if (is->v[i].warning)
			continue;
		l7mp_error_set(err, 0, L7MP_ERR_SCHEMA, "%s", is->v[i].reason);
		snprintf(err->path, sizeof(err->path), "%s", is->v[i].path);
		return;
	}
	l7mp_error_set(err, 0, L7MP_ERR_INTERNAL, "out of memory");
}

const char *l7mp_errno_text(int err)
{
	if (err < 0)
		err = -err;
	switch (err) {
	case EACCES:
	case EPERM:
		return "permission denied";
	case EADDRINUSE:
		return "address already in use";
	case EADDRNOTAVAIL:
		return "not an address of this host";
	case EAFNOSUPPORT:
		return "address family not supported here";
	case ECONNREFUSED:
		return "connection refused";
	case ECONNRESET:
		return "connection reset by the peer";
	case EPIPE:
		return "the peer has closed the connection";
	case ETIMEDOUT:
		return "timed out";
	case EHOSTUNREACH:
		return "no route to the host";
	case ENETUNREACH:
		return "network is unreachable";
	case ENOENT:
		return "no such name or file";
	case EAGAIN:
		return "temporarily not possible";
	case EMSGSIZE:
		return "message too long";
	case EMFILE:
	case ENFILE:
		return "out of file descriptors";
	case ENOMEM:
	case ENOBUFS:
		return "out of memory";
	default:
		return strerrordesc_np(err) ? strerrordesc_np(err) : "unknown error";
	}
}
