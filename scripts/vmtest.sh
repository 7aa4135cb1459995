#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs the BPF and namespace suites on other kernels, in QEMU:
#
#   scripts/vmtest.sh [6.1] [6.12] [PATH/TO/bzImage ...]        default: both Debian kernels
#
# A guest's root is this machine's root, shared read-only over 9p, so that programs which run here
# also run in the guest; only the kernel and its modules differ. Debian's kernels are unpacked from its packages
# below build/vm and never installed. The modules of a kernel that is given by path
# are searched in build/vm/NAME/root/lib/modules, beside it (../lib/modules), and in /lib/modules.
#
# Each kernel's results and console are in build/vm/NAME/ (results, console.log, qemu.log).
# The last lines count what passed, failed and was skipped on each; the exit status is 0 only
# when all suites passed on all kernels.
#
#   VM_SUITES="bpf netns"  the suites            VM_ONLY=TEXT[,TEXT...]  only files whose suite/name contains one
#   VM_JOBS=2              guests at a time      VM_TIMEOUT=1200, VM_MEMORY=1536  of one guest: seconds, MiB
#   VM_ACCEL=kvm|tcg       without it KVM is used where a guest really boots with it, else emulation
#   VM_COMMAND="COMMAND"   runs that in the guest, in the checkout, instead of suites (to look for a fault)
#   VM_BREAK=ttl           tests the tests: runs a copy of the tree whose programs are broken on
#                          purpose (scripts/break.sh lists how); must fail. Results: build/vm/NAME-BREAK/
set -eu
# Paths are relative to the caller's directory: resolve them before cd.
n=$#
while [ $n -gt 0 ]; do
	if [ -f "$1" ]; then set -- "$@" "$(realpath "$1")"; else set -- "$@" "$1"; fi
	shift
	n=$((n - 1))
