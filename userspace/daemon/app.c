/* SPDX-License-Identifier: MIT */
/*
 * The application object: creates the layers, connects them, reads the config, runs the loop,
 * handles signals, reloads, shuts down, and frees the layers.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app_int.h"
#include "l7mp/change.h"
#include "l7mp/config.h"
#include "l7mp/log.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"

/* ---- the fast path: settings from admin, views for the API ---- */

/*
 * Applies the fast path's settings. Returns 0, also when the kernel lacks support; a negative errno
 * with err only when another process has the instance.
 */
static int use_offload(struct l7mp_app *app, const struct l7mp_admin *admin, struct l7mp_error *err)
{
	return l7mp_offload_reconfigure(app->offload, admin, err);
}

static cJSON *offload_view(void *arg)
{
	struct l7mp_app *app = arg;

	return l7mp_offload_to_json(app->offload);
}

static cJSON *offload_flow(void *arg, struct l7mp_flow *f)
{
	struct l7mp_app *app = arg;

	return l7mp_offload_flow_to_json(app->offload, f);
}

static void offload_metrics(void *arg, struct l7mp_str *out)
{
	struct l7mp_app *app = arg;

	l7mp_offload_metrics(app->offload, out);
}

/* Makes an idle engine. Returns 0 or a negative errno. */
static int make_offload(struct l7mp_app *app)
{
	const struct l7mp_offload_params params = {.loop = app->loop, .stats = &app->stats};

	return l7mp_offload_new(&params, &app->offload);
}

static cJSON *upgrade_view(void *arg);
static int api_upgrade(void *arg, struct l7mp_error *err);

/* Sets the functions behind GET /offload, the metrics, and upgrades. */
static void set_views(struct l7mp_app *app, struct l7mp_api_params *api)
{
	api->offload = offload_view;
	api->offload_flow = offload_flow;
	api->metrics = offload_metrics;
	api->upgrade = upgrade_view;
	api->begin_upgrade = api_upgrade;
	api->arg = app;
}

/* ---- the config file: reading it, reporting errors, reloading it ---- */

/* At startup issues are printed on stderr for the user; at a reload they are logged. */
static void report(bool at_start, bool warning, const char *text)
{
	if (at_start)
		fprintf(stderr, "l7mp-proxy: %s%s\n", warning ? "warning: " : "", text);
	else
		l7mp_log(warning ? L7MP_LOG_WARN : L7MP_LOG_ERROR, "config", "%s", text);
}

/* A file may also have everything below `config`, as POST /config does. */
static cJSON *unwrap(cJSON *root)
{
	cJSON *inner = l7mp_json_member(root, "config");

	return cJSON_IsObject(inner) && cJSON_GetArraySize(root) == 1 ? inner : root;
}

/*
 * Returns the line of "listeners[0].spec.port" in the file that was read last. The path is followed
 * as far as it exists: a missing node has the line of its parent. 0: unknown.
 */
static int line_of(const struct l7mp_app *app, const char *path)
{
	const cJSON *node = app->document ? unwrap(l7mp_document_root(app->document)) : NULL;
	int line = 0;

	while (node && *path) {
		bool index = *path == '[';
		size_t len;
		char key[256];
		int at;

		path += index || *path == '.';
		len = strcspn(path, index ? "]" : ".[");
		if (!len || len >= sizeof(key))
			break;
		memcpy(key, path, len);
		key[len] = '\0';
		path += len + (index && path[len] == ']');
		node = index ? cJSON_GetArrayItem(node, atoi(key)) : l7mp_json_member(node, key);
		at = node ? l7mp_document_line(app->document, node) : 0;
		if (at)
			line = at;
	}
	return line;
}

/*
 * Returns the prefix of a finding: "file:12: listeners[0].spec.port: ", or, for a one-liner,
 * "argument 1 ('UDP-LISTEN:x'): spec.port: ".
 */
