"""The lab's command line: what goes wrong, and what the command is that it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.arch import X86_64
from scripts.system.errors import UsageError
from tests.lab import __main__ as lab
from tests.lab import eras, switches, tampering
from tests.lab.keys import Key
from tests.lab.repository import MARK, World
from tests.lab.server import Fault, Kind, LabServer
from tests.lab.tampering import Tampering

RELEASE = "2023.12.20260930"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A lab of three packages, as far as a repository's list tells."""
    made = World(tmp_path, X86_64, (RELEASE,), Key("F" * 40, "", ""))
    made.repository(RELEASE).mkdir(parents=True)
    names = ("systemd-257-1.amzn2023", "systemd-udev-257-1.amzn2023", "chrony-4-1.amzn2023")
    blobs = [f"{'a' * 64}/{name}.x86_64.rpm" for name in names]
    (made.repository(RELEASE) / MARK).write_text("\n".join([made.key.fingerprint, *blobs]))
    return made


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (r"404=repomd\.xml$", Fault(Kind.NOT_FOUND, r"repomd\.xml$")),
        ("503=primary:2", Fault(Kind.UNAVAILABLE, "primary", times=2)),
        ("stall=/chrony-:1", Fault(Kind.STALL, "/chrony-", times=1)),
        ("truncated=a=b", Fault(Kind.TRUNCATED, "a=b")),
        ("wrong-digest=(?:cosign|pass)", Fault(Kind.WRONG_DIGEST, "(?:cosign|pass)")),
        ("stale=a:b:3", Fault(Kind.STALE, "a:b", times=3)),
    ],
)
def test_a_fault_is_written_as_kind_pattern_and_times(text: str, fault: Fault) -> None:
    assert switches.fault(text) == fault


def test_a_port_is_one_of_tcp_or_0() -> None:
    assert [switches.port(text) for text in ("0", "8023", "65535")] == [0, 8023, 65535]


@pytest.mark.parametrize("text", ["65536", "-1", "http", "", "²"])
def test_any_other_port_is_a_wrong_option(text: str) -> None:
    with pytest.raises(UsageError, match="must be 0 to 65535"):
        lab.main([f"--port={text}"])


def test_each_kind_of_fault_has_a_name_on_the_command_line() -> None:
    assert set(switches.KINDS.values()) == set(Kind)
    assert set(switches.TAMPERINGS.values()) == set(Tampering)


def test_the_examples_of_the_readme_are_understood(checkout: Path) -> None:
    text = (checkout / "tests/lab/README.md").read_text()
    faults = [switches.fault(each) for each in re.findall(r"--fault '(.+?)'", text)]
    packages = [switches.tampered(each) for each in re.findall(r"--tamper ([a-z]+=[\w.]+)`", text)]

    assert {fault.kind for fault in faults} >= set(Kind) - {Kind.NOT_FOUND}
    assert {kind for kind, _ in packages} == set(Tampering)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--fault", "500=x"], "--fault: KIND must be one of 404, 503, stall, .*, not '500'"),
        (["--fault", "wrong digest=x"], "KIND must be one of .*, not 'wrong digest'"),
        (["--fault", "404"], r"'404' has no REGEX: write KIND=REGEX\[:TIMES\]"),
        (["--fault", "404=:3"], "'404=:3' has no REGEX"),
        (["--fault", "404=[a"], r"'\[a' is not a regular expression: "),
        (["--fault", "404=a:0"], "TIMES must be 1 or more in '404=a:0'"),
        (["--tamper", "signed=chrony"], "--tamper: KIND must be one of unsigned, .*, not 'signed'"),
        (["--tamper", "unsigned"], "'unsigned' has no PACKAGE: write KIND=PACKAGE"),
        (["--tamper", "unsigned=a", "--tamper", "foreign=b"], "give --tamper once"),
    ],
)
def test_a_switch_of_no_sense_is_one_sentence(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        lab.main(argv)
    assert caught.value.exit_code == 2
    assert "--help" in caught.value.hint


def test_a_package_is_known_by_its_whole_name(world: World) -> None:
    blobs = (world.repository(RELEASE) / MARK).read_text().splitlines()[1:]
    assert "/systemd-257-" in tampering.blob_of(blobs, "systemd")
    with pytest.raises(UsageError, match="the lab has no package 'chronyd'") as caught:
        switches.leading_to(world, *switches.tampered("altered=chronyd"))
    assert caught.value.hint == "similar names: chrony"


def test_the_command_without_an_engine_builds_without_packages(world: World) -> None:
    with LabServer(world.www) as server:
        said = lab.usage(world, server, None, [])

    assert "--without-packages\n" in said
    assert "--packages" not in said
    assert "engine.env" not in said
    assert "Fault: " not in said


def test_what_goes_wrong_is_said_with_the_command(world: World) -> None:
    wrong = [switches.describe(switches.fault("503=repomd:2")), "bash is unsigned"]
    with LabServer(world.www) as server:
        said = lab.usage(world, server, None, wrong)

    assert "Fault: 503 for requests whose path contains repomd, the first 2 of them.\n" in said
    assert "Fault: bash is unsigned.\n" in said


def test_an_era_is_one_of_those_that_the_lab_knows() -> None:
    with pytest.raises(UsageError, match="--era: invalid choice: 'ancient'"):
        lab.main(["--era", "ancient"])


def test_eras_are_served_from_folders_of_their_own(tmp_path: Path) -> None:
    key = Key("F" * 40, "", "")
    folders = {World(tmp_path, X86_64, (RELEASE,), key, era).www for era in eras.ERAS.values()}
    assert len(folders) == len(eras.ERAS)
    assert World(tmp_path, X86_64, (RELEASE,), key).www in folders
