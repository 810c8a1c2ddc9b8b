"""The layers of scripts/: which room may import which, and who may speak of sessions and options.

The rules are data and functions over {module: source}, so that each can be shown to fail.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

Sources = Mapping[str, str]

# A room is a folder of scripts/, or a module beside the folders. It imports only rooms that stand
# before it here.
ROOMS = (
    *("catalog", "bootstrap", "system", "arch", "origin", "options", "distributions", "mkosi"),
    *("formats", "stages", "packages", "emulation", "pins", "doctor", "build", "description"),
    *("boot", "contract", "publish", "sessions"),
)

# What `./nox` and the noxfile import before anything has been installed.
BOOTSTRAP = {*sys.stdlib_module_names, "nox"}

# The rooms that say `./nox -s …` and `--option`; the others ask the catalogue.
SPEAKERS = {"sessions", "catalog"}

# Below the sessions, who reads the environment or the command line, and why.
READERS = {
    "scripts.bootstrap.environments": "runs in Nox's process, beside the noxfile",
    "scripts.mkosi.namespaces": "is a program of its own",
    "scripts.packages.engine": "Docker's own variables say which engine is meant",
    "scripts.stages.places": "mkosi's PATH is the harness's, and more",
    "scripts.system.errors": "main() is what every session begins with, and hands the arguments on",
    "scripts.system.process": "a child has a part of the harness's environment, and more",
    "scripts.system.progress": "$CI says that nobody watches the terminal",
}

# Whatever is shown to a person goes through scripts.system.text or, for tables and colours,
# scripts.system.terminal. Who prints without them, and why.
PRINTERS = {
    "scripts.bootstrap.environments": "only the standard library is there, and its words are ours",
    "scripts.catalog": "stands on nothing, and speaks of our own file",
    "scripts.mkosi.namespaces": "is a program of its own, whose readers clean what it prints",
    "scripts.system.terminal": "is what the others show tables and colours with",
    "scripts.system.text": "is what the others print with",
}

# What parses a command line.
PARSERS = {"argparse", "getopt", "optparse"}

# The names in os and sys that are the environment and the command line.
EDGES = {"os": {"environ", "environb", "getenv", "getenvb"}, "sys": {"argv", "orig_argv"}}


def read(root: Path) -> dict[str, str]:
    """The sources of root/scripts by the names of their modules."""
    sources = {}
    for path in sorted(root.glob("scripts/**/*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        sources[".".join(parts).removesuffix(".__init__")] = path.read_text()
    return sources


def room(module: str) -> str:
    """The room that a module of scripts is in, or is."""
    return module.removeprefix("scripts.").partition(".")[0]


def imported(source: str) -> Iterator[tuple[str, str]]:
    """What source imports anywhere in it: a module, and the name taken from it ("" if none)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((module, alias.name) for alias in node.names)


def graph(sources: Sources) -> dict[str, set[str]]:
    """The modules of scripts that each module imports."""
    edges: dict[str, set[str]] = {}
    for module, source in sources.items():
        found = {f"{name}.{part}" if part else name for name, part in imported(source)}
        ours = {name for name in found if name.partition(".")[0] == "scripts"}
        # `from scripts.arch import Arch` names no module.
        targets = {name if name in sources else name.rpartition(".")[0] for name in ours}
        edges[module] = targets - {module}
    return edges


def climbs(sources: Sources) -> Iterator[str]:
    """Imports of a room that is not lower, and rooms whose place is unknown."""
    for module, targets in graph(sources).items():
        if module == "scripts":
            continue
        if room(module) not in ROOMS:
            yield f"{module}: ROOMS has no place for {room(module)}"
            continue
        for target in sorted(targets):
            place = ROOMS.index(room(target)) if room(target) in ROOMS else len(ROOMS)
            if room(target) != room(module) and place >= ROOMS.index(room(module)):
                yield f"{module} imports {target}"


def circles(sources: Sources) -> Iterator[str]:
    """Modules that import each other, whether in one room or not."""
    try:
        graphlib.TopologicalSorter(graph(sources)).prepare()
    except graphlib.CycleError as error:
        yield " → ".join(reversed(error.args[1]))


