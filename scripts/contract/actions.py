"""What the host does to a guest in the course of a scenario, by the name that a step gives.

An action takes the guest and the step's further keys, returns its evidence, and raises StepFailure.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts.boot import ssh
from scripts.boot.monitor import MonitorError
from scripts.contract import files, journal
from scripts.contract.guest import OFF, Guest, StepFailure
from scripts.contract.ntp import TimeServer
from scripts.contract.services import ReverseSshfs, Shares
from scripts.system import process

# Seconds that a guest has to end the session which told it to reboot.
FAREWELL = 10

# Seconds between two looks at a guest that switches off.
LOOK = 0.2

# Seconds that the guest's clock may differ from the host's.
CLOCK_TOLERANCE = 1.0

# What `date +%s.%N` says.
EPOCH_TIME = re.compile(r"[0-9]{1,12}\.[0-9]{9}")

# Where the guest keeps what `parallel_sessions` needs.
SESSIONS = "/run/contract-sessions"


def boot(guest: Guest, **settings: object) -> str:
    """Switch the guest on; settings replace those of the scenario's seed."""
    return f"sshd after {guest.boot(**settings):.1f} s"


def power_off(guest: Guest, *, within: float = OFF) -> str:
    """Press the power button; the guest must be off within so many seconds, else it is killed.

    The seconds for which QEMU had work to do but got no CPU of a busy host are not the guest's, and
    do not count.
    """
    running = guest.running
    before, starved, began = _waits(running.process.pid), 0.0, time.monotonic()
    with contextlib.suppress(MonitorError):
        running.press_power_button()
    while not running.ended and time.monotonic() - began - starved < within:
        guest.watch.until_power_off(LOOK)
        starved = max(starved, _starved(before, _waits(running.process.pid)))
    seconds = time.monotonic() - began
    waited = f"{seconds:.1f} s, for {starved:.1f} s of which QEMU waited for a CPU"
    if not running.ended:
        tail = guest.watch.scanner.tail
        guest.close()
        raise StepFailure(f"the guest is still up after {waited}", tail)
    _expect_end(guest, "guest-shutdown", "switch itself off")
    return f"off after {waited}"


def reboot(guest: Guest, *, within: float = OFF, degraded: bool = False) -> str:
    """Let the guest reboot itself, and wait for sshd; it must go down within so many seconds.

    degraded says that units of it may fail, as they do with a full disk.
    """
    leave = f"sleep {FAREWELL}; systemctl reboot"
    guest.ssh(f"setsid --fork sh -c {shlex.quote(leave)} >/dev/null 2>&1")
    _expect_end(guest, "guest-reset", "reboot", FAREWELL + within)
    return f"sshd after {guest.start(degraded=degraded):.1f} s"


def _expect_end(guest: Guest, reason: str, doing: str, seconds: float = OFF) -> None:
    """Wait until the guest is off. Raises StepFailure if QEMU gives another reason for that."""
    tail = guest.watch.scanner.tail
    if (end := guest.off(seconds)) != reason:
        raise StepFailure(f"the guest did not {doing}: {end or 'QEMU has ended'}", tail)


def grow_disk(guest: Guest, *, gib: int) -> str:
    """Enlarge the system disk of a guest that is off by so many GiB."""
    overlay = guest.machine.overlay
    grow: list[process.Arg] = ["qemu-img", "resize", "-f", "qcow2", overlay, f"+{gib}G"]
    try:
        return process.run(guest.tools.command(grow, write=[overlay.parent])).stdout.strip()
    except process.CommandError as error:
        raise StepFailure(
            f"the disk cannot be enlarged: {process.last_line(error.output)}"
        ) from error


def shift_clock(guest: Guest, *, hours: float, within: float = 60.0) -> str:
    """Have the host's clock be hours away from the true time, and the guest follow it.

    The guest stands still in the meantime, as it does while a laptop sleeps. It must follow within
    so many seconds of going on. The service `time` tells it the host's time.
    """
    clock = guest.controls["time"]
    assert isinstance(clock, TimeServer)
    monitor = guest.running.monitor
    monitor.execute("stop")
    clock.offset = hours * 3600
    monitor.execute("cont")
    began = time.monotonic()
    while True:
        before = clock.now()
        said = guest.ssh("date +%s.%N")
        after = clock.now()
        if said.status or not EPOCH_TIME.fullmatch(said.text):
            raise StepFailure(f"the guest does not tell the time: {process.last_line(said.text)}")
        late = min(0.0, float(said.text) - before) or max(0.0, float(said.text) - after)
        seconds = time.monotonic() - began
        if abs(late) <= CLOCK_TOLERANCE:
            return f"after {seconds:.1f} s the guest's clock is the host's, {hours:+g} h from true"
        if seconds > within:
            raise StepFailure(
                f"after {seconds:.0f} s the guest's clock is still {late:+.0f} s from the host's",
                guest.ssh("chronyc -n tracking; chronyc -n sources").text,
            )


