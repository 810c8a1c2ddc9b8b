#!/bin/sh
# Installs and starts containerd as the seed asks: for the system, for the user, for both, or not at
# all. The programs, which Lima unpacks from an archive on its seed, are on a disk of their own here.
set -eu

[ "$LIMA_CIDATA_CONTAINERD_SYSTEM$LIMA_CIDATA_CONTAINERD_USER" ] || exit 0

mkdir -p /opt/containers
mountpoint -q /opt/containers || mount -o ro LABEL=containers /opt/containers
ln -sf /opt/containers/usr/bin/ctr /usr/local/bin/ctr

if [ "$LIMA_CIDATA_CONTAINERD_SYSTEM" = 1 ]; then
	mkdir -p /usr/local/lib/systemd/system
	cat >/usr/local/lib/systemd/system/containerd.service <<-'UNIT'
		[Unit]
		Description=containerd for the system

		[Service]
		Type=notify
		Environment=PATH=/opt/containers/usr/sbin:/opt/containers/usr/bin:/usr/sbin:/usr/bin
		ExecStart=/opt/containers/usr/bin/containerd --config /opt/containers/containerd.toml
		Delegate=yes
		KillMode=process
		OOMScoreAdjust=-999
		LimitNOFILE=infinity
		TasksMax=infinity

		[Install]
		WantedBy=multi-user.target
	UNIT
	systemctl daemon-reload
	systemctl enable --now containerd.service
fi
if [ "$LIMA_CIDATA_CONTAINERD_USER" = 1 ]; then
	until [ -S "/run/user/$LIMA_CIDATA_UID/systemd/private" ]; do sleep 1; done
	install -D -m 755 -t /usr/local/bin "$LIMA_CIDATA_MNT/containerd-rootless-setuptool.sh"
	sudo -iu "$LIMA_CIDATA_USER" "XDG_RUNTIME_DIR=/run/user/$LIMA_CIDATA_UID" \
		/usr/local/bin/containerd-rootless-setuptool.sh install
fi
