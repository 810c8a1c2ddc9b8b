"""Checks of what clients need of the guest: one for each kind of needs.toml."""

from __future__ import annotations

from scripts.boot import needs
from scripts.boot.checks.rule import Rule, check
from scripts.boot.facts import Facts, Verdict
from scripts.boot.needs import Need
from scripts.boot.probes import Answers

# How evidence begins that something is not there because the build left it out on purpose.
LEFT_OUT = "the image was built without"


def why_not_needed(need: Need, facts: Facts) -> str:
    """Return why the image may lack need, "" if it must have it."""
    pin = need.pin.get(facts.distribution.name)
    is_left_out = (pin and not facts.must_hold_third_party(pin)) or (
        need.package and facts.distribution.has_rpms and not facts.must_hold_package(need.package)
    )
    if is_left_out:
        return f"{LEFT_OUT} it"
    if need.profile and need.profile in facts.contents.profiles:
        return ""
    return need.optional.get(facts.distribution.name, "")


def _check(kind: str, name: str, title: str) -> Rule:
    """Declare the check of a kind of needs, whose probe answers with lines `NAME STATUS TEXT`."""

    def decide(facts: Facts, first: Answers) -> Verdict:
        lines = [line.split(" ", 2) for line in first[kind].text.splitlines() if " " in line]
        answers = {words[0]: words[1:] for words in lines}
        wanted = needs.table()[kind]
        problems = [
            f"{need.name} {problem} ({need.client}: {need.reason})"
            for need in wanted
            if (problem := _problem(answers.get(need.name))) and not why_not_needed(need, facts)
        ]
        evidence = "\n".join(_evidence(need, answers.get(need.name), facts) for need in wanted)
        return Verdict("; ".join(problems), evidence)

    return check(name, title, needs=["first"], probes=[kind])(decide)


def _problem(answer: list[str] | None) -> str:
    """What is wrong with a need by the words of the guest's answer; None is no answer."""
    if answer is None:
        return "is not there"
    status, *text = answer
    return "" if status == "0" else " ".join([f"fails with status {status}", *text])


def _evidence(need: Need, answer: list[str] | None, facts: Facts) -> str:
    problem, excuse = _problem(answer), why_not_needed(need, facts)
    if problem:
        return f"{need.name} {problem}" + (f": {excuse}" if excuse else "")
    return " ".join([f"{need.name}:", *(answer or [])[1:]])


programs = _check("programs", "programs", "the programs that clients use are there")
modules = _check("modules", "kernel-modules", "the kernel has the modules that clients use")
sysctls = _check("sysctls", "sysctls", "the kernel's settings can be as clients want them")
controllers = _check(
    "controllers", "cgroup-controllers", "the kernel can limit what containers use (cgroup v2)"
)
delegated = _check(
    "delegated", "cgroup-delegation", "users may limit what their containers use (cgroup v2)"
)
