/* SPDX-License-Identifier: MIT */
/* The schemas of `tls` objects in specs. */
#include <stdio.h>

#include "l7mp/tls.h"

/* RFC 7301: a protocol name has 1 to 255 bytes. */
#define ALPN_NAMES_MAX 16
static const struct l7mp_field alpn_name = {
        .type = L7MP_T_STRING, .min = 1, .max = 255, .doc = "protocol name, such as http/1.1"};

/* A larger number is a configuration error. */
#define CERTIFICATES_MAX 256
static const struct l7mp_field identity_fields[] = {
        {.key = "cert",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_PATH,
         .doc = "PEM file with the certificate, and the intermediate ones after it"},
        {.key = "key",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_PATH,
         .doc = "PEM file with the certificate's private key, without a passphrase"},
        {0},
};
static const struct l7mp_schema identity_schema = {
        .name = "tls-certificate",
        .doc = "A certificate that is chosen by its names",
        .fields = identity_fields,
};
static const struct l7mp_field identity_item = {
        .type = L7MP_T_OBJECT, .sub = &identity_schema, .doc = "certificate and key"};

static const struct l7mp_field listener_fields[] = {
        {.key = "cert",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_PATH,
         .doc = "PEM file with the certificate, and the intermediate ones after it"},
        {.key = "key",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_PATH,
         .doc = "PEM file with the certificate's private key, without a passphrase"},
        {.key = "client_ca",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .doc = "PEM file with the CAs of client certificates, which are then required"},
        {.key = "certificates",
         .type = L7MP_T_ARRAY,
         .item = &identity_item,
         .max = CERTIFICATES_MAX,
         .doc = "more certificates: a client that names a host (SNI) is shown the first one whose "
                "subjectAltName has it, cert's first; any other client is shown cert"},
        {.key = "alpn",
         .type = L7MP_T_ARRAY,
         .item = &alpn_name,
         .min = 1,
         .max = ALPN_NAMES_MAX,
         .doc = "protocols to choose from (ALPN), the preferred one first; a client that offers "
                "only others is refused. Without it a client's offer is ignored"},
        {0},
};
const struct l7mp_schema l7mp_tls_listener_schema = {
        .name = "tls-listener",
        .doc = "TLS for accepted connections; the files are read when the listener is made "
               "and again on SIGHUP",
        .fields = listener_fields,
};

static const struct l7mp_field cluster_fields[] = {
        {.key = "ca",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .doc = "PEM file with the CAs to trust; without it those of the system"},
        {.key = "sni",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_HOST,
         .doc = "name to ask for (SNI), and that the certificate's subjectAltName must have; "
                "without it the endpoint's address"},
        {.key = "insecure",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "take any certificate: encrypted, but to whom is not known"},
        {.key = "cert",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .doc = "PEM file with the client certificate to show, and the intermediate ones after "
                "it"},
        {.key = "key",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .doc = "PEM file with the client certificate's private key"},
        {.key = "alpn",
         .type = L7MP_T_ARRAY,
         .item = &alpn_name,
         .min = 1,
         .max = ALPN_NAMES_MAX,
         .doc = "protocols to offer (ALPN), the preferred one first"},
        {0},
};

static void check_cluster(const cJSON *tls, const char *path, struct l7mp_issues *issues)
{
	const cJSON *cert = l7mp_json_member(tls, "cert"), *key = l7mp_json_member(tls, "key");
	char at[256];

	if (!cert == !key)
		return;
	snprintf(at, sizeof(at), "%s.%s", path, cert ? "key" : "cert");
	l7mp_issues_add(issues, false, tls, at, "required with %s", cert ? "cert" : "key");
}

const struct l7mp_schema l7mp_tls_cluster_schema = {
        .name = "tls-cluster",
        .doc = "TLS for connections to the endpoints, whose certificates are checked; the files "
               "are read at the first use and again on SIGHUP",
        .fields = cluster_fields,
        .check = check_cluster,
};
