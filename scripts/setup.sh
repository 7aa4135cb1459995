#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Installs the missing packages on a Debian 12 machine.
#
#   scripts/setup.sh [build|test|full|bench|vm|lint ...]      (default: build test)
#   scripts/setup.sh list SET...                              prints the packages' names
#
# Needs root only when something has to be installed.
set -eu

build="gcc make pkg-config clang llvm libc6-dev libbpf-dev libxdp-dev libelf-dev zlib1g-dev
       libuv1-dev libc-ares-dev libwebsockets-dev libwebsockets-evlib-uv libcivetweb-dev libyaml-dev libcjson-dev
       libpcre2-dev libxxhash-dev uthash-dev libssl-dev
       libcap-dev libmnl-dev libcurl4-openssl-dev bpftool"
test="libcmocka-dev libclang-rt-dev python3 python3-websockets python3-yaml curl socat
      iproute2 ethtool jq procps libcap2-bin util-linux openssl git haproxy nginx-light python3-h11 tcpdump nftables
      tshark sip-tester"
full="valgrind chromium nodejs iperf3 openssh-server openssh-client postgresql debootstrap wrk nghttp2-client
      debhelper build-essential lintian podman crun prometheus"
bench="nginx-light libnginx-mod-stream haproxy wrk iperf3 nftables socat python3 iproute2 ethtool"
vm="qemu-system-x86 cpio kmod busybox-static"
lint="codespell clang-format clang-tidy cppcheck shellcheck python3"

[ $# -gt 0 ] || set -- build test
list=
if [ "$1" = list ]; then
	list=1
	shift
fi
wanted=""
for set_name in "$@"; do
	case $set_name in
	build) wanted="$wanted $build" ;;
	test) wanted="$wanted $build $test" ;;
	full) wanted="$wanted $build $test $full $vm" ;;
	bench) wanted="$wanted $build $bench" ;;
	vm) wanted="$wanted $build $test $vm" ;;
	lint) wanted="$wanted $build $lint" ;;
	*) echo "setup: unknown set '$set_name' (build test full bench vm lint)" >&2; exit 2 ;;
	esac
done

if [ -n "$list" ]; then
	# shellcheck disable=SC2086 # a list of package names
	echo $wanted
	exit 0
fi
missing=""
for p in $wanted; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] ||
		missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "setup: these packages are missing and installing them needs root:$missing" >&2
	exit 1
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
# Packages must not start their servers: benchmarks and tests start their own.
# policy-rc.d is Debian's interface for this.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && made_policy=1
fi
trap '[ -z "$made_policy" ] || rm -f $policy' EXIT
log=$(mktemp)
# shellcheck disable=SC2086 # a list of package names
if ! { apt-get -q update && apt-get -q install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "setup: apt-get failed; the whole output is in $log" >&2
	exit 1
fi
rm -f "$log"
