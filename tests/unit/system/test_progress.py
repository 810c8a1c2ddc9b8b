from __future__ import annotations

import threading

import pytest

from scripts.system.progress import Progress


def test_without_a_terminal_each_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(live=False)
    with progress.task("base") as task:
        task.step("Installing Debian")
        task.step("Installing Debian")
        task.step("Saving manifest")

    lines = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["base: Installing Debian", "base: Saving manifest", "base: done in 0 s"]


def test_a_task_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Progress(live=False).task("base"):
        raise ZeroDivisionError

    assert "base: failed after 0 s" in capsys.readouterr().err


def test_text_that_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(live=False).say("[bold]/tmp[/bold] and [/]")

    assert "[bold]/tmp[/bold] and [/]" in capsys.readouterr().err


def test_a_long_line_is_not_folded_where_nobody_sees_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Progress(live=False).say("x" * 500)

    assert "x" * 500 in capsys.readouterr().err


def test_the_live_line_fits_the_terminal_and_names_every_task() -> None:
    progress = Progress(live=True)
    with progress.task("base") as base, progress.task("initrd") as initrd:
        base.step("Installing Debian")
        initrd.step("y" * 300)
        line = progress._line().plain

    assert line.startswith("base: Installing Debian 0 s · initrd: yyy")
    assert len(line) < progress.console.width


def test_tasks_may_come_and_go_in_several_threads(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(live=False)

    def work(name: str) -> None:
        with progress.task(name) as task:
            for number in range(50):
                task.step(f"step {number}")

    threads = [threading.Thread(target=work, args=(f"task{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 * 51
    assert all(line.startswith("[") for line in lines)
