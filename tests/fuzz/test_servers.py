"""What servers answer: mirrors, registries, the APIs of GitHub, S3 and the container engine."""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import strategies as st

from scripts.arch import X86_64
from scripts.catalog import ROOT
from scripts.distributions import amazonlinux
from scripts.packages import engine
from scripts.pins import lookups, registry
from scripts.pins.lookups import Lookups
from scripts.publish import announcement, conf, deps
from scripts.publish.announcement import Validity
from scripts.publish.conf import Entry
from scripts.publish.release import Upload
from scripts.publish.run import Run
from scripts.publish.s3 import Bucket
from scripts.system import fetch
from scripts.system.fetch import Settings
from scripts.system.progress import Progress
from scripts.system.url import Url
from tests.fuzz import wire
from tests.fuzz.conftest import Attack
from tests.fuzz.hostile import TEXT, encoded, json_like, mutated, put, text_like
from tests.fuzz.wire import Wire, response

HASTY = Settings(attempts=2, pause=0, longest_pause=0, connect=1, stall=0.5)

RELEASES = """\
<?xml version="1.0"?><root><releases>
<release version="2023.8.20250707" name="a"/> <release version="2023.9.20250901"/>
</releases></root>
"""
REPOMD = """\
<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo">
<data type="primary"> <location href="repodata/primary.xml.gz"/> </data></repomd>
"""
PRIMARY = """\
<?xml version="1.0"?><metadata xmlns="http://linux.duke.edu/metadata/common" packages="1">
<package type="rpm"> <name>cloud-init</name> <version epoch="0" ver="22.2.2" rel="1.amzn2023"/>
</package></metadata>
"""
HEADERS = (
    "Retry-After: 0",
    "Retry-After: ²",
    "Retry-After: " + "9" * 5000,
    "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT",
    "Content-Range: bytes 3-5/6",
    "Content-Range: bytes 0-2/3",
    "Content-Range: bytes ²-",
    'ETag: "a"',
    'ETag: W/"a"',
    "Content-Type: text/html",
    "Content-Encoding: gzip",
    "Content-Length: x",
    "Content-Length: -1",
    "Transfer-Encoding: chunked",
    'WWW-Authenticate: Bearer realm="x"',
    "Set-Cookie: a=\x1b[2J",
    "Location: ::error::x",
)
STATUSES = (
    "200 OK",
    "206 Partial Content",
    "206 \x1b]0;x\x07",
    "416 Range",
    "429 ::error::slow down",
    "401 No\x9b31m",
    "404 \xe2\x80\xa8gone",
    "503 Busy",
    "999 ?",
    "-1 x",
    "200",
)
PUBLISHED = b"abcdef"


@pytest.fixture
def server() -> Iterator[Wire]:
    with wire.listening() as found:
        yield found


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have production's own limits of patience for what asks without settings of ours."""
    monkeypatch.setattr(amazonlinux, "LOOK", HASTY)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def raw() -> st.SearchStrategy[bytes]:
    """A response of HTTP that is odd in its status, its headers or its body, or none at all."""
    headers = st.lists(st.sampled_from(HEADERS), max_size=3)
    odd = st.tuples(st.sampled_from(STATUSES), headers, st.sampled_from([PUBLISHED, b"", b"abc"]))
    whole = odd.map(lambda case: response(case[2], *case[1], status=case[0]))
    return st.one_of(whole, whole, mutated(response(PUBLISHED, 'ETag: "a"')))


