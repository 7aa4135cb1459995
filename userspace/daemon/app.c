/* SPDX-License-Identifier: MIT */
/* The application object: makes the layers, connects them, runs the loop, and frees them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "app_int.h"
#include "l7mp/log.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"

static void session_ended(void *arg, const struct l7mp_session *session)
{
	struct l7mp_app *app = arg;

	l7mp_access_log_write(&app->access_log, session);
	if (!app->stopping)
		l7mp_trim_soon(&app->trim);
}

/* A relay needs many descriptors: raises the soft limit to the hard limit. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void on_quit(struct l7mp_task *task, void *arg)
{
	(void)task;
	l7mp_app_stop(arg);
}

/* env.quit */
static void quit(struct l7mp_env *env, int status)
{
	struct l7mp_app *app = l7mp_container_of(env, struct l7mp_app, env);

	app->status = status;
	l7mp_task_post(app->loop, &app->quit_task);
}

static int make_layers(struct l7mp_app *app)
{
	struct l7mp_sessions_params sessions = {
	        .env = &app->env, .offload = NULL, .ended = session_ended, .arg = app};
	struct l7mp_api_params api;
	int rc = l7mp_loop_new(&app->loop);

	if (rc)
		return rc;
	l7mp_task_init(&app->quit_task, on_quit, app);
	app->env.quit = quit;
	app->env.loop = app->loop;
	app->env.stats = &app->stats;
	app->env.limits = &l7mp_model_admin(app->model)->limits;
	rc = l7mp_splice_limit(app->loop, &app->env.limits->max_pipes);
	if (rc)
		return rc;
	app->env.protos = l7mp_all_protos;
	app->env.model = app->model;
	app->env.states = calloc(l7mp_all_protos_count(), sizeof(*app->env.states));
	if (!app->env.states)
		return -ENOMEM;
	rc = l7mp_app_make_offload(app);
	if (rc)
		return rc;
	sessions.offload = l7mp_offload_ops(app->offload);
	rc = l7mp_sessions_new(&sessions, &app->sessions);
	if (!rc)
		rc = l7mp_runtime_new(&app->env, app->sessions, &app->runtime);
	if (rc)
		return rc;
	l7mp_trim_init(&app->trim, app->loop, app->sessions);
	l7mp_notify_init(&app->notify, app->loop);
	memset(&api, 0, sizeof(api));
	api.env = &app->env;
	api.model = app->model;
	api.runtime = app->runtime;
	api.sessions = app->sessions;
	api.registry = &l7mp_all_registry;
	l7mp_app_offload_views(app, &api);
	rc = l7mp_api_new(&api, &app->api);
	if (!rc)
		rc = l7mp_api_server_new(app->api, &app->admin_server);
	if (!rc)
		app->env.app = app->api;
	return rc;
}

int l7mp_app_new(const struct l7mp_options *options, struct l7mp_app **out)
{
	struct l7mp_app *app = calloc(1, sizeof(*app));
	int rc;

	if (!app)
		return -ENOMEM;
	*out = app;
	app->options = *options;
	app->config_path = options->config ? strdup(options->config) : NULL;
	rc = l7mp_model_new(&l7mp_all_registry, &app->model);
	if (!rc)
		rc = l7mp_app_read_config(app, true, &app->initial);
	if (rc)
		return rc;
	if (options->check_only) {
		printf("%s: the configuration is valid\n",
		       options->config ? options->config : "command line");
		return 0;
	}
	raise_descriptor_limit();
	rc = make_layers(app);
	if (rc)
		fprintf(stderr, "l7mp-proxy: can't start: %s\n", strerror(-rc));
	return rc;
}

static void on_admin(void *arg, const struct l7mp_admin *admin)
{
	struct l7mp_app *app = arg;
	struct l7mp_error err = {0};

	if (l7mp_app_use_admin(app, admin, &err))
		l7mp_log_error("daemon", "%s", err.message);
	if (l7mp_app_use_offload(app, admin, &err))
		l7mp_log_error("daemon", "%s", err.message);
	l7mp_api_server_commit(app->admin_server, &admin->server);
}

/* Does the part of a change. */
static int before_admin(void *arg, const struct l7mp_admin *next, struct l7mp_error *err)
{
	struct l7mp_app *app = arg;

	return l7mp_api_server_prepare(app->admin_server, &next->server, err);
}

static int start(struct l7mp_app *app)
{
	const struct l7mp_admin *admin = l7mp_change_new_admin(app->initial);
	struct l7mp_error err = {0};
	int rc;

	if (!admin)
		admin = l7mp_model_admin(app->model);
	rc = l7mp_app_use_admin(app, admin, &err);
	if (!rc)
		rc = l7mp_app_use_offload(app, admin, &err);
	if (!rc)
		rc = l7mp_runtime_apply(app->runtime, app->initial, &err);
	/* Its port accepts at once, and tells thereby that all listeners are there. */
	if (!rc)
		rc = l7mp_api_server_prepare(app->admin_server,
		                             &l7mp_model_admin(app->model)->server, &err);
	l7mp_change_free(&app->initial);
	if (rc)
		l7mp_app_report_error(app, true, &err);
	l7mp_document_free(&app->document);
	if (rc)
		return rc;
	l7mp_api_server_commit(app->admin_server, &l7mp_model_admin(app->model)->server);
	l7mp_api_set_ready(app->api);
	l7mp_runtime_before_admin(app->runtime, before_admin);
	l7mp_runtime_on_admin(app->runtime, on_admin, app);
	rc = l7mp_app_watch_signals(app);
	if (rc)
		fprintf(stderr, "l7mp-proxy: can't watch signals: %s\n", uv_strerror(rc));
	return rc;
}

int l7mp_app_run(struct l7mp_app *app)
{
	int rc;

	l7mp_app_hold_signals();
	rc = start(app);
	if (rc) {
		/* Frees what was made so far as at a normal end. */
		l7mp_app_stop(app);
		l7mp_loop_run(app->loop);
		return rc;
	}
	l7mp_log_notice("daemon", "l7mp " L7MP_VERSION " is ready");
	l7mp_notify_send(&app->notify, "READY=1");
	l7mp_loop_run(app->loop);
	l7mp_log_notice("daemon", "stopped");
	return app->status;
}

void l7mp_app_free(struct l7mp_app **pp)
{
	struct l7mp_app *app = *pp;

	if (!app)
		return;
	*pp = NULL;
	l7mp_change_free(&app->initial);
	l7mp_document_free(&app->document);
	l7mp_api_server_free(&app->admin_server);
	if (app->api)
		l7mp_api_free(&app->api);
	if (app->runtime)
		l7mp_runtime_free(&app->runtime);
	if (app->sessions)
		l7mp_sessions_free(&app->sessions);
	l7mp_offload_free(&app->offload);
	l7mp_model_free(&app->model);
	if (app->loop && l7mp_loop_free(&app->loop))
		l7mp_log_error("daemon", "a module left a handle open at the end");
	free(app->env.states);
	free(app->config_path);
	l7mp_access_log_end(&app->access_log);
	l7mp_log_close();
	free(app);
}
