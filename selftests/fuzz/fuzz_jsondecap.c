/* SPDX-License-Identifier: MIT */
/*
 * JSONDecap and what it undoes, JSONEncap, as streams on a loop. The first byte says how: its
 * lowest bit whether the text is one datagram or a byte stream, the others where that is cut.
 */
#include "fuzz.h"

#include <openssl/evp.h>

#include "l7mp/json.h"
#include "l7mp/log.h"
#include "l7mp/proto.h"
#include "l7mp/transforms.h"
#include "l7mp/util.h"

#define MESSAGES 512

/* The owner of a transformer: what it was told. */
struct end {
	struct l7mp_stream *s; /* NULL: closed */
	struct l7mp_str out;
	size_t lens[MESSAGES];
	size_t n;
	uint64_t lost;
};

static struct l7mp_loop *loop;
static struct l7mp_stats stats;
static struct l7mp_limits limits;
static const struct l7mp_proto *const protos[] = {&l7mp_transform_jsondecap,
                                                  &l7mp_transform_jsonencap, NULL};
static void *states[2];
static struct l7mp_env env;

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct end *e = arg;

	FUZZ_CHECK(e->s && e->n < MESSAGES);
	l7mp_str_addn(&e->out, (const char *)buf->data, buf->len);
	e->lens[e->n++] = buf->len;
	l7mp_buf_unref(buf);
}

static void on_lost(void *arg, int err, uint64_t packets, uint64_t bytes)
{
	FUZZ_CHECK(err < 0 && packets == 1 && bytes > 0);
	((struct end *)arg)->lost += packets;
}

static void on_end(void *arg, int code)
{
	(void)arg;
	(void)code;
}

static void on_open(void *arg)
{
	(void)arg;
}

static void on_closed(void *arg, const struct l7mp_error *err)
{
	struct end *e = arg;

	FUZZ_CHECK(e->s && err->code == L7MP_OK);
	e->s = NULL;
}

static const struct l7mp_stream_events events = {.open = on_open,
                                                 .data = on_data,
                                                 .drain = on_open,
                                                 .end = on_end,
                                                 .lost = on_lost,
                                                 .closed = on_closed};

static void begin(struct end *e, const struct l7mp_proto *proto, enum l7mp_kind kind)
{
	struct l7mp_connect p = {.env = &env,
	                         .cluster = "c",
	                         .session = "s",
	                         .in_kind = kind,
	                         .out_kind = L7MP_KIND_DATAGRAM};
	struct l7mp_error err = {0};

	memset(e, 0, sizeof(*e));
	FUZZ_CHECK(!proto->connect(&p, &e->s, &err));
	l7mp_stream_attach(e->s, &events, e);
	l7mp_stream_pause(e->s, false);
	l7mp_loop_turn(loop);
}

static int put(struct end *e, const void *data, size_t len)
{
	struct l7mp_buf *buf = l7mp_buf_copy(l7mp_loop_bufs(loop), data, len);

	FUZZ_CHECK(buf != NULL);
	return l7mp_stream_write(e->s, buf);
}

static void finish(struct end *e)
{
	l7mp_stream_shutdown(e->s, 0);
	l7mp_loop_turn(loop);
	l7mp_stream_close(e->s, false);
	l7mp_loop_turn(loop);
	FUZZ_CHECK(!e->s);
	l7mp_str_free(&e->out);
}

/* What was taken for an object must be one, and its payload just this one. */
static void check_datagram(const char *text, size_t len, int rc, const struct end *e)
{
	char why[160] = "";
	cJSON *root = l7mp_json_parse(text, len, NULL, why, sizeof(why));
	const cJSON *payload = l7mp_json_member(root, "payload");
	char *again;

	if (rc) {
		FUZZ_CHECK(e->n == 0);
		cJSON_Delete(root);
		return;
	}
	FUZZ_CHECK(e->n == 1 && cJSON_IsString(payload));
	again = malloc(e->lens[0] / 3 * 4 + 5);
	FUZZ_CHECK(again != NULL);
	EVP_EncodeBlock((unsigned char *)again, (const unsigned char *)e->out.s, (int)e->lens[0]);
	FUZZ_CHECK(strcmp(e->lens[0] ? again : "", payload->valuestring) == 0);
	free(again);
	cJSON_Delete(root);
}

/* Any bytes come back out of what JSONEncap makes of them. */
static void check_round_trip(const char *data, size_t len)
{
	struct end in, out;

	begin(&in, &l7mp_transform_jsonencap, L7MP_KIND_DATAGRAM);
	begin(&out, &l7mp_transform_jsondecap, L7MP_KIND_DATAGRAM);
	FUZZ_CHECK(put(&in, data, len) >= 0 && in.n == 1);
	FUZZ_CHECK(put(&out, in.out.s, in.lens[0]) >= 0);
	FUZZ_CHECK(out.n == 1 && out.lens[0] == len && (!len || memcmp(out.out.s, data, len) == 0));
	finish(&in);
	finish(&out);
}

static void read_stream(struct end *e, const char *text, size_t len, size_t step)
{
	begin(e, &l7mp_transform_jsondecap, L7MP_KIND_STREAM);
	for (size_t off = 0; off < len; off += step)
		FUZZ_CHECK(put(e, text + off, step < len - off ? step : len - off) >= 0);
}

/* Cut or not, a stream has the same objects in it, and the same errors. */
static void check_stream(const char *text, size_t len, size_t step)
{
	struct end one, two;

	read_stream(&one, text, len, len);
	read_stream(&two, text, len, step);
	l7mp_stream_shutdown(one.s, 0);
	l7mp_stream_shutdown(two.s, 0);
	FUZZ_CHECK(one.n == two.n && one.lost == two.lost && one.out.len == two.out.len);
	FUZZ_CHECK(memcmp(one.lens, two.lens, one.n * sizeof(one.lens[0])) == 0);
	FUZZ_CHECK(!one.out.len || memcmp(one.out.s, two.out.s, one.out.len) == 0);
	finish(&one);
	finish(&two);
}

static void start(void)
{
	l7mp_log_set_level(L7MP_LOG_ERROR);
	memset(states, 0, sizeof(states));
	FUZZ_CHECK(!l7mp_loop_new_manual(&loop));
	env = (struct l7mp_env){.loop = loop,
	                        .stats = &stats,
	                        .limits = &limits,
	                        .protos = protos,
	                        .states = states};
}

static void stop(void)
{
	for (size_t i = 0; protos[i]; i++)
		if (states[i])
			protos[i]->stop(&env, states[i]);
	FUZZ_CHECK(!l7mp_loop_free(&loop));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct end e;
	char *text;
	int rc;

	if (size < 2)
		return 0;
	start();
	text = fuzz_text(data + 1, --size);
	if (data[0] & 1) {
		check_stream(text, size, 1 + (size_t)(data[0] >> 1) % size);
	} else {
		begin(&e, &l7mp_transform_jsondecap, L7MP_KIND_DATAGRAM);
		rc = put(&e, text, size);
		check_datagram(text, size, rc, &e);
		finish(&e);
		check_round_trip(text, size);
	}
	free(text);
	FUZZ_CHECK(l7mp_buf_pool_used(l7mp_loop_bufs(loop)) == 0);
	FUZZ_CHECK(l7mp_buf_pool_held(l7mp_loop_bufs(loop)) == 0);
	stop();
	return 0;
}
