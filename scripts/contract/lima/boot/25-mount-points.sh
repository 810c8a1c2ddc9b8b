#!/bin/sh
# Makes the mount points that the user mounts over, by reverse-sshfs.
set -eu

[ "$LIMA_CIDATA_MOUNTTYPE" = reverse-sshfs ] || exit 0

number=0
while [ "$number" -lt "$LIMA_CIDATA_MOUNTS" ]; do
	eval "point=\$LIMA_CIDATA_MOUNTS_${number}_MOUNTPOINT"
	mkdir -p "$point"
	chown "$LIMA_CIDATA_USER:$(id -g "$LIMA_CIDATA_USER")" "$point"
	number=$((number + 1))
done
