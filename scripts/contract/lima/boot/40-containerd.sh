#!/bin/sh
# Starts containerd as the seed asks: for the system, for the user, or not at all.
set -eu

if [ "$LIMA_CIDATA_CONTAINERD_SYSTEM" = 1 ]; then
	systemctl enable --now containerd.service
fi
if [ "$LIMA_CIDATA_CONTAINERD_USER" = 1 ]; then
	until [ -S "/run/user/$LIMA_CIDATA_UID/systemd/private" ]; do sleep 1; done
	sudo -iu "$LIMA_CIDATA_USER" "XDG_RUNTIME_DIR=/run/user/$LIMA_CIDATA_UID" \
		containerd-rootless-setuptool.sh install
fi
