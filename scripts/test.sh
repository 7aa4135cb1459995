#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Builds the programs twice (as shipped, and under ASan and UBSan), then runs the
# suites: scripts/test.sh fast|full [suite ...]. fuzz/test_fuzz builds its own beside the others.
set -eu
cd "$(dirname "$0")/.."
mode=${1:-fast}
[ $# -eq 0 ] || shift
jobs=$(nproc)
make -s -j"$jobs" all bpf bpf-tests
make -s -j"$jobs" BUILD=build/asan SAN=asan OPT=-O1 all unit-bins
if [ "$mode" = full ]; then
	make -s -j"$jobs" BUILD=build/tsan SAN=tsan OPT=-O1 all
fi
exec /usr/bin/python3 selftests/run.py --mode "$mode" "$@"
