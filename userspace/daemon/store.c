/* SPDX-License-Identifier: MIT */
#include "store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frames.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/util.h"
#include "notify.h"
#include "wire.h"

#define MODULE "restart"
/* How long TCP connections may take to leave the kernel; the remaining ones end. */
#define UNLEND_MS 5000
/* How long sessions may then take to connect, while the listeners are paused. */
#define SETTLE_MS 500
#define LOOK_MS   10
/* Maximum size of the file, which is mostly queued data of sessions. */
#define BYTES_MAX (256L << 20)

/* ---- the old process ---- */

struct giving {
	struct store *store;
	int file;
	int *fds; /* borrowed; the last one is the file */
	size_t n, max;
	size_t sessions, full, failed; /* stored; not stored for lack of room; not stored because
	                                * they can't be handed over */
};

static int write_frame(void *arg, enum wire_type type, const void *head, size_t head_len,
                       const void *body, size_t body_len, const int *fds, unsigned n_fds)
{
	const struct giving *g = arg;

	return wire_store(g->file, type, head, head_len, body, body_len, fds, n_fds);
}

static int write_hello(struct giving *g)
{
	cJSON *json = cJSON_CreateObject();
	int rc = l7mp_json_add_str(json, "version", L7MP_VERSION);
	char *text;

	rc |= l7mp_json_add_num(json, "records", FRAMES_RECORDS);
	text = rc ? NULL : l7mp_json_print(json, L7MP_JSON_PLAIN);
	cJSON_Delete(json);
	rc = text ? write_frame(g, WIRE_HELLO, text, strlen(text), NULL, 0, NULL, 0) : -ENOMEM;
	free(text);
	return rc;
}

/* The name of a UNIX socket is removed with its listener, so only IP sockets are stored. */
static int give_listener(void *arg, const char *listener, int fd)
{
	struct giving *g = arg;
	int domain = 0, rc;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) || domain == AF_UNIX)
		return 0;
	if (g->n + 1 >= g->max) {
		l7mp_log_warn(MODULE,
		              "%s: its socket is not kept: the service manager keeps %zu at most "
		              "(FileDescriptorStoreMax)",
		              *listener ? listener : "the admin server", g->max);
		return 0;
	}
	rc = write_frame(g, WIRE_LISTENER, listener, strlen(listener), NULL, 0, &fd, 1);
	if (!rc)
		g->fds[g->n++] = fd;
	return rc;
}

/* Writes a session and freezes it; without room for its sockets it ends. */
static void give_session(struct giving *g, struct l7mp_session *s)
{
	off_t at = lseek(g->file, 0, SEEK_CUR);
	struct frames_out out = {.s = NULL};
	int rc = frames_begin(&out, s, false);

	if (rc) {
		l7mp_log_verbose(MODULE, "%s ends: %s", l7mp_session_name(s), strerror(-rc));
		g->failed++;
		return;
	}
	/* The file needs a descriptor, too. */
	rc = g->n + out.n_fds + 1 > g->max || at > BYTES_MAX ? -ENOSPC : 0;
	if (!rc)
		rc = frames_write(&out, write_frame, g);
	if (rc) {
		(void)!ftruncate(g->file, at);
		(void)lseek(g->file, at, SEEK_SET);
		l7mp_session_thaw(s);
		g->full++;
	} else {
		for (unsigned i = 0; i < out.n_fds; i++)
			g->fds[g->n++] = out.fds[i];
		g->sessions++;
	}
	frames_clear(&out);
}

static int give_sessions(struct giving *g)
{
	struct l7mp_session_cursor cursor = {.m = NULL};
	struct l7mp_session *s;

	l7mp_cursor_open(&cursor, g->store->sessions);
	while ((s = l7mp_cursor_next(&cursor)))
		give_session(g, s);
	l7mp_cursor_close(&cursor);
	return write_frame(g, WIRE_COMMIT, NULL, 0, NULL, 0, NULL, 0);
}

