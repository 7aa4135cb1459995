/* SPDX-License-Identifier: MIT */
/* Private to daemon/. */
#pragma once

#include "access_log.h"
#include "l7mp/api.h"
#include "l7mp/app.h"
#include "l7mp/config.h"
#include "l7mp/loop.h"
#include "l7mp/model.h"
#include "l7mp/offload.h"
#include "l7mp/proto.h"
#include "l7mp/runtime.h"
#include "l7mp/session.h"
#include "l7mp/slice.h"
#include "l7mp/stats.h"
#include "notify.h"
#include "trim.h"

enum l7mp_app_signals { L7MP_SIG_TERM, L7MP_SIG_INT, L7MP_SIG_HUP, L7MP_SIG_USR1, L7MP_SIG_COUNT };

struct l7mp_app {
	struct l7mp_options options;
	/*
	 * The path as given, with symbolic links: a reload follows the links of that time
	 * (Kubernetes replaces them).
	 */
	char *config_path;
	struct l7mp_loop *loop;
	struct l7mp_model *model;
	struct l7mp_stats stats;
	struct l7mp_env env;
	struct l7mp_offload_engine *offload; /* never NULL; idle until admin names interfaces */
	struct l7mp_sessions *sessions;
	struct l7mp_runtime *runtime;
	struct l7mp_api *api;
	struct l7mp_api_server *admin_server;
	/* the file that was read last, until its change is applied */
	struct l7mp_document *document;
	struct l7mp_change *initial; /* built by l7mp_app_new, applied by l7mp_app_run */
	struct l7mp_access_log access_log;
	struct l7mp_trim trim;
	struct l7mp_notify notify;
	uv_signal_t signals[L7MP_SIG_COUNT];
	int n_signals;
	bool stopping;
	int status; /* of the exit, when a protocol asks for it */
	struct l7mp_task quit_task;
	struct l7mp_runtime_job reload; /* while `reloading` */
	struct l7mp_slice reload_slice;
	bool reloading, reload_again, reload_applied;
	struct l7mp_object **vanished; /* objects that the reload deletes; references held */
	size_t n_vanished, at_vanished, n_changed;
};

/* registry.c: the protocols of this program. */
extern const struct l7mp_proto *const l7mp_all_protos[];
extern const struct l7mp_registry l7mp_all_registry;
size_t l7mp_all_protos_count(void);

/*
 * configure.c: reads the file and builds the change that makes the model equal to it. Findings are
 * reported (stderr at start, the log at a reload). 0 or negative errno.
 */
int l7mp_app_read_config(struct l7mp_app *app, bool at_start, struct l7mp_change **out);
/* Reports an error in one line, with the place in the file if it is known. */
void l7mp_app_report_error(const struct l7mp_app *app, bool at_start, const struct l7mp_error *err);
/*
 * Applies the admin object's settings: log, access log, token. Returns 0, or a negative errno with
 * err; settings before the one that failed are applied then.
 */
int l7mp_app_use_admin(struct l7mp_app *app, const struct l7mp_admin *admin,
                       struct l7mp_error *err);
/*
 * For SIGHUP: applies the file again, as POST /config would; logs deleted objects. Returns at once;
 * notifies systemd (READY=1) when it is done.
 */
void l7mp_app_reload(struct l7mp_app *app);
/* Opens all log files again, after a rotation: the log, the access log, those of Loggers. */
void l7mp_app_reopen_logs(struct l7mp_app *app);

/* offload.c: makes an idle engine. Returns 0 or a negative errno. */
int l7mp_app_make_offload(struct l7mp_app *app);
/* Sets the functions behind GET /offload and the metrics. */
void l7mp_app_offload_views(struct l7mp_app *app, struct l7mp_api_params *api);
/*
 * Applies the fast path's settings. Returns 0, also when the kernel lacks support; a negative errno
 * with err only when another process has the instance.
 */
int l7mp_app_use_offload(struct l7mp_app *app, const struct l7mp_admin *admin,
                         struct l7mp_error *err);

/* shutdown.c */
/*
 * Blocks SIGTERM, SIGINT and SIGHUP until they are watched, so that one that arrives during the
 * start is handled in order. Threads inherit the mask and keep it, which leaves the signals to the
 * loop's thread.
 */
void l7mp_app_hold_signals(void);
/*
 * Watches the three signals on the loop and unblocks them. Returns 0, or libuv's error (negative).
 */
int l7mp_app_watch_signals(struct l7mp_app *app);
/* Starts the shutdown, once; l7mp_loop_run returns when it is done. */
void l7mp_app_stop(struct l7mp_app *app);
