"""Makes artifacts from mkosi's output: converts disks, packs archives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from scripts.formats import archives, oci_layout, qcow2
from scripts.mkosi.sandbox import Tools
from scripts.system.progress import Task


def finish(
    folder: Path,
    artifacts: Iterable[str],
    tools: Tools,
    task: Task,
    labels: Callable[[], Mapping[str, str]],
) -> None:
    """Make the artifacts in folder that mkosi itself does not make.

    How one is made follows from its suffix: see catalog.toml. labels returns those of a container
    image. Raises CommandError if a program that makes one fails.
    """

    def convert(path: Path) -> None:
        task.step("Converting to qcow2")
        qcow2.to_qcow2(path.with_suffix(".raw"), tools)

    def pack_layout(path: Path) -> None:
        task.step("Writing the layout as one tar")
        oci_layout.label(path.with_suffix(""), labels())
        oci_layout.pack_oci(path.with_suffix(""))

    def pack_rootfs(path: Path) -> None:
        task.step("Packing the rootfs")
        compressor = tools.command(["pigz", "--no-name", "--stdout"])
        archives.pack_rootfs(path.with_suffix(""), compressor)

    def link(path: Path) -> None:
        archives.link_wsl(path.with_suffix(".tar.gz"))

    makers: dict[str, Callable[[Path], None]] = {
        ".qcow2": convert,
        ".tar": pack_layout,
        ".gz": pack_rootfs,
        ".wsl": link,
    }
    for name in artifacts:
        path = folder / name
        if maker := makers.get(path.suffix):
            maker(path)
