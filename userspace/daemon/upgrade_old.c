/* SPDX-License-Identifier: MIT */
/* The old process of an upgrade: starts the new process and hands over to it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frames.h"
#include "l7mp/log.h"
#include "l7mp/slice.h"
#include "l7mp/util.h"
#include "upgrade.h"
#include "wire.h"

#define MODULE "upgrade"

/* Long, because the new process may read a large configuration. */
#define START_MS 60000
#define BIND_MS  30000
/* Time limit of each step in which sessions are frozen. */
#define STEP_MS 10000
/* Time limit for un-splicing TCP connections; those that take longer stay in this process. */
#define UNLEND_MS 5000
#define LOOK_MS   10
/* The number of the connection's descriptor in the new process. */
#define CHILD_FD 3

enum phase {
	PHASE_NONE,
	PHASE_START,  /* waits for HELLO */
	PHASE_BIND,   /* waits for BOUND */
	PHASE_UNLEND, /* waits for TCP connections to be un-spliced */
	PHASE_GIVE,   /* sends sessions */
	PHASE_COMMIT, /* waits for RUNNING */
	PHASE_LET_GO, /* closes sessions that the new process has */
	PHASE_OVER,   /* the new process runs */
};

static const char *const phase_names[] = {"none",     "starting", "binding",    "unsplicing",
                                          "sessions", "commit",   "letting-go", "over"};

struct refusal {
	struct refusal *next;
	char *reason;
	char name[];
};

struct upgrade {
	struct upgrade_params p;
	int fd; /* our end of the socket pair; -1: none */
	pid_t pid;
	uv_poll_t *poll;
	struct l7mp_timer timer; /* the step's time limit; in UNLEND the next check */
	struct l7mp_slice slice;
	struct l7mp_session_cursor cursor;
	enum phase phase;
	bool records; /* the new process understands our session records */
	bool flows;   /* ... and adopts the flows as they are */
	bool stopped;
	uint64_t unlend_until;
	struct frames_out out;
	struct refusal *refused;
	size_t moved, stay;
	uint64_t frozen_ms, paused_ms;   /* loop time when sessions were frozen; for how long */
	char new_version[64], last[256]; /* last: result of the last upgrade: "", or the error */
	uint64_t last_wall;
	struct wire_frame *frame;
};

static void send_some(struct l7mp_slice *slice, void *arg);

/* ---- the connection ---- */

static void poll_closed(uv_handle_t *handle)
{
	free(handle);
}

static void disconnect(struct upgrade *u)
{
	l7mp_timer_stop(u->p.loop, &u->timer);
	l7mp_slice_cancel(u->p.loop, &u->slice);
	l7mp_cursor_close(&u->cursor);
	if (u->poll) {
		uv_poll_stop(u->poll);
		uv_close((uv_handle_t *)u->poll, poll_closed);
	}
	u->poll = NULL;
	if (u->fd >= 0)
		close(u->fd);
	u->fd = -1;
}

static void refusals_clear(struct upgrade *u)
{
	while (u->refused) {
		struct refusal *r = u->refused;

		u->refused = r->next;
		free(r->reason);
		free(r);
	}
}

/* ---- failure ---- */

static void thaw_all(struct upgrade *u)
{
	struct l7mp_session *s = l7mp_sessions_first(u->p.sessions);

	while (s) {
		struct l7mp_session *next = l7mp_sessions_next(s);

		l7mp_session_thaw(s);
		s = next;
	}
	l7mp_runtime_hand(u->p.runtime, L7MP_HAND_BACK);
}

/*
 * Kills the new process and waits for its end, so that it can't do anything when this one resumes.
 * If it has closed the connection it is ending by itself, and its own exit status is returned.
 */
static const char *reap(struct upgrade *u, char *buf, size_t size)
{
	int status = 0;

	kill(u->pid, SIGKILL);
	while (waitpid(u->pid, &status, 0) < 0 && errno == EINTR)
		;
	u->pid = 0;
	if (WIFEXITED(status))
		snprintf(buf, size, "the new process has ended with status %d",
		         WEXITSTATUS(status));
	else
		snprintf(buf, size, "the new process was ended by signal %d", WTERMSIG(status));
	return buf;
}

