/* SPDX-License-Identifier: MIT */
/* Requests to the API server, with the configured credentials. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kube_int.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"

#define TIMEOUT_MS 30000
#define ANSWER_MAX (4 * 1024 * 1024)
/* Credentials of an exec plugin are renewed this long before they expire. */
#define EXPIRY_MS 10000

struct kube_client {
	struct l7mp_loop *loop;
	struct kube_config *config;
	struct kube_http *http;
	struct kube_request *requests; /* utlist: all of them */
	struct kube_client_stats stats;
	unsigned generation; /* of the credentials */
	/* The exec plugin: its last result, and the run in progress. */
	struct kube_exec_run *exec;
	bool exec_has;
	char *exec_token, *exec_cert, *exec_key;
	uint64_t exec_expires_ms; /* wall clock; 0: never */
	struct kube_backoff exec_backoff;
	uint64_t exec_again_ms; /* loop time; not before */
	char exec_error[256];
};

enum state { WAITING, SENT, FAILED };

struct kube_request {
	struct kube_request *prev, *next;
	struct kube_client *client;
	enum state state;
	struct kube_http_request *http;
	struct kube_call call; /* its pointers are owned copies: */
	char *path, *body;
	unsigned generation; /* of the credentials that it was sent with */
	bool again;          /* this is the retry after a 401 */
	struct l7mp_task task;
	char error[512]; /* of a failed one */
};

static void request_free(struct kube_request *r)
{
	kube_http_cancel(&r->http);
	l7mp_task_cancel(r->client->loop, &r->task);
	DL_DELETE(r->client->requests, r);
	free(r->path);
	free(r->body);
	free(r);
}

/* Reports a local failure from a later iteration. */
static void fail_later(struct kube_request *r, const char *text)
{
	r->state = FAILED;
	snprintf(r->error, sizeof(r->error), "%s", text);
	l7mp_task_post(r->client->loop, &r->task);
}

static void finish(struct kube_request *r, const struct kube_http_answer *a)
{
	struct kube_client *c = r->client;

	if (a->error || a->status < 200 || a->status > 299)
		c->stats.errors++;
	r->call.done(r->call.arg, a);
	request_free(r);
}

static void fail_now(struct l7mp_task *task, void *arg)
{
	struct kube_request *r = arg;
	struct kube_http_answer a = {.error = r->error, .body = ""};

	(void)task;
	finish(r, &a);
}

/* ---- credentials ---- */

static void forget(char **secret)
{
	if (*secret)
		OPENSSL_cleanse(*secret, strlen(*secret));
	free(*secret);
	*secret = NULL;
}

static void send_waiting(struct kube_client *c);

static void exec_done(void *arg, const struct kube_exec_result *result)
{
	struct kube_client *c = arg;

	c->exec = NULL;
	forget(&c->exec_token);
	forget(&c->exec_cert);
	forget(&c->exec_key);
	c->generation++;
	c->exec_has = !result->error;
	if (result->error) {
		snprintf(c->exec_error, sizeof(c->exec_error), "exec: %s", result->error);
		c->exec_again_ms = l7mp_loop_now(c->loop) + kube_backoff_next(&c->exec_backoff);
	} else {
		kube_backoff_reset(&c->exec_backoff);
		c->exec_token = result->token ? strdup(result->token) : NULL;
		c->exec_cert = result->cert ? strdup(result->cert) : NULL;
		c->exec_key = result->key ? strdup(result->key) : NULL;
		c->exec_expires_ms = result->expires_ms;
	}
	send_waiting(c);
}

