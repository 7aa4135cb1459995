/* SPDX-License-Identifier: MIT */
/*
 * Pipes: what one stage emits goes to the next one at once, or waits, in order,
 * until the next stage is ready and takes it.
 *
 * A stage's stream is paused while the session is not complete and while what
 * comes behind it is full. What still arrives then is queued: from a datagram
 * stage at most limits.max_queue bytes a pipe, the rest is dropped and counted;
 * from a byte stream all of it (at most one read, by the contract of streams).
 */
#include <errno.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"

/*
 * The minimum that a queued datagram is charged, so that the number of empty ones is bounded, too.
 */
#define CHARGE_MIN 64
/*
 * Exceeding the limit by this much ends the session: a byte stream that ignores a pause is a bug or
 * an attack.
 */
#define STREAM_SLACK (16U << 20)
/* The largest datagram for stages that name no limit: UDP over IPv4. */
#define SPLIT_DEFAULT 65507U

static uint32_t charge(const struct l7mp_buf *buf)
{
	return buf->len > CHARGE_MIN ? buf->len : CHARGE_MIN;
}

static bool ready(const struct session_stage *st)
{
	return st->stream && st->state == L7MP_STAGE_READY;
}

static bool from_stream(const struct l7mp_session *s, unsigned i)
{
	const struct l7mp_stream *from = s->stages[i].stream;

	return from && from->kind == L7MP_KIND_STREAM;
}

void l7mp_session_drop(struct l7mp_session *s, enum l7mp_drop reason, uint64_t packets,
                       uint64_t bytes)
{
	s->drops += packets;
	l7mp_stats_drop(s->m->env->stats, reason, packets, bytes);
}

static void drop_buf(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf,
                     enum l7mp_drop reason)
{
	if (!from_stream(s, i))
		l7mp_session_drop(s, reason, 1, buf->len);
	l7mp_buf_unref(buf);
}

/* ---- queue ---- */

static void append(struct session_pipe *p, struct l7mp_buf *buf)
{
	buf->next = NULL;
	p->bytes += charge(buf);
	if (p->head)
		p->tail->next = buf;
	else
		p->head = buf;
	p->tail = buf;
}

static void prepend(struct session_pipe *p, struct l7mp_buf *buf)
{
	p->bytes += charge(buf);
	buf->next = p->head;
	if (!p->head)
		p->tail = buf;
	p->head = buf;
}

static struct l7mp_buf *take(struct session_pipe *p)
{
	struct l7mp_buf *buf = p->head;

	p->head = buf->next;
	if (!p->head)
		p->tail = NULL;
	buf->next = NULL;
	p->bytes -= charge(buf);
	return buf;
}

static void enqueue(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	struct session_pipe *p = &s->pipes[i];
	uint64_t max = s->m->env->limits->max_queue;
	struct l7mp_error err = {.code = L7MP_ERR_LIMIT};
	struct l7mp_buf *small;
	uint32_t len = buf->len;

	if (!from_stream(s, i)) {
		if ((uint64_t)p->bytes + charge(buf) > max) {
			s->m->env->stats->refusals[L7MP_REFUSE_MAX_QUEUE]++;
			drop_buf(s, i, buf, L7MP_DROP_QUEUE);
			return;
		}
		if (l7mp_memory_short(s->m->env, buf->len)) {
			s->m->env->stats->refusals[L7MP_REFUSE_MAX_MEMORY]++;
			drop_buf(s, i, buf, L7MP_DROP_MEMORY);
			return;
		}
	} else if ((uint64_t)p->bytes + charge(buf) > max + STREAM_SLACK) {
		l7mp_buf_unref(buf);
		l7mp_session_finish(s, &err, true, "a stage does not stop sending to a full pipe");
		return;
	}
	/* A queued piece must not keep the large buffer that it was received in. */
	small = l7mp_buf_compact(buf);
	if (small) {
		append(p, small);
	} else if (!from_stream(s, i)) {
		l7mp_session_drop(s, L7MP_DROP_MEMORY, 1, len);
	} else {
		err.code = L7MP_ERR_INTERNAL;
		l7mp_session_finish(s, &err, true, "out of memory");
	}
}

void l7mp_pipe_clear(struct l7mp_session *s, unsigned i)
{
	struct session_pipe *p = &s->pipes[i];

	while (p->head)
		drop_buf(s, i, take(p), L7MP_DROP_CLOSED);
}

/* ---- writing ---- */

static void count(struct l7mp_session *s, unsigned i, uint32_t len)
{
	struct l7mp_stats *stats = s->m->env->stats;
	enum l7mp_direction dir = i == 0 ? L7MP_INGRESS : L7MP_EGRESS;

	if (i != 0 && i != s->dest)
		return;
	s->slow[dir].packets++;
	s->slow[dir].bytes += len;
	stats->slow_packets[dir]++;
	stats->slow_bytes[dir] += len;
	l7mp_session_offload_passed(s, dir);
}

static void refused(struct l7mp_session *s, unsigned i, int rc, uint32_t len)
{
	struct session_stage *to = pipe_to(s, i);
	struct l7mp_error err;

	if (!from_stream(s, i) || to->stream->kind == L7MP_KIND_DATAGRAM)
		l7mp_session_drop(s, l7mp_drop_from_errno(rc), 1, len);
	if (to->stream->kind == L7MP_KIND_DATAGRAM || to->stream->is_transformer)
		return;
	/* A byte stream with missing bytes is useless. */
	l7mp_error_set(&err, rc, L7MP_ERR_UPSTREAM, "write failed: %s", strerror(-rc));
	err.path[0] = '\0';
	err.line = 0;
	if (to->index == 0)
		l7mp_stage_source_lost(to, &err);
	else
		l7mp_stage_lost(to, &err);
}

