/* SPDX-License-Identifier: MIT */
/* The engine's life cycle: settings, start, stop, upgrade. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xdp/libxdp.h>

#include "engine.h"
#include "l7mp/fault.h"
#include "l7mp/log.h"

#define RETRY_MS 2 /* collects several causes of a retry */

/* ---- messages of libraries ---- */

static void log_lines(enum l7mp_log_level level, const char *who, const char *fmt, va_list args)
        __attribute__((format(printf, 3, 0)));
static void log_lines(enum l7mp_log_level level, const char *who, const char *fmt, va_list args)
{
	char *text = NULL, *line, *next;

	if (level < l7mp_log_get_level() || vasprintf(&text, fmt, args) < 0)
		return;
	/* The verifier's log is one message of many lines. */
	for (line = text; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		l7mp_log(level, OFF_MODULE, "%s: %s", who, line);
	}
	free(text);
}

/* Not warnings: they also report attempts that may fail. Our own messages say what matters. */
static int log_libbpf(enum libbpf_print_level level, const char *fmt, va_list args)
        __attribute__((format(printf, 2, 0)));
static int log_libbpf(enum libbpf_print_level level, const char *fmt, va_list args)
{
	log_lines(level == LIBBPF_DEBUG ? L7MP_LOG_SILLY : L7MP_LOG_VERBOSE, "libbpf", fmt, args);
	return 0;
}

static int log_libxdp(enum libxdp_print_level level, const char *fmt, va_list args)
        __attribute__((format(printf, 2, 0)));
static int log_libxdp(enum libxdp_print_level level, const char *fmt, va_list args)
{
	log_lines(level == LIBXDP_DEBUG ? L7MP_LOG_SILLY : L7MP_LOG_VERBOSE, "libxdp", fmt, args);
	return 0;
}

void off_log_libraries(void)
{
	libbpf_set_print(log_libbpf);
	libxdp_set_print(log_libxdp);
}

/* ---- life ---- */

static void set_state(struct l7mp_offload_engine *e, enum off_state state)
{
	e->state = state;
	e->hooks.active = state == OFF_ACTIVE;
}

static void retry_sessions(const struct l7mp_offload_engine *e)
{
	if (e->table.events && e->table.events->retry)
		e->table.events->retry(e->table.events_arg);
}

void off_retry_after(struct l7mp_offload_engine *e, unsigned ms)
{
	if (!l7mp_timer_armed(&e->retry))
		(void)l7mp_timer_start(e->loop, &e->retry, ms); /* reserved: can't fail */
}

void off_retry_soon(struct l7mp_offload_engine *e)
{
	off_retry_after(e, RETRY_MS);
}

static void on_retry(struct l7mp_timer *t, void *arg)
{
	struct l7mp_offload_engine *e = arg;

	(void)t;
	e->was_short = false;
	e->n_retries++;
	if (e->state == OFF_ACTIVE)
		retry_sessions(e);
}

/* ---- callbacks of path/, hook/ and table/ ---- */

static void on_path(void *arg, enum off_path_event event, struct off_link *link)
{
	struct l7mp_offload_engine *e = arg;
	struct off_link *next;

	if (e->rests) {
		e->missed = true;
		return;
	}
	switch (event) {
	case OFF_PATH_WORK:
		if (!l7mp_timer_armed(&e->work))
			(void)l7mp_timer_start(e->loop, &e->work, 0);
		break;
	case OFF_PATH_RETRY:
		off_retry_soon(e);
		break;
	case OFF_PATH_LINK:
		/* Attaching or detaching an XDP program is reported as a change of the link. */
		if (link->hook == OFF_HOOK_NATIVE || link->hook == OFF_HOOK_GENERIC)
			off_attach_check(&e->hooks, link);
		off_attach_update(&e->hooks, link);
		off_frames_links_changed(e);
		break;
	case OFF_PATH_LINK_REMOVED:
		off_detach(&e->hooks, link);
		off_frames_links_changed(e);
		break;
	case OFF_PATH_HOOK:
		off_attach_check(&e->hooks, link);
		break;
	case OFF_PATH_REPLAN:
		off_flows_replan(e);
		off_retry_soon(e);
		break;
	case OFF_PATH_RESYNC:
		off_attach_update_all(&e->hooks);
		HASH_ITER (hh, e->path.links, link, next)
			off_attach_check(&e->hooks, link);
		off_frames_links_changed(e);
		break;
	}
}

