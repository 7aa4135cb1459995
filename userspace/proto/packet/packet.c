/* SPDX-License-Identifier: MIT */
/* AF_PACKET: listeners (one session, or one for each conversation) and clusters. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "packet_int.h"

/* A singleton whose session could not start tries again after this. */
#define START_AGAIN_MS 1000

struct packet_state {
	uint64_t last_id;
	struct packet_sock *socks;
};

struct packet_listener {
	struct l7mp_proto_listener base;
	struct l7mp_env *env;
	char *name;
	struct packet_sock *sock;
	struct l7mp_timer timer; /* a singleton's start */
	bool busy;               /* a singleton has a session, or may have it again (reopen) */
	struct l7mp_hub_peer *emitting;
	bool active;
};

/* ---- sessions ---- */

static int reopen(void *arg, struct l7mp_stream **out)
{
	struct packet_listener *l = arg;
	struct l7mp_hub_peer *p;
	int rc = packet_sock_check(l->sock);

	if (rc)
		return rc;
	p = packet_sock_only(l->sock);
	if (!p)
		return -ENOMEM;
	*out = &p->base;
	return 0;
}

static void start_later(struct packet_listener *l, uint64_t ms)
{
	if (l->active && l->sock->params.mode == PKT_SINGLETON &&
	    l7mp_timer_start(l->env->loop, &l->timer, ms))
		l7mp_log_error("packet", "%s: out of memory", l->name);
}

static void ended(void *arg)
{
	struct packet_listener *l = arg;

	/* The next frame begins another session. */
	l->busy = false;
}

/* Emits a singleton's session, with the first frame when there is one (takes buf). */
static void emit_only(struct packet_listener *l, struct l7mp_buf *buf)
{
	struct packet_sock *s = l->sock;
	struct pkt_info own = {.l3 = 0};
	struct l7mp_accept a = {
	        .reopen = reopen, .reopen_arg = l, .ended = ended, .never_idle = true};
	struct pkt_key key = {.type = ETH_P_ALL};
	struct l7mp_addr unused;
	struct l7mp_hub_peer *p;
	char mac[L7MP_ADDR_STRLEN];

	memcpy(key.src, s->mac, 6);
	memcpy(own.src_mac, s->mac, 6);
	pkt_key_addrs(&key, s->ifindex, &a.peer, &unused);
	if (l->base.events->admit && l->base.events->admit(l->base.arg, &a.peer)) {
		l7mp_hub_drop(&s->hub, L7MP_DROP_LIMIT, buf);
		start_later(l, START_AGAIN_MS);
		return;
	}
	p = packet_sock_only(s);
	if (!p) {
		l7mp_hub_drop(&s->hub, L7MP_DROP_MEMORY, buf);
		return;
	}
	a.name = l7mp_asprintf("PACKET:%s-%s-%llu", s->params.interface, l7mp_addr_ip(&a.peer, mac),
	                       (unsigned long long)p->id);
	a.metadata = pkt_metadata(s->params.interface, &own);
	l->busy = true;
	l->emitting = p;
	if (l7mp_hub_emit(&l->base, p, &a, buf) && s->listener == l)
		l->emitting = NULL;
}

/* Emits the session of a conversation; takes buf. */
static void emit_one(struct packet_listener *l, struct l7mp_buf *buf, const struct pkt_info *info)
{
	struct packet_sock *s = l->sock;
	struct l7mp_accept a = {.stream = NULL};
	struct l7mp_addr dst;
	struct l7mp_hub_peer *p;
	char *text;

	pkt_key_addrs(&info->key, s->ifindex, &a.peer, &dst);
	if (l->base.events->admit && l->base.events->admit(l->base.arg, &a.peer)) {
		l7mp_hub_drop(&s->hub, L7MP_DROP_LIMIT, buf);
		return;
	}
	p = l7mp_hub_peer_new(&s->hub, &info->key, sizeof(info->key), s->mtu + PKT_MIN);
	if (!p) {
		l7mp_hub_drop(&s->hub, L7MP_DROP_MEMORY, buf);
		return;
	}
	text = pkt_key_name(&info->key);
	if (text)
		a.name = l7mp_asprintf("PACKET:%s-%s-%llu", s->params.interface, text,
		                       (unsigned long long)p->id);
	free(text);
	a.metadata = pkt_metadata(s->params.interface, info);
	(void)l7mp_hub_emit(&l->base, p, &a, buf);
}

