/* SPDX-License-Identifier: MIT */
/* The views: GET /offload, GET /offload/flows, metrics. */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static const char *state_name(enum off_state state)
{
	static const char *const names[] = {"disabled", "active", "unavailable", "starting",
	                                    "stopping"};

	return names[state];
}

/* ---- interfaces ---- */

static cJSON *link_json(const struct l7mp_offload_engine *e, const struct off_link *l)
{
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "name", l->name);

	rc |= l7mp_json_add_num(o, "ifindex", l->ifindex);
	rc |= l7mp_json_add_str(o, "hook", off_hook_name(l->hook));
	rc |= l7mp_json_add_str(o, "reason", l->why);
	rc |= l7mp_json_add_str(o, "kind", l->kind[0] ? l->kind : "device");
	rc |= l7mp_json_add_str(o, "driver", l->driver);
	rc |= l7mp_json_add_bool(o, "up", l->flags & IFF_UP);
	rc |= l7mp_json_add_num(o, "mtu", l->mtu);
	rc |= l7mp_json_add_bool(o, "dispatcher", l->xdp != NULL);
	rc |= l7mp_json_add_bool(o, "tc_behind", l->tc && l->hook != OFF_HOOK_TC);
	rc |= l7mp_json_add_bool(o, "made_clsact", l->made_clsact);
	rc |= l7mp_json_add_bool(o, "xdp_target", l->in_devmap);
	rc |= l7mp_json_add_bool(o, "leaving", l->leaving || e->state == OFF_STOPPING);
	if (l->type == OFF_ARP_LOOPBACK) {
		cJSON *s = cJSON_CreateObject();

		for (int i = 0; i < OFF_SYSCTLS; i++)
			rc |= e->hooks.sysctls.old[i] < 0
			              ? l7mp_json_add(s, off_sysctl_names[i], cJSON_CreateNull())
			              : l7mp_json_add_num(s, off_sysctl_names[i],
			                                  e->hooks.sysctls.old[i]);
		rc |= l7mp_json_add_bool(s, "ready", e->hooks.sysctls.ready);
		rc |= l7mp_json_add(o, "sysctls_before", s);
	}
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static cJSON *links_json(const struct l7mp_offload_engine *e)
{
	cJSON *array = cJSON_CreateArray();
	const struct off_link *l, *next;
	int rc = array ? 0 : -1;

	HASH_ITER (hh, e->path.links, l, next)
		if (l->hook != OFF_HOOK_NONE || off_attach_wanted(&e->set, l))
			rc |= l7mp_json_append(array, link_json(e, l));
	if (!rc)
		return array;
	cJSON_Delete(array);
	return NULL;
}

/* ---- maps and verdicts ---- */

static cJSON *map_json(const struct l7mp_offload_engine *e, const char *name, uint64_t entries,
                       uint64_t capacity)
{
	cJSON *o = cJSON_CreateObject();
	char path[320];
	int rc;

	snprintf(path, sizeof(path), "%s/%s", e->pins.dir, name);
	rc = l7mp_json_add_str(o, "name", name);
	rc |= l7mp_json_add_str(o, "path", path);
	rc |= l7mp_json_add_num(o, "entries", (double)entries);
	rc |= l7mp_json_add_num(o, "capacity", (double)capacity);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static unsigned served(const struct l7mp_offload_engine *e)
{
	const struct off_link *l, *next;
	unsigned n = 0;

	HASH_ITER (hh, e->path.links, l, next)
		n += l->hook != OFF_HOOK_NONE;
	return n;
}

static cJSON *maps_json(const struct l7mp_offload_engine *e)
{
	cJSON *array = cJSON_CreateArray();
	const struct {
		const char *name;
		uint64_t entries, capacity;
	} maps[] = {
	        {L7MP_MAP_FLOWS4, e->table.slots.n_of[OFF_V4], e->table.maps.max_flows},
	        {L7MP_MAP_FLOWS6, e->table.slots.n_of[OFF_V6], e->table.maps.max_flows},
	        {L7MP_MAP_FRAMES, e->table.slots.n_of[OFF_FRAME], e->table.maps.max_flows},
	        {L7MP_MAP_FRAME_IFS, L7MP_IFS_MAX, L7MP_IFS_MAX},
	        {L7MP_MAP_COUNTERS, e->table.slots.n_used, e->table.maps.n_slots},
	        {L7MP_MAP_VERDICTS, L7MP_VERDICT_COUNT, L7MP_VERDICT_COUNT},
	        {L7MP_MAP_DEVICES, e->hooks.n_devices, L7MP_IFS_MAX},
	        {L7MP_MAP_HANDOVER, L7MP_HANDOVER_SLOTS - e->table.handover.n_free,
	         L7MP_HANDOVER_SLOTS},
	        {L7MP_MAP_TCP_PAIRS, e->tcp ? L7MP_TCP_PAIRS - e->tcp->n_free : 0, L7MP_TCP_PAIRS},
	        {L7MP_MAP_SESSIONS, e->table.n_records, e->table.maps.max_flows},
	        {L7MP_MAP_ATTACHED, served(e), L7MP_IFS_MAX},
	        {L7MP_MAP_ABI, 1, 1},
	};
	int rc = 0;

	if (!off_has_maps(e))
		return array;
	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++)
		rc |= l7mp_json_append(
		        array, map_json(e, maps[i].name, maps[i].entries, maps[i].capacity));
	if (!rc)
		return array;
	cJSON_Delete(array);
	return NULL;
}

