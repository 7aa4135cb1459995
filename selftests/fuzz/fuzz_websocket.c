/* SPDX-License-Identifier: MIT */
/*
 * proto/websocket with libwebsockets, over TCP on the loopback interface: a listener whose client
 * sends the input, or a cluster whose server does. The first byte says which, and whether the
 * handshake is the input's, too; the second how the input is cut.
 *
 * What the owner of a connection is told must be what an independent reader of frames (RFC 6455,
 * section 5) finds in the input.
 */
#include "fuzz.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/json.h"
#include "l7mp/log.h"
#include "l7mp/proto.h"
#include "l7mp/protos.h"
#include "l7mp/text.h"
#include "l7mp/util.h"

#define CLIENT        1 /* bits of the first byte: the input is a server's */
#define OWN_HANDSHAKE 2 /* the input has it */
#define MESSAGES      2048
#define MESSAGE_MAX   (16U << 20)
#define TURNS         4   /* of the loop, without an event, until nothing more comes */
#define TURNS_MAX     500 /* more is a connection that does not end */

static const char request[] = "GET / HTTP/1.1\r\nHost: fuzz\r\nUpgrade: websocket\r\n"
                              "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                              "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n";

struct messages {
	struct l7mp_str bytes;
	size_t lens[MESSAGES];
	bool text[MESSAGES];
	size_t n;
};

/* The owner of the connection. */
static struct {
	struct l7mp_stream *s; /* NULL: none, or closed */
	struct messages got;
	unsigned accepted, opened, ended, closed;
	int code;
	unsigned told; /* events so far */
} end;

static struct l7mp_loop *loop;
static struct l7mp_stats stats;
static struct l7mp_limits limits = {.max_queue = 1 << 20};
static const struct l7mp_proto *const protos[] = {&l7mp_proto_ws, NULL};
static void *states[2];
static struct l7mp_env env;
static struct sockaddr_in listener; /* ours, of the product */
static int server = -1;             /* listens for the product's client */
static struct sockaddr_in server_address;

/* Buffers in the loop's pool are poisoned, and hold the list of each other. */
const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
	return "use_poisoned=1";
}

/* ---- frames, as the standard has them ---- */

static void message(struct messages *m, const uint8_t *data, size_t len, bool text)
{
	FUZZ_CHECK(m->n < MESSAGES);
	l7mp_str_addn(&m->bytes, (const char *)data, len);
	m->lens[m->n] = len;
	m->text[m->n++] = text;
}

struct frame {
	bool fin, masked, reserved;
	unsigned opcode;
	uint64_t len;
	size_t head;
	bool lengthened; /* more bytes than its length needs */
};

/* False: its header is not complete. */
static bool frame_head(const uint8_t *p, size_t n, struct frame *f)
{
	size_t width;

	if (n < 2)
		return false;
	*f = (struct frame){.fin = p[0] & 0x80,
	                    .reserved = p[0] & 0x70,
	                    .opcode = p[0] & 15,
	                    .masked = p[1] & 0x80,
	                    .len = p[1] & 0x7f};
	width = f->len == 126 ? 2 : f->len == 127 ? 8 : 0;
	f->head = 2 + width + (f->masked ? 4 : 0);
	if (n < f->head)
		return false;
	for (size_t i = 0; i < width; i++)
		f->len = (i ? f->len << 8 : 0) | p[2 + i];
	f->lengthened = (width == 2 && f->len < 126) || (width == 8 && f->len <= 0xffff);
	return true;
}

/* A frame that libwebsockets takes, although the standard forbids it: it may be refused, too. */
static bool frame_loose(const struct frame *f, bool from_client)
{
	return f->masked != from_client || f->lengthened;
}

/* An error, or the Close frame: what follows is not heard. */
static bool frame_ends(const struct frame *f, bool begun, size_t have)
{
	if (f->reserved)
		return true;
	if (f->opcode >= 8)
		return f->opcode > 10 || !f->fin || f->len > 125 || f->opcode == 8;
	return f->opcode > 2 || begun != (f->opcode == 0) || f->len > MESSAGE_MAX ||
	       have + f->len > MESSAGE_MAX;
}