/* Returns 0: credentials available; -EAGAIN: wait; other: none, and err says why. */
static int exec_ready(struct kube_client *c, struct l7mp_error *err)
{
	uint64_t now = l7mp_loop_now(c->loop);
	int rc;

	if (c->exec)
		return -EAGAIN;
	if (c->exec_has &&
	    (!c->exec_expires_ms || l7mp_wallclock_ms() + EXPIRY_MS < c->exec_expires_ms))
		return 0;
	if (now < c->exec_again_ms)
		return l7mp_error_set(err, -EACCES, L7MP_ERR_REALISE, "%s", c->exec_error);
	/* Credentials that expire within a moment would be requested in an endless loop. */
	c->exec_again_ms = now + 1000;
	rc = kube_exec_start(c->loop, c->config, c->config->ca.text, exec_done, c, &c->exec);
	if (!rc)
		return -EAGAIN;
	c->exec_again_ms = now + kube_backoff_next(&c->exec_backoff);
	snprintf(c->exec_error, sizeof(c->exec_error), "exec: can't run '%.100s': %s%s%.100s",
	         c->config->exec.command, l7mp_errno_text(rc), c->config->exec.hint ? ". " : "",
	         c->config->exec.hint ? c->config->exec.hint : "");
	return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s", c->exec_error);
}

static int credentials(struct kube_client *c, bool now, struct l7mp_error *err)
{
	struct kube_config *g = c->config;
	struct kube_file *const files[] = {&g->ca, &g->cert, &g->key, &g->token};
	uint64_t ms = l7mp_loop_now(c->loop);

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(files); i++) {
		int rc = kube_file_read(files[i], ms, now, err);

		if (rc)
			return rc;
	}
	/* A token has precedence, as with client-go. */
	return g->exec.command && !g->token.text ? exec_ready(c, err) : 0;
}

/* After a 401: returns whether a retry with new credentials makes sense. */
static bool reauthenticate(struct kube_client *c, unsigned used)
{
	if (used != c->generation)
		return true; /* renewed for another request */
	if (!c->config->token.path && !c->config->cert.path && !c->config->exec.command)
		return false;
	c->stats.reauthentications++;
	c->generation++;
	c->exec_has = false;
	return !c->config->token.path || !credentials(c, true, NULL);
}

/* ---- sending ---- */

static void on_answer(void *arg, const struct kube_http_answer *a)
{
	struct kube_request *r = arg;

	r->http = NULL;
	if (a->status == 401 && !r->again && reauthenticate(r->client, r->generation)) {
		r->again = true;
		r->state = WAITING;
		send_waiting(r->client);
		return;
	}
	finish(r, a);
}

static int on_data(void *arg, const char *bytes, size_t n)
{
	struct kube_request *r = arg;

	return r->call.data(r->call.arg, bytes, n);
}

static int start(struct kube_request *r)
{
	struct kube_client *c = r->client;
	const struct kube_config *g = c->config;
	const char *token = g->token.text ? g->token.text : c->exec_token;
	char *url = l7mp_asprintf("%s%s", g->server, r->path), *bearer = NULL, *accept, *type;
	struct kube_http_tls tls = {
	        .ca = g->ca.text,
	        .cert = g->cert.text ? g->cert.text : c->exec_cert,
	        .key = g->key.text ? g->key.text : c->exec_key,
	        .name = g->tls_name,
	        .insecure = g->insecure,
	};
	const char *headers[4] = {NULL};
	struct kube_http_call call = {
	        .method = r->call.method,
	        .url = url,
	        .headers = headers,
	        .body = r->body,
	        .body_len = r->body ? strlen(r->body) : 0,
	        .tls = &tls,
	        .proxy = g->proxy,
	        .timeout_ms = r->call.timeout_ms ? r->call.timeout_ms : TIMEOUT_MS,
	        .max_body = ANSWER_MAX,
	        .data = r->call.data ? on_data : NULL,
	        .done = on_answer,
	        .arg = r,
	};
	int rc = -ENOMEM;

	accept = l7mp_asprintf("Accept: %s", r->call.accept ? r->call.accept : "application/json");
	type = l7mp_asprintf("Content-Type: %s",
	                     r->call.content_type ? r->call.content_type : "application/json");
	if (token)
		bearer = l7mp_asprintf("Authorization: Bearer %s", token);
	headers[0] = accept;
	headers[1] = type;
	headers[2] = bearer;
	if (url && accept && type && (bearer || !token))
		rc = kube_http_start(c->http, &call, &r->http);
	free(url);
	free(accept);
	free(type);
	if (bearer)
		forget(&bearer);
	r->generation = c->generation;
	return rc;
}