static void fail(struct upgrade *u, const char *why)
{
	enum phase phase = u->phase;
	char ended[80];
	const char *end = reap(u, ended, sizeof(ended));

	if (!why)
		why = end;
	snprintf(u->last, sizeof(u->last), "%s (step: %s)", why, phase_names[phase]);
	u->last_wall = l7mp_wallclock_ms();
	disconnect(u);
	frames_clear(&u->out);
	refusals_clear(u);
	u->phase = PHASE_NONE;
	if (phase >= PHASE_GIVE) {
		thaw_all(u);
		l7mp_offload_rest(u->p.offload, false);
	}
	if (phase >= PHASE_UNLEND)
		l7mp_sessions_offload_rest(u->p.sessions, false);
	l7mp_log_error(MODULE, "the upgrade has failed, this process goes on: %s", u->last);
	u->p.busy(u->p.arg, false);
}

static void fail_errno(struct upgrade *u, const char *what, int rc)
{
	char text[200];

	if (rc == -EPIPE) {
		fail(u, NULL);
		return;
	}
	snprintf(text, sizeof(text), "%s: %s", what, strerror(-rc));
	fail(u, text);
}

static void limit(struct upgrade *u, enum phase phase, uint64_t ms)
{
	u->phase = phase;
	(void)l7mp_timer_start(u->p.loop, &u->timer, upgrade_limit(ms)); /* reserved */
}

/* ---- the listeners ---- */

/* Blocks. Listeners are few: the socket buffer has room, or the new process reads meanwhile. */
static int send_wait(struct upgrade *u, enum wire_type type, const char *text, int fd)
{
	int rc;

	for (int i = 0; i < 200; i++) {
		rc = wire_send_text(u->fd, type, text, &fd, fd >= 0);
		if (rc != -EAGAIN)
			return rc;
		usleep(100);
	}
	return rc;
}

static int send_listener(void *arg, const char *listener, int fd)
{
	return send_wait(arg, WIRE_LISTENER, listener, fd);
}

static void on_hello(struct upgrade *u)
{
	cJSON *json = l7mp_json_parse((const char *)u->frame->data, u->frame->len, NULL, NULL, 0);
	const char *instance = l7mp_json_str(json, "instance", NULL);
	int rc, lock = -1;

	u->records = l7mp_json_num(json, "records", 0) == FRAMES_RECORDS;
	if (u->records && instance)
		lock = l7mp_offload_lock(u->p.offload, instance,
		                         (int)l7mp_json_num(json, "abi", 0));
	snprintf(u->new_version, sizeof(u->new_version), "%s", l7mp_json_str(json, "version", "?"));
	cJSON_Delete(json);
	rc = l7mp_runtime_each_socket(u->p.runtime, send_listener, u);
	if (!rc)
		rc = u->p.each_socket(u->p.arg, send_listener, u);
	if (!rc && lock >= 0)
		rc = send_wait(u, WIRE_FAST_PATH, NULL, lock);
	if (!rc)
		rc = send_wait(u, WIRE_BIND, NULL, -1);
	if (rc)
		fail_errno(u, "can't send the listening sockets", rc);
	else
		limit(u, PHASE_BIND, BIND_MS);
}

/* ---- the sessions ---- */

static void begin_giving(struct upgrade *u)
{
	/* Sessions begun until now are ours; new datagrams wait in the listeners' sockets. */
	l7mp_sessions_stay(u->p.sessions, !u->records);
	l7mp_runtime_hand(u->p.runtime, L7MP_HAND_REST);
	u->frozen_ms = l7mp_loop_now(u->p.loop);
	u->moved = u->stay = 0;
	limit(u, PHASE_GIVE, STEP_MS);
	if (u->flows)
		l7mp_offload_rest(u->p.offload, true);
	l7mp_cursor_open(&u->cursor, u->p.sessions);
	l7mp_slice_post(u->p.loop, &u->slice);
}

static void on_bound(struct upgrade *u)
{
	cJSON *json = l7mp_json_parse((const char *)u->frame->data, u->frame->len, NULL, NULL, 0);

	u->flows = l7mp_json_bool(json, "flows", false);
	cJSON_Delete(json);
	u->unlend_until = l7mp_loop_now(u->p.loop) + UNLEND_MS;
	u->phase = PHASE_UNLEND;
	l7mp_sessions_offload_rest(u->p.sessions, true);
	(void)l7mp_timer_start(u->p.loop, &u->timer, 0);
}

/* Freezes a session and prepares its frames. False: it stays in this process. */
static bool take_up(struct upgrade *u, struct l7mp_session *s)
{
	int rc = u->records ? frames_begin(&u->out, s, u->flows) : -ENOTSUP;

	if (rc && u->records)
		l7mp_log_verbose(MODULE, "%s stays: %s", l7mp_session_name(s), strerror(-rc));
	return !rc;
}

