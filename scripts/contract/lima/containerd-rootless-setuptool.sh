#!/bin/sh
# Sets up containerd in the namespaces of the user who runs this, as a service of theirs.
set -eu

[ "$1" = install ]
[ "$(id -u)" -ne 0 ]
# The guest's own, which have the right to map IDs; those on the disk have not.
command -v newuidmap newgidmap

units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
data=${XDG_DATA_HOME:-$HOME/.local/share}/containerd
mkdir -p "$units" "$data"
cat >"$units/containerd.service" <<UNIT
[Unit]
Description=containerd for $(id -un)

[Service]
Environment=PATH=/usr/sbin:/usr/bin:/opt/containers/usr/sbin:/opt/containers/usr/bin
ExecStart=/opt/containers/usr/bin/rootlesskit --state-dir=%t/rootlesskit --copy-up=/etc --copy-up=/run \\
    --net=slirp4netns --slirp4netns-binary=/opt/containers/rootless/slirp4netns --cidr=10.0.4.0/24 \\
    --port-driver=builtin --pidns --cgroupns --evacuate-cgroup2=evacuated \\
    sh -c "rm -f /run/containerd && exec containerd --root $data"
Delegate=yes
KillMode=mixed

[Install]
WantedBy=default.target
UNIT
systemctl --user daemon-reload
systemctl --user enable --now containerd.service
