#!/bin/sh
# SPDX-License-Identifier: MIT
set -eu
apt-get -q update
apt-get -q install -y --no-install-recommends make
cd /l7mp
scripts/setup.sh build test vm lint
make
