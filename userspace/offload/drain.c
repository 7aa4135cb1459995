/* SPDX-License-Identifier: MIT */
/*
 * Draining what a process with another version of the ABI has left in the kernel. Its entries can't
 * be read, so its flows can't be adopted; but its programs go on without us. So its pins are set
 * aside, into a directory in the instance's own, and its programs stay attached in front of ours
 * until no packet has been forwarded for a while, or the deadline. Only what all versions share is
 * used of its maps: see abi.h.
 *
 *   off_drains_open      with the lock: finds the directories that are there already
 *   off_drains_arrange   before anything is attached: sets pins aside, or puts them back
 *   off_drains_go        when the program's start has succeeded: before, nothing is removed
 *
 * When the pins were set aside is the directory's time of modification, so a restart does not
 * prolong it. A process that ends takes them away, as nobody would look after them; one that is
 * killed leaves them to the next one.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"
#include "l7mp/fault.h"
#include "l7mp/log.h"

#define TICK_MS 1000

/* Ports of TCP that are held; there are hardly ever as many. */
#define HELD_MAX 4096

/* ---- the list ---- */

static void add(struct l7mp_offload_engine *e, const char *dir)
{
	struct off_drain *d = calloc(1, sizeof(*d)), **end = &e->hooks.drains;
	struct stat st;

	if (!d)
		return; /* the next start finds it */
	snprintf(d->dir, sizeof(d->dir), "%s", dir);
	off_maps_open_old(&d->maps, dir);
	d->abi = off_maps_version(&d->maps);
	d->flows = off_maps_n_flows(&d->maps);
	d->forwarded = off_maps_forwarded(&d->maps);
	d->began_ms = stat(dir, &st) ? l7mp_wallclock_ms()
	                             : (uint64_t)st.st_mtim.tv_sec * 1000 +
	                                       (uint64_t)st.st_mtim.tv_nsec / 1000000;
	while (*end)
		end = &(*end)->next;
	*end = d;
}

static void drop(struct l7mp_offload_engine *e, struct off_drain *d)
{
	struct off_drain **at = &e->hooks.drains;

	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	off_maps_close(&d->maps);
	free(d);
}

void off_drains_open(struct l7mp_offload_engine *e)
{
	const struct dirent *de;
	char dir[288];
	DIR *all;

	off_drains_close(e);
	all = opendir(e->pins.dir);
	while (all && (de = readdir(all)))
		if (off_pins_are_draining(de->d_name) &&
		    snprintf(dir, sizeof(dir), "%s/%s", e->pins.dir, de->d_name) < (int)sizeof(dir))
			add(e, dir);
	if (all)
		closedir(all);
}

/* ---- setting aside, and back ---- */

static struct off_drain *find(const struct l7mp_offload_engine *e, uint32_t abi)
{
	struct off_drain *d = e->hooks.drains;

	while (d && d->abi != abi)
		d = d->next;
	return d;
}

static void note_end(struct l7mp_offload_engine *e, const struct off_drain *d, const char *why)
{
	struct off_drained *x = &e->drains.ended[e->drains.n_ended++ % OFF_DRAINED_SHOWN];

	*x = (struct off_drained){.abi = d->abi,
	                          .flows = d->flows,
	                          .forwarded = d->forwarded,
	                          .began_ms = d->began_ms,
	                          .ended_ms = l7mp_wallclock_ms()};
	snprintf(x->why, sizeof(x->why), "%s", why);
}

/* What is pinned in the instance's directory itself is about to be removed, with its flows. */
static void cut(struct l7mp_offload_engine *e, const struct off_drain *old, const char *why)
{
	l7mp_log_warn(OFF_MODULE, "%llu flow entries of ABI %u are removed: %s",
	              (unsigned long long)old->flows, old->abi, why);
	note_end(e, old, why);
}

/*
 * A move that was interrupted is taken up again: its directory has no map `abi` yet, which is moved
 * as the last one.
 */
