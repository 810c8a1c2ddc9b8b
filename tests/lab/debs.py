"""Downloads the Debian packages that the lab is made of, and their dependencies, with apt."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import Arch
from scripts.distributions import debian
from scripts.distributions.apt import Apt
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.process import Arg, CommandError, last_line
from tests.lab.eras import Era

# Seconds after which apt downloads its lists again.
LISTS_AGE = 24 * 3600


@dataclass(frozen=True)
class Deb:
    """A Debian package.

    depends has one tuple of alternative names for each entry of Pre-Depends and Depends. sha256 is
    the digest of the file at path.
    """

    name: str
    version: str
    depends: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]
    summary: str
    sha256: str
    path: Path


class Archive:
    """Debian's archive of an era, reached the way this machine's apt is configured.

    apt keeps its own configuration, lists and cache below folder, and behaves as if nothing were
    installed. It downloads only what is missing. If the archive is out of reach, the old lists
    and packages are used, and say gets a message. Raises MachineError on any machine but Debian.
    """

    def __init__(self, folder: Path, era: Era, arch: Arch, say: Callable[[str], None]) -> None:
        self._apt = _Apt(folder, era, arch)
        self._say = say
        self._is_updated = False

    def obtain(self, roots: Sequence[str]) -> list[Deb]:
        """Download the packages named in roots and all their dependencies, and return them.

        Raises HarnessError if apt fails.
        """
        return self._obtain(self._apt.obtain, roots)

    def obtain_alone(self, names: Sequence[str]) -> list[Deb]:
        """Download the packages called names without their dependencies, and return them."""
        return self._obtain(self._apt.obtain_alone, names)

    def _obtain(
        self, take: Callable[[Sequence[str]], list[dict[str, str]]], names: Sequence[str]
    ) -> list[Deb]:
        try:
            self._update()
            records = take(names)
        except CommandError as error:
            raise HarnessError(
                f"apt cannot download the lab's packages: {_reason(error.output)}",
                hint="check the network, then try again: finished downloads are kept",
            ) from error
        return [_deb(record, self._apt.path(record)) for record in records]

    def _update(self) -> None:
        """Refresh apt's lists once, or keep the old ones if the archive is out of reach."""
        if self._is_updated:
            return
        try:
            self._apt.update()
        except CommandError as error:
            if not self._apt.has_lists:
                raise
            self._say(
                "apt cannot refresh its lists, so the lab uses the old ones: "
                f"{_reason(error.output)}"
            )
        self._is_updated = True


class _Apt:
    """apt with its own configuration, lists, cache and status below a folder."""

    def __init__(self, folder: Path, era: Era, arch: Arch) -> None:
        archive = debian.find()
        if not archive:
            raise MachineError(
                "apt's configuration on this machine names no Debian archive",
                hint="make the lab on a Debian machine: it consists of Debian packages",
            )
        self.archives = folder / "cache/archives"
        self.lists = folder / "lists"
        for part in ("lists/partial", "cache/archives/partial", "parts", "state"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        list_ = folder / "debian.sources"
        text = "\n".join(archive.sources(release) for release in era.releases)
        if not list_.exists() or list_.read_text() != text:
            list_.write_text(text)
            (folder / "updated").unlink(missing_ok=True)
        self._updated = folder / "updated"
        settings: dict[str, Arg] = {
            "Dir::Etc::SourceList": list_,
            "Dir::Etc::SourceParts": folder / "parts",
            "Dir::State": folder / "state",
            "Dir::State::Lists": self.lists,
            "Dir::State::Status": folder / "status",
            "Dir::Cache": folder / "cache",
            "APT::Architecture": arch.debian,
            "APT::Architectures": arch.debian,
            # A package comes from a newer release only if it is asked for, or if this one lacks it.
            "APT::Default-Release": f"/^{era.release}(|-updates|-security)$/",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self._apt = Apt.configured(folder / "apt.conf", settings)

    def _run(self, program: str, *args: str, cwd: Path | None = None) -> str:
        return self._apt.run([program, "--quiet", *args], cwd=cwd)

    @property
    def has_lists(self) -> bool:
        """Whether apt has lists of the configured archive, however old they are."""
        return self._updated.exists()

    def update(self) -> None:
        """Refresh the lists if they are older than LISTS_AGE."""
        if self.has_lists and time.time() - self._updated.stat().st_mtime < LISTS_AGE:
            return
        self._apt.update()
        self._updated.touch()

    def obtain(self, roots: Sequence[str]) -> list[dict[str, str]]:
        """Download roots and their dependencies, and return their records from apt's index.

        The records are kept in closure.json, because apt needs a dozen seconds to work them out.
        """
        known = self._updated.with_name("closure.json")
        question = {"roots": list(roots), "updated": self._updated.stat().st_mtime_ns}
        if known.exists():
            answer = json.loads(known.read_text())
            records: list[dict[str, str]] = answer["records"]
            if answer["question"] == question and all(
                self.path(record).exists() for record in records
            ):
                return records
        plan = self._run("apt-get", "install", "--simulate", *roots)
        found = re.findall(r"^Inst (\S+) \((\S+)", plan, re.MULTILINE)
        closure = sorted(f"{name}={version}" for name, version in found)
        stanzas = self._run("apt-cache", "show", *closure).strip().split("\n\n")
        records = [_fields(stanza) for stanza in stanzas]
        self._run("apt-get", "install", "--download-only", "--yes", *closure)
        known.write_text(json.dumps({"question": question, "records": records}))
        return records

    def obtain_alone(self, names: Sequence[str]) -> list[dict[str, str]]:
        """Download the packages called names, and return their records from apt's index."""
        stanzas = self._run("apt-cache", "show", "--no-all-versions", *names).strip()
        records = [_fields(stanza) for stanza in stanzas.split("\n\n")]
        missing = [record["Package"] for record in records if not self.path(record).exists()]
        if missing:
            self._run("apt-get", "download", *missing, cwd=self.archives)
        return records

    def path(self, record: dict[str, str]) -> Path:
        """The path at which apt stores the package of record."""
        version = record["Version"].replace(":", "%3a")
        return self.archives / f"{record['Package']}_{version}_{record['Architecture']}.deb"


def _deb(record: dict[str, str], path: Path) -> Deb:
    if file_digest(path) != record["SHA256"]:
        raise HarnessError(
            f"{path} has the wrong digest", hint="remove the file: the lab downloads it again"
        )
    return Deb(
        name=record["Package"],
        version=record["Version"],
        depends=tuple(_depends(record)),
        provides=tuple(_names(record.get("Provides", ""), ",")),
        summary=record.get("Description", record["Package"]),
        sha256=record["SHA256"],
        path=path,
    )


def _fields(stanza: str) -> dict[str, str]:
    lines = (line.split(": ", 1) for line in stanza.splitlines() if not line.startswith(" "))
    return {pair[0]: pair[1] for pair in lines if len(pair) == 2}


def _depends(record: dict[str, str]) -> Iterable[tuple[str, ...]]:
    for field in ("Pre-Depends", "Depends"):
        for group in filter(None, record.get(field, "").split(",")):
            yield tuple(_names(group, "|"))


def _names(text: str, separator: str) -> list[str]:
    """Return the package names in a list of relations, without versions and architectures."""
    return [part.split("(")[0].strip().split(":")[0] for part in text.split(separator) if part]


def _reason(output: str) -> str:
    lines = [line[2:].strip() for line in output.splitlines() if line.startswith(("E:", "W:"))]
    return lines[0] if lines else last_line(output)
