"""Writes report.html, a self-contained page about what was built and how it booted.

The page is made from files in out/ alone, so that both a build and a boot test can write it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError
from rich.filesize import decimal

from scripts import catalog
from scripts.build.manifest import BuiltImage, ListedFile, Manifest
from scripts.description import sbom
from scripts.formats import svg
from scripts.stages.artifacts import BOOT_TEST, CONTRACT, PROVENANCE, REPORT, SBOM
from scripts.system import strict
from scripts.system.errors import HarnessError
from scripts.system.files import write_text
from scripts.system.text import paragraph

# The page's Content Security Policy: it may show its own charts and styles, and run its one script.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
)


def write(out: Path) -> None:
    """Write the report about the build in out, unless out has no manifest that can be read.

    Raises HarnessError if another file in out that the report is made from is damaged.
    """
    manifest = Manifest.find(out)
    if not manifest:
        return
    try:
        text = _page(out, manifest)
    except (TemplateError, *strict.ODDITIES) as error:
        files = f"{PROVENANCE}, {SBOM}, {BOOT_TEST}, {CONTRACT}"
        raise HarnessError(
            f"{out / REPORT} cannot be made from {files}: one of them is damaged ({error!r})",
            hint="remove them, then build and boot again",
        ) from error
    write_text(out / REPORT, text)


def _page(out: Path, manifest: Manifest) -> str:
    """Return the report on the build in out. Raises one of `strict.ODDITIES` for damaged files."""
    provenance, bom, result, contract = (
        _read(out / name) for name in (PROVENANCE, SBOM, BOOT_TEST, CONTRACT)
    )
    plot = (out / BOOT_TEST).with_name("boot.svg")
    definition = provenance.get("predicate", {}).get("buildDefinition", {})
    script = Path(__file__).with_name("report.js").read_text()
    return _template().render(
        title=f"{manifest.distribution} {manifest.release} for {manifest.arch}",
        built=_moment(provenance),
        commit=_commit(definition),
        modified=len(definition.get("internalParameters", {}).get("modified", [])),
        artifacts=_artifacts(manifest.artifacts),
        stages=_stages(manifest.images),
        boot=_boot(result, manifest, plot) if result else None,
        contract={**contract, "stale": _is_stale(contract, manifest)} if contract else None,
        packages=_packages(bom),
        script=script,
        policy=POLICY.format(script=_hash(script)),
    )


def _hash(script: str) -> str:
    """Return the digest by which a page allows script (Content Security Policy Level 3)."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # what the guest printed is evidence, not markup
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = decimal
    return environment.get_template("report.html.j2")


