/* SPDX-License-Identifier: MIT */
/*
 * A WebSocket connection as a stream: one message is one buffer.
 *
 * libwebsockets reads frames, answers pings and the peer's Close frame, and sends a Close frame
 * with the code after a protocol violation. It could also initiate the close, but then accepts no
 * more messages, while the session's other direction may continue. So an initial Close frame is
 * written here like other frames, and the peer's answer to it ends the connection.
 *
 * The owner may release a connection before libwebsockets closes it: a peer that violated the
 * protocol gets some seconds to read the Close frame. The memory is freed when both are done.
 */
#include <errno.h>
#include <libwebsockets.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "websocket.h"

#define DROPPED "the peer dropped the connection without a Close frame"

/* Queued bytes at which the owner has to stop writing, and at which it may continue. */
#define OUT_HIGH 65536
#define OUT_LOW  16384
/* Frames of at least this size are written without a copy. */
#define OUT_DIRECT 8192

/* ---- the end ---- */

static void conn_free(struct ws_conn *c)
{
	struct l7mp_loop *loop = l7mp_ws_loop(c);

	DL_DELETE(c->state->conns, c);
	l7mp_task_cancel(loop, &c->task);
	l7mp_flush_cancel(loop, &c->flush);
	l7mp_timer_stop(loop, &c->timer);
	l7mp_timer_stop(loop, &c->ping);
	l7mp_timer_stop(loop, &c->slow);
	if (c->bridge)
		l7mp_ws_bridge_leave(c->bridge, false);
	l7mp_ws_dial_free(c->dial);
	l7mp_buf_unref(c->message);
	l7mp_bufq_clear(&c->in);
	l7mp_bufq_clear(&c->out);
	free(c->subprotocol);
	free(c);
}

static void post(struct ws_conn *c)
{
	l7mp_task_post(l7mp_ws_loop(c), &c->task);
}

static void forget_message(struct ws_conn *c)
{
	l7mp_timer_stop(l7mp_ws_loop(c), &c->slow);
	l7mp_buf_unref(c->message);
	c->message = NULL;
}

/* Makes the close a reset instead of an orderly end. */
static void set_reset(struct ws_conn *c)
{
	struct linger lg = {.l_onoff = 1, .l_linger = 0};
	int fd = lws_get_socket_fd(c->wsi);

	if (c->bridge) {
		l7mp_ws_bridge_leave(c->bridge, true);
		c->bridge = NULL;
	}
	c->reset = true;
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg));
	/* Otherwise libwebsockets waits until its buffered data is written. */
	(void)shutdown(fd, SHUT_RDWR);
}

static void close_io(struct ws_conn *c)
{
	if (c->io)
		l7mp_ws_orphan(c->io, true);
	c->io = NULL;
	if (c->head)
		l7mp_ws_head_drop(c->head);
	c->head = NULL;
}

void l7mp_ws_conn_ended(struct ws_conn *c, enum l7mp_code code, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	if (c->error.code == L7MP_OK && code != L7MP_OK && !c->over) {
		va_start(ap, fmt);
		vsnprintf(text, sizeof(text), fmt, ap);
		va_end(ap);
		l7mp_error_set(&c->error, -EPROTO, code, "WebSocket: %s", text);
	}
	c->over = true;
	c->up = false;
	forget_message(c);
	l7mp_bufq_clear(&c->out);
	close_io(c);
	post(c);
}

void l7mp_ws_conn_notice(struct ws_conn *c, const char *event, const char *message)
{
	if (!c->closing && !c->closed_emitted && c->base.events && c->base.events->notice)
		c->base.events->notice(c->base.owner, event, message);
}

/* ---- callbacks of the owner ---- */

static void flow(struct ws_conn *c)
{
	bool want = !c->paused && !c->in.head;

	if (!c->wsi || !c->up || want == c->flowing)
		return;
	c->flowing = want;
	(void)lws_rx_flow_control(c->wsi, want);
}

