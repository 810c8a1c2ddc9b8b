"""Install mkosi into a virtual environment."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

from filelock import FileLock

from scripts.mkosi.source import Mkosi


def install(mkosi: Mkosi, site: Path | None = None) -> None:
    """Put mkosi into site (by default this environment's site-packages), unless it is there.

    Builds in several checkouts may share an environment, hence the lock.
    """
    site = site or Path(sysconfig.get_paths()["purelib"])
    with FileLock(site / ".mkosi.lock"):
        stamp = site / "mkosi" / ".digest"
        if not stamp.exists() or stamp.read_text() != mkosi.digest:
            _replace(mkosi, site)


def _replace(mkosi: Mkosi, site: Path) -> None:
    """Replace whatever mkosi is in site. The folder appears under its name when it is complete."""
    new = site / ".mkosi.new"
    for old in (new, site / "mkosi", *site.glob("mkosi-*.dist-info")):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(mkosi.folder / "mkosi", new, ignore=shutil.ignore_patterns("__pycache__"))
    (new / ".digest").write_text(mkosi.digest)
    info = site / f"mkosi-{mkosi.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: mkosi\nVersion: {mkosi.version}\n"
    )
    new.rename(site / "mkosi")