static void on_withdraw(void *arg, struct off_link *link)
{
	off_leave_link(arg, link);
}

static void on_served(void *arg)
{
	off_retry_soon(arg);
}

static void on_polled(void *arg)
{
	struct l7mp_offload_engine *e = arg;

	off_nexthops_expire(&e->path);
}

static void compose(struct l7mp_offload_engine *e)
{
	e->path = (struct off_path){.loop = e->loop, .changed = on_path, .arg = e};
	e->hooks = (struct off_hooks){.path = &e->path,
	                              .maps = &e->table.maps,
	                              .set = &e->set,
	                              .withdraw = on_withdraw,
	                              .served = on_served,
	                              .arg = e,
	                              .dispatcher = -1};
	/* Avoid the versions of a previous daemon, whose maps may be adopted. */
	e->table = (struct off_table){
	        .loop = e->loop, .polled = on_polled, .arg = e, .version = (uint32_t)off_mono_ns()};
	off_maps_init(&e->table.maps);
	off_sysctls_init(&e->hooks.sysctls);
}

int l7mp_offload_new(const struct l7mp_offload_params *params, struct l7mp_offload_engine **out)
{
	struct l7mp_offload_engine *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->loop = params->loop;
	e->stats = params->stats;
	e->ops = off_ops;
	e->ops.ctx = e;
	e->pins.lock = -1;
	compose(e);
	l7mp_timer_init(&e->work, off_changes_work, e);
	l7mp_timer_init(&e->retry, on_retry, e);
	l7mp_timer_init(&e->drains.timer, off_drains_tick, e);
	snprintf(e->why, sizeof(e->why), "not configured yet");
	*out = e;
	return 0;
}

const struct l7mp_offload *l7mp_offload_ops(struct l7mp_offload_engine *e)
{
	return &e->ops;
}

/* Undoes begin() and serve(). The flows have been removed before. */
static void release(struct l7mp_offload_engine *e)
{
	bool remove = e->set.start != L7MP_OFFLOAD_NO_INIT && !e->adoption.under_way;

	off_adopt_leave(e);
	off_load_cancel(e);
	off_drains_close(e);
	off_counter_poll_stop(&e->table);
	off_slots_stop(&e->table);
	off_handover_stop(&e->table);
	off_rtp_stop(&e->table);
	off_splices_stop(e);
	off_frames_stop(e);
	l7mp_timer_give_back(e->loop, &e->work);
	l7mp_timer_give_back(e->loop, &e->retry);
	off_leave_stop(e);
	off_monitor_stop(&e->path);
	off_nexthops_clear(&e->path);
	off_recheck_stop(&e->path);
	off_neigh_stop(&e->path);
	off_links_clear(&e->path);
	off_maps_close(&e->table.maps);
	if (remove && e->pins.lock >= 0)
		off_pins_clear(e->pins.dir);
	off_pins_unlock(&e->pins);
	off_nl_close(&e->path.nl);
	off_nl_close(&e->hooks.genl);
	e->hooks.genl_family = 0;
	e->hooks.n_devices = 0;
	e->was_refused = false;
	e->hooks.dispatcher = -1;
}

static void disown(struct l7mp_offload_engine *e);

/* `drains`: what is being drained goes on, as this process starts the engine again. */
static void stop(struct l7mp_offload_engine *e, bool drains)
{
	bool starting = e->state == OFF_STARTING;
	struct off_link *l, *next;

	if (!off_has_maps(e) && !starting)
		return;
	off_settings_clear(&e->next);
	/* The start failed during adoption: leave everything attached. */
	if (e->adoption.under_way)
		disown(e);
	/* Only the next process would end them; it does after a failed start and with no_init. */
	if (!drains && e->drains.started && e->set.start != L7MP_OFFLOAD_NO_INIT)
		off_drains_end_all(e, "the proxy stops using the fast path");
	/* Before detaching, so that all packets are counted until their flow is removed. */
	off_flows_withdraw_all(e, L7MP_REASON_DISABLED);
	L7MP_FAULT("stopping");
	HASH_ITER (hh, e->path.links, l, next) {
		off_detach(&e->hooks, l);
		L7MP_FAULT("detached");
	}
	set_state(e, OFF_DISABLED);
	snprintf(e->why, sizeof(e->why), "stopped");
	release(e);
	if (starting) /* sessions have been refused with PENDING */
		retry_sessions(e);
}

