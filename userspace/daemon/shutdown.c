/* SPDX-License-Identifier: MIT */
/*
 * Signals and the shutdown: refuses new sessions, stops listeners, ends sessions with a grace time,
 * frees the state of protocols, and lets the loop finish.
 */
#include <signal.h>
#include <stdio.h>

#include "app_int.h"
#include "l7mp/log.h"

#define GRACE_MS 2000

/* A SIGHUP that comes in the last moments is not to end the process as if it had failed. */
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
static void sessions_ended(void *arg)
{
	struct l7mp_app *app = arg;

	l7mp_api_server_stop(app->admin_server, server_stopped, app);
}

void l7mp_app_stop(struct l7mp_app *app)
{
	if (app->stopping)
		return;
	app->stopping = true;
	l7mp_trim_stop(&app->trim);
	l7mp_notify_send(&app->notify, "STOPPING=1");
	l7mp_notify_stop(&app->notify);
	l7mp_api_set_stopping(app->api);
	l7mp_runtime_stop(app->runtime);
	l7mp_sessions_shutdown(app->sessions, GRACE_MS, sessions_ended, app);
}

static void on_signal(uv_signal_t *handle, int signum)
{
	struct l7mp_app *app = handle->data;
	char text[64];

	if (signum == SIGHUP) {
		if (app->stopping)
			return;
		/* MONOTONIC_USEC belongs to RELOADING by sd_notify(3), Type=notify-reload. */
		snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu",
		         (unsigned long long)(uv_hrtime() / 1000));
		l7mp_notify_send(&app->notify, text);
		l7mp_app_reload(app);
		return;
	}
	if (signum == SIGUSR1) {
		l7mp_app_reopen_logs(app);
		return;
	}
	l7mp_log_notice("daemon", "%s: stopping", signum == SIGINT ? "SIGINT" : "SIGTERM");
	/* A second signal ends the process at once. */
	for (int i = 0; i < app->n_signals; i++)
		if (app->signals[i].signum == SIGTERM || app->signals[i].signum == SIGINT)
			uv_signal_stop(&app->signals[i]);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	l7mp_app_stop(app);
}

static const int numbers[L7MP_SIG_COUNT] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};

static void mask_signals(int how)
{
	sigset_t set;

	sigemptyset(&set);
	for (int i = 0; i < L7MP_SIG_COUNT; i++)
		sigaddset(&set, numbers[i]);
	pthread_sigmask(how, &set, NULL);
}

void l7mp_app_hold_signals(void)
{
	mask_signals(SIG_BLOCK);
}

int l7mp_app_watch_signals(struct l7mp_app *app)
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
