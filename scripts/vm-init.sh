#!/bin/sh
# SPDX-License-Identifier: MIT
# The first process of a test guest, started by the initramfs of vmtest.sh: the root is the
# host's, /mnt/top the checkout, /mnt/kernel the folder with the modules (all three read-only), /mnt/out
# takes the results and has the job.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
off() {
	sync
	echo 1 >/proc/sys/kernel/sysrq
	echo o >/proc/sysrq-trigger
	sleep 30
}
: >/mnt/out/booted
if [ -e /mnt/out/probe ]; then off; fi
for dir in /tmp /run /var/tmp; do mount -t tmpfs tmpfs $dir; done
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
mkdir -p /run/netns /run/lock
# The shared root is read-only and may have no /lib/modules: modprobe, also when called by the kernel, uses the
# kernel's own folder.
printf '#!/bin/sh\nexec /sbin/modprobe -d /mnt/kernel "$@"\n' >/run/modprobe
chmod 755 /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
for m in veth 8021q bridge tun dummy sch_ingress cls_bpf af_packet tcp_bbr; do /run/modprobe "$m"; done
ip link set lo up
cd /mnt/top || off
{
	echo "kernel $(uname -r)"
	L7MP_BUILD=build L7MP_VM=1 /bin/sh /mnt/out/job
	status=$?
} >/mnt/out/results 2>&1
echo $status >/mnt/out/status
off
