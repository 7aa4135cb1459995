/* SPDX-License-Identifier: MIT */
/* Private to daemon/. */
#pragma once

#include "access_log.h"
#include "l7mp/api.h"
#include "l7mp/app.h"
#include "l7mp/config.h"
#include "l7mp/drain.h"
#include "l7mp/loop.h"
#include "l7mp/model.h"
#include "l7mp/offload.h"
#include "l7mp/proto.h"
#include "l7mp/runtime.h"
#include "l7mp/session.h"
#include "l7mp/slice.h"
#include "l7mp/stats.h"
#include "notify.h"
#include "store.h"
#include "trim.h"
#include "upgrade.h"

enum l7mp_app_signals {
	L7MP_SIG_TERM,
	L7MP_SIG_INT,
	L7MP_SIG_HUP,
	L7MP_SIG_USR1,
	L7MP_SIG_USR2,
	L7MP_SIG_COUNT,
};

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
	struct l7mp_drain *drain;
	struct l7mp_api *api;
	struct l7mp_api_server *admin_server;
	/* the file that was read last, until its change is applied */
	struct l7mp_document *document;
	struct l7mp_change *initial; /* built by l7mp_app_new, applied by l7mp_app_run */
	struct l7mp_access_log access_log;
	struct l7mp_trim trim;
	struct l7mp_notify notify;
	char *program; /* path of the program's file at startup */
	struct upgrade *upgrade;
	struct takeover *takeover; /* NULL: not started by an upgrade */
	struct store store;
	struct stored *stored; /* sessions kept by the service manager, until they are restored;
	                        * NULL: none */
	uv_signal_t signals[L7MP_SIG_COUNT];
	int n_signals;
	bool kept;     /* the service manager keeps sockets passed to this process */
	bool serving;  /* startup has succeeded */
	bool draining; /* in order to end afterwards */
	bool stopping;
	int status; /* exit status, when a protocol requests the end */
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
