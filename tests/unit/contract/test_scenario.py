"""Scenarios as they are read, and the mistakes in them that are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.contract import scenario as under_test
from scripts.contract.actions import ACTIONS
from scripts.contract.extras import known
from scripts.contract.seeds import KINDS
from scripts.contract.services import SERVICES
from scripts.system.errors import HarnessError

FOLDER = Path(__file__).parents[2] / "contract"

# Comments of a shell script, and then its quoted strings.
COMMENT = re.compile(r"(^|\s)#\s.*$", re.MULTILINE)
QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"")

GOOD = """
title = "A guest"
devices = "vz"
network = "offline"
disks = [{ label = "data", size = "4G" }]

[[step]]
name = "boot"
title = "it starts"
client = "everybody"
reason = "nothing works without"
do = "boot"
uid = 501

[[step]]
name = "shell"
title = "bash is there"
client = "Lima"
reason = "it runs scripts"
run = "true"
as = "user"
"""


def read(tmp_path: Path, text: str) -> under_test.Scenario:
    path = tmp_path / "a-guest.toml"
    path.write_text(text)
    return under_test.read(path, ["boot"])


def test_a_scenario_is_called_as_its_file(tmp_path: Path) -> None:
    scenario = read(tmp_path, GOOD)
    assert scenario.name == "a-guest"
    assert scenario.disks == [under_test.Disk("data", 4 << 30)]
    assert [step.login for step in scenario.steps] == ["root", "user"]


def test_further_keys_of_an_action_are_its_arguments(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).steps[0].arguments == {"uid": 501}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('devices = "vz"', 'devices = "xen"', "devices is 'xen', not one of vz, qemu"),
        ('network = "offline"', "", "the scenario has no network"),
        ('title = "A guest"', 'titel = "A guest"', "unknown key 'titel'"),
        ('label = "data", ', "", "there is no 'label'"),
        ('size = "4G"', "size = 4", "expected string"),
        ('size = "4G"', 'size = "4M"', "'4M' is not a size in GiB"),
        ('do = "boot"', 'do = "boil"', "do of step 'boot' is 'boil', not one of boot"),
        ('run = "true"', "", "step 'shell' needs either run or do"),
        ('run = "true"', 'run = "true"\nlimit = 1', "step 'shell' has an unknown key 'limit'"),
        ('run = "true"', 'run = "true"\nonly-if = "false"', "does not say why"),
        ('as = "user"', 'as = "admin"', "as of step 'shell' is 'admin'"),
        ('client = "Lima"', "", "step 'shell' has no client"),
        ('name = "shell"', 'name = "boot"', "two steps are called 'boot'"),
        ('name = "shell"', 'name = "../x"', "'../x' is not a name"),
        ('title = "A guest"', 'title = "A guest', "Illegal character"),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in GOOD
    with pytest.raises(HarnessError, match="is not a scenario: ") as error:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert says in error.value.message
    assert "\n" not in error.value.message


def test_data_beside_the_scenarios_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "journal.toml").write_text('[[excused]]\npattern = "x"\n')
    assert [one.name for one in under_test.read_all(tmp_path, ["boot"])] == ["a"]


def test_a_folder_without_scenarios_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="there is no scenario"):
        under_test.read_all(tmp_path, ["boot"])


def test_our_own_scenarios_name_what_there_is() -> None:
    for scenario in under_test.read_all(FOLDER, tuple(ACTIONS)):
        assert set(scenario.services) <= SERVICES.keys()
        assert set(scenario.extras) <= known().keys()
        assert scenario.seed.get("kind", "plain") in KINDS


def test_each_of_our_steps_says_who_relies_on_it_and_why() -> None:
    for scenario in under_test.read_all(FOLDER, tuple(ACTIONS)):
        assert scenario.steps[0].do == "boot"
        for step in scenario.steps:
            assert all([step.title, step.client, step.reason]), step.name


def unheeded(script: str) -> list[str]:
    """Return the lines of a script whose failure bash overlooks, though `set -e` is on.

    The left side of `&&` may fail without ending the script (bash(1), set -e).
    """
    lines = QUOTED.sub("''", COMMENT.sub("", script)).strip().splitlines()
    return [
        line
        for line in lines[:-1]
        if "&&" in line and not re.match(r"\s*(if|until|while) |.*&&.*\bexit\b", line)
    ]


def test_what_bash_overlooks_is_known() -> None:
    assert unheeded("[ -O a ] && touch a\ntrue") == ["[ -O a ] && touch a"]
    assert not unheeded("# a && b\na='b && c'\nif a && b; then c; fi\na && exit 1\na && b")


def test_no_step_of_ours_goes_on_after_a_demand_that_is_not_met() -> None:
    for scenario in under_test.read_all(FOLDER, tuple(ACTIONS)):
        for step in scenario.steps:
            assert not unheeded(step.run), f"{scenario.name}.{step.name}"
