"""Makes the lab: turns Debian packages into signed RPMs, and lays them out as Amazon's CDN."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from scripts.arch import Arch, native
from scripts.distributions import amazonlinux
from scripts.system.digests import file_digest, text_digest
from scripts.system.errors import MachineError
from scripts.system.process import run
from tests.lab import debs, eras, fixups, keys, repository, source, spec, stage, third_party
from tests.lab.eras import Era
from tests.lab.fixups import Programs
from tests.lab.keys import Key
from tests.lab.repository import World
from tests.lab.tables import AMAZON, FEDORA, Recipe, Tables

# Newest first; the first one is also `latest`.
RELEASES = tuple(reversed(amazonlinux.known()))

# Modules whose text decides an RPM besides its recipe.
CODE = ("fixups.py", "spec.py", "stage.py")

# Maps each program that the lab needs to its Debian package.
PROGRAMS = {
    "rpmbuild": "rpm",
    "rpmsign": "rpm",
    "createrepo_c": "createrepo-c",
    "gpg": "gnupg",
    "dnf": "dnf",
    "dpkg-deb": "dpkg",
}

# The public key's path in the image.
KEY_FILE = "/etc/pki/rpm-gpg/RPM-GPG-KEY-amazon-linux-2023"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """The unsigned RPMs of a recipe, in a folder of the cache."""

    recipe: Recipe
    folder: Path

    @property
    def paths(self) -> list[Path]:
        """The paths of the RPMs."""
        return sorted(self.folder.glob("*.rpm"))


def require() -> None:
    """Raise a MachineError that names the missing packages if this machine lacks programs."""
    lacking = sorted({deb for program, deb in PROGRAMS.items() if not shutil.which(program)})
    if lacking:
        raise MachineError(
            f"the lab needs {' and '.join(lacking)}",
            hint=f"apt-get install --no-install-recommends {' '.join(lacking)}",
        )


def provide() -> None:
    """Install the programs that the lab needs; tests do this. Raises MachineError unless root."""
    try:
        require()
    except MachineError as error:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise
        run(["apt-get", "update", "-qq"])
        run([*shlex.split(error.hint), "--yes", "-qq"])
        require()


def make(
    work: Path,
    arch: Arch,
    say: Say,
    *,
    era: Era = eras.AMAZON,
    names: Sequence[str] = RELEASES,
) -> World:
    """Return the lab of arch and era, after making what is missing of it below work.

    Raises MachineError if the machine lacks a program, and HarnessError if making the lab fails.
    """
    require()
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "lock"):
        return _make(work, arch, era, say, names)


def _make(work: Path, arch: Arch, era: Era, say: Say, names: Sequence[str]) -> World:
    began = time.monotonic()
    tables = Tables(arch, names[0], era)
    archive = archive_of(work, era, arch, say)
    packages = archive.obtain(tables.roots)
    say(f"{len(packages)} Debian packages are downloaded after {time.monotonic() - began:.0f} s")
    key = keys.obtain(work / "keys", "Amazon Linux")
    maker = Maker(work, _programs(work, arch, era, packages, say), key)
    all_recipes = tables.recipes(packages)
    recipes = [recipe for recipe in all_recipes if recipe.is_packed]
    common = maker.make([recipe for recipe in recipes if not _dated(recipe, names)])
    dated = {
        release: _make_dated(maker, Tables(arch, release, era).recipes(packages), release, names)
        for release in names
    }
    say(f"the RPMs of {len(common)} packages are built after {time.monotonic() - began:.0f} s")
    signed = maker.sign([*common, *(made for list_ in dated.values() for made in list_)])
    say(f"all RPMs are signed after {time.monotonic() - began:.0f} s")
    foreign = keys.obtain(work / "keys", "Fedora")
    sources = {
        owner: [
            source.make(recipe, work, maker.programs, signer)
            for recipe in all_recipes
            if recipe.source == owner
        ]
        for owner, signer in {AMAZON: key, FEDORA: foreign}.items()
    }
    say(f"source RPMs are built after {time.monotonic() - began:.0f} s")
    packed = {release: _signed_of([*common, *dated[release]], signed, release) for release in names}
    world = repository.publish(work, arch, packed, key, sources[AMAZON], era=era)
    repository.publish_fedora(world, sources[FEDORA], foreign)
    spal = maker.sign(maker.make(_of_spal(tables, all_recipes)))
    repository.publish_spal(world, [path for paths in spal.values() for path in paths])
    others = archive.obtain_alone(tables.third_party)
    cosign = next(deb for deb in others if deb.name == third_party.COSIGN)
    [released] = maker.make([tables.recipe_alone(cosign)])
    third_party.publish(world, released.paths[0], others)
    say(f"{len(names)} releases are complete after {time.monotonic() - began:.0f} s")
    return world


def _make_dated(
    maker: Maker, recipes: Iterable[Recipe], release: str, names: Iterable[str]
) -> list[Made]:
    """Make the packages of release that differ from those of the other releases called names."""
    dated = [recipe for recipe in recipes if _dated(recipe, names)]
    return maker.make(dated, {"/etc/os-release": release})


def _signed_of(
    packages: Iterable[Made], signed: Mapping[Path, Sequence[Path]], release: str
) -> list[Path]:
    """Return the signed RPMs of those packages that Amazon Linux had at the time of release."""
    date = release.rpartition(".")[2]
    return [path for made in packages if made.recipe.since <= date for path in signed[made.folder]]


def archive_of(work: Path, era: Era, arch: Arch, say: Say) -> debs.Archive:
    """Return Debian's archive of era and arch, as the lab in work reaches it."""
    return debs.Archive(work / "apt" / era.name / arch.name, era, arch, say)


