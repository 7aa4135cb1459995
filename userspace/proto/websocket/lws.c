/* SPDX-License-Identifier: MIT */
/*
 * libwebsockets' context on the loop, and how connections are passed to it.
 *
 * libwebsockets never listens, resolves or connects by itself. An accepted socket is adopted with a
 * rebuilt request. There is no such call for the client role, and its own connecting is
 * insufficient (4.1.6: no source port, blocking name resolution, "Unable to connect" for every
 * reason, request lines truncated at 2 KiB). So it is made to connect to a UNIX socket of this
 * process, which succeeds at once. In the callback for that (LWS_CALLBACK_WSI_CREATE, before
 * anything is sent and before its descriptor is polled) the connected TCP socket replaces the
 * descriptor. With TLS the UNIX connection stays, with the bridge on its other end.
 */
#include <errno.h>
#include <fcntl.h>
#include <libwebsockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "websocket.h"

/* libwebsockets' own time-outs, in s; longer than those of this proxy. */
#define NEVER_S 86400
/* Interval of checks whether its handles are closed, in ms. */
#define DRY_MS 1

/* ---- logging ---- */

/* Most errors logged by libwebsockets are caused by a peer, or are harmless. */
static void on_log(int level, const char *line)
{
	int n = (int)strcspn(line, "\n");

	(void)level;
	if (strstr(line, "calling service") || strstr(line, "deferring handling ah"))
		return;
	l7mp_log_verbose("lws", "%.*s", n, line);
}

/* ---- the context ---- */

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len)
{
	return l7mp_ws_conn_callback(wsi, (int)reason, user, in, len);
}

/*
 * per_session_data_size must be above 0, otherwise the callbacks at the end of a connection are not
 * called.
 */
static const struct lws_protocols protocols[] = {
        {.name = "l7mp",
         .callback = callback,
         .per_session_data_size = sizeof(int),
         .rx_buffer_size = L7MP_WS_CHUNK},
        {.name = NULL},
};

/* libwebsockets' keep-alive is off, as it would close connections whose owner does not read. */
static const lws_retry_bo_t no_keepalive = {0};

/*
 * libwebsockets indexes its tables by descriptor when they are large enough for all descriptors;
 * smaller ones are searched for each event. They need 16 bytes per entry.
 */
#define TABLE_MAX (1u << 20)
static unsigned table_size(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur <= TABLE_MAX)
		return 0;
	return TABLE_MAX;
}

int l7mp_ws_lws_start(struct ws_state *st, struct l7mp_error *err)
{
	struct lws_context_creation_info info = {
	        .options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS,
	        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
	        .protocols = protocols,
	        .foreign_loops = st->loops,
	        .pcontext = &st->context,
	        .user = st,
	        .gid = (gid_t)-1,
	        .uid = (uid_t)-1,
	        .count_threads = 1,
	        .fd_limit_per_thread = table_size(),
	        .pt_serv_buf_size = L7MP_WS_CHUNK,
	        .max_http_header_data2 = L7MP_WS_HEAD_MAX,
	        .timeout_secs = NEVER_S,
	        .connect_timeout_secs = NEVER_S,
	        .retry_and_idle_policy = &no_keepalive,
	        .http_proxy_address = "", /* otherwise it reads the environment */
	        .vhost_name = "l7mp",
	};

	st->loops[0] = l7mp_loop_uv(st->env->loop);
	lws_set_log_level(LLL_ERR | LLL_WARN, on_log);
	st->context = lws_create_context(&info);
	if (!st->context)
		return l7mp_error_set(err, -EIO, L7MP_ERR_INTERNAL,
		                      "libwebsockets does not start (is its libuv plugin "
		                      "installed?)");
	st->vhost = lws_create_vhost(st->context, &info);
	if (!st->vhost)
		return l7mp_error_set(err, -EIO, L7MP_ERR_INTERNAL,
		                      "libwebsockets has no memory for its vhost");
	return 0;
}

static void state_free(uv_handle_t *handle)
{
	struct ws_state *st = handle->data;

	free(st->scratch);
	free(st);
}

static void count_closing(uv_handle_t *handle, void *arg)
{
	*(unsigned *)arg += uv_is_closing(handle) != 0;
}

static void on_dry(uv_timer_t *timer)
{
	struct ws_state *st = timer->data;
	unsigned closing = 0;

	uv_walk(timer->loop, count_closing, &closing);
	if (closing) {
		uv_timer_start(timer, on_dry, DRY_MS, 0);
		return;
	}
	lws_context_destroy(st->context); /* NULL: already destroyed */
	uv_close((uv_handle_t *)timer, state_free);
}