static int send_all(const struct giving *g)
{
	int rc = 0;

	for (size_t at = 0; !rc && at < g->n; at += L7MP_NOTIFY_FDS)
		rc = l7mp_notify_store(g->fds + at,
		                       g->n - at < L7MP_NOTIFY_FDS ? g->n - at : L7MP_NOTIFY_FDS);
	return rc;
}

/* rc 0: the manager has their sockets. Otherwise they continue until they are ended. */
static void settle(struct giving *g, int rc)
{
	struct l7mp_session_cursor cursor = {.m = NULL};
	struct l7mp_session *s;

	l7mp_cursor_open(&cursor, g->store->sessions);
	while ((s = l7mp_cursor_next(&cursor)))
		if (rc)
			l7mp_session_thaw(s);
		else
			l7mp_session_release(s);
	l7mp_cursor_close(&cursor);
	if (rc)
		l7mp_log_error(MODULE, "the service manager does not keep our sockets: %s",
		               strerror(-rc));
	else if (g->sessions + g->full + g->failed)
		l7mp_log_notice(MODULE,
		                "the service manager keeps %zu sessions; %zu others end here",
		                g->sessions, g->full + g->failed);
	if (g->full)
		l7mp_log_warn(MODULE,
		              "%zu sessions are not kept for want of space: the service manager "
		              "keeps %zu descriptors (FileDescriptorStoreMax), %ld MiB of data",
		              g->full, g->max, BYTES_MAX >> 20);
}

void store_give(struct store *s)
{
	struct giving g = {.store = s, .max = l7mp_notify_store_max()};
	int rc;

	if (!g.max)
		return;
	if (g.max > L7MP_HANDED_MAX)
		g.max = L7MP_HANDED_MAX;
	g.fds = calloc(g.max, sizeof(*g.fds));
	g.file = memfd_create("l7mp-sessions", MFD_CLOEXEC);
	rc = g.file < 0 ? -errno : !g.fds ? -ENOMEM : write_hello(&g);
	if (!rc)
		rc = l7mp_runtime_each_socket(s->runtime, give_listener, &g);
	if (!rc)
		rc = s->each_socket(s->arg, give_listener, &g);
	if (!rc && s->resting)
		rc = give_sessions(&g);
	else if (!rc)
		rc = write_frame(&g, WIRE_COMMIT, NULL, 0, NULL, 0, NULL, 0);
	/* Stored last, when everything that it describes is stored. */
	if (!rc) {
		g.fds[g.n++] = g.file;
		rc = send_all(&g);
	}
	settle(&g, rc);
	if (g.file >= 0)
		close(g.file);
	free(g.fds);
}

bool store_wanted(void)
{
	return l7mp_notify_store_max() > 0;
}

static void look(struct l7mp_timer *timer, void *arg)
{
	struct store *s = arg;
	uint64_t now = l7mp_loop_now(s->loop);
	bool again = now < s->until_ms;

	if (!s->resting && !(again && l7mp_sessions_lent(s->sessions))) {
		/* What datagrams began so far is a session; what comes from now on waits. */
		l7mp_runtime_hand(s->runtime, L7MP_HAND_REST);
		s->resting = again = true;
		s->until_ms = now + SETTLE_MS;
	}
	if (again && (!s->resting || l7mp_sessions_settling(s->sessions)))
		(void)l7mp_timer_start(s->loop, timer, LOOK_MS); /* reserved */
	else
		s->ready(s->arg);
}

void store_prepare(struct store *s, void (*ready)(void *arg))
{
	s->ready = ready;
	s->until_ms = l7mp_loop_now(s->loop) + UNLEND_MS;
	l7mp_sessions_offload_rest(s->sessions, true);
	(void)l7mp_timer_start(s->loop, &s->timer, 0); /* reserved */
}

int store_init(struct store *s)
{
	l7mp_timer_init(&s->timer, look, s);
	return l7mp_timer_reserve(s->loop, &s->timer);
}

void store_stop(struct store *s)
{
	if (!s->loop)
		return;
	l7mp_timer_stop(s->loop, &s->timer);
	l7mp_timer_give_back(s->loop, &s->timer);
	s->loop = NULL;
}

/* ---- the new process ---- */

