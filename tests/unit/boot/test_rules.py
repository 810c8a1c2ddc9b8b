"""How checks are declared: what each reads, which images it is for, and their order in results."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any, TypeGuard

import pytest

from scripts import catalog
from scripts.boot import checks, probes
from scripts.boot.checks.rule import Rule, check, failed_if, rules_of
from scripts.boot.checks.text import assignments, json_object
from scripts.boot.facts import Contents, Facts, Verdict
from scripts.boot.probes import Answer, Answers
from scripts.boot.results import Status
from tests.unit.boot import test_checks

DEBIAN, AMAZON_LINUX = test_checks.DEBIAN, test_checks.AMAZON_LINUX
# Debian under another name, which the boot test has never heard of.
THIRD = dataclasses.replace(DEBIAN, name="third")

# Readers of junit.xml know the checks by these names, in this order.
NAMES = [
    "partitions",
    "uki-on-esp",
    "root-file-system",
    "first-boot",
    "uefi",
    "uki-in-guest",
    "kernel-command-line",
    "kernel-release",
    "consoles",
    "root-mounted",
    "root-options",
    "root-grown",
    "esp-mounted",
    "system-running",
    "cloud-init",
    "clock",
    "dhcp-by-mac",
    "programs",
    "kernel-modules",
    "sysctls",
    "cgroup-controllers",
    "cgroup-delegation",
    "credentials",
    "mounts",
    "sshfs",
    "sshd",
    "host-keys",
    "power-off",
    "second-boot",
    "second-boot-clean",
    "second-boot-running",
    "second-boot-same",
    "first-boot-once",
    "other-instance",
    "host-keys-differ",
    "emulators",
    "foreign-program",
    "os-release",
    "packages",
    "rpm-knows",
    "repositories",
    "selinux-policy",
    "presets",
    "machine-id",
    "apt-sources",
    "ssh-needs-a-key",
    "sshd-configuration",
    "root-files",
    "locked-passwords",
    "no-keys",
    "no-seeds",
    "privileged-files",
    "world-writable",
    "no-builder-traces",
    "no-leftovers",
    "image-unchanged",
]

each_rule = pytest.mark.parametrize("rule", checks.RULES, ids=lambda rule: rule.name)


class Read(dict[str, Answer]):
    """Answers that know which of them were read."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Answer:
        self.names.add(name)
        return super().__getitem__(name)


def declare(decide: Any = None, **how: Any) -> Rule:
    return check("name", "title", **{"needs": ["first"], **how})(
        decide or (lambda _facts, *_: Verdict("", ""))
    )


def test_names_and_order_of_the_checks_stay_what_they_are() -> None:
    assert [rule.name for rule in checks.RULES] == NAMES


def test_every_file_of_checks_is_one_of_the_subjects() -> None:
    names = [module.name for module in pkgutil.iter_modules(checks.__path__)]
    modules = [importlib.import_module(f"{checks.__name__}.{name}") for name in names]
    assert {module for module in modules if rules_of(module)} == {*checks.SUBJECTS}


def test_every_check_has_an_example_that_fails() -> None:
    faults = [(name, fault(test_checks.good())) for fault, name, _ in test_checks.FAULTS]
    faults += [(name, facts) for facts, name, _ in test_checks.AMAZON_FAULTS]
    failed = {
        name
        for name, facts in faults
        for result in checks.check_all(facts)
        if result.name == name and result.status is Status.FAILED
    }
    assert failed == {*NAMES}


@each_rule
def test_a_check_reads_exactly_the_probes_that_it_names(rule: Rule) -> None:
    facts = test_checks.amazon()
    given = [facts.get(need) for need in rule.needs]
    answers = [Read(fact) for fact in given if _is_of_a_guest(fact)]
    rest = [fact for fact in given if not _is_of_a_guest(fact)]
    rule.decide(facts, *answers, *rest)
    assert all(read.names == {*rule.probes} for read in answers)
    assert bool(answers) == bool(rule.probes)
    assert probes.table().keys() >= {*rule.probes}


def _is_of_a_guest(fact: object) -> TypeGuard[Answers]:
    return isinstance(fact, dict) and all(isinstance(one, Answer) for one in fact.values())


def test_a_check_is_given_no_answer_that_it_does_not_name() -> None:
    seen: list[Answers] = []

    def decide(_facts: Facts, first: Answers) -> Verdict:
        seen.append(first)
        return Verdict("", "")

    declare(decide, probes=["kernel"]).outcome(test_checks.good())
    assert seen == [{"kernel": Answer(test_checks.FIRST["kernel"])}]


@each_rule
def test_a_check_is_skipped_without_any_one_of_the_facts_that_it_needs(rule: Rule) -> None:
    for need in rule.needs:
        assert rule.outcome(without(need)).status is Status.SKIPPED


def without(need: str) -> Facts:
    """The facts of a good boot of Amazon Linux without one of them."""
    facts = test_checks.amazon()
    attribute, _, boot = need.partition(".")
    if boot:
        del getattr(facts, attribute)[boot]
    elif attribute == "root_partition":
        facts.partitions = None
    else:
        setattr(facts, attribute, None)
    return facts


def test_a_fact_that_is_empty_has_been_collected_all_the_same() -> None:
    facts = dataclasses.replace(test_checks.good(), esp_uki="")
    assert declare(needs=["esp_uki"]).outcome(facts).status is Status.PASSED