static int send_frame(void *arg, enum wire_type type, const void *head, size_t head_len,
                      const void *body, size_t body_len, const int *fds, unsigned n_fds)
{
	const struct upgrade *u = arg;

	return wire_send(u->fd, type, head, head_len, body, body_len, fds, n_fds);
}

/* Returns 0 when the session was sent completely. */
static int send_session(struct upgrade *u)
{
	int rc = frames_write(&u->out, send_frame, u);

	if (rc)
		return rc;
	u->moved++;
	frames_clear(&u->out);
	return 0;
}

static void watch(struct upgrade *u, int events);

static void all_sent(struct upgrade *u)
{
	int rc = wire_send_text(u->fd, WIRE_COMMIT, NULL, NULL, 0);

	if (rc == -EAGAIN)
		watch(u, UV_READABLE | UV_WRITABLE);
	else if (rc)
		fail_errno(u, "can't send", rc);
	else
		limit(u, PHASE_COMMIT, STEP_MS);
}

static void send_some(struct l7mp_slice *slice, void *arg)
{
	struct upgrade *u = arg;
	struct l7mp_session *s;
	int rc = 0;

	do {
		rc = u->out.s ? send_session(u) : 0;
		if (rc)
			break;
		s = l7mp_cursor_next(&u->cursor);
		if (!s) {
			all_sent(u);
			return;
		}
		if (!take_up(u, s)) {
			l7mp_session_stay(s);
			u->stay++;
		}
	} while (!l7mp_slice_over(u->p.loop));
	if (rc == -EAGAIN)
		watch(u, UV_READABLE | UV_WRITABLE);
	else if (rc)
		fail_errno(u, "can't send a session", rc);
	else
		l7mp_slice_post(u->p.loop, slice);
}

static void on_refused(struct upgrade *u)
{
	cJSON *json = l7mp_json_parse((const char *)u->frame->data, u->frame->len, NULL, NULL, 0);
	const char *name = l7mp_json_str(json, "name", "");
	struct refusal *r = calloc(1, sizeof(*r) + strlen(name) + 1);

	if (r) {
		strcpy(r->name, name);
		r->reason = strdup(l7mp_json_str(json, "reason", "not allowed"));
		r->next = u->refused;
		u->refused = r;
	}
	cJSON_Delete(json);
}

/* ---- the end ---- */

/* Ends sessions that the new configuration does not allow, as after a reload. */
static void end_refused(struct upgrade *u)
{
	for (struct refusal *r = u->refused; r; r = r->next) {
		struct l7mp_session *s = l7mp_sessions_find(u->p.sessions, r->name);
		char text[300];

		if (!s || !l7mp_session_is_frozen(s))
			continue;
		u->moved--;
		l7mp_session_thaw(s);
		snprintf(text, sizeof(text), "upgrade: %.250s", r->reason ? r->reason : "refused");
		l7mp_log_warn(MODULE, "%s ends: %s", r->name, text);
		l7mp_session_end(s, text);
	}
	refusals_clear(u);
}

static void let_go_some(struct l7mp_slice *slice, void *arg)
{
	struct upgrade *u = arg;
	struct l7mp_session *s;

	while ((s = l7mp_cursor_next(&u->cursor))) {
		l7mp_session_release(s);
		if (!l7mp_session_may_stay(s))
			l7mp_session_end(s, "upgrade: the new process begins it again");
		if (!l7mp_slice_over(u->p.loop))
			continue;
		l7mp_slice_post(u->p.loop, slice);
		return;
	}
	u->phase = PHASE_OVER;
	l7mp_log_notice(MODULE,
	                "process %d (l7mp %s) has taken over: %zu sessions went to it in %llu ms, "
	                "%zu stay here until they end",
	                (int)u->pid, u->new_version, u->moved, (unsigned long long)u->paused_ms,
	                u->stay);
	u->p.given(u->p.arg, u->pid, u->stay);
	if (u->fd >= 0)
		(void)wire_send_text(u->fd, WIRE_GIVEN, NULL, NULL, 0);
}

static void on_running(struct upgrade *u)
{
	u->phase = PHASE_LET_GO;
	l7mp_timer_stop(u->p.loop, &u->timer);
	u->paused_ms = l7mp_loop_now(u->p.loop) - u->frozen_ms;
	l7mp_runtime_hand(u->p.runtime, L7MP_HAND_GIVE);
	/* First of all: the flows belong to the new process and must not be removed. */
	if (u->flows)
		l7mp_offload_leave(u->p.offload);
	end_refused(u);
	l7mp_cursor_close(&u->cursor);
	l7mp_cursor_open(&u->cursor, u->p.sessions);
	l7mp_slice_init(&u->slice, let_go_some, u);
	l7mp_slice_post(u->p.loop, &u->slice);
}

