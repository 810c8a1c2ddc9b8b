#!/bin/sh
# Writes the environment of logins, and ends the sessions that began without it. Only then the host
# may open the session that it keeps.
set -eu

touch /etc/environment
before=$(cat /etc/environment)
sed -i '/^#LIMA-START$/,/^#LIMA-END$/d' /etc/environment
cat "$LIMA_CIDATA_MNT/etc_environment" >>/etc/environment

if [ "$before" != "$(cat /etc/environment)" ]; then
	loginctl terminate-user "$LIMA_CIDATA_USER" || true # it may have no session
fi
cp "$LIMA_CIDATA_MNT/meta-data" /run/lima-ssh-ready