def _shown(value: object) -> object:
    """Return value for the page; a text cannot affect the texts around it."""
    return paragraph(value) if type(value) is str else value


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at path, or {} if there is none."""
    try:
        data = strict.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _moment(provenance: Mapping[str, Any]) -> str:
    details = provenance.get("predicate", {}).get("runDetails", {})
    text = details.get("metadata", {}).get("finishedOn")
    moment = datetime.fromisoformat(text) if text else datetime.now(UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _commit(definition: Mapping[str, Any]) -> str:
    digests = (material["digest"] for material in definition.get("resolvedDependencies", []))
    return next((digest["gitCommit"] for digest in digests if "gitCommit" in digest), "")


def _artifacts(listed: Iterable[ListedFile]) -> list[dict[str, Any]]:
    """Return a row for each output. The files in a folder share a row."""
    rows: dict[str, dict[str, Any]] = {}
    for artifact in listed:
        name, is_file = artifact.output, artifact.output == artifact.name
        row = rows.setdefault(name, {"name": name, "size": 0, "sha512": "", "note": "", "files": 0})
        row["size"] += artifact.size
        row["files"] += 1
        row["sha512"] = artifact.sha512 if is_file else ""
        row["note"] = "" if is_file else f"{row['files']} files"
    return _shares(list(rows.values()), "size")


def _stages(images: Mapping[str, BuiltImage]) -> list[dict[str, Any]]:
    """Return a row for each stage, the slowest first."""
    rows = [{"name": name, "seconds": image.seconds} for name, image in images.items()]
    return _shares(sorted(rows, key=lambda row: -row["seconds"]), "seconds")


def _shares(rows: list[dict[str, Any]], of: str) -> list[dict[str, Any]]:
    """Return rows with the share of each in percent of the largest."""
    largest = max((row[of] for row in rows), default=0) or 1
    return [{**row, "share": round(100 * row[of] / largest, 1)} for row in rows]


def _boot(result: Mapping[str, Any], manifest: Manifest, plot: Path) -> dict[str, Any]:
    """Return the result of the boot test, with the other values that the page shows."""
    return {
        **result,
        "guest": {"os": "", "kernel": "", "time": "", "blame": "", **result["guest"]},
        "verdict": "passed" if result["passed"] else "failed",
        "stale": _is_stale(result, manifest),
        "timeline": _timeline(result["timings"]),
        "plot": _plot(plot),
    }


def _is_stale(result: Mapping[str, Any], manifest: Manifest) -> bool:
    """Return whether the disk image has been rebuilt since the test with this result."""
    return result.get("disk") != manifest.sha512.get(catalog.DISK_IMAGE)


def _plot(path: Path) -> str:
    """Return the chart of the boot in base64, or "" if there is none that can be shown."""
    try:
        return base64.b64encode(svg.clean(path.read_text()).encode()).decode()
    except (OSError, ValueError, svg.SvgError):
        return ""


def _timeline(timings: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a row for each boot, with milestones in percent of the longest boot's duration."""
    boots: dict[str, list[tuple[float, str]]] = {}
    for name, seconds in timings.items():
        boot, _, milestone = name.partition(": ")
        boots.setdefault(boot, []).append((seconds, milestone))
    longest = max(timings.values(), default=0) or 1
    return [{"name": boot, "marks": _marks(sorted(ends), longest)} for boot, ends in boots.items()]


def _marks(ends: Sequence[tuple[float, str]], longest: float) -> list[dict[str, Any]]:
    """Return a mark for each milestone, from the end of the one before to its own."""
    starts = [0.0, *(seconds for seconds, _ in ends)]
    return [
        {
            "name": name,
            "seconds": seconds,
            "left": round(100 * start / longest, 2),
            "width": round(100 * (seconds - start) / longest, 2),
        }
        for (seconds, name), start in zip(ends, starts, strict=False)
    ]


def _packages(bom: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each package in a bill of materials, with the images that hold it."""
    holders = _holders(bom.get("dependencies", []))
    everywhere = sorted({image for images in holders.values() for image in images})
    return [
        {
            "name": component["name"],
            "version": component["version"],
            "size": _size(component),
            "licences": [_licence(entry) for entry in component.get("licenses", [])],
            "images": _images(holders.get(component["bom-ref"], []), everywhere),
        }
        for component in sorted(bom.get("components", []), key=lambda one: str(one["name"]))
        if "purl" in component
    ]


def _size(component: Mapping[str, Any]) -> int:
    """Return the installed size of a package in bytes, or 0 if it is not known."""
    properties = {one["name"]: one["value"] for one in component.get("properties", [])}
    return int(properties.get(sbom.SIZE, 0))


def _images(images: Sequence[str], everywhere: Sequence[str]) -> Sequence[str]:
    return ["all images"] if len(images) > 1 and sorted(images) == everywhere else images


def _holders(dependencies: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Map each component to the names of the images that depend on it."""
    found: dict[str, list[str]] = {}
    for entry in dependencies:
        kind, _, image = entry["ref"].partition(":")
        if kind == "image":
            for needed in entry.get("dependsOn", []):
                found.setdefault(needed, []).append(image)
    return found


def _licence(entry: Mapping[str, Any]) -> str:
    licence = entry.get("license", {})
    return str(entry.get("expression") or licence.get("id") or licence.get("name"))
