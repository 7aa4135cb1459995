#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the Secrets of the mesh as YAML: a new CA, the operator's certificate and those of the proxies, and the
# token of the proxies' API. The CA's key is not kept: to renew one, run this again and replace all.
#
#   deploy/secrets.sh [NAMESPACE]... | kubectl apply -f -
#
# NAMESPACE: where proxies run (default: default); the operator's is l7mp-system ($L7MP_SYSTEM).
set -eu
umask 077
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
days=${L7MP_DAYS:-365}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$days" -subj "/CN=l7mp mesh" \
	-keyout "$dir/ca.key" -out "$dir/ca.crt" 2>/dev/null
sign() { # sign NAME EXTENDED-KEY-USAGE
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$dir/$1.key" -out "$dir/$1.csr" 2>/dev/null
	printf 'subjectAltName=DNS:%s\nextendedKeyUsage=%s\nkeyUsage=digitalSignature\n' "$1" "$2" >"$dir/ext"
	openssl x509 -req -in "$dir/$1.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days "$days" \
		-extfile "$dir/ext" -out "$dir/$1.crt" 2>/dev/null
}
sign l7mp-operator clientAuth
sign l7mp-proxy serverAuth
openssl rand -hex 32 >"$dir/token"

encode() { base64 <"$1" | tr -d '\n'; }
secret() { # secret NAME NAMESPACE
	cat <<YAML
---
apiVersion: v1
kind: Secret
metadata:
  name: $1
  namespace: $2
type: Opaque
data:
  ca.crt: $(encode "$dir/ca.crt")
  tls.crt: $(encode "$dir/$1.crt")
  tls.key: $(encode "$dir/$1.key")
  token: $(encode "$dir/token")
YAML
}
secret l7mp-operator "${L7MP_SYSTEM:-l7mp-system}"
for namespace in "${@:-default}"; do
	secret l7mp-proxy "$namespace"
done
