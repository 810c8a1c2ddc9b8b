"""The lab's keys: thrown away with the cache, never Amazon's."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.system.process import Arg, run

# What RPM 4.16 and newer verify: no elliptic curves, for old ones do not know them.
PARAMETERS = """\
%no-protection
Key-Type: RSA
Key-Length: 3072
Key-Usage: sign
Name-Real: {name} (lab, not Amazon)
Name-Email: lab@finch.invalid
Expire-Date: 0
%commit
"""

# Files that rpmsign gets at once.
BATCH = 64


@dataclass(frozen=True)
class Key:
    """A key: its fingerprint, and its two halves as ASCII armour."""

    fingerprint: str
    public: str
    secret: str

    @contextlib.contextmanager
    def home(self) -> Iterator[Path]:
        """A GnuPG home with the key, of a short name, since the agent's socket is in it."""
        with _home() as folder:
            run(["gpg", "--homedir", folder, "--batch", "--import"], stdin=self.secret)
            yield folder

    def sign_packages(self, paths: Sequence[Path]) -> None:
        """Sign the RPMs at paths, in place."""
        with self.home() as home:
            macros = {
                "__gpg": shutil.which("gpg") or "gpg",
                "_gpg_name": self.fingerprint,
                "_gpg_path": home,
            }
            defines = [arg for name in macros for arg in ("--define", f"{name} {macros[name]}")]
            for first in range(0, len(paths), BATCH):
                batch = paths[first : first + BATCH]
                run(["rpmsign", *defines, "--addsign", *batch], env={"GNUPGHOME": str(home)})

    def sign_detached(self, path: Path) -> None:
        """Write path's signature beside it, as <path>.asc."""
        with self.home() as home:
            run(
                [
                    "gpg", "--homedir", home, "--batch", "--yes", "--armor", "--detach-sign",
                    "--local-user", self.fingerprint, path,
                ]
            )  # fmt: skip


def obtain(folder: Path, name: str) -> Key:
    """The key called name that is kept in folder, made if there is none."""
    public, secret = folder / f"{name}.public", folder / f"{name}.secret"
    if not public.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _home() as home:
            gpg: list[Arg] = ["gpg", "--homedir", home, "--batch"]
            run([*gpg, "--generate-key"], stdin=PARAMETERS.format(name=name))
            text = run([*gpg, "--armor", "--export-secret-keys"]).stdout
            secret.touch(mode=0o600)
            secret.write_text(text)
            public.write_text(run([*gpg, "--armor", "--export"]).stdout)
    return Key(_fingerprint(public), public.read_text(), secret.read_text())


def _fingerprint(path: Path) -> str:
    with _home() as home:
        shown = run(
            ["gpg", "--homedir", home, "--batch", "--with-colons", "--show-keys", path]
        ).stdout
    return next(line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr:"))


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        try:
            yield Path(folder)
        finally:
            run(["gpgconf", "--homedir", folder, "--kill", "all"], check=False)