static void set_aside(struct l7mp_offload_engine *e, const struct off_drain *old)
{
	struct off_drain *begun = find(e, 0);
	char dir[288], why[200];
	int rc;

	rc = begun ? 0 : off_pins_add_dir(e->pins.dir, dir, sizeof(dir));
	if (begun) {
		snprintf(dir, sizeof(dir), "%s", begun->dir);
		drop(e, begun);
	}
	L7MP_FAULT("drain-dir");
	if (!rc)
		rc = off_pins_move(e->pins.dir, dir);
	L7MP_FAULT("drain-moved");
	if (!rc) {
		add(e, dir);
		return;
	}
	snprintf(why, sizeof(why), "their pins can't be moved to a directory of their own: %s",
	         strerror(-rc));
	cut(e, old, why);
}

/* From the directory that has it to the instance's own. */
static void put_back(struct l7mp_offload_engine *e, struct off_drain *d)
{
	int rc = off_pins_move(d->dir, e->pins.dir);

	if (rc) {
		l7mp_log_warn(OFF_MODULE, "can't move the pins of %s: %s", d->dir, strerror(-rc));
		return;
	}
	if (d->abi)
		l7mp_log_notice(OFF_MODULE,
		                "flows of ABI %u that a process of another version had been "
		                "draining are there to be taken over",
		                d->abi);
	(void)rmdir(d->dir);
	drop(e, d);
}

static void count(void *arg, const void *key, uint32_t size)
{
	(void)key;
	(void)size;
	++*(uint64_t *)arg;
}

void off_drains_arrange(struct l7mp_offload_engine *e, bool back)
{
	struct off_drain old = {.began_ms = l7mp_wallclock_ms()}, *d;
	uint64_t frames = 0;

	off_maps_open_old(&old.maps, e->pins.dir);
	old.abi = off_maps_version(&old.maps);
	old.flows = off_maps_n_flows(&old.maps);
	old.forwarded = off_maps_forwarded(&old.maps);
	off_maps_each_key(old.maps.frames, count, &frames);
	off_maps_close(&old.maps);
	if (old.abi && old.abi != L7MP_ABI_VERSION) {
		if (find(e, 0) || (old.flows && e->set.drain.deadline))
			set_aside(e, &old);
		else if (old.flows)
			cut(e, &old, "admin.offload_drain.deadline is 0");
		else if (frames)
			cut(e, &old, "there are only flows of AF_PACKET, which can't be drained");
		old.abi = 0;
	}
	/* Complete pins of our own version, or the rest of those that are in our directory. */
	d = find(e, old.abi ? 0 : L7MP_ABI_VERSION);
	if (back && d)
		put_back(e, d);
}

/* ---- local ports ---- */

struct hold {
	struct off_drains *drains;
	int max;
};

/*
 * The program takes what comes in for a connection, also when its port is another's by now. A
 * socket that is bound, with SO_REUSEADDR and without listening, keeps connect(2) from choosing the
 * port, but not a listener from taking it. For UDP see l7mp_offload_is_drained.
 */
static void hold_port(void *arg, const void *key, uint32_t size)
{
	const struct l7mp_flow4_key *k4 = key;
	const struct l7mp_flow_key *k6 = key;
	bool v6 = size == sizeof(*k6);
	struct hold *h = arg;
	struct l7mp_flow_key k = {.family = v6 ? L7MP_FAMILY_V6 : L7MP_FAMILY_V4};
	struct l7mp_addr local;
	const int on = 1;
	int fd;

	if ((!v6 && size != sizeof(*k4)) || (v6 ? k6->l4 : k4->l4) != IPPROTO_TCP ||
	    h->drains->n_held == h->max)
		return;
	off_key_to_addr(&k, v6 ? k6->daddr.bytes : k4->daddr, v6 ? k6->dport : k4->dport, &local);
	fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    bind(fd, &local.sa, local.len))
		close(fd); /* a listener has it already */
	else
		h->drains->held[h->drains->n_held++] = fd;
}

static void hold_ports(struct l7mp_offload_engine *e, const struct off_drain *d)
{
	struct hold h = {.drains = &e->drains, .max = HELD_MAX};

	if (!e->drains.held)
		e->drains.held = calloc(HELD_MAX, sizeof(*e->drains.held));
	if (!e->drains.held)
		return;
	off_maps_each_key(d->maps.flows4, hold_port, &h);
	off_maps_each_key(d->maps.flows6, hold_port, &h);
}

