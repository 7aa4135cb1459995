#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Builds and tests this tree on Debian 13 (libwebsockets 4.3, gcc 14, clang 19) in a chroot.
#
#   scripts/debian13.sh prepare          makes the chroot, or brings its packages up to date
#   scripts/debian13.sh run COMMAND...   runs a command in the tree's copy in the chroot
#   scripts/debian13.sh path             prints where the chroot is
#   scripts/debian13.sh base SUITE       makes a minimal system of a release (bookworm, trixie), and prints where it is
#
# The chroots are kept in a cache outside of the tree (L7MP_DEBIAN13, else $XDG_CACHE_HOME/l7mp/debian13; base-SUITE
# beside it); their packages come from the mirror that this machine's apt uses. Exit status
# 77: the chroot can't be created here, and the last line on stderr says why.
set -eu
cd "$(dirname "$0")/.."
tree=$PWD
root=${L7MP_DEBIAN13:-${XDG_CACHE_HOME:-$HOME/.cache}/l7mp/debian13}
suite=trixie

skip() {
	echo "debian13: $*" >&2
	exit 77
}

mirror() {
	# shellcheck disable=SC2016 # apt's own variable
	apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
		grep -v -e security -e backports | head -n 1
}

packages() {
	# The packages that setup.sh installs for building and testing, except those that these suites don't use.
	scripts/setup.sh list build test | tr ' ' '\n' |
		grep -v -e '^haproxy$' -e '^nginx' -e '^git$' -e '^$'
}

# The minimal system itself, in $root.
bootstrap() {
	[ "$(id -u)" = 0 ] || skip "needs root"
	command -v debootstrap >/dev/null || skip "debootstrap is not installed"
	[ -e "/usr/share/debootstrap/scripts/$suite" ] || skip "debootstrap does not know $suite"
	mkdir -p "$root.log" "$(dirname "$root")"
	[ ! -e "$root/.ready" ] || return 0
	site=$(mirror)
	[ -n "$site" ] || skip "this machine's apt has no Debian mirror"
	rm -rf "$root"
	debootstrap --variant=minbase "$suite" "$root" "$site" >"$root.log/debootstrap" 2>&1 ||
		skip "debootstrap failed: $(tail -n 1 "$root.log/debootstrap")"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	touch "$root/.ready"
}

prepare() {
	bootstrap
	wanted=$(packages)
	if [ "$wanted" != "$(cat "$root/.packages" 2>/dev/null)" ]; then
		# shellcheck disable=SC2086 # a list of package names
		inside sh -c 'apt-get -q update && DEBIAN_FRONTEND=noninteractive \
			apt-get -q install -y --no-install-recommends "$@"' sh $wanted ccache \
			>"$root.log/apt" 2>&1 || skip "apt-get failed in the chroot: $(tail -n 1 "$root.log/apt")"
		echo "$wanted" >"$root/.packages"
	fi
}

# Runs a command in the chroot with /proc, /sys and /dev in a mount namespace of its own, so that all mounts
# disappear when it ends.
inside() {
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount --pid --fork --kill-child sh -c '
		root=$1; shift
		mount --make-rprivate / && mount --bind "$root" "$root" && mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" &&
			mount --rbind /dev "$root/dev" && cp -L /etc/resolv.conf /etc/hosts "$root/etc" &&
			mount -t tmpfs tmpfs "$root/run" &&
			exec chroot "$root" /usr/bin/env -i PATH=/usr/lib/ccache:/usr/sbin:/usr/bin:/sbin:/bin \
				HOME=/root LANG=C.UTF-8 WERROR="${WERROR:-1}" "$@"' sh "$root" "$@"
}

# Copies the tree without its build results, which must not be mixed between distributions. Deletes
# files of an earlier copy that this tree does not have.
copy() {
	mkdir -p "$root/src/l7mp"
	find "$root/src/l7mp" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
	tar -C "$tree" --exclude=./build --exclude=./.git -cf - . | tar -C "$root/src/l7mp" -xf -
}

case ${1:-} in
prepare) prepare ;;
path) echo "$root" ;;
base)
	suite=${2:?suite}
	root=$(dirname "$root")/base-$suite
	bootstrap
	echo "$root"
	;;
run)
	shift
	prepare
	copy
	inside sh -c 'cd /src/l7mp && exec "$@"' sh "$@"
	;;
*)
	sed -n '5,14s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
