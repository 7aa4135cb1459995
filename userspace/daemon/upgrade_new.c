/* SPDX-License-Identifier: MIT */
/*
 * The new process of an upgrade. Until the commit it only waits for the old process, with a time
 * limit, and its loop does not run, so that nothing that it has created is active yet.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"
#include "l7mp/abi.h"
#include "l7mp/fault.h"
#include "l7mp/handed.h"
#include "l7mp/log.h"
#include "l7mp/util.h"
#include "upgrade.h"
#include "wire.h"

#define MODULE "upgrade"
/* The old process kills us if we take too long; this limit is for the case that it hangs. */
#define WAIT_MS 60000
#define ENDS_MS 5000 /* a process being killed ends within that time */

struct takeover {
	int fd;   /* connection to the old process; -1: it has ended */
	int lock; /* of the fast path's instance; -1: none */
	int old;  /* the old process's pidfd; -1: it had ended before */
	uv_poll_t *poll;
	bool from_old; /* the old process has answered */
	size_t taken, refused;
	uint64_t wall;
	void (*given)(void *arg);
	void *given_arg;
	struct frames_in in; /* the session that is being received */
	struct wire_frame frame;
};

/* ---- for tests ---- */

#ifdef L7MP_FAULTS
uint64_t upgrade_limit(uint64_t ms)
{
	const char *text = getenv("L7MP_UPGRADE_LIMIT");

	return text ? (uint64_t)atoi(text) : ms;
}
#endif

/* ---- life ---- */

int takeover_new(struct takeover **out)
{
	const char *text = getenv(UPGRADE_FD_ENV);
	int fd = text ? atoi(text) : -1, type = 0;
	socklen_t len = sizeof(type);
	struct ucred cred;
	socklen_t cred_len = sizeof(cred);

	*out = NULL;
	if (!text)
		return 0;
	unsetenv(UPGRADE_FD_ENV);
	if (fd <= STDERR_FILENO || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) ||
	    type != SOCK_SEQPACKET || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len) ||
	    cred.uid != geteuid() || fcntl(fd, F_SETFD, FD_CLOEXEC)) {
		fprintf(stderr,
		        "l7mp-proxy: %s=%s is not a socket of an old process of this user\n",
		        UPGRADE_FD_ENV, text);
		return -EINVAL;
	}
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->fd = fd;
	(*out)->lock = -1;
	(*out)->old = pidfd_open(cred.pid, 0);
	L7MP_FAULT("upgrade-start");
	return 0;
}

/*
 * The old process has closed the connection: waits until it has ended, because its other sockets
 * are closed later, and their addresses are bound next.
 */
static void old_has_ended(struct takeover *t)
{
	struct pollfd end = {.fd = t->old, .events = POLLIN};

	close(t->fd);
	t->fd = -1;
	if (t->old >= 0)
		(void)poll(&end, 1, ENDS_MS);
	l7mp_log_warn(MODULE, "the old process has died: this one goes on with what it has");
}

/* ---- before the commit ---- */

/* Sends a frame. Not an error if the old process has ended. */
static int send_frame(struct takeover *t, enum wire_type type, const char *text)
{
	int rc = -EAGAIN;

	if (t->fd < 0)
		return 0;
	for (int i = 0; i < 1000 && rc == -EAGAIN; i++) {
		rc = wire_send_text(t->fd, type, text, NULL, 0);
		if (rc == -EAGAIN)
			usleep(1000);
	}
	if (rc == -EPIPE) {
		old_has_ended(t);
		return 0;
	}
	return rc;
}

/* Receives the next frame. Returns 0, -EPIPE if the old process has ended, or another errno. */
static int next(struct takeover *t)
{
	int rc = t->fd < 0 ? -EPIPE : wire_recv(t->fd, &t->frame, WAIT_MS);

	if (rc == -EPIPE && t->fd >= 0)
		old_has_ended(t);
	t->from_old = t->from_old || !rc;
	return rc;
}

static int failed(int rc, const char *what)
{
	fprintf(stderr, "l7mp-proxy: the upgrade is given up: %s: %s\n", what, strerror(-rc));
	return rc;
}

static int say_hello(struct takeover *t, const char *instance)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_str(json, "version", L7MP_VERSION);
	char *text;

	rc |= l7mp_json_add_num(json, "records", FRAMES_RECORDS);
	if (instance) {
		rc |= l7mp_json_add_str(json, "instance", instance);
		rc |= l7mp_json_add_num(json, "abi", L7MP_ABI_VERSION);
	}
	text = rc ? NULL : l7mp_json_print(json, L7MP_JSON_PLAIN);
	cJSON_Delete(json);
	rc = text ? send_frame(t, WIRE_HELLO, text) : -ENOMEM;
	free(text);
	return rc;
}

static int take_socket(struct takeover *t, struct l7mp_handed *handed)
{
	int rc;

	if (t->frame.n_fds != 1)
		return -EPROTO;
	t->frame.n_fds = 0;
	if (t->frame.type == WIRE_FAST_PATH) {
		if (t->lock >= 0)
			close(t->lock);
		t->lock = t->frame.fds[0];
		return 0;
	}
	rc = l7mp_handed_add(handed, t->frame.fds[0], (const char *)t->frame.data);
	/* A kind of socket that this version does not know: the listener binds its own. */
	return rc == -EINVAL ? 0 : rc;
}