/* How much of what was found must arrive. */
enum compare {
	ALL,   /* each message */
	FIRST, /* some of them may be missing at the end */
	NONE,  /* a server that masks: no message is sure */
};

/* The messages of a row of frames. */
struct reading {
	struct messages *out;
	uint8_t *held;
	size_t have;
	bool begun, text, clean;
};

/* A whole frame of data. False: its text is not UTF-8. */
static bool take_data(struct reading *r, const uint8_t *payload, const struct frame *f)
{
	struct l7mp_utf8_check utf8 = {0};

	r->text = f->opcode ? f->opcode == 1 : r->text;
	for (size_t i = 0; i < f->len; i++)
		r->held[r->have + i] = payload[i] ^ (f->masked ? payload[(int)(i & 3) - 4] : 0);
	r->have += f->len;
	r->begun = !f->fin;
	if (r->text && (!l7mp_utf8_step(&utf8, r->held, r->have) || (f->fin && utf8.left)))
		return false;
	if (f->fin) {
		message(r->out, r->held, r->have, r->text);
		r->have = 0;
	}
	return true;
}

/* All whole messages, up to what ends them. */
static enum compare read_frames(const uint8_t *p, size_t n, bool from_client, struct messages *out)
{
	struct reading r = {.out = out, .held = malloc(n + 1), .clean = true};
	enum compare compare = ALL;
	struct frame f;

	FUZZ_CHECK(r.held != NULL);
	while (compare != NONE && r.clean && frame_head(p, n, &f)) {
		r.clean = !frame_ends(&f, r.begun, r.have);
		if (frame_loose(&f, from_client))
			compare = from_client ? FIRST : NONE;
		if (!r.clean || n - f.head < f.len)
			break;
		if (f.opcode < 8)
			r.clean = take_data(&r, p + f.head, &f);
		p += f.head + f.len;
		n -= f.head + f.len;
	}
	free(r.held);
	/* Text may be refused before its frame is complete. */
	return compare == ALL && r.clean && !(r.text && n) ? ALL : compare == NONE ? NONE : FIRST;
}

/* ---- the owner ---- */

static void on_open(void *arg)
{
	(void)arg;
	end.opened++;
	end.told++;
	l7mp_stream_pause(end.s, false);
}

static void on_drain(void *arg)
{
	(void)arg;
}

/* Echoes, so that frames are sent, too. */
static void on_data(void *arg, struct l7mp_buf *buf)
{
	(void)arg;
	FUZZ_CHECK(end.s && !end.ended);
	message(&end.got, buf->data, buf->len, buf->flags & L7MP_BUF_TEXT);
	end.told++;
	(void)l7mp_stream_write(end.s, buf);
}

static void on_end(void *arg, int code)
{
	(void)arg;
	FUZZ_CHECK(end.s && !end.ended);
	end.ended++;
	end.code = code;
	end.told++;
	l7mp_stream_shutdown(end.s, code);
}

static void on_lost(void *arg, int err, uint64_t packets, uint64_t bytes)
{
	(void)arg;
	(void)packets;
	(void)bytes;
	FUZZ_CHECK(err < 0);
}

static void on_notice(void *arg, const char *event, const char *text)
{
	(void)arg;
	FUZZ_CHECK(event && text);
}

static void on_closed(void *arg, const struct l7mp_error *err)
{
	(void)arg;
	FUZZ_CHECK(end.s && !end.closed);
	FUZZ_CHECK(err->code == L7MP_OK || err->message[0]);
	end.closed++;
	end.told++;
	end.s = NULL;
}

static const struct l7mp_stream_events events = {.open = on_open,
                                                 .data = on_data,
                                                 .drain = on_drain,
                                                 .end = on_end,
                                                 .lost = on_lost,
                                                 .notice = on_notice,
                                                 .closed = on_closed};

static int on_admit(void *arg, const struct l7mp_addr *peer)
{
	(void)arg;
	(void)peer;
	return 0;
}

