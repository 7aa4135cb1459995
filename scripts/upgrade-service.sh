#!/bin/sh
# SPDX-License-Identifier: MIT
# Lets the running service be taken over by a process of the program that is installed now, without loss (docs/upgrade.md). When
# that does not happen, the service is restarted. Nothing is done when it does not run. Exit status: 0, or that of the restart.
# usage: upgrade-service [UNIT]
set -eu

unit=${1:-l7mp-proxy.service}
seconds=120 # the old process gives up before: see GET /upgrade

show() {
	systemctl show --property="$1" --value "$unit"
}

systemctl --quiet is-active "$unit" || exit 0
before=$(show MainPID)
systemctl kill --kill-who=main --signal=USR2 "$unit"
for _ in $(seq $seconds); do
	sleep 1
	now=$(show MainPID)
	if [ "$now" != "$before" ] && [ "$now" != 0 ]; then
		echo "$unit: process $now has taken over from $before; what can't move ends there in its time"
		exit 0
	fi
	status=$(show StatusText)
	case $status in
	*"upgrade has failed"*)
		echo "$unit: $status" >&2
		break
		;;
	esac
	systemctl --quiet is-active "$unit" || break
done
echo "$unit: it is restarted, its sessions end" >&2
# The administrator's policy (policy-rc.d) counts, where there is such a thing.
if command -v deb-systemd-invoke >/dev/null; then
	deb-systemd-invoke restart "$unit"
else
	systemctl restart "$unit"
fi
