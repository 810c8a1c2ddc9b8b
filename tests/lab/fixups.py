"""Does the work of Debian's maintainer scripts on a package's files before they are packed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from scripts.arch import native
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError
from scripts.system.process import Arg, CommandError, run
from tests.lab.debs import Deb
from tests.lab.stage import Tree

# The package of a Python, without its modules; it names the version.
PYTHON = re.compile(r"python(3\.\d+)-minimal")

BUNDLE = "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
BUNDLE_LINKS = (
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
)

POLICY = "targeted"

# What a Python needs besides its own packages.
PYTHON_DEBS = ("libc6", "libexpat1", "zlib1g")
SELINUX_DEBS = (
    "policycoreutils", "selinux-utils", "libc6", "libsemanage2", "libsepol2", "libselinux1",
    "libaudit1", "libbz2-1.0", "libpcre2-8-0", "libcap-ng0",
)  # fmt: skip

# In the format of semanage.conf(5).
SEMANAGE_CONF = """\
module-store = direct
compiler-directory = {hll}
disable-genhomedircon = true
[sefcontext_compile]
path = {sefcontext_compile}
args = $@
[end]
[setfiles]
path = {setfiles}
args = -q -c $@ $<
[end]
"""


class Programs:
    """Debian's programs, which run on this machine without being installed.

    debs have this machine's architecture; the programs' output fits the other architecture too.
    Debian's own dynamic linker starts them, so this machine's C library does not matter. python is
    the version of Python among them, such as "3.11".
    """

    def __init__(self, folder: Path, debs: Sequence[Deb]) -> None:
        self._folder = folder
        self._debs = {deb.name: deb for deb in debs}
        self.python = _python(self._debs)
        self._lock = threading.Lock()

    def run(self, names: Sequence[str], program: str, *args: Arg, **env: str) -> None:
        """Run program with the packages called names. Raises HarnessError if it fails."""
        try:
            run([self.script(names, program), *args], env={"LC_ALL": "C.UTF-8", **env})
        except CommandError as error:
            raise HarnessError(f"Debian's {program} failed: {error.output.strip()}") from error

    def script(self, names: Sequence[str], program: str) -> Path:
        """Return the path of a shell script that runs program with the packages called names."""
        with self._lock:
            root = self._root(names)
        script = root / "scripts" / Path(program).name
        if not script.exists():
            libraries = root / f"usr/lib/{native()}-linux-gnu"
            [loader] = libraries.glob("ld-linux-*.so.?")
            command = shlex.join(
                map(str, (loader, "--library-path", libraries, root / program.lstrip("/")))
            )
            home = shlex.quote(f"{root}/usr")
            script.parent.mkdir(exist_ok=True)
            partial = script.with_suffix(f".{threading.get_ident()}")
            partial.write_text(f'#!/bin/sh\nPYTHONHOME={home} exec {command} "$@"\n')
            partial.chmod(0o755)
            partial.rename(script)
        return script

    def _root(self, names: Sequence[str]) -> Path:
        debs = [self._debs[name] for name in names]
        root = self._folder / text_digest("".join(deb.sha256 for deb in debs))[:16]
        if not root.exists():
            partial = root.with_suffix(f".{os.getpid()}")
            tree = Tree(partial)
            for deb in debs:
                tree.unpack(deb, lambda _path: False, "/licences")
            partial.rename(root)
        return root


def needed(names: Iterable[str]) -> list[str]:
    """Return the packages that the programs below need, of the release that has names."""
    return sorted({*_python_debs(_python(names)), *SELINUX_DEBS})


def _python(names: Iterable[str]) -> str:
    [version] = [match[1] for match in map(PYTHON.fullmatch, names) if match]
    return version


def _python_debs(version: str) -> list[str]:
    name = f"python{version}"
    return [f"{name}-minimal", f"lib{name}-minimal", f"lib{name}-stdlib", *PYTHON_DEBS]


def compile_python(tree: Tree, programs: Programs) -> None:
    """Compile Python modules to bytecode that stays valid whatever the sources' times are."""
    candidates = ("/usr/lib/python3", f"/usr/lib/python{programs.python}")
    folders = [str(tree / folder) for folder in candidates if (tree / folder).is_dir()]
    if not folders or not any(tree.folder.rglob("*.py")):
        return
    for folder in folders:
        programs.run(
            _python_debs(programs.python),
            f"usr/bin/python{programs.python}",
            "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
            "-s", tree.folder, "-p", "/", folder,
            PYTHONHASHSEED="0",
        )  # fmt: skip


def certificates(tree: Tree, _programs: Programs) -> None:
    """Put all authorities' certificates into one file, where programs look for it."""
    found = sorted((tree / "/usr/share/ca-certificates").rglob("*.crt"))
    tree.write(BUNDLE, b"".join(path.read_bytes() for path in found))
    for path in BUNDLE_LINKS:
        tree.link(path, BUNDLE)


def selinux(tree: Tree, programs: Programs) -> None:
    """Compile Debian's SELinux policy and file contexts, under the name of Amazon Linux's."""
    source = tree / "/usr/share/selinux/default"
    tree.move("/etc/selinux/default", f"/etc/selinux/{POLICY}")
    _compile_policy(tree, programs, source)
    shutil.rmtree(source)


def _compile_policy(tree: Tree, programs: Programs, source: Path) -> None:
    """Compile the policy and its file contexts with semodule, in a store below tree."""
    scripts = {
        Path(program).name: programs.script(SELINUX_DEBS, program)
        for program in (
            "usr/libexec/selinux/hll/pp",
            "usr/sbin/sefcontext_compile",
            "usr/sbin/setfiles",
        )
    }
    conf = tree / "/etc/selinux/semanage.conf"
    conf.write_text(SEMANAGE_CONF.format(hll=scripts["pp"].parent, **scripts))
    store = tree / f"/var/lib/selinux/{POLICY}"
    (store / "active/modules").mkdir(parents=True)
    modules = [source / f"{name}.pp.bz2" for name in (source / ".modules").read_text().split()]
    programs.run(
        SELINUX_DEBS,
        "usr/sbin/semodule",
        "--noreload", "--path", tree.folder, "--store", POLICY, "--priority", "100",
        *(arg for path in modules for arg in ("--install", path)),
    )  # fmt: skip
    conf.unlink()
    shutil.rmtree(tree / "/var/lib/selinux")


HOOKS: Mapping[str, Callable[[Tree, Programs], None]] = {
    "certificates": certificates,
    "selinux": selinux,
}