static void on_accept(void *arg, struct l7mp_accept *a)
{
	(void)arg;
	FUZZ_CHECK(!end.accepted && a->name && a->metadata);
	end.accepted++;
	end.s = a->stream;
	free(a->name);
	cJSON_Delete(a->metadata);
	l7mp_stream_attach(end.s, &events, NULL);
	end.s->ops->result(end.s, 200, "OK");
	if (end.s)
		l7mp_stream_pause(end.s, false);
}

/* ---- the peer ---- */

static bool turn(int peer, uint8_t *out, size_t size, size_t *n)
{
	unsigned before = end.told;
	bool moved = false;
	ssize_t got;

	l7mp_loop_turn(loop);
	do {
		got = peer < 0 ? 0 : recv(peer, out + *n, size - *n, MSG_DONTWAIT);
		if (got > 0) {
			moved = true;
			*n = *n + (size_t)got < size / 2 ? *n + (size_t)got : size / 2;
		}
	} while (got > 0);
	return moved || end.told != before;
}

static uint8_t back[1 << 16]; /* what the product has sent */
static size_t n_back;

static void settle(int peer)
{
	unsigned still = 0;

	for (unsigned i = 0; i < TURNS_MAX && still < TURNS; i++)
		still = turn(peer, back, sizeof(back), &n_back) ? 0 : still + 1;
}

static void send_cut(int peer, const uint8_t *data, size_t n, size_t step)
{
	for (size_t off = 0; off < n; off += step) {
		size_t piece = step < n - off ? step : n - off;

		if (send(peer, data + off, piece, MSG_NOSIGNAL) != (ssize_t)piece)
			return; /* hung up */
		(void)turn(peer, back, sizeof(back), &n_back);
	}
	settle(peer);
}

static int new_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	FUZZ_CHECK(fd >= 0);
	(void)setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof(on));
	return fd;
}

