/* SPDX-License-Identifier: MIT */
/*
 * A kubeconfig's exec plugin: a program that prints an ExecCredential
 * (client.authentication.k8s.io/v1). It may run for a minute, and print 256 KiB.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kube_int.h"
#include "l7mp/process.h"

struct pipe_end {
	uv_poll_t *poll; /* NULL: closed */
	int fd;
	struct l7mp_str text;
	size_t max;
	bool too_much;
};

struct kube_exec_run {
	struct l7mp_loop *loop;
	const struct kube_config *config;
	struct l7mp_process *process; /* NULL: has ended */
	struct pipe_end out, err;
	struct l7mp_timer limit;
	struct l7mp_task finish;
	int status, signal;
	bool timed_out;
	void (*done)(void *arg, const struct kube_exec_result *result); /* NULL: cancelled */
	void *arg;
};

static void poll_closed(uv_handle_t *handle)
{
	free(handle);
}

static void end_close(struct pipe_end *e)
{
	if (!e->poll)
		return;
	uv_close((uv_handle_t *)e->poll, poll_closed);
	e->poll = NULL;
	close(e->fd);
}

static void run_free(struct kube_exec_run *r)
{
	end_close(&r->out);
	end_close(&r->err);
	l7mp_timer_stop(r->loop, &r->limit);
	l7mp_task_cancel(r->loop, &r->finish);
	if (r->out.text.s)
		OPENSSL_cleanse(r->out.text.s, r->out.text.len);
	l7mp_str_free(&r->out.text);
	l7mp_str_free(&r->err.text);
	free(r);
}

void kube_exec_parse(const cJSON *root, const char *api_version, struct kube_exec_result *out)
{
	const cJSON *status = l7mp_json_member(root, "status");
	const char *token = l7mp_json_str(status, "token", "");
	const char *cert = l7mp_json_str(status, "clientCertificateData", "");
	const char *key = l7mp_json_str(status, "clientKeyData", "");
	const char *until = l7mp_json_str(status, "expirationTimestamp", "");

	*out = (struct kube_exec_result){0};
	if (strcmp(l7mp_json_str(root, "kind", ""), "ExecCredential") != 0)
		out->error = "expected an object of kind ExecCredential";
	else if (strcmp(l7mp_json_str(root, "apiVersion", ""), api_version) != 0)
		out->error = "it has another apiVersion than was asked for";
	else if (!*token && !*cert)
		out->error = "it has neither a token nor a certificate";
	else if (!*cert != !*key)
		out->error = "a certificate needs its key, and a key its certificate";
	else if (*until && kube_time_parse(until, &out->expires_ms))
		out->error = "expirationTimestamp is no RFC 3339 time";
	for (const char *c = token; *c; c++)
		if (*c <= ' ' || *c > '~')
			out->error = "the token is not one word of printable ASCII";
	if (out->error)
		return;
	out->token = *token ? token : NULL;
	out->cert = *cert ? cert : NULL;
	out->key = *key ? key : NULL;
}

static void finish(struct l7mp_task *task, void *arg)
{
	struct kube_exec_run *r = arg;
	const struct kube_exec *e = &r->config->exec;
	struct kube_exec_result result = {0};
	char *error = NULL, message[128];
	cJSON *root = NULL;
	int line = 0;

	(void)task;
	if (!r->done) {
		run_free(r);
		return;
	}
	if (r->timed_out)
		error = l7mp_asprintf("%s: took more than %d s", e->command, KUBE_EXEC_MS / 1000);
	else if (r->out.too_much)
		error = l7mp_asprintf("%s: printed more than %d bytes", e->command, KUBE_EXEC_MAX);
	else if (r->signal)
		error = l7mp_asprintf("%s: ended by signal %d", e->command, r->signal);
	else if (r->status)
		error = l7mp_asprintf("%s: ended with status %d: %.200s", e->command, r->status,
		                      r->err.text.s ? r->err.text.s : "");
	else
		root = l7mp_json_parse(r->out.text.s ? r->out.text.s : "", r->out.text.len, &line,
		                       message, sizeof(message));
	if (root) {
		kube_exec_parse(root, e->api_version, &result);
		if (result.error)
			error = l7mp_asprintf("%s: %s", e->command, result.error);
	} else if (!error) {
		error = l7mp_asprintf("%s: printed no JSON: line %d: %s", e->command, line,
		                      message);
	}
	if (!root || result.error)
		result = (struct kube_exec_result){.error = error ? error : "out of memory"};
	r->done(r->arg, &result);
	cJSON_Delete(root);
	free(error);
	run_free(r);
}

/* When the process has ended and its output was read to the end. */
static void check_end(struct kube_exec_run *r)
{
	if (!r->process && !r->out.poll && !r->err.poll)
		l7mp_task_post(r->loop, &r->finish);
}

static void on_exit_cb(void *arg, int status, int sig)
{
	struct kube_exec_run *r = arg;

	r->process = NULL;
	r->status = status;
	r->signal = sig;
	/* A child process of the plugin may keep the pipes open: use the output received so far. */
	if (r->timed_out || !r->done) {
		end_close(&r->out);
		end_close(&r->err);
	}
	check_end(r);
}

static void on_limit(struct l7mp_timer *timer, void *arg)
{
	struct kube_exec_run *r = arg;

	(void)timer;
	r->timed_out = true;
	if (r->process) {
		l7mp_process_terminate(r->process, 1000);
		return;
	}
	end_close(&r->out);
	end_close(&r->err);
	check_end(r);
}

