"""What a guest says: on its console, over SSH, and as answers to probes."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

from hypothesis import strategies as st

from scripts.arch import X86_64
from scripts.boot import checks, probes, ssh
from scripts.boot.checks import SUBJECTS
from scripts.boot.checks.rule import rules_of
from scripts.boot.console import Scanner, plain, why_no_ssh
from scripts.boot.facts import Facts
from scripts.boot.probes import Answer
from scripts.boot.results import Result, Status, to_json, to_junit
from scripts.system import text
from tests.fuzz.conftest import Attack, assert_shown_safely
from tests.fuzz.hostile import JSON, TEXT, altered, encoded, mutated, text_like
from tests.unit.boot import test_checks

CONSOLE = """\
BdsDxe: starting Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x2,0x0)\r
[    0.000000] Linux version 6.12.1 (debian-kernel)\r
[   12.0] EXT4-fs error (device vda2): ext4_lookup:1855: inode #2: comm init: deleted\r
[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mchrony.service\x1b[0m - chrony\r
[    9.1] Job dev-vda9.device/start running (5s / 1min 30s)\r
[   50.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]\r
boot-test-report: ssh.service enabled active\r
boot-test-report: end\r
localhost login: """

JSON_PROBES = ("mounts", "blocks", "cloud-init", "cloud-init-status", "credentials")


def facts(first: dict[str, str], second: dict[str, str]) -> Facts:
    """The facts of a good boot but for these answers."""
    return replace(
        test_checks.good(),
        distribution=test_checks.AMAZON_LINUX,
        contents=test_checks.CONTENTS,
        first={name: Answer(value) for name, value in first.items()},
        second={name: Answer(value) for name, value in second.items()},
    )


def result(found: Facts, said: str) -> Result:
    return Result(
        "debian", "x86_64", checks.check_all(found), "tcg", said, said, 1.0,
        note=said, console_tail=said, guest={"kernel": said, said: said}, timings={said: 1.0},
    )  # fmt: skip


def test_a_console_is_read_to_its_end(attack: Attack) -> None:
    parts = st.lists(st.integers(1, 200), max_size=4)

    def feed(case: tuple[bytes, list[int]]) -> None:
        data, sizes = case
        scanner, at = Scanner(), 0
        for size in [*sizes, len(data)]:
            scanner.feed(data[at : at + size], at=1.0)
            at += size
        assert_shown_safely(scanner.tail)
        for said in (scanner.reason, scanner.waiting, why_no_ssh(scanner)):
            assert_shown_safely(said)
        for finding in scanner.findings.values():
            assert_shown_safely(finding.reason)

    attack(st.tuples(text_like(CONSOLE), parts), feed)


def test_an_answer_is_found_or_not(attack: Attack) -> None:
    sample = "".join(
        f"mark begin {name}\n{value}\n\nmark end 0\n" for name, value in test_checks.AMAZON.items()
    )

    def parse(data: bytes) -> None:
        answers = probes.parse("mark", data.decode(errors="replace"))
        assert answers.keys() <= probes.table().keys()
        probes.is_complete("mark", data.decode(errors="replace"))

    attack(text_like(f"{sample}mark complete\n"), parse)


def answers(sample: dict[str, str]) -> st.SearchStrategy[dict[str, str]]:
    """Answers of which a few are nearly right, odd or missing."""
    return st.one_of(*(_with(sample, name) for name in sample))


def _with(sample: dict[str, str], name: str) -> st.SearchStrategy[dict[str, str]]:
    value = sample[name]
    near = text_like(value or "x").map(lambda data: data.decode(errors="replace"))
    odd = TEXT
    if name in JSON_PROBES:
        odd = st.one_of(altered(json.loads(value)), JSON).map(json.dumps)
    return st.one_of(
        near.map(lambda new: {**sample, name: new}),
        odd.map(lambda new: {**sample, name: new}),
        st.just({one: text for one, text in sample.items() if one != name}),
    )


def _judge(case: tuple[dict[str, str], dict[str, str], str]) -> None:
    first, second, said = case
    found = result(facts(first, second), said)
    assert len(found.checks) == sum(
        len([rule for rule in rules_of(subject) if rule.is_for(test_checks.AMAZON_LINUX)])
        for subject in SUBJECTS
    )
    assert all(one.reason for one in found.checks if one.status is Status.FAILED)
    for one in found.checks:
        assert_shown_safely(one.reason)
        assert_shown_safely(one.evidence)
    ET.fromstring(to_junit(found).encode())
    assert_shown_safely(to_junit(found))
    assert_shown_safely(to_json(found))
    json.loads(to_json(found).encode())


def test_every_check_judges_any_answer(attack: Attack) -> None:
    first = answers(test_checks.AMAZON)
    second = answers(test_checks.SECOND)
    attack(st.tuples(first, second, TEXT), _judge)


def test_every_check_judges_answers_that_are_all_odd(attack: Attack) -> None:
    every = st.fixed_dictionaries(
        dict.fromkeys(probes.table(), st.one_of(TEXT, JSON.map(json.dumps)))
    )
    attack(st.tuples(every, every, TEXT), _judge, share=0.3)


def test_every_check_judges_odd_json(attack: Attack) -> None:
    pairs = st.one_of(
        *(
            st.tuples(st.just(name), altered(json.loads(test_checks.AMAZON[name])))
            for name in JSON_PROBES
        )
    ).map(lambda pair: {**test_checks.AMAZON, pair[0]: json.dumps(pair[1])})
    attack(st.tuples(pairs, st.just(test_checks.SECOND), st.just("")), _judge)


def test_a_host_key_is_found_or_not(attack: Attack) -> None:
    sample = "# 127.0.0.1:40022 SSH-2.0-OpenSSH_10.0p2\n[127.0.0.1]:40022 ssh-ed25519 AAAAC3NzaC1\n"

    def parse(data: bytes) -> None:
        key = ssh.parse_keyscan(data.decode(errors="replace"))
        assert key == "" or (key.isascii() and key.startswith("ssh-ed25519 "))

    attack(text_like(sample), parse, share=5)


def test_console_lines_are_plain(attack: Attack) -> None:
    attack(
        st.one_of(mutated(CONSOLE.encode()), TEXT.map(encoded)),
        lambda data: assert_shown_safely(plain(data.decode(errors="replace"))),
        share=4,
    )


def test_the_script_of_probes_holds_for_any_mark_of_ours(attack: Attack) -> None:
    names = st.sets(st.sampled_from(sorted(probes.table())))
    attack(names, lambda chosen: probes.script("boot-test-0", X86_64, chosen).index("complete"))


def test_what_is_shown_acts_on_nothing(attack: Attack) -> None:
    def show(said: str) -> None:
        for shown in (text.printable(said), text.paragraph(said), text.markdown(said)):
            assert_shown_safely(shown)
            shown.encode()
        assert "\n" not in text.printable(said) + text.markdown(said)
        assert "|" not in text.markdown(said)
        assert text.paragraph(text.paragraph(said)) == text.paragraph(said)
        root = ET.Element("a", b=text.paragraph(said))
        root.text = text.paragraph(said)
        assert ET.fromstring(ET.tostring(root)).text in {root.text, None}

    attack(st.lists(TEXT, max_size=5).map("".join), show, share=6)