/* Emits messages received while the owner had paused. */
static void hand_up(struct ws_conn *c)
{
	while (c->in.head && !c->paused && !c->closing)
		c->base.events->data(c->base.owner, l7mp_bufq_pop(&c->in));
	if (c->closing)
		l7mp_bufq_clear(&c->in);
}

static void emit_pending(struct ws_conn *c)
{
	if (c->open_due && !c->closing) {
		c->open_due = false;
		c->base.events->open(c->base.owner);
	}
	if (c->drain_due) {
		c->drain_due = false;
		if (!c->closing && !c->over)
			c->base.events->drain(c->base.owner);
	}
	hand_up(c);
	if (c->in.head)
		return;
	if (c->peer_closed && !c->ended && !c->closing) {
		c->ended = true;
		c->base.events->end(c->base.owner, c->code);
	}
	if (!c->over)
		return;
	c->closed_emitted = true;
	if (c->base.events)
		c->base.events->closed(c->base.owner, &c->error);
}

static void on_task(struct l7mp_task *task, void *arg)
{
	struct ws_conn *c = arg;

	(void)task;
	if (!c->closed_emitted)
		emit_pending(c);
	if (c->kill && c->wsi) {
		c->kill = false;
		lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_SYNC);
	}
	if (c->closed_emitted && !c->wsi)
		conn_free(c);
	else
		flow(c);
}

/* The peer did not close in time. */
static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct ws_conn *c = arg;

	(void)t;
	l7mp_log_verbose("ws", "the peer did not end the connection in time");
	if (c->wsi)
		set_reset(c);
	c->kill = true;
	l7mp_ws_conn_ended(c, L7MP_OK, " ");
}

/* Gives the peer time to close; more if data is still queued. */
static void patience(struct ws_conn *c, uint64_t ms)
{
	if (c->out.head)
		ms = L7MP_WS_FULL_MS;
	if (l7mp_timer_start(l7mp_ws_loop(c), &c->timer, ms))
		on_timer(&c->timer, c);
}

/* ---- writing ---- */

static const uint8_t *masking_key(struct ws_state *st)
{
	if (!st->random_left) {
		if (getrandom(st->random, sizeof(st->random), 0) != sizeof(st->random))
			return NULL;
		st->random_left = sizeof(st->random);
	}
	st->random_left -= 4;
	return st->random + st->random_left;
}

static size_t queued(const struct ws_conn *c)
{
	return c->out.bytes - c->off;
}

static void consume(struct ws_conn *c, size_t n)
{
	c->off += n;
	while (c->out.head && c->off >= c->out.head->len) {
		c->off -= c->out.head->len;
		l7mp_buf_unref(l7mp_bufq_pop(&c->out));
	}
}

/* Returns the next piece to write: large frames in place, small ones joined. */
static uint8_t *next_piece(struct ws_conn *c, size_t max, size_t *n)
{
	struct l7mp_buf *b = c->out.head;
	size_t off = c->off;

	*n = b->len - off;
	if (*n >= OUT_DIRECT || !b->next) {
		*n = *n < max ? *n : max;
		return b->data + off;
	}
	for (*n = 0; b && *n < max; b = b->next) {
		size_t k = b->len - off < max - *n ? b->len - off : max - *n;

		memcpy(c->state->scratch + *n, b->data + off, k);
		*n += k;
		off = 0;
	}
	return c->state->scratch;
}

/*
 * libwebsockets finishes a write that the kernel accepted only in part, but then answers the peer's
 * Close frame by dropping the connection (4.1.6, 4.3.5). A writable socket has a third of its
 * buffer free, so at most a quarter is written at once.
 */
static size_t piece_max(const struct ws_conn *c)
{
	int size = 0;
	socklen_t len = sizeof(size);

	if (getsockopt(lws_get_socket_fd(c->wsi), SOL_SOCKET, SO_SNDBUF, &size, &len) ||
	    size < 8192)
		return 2048;
	return size / 4 < L7MP_WS_CHUNK ? (size_t)size / 4 : L7MP_WS_CHUNK;
}

