/* SPDX-License-Identifier: MIT */
/*
 * PIPE: a byte stream over up to two FIFOs, one for each direction.
 *
 * poll(2) tells a reader when there is data and when the last writer has closed, but not when a
 * writer opens. So a listener's session begins with the first byte. A listener has one session at a
 * time. When the last writer closes, the session gets an end of stream; if the route retries on
 * disconnects, the session continues with the next writer.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"
#include "net/net.h"

/* ---- FIFOs ---- */

/*
 * By path: created when missing, and removed only if this process created them, or a killed proxy
 * of the same user did.
 */

struct pipe_listener;

/* One for each path in use: only one of the process's streams can read a FIFO. */
struct fifo {
	struct fifo *prev, *next; /* in *list */
	struct fifo **list;
	unsigned refs;
	bool created; /* by this process, as dev and ino */
	bool adopted; /* created by an earlier proxy, which was killed */
	/*
	 * Set by clusters: a FIFO created by this process remains until fifo_clear, so that the
	 * peer may open it between two attempts to connect.
	 */
	bool keep;
	dev_t dev;
	ino_t ino;
	int held_reader;                 /* open while no stream reads, so that writers don't fail;
	                                  * -1: none */
	int held_writer;                 /* open while no stream writes, so that readers get no EOF;
	                                  * -1: none */
	unsigned flushing;               /* streams that are closing and have bytes left to write */
	bool reading;                    /* a stream reads it */
	struct pipe_listener *listener;  /* reads it whenever no session does */
	struct pipe_listener *successor; /* becomes the listener when its change is committed */
	char path[];
};

static int *held_fd(struct fifo *f, int flags)
{
	return flags == O_RDONLY ? &f->held_reader : &f->held_writer;
}

/*
 * FIFOs created by the proxy have the sticky bit, which has no meaning for a FIFO: it distinguishes
 * a FIFO left behind by a killed proxy from one created by a user.
 */
#define MARK S_ISVTX

static void remember(struct fifo *f, const struct stat *st, bool adopted)
{
	f->created = true;
	f->adopted = adopted;
	f->dev = st->st_dev;
	f->ino = st->st_ino;
}

/* Creates the FIFO unless it exists. Returns 0 when there is one. */
static int create(struct fifo *f)
{
	struct stat st;

	if (!mkfifo(f->path, 0666 | MARK)) {
		if (lstat(f->path, &st))
			return -errno;
		remember(f, &st, false);
		return 0;
	}
	if (errno != EEXIST)
		return -errno;
	if (!lstat(f->path, &st) && S_ISFIFO(st.st_mode) && (st.st_mode & MARK) &&
	    st.st_uid == geteuid()) {
		remember(f, &st, true);
		return 0;
	}
	if (stat(f->path, &st))
		return -errno;
	return S_ISFIFO(st.st_mode) ? 0 : -EEXIST;
}

/* Whether it has a reader. Another proxy of this user may have created it, and still run. */
static bool has_reader(const char *path)
{
	int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

/* Finds or creates the FIFO and takes a reference. -EEXIST with err: the path is not a FIFO. */
static int fifo_get(struct fifo **list, const char *path, struct fifo **out, struct l7mp_error *err)
{
	struct fifo *f;
	int rc;

	DL_FOREACH (*list, f) {
		if (strcmp(f->path, path))
			continue;
		f->refs++;
		*out = f;
		return 0;
	}
	f = calloc(1, sizeof(*f) + strlen(path) + 1);
	if (!f)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	strcpy(f->path, path);
	f->held_reader = f->held_writer = -1;
	rc = create(f);
	if (rc) {
		free(f);
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s: %s", path,
		                      rc == -EEXIST ? "is there already and is not a FIFO; it is "
		                                      "left alone"
		                                    : l7mp_errno_text(rc));
	}
	f->list = list;
	f->refs = 1;
	DL_APPEND(*list, f);
	*out = f;
	return 0;
}

/* Closes the held descriptor, if there is one. */
static void fifo_release(struct fifo *f, int flags)
{
	int *held = held_fd(f, flags);

	if (*held >= 0)
		close(*held);
	*held = -1;
}

