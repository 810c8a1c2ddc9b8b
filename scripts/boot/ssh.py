"""SSH to the guest: the throw-away key, the host key, and commands."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.boot.cidata import USER
from scripts.mkosi.sandbox import Tools
from scripts.system import process

ADDRESS = "127.0.0.1"

# The one kind of host key that is asked for. A real one has 68 characters of base64 (RFC 8709).
HOST_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{1,100}={0,2}")

# The most bytes kept of a guest's output over SSH. A sound guest's journal has 1 to 3 MB; a faulty
# guest may log more.
OUTPUT_BYTES = 32 << 20

# We have just started the guest, so ssh need not verify its host key; a check judges that.
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "20",
    "IdentitiesOnly": "yes",
    "LogLevel": "ERROR",
    "ServerAliveCountMax": "8",
    "ServerAliveInterval": "15",
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
}

# The status with which ssh reports a failure of its own, ssh(1).
FAILED = 255

# The ways to log in that need no key (sshd_config(5), AuthenticationMethods).
WITHOUT_KEY = ("password", "keyboard-interactive")


@dataclass(frozen=True)
class Key:
    """An SSH key for one test: the file with its private half, and its public half as text."""

    private: Path
    public: str


def make_key(tools: Tools, folder: Path) -> Key:
    """Generate a key in folder."""
    private = folder / "key"
    make: list[process.Arg] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "boot-test",
                               "-f", private]  # fmt: skip
    process.run(tools.command(make, write=[folder]))
    return Key(private, private.with_suffix(".pub").read_text().strip())


def command(private: Path, port: int, remote: str, user: str = USER) -> list[str]:
    """The command line that runs the shell command remote in the guest as user."""
    return ["ssh", "-F", "none", *_options(OPTIONS), "-i", str(private), "-p", str(port),
            f"{user}@{ADDRESS}", remote]  # fmt: skip


def start_login(tools: Tools, port: int, method: str, output: Path) -> subprocess.Popen[bytes]:
    """Start a login by method, one of WITHOUT_KEY. ssh's output goes to the file output."""
    login = tools.command(keyless_command(port, method), network=True)
    with output.open("wb") as out:
        return process.start(
            login,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            file_bytes=OUTPUT_BYTES,
        )


def keyless_command(port: int, method: str) -> list[str]:
    """The command line that logs in by method, one of WITHOUT_KEY, and runs nothing in the guest.

    ssh ends with the methods that sshd would accept, as in "Permission denied (publickey)".
    """
    options = OPTIONS | {"PreferredAuthentications": method, "PubkeyAuthentication": "no"}
    return ["ssh", "-F", "none", *_options(options), "-p", str(port), f"{USER}@{ADDRESS}", "true"]


def _options(options: Mapping[str, str]) -> list[str]:
    return [arg for name, value in options.items() for arg in ("-o", f"{name}={value}")]


def start_script(
    tools: Tools, key: Key, port: int, script: Path, output: Path, *,
    user: str = USER, shell: str = "sudo -n sh -s",
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a script in the guest: user logs in, and the command shell reads the script.

    Whatever it and ssh print goes to the file output. ssh is ended before that file exceeds
    OUTPUT_BYTES.
    """
    ssh = tools.command(
        command(key.private, port, shell, user), read=[key.private], network=True
    )  # fmt: skip
    with script.open("rb") as stdin, output.open("wb") as out:
        return process.start(
            ssh, stdin=stdin, stdout=out, stderr=subprocess.STDOUT, file_bytes=OUTPUT_BYTES
        )


def start_keyscan(tools: Tools, port: int, output: Path) -> subprocess.Popen[bytes]:
    """Start to fetch the guest's host key into the file output."""
    scan = ["ssh-keyscan", "-T", "30", "-t", "ed25519", "-p", str(port), ADDRESS]
    with output.open("wb") as out:
        return process.start(
            tools.command(scan, network=True),
            stdout=out,
            stderr=subprocess.DEVNULL,
            file_bytes=OUTPUT_BYTES,
        )


def parse_keyscan(text: str) -> str:
    """The key in ssh-keyscan's output, as `ssh-ed25519 AAAA…`, or "" if it found none."""
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    keys = (" ".join(words[1:3]) for words in lines if len(words) > 2)
    return next((key for key in keys if HOST_KEY.fullmatch(key)), "")
