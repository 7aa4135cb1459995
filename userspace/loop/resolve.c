/* SPDX-License-Identifier: MIT */
/*
 * Name resolution by c-ares on the loop.
 *
 *   lookup   one query (name and family) that is in progress or whose answer is cached;
 *            callers with equal queries share it, each with its own struct l7mp_resolve
 *   channel  a c-ares channel with the name servers of /etc/resolv.conf. When that file
 *            changes a new channel is opened; the old one is closed after its last lookup
 *
 * Queries are sent at once and independently of each other, so that a server that does not answer
 * delays only the names that it is queried for. Answers are cached for their TTL, "no such name"
 * for the TTL of the zone's SOA record (RFC 2308, section 5), and failures for a second.
 *
 * An answer over TCP can have thousands of addresses. c-ares would open and connect a socket for
 * each of them to sort them, some 200 ms during which the loop stands still. So c-ares does not
 * sort, the first addresses of each family are kept, and only those are sorted (addr_order.c).
 */
#include "l7mp/resolve.h"

/* c-ares 1.34 deprecates ares_search, but 1.18 (Debian 12) has no replacement. */
#define CARES_NO_DEPRECATED
#include <ares.h>
#include <arpa/nameser.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "l7mp/hash.h"
#include "loop_int.h"

#define MAX_ADDRS   (2 * L7MP_RESOLVE_PER_FAMILY)
#define MAX_NAME    255 /* RFC 1035, section 2.3.4 */
#define MAX_ENTRIES 4096
/*
 * Time-out of the first round of queries; c-ares doubles it for each further round. A dead first
 * server delays a connect by this much, so it must be well below the default time-out of a route (2
 * s).
 */
#define TIMEOUT_MS 500
#define TRIES      4
#define CHECK_MS   1000 /* between checks of resolv.conf */
/* Bounds of a cached answer's lifetime, in seconds. */
#define TTL_MIN      1
#define TTL_MAX      3600
#define NEGATIVE_MAX 300

#define RESOLV_CONF "/etc/resolv.conf"

struct channel {
	struct channel *prev, *next;
	struct l7mp_resolver *resolver;
	ares_channel ares;
	struct l7mp_timer timer; /* retransmission */
	struct l7mp_task task;   /* frees the channel, outside of c-ares callbacks */
	struct sock *socks;
	size_t lookups; /* lookups in progress */
	bool retired;
};

/* A descriptor that c-ares wants watched. */
struct sock {
	struct l7mp_io io;
	struct sock *prev, *next;
	struct channel *channel;
};

struct key {
	uint8_t family;
	char name[MAX_NAME + 1]; /* lower case, zero-padded by its length in the hash */
};

struct lookup {
	UT_hash_handle hh;          /* in the resolver's table */
	struct lookup *prev, *next; /* answered ones, by age */
	struct l7mp_resolver *resolver;
	struct channel *channel; /* channel of the query; NULL: answered */
	struct l7mp_resolve *waiters;
	struct l7mp_task task; /* delivers a cached answer */
	uint64_t expires;      /* loop time in ms */
	int err;               /* negative errno; 0: addrs */
	bool delivering;
	size_t n;
	struct l7mp_addr *addrs; /* n, without a port */
	struct key key;
};

struct l7mp_resolver {
	struct l7mp_loop *loop;
	struct lookup *table;
	struct lookup *answered; /* oldest first */
	size_t n_answered;
	struct channel *channels; /* the current one first */
	/* callers without an answer; while there are none, no timer keeps the loop running */
	size_t n_waiting;
	uint64_t checked;      /* when resolv.conf was checked */
	struct timespec mtime; /* its modification time then */
	char *servers;         /* for tests: replaces those of resolv.conf */
};

struct l7mp_resolve {
	struct l7mp_resolve *prev, *next; /* of lookup->waiters */
	struct l7mp_loop *loop;
	struct lookup *lookup; /* NULL: numeric */
	l7mp_resolve_cb cb;
	void *arg;
	uint16_t port;
	struct l7mp_task task;
	struct l7mp_addr numeric; /* len 0: the address is not of the requested family */
};