static void fifo_free(struct fifo *f)
{
	struct stat st;

	fifo_release(f, O_RDONLY);
	fifo_release(f, O_WRONLY);
	DL_DELETE(*f->list, f);
	/* Do not remove a FIFO by which another process has replaced it. */
	if (f->created && !lstat(f->path, &st) && S_ISFIFO(st.st_mode) && st.st_dev == f->dev &&
	    st.st_ino == f->ino && !(f->adopted && has_reader(f->path)))
		(void)unlink(f->path);
	free(f);
}

/* Drops a reference and sets the pointer to NULL; NULL is ignored. */
static void fifo_unref(struct fifo **fp)
{
	struct fifo *f = *fp;

	*fp = NULL;
	if (!f || --f->refs)
		return;
	if (f->created && f->keep)
		fifo_release(f, O_RDONLY);
	else
		fifo_free(f);
}

/* Frees all FIFOs that were kept; there must be no references. */
static void fifo_clear(struct fifo **list)
{
	struct fifo *f, *tmp;

	DL_FOREACH_SAFE (*list, f, tmp)
		fifo_free(f);
}

static int open_checked(const char *path, int flags)
{
	struct stat st;
	int rc, fd = open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return -errno;
	rc = fstat(fd, &st) ? -errno : S_ISFIFO(st.st_mode) ? 0 : -EEXIST;
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

/*
 * Opens it for O_RDONLY or O_WRONLY, non-blocking; creates it again if it was removed meanwhile.
 * Takes over the held descriptor if there is one. -ENXIO: O_WRONLY, and there is no reader.
 */
static int fifo_open(struct fifo *f, int flags)
{
	int *held = held_fd(f, flags);
	int rc, fd = *held;

	if (fd >= 0) {
		*held = -1;
		return fd;
	}
	fd = open_checked(f->path, flags);
	if (fd != -ENOENT)
		return fd;
	rc = create(f);
	return rc ? rc : open_checked(f->path, flags);
}

/* Keeps a descriptor open for O_RDONLY or O_WRONLY, without reading or writing. Best effort. */
static void fifo_hold(struct fifo *f, int flags)
{
	int *held = held_fd(f, flags);
	int fd = *held < 0 ? open_checked(f->path, flags) : *held;

	*held = fd < 0 ? -1 : fd;
}

/* ---- streams and listeners ---- */

#define RETRY_MS   50   /* between attempts to open an output without a reader */
#define CLOSE_MS   5000 /* how long a close waits for a reader */
#define REFUSED_MS 1000 /* delay after a refused session */
/* After a session shorter than this the next one begins only after this time. */
#define SHORT_SESSION_MS 100

struct pipe_state {
	struct fifo *fifos;
	uint64_t last_id; /* of session names */
};

struct pipe_stream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct fifo *in, *out;                 /* references; NULL: no such direction */
	struct l7mp_stream_io *input, *output; /* NULL: not open yet, or closed */
	struct l7mp_bufq waiting;              /* written while `out` has no reader */
	struct l7mp_timer timer;               /* retries opening `out`; ends a close */
	struct l7mp_task task;                 /* emits `open` or `closed` */
	/*
	 * The listener for which it waits, or which emitted it; NULL: a cluster's stream, or
	 * deleted.
	 */
	struct pipe_listener *listener;
	struct l7mp_buf *first; /* the first bytes, until a session was admitted for them */
	uint64_t since;         /* loop time when it was emitted, or its close began */
	int err;
	bool open, emitted, reading;
	bool reads;       /* it is the stream that reads `in` */
	bool end_emitted; /* `end` */
	bool full;        /* write returned L7MP_STREAM_FULL, `drain` is due */
	bool shut;
	bool no_output_noticed;
	bool flushing; /* counted in out->flushing */
	bool closing, over;
};

struct pipe_listener {
	struct l7mp_proto_listener base;
	struct l7mp_env *env;
	struct pipe_state *state;
	char *name;
	struct fifo *in, *out;
	struct pipe_stream *stream; /* waits for its first byte, or is the session's source */
	struct l7mp_timer timer;    /* starts listening again */
	bool has_session;           /* also while a session may reopen its source */
	bool emitting;
	uint64_t since; /* loop time when the last session was emitted */
	bool active;
};

