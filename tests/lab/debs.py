"""The Debian packages that the lab is made of, with their closure, downloaded by apt itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import Arch
from scripts.distributions import debian
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.process import Arg, CommandError, last_line, run

RELEASE = "trixie"

# Seconds that apt's lists serve before they are asked for again.
LISTS_AGE = 24 * 3600


@dataclass(frozen=True)
class Deb:
    """A package of Debian.

    depends holds one tuple of alternatives for each of its Pre-Depends and Depends, names only;
    sha256 is of the file at path.
    """

    name: str
    version: str
    depends: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]
    summary: str
    sha256: str
    path: Path


class Archive:
    """Debian's archive, as this machine's apt reaches it.

    apt gets a configuration, lists and cache of its own below folder, as if nothing were
    installed. What is there already is not downloaded again, and serves where the archive is out
    of reach, which say is told. Raises MachineError where this is no Debian machine.
    """

    def __init__(self, folder: Path, arch: Arch, say: Callable[[str], None]) -> None:
        self._apt = _Apt(folder, arch)
        self._say = say
        self._is_updated = False

    def obtain(self, roots: Sequence[str]) -> list[Deb]:
        """The packages called roots and all that they depend on, downloaded.

        Raises HarnessError where apt fails.
        """
        return self._obtain(self._apt.obtain, roots)

    def obtain_alone(self, names: Sequence[str]) -> list[Deb]:
        """As `obtain`, but without what the packages depend on."""
        return self._obtain(self._apt.obtain_alone, names)

    def _obtain(
        self, take: Callable[[Sequence[str]], list[dict[str, str]]], names: Sequence[str]
    ) -> list[Deb]:
        try:
            self._update()
            records = take(names)
        except CommandError as error:
            raise HarnessError(
                f"the lab's Debian packages could not be had: {_reason(error.output)}",
                hint="check the network; what has been downloaded is kept",
            ) from error
        return [_deb(record, self._apt.path(record)) for record in records]

    def _update(self) -> None:
        """See once that the lists are there; where the archive is not, those of before will do."""
        if self._is_updated:
            return
        try:
            self._apt.update()
        except CommandError as error:
            if not self._apt.has_lists:
                raise
            self._say(
                "apt cannot renew its lists, so that what they had before is used: "
                f"{_reason(error.output)}"
            )
        self._is_updated = True


class _Apt:
    """apt with a root of its own."""

    def __init__(self, folder: Path, arch: Arch) -> None:
        archive = debian.find()
        if not archive:
            raise MachineError(
                "this machine has no Debian archive in its apt configuration",
                hint="the lab is made out of Debian packages: make it on a Debian machine",
            )
        self.archives = folder / "cache/archives"
        self.lists = folder / "lists"
        for part in ("lists/partial", "cache/archives/partial", "parts", "state"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        list_ = folder / "debian.sources"
        text = archive.sources(RELEASE)
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
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self._options = [arg for name in settings for arg in ("-o", f"{name}={settings[name]}")]

    def _run(self, program: str, *args: str, cwd: Path | None = None) -> str:
        return run([program, "--quiet", *self._options, *args], cwd=cwd).stdout

    @property
    def has_lists(self) -> bool:
        """Whether there are lists, however old, of the archive that apt is configured with."""
        return self._updated.exists()

    def update(self) -> None:
        """Have the lists that are not older than LISTS_AGE."""
        if self.has_lists and time.time() - self._updated.stat().st_mtime < LISTS_AGE:
            return
        self._run("apt-get", "update")
        self._updated.touch()

    def obtain(self, roots: Sequence[str]) -> list[dict[str, str]]:
        """What the index says of each package of the closure of roots; all are downloaded.

        apt takes a dozen seconds to say again what it has said of the same lists.
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
        """What the index says of the packages called names, which are downloaded."""
        stanzas = self._run("apt-cache", "show", "--no-all-versions", *names).strip()
        records = [_fields(stanza) for stanza in stanzas.split("\n\n")]
        missing = [record["Package"] for record in records if not self.path(record).exists()]
        if missing:
            self._run("apt-get", "download", *missing, cwd=self.archives)
        return records

    def path(self, record: dict[str, str]) -> Path:
        """Where apt keeps the package that it has downloaded."""
        version = record["Version"].replace(":", "%3a")
        return self.archives / f"{record['Package']}_{version}_{record['Architecture']}.deb"


def _deb(record: dict[str, str], path: Path) -> Deb:
    if file_digest(path) != record["SHA256"]:
        raise HarnessError(f"{path} is damaged", hint="remove it, and it is downloaded again")
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
    """The package names in a list of relations, without versions and architectures."""
    return [part.split("(")[0].strip().split(":")[0] for part in text.split(separator) if part]


def _reason(output: str) -> str:
    lines = [line[2:].strip() for line in output.splitlines() if line.startswith(("E:", "W:"))]
    return lines[0] if lines else last_line(output)