/* With a reset: ports must not wait after so many connections. */
static void hang_up(int fd)
{
	struct linger now = {.l_onoff = 1};

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

/* Reads the product's request; writes the answer that accepts it. */
static size_t accept_key(char *answer, size_t size)
{
	static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
	const char *at = memmem(back, n_back, "Sec-WebSocket-Key: ", 19);
	unsigned char text[128], sha[SHA_DIGEST_LENGTH], key[64];

	FUZZ_CHECK(at && n_back - (size_t)((const uint8_t *)at - back) > 19 + 24);
	snprintf((char *)text, sizeof(text), "%.24s%s", at + 19, guid);
	SHA1(text, 24 + sizeof(guid) - 1, sha);
	EVP_EncodeBlock(key, sha, sizeof(sha));
	return (size_t)snprintf(answer, size,
	                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
	                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
	                        (char *)key);
}

/* ---- both roles ---- */

static void be_client(const uint8_t *data, size_t n, size_t step, bool own)
{
	int fd = new_socket();

	FUZZ_CHECK(!connect(fd, (struct sockaddr *)&listener, sizeof(listener)));
	if (!own) {
		send_cut(fd, (const uint8_t *)request, sizeof(request) - 1, sizeof(request));
		FUZZ_CHECK(end.accepted && n_back > 12 && !memcmp(back, "HTTP/1.1 101", 12));
	}
	send_cut(fd, data, n, step);
	hang_up(fd);
}

static void dial(void)
{
	char text[96];
	cJSON *spec;
	struct l7mp_connect p = {.env = &env,
	                         .cluster = "c",
	                         .address = "127.0.0.1",
	                         .session = "s",
	                         .in_kind = L7MP_KIND_DATAGRAM};
	struct l7mp_error err = {0};

	snprintf(text, sizeof(text), "{\"port\":%u}", ntohs(server_address.sin_port));
	spec = cJSON_Parse(text);
	p.cluster_spec = spec;
	FUZZ_CHECK(!l7mp_proto_ws.connect(&p, &end.s, &err));
	l7mp_stream_attach(end.s, &events, NULL);
	cJSON_Delete(spec);
}

static void be_server(const uint8_t *data, size_t n, size_t step, bool own)
{
	char answer[256];
	int fd = -1;

	dial();
	for (unsigned i = 0; i < TURNS_MAX && fd < 0; i++) {
		(void)turn(-1, NULL, 0, NULL);
		fd = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	}
	FUZZ_CHECK(fd >= 0);
	for (unsigned i = 0; i < TURNS_MAX && !memmem(back, n_back, "\r\n\r\n", 4); i++)
		(void)turn(fd, back, sizeof(back), &n_back);
	if (!own) {
		size_t len = accept_key(answer, sizeof(answer));

		send_cut(fd, (const uint8_t *)answer, len, len);
		FUZZ_CHECK(end.opened == 1);
	}
	send_cut(fd, data, n, step);
	hang_up(fd);
}

/* What the owner was told is what is in the frames. */
static void check_messages(const uint8_t *data, size_t n, bool from_client)
{
	struct messages want = {.n = 0};
	enum compare compare = read_frames(data, n, from_client, &want);

	FUZZ_CHECK(end.got.n <= want.n || compare == NONE);
	FUZZ_CHECK(end.got.n == want.n || compare != ALL);
	if (compare == NONE) {
		l7mp_str_free(&want.bytes);
		return;
	}
	FUZZ_CHECK(!memcmp(end.got.lens, want.lens, end.got.n * sizeof(want.lens[0])));
	FUZZ_CHECK(!memcmp(end.got.text, want.text, end.got.n * sizeof(want.text[0])));
	FUZZ_CHECK(!end.got.bytes.len || !memcmp(end.got.bytes.s, want.bytes.s, end.got.bytes.len));
	l7mp_str_free(&want.bytes);
}

static void start(void)
{
	static const struct l7mp_listen_events listen_events = {.admit = on_admit,
	                                                        .accept = on_accept};
	cJSON *spec = cJSON_Parse("{\"address\":\"127.0.0.1\",\"port\":0}");
	struct l7mp_listen p = {
	        .name = "fuzz", .env = &env, .spec = spec, .events = &listen_events};
	static struct l7mp_proto_listener *l;
	struct l7mp_error err = {0};
	socklen_t len = sizeof(server_address);

	l7mp_log_set_level(L7MP_LOG_ERROR);
	FUZZ_CHECK(!l7mp_loop_new(&loop));
	env = (struct l7mp_env){.loop = loop,
	                        .stats = &stats,
	                        .limits = &limits,
	                        .protos = protos,
	                        .states = states};
	FUZZ_CHECK(!l7mp_proto_ws.listen(&p, &l, &err));
	l7mp_proto_ws.activate(l);
	l7mp_proto_ws.bound(l, spec);
	listener.sin_family = AF_INET;
	listener.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener.sin_port = htons((uint16_t)l7mp_json_num(spec, "port", 0));
	cJSON_Delete(spec);
	server = new_socket();
	server_address = listener;
	server_address.sin_port = 0;
	FUZZ_CHECK(!bind(server, (struct sockaddr *)&server_address, len) && !listen(server, 8));
	FUZZ_CHECK(!getsockname(server, (struct sockaddr *)&server_address, &len));
	FUZZ_CHECK(!fcntl(server, F_SETFL, O_NONBLOCK));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool client, own;
	size_t step;

	if (!loop)
		start();
	if (size < 2)
		return 0;
	client = data[0] & CLIENT;
	own = data[0] & OWN_HANDSHAKE;
	size -= 2;
	step = data[1] % 8 ? (size_t)data[1] * 3 : size + 1;
	if (size / step > 64) /* each piece takes its time */
		step = size / 64;
	memset(&end, 0, sizeof(end));
	n_back = 0;
	if (client)
		be_server(data + 2, size, step, own);
	else
		be_client(data + 2, size, step, own);
	settle(-1);
	if (end.s) /* its owner has not finished */
		l7mp_stream_close(end.s, true);
	settle(-1);
	FUZZ_CHECK(!end.s && end.closed == (client || end.accepted));
	if (!own)
		check_messages(data + 2, size, !client);
	l7mp_str_free(&end.got.bytes);
	FUZZ_CHECK(l7mp_buf_pool_used(l7mp_loop_bufs(loop)) == 0);
	return 0;
}