def test_any_answer_is_downloaded_or_refused(attack: Attack, server: Wire, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(PUBLISHED).hexdigest()

    def download(answers: list[bytes]) -> None:
        server.answers = answers
        target = tmp_path / "file"
        target.unlink(missing_ok=True)
        fetch.fetch(f"{server.url}/file", target, sha256=sha256, settings=HASTY)
        assert target.read_bytes() == PUBLISHED

    attack(st.lists(raw(), min_size=1, max_size=3), download)


def test_any_answer_is_read_or_refused(attack: Attack, server: Wire) -> None:
    def read(answers: list[bytes]) -> None:
        server.answers = answers
        fetch.read(f"{server.url}/file", settings=HASTY)

    attack(st.lists(raw(), min_size=1, max_size=3), read)


def test_a_list_of_releases_names_some_or_is_refused(attack: Attack, server: Wire) -> None:
    def read(body: bytes) -> None:
        server.answers = [response(body)]
        newest = amazonlinux.newest(Url(server.url))
        assert newest.isascii()
        assert amazonlinux.nearest(newest, amazonlinux.published(Url(server.url)))

    attack(text_like(RELEASES), read)


def test_a_mirror_is_checked_or_refused(attack: Attack, server: Wire) -> None:
    def check(case: tuple[list[bytes], str]) -> None:
        server.answers, release = case
        amazonlinux.check(release, X86_64, Url(server.url))

    release = st.one_of(TEXT, st.just("2023.8.20250707"), st.just("latest"))
    attack(st.tuples(st.lists(raw(), min_size=1, max_size=3), release), check)


def test_a_registry_names_a_digest_or_is_refused(attack: Attack, server: Wire) -> None:
    manifest = {"schemaVersion": 2, "manifests": [{"digest": "sha256:0"}]}
    challenge = f'WWW-Authenticate: Bearer realm="{server.url}/token",service="x"'
    closed = response(b"", challenge, status="401 Unauthorized")
    token = json_like({"token": "t", "access_token": "t"}).map(response)
    answers = st.one_of(
        json_like(manifest).map(lambda body: [response(body)]),
        token.map(lambda answer: [closed, answer, response(b"{}")]),
        text_like(challenge).map(
            lambda line: [
                response(b"", line.decode("latin-1"), status="401 Unauthorized"), response(b"{}")
            ]
        ),
    )  # fmt: skip

    def ask(case: list[bytes]) -> None:
        server.answers = case
        assert registry.digest(f"{server.url}/v2/x", settings=HASTY).startswith("sha256:")

    attack(answers, ask)


def test_the_newest_release_on_github_is_found_or_refused(attack: Attack, server: Wire) -> None:
    sample = [{"tag_name": "v27.1", "name": "27.1"}, {"tag_name": "v26", "name": "v26"}]
    answers = st.one_of(json_like(sample), json_like(sample[0]))
    look = Lookups(ROOT, HASTY)

    def ask(body: bytes) -> None:
        server.answers = [response(body)]
        look.mkosi(releases=f"{server.url}/releases", url=f"{server.url}/{{version}}.tar.gz")

    attack(answers, ask)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of the checkout that pin what our packages are built from."""
    for name in ("al2023-package-build/packages.toml", "mkosi.conf.d/amazonlinux.conf"):
        put(tmp_path / name, (ROOT / name).read_bytes())
    return tmp_path


def test_the_source_rpms_of_a_repository_are_listed_or_refused(
    attack: Attack, server: Wire, checkout: Path
) -> None:
    look = Lookups(checkout, HASTY)
    packed = gzip.compress(PRIMARY.encode(), mtime=0)
    good = [RELEASES.encode(), f"{server.url}/repo\n".encode(), REPOMD.encode(), packed]
    paths = TEXT.map(lambda text: encoded(f"{server.url}/{text}\n"))
    forms = [text_like(RELEASES), paths, text_like(REPOMD),
             st.one_of(mutated(packed), text_like(PRIMARY).map(gzip.compress))]  # fmt: skip
    cases = st.one_of(*(st.tuples(st.just(at), form) for at, form in enumerate(forms))).map(
        lambda case: [*good[: case[0]], case[1], *good[case[0] + 1 :]]
    )

    def ask(bodies: list[bytes]) -> None:
        server.answers = [response(body) for body in bodies]
        look.amazon_source_rpm(
            "cloud-init", cdn=server.url, file="al2023-package-build/packages.toml",
            key="package.cloud-init.nevra",
        )  # fmt: skip

    attack(cases, ask)


def test_checksums_are_read_or_left_out(attack: Attack) -> None:
    sample = f"{'0' * 64}  a\n{'1' * 64} *b\n"
    attack(
        text_like(sample), lambda data: lookups.checksums(data.decode(errors="replace")), share=5
    )


@pytest.fixture
def bucket(server: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    import boto3
    from botocore.config import Config

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client(
        "s3", endpoint_url=server.url, region_name="us-east-1",
        aws_access_key_id="a", aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=1,
                      s3={"addressing_style": "path"}),
    )  # fmt: skip
    server.answers = [response(b"", 'ETag: "a"')]
    found = Bucket("bucket", client, tmp_path)
    found.read("what describes the service is loaded by the first call, which takes a second")
    yield found
    client.close()
    # botocore leaves the connection of an answer that it cannot read to the garbage collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_any_answer_of_s3_is_read_or_refused(
    attack: Attack, server: Wire, bucket: Bucket, tmp_path: Path
) -> None:
    error = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>m</Message></Error>"
    headers = st.lists(
        st.sampled_from(
            (*HEADERS, "x-amz-meta-sha512: a", "x-amz-meta-sha512: \x1b[2J", "x-amz-request-id: x")
        ),
        max_size=3,
    )
    bodies = st.one_of(mutated(error), st.just(b""), st.just(b"{}"))
    status = st.sampled_from((*STATUSES, "403 Forbidden", "412 Precondition Failed"))
    cases = st.one_of(
        st.tuples(bodies, headers, status).map(lambda c: response(c[0], *c[1], status=c[2])), raw()
    )
    upload = Upload(put(tmp_path / "f", b"abc"), "f", "0" * 128, 3)

    def ask(answer: bytes) -> None:
        server.answers = [answer]
        bucket.read("manifest.json")
        bucket.check(upload)
        bucket.check(replace(upload, replaces=""))

    attack(cases, ask)


def test_a_context_of_docker_is_read_or_refused(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ".docker"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    name = hashlib.sha256(b"other").hexdigest()
    meta = {
        "Name": "other",
        "Metadata": {},
        "Endpoints": {"docker": {"Host": "unix:///run/other.sock", "SkipTLSVerify": False}},
    }
    config = b'{"currentContext": "other"}'
    cases = st.one_of(
        json_like(meta).map(lambda data: (config, data)),
        json_like({"currentContext": "other"}).map(lambda data: (data, json.dumps(meta).encode())),
    )

    def read(case: tuple[bytes, bytes]) -> None:
        put(home / "config.json", case[0])
        put(home / "contexts/meta" / name / "meta.json", case[1])
        engine._context({})

    attack(cases, read)


def test_any_answer_of_an_engine_is_taken_or_refused(attack: Attack, server: Wire) -> None:
    version = {
        "Version": "28.0", "ApiVersion": "1.48", "MinAPIVersion": "1.24",
        "Platform": {"Name": "Docker Engine"}, "Components": [{"Name": "Engine", "Version": "28"}],
    }  # fmt: skip
    info = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    kind = "Content-Type: application/json"
    ping = response(b"OK", "Builder-Version: 2", "Api-Version: 1.48")

    def answers(first: bytes, second: bytes, third: bytes) -> list[bytes]:
        # The SDK asks for the version twice: to agree on the API, and for us.
        return [response(first, kind), response(second, kind), response(third, kind), ping]

    good = json.dumps(version).encode()
    cases = st.one_of(
        json_like(version).map(lambda d: answers(good, d, json.dumps(info).encode())),
        json_like(version).map(lambda d: answers(d, good, json.dumps(info).encode())),
        json_like(info).map(lambda d: answers(good, good, d)),
        raw().map(lambda d: [d, *answers(good, good, b"{}")]),
    )

    def ask(case: list[bytes]) -> None:
        server.answers = case
        str(engine.find({"DOCKER_HOST": server.url.replace("http", "tcp")}))

    attack(cases, ask)


def test_a_release_manifest_is_named_in_deps_or_refused(attack: Attack, server: Wire) -> None:
    run = Run("al2023", "12", server.url)
    sha512 = hashlib.sha512(PUBLISHED).hexdigest()
    now = datetime.now(UTC)
    listed = tuple(announcement.Download(*one, sha512) for one in run.downloads())
    sound = announcement.Announcement(Validity.starting(now, 30), listed)

    def name(case: tuple[bytes, bytes]) -> None:
        server.answers = [response(case[0])]
        for _ in listed:
            server.answers += [response(case[1]), response(PUBLISHED)]
        with Progress(live=False).task("release") as task:
            assert deps.published(run, task)

    manifests = st.one_of(
        st.just(sound.text()), json_like(json.loads(sound.text())), mutated(sound.text())
    )
    sums = st.one_of(st.just(sha512.encode()), TEXT.map(encoded))
    attack(st.tuples(manifests, sums), name)


def test_a_file_of_deps_is_edited_once_whatever_is_in_it(attack: Attack) -> None:
    entry = Entry(X86_64, "common/x86-64/finch-12.tar.gz", "0" * 128)
    sample = conf.edited("", "https://deps.example", [entry])

    def edit(data: bytes) -> None:
        text = data.decode(errors="replace")
        once = conf.edited(text, "https://deps.example", [entry])
        assert conf.edited(once, "https://deps.example", [entry]) == once
        assert conf.values(once).items() >= conf.values(sample).items()

    attack(text_like(sample), edit)
