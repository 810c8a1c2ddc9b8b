"""Checks of the files in the built image, read from the disk before it is booted."""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict
from scripts.boot.inspection import Files
from scripts.formats.ext4 import Entry

# The table for images with any format of packages.
EVERY = "every"

# A password in shadow(5) that no input matches, such as "*", "!!" or "!locked". A hash after the
# mark would be a password that the next `passwd -u` brings back, and that anyone can guess at.
LOCKED = re.compile(r"[*!]{1,2}[A-Za-z]{0,8}[*!]?")

# Personal accounts have these UIDs (login.defs(5)); 65534 is nobody's.
PERSONS = range(1000, 60000)

# Keys that let somebody in, or that tell one machine from another. Each machine makes its own.
KEY_NAMES = re.compile(r"authorized_keys2?|ssh_host_.*|id_(rsa|dsa|ecdsa|ed25519)|.*\.jks")

# Where programs keep randomness or an identity: systemd's random-seed(8) and systemd-creds(1), the
# machine ID of D-Bus, and cloud-init's data about the instance.
SEEDS = re.compile(
    r"/var/lib/systemd/(random-seed|credential\.secret)|/var/lib/(random-seed|urandom/.*)"
    r"|/var/lib/cloud/(instance|instances/.*|data/.*|seed/.*)|/etc/hostid"
)

# Files that must not be on the ESP: bootctl(1) puts a seed and a token for this machine there.
ESP_SEEDS = re.compile(r"loader/random-seed|loader/credentials/.*", re.IGNORECASE)

# The contents of machine-id(5) before the first boot.
NO_MACHINE_ID = ("", "uninitialized")

# Leftovers of a build: what package managers, compilers' tools and shells keep for themselves.
LEFT_OVER = re.compile(
    r"/var/log/.*|/var/cache/(apt|dnf|yum|ldconfig|libdnf5|man)/.*|/var/lib/(apt/lists|dpkg/.*-old)/?.*"
    r"|/etc/[^/]*-|(/root|/home/.*)/\.(.*_history|cache/.*|wget-hsts|viminfo|lesshst|gnupg/.*)"
    r"|/(tmp|var/tmp|run)/.*"
)

# Leftovers that an image may contain: files that are empty or say nothing about a build.
HARMLESS = re.compile(
    r"/var/log/README|/var/lib/apt/lists/(lock|partial)|/run/lock|/var/log/journal"
)

# A name for the machine in these files would be the builder's. systemd-hostnamed sets one at boot.
NAMES_OF_MACHINE = ("/etc/hostname", "/etc/mailname", "/etc/machine-info")
NO_NAME = {
    "localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4", "localhost6",
    "localhost6.localdomain6", "ip6-localhost", "ip6-loopback",
}  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """A file that has a privilege or a mode for a reason; see files.toml."""

    why: str
    privilege: str = ""
    optional: bool = False


@cache
def expected(kind: str, packages: str) -> Mapping[str, Expected]:
    """The entries of files.toml of one kind that apply to images with packages of a format."""
    tables = _tables()[kind]
    listed = {**tables[EVERY], **tables.get(packages, {})}
    return {
        path: Expected(one["why"], one.get("is", ""), one.get("optional", False))
        for path, one in listed.items()
    }


def kinds() -> Mapping[str, set[str]]:
    """Map each kind of entry in files.toml to the package formats that it has tables for."""
    return {kind: {*tables} for kind, tables in _tables().items()}


@cache
def _tables() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("files.toml").read_text())


@check("root-files", "every file of the root file system can be read", needs=["files"])
def root_files(_facts: Facts, files: Files) -> Verdict:
    """Otherwise the other checks of files may have missed some."""
    problems = {
        files.complaint: files.complaint,
        "the root file system is empty": not files.entries,
    }
    return failed_if(problems, f"{len(files.entries)} files, folders and links")


