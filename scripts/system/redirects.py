"""HTTP sessions whose redirects take no credentials along and lead to no server of this machine.

A server decides where its redirects lead. Without these rules it could have the harness ask servers
that only this machine can reach, such as a cloud's metadata service.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

# Amazon's CDN and GitHub redirect once or twice.
MOST_REDIRECTS = 10

# EC2's metadata service has an address in this network beside the link-local 169.254.169.254
# (EC2 user guide, "Access instance metadata for an EC2 instance").
METADATA = ipaddress.ip_network("fd00:ec2::/32")

# What machines call themselves in hosts(5), beside the names that RFC 6761 reserves.
LOCAL_NAMES = {
    "localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4", "localhost6",
    "localhost6.localdomain6", "ip6-localhost", "ip6-loopback",
}  # fmt: skip

# IPv6 addresses that end with the IPv4 address that they lead to: the compatible ones (RFC 4291,
# 2.5.5.1), those of NAT64 (RFC 6052, 2.1), and the translated ones (RFC 2765, 2.1).
IPV4_IN_IPV6 = [ipaddress.ip_network(text) for text in ("::/96", "64:ff9b::/96", "::ffff:0:0:0/96")]


class RedirectError(ValueError):
    """A redirect leads to a server that it may not lead to."""


class Session(requests.Session):
    """A session that follows redirects by the rules of this module."""

    def __init__(self, *, sent: bool = False) -> None:
        """sent means that another machine has named the first URL already."""
        super().__init__()
        self.max_redirects = MOST_REDIRECTS
        self._path = _Path(sent=sent)
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self._path))

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        """Send request; what it is redirected to is sent with allow_redirects off."""
        if settings.get("allow_redirects", True):
            self._path.restart()
        return super().send(request, **settings)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the URL that resp redirects to. Raises RedirectError if it gives up encryption."""
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        # requests would read the body, which nobody needs, into memory, however long it is.
        resp.raw.close()
        schemes = [urlsplit(url).scheme for url in (resp.url, urljoin(resp.url, target))]
        if schemes == ["https", "http"]:
            raise RedirectError("it redirects from https to http")
        return target

    def resolve_redirects(
        self, resp: requests.Response, *args: Any, **settings: Any
    ) -> Iterator[requests.Response]:
        """Yield the answers that resp leads to. requests leaves the last one open if that fails."""
        last = resp
        try:
            for answer in super().resolve_redirects(resp, *args, **settings):
                last = answer
                yield answer
        except Exception:
            last.close()
            raise

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Take the credentials out of a request that goes to another server.

        requests would look in ~/.netrc for that server's.
        """
        before, now = response.request.url or "", prepared_request.url or ""
        if self.should_strip_auth(before, now):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


class _Path:
    """The servers that one request has been sent to so far."""

    def __init__(self, *, sent: bool) -> None:
        self._sent = self._has_left = sent

    def restart(self) -> None:
        """Forget the servers of an earlier request."""
        self._has_left = self._sent

    def enter(self, host: str) -> None:
        """Note that the request goes to host, a name or an address.

        Raises RedirectError if host is local and another machine named it.
        """
        is_here = is_local(host)
        if is_here and self._has_left:
            raise RedirectError(f"the server sends us to {host}, which only this machine can reach")
        self._has_left = self._has_left or not is_here


class _Adapter(HTTPAdapter):
    """Tells path of each server that it sends a request to."""

    def __init__(self, path: _Path) -> None:
        super().__init__()
        self._path = path
        # Connections to proxies belong to other pools.
        self.poolmanager.pool_classes_by_scheme = {
            "http": _watched(HTTPConnectionPool, path),
            "https": _watched(HTTPSConnectionPool, path),
        }

    def send(
        self, request: requests.PreparedRequest, *args: Any, **settings: Any
    ) -> requests.Response:
        """Send request. A proxy resolves names itself, so only the name in the URL can be seen."""
        url = request.url or ""
        if select_proxy(url, settings.get("proxies")):
            self._path.enter(urlsplit(url).hostname or "")
        return super().send(request, *args, **settings)


def _watched(kind: type[HTTPConnectionPool], path: _Path) -> type[HTTPConnectionPool]:
    """Return a class like kind that tells path each server's address before it sends a request.

    Names may resolve to anything, so the address of the connection itself counts.
    """

    class Watched(kind):  # type: ignore[misc, valid-type]
        def _validate_conn(self, conn: HTTPConnection) -> None:
            super()._validate_conn(conn)
            if conn.sock is None:
                conn.connect()
            path.enter(str(conn.sock.getpeername()[0]))

    return Watched


def is_local(host: str) -> bool:
    """Whether host, a name or an address, is this machine or on its own link."""
    name = host.rstrip(".").lower()
    address = _address(name)
    if address is None:
        return name in LOCAL_NAMES or name.endswith(".localhost")
    address = _embedded(address) or address
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or (address.version == METADATA.version and address in METADATA)
    )


def _embedded(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to, None if it leads to none."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    for network in IPV4_IN_IPV6:
        if address in network and int(address) & 0xFFFFFFFF > 1:  # neither :: nor ::1
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in host, in any form that resolvers accept, or None if it is a name."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0])
    with contextlib.suppress(OSError, UnicodeEncodeError):
        return ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f.1
    return None
