"""failures.toml: every pattern has an example, and every sentence can be completed."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from string import Formatter

import pytest

from scripts.mkosi import failures
from scripts.mkosi.failures import Cause, Kind, Sign, knowledge
from scripts.mkosi.workspaces import MEMORY

SIGNS = [(kind, sign) for kind in knowledge().kinds for sign in kind.signs]

METADATA = "Error: Failed to download metadata for repo 'amazonlinux': "

# An output for each sign, in the order of failures.toml.
SIGNS_EXAMPLES = [
    f"cp: error writing '{MEMORY}/finch-1/sh': No space left on device",
    "cp: error writing 'sh': Disk quota exceeded",
    "cannot isolate the build: namespaces 0x2e020000: Operation not permitted",
    "E: Failed to fetch http://mirror/InRelease  404  Not Found",
    "Err:1 http://mirror trixie InRelease\n  404  Not Found",
    "E: Release file for http://mirror/InRelease is expired (invalid since 9d). Updates for this",
    "E: Problem executing scripts APT::Update::Post-Invoke 'x'\nW: Conflicting distribution: "
    "http://mirror/debian trixie InRelease (expected trixie but got bookworm)",
    f"{METADATA}repomd.xml GPG signature verification error: Bad GPG signature",
    f"{METADATA}GPG verification is enabled, but GPG signature is not available. This may be an "
    "error: Status code: 404 for http://mirror/repomd.xml.asc (IP: 192.0.2.7)",
    f"{METADATA}Cannot download repodata/repomd.xml: All mirrors were tried",
    f"{METADATA}Cannot prepare internal mirrorlist",
    "[FAILED] bash.rpm: No more mirrors to try",
    "Package bash.rpm is not signed",
    "They are not correct for this package.. Failing package is: bash-5.2",
    "Problem opening package bash.rpm",
    "dpkg: error processing package hello (--configure):\n script failed",
    "error: %pre(bash-5.2) scriptlet failed, exit status 1",
    "warning: %post(bash-5.2) scriptlet failed, signal 6\nError: Transaction failed",
    "Error: Unable to find a match: system-release-2023.12.20260930",
    "Error: Unable to find a match: bsah",
    "Error: \n Problem: conflicting requests\n  - nothing provides udev needed by x",
    "Error: \n Problem 1: nothing provides udev needed by x",
    "Error: Transaction test error:\n  file x conflicts with y",
    "Error: GPG check FAILED",
    "E: Unable to locate package base-files",
    "E: Unable to locate package hello",
    '‣ [base] "dnf makecache" returned non-zero exit code 1.',
    "‣ [base] No kernel found",
]

CAUSES_EXAMPLES = [
    "Status code: 404 for http://mirror/x (IP: 192.0.2.7)",
    "Curl error (6): Could not resolve hostname for http://mirror/x []",
    "Curl error (28): Timeout was reached for http://mirror/x [Too slow]",
    "Downloading successful, but checksum doesn't match. Calculated: 1  Expected: 2",
]


def fields(template: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in Formatter().parse(template) if name}


@pytest.mark.parametrize(("kind_and_sign", "output"), list(zip(SIGNS, SIGNS_EXAMPLES, strict=True)))
def test_every_sign_explains_an_example(kind_and_sign: tuple[Kind, Sign], output: str) -> None:
    found = knowledge().diagnose(output)

    assert found
    assert (found.kind, found.sign) == kind_and_sign


@pytest.mark.parametrize(
    ("cause", "example"), list(zip(knowledge().causes, CAUSES_EXAMPLES, strict=True))
)
def test_every_cause_rewords_an_example(cause: Cause, example: str) -> None:
    assert next(one for one in knowledge().causes if one.pattern.search(example)) == cause
    assert knowledge().reworded(example)["cause"] != example


@pytest.mark.parametrize(
    "line",
    [
        "qemu: uncaught target signal 11 (Segmentation fault)",
        "qemu: fatal: x",
        "qemu: unhandled CPU exception 0x10000 - aborting",
        "qemu-arm-static: Could not open '/lib/ld-linux.so.3'",
        "** ERROR:x: assertion failed",
    ],
)
def test_every_form_of_a_crash_is_seen(line: str) -> None:
    assert knowledge().crash.pattern.match(line)


@pytest.mark.parametrize(
    "word",
    ["429  Too", "503  Busy", "Mirror sync in progress", "Status code: 500 for", "Curl error (56)"],
)
def test_what_may_soon_be_over_is_known(word: str) -> None:
    assert knowledge().transient.search(word)


@pytest.mark.parametrize("sign", [sign for _, sign in SIGNS])
def test_a_message_is_made_of_groups_of_its_pattern(sign: Sign) -> None:
    assert fields(sign.message) <= {*sign.pattern.groupindex, "work", "of_repository"}


@pytest.mark.parametrize("sign", [sign for _, sign in SIGNS])
def test_a_sign_whose_cause_stands_elsewhere_has_one_of_its_own(sign: Sign) -> None:
    if sign.causes:
        assert "cause" in sign.causes.groupindex
        assert "cause" in sign.pattern.groupindex


@pytest.mark.parametrize("cause", knowledge().causes)
def test_a_reason_is_made_of_groups_of_its_pattern(cause: Cause) -> None:
    assert fields(cause.reason) <= {*cause.pattern.groupindex}


def test_every_pattern_of_the_table_is_compiled(checkout: Path) -> None:
    text = (checkout / "scripts/mkosi/failures.toml").read_text()
    signs = [value for _, sign in SIGNS for value in vars(sign).values()]
    compiled = [value for value in signs if isinstance(value, re.Pattern)]

    written = len(re.findall(r"^(?:pattern|requires|causes) = ", text, re.MULTILINE))
    assert len(compiled) + len(knowledge().causes) + 1 == written


def test_every_hint_is_given_and_names_options_that_there_are() -> None:
    assert {sign.hint for _, sign in SIGNS if sign.hint} == set(knowledge().hints)
    for name in knowledge().hints:
        assert "{" not in knowledge().hint(name)


def test_a_hint_shows_an_option_as_it_is_typed() -> None:
    assert "-- --mirror URL" in knowledge().hint("network")


def test_of_two_signs_of_a_kind_the_first_in_the_output_counts() -> None:
    found = knowledge().diagnose("Problem opening package a.rpm\nPackage b.rpm is not signed")

    assert found
    assert found.match["package"] == "a.rpm"


def test_of_mkosi_s_own_lines_the_last_counts() -> None:
    found = knowledge().diagnose("‣ First\n‣ [base] Second")

    assert found
    assert found.match["error"] == "Second"


@pytest.mark.parametrize(
    ("repository", "named"),
    [
        ("", "amazonlinux"),
        ("amazonlinux at http://mirror", "amazonlinux at http://mirror"),
        ("another at http://mirror", "amazonlinux"),
    ],
)
def test_the_repository_has_its_address_where_it_is_the_one_that_dnf_names(
    repository: str, named: str
) -> None:
    found = knowledge().diagnose(f"{METADATA}Cannot prepare internal mirrorlist")

    assert found
    message, _ = found.explain(Path("/work"), repository)
    assert message.startswith(f"could not fetch metadata of the repository {named}: ")


def test_the_cause_of_another_file_is_not_taken_for_this_one_s() -> None:
    output = (
        "[MIRROR] a.rpm: Status code: 404 for http://mirror/a.rpm\n[FAILED] b.rpm: No more mirrors"
    )
    found = knowledge().diagnose(output)

    assert found
    assert found.explain(Path("/work"), "")[0] == "could not fetch b.rpm: No more mirrors"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EDQUOT, "building base failed: the disk that holds /work is full"),
        (errno.EACCES, "building base failed: [Errno 13] refused"),
    ],
)
def test_an_error_of_the_system_is_told_as_it_is_unless_the_disk_is_full(
    number: int, message: str
) -> None:
    error = failures.explain_os_error("base", OSError(number, "refused"), work=Path("/work"))

    assert error.message == message


def test_the_table_is_read_once() -> None:
    assert failures.knowledge() is failures.knowledge()
