/* SPDX-License-Identifier: MIT */
/*
 * The pinned map `sessions`: what a restarted daemon needs, besides the flows themselves, to resume
 * a session. A session without a record is offloaded all the same, but can't be adopted.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>

#include "table.h"

uint64_t off_record_id(const struct l7mp_flow_owner *owner)
{
	const char *name = owner->session;

	return name ? l7mp_hash_stable(name, strlen(name), 0) : 0;
}

/* ---- writing ---- */

/* Prints the record's strings as JSON, with or without metadata. False: they don't fit. */
static bool print_texts(const struct l7mp_flow_owner *owner, bool metadata, char *out, size_t size)
{
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "name", owner->session);

	rc |= l7mp_json_add_str(o, "listener", owner->listener ? owner->listener : "");
	rc |= l7mp_json_add_str(o, "route", owner->route ? owner->route : "");
	rc |= l7mp_json_add_str(o, "cluster", owner->cluster ? owner->cluster : "");
	if (owner->endpoint)
		rc |= l7mp_json_add_str(o, "endpoint", owner->endpoint);
	if (metadata && owner->metadata)
		rc |= !cJSON_AddItemReferenceToObject(o, "metadata", (cJSON *)owner->metadata);
	rc |= !cJSON_PrintPreallocated(o, out, (int)size, false);
	cJSON_Delete(o);
	return !rc;
}

static void make(const struct l7mp_flow_owner *owner, struct l7mp_abi_session *r)
{
	memset(r, 0, sizeof(*r));
	r->record = L7MP_SESSION_RECORD;
	r->started_ms = owner->started_ms;
	r->drops = owner->drops;
	for (int i = 0; i < 2; i++) {
		r->slow[i] = (struct l7mp_abi_count){owner->slow[i].packets, owner->slow[i].bytes};
		r->fast[i] = (struct l7mp_abi_count){owner->fast[i].packets, owner->fast[i].bytes};
	}
	if (print_texts(owner, true, r->text, sizeof(r->text)))
		return;
	memset(r->text, 0, sizeof(r->text));
	if (!print_texts(owner, false, r->text, sizeof(r->text)))
		memset(r->text, 0, sizeof(r->text));
}

int off_record_put(struct off_table *tbl, struct l7mp_flow *flow,
                   const struct l7mp_flow_owner *owner)
{
	struct l7mp_abi_session r;

	if (!flow->session)
		return 0;
	make(owner, &r);
	if (bpf_map_update_elem(tbl->maps.sessions, &flow->session, &r, BPF_ANY))
		return -errno;
	tbl->n_records += !flow->recorded;
	flow->recorded = true;
	return 0;
}

void off_record_delete(struct off_table *tbl, struct l7mp_flow *flow)
{
	if (flow->recorded)
		(void)bpf_map_delete_elem(tbl->maps.sessions, &flow->session);
	tbl->n_records -= flow->recorded;
	flow->recorded = false;
}

/* ---- reading a previous daemon's record ---- */

int off_record_get(const struct off_table *tbl, uint64_t id, struct l7mp_flow_owner *out,
                   cJSON **texts)
{
	struct l7mp_abi_session r;
	cJSON *o;

	*texts = NULL;
	if (bpf_map_lookup_elem(tbl->maps.sessions, &id, &r))
		return -errno;
	if (r.record != L7MP_SESSION_RECORD)
		return -EPROTO;
	o = cJSON_ParseWithLength(r.text, strnlen(r.text, sizeof(r.text)));
	*out = (struct l7mp_flow_owner){.session = l7mp_json_str(o, "name", NULL),
	                                .listener = l7mp_json_str(o, "listener", NULL),
	                                .route = l7mp_json_str(o, "route", NULL),
	                                .cluster = l7mp_json_str(o, "cluster", NULL),
	                                .endpoint = l7mp_json_str(o, "endpoint", NULL),
	                                .metadata = l7mp_json_member(o, "metadata"),
	                                .started_ms = r.started_ms,
	                                .drops = r.drops};
	for (int i = 0; i < 2; i++) {
		out->slow[i] = (struct l7mp_session_count){r.slow[i].packets, r.slow[i].bytes};
		out->fast[i] = (struct l7mp_session_count){r.fast[i].packets, r.fast[i].bytes};
	}
	if (!out->session || !out->listener || off_record_id(out) != id) {
		cJSON_Delete(o);
		return -EBADMSG;
	}
	*texts = o;
	return 0;
}