static const char *place(const struct l7mp_app *app, const char *path, int line, char *buf,
                         size_t size)
{
	const char *colon = *path ? ": " : "";
	char where[200];

	if (!app->options.config)
		snprintf(buf, size, "%s: %s%s",
		         l7mp_oneliner_where(&app->options.oneliner, path, where, sizeof(where))
		                 ? where
		                 : "command line",
		         path, colon);
	else if (line)
		snprintf(buf, size, "%s:%d: %s%s", app->options.config, line, path, colon);
	else
		snprintf(buf, size, "%s: %s%s", app->options.config, path, colon);
	return buf;
}

/* Reports an error in one line, with the place in the file if it is known. */
static void report_error(const struct l7mp_app *app, bool at_start, const struct l7mp_error *err)
{
	const char *file = app->options.config;
	char text[1400];
	char where[800];
	int line = err->line ? err->line : line_of(app, err->path);

	/* The message already names the file or the argument. */
	if (file ? strstr(err->message, file) != NULL : !app->document)
		snprintf(text, sizeof(text), "%s", err->message);
	else
		snprintf(text, sizeof(text), "%s%s",
		         place(app, err->path, line, where, sizeof(where)), err->message);
	report(at_start, false, text);
}

static void report_issues(const struct l7mp_app *app, bool at_start,
                          const struct l7mp_issues *issues)
{
	char text[1400], where[800];

	for (size_t i = 0; i < issues->n; i++) {
		const struct l7mp_issue *is = &issues->v[i];
		int line = is->node ? l7mp_document_line(app->document, is->node)
		                    : line_of(app, is->path ? is->path : "");

		snprintf(text, sizeof(text), "%s%s",
		         place(app, is->path ? is->path : "", line, where, sizeof(where)),
		         is->reason);
		report(at_start, is->warning, text);
	}
}

static bool is_strict(const cJSON *config)
{
	return l7mp_json_bool(l7mp_json_member(config, "admin"), "strict", false);
}

/* Loads the file, or translates the two addresses. */
static int load(struct l7mp_app *app, struct l7mp_error *err)
{
	const char *path = app->config_path ? app->config_path : app->options.config;
	cJSON *config;

	if (path)
		return l7mp_document_load(path, &app->document, err);
	config = l7mp_oneliner_config(&l7mp_all_registry, &app->options.oneliner, err);
	if (!config)
		return -EINVAL;
	return l7mp_document_from_tree(config, &app->document, err);
}

/*
 * Reads the file and builds the change that makes the model equal to it. Findings are reported
 * (stderr at start, the log at a reload). 0 or negative errno.
 */
static int read_config(struct l7mp_app *app, bool at_start, struct l7mp_change **out)
{
	struct l7mp_change *change = NULL;
	struct l7mp_error err = {0};
	cJSON *config;
	int rc;

	l7mp_document_free(&app->document);
	rc = load(app, &err);
	if (rc) {
		report_error(app, at_start, &err);
		return rc;
	}
	config = unwrap(l7mp_document_root(app->document));
	if (!cJSON_IsObject(config)) {
		l7mp_error_set(&err, 0, L7MP_ERR_SCHEMA, "expected an object, got %s",
		               l7mp_json_type(config));
		report_error(app, at_start, &err);
		return -EINVAL;
	}
	rc = l7mp_options_override(&app->options, config);
	if (!rc)
		rc = l7mp_change_new(app->model, is_strict(config), &change);
	if (!rc) {
		rc = l7mp_change_config(change, config, "", &err);
		report_issues(app, at_start, l7mp_change_issues(change));
		/* The issues were reported; the error only summarises them. */
		if (rc && !l7mp_change_issues(change)->errors)
			report_error(app, at_start, &err);
	} else {
		report(at_start, false, strerror(-rc));
	}
	if (rc)
		l7mp_change_free(&change);
	*out = change;
	return rc;
}

/*
 * Applies the admin object's settings: log, access log, token. Returns 0, or a negative errno with
 * err; settings before the one that failed are applied then.
 */
static int use_admin(struct l7mp_app *app, const struct l7mp_admin *admin, struct l7mp_error *err)
{
	int rc;

	l7mp_log_set_level(admin->log_level);
	rc = l7mp_log_open(admin->log_file, admin->log_json);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE,
		                      "admin.log_file: can't open '%s': %s", admin->log_file,
		                      strerror(-rc));
	rc = l7mp_access_log_open(&app->access_log, admin->access_log_path);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE,
		                      "admin.access_log_path: can't open '%s': %s",
		                      admin->access_log_path, strerror(-rc));
	return l7mp_api_set_token_file(app->api, admin->api_token_file, err);
}