void l7mp_offload_stop(struct l7mp_offload_engine *e)
{
	stop(e, false);
}

void l7mp_offload_free(struct l7mp_offload_engine **pp)
{
	struct l7mp_offload_engine *e = *pp;

	if (!e)
		return;
	*pp = NULL;
	e->table.events = NULL;
	l7mp_offload_stop(e);
	off_frames_free(e);
	off_settings_clear(&e->set);
	free(e);
}

/* ---- start ---- */

static void clear_flows(struct l7mp_offload_engine *e);

static int serve(struct l7mp_offload_engine *e);

/*
 * Opens the pinned maps and programs. A daemon that failed to start or was killed may have attached
 * its programs without replacing the pins of its predecessor's. `change`: pins may be changed.
 */
static int open_pinned(struct l7mp_offload_engine *e, bool change, char *why, size_t size)
{
	struct off_maps *m = &e->table.maps;
	const struct off_programs *newer = &m->old[1];
	int rc = off_maps_open(m, e->pins.dir, why, size);
	bool alone;

	if (rc)
		return rc;
	off_maps_open_newer(m, e->pins.dir);
	if (!off_programs_has_all(newer) ||
	    !off_attach_finds(&e->hooks, newer->id_xdp, newer->id_tc, newer->id_tc_l3))
		return 0;
	alone = !off_attach_finds(&e->hooks, m->id_xdp, m->id_tc, m->id_tc_l3);
	/* If both are attached, init replaces both. */
	if (alone || e->set.start == L7MP_OFFLOAD_NO_INIT)
		off_maps_use_newer(m, e->pins.dir, change && alone);
	return 0;
}

/* no_init: uses the pinned programs as they are. `wait`: during the daemon's start. */
static int take_over(struct l7mp_offload_engine *e, bool wait)
{
	int rc = open_pinned(e, true, e->why, sizeof(e->why));

	if (!rc && wait)
		e->adoption.under_way = true;
	else if (!rc)
		clear_flows(e);
	return rc ? rc : serve(e);
}

/* init, during the daemon's start: adopts flows. 0 or negative errno; 1: there are none. */
static int take_over_flows(struct l7mp_offload_engine *e)
{
	char why[sizeof(e->why)];
	int rc = open_pinned(e, true, why, sizeof(why));

	if (rc)
		return 1;
	if (!off_entries_there(&e->table.maps)) {
		off_maps_close(&e->table.maps);
		return 1;
	}
	rc = off_maps_renew(&e->table.maps, e->pins.dir, why, sizeof(why));
	if (!rc)
		rc = off_maps_pin_new(&e->table.maps, e->pins.dir, why, sizeof(why));
	if (rc) {
		l7mp_log_warn(OFF_MODULE, "the flows of an earlier process can't be taken over: %s",
		              why);
		off_maps_close(&e->table.maps);
		return 1;
	}
	if (e->table.maps.max_flows != e->set.max_flows)
		l7mp_log_notice(OFF_MODULE,
		                "the flow table has %u entries, as it has been taken over, and not "
		                "the %u of limits.max_flows",
		                e->table.maps.max_flows, e->set.max_flows);
	e->adoption.under_way = true;
	return serve(e);
}

/* Removes what a previous daemon of the same instance left: programs, pins, qdiscs, sysctls. */
static void clean_old(struct l7mp_offload_engine *e)
{
	struct off_maps old;

	off_maps_open_old(&old, e->pins.dir);
	L7MP_FAULT("clean");
	off_attach_clean(&e->hooks, &old);
	L7MP_FAULT("cleaned");
	off_maps_close(&old);
	off_pins_clear(e->pins.dir);
}

static int explain(struct l7mp_offload_engine *e, int rc, const char *what)
{
	if (rc)
		snprintf(e->why, sizeof(e->why), "%s: %s", what, strerror(-rc));
	return rc;
}

