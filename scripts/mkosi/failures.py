"""What went wrong inside mkosi, in one sentence, read from the last lines of its output."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path

from scripts.mkosi.workspaces import MEMORY
from scripts.system.errors import HarnessError
from scripts.system.process import CommandError

DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")

# apt: "Err:3 http://… suite InRelease", the reason on the line after it.
APT_ERR = re.compile(r"^Err:\d+ (\S+) (\S+)")
APT_FETCH = re.compile(r"^[EW]: Failed to fetch (\S+)\s+(.+)$")
APT_ERROR = re.compile(r"^E: (.+)$")
DPKG_ERROR = re.compile(r"^dpkg: error processing (?:package|archive) (\S+) \((.+)\):")

# rpm, of a scriptlet that failed: whether rpm goes on all the same, its kind and package. Where it
# goes on, dnf may still call the transaction failed.
RPM_SCRIPTLET = re.compile(
    r"^(warning|error): %(\w+)\((\S+)\) scriptlet failed, (?:exit status|signal) (\d+)"
)
DNF_TRANSACTION = "Error: Transaction failed"

# QEMU's user-mode emulation, of a program that it cannot go on with: a crash of the program, which
# under emulation may be the emulator's fault, and one of its own.
EMULATOR = re.compile(
    r"^(qemu: (?:uncaught target signal|fatal:|unhandled CPU exception).*"
    r"|qemu-\w+(?:-static)?: .*|\*\*\s?ERROR:.*)"
)
EMULATOR_HINT = (
    "the image's program crashed under emulation; a machine of the architecture shows whether "
    "the emulator is to blame. The last lines of the script:"
)
SCRIPT_LINES = 8

# dnf and librepo. The first two name what could not be had, metadata of a repository or a package.
# The causes are before it: "  - cause" and "[MIRROR] file: cause".
DNF_METADATA = re.compile(r"^Error: Failed to download metadata for repo '([^']+)': (.+)$")
DNF_FAILED = re.compile(r"^\[FAILED\] (\S+): (.+)$")
DNF_CAUSE = re.compile(r"^(?:  - |\[MIRROR\] (\S+): )(.+)$")
DNF_STATUS = re.compile(r"Status code: (\d+) for (\S+)")
DNF_CURL = re.compile(r"Curl error \(\d+\): (.+?) for (\S+) \[(.*)\]$")
DNF_DIGEST = "Downloading successful, but checksum doesn't match"
DNF_REPODATA = re.compile(r"\brepodata/\S+")
DNF_ERROR = re.compile(r"^Error: ?(.*)$")
# Below an error that says no more: what cannot be installed, and why, the reason last.
DNF_PROBLEM = re.compile(r"^ Problem(?: \d+)?: (.+)$")
DNF_REASON = re.compile(r"^  - (.+)$")
DNF_NO_MATCH = "Unable to find a match"

# What dnf says of a package that it does not trust, and what that means.
DNF_UNTRUSTED = {
    re.compile(r"^Package (\S+) is not signed$"): "is not signed",
    re.compile(r"\bFailing package is: (\S+)$"): "is not signed with the key that is trusted",
    re.compile(r"^Problem opening package (\S+)$"): "is not what was signed",
}

# A line of mkosi's own that is no step within a step (which is indented): an error, the dump of a
# failed command, which begins with a quote, or what mkosi was doing meanwhile, in parentheses.
MKOSI_LINE = re.compile(r"^‣ (?:\[[^]]*\] )?+([^ (].*)$")

# What another attempt may mend and apt does not try again, or dnf only at once: the server's own
# errors, an archive that is just being updated and a connection that broke.
TRANSIENT = re.compile(
    r"\b(?:429|5\d\d)  [A-Z]|Mirror sync in progress"
    r"|Status code: (?:429|5\d\d) |Curl error \((?:18|52|55|56)\)"
)

SPACE_HINT = "free some space: a build needs about 10 GiB"
# Every image of Debian's has it, so that an archive without has nothing for the architecture.
APT_NOTHING = "Unable to locate package base-files"

NETWORK_HINT = "check the network; -- --mirror URL names another archive"
NOTHING = "the archive has no packages for this architecture and release"
NOTHING_HINT = "-- --arch and -- --release name others, -- --mirror URL another archive"
NO_MATCH_HINT = "an older release may not have it yet: -- --release names another"
TRUST_HINT = "-- --mirror URL names another mirror, -- --signing-key FILE the key of this one"


def explain(
    stage: str, error: CommandError, *, work: Path, log: Path, repository: str = ""
) -> HarnessError:
    """The HarnessError for a mkosi that failed to build stage, with the cause where it is known.

    repository is the one that RPMs come from, in words; dnf's own do not always tell.
    """
    message, hint = _cause(error.output.splitlines(), work, repository)
    if not message:
        message = f"mkosi ended with status {error.returncode}"
    return HarnessError(f"building {stage} failed: {message}", hint=hint, log=log)


def explain_os_error(stage: str, error: OSError, *, work: Path) -> HarnessError:
    """The HarnessError for a failure of our own to write what stage came to."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HarnessError(f"building {stage} failed: {_full([], work)}", hint=SPACE_HINT)
    return HarnessError(f"building {stage} failed: {error}")


