"""Changing one value in a TOML file or a mkosi.conf, and leaving the rest as it is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from scripts.system import strict
from scripts.system.errors import HarnessError
from scripts.system.files import write_text


@dataclass(frozen=True)
class Edit:
    """A new value for the dotted key in a TOML file, or for the setting key in a mkosi.conf.

    If the old value is a list, the new one is appended to it.
    """

    file: Path
    key: str
    value: str

    def edited(self, text: str) -> str:
        """Return text with the value. Comments and everything else stay."""
        is_toml = self.file.suffix == ".toml"
        return self._edited_toml(text) if is_toml else self._edited_conf(text)

    def _edited_toml(self, text: str) -> str:
        document = tomlkit.parse(text)
        *tables, last = self.key.split(".")
        table: Any = document
        for name in tables:
            table = table[name]
        if isinstance(table.get(last), list):
            table[last].append(self.value)
        else:
            table[last] = self.value
        return tomlkit.dumps(document)

    def _edited_conf(self, text: str) -> str:
        pattern = re.compile(rf"^{re.escape(self.key)}=.*$", re.MULTILINE)
        return pattern.sub(lambda _: f"{self.key}={self.value}", text, count=1)


def apply(changes: Iterable[Edit]) -> None:
    """Write the values of changes to their files, to each file all at once. Raises HarnessError.

    No file has changed yet if one of them cannot be read.
    """
    texts: dict[Path, str] = {}
    for one in changes:
        with _named(one.file):
            texts[one.file] = one.edited(texts.get(one.file) or one.file.read_text())
    for path, text in texts.items():
        with _named(path):
            write_text(path, text)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn an error about the file at path into a HarnessError."""
    try:
        yield
    except OSError as error:
        raise HarnessError(f"{path} cannot be changed: {error.strerror}") from error
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path} cannot be changed: {error}") from error


def value(file: Path, key: str) -> Any:
    """Return the value of the dotted key in a TOML file. Raises HarnessError if it has none."""
    try:
        found: Any = strict.toml(file.read_text())
        for part in key.split("."):
            found = found[part]
    except (OSError, *strict.ODDITIES) as error:
        raise HarnessError(f"{file} has no {key}: {error!r}") from error
    return found
