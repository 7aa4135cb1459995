#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs the BPF and namespace suites on other kernels, in QEMU:
#
#   scripts/vmtest.sh [6.1] [6.12] [PATH/TO/bzImage ...]        default: both Debian kernels
#
# The guest's root is this machine's root, shared read-only over 9p, so that what runs here runs
# there; only the kernel and its modules are others. Kernels come from Debian's packages,
# unpacked below build/vm and never installed. Results and the console's log are left in
# build/vm/<kernel>/. VM_ACCEL=kvm or tcg forces the accelerator; without it KVM is
# used where a guest really boots with it, else emulation. VM_SUITES names the suites.
set -eu
cd "$(dirname "$0")/.."
top=$PWD
suites=${VM_SUITES:-bpf netns}
memory=${VM_MEMORY:-3072}
limit=${VM_TIMEOUT:-1500}
[ $# -gt 0 ] || set -- 6.1 6.12

# The newest Debian package of a kernel series: signed, not cloud, not rt.
package_of() {
	apt-cache pkgnames "linux-image-$1" |
		grep -E "^linux-image-${1}([.][0-9]+)+(-[0-9]+|[+]deb12)-amd64\$" | sort -V | tail -n 1
}

fetch() { # fetch SERIES DIR: unpacks the package into DIR
	package=$(package_of "$1")
	[ -n "$package" ] || { echo "vmtest: Debian has no linux-image for $1" >&2; return 1; }
	[ -e "$2/package" ] && [ "$(cat "$2/package")" = "$package" ] && return 0
	rm -rf "$2"
	mkdir -p "$2/deb"
	(cd "$2/deb" && apt-get -q download "$package" >/dev/null 2>"$2/apt.log") ||
		{ cat "$2/apt.log" >&2; return 1; }
	dpkg-deb -x "$2"/deb/*.deb "$2/root"
	rm -r "$2/deb"
	version=$(ls "$2/root/lib/modules")
	depmod -b "$2/root" "$version"
	echo "$package" >"$2/package"
}

# busybox, the modules that reach the shared root, and an init that goes there.
initramfs() { # initramfs DIR VERSION
	rm -rf "$1/initramfs"
	mkdir -p "$1/initramfs/bin" "$1/initramfs/lib/modules" "$1/initramfs/newroot" "$1/initramfs/proc" \
		"$1/initramfs/sys" "$1/initramfs/dev"
	cp "$(command -v busybox)" "$1/initramfs/bin/busybox"
	: >"$1/initramfs/modules.order"
	for module in virtio_pci 9pnet_virtio 9p; do
		modprobe -S "$2" -d "$1/root" --show-depends "$module" 2>/dev/null
	done | sed -n 's/^insmod //p' | awk '!seen[$1]++ {print $1}' | while read -r file; do
		cp "$file" "$1/initramfs/lib/modules/"
		basename "$file" >>"$1/initramfs/modules.order"
	done
	cat >"$1/initramfs/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
while read -r m; do $b insmod /lib/modules/$m; done < /modules.order
opts=trans=virtio,version=9p2000.L,msize=512000,cache=loose
$b mount -t 9p -o ro,$opts hostroot /newroot || { echo "vmtest: no shared root"; $b poweroff -f; }
for d in proc sys dev; do $b mount --move /$d /newroot/$d; done
exec $b switch_root /newroot /bin/sh "$($b sed 's/.*l7mp_init=\([^ ]*\).*/\1/' /newroot/proc/cmdline)"
INIT
	chmod +x "$1/initramfs/init"
	(cd "$1/initramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$1/initrd.gz"
}

boot() { # boot DIR KERNEL ACCEL SECONDS
	cpu=max
	[ "$3" = kvm ] && cpu=host
	how=$3 # no local variables in sh: `accel` is the caller's
	[ "$3" = tcg ] && how=tcg,thread=multi
	timeout "$4" qemu-system-x86_64 -accel "$how" -cpu "$cpu" -smp 2 -m "$memory" -display none \
		-no-reboot -nic none -monitor none -serial "file:$1/console.log" \
		-kernel "$2" -initrd "$1/initrd.gz" \
		-append "console=ttyS0 panic=-1 quiet l7mp_init=$top/scripts/vm-init.sh l7mp_top=$top l7mp_vm=$1 l7mp_suites=$(echo "$suites" | tr ' ' ',')" \
		-fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap \
		-device virtio-9p-pci,fsdev=root,mount_tag=hostroot \
		-fsdev "local,id=out,path=$1/out,security_model=none" \
		-device virtio-9p-pci,fsdev=out,mount_tag=out </dev/null >"$1/qemu.log" 2>&1
}

run() { # run NAME DIR KERNEL
	mkdir -p "$2/out"
	rm -f "$2/out/"*
	accel=${VM_ACCEL:-tcg}
	if [ -z "${VM_ACCEL:-}" ] && [ -w /dev/kvm ]; then
		: >"$2/out/probe"
		boot "$2" "$3" kvm 20 || true
		[ ! -e "$2/out/booted" ] || accel=kvm
		rm -f "$2/out/"*
	fi
	echo "vmtest: $1: booting ($accel)"
	boot "$2" "$3" "$accel" "$limit" || true
	if [ ! -e "$2/out/status" ]; then
		echo "vmtest: $1: the guest gave no result; the end of its console:" >&2
		tail -n 30 "$2/console.log" "$2/qemu.log" >&2
		return 1
	fi
	sed "s/^/[$1] /" "$2/out/results"
	return "$(cat "$2/out/status")"
}

failed=""
for kernel in "$@"; do
	if [ -f "$kernel" ]; then
		name=$(basename "$kernel")
		dir=$top/build/vm/$name
		mkdir -p "$dir"
		image=$(realpath "$kernel")
		[ -d "$dir/root/lib/modules" ] ||
			{ echo "vmtest: put the modules of $kernel below $dir/root/lib/modules" >&2; exit 2; }
	else
		name=$kernel
		dir=$top/build/vm/$name
		fetch "$kernel" "$dir" || { failed="$failed $name"; continue; }
		image=$(ls "$dir"/root/boot/vmlinuz-*)
	fi
	initramfs "$dir" "$(ls "$dir/root/lib/modules")"
	run "$name" "$dir" "$image" || failed="$failed $name"
done
[ -z "$failed" ] || { echo "vmtest: failed:$failed" >&2; exit 1; }
echo "vmtest: passed: $*"