/* Reduces the memory of queued frames to their size. */
static void compact(struct ws_conn *c)
{
	struct l7mp_bufq all = c->out;
	struct l7mp_buf *b;

	if (c->choked)
		return;
	c->choked = true;
	/* Keep the first one, because a part of it is written. */
	l7mp_bufq_init(&c->out);
	l7mp_bufq_push(&c->out, l7mp_bufq_pop(&all));
	while ((b = l7mp_bufq_pop(&all))) {
		b = l7mp_buf_compact(b);
		if (!b) {
			c->kill = true;
			l7mp_bufq_clear(&all);
			l7mp_ws_conn_ended(c, L7MP_ERR_INTERNAL, "out of memory");
			return;
		}
		l7mp_bufq_push(&c->out, b);
	}
}

static void write_out(struct ws_conn *c)
{
	size_t max;

	if (!c->wsi || !c->out.head)
		return;
	max = piece_max(c);
	while (c->out.head) {
		uint8_t *data;
		size_t n;

		if (lws_send_pipe_choked(c->wsi)) {
			(void)lws_callback_on_writable(c->wsi);
			compact(c);
			break;
		}
		data = next_piece(c, max, &n);
		if (lws_write(c->wsi, data, n, LWS_WRITE_RAW) < 0) {
			c->kill = true;
			l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM, DROPPED);
			return;
		}
		consume(c, n);
	}
	if (!c->out.head)
		c->choked = false;
	if (!c->out.head && l7mp_timer_armed(&c->timer))
		patience(c, L7MP_WS_CLOSE_MS);
	if (c->full && queued(c) <= OUT_LOW) {
		c->full = false;
		c->drain_due = true;
		post(c);
	}
}

static void on_flush(struct l7mp_flush *flush, void *arg)
{
	(void)flush;
	write_out(arg);
}

/*
 * Makes a frame of buf, which it takes, to be written with others at the end of this loop
 * iteration. Returns 0 or a negative errno.
 */
static int send_frame(struct ws_conn *c, enum l7mp_ws_opcode opcode, struct l7mp_buf *buf)
{
	const uint8_t *key = c->client ? masking_key(c->state) : NULL;
	size_t len = buf->len, n;

	if (c->client && !key) {
		l7mp_buf_unref(buf);
		return -EIO;
	}
	/* The header is prepended, and the payload is masked in place. */
	if (!l7mp_buf_writable(buf) || l7mp_buf_headroom(buf) < L7MP_WS_HEAD_LEN_MAX)
		buf = l7mp_buf_own(buf, L7MP_BUF_HEADROOM, len);
	if (!buf)
		return -ENOMEM;
	if (key)
		l7mp_ws_mask(buf->data, len, key);
	n = l7mp_ws_head_write(buf->data, opcode, len, key);
	buf->data -= n;
	buf->len += (uint32_t)n;
	if (c->choked) /* small queued data must not keep a large buffer */
		buf = l7mp_buf_compact(buf);
	if (!buf)
		return -ENOMEM;
	l7mp_bufq_push(&c->out, buf);
	if (queued(c) >= L7MP_WS_CHUNK && !c->holding)
		write_out(c);
	if (c->out.head)
		l7mp_flush_request(l7mp_ws_loop(c), &c->flush);
	return 0;
}

static int send_control(struct ws_conn *c, enum l7mp_ws_opcode opcode, const void *data, size_t len)
{
	struct l7mp_buf *buf = l7mp_buf_copy(l7mp_loop_bufs(l7mp_ws_loop(c)), data, len);

	return buf ? send_frame(c, opcode, buf) : -ENOMEM;
}