#define NAME(id, text, doc) text,
static const char *const verdict_names[] = {L7MP_VERDICTS(NAME)};
#undef NAME

static bool read_verdicts(const struct l7mp_offload_engine *e, uint64_t out[L7MP_VERDICT_COUNT])
{
	uint64_t *per_cpu;

	memset(out, 0, L7MP_VERDICT_COUNT * sizeof(*out));
	if (!off_has_maps(e))
		return true;
	per_cpu = calloc((size_t)e->table.n_cpus, sizeof(*per_cpu));
	if (!per_cpu)
		return false;
	for (uint32_t i = 0; i < L7MP_VERDICT_COUNT; i++) {
		if (bpf_map_lookup_elem(e->table.maps.verdicts, &i, per_cpu))
			continue;
		for (int cpu = 0; cpu < e->table.n_cpus; cpu++)
			out[i] += per_cpu[cpu];
	}
	free(per_cpu);
	return true;
}

static cJSON *verdicts_json(const struct l7mp_offload_engine *e)
{
	uint64_t n[L7MP_VERDICT_COUNT];
	cJSON *o = cJSON_CreateObject();
	int rc = read_verdicts(e, n) ? 0 : -1;

	for (int i = 0; i < L7MP_VERDICT_COUNT; i++)
		rc |= l7mp_json_add_num(o, verdict_names[i], (double)n[i]);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static cJSON *flow_stats_json(const struct l7mp_offload_engine *e)
{
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_num(o, "now", (double)e->table.n_flows);

	rc |= l7mp_json_add_num(o, "added", (double)e->n_added);
	rc |= l7mp_json_add_num(o, "removed", (double)e->n_removed);
	rc |= l7mp_json_add_num(o, "withdrawn", (double)e->n_withdrawn);
	rc |= l7mp_json_add_num(o, "beginning", e->table.handover.n_flows);
	rc |= l7mp_json_add_num(o, "handover_forced", (double)e->table.handover.forced);
	rc |= l7mp_json_add_num(o, "handover_late", (double)e->stats->handover_late);
	rc |= l7mp_json_add_num(o, "next_hops", HASH_COUNT(e->path.nexthops));
	rc |= l7mp_json_add_num(o, "neighbours", HASH_COUNT(e->path.neighs));
	rc |= l7mp_json_add_num(o, "counter_poll_entries",
	                        (double)e->table.counter_poll.last_entries);
	rc |= l7mp_json_add_num(o, "counter_poll_us",
	                        (double)e->table.counter_poll.last_spent_ns / 1e3);
	rc |= l7mp_json_add_num(o, "counter_poll_worker_us",
	                        (double)e->table.counter_poll.last_read_ns / 1e3);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static const char *start_name(enum l7mp_offload_start start)
{
	static const char *const names[] = {"init", "no_init", "disable"};

	return names[start];
}

static const char *mode_name(enum l7mp_offload_mode mode)
{
	static const char *const names[] = {"auto", "native", "generic", "tc"};

	return names[mode];
}

cJSON *l7mp_offload_to_json(struct l7mp_offload_engine *e)
{
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "state", state_name(e->state));

	rc |= l7mp_json_add_str(o, "reason", e->why);
	rc |= l7mp_json_add_num(o, "abi", L7MP_ABI_VERSION);
	rc |= l7mp_json_add_str(o, "instance", e->set.instance ? e->set.instance : "");
	rc |= l7mp_json_add_str(o, "offload", start_name(e->set.start));
	rc |= l7mp_json_add_str(o, "mode", mode_name(e->set.mode));
	rc |= l7mp_json_add(o, "interfaces", links_json(e));
	rc |= l7mp_json_add(o, "maps", maps_json(e));
	rc |= l7mp_json_add(o, "flows", flow_stats_json(e));
	rc |= l7mp_json_add(o, "verdicts", verdicts_json(e));
	rc |= l7mp_json_add(o, "adopted", off_adopt_json(e));
	rc |= l7mp_json_add(o, "draining", off_drains_json(e));
	rc |= l7mp_json_add(o, "drained", off_drained_json(e));
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

/* ---- flows ---- */

static const char *ip_text(uint8_t family, const uint8_t *addr, char *buf, socklen_t size)
{
	return inet_ntop(family == L7MP_FAMILY_V4 ? AF_INET : AF_INET6, addr, buf, size);
}

static void end_text(uint8_t family, const uint8_t *a, uint16_t port, char *buf, size_t size)
{
	char ip[INET6_ADDRSTRLEN] = "";

	ip_text(family, a, ip, sizeof(ip));
	snprintf(buf, size, family == L7MP_FAMILY_V4 ? "%s:%u" : "[%s]:%u", ip, port);
}

static int add_pair(cJSON *o, const char *key, uint8_t family, const uint8_t *src, uint16_t sport,
                    const uint8_t *dst, uint16_t dport)
{
	char from[64], to[64], text[140];

	end_text(family, src, sport, from, sizeof(from));
	end_text(family, dst, dport, to, sizeof(to));
	snprintf(text, sizeof(text), "%s -> %s", from, to);
	return l7mp_json_add_str(o, key, text);
}

static cJSON *tuple_json(uint8_t family, const uint8_t *src, uint16_t sport, const uint8_t *dst,
                         uint16_t dport)
{
	cJSON *o = cJSON_CreateObject();
	char ip[INET6_ADDRSTRLEN] = "";
	int rc = l7mp_json_add_str(o, "saddr", ip_text(family, src, ip, sizeof(ip)));

	rc |= l7mp_json_add_num(o, "sport", sport);
	rc |= l7mp_json_add_str(o, "daddr", ip_text(family, dst, ip, sizeof(ip)));
	rc |= l7mp_json_add_num(o, "dport", dport);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static int add_mac(cJSON *o, const char *key, const uint8_t mac[6])
{
	char text[18];

	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
	         mac[3], mac[4], mac[5]);
	return l7mp_json_add_str(o, key, text);
}

static int add_last_seen(cJSON *o, const struct l7mp_offload_engine *e,
                         const struct l7mp_flow_counters *c)
{
	uint64_t now = l7mp_loop_now(e->loop);
	char time[L7MP_ISO8601_LEN];

	if (!c->last_seen_ms || c->last_seen_ms > now)
		return l7mp_json_add(o, "last_seen", cJSON_CreateNull());
	return l7mp_json_add_str(o, "last_seen",
	                         l7mp_iso8601(l7mp_wallclock_ms() - (now - c->last_seen_ms), time));
}

static int add_egress(cJSON *o, const struct l7mp_offload_engine *e, const struct off_direction *s)
{
	static const char *const verbs[] = {"none",  "forward", "reflect",
	                                    "count", "splice",  "frame"};
	const struct l7mp_flow_action *a = &s->action;
	const struct off_link *out = off_link_find(&e->path, a->ifindex);
	cJSON *detail = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "action", a->verb < 6 ? verbs[a->verb] : verbs[0]);

	rc |= l7mp_json_add_str(o, "out", out ? out->name : "");
	rc |= l7mp_json_add_num(detail, "ifindex", a->ifindex);
	rc |= l7mp_json_add_num(detail, "mtu", a->mtu);
	rc |= add_mac(detail, "dmac", a->dmac);
	rc |= add_mac(detail, "smac", a->smac);
	rc |= l7mp_json_add_num(detail, "vlans", a->n_vlans);
	rc |= l7mp_json_add_bool(detail, "to_ingress", a->flags & L7MP_FLOW_TO_INGRESS);
	rc |= l7mp_json_add_bool(detail, "neigh", a->flags & L7MP_FLOW_NEIGH);
	rc |= l7mp_json_add_bool(detail, "tc_only", a->flags & L7MP_FLOW_TC_ONLY);
	if (a->verb == L7MP_VERB_FRAME)
		rc |= l7mp_json_add_bool(detail, "copy", a->flags & L7MP_FLOW_COPY);
	return rc | l7mp_json_add(o, "egress", detail);
}

/* How the segments of one direction are translated; numbers wrap at 2^32. */
static cJSON *tcp_json(const struct off_tcp_pair *p, int dir)
{
	const volatile struct l7mp_tcp_direction *d = &p->map->dir[dir];
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "phase", off_tcp_stage_name((enum off_tcp_stage)p->stage));

	rc |= l7mp_json_add_num(o, "pair", p->index);
	rc |= l7mp_json_add_num(o, "pair_id", p->id);
	rc |= l7mp_json_add_num(o, "seq_delta", d->seq_delta);
	rc |= l7mp_json_add_num(o, "ack_delta", d->ack_delta);
	rc |= l7mp_json_add_num(o, "timestamp_delta", (uint32_t)d->ts);
	rc |= l7mp_json_add_num(o, "window_shift_in", d->win_in);
	rc |= l7mp_json_add_num(o, "window_shift_out", d->win_out);
	rc |= l7mp_json_add_num(o, "seq_max", d->seq_max);
	rc |= l7mp_json_add_num(o, "ack_max", d->ack_max);
	rc |= l7mp_json_add_num(o, "window", d->win);
	rc |= l7mp_json_add_bool(o, "fin", d->seen & L7MP_TCP_FIN);
	rc |= l7mp_json_add_bool(o, "fin_acked", d->seen & L7MP_TCP_FIN_ACKED);
	rc |= l7mp_json_add_num(o, "doubts", d->doubts);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

/* ---- AF_PACKET flows ---- */

static void put_mac(struct l7mp_str *out, const uint8_t mac[6])
{
	l7mp_str_addf(out, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
	              mac[5]);
}

static void put_ip_pair(struct l7mp_str *out, const struct l7mp_frame_key *k)
{
	char from[64], to[64];

	if (k->sport || k->dport) {
		end_text(k->family, k->saddr.bytes, ntohs(k->sport), from, sizeof(from));
		end_text(k->family, k->daddr.bytes, ntohs(k->dport), to, sizeof(to));
		l7mp_str_addf(out, "%s %s -> %s", k->l4 == IPPROTO_TCP ? "TCP" : "UDP", from, to);
		return;
	}
	ip_text(k->family, k->saddr.bytes, from, sizeof(from));
	ip_text(k->family, k->daddr.bytes, to, sizeof(to));
	l7mp_str_addf(out, "IP protocol %u %s -> %s", k->l4, from, to);
}

static int add_frames_match(cJSON *o, const struct l7mp_frame_key *k)
{
	struct l7mp_str text = {0};
	int rc;

	if (k->family == L7MP_FAMILY_ANY) {
		l7mp_str_addf(&text, k->type ? "all frames of 0x%04x" : "all frames", k->type);
	} else if (k->family == L7MP_FAMILY_MAC) {
		put_mac(&text, k->saddr.bytes);
		l7mp_str_addf(&text, " -> ");
		put_mac(&text, k->daddr.bytes);
		l7mp_str_addf(&text, " 0x%04x", k->type);
	} else {
		put_ip_pair(&text, k);
	}
	for (int i = 0; i < 2 && k->family != L7MP_FAMILY_ANY; i++)
		if (k->vlan[i] != L7MP_NO_VLAN)
			l7mp_str_addf(&text, i ? ".%u" : " VLAN %u", k->vlan[i]);
	rc = l7mp_json_add_str(o, "match", text.s);
	l7mp_str_free(&text);
	return rc;
}

static int add_frames_rewrite(cJSON *o, const struct l7mp_frame_action *a)
{
	struct l7mp_str text = {0};
	int rc;

	if (a->flags & L7MP_FLOW_SET_SMAC) {
		l7mp_str_addf(&text, "from ");
		put_mac(&text, a->smac);
	}
	if (a->flags & L7MP_FLOW_SET_DMAC) {
		l7mp_str_addf(&text, "%sto ", text.len ? " " : "");
		put_mac(&text, a->dmac);
	}
	rc = l7mp_json_add_str(o, "rewrite", text.s ? text.s : "");
	l7mp_str_free(&text);
	return rc;
}

static cJSON *frames_key_json(const struct l7mp_frame_key *k)
{
	static const char *const families[] = {[L7MP_FAMILY_MAC] = "MAC",
	                                       [L7MP_FAMILY_ANY] = "any",
	                                       [L7MP_FAMILY_V4] = "IPv4",
	                                       [L7MP_FAMILY_V6] = "IPv6"};
	cJSON *o = cJSON_CreateObject(), *vlans = cJSON_CreateArray();
	char ip[INET6_ADDRSTRLEN] = "";
	int rc = l7mp_json_add_str(o, "family", families[k->family]);

	rc |= l7mp_json_add_num(o, "type", k->type);
	for (int i = 0; i < 2 && k->family != L7MP_FAMILY_ANY; i++)
		if (k->vlan[i] != L7MP_NO_VLAN)
			rc |= l7mp_json_append(vlans, cJSON_CreateNumber(k->vlan[i]));
	rc |= l7mp_json_add(o, "vlans", vlans);
	if (k->family == L7MP_FAMILY_MAC) {
		rc |= add_mac(o, "src", k->saddr.bytes);
		rc |= add_mac(o, "dst", k->daddr.bytes);
	} else if (k->family != L7MP_FAMILY_ANY) {
		rc |= l7mp_json_add_str(o, "saddr",
		                        ip_text(k->family, k->saddr.bytes, ip, sizeof(ip)));
		rc |= l7mp_json_add_num(o, "sport", ntohs(k->sport));
		rc |= l7mp_json_add_str(o, "daddr",
		                        ip_text(k->family, k->daddr.bytes, ip, sizeof(ip)));
		rc |= l7mp_json_add_num(o, "dport", ntohs(k->dport));
		rc |= l7mp_json_add_num(o, "protocol", k->l4);
	}
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

/* The same members as for other flows, with the values of frames. */
static cJSON *frames_json(struct l7mp_offload_engine *e, struct off_direction *s)
{
	const char *hook = "", *in = "";
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "protocol", "AF_PACKET");

	off_ops.where(e, s->flow, s == &s->flow->dir[0] ? L7MP_INGRESS : L7MP_EGRESS, &hook, &in);
	rc |= add_frames_match(o, &s->frame);
	rc |= add_frames_rewrite(o, &s->frames);
	rc |= l7mp_json_add_str(o, "hook", hook);
	rc |= l7mp_json_add_str(o, "in", in);
	rc |= add_egress(o, e, s);
	rc |= l7mp_json_add_num(o, "packets", (double)s->now.packets);
	rc |= l7mp_json_add_num(o, "bytes", (double)s->now.bytes);
	rc |= add_last_seen(o, e, &s->now);
	rc |= l7mp_json_add(o, "key", frames_key_json(&s->frame));
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static cJSON *direction_json(struct l7mp_offload_engine *e, struct off_direction *s)
{
	const struct l7mp_flow_key *k = &s->key;
	const struct l7mp_flow_action *a = &s->action;
	const uint8_t *saddr = a->saddr, *daddr = a->daddr;
	const char *hook = "", *in = "";
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "protocol", k->l4 == IPPROTO_TCP ? "TCP" : "UDP");

	if (k->family == L7MP_FAMILY_V6) {
		saddr = s->action6.saddr.bytes;
		daddr = s->action6.daddr.bytes;
	}
	off_ops.where(e, s->flow, s == &s->flow->dir[0] ? L7MP_INGRESS : L7MP_EGRESS, &hook, &in);
	rc |= add_pair(o, "match", k->family, k->saddr.bytes, ntohs(k->sport), k->daddr.bytes,
	               ntohs(k->dport));
	if (a->verb == L7MP_VERB_COUNT)
		rc |= l7mp_json_add_str(o, "rewrite", "");
	else
		rc |= add_pair(o, "rewrite", k->family, saddr, a->sport_host, daddr, a->dport_host);
	rc |= l7mp_json_add_str(o, "hook", hook);
	rc |= l7mp_json_add_str(o, "in", in);
	rc |= add_egress(o, e, s);
	rc |= l7mp_json_add_num(o, "packets", (double)s->now.packets);
	rc |= l7mp_json_add_num(
	        o, "bytes",
	        (double)(s->flow->tcp ? off_tcp_bytes(s->flow->tcp, a->dir) : s->now.bytes));
	rc |= add_last_seen(o, e, &s->now);
	if (s->flow->tcp)
		rc |= l7mp_json_add(o, "tcp", tcp_json(s->flow->tcp, a->dir));
	rc |= l7mp_json_add(o, "key",
	                    tuple_json(k->family, k->saddr.bytes, ntohs(k->sport), k->daddr.bytes,
	                               ntohs(k->dport)));
	rc |= l7mp_json_add(o, "to",
	                    tuple_json(k->family, saddr, a->sport_host, daddr, a->dport_host));
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

cJSON *l7mp_offload_flow_to_json(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	cJSON *array = cJSON_CreateArray();
	int rc = array ? 0 : -1;

	for (int i = 0; i < flow->n_dirs && !flow->out; i++) {
		off_counter_read(&e->table, &flow->dir[i]);
		rc |= l7mp_json_append(array, flow->verb == L7MP_VERB_FRAME
		                                      ? frames_json(e, &flow->dir[i])
		                                      : direction_json(e, &flow->dir[i]));
	}
	if (!rc)
		return array;
	cJSON_Delete(array);
	return NULL;
}

/* ---- metrics ---- */

static void metric(struct l7mp_str *out, const char *name, const char *type, const char *help,
                   uint64_t value)
{
	l7mp_str_addf(out, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", name, help, name, type,
	              name, value);
}

void l7mp_offload_metrics(struct l7mp_offload_engine *e, struct l7mp_str *out)
{
	uint64_t n[L7MP_VERDICT_COUNT];

	metric(out, "l7mp_offload_active", "gauge", "1 when the kernel fast path serves interfaces",
	       e->state == OFF_ACTIVE);
	metric(out, "l7mp_flows", "gauge", "Entries of the kernel's flow table in use",
	       e->table.index.n);
	metric(out, "l7mp_flows_max", "gauge", "Capacity of the kernel's flow table",
	       off_has_maps(e) ? e->table.maps.max_flows : 0);
	metric(out, "l7mp_flows_added_total", "counter", "Sessions put into the kernel",
	       e->n_added);
	metric(out, "l7mp_flows_removed_total", "counter", "Sessions taken out by their end",
	       e->n_removed);
	metric(out, "l7mp_flows_withdrawn_total", "counter",
	       "Sessions taken out because a route, neighbour or link changed", e->n_withdrawn);
	metric(out, "l7mp_offload_handover_forced_total", "counter",
	       "Flows that began though their stream did not pause", e->table.handover.forced);
	metric(out, "l7mp_offload_handover_late_total", "counter",
	       "Datagrams that came up right after their flow had begun: packets of the flow may "
	       "have overtaken them",
	       e->stats->handover_late);
	l7mp_str_add(out, "# HELP l7mp_offload_verdicts_total Packets seen by the XDP and tc "
	                  "programs, by verdict\n# TYPE l7mp_offload_verdicts_total counter\n");
	if (!read_verdicts(e, n))
		return;
	for (int i = 0; i < L7MP_VERDICT_COUNT; i++)
		l7mp_str_addf(out, "l7mp_offload_verdicts_total{verdict=\"%s\"} %" PRIu64 "\n",
		              verdict_names[i], n[i]);
}
