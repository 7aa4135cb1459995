/* SPDX-License-Identifier: MIT */
/* The config file: reading it, reporting errors, reloading it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app_int.h"
#include "l7mp/change.h"
#include "l7mp/config.h"
#include "l7mp/log.h"

/*
 * At the start findings are printed on stderr, for the user who started the program; at a reload
 * they are logged.
 */
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
 * as far as it exists: something missing has the line of its parent. 0: not known.
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

void l7mp_app_report_error(const struct l7mp_app *app, bool at_start, const struct l7mp_error *err)
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

int l7mp_app_read_config(struct l7mp_app *app, bool at_start, struct l7mp_change **out)
{
	struct l7mp_change *change = NULL;
	struct l7mp_error err = {0};
	cJSON *config;
	int rc;

	l7mp_document_free(&app->document);
	rc = load(app, &err);
	if (rc) {
		l7mp_app_report_error(app, at_start, &err);
		return rc;
	}
	config = unwrap(l7mp_document_root(app->document));
	if (!cJSON_IsObject(config)) {
		l7mp_error_set(&err, 0, L7MP_ERR_SCHEMA, "expected an object, got %s",
		               l7mp_json_type(config));
		l7mp_app_report_error(app, at_start, &err);
		return -EINVAL;
	}
	rc = l7mp_options_override(&app->options, config);
	if (!rc)
		rc = l7mp_change_new(app->model, is_strict(config), &change);
	if (!rc) {
		rc = l7mp_change_config(change, config, &err);
		report_issues(app, at_start, l7mp_change_issues(change));
		/* The issues were reported; the error only summarises them. */
		if (rc && !l7mp_change_issues(change)->errors)
			l7mp_app_report_error(app, at_start, &err);
	} else {
		report(at_start, false, strerror(-rc));
	}
	if (rc)
		l7mp_change_free(&change);
	*out = change;
	return rc;
}

int l7mp_app_use_admin(struct l7mp_app *app, const struct l7mp_admin *admin, struct l7mp_error *err)
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

	if (l7mp_app_read_config(app, false, &change))
		return NULL;
	hold_vanishing(app, change);
	return change;
}

static void reload_over(struct l7mp_app *app)
{
	free(app->vanished);
	app->vanished = NULL;
	app->n_vanished = app->at_vanished = 0;
	l7mp_document_free(&app->document);
	app->reloading = false;
	if (app->reload_again) {
		app->reload_again = false;
		l7mp_app_reload(app);
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
		l7mp_app_report_error(app, false, err);
		l7mp_log_error("daemon", "reload failed: nothing was changed");
	} else if (!change) {
		l7mp_log_error("daemon", "reload refused: nothing was changed");
	} else {
		app->n_changed = l7mp_change_count(change);
	}
	l7mp_slice_init(&app->reload_slice, reload_report, app);
	l7mp_slice_post(app->loop, &app->reload_slice);
}

void l7mp_app_reopen_logs(struct l7mp_app *app)
{
	if (l7mp_log_reopen())
		l7mp_log_warn("daemon", "the log can't be opened again; the old file stays");
	if (l7mp_access_log_reopen(&app->access_log))
		l7mp_log_warn("daemon", "the access log can't be opened again; the old file stays");
	for (size_t i = 0; app->env.protos[i]; i++)
		if (app->env.protos[i]->reopen && app->env.states[i])
			app->env.protos[i]->reopen(&app->env, app->env.states[i]);
}

void l7mp_app_reload(struct l7mp_app *app)
{
	if (app->reloading) {
		/* The file may have changed since it was read. */
		app->reload_again = true;
		return;
	}
	l7mp_app_reopen_logs(app);
	l7mp_log_notice("daemon", "reloading %s",
	                app->config_path ? app->config_path : "certificates");
	app->reload = (struct l7mp_runtime_job){
	        .build = reload_build, .done = reload_done, .arg = app, .goes_on = true};
	app->reloading = !l7mp_runtime_submit(app->runtime, &app->reload);
}