static void send_close(struct ws_conn *c)
{
	uint8_t payload[2] = {(uint8_t)(c->code >> 8), (uint8_t)c->code};

	if (c->close_sent || !c->up)
		return;
	c->close_sent = true;
	if (send_control(c, L7MP_WS_CLOSE, payload, c->code ? 2 : 0) < 0) {
		c->kill = true;
		l7mp_ws_conn_ended(c, L7MP_ERR_INTERNAL, "out of memory");
		return;
	}
	patience(c, L7MP_WS_CLOSE_MS);
}

/* ---- reading ---- */

/* The peer violated the protocol or a limit: libwebsockets sends the code and closes. */
static int fault(struct ws_conn *c, struct lws *wsi, int code, enum l7mp_code kind,
                 const char *text)
{
	lws_close_reason(wsi, (enum lws_close_status)code, NULL, 0);
	l7mp_ws_conn_ended(c, kind, "%s (closed with code %d)", text, code);
	patience(c, L7MP_WS_FAULT_MS);
	return -1;
}

static void on_slow(struct l7mp_timer *t, void *arg)
{
	struct ws_conn *c = arg;

	if (!c->message || !c->wsi || c->over)
		return;
	if (c->flowing && c->message->len - c->grown < L7MP_WS_MESSAGE_GROW) {
		(void)fault(c, c->wsi, 1008, L7MP_ERR_TIMEOUT,
		            "a message of which less than 64 KiB came in message_timeout");
		c->kill = true;
		return;
	}
	c->grown = c->message->len;
	(void)l7mp_timer_start(l7mp_ws_loop(c), t, c->message_ms);
}

/* Whether n more bytes would exceed limits.max_memory. Small messages are always allowed. */
static bool grows_short(const struct ws_conn *c, size_t n)
{
	size_t have = c->message ? c->message->len : 0;
	bool fits = c->message ? l7mp_buf_tailroom(c->message) >= n : n <= 16384;

	return !fits && l7mp_memory_short_unfinished(c->state->env, have + n);
}

/*
 * Makes room for n more bytes. The buffer grows by doubling, so that an announced length alone
 * costs no memory.
 */
static bool make_room(struct ws_conn *c, size_t n, size_t left)
{
	size_t have = c->message ? c->message->len : 0;
	size_t want = have + n + (left < L7MP_WS_CHUNK ? left : L7MP_WS_CHUNK);

	if (!c->message) {
		c->message = l7mp_buf_new(l7mp_loop_bufs(l7mp_ws_loop(c)), want);
		return c->message != NULL;
	}
	if (l7mp_buf_tailroom(c->message) >= n)
		return true;
	if (want < 2 * have)
		want = 2 * have;
	c->message = l7mp_buf_own(c->message, L7MP_BUF_HEADROOM, want);
	return c->message != NULL;
}

/* A message is complete. */
static int message_complete(struct ws_conn *c, struct lws *wsi)
{
	struct l7mp_buf *buf = c->message;

	if (!lws_frame_is_binary(wsi))
		buf->flags |= L7MP_BUF_TEXT;
	c->message = NULL;
	forget_message(c);
	if (c->close_sent) /* the owner may still write */
		patience(c, L7MP_WS_CLOSE_MS);
	if (!c->paused && !c->in.head && !c->holding) {
		c->base.events->data(c->base.owner, buf);
		return 0;
	}
	l7mp_bufq_push(&c->in, buf);
	flow(c);
	if (!c->paused)
		post(c);
	return 0;
}

/*
 * Checks the next piece of a text message. libwebsockets can check it as well, but closes some
 * errors with 1002, and misses a character truncated by the end of the message.
 */
static bool text_valid(struct ws_conn *c, struct lws *wsi, const void *data, size_t len)
{
	if (lws_frame_is_binary(wsi))
		return true;
	return l7mp_utf8_step(&c->utf8, data, len) &&
	       (!c->utf8.left || !lws_is_final_fragment(wsi));
}

