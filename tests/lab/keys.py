"""The lab's signing keys, which are deleted together with the lab's folder."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.system.process import Arg, run

# RSA, because older versions of RPM cannot verify elliptic-curve signatures.
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

# Files per run of rpmsign.
BATCH = 64


@dataclass(frozen=True)
class Key:
    """A key pair: the fingerprint, and the public and secret keys in ASCII armour."""

    fingerprint: str
    public: str
    secret: str

    @contextlib.contextmanager
    def home(self) -> Iterator[Path]:
        """Make a GnuPG home with the key, at a short path because it holds the agent's socket."""
        with _home() as folder:
            run(["gpg", "--homedir", folder, "--batch", "--import"], stdin=self.secret)
            yield folder

    def sign_packages(self, paths: Sequence[Path]) -> None:
        """Sign the RPMs at paths in place."""
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
        """Write the signature of the file at path to <path>.asc."""
        with self.home() as home:
            run(
                [
                    "gpg", "--homedir", home, "--batch", "--yes", "--armor", "--detach-sign",
                    "--local-user", self.fingerprint, path,
                ]
            )  # fmt: skip


def obtain(folder: Path, name: str) -> Key:
    """Return the key called name in folder, after making it if it is missing."""
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
