"""The script that asks the guest, run by the shell at hand."""

from __future__ import annotations

import itertools
import subprocess

from scripts.arch import AARCH64, X86_64
from scripts.boot import probes
from scripts.boot.probes import Answer


def test_the_script_is_one_that_any_shell_reads() -> None:
    for distribution, again in itertools.product(("amazonlinux", "debian"), (False, True)):
        script = probes.script("mark", X86_64, distribution=distribution, again=again)
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_the_answers_of_a_real_run_are_told_apart() -> None:
    script = probes.script("mark", X86_64, distribution="debian", again=False)
    ran = subprocess.run(["sh", "-s"], input=script, text=True, stdout=subprocess.PIPE, check=True)
    answers = probes.parse("mark", ran.stdout)
    assert probes.is_complete("mark", ran.stdout)
    release = subprocess.run(["uname", "-r"], text=True, stdout=subprocess.PIPE, check=True)
    assert answers["kernel"] == Answer(release.stdout.strip(), 0)
    assert answers["uki"].status != 0


def test_a_program_of_this_machines_architecture_comes_through_the_script_whole() -> None:
    guest = next(arch for arch in (X86_64, AARCH64) if not arch.is_native)
    script = probes.script("mark", guest, distribution="debian", again=False)
    ran = subprocess.run(["sh", "-s"], input=script, text=True, stdout=subprocess.PIPE, check=True)
    assert probes.parse("mark", ran.stdout)["foreign-program"] == Answer(probes.GREETING, 0)


def test_a_second_boot_is_asked_less() -> None:
    again = probes.script("mark", X86_64, distribution="debian", again=True)
    assert "begin machine-id" in again
    assert "begin journal" not in again


def test_a_guest_is_asked_what_its_distribution_is_about() -> None:
    debian = probes.script("mark", X86_64, distribution="debian", again=False)
    amazon = probes.script("mark", X86_64, distribution="amazonlinux", again=False)
    assert "rpm -Va" not in debian
    assert "rpm -Va" in amazon


def test_an_answer_cut_off_is_no_answer() -> None:
    text = "mark begin a\n1\n\nmark end 0\nmark begin b\nhal"
    assert probes.parse("mark", text) == {"a": Answer("1", 0)}
    assert not probes.is_complete("mark", text)
