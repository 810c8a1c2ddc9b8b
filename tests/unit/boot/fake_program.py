"""QEMU, mtools and SSH as fakes.py has them play: the program's name decides which one."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.argv[0])
VERSION = {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": ""}


def value(option: str, part: str = "") -> str:
    """The value of an option, of those that hold part."""
    return next(value for name, value in pairwise(sys.argv) if name == option and part in value)


def send(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def event(name: str, **data: object) -> None:
    send({"event": name, "data": data, "timestamp": {"seconds": 0, "microseconds": 0}})


def commands() -> Iterator[dict[str, Any]]:
    """The commands of QMP on stdin, which no end of line divides."""
    text = ""
    while data := os.read(0, 4096):
        text += data.decode()
        while text:
            try:
                command, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield command


def console(*lines: str) -> None:
    path = value("-chardev", "id=console").partition("path=")[2].replace(",,", ",")
    with Path(path).open("a") as out:
        out.writelines(line + "\r\n" for line in lines)


def greet(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"SSH-2.0-fake\r\n")
        connection.close()


def next_play(name: str) -> str:
    """The next play in the list called name, of which the last is kept; "good" without a list."""
    with PROGRAM.with_name("plays.json").open("r+") as file:
        # Two guests play at once.
        fcntl.flock(file, fcntl.LOCK_EX)
        plays: dict[str, list[str]] = json.load(file)
        queue = plays.get(name, ["<svg/>" if name == "plot" else "good"])
        play = queue.pop(0) if len(queue) > 1 else queue[0]
        file.seek(0)
        json.dump(plays, file)
        file.truncate()
    return play


def perform(play: str) -> None:
    """What happens once the monitor is connected."""
    match play:
        case "internal-error":
            event("STOP")
        case "abort":
            os.write(2, b"fake: Assertion failed\n")
            os.abort()
        case "panic":
            console("Linux version 6.12", "[    1.0] Kernel panic - not syncing: fake")
        case "reset":
            console("Linux version 6.12")
            event("SHUTDOWN", guest=True, reason="guest-reset")
            sys.exit()
        case "full":
            console("Linux version 6.12", "a: No space left on device")
        case "good" | "failing" | "hanging" | "stubborn" | "restless" | "dying":
            console("BdsDxe: starting Boot0001", "Linux version 6.12", "localhost login:")
            if play in ("failing", "hanging"):
                console("         Starting wrong.service...")
            if play == "failing":
                console("[FAILED] Failed to start wrong.service.")
            port = re.search(r":(\d+)-:22", value("-netdev"))
            assert port
            threading.Thread(target=greet, args=(int(port[1]),), daemon=True).start()


def qemu() -> None:
    play = next_play(value("-accel").partition(",")[0])
    PROGRAM.with_name("qemu.pid").write_text(str(os.getpid()))
    if play == "refuse":
        sys.exit("fake: could not set up this machine")
    send({"QMP": {"version": VERSION, "capabilities": []}})
    answers: dict[str, object] = {
        "query-version": VERSION,
        "query-status": {"status": play, "running": False},
    }
    for command in commands():
        name = command.pop("execute")
        command.pop("arguments", None)
        if name == "stop" and play == "dying":
            sys.exit()
        send({"return": answers.get(name, {}), **command})
        if name == "qmp_capabilities":
            perform(play)
        if name == "system_powerdown" and play != "stubborn":
            if play != "dying":
                reason = "guest-reset" if play == "restless" else "guest-shutdown"
                event("SHUTDOWN", guest=True, reason=reason)
            sys.exit()


def login() -> None:
    """A login without a key, which sshd refuses or lets in."""
    if next_play("login") == "good":
        print("finch-test@127.0.0.1: Permission denied (publickey).")
        sys.exit(255)


def ssh() -> None:
    """SSH into the guest, which may refuse it (255 is ssh's own status) or break off the script."""
    play = next_play("ssh")
    if play == "refused":
        print("ssh: connect to host 127.0.0.1: Connection refused")
        sys.exit(255)
    if play == "broken":
        print("sudo: a password is required")
        sys.exit(1)
    if play == "shell":
        # The script runs here, instead of in a guest.
        os.execvp("bash", ["bash", "-s"])
    script = sys.stdin.read()
    if mark := re.search("boot-test-report:", script):
        for line in ("failed wrong.service exit-code 3", "said wrong.service it is so", "end"):
            print(mark[0], line)
        return
    if play == "stuck":
        signal.pause()
    asked = re.findall("echo '(boot-test-[0-9a-f]+) begin (.*)'", script)
    for mark, name in asked:
        text = next_play("plot") if name == "plot" else "fake"
        if text == "endless":
            text = "x" * 1_000_000
        print(f"{mark} begin {name}\n{text}\n\n{mark} end 0")
    print(asked[0][0], "complete")


def main() -> None:
    match PROGRAM.name:
        case "qemu-img":
            Path(sys.argv[-2]).touch()
        case "ssh-keygen":
            Path(sys.argv[-1]).touch()
            Path(sys.argv[-1] + ".pub").write_text("ssh-ed25519 AAAA boot-test\n")
        case "ssh-keyscan":
            if next_play("keyscan") == "good":
                print("[127.0.0.1]:1 ssh-ed25519 AAAA")
        case "mcopy":
            if next_play("mcopy") != "good":
                sys.exit("mcopy: File not found")
            shutil.copy(PROGRAM.with_name("uki.efi"), sys.argv[-1])
        case "mdir":
            if next_play("mdir") != "good":
                sys.exit("mdir: not a DOS file system")
            print("::/EFI/\n::/EFI/BOOT/\n::/EFI/BOOT/BOOTX64.EFI")
        case "ssh":
            login() if "PubkeyAuthentication=no" in sys.argv else ssh()
        case "debugfs":
            print("debugfs 1.47.2 (1-Jan-2025)", file=sys.stderr)
            if next_play("debugfs") != "good":
                print("/etc/machine-id: File not found by ext2_lookup", file=sys.stderr)
            else:
                print("machine-id of the image")
        case _:
            qemu()


if __name__ == "__main__":
    main()