/* ---- lookups ---- */

static size_t key_len(const struct key *k)
{
	return offsetof(struct key, name) + strlen(k->name);
}

static void lookup_free(struct lookup *l)
{
	struct l7mp_resolver *r = l->resolver;

	/*
	 * NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the table contains l, so it is not
	 * empty
	 */
	HASH_DEL(r->table, l);
	if (!l->channel) {
		DL_DELETE(r->answered, l);
		r->n_answered--;
	}
	l7mp_task_cancel(r->loop, &l->task);
	free(l->addrs);
	free(l);
}

static void channel_arm(struct channel *c);

/* Timers keep the loop running, so retransmissions stop while no caller waits. */
static void remove_waiter(struct l7mp_resolve *w)
{
	struct l7mp_resolver *r = w->loop->resolver;
	struct channel *c;

	l7mp_loop_release(w->loop);
	free(w);
	if (!--r->n_waiting)
		DL_FOREACH (r->channels, c)
			channel_arm(c);
}

/*
 * Calls all present waiters. Lookups started by their callbacks are answered in the next iteration.
 */
static void deliver_cb(struct l7mp_task *task, void *arg)
{
	struct lookup *l = arg;
	struct l7mp_resolve *r;
	size_t count;

	DL_COUNT(l->waiters, r, count);
	l->delivering = true;
	while (count-- > 0 && (r = l->waiters)) {
		struct l7mp_addr addrs[MAX_ADDRS];
		l7mp_resolve_cb cb = r->cb;
		void *cb_arg = r->arg;

		for (size_t i = 0; i < l->n; i++) {
			addrs[i] = l->addrs[i];
			l7mp_addr_set_port(&addrs[i], r->port);
		}
		DL_DELETE(l->waiters, r);
		remove_waiter(r);
		cb(cb_arg, l->err, l->n ? addrs : NULL, l->n);
	}
	l->delivering = false;
	if (l->waiters)
		l7mp_task_post(l->resolver->loop, task);
}

static uint64_t clamp(uint64_t v, uint64_t min, uint64_t max)
{
	return v < min ? min : v > max ? max : v;
}

static void channel_release(struct channel *c);

/*
 * Stores the answer. A task delivers it, because callbacks must not be called from inside c-ares.
 */
static void lookup_answered(struct lookup *l, int err, uint64_t ttl_s)
{
	struct l7mp_resolver *r = l->resolver;
	struct channel *c = l->channel;

	l->err = err;
	l->expires = l7mp_loop_now(r->loop) + ttl_s * 1000;
	l->channel = NULL;
	DL_APPEND(r->answered, l);
	r->n_answered++;
	l7mp_task_post(r->loop, &l->task);
	channel_release(c);
}

/* Makes room for one more answer: removes expired ones, then the oldest. */
static void evict(struct l7mp_resolver *r)
{
	uint64_t now = l7mp_loop_now(r->loop);
	struct lookup *l, *tmp;

	DL_FOREACH_SAFE (r->answered, l, tmp) {
		bool idle = !l->waiters && !l->delivering;

		if (idle && (l->expires <= now || r->n_answered >= MAX_ENTRIES))
			lookup_free(l);
		else if (r->n_answered < MAX_ENTRIES)
			break; /* the remaining entries will expire soon */
	}
}

/* ---- c-ares ---- */

/* Arms the timer for retransmissions, at the time that c-ares gives. */
static void channel_arm(struct channel *c)
{
	struct timeval tv, *next = ares_timeout(c->ares, NULL, &tv);

	if (next && c->resolver->n_waiting)
		(void)l7mp_timer_start(c->resolver->loop, &c->timer,
		                       (uint64_t)next->tv_sec * 1000U +
		                               (uint64_t)next->tv_usec / 1000U + 1U);
	else
		l7mp_timer_stop(c->resolver->loop, &c->timer);
}

