#!/bin/sh
# Prepares the user for containers without root: an owned home folder, IDs of its own, delegated
# control groups, low ports, and a session that outlives the login.
set -eu

# Folders for mounts are made before the user exists, and belong to root then.
find "$LIMA_CIDATA_HOME" -xdev -user root -exec chown "$LIMA_CIDATA_USER" {} +

for file in /etc/subuid /etc/subgid; do
	grep -s -q "^$LIMA_CIDATA_USER:" "$file" || echo "$LIMA_CIDATA_USER:524288:1073741824" >>"$file"
done

mkdir -p /etc/systemd/system/user@.service.d
printf '[Service]\nDelegate=yes\n' >/etc/systemd/system/user@.service.d/lima.conf
systemctl daemon-reload

{
	[ ! -e /proc/sys/kernel/unprivileged_userns_clone ] || echo kernel.unprivileged_userns_clone=1
	echo net.ipv4.ping_group_range=0 2147483647
	echo net.ipv4.ip_unprivileged_port_start=0
} >/etc/sysctl.d/99-lima.conf
sysctl --system

systemctl start systemd-logind.service
loginctl enable-linger "$LIMA_CIDATA_USER"