static void try_to_send(struct kube_request *r)
{
	struct l7mp_error err = {0};
	int rc = credentials(r->client, false, &err);

	if (rc == -EAGAIN)
		return;
	if (rc) {
		fail_later(r, err.message);
		return;
	}
	rc = start(r);
	if (rc)
		fail_later(r, l7mp_errno_text(rc));
	else
		r->state = SENT;
}

static void send_waiting(struct kube_client *c)
{
	struct kube_request *r, *next;

	DL_FOREACH_SAFE (c->requests, r, next)
		if (r->state == WAITING)
			try_to_send(r);
}

int kube_request_start(struct kube_client *c, const struct kube_call *call,
                       struct kube_request **out)
{
	struct kube_request *r = calloc(1, sizeof(*r));

	*out = NULL;
	if (!r)
		return -ENOMEM;
	r->client = c;
	r->call = *call;
	r->path = strdup(call->path);
	r->body = call->body ? cJSON_PrintUnformatted(call->body) : NULL;
	l7mp_task_init(&r->task, fail_now, r);
	DL_APPEND(c->requests, r);
	if (!r->path || (call->body && !r->body)) {
		request_free(r);
		return -ENOMEM;
	}
	c->stats.requests++;
	try_to_send(r);
	*out = r;
	return 0;
}

void kube_request_cancel(struct kube_request **r)
{
	if (*r)
		request_free(*r);
	*r = NULL;
}

/* ---- answers ---- */

const char *kube_answer_text(const struct kube_http_answer *a, char *buf, size_t size)
{
	cJSON *root;

	if (a->error) {
		snprintf(buf, size, "%s", a->error);
		return buf;
	}
	root = l7mp_json_parse(a->body, a->len, NULL, NULL, 0);
	snprintf(buf, size, "%ld: %s", a->status,
	         l7mp_json_str(root, "message", "no message from the API server"));
	cJSON_Delete(root);
	return buf;
}

cJSON *kube_answer_json(const struct kube_http_answer *a)
{
	if (a->error || a->status < 200 || a->status > 299)
		return NULL;
	return l7mp_json_parse(a->body, a->len, NULL, NULL, 0);
}

static void add_segment(struct l7mp_str *out, const char *segment)
{
	l7mp_str_add(out, "/");
	kube_http_escape(out, segment);
}

void kube_path(struct l7mp_str *out, const struct kube_resource *res, const char *ns,
               const char *name, const char *sub)
{
	l7mp_str_add(out, *res->group ? "/apis" : "/api");
	if (*res->group)
		add_segment(out, res->group);
	add_segment(out, res->version);
	if (ns && *ns) {
		l7mp_str_add(out, "/namespaces");
		add_segment(out, ns);
	}
	add_segment(out, res->plural);
	if (name)
		add_segment(out, name);
	if (name && sub)
		add_segment(out, sub);
}

/* ---- the client ---- */

int kube_client_new(struct l7mp_loop *loop, struct kube_config *config, struct kube_client **out)
{
	struct kube_client *c = calloc(1, sizeof(*c));
	int rc = -ENOMEM;

	*out = NULL;
	if (c)
		rc = kube_http_new(loop, 16, &c->http);
	if (rc) {
		free(c);
		kube_config_free(&config);
		return rc;
	}
	c->loop = loop;
	c->config = config;
	c->exec_backoff = (struct kube_backoff){.min_ms = 1000, .max_ms = 30000};
	*out = c;
	return 0;
}

void kube_client_free(struct kube_client **pp)
{
	struct kube_client *c = *pp;

	if (!c)
		return;
	*pp = NULL;
	while (c->requests)
		request_free(c->requests);
	kube_exec_cancel(&c->exec);
	kube_http_free(&c->http);
	forget(&c->exec_token);
	forget(&c->exec_cert);
	forget(&c->exec_key);
	kube_config_free(&c->config);
	free(c);
}

const struct kube_config *kube_client_config(const struct kube_client *c)
{
	return c->config;
}

struct l7mp_loop *kube_client_loop(const struct kube_client *c)
{
	return c->loop;
}

const struct kube_client_stats *kube_client_stats(const struct kube_client *c)
{
	return &c->stats;
}
