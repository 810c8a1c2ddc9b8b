"""Boot a built os-image and check it, for the boot-test session."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from scripts import catalog
from scripts.boot import Result, Subject, boot_test
from scripts.boot.results import Status
from scripts.build import build
from scripts.build.manifest import Contents, Given, Manifest
from scripts.build.workshop import Workshop
from scripts.contract.actions import ACTIONS
from scripts.contract.runner import Contract
from scripts.contract.scenario import Scenario, read_all
from scripts.description import report
from scripts.distributions import amazonlinux
from scripts.emulation import emulators
from scripts.options import BootOptions, BuildOptions, Folders, Options, Sources, Target
from scripts.sessions import arguments
from scripts.system import errors
from scripts.system.errors import HarnessError, UsageError
from scripts.system.locks import only_build
from scripts.system.progress import Progress
from scripts.system.terminal import Terminal
from scripts.system.url import Url

# The folder with the contract's scenarios, in the checkout.
CONTRACT = "tests/contract"

SHOWN = (Target, Sources, BuildOptions, BootOptions, Folders)

MARKS = {
    Status.PASSED: Text("passed", "green"),
    Status.FAILED: Text("failed", "red"),
    Status.SKIPPED: Text("not made", "yellow"),
    Status.NOT_APPLICABLE: Text("not asked", "yellow"),
}


def main(argv: Sequence[str]) -> None:
    """Boot what argv names and show each check. Raises HarnessError if one fails."""
    parser = arguments.parser("boot-test", "Boots a built disk image and checks it.", SHOWN)
    run(arguments.parse_for_boot(argv, os.environ, using=parser), Progress())


def run(opts: Options, progress: Progress) -> None:
    """Boot what opts ask for and show each check. Raises HarnessError if one fails."""
    target = opts.target
    scenarios = _scenarios(opts) if opts.boot.contract else []
    table = emulators.EmulationTable.read(opts.folders.root / emulators.TABLE)
    manifest = Manifest.find(opts.artifacts)
    shop = _workshop(opts, progress)
    subject = Subject(
        target.distribution.name,
        target.arch,
        opts.artifacts / catalog.DISK_IMAGE,
        opts.artifacts / catalog.DISK_UKI,
        [emulated.name for emulated in table.foreign_to(target.arch)],
        Contents.of(manifest),
        marks(shop, manifest),
    )
    if scenarios:
        _try_contract(scenarios, subject, shop, progress)
    else:
        accel = opts.boot.accel
        result = boot_test(subject, shop.tools, opts.artifacts / "boot-test", progress, accel=accel)
        report.write(opts.artifacts)
        _judge(result, target, "its boot test", log=result.logs / "console.log")


def _scenarios(opts: Options) -> list[Scenario]:
    """Return the scenarios that are asked for, or all. Raises UsageError for a name of none."""
    scenarios = read_all(opts.folders.root / CONTRACT, tuple(ACTIONS))
    names = [one.name for one in scenarios]
    for name in opts.boot.scenarios:
        if name not in names:
            raise UsageError(f"no scenario {name!r}", hint=f"there are {', '.join(names)}")
    return [one for one in scenarios if one.name in (opts.boot.scenarios or names)]


def _try_contract(
    scenarios: Sequence[Scenario], subject: Subject, shop: Workshop, progress: Progress
) -> None:
    """Try the scenarios. Raises HarnessError if a step fails."""
    opts = shop.options
    contract = Contract(
        subject, scenarios, shop.tools, opts.folders.work, progress, opts.build.jobs,
        is_whole=not opts.boot.scenarios,
    )  # fmt: skip
    result = contract.run(opts.artifacts / "contract", accel=opts.boot.accel)
    report.write(opts.artifacts)
    failed = [check.name.partition(".")[0] for check in result.failures]
    again = [arg for name in dict.fromkeys(failed) for arg in ("--scenario", name)]
    _judge(result, opts.target, "the contract", *(again or ["--contract"]), log=result.logs)


def _judge(result: Result, target: Target, test: str, *options: str, log: Path) -> None:
    """Show the result of a test. Raises HarnessError if it failed; options repeat it."""
    _show(result)
    if not result.passed:
        which = ("--distribution", target.distribution.name, *options)
        command = catalog.command("boot-test", *which, arch=target.arch.name)
        raise HarnessError(
            f"the {catalog.DISK} of {target.distribution} {target.arch} failed {test}: "
            f"{result.reason}",
            hint=f"to see it again: {command}",
            log=log,
        )


def _workshop(opts: Options, progress: Progress) -> Workshop:
    """The workshop whose tools tree has QEMU and the firmware, built if no build has left it."""
    with only_build(opts.folders.work):
        shop = Workshop.prepare(opts, progress)
        build.build_tools_tree(shop)
    return shop


def marks(shop: Workshop, manifest: Manifest | None) -> tuple[str, ...]:
    """Return strings that would identify this machine: our folders, and the hosts of mirrors.

    The distribution's own servers identify nobody. Every system names its own loopback addresses;
    the boot test looks for those in settings only.
    """
    options = shop.options
    given = manifest.options if manifest else Given()
    urls = [
        given.mirror,
        given.third_party_mirror,
        options.sources.mirror or "",
        options.sources.third_party_mirror or "",
    ]
    own = {Url.of(url).host for url in (amazonlinux.CDN, shop.mkosi.archive().main)}
    parts = [urlsplit(Url.of(url).bare) for url in urls]
    hosts = {
        part.netloc.rpartition("@")[2]
        for part in parts
        if part.hostname and part.hostname not in own and not _is_loopback(part.hostname)
    }
    places = (options.folders.root, options.folders.work, options.folders.out)
    return (
        *dict.fromkeys(os.fspath(place.absolute()) for place in places),
        *sorted(hosts),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _show(result: Result) -> None:
    console = Terminal()
    table = Table("check", "outcome", "what it says")
    for check in result.checks:
        table.add_row(check.name, MARKS[check.status], check.reason or check.title)
    console.print(table)
    console.print(
        f"booted with {result.accelerator} ({result.accelerator_reason}) "
        f"in {result.seconds:.0f} s; results in {result.logs}"
    )
    if result.note:
        console.print(result.note)
    for check in result.failures:
        console.print(f"\n{check.name}: {check.reason}\n{check.evidence}")
    if result.failures and result.console_tail:
        console.print(f"\nthe guest's last words:\n{result.console_tail}")


if __name__ == "__main__":
    errors.main(main)
