"""What went wrong inside mkosi, in one sentence, read from the last lines of its output."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from scripts.errors import HarnessError
from scripts.run import CommandError

DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")

# apt: "Err:3 http://… suite InRelease", the reason on the line after it.
APT_ERR = re.compile(r"^Err:\d+ (\S+) (\S+)")
APT_FETCH = re.compile(r"^[EW]: Failed to fetch (\S+)\s+(.+?)(?:\s+\[IP: .*\])?$")
APT_ERROR = re.compile(r"^E: (.+)$")
DPKG_ERROR = re.compile(r"^dpkg: error processing (?:package|archive) (\S+) \((.+)\):")

# mkosi's own last words; a dump of a failed command begins with a quote.
MKOSI_ERROR = re.compile(r"^‣ (?:\[[^]]*\] +)?(?![\"(])(.+)$")

SPACE_HINT = "free some space: a build needs about 10 GiB"
NETWORK_HINT = "check the network; -- --mirror URL names another archive"


def explain(stage: str, error: CommandError, *, work: Path, log: Path) -> HarnessError:
    """The HarnessError for a mkosi that failed to build stage, with the cause where it is known."""
    message, hint = _cause(error.output.splitlines(), work)
    if not message:
        message = f"mkosi ended with status {error.returncode}"
    return HarnessError(f"building {stage} failed: {message}", hint=hint, log=log)


def explain_os_error(stage: str, error: OSError, *, work: Path) -> HarnessError:
    """The HarnessError for a failure of our own to write what stage came to."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HarnessError(f"building {stage} failed: {_full(work)}", hint=SPACE_HINT)
    return HarnessError(f"building {stage} failed: {error}")


def _full(work: Path) -> str:
    return f"the disk that holds {work} is full"


def _cause(lines: Sequence[str], work: Path) -> tuple[str, str]:
    if any(DISK_FULL.search(line) for line in lines):
        return _full(work), SPACE_HINT
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if match := APT_FETCH.match(line):
            return f"could not fetch {match[1]}: {match[2]}", NETWORK_HINT
        if match := APT_ERR.match(line):
            reason = re.sub(r"\s*\[IP: .*\]", "", after.strip())
            return f"could not fetch {match[1]} ({match[2]}): {reason}", NETWORK_HINT
        if match := DPKG_ERROR.match(line):
            return f"package {match[1]}, {match[2]}: {after.strip()}", ""
    for pattern in (APT_ERROR, MKOSI_ERROR):
        for line in lines:
            if match := pattern.match(line):
                return match[1], ""
    return "", ""
