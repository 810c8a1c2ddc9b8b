"""Stand-ins for programs that maintainer scripts call, which would otherwise run under emulation.

A maintainer script is a program of the image, and so is everything that it calls. Under emulation
each program takes 50 ms to start, one in Perl half a second, and byte-compiling Python minutes. The
stand-ins are programs of this machine's architecture, and the scripts find them first on their PATH
(APT_CONF in scripts/distributions/debian.py). Some do nothing, because
mkosi.images/base/debian-natively.sh or mkosi does the same natively afterwards; the others run a
Perl program of the image with the Perl of the tools tree.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from scripts.arch import Arch, native
from scripts.catalog import Distribution
from scripts.emulation import elf
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError

# Where the stand-ins are in an image while it is built; mkosi.profiles/foreign.sh removes them.
FOLDER = "usr/lib/finch-natively"

DO_NOTHING = ("depmod", "py3compile", "update-ca-certificates")
# A base calls these a hundred times, which is half of the time that is left. Other Perl programs,
# such as adduser and debconf, spend their time in programs that stay emulated.
IN_PERL = ("deb-systemd-helper", "update-rc.d")

# Debian's perl-base and the libraries it is linked with, below usr/lib/<triplet>.
PERL = ("perl-base", "libc.so.6", "libcrypt.so.1", "libm.so.6")

# The loader is the interpreter, because the one that perl's ELF header names is not in the image.
LAUNCHER = f"""\
#!/{FOLDER}/ld.so /{FOLDER}/perl
my ($name) = $0 =~ m{{([^/]+)$}};
($0) = grep {{ -e }} map {{ "$_/$name" }} qw(/usr/sbin /usr/bin);
do $0;
die $@ if $@;
"""

DIGEST = text_digest(repr((FOLDER, DO_NOTHING, IN_PERL, PERL, LAUNCHER)))


def are_for(distribution: Distribution, arch: Arch) -> bool:
    """Whether images of distribution for arch are built with stand-ins.

    The scripts that would need them are Debian's.
    """
    return distribution.package_format == "deb" and not arch.is_native


def write_tree(tree: Path, tools: Path) -> None:
    """Write the stand-ins to the folder tree, which is laid over an image while it is built.

    tools is the root of the tools tree. Raises HarnessError if it has no loader.
    """
    shutil.rmtree(tree, ignore_errors=True)
    folder = tree / FOLDER
    folder.mkdir(parents=True)
    for name in DO_NOTHING:
        (folder / name).write_bytes(elf.says(native(), ""))
        (folder / name).chmod(0o755)
    libraries = Path("usr/lib") / f"{native()}-linux-gnu"
    shutil.copy(_loader(tools), folder / "ld.so")
    shutil.copy(tools / "usr/bin/perl", folder / "perl")
    shutil.copytree(tools / libraries / PERL[0], tree / libraries / PERL[0])
    for name in PERL[1:]:
        shutil.copy(tools / libraries / name, tree / libraries / name)
    for name in IN_PERL:
        (folder / name).write_text(LAUNCHER)
        (folder / name).chmod(0o755)


def _loader(tools: Path) -> Path:
    """Return the dynamic loader of the tools tree at tools. Raises HarnessError if it has none."""
    for path in tools.glob("usr/lib*/ld-linux-*.so.*"):
        if path.exists():
            return path
    raise HarnessError(
        f"the tools tree {tools} has no loader usr/lib*/ld-linux-*.so.*",
        hint=f"rm -r '{tools.parent}', then build again",
    )