/* Sets up everything but the maps and the lock. */
static int prepare(struct l7mp_offload_engine *e)
{
	int rc = explain(e, off_nl_open(&e->path.nl, NETLINK_ROUTE), "can't open a netlink socket");

	if (!rc && (off_recheck_start(&e->path) || off_neigh_start(&e->path) ||
	            l7mp_timer_reserve(e->loop, &e->work) ||
	            l7mp_timer_reserve(e->loop, &e->retry) || off_leave_start(e)))
		rc = explain(e, -ENOMEM, "can't set timers");
	/* Subscribe before reading the state, so that no change is missed. */
	if (!rc)
		rc = explain(e, off_monitor_start(&e->path), "can't watch rtnetlink");
	if (!rc)
		rc = explain(e, off_links_dump(&e->path), "can't list the interfaces");
	if (!rc)
		off_routes_check_ports(&e->path);
	return rc;
}

/* Warns about interfaces that don't exist, except those that `known` (NULL: none) names too. */
static void missing_interfaces(const struct l7mp_offload_engine *e,
                               const struct off_settings *known)
{
	for (size_t i = 0; i < e->set.n_ifs; i++) {
		const struct off_link *l, *next;
		bool found = !strcmp(e->set.ifs[i], "all") ||
		             (known && off_settings_names(known, e->set.ifs[i]));

		HASH_ITER (hh, e->path.links, l, next)
			found = found || !strcmp(e->set.ifs[i], l->name);
		if (!found)
			l7mp_log_warn(OFF_MODULE,
			              "offload_ifs: there is no interface %s; it will be served "
			              "when it appears",
			              e->set.ifs[i]);
	}
}

/* Starts everything that uses the maps, and attaches the programs. */
static int serve(struct l7mp_offload_engine *e)
{
	int rc;

	e->table.n_cpus = libbpf_num_possible_cpus();
	if (e->table.n_cpus < 1)
		return explain(e, -EIO, "can't count the CPUs");
	rc = explain(e, off_slots_start(&e->table), "can't have slots for counters");
	if (rc)
		return rc;
	rc = explain(e, off_counter_poll_start(&e->table), "can't start the counter poll");
	if (rc)
		return rc;
	rc = explain(e, off_handover_start(&e->table), "can't map the hand-over's memory");
	if (rc)
		return rc;
	rc = explain(e, off_rtp_start(&e->table), "can't map the memory of RTP statistics");
	if (rc)
		return rc;
	rc = explain(e, off_splices_start(e), "can't map the memory of TCP connections");
	if (rc)
		return rc;
	rc = explain(e, off_frames_start(e), "can't prepare for packet sockets");
	if (rc)
		return rc;
	if (e->adoption.under_way)
		off_adopt_begin(e);
	L7MP_FAULT("serve");
	set_state(e, OFF_ACTIVE);
	e->why[0] = 0;
	missing_interfaces(e, NULL);
	off_attach_update_all(&e->hooks);
	off_retry_soon(e);
	if (e->drains.started)
		off_drains_go(e);
	return 0;
}

static int pin_and_serve(struct l7mp_offload_engine *e)
{
	int rc = off_maps_pin(&e->table.maps, e->pins.dir, e->why, sizeof(e->why));

	return rc ? rc : serve(e);
}

static int begin(struct l7mp_offload_engine *e, bool wait)
{
	int rc = off_pins_lock(&e->pins, e->set.instance, e->why, sizeof(e->why));

	if (!rc)
		rc = prepare(e);
	if (rc)
		return rc;
	off_drains_open(e);
	if (e->set.start == L7MP_OFFLOAD_NO_INIT)
		return take_over(e, wait);
	off_drains_arrange(e, wait);
	rc = wait ? take_over_flows(e) : 1;
	if (rc <= 0)
		return rc;
	clean_old(e);
	if (!wait && !off_load_start(e)) {
		set_state(e, OFF_STARTING);
		snprintf(e->why, sizeof(e->why), "the programs are being loaded");
		return 0;
	}
	rc = off_maps_load(&e->table.maps, e->set.max_flows, e->why, sizeof(e->why));
	return rc ? rc : pin_and_serve(e);
}

static void give_up(struct l7mp_offload_engine *e)
{
	set_state(e, OFF_UNAVAILABLE);
	if (e->set.start != L7MP_OFFLOAD_NO_INIT)
		off_drains_end_all(e, "the fast path is not available");
	release(e); /* clears the pins only if we hold the lock */
}