int takeover_sockets(struct takeover *t, const char *instance, struct l7mp_handed *handed)
{
	int rc = say_hello(t, instance);

	L7MP_FAULT("upgrade-hello");
	while (!rc && !(rc = next(t)) &&
	       (t->frame.type == WIRE_LISTENER || t->frame.type == WIRE_FAST_PATH))
		rc = take_socket(t, handed);
	if (rc == -EPIPE)
		return 0;
	if (!rc && t->frame.type != WIRE_BIND) {
		wire_close_fds(&t->frame);
		rc = -EPROTO;
	}
	L7MP_FAULT("upgrade-listeners");
	return rc ? failed(rc, "the listening sockets") : 0;
}

int takeover_lock(struct takeover *t)
{
	int fd = t->lock;

	t->lock = -1;
	return fd;
}

bool takeover_orphaned(const struct takeover *t)
{
	return t->fd < 0;
}

static int refuse(struct takeover *t, const struct l7mp_error *err)
{
	cJSON *json = cJSON_CreateObject();
	char *text;
	int rc;

	t->refused++;
	l7mp_json_add_str(json, "name", l7mp_json_str(t->in.record, "name", ""));
	l7mp_json_add_str(json, "reason", err->message);
	text = l7mp_json_print(json, L7MP_JSON_PLAIN);
	cJSON_Delete(json);
	rc = text ? send_frame(t, WIRE_REFUSED, text) : -ENOMEM;
	free(text);
	return rc;
}

static int make_session(struct takeover *t, struct l7mp_runtime *runtime)
{
	struct l7mp_error err = {.code = L7MP_OK};
	int rc = 0;

	if (!t->in.record)
		return -EPROTO;
	if (frames_make(&t->in, runtime, &err))
		rc = refuse(t, &err);
	else
		t->taken++;
	frames_drop(&t->in);
	L7MP_FAULT("upgrade-session");
	return rc;
}

static int on_frame(struct takeover *t, struct l7mp_runtime *runtime, struct l7mp_buf_pool *pool)
{
	return t->frame.type == WIRE_MAKE ? make_session(t, runtime)
	                                  : frames_add(&t->in, &t->frame, pool);
}

int takeover_sessions(struct takeover *t, bool flows, struct l7mp_runtime *runtime,
                      struct l7mp_loop *loop)
{
	int rc = send_frame(t, WIRE_BOUND, flows ? "{\"flows\":true}" : "{}");

	L7MP_FAULT("upgrade-bound");
	while (!rc && !(rc = next(t)) && t->frame.type != WIRE_COMMIT) {
		rc = on_frame(t, runtime, l7mp_loop_bufs(loop));
		wire_close_fds(&t->frame);
	}
	frames_drop(&t->in);
	if (rc && rc != -EPIPE)
		return failed(rc, "the sessions");
	L7MP_FAULT("upgrade-commit");
	/* The point of no return. */
	rc = send_frame(t, WIRE_RUNNING, NULL);
	t->wall = l7mp_wallclock_ms();
	L7MP_FAULT("upgrade-running");
	return rc ? failed(rc, "the commit") : 0;
}

/* ---- afterwards ---- */

static void poll_closed(uv_handle_t *handle)
{
	free(handle);
}

static void is_given(struct takeover *t)
{
	void (*given)(void *arg) = t->given;

	t->given = NULL;
	if (given)
		given(t->given_arg);
}

void takeover_stop(struct takeover *t)
{
	t->given = NULL;
	if (t->poll) {
		uv_poll_stop(t->poll);
		uv_close((uv_handle_t *)t->poll, poll_closed);
	}
	t->poll = NULL;
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct takeover *t = poll->data;
	int rc = -EAGAIN;

	(void)status;
	(void)events;
	while (t->fd >= 0 && !(rc = wire_recv(t->fd, &t->frame, -1))) {
		wire_close_fds(&t->frame);
		if (t->frame.type == WIRE_GIVEN)
			is_given(t);
	}
	if (rc == -EAGAIN)
		return;
	/* The old process has ended or closed the connection. */
	is_given(t);
	takeover_stop(t);
}

void takeover_run(struct takeover *t, struct l7mp_loop *loop, void (*given)(void *arg), void *arg)
{
	l7mp_log_notice(MODULE, "%zu sessions are taken over, %zu refused", t->taken, t->refused);
	t->given = given;
	t->given_arg = arg;
	t->poll = t->fd >= 0 ? calloc(1, sizeof(*t->poll)) : NULL;
	if (t->poll && uv_poll_init(l7mp_loop_uv(loop), t->poll, t->fd)) {
		free(t->poll);
		t->poll = NULL;
	}
	if (!t->poll) {
		is_given(t);
		takeover_stop(t);
		return;
	}
	t->poll->data = t;
	/* The handle must not keep the loop running. */
	uv_unref((uv_handle_t *)t->poll);
	(void)uv_poll_start(t->poll, UV_READABLE | UV_DISCONNECT, on_poll);
}

void takeover_to_json(const struct takeover *t, cJSON *json)
{
	char time[L7MP_ISO8601_LEN];

	l7mp_json_add_str(json, "took_over_at", l7mp_iso8601(t->wall, time));
	l7mp_json_add_num(json, "sessions_taken", (double)t->taken);
	l7mp_json_add_num(json, "sessions_refused", (double)t->refused);
}

void takeover_free(struct takeover **tp)
{
	struct takeover *t = *tp;

	if (!t)
		return;
	*tp = NULL;
	frames_drop(&t->in);
	if (t->fd >= 0)
		close(t->fd);
	if (t->old >= 0)
		close(t->old);
	if (t->lock >= 0)
		close(t->lock);
	free(t);
}