void packet_listener_first(struct packet_listener *l, struct l7mp_buf *buf,
                           const struct pkt_info *info)
{
	if (l->sock->params.mode == PKT_SERVER)
		emit_one(l, buf, info);
	else if (l->busy || l7mp_timer_armed(&l->timer))
		l7mp_hub_drop(&l->sock->hub, L7MP_DROP_NOT_CONNECTED, buf);
	else
		emit_only(l, buf);
}

void packet_listener_left(struct packet_listener *l, struct l7mp_hub_peer *p)
{
	if (l->emitting != p)
		return; /* `ended` follows, or reopen */
	/* Closed while it was handed up: no session came of it. */
	l->emitting = NULL;
	l->busy = false;
	start_later(l, START_AGAIN_MS);
}

void packet_listener_up(struct packet_listener *l)
{
	if (!l->busy && !l->sock->hub.peers)
		start_later(l, 0);
}

static void on_start(struct l7mp_timer *t, void *arg)
{
	struct packet_listener *l = arg;

	(void)t;
	if (l->busy || l->sock->hub.peers)
		return;
	if (!packet_sock_check(l->sock))
		emit_only(l, NULL); /* else when it is up */
}

/* ---- listening ---- */

static int read_ethertype(const cJSON *spec, uint16_t *out, struct l7mp_error *err)
{
	const cJSON *node = l7mp_json_member(spec, "ethertype");

	*out = 0;
	if (!node || !pkt_ethertype_parse(node, out))
		return 0;
	return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA, "ethertype: not an EtherType");
}

static int read_listener(const cJSON *spec, struct pkt_params *pp, struct l7mp_error *err)
{
	const cJSON *options = l7mp_json_member(spec, "options");

	snprintf(pp->interface, sizeof(pp->interface), "%s", l7mp_json_str(spec, "interface", ""));
	pp->mode = strcasecmp(l7mp_json_str(options, "mode", ""), "server") ? PKT_SINGLETON
	                                                                    : PKT_SERVER;
	pp->promiscuous = l7mp_json_bool(options, "promiscuous", false);
	return read_ethertype(spec, &pp->ethertype, err);
}

static bool is_retiring(const struct l7mp_listen *params, const struct packet_listener *l)
{
	for (size_t i = 0; i < params->n_retiring; i++)
		if (params->retiring[i] == &l->base)
			return true;
	return false;
}

/* A socket that only sessions use any more, or one whose listener goes with this change; or a new one. */
static int sock_get(struct packet_state *st, const struct pkt_params *pp,
                    const struct l7mp_listen *params, struct packet_sock **out,
                    struct l7mp_error *err)
{
	struct packet_sock *s;
	int rc;

	DL_FOREACH (st->socks, s) {
		if (strcmp(s->params.interface, pp->interface) || s->heir ||
		    s->params.ethertype != pp->ethertype || s->params.mode != pp->mode ||
		    s->params.promiscuous != pp->promiscuous ||
		    (s->listener && !is_retiring(params, s->listener)))
			continue;
		l7mp_hub_ref(&s->hub);
		*out = s;
		return 0;
	}
	rc = packet_sock_new(params->env, pp, &st->last_id, out, err);
	if (rc) {
		if (err)
			snprintf(err->path, sizeof(err->path), "interface");
		return rc;
	}
	(*out)->list = &st->socks;
	DL_APPEND(st->socks, *out);
	return 0;
}