static int received(struct ws_conn *c, struct lws *wsi, const void *data, size_t len)
{
	size_t left = lws_remaining_packet_payload(wsi);
	size_t have = c->message ? c->message->len : 0;

	c->alive = true;
	/* Data after a Close frame is discarded (RFC 6455, section 1.4). */
	if (c->closing || c->over || c->peer_closed)
		return 0;
	if (have + len + left > L7MP_WS_MESSAGE_MAX || left > L7MP_WS_MESSAGE_MAX)
		return fault(c, wsi, 1009, L7MP_ERR_TOO_LARGE,
		             "a message of more than 16777216 bytes");
	if (!c->message)
		memset(&c->utf8, 0, sizeof(c->utf8));
	if (!text_valid(c, wsi, data, len))
		return fault(c, wsi, 1007, L7MP_ERR_UPSTREAM,
		             "the peer broke the protocol: text that is not UTF-8");
	if (grows_short(c, len)) {
		c->state->env->stats->refusals[L7MP_REFUSE_MAX_MEMORY]++;
		return fault(c, wsi, 1013, L7MP_ERR_LIMIT, "limits.max_memory is reached");
	}
	if (!make_room(c, len, left))
		return fault(c, wsi, 1011, L7MP_ERR_INTERNAL, "out of memory");
	if (len)
		memcpy(c->message->data + have, data, len);
	c->message->len += (uint32_t)len;
	if (lws_is_final_fragment(wsi))
		return message_complete(c, wsi);
	if (!l7mp_timer_armed(&c->slow)) {
		c->grown = c->message->len;
		(void)l7mp_timer_start(l7mp_ws_loop(c), &c->slow, c->message_ms);
	}
	return 0;
}

/* Handles the peer's Close frame. Returns non-zero when libwebsockets must not answer it. */
static int peer_close(struct ws_conn *c, struct lws *wsi, const uint8_t *in, size_t len)
{
	int code = len >= 2 ? in[0] << 8 | in[1] : 0;
	struct l7mp_utf8_check utf8 = {0};

	if (c->over)
		return 0;
	if (len == 1)
		return fault(c, wsi, 1002, L7MP_ERR_UPSTREAM,
		             "the peer broke the protocol: a Close frame of one byte");
	if (code && !l7mp_ws_code_valid((unsigned)code))
		return fault(
		        c, wsi, 1002, L7MP_ERR_UPSTREAM,
		        "the peer broke the protocol: a Close frame with a code that may not be "
		        "sent");
	if (len > 2 && (!l7mp_utf8_step(&utf8, in + 2, len - 2) || utf8.left))
		return fault(
		        c, wsi, 1007, L7MP_ERR_UPSTREAM,
		        "the peer broke the protocol: a Close frame whose reason is not UTF-8");
	c->peer_closed = true;
	forget_message(c);
	if (!c->ended)
		c->code = code;
	post(c);
	if (c->close_sent && !c->out.head)
		return -1; /* both Close frames were sent */
	c->close_sent = true;
	write_out(c);
	l7mp_bufq_clear(&c->out); /* the peer does not read it any more */
	c->off = 0;
	patience(c, L7MP_WS_CLOSE_MS);
	return 0;
}

/* Pings detect dead peers, and keep the connection's state in firewalls and NATs alive. */
static void on_ping(struct l7mp_timer *t, void *arg)
{
	struct ws_conn *c = arg;

	if (!c->up || c->close_sent)
		return;
	if (c->pinged && !c->alive && c->flowing) {
		set_reset(c);
		c->kill = true;
		l7mp_ws_conn_ended(c, L7MP_ERR_TIMEOUT, "the peer does not answer pings");
		return;
	}
	c->pinged = c->flowing;
	c->alive = false;
	/* With a payload, because libwebsockets does not report pongs without one. */
	(void)send_control(c, L7MP_WS_PING, "l7mp", 4);
	(void)l7mp_timer_start(l7mp_ws_loop(c), t, c->ping_ms);
}

/* ---- libwebsockets' callbacks ---- */