def relatives(sources: Sources) -> Iterator[str]:
    """Imports by a relative name, which the other rules would not see."""
    for module, source in sources.items():
        yield from (f"{module} imports {name}" for name, _ in imported(source) if name[0] == ".")


def burdens(sources: Sources) -> Iterator[str]:
    """What the bootstrap imports beside the standard library, Nox and itself."""
    for module, source in sources.items():
        if room(module) != "bootstrap":
            continue
        for name, part in imported(source):
            path = f"{name}.{part}"
            known = name.partition(".")[0] in BOOTSTRAP
            if not known and not path.startswith("scripts.bootstrap."):
                yield f"{module} imports {path.rstrip('.')}"


def parsers(sources: Sources) -> Iterator[str]:
    """Modules outside sessions/ that parse a command line."""
    for module, source in sources.items():
        if room(module) != "sessions":
            found = {name for name, _ in imported(source)} & PARSERS
            yield from (f"{module} imports {name}" for name in sorted(found))


def hidden(sources: Sources) -> Iterator[str]:
    """Imports that are made as the program runs, which the other rules would not see."""
    for module, source in sources.items():
        called = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        names = {name.partition(".")[0] for name, _ in imported(source)}
        found = (called & {"__import__"}) | (names & {"importlib", "runpy", "pkgutil"})
        yield from (f"{module} uses {name}" for name in sorted(found))


def reads_of_the_edge(source: str) -> Iterator[str]:
    """The places of source that read the environment or the command line."""
    tree = ast.parse(source)
    modules = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id, node.value.id)
            if node.attr in EDGES.get(module, ()):
                yield f"{module}.{node.attr} in line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module in EDGES:
            names = {alias.name for alias in node.names} & (EDGES[node.module] | {"*"})
            yield from (f"{node.module}.{name} in line {node.lineno}" for name in sorted(names))


def readers(sources: Sources) -> Iterator[str]:
    """Modules below sessions/ that read what only the sessions, and READERS, should read."""
    for module, source in sources.items():
        if room(module) != "sessions" and module not in READERS:
            yield from (f"{module} reads {place}" for place in reads_of_the_edge(source))


def prints(source: str) -> Iterator[str]:
    """The places of source that show something to a person without cleaning it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in {"print", "Console"}:
                yield f"{node.func.id} in line {node.lineno}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            stream = node.value.attr
            if stream in {"stdout", "stderr"} and node.attr in {"write", "writelines", "buffer"}:
                yield f"{stream}.{node.attr} in line {node.lineno}"


def printers(sources: Sources) -> Iterator[str]:
    """Modules that show something without cleaning it, and are not excused."""
    for module, source in sources.items():
        if module not in PRINTERS:
            yield from (f"{module}: {place}" for place in prints(source))


def texts(source: str) -> Iterator[tuple[int, str, bool]]:
    """The strings of source but docstrings: line, text, and whether it is an item of a list.

    In an f-string "…" stands where a value is filled in.
    """
    tree = ast.parse(source)
    passed: set[ast.AST] = set()
    items: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            passed.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            passed.update(node.values)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            items.update(node.elts)
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
            yield node.lineno, "".join(map(str, parts)), node in items
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in passed:
            yield node.lineno, node.value, node in items


def typed(options: Iterable[str]) -> re.Pattern[str]:
    """Matches what a person types for a session: its command, or one of options."""
    names = "|".join(sorted(options, key=len, reverse=True))
    return re.compile(
        rf"nox -(?:s|e|-session)\b|\A\./nox\Z|(?<!\S)-- --|(?<![\w-])--(?:{names})(?![\w-])"
    )


def speakers(sources: Sources, options: Iterable[str]) -> Iterator[str]:
    """Texts outside SPEAKERS that name a session or an option that a person types.

    An option alone, as an item of a list, is one of another program that is being called.
    """
    pattern = typed(options)
    for module, source in sources.items():
        if room(module) in SPEAKERS:
            continue
        for line, text, is_item in texts(source):
            found = pattern.search(text)
            if found and not (is_item and found[0] == text and text.startswith("-")):
                yield f"{module}, line {line}: {text!r}"


def strings(data: object) -> Iterator[str]:
    """Every string in what a TOML file holds."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping | list):
        for value in data.values() if isinstance(data, Mapping) else data:
            yield from strings(value)