def parallel_sessions(guest: Guest, *, count: int, within: float, multiplexed: bool = False) -> str:
    """Open count SSH sessions of the user at the same time; all must be open together.

    Each waits in the guest until all are there. If multiplexed, they share a connection as far as
    sshd lets them, as those of `limactl shell` do. within is in seconds.
    """
    folder = guest.work / "sessions"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    began = time.monotonic()
    all_there = f'[ "$(find . -name "here-*" | wc -l)" -ge {count} ]'
    wait = f"touch held; until {all_there}; do sleep 1; done; touch together"
    guest.ssh(f"""
rm -rf {SESSIONS}
mkdir -m 1777 {SESSIONS}
cd {SESSIONS}
install -m 666 /dev/null gate
setsid --fork timeout {within:.0f} flock gate sh -c {shlex.quote(wait)} >/dev/null 2>&1
until [ -e held ]; do sleep 0.2; done
""")
    open_all = guest.work / "sessions.sh"
    open_all.write_text(_sessions(guest, folder, count, within, multiplexed=multiplexed))
    command = guest.tools.command(
        ["timeout", f"{within:.0f}", "sh", open_all],
        read=[guest.key.private, open_all], write=[folder], network=True,
    )  # fmt: skip
    with process.running(process.start(command)) as clients:
        guest.watch.until_late(lambda: clients.poll() is not None)
    seconds = time.monotonic() - began
    said = [_said(folder / str(number)) for number in range(count)]
    through = sum(text == "through" for text in said)
    together = guest.ssh(f"test -e {SESSIONS}/together").status == 0
    if through < count or not together:
        others = {text for text in said if text != "through"}
        reasons = "; ".join(sorted(others)) or "they were not open at the same time"
        raise StepFailure(f"{through} of {count} sessions succeeded: {reasons}")
    return f"{count} sessions were open at the same time; {seconds:.0f} s from the first to the end"


def _sessions(guest: Guest, folder: Path, count: int, within: float, *, multiplexed: bool) -> str:
    """The shell script that opens count sessions, each of which writes to its file in folder."""
    remote = f"touch {SESSIONS}/here-$$ && flock -s {SESSIONS}/gate true && echo through"
    client = ssh.command(guest.key.private, guest.machine.port, remote, guest.seed.user)
    # The guest gets to all of them in turn, and ssh's own limit is meant for one.
    options = ["-o", f"ConnectTimeout={within:.0f}"]
    master = ""
    if multiplexed:
        # A path from the root may be too long for a socket (unix(7)).
        options += ["-S", "master"]
        first = [*client[:1], *options, "-f", "-N", "-M", *client[1:-1]]
        master = f"{shlex.join(first)}\n"
    one = shlex.join([*client[:1], *options, *client[1:]])
    close = f"{shlex.join([*client[:1], *options, '-O', 'exit', *client[1:-1]])}\n"
    return (
        f"cd {shlex.quote(str(folder))}\n{master}"
        f"for n in $(seq 0 {count - 1}); do\n"
        f"    {one} </dev/null >$n 2>&1 &\n"
        f'    all="$all $!"\n'
        f"done\nwait $all\n{close if multiplexed else ''}"
    )


def many_files(
    guest: Guest, *, service: str, tag: str, point: str, rate: float, lasting: float = 60.0,
    slowly: float = 1.0,
) -> str:  # fmt: skip
    """Write rate files a second through a mount for lasting seconds, and half of that on the host.

    Then either side reads all of them, and must find what was written. service and tag name the
    folder of the host (services.py), point is where the guest has it. Under TCG, slowly is the rate
    that the guest must keep up, and that the host keeps to, since the guest reads as slowly.
    """
    is_slow = guest.accelerator == "tcg"
    shares = guest.controls[service]
    assert isinstance(shares, Shares)
    folders = {name: shares.folders[tag] / f"many files {name}" for name in ("guest", "host")}
    for folder in folders.values():
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    with ThreadPoolExecutor(1) as pool:
        pace = slowly if is_slow else rate / 2
        host = pool.submit(files.write, str(folders["host"]), "host", pace, lasting)
        written, took = _in_guest(
            guest, f"write({f'{point}/many files guest'!r}, 'guest', {rate}, {lasting})",
            2 * lasting + 60,
        )  # fmt: skip
    counts = {"guest": written, "host": host.result()[0]}
    began = time.monotonic()
    for name, folder in folders.items():
        seen = _in_guest(guest, f"digest({f'{point}/many files {name}'!r})", 4 * lasting + 60)
        there, expected = list(files.digest(str(folder))), list(files.expected(name, counts[name]))
        if not seen == there == expected:
            raise StepFailure(
                f"of {counts[name]} files that the {name} wrote, the guest sees {seen[0]} and the"
                f" host {there[0]}, or other contents",
                f"guest: {seen}\nhost: {there}\nwritten: {expected}",
            )
        shutil.rmtree(folder)
    evidence = (
        f"the guest wrote {written} files in {took:.1f} s ({written / took:.0f} a second);"
        f" it read them and the host's in {time.monotonic() - began:.1f} s"
    )
    wanted = slowly if is_slow else 0.95 * rate
    if written / took < wanted:
        raise StepFailure(f"the guest does not write {wanted:g} files a second", evidence)
    return evidence