/* Keeps references to objects that the change deletes, for the log. */
static void hold_vanishing(struct l7mp_app *app, const struct l7mp_change *change)
{
	size_t n = l7mp_change_count(change);

	app->vanished = calloc(n + 1, sizeof(struct l7mp_object *));
	app->n_vanished = 0;
	for (size_t i = 0; app->vanished && i < n; i++) {
		const struct l7mp_change_item *item = l7mp_change_item(change, i);

		if (item->old_object && !item->new_object)
			app->vanished[app->n_vanished++] = l7mp_object_ref(item->old_object);
	}
}

/* Certificates may have changed even if the config has not. */
static void reload_protocols(struct l7mp_app *app)
{
	for (size_t i = 0; app->env.protos[i]; i++)
		if (app->env.states[i] && app->env.protos[i]->reload)
			app->env.protos[i]->reload(&app->env, app->env.states[i]);
}

/*
 * Runs in a worker thread: reading the file, checking it and computing the difference may take
 * long.
 */
static struct l7mp_change *reload_build(void *arg)
{
	struct l7mp_app *app = arg;
	struct l7mp_change *change = NULL;

	if (read_config(app, false, &change))
		return NULL;
	hold_vanishing(app, change);
	return change;
}

static void reload(struct l7mp_app *app);

static void reload_over(struct l7mp_app *app)
{
	free(app->vanished);
	app->vanished = NULL;
	app->n_vanished = app->at_vanished = 0;
	l7mp_document_free(&app->document);
	app->reloading = false;
	if (app->reload_again) {
		app->reload_again = false;
		reload(app);
	} else if (!app->stopping) {
		l7mp_notify_send(&app->notify, "READY=1");
	}
}

/* Logs each deleted object, in slices, as there may be many. */
static void reload_report(struct l7mp_slice *slice, void *arg)
{
	struct l7mp_app *app = arg;

	while (app->at_vanished < app->n_vanished) {
		struct l7mp_object *o = app->vanished[app->at_vanished++];

		if (app->reload_applied)
			l7mp_log_notice("config", "reload removes %s '%s'",
			                l7mp_obj_kind_name(o->kind), o->name);
		l7mp_object_unref(o);
		if (!l7mp_slice_over(app->loop))
			continue;
		l7mp_slice_post(app->loop, slice);
		return;
	}
	if (app->reload_applied) {
		l7mp_log_notice("daemon", "reloaded: %zu objects changed", app->n_changed);
		reload_protocols(app);
	}
	reload_over(app);
}

static void reload_done(void *arg, struct l7mp_change *change, int rc, const struct l7mp_error *err)
{
	struct l7mp_app *app = arg;

	app->reload_applied = !rc && change;
	if (rc) {
		report_error(app, false, err);
		l7mp_log_error("daemon", "reload failed: nothing was changed");
	} else if (!change) {
		l7mp_log_error("daemon", "reload refused: nothing was changed");
	} else {
		app->n_changed = l7mp_change_count(change);
	}
	l7mp_slice_init(&app->reload_slice, reload_report, app);
	l7mp_slice_post(app->loop, &app->reload_slice);
}

/* Opens all log files again, after a rotation: the log, the access log, those of Loggers. */
static void reopen_logs(struct l7mp_app *app)
{
	if (l7mp_log_reopen())
		l7mp_log_warn("daemon", "the log can't be opened again; the old file stays");
	if (l7mp_access_log_reopen(&app->access_log))
		l7mp_log_warn("daemon", "the access log can't be opened again; the old file stays");
	for (size_t i = 0; app->env.protos[i]; i++)
		if (app->env.protos[i]->reopen && app->env.states[i])
			app->env.protos[i]->reopen(&app->env, app->env.states[i]);
}

/*
 * For SIGHUP: applies the file again, as POST /config would; logs deleted objects. Returns at once;
 * notifies systemd (READY=1) when it is done.
 */
