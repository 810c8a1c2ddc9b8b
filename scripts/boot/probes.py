"""Questions to the guest (probes.toml), asked in one script, and their answers."""

from __future__ import annotations

import re
import shlex
import tomllib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scripts.arch import ARCHES, Arch
from scripts.emulation import elf

# What the program of another architecture prints.
GREETING = "a foreign program runs"


@dataclass(frozen=True)
class Answer:
    """What a probe printed (stdout and stderr), and its exit status."""

    text: str
    status: int = 0


Answers = Mapping[str, Answer]


@cache
def _table() -> dict[str, dict[str, object]]:
    return tomllib.loads(Path(__file__).with_name("probes.toml").read_text())


def script(mark: str, arch: Arch, *, distribution: str, again: bool) -> str:
    """The shell script that asks a guest of arch and distribution.

    mark is a word that no answer holds. again: only what is asked in a second boot.
    """
    program = elf.says(next(other for other in ARCHES if other is not arch), GREETING)
    lines = [
        f"BOOT_FILE={shlex.quote(arch.boot_file)}",
        f"PROGRAM={b64encode(program).decode()}",
        "export LC_ALL=C.UTF-8 PAGER=",
    ]
    for name, probe in _table().items():
        if again and not probe.get("again"):
            continue
        if probe.get("distribution", distribution) != distribution:
            continue
        lines += [
            f"echo '{mark} begin {name}'",
            f"( {str(probe['command']).strip()}\n) </dev/null 2>&1",
            f'printf "\\n%s\\n" "{mark} end $?"',
        ]
    lines.append(f"echo '{mark} complete'")
    return "\n".join(lines) + "\n"


def parse(mark: str, output: str) -> dict[str, Answer]:
    """The answers in the script's output, whether or not it came to its end."""
    pattern = rf"^{mark} begin (\S+)\n(.*?)\n{mark} end (\d+)$"
    found = re.findall(pattern, output, re.MULTILINE | re.DOTALL)
    return {name: Answer(text.strip("\n"), int(status)) for name, text, status in found}


def is_complete(mark: str, output: str) -> bool:
    """Whether the script came to its end."""
    return f"{mark} complete" in output
