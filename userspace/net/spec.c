/* SPDX-License-Identifier: MIT */
#include "spec.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "net.h"

/* ---- tables ---- */

static const struct l7mp_field bind_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_ADDRESS,
         .doc = "local IP address to connect or send from"},
        {.key = "port",
         .type = L7MP_T_INT,
         .min = 0,
         .max = 65535,
         .def = "0",
         .doc = "local port to connect or send from; 0 takes a free one"},
        {0},
};
const struct l7mp_schema l7mp_bind_schema = {
        .name = "bind",
        .doc = "The local address and port of connections to the endpoints",
        .fields = bind_fields,
};

/* The time-out for a TCP peer that acknowledges nothing. */
static const struct l7mp_field connection_option_fields[] = {
        L7MP_SPEC_USER_TIMEOUT,
        {0},
};
const struct l7mp_schema l7mp_connection_options_schema = {
        .name = "connection-options",
        .doc = "Options of TCP connections",
        .fields = connection_option_fields,
};

/* ---- addresses ---- */

uint16_t l7mp_spec_port(const cJSON *spec)
{
	return (uint16_t)l7mp_json_num(spec, "port", 0);
}

uint16_t l7mp_spec_connect_port(const struct l7mp_connect *p)
{
	uint16_t own = l7mp_spec_port(p->endpoint_spec);

	return own ? own : l7mp_spec_port(p->cluster_spec);
}

const char *l7mp_spec_filename(const cJSON *spec)
{
	return l7mp_json_str(spec, "filename", "");
}

unsigned l7mp_spec_user_timeout(const cJSON *spec)
{
	const cJSON *options = l7mp_json_member(spec, "options");

	return (unsigned)(1000 * l7mp_json_num(options, "user_timeout",
	                                       L7MP_TCP_USER_TIMEOUT_MS / 1000.0));
}

int l7mp_bind_addr_from_spec(const cJSON *spec, struct l7mp_bind_addr *out, struct l7mp_error *err)
{
	const char *address = l7mp_json_str(spec, "address", NULL);
	double port = l7mp_json_num(spec, "port", 0);

	memset(out, 0, sizeof(*out));
	if (port < 0 || port > UINT16_MAX)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA,
		                      "port: expected 0..65535, got %g", port);
	if (!address || !*address)
		address = getenv("L7MP_LISTEN_ADDRESS");
	if (!address || !*address) {
		l7mp_addr_any(&out->addr, AF_INET6, (uint16_t)port);
		out->dual = true;
		return 0;
	}
	if (l7mp_addr_parse(&out->addr, address, (uint16_t)port))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA,
		                      "address (or L7MP_LISTEN_ADDRESS): expected a numeric IP "
		                      "address, got \"%s\"",
		                      address);
	return 0;
}

void l7mp_bind_addr_to_spec(const struct l7mp_bind_addr *bound, cJSON *spec)
{
	cJSON *port = l7mp_json_member(spec, "port");

	if (cJSON_IsNumber(port))
		(void)cJSON_SetNumberHelper(port, l7mp_addr_port(&bound->addr));
	else if (cJSON_IsString(port)) /* a port range */
		(void)cJSON_ReplaceItemInObjectCaseSensitive(
		        spec, "port", cJSON_CreateNumber(l7mp_addr_port(&bound->addr)));
	else if (!port)
		(void)l7mp_json_add_num(spec, "port", l7mp_addr_port(&bound->addr));
}

int l7mp_bind_for_family(const cJSON *bind, int family, struct l7mp_addr *out)
{
	const char *address = l7mp_json_str(bind, "address", NULL);
	uint16_t port = (uint16_t)l7mp_json_num(bind, "port", 0);

	memset(out, 0, sizeof(*out));
	if (!address) {
		if (port)
			l7mp_addr_any(out, family, port);
		return 0;
	}
	if (l7mp_addr_parse(out, address, port))
		return -EINVAL;
	return l7mp_addr_family(out) == family ? 0 : -EAFNOSUPPORT;
}

/* ---- socket options ---- */

static const char *const pass[] = {"pass", NULL};
static const struct l7mp_field dscp_number = {.type = L7MP_T_INT, .min = 0, .max = 63};
static const struct l7mp_field dscp_pass = {.type = L7MP_T_ENUM, .values = pass};
const struct l7mp_field *const l7mp_dscp_alternatives[] = {&dscp_number, &dscp_pass, NULL};

void l7mp_socket_options_read(const cJSON *options, struct l7mp_socket_options *out)
{
	out->rcvbuf = (int)l7mp_json_num(options, "rcvbuf", 0);
	out->sndbuf = (int)l7mp_json_num(options, "sndbuf", 0);
	out->dscp = (int)l7mp_json_num(options, "dscp", 0);
	out->dscp_pass = l7mp_json_str(options, "dscp", NULL) != NULL;
	out->reuseport = l7mp_json_bool(options, "reuseport", false);
}

int l7mp_socket_set_rcvbuf(int fd, int bytes)
{
	if (!setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)))
		return 0;
	return setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) ? -errno : 0;
}

int l7mp_socket_set_sndbuf(int fd, int bytes)
{
	if (!setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)))
		return 0;
	return setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)) ? -errno : 0;
}

/* Sets the IP header fields of sent packets: see l7mp_socket_options_apply. */
static int set_header_fields(int fd, int tos)
{
	int want = IP_PMTUDISC_WANT, no = 0, family;
	socklen_t len = sizeof(family);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len))
		return -errno;
	if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos)))
		return -errno;
	/* Also on IPv6 sockets, for the IPv4 peers of a dual-stack one. */
	if (setsockopt(fd, IPPROTO_IP, IP_TOS, &tos, sizeof(tos)) && family == AF_INET)
		return -errno;
	(void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &want, sizeof(want));
	if (family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, &no, sizeof(no));
	return 0;
}

int l7mp_socket_options_apply(int fd, void *options)
{
	const struct l7mp_socket_options *o = options;
	int on = 1, rc = 0;

	if (o->rcvbuf)
		rc = l7mp_socket_set_rcvbuf(fd, o->rcvbuf);
	if (!rc && o->sndbuf)
		rc = l7mp_socket_set_sndbuf(fd, o->sndbuf);
	if (!rc && o->reuseport && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)))
		rc = -errno;
	if (!rc)
		rc = set_header_fields(fd, l7mp_socket_options_tos(o));
	return rc;
}
