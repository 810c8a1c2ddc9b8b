"""Makes source RPMs like Amazon's and Fedora's, from which our own packages are built.

They contain the files that Debian has built, in place of upstream's sources, so a build compiles
nothing but Python's bytecode. The spec's patches are applied when the spec is built, not here.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.system.digests import file_digest, text_digest
from scripts.system.errors import HarnessError
from scripts.system.process import Arg, CommandError, run
from tests.lab import fixups, spec, stage
from tests.lab.fixups import Programs
from tests.lab.keys import Key
from tests.lab.stage import SOURCE_DATE_EPOCH, Tree
from tests.lab.tables import AMAZON, DIST, FEDORA, Recipe

# The value of %dist with which each owner makes its source RPMs.
DISTS = {AMAZON: DIST, FEDORA: "fc43"}


def make(recipe: Recipe, work: Path, programs: Programs, key: Key) -> Path:
    """Return recipe's source RPM, signed with key, after making it below work if it is missing."""
    facts = stage.facts(recipe) | {
        "spec": text(recipe),
        "code": [file_digest(Path(module.__file__ or "")) for module in (fixups, spec, stage)],
        "key": key.fingerprint,
    }
    kept = work / "sources" / text_digest(json.dumps(facts, sort_keys=True))
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work, prefix=f"{recipe.name}-source-") as folder:
            made = _build(recipe, Path(folder), programs)
            key.sign_packages(list(made.iterdir()))
            made.rename(kept)
    [path] = kept.iterdir()
    return path


def text(recipe: Recipe) -> str:
    """Return the spec inside the source RPM of recipe."""
    name = f"{recipe.name}-{recipe.version}"
    own = replace(recipe, release=recipe.release.removesuffix(f".{DIST}") + "%{?dist}")
    tags = [
        f"Source0: {name}.tar",
        *(f"Source{number}: {rpm}.files" for number, rpm in enumerate(recipe.names, 1)),
        *(f"{tag}: {patch.name}" for tag, patch in recipe.patches.items()),
        *(f"BuildRequires: {needed}" for needed in recipe.build_requires),
    ]
    globals_ = ("__os_install_post", "_build_id_links", "debug_package")
    return "\n".join(
        [
            *(f"%global {macro} {spec.MACROS[macro]}" for macro in globals_),
            spec.package(own, tags),
            *spec.splits(own),
            *spec.scriptlets(own),
            "%prep",
            *([recipe.prep] if recipe.prep else []),
            f"%autosetup -p1 -n {name}",
            "%build",
            "if test -d usr/lib/python3; then",
            "  python3 -m compileall -q -f --invalidation-mode unchecked-hash -s . -p /"
            " usr/lib/python3",
            "fi",
            "%install",
            "mkdir -p %{buildroot}",
            "cp -a . %{buildroot}",
            *(
                f"%files -n {rpm} -f %{{SOURCE{number}}}"
                for number, rpm in enumerate(recipe.names, 1)
            ),
            "%changelog",
            "* Wed Sep 30 2026 The lab <lab@finch.invalid>",
            "- Made of Debian's packages: this is not Amazon's or Fedora's.",
            "",
        ]
    )


def _build(recipe: Recipe, work: Path, programs: Programs) -> Path:
    sources = work / "SOURCES"
    sources.mkdir()
    tree = stage.stage(recipe, work / "tree", {}, patched=False)
    stage.clamp_times(tree)
    _pack(tree, sources / f"{recipe.name}-{recipe.version}.tar")
    fixups.compile_python(tree, programs)
    for name, listed in stage.entries(tree, recipe).items():
        (sources / f"{name}.files").write_text("".join(f"{entry.line()}\n" for entry in listed))
    for patch in recipe.patches.values():
        shutil.copyfile(patch, sources / patch.name)
    path = work / f"{recipe.name}.spec"
    path.write_text(text(recipe))
    macros = {"_topdir": os.fspath(work), "dist": f".{DISTS[recipe.source]}"}
    try:
        run(
            ["rpmbuild", "-bs", "--quiet", *_defines(macros | BUILD), path],
            env={"SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH), "HOME": str(work), "LC_ALL": "C"},
        )
    except CommandError as error:
        raise HarnessError(
            f"rpmbuild cannot make the source RPM of {recipe.name}: {error.output.strip()}"
        ) from error
    return work / "SRPMS"


# The macros that also decide the bytes of a source RPM.
BUILD = {
    name: spec.MACROS[name]
    for name in (
        "_buildhost", "clamp_mtime_to_source_date_epoch", "source_date_epoch_from_changelog",
        "use_source_date_epoch_as_buildtime", "vendor",
    )
}  # fmt: skip


def _defines(macros: dict[str, str]) -> Sequence[Arg]:
    return [arg for name in macros for arg in ("--define", f"{name} {macros[name]}")]


def _pack(tree: Tree, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(tree.folder, path.stem, filter=_as_root)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
