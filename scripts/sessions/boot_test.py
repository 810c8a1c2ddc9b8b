"""Boot a built os-image and check it, for the boot-test session."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts import options
from scripts.boot import Result, Subject, boot_test
from scripts.boot.results import Status
from scripts.build import build
from scripts.description import report
from scripts.mkosi.sandbox import Tools
from scripts.options import Options
from scripts.stages import artifacts, places
from scripts.system import errors
from scripts.system.errors import HarnessError
from scripts.system.locks import only_build
from scripts.system.progress import Progress

MARKS = {
    Status.PASSED: "[green]passed[/]",
    Status.FAILED: "[red]failed[/]",
    Status.SKIPPED: "[yellow]not made[/]",
}


def main(argv: Sequence[str]) -> None:
    """Boot what argv names and show each check. Raises HarnessError where one fails."""
    opts = options.parse_for_boot(argv, os.environ)
    progress = Progress()
    subject = Subject(
        opts.distribution,
        opts.arch,
        opts.target / "os-image.raw",
        opts.target / "os-image.efi",
        artifacts.contents(opts.target),
    )
    tools = _tools(opts, progress)
    result = boot_test(subject, tools, opts.target / "boot-test", progress, accel=opts.accel)
    report.write(opts.target)
    _show(result)
    if not result.passed:
        raise HarnessError(
            f"the os-image of {opts.distribution} {opts.arch} failed its boot test: "
            f"{result.reason}",
            hint="to see it again: ./nox -s "
            f"\"boot-test(arch='{opts.arch}')\" -- --distribution {opts.distribution}",
            log=result.logs / "console.log",
        )


def _tools(opts: Options, progress: Progress) -> Tools:
    """The tools tree with QEMU and the firmware, built first where no build has left one."""
    with only_build(opts.work):
        using = build.obtain(opts, progress)
        at = places.of(opts)
        build.build_tools_tree(opts, progress, using, at)
    return Tools(at.tools_tree, using.sandbox)


def _show(result: Result) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table("check", "outcome", "what it says")
    for check in result.checks:
        table.add_row(check.name, MARKS[check.status], escape(check.reason or check.title))
    console.print(table)
    console.print(
        f"booted with {result.accelerator} ({result.accelerator_reason}) "
        f"in {result.seconds:.0f} s; results in {result.logs}",
        markup=False,
    )
    if result.note:
        console.print(result.note, markup=False)
    for check in result.failures:
        console.print(f"\n{check.name}: {check.reason}\n{check.evidence}", markup=False)
    if result.failures and result.console_tail:
        console.print(f"\nthe guest's last words:\n{result.console_tail}", markup=False)


if __name__ == "__main__":
    errors.main(main)