done
cd "$(dirname "$0")/.."
top=$PWD
tree=$top
# The programs as shipped: sanitizers under emulation take hours.
command=${VM_COMMAND:-"/usr/bin/python3 selftests/run.py --mode fast -j 1 -k '${VM_ONLY:-}' ${VM_SUITES:-bpf netns}"}
memory=${VM_MEMORY:-1536}
limit=${VM_TIMEOUT:-1200}
jobs=${VM_JOBS:-2}
[ $# -gt 0 ] || set -- 6.1 6.12

# The newest Debian package of a kernel series: signed, not cloud, not rt.
package_of() {
	apt-cache pkgnames "linux-image-$1" |
		grep -E "^linux-image-${1}([.][0-9]+)+(-[0-9]+|[+]deb12)-amd64\$" | sort -V | tail -n 1
}

download() { # download SERIES DIR: its package into DIR/deb, its name into DIR/wanted
	package=$(package_of "$1")
	[ -n "$package" ] || return 1
	rm -rf "$2/deb"
	mkdir -p "$2/deb"
	echo "$package" >"$2/wanted"
	(cd "$2/deb" && apt-get -q download "$package" >>"$2/apt.log" 2>&1)
}

fetch() { # fetch SERIES DIR: unpacks the package into DIR
	mkdir -p "$2"
	have=$(cat "$2/package" 2>/dev/null || true)
	[ -z "$have" ] || [ "$have" != "$(package_of "$1")" ] || return 0
	: >"$2/apt.log"
	# The list of packages may be missing or old.
	if ! download "$1" "$2" && ! { apt-get -q update >>"$2/apt.log" 2>&1 && download "$1" "$2"; }; then
		[ -z "$have" ] || { echo "vmtest: $1: can't look for a newer one than $have"; return 0; }
		echo "vmtest: can't get Debian's linux-image for $1:" >&2
		tail -n 5 "$2/apt.log" >&2
		return 1
	fi
	rm -rf "$2/root" "$2/package"
	dpkg-deb -x "$2"/deb/*.deb "$2/root"
	rm -r "$2/deb"
	depmod -b "$2/root" "$(ls "$2/root/lib/modules")"
	mv "$2/wanted" "$2/package"
}

# The version string of a bzImage; its header has the offset.
version_of() {
	offset=$(od -An -tu2 -j 526 -N 2 "$1" | tr -d ' ')
	tail -c +$((offset + 513)) "$1" | head -c 200 | tr '\0' ' ' | cut -d ' ' -f 1
}

modules_of() { # modules_of IMAGE DIR: the folder that has lib/modules/VERSION
	for base in "$2/root" "$(dirname "$1")/.." ""; do
		[ ! -d "$base/lib/modules/$version" ] || { (cd "$base/" && pwd); return; }
	done
	echo "vmtest: no modules of $version: put them below $2/root/lib/modules" >&2
	return 1
}

# busybox, the modules that reach the shares, and an init that goes there. The checkout and the
# modules are shares of their own: whatever their paths, here they are /mnt/top and /mnt/kernel.
initramfs() { # initramfs DIR VERSION MODULES
	rm -rf "$1/initramfs"
	mkdir -p "$1/initramfs/bin" "$1/initramfs/lib/modules" "$1/initramfs/newroot" "$1/initramfs/proc" \
		"$1/initramfs/sys" "$1/initramfs/dev"
	cp "$(command -v busybox)" "$1/initramfs/bin/busybox"
	: >"$1/initramfs/modules.order"
	for module in virtio_pci 9pnet_virtio 9p; do
		modprobe -S "$2" -d "$3" --show-depends "$module" 2>/dev/null
	done | sed -n 's/^insmod //p' | awk '!seen[$0]++' | sed 's/ *$//' | while read -r file; do
		cp "$file" "$1/initramfs/lib/modules/"
		basename "$file" >>"$1/initramfs/modules.order"
	done
	cat >"$1/initramfs/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
share() { $b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,$3 $1 $2 || { echo "vmtest: no share $1"; $b poweroff -f; }; }
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
while read -r m; do $b insmod /lib/modules/$m; done < /modules.order
share root /newroot ro,cache=loose
$b mount -t tmpfs tmpfs /newroot/mnt
cd /newroot/mnt && $b mkdir top kernel out && cd /
share top /newroot/mnt/top ro,cache=loose
share kernel /newroot/mnt/kernel ro,cache=loose
share out /newroot/mnt/out rw
for d in proc sys dev; do $b mount --move /$d /newroot/$d; done
exec $b switch_root /newroot /bin/sh /mnt/top/scripts/vm-init.sh
INIT
	chmod +x "$1/initramfs/init"
	(cd "$1/initramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$1/initrd.gz"
	rm -rf "$1/initramfs"
}

share() { # share TAG PATH [OPTION]: commas are doubled for QEMU
	echo "local,id=$1,path=$(printf %s "$2" | sed 's/,/,,/g'),security_model=none,multidevs=remap${3:-}"
}

boot() { # boot DIR KERNEL MODULES ACCEL SECONDS: 124 when that was too short
	cpu=max
	[ "$4" != kvm ] || cpu=host
	# One TCG thread for both processors: with one per processor, a kernel that patches its code can hit
	# a breakpoint that it has just removed (int3 oops), and QEMU is slower.
	how=$4
	[ "$4" != tcg ] || how=tcg,thread=single
	# TCG translates code again when it is mapped at another address: norandmaps halves the cost of exec.
	# --foreground: a signal for our process group is for the guest too.
	timeout --foreground -k 5 "$5" qemu-system-x86_64 -accel "$how" -cpu "$cpu" -smp 2 -m "$memory" \
		-display none -no-reboot -nic none -monitor none -serial "file:$1/console.log" \
		-kernel "$2" -initrd "$1/initrd.gz" \
		-append "console=ttyS0 panic=-1 loglevel=5 mitigations=off norandmaps" \
		-fsdev "$(share root / ,readonly=on)" -device virtio-9p-pci,fsdev=root,mount_tag=root \
		-fsdev "$(share top "$tree" ,readonly=on)" -device virtio-9p-pci,fsdev=top,mount_tag=top \
		-fsdev "$(share kernel "$3" ,readonly=on)" -device virtio-9p-pci,fsdev=kernel,mount_tag=kernel \
		-fsdev "$(share out "$1/out")" -device virtio-9p-pci,fsdev=out,mount_tag=out \
		</dev/null >"$1/qemu.log" 2>&1 &
	guest=$!
	trap 'kill $guest 2>/dev/null; wait; exit 143' INT TERM HUP
	: >"$1/results"
	tail -n +1 -s 0.5 --pid="$guest" -f "$1/results" 2>/dev/null | sed -u "s/^/[$name] /" &
	rc=0
	wait "$guest" || rc=$?
	wait
	return $rc
}

# Kernel messages that indicate a bug. RCU stalls are excluded: a slow machine causes them, too.
stumbled() { grep -E 'Oops|BUG: (unable|KASAN|sleeping|scheduling)|WARNING: CPU|general protection|kernel panic' "$1"; }

run() { # run DIR KERNEL MODULES
	start=$(date +%s)
	rm -rf "$1/out"
	mkdir -p "$1/out"
	ln -sf out/results "$1/results"
	echo "$command" >"$1/out/job"
	accel=${VM_ACCEL:-tcg}
	if [ -z "${VM_ACCEL:-}" ] && [ -w /dev/kvm ]; then
		: >"$1/out/probe"
		boot "$1" "$2" "$3" kvm 20 || true
		[ ! -e "$1/out/booted" ] || accel=kvm
		rm -f "$1/out/probe" "$1/out/booted"
	fi
	echo "vmtest: $name: booting ($accel)"
	why=
	boot "$1" "$2" "$3" "$accel" "$limit" || why="the guest was ended after $limit s"
	count=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$1/results" | tail -n 1)
	status=$(cat "$1/out/status" 2>/dev/null || true)
	if [ -z "$why" ] && [ -z "$status" ]; then
		why="the guest gave no result"
	fi
	if [ -n "$why" ]; then
		echo "vmtest: $name: $why; the end of its console and of QEMU's output:" >&2
		tail -n 30 "$1/console.log" "$1/qemu.log" >&2
	elif stumbled "$1/console.log" >&2; then
		why="the kernel stumbled (console.log)"
	fi
	echo "$(uname_of "$1"): ${count:-no count}${why:+; $why} ($(($(date +%s) - start)) s)" >"$1/summary"
	[ -z "$why" ] && [ "$status" = 0 ] && [ -n "$count" ]
}

uname_of() { sed -n 's/^kernel //p' "$1/results"; }

name_of() { # what a kernel's folder below build/vm is called
	if [ -f "$1" ]; then basename "$1"; else echo "$1"; fi
}

one() { # one KERNEL: from its image to its result
	name=$(name_of "$1")
	dir=$top/build/vm/$name
	if [ -f "$1" ]; then
		image=$(realpath "$1")
		version=$(version_of "$image")
		base=$(modules_of "$image" "$dir") || return 1
	else
		image=$(echo "$dir"/root/boot/vmlinuz-*)
		version=$(ls "$dir/root/lib/modules")
		base=$dir/root
	fi
	[ -e "$base/lib/modules/$version/modules.dep" ] || depmod -b "$base" "$version"
	name=$name$suffix
	dir=$top/build/vm/$name
	mkdir -p "$dir"
	initramfs "$dir" "$version" "$base"
	run "$dir" "$image" "$base"
}

if [ "$(uname -m)" != x86_64 ]; then
	echo "vmtest: can't run a guest: only x86_64 is supported" >&2
	exit 77
fi
command -v qemu-system-x86_64 >/dev/null || { echo "vmtest: can't run a guest: no qemu-system-x86_64: make vmtest" >&2; exit 77; }
[ -x build/l7mp-proxy ] || { echo "vmtest: nothing is built: make vmtest" >&2; exit 2; }
suffix=${VM_BREAK:+-$VM_BREAK}
[ -z "$suffix" ] || tree=$top/build/vm/broken$suffix
if [ "$1" = --one ]; then # for the call below
	one "$2"
	exit
fi
[ -z "$suffix" ] || scripts/break.sh "$VM_BREAK" "$tree"
for kernel in "$@"; do
	rm -f "$top/build/vm/$(name_of "$kernel")$suffix/summary"
	[ -f "$kernel" ] || fetch "$kernel" "$top/build/vm/$kernel" || failed=1
done
[ -z "${failed:-}" ] || exit 77
printf '%s\0' "$@" | xargs -0 -n 1 -P "$jobs" scripts/vmtest.sh --one || failed=1
for kernel in "$@"; do
	name=$(name_of "$kernel")$suffix
	[ -s "build/vm/$name/summary" ] || { echo "did not run" >"build/vm/$name/summary"; failed=1; }
	echo "vmtest: $name: $(cat "build/vm/$name/summary")"
done
[ -z "${failed:-}" ] || { echo "vmtest: failed" >&2; exit 1; }
echo "vmtest: passed"