static void reload(struct l7mp_app *app)
{
	if (app->reloading) {
		/* The file may have changed since it was read. */
		app->reload_again = true;
		return;
	}
	reopen_logs(app);
	l7mp_log_notice("daemon", "reloading %s",
	                app->config_path ? app->config_path : "certificates");
	app->reload = (struct l7mp_runtime_job){
	        .build = reload_build, .done = reload_done, .arg = app, .goes_on = true};
	app->reloading = !l7mp_runtime_submit(app->runtime, &app->reload);
}

/* ---- signals and the shutdown ---- */

/*
 * The shutdown refuses new sessions, stops listeners, ends sessions with a grace time, frees the
 * state of protocols, and lets the loop finish.
 */

#define GRACE_MS 2000
/* What systemd allows for the shutdown after draining, in µs. */
#define STOP_US 30000000ULL

/* A SIGHUP during the shutdown must not terminate the process. */
static void close_signals(struct l7mp_app *app)
{
	sigset_t hup, before;

	sigemptyset(&hup);
	sigaddset(&hup, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &hup, &before);
	for (int i = 0; i < app->n_signals; i++)
		uv_close((uv_handle_t *)&app->signals[i], NULL);
	app->n_signals = 0;
	/* libuv has set the default. */
	signal(SIGHUP, SIG_IGN);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void server_stopped(void *arg)
{
	struct l7mp_app *app = arg;

	/* The sessions have removed their flows: now the programs can be detached. */
	l7mp_offload_stop(app->offload);
	for (size_t i = 0; app->env.protos[i]; i++) {
		const struct l7mp_proto *p = app->env.protos[i];

		if (app->env.states[i] && p->stop)
			p->stop(&app->env, app->env.states[i]);
		app->env.states[i] = NULL;
	}
	close_signals(app);
}

/* The admin server runs until here, to report the shutdown. */
static void all_sessions_ended(void *arg)
{
	struct l7mp_app *app = arg;

	l7mp_api_server_stop(app->admin_server, server_stopped, app);
}

/* Starts the shutdown, once; l7mp_loop_run returns when it is done. */
static void stop(struct l7mp_app *app)
{
	/* The service continues in another process, which notifies the service manager. */
	bool replaced = app->upgrade && upgrade_is_over(app->upgrade);

	if (app->stopping)
		return;
	app->stopping = true;
	l7mp_trim_stop(&app->trim);
	if (app->upgrade)
		upgrade_stop(app->upgrade);
	if (app->takeover)
		takeover_stop(app->takeover);
	if (app->drain)
		l7mp_drain_stop(app->drain);
	if (!replaced)
		l7mp_notify_send(&app->notify, "STOPPING=1");
	if (!replaced && app->serving)
		store_give(&app->store);
	store_stop(&app->store);
	l7mp_notify_stop(&app->notify);
	l7mp_api_set_stopping(app->api);
	l7mp_runtime_stop(app->runtime);
	l7mp_sessions_shutdown(app->sessions, GRACE_MS, all_sessions_ended, app);
}

static void stop_now(void *arg)
{
	stop(arg);
}

/*
 * For SIGTERM: drains first, then stops. Returns false when draining is not configured, or already
 * in progress.
 */
static bool drain(struct l7mp_app *app)
{
	uint64_t seconds = l7mp_model_admin(app->model)->drain_timeout;
	char text[96];

	if (!seconds || app->draining || app->stopping)
		return false;
	upgrade_cancel(app->upgrade, "SIGTERM");
	app->draining = true;
	snprintf(text, sizeof(text), "STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu\nSTATUS=Draining",
	         (unsigned long long)(seconds * 1000000 + STOP_US));
	l7mp_notify_send(&app->notify, text);
	l7mp_drain_begin(app->drain, seconds * 1000, "SIGTERM", 0);
	l7mp_drain_then(app->drain, stop_now, app);
	return true;
}

/* ---- upgrades ---- */

/* After an upgrade without admin.drain_timeout. */
#define UPGRADE_DRAIN_S 60

static void upgrade_busy(void *arg, bool on)
{
	struct l7mp_app *app = arg;
	char text[300];

	l7mp_api_set_busy(app->api, on);
	snprintf(text, sizeof(text), on ? "STATUS=Upgrading" : "STATUS=The upgrade has failed: %s",
	         upgrade_failure(app->upgrade));
	l7mp_notify_send(&app->notify, text);
}

static int upgrade_sockets(void *arg, int (*cb)(void *arg, const char *listener, int fd),
                           void *cb_arg)
{
	struct l7mp_app *app = arg;
	int fd = l7mp_api_server_socket(app->admin_server);

	return fd >= 0 ? cb(cb_arg, "", fd) : 0;
}

/* The new process has taken over: drains the remaining sessions. */
static void upgrade_given(void *arg, pid_t pid, size_t left)
{
	struct l7mp_app *app = arg;
	uint64_t seconds = l7mp_model_admin(app->model)->drain_timeout;
	char text[64];

	(void)left;
	snprintf(text, sizeof(text), "MAINPID=%d", (int)pid);
	l7mp_notify_send(&app->notify, text);
	l7mp_api_server_give(app->admin_server);
	l7mp_offload_stop(app->offload);
	app->draining = true;
	l7mp_drain_begin(app->drain, (seconds ? seconds : UPGRADE_DRAIN_S) * 1000, "upgrade",
	                 (int)pid);
	l7mp_drain_then(app->drain, stop_now, app);
}

static int begin_upgrade(struct l7mp_app *app, struct l7mp_error *err)
{
	const char *why = NULL;
	int rc;

	if (app->stopping || app->draining || l7mp_drain_active(app->drain))
		why = "the proxy drains or stops";
	else if (app->reloading || l7mp_runtime_busy(app->runtime))
		why = "the configuration is being changed";
	if (why) {
		l7mp_log_error("upgrade", "refused: %s", why);
		return l7mp_error_set(err, -EBUSY, L7MP_ERR_LIMIT, "%s", why);
	}
	rc = upgrade_start(app->upgrade);
	return rc ? l7mp_error_set(err, rc, L7MP_ERR_LIMIT,
	                           rc == -EBUSY ? "an upgrade is going on already"
	                                        : "the new process can't be started: %s",
	                           strerror(-rc))
	          : 0;
}

static int api_upgrade(void *arg, struct l7mp_error *err)
{
	return begin_upgrade(arg, err);
}

static cJSON *upgrade_view(void *arg)
{
	struct l7mp_app *app = arg;
	cJSON *json = upgrade_to_json(app->upgrade);

	if (app->takeover)
		takeover_to_json(app->takeover, json);
	return json;
}

/* Before stopping, prepares the sessions that the service manager can keep. */
static void prepare_store(struct l7mp_app *app)
{
	upgrade_cancel(app->upgrade, "this process ends");
	if (upgrade_is_over(app->upgrade)) {
		stop(app);
		return;
	}
	l7mp_api_set_stopping(app->api);
	l7mp_notify_send(&app->notify, "STOPPING=1");
	store_prepare(&app->store, stop_now);
}

static void on_signal(uv_signal_t *handle, int signum)
{
	struct l7mp_app *app = handle->data;
	char text[64];

	if (signum == SIGHUP) {
		if (app->stopping || app->draining || upgrade_is_busy(app->upgrade))
			return;
		/* MONOTONIC_USEC belongs to RELOADING by sd_notify(3), Type=notify-reload. */
		snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu",
		         (unsigned long long)(uv_hrtime() / 1000));
		l7mp_notify_send(&app->notify, text);
		reload(app);
		return;
	}
	if (signum == SIGUSR1) {
		reopen_logs(app);
		return;
	}
	if (signum == SIGUSR2) {
		(void)begin_upgrade(app, NULL);
		return;
	}
	if (signum == SIGTERM && drain(app))
		return;
	l7mp_log_notice("daemon", "%s: stopping", signum == SIGINT ? "SIGINT" : "SIGTERM");
	/* One more signal ends the process at once. */
	for (int i = 0; i < app->n_signals; i++)
		if (app->signals[i].signum == SIGTERM || app->signals[i].signum == SIGINT)
			uv_signal_stop(&app->signals[i]);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	if (!app->draining && !app->stopping && store_wanted())
		prepare_store(app);
	else
		stop(app);
}

