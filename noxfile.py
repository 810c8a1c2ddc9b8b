"""Builds Finch's operating-system images and proves that they boot.

A session's own options go after `--`, and `-- --help` lists them:

    ./nox -s "build-3.12(arch='x86_64')" -- --distribution debian
    ./nox -s boot-test
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, os.fspath(ROOT))

# Nox does not put the checkout on the path.
from scripts import arch, catalog  # noqa: E402
from scripts.bootstrap import environments  # noqa: E402
from scripts.sessions import arguments  # noqa: E402

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True

# mkosi runs in the session's own environment, and what it does may depend on its Python.
MKOSI_PYTHON = catalog.MKOSI_PYTHON

ARCHES = nox.parametrize("arch", arch.NAMES)
IMAGES = nox.parametrize(
    "arch, image", [(name, image) for name in arch.NAMES for image in catalog.images(name)]
)

# Many tests wait for a program or a server. The tests of a file stay in one process. (xdist 3.8's
# loadgroup has no effect with pytest 9.2.)
SIDE_BY_SIDE = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")

GROUPS = (
    *("nox", "harness", "boot", "publish", "test", "coverage", "lint", "typecheck", "patch-check"),
)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff, spelling with codespell; `ruff format` formats."""
    environments.install(session, "lint")
    environments.check(session, "ruff", "check", *session.posargs)
    environments.check(session, "ruff", "format", "--check")
    environments.check(session, "codespell_lib")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types with mypy in strict mode."""
    environments.install(session, "typecheck")
    environments.check(session, "mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit and integration tests (minutes); pytest's arguments go after `--`."""
    environments.install(session, "test")
    environments.check(session, "pytest", *SIDE_BY_SIDE, *session.posargs)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Measure which lines of scripts/ the tests run (minutes); takes pytest's arguments."""
    environments.install(session, "coverage")
    measured = ROOT / catalog.WORK / "coverage"
    measured.mkdir(parents=True, exist_ok=True)
    measured.chmod(0o1777)  # some tests let another user's processes run
    environments.check(session, "coverage", "erase")
    environments.check(session, "coverage", "run", "-m", "pytest", *session.posargs)
    environments.check(session, "coverage", "combine", "--quiet")
    environments.check(session, "coverage", "html", "--quiet")
    environments.check(session, "coverage", "json", "--quiet")
    environments.check(session, "tests.rooms", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Give every parser of foreign data odd inputs (minutes); `-- --cases N` gives more."""
    environments.install(session, "test")
    environments.check(session, "pytest", "tests/fuzz", *session.posargs)


@nox.session(default=False)
def e2e(session: nox.Session) -> None:
    """Run real builds and boots end to end (half an hour); `-- --full` runs the slowest too."""
    environments.install(session, "test")
    chosen = any(arg.startswith("tests") for arg in session.posargs)
    environments.check(session, "pytest", *([] if chosen else ["tests/e2e"]), *session.posargs)


@nox.session(default=False, python=MKOSI_PYTHON)
def quickstart(session: nox.Session) -> None:
    """Build Debian images for this machine's architecture and boot one, without AWS or Docker."""
    environments.install(session, "boot")
    target = ("--distribution", "debian", "--arch", "native", *session.posargs)
    environments.harness(session, "quickstart", *target)


@nox.session(default=False, python=[MKOSI_PYTHON])
@ARCHES
def build(session: nox.Session, arch: str) -> None:
    """Build all images of one architecture; the artifacts go to out/<distribution>/<arch>/."""
    environments.install(session, "harness")
    environments.harness(session, "build", "--arch", arch, *session.posargs)


@nox.session(default=False, python=[MKOSI_PYTHON])
@IMAGES
def image(session: nox.Session, arch: str, image: str) -> None:
    """Build one image and the images it is made from."""
    environments.install(session, "harness")
    environments.harness(session, "build", "--arch", arch, "--image", image, *session.posargs)


@nox.session(default=False, python=[MKOSI_PYTHON])
@ARCHES
def packages(session: nox.Session, arch: str) -> None:
    """Build our own packages in Docker, and fetch third-party files."""
    environments.install(session, "harness")
    environments.harness(session, "packages", "--arch", arch, *session.posargs)


@nox.session(default=False, name="boot-test")
@ARCHES
def boot_test(session: nox.Session, arch: str) -> None:
    """Boot the built os-image of one architecture under QEMU and check it from inside."""
    if not arguments.is_built(arch, session.posargs):
        environments.skip(session, f"no os-image of {arch} has been built")
    environments.install(session, "boot")
    environments.harness(session, "boot_test", "--arch", arch, *session.posargs)


@nox.session(default=False, python=MKOSI_PYTHON)
def mkosi(session: nox.Session) -> None:
    """Run plain mkosi with our patches and configuration: `-- --image-id os-image summary`."""
    environments.install(session, "harness")
    environments.harness(session, "mkosi", *session.posargs)


@nox.session(default=False, name="patch-check", python=MKOSI_PYTHON)
def patch_check(session: nox.Session) -> None:
    """Check our patches on mkosi: whether they apply, and whether mkosi's own CI would pass."""
    environments.install(session, "patch-check")
    environments.harness(session, "patch_check", *session.posargs)


@nox.session(default=False)
def binfmt(session: nox.Session) -> None:
    """Let this machine run the other architecture's programs: `-- setup`, or `-- teardown`."""
    environments.install(session, "harness")
    environments.harness(session, "binfmt", *session.posargs)


@nox.session(default=False)
def doctor(session: nox.Session) -> None:
    """List what this machine lacks for a session, and how to get it: `-- SESSION`."""
    environments.install(session, "harness")
    environments.harness(session, "doctor", *session.posargs)


@nox.session(default=False, python=MKOSI_PYTHON)
def bench(session: nox.Session) -> None:
    """Compare the speed of builds with plain mkosi of the same version (a quarter of an hour)."""
    environments.install(session, "harness")
    environments.harness(session, "bench", "--distribution", "debian", *session.posargs)


@nox.session(default=False)
def lab(session: nox.Session) -> None:
    """Serve a stand-in for Amazon's repositories, made of Debian packages, on loopback."""
    environments.install(session, "harness")
    environments.lab(session, *session.posargs)


@nox.session(default=False, name="update-pins")
def update_pins(session: nox.Session) -> None:
    """Update everything that is pinned, and show old and new; `-- --check` only compares."""
    environments.install(session, "harness")
    environments.harness(session, "update_pins", *session.posargs)


@nox.session(default=False)
def diff(session: nox.Session) -> None:
    """Show the differences between two builds: `-- A B`, folders in out/ or manifest.json files."""
    environments.install(session, "boot")
    environments.harness(session, "diff", *session.posargs)


@nox.session(default=False, name="ci-matrix")
def ci_matrix(session: nox.Session) -> None:
    """Print CI's jobs as JSON: the architecture, image, session and runner of each."""
    environments.install(session, "harness")
    environments.harness(session, "ci_matrix", sys.executable, *session.posargs)


@nox.session(default=False)
def publish(session: nox.Session) -> None:
    """Publish finished builds: push, upload, sign; `-- --dry-run …` only shows the plan."""
    environments.install(session, "publish")
    environments.harness(session, "publish", *session.posargs)


@nox.session(default=False)
def deps(session: nox.Session) -> None:
    """Write finch-core's deps/*.conf from what a run has published: `-- --run-id NUMBER`."""
    environments.install(session, "publish")
    environments.harness(session, "deps", *session.posargs)


@nox.session(default=False, name="clean-registry")
def clean_registry(session: nox.Session) -> None:
    """Delete older images of a registry that nothing names: `-- --repository HOST/NAME`."""
    environments.install(session, "publish")
    environments.harness(session, "clean_registry", *session.posargs)


@nox.session(default=False)
def clean(session: nox.Session) -> None:
    """Remove out/ and .work/, which hold what was built and what makes builds fast."""
    environments.install(session, "harness")
    environments.harness(session, "clean", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Pin the dependency groups of pyproject.toml in requirements/; `-- --upgrade` updates."""
    for group in GROUPS:
        session.run(
            "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header",
            "--only-binary", ":all:",
            "--group", group, "--output-file", f"requirements/{group}.txt",
            *session.posargs, "pyproject.toml",
        )  # fmt: skip


# `nox --list --json` lists what would run, and CI makes its matrix of that: so list everything.
if "--json" in sys.argv:
    nox.options.sessions = list(nox.registry.get())

environments.setup(
    hint=f"`./nox --list` shows every session; architectures are {', '.join(arch.NAMES)}, "
    f"images {', '.join(catalog.IMAGES)}"
)