/* ---- events ---- */

/* Processes a received frame. False: it was not expected. */
static bool on_frame(struct upgrade *u)
{
	enum wire_type type = u->frame->type;

	if (type == WIRE_HELLO && u->phase == PHASE_START)
		on_hello(u);
	else if (type == WIRE_BOUND && u->phase == PHASE_BIND)
		on_bound(u);
	else if (type == WIRE_REFUSED && (u->phase == PHASE_GIVE || u->phase == PHASE_COMMIT))
		on_refused(u);
	else if (type == WIRE_RUNNING && u->phase == PHASE_COMMIT)
		on_running(u);
	else
		return false;
	return true;
}

/* After the commit: the new process has closed the connection, or ended. */
static void left_alone(struct upgrade *u)
{
	disconnect(u);
	if (u->phase == PHASE_LET_GO)
		l7mp_slice_post(u->p.loop, &u->slice);
}

static void on_readable(struct upgrade *u)
{
	for (int i = 0; i < 64 && u->fd >= 0; i++) {
		int rc = wire_recv(u->fd, u->frame, -1);

		if (rc == -EAGAIN)
			return;
		if (rc && u->phase >= PHASE_LET_GO) {
			struct l7mp_session_cursor at = {.m = NULL};

			/* Continue to close the sessions that it has. */
			if (u->phase == PHASE_LET_GO)
				l7mp_cursor_copy(&at, &u->cursor);
			left_alone(u);
			if (at.m)
				l7mp_cursor_copy(&u->cursor, &at);
			l7mp_cursor_close(&at);
			return;
		}
		if (rc) {
			fail_errno(u,
			           rc == -EPROTO ? "the new process speaks another version"
			                         : "can't receive",
			           rc);
			return;
		}
		wire_close_fds(u->frame);
		if (!on_frame(u) && u->phase < PHASE_LET_GO) {
			fail(u, "the new process does not keep to the order of an upgrade");
			return;
		}
	}
}

void upgrade_cancel(struct upgrade *u, const char *why)
{
	/* Its RUNNING may have been received just now. */
	if (upgrade_is_busy(u))
		on_readable(u);
	if (upgrade_is_busy(u))
		fail(u, why);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct upgrade *u = poll->data;

	if ((events & UV_WRITABLE) && status >= 0) {
		watch(u, UV_READABLE);
		if (u->phase == PHASE_GIVE)
			l7mp_slice_post(u->p.loop, &u->slice);
	}
	if (status < 0 || (events & (UV_READABLE | UV_DISCONNECT)))
		on_readable(u);
}

static void watch(struct upgrade *u, int events)
{
	if (u->poll)
		(void)uv_poll_start(u->poll, events, on_poll);
}

static void on_timer(struct l7mp_timer *timer, void *arg)
{
	struct upgrade *u = arg;

	if (u->phase != PHASE_UNLEND) {
		/* Its RUNNING may have been received just now. */
		on_readable(u);
		if (upgrade_is_busy(u) && !l7mp_timer_armed(timer))
			fail(u, "the new process takes too long");
		return;
	}
	if (l7mp_sessions_lent(u->p.sessions) && l7mp_loop_now(u->p.loop) < u->unlend_until)
		(void)l7mp_timer_start(u->p.loop, timer, LOOK_MS);
	else
		begin_giving(u);
}

/* ---- starting the new process ---- */

/*
 * The child starts with these blocked, because they may arrive before its main function: their
 * default action would end it. SIGTERM and SIGINT are to end it.
 */
static void signals_to_block(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGUSR1);
	sigaddset(set, SIGUSR2);
}

