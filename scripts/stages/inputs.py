"""Inputs: everything that decides a stage's output.

A stage's key is a hash over its inputs. Keys, stage.json and manifest.json hold each input as a
label and a digest. The label alone tells which kind of input it is, as in "RPM foo-1.x86_64.rpm".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

# The digest of a package that is installed by name: the package sources decide its version.
INSTALLED = "installed"


class Kind(Enum):
    """The kinds of inputs."""

    SETTING = auto()
    """A value such as the release or the digest of mkosi."""
    CONFIGURATION = auto()
    """A mkosi file of the checkout, by its path. It is the same on every machine."""
    RPM = auto()
    """An RPM that the distribution does not provide, by its file name."""
    PACKAGE = auto()
    """A package that we install beside those in the image's configuration, by name."""
    SUPPLEMENTARY = auto()
    """A package of a further repository; its digest is what the package manager is asked for."""
    FILE = auto()
    """A file that no package owns, by its path in the image."""
    STAGE = auto()
    """A stage that this one depends on; its digest is that stage's key."""


# How labels begin, by kind. Settings and configuration files have no prefix. Changing one of these
# changes the key of every stage.
PREFIXES: Mapping[Kind, str] = {
    Kind.RPM: "RPM ",
    Kind.PACKAGE: "package ",
    Kind.SUPPLEMENTARY: "supplementary package ",
    Kind.FILE: "file ",
    Kind.STAGE: "stage ",
}

# How the paths of all configuration files begin: mkosi.conf, mkosi.images/….
CONFIGURATION = "mkosi."


@dataclass(frozen=True)
class Input:
    """One thing that decides the output of a stage; digest is a hash, or a short value itself."""

    kind: Kind
    name: str
    digest: str

    @classmethod
    def parse(cls, label: str, digest: str) -> Input:
        """Return the input that label and digest stand for. Every label is valid."""
        for kind, prefix in PREFIXES.items():
            # "package sources" is a setting, whose digest is a hash.
            is_setting = kind is Kind.PACKAGE and digest != INSTALLED
            if label.startswith(prefix) and not is_setting:
                return cls(kind, label.removeprefix(prefix), digest)
        is_file = label.startswith(CONFIGURATION)
        return cls(Kind.CONFIGURATION if is_file else Kind.SETTING, label, digest)

    @classmethod
    def setting(cls, name: str, value: str) -> Input:
        """Return a setting."""
        return cls(Kind.SETTING, name, value)

    @property
    def label(self) -> str:
        """The name of this input in keys and files, unique among the inputs of a stage."""
        return f"{PREFIXES.get(self.kind, '')}{self.name}"


def from_labels(labelled: Mapping[str, str]) -> tuple[Input, ...]:
    """Return the inputs that stage.json or manifest.json holds as digests by label."""
    return tuple(Input.parse(label, digest) for label, digest in labelled.items())


def to_labels(inputs: Iterable[Input]) -> dict[str, str]:
    """Return the digests of inputs by label; of two with the same label, the last one counts."""
    return {one.label: one.digest for one in inputs}


def digests(inputs: Iterable[Input], kind: Kind) -> dict[str, str]:
    """Return the digests, by name, of those inputs that are of one kind."""
    return {one.name: one.digest for one in inputs if one.kind is kind}


def difference(before: Iterable[Input], now: Iterable[Input]) -> str:
    """Say in a few words which inputs differ between two builds of a stage.

    Names the first input that differs and the number of further ones.
    """
    old, new = to_labels(before), to_labels(now)
    changed = [label for label in new if old.get(label) != new[label]]
    changed += [label for label in old if label not in new]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]} changed{more}" if changed else "its key changed"
