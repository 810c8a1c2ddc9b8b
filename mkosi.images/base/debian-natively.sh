#!/bin/sh
# What maintainer scripts would have done under emulation (scripts/emulation/standins.py), with the programs of
# the tools tree: the same release of Debian has the same.
set -eu

folders="/usr/lib/python3/dist-packages /usr/share/python3"
for folder in $folders; do
    if [ "$(readlink /usr/bin/python3)" = "$(readlink "$BUILDROOT/usr/bin/python3")" ]; then
        python3 -m compileall -q -s "$BUILDROOT" -p / "$BUILDROOT$folder"
    else
        mkosi-chroot python3 -m compileall -q "$folder"
    fi
done

update-ca-certificates --sysroot "$BUILDROOT"
# Each link to a certificate names it by its path in here.
find "$BUILDROOT/etc/ssl/certs" -type l -lname "$BUILDROOT/*" | while read -r link; do
    ln -sf "$(readlink "$link" | sed "s|^$BUILDROOT/*|/|")" "$link"
done
