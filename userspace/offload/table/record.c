/* SPDX-License-Identifier: MIT */
/*
 * The pinned map `sessions`: what a daemon that is started again would need, beside the flows
 * themselves, to take a session over. Written here, not read yet. A session without its record is
 * fast all the same: it only can't be adopted.
 */
#include <bpf/bpf.h>
#include <string.h>

#include "table.h"

static void copy(char *to, size_t size, const char *from)
{
	/* One that does not fit can't be found again: better none than half of one. */
	if (from && strlen(from) < size)
		strcpy(to, from);
}

uint64_t off_record_id(const struct l7mp_flow_owner *owner)
{
	const char *name = owner->session;

	return name ? l7mp_hash_stable(name, strlen(name), 0) : 0;
}

void off_record_put(struct off_table *tbl, struct l7mp_flow *flow,
                    const struct l7mp_flow_owner *owner)
{
	struct l7mp_abi_session r;

	if (!flow->session)
		return;
	memset(&r, 0, sizeof(r));
	r.started_ms = owner->started_ms;
	copy(r.name, sizeof(r.name), owner->session);
	copy(r.listener, sizeof(r.listener), owner->listener);
	copy(r.route, sizeof(r.route), owner->route);
	copy(r.cluster, sizeof(r.cluster), owner->cluster);
	copy(r.endpoint, sizeof(r.endpoint), owner->endpoint);
	flow->recorded = !bpf_map_update_elem(tbl->maps.sessions, &flow->session, &r, BPF_ANY);
	tbl->n_records += flow->recorded;
}

void off_record_delete(struct off_table *tbl, struct l7mp_flow *flow)
{
	if (flow->recorded)
		(void)bpf_map_delete_elem(tbl->maps.sessions, &flow->session);
	tbl->n_records -= flow->recorded;
	flow->recorded = false;
}