static void io_cb(struct l7mp_io *io, uint32_t events)
{
	struct sock *s = (struct sock *)io;
	struct channel *c = s->channel;
	bool readable = events & (EPOLLIN | EPOLLERR | EPOLLHUP);
	bool writable = events & EPOLLOUT;

	/* May close the descriptor and free s; c stays, it is freed by a task. */
	ares_process_fd(c->ares, readable ? io->fd : ARES_SOCKET_BAD,
	                writable ? io->fd : ARES_SOCKET_BAD);
	channel_arm(c);
}

/*
 * ares_sock_state_cb: sets the events to watch. Both false: the descriptor is about to be closed.
 */
static void sock_state_cb(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct channel *c = arg;
	struct l7mp_loop *loop = c->resolver->loop;
	uint32_t events = (readable ? (uint32_t)EPOLLIN : 0) | (writable ? (uint32_t)EPOLLOUT : 0);
	struct sock *s;

	DL_FOREACH (c->socks, s)
		if (s->io.fd == fd)
			break;
	if (!events) {
		if (!s)
			return;
		l7mp_io_stop(loop, &s->io);
		DL_DELETE(c->socks, s);
		free(s);
		return;
	}
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return; /* not watched: the query times out */
		l7mp_io_init(&s->io, fd, io_cb);
		s->channel = c;
		DL_APPEND(c->socks, s);
	}
	(void)l7mp_io_set(loop, &s->io, events);
}

