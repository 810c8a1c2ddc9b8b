"""Downloading files, with retries, and verifying them."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests

from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError
from scripts.system.files import open_plain
from scripts.system.progress import Task
from scripts.system.redirects import Session
from scripts.system.text import printable
from scripts.system.url import Url, hidden

CHUNK_BYTES = 1 << 16

# Statuses after which another attempt may succeed (RFC 9110, 15.5 and 15.6; RFC 6585 for 429).
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

# The most bytes of a small file, whose contents are kept in memory: lists of releases have some
# kilobytes, the metadata of a repository a few megabytes.
SMALL = 16 << 20

# The most bytes of any other file; a tarball of mkosi has some megabytes, an emulator some dozens.
LARGE = 2 << 30

# No honest number in a header has more digits.
DIGITS = 18

# The most characters of a reason phrase to show; servers may send any.
REASON = 80

# Authenticates a request.
_Authentication = Callable[[requests.PreparedRequest], requests.PreparedRequest]

# How urllib3 2.6 begins its message about a connection that failed.
URLLIB3 = re.compile(r"^HTTPS?Connection(?:Pool)?\([^)]*\): ")


@dataclass(frozen=True)
class Settings:
    """How patient a download is.

    The file is requested at most attempts times. The pause before attempt n + 1 is pause * 2 ** (n
    - 1) seconds, or what the server asks for in Retry-After, but at most longest_pause. A
    connection may take connect seconds to be made and may then be silent for stall seconds.
    """

    attempts: int = 6
    pause: float = 1
    longest_pause: float = 30
    connect: float = 20
    stall: float = 60


PATIENT = Settings()

# S3, and so Amazon's CDN, answers 403 for a missing file in a folder that may not be listed.
MISSING = frozenset({403, 404, 410})

# For a source with an alternative.
BRIEF = Settings(attempts=2, pause=0.5, connect=5, stall=20)


class MissingError(HarnessError):
    """The server answers, but does not have the file."""


class UnauthorizedError(HarnessError):
    """The server requires credentials; challenge is its header WWW-Authenticate."""

    def __init__(self, message: str, *, challenge: str) -> None:
        super().__init__(message, hint="the server requires credentials")
        self.challenge = challenge


class DigestError(HarnessError):
    """The downloaded file is not the pinned one. Another attempt would not help."""


class _TransientError(Exception):
    """An attempt failed, and another may succeed after pause seconds."""

    def __init__(self, cause: str, *, pause: float = 0) -> None:
        super().__init__(cause)
        self.pause = pause


def fetch(
    url: str | Url,
    destination: Path,
    *,
    sha256: str,
    progress_task: Task | None = None,
    settings: Settings = PATIENT,
    limit: int = LARGE,
) -> None:
    """Download url to destination, which appears whole and with the digest sha256, or not at all.

    If destination has that digest already, the network is not used. A broken transfer continues
    where it broke, even one of an earlier process, which leaves a part beside destination.
    progress_task shows how far it is. Raises DigestError if the digest differs, or HarnessError
    that names url and the cause if it cannot be downloaded or has more than limit bytes; an earlier
    file at destination stays.
    """
    if destination.exists() and file_digest(destination) == sha256:
        return
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with (
            _part_of(destination, sha256) as file,
            Session() as session,
        ):
            transfer = _Transfer(Url.of(url), file, session, settings, progress_task, limit)
            transfer.run(sha256)
            if transfer.digest.hexdigest() != sha256:
                raise _mismatch(url, sha256, transfer)
            file.flush()
            Path(file.name).replace(destination)
    except OSError as error:
        raise HarnessError(
            f"{Url.of(url)} cannot be stored in {destination.parent}: {error}"
        ) from error


def read(
    url: str | Url,
    *,
    headers: Mapping[str, str] | None = None,
    parameters: Mapping[str, str] | None = None,
    settings: Settings = PATIENT,
    limit: int = SMALL,
    sent: bool = False,
) -> bytes:
    """Return the contents of the small file at url, which nothing verifies: do not trust them.

    headers are sent along, but their Authorization not to another server, and parameters become the
    query. Raises MissingError if the server does not have the file, UnauthorizedError if it
    requires credentials, or another HarnessError that names url and the cause; so does a file of
    more than limit bytes. sent means that a server, not a person, has named url: as in a redirect,
    it may not lead to this machine.
    """
    with tempfile.TemporaryFile() as file, Session(sent=sent) as session:
        session.headers.update(headers or {})
        session.params = dict(parameters or {})
        _Transfer(Url.of(url), file, session, settings, None, limit).run()
        file.seek(0)
        return file.read()


def digest(
    url: str | Url,
    algorithm: str,
    *,
    progress_task: Task | None = None,
    settings: Settings = PATIENT,
    limit: int = LARGE,
) -> str:
    """Return the digest of the file at url, in hex, which is read to its end and not kept.

    algorithm is a name that hashlib knows. Raises MissingError if the server does not have the
    file, or another HarnessError that names url and the cause; so does a file of more than limit
    bytes.
    """
    with _Nowhere() as file, Session() as session:
        transfer = _Transfer(Url.of(url), file, session, settings, progress_task, limit, algorithm)
        transfer.run()
        return transfer.digest.hexdigest()


class _Nowhere(io.BytesIO):
    """A file that forgets what is written to it."""

    def write(self, data: Any, /) -> int:
        """Return the number of bytes in data."""
        return len(data)


class _Transfer:
    """The download of one file, in as many attempts as it takes."""

    def __init__(
        self,
        url: Url,
        file: IO[bytes],
        session: Session,
        settings: Settings,
        task: Task | None,
        limit: int,
        algorithm: str = "sha256",
    ) -> None:
        self.url = url
        self.settings = settings
        self.limit = limit
        self.algorithm = algorithm
        self.digest = hashlib.new(algorithm)
        self.received = 0
        self.content_type = ""
        self._file = file
        self._session = session
        self._task = task
        self._etag = ""

    def run(self, sha256: str = "") -> None:
        """Receive the file, or the part of it that is missing. Raises HarnessError if that fails.

        If the result does not have the digest sha256, the part that was there belonged to another
        file, and the whole file is received again.
        """
        if not self.url.is_sound:
            raise self._failure("it is not a URL")
        for chunk in iter(lambda: self._file.read(CHUNK_BYTES), b""):
            self.digest.update(chunk)
            self.received += len(chunk)
        had_part = self.received > 0
        if had_part and self.digest.hexdigest() == sha256:
            return
        self._run(sha256)
        if had_part and self.digest.hexdigest() != sha256:
            self._restart()
            self._run(sha256)

    def _run(self, sha256: str) -> None:
        """Receive the rest of the file, in as many attempts as the settings allow."""
        attempts = self.settings.attempts
        for attempt in range(1, attempts + 1):
            try:
                return self._attempt()
            except _TransientError as error:
                if attempt == attempts:
                    raise HarnessError(
                        f"{self.url} cannot be downloaded: {error} ({attempts} attempts)"
                        f"{self._what_came(sha256)}",
                        hint="check the network and the proxy settings, then try again",
                    ) from None
                if self._task:
                    self._task.step(f"{self.url}: {error}, trying again")
                pause = max(self.settings.pause * 2 ** (attempt - 1), error.pause)
                time.sleep(min(pause, self.settings.longest_pause))
        raise AssertionError("the last attempt returns or raises")

    def _what_came(self, sha256: str) -> str:
        """Return both digests of a file that came in part, for a person to compare, or ""."""
        if not sha256 or not self.received:
            return ""
        return (
            f"; the {self.received} bytes that came have the sha256 {self.digest.hexdigest()}, "
            f"but {sha256} is pinned"
        )

    def _attempt(self) -> None:
        """Ask for the rest of the file once. Raises _TransientError if it may be asked again."""
        # identity: the digest is that of the file, not of a compressed form.
        headers = {"Accept-Encoding": "identity"}
        if self.received:
            headers["Range"] = f"bytes={self.received}-"
            if self._etag:
                headers["If-Range"] = self._etag
        timeout = (self.settings.connect, self.settings.stall)
        try:
            with self._session.get(
                self.url.bare,
                headers=headers,
                timeout=timeout,
                stream=True,
                auth=_authentication(self.url, self._session),
            ) as response:
                self._check(response)
                self._receive(response)
        except (requests.exceptions.SSLError, requests.TooManyRedirects, ValueError) as error:
            # RedirectError, InvalidURL of requests, and others like it, are ValueErrors.
            raise self._failure(_clean(str(error))) from None
        except requests.RequestException as error:
            raise _TransientError(self._cause(error)) from None

    def _check(self, response: requests.Response) -> None:
        """Raise an error unless response has the file, or the rest of it."""
        status = response.status_code
        if status in TRANSIENT:
            after = response.headers.get("Retry-After", "")
            raise _TransientError(
                _answer(response),
                pause=_number(after),
            )
        if status == requests.codes.requested_range_not_satisfiable:
            self._restart()
            raise _TransientError("the server no longer has the file that the transfer began with")
        if status == requests.codes.unauthorized:
            raise UnauthorizedError(
                f"{self.url} cannot be downloaded: {_answer(response)}",
                challenge=response.headers.get("WWW-Authenticate", ""),
            )
        if status not in {requests.codes.ok, requests.codes.partial_content}:
            kind = MissingError if status in MISSING else HarnessError
            raise kind(
                f"{self.url} cannot be downloaded: {_answer(response)}",
                hint="the address or the mirror is wrong, or the file has moved",
            )
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {self.received}-")
        if self.received and not (status == requests.codes.partial_content and goes_on):
            self._restart()

    def _receive(self, response: requests.Response) -> None:
        """Append the body of response to the file."""
        etag = response.headers.get("ETag", "")
        self._etag = "" if etag.startswith("W/") else etag
        self.content_type = response.headers.get("Content-Type", "")
        total = self.received + _number(response.headers.get("Content-Length", ""))
        self._check_size(total)
        for chunk in response.iter_content(CHUNK_BYTES):
            self._check_size(self.received + len(chunk))
            self._file.write(chunk)
            self.digest.update(chunk)
            self.received += len(chunk)
            if self._task and total:
                # In steps of 10 %: without a live line, each is a line of its own.
                percent = min(100, 10 * (10 * self.received // total))
                self._task.step(f"{self.url}: {percent} % of {total / 1e6:.1f} MB")

    def _check_size(self, size: int) -> None:
        """Raise HarnessError if a file of size bytes is too large, and discard what has arrived."""
        if size > self.limit:
            self._restart()
            raise self._failure(
                f"it is larger than {self.limit / 1e6:.0f} MB, the limit for this file"
            )

    def _failure(self, cause: str) -> HarnessError:
        return HarnessError(f"{self.url} cannot be downloaded: {cause}")

    def _restart(self) -> None:
        """Forget what has been received."""
        self._file.seek(0)
        self._file.truncate()
        self.digest = hashlib.new(self.algorithm)
        self.received = 0
        self._etag = ""

    def _cause(self, error: requests.RequestException) -> str:
        """Return what went wrong, without the names of three libraries' classes."""
        if isinstance(error, requests.ConnectTimeout):
            return f"no connection within {self.settings.connect:g} s"
        if isinstance(error, requests.Timeout) or "Read timed out" in str(error):
            return f"nothing came for {self.settings.stall:g} s"
        if isinstance(error, requests.exceptions.ChunkedEncodingError):
            return f"the connection broke after {self.received} bytes"
        inner = getattr(error.args[0], "reason", error) if error.args else error
        text = str(inner).rpartition(">: ")[2].rpartition("connection: ")[2]
        return _clean(URLLIB3.sub("", text))