def _programs(work: Path, arch: Arch, era: Era, packages: Sequence[debs.Deb], say: Say) -> Programs:
    """Return Debian's programs for this machine, from packages if they have its architecture."""
    here = native()
    if arch is not here:
        needed = fixups.needed(deb.name for deb in packages)
        packages = archive_of(work, era, here, say).obtain_alone(needed)
    return Programs(work / "programs", packages)


def _of_spal(tables: Tables, recipes: Iterable[Recipe]) -> list[Recipe]:
    """Return the recipes of SPAL's binary RPMs. Amazon does not say what they are built from."""
    return [
        replace(recipe, release=tables.spal[recipe.name], source="", build_requires=(), prep="")
        for recipe in recipes
        if recipe.name in tables.spal
    ]


def _dated(recipe: Recipe, names: Iterable[str]) -> bool:
    """Whether the recipe differs from release to release."""
    return recipe.version in names


class Maker:
    """Makes the RPMs of recipes, unless they are in the cache."""

    def __init__(self, work: Path, programs: Programs, key: Key) -> None:
        self._work = work
        self._key = key
        self.programs = programs
        here = Path(__file__).parent
        self._code = text_digest("".join(file_digest(here / name) for name in CODE))
        (work / "rpms").mkdir(parents=True, exist_ok=True)

    def make(self, recipes: Sequence[Recipe], dated: Mapping[str, str] | None = None) -> list[Made]:
        """Return the RPMs of recipes, after making those that are missing."""
        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            return list(pool.map(lambda recipe: self._make(recipe, dated or {}), recipes))

    def _make(self, recipe: Recipe, dated: Mapping[str, str]) -> Made:
        contents = _contents(recipe, dated, self._key)
        made = Made(recipe, self._work / "rpms" / self._digest(recipe, contents))
        if not made.folder.exists():
            with tempfile.TemporaryDirectory(dir=self._work, prefix=f"{recipe.name}-") as folder:
                self._build(recipe, contents, Path(folder)).rename(made.folder)
        return made

    def _build(self, recipe: Recipe, contents: Mapping[str, bytes], work: Path) -> Path:
        tree = stage.stage(recipe, work / "tree", contents)
        for hook in recipe.hooks:
            fixups.HOOKS[hook](tree, self.programs)
        fixups.compile_python(tree, self.programs)
        stage.clamp_times(tree)
        lists = {
            name: [entry.line() for entry in entries]
            for name, entries in stage.entries(tree, recipe).items()
        }
        spec.build(recipe, tree.folder, lists, work)
        return work / "RPMS"

    def _digest(self, recipe: Recipe, contents: Mapping[str, bytes]) -> str:
        facts = stage.facts(recipe) | {
            "spec": spec.text(recipe),
            "contents": {path: data.decode() for path, data in contents.items()},
            "code": self._code,
        }
        return text_digest(json.dumps(facts, sort_keys=True))

    def sign(self, all_made: Sequence[Made]) -> dict[Path, list[Path]]:
        """Map the folder of each unsigned package to the signed copies of its RPMs.

        Each RPM is signed only once, because a signature contains the time. If a package did not
        change, neither may its digest, because dnf keeps the packages that it has downloaded.
        """
        base = self._work / "signed" / self._key.fingerprint
        base.mkdir(parents=True, exist_ok=True)
        signed = {path: base / file_digest(path) for made in all_made for path in made.paths}
        todo = {target: path for path, target in signed.items() if not target.exists()}
        with tempfile.TemporaryDirectory(dir=self._work) as scratch:
            folders = {target: Path(scratch, target.name) for target in todo}
            for target, folder in folders.items():
                folder.mkdir()
                shutil.copy(todo[target], folder)
            self._key.sign_packages(
                [folder / todo[target].name for target, folder in folders.items()]
            )
            for target, folder in folders.items():
                folder.rename(target)
        return {made.folder: [signed[path] / path.name for path in made.paths] for made in all_made}


def _contents(recipe: Recipe, dated: Mapping[str, str], key: Key) -> dict[str, bytes]:
    """Return the files that Debian does not have: the public key, and files with the release."""
    if recipe.name != "system-release" or not dated:
        return {}
    release = dated["/etc/os-release"]
    return {
        KEY_FILE: key.public.encode(),
        "/usr/lib/os-release": os_release(release).encode(),
        "/etc/system-release": f"Amazon Linux release {release} (lab, not Amazon)\n".encode(),
        "/etc/system-release-cpe": b"cpe:2.3:o:amazon:amazon_linux:2023\n",
    }


def os_release(release: str) -> str:
    """Return the lab's os-release(5): Amazon Linux for software, but not for people who read it."""
    return f"""\
NAME="Amazon Linux"
VERSION="2023"
ID="amzn"
ID_LIKE="fedora"
VERSION_ID="2023"
PLATFORM_ID="platform:al2023"
PRETTY_NAME="Amazon Linux {release} (lab, not Amazon)"
ANSI_COLOR="0;33"
CPE_NAME="cpe:2.3:o:amazon:amazon_linux:2023"
VENDOR_NAME="the lab of finch-os-images"
"""