static void read_end(struct kube_exec_run *r, struct pipe_end *e)
{
	char buf[4096];
	ssize_t n = read(e->fd, buf, sizeof(buf));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		end_close(e);
		check_end(r);
		return;
	}
	if ((size_t)n > e->max - e->text.len) {
		e->too_much = true;
		n = (ssize_t)(e->max - e->text.len);
	}
	l7mp_str_addn(&e->text, buf, (size_t)n);
	OPENSSL_cleanse(buf, sizeof(buf));
	if (e == &r->out && e->too_much && r->process)
		l7mp_process_terminate(r->process, 1000);
}

static void on_out(uv_poll_t *poll, int status, int events)
{
	struct kube_exec_run *r = poll->data;

	(void)status;
	(void)events;
	read_end(r, &r->out);
}

static void on_err(uv_poll_t *poll, int status, int events)
{
	struct kube_exec_run *r = poll->data;

	(void)status;
	(void)events;
	read_end(r, &r->err);
}

static int watch(struct kube_exec_run *r, struct pipe_end *e, int fd, uv_poll_cb cb)
{
	uv_poll_t *poll = calloc(1, sizeof(*poll));

	if (!poll || uv_poll_init(l7mp_loop_uv(r->loop), poll, fd)) {
		free(poll);
		close(fd);
		return -ENOMEM;
	}
	e->fd = fd;
	e->poll = poll;
	poll->data = r;
	return uv_poll_start(poll, UV_READABLE, cb);
}

/* KUBERNETES_EXEC_INFO, the request for the plugin. */
static char *exec_info(const struct kube_config *c, const char *ca)
{
	cJSON *root = cJSON_CreateObject(), *spec = cJSON_CreateObject(), *cluster = NULL;
	char *text = NULL, *encoded = NULL, *line;
	int rc = l7mp_json_add_str(root, "apiVersion", c->exec.api_version) ||
	         l7mp_json_add_str(root, "kind", "ExecCredential") ||
	         l7mp_json_add_bool(spec, "interactive", false);

	if (c->exec.cluster_info) {
		cluster = cJSON_CreateObject();
		rc = rc || l7mp_json_add_str(cluster, "server", c->server);
		if (c->tls_name)
			rc = rc || l7mp_json_add_str(cluster, "tls-server-name", c->tls_name);
		if (c->insecure)
			rc = rc || l7mp_json_add_bool(cluster, "insecure-skip-tls-verify", true);
		encoded = ca ? kube_base64_encode(ca) : NULL;
		if (ca)
			rc = rc || !encoded ||
			     l7mp_json_add_str(cluster, "certificate-authority-data", encoded);
		free(encoded);
		rc = l7mp_json_add(spec, "cluster", cluster) || rc;
	}
	rc = l7mp_json_add(root, "spec", spec) || rc;
	if (!rc)
		text = cJSON_PrintUnformatted(root);
	cJSON_Delete(root);
	line = text ? l7mp_asprintf("KUBERNETES_EXEC_INFO=%s", text) : NULL;
	free(text);
	return line;
}

static int spawn(struct kube_exec_run *r, const char *ca)
{
	const struct kube_exec *e = &r->config->exec;
	const char *argv[68] = {e->command}, *env[68] = {NULL};
	struct l7mp_process_options options = {
	        .argv = argv,
	        .env = env,
	        .pipes = L7MP_PROCESS_STDOUT | L7MP_PROCESS_STDERR,
	};
	char *info = exec_info(r->config, ca);
	int fds[3], rc;

	if (!info)
		return -ENOMEM;
	for (size_t i = 0; e->args && e->args[i]; i++) /* at most 64 each */
		argv[1 + i] = e->args[i];
	for (size_t i = 0; e->env && e->env[i]; i++)
		env[1 + i] = e->env[i];
	env[0] = info;
	rc = l7mp_process_spawn(r->loop, &options, fds, on_exit_cb, r, &r->process);
	free(info);
	if (rc)
		return rc;
	rc = watch(r, &r->out, fds[1], on_out);
	if (watch(r, &r->err, fds[2], on_err))
		rc = -ENOMEM;
	if (rc) {
		r->done = NULL; /* freed when it has ended */
		l7mp_process_terminate(r->process, 0);
	}
	return rc;
}

int kube_exec_start(struct l7mp_loop *loop, const struct kube_config *config, const char *ca,
                    void (*done)(void *arg, const struct kube_exec_result *result), void *arg,
                    struct kube_exec_run **out)
{
	struct kube_exec_run *r = calloc(1, sizeof(*r));
	int rc;

	*out = NULL;
	if (!r)
		return -ENOMEM;
	r->loop = loop;
	r->config = config;
	r->done = done;
	r->arg = arg;
	r->out.max = KUBE_EXEC_MAX;
	r->err.max = 4096;
	l7mp_timer_init(&r->limit, on_limit, r);
	l7mp_task_init(&r->finish, finish, r);
	rc = l7mp_timer_start(loop, &r->limit, KUBE_EXEC_MS);
	if (!rc)
		rc = spawn(r, ca);
	if (!rc)
		*out = r;
	else if (!r->process)
		run_free(r);
	return rc;
}

void kube_exec_cancel(struct kube_exec_run **pp)
{
	struct kube_exec_run *r = *pp;

	if (!r)
		return;
	*pp = NULL;
	r->done = NULL;
	end_close(&r->out);
	end_close(&r->err);
	if (r->process)
		l7mp_process_terminate(r->process, 0);
	else
		run_free(r);
}
