"""A Debian archive of one package for tests, signed with a throw-away key and dated at will."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.system.digests import file_digest
from scripts.system.process import run
from tests.lab.keys import Key

DAY = 24 * 3600

SUITE = "trixie"

CONTROL = """\
Package: {name}
Version: 1
Architecture: all
Maintainer: The lab <lab@finch.invalid>
Description: a package of the lab
"""


@dataclass(frozen=True)
class DebianArchive:
    """An archive below the folder www, which a server serves, and its keyring."""

    www: Path
    key: Key
    package: str = "finch-lab"

    @property
    def root(self) -> Path:
        """The folder that a mirror calls debian/."""
        return self.www / "debian"

    @property
    def keyring(self) -> Path:
        """The path of the public key, as Signed-By takes it."""
        return self.www / "key.asc"

    @property
    def deb(self) -> Path:
        """The path of the one package."""
        return self.root / f"pool/{self.package}_1_all.deb"

    def publish(
        self,
        *,
        expires_in: float | None = 7 * DAY,
        signed: bool = True,
        detached: bool = False,
        codename: str = SUITE,
    ) -> None:
        """Write the archive with an index that expires in so many seconds, None for never.

        codename is the release that the index says it is of. A detached signature is in a file of
        its own.
        """
        self._pack()
        index = self.root / f"dists/{SUITE}/main/binary-amd64/Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(
            f"{CONTROL.format(name=self.package).strip()}\n"
            f"Filename: {self.deb.relative_to(self.root)}\n"
            f"Size: {self.deb.stat().st_size}\nSHA256: {file_digest(self.deb)}\n"
        )
        self.keyring.write_text(self.key.public)
        release = index.parents[2] / "Release"
        release.write_text(self._release(index, codename, expires_in))
        for name in ("InRelease", "Release.gpg"):
            release.with_name(name).unlink(missing_ok=True)
        if signed:
            self._sign(release, detached=detached)

    def _pack(self) -> None:
        if self.deb.exists():
            return
        tree = self.www / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(CONTROL.format(name=self.package))
        self.deb.parent.mkdir(parents=True)
        run(["dpkg-deb", "--root-owner-group", "--build", tree, self.deb])

    def _release(self, index: Path, codename: str, expires_in: float | None) -> str:
        dates = {"Date": min(time.time(), time.time() + (expires_in or 0)) - DAY}
        if expires_in is not None:
            dates["Valid-Until"] = time.time() + expires_in
        shown = "".join(
            f"{name}: {email.utils.formatdate(when, usegmt=True)}\n" for name, when in dates.items()
        )
        return (
            f"Origin: Debian\nSuite: stable\nCodename: {codename}\n{shown}"
            "Architectures: all amd64 arm64\nComponents: main\nSHA256:\n"
            f" {file_digest(index)} {index.stat().st_size} main/binary-amd64/Packages\n"
        )

    def _sign(self, release: Path, *, detached: bool) -> None:
        how, name = ("--detach-sign", "Release.gpg") if detached else ("--clearsign", "InRelease")
        with self.key.home() as home:
            run(
                [
                    "gpg", "--homedir", home, "--batch", "--yes", "--armor", how,
                    "--local-user", self.key.fingerprint,
                    "--output", release.with_name(name), release,
                ]
            )  # fmt: skip