def _in_guest(guest: Guest, call: str, seconds: float) -> list[Any]:
    """Call a function of files.py in the guest, and return its answer."""
    program = f"{inspect.getsource(files)}\nimport json\nprint(json.dumps({call}))\n"
    answer = guest.ssh(
        f"python3 - <<'END-OF-PROGRAM'\n{program}END-OF-PROGRAM\n", user="user", seconds=seconds
    )
    if answer.status:
        raise StepFailure(process.last_line(answer.text), answer.text)
    try:
        found: list[Any] = json.loads(answer.text)
    except ValueError:
        raise StepFailure("the guest says more than the answer", answer.text) from None
    return found


def check_journal(guest: Guest) -> str:
    """Compare the errors in the journal, of all boots that it has kept, with the expected ones."""
    answer = guest.ssh(journal.COMMAND, seconds=120)
    if answer.status:
        raise StepFailure(f"the journal cannot be read: {process.last_line(answer.text)}")
    try:
        found, entries = journal.messages(answer.text), journal.read()
    except json.JSONDecodeError as error:
        raise StepFailure(f"the journal cannot be read: {error}", answer.text) from None
    expected = journal.met(found, entries)
    guest.expected.update(entry.pattern.pattern for entry in expected)
    if others := journal.unexpected(found, entries):
        raise StepFailure(
            f"{len(others)} unexpected errors, such as {others[0]}", "\n".join(others)
        )
    known = [f"{entry.pattern.pattern}: {entry.reason}" for entry in expected]
    return "\n".join([f"{len(found)} errors, all of them expected", *known])


def reverse_sshfs(guest: Guest, *, tag: str, point: str, within: float = 60.0) -> str:
    """Mount the folder with tag (services.py) at point, as the user, through an SSH session.

    Lima does so when the guest has sshfs and lets a user mount for others.
    """
    shares = guest.controls["sftp"]
    assert isinstance(shares, ReverseSshfs)

    def login(remote: str) -> list[str]:
        """The command that runs remote in the guest."""
        key, port = guest.key.private, guest.machine.port
        return guest.tools.command(
            ssh.command(key, port, remote, guest.seed.user), read=[key], network=True
        )

    mounting = shares.mount(login, tag, point)
    look = f"findmnt -n -o FSTYPE,SOURCE,OPTIONS --mountpoint {shlex.quote(point)}"
    watch, end = guest.watch, guest.watch.seconds + within
    while (found := guest.ssh(look)).status:
        if failure := mounting.failure():
            raise StepFailure(f"{point} cannot be mounted: {failure}")
        if watch.seconds > end:
            raise StepFailure(f"{point} is not mounted after {within:.0f} s")
    return found.text


def read_shared(guest: Guest, *, service: str, tag: str, path: str, text: str) -> str:
    """Compare a file in a shared folder, as the host sees it, with text."""
    shares = guest.controls[service]
    assert isinstance(shares, Shares)
    file = shares.folders[tag] / path
    if not file.is_file():
        raise StepFailure(f"the host does not see {path}, which the guest has written")
    if (found := file.read_text(errors="replace")) != text:
        raise StepFailure(f"the host reads something else in {path}", found)
    return found


def _waits(pid: int) -> dict[str, float]:
    """Return the seconds that each thread of a process has waited for a CPU since it began.

    The threads of its children count too, since the sandbox starts QEMU as a child of its own.
    Empty for a process that has ended. The kernel counts in nanoseconds (schedstat, proc(5)).
    """
    waits = {}
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError, IndexError):
            waits[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
            for child in (thread / "children").read_text().split():
                waits |= _waits(int(child))
    return waits


def _starved(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the most seconds that one thread waited between two calls of `_waits`."""
    return max((waited - before.get(thread, 0.0) for thread, waited in after.items()), default=0.0)


def _said(path: Path) -> str:
    """Return the last line of what a session printed."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return process.last_line(text) or "it printed nothing"


ACTIONS: Mapping[str, Callable[..., str]] = {
    "boot": boot,
    "check-journal": check_journal,
    "grow-disk": grow_disk,
    "many-files": many_files,
    "parallel-sessions": parallel_sessions,
    "power-off": power_off,
    "read-shared": read_shared,
    "reboot": reboot,
    "reverse-sshfs": reverse_sshfs,
    "shift-clock": shift_clock,
}