static int established(struct ws_conn *c, struct lws *wsi)
{
	c->wsi = wsi;
	if (c->over)
		return -1;
	c->up = true;
	c->flowing = true;
	c->open_due = c->client;
	l7mp_ws_dial_free(c->dial);
	c->dial = NULL;
	if (c->ping_ms)
		(void)l7mp_timer_start(l7mp_ws_loop(c), &c->ping, c->ping_ms);
	flow(c);
	post(c);
	return 0;
}

/*
 * libwebsockets begins to close. Sends the Close frame that it omits in some cases: over-long
 * control frames, lengths of 2^63, text and reasons that are not UTF-8.
 */
static void dropping(struct ws_conn *c, struct lws *wsi)
{
	const uint8_t *payload = lws_get_close_payload(wsi);
	int code = 1002, n = lws_get_close_length(wsi);
	uint8_t byte;

	if (c->over || !c->up || c->peer_closed)
		return;
	if (n >= 2) {
		code = payload[0] << 8 | payload[1];
	} else {
		ssize_t got = recv(lws_get_socket_fd(wsi), &byte, 1, MSG_PEEK | MSG_DONTWAIT);

		if (!got || (got < 0 && errno != EAGAIN))
			return; /* the peer has closed */
		if (c->close_sent)
			return;
		lws_close_reason(wsi, LWS_CLOSE_STATUS_PROTOCOL_ERR, NULL, 0);
	}
	l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM,
	                   "the peer broke the protocol%s%.*s (closed with code %d)",
	                   n > 2 ? ": " : "", n > 2 ? n - 2 : 0, (const char *)payload + 2, code);
	patience(c, L7MP_WS_FAULT_MS);
}

/*
 * Closing a TCP socket with unread bytes resets the connection, and the peer loses a Close frame
 * that it has not read yet: so continue reading for a moment.
 */
static void linger_on(struct ws_conn *c, struct lws *wsi)
{
	static const struct l7mp_stream_io_ops nothing = {0};
	struct l7mp_stream_io *io;
	int fd;

	if (c->bridge || c->reset)
		return;
	fd = fcntl(lws_get_socket_fd(wsi), F_DUPFD_CLOEXEC, 0);
	if (fd >= 0 && !l7mp_stream_io_open_tcp(l7mp_ws_loop(c), fd, &nothing, NULL, &io))
		l7mp_stream_io_close(io, false);
}

static void connection_closed(struct ws_conn *c, struct lws *wsi)
{
	const char *why = c->bridge ? l7mp_ws_bridge_why(c->bridge) : "";

	lws_set_opaque_user_data(wsi, NULL);
	c->wsi = NULL;
	if (!c->over && c->up && !c->close_sent)
		l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM, DROPPED "%s%s", *why ? ": " : "", why);
	else if (!c->over && !c->up)
		l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM, "the peer hung up within the handshake");
	else
		l7mp_ws_conn_ended(c, L7MP_OK, " ");
}

/* Replaces libwebsockets' own connection by the connected one (lws.c). */
static void created(struct ws_conn *c, struct lws *wsi)
{
	c->wsi = wsi;
	if (!c->dial || c->dial->swap_fd < 0)
		return;
	if (dup3(c->dial->swap_fd, lws_get_socket_fd(wsi), O_CLOEXEC) >= 0) {
		close(c->dial->swap_fd);
		c->dial->swap_fd = -1;
	}
}

/*
 * Replaces libwebsockets' request by the one built in client.c, keeping only its key: libwebsockets
 * would truncate the request line at 2 KiB and Host at 128 bytes, and add its own fields.
 */
static int request(struct ws_conn *c, char **end, size_t room)
{
	static const char first[] = "GET / HTTP/1.1\r\n", name[] = "\r\nSec-WebSocket-Key: ";
	const char *text = c->dial->request;
	size_t n = strlen(text);
	char *begin = *end - sizeof(first) + 1, *key;
	char value[25];

	/*
	 * The request begins with this line, which occurs only once, because the request contains
	 * no data of the peer.
	 */
	for (size_t i = 0; memcmp(begin, first, sizeof(first) - 1) != 0; i++, begin--)
		if (i == 4096)
			return -1;
	key = memmem(begin, (size_t)(*end - begin), name, sizeof(name) - 1);
	if (!key || n + 64 > room)
		return -1;
	snprintf(value, sizeof(value), "%.24s", key + sizeof(name) - 1);
	memcpy(begin, text, n);
	*end = begin + n + sprintf(begin + n, "Sec-WebSocket-Key: %s\r\n", value);
	return 0;
}

