/* SPDX-License-Identifier: MIT */
/*
 * The pipes of a session: data that a stage emits is written to the next one at once, or queued in
 * order until the next stage is ready and accepts it.
 *
 * A stage's stream is paused while the session is not complete and while the following pipe is
 * full. Data that still arrives is queued: from a datagram stage at most limits.max_queue bytes per
 * pipe, the rest is dropped and counted; from a byte stream all of it (at most one read, by the
 * contract of streams).
 */
#include <string.h>

#include "internal.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"

/* The minimum charge for a queued datagram, which bounds the number of empty ones. */
#define CHARGE_MIN 64
/*
 * Exceeding the limit by this much ends the session: a byte stream that ignores a pause indicates a
 * bug or an attack.
 */
#define STREAM_SLACK (16U << 20)
/* The largest datagram for stages without a limit of their own: UDP over IPv4. */
#define SPLIT_DEFAULT 65507U

/* ---- the queue ---- */

static uint32_t charge(const struct l7mp_buf *buf)
{
	return buf->len > CHARGE_MIN ? buf->len : CHARGE_MIN;
}

static bool stage_ready(const struct session_stage *st)
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

static void queue_append(struct session_pipe *p, struct l7mp_buf *buf)
{
	buf->next = NULL;
	p->bytes += charge(buf);
	if (p->head)
		p->tail->next = buf;
	else
		p->head = buf;
	p->tail = buf;
}

static void queue_prepend(struct session_pipe *p, struct l7mp_buf *buf)
{
	p->bytes += charge(buf);
	buf->next = p->head;
	if (!p->head)
		p->tail = buf;
	p->head = buf;
}

void l7mp_pipe_append(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	queue_append(&s->pipes[i], buf);
}

static struct l7mp_buf *queue_take(struct session_pipe *p)
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
	/* Queued data must not keep the large buffer in which it was received. */
	small = l7mp_buf_compact(buf);
	if (small) {
		queue_append(p, small);
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
		drop_buf(s, i, queue_take(p), L7MP_DROP_CLOSED);
}

/* ---- back-pressure ---- */

/*
 * Whether the pipe after stage i is full. Transformers have no queue, so the pipe after a
 * transformer counts, too.
 */
static bool full_after(const struct l7mp_session *s, unsigned i)
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

void l7mp_session_flow_control(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n && !s->ending; i++) {
		struct session_stage *st = &s->stages[i];
		bool want = s->state != L7MP_SESSION_CONNECTED || s->held || full_after(s, i);

		if (!st->stream || st->state != L7MP_STAGE_READY || st->paused == want)
			continue;
		st->paused = want;
		l7mp_stream_pause(st->stream, want);
	}
}

/* ---- the end of a direction ---- */

/* After all data was written, shuts down the next stage. */
static void pass_end(struct l7mp_session *s, unsigned i)
{
	struct session_pipe *p = &s->pipes[i];
	struct session_stage *to = pipe_to(s, i);
	bool gone = to->index == 0 && s->source_closed;

	if (!p->end || p->shut || p->head || p->busy || (!gone && !stage_ready(to)))
		return;
	p->shut = true;
	if (!gone) {
		const struct l7mp_stream *source = s->stages[0].stream;
		bool lingers = to->index != 0 && to->stream->kind == L7MP_KIND_DATAGRAM &&
		               !to->stream->is_transformer;

		/*
		 * A request (HTTP) waits for its answer. So do not shut down a WebSocket, which has
		 * no half-close: its peer would not answer any more.
		 */
		if (!lingers || p->code || !source || !source->request_response)
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

/* ---- written data ---- */

static void count_written(struct l7mp_session *s, unsigned i, uint32_t len)
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

static void write_failed(struct l7mp_session *s, unsigned i, int rc, uint32_t len)
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
	l7mp_stage_lost(to, &err);
}

/* ---- splicing ---- */

/*
 * Short connections never reach this; a direction that has carried so much is likely to carry more.
 */
#define SPLICE_AFTER 65536

/* Returns the byte stream that can be spliced from or to; NULL: none. */
static struct l7mp_stream_io *plain_of(const struct session_stage *st)
{
	return st->stream && st->stream->ops->plain ? st->stream->ops->plain(st->stream) : NULL;
}

void l7mp_session_unsplice(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		struct l7mp_stream_io *io = plain_of(&s->stages[i]);

		if (io)
			l7mp_stream_io_unsplice(io);
	}
}

