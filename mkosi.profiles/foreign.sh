#!/bin/sh
# Take the stand-ins (scripts/emulation/standins.py) out of the image, with the libraries of this machine's
# architecture that they are linked with.
set -eu
rm -r "$BUILDROOT/usr/lib/finch-natively"
rm -rf "${BUILDROOT:?}/usr/lib/$(uname -m)-linux-gnu"