/* ---- the stream ---- */

/* The first bytes were read; takes buf. */
static void listener_first_bytes(struct pipe_listener *l, struct pipe_stream *s,
                                 struct l7mp_buf *buf);
/* A writer opened and closed the FIFO without writing. */
static void listener_empty_writer(struct pipe_listener *l, struct pipe_stream *s);
/* The stream has stopped reading. */
static void listener_stream_closed(struct pipe_listener *l, struct pipe_stream *s);
/* No stream reads the listener's FIFO any more. */
static void listener_fifo_free(struct pipe_listener *l);

static void drop_waiting(struct pipe_stream *s)
{
	if (s->waiting.count)
		l7mp_stats_drop(s->env->stats, L7MP_DROP_CLOSED, s->waiting.count,
		                s->waiting.bytes);
	l7mp_bufq_clear(&s->waiting);
}

static void stream_free(struct pipe_stream *s)
{
	l7mp_task_cancel(s->env->loop, &s->task);
	l7mp_timer_stop(s->env->loop, &s->timer);
	l7mp_buf_unref(s->first);
	drop_waiting(s);
	fifo_unref(&s->in);
	fifo_unref(&s->out);
	free(s);
}

/* Leaves `in` to the next reader; the listener keeps it open, so that no data is lost. */
static void stop_reading(struct pipe_stream *s)
{
	struct pipe_listener *l = s->in ? s->in->listener : NULL;

	if (!s->reads)
		return;
	s->reads = false;
	if (l)
		fifo_hold(s->in, O_RDONLY);
	l7mp_stream_io_close(s->input, true);
	s->in->reading = false;
	if (l)
		listener_fifo_free(l);
}

static void finish(struct pipe_stream *s, int err)
{
	if (s->over)
		return;
	s->over = s->closing = true;
	s->err = err;
	l7mp_timer_stop(s->env->loop, &s->timer);
	stop_reading(s);
	if (s->listener)
		listener_stream_closed(s->listener, s);
	if (s->output) {
		s->flushing = !err && l7mp_stream_io_queued(s->output);
		s->out->flushing += s->flushing;
		l7mp_stream_io_close(s->output, err != 0);
	}
	l7mp_task_post(s->env->loop, &s->task);
}

static void describe(const struct pipe_stream *s, struct l7mp_error *err)
{
	const struct fifo *f = s->err == -EPIPE || !s->in ? s->out : s->in;

	l7mp_error_set(err, s->err, L7MP_ERR_UPSTREAM, "PIPE %s: %s", f ? f->path : "",
	               s->err == -EPIPE ? "its reader has closed" : l7mp_errno_text(s->err));
}

static void emit_end(struct pipe_stream *s)
{
	if (s->end_emitted || !s->open || s->closing)
		return;
	s->end_emitted = true;
	s->base.events->end(s->base.owner, 0);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct pipe_stream *s = arg;
	struct l7mp_error err = {.code = L7MP_OK};

	(void)t;
	if (!s->over) {
		s->open = true;
		if (s->input)
			l7mp_stream_io_read(s->input, s->reading);
		s->base.events->open(s->base.owner);
		return;
	}
	if (s->input || s->output)
		return; /* their `closed` posts this task again */
	if (s->err)
		describe(s, &err);
	if (s->base.events)
		s->base.events->closed(s->base.owner, &err);
	stream_free(s);
}

/* ---- reading ---- */

static void in_data(void *arg, struct l7mp_buf *buf)
{
	struct pipe_stream *s = arg;

	if (s->listener && !s->emitted)
		listener_first_bytes(s->listener, s, buf);
	else
		s->base.events->data(s->base.owner, buf);
}

static void in_end(void *arg)
{
	struct pipe_stream *s = arg;

	/* Keep a read descriptor open, otherwise the next writer gets ENXIO. */
	if (s->in->listener)
		fifo_hold(s->in, O_RDONLY);
	if (s->listener && !s->emitted)
		listener_empty_writer(s->listener, s);
	else
		emit_end(s);
}

static void in_error(void *arg, int err)
{
	finish(arg, err);
}

