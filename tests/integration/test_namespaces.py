"""Checks what happens to tests that need more than the kernel has."""

from __future__ import annotations

import pytest

from tests.integration import namespaces

REFUSED = "echo mount: permission denied >&2; exit 32"


def test_what_a_kernel_lacks_skips_a_test_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"it takes Linux 6\.7: .*denied"):
        namespaces.require(REFUSED, "it takes Linux 6.7")


def test_in_ci_it_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"it takes Linux 6\.7"):
        namespaces.require(REFUSED, "it takes Linux 6.7")