/* A passed socket. */
struct passed {
	UT_hash_handle hh;
	uint64_t cookie;
	int fd; /* -1: taken */
	bool of_session;
};

struct stored {
	struct passed *passed; /* by cookie; of sessions */
	int file;              /* -1: none */
	size_t taken, refused;
	uint64_t cookies[WIRE_FDS];
	struct wire_frame frame;
};

static int take_fd(struct stored *s, uint64_t cookie)
{
	struct passed *p = NULL;
	int fd;

	HASH_FIND(hh, s->passed, &cookie, sizeof(cookie), p);
	if (!p)
		return -1;
	fd = p->fd;
	p->fd = -1;
	return fd;
}

/* Finds the frame's sockets. False: not all of them were passed. */
static bool take_fds(struct stored *s)
{
	struct wire_frame *f = &s->frame;
	unsigned want = f->n_fds;

	for (f->n_fds = 0; f->n_fds < want; f->n_fds++) {
		f->fds[f->n_fds] = take_fd(s, s->cookies[f->n_fds]);
		if (f->fds[f->n_fds] < 0) {
			wire_close_fds(f);
			return false;
		}
	}
	return true;
}

/* Of a kind that no listener can use, or a duplicate: close it. */
static int hand(struct l7mp_handed *handed, int fd, const char *listener)
{
	return l7mp_handed_add(handed, fd, listener) == -ENOMEM ? -ENOMEM : 0;
}

static int keep(struct stored *s, int fd, struct l7mp_handed *handed)
{
	struct passed *p, *old = NULL;
	uint64_t cookie = wire_cookie(fd);
	struct stat st;

	if (!cookie && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size && s->file < 0) {
		s->file = fd;
		return 0;
	}
	HASH_FIND(hh, s->passed, &cookie, sizeof(cookie), old);
	p = cookie && !old ? calloc(1, sizeof(*p)) : NULL;
	if (!p) {
		/* Not a socket, or passed twice. */
		close(fd);
		return cookie && !old ? -ENOMEM : 0;
	}
	*p = (struct passed){.cookie = cookie, .fd = fd};
	HASH_ADD(hh, s->passed, cookie, sizeof(p->cookie), p);
	if (p->hh.tbl)
		return 0;
	free(p);
	return hand(handed, fd, NULL);
}

/* Reads the next frame. Returns 0, or a negative errno, which is logged except at the end. */
static int next(struct stored *s)
{
	int rc = wire_load(s->file, &s->frame, s->cookies);

	if (rc && rc != -ENODATA)
		l7mp_log_error(MODULE,
		               "sessions that the service manager has kept can't be read: %s",
		               rc == -EPROTO ? "another version has written them" : strerror(-rc));
	return rc;
}

static bool right_version(const struct stored *s)
{
	cJSON *json = l7mp_json_parse((const char *)s->frame.data, s->frame.len, NULL, NULL, 0);
	bool right =
	        s->frame.type == WIRE_HELLO && l7mp_json_num(json, "records", 0) == FRAMES_RECORDS;

	if (!right)
		l7mp_log_error(MODULE, "l7mp %s has kept sessions in another form: they end",
		               l7mp_json_str(json, "version", "?"));
	cJSON_Delete(json);
	return right;
}

/* Marks the sockets of this frame as a session's. */
static void mark(struct stored *s)
{
	for (unsigned i = 0; i < s->frame.n_fds; i++) {
		struct passed *p = NULL;

		HASH_FIND(hh, s->passed, &s->cookies[i], sizeof(s->cookies[i]), p);
		if (p)
			p->of_session = true;
	}
}

/*
 * Passes the listeners' sockets on, and marks those of sessions. Returns 0: the file is complete;
 * else no session can be restored.
 */
static int survey(struct stored *s, struct l7mp_handed *handed)
{
	int rc = lseek(s->file, 0, SEEK_SET) ? -EIO : next(s);

	if (!rc && !right_version(s))
		return -EPROTO;
	while (!rc && !(rc = next(s)) && s->frame.type != WIRE_COMMIT) {
		if (s->frame.type == WIRE_SESSION)
			mark(s);
		else if (s->frame.type == WIRE_LISTENER && s->frame.n_fds == 1 && take_fds(s))
			rc = hand(handed, s->frame.fds[0], (const char *)s->frame.data);
	}
	return rc;
}