static void in_closed(void *arg)
{
	struct pipe_stream *s = arg;

	s->input = NULL;
	if (s->over)
		l7mp_task_post(s->env->loop, &s->task);
}

static const struct l7mp_stream_io_ops in_ops = {
        .data = in_data,
        .end = in_end,
        .error = in_error,
        .closed = in_closed,
};

/* ---- writing ---- */

static void out_drain(void *arg)
{
	struct pipe_stream *s = arg;

	if (!s->full || s->closing)
		return;
	s->full = false;
	s->base.events->drain(s->base.owner);
}

static void out_error(void *arg, int err)
{
	struct pipe_stream *s = arg;

	finish(s, s->closing ? 0 : err);
}

static void out_closed(void *arg)
{
	struct pipe_stream *s = arg;

	s->output = NULL;
	if (s->out)
		s->out->flushing -= s->flushing;
	s->flushing = false;
	if (s->over)
		l7mp_task_post(s->env->loop, &s->task);
}

static const struct l7mp_stream_io_ops out_ops = {
        .drain = out_drain,
        .error = out_error,
        .closed = out_closed,
};

/* -ENXIO: no reader, or an earlier stream still has bytes to write. */
static int open_out(struct pipe_stream *s)
{
	int fd = s->out->flushing ? -ENXIO : fifo_open(s->out, O_WRONLY);

	if (fd < 0)
		return fd;
	return l7mp_stream_io_open_pipe(s->env->loop, -1, fd, &out_ops, s, &s->output);
}

/* Shuts down writing when everything was written. Without `in` the stream then ends. */
static void try_shutdown(struct pipe_stream *s)
{
	if (!s->shut || s->waiting.count)
		return;
	if (s->output)
		l7mp_stream_io_shutdown(s->output);
	if (s->in)
		return;
	if (!s->output || !l7mp_stream_io_queued(s->output))
		emit_end(s);
	else
		(void)l7mp_timer_start(s->env->loop, &s->timer, RETRY_MS);
}

/* `out` was opened: writes the queued data. */
static int write_waiting(struct pipe_stream *s)
{
	struct l7mp_buf *buf;
	int rc = 0;

	while (rc >= 0 && (buf = l7mp_bufq_pop(&s->waiting)))
		rc = l7mp_stream_io_write(s->output, buf);
	return rc;
}

static void retry_open(struct pipe_stream *s)
{
	int rc = open_out(s);

	if (rc == -ENXIO)
		rc = l7mp_timer_start(s->env->loop, &s->timer, RETRY_MS);
	else if (!rc)
		rc = write_waiting(s);
	if (rc < 0) {
		finish(s, rc);
		return;
	}
	if (s->waiting.count)
		return;
	try_shutdown(s);
	if (s->full && rc != L7MP_STREAM_IO_FULL && !s->closing) {
		s->full = false;
		s->base.events->drain(s->base.owner);
	}
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct pipe_stream *s = arg;

	(void)t;
	if (s->output || !s->out)
		try_shutdown(s);
	else if (!s->closing || l7mp_loop_now(s->env->loop) - s->since < CLOSE_MS)
		retry_open(s);
	else
		finish(s, 0);
	if (s->closing && s->output && !s->over)
		finish(s, 0); /* closing the descriptor waits for the rest */
}

/* ---- operations ---- */

