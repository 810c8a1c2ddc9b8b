"""Checks of the emulators that let the guest run programs of other architectures."""

from __future__ import annotations

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import GREETING, Answers


@check(
    "emulators",
    "emulators for foreign programs are registered",
    needs=["first"],
    probes=["emulators"],
)
def emulators(facts: Facts, first: Answers) -> Verdict:
    """The kernel has an entry for each, with the flag F (open the emulator when registering it)."""
    text = first["emulators"].text
    lines = set(text.splitlines())
    missing = [name for name in facts.emulated if f"qemu-{name}:enabled" not in lines]
    flags = [line.split(":", 1) for line in lines if ":flags:" in line]
    loose = sorted(name for name, letters in flags if "F" not in letters.removeprefix("flags:"))
    problems = {
        f"no emulator is registered for programs of {', '.join(missing)}": missing,
        f"without flag F, containers cannot use the emulator: {', '.join(loose)}": loose,
    }
    return failed_if(problems, text)


@check(
    "foreign-program",
    "a program of another architecture runs",
    needs=["first"],
    probes=["foreign-program"],
)
def foreign_program(_facts: Facts, first: Answers) -> Verdict:
    """The probe carries a static program, which prints a greeting."""
    answer = first["foreign-program"]
    has_failed = (answer.text, answer.status) != (GREETING, 0)
    problems = {"a static program of another architecture does not run": has_failed}
    return failed_if(problems, f"{answer.text} (status {answer.status})")
