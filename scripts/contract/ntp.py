"""A time server on loopback whose clock can be moved: the host's clock as a guest sees it.

It answers clients (mode 3) as RFC 5905 has a primary server do (mode 4), without authentication and
without extension fields. A guest on QEMU's user network reaches it as 10.0.2.2.
"""

from __future__ import annotations

import socketserver
import struct
import threading
import time

# Seconds from NTP's prime epoch, 1 January 1900, to Unix's (RFC 5905, section 6).
UNIX_EPOCH = 2_208_988_800

# The header of a packet (RFC 5905, section 7.3): leap indicator, version and mode in one byte,
# stratum, poll exponent, precision exponent, root delay, root dispersion, reference ID, and four
# timestamps: reference, origin, receive, transmit.
HEADER = struct.Struct("!BBbb II4s QQQQ")

CLIENT, SERVER = 3, 4  # modes
VERSIONS = range(1, 5)  # that a server understands
PRIMARY = 1  # stratum
PRECISION = -20  # about a microsecond, as a power of two in seconds
REFERENCE = b"HOST"


def timestamp(seconds: float) -> int:
    """Return seconds since Unix's epoch as an NTP timestamp, which wraps every 136 years."""
    return int((seconds + UNIX_EPOCH) * (1 << 32)) & ((1 << 64) - 1)


def reply(request: bytes, received: float, sent: float) -> bytes:
    """Return the answer to a client's request, or b"" if it is none.

    received and sent are the server's clock at those moments, in seconds since Unix's epoch.
    """
    if len(request) < HEADER.size:
        return b""
    first, _, poll, *_, transmit = HEADER.unpack_from(request)
    version, mode = first >> 3 & 7, first & 7
    if mode != CLIENT or version not in VERSIONS:
        return b""
    return HEADER.pack(
        version << 3 | SERVER,
        PRIMARY,
        poll,
        PRECISION,
        0,
        0,
        REFERENCE,
        timestamp(received),
        transmit,
        timestamp(received),
        timestamp(sent),
    )


class TimeServer:
    """A time server on a free port of 127.0.0.1, which answers from its start until `close`.

    offset is the number of seconds that its clock is ahead of this machine's; any thread may change
    it. answers counts the requests that it has answered.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self.answers = 0
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                received = outer.now()
                request, socket = self.request
                if answer := reply(request, received, outer.now()):
                    outer.answers += 1
                    socket.sendto(answer, self.client_address)

        self._server = socketserver.UDPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The UDP port that the server listens on."""
        return int(self._server.server_address[1])

    def now(self) -> float:
        """The server's clock, in seconds since Unix's epoch."""
        return time.time() + self.offset

    def close(self) -> None:
        """Stop answering, and free the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