/* Without an output answers are dropped; the session continues. */
static int drop_answer(struct pipe_stream *s, struct l7mp_buf *buf)
{
	l7mp_stats_drop(s->env->stats, L7MP_DROP_NO_RECEIVER, 1, buf->len);
	l7mp_buf_unref(buf);
	if (!s->no_output_noticed && s->base.events->notice)
		s->base.events->notice(s->base.owner, "no-output",
		                       "the listener has no output: answers are dropped");
	s->no_output_noticed = true;
	return 0;
}

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct pipe_stream *s = (struct pipe_stream *)base;
	int rc;

	if (!s->open || s->closing || s->shut) {
		l7mp_buf_unref(buf);
		return s->open ? -EPIPE : -ENOTCONN;
	}
	if (!s->out)
		return drop_answer(s, buf);
	if (!s->output && !s->waiting.count) {
		rc = open_out(s);
		if (rc && rc != -ENXIO) {
			l7mp_buf_unref(buf);
			return rc;
		}
	}
	if (s->output) {
		rc = l7mp_stream_io_write(s->output, buf);
		s->full = s->full || rc == L7MP_STREAM_IO_FULL;
		return rc == L7MP_STREAM_IO_FULL ? L7MP_STREAM_FULL : rc;
	}
	l7mp_bufq_push(&s->waiting, buf);
	s->full = true;
	if (!l7mp_timer_armed(&s->timer) && l7mp_timer_start(s->env->loop, &s->timer, RETRY_MS))
		return -ENOMEM;
	return L7MP_STREAM_FULL;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct pipe_stream *s = (struct pipe_stream *)base;

	s->reading = !on;
	if (s->input && s->open && !s->closing)
		l7mp_stream_io_read(s->input, !on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct pipe_stream *s = (struct pipe_stream *)base;

	(void)code;
	if (!s->open || s->closing || s->shut)
		return;
	s->shut = true;
	if (s->in)
		try_shutdown(s);
	else if (!l7mp_timer_armed(&s->timer))
		/* `end` must not be emitted from inside shutdown. */
		(void)l7mp_timer_start(s->env->loop, &s->timer, 0);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct pipe_stream *s = (struct pipe_stream *)base;
	bool first = !s->closing;

	s->closing = true;
	if (first) {
		s->since = l7mp_loop_now(s->env->loop);
		stop_reading(s);
		/* The stream of the next writer may continue with the same reader of `out`. */
		if (s->listener && s->end_emitted && s->output && !s->shut && !abort)
			fifo_hold(s->out, O_WRONLY);
		if (s->listener)
			listener_stream_closed(s->listener, s);
	}
	if (s->over) {
		if (abort && s->output)
			l7mp_stream_io_close(s->output, true);
		return;
	}
	if (!abort && s->waiting.count && !l7mp_timer_start(s->env->loop, &s->timer, RETRY_MS))
		return; /* a reader may still open it */
	if (abort && s->output)
		l7mp_stream_io_close(s->output, true);
	finish(s, 0);
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
};

/* ---- opening ---- */

static struct pipe_stream *stream_new(struct l7mp_env *env, struct fifo *in, struct fifo *out)
{
	struct pipe_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->base.ops = &stream_ops;
	s->base.kind = L7MP_KIND_STREAM;
	s->env = env;
	s->in = in;
	s->out = out;
	if (in)
		in->refs++;
	if (out)
		out->refs++;
	l7mp_bufq_init(&s->waiting);
	l7mp_timer_init(&s->timer, on_timer, s);
	l7mp_task_init(&s->task, on_task, s);
	return s;
}

static int open_in(struct pipe_stream *s)
{
	int rc, fd = fifo_open(s->in, O_RDONLY);

	if (fd < 0)
		return fd;
	rc = l7mp_stream_io_open_pipe(s->env->loop, fd, -1, &in_ops, s, &s->input);
	s->reads = s->in->reading = !rc;
	return rc;
}

/* Opens `in` and waits for a writer; the listener emits the stream. */
static int stream_listen(struct pipe_stream *s)
{
	int rc = open_in(s);

	if (!rc)
		l7mp_stream_io_read(s->input, true);
	return rc;
}

/* Opens both FIFOs; `open` follows. -ENXIO: nobody reads `out`. */
static int stream_connect(struct pipe_stream *s)
{
	int rc = open_out(s);

	if (!rc && s->in)
		rc = open_in(s);
	if (rc)
		return rc;
	l7mp_task_post(s->env->loop, &s->task);
	return 0;
}

/* The stream is about to be passed to an owner. */
static void stream_emitted(struct pipe_stream *s)
{
	s->emitted = s->open = true;
	s->since = l7mp_loop_now(s->env->loop);
	l7mp_stream_io_read(s->input, s->reading);
	/* Open it now if there is a reader, otherwise when there is data to write. */
	if (s->out)
		(void)open_out(s);
}

/* Closes a stream without an owner; it frees itself. */
static void stream_abandon(struct pipe_stream *s)
{
	s->listener = NULL;
	op_close(&s->base, true);
	/* The stream may be freed after the protocol was stopped. */
	fifo_unref(&s->in);
	fifo_unref(&s->out);
}