/* Writes one buffer that the next stage can carry as it is. */
static void write_buffer(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	struct session_pipe *p = &s->pipes[i];
	struct session_stage *to = pipe_to(s, i);
	struct l7mp_stream *out = to->stream;
	uint32_t len = buf->len;
	int rc;

	p->busy = true;
	rc = l7mp_stream_write(out, buf);
	p->busy = false;
	if (rc >= 0) {
		count(s, i, len);
		if (s->proof == SESSION_UNANSWERED && to->index == 0)
			l7mp_room_answered(s);
	}
	if (s->ending || to->stream != out)
		return;
	if (rc == L7MP_STREAM_FULL) {
		p->blocked = true;
		l7mp_pipe_flow_control(s);
	} else if (rc < 0) {
		refused(s, i, rc, len);
	}
}

/* Writes a piece of a byte stream to a datagram stage, in as many datagrams as needed. */
static void write_split(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf, uint32_t max)
{
	struct session_pipe *p = &s->pipes[i];
	uint32_t off = 0;

	while (off < buf->len && !s->ending) {
		bool stop = p->blocked || !ready(pipe_to(s, i));
		uint32_t len = buf->len - off;
		struct l7mp_buf *part;

		if (!stop && len > max)
			len = max;
		part = l7mp_buf_slice(buf, off, len);
		if (!part) {
			l7mp_session_drop(s, L7MP_DROP_MEMORY, 1, len);
		} else if (stop) {
			prepend(p, part);
			break;
		} else {
			write_buffer(s, i, part);
		}
		off += len;
	}
	l7mp_buf_unref(buf);
}

static void write_buf(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	const struct l7mp_stream *out = pipe_to(s, i)->stream;
	uint32_t max = out->max_write ? out->max_write : SPLIT_DEFAULT;

	if (out->kind == L7MP_KIND_DATAGRAM && buf->len > max && from_stream(s, i))
		write_split(s, i, buf, max);
	else
		write_buffer(s, i, buf);
}

void l7mp_pipe_push(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	struct session_pipe *p = &s->pipes[i];
	struct session_stage *to = pipe_to(s, i);

	if (s->ending || p->end || (to->index == 0 && s->source_gone)) {
		drop_buf(s, i, buf, L7MP_DROP_CLOSED);
		return;
	}
	s->active_ms = l7mp_loop_now(session_loop(s));
	if (s->proof == SESSION_ANSWERED && i == 0)
		l7mp_room_heard(s);
	if (p->busy || p->blocked || p->head || !ready(to)) {
		enqueue(s, i, buf);
		return;
	}
	write_buf(s, i, buf);
	if (p->head)
		l7mp_pipe_flush(s, i);
}

/* ---- end and flush ---- */

/* Passes the end of the stream on, after everything before it was written. */
static void pass_end(struct l7mp_session *s, unsigned i)
{
	struct session_pipe *p = &s->pipes[i];
	struct session_stage *to = pipe_to(s, i);
	bool gone = to->index == 0 && s->source_gone;

	if (!p->end || p->shut || p->head || p->busy || (!gone && !ready(to)))
		return;
	p->shut = true;
	if (!gone) {
		const struct l7mp_stream *source = s->stages[0].stream;
		bool lingers = to->index != 0 && to->stream->kind == L7MP_KIND_DATAGRAM &&
		               !to->stream->is_transformer;

		/*
		 * A request (HTTP) waits for its answer: the shutdown is not passed to a WebSocket,
		 * which has no half-close, because its peer would not answer any more.
		 */
		if (!lingers || p->code || !source || !source->asks)
			l7mp_stream_shutdown(to->stream, p->code);
		if (s->ending)
			return;
		if (lingers && !s->linger) {
			s->linger = true;
			l7mp_session_arm_idle(s);
		}
	}
	l7mp_session_check_end(s);
}

void l7mp_pipe_end(struct l7mp_session *s, unsigned i, int code)
{
	struct session_pipe *p = &s->pipes[i];

	if (s->ending || p->end)
		return;
	s->active_ms = l7mp_loop_now(session_loop(s));
	p->end = true;
	p->code = (uint16_t)code;
	pass_end(s, i);
}

void l7mp_pipe_flush(struct l7mp_session *s, unsigned i)
{
	struct session_pipe *p = &s->pipes[i];

	while (!s->ending && p->head && !p->busy && !p->blocked && ready(pipe_to(s, i)))
		write_buf(s, i, take(p));
	if (s->ending)
		return;
	pass_end(s, i);
}

void l7mp_pipe_drained(struct l7mp_session *s, unsigned i)
{
	s->pipes[i].blocked = false;
	l7mp_pipe_flush(s, i);
	if (!s->ending)
		l7mp_pipe_flow_control(s);
}

/* ---- back-pressure ---- */

/*
 * Whether the pipe behind stage i is full. Transformers hold nothing back, so the stages behind
 * them count.
 */
static bool full_behind(const struct l7mp_session *s, unsigned i)
{
	for (unsigned k = 0; k < s->n; k++) {
		const struct session_pipe *p = &s->pipes[i];

		if (p->blocked || p->head)
			return true;
		i = (i + 1) % s->n;
		if (!s->stages[i].stream || !s->stages[i].stream->is_transformer)
			return false;
	}
	return false;
}

void l7mp_pipe_flow_control(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n && !s->ending; i++) {
		struct session_stage *st = &s->stages[i];
		bool want = s->state != L7MP_SESSION_CONNECTED || full_behind(s, i);

		if (!st->stream || st->state != L7MP_STAGE_READY || st->paused == want)
			continue;
		st->paused = want;
		l7mp_stream_pause(st->stream, want);
	}
}
