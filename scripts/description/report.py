"""report.html: what was built and how it booted, on one page that needs nothing else.

It is made of what stands in out/ alone, so that a build and a boot test may each write it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.filesize import decimal

from scripts import catalog
from scripts.description import sbom
from scripts.stages.artifacts import BOOT_TEST, MANIFEST, PROVENANCE, REPORT, SBOM
from scripts.system.files import write_text


def write(out: Path) -> None:
    """Write the report of the build in the folder out; nothing where there is none."""
    manifest = _read(out / MANIFEST)
    if not manifest:
        return
    provenance, bom, result = (_read(out / name) for name in (PROVENANCE, SBOM, BOOT_TEST))
    plot = (out / BOOT_TEST).with_name("boot.svg")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # what the guest said is evidence, not markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = decimal
    definition = provenance.get("predicate", {}).get("buildDefinition", {})
    text = environment.get_template("report.html.j2").render(
        title=f"{manifest['distribution']} {manifest['release']} for {manifest['arch']}",
        built=_moment(provenance),
        commit=_commit(definition),
        modified=len(definition.get("internalParameters", {}).get("modified", [])),
        artifacts=_artifacts(manifest["artifacts"]),
        stages=_stages(manifest["images"]),
        boot=_boot(result, manifest, plot) if result else None,
        packages=_packages(bom),
    )
    write_text(out / REPORT, text)


def _read(path: Path) -> dict[str, Any]:
    """The JSON object at path, {} where there is none."""
    try:
        data = json.loads(path.read_text())
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


def _artifacts(listed: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each output; the files of a folder are one."""
    rows: dict[str, dict[str, Any]] = {}
    for artifact in listed:
        name, mark, _ = artifact["name"].partition("/")
        row = rows.setdefault(name, {"name": name, "size": 0, "sha512": "", "note": "", "files": 0})
        row["size"] += artifact["size"]
        row["files"] += 1
        row["sha512"] = "" if mark else artifact["sha512"]
        row["note"] = f"{row['files']} files" if mark else ""
    return _shares(list(rows.values()), "size")


def _stages(images: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [{"name": name, "seconds": image["seconds"]} for name, image in images.items()]
    return _shares(sorted(rows, key=lambda row: -row["seconds"]), "seconds")


def _shares(rows: list[dict[str, Any]], of: str) -> list[dict[str, Any]]:
    """Rows, each with its percentage of the largest."""
    largest = max((row[of] for row in rows), default=0) or 1
    return [{**row, "share": round(100 * row[of] / largest, 1)} for row in rows]


def _boot(result: Mapping[str, Any], manifest: Mapping[str, Any], plot: Path) -> dict[str, Any]:
    disk = {artifact["name"]: artifact["sha512"] for artifact in manifest["artifacts"]}.get(
        catalog.DISK_IMAGE
    )
    return {
        **result,
        "guest": {"os": "", "kernel": "", "time": "", "blame": "", **result["guest"]},
        "verdict": "passed" if result["passed"] else "failed",
        "stale": result.get("disk") != disk,
        "timeline": _timeline(result["timings"]),
        "plot": base64.b64encode(plot.read_bytes()).decode() if plot.exists() else "",
    }


def _timeline(timings: Mapping[str, float]) -> list[dict[str, Any]]:
    """For each boot its milestones, placed on a line as long as the longest boot (percent)."""
    boots: dict[str, list[tuple[float, str]]] = {}
    for name, seconds in timings.items():
        boot, _, milestone = name.partition(": ")
        boots.setdefault(boot, []).append((seconds, milestone))
    longest = max(timings.values(), default=0) or 1
    rows = []
    for boot, marks in boots.items():
        ends = sorted(marks)
        starts = [0.0, *(seconds for seconds, _ in ends)]
        rows.append(
            {
                "name": boot,
                "marks": [
                    {
                        "name": name,
                        "seconds": seconds,
                        "left": round(100 * start / longest, 2),
                        "width": round(100 * (seconds - start) / longest, 2),
                    }
                    for (seconds, name), start in zip(ends, starts, strict=False)
                ],
            }
        )
    return rows


def _packages(bom: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The packages of a bill of materials, each with the images that hold it."""
    holders = _holders(bom.get("dependencies", []))
    everywhere = sorted({image for images in holders.values() for image in images})
    return [
        {
            "name": component["name"],
            "version": component["version"],
            "size": next(
                (
                    int(entry["value"])
                    for entry in component.get("properties", [])
                    if entry["name"] == sbom.SIZE
                ),
                0,
            ),
            "licences": [_licence(entry) for entry in component.get("licenses", [])],
            "images": _images(holders.get(component["bom-ref"], []), everywhere),
        }
        for component in sorted(bom.get("components", []), key=lambda one: str(one["name"]))
        if "purl" in component
    ]


def _images(images: Sequence[str], everywhere: Sequence[str]) -> Sequence[str]:
    return ["all images"] if len(images) > 1 and sorted(images) == everywhere else images


def _holders(dependencies: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The names of the images, by what they depend on."""
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