/*
 * On a foreign loop libwebsockets is destroyed in two steps: the first closes its handles, the
 * second frees the memory and unloads the plugin with their close callbacks. These callbacks may
 * close more handles, so the second step waits until no handle is closing.
 */
void l7mp_ws_lws_stop(struct ws_state *st)
{
	struct ws_conn *c, *next;

	DL_FOREACH_SAFE (st->conns, c, next) {
		if (c->wsi)
			lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_SYNC);
	}
	if (st->context)
		lws_context_destroy(st->context);
	uv_timer_init(l7mp_loop_uv(st->env->loop), &st->dry);
	st->dry.data = st;
	uv_timer_start(&st->dry, on_dry, DRY_MS, 0);
}

/* ---- accepted sockets ---- */

void l7mp_ws_lws_adopt(struct ws_conn *c, int fd, const char *key, const uint8_t *rest, size_t n)
{
	struct ws_state *st = c->state;
	char *text = malloc(512 + n);
	int len;

	if (!text) {
		close(fd);
		l7mp_ws_conn_ended(c, L7MP_ERR_INTERNAL, "out of memory");
		return;
	}
	len = snprintf(
	        text, 512,
	        "GET / HTTP/1.1\r\nHost: l7mp\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
	        "Sec-WebSocket-Key: %.24s\r\nSec-WebSocket-Version: 13\r\n\r\n",
	        key);
	if (n)
		memcpy(text + len, rest, n);
	st->adopting = c;
	c->holding = true;
	(void)lws_adopt_socket_vhost_readbuf(st->vhost, fd, text, (size_t)len + n);
	c->holding = false;
	st->adopting = NULL;
	free(text);
	if (!c->up)
		l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM, "the peer hung up within the handshake");
}

/* ---- connected sockets ---- */

/*
 * Opens a listening UNIX socket with a name that the kernel chooses, for one connection: "+@name".
 */
static int listen_unix(char name[static 16])
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa_family_t)) || listen(fd, 1) ||
	    getsockname(fd, (struct sockaddr *)&sa, &len)) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	snprintf(name, 16, "+@%.*s", (int)(len - sizeof(sa_family_t) - 1), sa.sun_path + 1);
	return fd;
}

/* Accepts the other end of libwebsockets' connection; one from another process is closed. */
static int accept_own(int listening)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int fd;

	while ((fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) && cred.pid == getpid())
			return fd;
		close(fd);
	}
	return -errno;
}

/* With TLS: connects the bridge to the other end of libwebsockets' UNIX connection. */
static void bridge(struct ws_conn *c)
{
	struct l7mp_stream *io = c->io;
	int fd = c->wsi ? accept_own(c->dial->pair_fd) : -ENOTCONN;

	c->io = NULL;
	if (fd >= 0 && !l7mp_ws_bridge_new(c, io, fd, &c->bridge))
		return;
	if (fd < 0)
		l7mp_ws_orphan(io, true);
	l7mp_ws_conn_ended(c, L7MP_ERR_INTERNAL, "no socket pair: %s",
	                   l7mp_errno_text(fd < 0 ? fd : -ENOMEM));
}

void l7mp_ws_lws_dial(struct ws_conn *c)
{
	struct ws_state *st = c->state;
	struct ws_dial *d = c->dial;
	char name[16];
	struct lws_client_connect_info info = {
	        .context = st->context,
	        .vhost = st->vhost,
	        .address = name,
	        .port = 1,
	        .path = "/",
	        .host = "l7mp",
	        .protocol = d->offer,
	        .local_protocol_name = "l7mp",
	        .ssl_connection = LCCSCF_HTTP_NO_FOLLOW_REDIRECT,
	        .ietf_version_or_minus_one = -1,
	        .opaque_user_data = c,
	        .retry_and_idle_policy = &no_keepalive,
	};
	bool plain = !d->tls;

	d->pair_fd = listen_unix(name);
	if (d->pair_fd < 0) {
		l7mp_ws_conn_ended(c, L7MP_ERR_INTERNAL, "no UNIX socket: %s",
		                   l7mp_errno_text(d->pair_fd));
		return;
	}
	if (plain) {
		d->swap_fd = l7mp_byte_stream_take_fd(c->io);
		l7mp_ws_orphan(c->io, true);
		c->io = NULL;
	}
	c->holding = true;
	(void)lws_client_connect_via_info(&info);
	c->holding = false;
	if (!c->over && (plain ? d->swap_fd >= 0 : !c->wsi))
		l7mp_ws_conn_ended(c, L7MP_ERR_INTERNAL, "libwebsockets can't make a connection");
	if (!plain && !c->over)
		bridge(c);
	if (c->dial && c->dial->pair_fd >= 0) {
		close(c->dial->pair_fd);
		c->dial->pair_fd = -1;
	}
}
