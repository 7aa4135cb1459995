/* SPDX-License-Identifier: MIT */
/*
 * An HTTP client: libcurl's multi interface, driven by the loop. It is used for the API server of
 * Kubernetes and for the proxies' admin servers: HTTP/1.1 with connections that are kept, TLS whose
 * peer is verified, and bounds on what a peer may send.
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/loop.h"
#include "l7mp/util.h"

struct kube_http;
struct kube_http_request;

/* Makes a client, which keeps at most `connections` idle connections. 0 or a negative errno. */
int kube_http_new(struct l7mp_loop *loop, unsigned connections, struct kube_http **out);
/*
 * Cancels all requests and closes all connections; not from inside of a callback. The loop has to
 * run until its handles are closed (l7mp_loop_free does). Nulls the pointer.
 */
void kube_http_free(struct kube_http **http);

/* The strings are PEM texts, not file names. */
struct kube_http_tls {
	const char *ca; /* who may have signed the peer's certificate; NULL: the system's CAs */
	const char *cert, *key; /* our certificate and its key; NULL: none */
	const char *name; /* what the peer's certificate must be for; NULL: the host of the URL */
	bool insecure;    /* no verification at all */
};

/* The pointers are borrowed for the time of the callback. */
struct kube_http_answer {
	long status;       /* 0: there is none */
	const char *error; /* why the answer is not complete; NULL: it is */
	const char *body;  /* terminated; never NULL; without what `data` took */
	size_t len;
	uint64_t retry_after_ms; /* what the peer asks for; 0: nothing */
};

struct kube_http_call {
	const char *method, *url;   /* http or https */
	const char *const *headers; /* "Name: value" ... NULL; may be NULL */
	const char *body;           /* NULL: none */
	size_t body_len;
	const struct kube_http_tls *tls; /* NULL for http */
	const char *proxy;               /* URL of an HTTP proxy; NULL: none */
	uint64_t timeout_ms;             /* for all of it; 0: none, but connecting has 10 s */
	size_t max_body;                 /* bytes of an answer that are kept; more is an error */
	/*
	 * Takes pieces of a body whose status is 200, instead of keeping it. Must not start, cancel
	 * or free anything of this client; a result other than 0 ends the request with an error.
	 */
	int (*data)(void *arg, const char *bytes, size_t n);
	/*
	 * The end: called once, never from inside kube_http_start, and not after kube_http_cancel.
	 */
	void (*done)(void *arg, const struct kube_http_answer *answer);
	void *arg;
};
/*
 * Starts a request; the call and all that it refers to are borrowed for this function. *out is
 * invalid when `done` has been called. Returns 0, or a negative errno: then nothing is called.
 */
int kube_http_start(struct kube_http *http, const struct kube_http_call *call,
                    struct kube_http_request **out);
/* No callback is called from now on. NULL inside is fine; nulls the pointer. */
void kube_http_cancel(struct kube_http_request **r);

/* Appends `text` with all but unreserved characters escaped (RFC 3986, section 2.3). */
void kube_http_escape(struct l7mp_str *out, const char *text);