def speaking_data(data: Mapping[str, str], options: Iterable[str]) -> Iterator[str]:
    """Strings in TOML files (path: text) that name a session or an option that a person types."""
    pattern = typed(options)
    for path, text in data.items():
        found = filter(pattern.search, strings(tomllib.loads(text)))
        yield from (f"{path}: {string!r}" for string in found)


OPTIONS = ("mirror", "work", "force", "key")


@pytest.fixture(scope="module")
def sources(checkout: Path) -> dict[str, str]:
    return read(checkout)


@pytest.fixture(scope="module")
def options(checkout: Path) -> Sequence[str]:
    return list(tomllib.loads((checkout / "scripts/catalog.toml").read_text())["options"])


def test_the_checker_sees_every_room(sources: Sources) -> None:
    assert {room(module) for module in sources if module != "scripts"} == {*ROOMS}


@pytest.mark.parametrize(
    "rule", [climbs, circles, relatives, hidden, burdens, parsers, readers, printers]
)
def test_the_harness_keeps(rule: Callable[[Sources], Iterator[str]], sources: Sources) -> None:
    assert list(rule(sources)) == []


def test_only_sessions_and_the_catalogue_say_what_is_typed(
    sources: Sources, options: Sequence[str]
) -> None:
    assert list(speakers(sources, options)) == []


def test_no_data_but_the_catalogue_s_says_what_is_typed(
    checkout: Path, options: Sequence[str]
) -> None:
    paths = {path.relative_to(checkout) for path in checkout.glob("scripts/**/*.toml")}
    data = {
        path.as_posix(): (checkout / path).read_text()
        for path in paths
        if room(".".join(path.with_suffix("").parts)) not in SPEAKERS
    }
    assert list(speaking_data(data, options)) == []


def test_nobody_is_excused_who_reads_nothing(sources: Sources) -> None:
    assert [module for module in READERS if not any(reads_of_the_edge(sources[module]))] == []


@pytest.mark.parametrize(
    "line",
    [
        "from scripts.sessions import build",
        "from scripts.sessions.build import main",
        "import scripts.sessions.build",
        "def build():\n    from scripts.sessions import build",
    ],
)
def test_a_lower_room_may_not_import_a_higher(line: str) -> None:
    tree = {"scripts.build.build": line, "scripts.sessions.build": "", "scripts.sessions": ""}
    assert list(climbs(tree)) == ["scripts.build.build imports scripts.sessions.build"]


def test_a_higher_room_may_import_a_lower_one() -> None:
    tree = {"scripts.sessions.build": "from scripts.build import build", "scripts.build.build": ""}
    assert list(climbs(tree)) == []


def test_the_catalogue_stands_on_nothing() -> None:
    tree = {"scripts.catalog": "from scripts.system import errors", "scripts.system.errors": ""}
    assert list(climbs(tree)) == ["scripts.catalog imports scripts.system.errors"]


def test_the_system_room_knows_the_catalogue_only() -> None:
    line = "from scripts import arch, catalog, options"
    tree = {"scripts.system.locks": line, "scripts.arch": "", "scripts.catalog": ""}
    assert list(climbs({**tree, "scripts.options": ""})) == [
        "scripts.system.locks imports scripts.arch",
        "scripts.system.locks imports scripts.options",
    ]


def test_a_new_room_needs_a_place() -> None:
    tree = {"scripts.cellar.wine": "", "scripts.boot.boot": "from scripts.cellar import wine"}
    assert list(climbs(tree)) == [
        "scripts.cellar.wine: ROOMS has no place for cellar",
        "scripts.boot.boot imports scripts.cellar.wine",
    ]


def test_modules_of_one_room_may_not_import_each_other() -> None:
    tree = {
        "scripts.boot.boot": "from scripts.boot import machine",
        "scripts.boot.machine": "from scripts.boot.monitor import Monitor",
        "scripts.boot.monitor": "def lazily():\n    from scripts.boot.boot import Boot",
    }
    [circle] = circles(tree)
    for module in tree:
        assert module in circle


