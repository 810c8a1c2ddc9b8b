"""The files of a good image, and of one in which something is wrong, for tests of the checks."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Mapping

from scripts import catalog
from scripts.boot.checks import files as checks
from scripts.boot.inspection import Files
from scripts.formats.ext4 import Entry

FILE, FOLDER, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK

TEXTS = {
    "/etc/group": "root:x:0:\ntty:x:5:\nshadow:x:42:\n_ssh:x:101:\nssh_keys:x:102:",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\nff02::1 ip6-allnodes # all",
    "/etc/machine-id": "",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin",
    "/etc/shadow": "root:*:20783:0:99999:7:::\nnobody:!*:20783::::::",
}
GROUPS = {row.split(":")[0]: int(row.split(":")[2]) for row in TEXTS["/etc/group"].splitlines()}


def entry(path: str, mode: int = FILE | 0o644, **more: int | str) -> Entry:
    return dataclasses.replace(Entry(path, 12, mode, size=5), **more)  # type: ignore[arg-type]


def program(path: str, privilege: str) -> Entry:
    """A program with a privilege in the words of files.toml."""
    kind, _, whose = privilege.partition(" ")
    if kind == "capabilities":
        return entry(path, FILE | 0o755, capabilities=int(whose, 16))
    if kind == "setuid":
        return entry(path, FILE | 0o4755)
    return entry(path, FILE | 0o2755, gid=GROUPS[whose])


def good(distribution: str) -> Files:
    """The files of a good image of distribution, with all that files.toml expects."""
    packages = catalog.DISTRIBUTIONS[distribution].package_format
    privileged = checks.expected("privileged", packages)
    entries = [
        *(program(path, one.privilege) for path, one in privileged.items()),
        *(entry(path) for path in TEXTS),
        entry("/tmp", FOLDER | 0o1777),
        entry("/var/tmp", FOLDER | 0o1777),
        entry("/var/log/README", LINK | 0o777, target="../../usr/share/doc"),
        entry("/var/log/wtmp", size=0),
        entry("/var/lib/dbus/machine-id", LINK | 0o777, target="/etc/machine-id"),
        entry("/usr/lib/systemd/systemd-random-seed", FILE | 0o755),
        entry("/usr/bin/ssh-keygen", FILE | 0o755),
    ]
    return Files(entries, TEXTS)


def with_entry(files: Files, *more: Entry) -> Files:
    """files with more entries, each in the place of any that has its path."""
    paths = {one.path for one in more}
    kept = [one for one in files.entries if one.path not in paths]
    return dataclasses.replace(files, entries=[*kept, *more])


def without(files: Files, path: str) -> Files:
    kept = [one for one in files.entries if one.path != path]
    texts = {name: text for name, text in files.texts.items() if name != path}
    return dataclasses.replace(files, entries=kept, texts=texts)


def with_texts(files: Files, texts: Mapping[str, str]) -> Files:
    """files with other texts; a text that begins with "+" is added to the one that there is."""
    added = {
        path: f"{files.texts[path]}\n{text[1:]}" if text.startswith("+") else text
        for path, text in texts.items()
    }
    return dataclasses.replace(files, texts={**files.texts, **added})
