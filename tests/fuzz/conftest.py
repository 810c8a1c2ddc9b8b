"""The fixture `attack`, which gives a parser its inputs, and the count of all cases."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from scripts.system.errors import HarnessError, describe
from tests.fuzz import fence
from tests.fuzz.hostile import Call

LEAST = 10_000

CASES: Counter[str] = Counter()

Attack = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases",
        type=int,
        default=8_000,
        help="scales the number of inputs; the default gives more than 10,000",
    )
    parser.addoption("--seed", type=int, default=0, help="other inputs for each number")


def pytest_configure(config: pytest.Config) -> None:
    # What is imported while the fence is up must not write its bytecode.
    sys.dont_write_bytecode = True
    config.stash[CHOSEN] = False
    config.addinivalue_line("filterwarnings", "ignore:Generating overly large repr")


CHOSEN = pytest.StashKey[bool]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[CHOSEN] = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail if the whole suite tried fewer cases than it promises."""
    is_whole = not session.config.stash[CHOSEN] and not any(
        "::" in arg for arg in session.config.args
    )
    if exitstatus == 0 and is_whole and CASES.total() < LEAST:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"{CASES.total():,} cases against {len(CASES)} parsers")


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    """How many inputs a parser gets, so that all of them together get `--cases`."""
    return -(-int(request.config.getoption("--cases")) // max(request.session.testscollected, 1))


@pytest.fixture
def attack(
    request: pytest.FixtureRequest, cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Attack:
    """Gives a parser its inputs: attack(inputs, call).

    refused is what else than a HarnessError the parser may raise. share is the part of the usual
    number of inputs that it gets, for a parser that takes long.
    """
    set_hypothesis_home_dir(tmp_path / "hypothesis")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name = request.node.name

    def run(
        inputs: st.SearchStrategy[Any],
        call: Call,
        refused: tuple[type[Exception], ...] = (),
        share: float = 1,
    ) -> None:
        @seed(request.config.getoption("--seed"))
        @settings(
            max_examples=max(1, round(cases * share)),
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def case(value: Any) -> None:
            CASES[name] += 1
            try:
                with fence.inside(tmp_path):
                    call(value)
            except refused:
                pass
            except HarnessError as error:
                assert_shown_safely(describe(error))

        case()

    return run


def assert_shown_safely(text: str) -> None:
    """Assert that no character of text acts on the terminal, and no line on GitHub's runner."""
    for line in text.split("\n"):
        assert line.replace("\t", "").isprintable(), repr(line)
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line, line