@check(
    "locked-passwords",
    "no account has a password, and there is no personal account",
    needs=["files"],
)
def locked_passwords(_facts: Facts, files: Files) -> Verdict:
    """Nobody can log in before cloud-init or Lima has made an account with a key."""
    shadow = [*_fields(files, "/etc/shadow")]
    passwd = [*_fields(files, "/etc/passwd")]
    unlocked = [name for name, password, *_ in shadow if not LOCKED.fullmatch(password)]
    outside = [name for name, elsewhere, *_ in passwd if elsewhere != "x"]
    unknown = sorted({row[0] for row in passwd} - {row[0] for row in shadow})
    persons = [row[0] for row in passwd if len(row) > 2 and _number(row[2]) in PERSONS]
    roots = [row[0] for row in passwd if len(row) > 2 and _number(row[2]) == 0 and row[0] != "root"]
    problems = {
        "/etc/shadow lists no account": not shadow,
        f"the password is not locked: {_names(unlocked)}": unlocked,
        f"/etc/passwd itself has a password, or none is needed: {_names(outside)}": outside,
        f"/etc/shadow lacks {_names(unknown)}": unknown,
        f"there is a personal account: {_names(persons)}": persons,
        f"an account other than root has UID 0: {_names(roots)}": roots,
    }
    return failed_if(
        problems, f"{len(shadow)} accounts, all locked: {_names(r[0] for r in shadow)}"
    )


def _fields(files: Files, path: str) -> Iterator[list[str]]:
    """The lines of passwd(5), shadow(5) or group(5), split into at least two fields."""
    for line in files.texts.get(path, "").splitlines():
        name, *rest = line.split(":")
        yield [name, *(rest or [""])]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1


@check("no-keys", "the image holds no key: no authorized_keys, host keys or private keys",
       needs=["files"])  # fmt: skip
def no_keys(_facts: Facts, files: Files) -> Verdict:
    """Everyone with a copy of an image knows its keys. cloud-init and sshd make new ones."""
    named = [
        one.path
        for one in files.entries
        if KEY_NAMES.fullmatch(Path(one.path).name) and not one.is_folder
    ]
    found = sorted({*named, *files.private_keys})
    return failed_if({f"the image holds keys: {_names(found)}": found}, "no key")


@check(
    "no-seeds",
    "the image holds no random seed, no machine ID and nothing of an instance",
    needs=["files", "esp_files"],
)
def no_seeds(_facts: Facts, files: Files, esp: Iterable[str]) -> Verdict:
    """Two machines that start with the same seed may make the same keys."""
    seeds = [one.path for one in files.entries if SEEDS.fullmatch(one.path) and not one.is_folder]
    seeds += [f"{path} on the ESP" for path in esp if ESP_SEEDS.fullmatch(path)]
    entries = {one.path: one for one in files.entries}
    dbus = entries.get("/var/lib/dbus/machine-id")
    identity = files.texts.get("/etc/machine-id", "").strip()
    problems = {
        f"the image holds {_names(seeds)}": seeds,
        f"/etc/machine-id says {identity!r}, which all machines would share": (
            identity not in NO_MACHINE_ID
        ),
        "there is no /etc/machine-id": "/etc/machine-id" not in files.texts,
        "/var/lib/dbus/machine-id is a file of its own": dbus and not dbus.is_link,
    }
    return failed_if(problems, f"/etc/machine-id: {identity or 'empty'}; no seed")


