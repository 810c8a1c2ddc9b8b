"""Runs apt with our own configuration, and this machine's settings for reaching servers.

A file in apt.conf.d can run commands (APT::Update::Pre-Invoke) and accept unsigned archives. apt
reads apt.conf.d before its command line, so only the file that APT_CONFIG names can keep it from
doing so (apt.conf(5)).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from scripts.system.errors import HarnessError, MachineError
from scripts.system.process import Arg, CommandError, run

# Ignores this machine's apt.conf, apt.conf.d and preferences.
NO_FILES = {
    "Dir::Etc::Main": "/dev/null",
    "Dir::Etc::Parts": "/dev/null",
    "Dir::Etc::Preferences": "/dev/null",
    "Dir::Etc::PreferencesParts": "/dev/null",
}

# apt's own defaults, stated because so much depends on them. An archive whose index has an expiry
# date (Valid-Until) promises a newer one by then, so an expired index may be a replay.
CAREFUL = {
    "Acquire::AllowInsecureRepositories": "false",
    "Acquire::AllowWeakRepositories": "false",
    "Acquire::AllowDowngradeToInsecureRepositories": "false",
    "Acquire::Check-Date": "true",
    "Acquire::Check-Valid-Until": "true",
    "APT::Get::AllowUnauthenticated": "false",
}

# Accepts an index that has expired.
ANY_AGE = {"Acquire::Check-Valid-Until": "false"}

# Options taken from this machine's configuration: proxies (also of a single host), and the
# certificates of a server or a proxy. A proxy that a command finds (Proxy-Auto-Detect) is not among
# them.
REACHING = re.compile(
    r"Acquire::https?::(?:[\w.-]+::)?(?:Proxy(?:::[\w.-]+)?|CaInfo|CaPath|SslCert|SslKey)",
    re.ASCII | re.IGNORECASE,
)

# apt only warns of a mirror that has one release's signed index in another one's place. This makes
# an update fail after such a warning, in the sandbox of mkosi. The index is called InRelease, or
# Release if its signature is beside it. Only signed lines count: a mirror may add headers to the
# signature, which neither apt nor gpgv looks at.
SAME_RELEASE = r"""
APT::Update::Post-Invoke:: "for index in /var/lib/apt/lists/*_dists_*Release; do
    [ -e $index ] || continue; name=${index##*_dists_}; name=${name%_*Release};
    sed --expression='/^-----BEGIN PGP SIGNED MESSAGE/,/^$/d'
    --expression='/^-----BEGIN PGP SIGNATURE/,$d' $index |
    grep --quiet --extended-regexp --regexp='^(Suite|Codename): '$name'$' || exit 1; done";
""".replace("\n    ", " ")

CONFLICT = re.compile(
    r"^W: Conflicting distribution: (\S+) .*\(expected (\S+) but got (\S*)\)", re.MULTILINE
)

EXPIRED = re.compile(r"^E: (Release file for \S+ is expired \(.+?\))", re.MULTILINE)


@dataclass(frozen=True)
class Apt:
    """apt, configured by nothing but the file config."""

    config: Path

    @classmethod
    def configured(cls, config: Path, settings: Mapping[str, Arg]) -> Apt:
        """Write settings and the secure defaults to the file config, which only this user can read.

        settings may replace a default. Raises MachineError if this machine's apt cannot be asked
        for its proxies.
        """
        config.parent.mkdir(parents=True, exist_ok=True)
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)  # a proxy may have a password
        config.write_text(text({**CAREFUL, **reaching(), **settings, **NO_FILES}))
        return cls(config)

    def update(self) -> None:
        """Download the indexes of all sources.

        Raises HarnessError if one is that of another release, and CommandError if apt fails.
        """
        said = self._run(["apt-get", "--quiet", "update"]).stderr
        if conflict := CONFLICT.search(said):
            url, expected, got = conflict.groups()
            raise HarnessError(
                f"{url} offers {got or 'something without a name'} as {expected}: its index is "
                "that of another release",
                hint="use another mirror",
            )

    def run(self, argv: Sequence[Arg], *, cwd: Path | None = None) -> str:
        """Run argv, one of apt's programs with its arguments, and return what it printed.

        Raises CommandError if it fails, FileNotFoundError if there is none.
        """
        return self._run(argv, cwd).stdout

    def _run(self, argv: Sequence[Arg], cwd: Path | None = None) -> CompletedProcess[str]:
        # In other languages apt's warnings could not be recognized.
        return run(argv, cwd=cwd, env={"APT_CONFIG": os.fspath(self.config), "LC_ALL": "C.UTF-8"})


def text(settings: Mapping[str, Arg]) -> str:
    """Return the contents of an apt.conf(5) with settings."""
    return "".join(f'{name} "{os.fspath(value)}";\n' for name, value in settings.items())


@functools.cache
def reaching() -> Mapping[str, str]:
    """Return this machine's apt options for reaching servers, by name.

    Values that do not fit on one line of an apt.conf(5) are left out. apt-config runs no command.
    Raises MachineError if the configuration cannot be read.
    """
    try:
        dump = run(["apt-config", "dump", "--format", "%F %v%n"]).stdout
    except FileNotFoundError:
        return {}
    except CommandError as error:
        raise MachineError(
            f"this machine's apt has a configuration that cannot be read: {error.output.strip()}",
            hint="apt-config dump says more",
        ) from error
    lines = (line.partition(" ") for line in dump.splitlines())
    return {
        name: value
        for name, _, value in lines
        if value and '"' not in value and value.isprintable() and REACHING.fullmatch(name)
    }