/* The kernel moved bytes of a direction from its first stream to its last one. */
static void on_spliced(void *arg, size_t bytes, int rc)
{
	struct session_stage *from = arg;
	struct l7mp_session *s = from->s;
	unsigned to = from->index ? 0 : s->dest, last = (to + s->n - 1U) % s->n;

	if (s->ending)
		return;
	s->active_ms = l7mp_loop_now(session_loop(s));
	if (rc < 0) {
		write_failed(s, last, rc, (uint32_t)bytes);
		return;
	}
	for (unsigned i = from->index; i != last; i = (i + 1) % s->n) {
		struct l7mp_stream *between = pipe_to(s, i)->stream;

		between->ops->passed(between, 1, bytes);
	}
	count_written(s, from->index, (uint32_t)bytes);
	if (rc == L7MP_STREAM_IO_FULL) {
		s->pipes[last].blocked = true;
		l7mp_session_flow_control(s);
	}
}

/* Whether all stages in between only count, so that data need not pass through them. */
static bool only_counted(struct l7mp_session *s, unsigned from, unsigned to)
{
	for (unsigned i = (from + 1) % s->n; i != to; i = (i + 1) % s->n) {
		struct l7mp_flow_end end = {.kind = L7MP_FLOW_NONE};

		l7mp_stream_flow(s->stages[i].stream, &end);
		if (end.kind != L7MP_FLOW_PASS)
			return false;
	}
	return true;
}

/* Enough data has passed in this direction: splice the rest, if possible. */
static void begin_splicing(struct l7mp_session *s, enum l7mp_direction dir)
{
	struct session_stage *from = &s->stages[dir == L7MP_INGRESS ? 0 : s->dest];
	struct session_stage *to = &s->stages[dir == L7MP_INGRESS ? s->dest : 0];
	struct l7mp_stream_io *in = plain_of(from), *out = plain_of(to);

	s->splice_at[dir] = UINT64_MAX; /* tried; a new connection of a stage tries again */
	if (in && out && only_counted(s, from->index, to->index))
		(void)l7mp_stream_io_splice(in, out, on_spliced, from);
}

void l7mp_session_splice_later(struct l7mp_session *s)
{
	for (int dir = 0; dir < 2; dir++)
		s->splice_at[dir] = s->slow[dir].bytes + SPLICE_AFTER;
}

static void splice_when_due(struct l7mp_session *s, unsigned i)
{
	if (i == 0 && s->slow[L7MP_INGRESS].bytes >= s->splice_at[L7MP_INGRESS])
		begin_splicing(s, L7MP_INGRESS);
	else if (i == s->dest && s->slow[L7MP_EGRESS].bytes >= s->splice_at[L7MP_EGRESS])
		begin_splicing(s, L7MP_EGRESS);
}

/* ---- data ---- */

/* Writes a buffer of a size that the next stage supports. */
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
		count_written(s, i, len);
		if (s->proof == SESSION_UNANSWERED && to->index == 0)
			l7mp_admission_answered(s);
	}
	if (s->ending || to->stream != out)
		return;
	splice_when_due(s, i);
	if (rc == L7MP_STREAM_FULL) {
		p->blocked = true;
		l7mp_session_flow_control(s);
	} else if (rc < 0) {
		write_failed(s, i, rc, len);
	}
}

/* Writes a piece of a byte stream to a datagram stage, as one or more datagrams. */
static void write_split(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf, uint32_t max)
{
	struct session_pipe *p = &s->pipes[i];
	uint32_t off = 0;

	while (off < buf->len && !s->ending) {
		bool stop = p->blocked || !stage_ready(pipe_to(s, i));
		uint32_t len = buf->len - off;
		struct l7mp_buf *part;

		if (!stop && len > max)
			len = max;
		part = l7mp_buf_slice(buf, off, len);
		if (!part) {
			l7mp_session_drop(s, L7MP_DROP_MEMORY, 1, len);
		} else if (stop) {
			queue_prepend(p, part);
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

void l7mp_pipe_flush(struct l7mp_session *s, unsigned i)
{
	struct session_pipe *p = &s->pipes[i];

	while (!s->ending && p->head && !p->busy && !p->blocked && stage_ready(pipe_to(s, i)))
		write_buf(s, i, queue_take(p));
	if (s->ending)
		return;
	pass_end(s, i);
}

void l7mp_pipe_push(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	struct session_pipe *p = &s->pipes[i];
	struct session_stage *to = pipe_to(s, i);

	if (s->ending || p->end || (to->index == 0 && s->source_closed)) {
		drop_buf(s, i, buf, L7MP_DROP_CLOSED);
		return;
	}
	s->active_ms = l7mp_loop_now(session_loop(s));
	if (s->proof == SESSION_ANSWERED && i == 0)
		l7mp_admission_received(s);
	if (p->busy || p->blocked || p->head || !stage_ready(to)) {
		enqueue(s, i, buf);
		return;
	}
	write_buf(s, i, buf);
	if (p->head)
		l7mp_pipe_flush(s, i);
}

void l7mp_pipe_drained(struct l7mp_session *s, unsigned i)
{
	s->pipes[i].blocked = false;
	l7mp_pipe_flush(s, i);
	if (!s->ending)
		l7mp_session_flow_control(s);
}