@check(
    "privileged-files",
    "the programs with setuid, setgid or capabilities are those in files.toml",
    needs=["files"],
)
def privileged_files(facts: Facts, files: Files) -> Verdict:
    """Each of them runs with more rights than its user has, so each needs a reason."""
    wanted = expected("privileged", facts.distribution.package_format)
    seen = dict(_privileged(files))
    foreign = [f"{path} ({is_})" for path, is_ in seen.items() if path not in wanted]
    other = [
        f"{path} is {is_}, not {wanted[path].privilege}"
        for path, is_ in seen.items()
        if path in wanted and is_ != wanted[path].privilege
    ]
    missing = [path for path, one in wanted.items() if path not in seen and not one.optional]
    problems = {
        f"not expected: {_names(foreign)}": foreign,
        _names(other): other,
        f"without its privilege, or missing: {_names(missing)}": missing,
    }
    return failed_if(problems, "\n".join(f"{path}: {is_}" for path, is_ in sorted(seen.items())))


def _privileged(files: Files) -> Iterator[tuple[str, str]]:
    """Map the path of each program that gets more rights than its user has to those rights."""
    users, groups = (
        {_number(row[2]): row[0] for row in _fields(files, path) if len(row) > 2}
        for path in ("/etc/passwd", "/etc/group")
    )
    for one in files.entries:
        rights = []
        if one.is_file and one.mode & stat.S_ISUID:
            rights.append(f"setuid {users.get(one.uid, one.uid)}")
        if one.is_file and one.mode & stat.S_ISGID:
            rights.append(f"setgid {groups.get(one.gid, one.gid)}")
        if one.capabilities:
            rights.append(f"capabilities {one.capabilities:#x}")
        if rights:
            yield one.path, ", ".join(rights)


@check(
    "world-writable",
    "everyone may write to nothing but the sticky folders in files.toml",
    needs=["files"],
)
def world_writable(facts: Facts, files: Files) -> Verdict:
    """Every user and every service could change any other file of this kind."""
    wanted = expected("writable", facts.distribution.package_format)
    open_ = [one for one in files.entries if one.mode & stat.S_IWOTH and not one.is_link]
    foreign = [f"{one.path} ({one.mode & 0o7777:04o})" for one in open_ if one.path not in wanted]
    loose = [one.path for one in open_ if one.path in wanted and not _is_sticky_folder(one)]
    problems = {
        f"everyone may write to {_names(foreign)}": foreign,
        f"not a sticky folder: {_names(loose)}": loose,
    }
    return failed_if(problems, "\n".join(one.path for one in open_))


def _is_sticky_folder(one: Entry) -> bool:
    return one.is_folder and bool(one.mode & stat.S_ISVTX)


@check(
    "no-builder-traces",
    "no file identifies the machine that built the image",
    needs=["files"],
)
def no_builder_traces(_facts: Facts, files: Files) -> Verdict:
    """No path, address or name of the builder, and no password in a URL."""
    traces = [f"{path} has {text}" for path, text in sorted(files.traces.items())]
    named = [path for path in NAMES_OF_MACHINE if path in files.paths()]
    hosts = sorted(_hosts(files) - NO_NAME)
    problems = {
        _names(traces): traces,
        f"the machine already has a name: {_names(named)}": named,
        f"/etc/hosts names {_names(hosts)}": hosts,
    }
    return failed_if(problems, f"searched {sum(one.is_file for one in files.entries)} files")


def _hosts(files: Files) -> set[str]:
    """The names in /etc/hosts, apart from those of IPv6's multicast groups."""
    text = files.texts.get("/etc/hosts", "")
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return {
        name
        for address, *names in filter(None, lines)
        for name in names
        if not address.lower().startswith("ff")
    }


@check("no-leftovers", "no log and no cache of the build is left", needs=["files"])
def no_leftovers(_facts: Facts, files: Files) -> Verdict:
    """Logs tell when and how the image was built; caches and backups are of no use in it."""
    left = [
        one.path
        for one in files.entries
        if one.is_file
        and one.size
        and LEFT_OVER.fullmatch(one.path)
        and not HARMLESS.fullmatch(one.path)
    ]
    return failed_if({f"left over: {_names(left)}": left}, "nothing")


def _names(found: Iterable[str], shown: int = 20) -> str:
    """The names in found, of which at most shown are listed."""
    names = [*found]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
