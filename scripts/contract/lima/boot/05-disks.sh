#!/bin/sh
# Partitions and formats each empty extra disk, and mounts it where Lima does.
set -eu

number=0
while [ "$number" -lt "$LIMA_CIDATA_DISKS" ]; do
	eval "name=\$LIMA_CIDATA_DISK_${number}_NAME"
	eval "device=\$LIMA_CIDATA_DISK_${number}_DEVICE"
	eval "type=\$LIMA_CIDATA_DISK_${number}_FSTYPE"
	number=$((number + 1))

	if ! command -v "mkfs.$type"; then
		echo "$name is left alone: there is no mkfs.$type"
		continue
	fi
	device=$(readlink -f "/dev/$device")
	partition=${device}1
	if ! blkid "$partition"; then
		echo "type=linux, name=lima-$name" | sfdisk --label gpt "$device"
		udevadm settle
		# XFS takes a label of at most 12 bytes.
		"mkfs.$type" -L "$(printf %.12s "lima-$name")" "$partition"
	fi
	mkdir -p "/mnt/lima-$name"
	mount -t "$type" "$partition" "/mnt/lima-$name"

	# growpart's status is 1 if the partition fills the disk already.
	growpart "$device" 1 || [ $? -eq 1 ]
	case $type in
	ext4) resize2fs "$partition" ;;
	xfs) xfs_growfs "/mnt/lima-$name" ;;
	esac
done
