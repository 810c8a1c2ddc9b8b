"""Stand-ins: what maintainer scripts of foreign packages call and would be emulated.

A maintainer script is a program of the image, and so are all that it calls. Under emulation each
start takes 50 ms, one of Perl half a second, and byte-compiling Python minutes. Here are programs
of this machine's architecture that are first on the PATH of the scripts (`sources.APT_CONF`):
those that do nothing, since mkosi.images/base/debian-natively.sh or mkosi itself does the same
natively afterwards, and those that run a Perl program of the image with the Perl of the tools tree.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from scripts.arch import Arch, native
from scripts.catalog import Distribution
from scripts.emulation import elf
from scripts.system.digests import text_digest

# Where they are in an image while it is built; mkosi.profiles/foreign.sh removes all of it.
FOLDER = "usr/lib/finch-natively"

DO_NOTHING = ("depmod", "py3compile", "update-ca-certificates")
# Called a hundred times for a base, they are half of what is left; others that are in Perl, such as
# adduser and debconf, spend their time in programs that stay emulated.
IN_PERL = ("deb-systemd-helper", "update-rc.d")

# Debian's perl-base, and what it is linked with, below usr/lib/<triplet>.
PERL = ("perl-base", "libc.so.6", "libcrypt.so.1", "libm.so.6")

# The loader is the interpreter, as the one whose path is in perl's ELF header is not in the image.
LAUNCHER = f"""\
#!/{FOLDER}/ld.so /{FOLDER}/perl
my ($name) = $0 =~ m{{([^/]+)$}};
($0) = grep {{ -e }} map {{ "$_/$name" }} qw(/usr/sbin /usr/bin);
do $0;
die $@ if $@;
"""

DIGEST = text_digest(repr((FOLDER, DO_NOTHING, IN_PERL, PERL, LAUNCHER)))


def are_for(distribution: Distribution, arch: Arch) -> bool:
    """Whether images of it have stand-ins while they are built: the scripts are Debian's."""
    return distribution.packages == "deb" and not arch.is_native


def write_tree(tree: Path, tools: Path) -> None:
    """Write to tree the stand-ins, for images that this machine does not run natively.

    tools is the root of the tools tree.
    """
    shutil.rmtree(tree, ignore_errors=True)
    folder = tree / FOLDER
    folder.mkdir(parents=True)
    for name in DO_NOTHING:
        (folder / name).write_bytes(elf.says(native(), ""))
        (folder / name).chmod(0o755)
    libraries = Path("usr/lib") / f"{native()}-linux-gnu"
    [loader] = [path for path in tools.glob("usr/lib*/ld-linux-*.so.*") if path.exists()][:1]
    shutil.copy(loader, folder / "ld.so")
    shutil.copy(tools / "usr/bin/perl", folder / "perl")
    shutil.copytree(tools / libraries / PERL[0], tree / libraries / PERL[0])
    for name in PERL[1:]:
        shutil.copy(tools / libraries / name, tree / libraries / name)
    for name in IN_PERL:
        (folder / name).write_text(LAUNCHER)
        (folder / name).chmod(0o755)
