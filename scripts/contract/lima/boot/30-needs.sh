#!/bin/sh
# Fails if a program is missing that Lima would install at this point: without a network, that fails.
set -eu

needed="curl iptables resize2fs rsync sudo tar"
if [ "$LIMA_CIDATA_MOUNTTYPE" = reverse-sshfs ] && [ "$LIMA_CIDATA_MOUNTS" -gt 0 ]; then
	needed="$needed sshfs"
fi
if [ "$LIMA_CIDATA_CONTAINERD_USER" = 1 ]; then
	needed="$needed newuidmap fusermount3"
fi
[ ! -d /sys/fs/selinux ] || needed="$needed restorecon"

missing=
for program in $needed; do
	command -v "$program" || missing="$missing $program"
done
[ -z "$missing" ] || {
	echo "missing:$missing"
	exit 1
}