static const int numbers[L7MP_SIG_COUNT] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};

static void mask_signals(int how)
{
	sigset_t set;

	sigemptyset(&set);
	for (int i = 0; i < L7MP_SIG_COUNT; i++)
		sigaddset(&set, numbers[i]);
	pthread_sigmask(how, &set, NULL);
}

/*
 * Blocks the signals until they are watched, so that one that arrives during the start is handled
 * in order. Threads inherit the mask and keep it, which leaves the signals to the loop's thread.
 */
static void hold_signals(void)
{
	mask_signals(SIG_BLOCK);
}

/* Watches the signals on the loop and unblocks them. Returns 0, or libuv's error (negative). */
static int watch_signals(struct l7mp_app *app)
{
	for (int i = 0; i < L7MP_SIG_COUNT; i++) {
		int rc = uv_signal_init(l7mp_loop_uv(app->loop), &app->signals[i]);

		if (rc)
			return rc;
		app->n_signals = i + 1;
		app->signals[i].data = app;
		rc = uv_signal_start(&app->signals[i], on_signal, numbers[i]);
		if (rc)
			return rc;
	}
	mask_signals(SIG_UNBLOCK);
	return 0;
}

/* ---- the layers ---- */

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
	stop(arg);
}

/* env.is_taken */
static bool is_taken(struct l7mp_env *env, uint8_t l4, const struct l7mp_addr *local,
                     const struct l7mp_addr *remote)
{
	struct l7mp_app *app = l7mp_container_of(env, struct l7mp_app, env);

	return app->offload && l7mp_offload_is_drained(app->offload, l4, local, remote);
}

