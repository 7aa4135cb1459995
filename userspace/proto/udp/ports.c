/* SPDX-License-Identifier: MIT */
/*
 * The ports that a listener gets: one, a pair for RTP and RTCP (RFC 3550, section 11), or free ones
 * of a range.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/protos.h"
#include "net/net.h"
#include "udp.h"

/* Range for a pair of ports when any port is allowed: Linux's default for ephemeral ports. */
#define FREE_FIRST 32768
#define FREE_LAST  60999

int udp_port_range(const char *text, unsigned *first, unsigned *last)
{
	int end = 0;

	if (sscanf(text, "%5u-%5u%n", first, last, &end) != 2 || text[end] || text[0] == '-' ||
	    text[strspn(text, "0123456789-")] || !*first || *last > UINT16_MAX || *first > *last)
		return -EINVAL;
	return 0;
}

static int listen_one(const struct l7mp_listen *params, struct udp_listener **out,
                      struct l7mp_error *err)
{
	struct l7mp_proto_listener *base;
	int rc = l7mp_shared_listen(sizeof(struct udp_listener), &l7mp_proto_udp, params,
	                            udp_listener_open, udp_listener_start, &base, err);

	*out = rc ? NULL : (struct udp_listener *)base;
	return rc;
}

/* Opens the listener for RTCP, on the port after that of `l`; `spec` is overwritten. */
static int listen_rtcp(const struct l7mp_listen *params, struct udp_listener *l, cJSON *spec,
                       struct l7mp_error *err)
{
	unsigned port = l7mp_addr_port(&udp_listener_socket(l)->bind_addr.addr) + 1u;
	struct l7mp_proto_listener **retiring = calloc(params->n_retiring + 1, sizeof(void *));
	struct l7mp_listen next = *params;
	int rc;

	if (!retiring)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	next.n_retiring = 0;
	for (size_t i = 0; i < params->n_retiring; i++) {
		struct udp_listener *r = ((struct udp_listener *)params->retiring[i])->rtcp;

		if (r)
			retiring[next.n_retiring++] = &r->shared.base;
	}
	next.retiring = retiring;
	next.spec = spec;
	cJSON_SetNumberValue(l7mp_json_member(spec, "port"), port);
	rc = port > UINT16_MAX ? l7mp_error_set(err, -EADDRINUSE, L7MP_ERR_REALISE,
	                                        "port: there is none after 65535 for RTCP")
	                       : listen_one(&next, &l->rtcp, err);
	free(retiring);
	if (rc)
		return rc;
	l->rtcp->is_rtcp = true;
	return 0;
}

/*
 * Listens on spec.port, a number, and on the next one if options.rtcp is set. `spec` is modified.
 */
static int listen_pair(const struct l7mp_listen *params, cJSON *spec, struct udp_listener **out,
                       struct l7mp_error *err)
{
	struct l7mp_listen one = *params;
	int rc;

	one.spec = spec;
	rc = listen_one(&one, out, err);
	if (rc || !l7mp_json_bool(l7mp_json_member(spec, "options"), "rtcp", false))
		return rc;
	rc = listen_rtcp(params, *out, spec, err);
	if (rc) {
		l7mp_shared_unlisten(&(*out)->shared.base);
		*out = NULL;
	}
	return rc;
}

/*
 * Whether a socket of this process has the port and the new listener can't use it. Saves an attempt
 * to bind.
 */
static bool is_taken(const struct l7mp_shared_table *table, const struct l7mp_listen *params,
                     unsigned port)
{
	const struct l7mp_shared_socket *s = table->buckets[port % L7MP_SHARED_BUCKETS];

	for (; s; s = s->next) {
		const struct udp_socket *u = (const struct udp_socket *)s;
		bool retiring = false;

		if (l7mp_addr_port(&u->bind_addr.addr) != port)
			continue;
		for (size_t i = 0; i < params->n_retiring; i++)
			retiring |= s->listener == (const void *)params->retiring[i];
		if (s->refs && s->listener && !retiring)
			return true;
	}
	return false;
}

/*
 * Finds the first free port of a range, or pair of an even port and the next. The search continues
 * where the last one ended, so that a released port stays unused for as long as possible: late
 * packets of an old call should not reach a new one. A listener that is replaced keeps its port.
 */
static int listen_range(const struct l7mp_listen *params, cJSON *spec, unsigned first,
                        unsigned last, struct udp_listener **out, struct l7mp_error *err)
{
	bool pair = l7mp_json_bool(l7mp_json_member(spec, "options"), "rtcp", false);
	struct udp_state *state = l7mp_proto_state(params->env, &l7mp_proto_udp, err);
	unsigned step = pair ? 2 : 1, n;
	int rc = -EADDRINUSE;

	if (!state)
		return -ENOMEM;
	first += pair && first % 2;
	n = last + 1 < first + step ? 0 : (last + 1 - first) / step;
	for (size_t i = 0; i < params->n_retiring; i++) {
		unsigned port = l7mp_addr_port(
		        &udp_listener_socket((struct udp_listener *)params->retiring[i])
		                 ->bind_addr.addr);

		if (port < first || port >= first + n * step || (port - first) % step)
			continue;
		cJSON_SetNumberValue(l7mp_json_member(spec, "port"), port);
		if (!listen_pair(params, spec, out, NULL))
			return 0;
	}
	for (unsigned i = 0; i < n; i++) {
		unsigned port = first + (state->next_port++ % n) * step;

		if (is_taken(&state->table, params, port) ||
		    (pair && is_taken(&state->table, params, port + 1)))
			continue;
		cJSON_SetNumberValue(l7mp_json_member(spec, "port"), port);
		rc = listen_pair(params, spec, out, err);
		if (rc != -EADDRINUSE)
			return rc;
	}
	return l7mp_error_set(err, -EADDRINUSE, L7MP_ERR_REALISE, "port: %s is free in %u-%u",
	                      pair ? "no pair" : "none", first, last);
}

int udp_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
               struct l7mp_error *err)
{
	const cJSON *port = l7mp_json_member(params->spec, "port");
	cJSON *spec = cJSON_Duplicate(params->spec, true);
	unsigned first = 0, last = 0;
	struct udp_listener *l = NULL;
	int rc;

	if (!spec)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (cJSON_IsString(port))
		(void)udp_port_range(port->valuestring, &first, &last);
	else if (!l7mp_json_num(spec, "port", 0) &&
	         l7mp_json_bool(l7mp_json_member(spec, "options"), "rtcp", false))
		first = FREE_FIRST, last = FREE_LAST;
	if (last) {
		rc = cJSON_ReplaceItemInObjectCaseSensitive(spec, "port", cJSON_CreateNumber(0))
		             ? listen_range(params, spec, first, last, &l, err)
		             : l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	} else {
		rc = listen_pair(params, spec, &l, err);
	}
	cJSON_Delete(spec);
	if (!rc)
		*out = &l->shared.base;
	return rc;
}