def _authentication(url: Url, session: Session) -> _Authentication | None:
    """Return what authenticates a request for url: its credentials, or the header of session.

    None leaves it to ~/.netrc, which would otherwise win over both.
    """
    found = url.credentials
    if not found:
        return (lambda request: request) if "Authorization" in session.headers else None
    pair = base64.b64encode(f"{found.user}:{found.password}".encode()).decode()

    def authenticate(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Basic {pair}"
        return request

    return authenticate


def _answer(response: requests.Response) -> str:
    """Return a server's answer in words."""
    reason = printable(str(response.reason or ""))[:REASON]
    return f"the server answers {response.status_code} {reason}".rstrip()


def _clean(text: str) -> str:
    """Return text, which may quote a URL and a server's answer, made safe to show."""
    return printable(hidden(text))


def _number(text: str) -> int:
    """Return the number in a header, 0 if it is not a plausible one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= DIGITS else 0


@contextlib.contextmanager
def _part_of(destination: Path, sha256: str) -> Iterator[IO[bytes]]:
    """Yield the file beside destination with what an earlier transfer of sha256 has received.

    Whoever completes it renames it; otherwise it stays for the next process. It is removed if it is
    empty, known to be wrong, or on a full disk.
    """
    with _locked_part(destination, sha256) as file:
        part = Path(file.name)
        os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would outlive the rename
        try:
            yield file
        except (DigestError, OSError):
            part.unlink(missing_ok=True)
            raise
        finally:
            if part.exists() and not os.fstat(file.fileno()).st_size:
                part.unlink()


@contextlib.contextmanager
def _locked_part(destination: Path, sha256: str) -> Iterator[IO[bytes]]:
    """Yield the part that belongs to sha256, or a new one if that is in use or not to be trusted.

    Its name is known beforehand, so others may have put a link there (see `open_plain`).
    """
    path = destination.with_name(f".{destination.name}.{sha256[:16]}.part")
    with contextlib.ExitStack() as stack:
        if file := _claimed(path, stack):
            yield file
            return
    with _own_part(destination) as file:
        yield file


def _claimed(path: Path, stack: contextlib.ExitStack) -> IO[bytes] | None:
    """Return the part at path, locked until stack ends, or None if it is of no use."""
    try:
        file = stack.enter_context(open_plain(path))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file if _is_ours(file, path) else None
    except OSError:
        return None


def _is_ours(file: IO[bytes], path: Path) -> bool:
    """Whether file is this user's, and still the one at path: another process may have renamed it.

    Another user could change it after it was verified.
    """
    found = os.fstat(file.fileno())
    return found.st_uid == os.geteuid() and found.st_ino == path.lstat().st_ino


@contextlib.contextmanager
def _own_part(destination: Path) -> Iterator[IO[bytes]]:
    """Yield a part with a name of its own, which is removed unless it is renamed."""
    descriptor, name = tempfile.mkstemp(
        prefix=f".{destination.name}.", suffix=".part", dir=destination.parent
    )
    os.close(descriptor)
    try:
        with Path(name).open("r+b") as file:
            yield file
    finally:
        Path(name).unlink(missing_ok=True)


def _mismatch(url: str | Url, sha256: str, transfer: _Transfer) -> DigestError:
    hint = "the download was deleted. Either the pin is out of date, or the file is wrong"
    if "html" in transfer.content_type:
        hint += " (it is an HTML page, perhaps of a login portal or a proxy on the way)"
    return DigestError(
        f"{Url.of(url)} is not the pinned file: its sha256 is {transfer.digest.hexdigest()} "
        f"({transfer.received} bytes), but {sha256} is pinned",
        hint=hint,
    )
