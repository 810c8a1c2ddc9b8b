"""mkosi as test_runner.py has it play, and its sandbox: what each image comes to is told in a file.

Arguments are the folder of the play, and then mkosi's, or those of `sandbox.py … -- PROGRAM …`.
"""

import gzip
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


def mkosi() -> None:
    stage = value("--image-id")
    output = Path(value("--output-directory"))
    told = attempt(stage)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if told.get("is_stubborn") else end)
    given = {path.name: path.read_text() for path in output.iterdir() if path.is_file()}
    packages = Path(value("--package-cache-dir"))
    cached = sorted(path.name for path in packages.rglob("*.deb"))
    here = os.fspath(Path.cwd())
    note("start", stage, argv=sys.argv, env=dict(os.environ), given=given, cached=cached, cwd=here)
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