/* ---- the listener ---- */

static void listen_later(struct pipe_listener *l, uint64_t ms)
{
	if (l->active && l7mp_timer_start(l->env->loop, &l->timer, ms))
		l7mp_log_error("pipe", "%s: out of memory", l->name);
}

static int start_listening(struct pipe_listener *l)
{
	struct pipe_stream *s = stream_new(l->env, l->in, l->out);
	int rc;

	if (!s)
		return -ENOMEM;
	rc = stream_listen(s);
	if (rc) {
		stream_free(s);
		return rc;
	}
	s->listener = l;
	l->stream = s;
	return 0;
}

static void emit(struct pipe_listener *l, struct pipe_stream *s);

static void on_listen_timer(struct l7mp_timer *t, void *arg)
{
	struct pipe_listener *l = arg;
	int rc;

	(void)t;
	if (l->has_session)
		return;
	if (l->stream) {
		if (l->stream->first)
			emit(l, l->stream);
		return;
	}
	if (l->in->reading)
		return; /* listener_fifo_free follows */
	rc = start_listening(l);
	if (!rc)
		return;
	l7mp_log_warn("pipe", "%s: can't read %s: %s, trying again", l->name, l->in->path,
	              l7mp_errno_text(rc));
	listen_later(l, REFUSED_MS);
}

static int reopen(void *arg, struct l7mp_stream **out)
{
	struct pipe_listener *l = arg;
	struct pipe_stream *s;
	int rc;

	if (l->in->reading)
		return -EBUSY;
	rc = start_listening(l);
	if (rc)
		return rc;
	s = l->stream;
	stream_emitted(s);
	*out = &s->base;
	return 0;
}

static void session_ended(void *arg)
{
	struct pipe_listener *l = arg;

	l->has_session = false;
	if (l->out)
		fifo_release(l->out, O_WRONLY);
	listen_later(l, l7mp_loop_now(l->env->loop) - l->since < SHORT_SESSION_MS ? SHORT_SESSION_MS
	                                                                          : 0);
}

static cJSON *metadata(const struct pipe_listener *l)
{
	cJSON *root = cJSON_CreateObject(), *p = cJSON_CreateObject();
	int rc = l7mp_json_add_str(p, "filename", l->in->path);

	if (l->out)
		rc |= l7mp_json_add_str(p, "output", l->out->path);
	rc |= l7mp_json_add(root, "PIPE", p);
	if (!rc)
		return root;
	cJSON_Delete(root);
	return NULL;
}

/* The stream has received its first bytes: emits the session, or retries later. */
static void emit(struct pipe_listener *l, struct pipe_stream *s)
{
	const struct l7mp_addr nobody = {.len = 0};
	struct l7mp_accept a = {
	        .stream = &s->base, .reopen = reopen, .reopen_arg = l, .ended = session_ended};
	struct l7mp_buf *buf;

	if (l->base.events->admit && l->base.events->admit(l->base.arg, &nobody)) {
		listen_later(l, REFUSED_MS);
		return;
	}
	buf = s->first;
	s->first = NULL;
	a.name = l7mp_asprintf("PIPE:%s-%llu", l->name, (unsigned long long)++l->state->last_id);
	a.metadata = metadata(l);
	l->has_session = l->emitting = true;
	l->since = l7mp_loop_now(l->env->loop);
	stream_emitted(s);
	/* The owner may do anything in this call, including deletion of this listener. */
	if (!l7mp_accept_emit(&l->base, &a) || s->closing) {
		l7mp_buf_unref(buf);
		return;
	}
	if (s->listener)
		s->listener->emitting = false;
	s->base.events->data(s->base.owner, buf);
}

static void listener_first_bytes(struct pipe_listener *l, struct pipe_stream *s,
                                 struct l7mp_buf *buf)
{
	/* Stop reading until there is a session, which applies back-pressure. */
	l7mp_stream_io_read(s->input, false);
	s->first = buf;
	emit(l, s);
}

static void listener_empty_writer(struct pipe_listener *l, struct pipe_stream *s)
{
	/* While the first bytes wait for a session, delay the end, too. */
	if (s->first)
		return;
	l->stream = NULL;
	stream_abandon(s);
	listen_later(l, 0);
}