/* The others are of a socket unit, or of an earlier version. */
static int hand_others(struct stored *s, struct l7mp_handed *handed)
{
	struct passed *p, *tmp;
	int rc = 0;

	HASH_ITER (hh, s->passed, p, tmp) {
		if (p->fd < 0 || p->of_session)
			continue;
		rc = rc ? rc : hand(handed, p->fd, NULL);
		p->fd = -1;
	}
	return rc;
}

/* Invalidates the file, so that it is not used again, for example after a crash. */
static void invalidate(struct stored *s)
{
	if (s->file >= 0 && (ftruncate(s->file, 0) || close(s->file)))
		l7mp_log_error(MODULE, "the file of kept sessions: %s", strerror(errno));
	s->file = -1;
}

void store_close(struct stored **sp)
{
	struct passed *p, *tmp;
	struct stored *s = *sp;

	if (!s)
		return;
	*sp = NULL;
	if (s->file >= 0)
		close(s->file);
	HASH_ITER (hh, s->passed, p, tmp) {
		HASH_DEL(s->passed, p);
		if (p->fd >= 0)
			close(p->fd);
		free(p);
	}
	free(s);
}

int store_open(int first, int n, struct l7mp_handed *handed, struct stored **out)
{
	struct stored *s = calloc(1, sizeof(*s));
	int rc = 0;

	*out = NULL;
	if (!s)
		return -ENOMEM;
	s->file = -1;
	for (int i = 0; i < n && !rc; i++)
		rc = keep(s, first + i, handed);
	if (!rc && s->file >= 0 && survey(s, handed))
		invalidate(s);
	if (!rc)
		rc = hand_others(s, handed);
	if (rc || s->file < 0)
		store_close(&s);
	*out = s;
	return rc;
}

static void make(struct stored *s, struct frames_in *in, struct l7mp_runtime *rt)
{
	struct l7mp_error err = {.code = L7MP_OK};
	const char *name = l7mp_json_str(in->record, "name", "?");

	if (!in->record)
		return;
	if (!frames_make(in, rt, &err)) {
		s->taken++;
	} else {
		s->refused++;
		l7mp_log_warn(MODULE, "%s ends: %s", name, err.message);
	}
	frames_drop(in);
}

/* Reads one frame of a session. If `in` has no record, the frame is skipped. */
static void on_frame(struct stored *s, struct frames_in *in, struct l7mp_buf_pool *pool,
                     struct l7mp_runtime *rt)
{
	if (s->frame.type == WIRE_MAKE) {
		make(s, in, rt);
	} else if (s->frame.type == WIRE_SESSION && !take_fds(s)) {
		frames_drop(in);
		s->refused++;
		l7mp_log_warn(MODULE,
		              "a session ends: the service manager has not kept its sockets");
	} else if ((s->frame.type == WIRE_SESSION || in->record) &&
	           frames_add(in, &s->frame, pool)) {
		frames_drop(in);
		s->refused++;
		l7mp_log_warn(MODULE, "a session ends: its record is malformed");
	}
}

void store_take(struct stored **sp, struct l7mp_runtime *rt, struct l7mp_loop *loop)
{
	struct frames_in in = {.record = NULL};
	struct stored *s = *sp;

	if (!s)
		return;
	if (!lseek(s->file, 0, SEEK_SET)) {
		while (!next(s) && s->frame.type != WIRE_COMMIT) {
			if (s->frame.type == WIRE_LISTENER || s->frame.type == WIRE_HELLO)
				continue;
			on_frame(s, &in, l7mp_loop_bufs(loop), rt);
			wire_close_fds(&s->frame);
		}
	}
	frames_drop(&in);
	invalidate(s);
	if (s->taken + s->refused)
		l7mp_log_notice(MODULE, "%zu sessions go on, %zu end", s->taken, s->refused);
	store_close(sp);
}
