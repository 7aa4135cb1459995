#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Copies the tree to DIR, breaks the BPF programs there on purpose, and builds:
#
#   scripts/break.sh HOW DIR
#
# Tests that pass on such a tree prove nothing: `VM_BREAK=HOW make vmtest` must fail.
#   ttl       the TTL and hop limit are not decremented
#   checksum  tc sends a computed UDP checksum of 0 as 0 ("no checksum") instead of 0xffff
#   source    IPv4 packets keep their source address
#   tcp       sequence numbers of TCP are not translated
set -eu
cd "$(dirname "$0")/.."
how=$1
dir=$2
case $how in
ttl) edit='s/\(->ttl\|->hop_limit\)--;/\1 -= 0;/' ;;
checksum) edit='s/| BPF_F_MARK_MANGLED_0//; s/\bBPF_F_MARK_MANGLED_0\b/0/' ;;
source) edit='s/ip->saddr = [^;]*;/;/' ;;
tcp) edit='s/s->seq + me->seq_delta/s->seq/' ;;
*) echo "break.sh: ttl, checksum, source or tcp, not '$how'" >&2; exit 2 ;;
esac
rm -rf "$dir"
mkdir -p "$dir/build"
cp -a Makefile VERSION bpf headers include userspace scripts selftests "$dir/"
# Keep modification times, so that make does not rebuild unchanged files.
for part in flags obj lib gen bpf bpf-tests l7mp-proxy l7mpctl; do
	[ ! -e "build/$part" ] || cp -a "build/$part" "$dir/build/"
done
broken=0
for file in "$dir"/headers/*.h "$dir"/bpf/*.c; do
	sed "$edit" "$file" >"$dir/edited"
	if cmp -s "$dir/edited" "$file"; then continue; fi
	cat "$dir/edited" >"$file"
	broken=$((broken + 1))
done
[ $broken -gt 0 ] || { echo "break.sh: found nothing to break for '$how': correct its pattern" >&2; exit 2; }
echo "break.sh: $how is broken in $dir"
make -s -C "$dir" -j"$(nproc)" all bpf-tests