/* env.quit */
static void quit(struct l7mp_env *env, int status)
{
	struct l7mp_app *app = l7mp_container_of(env, struct l7mp_app, env);

	app->status = status;
	l7mp_task_post(app->loop, &app->quit_task);
}

static int make_upgrade(struct l7mp_app *app)
{
	const struct upgrade_params params = {.loop = app->loop,
	                                      .runtime = app->runtime,
	                                      .sessions = app->sessions,
	                                      .offload = app->offload,
	                                      .program = app->program,
	                                      .argv = app->options.argv,
	                                      .each_socket = upgrade_sockets,
	                                      .busy = upgrade_busy,
	                                      .given = upgrade_given,
	                                      .arg = app};

	return upgrade_new(&params, &app->upgrade);
}

static int make_store(struct l7mp_app *app)
{
	app->store = (struct store){.loop = app->loop,
	                            .runtime = app->runtime,
	                            .sessions = app->sessions,
	                            .each_socket = upgrade_sockets,
	                            .arg = app};
	return store_init(&app->store);
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
	app->env.is_taken = is_taken;
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
	rc = make_offload(app);
	if (rc)
		return rc;
	sessions.offload = l7mp_offload_ops(app->offload);
	rc = l7mp_sessions_new(&sessions, &app->sessions);
	if (!rc)
		rc = l7mp_runtime_new(&app->env, app->sessions, &app->runtime);
	if (!rc)
		rc = l7mp_drain_new(&app->env, app->runtime, app->sessions, &app->drain);
	if (rc)
		return rc;
	l7mp_trim_init(&app->trim, app->loop, app->sessions);
	l7mp_notify_init(&app->notify, app->loop);
	memset(&api, 0, sizeof(api));
	api.env = &app->env;
	api.model = app->model;
	api.runtime = app->runtime;
	api.sessions = app->sessions;
	api.drain = app->drain;
	api.registry = &l7mp_all_registry;
	set_views(app, &api);
	rc = l7mp_api_new(&api, &app->api);
	if (!rc)
		rc = l7mp_api_server_new(app->api, &app->admin_server);
	if (rc)
		return rc;
	app->env.app = app->api;
	rc = make_store(app);
	return rc ? rc : make_upgrade(app);
}

/*
 * Returns the path of the program's file. Determined at startup: after a package has replaced the
 * file, the kernel returns that of the deleted one.
 */
