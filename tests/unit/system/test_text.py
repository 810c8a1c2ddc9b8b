"""Text of others, as it leaves for a terminal, for GitHub, for XML and for Markdown."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.table import Table
from rich.text import Text

from scripts.system.errors import HarnessError, describe
from scripts.system.progress import Progress
from scripts.system.terminal import Terminal
from scripts.system.text import cut, json_text, markdown, paragraph, printable

TITLE = "sshd\x1b]0;owned\x07.service"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TITLE, r"sshd\x1b]0;owned\x07.service"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("a\x7fb\0", r"a\x7fb\x00"),
        ("a\nerror: b", r"a\nerror: b"),
        ("a\rb", r"a\rb"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("a\u200b\u2066b\ufeff", r"a\u200b\u2066b\ufeff"),
        ("a\ufffe\uffff\U0001fffe", r"a\ufffe\uffff\U0001fffe"),
        ("name\udc9b", r"name\udc9b"),
        ("Größe → 5 µs, 日本", "Größe → 5 µs, 日本"),
        (r"C:\x1b", r"C:\x1b"),
    ],
)
def test_a_character_that_acts_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("::error::fake", r"\x3a:error::fake"),
        ("  ::add-mask::a", r"  \x3a:add-mask::a"),
        ("x ##[error]fake", r"x \x23#[error]fake"),
        ("std::vector", "std::vector"),
        ("# heading", "# heading"),
    ],
)
def test_a_line_of_a_guest_is_no_command_of_a_workflow(line: str, shown: str) -> None:
    assert printable(line) == shown
    assert paragraph(f"one\n{line}\r\nthree") == f"one\n{shown}\nthree"


def test_a_line_that_only_a_control_character_keeps_from_being_a_command_is_none() -> None:
    assert not paragraph("\x0b::error::x\n\u2028::error::x").startswith("::")


def test_the_lines_and_tabs_of_a_log_stay() -> None:
    assert paragraph("a\tb\r\nc\x1b[2Jd\n") == "a\tb\n" + r"c\x1b[2Jd" + "\n"


def test_all_that_is_left_of_a_text_may_stand_in_xml() -> None:
    every = "".join(map(chr, range(0x30000)))
    root = ET.Element("a", b=paragraph(every))
    root.text = paragraph(every)
    assert ET.fromstring(ET.tostring(root)).text == paragraph(every)


@pytest.mark.parametrize("text", ["a|b", "`a", "a``b|", "a\\|b", "a\n| b |", "<b>`</b>"])
def test_a_cell_of_markdown_stays_one_cell_of_code(text: str) -> None:
    cell = markdown(text)
    assert cell[0] == cell[-1] == "`"
    assert not {"|", "`", "\n"} & set(cell[1:-1])


def test_json_for_a_person_has_no_character_that_acts() -> None:
    data = {"a": "\x7f\x9b\u2028\udc9b##[error]\U0001fffe", "ü": 1}
    text = json_text(data)
    assert json.loads(text) == data
    assert '"ü": 1' in text
    assert paragraph(text) == text
    text.encode()


def test_a_text_that_is_cut_says_so() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("a" * 10, 4) == "aaaa\n… cut: 6 more characters"


def test_an_error_cannot_pretend_to_be_several() -> None:
    error = HarnessError(f"{TITLE} failed\n hint: run this\n::error::x", hint="a\x1bb\nc")
    lines = describe(error).splitlines()
    assert lines[0] == r"error: sshd\x1b]0;owned\x07.service failed"
    assert lines[1] == "        hint: run this"
    assert lines[2] == r"       \x3a:error::x"
    assert lines[3:] == [r" hint: a\x1bb", "       c"]


def test_an_error_about_a_file_with_a_hostile_name_is_printed_safely(tmp_path: Path) -> None:
    program = (
        "from scripts.system import errors\n"
        "def entry(argv):\n"
        "    raise errors.HarnessError('there is no ' + argv[0])\n"
        "errors.main(entry)\n"
    )
    name = b"\x1b[2J\xff\nerror: all is well"
    done = subprocess.run(
        [sys.executable, "-c", program, name], capture_output=True, check=False, cwd=Path.cwd()
    )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        r"error: there is no \x1b[2J\udcff",
        "       error: all is well",
    ]
    assert not any(tmp_path.iterdir())


def test_a_step_of_a_package_s_script_is_one_harmless_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = Progress(live=False)
    with progress.task(f"base{TITLE}") as task:
        task.step("Installing\x1b[1A\nfake: done in 0 s")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "\x1b" not in "".join(lines)
    assert r"Installing\x1b[1A\nfake: done" in lines[0]


def test_a_live_line_shows_no_escape_of_a_guest() -> None:
    progress = Progress(live=True)
    with progress.task(TITLE) as task:
        task.step("\x1b[2J")
        assert "\x1b" not in progress._line().plain


def shown(what: object) -> str:
    file = io.StringIO()
    terminal = Terminal(file=file, width=200)
    terminal.print(what)
    return file.getvalue()


def test_a_table_takes_its_cells_literally() -> None:
    table = Table("a")
    for cell in (TITLE, "[red]x[/]", "[/]", ":warning:", Text("b\x1bc")):
        table.add_row(cell)
    text = shown(table)
    assert "\x1b" not in text
    for cell in (r"sshd\x1b]0;owned\x07.service", "[red]x[/]", "[/]", ":warning:", r"b\x1bc"):
        assert cell in text


def test_printed_lines_of_a_guest_are_no_commands() -> None:
    assert shown("x: \x9bA\n  ::error::x") == "x: \\x9bA\n  \\x3a:error::x\n"


def test_whatever_text_holds_is_one_line_that_any_file_can_hold() -> None:
    shown = printable("".join(map(chr, range(sys.maxunicode + 1))))

    assert len(shown.splitlines()) == 1
    assert shown.encode()