static void warn_unavailable(const struct l7mp_offload_engine *e)
{
	l7mp_log_warn(OFF_MODULE, "the kernel fast path is not available: %s", e->why);
}

void off_loaded(struct l7mp_offload_engine *e, int rc)
{
	if (rc && !e->why[0])
		(void)explain(e, rc, "can't load the BPF programs");
	if (!rc)
		rc = pin_and_serve(e);
	if (!rc) {
		l7mp_log_notice(OFF_MODULE, "the kernel fast path is ready");
		return;
	}
	give_up(e);
	warn_unavailable(e);
	retry_sessions(e); /* sessions have been refused with PENDING */
}

/* Removes all flows: without sessions nothing would ever end them. */
static void clear_flows(struct l7mp_offload_engine *e)
{
	unsigned n = off_entries_clear(&e->table.maps);
	uint64_t session;

	/* Programs may still count in their slots, which are reused. */
	if (n)
		off_wait_for_programs();
	while (!bpf_map_get_next_key(e->table.maps.sessions, NULL, &session))
		if (bpf_map_delete_elem(e->table.maps.sessions, &session))
			break;
	if (n)
		l7mp_log_notice(OFF_MODULE, "removed %u flows that no session owns", n);
}

/* ---- what is left, while the fast path is off ---- */

static void explain_off(struct l7mp_offload_engine *e)
{
	set_state(e, OFF_DISABLED);
	snprintf(e->why, sizeof(e->why), "%s",
	         e->set.start == L7MP_OFFLOAD_DISABLE
	                 ? "switched off by admin.offload"
	                 : "no interface is named in admin.offload_ifs");
}

static void warn_left(const char *dir, const char *why)
{
	l7mp_log_warn(OFF_MODULE,
	              "the fast path is off, but what an earlier process has left in the kernel "
	              "stays, with its pins in %s: %s",
	              dir, why);
}

void off_left_end(struct l7mp_offload_engine *e)
{
	int n = e->left_pins, rest;

	if (!n)
		return;
	e->left_pins = 0;
	off_splices_force(e, NULL);
	stop(e, false);
	explain_off(e);
	rest = off_pins_count(e->pins.dir);
	if (rest) {
		warn_left(e->pins.dir, "pins can't be removed");
		return;
	}
	l7mp_log_notice(OFF_MODULE,
	                "the fast path is off: removed what an earlier process left in the kernel, "
	                "%d pins in %s; %llu sessions go on in user space, %llu flows are removed",
	                n, e->pins.dir, (unsigned long long)e->adoption.n_adopted,
	                (unsigned long long)e->adoption.n_removed);
}

/* Takes the sessions over, so that l7mp_offload_adopt restores them, or removes all at once. */
static int begin_left(struct l7mp_offload_engine *e)
{
	int rc = prepare(e);

	if (rc)
		return rc;
	off_drains_open(e);
	off_drains_end_all(e, "the fast path is off");
	rc = take_over_flows(e);
	if (!rc)
		return 0;
	if (rc < 0)
		l7mp_log_warn(OFF_MODULE, "the flows of an earlier process can't be taken over: %s",
		              e->why);
	e->adoption.under_way = false;
	clean_old(e);
	release(e);
	off_left_end(e);
	return 0;
}

/*
 * The fast path is off: removes what a process of this instance that was killed has left. Not of
 * one that runs, as it holds the lock.
 */
static void start_left(struct l7mp_offload_engine *e)
{
	char dir[sizeof(e->pins.dir)], why[sizeof(e->why)];
	int n, rc;

	off_pins_dir(e->set.instance, dir, sizeof(dir));
	n = off_pins_count(dir);
	if (!n)
		return;
	if (n < 0) {
		warn_left(dir, strerror(-n));
		return;
	}
	rc = off_pins_lock(&e->pins, e->set.instance, why, sizeof(why));
	if (rc == -EBUSY)
		return;
	if (rc) {
		warn_left(dir, why);
		return;
	}
	/* Programs that can't be detached must keep their pins: the next process finds them so. */
	if (off_pins_check(dir) || !off_may_detach()) {
		warn_left(dir, "removing it needs CAP_BPF and CAP_NET_ADMIN");
		off_pins_unlock(&e->pins);
		return;
	}
	off_log_libraries();
	off_settings_no_ifs(&e->set);
	e->left_pins = n;
	rc = begin_left(e);
	if (!rc)
		return;
	e->left_pins = 0;
	warn_left(dir, e->why);
	e->adoption.under_way = true; /* keep the pins */
	release(e);
}

