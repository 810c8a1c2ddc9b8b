"""SSH's command line, and what ssh-keyscan prints."""

from __future__ import annotations

from pathlib import Path

from scripts.boot import ssh


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
