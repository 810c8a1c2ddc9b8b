"""QEMU's monitor (QMP): commands to a running machine, and the events that it reports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any

from qemu.qmp import QMPClient, QMPError

Event = Mapping[str, Any]

# We saw QEMU take 3 s to answer, under TCG on a busy machine.
ANSWER_SECONDS = 30.0


class MonitorError(Exception):
    """The monitor does not answer, because QEMU has ended or is ending."""


class Monitor:
    """A QMP connection over a socket whose other end is QEMU's stdin and stdout."""

    def __init__(self, connection: socket.socket) -> None:
        self._runner = asyncio.Runner()
        self._client = QMPClient("boot-test")
        self._connection = connection

    def connect(self) -> None:
        """Wait for QEMU's greeting. Raises MonitorError if QEMU ends instead."""
        self._run(self._client.connect(self._connection))

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Run a QMP command and return its answer. Raises MonitorError."""
        return self._run(self._client.execute(command, dict(arguments or {})))

    def events(self, wait: float) -> list[Event]:
        """Wait for wait seconds, and return the events since the last call."""
        self._runner.run(asyncio.sleep(wait))
        return list(self._client.events.clear())

    def close(self) -> None:
        """Disconnect, even if QEMU is gone already."""
        with contextlib.suppress(MonitorError):
            self._run(self._client.disconnect())
        self._runner.close()
        self._connection.close()

    def _run(self, answer: Any) -> Any:
        try:
            return self._runner.run(_within(answer))
        # qemu.qmp 0.0.6 asserts that QEMU is still there after its greeting.
        except (QMPError, EOFError, OSError, TimeoutError, AssertionError) as error:
            raise MonitorError(str(error) or type(error).__name__) from error


async def _within(answer: Any) -> Any:
    return await asyncio.wait_for(answer, ANSWER_SECONDS)
