"""mkosi as test_runner.py has it play, and its sandbox: what each image comes to is told in a file.

Arguments are the folder of the play, and then mkosi's, or those of `sandbox.py … -- PROGRAM …`.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

PLAY = Path(sys.argv[1])

PATIENCE_SECONDS = 20


def value(option: str) -> str:
    return next(value for name, value in pairwise(sys.argv) if name == option)


def note(what: str, stage: str, **more: object) -> None:
    """Tell the test of it, in one write, so that lines of several stages do not mix."""
    with (PLAY / "events").open("a") as file:
        file.write(json.dumps({"what": what, "stage": stage, **more}) + "\n")


def end(number: int, _frame: object) -> NoReturn:
    note(signal.Signals(number).name, value("--image-id"))
    sys.exit(1)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tar":
        member = tarfile.TarInfo("etc/os-release")
        member.size = len(text)
        with tarfile.open(path, "w") as archive:
            archive.addfile(member, io.BytesIO(text.encode()))
    else:
        path.write_text(text)


def attempt(stage: str) -> dict[str, Any]:
    """What to do this time; the last of what is told counts for all that follow."""
    told = PLAY / f"{stage}.json"
    attempts = json.loads(told.read_text()) if told.exists() else [{}]
    if len(attempts) > 1:
        told.write_text(json.dumps(attempts[1:]))
    first: dict[str, Any] = attempts[0]
    return first


STANZA = """\
Package: {name}
Version: {version}
Architecture: {arch}
Size: {size}
SHA256: {sha256}
"""

INRELEASE = """\
-----BEGIN PGP SIGNED MESSAGE-----

Codename: trixie
Date: {date}
-----BEGIN PGP SIGNATURE-----
"""


def sync() -> None:
    """Play apt that fetches an index: of bash, unless the test tells of other packages."""
    told = attempt("metadata")
    note("sync", "metadata", argv=sys.argv)
    for line in told.get("prints", []):
        print(line, flush=True)
    if told.get("status"):
        sys.exit(told["status"])
    metadata = Path(value("--cache-directory")) / "debian.metadata.cache"
    lists = metadata / "lib/apt/lists/mirror_debian_dists_trixie"
    date = told.get("date", "Sat, 21 Nov 2026 09:15:44 UTC")
    write(lists.with_name(f"{lists.name}_InRelease"), INRELEASE.format(date=date))
    indexed = told.get("index", {"bash_5.2_amd64": "bash"})
    text = "\n".join(stanza(name, contents) for name, contents in indexed.items())
    write(lists.with_name(f"{lists.name}_main_binary-amd64_Packages"), text)
    (Path(value("--package-cache-dir")) / "cache/apt/archives").mkdir(parents=True)


def stanza(package: str, contents: str) -> str:
    name, version, arch = package.split("_")
    data = contents.encode()
    sha256 = hashlib.sha256(data).hexdigest()
    return STANZA.format(name=name, version=version, arch=arch, size=len(data), sha256=sha256)


def mkosi() -> None:
    stage = value("--image-id")
    if stage == "metadata":
        sync()
        return
    output = Path(value("--output-directory"))
    told = attempt(stage)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if told.get("is_stubborn") else end)
    given = {path.name: path.read_text() for path in output.iterdir() if path.is_file()}
    packages = Path(value("--package-cache-dir"))
    cached = {path.name: path.read_text() for path in sorted(packages.rglob("*.deb"))}
    lists = [path.name for path in Path(value("--cache-directory")).rglob("*_Packages")]
    note(
        "start",
        stage,
        argv=sys.argv,
        env=dict(os.environ),
        given=given,
        cached=cached,
        lists=lists,
        cwd=os.fspath(Path.cwd()),
    )
    for line in told.get("prints", []):
        print(line, flush=True)
    if other := told.get("waits_for"):
        wait_for(other)
    time.sleep(told.get("sleeps", 0))
    for name, text in told.get("packages", {}).items():
        write(packages / name, text)
    for name, text in told.get("files", {stage: f"the image {stage}"}).items():
        write(output / name, text)
    if source := told.get("copies"):
        shutil.copytree(source, output, dirs_exist_ok=True)
    note("end", stage)
    sys.exit(told.get("status", 0))


def wait_for(stage: str) -> None:
    """Wait until stage has begun; a runner that does not begin it has failed."""
    giving_up = time.monotonic() + PATIENCE_SECONDS
    while f'"start", "stage": "{stage}"' not in (PLAY / "events").read_text():
        if time.monotonic() > giving_up:
            sys.exit(f"{stage} has not begun")
        time.sleep(0.01)


def sandboxed(argv: list[str]) -> None:
    """Play a program of the tools tree."""
    match argv:
        case ["pigz", *_]:
            sys.stdout.buffer.write(gzip.compress(sys.stdin.buffer.read(), mtime=0))
        case ["zstd", "--decompress", "--force", "-o", target, packed]:
            Path(target).write_bytes(gzip.decompress(Path(packed).read_bytes()))
        case ["qemu-img", "convert", *_, raw, qcow2]:
            shutil.copy(raw, qcow2)
        case ["qemu-img", "check", "--quiet", qcow2]:
            Path(qcow2).read_bytes()
        case _:
            sys.exit(f"nobody plays {argv}")


if __name__ == "__main__":
    if "--image-id" in sys.argv:
        mkosi()
    else:
        sandboxed(sys.argv[sys.argv.index("--") + 1 :])
