#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What a fresh Debian 12 box needs, by the scripts that `make` uses everywhere: packages and a build;
# `provision.sh vmtest` runs the suites on the other kernels as well.
set -eu
export DEBIAN_FRONTEND=noninteractive
cd "${L7MP_DIR:-/l7mp}" # Vagrant runs a copy of this file from /tmp
command -v make >/dev/null || { apt-get -q update; apt-get -q install -y --no-install-recommends make; }
scripts/setup.sh build test vm lint
make -s -j"$(nproc)"
if [ "${1:-}" = vmtest ]; then
	make vmtest
fi
