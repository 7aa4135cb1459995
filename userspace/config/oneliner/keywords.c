/* SPDX-License-Identifier: MIT */
/* The keywords of addresses, including those of socat and websocat. */
#include <string.h>

#include "l7mp/protodesc.h"
#include "oneliner_int.h"

#define L L7MP_ROLE_LISTENER
#define C L7MP_ROLE_CLUSTER

/* X(suffix of the keyword, family) */
#define FAMILIES(X) X("", 0) X("4", 4) X("6", 6)

#define UDP_WORDS(v, f)                                                                            \
	{"UDP" v "-LISTEN", L, "UDP", FORM_PORT, f, 0}, {"UDP" v "-L", L, "UDP", FORM_PORT, f, 0}, \
	        {"UDP" v "-RECVFROM", L, "UDP", FORM_PORT, f, 0},                                  \
	        {"UDP" v "-RECV", L, "UDP", FORM_PORT, f, 0},                                      \
	        {"UDP" v, L | C, "UDP", FORM_HOST, f, 0},                                          \
	        {"UDP" v "-CONNECT", L | C, "UDP", FORM_HOST, f, 0},                               \
	        {"UDP" v "-C", L | C, "UDP", FORM_HOST, f, 0},                                     \
	        {"UDP" v "-SENDTO", C, "UDP", FORM_HOST, f, 0},                                    \
	        {"UDP" v "-DATAGRAM", L | C, "UDP", FORM_HOST, f, 0},
#define TCP_WORDS(v, f)                                                                            \
	{"TCP" v "-LISTEN", L, "TCP", FORM_PORT, f, 0}, {"TCP" v "-L", L, "TCP", FORM_PORT, f, 0}, \
	        {"TCP" v, C, "TCP", FORM_HOST, f, 0},                                              \
	        {"TCP" v "-CONNECT", C, "TCP", FORM_HOST, f, 0},                                   \
	        {"TCP" v "-C", C, "TCP", FORM_HOST, f, 0},
#define TLS_WORDS(v)                                                                   \
	{v "-LISTEN", L, "TCP", FORM_PORT, 0, 1}, {v "-L", L, "TCP", FORM_PORT, 0, 1}, \
	        {v, C, "TCP", FORM_HOST, 0, 1}, {v "-CONNECT", C, "TCP", FORM_HOST, 0, 1},
#define WS_WORDS(v, tls)                                          \
	{v "-LISTEN", L, "WebSocket", FORM_URLPORT, 0, tls},      \
	        {v "-L", L, "WebSocket", FORM_URLPORT, 0, tls},   \
	        {v, C, "WebSocket", FORM_URL, 0, tls},            \
	        {v "-CONNECT", C, "WebSocket", FORM_URL, 0, tls}, \
	        {v "-C", C, "WebSocket", FORM_URL, 0, tls},
#define UNIX_WORDS(v, form)                                               \
	{v "-LISTEN", L, "UnixDomainSocket", form, 0, 0},                 \
	        {v "-L", L, "UnixDomainSocket", form, 0, 0},              \
	        {v "-CONNECT", C, "UnixDomainSocket", form, 0, 0},        \
	        {v "-CLIENT", C, "UnixDomainSocket", form, 0, 0},         \
	        {v "-C", C, "UnixDomainSocket", form, 0, 0},              \
	        {v, C, "UnixDomainSocket", form, 0, 0},                   \
	        {v "-RECVFROM", L, "UNIX/dgram", form, 0, 0},             \
	        {v "-RECV", L, "UNIX/dgram", form, 0, 0},                 \
	        {v "-SENDTO", C, "UNIX/dgram", form, 0, 0},               \
	        {v "-SEQPACKET-LISTEN", L, "UNIX/seqpacket", form, 0, 0}, \
	        {v "-SEQPACKET", C, "UNIX/seqpacket", form, 0, 0},

static const struct oneliner_word keywords[] = {
        /* clang-format off */
	FAMILIES(UDP_WORDS)
	FAMILIES(TCP_WORDS)
	TLS_WORDS("OPENSSL")
	TLS_WORDS("SSL")
	TLS_WORDS("TLS")
	WS_WORDS("WS", 0)
	WS_WORDS("WEBSOCKET", 0)
	WS_WORDS("WSS", 1)
	UNIX_WORDS("UNIX", FORM_PATH)
	UNIX_WORDS("ABSTRACT", FORM_NAME)
	{"HTTP-LISTEN", L, "HTTP", FORM_PORT, 0, 0},
	{"HTTP-L", L, "HTTP", FORM_PORT, 0, 0},
	{"PIPE", L | C, "PIPE", FORM_PATH, 0, 0},
	{"FIFO", L | C, "PIPE", FORM_PATH, 0, 0},
	{"EXEC", C, "STDIO-fork", FORM_COMMAND, 0, 0},
	{"STDIO", L | C, "Stdio", FORM_NONE, 0, 0},
	{"-", L | C, "Stdio", FORM_NONE, 0, 0},
	{"PACKET", L | C, "AF_PACKET", FORM_IFACE, 0, 0},
	{"INTERFACE", L | C, "AF_PACKET", FORM_IFACE, 0, 0},
	{"ECHO", C, "Echo", FORM_NONE, 0, 0},
	{"MIRROR", C, "Echo", FORM_NONE, 0, 0},
	{"DISCARD", C, "Discard", FORM_NONE, 0, 0},
	{"LOGGER", C, "Logger", FORM_NONE, 0, 0},
	{"METRIC", C, "Metric", FORM_NONE, 0, 0},
	{"JSONENCAP", C, "JSONEncap", FORM_NONE, 0, 0},
	{"JSONDECAP", C, "JSONDecap", FORM_NONE, 0, 0},
	{"SYNC", C, "Sync", FORM_POINTER, 0, 0},
	{"JSONSOCKET-LISTEN", L, "JSONSocket", FORM_NESTED, 0, 0},
	{"JSONSOCKET", C, "JSONSocket", FORM_NESTED, 0, 0},
	{"L7MPCONTROLLER", C, "L7mpController", FORM_NONE, 0, 0},
	{"PROMETHEUS", C, "Prometheus", FORM_NONE, 0, 0},
        /* clang-format on */
};
#undef L
#undef C

const struct oneliner_word *oneliner_find_word(const char *keyword)
{
	for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
		if (strcmp(keywords[i].keyword, keyword) == 0)
			return &keywords[i];
	return NULL;
}