static void channel_timer_cb(struct l7mp_timer *timer, void *arg)
{
	struct channel *c = arg;

	(void)timer;
	ares_process_fd(c->ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	channel_arm(c);
}

static void channel_free(struct channel *c)
{
	struct l7mp_resolver *r = c->resolver;

	DL_DELETE(r->channels, c);
	l7mp_task_cancel(r->loop, &c->task);
	ares_destroy(c->ares);
	l7mp_timer_stop(r->loop, &c->timer);
	l7mp_timer_give_back(r->loop, &c->timer);
	free(c);
}

static void channel_free_cb(struct l7mp_task *task, void *arg)
{
	(void)task;
	channel_free(arg);
}

static void channel_release(struct channel *c)
{
	c->lookups--;
	if (c->retired && !c->lookups)
		l7mp_task_post(c->resolver->loop, &c->task);
}

static int channel_new(struct l7mp_resolver *r)
{
	struct channel *c = calloc(1, sizeof(*c));
	struct ares_options options = {.flags = ARES_FLAG_NOCHECKRESP,
	                               .timeout = TIMEOUT_MS,
	                               .tries = TRIES,
	                               .sock_state_cb = sock_state_cb,
	                               .sock_state_cb_data = c};
	int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB | ARES_OPT_FLAGS;

#ifdef ARES_OPT_QUERY_CACHE
	/* c-ares 1.31 and later has its own cache, which would bypass the lifetimes of this one. */
	options.qcache_max_ttl = 0;
	mask |= ARES_OPT_QUERY_CACHE;
#endif
	if (!c)
		return -ENOMEM;
	c->resolver = r;
	l7mp_timer_init(&c->timer, channel_timer_cb, c);
	l7mp_task_init(&c->task, channel_free_cb, c);
	if (l7mp_timer_reserve(r->loop, &c->timer) ||
	    ares_init_options(&c->ares, &options, mask) != ARES_SUCCESS) {
		l7mp_timer_give_back(r->loop, &c->timer);
		free(c);
		return -ENOMEM;
	}
	if (r->servers && ares_set_servers_ports_csv(c->ares, r->servers) != ARES_SUCCESS) {
		ares_destroy(c->ares);
		l7mp_timer_give_back(r->loop, &c->timer);
		free(c);
		return -EINVAL;
	}
	if (r->channels && !r->channels->retired) {
		r->channels->retired = true;
		if (!r->channels->lookups)
			l7mp_task_post(r->loop, &r->channels->task);
	}
	DL_PREPEND(r->channels, c);
	return 0;
}

/* Returns the channel for new queries, a new one when resolv.conf has changed. NULL: no memory. */
static struct channel *channel_current(struct l7mp_resolver *r)
{
	uint64_t now = l7mp_loop_now(r->loop);
	bool have = r->channels && !r->channels->retired;
	struct stat st;

	if (have && (r->servers || now - r->checked < CHECK_MS))
		return r->channels;
	r->checked = now;
	if (stat(RESOLV_CONF, &st))
		memset(&st, 0, sizeof(st));
	if (have && st.st_mtim.tv_sec == r->mtime.tv_sec && st.st_mtim.tv_nsec == r->mtime.tv_nsec)
		return r->channels;
	r->mtime = st.st_mtim;
	if (channel_new(r))
		return have ? r->channels : NULL;
	return r->channels;
}

static int from_ares(int status)
{
	switch (status) {
	case ARES_ENOMEM:
		return -ENOMEM;
	case ARES_ECANCELLED:
	case ARES_EDESTRUCTION:
		return -ECANCELED;
	case ARES_ESERVFAIL:
	case ARES_EREFUSED:
	case ARES_ETIMEOUT:
	case ARES_ECONNREFUSED:
	case ARES_EBADRESP:
	case ARES_EFORMERR:
	case ARES_ENOTIMP:
		return -EAGAIN;
	default:
		return -ENOENT;
	}
}

/* The addresses of an answer that are kept. */
struct kept {
	size_t n, of[2]; /* all; of IPv4 and of IPv6 */
	struct l7mp_dest dests[MAX_ADDRS];
};

/* Adds an address without duplicates: a name may have one both as IPv4 and IPv4-mapped. */
static void kept_add(struct kept *k, const struct ares_addrinfo_node *node)
{
	struct l7mp_addr addr;
	size_t *of;

	if (node->ai_family != AF_INET && node->ai_family != AF_INET6)
		return;
	if (l7mp_addr_from_sockaddr(&addr, node->ai_addr, node->ai_addrlen))
		return;
	of = &k->of[l7mp_addr_family(&addr) == AF_INET6];
	if (*of == L7MP_RESOLVE_PER_FAMILY)
		return;
	l7mp_addr_set_port(&addr, 0);
	for (size_t i = 0; i < k->n; i++)
		if (l7mp_addr_equal(&k->dests[i].addr, &addr))
			return;
	k->dests[k->n++].addr = addr;
	++*of;
}

/* Stores the addresses in the order in which they are to be tried. Returns 0 or -ENOMEM. */
static int lookup_take(struct lookup *l, struct kept *k)
{
	l->addrs = malloc(k->n * sizeof(l->addrs[0]));
	if (!l->addrs)
		return -ENOMEM;
	if (k->n > 1) {
		l7mp_dests_find_sources(k->dests, k->n);
		l7mp_dests_order(k->dests, k->n);
	}
	for (size_t i = 0; i < k->n; i++)
		l->addrs[i] = k->dests[i].addr;
	l->n = k->n;
	return 0;
}

/* Skips a name in a message (RFC 1035, section 4.1.4). NULL: malformed. */
static const unsigned char *skip_name(const unsigned char *p, const unsigned char *msg, int len)
{
	char *name;
	long used;

	if (p >= msg + len || ares_expand_name(p, msg, len, &name, &used) != ARES_SUCCESS)
		return NULL;
	ares_free_string(name);
	return p + used;
}

static uint32_t be16(const unsigned char *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t be32(const unsigned char *p)
{
	return be16(p) << 16 | be16(p + 2);
}

/*
 * Returns the lifetime of "no such name" in seconds: the lesser of the SOA's TTL and its minimum
 * field (RFC 2308). 0: there is no SOA.
 */
static uint64_t negative_ttl(const unsigned char *msg, int len)
{
	const unsigned char *p = msg + NS_HFIXEDSZ, *end = msg + len;
	unsigned questions, records;

	if (!msg || len < NS_HFIXEDSZ)
		return 0;
	questions = be16(msg + 4);
	records = be16(msg + 6) + be16(msg + 8);
	while (questions-- > 0) {
		p = skip_name(p, msg, len);
		if (!p || end - p < NS_QFIXEDSZ)
			return 0;
		p += NS_QFIXEDSZ;
	}
	while (records-- > 0) {
		unsigned type, size;
		uint64_t ttl, minimum;

		p = skip_name(p, msg, len);
		if (!p || end - p < NS_RRFIXEDSZ)
			return 0;
		type = be16(p);
		ttl = be32(p + 4);
		size = be16(p + 8);
		p += NS_RRFIXEDSZ;
		if (size > (size_t)(end - p))
			return 0;
		if (type == ns_t_soa && size >= 4) {
			minimum = be32(p + size - 4);
			return ttl < minimum ? ttl : minimum;
		}
		p += size;
	}
	return 0;
}

/* The answer to the additional query for the SOA record. */
static void soa_cb(void *arg, int status, int timeouts, unsigned char *msg, int len)
{
	struct lookup *l = arg;

	(void)timeouts;
	if (status == ARES_EDESTRUCTION)
		return; /* the resolver is being freed, which frees l */
	lookup_answered(l, l->err, clamp(negative_ttl(msg, len), TTL_MIN, NEGATIVE_MAX));
}

static void addrinfo_cb(void *arg, int status, int timeouts, struct ares_addrinfo *ai)
{
	struct lookup *l = arg;
	uint64_t ttl = TTL_MAX;
	struct kept k;

	(void)timeouts;
	if (status == ARES_EDESTRUCTION)
		return;
	k.n = k.of[0] = k.of[1] = 0;
	for (const struct ares_addrinfo_node *node = ai ? ai->nodes : NULL; node;
	     node = node->ai_next) {
		kept_add(&k, node);
		if (node->ai_ttl >= 0 && (uint64_t)node->ai_ttl < ttl)
			ttl = (uint64_t)node->ai_ttl;
	}
	if (ai)
		ares_freeaddrinfo(ai);
	if (k.n) {
		int rc = lookup_take(l, &k);

		lookup_answered(l, rc, rc ? TTL_MIN : clamp(ttl, TTL_MIN, TTL_MAX));
		return;
	}
	l->err = status == ARES_SUCCESS ? -ENOENT : from_ares(status);
	if (l->err == -ENOENT && (status == ARES_ENOTFOUND || status == ARES_ENODATA))
		ares_search(l->channel->ares, l->key.name, ns_c_in,
		            l->key.family == AF_INET6 ? ns_t_aaaa : ns_t_a, soa_cb, l);
	else
		lookup_answered(l, l->err, TTL_MIN);
}

/* ---- API ---- */

static int key_set(struct key *k, const char *host, int family)
{
	size_t len = strlen(host);

	memset(k, 0, sizeof(*k));
	if (!len || len > MAX_NAME)
		return -EINVAL;
	k->family = (uint8_t)family;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)host[i];

		if (c <= ' ' || c >= 0x7f)
			return -EINVAL;
		k->name[i] = (char)tolower(c);
	}
	return 0;
}

