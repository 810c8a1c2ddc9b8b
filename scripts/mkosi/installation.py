"""Install mkosi into a virtual environment."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

from filelock import FileLock

from scripts.mkosi import package
from scripts.mkosi.source import Mkosi
from scripts.system.errors import HarnessError


def install(mkosi: Mkosi, site: Path | None = None) -> None:
    """Put mkosi into site (by default this environment's site-packages), unless it is there.

    An mkosi that is there counts only if all its files are the expected ones. The lock is for
    builds in several checkouts that share an environment.
    """
    site = site or Path(sysconfig.get_paths()["purelib"])
    installed = site / "mkosi"
    with FileLock(site / ".mkosi.lock"):
        package.drop_bytecode(installed)
        if installed.is_symlink() or package.digest(installed) != mkosi.digest:
            _replace(mkosi, site)


def _replace(mkosi: Mkosi, site: Path) -> None:
    """Replace whatever mkosi is in site. The folder appears under its name when it is complete.

    Raises HarnessError if the mkosi to install was changed meanwhile.
    """
    new = site / ".mkosi.new"
    for old in (new, site / "mkosi", *site.glob("mkosi-*.dist-info")):
        if old.is_symlink():
            old.unlink()
        shutil.rmtree(old, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(mkosi.folder / "mkosi", new, symlinks=True, ignore=ignored)
    if package.digest(new) != mkosi.digest:
        raise HarnessError(f"{mkosi.folder} was changed while mkosi was installed from it")
    info = site / f"mkosi-{mkosi.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: mkosi\nVersion: {mkosi.version}\n"
    )
    new.rename(site / "mkosi")