static void listener_stream_closed(struct pipe_listener *l, struct pipe_stream *s)
{
	s->listener = NULL;
	if (l->stream == s)
		l->stream = NULL;
	if (!s->emitted)
		listen_later(l, REFUSED_MS);
	if (!l->emitting)
		return; /* session_ended or reopen follows */
	/* Closed while being emitted: it was refused. */
	l->emitting = l->has_session = false;
	listen_later(l, REFUSED_MS);
}

static void listener_fifo_free(struct pipe_listener *l)
{
	if (!l->has_session && !l->stream && !l7mp_timer_armed(&l->timer))
		listen_later(l, 0);
}

/* ---- operations ---- */

static bool is_retiring(const struct l7mp_listen *params, const struct pipe_listener *l)
{
	for (size_t i = 0; i < params->n_retiring; i++)
		if (params->retiring[i] == &l->base)
			return true;
	return false;
}

static void pipe_unlisten(struct l7mp_proto_listener *base)
{
	struct pipe_listener *l = (struct pipe_listener *)base;
	struct pipe_stream *s = l->stream;

	l7mp_timer_stop(l->env->loop, &l->timer);
	l->active = false;
	if (l->in && l->in->successor == l)
		l->in->successor = NULL;
	if (l->in && l->in->listener == l) {
		l->in->listener = NULL;
		fifo_release(l->in, O_RDONLY);
	}
	if (s && s->emitted)
		s->listener = NULL;
	else if (s)
		stream_abandon(s);
	if (l->out)
		fifo_release(l->out, O_WRONLY);
	fifo_unref(&l->in);
	fifo_unref(&l->out);
	free(l->name);
	free(l);
}

static int get_fifos(struct pipe_listener *l, const struct l7mp_listen *params,
                     struct l7mp_error *err)
{
	const char *output = l7mp_json_str(params->spec, "output", NULL);
	int rc = fifo_get(&l->state->fifos, l7mp_json_str(params->spec, "filename", ""), &l->in,
	                  err);

	if (!rc &&
	    (l->in->successor || (l->in->listener && !is_retiring(params, l->in->listener)))) {
		rc = l7mp_error_set(err, -EADDRINUSE, L7MP_ERR_REALISE,
		                    "%s: another listener reads it", l->in->path);
	}
	if (rc) {
		if (err)
			snprintf(err->path, sizeof(err->path), "filename");
		return rc;
	}
	l->in->successor = l;
	if (!output)
		return 0;
	rc = fifo_get(&l->state->fifos, output, &l->out, err);
	if (rc && err)
		snprintf(err->path, sizeof(err->path), "output");
	return rc;
}

static int pipe_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                       struct l7mp_error *err)
{
	struct pipe_state *st = l7mp_proto_state(params->env, &l7mp_proto_pipe, err);
	struct pipe_listener *l;
	int rc;

	if (!st)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->base = (struct l7mp_proto_listener){
	        .proto = &l7mp_proto_pipe, .events = params->events, .arg = params->arg};
	l->env = params->env;
	l->state = st;
	l7mp_timer_init(&l->timer, on_listen_timer, l);
	l->name = strdup(params->name ? params->name : "");
	rc = l->name ? get_fifos(l, params, err)
	             : l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (rc) {
		pipe_unlisten(&l->base);
		return rc;
	}
	*out = &l->base;
	return 0;
}

static void pipe_activate(struct l7mp_proto_listener *base)
{
	struct pipe_listener *l = (struct pipe_listener *)base;
	struct pipe_listener *old = l->in->listener;

	l->in->listener = l;
	l->in->successor = NULL;
	l->active = true;
	/* The predecessor's stream that waits for a writer is closed; a session continues. */
	if (old && old->stream && !old->stream->emitted) {
		struct pipe_stream *s = old->stream;

		old->stream = NULL;
		stream_abandon(s);
	}
	/* Not from inside activate: the listener's change is not complete yet. */
	listen_later(l, 0);
}

