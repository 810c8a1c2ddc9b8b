"""The web server that the contract's guests ask."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from scripts.contract import web


def test_it_answers_on_loopback() -> None:
    with (
        web.serving() as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/any") as answer,
    ):
        assert answer.read().decode() == f"{web.TEXT}\n"


def test_nobody_listens_afterwards() -> None:
    with web.serving() as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
