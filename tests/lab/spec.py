"""Writes the spec of a recipe, and builds its RPMs with rpmbuild."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.system.errors import HarnessError
from scripts.system.process import CommandError, run
from tests.lab.stage import SOURCE_DATE_EPOCH
from tests.lab.tables import Recipe, Split

# These switch off what rpmbuild does by itself, so it packs the files unchanged.
MACROS = {
    "__os_install_post": "%{nil}",
    "__check_files": "%{nil}",
    "__spec_install_pre": "%{nil}",
    "_binary_payload": "w3.zstdio",
    "_build_id_links": "none",
    "_empty_manifest_terminate_build": "0",
    "_buildhost": "lab.invalid",
    "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
    "clamp_mtime_to_source_date_epoch": "1",
    "debug_package": "%{nil}",
    "source_date_epoch_from_changelog": "0",
    "use_source_date_epoch_as_buildtime": "1",
    "vendor": "the lab of finch-os-images, not Amazon",
}


def text(recipe: Recipe) -> str:
    """Return the spec of recipe, which reads the files of each RPM from <name>.files."""
    parts = [package(recipe), *splits(recipe)]
    parts += scriptlets(recipe)
    parts.append("%install\n")
    parts += [f"%files -n {name} -f {name}.files\n" for name in recipe.names]
    return "\n".join(parts)


def scriptlets(recipe: Recipe) -> list[str]:
    """Return the scriptlets and triggers of recipe and its splits."""
    parts = [_pre(recipe.users)] if recipe.users else []
    parts += [_post("", recipe.post)] if recipe.post else []
    parts += [_post(f"-n {split.name}", split.post) for split in recipe.splits if split.post]
    return parts + [
        # RPM's built-in Lua needs no shell; the C library is installed before there is one.
        f'%{trigger} -P 2000000 -p <lua> -- {paths}\nrpm.execute("{program}")\n'
        for paths, program in recipe.triggers.items()
        for trigger in ("transfiletriggerin", "transfiletriggerpostun")
    ]


def build(recipe: Recipe, tree: Path, lists: Mapping[str, Sequence[str]], work: Path) -> list[Path]:
    """Build the RPMs of recipe in the folder work from tree and the lists of each RPM's files."""
    sources = work / "BUILD"
    sources.mkdir()
    for name, lines in lists.items():
        (sources / f"{name}.files").write_text("".join(f"{line}\n" for line in lines))
    path = work / f"{recipe.name}.spec"
    path.write_text(text(recipe))
    macros = {
        **MACROS,
        "_topdir": str(work),
        "_rpmdir": str(work / "RPMS"),
        "_builddir": str(sources),
    }
    defines = [arg for name in macros for arg in ("--define", f"{name} {macros[name]}")]
    target = [] if recipe.arch == "noarch" else ["--target", f"{recipe.arch}-linux"]
    environment = {"SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH), "HOME": str(work), "LC_ALL": "C"}
    try:
        run(
            [
                "rpmbuild",
                "-bb",
                "--quiet",
                "--nodeps",
                *target,
                *defines,
                "--buildroot",
                tree,
                path,
            ],
            env=environment,
        )
    except CommandError as error:
        raise HarnessError(f"rpmbuild cannot pack {recipe.name}: {error.output.strip()}") from error
    return sorted((work / "RPMS").iterdir())


def package(recipe: Recipe, tags: Sequence[str] = ()) -> str:
    """Return the preamble and description of recipe's spec, with additional tags."""
    lines = [
        f"Name: {recipe.name}",
        f"Version: {recipe.version}",
        f"Release: {recipe.release}",
        f"Summary: {_plain(recipe.summary)}",
        "License: see /usr/share/licenses",
        "AutoReqProv: no",
        *(["BuildArch: noarch"] if recipe.arch == "noarch" else []),
        *(f"Requires: {name}" for name in recipe.requires),
        *(f"Provides: {name}" for name in recipe.provides),
        *(f"Conflicts: {name}" for name in recipe.conflicts),
        *(["Requires(pre): shadow-utils"] if recipe.users else []),
        *tags,
        "%description",
        f"{_plain(recipe.summary)}. Made of Debian's packages: this is not Amazon's.",
    ]
    return "\n".join(lines) + "\n"


def splits(recipe: Recipe) -> list[str]:
    """Return the preamble and description of each split of recipe."""
    return [_split(split, recipe) for split in recipe.splits]


def _split(split: Split, recipe: Recipe) -> str:
    same = f"{recipe.name} = %{{version}}-%{{release}}"
    lines = [
        f"%package -n {split.name}",
        f"Summary: {_plain(split.summary)}",
        "AutoReqProv: no",
        *([] if split.independent else [f"Requires: {same}"]),
        *(f"Requires: {name}" for name in split.requires),
        *(f"Provides: {name}" for name in split.provides),
        f"%description -n {split.name}",
        f"{_plain(split.summary)}. Made of Debian's packages: this is not Amazon's.",
    ]
    return "\n".join(lines) + "\n"


def _pre(users: Mapping[str, str]) -> str:
    lines = [
        f"getent group {name} >/dev/null || groupadd --system {name} || :\n"
        f"getent passwd {name} >/dev/null || useradd --system --gid {name} --home-dir {home}"
        f" --no-create-home --shell /usr/sbin/nologin {name} || :"
        for name, home in users.items()
    ]
    return "%pre\n" + "\n".join(lines) + "\n"


def _post(package: str, script: str) -> str:
    return f"%post {package}\n{script}\n"


def _plain(summary: str) -> str:
    return summary.replace("%", "%%")