static int agreed(struct ws_conn *c, struct lws *wsi)
{
	char text[256] = "";

	if (lws_hdr_total_length(wsi, WSI_TOKEN_PROTOCOL) > 0 &&
	    lws_hdr_copy(wsi, text, sizeof(text), WSI_TOKEN_PROTOCOL) < 0)
		return -1;
	return l7mp_ws_dial_agreed(c, text) ? 0 : -1;
}

static int add_subprotocol(const struct ws_conn *c, struct lws_process_html_args *args)
{
	if (c->subprotocol && *c->subprotocol)
		args->p += snprintf(args->p, (size_t)args->max_len,
		                    "Sec-WebSocket-Protocol: %s\r\n", c->subprotocol);
	return 0;
}

int l7mp_ws_conn_callback(struct lws *wsi, int reason, void *user, void *in, size_t len)
{
	struct ws_state *st = lws_context_user(lws_get_context(wsi));
	struct ws_conn *c = lws_get_opaque_user_data(wsi);

	(void)user;
	if (!c && st && st->adopting && reason == LWS_CALLBACK_SERVER_NEW_CLIENT_INSTANTIATED) {
		c = st->adopting;
		c->wsi = wsi;
		lws_set_opaque_user_data(wsi, c);
	}
	if (!c)
		return 0;
	switch (reason) {
	case LWS_CALLBACK_WSI_CREATE:
		created(c, wsi);
		return 0;
	case LWS_CALLBACK_ADD_HEADERS:
		return add_subprotocol(c, in);
	case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER:
		return request(c, in, len);
	case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
		return agreed(c, wsi);
	case LWS_CALLBACK_ESTABLISHED:
	case LWS_CALLBACK_CLIENT_ESTABLISHED:
		return established(c, wsi);
	case LWS_CALLBACK_RECEIVE:
	case LWS_CALLBACK_CLIENT_RECEIVE:
		return received(c, wsi, in, len);
	case LWS_CALLBACK_RECEIVE_PONG:
	case LWS_CALLBACK_CLIENT_RECEIVE_PONG:
		c->alive = true;
		return 0;
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
		return peer_close(c, wsi, in, len);
	case LWS_CALLBACK_SERVER_WRITEABLE:
	case LWS_CALLBACK_CLIENT_WRITEABLE:
		write_out(c);
		return 0;
	case LWS_CALLBACK_WS_SERVER_DROP_PROTOCOL:
	case LWS_CALLBACK_WS_CLIENT_DROP_PROTOCOL:
		dropping(c, wsi);
		return 0;
	case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
		l7mp_ws_dial_failed(c, in ? in : "", (int)lws_http_client_http_response(wsi));
		connection_closed(c, wsi);
		return 0;
	case LWS_CALLBACK_CLOSED:
	case LWS_CALLBACK_CLIENT_CLOSED:
		linger_on(c, wsi);
		connection_closed(c, wsi);
		return 0;
	case LWS_CALLBACK_WSI_DESTROY:
		connection_closed(c, wsi);
		return 0;
	default:
		return 0;
	}
}

