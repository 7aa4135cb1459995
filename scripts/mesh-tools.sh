#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the programs for the mesh tests into a cache outside of the tree, and prints their folder
# as the last line: etcd, kube-apiserver, kube-controller-manager, kubectl, and the
# Gateway API's conformance tests with their echo server. The folder's name is a hash of the pinned
# versions (selftests/mesh/*/go.mod, go.sum), so that checkouts with the same versions share it.
#
# usage: mesh-tools.sh [--check]   --check: only print the folder, or fail with the reason
# Exit status 77: it can't be built on this machine, and the output says why.
set -euo pipefail
cd "$(dirname "$0")/.."
modules=selftests/mesh
# What is built, and how: comments and messages above do not count.
recipe=$(sed -n '/^export /p; /^# Recipe/,$p' "$0" | grep -v '^[[:space:]]*#')
key=$( (printf '%s\n' "$recipe" && cat $modules/*/go.mod $modules/*/go.sum $modules/*/*.go) | sha256sum | cut -c1-16)
cache=${L7MP_MESH_TOOLS:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/l7mp/mesh-tools}
dir=$cache/$key

if [ -f "$dir/complete" ]; then
	echo "$dir/bin"
	exit 0
fi
# What a test that is skipped says: why they can't be built here, and only where they can, that they are not.
go=$(command -v go || command -v /usr/local/go/bin/go) || {
	echo "go is missing: the mesh tools need Go 1.26"
	exit 77
}
version=$("$go" env GOVERSION)
minor=${version#go1.}
if [ "${minor%%.*}" -lt 26 ] 2>/dev/null; then
	echo "the mesh tools need Go 1.26, there is $version"
	exit 77
fi
if [ "${1:-}" = --check ]; then
	reason=$(cat "$cache/$key.reason" 2>/dev/null) || reason="the mesh tools are not built: make mesh-tools"
	echo "$reason"
	exit 77
fi

export CGO_ENABLED=0 GOFLAGS='-mod=readonly -buildvcs=false' GOTOOLCHAIN=local
mkdir -p "$cache"
(cd $modules/tools && "$go" mod download) >&2 || {
	echo "the modules of the mesh tools can't be fetched" | tee "$cache/$key.reason"
	exit 77
}
rm -f "$cache/$key.reason"
exec 9>"$cache/lock"
flock 9
if [ -f "$dir/complete" ]; then
	echo "$dir/bin"
	exit 0
fi
# Recipe: a change from here on builds all again.
mkdir -p "$dir/bin"
kubernetes=$(sed -n "s/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p" $modules/tools/go.mod)
minor=${kubernetes#v1.}
v=k8s.io/component-base/version
echo "building etcd and Kubernetes $kubernetes: some minutes the first time" >&2
(
	cd $modules/tools
	"$go" build -trimpath -pgo=off -o "$dir/bin/" -ldflags "-s -w -X $v.gitVersion=$kubernetes -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*} -X $v.gitTreeState=clean" \
		k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager k8s.io/kubernetes/cmd/kubectl
	"$go" build -trimpath -pgo=off -ldflags '-s -w' -o "$dir/bin/etcd" go.etcd.io/etcd/server/v3
) >&2
if [ -d $modules/conformance ]; then
	(
		cd $modules/conformance
		"$go" test -c -trimpath -pgo=off -vet=off -ldflags '-s -w' -o "$dir/bin/conformance.test" . &&
			"$go" build -trimpath -pgo=off -ldflags '-s -w' -o "$dir/bin/echo-basic" sigs.k8s.io/gateway-api/conformance/echo-basic
		crds=$("$go" list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/experimental
		mkdir -p "$dir/crds" && cp "$crds"/gateway.networking.k8s.io_*.yaml "$dir/crds/" && chmod -R u+w "$dir/crds"
	) >&2
fi
touch "$dir/complete"
# Keep only the latest of the folders with other versions.
find "$cache" -mindepth 1 -maxdepth 1 -type d ! -name "$key" -printf '%T@ %p\n' | sort -rn | tail -n +2 | cut -d' ' -f2- | xargs -r rm -rf
echo "$dir/bin"
