"""Checks that the published disk is, bit for bit, the one that booted.

The boot test and the build may have run on other machines: only digests are compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts import catalog
from scripts.build.manifest import ListedFile
from scripts.formats import qcow2
from scripts.formats.qcow2 import Qcow2Error
from scripts.publish import sources
from scripts.publish.release import Build
from scripts.publish.sources import AGAIN
from scripts.stages.artifacts import BOOT_TEST
from scripts.stages.records import Record
from scripts.system import strict
from scripts.system.errors import HarnessError
from scripts.system.process import Arg, CommandError, last_line

# A result is a few KB, with the guest's last words; it is read whole.
LARGEST_RESULT = 16 << 20  # bytes

PASSED = "passed"


def check(build: Build) -> None:
    """Raise HarnessError unless the disk of build passed its boot test, whatever is published.

    Container images and the like are not booted themselves. They are published only beside a disk
    that has booted and was made from the very same base.
    """
    disk = _disk(build)
    _check_result(build, disk)
    _check_bases(build)


def check_disks(build: Build, qemu_img: Sequence[Arg], work: Path) -> None:
    """Raise HarnessError unless each form of the disk in build has the content of the raw image.

    The raw image itself need not be there: its digest is in the manifest, and `check` compares that
    with the one that booted. qemu_img is the command that starts qemu-img, and work is a folder for
    a copy that nobody else writes to.
    """
    for name in _converted(build):
        disk = _listed(build)
        if not disk:
            raise _other_disk(build, name, "the manifest does not list that")
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work, prefix="disk-") as folder:
            own = Path(folder, "disk.qcow2")
            sources.copy(build.out, name, own, build.sha512[name])
            try:
                found = qcow2.disk_digest(own, disk.size, qemu_img, Path(folder))
            except (Qcow2Error, CommandError) as error:
                reason = last_line(error.output) if isinstance(error, CommandError) else ""
                raise _other_disk(build, name, reason or str(error)) from error
        if found != disk.sha512:
            raise _other_disk(build, name, "its content differs")
    raw = _listed(build)
    is_here = raw and (build.out / raw.name).exists()
    if raw and is_here and sources.digest(build.out, raw.name) != raw.sha512:
        raise sources.changed(build.out / raw.name)


def _other_disk(build: Build, name: str, reason: str) -> HarnessError:
    return HarnessError(
        f"{build.out / name} is not the disk of {catalog.DISK_IMAGE}: {reason}", hint=AGAIN
    )


def _converted(build: Build) -> list[str]:
    """Return the names of the artifacts in build that hold the disk in QEMU's own format."""
    names = catalog.artifacts(catalog.DISK)
    return [name for name in names if name.endswith(".qcow2") and name in build.sha512]


def _listed(build: Build) -> ListedFile | None:
    """Return the raw disk image that build lists, or None if it lists none."""
    return next((one for one in build.manifest.artifacts if one.name == catalog.DISK_IMAGE), None)


def _disk(build: Build) -> ListedFile:
    """Return the raw disk image that build lists. Raises HarnessError if it lists none."""
    if listed := _listed(build):
        return listed
    raise HarnessError(
        f"{build.out} was built without the {catalog.DISK}, so nothing in it has been booted",
        hint=f"build all images; {catalog.option('allow-unbooted')} publishes it anyway",
    )


def _check_result(build: Build, disk: ListedFile) -> None:
    again = catalog.command(
        "boot-test", catalog.flag("distribution"), build.distribution.name, arch=build.arch.name
    )
    anyway = f"{catalog.option('allow-unbooted')} publishes it anyway"
    which = f"the {catalog.DISK} in {build.out}"
    if not (build.out / BOOT_TEST).exists():
        raise HarnessError(f"{which} has not been booted", hint=f"{again}; {anyway}")
    try:
        result = _read_result(build)
        subject = (result["distribution"], result["arch"], result["disk"])
        failures = list(_failures(result))
    except strict.ODDITIES as error:
        raise HarnessError(
            f"{build.out / BOOT_TEST} is not the result of a boot test: {error!r}", hint=again
        ) from error
    if subject != (build.distribution.name, build.arch.name, disk.sha512):
        raise HarnessError(
            f"the boot test in {build.out} tested a different {catalog.DISK}", hint=again
        )
    if failures:
        raise HarnessError(f"{which} failed its boot test: {failures[0]}", hint=anyway)


def _read_result(build: Build) -> Mapping[str, Any]:
    with sources.opened(build.out, BOOT_TEST) as file:
        text = file.read(LARGEST_RESULT + 1)
    if len(text) > LARGEST_RESULT:
        raise ValueError(f"it is larger than {LARGEST_RESULT} bytes")
    result: Mapping[str, Any] = strict.loads(text)
    return result


def _failures(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a boot test did not pass: its verdict, and each check that was not passed."""
    if result["passed"] is not True:
        yield str(result["reason"])
    if not result["checks"]:
        yield "it made no checks"
    for check in result["checks"]:
        if check["status"] != PASSED:
            yield f"{check['name']} has {check['status']}: {check['reason']}"


def _check_bases(build: Build) -> None:
    """Raise HarnessError if an image in build and the disk were made from different bases."""
    booted = _lineage(build.records, catalog.DISK)
    names = {name for name, _ in booted}
    if catalog.ADDITIONS not in names:
        raise HarnessError(
            f"{build.out} does not say what the {catalog.DISK} was made from", hint=AGAIN
        )
    for image in build.images:
        others = sorted({name for name, _ in _lineage(build.records, image) - booted} & names)
        if others:
            raise HarnessError(
                f"{image} in {build.out} was made from another {others[0]} than the "
                f"{catalog.DISK} that booted",
                hint=AGAIN,
            )


def _lineage(records: Mapping[str, Record], image: str) -> set[tuple[str, str]]:
    """Return all stages that image was made from, each with the digest of that very build."""
    found: set[tuple[str, str]] = set()
    left = [image]
    while left:
        record = records.get(left.pop())
        needs = set(record.built_from.items()) if record else set()
        left += [name for name, _ in needs - found]
        found |= needs
    return found