/* Returns the lookup for a key: a cached one, one in progress, or a new one. NULL: no memory. */
static struct lookup *lookup_get(struct l7mp_resolver *r, const struct key *key)
{
	struct ares_addrinfo_hints hints = {
	        .ai_flags = ARES_AI_NOSORT, .ai_family = key->family, .ai_socktype = SOCK_STREAM};
	struct channel *c;
	struct lookup *l;

	HASH_FIND(hh, r->table, key, key_len(key), l);
	if (l && (l->channel || l->waiters || l->delivering || l->expires > l7mp_loop_now(r->loop)))
		return l;
	if (l)
		lookup_free(l);
	evict(r);
	c = channel_current(r);
	l = c ? calloc(1, sizeof(*l)) : NULL;
	if (!l)
		return NULL;
	l->resolver = r;
	l->key = *key;
	l7mp_task_init(&l->task, deliver_cb, l);
	HASH_ADD_KEYPTR(hh, r->table, &l->key, key_len(&l->key), l);
	if (!l->hh.tbl) {
		free(l);
		return NULL;
	}
	l->channel = c;
	c->lookups++;
	/* For names of /etc/hosts and localhost the callback is called from inside this call. */
	ares_getaddrinfo(c->ares, l->key.name, NULL, &hints, addrinfo_cb, l);
	return l;
}

