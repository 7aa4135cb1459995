/* SPDX-License-Identifier: MIT */
/* Session names, metadata and messages of the protocols over IP. */
#include "net.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "l7mp/util.h"

enum l7mp_code l7mp_connect_code(int err)
{
	return err == ETIMEDOUT || err == -ETIMEDOUT ? L7MP_ERR_TIMEOUT : L7MP_ERR_UPSTREAM;
}

char *l7mp_inet_name(const char *proto, const struct l7mp_addr *peer, const struct l7mp_addr *local,
                     uint64_t id)
{
	char p[L7MP_ADDR_STRLEN], l[L7MP_ADDR_STRLEN];

	l7mp_addr_str(peer, p);
	l7mp_addr_str(local, l);
	if (id)
		return l7mp_asprintf("%s:%s-%s-%llu", proto, p, l, (unsigned long long)id);
	return l7mp_asprintf("%s:%s-%s", proto, p, l);
}

cJSON *l7mp_inet_metadata(const char *l4, const struct l7mp_addr *peer,
                          const struct l7mp_addr *local)
{
	char text[L7MP_ADDR_STRLEN];
	cJSON *root = cJSON_CreateObject();
	cJSON *ip = cJSON_CreateObject();
	cJSON *ports = cJSON_CreateObject();
	int rc = 0;

	rc |= l7mp_json_add_str(ip, "src_addr", l7mp_addr_ip(peer, text));
	rc |= l7mp_json_add_str(ip, "dst_addr", l7mp_addr_ip(local, text));
	rc |= l7mp_json_add_num(ports, "src_port", l7mp_addr_port(peer));
	rc |= l7mp_json_add_num(ports, "dst_port", l7mp_addr_port(local));
	rc |= l7mp_json_add(root, "IP", ip);
	rc |= l7mp_json_add(root, l4, ports);
	if (rc) {
		cJSON_Delete(root);
		return NULL;
	}
	return root;
}

cJSON *l7mp_unix_metadata(const char *filename, const char *peer, const struct ucred *cred)
{
	cJSON *root = cJSON_CreateObject(), *u = cJSON_CreateObject();
	int rc = l7mp_json_add_str(u, "filename", filename);

	if (peer)
		rc |= l7mp_json_add_str(u, "peer", peer);
	if (cred) {
		rc |= l7mp_json_add_num(u, "pid", cred->pid);
		rc |= l7mp_json_add_num(u, "uid", cred->uid);
		rc |= l7mp_json_add_num(u, "gid", cred->gid);
	}
	rc |= l7mp_json_add(root, "UNIX", u);
	if (rc) {
		cJSON_Delete(root);
		return NULL;
	}
	return root;
}

bool l7mp_accept_emit(const struct l7mp_proto_listener *l, struct l7mp_accept *a)
{
	if (a->name && a->metadata) {
		l->events->accept(l->arg, a);
		return true;
	}
	free(a->name);
	cJSON_Delete(a->metadata);
	l7mp_stream_close(a->stream, true);
	return false;
}

int l7mp_fd_local(int fd, struct l7mp_addr *out)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len))
		return -errno;
	return l7mp_addr_from_sockaddr(out, (struct sockaddr *)&ss, len);
}

void l7mp_tcp_tune(int fd)
{
	int on = 1, idle = 60, interval = 10, count = 5;

	/* Errors are ignored: the options are not essential. */
	/*
	 * Urgent data is a part of the stream (RFC 6093): without this its last byte would be
	 * omitted.
	 */
	(void)setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	l7mp_tcp_user_timeout(fd, L7MP_TCP_USER_TIMEOUT_MS);
}

void l7mp_tcp_user_timeout(int fd, unsigned ms)
{
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}
