/* SPDX-License-Identifier: MIT */
#include "l7mp/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "loop_int.h"

#define MAX_ADDRS 16

struct l7mp_resolve {
	struct l7mp_loop *loop;
	l7mp_resolve_cb cb; /* NULL: cancelled */
	void *arg;
	uint16_t port;
	uv_getaddrinfo_t req;
	struct l7mp_task task; /* numeric hosts need no thread */
	struct l7mp_addr numeric;
};

static int from_eai(int status)
{
	switch (status) {
	case UV_EAI_AGAIN:
		return -EAGAIN;
	case UV_EAI_MEMORY:
	case UV_ENOMEM:
		return -ENOMEM;
	case UV_ECANCELED:
		return -ECANCELED;
	default:
		return -ENOENT;
	}
}

/* The list without doubles: one per socket type, and mapped addresses beside plain ones. */
static size_t collect(const struct addrinfo *ai, uint16_t port, struct l7mp_addr *out)
{
	size_t n = 0;

	for (; ai && n < MAX_ADDRS; ai = ai->ai_next) {
		size_t i = 0;

		if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
			continue;
		if (l7mp_addr_from_sockaddr(&out[n], ai->ai_addr, ai->ai_addrlen))
			continue;
		l7mp_addr_set_port(&out[n], port);
		while (i < n && !l7mp_addr_equal(&out[i], &out[n]))
			i++;
		if (i == n)
			n++;
	}
	return n;
}

static void resolved_cb(uv_getaddrinfo_t *req, int status, struct addrinfo *ai)
{
	struct l7mp_resolve *r = req->data;
	l7mp_resolve_cb cb = r->cb;
	void *arg = r->arg;
	struct l7mp_addr addrs[MAX_ADDRS];
	size_t n = status ? 0 : collect(ai, r->port, addrs);

	uv_freeaddrinfo(ai);
	free(r);
	if (!cb)
		return;
	if (n)
		cb(arg, 0, addrs, n);
	else
		cb(arg, status ? from_eai(status) : -ENOENT, NULL, 0);
}

static void numeric_cb(struct l7mp_task *task, void *self)
{
	struct l7mp_resolve *r = self;
	l7mp_resolve_cb cb = r->cb;
	void *arg = r->arg;
	struct l7mp_addr addr = r->numeric;

	(void)task;
	free(r);
	if (addr.len)
		cb(arg, 0, &addr, 1);
	else
		cb(arg, -ENOENT, NULL, 0);
}

int l7mp_resolve_start(struct l7mp_loop *loop, const char *host, uint16_t port, int family,
                       l7mp_resolve_cb cb, void *arg, struct l7mp_resolve **out)
{
	struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM};
	struct l7mp_resolve *r = calloc(1, sizeof(*r));
	int rc = 0;

	if (!r)
		return -ENOMEM;
	r->loop = loop;
	r->cb = cb;
	r->arg = arg;
	r->port = port;
	l7mp_task_init(&r->task, numeric_cb, r);
	if (!l7mp_addr_parse(&r->numeric, host, port)) {
		if (family != AF_UNSPEC && l7mp_addr_family(&r->numeric) != family)
			r->numeric.len = 0;
		l7mp_task_post(loop, &r->task);
	} else if (loop->manual) {
		rc = -ENOTSUP;
	} else {
		r->req.data = r;
		rc = uv_getaddrinfo(&loop->uv, &r->req, resolved_cb, host, NULL, &hints);
		/* A name too long or with bytes that no name has is a name that does not exist. */
		if (rc && rc != UV_ENOMEM) {
			rc = 0;
			r->numeric.len = 0;
			l7mp_task_post(loop, &r->task);
		}
	}
	if (rc) {
		free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void l7mp_resolve_cancel(struct l7mp_resolve **rp)
{
	struct l7mp_resolve *r = *rp;

	if (!r)
		return;
	*rp = NULL;
	if (r->task.prev) {
		l7mp_task_cancel(r->loop, &r->task);
		free(r);
		return;
	}
	/* A look-up that a thread has begun can't be stopped: its callback then only frees. */
	r->cb = NULL;
	uv_cancel((uv_req_t *)&r->req);
}