static char *program_path(void)
{
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (n < 0)
		return NULL;
	path[n] = '\0';
	return strdup(path);
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
	app->program = program_path();
	rc = l7mp_model_new(&l7mp_all_registry, &app->model);
	if (!rc)
		rc = read_config(app, true, &app->initial);
	if (rc)
		return rc;
	if (options->check_only) {
		printf("%s: the configuration is valid\n",
		       options->config ? options->config : "command line");
		return 0;
	}
	raise_descriptor_limit();
	rc = takeover_new(&app->takeover);
	if (rc)
		return rc;
	rc = make_layers(app);
	if (rc)
		fprintf(stderr, "l7mp-proxy: can't start: %s\n", strerror(-rc));
	return rc;
}

static void on_admin(void *arg, const struct l7mp_admin *admin)
{
	struct l7mp_app *app = arg;
	struct l7mp_error err = {0};

	if (use_admin(app, admin, &err))
		l7mp_log_error("daemon", "%s", err.message);
	if (use_offload(app, admin, &err))
		l7mp_log_error("daemon", "%s", err.message);
	l7mp_api_server_commit(app->admin_server, &admin->server);
}

/* Executes the next step of a change. */
static int before_admin(void *arg, const struct l7mp_admin *next, struct l7mp_error *err)
{
	struct l7mp_app *app = arg;

	return l7mp_api_server_prepare(app->admin_server, &next->server, err);
}

/* A session that a previous process has left in the kernel. */
static int adopt(void *arg, struct l7mp_session_record *r, struct l7mp_error *err)
{
	struct l7mp_app *app = arg;

	/* After an upgrade the session already exists. */
	if (app->takeover && l7mp_session_take_flow(app->sessions, r))
		return 0;
	return l7mp_session_restore(app->runtime, r, NULL, err);
}

/* Whether this process is configured to use the fast path. */
static bool wants_flows(const struct l7mp_admin *admin)
{
	return admin->offload != L7MP_OFFLOAD_DISABLE && admin->n_offload_ifs;
}

/*
 * Called after the commit. `flows`: takes over the flows of the old process; when that has died, as
 * after a crash. Otherwise the old process still uses the fast path, and this one loads its own
 * when the old one has left it.
 */
static int begin_offload(struct l7mp_app *app, const struct l7mp_admin *admin, bool flows,
                         struct l7mp_error *err)
{
	struct l7mp_admin later = *admin;

	if (flows) {
		l7mp_offload_continue(app->offload);
		return 0;
	}
	if (takeover_orphaned(app->takeover))
		return use_offload(app, admin, err);
	later.offload = L7MP_OFFLOAD_DISABLE;
	return use_offload(app, &later, err);
}

/* The old process has left the fast path, and no longer uses the admin server's port. */
static void takeover_given(void *arg)
{
	struct l7mp_app *app = arg;
	struct l7mp_error err = {0};

	if (use_offload(app, l7mp_model_admin(app->model), &err))
		l7mp_log_error("daemon", "%s", err.message);
	l7mp_notify_send(&app->notify, "READY=1\nSTATUS=");
}

/* Takes sockets that the service manager has kept, or has bound itself. */
static int take_passed(struct l7mp_app *app)
{
	int first, n = l7mp_notify_passed(&first);

	app->kept = n > 0;
	return n && !app->takeover ? store_open(first, n, app->env.handed, &app->stored) : 0;
}

/* Called after all listeners are bound. */
static int take_over(struct l7mp_app *app, struct l7mp_error *err)
{
	const struct l7mp_admin *admin = l7mp_model_admin(app->model);
	int lock = takeover_lock(app->takeover);
	bool flows = lock >= 0 && !l7mp_offload_inherit(app->offload, admin, lock);
	int rc = takeover_sessions(app->takeover, flows, app->runtime, app->loop);

	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "can't take over");
	/* The upgrade can't be rolled back: continue without the fast path. */
	if (begin_offload(app, admin, flows, err))
		l7mp_log_error("daemon", "%s", err->message);
	return 0;
}