static void give_ports_back(struct l7mp_offload_engine *e)
{
	for (int i = 0; i < e->drains.n_held; i++)
		close(e->drains.held[i]);
	free(e->drains.held);
	e->drains.held = NULL;
	e->drains.n_held = 0;
}

bool l7mp_offload_is_drained(struct l7mp_offload_engine *e, uint8_t l4,
                             const struct l7mp_addr *local, const struct l7mp_addr *remote)
{
	struct l7mp_flow_key k;
	struct l7mp_flow4_key k4 = {.l4 = l4};

	if (!e->hooks.drains)
		return false;
	off_key_set(&k, l4, remote, local);
	memcpy(k4.saddr, k.saddr.bytes, sizeof(k4.saddr));
	memcpy(k4.daddr, k.daddr.bytes, sizeof(k4.daddr));
	k4.sport = k.sport;
	k4.dport = k.dport;
	for (const struct off_drain *d = e->hooks.drains; d; d = d->next)
		if (k.family == L7MP_FAMILY_V4 ? off_maps_has_key(d->maps.flows4, &k4, sizeof(k4))
		                               : off_maps_has_key(d->maps.flows6, &k, sizeof(k)))
			return true;
	return false;
}

/* ---- the end ---- */

static void end(struct l7mp_offload_engine *e, struct off_drain *d, const char *why)
{
	int64_t forwarded = off_maps_forwarded(&d->maps);
	char dir[sizeof(d->dir)];

	if (forwarded >= 0)
		d->forwarded = forwarded;
	l7mp_log_notice(OFF_MODULE,
	                "the programs and maps of ABI %u are removed, with %llu flow entries: %s",
	                d->abi, (unsigned long long)d->flows, why);
	note_end(e, d, why);
	snprintf(dir, sizeof(dir), "%s", d->dir);
	L7MP_FAULT("drain-end");
	off_attach_clean(&e->hooks, &d->maps);
	L7MP_FAULT("drain-detached");
	drop(e, d);
	off_pins_clear(dir);
	L7MP_FAULT("drain-unpinned");
	(void)rmdir(dir);
	if (!e->hooks.drains)
		give_ports_back(e);
}

void off_drains_end_all(struct l7mp_offload_engine *e, const char *why)
{
	while (e->hooks.drains)
		end(e, e->hooks.drains, why);
}

void off_drains_close(struct l7mp_offload_engine *e)
{
	l7mp_timer_give_back(e->loop, &e->drains.timer);
	give_ports_back(e);
	while (e->hooks.drains)
		drop(e, e->hooks.drains);
}

/* ---- in between ---- */

static void go(struct l7mp_offload_engine *e, struct off_drain *d)
{
	/*
	 * Packet sockets see the frames, and would relay them once more: a session of ours can't
	 * know which ones.
	 */
	uint64_t frames = off_maps_empty(d->maps.frames);

	d->going = true;
	hold_ports(e, d);
	l7mp_log_notice(OFF_MODULE,
	                "%llu flow entries of ABI %u can't be taken over: its programs forward "
	                "them on until there was no packet for %u s, at most for %u s",
	                (unsigned long long)d->flows, d->abi, e->set.drain.idle,
	                e->set.drain.deadline);
	if (frames)
		l7mp_log_warn(OFF_MODULE,
		              "%llu entries of ABI %u for AF_PACKET are removed: packet sockets "
		              "receive the same frames",
		              (unsigned long long)frames, d->abi);
	L7MP_FAULT("drain");
}

void off_drains_go(struct l7mp_offload_engine *e)
{
	struct off_drain *d, *next;

	e->drains.started = true;
	if (e->state != OFF_ACTIVE)
		return;
	for (d = e->hooks.drains; d; d = next) {
		next = d->next;
		if (!d->abi || !d->flows)
			end(e, d, "a process has not come to the end of removing them");
		else if (!d->going)
			go(e, d);
	}
	if (e->hooks.drains && l7mp_timer_reserve(e->loop, &e->drains.timer))
		off_drains_end_all(e, "out of memory");
	else if (e->hooks.drains)
		(void)l7mp_timer_start(e->loop, &e->drains.timer, TICK_MS);
}

