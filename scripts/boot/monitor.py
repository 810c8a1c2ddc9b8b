"""QEMU's monitor (QMP): commands to a running machine, and the events it reports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any

from qemu.qmp import QMPClient, QMPError

Event = Mapping[str, Any]

# Under TCG on a busy machine QEMU was seen to take 3 s to answer.
ANSWER_SECONDS = 30.0


class MonitorError(Exception):
    """The monitor does not answer; QEMU has ended, or is ending."""


class Monitor:
    """A QMP connection over a socket whose other end is QEMU's stdin and stdout."""

    def __init__(self, connection: socket.socket) -> None:
        self._runner = asyncio.Runner()
        self._client = QMPClient("boot-test")
        self._connection = connection

    def connect(self) -> None:
        """Wait for QEMU's greeting. Raises MonitorError where it ends instead."""
        self._run(self._client.connect(self._connection))

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """The answer to command. Raises MonitorError."""
        return self._run(self._client.execute(command, dict(arguments or {})))

    def events(self, wait: float) -> list[Event]:
        """The events of the last wait seconds, which this call takes."""
        self._runner.run(asyncio.sleep(wait))
        return list(self._client.events.clear())

    def close(self) -> None:
        """Disconnect; QEMU may be gone already."""
        with contextlib.suppress(MonitorError):
            self._run(self._client.disconnect())
        self._runner.close()
        self._connection.close()

    def _run(self, answer: Any) -> Any:
        try:
            return self._runner.run(_within(answer))
        # qemu.qmp 0.0.6 asserts that QEMU is still there when it has been greeted.
        except (QMPError, EOFError, OSError, TimeoutError, AssertionError) as error:
            raise MonitorError(str(error) or type(error).__name__) from error


async def _within(answer: Any) -> Any:
    return await asyncio.wait_for(answer, ANSWER_SECONDS)
