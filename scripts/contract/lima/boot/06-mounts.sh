#!/bin/sh
# Mounts what cloud-init could not: it writes a mount point into /etc/fstab as it stands, and a blank
# ends the field there (https://github.com/canonical/cloud-init/issues/3603). fstab(5) has \040.
set -eu

case $LIMA_CIDATA_MOUNTTYPE in
virtiofs | 9p) ;;
*) exit 0 ;;
esac

tab=$(printf '\t')
number=0
while [ "$number" -lt "$LIMA_CIDATA_MOUNTS" ]; do
	eval "tag=\$LIMA_CIDATA_MOUNTS_${number}_TAG"
	eval "point=\$LIMA_CIDATA_MOUNTS_${number}_MOUNTPOINT"
	# Once for fstab, and once more for sed.
	escaped=$(printf %s "$point" | sed 's/\\/\\134/g; s/ /\\040/g; s/[\\&|]/\\&/g')
	sed -i "s|^$tag$tab.*$tab\($LIMA_CIDATA_MOUNTTYPE$tab\)|$tag$tab$escaped$tab\1|" /etc/fstab
	mkdir -p "$point"
	number=$((number + 1))
done
systemctl daemon-reload
mount -a -t "$LIMA_CIDATA_MOUNTTYPE"