def test_an_import_by_a_relative_name_is_refused() -> None:
    tree = {"scripts.boot.boot": "from . import machine\nfrom ..sessions import build"}
    assert list(relatives(tree)) == [
        "scripts.boot.boot imports .",
        "scripts.boot.boot imports ..sessions",
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import rich", "rich"),
        ("from scripts import catalog", "scripts.catalog"),
        ("from scripts.system.errors import HarnessError", "scripts.system.errors.HarnessError"),
    ],
)
def test_the_bootstrap_needs_nothing_that_must_be_installed(line: str, found: str) -> None:
    allowed = "import os\nfrom nox.command import CommandFailed\n"
    allowed += "from scripts.bootstrap import interpreters\n"
    tree = {"scripts.bootstrap.environments": allowed + line}
    assert list(burdens(tree)) == [f"scripts.bootstrap.environments imports {found}"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import argparse", "argparse"),
        ("from argparse import ArgumentParser", "argparse"),
        ("import optparse as parsing", "optparse"),
    ],
)
def test_only_sessions_parse_a_command_line(line: str, name: str) -> None:
    tree = {"scripts.options": line, "scripts.sessions.build": line}
    assert list(parsers(tree)) == [f"scripts.options imports {name}"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from importlib import import_module", "importlib"),
        ("build = __import__('scripts.sessions.build')", "__import__"),
    ],
)
def test_an_import_that_is_made_as_the_program_runs_is_refused(line: str, name: str) -> None:
    assert list(hidden({"scripts.boot.boot": line})) == [f"scripts.boot.boot uses {name}"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import os\nos.environ['CI']", "os.environ in line 2"),
        ("import os\nos.getenv('CI')", "os.getenv in line 2"),
        ("import sys\nsys.argv[1:]", "sys.argv in line 2"),
        ("from os import environ", "os.environ in line 1"),
        ("from os import *", "os.* in line 1"),
        ("import os as system\nsystem.environ", "os.environ in line 2"),
    ],
)
def test_only_sessions_read_the_environment_and_the_command_line(line: str, found: str) -> None:
    tree = {"scripts.boot.boot": line, "scripts.sessions.build": line}
    assert list(readers(tree)) == [f"scripts.boot.boot reads {found}"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("print(text)", "print in line 1"),
        ("import sys\nsys.stderr.write(text)", "stderr.write in line 2"),
        ("Console().print(text)", "Console in line 1"),
    ],
)
def test_nothing_is_shown_that_has_not_been_cleaned(line: str, found: str) -> None:
    tree = {"scripts.boot.boot": line, "scripts.system.text": line}
    assert list(printers(tree)) == [f"scripts.boot.boot: {found}"]


def test_a_reader_with_a_reason_is_excused() -> None:
    assert list(readers({"scripts.system.process": "import os\nos.environ"})) == []


@pytest.mark.parametrize(
    "line",
    [
        "hint = './nox -s clean, then the build'",
        "words = ['./nox', '-s', 'clean']",
        "hint = 'nox --session clean'",
        "hint = f'`nox -s {session}` says more'",
        "hint = '-- --anything names another'",
        "hint = f'run once without --force, {name}'",
        "return_value = '--force'",
        "command = ['--key and more']",
    ],
)
def test_only_sessions_and_the_catalogue_name_what_is_typed(line: str) -> None:
    tree = {"scripts.boot.boot": line, "scripts.sessions.build": line, "scripts.catalog": line}
    [found] = speakers(tree, OPTIONS)
    assert found.startswith("scripts.boot.boot, line 1: ")


@pytest.mark.parametrize(
    "line",
    [
        "command = ['mkosi', '--mirror', url, *(('--key', key) if key else ())]",
        "def f():\n    '''As with --mirror of ./nox -s build.'''",
        "hint = 'sudo usermod --append, --workspace, a--force, --key-file'",
        "hint = catalog.option('mirror')",
    ],
)
def test_others_options_docstrings_and_the_catalogue_s_answers_are_no_breach(line: str) -> None:
    assert list(speakers({"scripts.boot.boot": line}, OPTIONS)) == []


def test_data_may_not_name_what_is_typed() -> None:
    data = {"scripts/boot/console.toml": '[[rule]]\nwords = ["fine", "try -- --mirror URL"]'}
    assert list(speaking_data(data, OPTIONS)) == [
        "scripts/boot/console.toml: 'try -- --mirror URL'"
    ]