/* Binds sockets, or takes those that another process has bound. */
static int bind_all(struct l7mp_app *app, const struct l7mp_admin *admin, struct l7mp_error *err)
{
	int rc = l7mp_handed_new(&app->env.handed);

	if (!rc)
		rc = take_passed(app);
	if (!rc && app->takeover)
		rc = takeover_sockets(app->takeover,
		                      wants_flows(admin) ? l7mp_admin_instance(admin) : NULL,
		                      app->env.handed);
	if (rc && !app->takeover)
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "the passed sockets: %s",
		                      strerror(-rc));
	if (rc) /* already reported */
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "can't take over");
	l7mp_runtime_hold(app->runtime, true);
	rc = l7mp_runtime_apply(app->runtime, app->initial, err);
	if (!rc && app->takeover)
		rc = take_over(app, err);
	else if (!rc)
		store_take(&app->stored, app->runtime, app->loop);
	/* No orderly shutdown: resources shared with another process must not be touched. */
	if (rc && app->takeover) {
		report_error(app, true, err);
		(void)fflush(NULL);
		_exit(EXIT_FAILURE);
	}
	if (!rc)
		l7mp_runtime_hold(app->runtime, false);
	return rc;
}

/* Its port accepting connections means that all listeners are bound, so it is started last. */
static int start_admin_server(struct l7mp_app *app, struct l7mp_error *err)
{
	const struct l7mp_admin_server *where = &l7mp_model_admin(app->model)->server;
	int rc = l7mp_api_server_prepare(app->admin_server, where, err);

	/* After the take-over a failure does not end the process: it is retried. */
	if (rc && app->takeover) {
		l7mp_log_error("daemon", "the admin server: %s", err->message);
		rc = 0;
	}
	if (!rc)
		l7mp_api_server_commit(app->admin_server, where);
	return rc;
}

static int start(struct l7mp_app *app)
{
	const struct l7mp_admin *admin = l7mp_change_new_admin(app->initial);
	struct l7mp_error err = {0};
	int rc;

	if (!admin)
		admin = l7mp_model_admin(app->model);
	rc = use_admin(app, admin, &err);
	if (!rc && !app->takeover)
		rc = use_offload(app, admin, &err);
	if (!rc)
		rc = bind_all(app, admin, &err);
	/* Before the first packet is handled: it may belong to one of these sessions. */
	if (!rc)
		l7mp_offload_adopt(app->offload, adopt, app);
	if (!rc)
		rc = start_admin_server(app, &err);
	l7mp_change_free(&app->initial);
	if (rc)
		report_error(app, true, &err);
	l7mp_document_free(&app->document);
	l7mp_handed_free(&app->env.handed);
	if (rc)
		return rc;
	l7mp_api_set_ready(app->api);
	l7mp_runtime_before_admin(app->runtime, before_admin);
	l7mp_runtime_on_admin(app->runtime, on_admin, app);
	rc = watch_signals(app);
	if (rc)
		fprintf(stderr, "l7mp-proxy: can't watch signals: %s\n", uv_strerror(rc));
	else if (app->takeover)
		takeover_run(app->takeover, app->loop, takeover_given, app);
	return rc;
}

int l7mp_app_run(struct l7mp_app *app)
{
	int rc;

	hold_signals();
	rc = start(app);
	if (rc) {
		/* Frees the layers created so far, as at a normal end. */
		stop(app);
		l7mp_loop_run(app->loop);
		return rc;
	}
	app->serving = true;
	l7mp_log_notice("daemon", "l7mp " L7MP_VERSION " is ready");
	/*
	 * These sockets are owned now; the service manager must not keep those of listeners that
	 * are closed later.
	 */
	if (app->kept)
		l7mp_notify_send(&app->notify, "FDSTOREREMOVE=1\nFDNAME=" L7MP_NOTIFY_NAME);
	/* After an upgrade the service manager must first be notified of the new main process. */
	if (!app->takeover)
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
	upgrade_free(&app->upgrade);
	takeover_free(&app->takeover);
	store_close(&app->stored);
	l7mp_handed_free(&app->env.handed);
	l7mp_drain_free(&app->drain);
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
	free(app->program);
	l7mp_access_log_end(&app->access_log);
	l7mp_log_close();
	free(app);
}
