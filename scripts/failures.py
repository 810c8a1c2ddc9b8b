"""What went wrong inside mkosi, in one sentence, read from the last lines of its output."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from scripts.errors import HarnessError
from scripts.run import CommandError

DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")

# apt: "Err:3 http://… suite InRelease", the reason on the line after it.
APT_ERR = re.compile(r"^Err:\d+ (\S+) (\S+)")
APT_FETCH = re.compile(r"^[EW]: Failed to fetch (\S+)\s+(.+)$")
APT_ERROR = re.compile(r"^E: (.+)$")
DPKG_ERROR = re.compile(r"^dpkg: error processing (?:package|archive) (\S+) \((.+)\):")

# A line of mkosi's own that is no step within a step (which is indented): an error, the dump of a
# failed command, which begins with a quote, or what mkosi was doing meanwhile, in parentheses.
MKOSI_LINE = re.compile(r"^‣ (?:\[[^]]*\] )?+([^ (].*)$")

# What another attempt may mend and apt does not try again: the server's own errors and an archive
# that is just being updated.
TRANSIENT = re.compile(r"\b(?:429|5\d\d)  [A-Z]|Mirror sync in progress")

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


def is_transient(error: CommandError) -> bool:
    """Whether to build again may mend a mkosi that failed."""
    return _fetching(error.output.splitlines()) != "" and bool(TRANSIENT.search(error.output))


def _full(work: Path) -> str:
    return f"the disk that holds {work} is full"


def _cause(lines: Sequence[str], work: Path) -> tuple[str, str]:
    if any(DISK_FULL.search(line) for line in lines):
        return _full(work), SPACE_HINT
    if cause := _fetching(lines):
        return cause, NETWORK_HINT
    for line, after in pairwise([*lines, ""]):
        if match := DPKG_ERROR.match(line):
            return f"package {match[1]}, {match[2]}: {after.strip()}", ""
    for line in lines:
        if match := APT_ERROR.match(line):
            return match[1], ""
    for line in reversed(lines):
        if match := MKOSI_LINE.match(line):
            return "" if match[1].startswith('"') else match[1], ""
    return "", ""


def _fetching(lines: Sequence[str]) -> str:
    """What apt could not fetch, and why ("" if it did not fail so)."""
    for line in lines:
        if match := APT_FETCH.match(line):
            return f"could not fetch {match[1]}: {_reason(match[2])}"
    for line, after in pairwise([*lines, ""]):
        if match := APT_ERR.match(line):
            return f"could not fetch {match[1]} ({match[2]}): {_reason(after)}"
    return ""


def _reason(text: str) -> str:
    return " ".join(re.sub(r"\[IP: .*\]", "", text).split()).rstrip(".")