/* ---- operations of the owner ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct ws_conn *c = (struct ws_conn *)base;
	const struct l7mp_limits *limits = c->state->env->limits;
	size_t max = limits && limits->max_queue ? limits->max_queue : 1 << 20;
	int rc = !c->up || !c->wsi ? -ENOTCONN : c->shut || c->close_sent ? -EPIPE : 0;

	if (!rc && c->full && queued(c) + buf->len > max + OUT_HIGH)
		rc = -ENOBUFS;
	if (rc) {
		l7mp_buf_unref(buf);
		return rc;
	}
	rc = send_frame(c, buf->flags & L7MP_BUF_TEXT ? L7MP_WS_TEXT : L7MP_WS_BINARY, buf);
	if (rc || queued(c) < OUT_HIGH)
		return rc;
	c->full = true;
	return L7MP_STREAM_FULL;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->paused == on)
		return;
	c->paused = on;
	/* libwebsockets is paused when a message arrives: a short pause costs nothing. */
	if (!on)
		post(c);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->shut)
		return;
	c->shut = true;
	if (c->close_sent)
		return;
	c->code = code > 0 && l7mp_ws_code_valid((unsigned)code) ? code : 1000;
	send_close(c);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct ws_conn *c = (struct ws_conn *)base;
	bool first = !c->closing;

	c->closing = true;
	if (abort || !c->up) {
		if (c->wsi && !c->over)
			set_reset(c);
		c->kill = c->kill || !c->over;
		l7mp_ws_conn_ended(c, L7MP_OK, " ");
		return;
	}
	if (!first)
		return;
	op_shutdown(base, 0);
	op_pause(base, false); /* otherwise the peer's Close frame is never read */
	post(c);
	if (!l7mp_timer_armed(&c->timer))
		patience(c, L7MP_WS_CLOSE_MS);
}

static void op_result(struct l7mp_stream *base, int status, const char *message)
{
	struct ws_conn *c = (struct ws_conn *)base;
	struct ws_head *h = c->head;

	c->head = NULL;
	if (h)
		l7mp_ws_head_answer(h, status, message);
}

static void op_subprotocol(struct l7mp_stream *base, const char *chosen)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->head)
		l7mp_ws_head_subprotocol(c->head, chosen);
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->head)
		return l7mp_ws_head_local(c->head, out);
	if (c->io)
		return c->io->ops->local(c->io, out);
	if (c->bridge)
		return l7mp_ws_bridge_local(c->bridge, out);
	return c->wsi ? l7mp_fd_local(lws_get_socket_fd(c->wsi), out) : -ENOTCONN;
}

static int op_remote(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct ws_conn *c = (struct ws_conn *)base;
	struct l7mp_addr raw = {0};
	socklen_t len = sizeof(struct sockaddr_un);

	if (c->head)
		return l7mp_ws_head_remote(c->head, out);
	if (c->io)
		return c->io->ops->remote(c->io, out);
	if (c->bridge)
		return l7mp_ws_bridge_remote(c->bridge, out);
	if (!c->wsi)
		return -EAGAIN;
	if (getpeername(lws_get_socket_fd(c->wsi), &raw.sa, &len))
		return -errno;
	return l7mp_addr_from_sockaddr(out, &raw.sa, len);
}

static const struct l7mp_stream_ops client_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .local = op_local,
        .remote = op_remote,
};
static const struct l7mp_stream_ops server_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .local = op_local,
        .remote = op_remote,
        .result = op_result,
        .subprotocol = op_subprotocol,
};

struct ws_conn *l7mp_ws_conn_new(struct ws_state *st, bool client, uint32_t ping_ms,
                                 uint32_t message_ms)
{
	struct ws_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->base.ops = client ? &client_ops : &server_ops;
	c->base.kind = L7MP_KIND_DATAGRAM;
	c->state = st;
	c->client = client;
	c->ping_ms = ping_ms;
	c->message_ms = message_ms;
	c->paused = true;
	l7mp_bufq_init(&c->in);
	l7mp_bufq_init(&c->out);
	l7mp_task_init(&c->task, on_task, c);
	l7mp_flush_init(&c->flush, on_flush, c);
	l7mp_timer_init(&c->timer, on_timer, c);
	l7mp_timer_init(&c->ping, on_ping, c);
	l7mp_timer_init(&c->slow, on_slow, c);
	DL_APPEND(st->conns, c);
	return c;
}
