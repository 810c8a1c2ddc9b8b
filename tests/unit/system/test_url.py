"""URLs with secrets in them, and all ways in which they become text."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from scripts.system.url import Credentials, Url, hidden, shown

SECRET = Url.parse("https://me:MARK@mirror.test:8443/al2023")


@dataclass(frozen=True)
class Holder:
    url: Url


@pytest.mark.parametrize(
    "printed",
    [
        str,
        repr,
        "{}".format,
        "{!r:>90}".format,
        "%s".__mod__,
        ascii,
        lambda url: f"{url}",
        lambda url: repr([url]),
        lambda url: repr(Holder(url)),
        lambda url: str({"url": url}),
        lambda url: repr(url.credentials),
        lambda url: str(url / "core"),
        lambda url: "".join(traceback.format_exception(ValueError(url))),
    ],
)
def test_no_way_to_print_a_url_shows_its_password(printed: Callable[[Url], str]) -> None:
    assert "MARK" not in printed(SECRET)


def test_a_url_prints_as_the_address_that_it_has_without_user_info() -> None:
    assert str(SECRET) == "https://mirror.test:8443/al2023"
    assert SECRET.whole == "https://me:MARK@mirror.test:8443/al2023"
    assert SECRET.credentials == Credentials("me", "MARK")
    assert SECRET.host == "mirror.test"


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Signature=MARK",
        "a=b&X-Amz-Security-Token=MARK&c=d",
        "x-goog-signature=MARK",
        "sig=MARK%2Fx",
        "token=MARK",
        "access_token=MARK;b=c",
        "Key-Pair-Id=MARK",
        "api_key=MARK",
        "PASSWORD=MARK",
        "client_secret=MARK",
    ],
)
def test_a_field_of_the_query_that_gives_access_is_not_shown(query: str) -> None:
    url = Url(f"https://files.test/x.rpm?{query}")
    assert "MARK" not in str(url)
    assert "=***" in str(url)
    assert url.bare == url.whole


def test_other_fields_of_the_query_are_shown() -> None:
    assert str(Url("https://files.test/?raw=1&ref=v2")) == "https://files.test/?raw=1&ref=v2"


def test_a_password_is_given_to_tools_as_it_was_before_it_was_encoded() -> None:
    url = Url.parse("http://me:%40%2F%3A%23%C3%A4@mirror.test/")
    assert url.credentials == Credentials("me", "@/:#ä")
    assert Url.parse("http://me@mirror.test/").credentials == Credentials("me", "")
    assert Url.parse("http://mirror.test/").credentials is None


@pytest.mark.parametrize(
    "text",
    [
        "Max retries exceeded with url: /x?sig=MARK (Caused by http://me:MARK@mirror.test)",
        "Failed to parse: http://me:MA/RK@MARK@mirror.test/x",
        "proxy 'socks5://MARK@127.0.0.1:1080'",
    ],
)
def test_the_words_of_a_library_lose_the_secrets_in_them(text: str) -> None:
    assert "MARK" not in hidden(text)
    assert "MA/" not in hidden(text)


def test_a_value_that_is_no_url_loses_what_may_be_user_info() -> None:
    assert shown("me:MARK@registry.test/cache") == "'***@registry.test/cache'"
    assert shown("http://me:MARK#@x") == "'http://***@x'"
    assert shown("nowhere") == "'nowhere'"


def test_urls_are_equal_only_with_their_secrets() -> None:
    assert Url("http://a:b@c") != Url("http://a:x@c")
    assert pickle.loads(pickle.dumps(SECRET)) == SECRET


@pytest.mark.parametrize(
    "text",
    [
        "http:///me:MARK@mirror.test/",
        "http:/me:MARK@mirror.test/",
        "http://me:12/MARK@mirror.test/",
        "http://me:12#MARK@mirror.test/",
        "http://me:12?MARK@mirror.test/",
        "http://cache.test/http://me:MARK@mirror.test/",
        "http://cache.test/?next=http://me:MARK@mirror.test/",
        "https://cache.test/#access_token=MARK",
    ],
)
def test_a_password_behind_a_wrong_slash_is_not_shown(text: str) -> None:
    assert "MARK" not in str(Url(text)) + repr(Url(text)) + hidden(text).replace("12?", "")


def test_an_at_sign_in_the_name_of_a_file_is_shown() -> None:
    for text in ("https://files.test/a@1.2/x.tar", "docker://files.test/a@sha256:12"):
        assert str(Url(text)) == text


def test_a_password_without_a_name_is_refused_because_apt_could_not_say_it() -> None:
    with pytest.raises(ValueError, match="a password without a user's name"):
        Url.parse("http://:MARK@mirror.test/")
