"""The script that asks the guest, run by the shell at hand."""

from __future__ import annotations

import itertools
import subprocess
import time

from scripts import catalog
from scripts.arch import AARCH64, X86_64, Arch
from scripts.boot import checks, probes
from scripts.boot.probes import Answer

DISTRIBUTIONS = catalog.DISTRIBUTIONS.values()
BOOTS = ("first", "second")


def run(*names: str, arch: Arch = X86_64) -> subprocess.CompletedProcess[str]:
    """The script that asks names, run on this machine."""
    script = probes.script("mark", arch, names)
    return subprocess.run(
        ["sh", "-s"], input=script, text=True, stdout=subprocess.PIPE, check=True, timeout=60
    )


def test_the_script_is_one_that_any_shell_reads() -> None:
    script = probes.script("mark", X86_64, probes.table().keys())
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_the_answers_of_a_real_run_are_told_apart() -> None:
    ran = run("kernel", "uki")
    answers = probes.parse("mark", ran.stdout)
    assert probes.is_complete("mark", ran.stdout)
    release = subprocess.run(["uname", "-r"], text=True, stdout=subprocess.PIPE, check=True)
    assert answers["kernel"] == Answer(release.stdout.strip(), 0)
    assert answers["uki"].status != 0


def test_a_program_of_this_machines_architecture_comes_through_the_script_whole() -> None:
    guest = next(arch for arch in (X86_64, AARCH64) if not arch.is_native)
    ran = run("foreign-program", arch=guest)
    assert probes.parse("mark", ran.stdout) == {"foreign-program": Answer(probes.GREETING, 0)}


def test_only_the_named_probes_are_asked_in_the_order_of_the_table() -> None:
    script = probes.script("mark", X86_64, ["kernel", "state"])
    assert "begin journal" not in script
    assert script.index("begin state") < script.index("begin kernel")


def test_the_probe_that_waits_until_the_boot_is_complete_is_the_first() -> None:
    assert next(iter(probes.table())) == "state"
    for distribution, boot in itertools.product(DISTRIBUTIONS, BOOTS):
        assert "state" in checks.probes_read(distribution, boot)


def test_a_second_boot_is_asked_less() -> None:
    for distribution in DISTRIBUTIONS:
        again = checks.probes_read(distribution, "second")
        assert again == {
            "state", "failed-units", "machine-id", "file-systems", "boot-id", "instance",
        }  # fmt: skip


def test_a_guest_is_asked_what_its_distribution_is_about() -> None:
    asked = {
        name: checks.probes_read(each, "first") for name, each in catalog.DISTRIBUTIONS.items()
    }
    assert "rpm-missing" not in asked["debian"]
    assert "rpm-missing" in asked["amazonlinux"]


def test_every_probe_is_read_by_a_check_or_kept_for_people() -> None:
    read = {
        name for each in DISTRIBUTIONS for boot in BOOTS for name in checks.probes_read(each, boot)
    }
    assert read | probes.kept() == probes.table().keys()


def test_what_people_read_is_kept() -> None:
    table = probes.table()
    assert [name for name, probe in table.items() if probe.shown] == [
        "os",
        "kernel",
        "time",
        "blame",
    ]
    files = {name: probe.file for name, probe in table.items() if probe.file}
    assert files == {"plot": "boot.svg", "journal": "journal.txt"}


def test_an_answer_cut_off_is_no_answer() -> None:
    text = "mark begin kernel\n1\n\nmark end 0\nmark begin uki\nhal"
    assert probes.parse("mark", text) == {"kernel": Answer("1", 0)}
    assert not probes.is_complete("mark", text)


def test_a_status_that_no_process_has_is_no_answer() -> None:
    for status in ("9" * 5000, "²", "-1", "", "0x1"):
        text = f"mark begin kernel\n6.12\n\nmark end {status}\n"
        assert probes.parse("mark", text) == {}


def test_an_answer_to_a_question_that_nobody_asked_is_ignored() -> None:
    assert probes.parse("mark", "mark begin evil\n1\n\nmark end 0\n") == {}


def test_a_guest_that_begins_a_million_answers_takes_no_more_time_than_they_are_long() -> None:
    text = "mark begin kernel\n" * 300_000
    began = time.process_time()
    assert probes.parse("mark", text) == {}
    assert time.process_time() - began < 20
