"""What rpm says of an image must be explained, and what is explained must be so."""

from __future__ import annotations

import re

import pytest

from tests import verification
from tests.verification import Difference

CHANGED = Difference(re.compile("/etc/(passwd|group)"), "S.5....T.", "accounts")
GONE = Difference(re.compile("/boot/config-.*"), "missing", "not needed")

LINES = "S.5....T.  c /etc/passwd\nmissing     /boot/config-6.18\n"


def test_what_differs_for_a_reason_is_no_complaint() -> None:
    assert verification.complaints(LINES, [CHANGED, GONE]) == []


@pytest.mark.parametrize(
    "line",
    [
        ".M.......    /etc/passwd",
        "S.5....T.    /etc/passwd-",
        "missing     /etc/passwd",
        "missing   c /boot",
        "Unsatisfied dependencies for bash-5.2-1.x86_64:",
    ],
)
def test_any_other_line_is_one(line: str) -> None:
    assert verification.complaints(f"{LINES}{line}\n", [CHANGED, GONE]) == [f"unexplained: {line}"]


def test_a_difference_that_is_gone_must_leave_the_list() -> None:
    said = "S.5....T.  c /etc/group\n"
    assert verification.complaints(said, [CHANGED, GONE]) == [
        "no longer so: missing /boot/config-.*"
    ]


def test_a_difference_of_one_image_excuses_no_other() -> None:
    lists = {name: verification.explained(name) for name in ("os-image", "wsl-rootfs")}
    missing = {
        name: {one.path.pattern for one in found if one.what == "missing"}
        for name, found in lists.items()
    }
    assert missing["os-image"].isdisjoint(missing["wsl-rootfs"])
    assert all(one.reason for found in lists.values() for one in found)