static struct l7mp_resolver *resolver_get(struct l7mp_loop *loop)
{
	if (!loop->resolver) {
		loop->resolver = calloc(1, sizeof(*loop->resolver));
		if (loop->resolver)
			loop->resolver->loop = loop;
	}
	return loop->resolver;
}

static void numeric_cb(struct l7mp_task *task, void *self)
{
	struct l7mp_resolve *r = self;
	l7mp_resolve_cb cb = r->cb;
	void *arg = r->arg;
	struct l7mp_addr addr = r->numeric;

	(void)task;
	l7mp_loop_release(r->loop);
	free(r);
	if (addr.len)
		cb(arg, 0, &addr, 1);
	else
		cb(arg, -ENOENT, NULL, 0);
}

/* Adds the caller to a lookup. Returns 0, or a negative errno: no answer will follow. */
static int add_waiter(struct l7mp_resolve *r, const struct key *key)
{
	struct l7mp_resolver *resolver = resolver_get(r->loop);
	struct lookup *l = resolver ? lookup_get(resolver, key) : NULL;

	if (!l)
		return -ENOMEM;
	r->lookup = l;
	DL_APPEND(l->waiters, r);
	resolver->n_waiting++;
	if (l->channel)
		channel_arm(l->channel);
	else
		l7mp_task_post(r->loop, &l->task);
	return 0;
}

int l7mp_resolve_start(struct l7mp_loop *loop, const char *host, uint16_t port, int family,
                       l7mp_resolve_cb cb, void *arg, struct l7mp_resolve **out)
{
	struct l7mp_resolve *r = calloc(1, sizeof(*r));
	struct key key;
	int rc = 0;

	if (!r)
		return -ENOMEM;
	r->loop = loop;
	r->cb = cb;
	r->arg = arg;
	r->port = port;
	l7mp_task_init(&r->task, numeric_cb, r);
	if (!l7mp_addr_parse(&r->numeric, host, port)) {
		if (family != AF_UNSPEC && l7mp_addr_family(&r->numeric) != family)
			r->numeric.len = 0;
		l7mp_task_post(loop, &r->task);
	} else if (key_set(&key, host, family)) {
		r->numeric.len = 0; /* too long for a host name */
		l7mp_task_post(loop, &r->task);
	} else {
		rc = loop->manual ? -ENOTSUP : add_waiter(r, &key);
	}
	if (rc) {
		free(r);
		return rc;
	}
	l7mp_loop_hold(loop);
	*out = r;
	return 0;
}

void l7mp_resolve_cancel(struct l7mp_resolve **rp)
{
	struct l7mp_resolve *r = *rp;

	if (!r)
		return;
	*rp = NULL;
	l7mp_task_cancel(r->loop, &r->task);
	if (r->lookup) {
		DL_DELETE(r->lookup->waiters, r); /* the query continues: its answer is cached */
		remove_waiter(r);
	} else {
		l7mp_loop_release(r->loop);
		free(r);
	}
}

int l7mp_resolver_set_servers(struct l7mp_loop *loop, const char *csv)
{
	struct l7mp_resolver *r = resolver_get(loop);
	char *copy = r ? strdup(csv) : NULL;

	if (!copy)
		return -ENOMEM;
	free(r->servers);
	r->servers = copy;
	return channel_new(r);
}

void l7mp_resolver_free(struct l7mp_resolver **rp)
{
	struct l7mp_resolver *r = *rp;
	struct lookup *l, *tmp;

	if (!r)
		return;
	*rp = NULL;
	while (r->channels)
		channel_free(r->channels);
	HASH_ITER (hh, r->table, l, tmp) {
		l->channel = NULL;
		HASH_DEL(r->table, l);
		l7mp_task_cancel(r->loop, &l->task);
		free(l->addrs);
		free(l);
	}
	free(r->servers);
	free(r);
}