static int start(struct l7mp_offload_engine *e, struct l7mp_error *err)
{
	bool off = e->set.start == L7MP_OFFLOAD_DISABLE || !e->set.n_ifs;
	bool wait = !e->configured; /* the loop doesn't run yet, so blocking delays no session */
	int rc;

	e->configured = true;
	set_state(e, OFF_DISABLED);
	if (off) {
		if (wait && e->set.start != L7MP_OFFLOAD_NO_INIT)
			start_left(e);
		if (!off_has_maps(e))
			explain_off(e);
		return 0;
	}
	off_log_libraries();
	rc = begin(e, wait);
	if (!rc)
		return 0;
	give_up(e);
	if (rc == -EBUSY ||
	    (e->set.start == L7MP_OFFLOAD_NO_INIT && (rc == -EPROTO || rc == -ENOENT)))
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "offload: %s", e->why);
	warn_unavailable(e);
	return 0;
}

/* Takes ownership of *wanted. */
static void use_settings(struct l7mp_offload_engine *e, struct off_settings *wanted)
{
	struct off_settings before = e->set;

	e->set = *wanted;
	/* In other states serve() warns. */
	if (e->state == OFF_ACTIVE)
		missing_interfaces(e, &before);
	off_settings_clear(&before);
	e->ops.tcp_after_bytes = wanted->tcp.after_bytes;
	e->ops.tcp_after_ms = wanted->tcp.after_ms;
	if (e->state == OFF_ACTIVE && !wanted->tcp.enabled)
		off_flows_leave_tcp(e);
	else if (e->state == OFF_ACTIVE)
		off_retry_soon(e);
}

static bool same_ground(const struct off_settings *a, const struct off_settings *b)
{
	return a->max_flows == b->max_flows && a->instance && b->instance &&
	       !strcmp(a->instance, b->instance) && !a->n_ifs == !b->n_ifs;
}

/* Can these settings be applied with the present maps and programs? */
static bool can_stay(const struct l7mp_offload_engine *e, const struct off_settings *wanted)
{
	return off_has_maps(e) && same_ground(&e->set, wanted) &&
	       (e->set.start == wanted->start || wanted->start == L7MP_OFFLOAD_NO_INIT);
}

static void disown(struct l7mp_offload_engine *e)
{
	struct off_link *l, *next;

	HASH_ITER (hh, e->path.links, l, next) {
		/* Its programs are being detached. */
		if (l->leaving)
			continue;
		off_xdp_forget(l);
		l->ours = false;
	}
}

static int start_with(struct l7mp_offload_engine *e, struct off_settings *wanted,
                      struct l7mp_error *err)
{
	bool drains = wanted->start != L7MP_OFFLOAD_DISABLE && wanted->n_ifs && e->set.instance &&
	              !strcmp(e->set.instance, wanted->instance);

	stop(e, drains);
	use_settings(e, wanted);
	return start(e, err);
}

void off_stopped(struct l7mp_offload_engine *e)
{
	struct off_settings wanted = e->next;
	struct l7mp_error err = {0};

	e->next = (struct off_settings){0};
	/* After a timeout: un-splice the rest as it is. */
	off_splices_force(e, NULL);
	if (start_with(e, &wanted, &err))
		l7mp_log_error(OFF_MODULE, "%s", err.message);
	if (e->state == OFF_UNAVAILABLE)
		retry_sessions(e); /* they have been refused with PENDING */
}

/* Applies settings with the present maps and programs; cancels STOPPING. */
static void stay(struct l7mp_offload_engine *e, struct off_settings *wanted)
{
	if (e->state == OFF_STOPPING) {
		off_settings_clear(&e->next);
		set_state(e, OFF_ACTIVE);
		e->why[0] = 0;
		off_nexthops_replan_all(&e->path);
	}
	/* no_init from now on: leave our programs and pins in place when we end. */
	if (e->set.start != wanted->start)
		disown(e);
	use_settings(e, wanted);
	off_attach_retry_all(&e->hooks);
}

