"""Reads and edits finch-core's `deps/*.conf`: lines of NAME=value, which shells read as their own.

finch-core's README of `deps` defines the names: ARTIFACT_BASE_URL, and for each architecture
<ARCH>_ARTIFACT_PATHING (the folder, if any), <ARCH>_ARTIFACT (the file) and <ARCH>_512_DIGEST.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import ARCHES, Arch
from scripts.system.errors import HarnessError

BASE_URL = "ARTIFACT_BASE_URL"

# A line that assigns a value, as a shell reads it.
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


@dataclass(frozen=True)
class Entry:
    """A published file: the key in the bucket, which may have a folder, and its sha512 in hex."""

    arch: Arch
    key: str
    sha512: str

    @property
    def values(self) -> Mapping[str, str]:
        """What the lines about the file say, by name; "" for a line that must not be there."""
        folder, _, name = self.key.rpartition("/")
        prefix = self.arch.name.upper()
        return {
            f"{prefix}_ARTIFACT_PATHING": folder,
            f"{prefix}_ARTIFACT": name,
            f"{prefix}_512_DIGEST": self.sha512,
        }


def edited(text: str, base_url: str, entries: list[Entry]) -> str:
    """Return text with the lines about entries; all other lines stay as they are.

    What is not in text yet comes at its end, in one block for each architecture.
    """
    blocks = [{BASE_URL: base_url}, *(entry.values for entry in entries)]
    wanted = {name: value for block in blocks for name, value in block.items()}
    seen: set[str] = set()
    lines = [line for old in _lines(text) for line in _renewed(old, wanted, seen)]
    for block in blocks:
        rest = [f"{name}={value}" for name, value in block.items() if value and name not in seen]
        is_part = any(name in seen for name in block)
        lines += [*([""] if lines and rest and not is_part else []), *rest]
    return "".join(f"{line}\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Return the lines of text, which end as a shell's do: not at a form feed, nor at U+2028."""
    return text.removesuffix("\n").split("\n") if text else []


def _renewed(line: str, wanted: Mapping[str, str], seen: set[str]) -> list[str]:
    """Return what takes the place of line: itself, its new value, or nothing for a repetition."""
    match = _ASSIGNMENT.fullmatch(line)
    if not match or match[1] not in wanted:
        return [line]
    name = match[1]
    is_kept = wanted[name] and name not in seen
    seen.add(name)
    return [f"{name}={wanted[name]}"] if is_kept else []


def values(text: str) -> dict[str, str]:
    """Return the values in text by their names; the last one counts, as in a shell."""
    matches = map(_ASSIGNMENT.fullmatch, _lines(text))
    return {match[1]: _word(match[2]) for match in matches if match}


def _word(text: str) -> str:
    """Return the first word of text as a shell reads it: without quotes, nor what follows it."""
    words = shlex.shlex(text, posix=True, punctuation_chars=";&|")
    words.whitespace_split, words.commenters = True, ""
    try:
        return "" if text[:1].isspace() else next(words, "")
    except ValueError:  # a quotation that does not end in this line
        return text


def artifacts(text: str) -> list[str]:
    """Return the names of the files that the lines in text name, without their folders."""
    found = values(text)
    names = [f"{arch.name.upper()}_ARTIFACT" for arch in ARCHES]
    return [found[name] for name in names if found.get(name)]


def read(path: Path) -> str:
    """Return the text of the file at path, with its line ends; "" if there is none.

    Raises HarnessError. A link is refused, because `write_all` would put a file in its place.
    """
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
        data = path.read_bytes() if is_file else b""
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror}") from error
    if not is_file:
        raise HarnessError(f"{path} is not a regular file", hint="put a file in its place")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path} cannot be read: {error}") from error


def write_all(texts: Mapping[Path, str]) -> None:
    """Write each text to its path: all of them, or, if that fails, none.

    Raises HarnessError; every file is then as it was.
    """
    before = {path: path.read_bytes() if path.is_file() else None for path in texts}
    done: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            # Whatever needs space or permissions happens before the first file changes.
            staged = {path: stack.enter_context(_staged(path, text.encode()))
                      for path, text in texts.items()}  # fmt: skip
            for path, temporary in staged.items():
                temporary.replace(path)
                done.append(path)
    except BaseException as error:  # also an interrupt
        for path in done:
            _put_back(path, before[path])
        if not isinstance(error, OSError):
            raise
        where = error.filename2 or error.filename
        raise HarnessError(f"{where} cannot be written: {error.strerror}") from error


def _put_back(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
        return
    with _staged(path, data) as temporary:
        temporary.replace(path)


@contextlib.contextmanager
def _staged(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a file with data beside path, which is removed in the end unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, 0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
