/* SPDX-License-Identifier: MIT */
/*
 * RTP statistics of flows. While a flow is in the kernel, both the programs and user space update
 * them in the memory of the map `rtp`; otherwise they are in the session. The stream's pointer `at`
 * says which of the two is in use.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "table.h"

#define MAP_BYTES (L7MP_RTP_STREAMS * sizeof(struct l7mp_rtp))

int off_rtp_take(struct off_table *tbl, struct off_direction *dir, struct l7mp_rtp_stream *stream)
{
	struct off_rtp *r = &tbl->rtp;

	if (!r->streams || !r->n_free)
		return -ENOSPC;
	dir->rtp = stream;
	dir->has_rtp = true;
	dir->action.pair = r->free[r->first];
	dir->action.flags |= L7MP_FLOW_RTP;
	r->first = (r->first + 1) % L7MP_RTP_STREAMS;
	r->n_free--;
	return 0;
}

void off_rtp_enter(struct off_table *tbl, const struct off_direction *dir)
{
	struct l7mp_rtp_stream *s = dir->rtp;
	struct l7mp_rtp *map;

	if (!s || s->at != &s->own)
		return;
	map = &tbl->rtp.streams[dir->action.pair];
	*map = s->own;
	s->at = map;
}

/* The freed entry goes to the end of the ring: a program may still update it for a moment. */
void off_rtp_leave(struct off_table *tbl, struct off_direction *dir)
{
	struct off_rtp *r = &tbl->rtp;
	struct l7mp_rtp_stream *s = dir->rtp;

	if (!dir->has_rtp)
		return;
	if (s && s->at != &s->own) {
		s->own = *s->at;
		s->at = &s->own;
	}
	r->free[(r->first + r->n_free) % L7MP_RTP_STREAMS] = (uint16_t)dir->action.pair;
	r->n_free++;
	dir->rtp = NULL;
	dir->has_rtp = false;
	dir->action.pair = 0;
	dir->action.flags &= (uint16_t)~L7MP_FLOW_RTP;
}

/* ---- adoption ---- */

void off_rtp_claim(struct off_table *tbl, struct off_direction *dir)
{
	struct off_rtp *r = &tbl->rtp;
	uint32_t place = dir->action.pair;

	if (!(dir->action.flags & L7MP_FLOW_RTP) || place >= L7MP_RTP_STREAMS)
		return;
	if (!r->claimed)
		r->claimed = calloc(L7MP_RTP_STREAMS, 1);
	if (!r->claimed || r->claimed[place])
		return;
	r->claimed[place] = 1;
	dir->has_rtp = true;
}

void off_rtp_claimed(struct off_table *tbl)
{
	struct off_rtp *r = &tbl->rtp;

	if (!r->claimed)
		return;
	r->first = r->n_free = 0;
	for (unsigned i = 0; i < L7MP_RTP_STREAMS; i++)
		if (!r->claimed[i])
			r->free[r->n_free++] = (uint16_t)i;
	free(r->claimed);
	r->claimed = NULL;
}

void off_rtp_adopt(struct off_table *tbl, struct off_direction *dir, struct l7mp_rtp_stream *stream,
                   bool counting)
{
	struct l7mp_rtp *map = &tbl->rtp.streams[dir->action.pair];

	dir->rtp = stream;
	if (!counting)
		return;
	map->dynamic_rate = stream->own.dynamic_rate;
	stream->at = map;
}

/* ---- life ---- */

int off_rtp_start(struct off_table *tbl)
{
	struct off_rtp *r = &tbl->rtp;
	void *at = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, tbl->maps.rtp, 0);

	if (at == MAP_FAILED)
		return -errno;
	r->free = malloc(L7MP_RTP_STREAMS * sizeof(*r->free));
	if (!r->free) {
		(void)munmap(at, MAP_BYTES);
		return -ENOMEM;
	}
	r->streams = at;
	r->first = 0;
	r->n_free = L7MP_RTP_STREAMS;
	for (unsigned i = 0; i < L7MP_RTP_STREAMS; i++)
		r->free[i] = (uint16_t)i;
	return 0;
}

void off_rtp_stop(struct off_table *tbl)
{
	struct off_rtp *r = &tbl->rtp;

	if (!r->streams)
		return;
	(void)munmap(r->streams, MAP_BYTES);
	free(r->free);
	free(r->claimed);
	r->claimed = NULL;
	r->streams = NULL;
	r->free = NULL;
	r->n_free = 0;
}