static int packet_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                         struct l7mp_error *err)
{
	struct packet_state *st = l7mp_proto_state(params->env, &l7mp_proto_packet, err);
	struct pkt_params pp = {.mode = PKT_SINGLETON};
	struct packet_listener *l;
	int rc;

	if (!st)
		return -ENOMEM;
	rc = read_listener(params->spec, &pp, err);
	if (rc)
		return rc;
	l = calloc(1, sizeof(*l));
	if (l)
		l->name = strdup(params->name ? params->name : "");
	if (!l || !l->name) {
		free(l);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	l->base = (struct l7mp_proto_listener){
	        .proto = &l7mp_proto_packet, .events = params->events, .arg = params->arg};
	l->env = params->env;
	l7mp_timer_init(&l->timer, on_start, l);
	rc = sock_get(st, &pp, params, &l->sock, err);
	if (rc) {
		free(l->name);
		free(l);
		return rc;
	}
	l->sock->heir = l;
	*out = &l->base;
	return 0;
}

static void packet_activate(struct l7mp_proto_listener *base)
{
	struct packet_listener *l = (struct packet_listener *)base;

	l->active = true;
	l->sock->listener = l;
	l->sock->heir = NULL;
	l7mp_dgram_read(l->sock->hub.dgram, true);
	if (l->sock->down)
		l7mp_log_warn("packet", "%s: interface %s is down; it is waited for", l->name,
		              l->sock->params.interface);
	/* Not from inside activate: the change that brings this listener is not done yet. */
	start_later(l, 0);
}

static void packet_unlisten(struct l7mp_proto_listener *base)
{
	struct packet_listener *l = (struct packet_listener *)base;

	l7mp_timer_stop(l->env->loop, &l->timer);
	if (l->sock->heir == l)
		l->sock->heir = NULL;
	if (l->sock->listener == l)
		l->sock->listener = NULL;
	l7mp_hub_unref(&l->sock->hub);
	free(l->name);
	free(l);
}

/* ---- connecting ---- */

static bool read_mac(const cJSON *rewrite, const char *key, uint8_t out[6])
{
	const char *text = l7mp_json_str(rewrite, key, NULL);

	return text && sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &out[0], &out[1],
	                      &out[2], &out[3], &out[4], &out[5]) == 6;
}

static int packet_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                          struct l7mp_error *err)
{
	struct packet_state *st = l7mp_proto_state(p->env, &l7mp_proto_packet, err);
	const cJSON *rewrite = l7mp_json_member(p->cluster_spec, "rewrite");
	struct pkt_params pp = {.mode = PKT_SINGLETON};
	struct packet_sock *s;
	struct l7mp_hub_peer *peer;
	int rc;

	if (!st)
		return -ENOMEM;
	snprintf(pp.interface, sizeof(pp.interface), "%s", p->address ? p->address : "");
	pp.promiscuous = l7mp_json_bool(p->cluster_spec, "promiscuous", false);
	pp.rewrite_src = read_mac(rewrite, "src_mac", pp.src_mac);
	pp.rewrite_dst = read_mac(rewrite, "dst_mac", pp.dst_mac);
	rc = read_ethertype(p->cluster_spec, &pp.ethertype, err);
	if (!rc)
		rc = packet_sock_new(p->env, &pp, &st->last_id, &s, err);
	if (rc) {
		if (err)
			err->code = L7MP_ERR_UPSTREAM;
		return rc;
	}
	if (s->down) {
		l7mp_hub_unref(&s->hub);
		return l7mp_error_set(err, -ENETDOWN, L7MP_ERR_UPSTREAM,
		                      "AF_PACKET %s: the interface is down", pp.interface);
	}
	peer = packet_sock_only(s);
	if (peer) {
		l7mp_task_post(p->env->loop, &s->opened);
		*out = &peer->base;
	} else {
		rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	l7mp_hub_unref(&s->hub); /* the peer holds it */
	return rc;
}

static int packet_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct packet_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void packet_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

static const char *const aliases[] = {"Packet", NULL};

const struct l7mp_proto l7mp_proto_packet = {
        .desc =
                {
                        .name = "AF_PACKET",
                        .aliases = aliases,
                        .doc = "Whole Ethernet frames, as they are on the wire; shorter than 14 "
                               "bytes or larger than the interface's MTU they are dropped",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &packet_listener_spec,
                        .cluster_spec = &packet_cluster_spec,
                        .endpoint_spec = &packet_endpoint_spec,
                        .idle_timeout = 60,
                },
        .start = packet_start,
        .stop = packet_stop,
        .listen = packet_listen,
        .activate = packet_activate,
        .unlisten = packet_unlisten,
        .connect = packet_connect,
};