def is_transient(error: CommandError) -> bool:
    """Whether to build again may mend a mkosi that failed."""
    lines = error.output.splitlines()
    return bool(_fetching(lines) or _dnf_fetching(lines, "")) and bool(
        TRANSIENT.search(error.output)
    )


def _full(lines: Sequence[str], work: Path) -> str:
    """What is full, where lines complain of it."""
    if any(os.fspath(MEMORY) in line for line in lines):
        return f"{MEMORY}, which is memory, is full"
    return f"the disk that holds {work} is full"


def _cause(lines: Sequence[str], work: Path, repository: str) -> tuple[str, str]:
    if complaints := [line for line in lines if DISK_FULL.search(line)]:
        return _full(complaints, work), SPACE_HINT
    if cause := _fetching(lines) or _dnf_fetching(lines, repository):
        return cause, NETWORK_HINT
    if cause := _untrusted(lines, repository):
        return cause, TRUST_HINT
    cause, hint = _script(lines)
    if cause:
        return cause, hint
    if cause := _dnf_error(lines):
        return cause, NO_MATCH_HINT if cause.startswith(DNF_NO_MATCH) else ""
    for line in lines:
        if match := APT_ERROR.match(line):
            return (NOTHING, NOTHING_HINT) if match[1] == APT_NOTHING else (match[1], "")
    for line in reversed(lines):
        if match := MKOSI_LINE.match(line):
            return "" if match[1].startswith('"') else match[1], ""
    return "", ""


def _script(lines: Sequence[str]) -> tuple[str, str]:
    """The script of a package that failed, and a hint where it crashed ("" if none did)."""
    is_fatal = {"error": True, "warning": DNF_TRANSACTION in lines}
    for number, (line, after) in enumerate(pairwise([*lines, ""])):
        if match := DPKG_ERROR.match(line):
            cause = f"package {match[1]}, {match[2]}: {after.strip()}"
        elif (match := RPM_SCRIPTLET.match(line)) and is_fatal[match[1]]:
            cause = f"package {match[3]}, its scriptlet %{match[2]} ended with status {match[4]}"
        else:
            continue
        before = [text for text in lines[:number] if text.strip()][-SCRIPT_LINES:]
        crashes = [text.strip() for text in before if EMULATOR.match(text)]
        if crashes:
            return f"{cause}: {crashes[-1]}", "\n       ".join([EMULATOR_HINT, *before])
        return cause, ""
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


def _dnf_fetching(lines: Sequence[str], repository: str) -> str:
    """What dnf could not fetch, and why ("" if it did not fail so)."""
    for line in lines:
        if match := DNF_METADATA.match(line):
            wanted = DNF_REPODATA.search(match[2])
            name = wanted[0] if wanted else "the metadata"
            causes = [cause[2] for text in lines if (cause := DNF_CAUSE.match(text))]
            # "amazonlinux at https://…", where that is the one.
            own = repository if repository.startswith(match[1]) else match[1]
            return _not_fetched(name, own, causes or [match[2]])
        if match := DNF_FAILED.match(line):
            name = match[1]
            causes = [
                cause[2] for text in lines if (cause := DNF_CAUSE.match(text)) and cause[1] == name
            ]
            return _not_fetched(name, repository, causes or [match[2]])
    return ""


def _not_fetched(name: str, repository: str, causes: Sequence[str]) -> str:
    cause = causes[-1]
    if match := DNF_STATUS.match(cause):
        name, cause = match[2], f"the server answers {match[1]}"
    elif match := DNF_CURL.match(cause):
        name, cause = match[2], match[3] or match[1]
    elif cause.startswith(DNF_DIGEST):
        cause = "its digest is not the one that the repository's metadata has"
    whose = f" of the repository {repository}" if repository else ""
    return f"could not fetch {name}{whose}: {cause.strip()}"


def _untrusted(lines: Sequence[str], repository: str) -> str:
    """Which package dnf did not trust, and why ("" if it did not fail so)."""
    whose = f" of the repository {repository}" if repository else ""
    for line in lines:
        for pattern, meaning in DNF_UNTRUSTED.items():
            if match := pattern.search(line):
                return f"{match[1]}{whose} {meaning}, and was not installed"
    return ""


def _dnf_error(lines: Sequence[str]) -> str:
    """Any other error of dnf's, with what stands below one that says no more itself."""
    for number, line in enumerate(lines):
        if match := DNF_ERROR.match(line):
            below = [text for text in lines[number + 1 :] if text.strip()]
            if not match[1] or match[1].endswith(":"):
                return f"{match[1]} {_first_problem(below)}".strip()
            return match[1]
    return ""


def _first_problem(lines: Sequence[str]) -> str:
    """The first problem that lines tell of and the last of its reasons, else the first line."""
    if not lines or not (match := DNF_PROBLEM.match(lines[0])):
        return lines[0].strip() if lines else ""
    reasons = list(takewhile(DNF_REASON.match, lines[1:]))
    last = [reasons[-1].removeprefix("  - ").strip()] if reasons else []
    return ": ".join([match[1], *last])


def _reason(text: str) -> str:
    return " ".join(re.sub(r"\[IP: .*\]", "", text).split()).rstrip(".")