static int spawn(const struct upgrade *u, int childs, pid_t *pid)
{
	static char fd_text[] = UPGRADE_FD_ENV "=3";
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t all, blocked;
	size_t n = 0;
	char **env;
	int rc;

	while (environ[n])
		n++;
	env = calloc(n + 2, sizeof(*env));
	if (!env)
		return -ENOMEM;
	memcpy(env, environ, n * sizeof(*env));
	env[n] = fd_text;
	sigfillset(&all);
	sigdelset(&all, SIGKILL);
	sigdelset(&all, SIGSTOP);
	signals_to_block(&blocked);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	rc = posix_spawn_file_actions_adddup2(&actions, childs, CHILD_FD);
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setsigmask(&attr, &blocked);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	if (!rc)
		rc = posix_spawn(pid, u->p.program, &actions, &attr, u->p.argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	free(env);
	return -rc;
}

static int start(struct upgrade *u)
{
	int fds[2], rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds))
		return -errno;
	/* The child's end is blocking; it waits with poll(2). */
	rc = spawn(u, fds[1], &u->pid);
	close(fds[1]);
	u->fd = fds[0];
	u->poll = rc ? NULL : calloc(1, sizeof(*u->poll));
	if (!rc && !u->poll)
		rc = -ENOMEM;
	if (!rc) {
		rc = uv_poll_init(l7mp_loop_uv(u->p.loop), u->poll, u->fd);
		if (rc) {
			free(u->poll);
			u->poll = NULL;
		}
	}
	if (!rc) {
		u->poll->data = u;
		watch(u, UV_READABLE);
		return 0;
	}
	if (u->pid) {
		char unused[80];

		(void)reap(u, unused, sizeof(unused));
	}
	disconnect(u);
	return rc;
}

int upgrade_start(struct upgrade *u)
{
	int rc;

	if (u->phase != PHASE_NONE) {
		l7mp_log_warn(MODULE, "an upgrade is going on already, or has been done");
		return -EBUSY;
	}
	rc = start(u);
	if (rc) {
		snprintf(u->last, sizeof(u->last), "can't start %.150s: %s", u->p.program,
		         strerror(-rc));
		u->last_wall = l7mp_wallclock_ms();
		l7mp_log_error(MODULE, "the upgrade has failed, this process goes on: %s", u->last);
		return rc;
	}
	l7mp_log_notice(MODULE, "process %d is started from %s", (int)u->pid, u->p.program);
	l7mp_slice_init(&u->slice, send_some, u);
	u->p.busy(u->p.arg, true);
	limit(u, PHASE_START, START_MS);
	return 0;
}

/* ---- state, life cycle ---- */

bool upgrade_is_busy(const struct upgrade *u)
{
	return u->phase > PHASE_NONE && u->phase < PHASE_LET_GO;
}

const char *upgrade_failure(const struct upgrade *u)
{
	return u->last;
}

bool upgrade_is_over(const struct upgrade *u)
{
	return u->phase >= PHASE_LET_GO;
}

cJSON *upgrade_to_json(const struct upgrade *u)
{
	cJSON *json = cJSON_CreateObject();
	char time[L7MP_ISO8601_LEN];

	l7mp_json_add_str(json, "state",
	                  upgrade_is_busy(u)   ? "upgrading"
	                  : upgrade_is_over(u) ? "replaced"
	                                       : "serving");
	l7mp_json_add_num(json, "pid", getpid());
	l7mp_json_add_str(json, "version", L7MP_VERSION);
	if (upgrade_is_busy(u))
		l7mp_json_add_str(json, "step", phase_names[u->phase]);
	if (u->pid)
		l7mp_json_add_num(json, "new_pid", u->pid);
	if (u->last_wall) {
		l7mp_json_add_str(json, "failed", u->last);
		l7mp_json_add_str(json, "failed_at", l7mp_iso8601(u->last_wall, time));
	}
	if (upgrade_is_over(u)) {
		l7mp_json_add_num(json, "sessions_moved", (double)u->moved);
		l7mp_json_add_num(json, "sessions_left", (double)u->stay);
	}
	return json;
}

int upgrade_new(const struct upgrade_params *params, struct upgrade **out)
{
	struct upgrade *u = calloc(1, sizeof(*u));

	if (u)
		u->frame = calloc(1, sizeof(*u->frame));
	if (!u || !u->frame) {
		free(u);
		return -ENOMEM;
	}
	u->p = *params;
	u->fd = -1;
	l7mp_timer_init(&u->timer, on_timer, u);
	l7mp_slice_init(&u->slice, send_some, u);
	*out = u;
	return l7mp_timer_reserve(u->p.loop, &u->timer);
}

void upgrade_stop(struct upgrade *u)
{
	if (u->stopped)
		return;
	u->stopped = true;
	upgrade_cancel(u, "this process ends");
	disconnect(u);
	l7mp_timer_give_back(u->p.loop, &u->timer);
}

void upgrade_free(struct upgrade **pp)
{
	struct upgrade *u = *pp;

	if (!u)
		return;
	*pp = NULL;
	frames_clear(&u->out);
	refusals_clear(u);
	free(u->frame);
	free(u);
}
