/* SPDX-License-Identifier: MIT */
/* The interface below a packet socket (packet(7)), private to proto/packet. Thread: loop only. */
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "l7mp/json.h"

struct pkt_interface {
	/* Set by the user: */
	char name[IF_NAMESIZE];
	uint16_t ethertype; /* 0: all */
	bool promiscuous;
	/* Read from the kernel: */
	uint32_t ifindex, mtu;
	uint8_t mac[6];
	bool up;
};

/* A number, "0x88b5", or one of ipv4 ipv6 arp vlan qinq lldp eapol. -EINVAL. */
int pkt_ethertype_parse(const cJSON *node, uint16_t *out);
/*
 * Opens a non-blocking socket that receives the frames of the interface which are of `ethertype`
 * and were not sent by this host; nothing before that filter is attached. Returns the
 * descriptor and sets what is read from the kernel, or negative errno (-ENODEV; -EINVAL: not an
 * Ethernet interface; -EPERM).
 */
int pkt_interface_open(struct pkt_interface *i);
/*
 * Reads index, MTU, address and state again, and binds fd to the interface again if it was
 * deleted and created under the same name. 0, also when it is down; -ENODEV, -EINVAL.
 */
int pkt_interface_refresh(struct pkt_interface *i, int fd);
/* An error of these functions or of the socket in words. Static text. */
const char *pkt_interface_error(int rc);
