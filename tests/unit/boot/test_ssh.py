"""SSH's command line, and what ssh-keyscan prints."""

from __future__ import annotations

import signal
from pathlib import Path

from scripts.boot import ssh
from tests.unit.boot.fakes import FakeTools


def test_no_configuration_of_the_user_is_read_and_none_is_written() -> None:
    line = ssh.command(Path("/w/key"), 40022, "true")
    assert line[1:3] == ["-F", "none"]
    assert "UserKnownHostsFile=/dev/null" in line
    assert "BatchMode=yes" in line


def test_a_login_without_a_key_offers_none() -> None:
    for method in ssh.WITHOUT_KEY:
        line = ssh.keyless_command(40022, method)
        assert line[1:3] == ["-F", "none"]
        assert f"PreferredAuthentications={method}" in line
        assert "PubkeyAuthentication=no" in line
        assert "-i" not in line


def test_the_host_key_is_taken_from_what_keyscan_prints() -> None:
    text = "# 127.0.0.1:40022 SSH-2.0-OpenSSH_10.0p2\n[127.0.0.1]:40022 ssh-ed25519 AAAAC3NzaC1\n"
    assert ssh.parse_keyscan(text) == "ssh-ed25519 AAAAC3NzaC1"


def test_a_keyscan_without_an_answer_gives_no_key() -> None:
    assert ssh.parse_keyscan("# nothing\n") == ""


def test_a_host_key_that_is_none_is_not_taken() -> None:
    for key in ("\x1b]0;x\x07", "AAAA\u202e", "A" * 10_000, "AA|BB", "::error::"):
        assert ssh.parse_keyscan(f"[127.0.0.1]:1 ssh-ed25519 {key}\n") == ""


def test_a_guest_that_never_stops_talking_over_ssh_is_cut_off(tmp_path: Path) -> None:
    """The script stands for ssh: it would write without end if the kernel let it."""
    tree = tmp_path / "tree/usr/bin"
    tree.mkdir(parents=True)
    (tree / "ssh").write_text("#!/bin/sh\nexec cat /dev/zero\n")
    (tree / "ssh").chmod(0o755)
    (tmp_path / "script").touch()
    tools = FakeTools(tmp_path / "tree", Path("/nowhere"))
    key = ssh.Key(tmp_path / "key", "")

    process = ssh.start_script(tools, key, 1, tmp_path / "script", tmp_path / "answers")
    assert process.wait(timeout=60) == -signal.SIGXFSZ
    assert (tmp_path / "answers").stat().st_size == ssh.OUTPUT_BYTES
