"""URLs that keep their credentials to themselves."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

# Stands for what is not shown.
HIDDEN = "***"

WEB = ("http", "https")

# The beginning of a URL, and its user info (RFC 3986, 3.2.1).
_BEGINNING = re.compile(r"([^/?#]*//)?([^/?#]*@)?", re.DOTALL)

# The characters that user info may have (RFC 3986, 3.2.1); parsers disagree about any others.
_ALLOWED = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@")

# User info in a text, also behind one slash only. As a password may hold any character by mistake,
# it extends to the last @ of the word.
_USER_INFO = re.compile(r"(?:(?<=//)|(?<=http:/)|(?<=https:/))(?!/)[^\s\"'<>]*@")

# User info that a wrong character has put behind what looks like the server: a slash in a password
# of digits, or one slash too many. The name of a file may have an @, but hardly a colon before it.
_MISPLACED = re.compile(r"(?:([^:/?#@]*:)/*)?+[^@]*:.*@", re.DOTALL)

# A field of a query that gives access by itself, such as X-Amz-Signature, token or sig: its name,
# and its value.
_TOKEN = re.compile(
    r"([?&;#][^=&;#\s]*(?:auth|credential|jwt|key|pass|pwd|secret|session|sig|token)[^=&;#\s]*=)"
    r"[^&;#\s\"'<>]+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, as a server compares them."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({HIDDEN})"


@dataclass(frozen=True, repr=False)
class Url:
    """A URL. As text it lacks its user info, and the values of fields that look like tokens.

    Only `bare`, `credentials` and `whole` give those, for the code that hands them to a tool.
    """

    _text: str

    @classmethod
    def of(cls, url: str | Url) -> Url:
        """Return url as a Url, whatever it holds."""
        return url if isinstance(url, Url) else cls(url)

    @classmethod
    def parse(cls, text: str, schemes: Collection[str] = WEB) -> Url:
        """Return text, which a person has given, as the address of a server or folder.

        Raises ValueError if it is none: the message says why, and does not show text.
        """
        for problem, is_so in _problems(text, schemes):
            if is_so:
                raise ValueError(problem)
        return cls(text)

    def __str__(self) -> str:
        # A text that is not a URL may have user info anywhere.
        text = self.bare if self.is_sound else hidden(self._text)
        text = _MISPLACED.sub(lambda match: f"{match[1] or ''}//{HIDDEN}@", text, count=1)
        return _TOKEN.sub(rf"\1{HIDDEN}", text)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __truediv__(self, path: str) -> Url:
        return Url(f"{self._text.rstrip('/')}/{path}")

    def replace(self, old: str, new: str) -> Url:
        """Return the URL with new in the place of old, as `str.replace` does."""
        return Url(self._text.replace(old, new))

    @property
    def whole(self) -> str:
        """The whole text, with all secrets in it."""
        return self._text

    @property
    def bare(self) -> str:
        """The text without user info, but with the whole query."""
        return self._text.replace(_user_info(self._text), "", 1)

    @property
    def credentials(self) -> Credentials | None:
        """The credentials in the user info, None if there is none."""
        info = _user_info(self._text)
        if not info:
            return None
        user, _, password = info.removesuffix("@").partition(":")
        return Credentials(unquote(user), unquote(password))

    @property
    def host(self) -> str:
        """The name or address of the server ("" if there is none)."""
        return urlsplit(self.bare).hostname or ""

    @property
    def is_sound(self) -> bool:
        """Whether the URL has parts that make sense."""
        try:
            return urlsplit(self.bare).port != 0
        except ValueError:
            return False


def _user_info(text: str) -> str:
    """Return the user info in the URL text with its @, or ""."""
    match = _BEGINNING.match(text)
    return (match[2] or "") if match else ""


def _problems(text: str, schemes: Collection[str]) -> list[tuple[str, bool]]:
    """Return possible problems of the URL text, each with whether it has the problem."""
    *others, last = schemes
    url, names = Url(text), f"{', '.join(others)} or {last}"
    if any(character.isspace() or not character.isprintable() for character in text):
        return [("has a blank or a control character in it", True)]
    info = _user_info(text)
    found = url.credentials or Credentials("", "")
    secret = found.user + found.password
    return [
        (f"is not a URL of {names}", not _is_address(url, schemes)),
        (
            "has an @ after the server's name",
            "@" in urlsplit(url.bare).path + urlsplit(url.bare).query,
        ),
        ("has a query or a fragment", "?" in text or "#" in text),
        (
            "has a character in its name or password that must be encoded",
            bool(info) and not _ALLOWED.fullmatch(info),
        ),
        ("has a user's name with a colon", ":" in found.user),
        # apt's access rules cannot say so.
        ("has a password without a user's name", bool(found.password) and not found.user),
        (
            "has a blank or a control character in its name or password",
            any(character.isspace() or not character.isprintable() for character in secret),
        ),
    ]


def _is_address(url: Url, schemes: Collection[str]) -> bool:
    """Whether url has one of schemes, and a server or, if it is of a file, a path."""
    try:
        parts: SplitResult = urlsplit(url.bare)
        is_file = parts.scheme == "file"
        there = parts.path if is_file else parts.hostname
        return parts.scheme in schemes and bool(there) and parts.port != 0
    except ValueError:
        return False


def hidden(text: str) -> str:
    """Return text without the user info and the tokens in its URLs."""
    return _TOKEN.sub(rf"\1{HIDDEN}", _USER_INFO.sub(f"{HIDDEN}@", text))


def shown(value: str) -> str:
    """Return value, which should be a URL or a server's name, quoted and without user info."""
    beginning, at, end = value.rpartition("@")
    scheme, mark, _ = beginning.partition("//")
    kept = f"{scheme}{mark}{HIDDEN}" if mark else HIDDEN
    return repr(hidden(f"{kept}@{end}" if at else value))
