#!/bin/sh
# SPDX-License-Identifier: MIT
# Upgrades the running service to the installed program without loss (docs/upgrade.md). When the upgrade fails,
# the service is restarted. Does nothing when it does not run. Exit status: 0, or that of the restart.
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
# Obey the administrator's policy (policy-rc.d), if there is one.
if command -v deb-systemd-invoke >/dev/null; then
	deb-systemd-invoke restart "$unit"
else
	systemctl restart "$unit"
fi