def test_what_the_guest_says_is_shown_without_its_terminal_escapes() -> None:
    rule = declare(lambda _facts, _first: Verdict("\x1b[31mbad\x1b[0m", "\x1b[1mseen\x1b[0m"))
    result = rule.outcome(test_checks.good())
    assert (result.reason, result.evidence) == ("bad", "seen")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [True, True, True]),
        ({"packages": "rpm"}, [True, False, False]),
        ({"packages": "deb"}, [False, True, True]),
        ({"distribution": "debian"}, [False, True, False]),
    ],
)
def test_a_check_may_be_for_one_distribution_or_one_format_of_packages(
    how: dict[str, str], expected: Sequence[bool]
) -> None:
    rule = declare(**how)
    assert [rule.is_for(each) for each in (AMAZON_LINUX, DEBIAN, THIRD)] == expected


def test_a_probe_is_asked_in_the_boots_that_its_check_needs() -> None:
    rule = declare(needs=["second", "disk_after"], probes=["state"])
    assert rule.asks("second") == ("state",)
    assert rule.asks("first") == ()


def test_a_third_distribution_is_checked_without_a_change_to_the_checks() -> None:
    facts = dataclasses.replace(test_checks.good(), distribution=THIRD)
    assert [c.name for c in checks.check_all(facts) if not c.passed] == []
    assert checks.probes_read(THIRD, "first") == checks.probes_read(DEBIAN, "first")


def test_checks_for_one_distribution_name_one_that_there_is() -> None:
    assert {rule.distribution for rule in checks.RULES} <= {"", *catalog.DISTRIBUTIONS}
    formats = {each.package_format for each in catalog.DISTRIBUTIONS.values()}
    assert {rule.packages for rule in checks.RULES} <= {"", *formats}


def test_only_checks_of_the_disk_stop_the_boots() -> None:
    assert [rule.name for rule in checks.RULES if rule.fatal] == NAMES[:3]


def test_a_verdict_names_every_problem_that_holds() -> None:
    assert failed_if({"a": 1, "b": "", "c": [0]}, "seen") == Verdict("a; c", "seen")
    assert failed_if({"a": None}, "seen") == Verdict("", "seen")


def test_only_rpm_images_must_hold_packages_of_ours() -> None:
    facts = test_checks.amazon()
    assert facts.must_hold_package("cloud-init")
    assert not test_checks.good().must_hold_package("cloud-init")
    facts.contents = Contents(left_out=frozenset({"cloud-init"}))
    assert not facts.must_hold_package("cloud-init")
    assert facts.must_hold_package("fuse-sshfs")


def test_nothing_is_known_of_a_guest_whose_boots_are_forgotten() -> None:
    facts = test_checks.good()
    facts.forget_boots()
    assert facts.first is facts.second is None
    assert not any([facts.boots, facts.host_keys, facts.power_offs])
    assert facts.partitions


def test_a_value_may_contain_the_sign_that_ends_its_name() -> None:
    assert assignments("A=root=PARTUUID=1 rw\nno name\n") == {"A": "root=PARTUUID=1 rw"}


@pytest.mark.parametrize("text", ["", "[1]", "null", "cat: no such file"])
def test_an_answer_that_is_no_json_object_is_an_empty_one(text: str) -> None:
    assert json_object(text) == {}


@pytest.mark.parametrize(
    ("probe", "text", "check", "reason"),
    [
        ("mounts", '{"filesystems": 3}', "root-mounted", "is not a list"),
        ("mounts", '{"filesystems": [1]}', "esp-mounted", "is not an object"),
        ("mounts", '{"filesystems": NaN}', "root-mounted", "NaN is not a number"),
        ("mounts", '{"filesystems": [], "filesystems": []}', "root-mounted", "twice"),
        ("mounts", "{" + "[" * 9_000, "root-mounted", "makes no sense"),
        ("mounts", '{"a":' * 9_000, "root-mounted", "nested too deeply"),
        ("blocks", '{"blockdevices": [{"path": "/dev/vda2", "size": 1e999}]}', "root-grown",
         "makes no sense"),
        ("blocks", '{"blockdevices": [{"path": "/dev/vda2", "size": []}]}', "root-grown",
         "makes no sense"),
        ("cloud-init", '{"v1": "done"}', "cloud-init", "is not an object"),
        ("cloud-init", '{"v1": {"errors": 5}}', "cloud-init", "makes no sense"),
        ("cloud-init-status", '{"v1": []}', "cloud-init", "is not an object"),
        ("credentials", '{"Secret": ' + "9" * 5_000 + "}", "credentials", "makes no sense"),
    ],
)  # fmt: skip
def test_odd_json_of_a_guest_fails_its_check_and_no_other(
    probe: str, text: str, check: str, reason: str
) -> None:
    facts = test_checks.good()
    facts.first = {**facts.first, probe: Answer(text)} if facts.first else None
    outcomes = {one.name: one for one in checks.check_all(facts)}
    assert outcomes[check].status is Status.FAILED
    assert reason in outcomes[check].reason
    assert outcomes["uefi"].passed


def test_a_guest_that_leaves_a_question_open_fails_the_check_that_asked() -> None:
    facts = test_checks.good()
    assert facts.first
    facts.first = {name: one for name, one in facts.first.items() if name != "mounts"}
    outcomes = {one.name: one for one in checks.check_all(facts)}
    assert outcomes["root-mounted"].reason == "the guest did not answer: mounts"
    assert outcomes["cloud-init"].passed


def test_an_answer_of_a_megabyte_is_cut_in_the_results_and_they_say_so() -> None:
    facts = test_checks.good()
    assert facts.first
    facts.first = {**facts.first, "failed-units": Answer("x.service failed\n" * 100_000)}
    outcome = {one.name: one for one in checks.check_all(facts)}["system-running"]
    assert len(outcome.evidence) < 51_000
    assert len(outcome.reason) < 2_100
    assert "… cut: " in outcome.evidence
    assert "… cut: " in outcome.reason