int l7mp_offload_reconfigure(struct l7mp_offload_engine *e, const struct l7mp_admin *admin,
                             struct l7mp_error *err)
{
	struct off_settings wanted;
	int rc = off_settings_copy(&wanted, admin);

	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	if (e->state == OFF_STARTING && same_ground(&e->set, &wanted) &&
	    e->set.start == wanted.start) {
		use_settings(e, &wanted);
		return 0;
	}
	if (can_stay(e, &wanted)) {
		stay(e, &wanted);
		return 0;
	}
	if (!off_has_maps(e) || (e->state == OFF_ACTIVE && !off_leave_all(e)))
		return start_with(e, &wanted, err);
	set_state(e, OFF_STOPPING);
	snprintf(e->why, sizeof(e->why), "flows leave the kernel, as the settings have changed");
	off_settings_clear(&e->next);
	e->next = wanted;
	return 0;
}

/* ---- upgrade: the old process ---- */

int l7mp_offload_lock(const struct l7mp_offload_engine *e, const char *instance, int abi)
{
	if (e->state != OFF_ACTIVE || e->adoption.under_way || abi != L7MP_ABI_VERSION ||
	    strcmp(instance, e->set.instance) != 0)
		return -1;
	return e->pins.lock;
}

void l7mp_offload_rest(struct l7mp_offload_engine *e, bool on)
{
	if (e->state != OFF_ACTIVE || e->rests == on)
		return;
	e->rests = on;
	if (on) {
		off_flows_settle(e);
		off_leave_now(e);
		l7mp_timer_stop(e->loop, &e->work);
		return;
	}
	if (e->missed)
		on_path(e, OFF_PATH_RESYNC, NULL);
	e->missed = false;
	off_nexthops_dirty_all(&e->path);
	on_path(e, OFF_PATH_WORK, NULL);
	off_retry_soon(e);
}

void l7mp_offload_leave(struct l7mp_offload_engine *e)
{
	if (e->state != OFF_ACTIVE)
		return;
	disown(e);
	while (e->flows)
		off_flow_let_go(e, e->flows);
	e->adoption.under_way = true; /* by the new process: keep pins and programs */
	set_state(e, OFF_DISABLED);
	snprintf(e->why, sizeof(e->why), "another process has taken over");
	release(e);
	e->rests = e->missed = false;
}

/* ---- upgrade: the new process ---- */

/* Opens the old process's maps without changing anything that it uses. */
static int open_predecessor(struct l7mp_offload_engine *e)
{
	int rc = prepare(e);

	if (!rc)
		rc = open_pinned(e, false, e->why, sizeof(e->why));
	if (!rc && e->set.start != L7MP_OFFLOAD_NO_INIT)
		rc = off_maps_renew(&e->table.maps, e->pins.dir, e->why, sizeof(e->why));
	return rc;
}

int l7mp_offload_inherit(struct l7mp_offload_engine *e, const struct l7mp_admin *admin, int lock)
{
	struct off_settings wanted;
	int rc = off_settings_copy(&wanted, admin);

	if (rc) {
		close(lock);
		return rc;
	}
	use_settings(e, &wanted);
	off_log_libraries();
	e->adoption.under_way = true;
	rc = explain(e, off_pins_take(&e->pins, e->set.instance, lock), "the lock");
	if (rc)
		close(lock);
	else
		rc = open_predecessor(e);
	if (!rc) {
		e->configured = true;
		set_state(e, OFF_STARTING);
		return 0;
	}
	l7mp_log_warn(OFF_MODULE, "the flows of the earlier process can't be taken over: %s",
	              e->why);
	release(e);
	return rc;
}

void l7mp_offload_continue(struct l7mp_offload_engine *e)
{
	int rc = 0;

	if (e->state != OFF_STARTING)
		return;
	if (e->set.start != L7MP_OFFLOAD_NO_INIT)
		rc = off_maps_pin_new(&e->table.maps, e->pins.dir, e->why, sizeof(e->why));
	off_drains_open(e);
	if (!rc)
		rc = serve(e);
	if (!rc)
		return;
	/* Remove the old process's flows, too: without sessions nothing would ever end them. */
	e->adoption.under_way = false;
	clean_old(e);
	give_up(e);
	warn_unavailable(e);
}
