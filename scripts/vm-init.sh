#!/bin/sh
# SPDX-License-Identifier: MIT
# The first process of a test guest, started by the initramfs of vmtest.sh on the shared root.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
arg() { sed -n "s/.*$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
top=$(arg l7mp_top)
vm=$(arg l7mp_vm)
suites=$(arg l7mp_suites | tr ',' ' ')
off() {
	echo 1 >/proc/sys/kernel/sysrq
	sync
	echo o >/proc/sysrq-trigger
	sleep 30
}
for dir in /tmp /run /var/tmp /mnt; do mount -t tmpfs tmpfs $dir; done
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
mkdir -p /run/netns /run/lock /mnt/out
# The shared root may have no /lib/modules and can get none: modules come from the unpacked package,
# also when the kernel asks for them itself.
cat >/run/modprobe <<EOF
#!/bin/sh
exec /sbin/modprobe -d "$vm/root" "\$@"
EOF
chmod 755 /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out /mnt/out || off
: >/mnt/out/booted
if [ -e /mnt/out/probe ]; then off; fi
uname -r
for m in veth 8021q bridge tun dummy sch_ingress cls_bpf af_packet; do /run/modprobe "$m"; done
ip link set lo up
cd "$top" || off
{
	echo "kernel $(uname -r)"
	# The programs as shipped: sanitizers under emulation take hours.
	# shellcheck disable=SC2086 # a list of suites
	L7MP_BUILD=build L7MP_VM=1 /usr/bin/python3 selftests/run.py --mode fast -j 1 $suites
	status=$?
	echo "status $status"
} >/mnt/out/results 2>&1
sed -n 's/^status //p' /mnt/out/results | tail -n 1 >/mnt/out/status
off