static int connect_fifos(struct pipe_stream **sp, struct pipe_state *st,
                         const struct l7mp_connect *p, struct l7mp_error *err)
{
	const char *input = l7mp_json_str(p->cluster_spec, "input", NULL);
	struct fifo *in = NULL, *out = NULL;
	int rc = fifo_get(&st->fifos, p->address ? p->address : "", &out, err);

	if (!rc && input)
		rc = fifo_get(&st->fifos, input, &in, err);
	if (!rc && in && (in->reading || in->listener))
		rc = l7mp_error_set(err, -EBUSY, L7MP_ERR_UPSTREAM,
		                    "PIPE %s: %s reads it; one at a time can", in->path,
		                    in->listener ? "a listener" : "another session");
	if (!rc) {
		out->keep = true;
		if (in)
			in->keep = true;
		*sp = stream_new(p->env, in, out);
		if (!*sp)
			rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	} else if (err) {
		err->code = L7MP_ERR_UPSTREAM;
	}
	fifo_unref(&in);
	fifo_unref(&out);
	return rc;
}

static int pipe_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	struct pipe_state *st = l7mp_proto_state(p->env, &l7mp_proto_pipe, err);
	struct pipe_stream *s = NULL;
	int rc;

	if (!st)
		return -ENOMEM;
	rc = connect_fifos(&s, st, p, err);
	if (rc)
		return rc;
	rc = stream_connect(s);
	if (rc) {
		l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "PIPE %s: %s",
		               rc == -ENXIO || !s->in ? s->out->path : s->in->path,
		               rc == -ENXIO ? "it has no reader" : l7mp_errno_text(rc));
		stream_abandon(s);
		return rc;
	}
	*out = &s->base;
	return 0;
}

static int pipe_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct pipe_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void pipe_stop(struct l7mp_env *env, void *state)
{
	struct pipe_state *st = state;

	(void)env;
	fifo_clear(&st->fifos);
	free(st);
}

/* ---- tables ---- */

static const struct l7mp_field listener_fields[] = {
        {.key = "filename",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_PATH,
         .doc = "FIFO that is read; made when it is missing, and then removed at the end"},
        {.key = "output",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .doc = "FIFO that answers are written to; created when it is missing, and then removed at "
                "the end. Until it has a reader answers wait, and their sender is paused. Without "
                "it they are dropped and counted"},
        {0},
};

static void check_listener(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *output = l7mp_json_member(spec, "output");
	char at[256];

	if (!cJSON_IsString(output) ||
	    strcmp(output->valuestring, l7mp_json_str(spec, "filename", "")))
		return;
	snprintf(at, sizeof(at), "%.200s.output", path);
	l7mp_issues_add(issues, false, output, at,
	                "expected another path than filename: it would read its own answers");
}

static const struct l7mp_schema listener_spec = {
        .name = "pipe-listener",
        .doc = "Reads a FIFO; one session at a time, which begins with the first byte and ends "
               "when "
               "the last writer leaves, unless the route retries on disconnects",
        .fields = listener_fields,
        .check = check_listener,
};

static const struct l7mp_field cluster_fields[] = {
        {.key = "input",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .doc = "FIFO that answers are read from, by one session at a time; made when it is "
                "missing, and then removed when the proxy ends"},
        {0},
};

static const struct l7mp_schema cluster_spec = {
        .name = "pipe-cluster",
        .doc = "Writes to a FIFO; connected when it has a reader",
        .fields = cluster_fields,
};

static const struct l7mp_field endpoint_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_PATH,
         .doc = "FIFO that is written; made when it is missing, and then removed when the proxy "
                "ends"},
        {0},
};

static const struct l7mp_schema endpoint_spec = {
        .name = "pipe-endpoint",
        .doc = "A FIFO",
        .fields = endpoint_fields,
};

static const char *const aliases[] = {"FIFO", NULL};

const struct l7mp_proto l7mp_proto_pipe = {
        .desc =
                {
                        .name = "PIPE",
                        .aliases = aliases,
                        .doc = "Named pipes (FIFOs), one for each direction",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                },
        .start = pipe_start,
        .stop = pipe_stop,
        .listen = pipe_listen,
        .activate = pipe_activate,
        .unlisten = pipe_unlisten,
        .connect = pipe_connect,
};