static uint64_t age_ms(const struct off_drain *d)
{
	uint64_t now = l7mp_wallclock_ms();

	return now > d->began_ms ? now - d->began_ms : 0;
}

/* True: it was the end. */
static bool look(struct l7mp_offload_engine *e, struct off_drain *d)
{
	uint64_t now = l7mp_loop_now(e->loop);
	int64_t forwarded = off_maps_forwarded(&d->maps);
	char why[100];

	/* The loop's clock stands still while we start, and makes a leap in its first turn. */
	if (!d->active_ms || forwarded < 0 || forwarded != d->forwarded)
		d->active_ms = now;
	d->forwarded = forwarded;
	if (age_ms(d) >= e->set.drain.deadline * 1000ULL)
		snprintf(why, sizeof(why), "the deadline has passed (%u s)", e->set.drain.deadline);
	else if (now - d->active_ms >= e->set.drain.idle * 1000ULL)
		snprintf(why, sizeof(why), "they have ended: no packet for %u s",
		         e->set.drain.idle);
	else
		return false;
	end(e, d, why);
	return true;
}

void off_drains_tick(struct l7mp_timer *t, void *arg)
{
	struct l7mp_offload_engine *e = arg;
	struct off_drain *d, *next;
	bool ended = false;

	/* While another process is about to take over, nothing is removed. */
	for (d = e->rests ? NULL : e->hooks.drains; d; d = next) {
		next = d->next;
		ended |= look(e, d);
	}
	if (ended)
		off_attach_promote(&e->hooks);
	if (e->hooks.drains)
		(void)l7mp_timer_start(e->loop, t, TICK_MS); /* reserved */
}

/* ---- the view ---- */

static int add_time(cJSON *o, const char *key, uint64_t ms)
{
	char time[L7MP_ISO8601_LEN];

	return l7mp_json_add_str(o, key, l7mp_iso8601(ms, time));
}

static int add_packets(cJSON *o, int64_t n)
{
	return n < 0 ? l7mp_json_add(o, "packets", cJSON_CreateNull())
	             : l7mp_json_add_num(o, "packets", (double)n);
}

static cJSON *drain_json(const struct l7mp_offload_engine *e, const struct off_drain *d)
{
	uint64_t age = age_ms(d) / 1000, deadline = e->set.drain.deadline;
	uint64_t idle = d->active_ms ? (l7mp_loop_now(e->loop) - d->active_ms) / 1000 : 0;
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_num(o, "abi", d->abi);

	rc |= l7mp_json_add_str(o, "path", d->dir);
	rc |= l7mp_json_add_num(o, "entries", (double)d->flows);
	rc |= add_packets(o, d->forwarded);
	rc |= add_time(o, "began", d->began_ms);
	rc |= l7mp_json_add_num(o, "idle", (double)idle);
	rc |= l7mp_json_add_num(o, "left", age < deadline ? (double)(deadline - age) : 0);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static cJSON *ended_json(const struct off_drained *x)
{
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_num(o, "abi", x->abi);

	rc |= l7mp_json_add_num(o, "entries", (double)x->flows);
	rc |= add_packets(o, x->forwarded);
	rc |= add_time(o, "began", x->began_ms);
	rc |= add_time(o, "ended", x->ended_ms);
	rc |= l7mp_json_add_str(o, "reason", x->why);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}

cJSON *off_drains_json(const struct l7mp_offload_engine *e)
{
	cJSON *array = cJSON_CreateArray();
	int rc = 0;

	for (const struct off_drain *d = e->hooks.drains; d; d = d->next)
		rc |= l7mp_json_append(array, drain_json(e, d));
	if (!rc)
		return array;
	cJSON_Delete(array);
	return NULL;
}

cJSON *off_drained_json(const struct l7mp_offload_engine *e)
{
	const struct off_drains *s = &e->drains;
	cJSON *array = cJSON_CreateArray();
	uint64_t i = s->n_ended > OFF_DRAINED_SHOWN ? s->n_ended - OFF_DRAINED_SHOWN : 0;
	int rc = 0;

	for (; i < s->n_ended; i++)
		rc |= l7mp_json_append(array, ended_json(&s->ended[i % OFF_DRAINED_SHOWN]));
	if (!rc)
		return array;
	cJSON_Delete(array);
	return NULL;
}
