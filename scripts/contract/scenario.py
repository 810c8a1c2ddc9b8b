"""Scenarios: the contract's TOML files, each of which describes a machine and what is asked of it.

tests/contract/README.md describes the format.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from scripts.system.errors import HarnessError

# A name is a part of file names, and of the names of checks.
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

# How long a step may take, in seconds: TCG is slow.
STEP_SECONDS = 60.0
SCENARIO_SECONDS = 1500.0

DEVICES = ("vz", "qemu")
NETWORKS = ("offline", "online")

# Who runs a step's script in the guest: root, or the user that the seed creates.
LOGINS = ("root", "user")


@dataclass(frozen=True)
class Step:
    """One demand on the guest: a script for it, or an action of the host.

    title says what must hold, client who relies on it, and reason why. run is a script for bash in
    the guest, by login; do is the name of an action (actions.py), which gets arguments. A step is
    not applicable if the kernel lacks the module called kernel, or if the script only_if fails;
    then otherwise says why. seconds limits it.
    """

    name: str
    title: str
    client: str
    reason: str
    run: str = ""
    do: str = ""
    login: str = "root"
    seconds: float = STEP_SECONDS
    kernel: str = ""
    only_if: str = ""
    otherwise: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Disk:
    """An empty disk that the machine has besides the image: its name and its size in bytes."""

    label: str
    size: int


@dataclass(frozen=True)
class Scenario:
    """A machine and the steps that are tried in it, in order.

    devices says whose devices the machine has: those of Apple's Virtualization framework ("vz") or
    of QEMU as Lima starts it. network is "offline" or "online"; cards is the number of network
    cards. distributions is empty if the scenario is for all. seed describes the guest's
    configuration (seeds.py), extras names disks with programs (extras.py), and services what runs
    on the host (services.py). seconds limits all of it.
    """

    name: str
    title: str
    devices: str
    network: str
    steps: Sequence[Step]
    seed: Mapping[str, Any]
    cards: int = 1
    memory: int = 2048
    distributions: Sequence[str] = ()
    extras: Sequence[str] = ()
    services: Sequence[str] = ()
    disks: Sequence[Disk] = ()
    seconds: float = SCENARIO_SECONDS

    @property
    def is_online(self) -> bool:
        """Whether the guest can reach the host and other machines."""
        return self.network == "online"

    def is_for(self, distribution: str) -> bool:
        """Return whether the scenario is tried with images of distribution."""
        return distribution in self.distributions or not self.distributions


def read_all(folder: Path, actions: Sequence[str]) -> list[Scenario]:
    """Return the scenarios in folder, by name. actions are the names of the host's actions.

    Raises HarnessError if a file is not a scenario or if there is none.
    """
    paths = [path for path in sorted(folder.glob("*.toml")) if is_scenario(path)]
    found = [read(path, actions) for path in paths]
    if not found:
        raise HarnessError(f"there is no scenario in {folder}")
    return found


def is_scenario(path: Path) -> bool:
    """Return whether the file at path is a scenario: one that has steps."""
    return re.search(r"^\[\[step\]\]", path.read_text(), re.MULTILINE) is not None


def read(path: Path, actions: Sequence[str]) -> Scenario:
    """Return the scenario in the file at path. Raises HarnessError with the first mistake."""
    try:
        data = tomllib.loads(path.read_text())
        return _scenario(path.stem, data, actions)
    except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
        raise HarnessError(f"{path} is not a scenario: {error}") from None
    except KeyError as error:
        raise HarnessError(f"{path} is not a scenario: there is no {error}") from None


def _scenario(name: str, data: dict[str, Any], actions: Sequence[str]) -> Scenario:
    steps = [_step(entry, actions) for entry in data.pop("step", [])]
    names = [step.name for step in steps]
    if twice := {one for one in names if names.count(one) > 1}:
        raise ValueError(f"two steps are called {min(twice)!r}")
    disks = [Disk(_name(one["label"]), _bytes(one["size"])) for one in data.pop("disks", [])]
    _known(Scenario, data, "the scenario")
    scenario = Scenario(
        name=_name(name), steps=steps, disks=disks, seed=data.pop("seed", {}), **data
    )
    _one_of(scenario.devices, DEVICES, "devices")
    _one_of(scenario.network, NETWORKS, "network")
    return scenario


def _step(entry: dict[str, Any], actions: Sequence[str]) -> Step:
    where = f"step {entry.get('name', '?')!r}"
    entry = {{"as": "login"}.get(key, key.replace("-", "_")): value for key, value in entry.items()}
    mine = {one.name for one in fields(Step)} - {"arguments"}
    arguments = {key: value for key, value in entry.items() if key not in mine}
    if arguments and "do" not in entry:
        raise ValueError(f"{where} has an unknown key {min(arguments)!r}")
    given = {key: value for key, value in entry.items() if key in mine}
    _known(Step, given, where)
    step = Step(**given, arguments=arguments)
    _name(step.name)
    if bool(step.run) == bool(step.do):
        raise ValueError(f"{where} needs either run or do")
    if step.do:
        _one_of(step.do, actions, f"do of {where}")
    if step.only_if and not step.otherwise:
        raise ValueError(f"{where} does not say why it may be left out: give otherwise")
    _one_of(step.login, LOGINS, f"as of {where}")
    return step


def _known(kind: type[Step | Scenario], data: Mapping[str, Any], where: str) -> None:
    """Raise ValueError if data has a key that kind does not know, or lacks one."""
    own = {"name", "steps"} if kind is Scenario else set()
    known = {one.name for one in fields(kind)} - own
    if unknown := data.keys() - known:
        raise ValueError(f"{where} has an unknown key {min(unknown)!r}")
    needed = {
        one.name
        for one in fields(kind)
        if one.default is MISSING and one.default_factory is MISSING
    } - own - {"seed"}  # fmt: skip
    if missing := needed - data.keys():
        raise ValueError(f"{where} has no {min(missing)}")


def _bytes(size: str) -> int:
    """Return the bytes of a size such as "4G"."""
    if not re.fullmatch(r"[1-9][0-9]{0,2}G", size):
        raise ValueError(f"{size!r} is not a size in GiB, such as 4G")
    return int(size[:-1]) << 30


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of small letters, digits and hyphens")
    return name


def _one_of(value: str, choices: Sequence[str], where: str) -> None:
    if value not in choices:
        raise ValueError(f"{where} is {value!r}, not one of {', '.join(choices)}")
