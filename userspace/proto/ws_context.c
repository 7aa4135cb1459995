/* SPDX-License-Identifier: MIT */
/*
 * libwebsockets' context on our uv loop.
 *
 * Its end takes two calls with turns of the loop between them: the first closes
 * all connections, then the handles that the library put on the loop have to be gone
 * before the second frees their memory.
 */
#include "ws_glue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "l7mp/log.h"
#include "l7mp/util.h"

/* More descriptors than this make the library's tables large; it then searches instead of indexing. */
#define FD_TABLE_MAX 65536

/* ---- start and end ---- */

static void to_log(int level, const char *line)
{
	size_t n = strcspn(line, "\n");

	(void)level;
	l7mp_log_verbose("ws", "libwebsockets: %.*s", (int)n, line);
}

struct handles {
	uv_handle_t *v[64];
	size_t n;
};

static void collect(uv_handle_t *h, void *arg)
{
	struct handles *hs = arg;

	if ((h->type == UV_IDLE || h->type == UV_TIMER) && hs->n < L7MP_ARRAY_SIZE(hs->v))
		hs->v[hs->n++] = h;
}

/* The idle and timer handles that came with the context. */
static void note_handles(struct ws_state *st, const struct handles *before)
{
	struct handles after = {0};

	uv_walk(l7mp_loop_uv(st->env->loop), collect, &after);
	for (size_t i = 0; i < after.n; i++) {
		bool old = false;

		for (size_t k = 0; k < before->n; k++)
			old |= before->v[k] == after.v[i];
		if (!old && st->n_handles < L7MP_ARRAY_SIZE(st->handles))
			st->handles[st->n_handles++] = after.v[i];
	}
}

static int fd_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur > FD_TABLE_MAX)
		return FD_TABLE_MAX;
	return (int)lim.rlim_cur;
}

/* Two names for one handler: the second is what the upgrade under way asked for. */
static struct lws_vhost *make_vhost(struct ws_state *st)
{
	struct lws_protocols protocols[] = {
	        {.name = "l7mp",
	         .callback = l7mp_ws_callback,
	         .rx_buffer_size = 4096,
	         .tx_packet_size = 65536},
	        {.name = st->subprotocol,
	         .callback = l7mp_ws_callback,
	         .rx_buffer_size = 4096,
	         .tx_packet_size = 65536},
	        {.name = NULL},
	};
	struct lws_context_creation_info info = {
	        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
	        .vhost_name = "plain",
	        .keepalive_timeout = 5,
	        .timeout_secs = L7MP_WS_HEAD_MS / 1000,
	};

	st->protocols = malloc(sizeof(protocols));
	if (!st->protocols)
		return NULL;
	memcpy(st->protocols, protocols, sizeof(protocols));
	info.protocols = st->protocols;
	return lws_create_vhost(st->context, &info);
}

int l7mp_ws_context_start(struct ws_state *st, struct l7mp_error *err)
{
	void *loops[] = {l7mp_loop_uv(st->env->loop)};
	struct handles before = {0};
	struct lws_context_creation_info info = {
	        .options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
	                   LWS_SERVER_OPTION_VALIDATE_UTF8 |
	                   LWS_SERVER_OPTION_SKIP_SERVER_CANONICAL_NAME,
	        .port = CONTEXT_PORT_NO_LISTEN,
	        .foreign_loops = loops,
	        .pcontext = &st->context,
	        .fd_limit_per_thread = (unsigned)fd_limit(),
	        .timeout_secs = L7MP_WS_HEAD_MS / 1000,
	        .connect_timeout_secs = 60, /* the session's is shorter */
	        .max_http_header_data2 = L7MP_WS_HEAD_MAX,
	        .pt_serv_buf_size = L7MP_WS_HEAD_MAX + 4096,
	        .user = st,
	};

	lws_set_log_level(LLL_ERR | LLL_WARN, to_log);
	uv_walk(loops[0], collect, &before);
	st->context = lws_create_context(&info);
	if (!st->context)
		return l7mp_error_set(err, -EIO, L7MP_ERR_REALISE,
		                      "can't start libwebsockets (is libwebsockets-evlib-uv "
		                      "installed?)");
	note_handles(st, &before);
	st->plain = make_vhost(st);
	if (!st->plain)
		return l7mp_error_set(err, -EIO, L7MP_ERR_REALISE,
		                      "libwebsockets can't make a virtual host");
	return 0;
}

static void still_there(uv_handle_t *h, void *arg)
{
	struct ws_state *st = arg;

	for (size_t i = 0; i < st->n_handles; i++)
		if (st->handles[i] == h)
			st->handles_left++;
}

static void second_end(struct l7mp_timer *t, void *arg)
{
	struct ws_state *st = arg;

	st->handles_left = 0;
	uv_walk(l7mp_loop_uv(st->env->loop), still_there, st);
	if (st->handles_left) {
		l7mp_timer_start(st->env->loop, t, 1);
		return;
	}
	lws_context_destroy(st->context);
	for (struct ws_ticket *t2 = st->tickets, *next; t2; t2 = next) {
		next = t2->next;
		free(t2); /* the wsi never said goodbye */
	}
	lws_set_log_level(0, NULL);
	free(st->protocols);
	free(st);
}

void l7mp_ws_context_stop(struct ws_state *st)
{
	lws_context_destroy(st->context);
	l7mp_timer_init(&st->end, second_end, st);
	l7mp_timer_start(st->env->loop, &st->end, 1);
}
