/* SPDX-License-Identifier: MIT */
/* Entries of flows4, flows6 and frames: map, key and value of a direction. */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>

#include "table.h"

struct off_entry_map off_entry_map(const struct off_maps *maps, unsigned family)
{
	if (family == OFF_V4)
		return (struct off_entry_map){.fd = maps->flows4,
		                              .key = sizeof(struct l7mp_flow4_key),
		                              .value = sizeof(struct l7mp_flow_action)};
	if (family == OFF_FRAME)
		return (struct off_entry_map){.fd = maps->frames,
		                              .key = sizeof(struct l7mp_frame_key),
		                              .value = sizeof(struct l7mp_frame_action)};
	return (struct off_entry_map){.fd = maps->flows6,
	                              .key = sizeof(struct l7mp_flow_key),
	                              .value = sizeof(struct l7mp_flow6_action)};
}

const void *off_entry_key(const struct off_direction *dir)
{
	return off_entry_family(dir) == OFF_V4 ? (const void *)&dir->action.key : &dir->key;
}

int off_entry_put(const struct off_maps *maps, const struct off_direction *dir,
                  const struct l7mp_flow6_action *value, uint64_t flags)
{
	struct off_entry_map m = off_entry_map(maps, off_entry_family(dir));

	return bpf_map_update_elem(m.fd, off_entry_key(dir), value, flags) ? -errno : 0;
}

void off_entry_delete(const struct off_maps *maps, const struct off_direction *dir)
{
	struct off_entry_map m = off_entry_map(maps, off_entry_family(dir));

	(void)bpf_map_delete_elem(m.fd, off_entry_key(dir));
}

bool off_entries_there(const struct off_maps *maps)
{
	for (unsigned family = 0; family < OFF_FAMILIES; family++) {
		struct off_entry_map m = off_entry_map(maps, family);
		struct l7mp_frame_key key; /* the largest */

		if (!bpf_map_get_next_key(m.fd, NULL, &key))
			return true;
	}
	return false;
}

unsigned off_entries_clear(const struct off_maps *maps)
{
	unsigned n = 0;

	for (unsigned family = 0; family < OFF_FAMILIES; family++) {
		struct off_entry_map m = off_entry_map(maps, family);
		struct l7mp_frame_key key; /* the largest */

		while (!bpf_map_get_next_key(m.fd, NULL, &key)) {
			if (bpf_map_delete_elem(m.fd, &key))
				break;
			n++;
		}
	}
	return n;
}
