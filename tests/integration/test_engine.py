"""Looks for a container engine at sockets where a stub answers, or nothing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest
from docker.context import ContextAPI

from scripts.doctor import doctor, machine
from scripts.packages import engine
from scripts.system.errors import MachineError

NOBODY = 65534

VERSION = {"Version": "4.3.1", "ApiVersion": "1.41", "Components": [{"Name": "Podman Engine"}]}


@contextmanager
def answering(answers: Mapping[str, object], headers: Mapping[str, str]) -> Iterator[str]:
    """Run a stub engine with answers by the last part of the path; yields DOCKER_HOST for it.

    It stands in for engines that we have no package of: Podman's, and old versions of Docker's.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path.rpartition("/")[2]]).encode()
            self.send_response(200)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "a socket"

        def log_message(self, *_: object) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/engine.sock"
        with ThreadingUnixStreamServer(path, Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"unix://{path}"
            server.shutdown()


@pytest.fixture
def docker_is_there(tmp_path: Path) -> dict[str, str]:
    """An environment whose `docker` passes for Docker's command line with buildx."""
    (tmp_path / "docker").write_text("#!/bin/sh\necho buildx\n")
    (tmp_path / "docker").chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


OLD = {"version": VERSION, "info": {"DriverStatus": [["Backing", "ext4"]]}, "_ping": "OK"}


def test_an_engine_without_buildkit_is_named_and_does_unless_a_builder_is(
    docker_is_there: dict[str, str],
) -> None:
    with answering(OLD, {"Builder-Version": ""}) as host:
        environ = docker_is_there | {"DOCKER_HOST": host}
        with pytest.raises(MachineError, match=r"has no BuildKit: Podman Engine 4\.3\.1") as caught:
            engine.require(environ, "")
        assert "BUILDX_BUILDER" in caught.value.hint
        found = engine.require(environ, "mine")
    assert not found.exports_cache
    assert str(found) == ("Podman Engine 4.3.1, API 1.41, without BuildKit, exports no layer cache")


def test_the_doctor_says_of_an_engine_what_the_session_would(
    docker_is_there: dict[str, str], tmp_path: Path
) -> None:
    with answering(OLD, {"Builder-Version": ""}) as host:
        environ = docker_is_there | {"DOCKER_HOST": host}
        with pytest.raises(MachineError) as caught:
            engine.require(environ, "")
        here = machine.look_closely(tmp_path, environ)
        with_builder = machine.look_closely(tmp_path, environ | {"BUILDX_BUILDER": "mine"})
    judgement = doctor.docker(here)
    assert not judgement.ok
    assert (judgement.found, judgement.mend) == (caught.value.message, caught.value.hint)
    assert doctor.buildx(here).ok
    assert doctor.docker(with_builder).ok


def test_what_is_no_buildx_is_told_with_the_package_that_has_it(tmp_path: Path) -> None:
    environ = {"PATH": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    with pytest.raises(MachineError, match="not installed") as nothing:
        engine.check_buildx(environ)
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(MachineError, match="no buildx") as caught:
        engine.check_buildx(environ)
    judgement = doctor.buildx(machine.look_closely(tmp_path, environ))
    assert (judgement.found, judgement.mend) == (caught.value.message, caught.value.hint)
    assert nothing.value.hint == engine.installation(platform.freedesktop_os_release())


def test_an_engine_with_buildkit_and_containerds_store_lacks_nothing() -> None:
    info = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    version = VERSION | {"Components": [{"Name": "Engine"}, {"Name": "containerd"}]}
    answers = {"version": version, "info": info, "_ping": "OK"}
    with answering(answers, {"Builder-Version": "2"}) as host:
        found = engine.find({"DOCKER_HOST": host})
    assert found.has_buildkit
    assert found.builder == "default"
    assert str(found) == "Docker 4.3.1, API 1.41"


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ({"Components": [{"Name": "Engine"}], "Platform": {"Name": "Docker Desktop"}}, "Docker"),
        ({"Components": [{"Name": "Podman Engine"}, {"Name": "Conmon"}],
          "Platform": {"Name": "linux/amd64/fedora-43"}}, "Podman Engine"),
        ({"Components": [{"Name": "nerdctl"}, {"Name": "containerd"}],
          "Platform": {"Name": "Finch Daemon - 0.22.0"}}, "Finch Daemon"),
        ({"Components": [{"Name": "containerd"}], "Platform": {"Name": ""}}, "containerd"),
        ({"Components": None, "Platform": None}, "an engine"),
    ],
)  # fmt: skip
def test_an_engine_is_called_what_it_says_of_itself(version: dict[str, object], name: str) -> None:
    answers = {"version": VERSION | version, "info": {}, "_ping": "OK"}
    with answering(answers, {}) as host:
        found = engine.find({"DOCKER_HOST": host})
    assert found.name == name


def test_a_context_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))  # the SDK reads only this
    with pytest.raises(MachineError, match="context gone does not exist") as caught:
        engine.find({"DOCKER_CONTEXT": "gone"})
    assert "docker context use default" in caught.value.hint
    (tmp_path / "config.json").write_text('{"currentContext": "lost"}')
    with pytest.raises(MachineError, match="context lost does not exist"):
        engine.find({})


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"Name": "mine"}', '{"Endpoints": 1}'])
def test_a_context_whose_description_is_damaged_is_named_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    ContextAPI.create_context("mine", host="unix:///nowhere")
    [meta] = tmp_path.rglob("meta.json")
    meta.write_text(text)

    with pytest.raises(MachineError, match="Docker's context mine cannot be read") as caught:
        engine.find({"DOCKER_CONTEXT": "mine"})

    assert str(meta) in caught.value.message
    assert "docker context use default" in caught.value.hint


@pytest.mark.parametrize(("error", "cause"), [(OSError(), "OSError"), (OSError("a\nb\n"), "b")])
def test_an_error_without_words_is_told_by_its_kind(error: OSError, cause: str) -> None:
    assert engine._unreachable("", error).message.endswith(f"does not answer: {cause}")


def test_the_engine_is_that_of_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    answers = {"version": VERSION, "info": {}, "_ping": "OK"}
    with answering(answers, {"Builder-Version": "2"}) as host:
        ContextAPI.create_context("mine", host=host)
        found = engine.find({"DOCKER_CONTEXT": "mine"})
    assert found.builder == "mine"
    assert found.host.endswith(host)


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ({"ID": "debian", "VERSION_ID": "13"}, "apt-get install docker.io docker-buildx"),
        ({"ID": "debian"}, "apt-get install docker.io docker-buildx"),
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, "apt-get install docker.io docker-buildx"),
        ({"ID": "fedora", "VERSION_ID": "43"}, "dnf install moby-engine docker-buildx"),
        ({"ID": "amzn", "VERSION_ID": "2023"}, "dnf install docker"),
    ],
)
def test_each_distribution_is_told_its_own_packages(release: dict[str, str], command: str) -> None:
    assert engine.installation(release).removeprefix("sudo ") == command


@pytest.mark.parametrize("release", [{"ID": "debian", "VERSION_ID": "12"}, {"ID": "rhel"}, {}])
def test_where_a_distribution_lacks_them_docker_s_own_are_named(release: dict[str, str]) -> None:
    for only_buildx in (False, True):
        said = engine.installation(release, only_buildx=only_buildx)
        assert said.startswith("see https://docs.docker.com/engine/install")


def test_who_lacks_buildx_alone_is_told_no_more() -> None:
    said = engine.installation({"ID": "fedora"}, only_buildx=True)
    assert said.removeprefix("sudo ") == "dnf install docker-buildx"


# It imports its modules as root, because the other user may not be able to read them.
PROGRAM = """\
import os, sys
import docker.context, requests, urllib3
from scripts.system import errors
from scripts.packages import engine
if len(sys.argv) > 1:
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
errors.main(lambda _: print(engine.find(os.environ)))
"""


def asked(checkout: Path, path: str, *, user: int | None = None) -> str:
    """Look for an engine at path, which has none, as user, and return what is printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *([] if user is None else [str(user)])],
        cwd=checkout,
        env={**os.environ, "DOCKER_HOST": f"unix://{path}", "HOME": "/tmp"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for sockets, with a short name, which every user may enter."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.parametrize(
    ("group", "mode", "mend"),
    [
        ("daemon", 0o660, 'sudo usermod --append --groups daemon "$USER"'),
        ("daemon", 0o600, "with sudo"),
        ("root", 0o660, "with sudo"),
    ],
)
def test_a_user_without_permission_is_told_the_socket_s_group_or_sudo(
    checkout: Path, folder: Path, group: str, mode: int, mend: str
) -> None:
    if os.geteuid() != 0:
        pytest.fail("only root can be somebody else: run this as root")
    path = folder / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        shutil.chown(path, group=group)
        path.chmod(mode)
        listener.listen()
        said = asked(checkout, os.fspath(path), user=NOBODY)
    assert "may not use the Docker engine" in said
    assert mend in said


def test_a_user_who_may_not_even_look_at_the_socket_is_told_sudo(
    checkout: Path, folder: Path
) -> None:
    if os.geteuid() != 0:
        pytest.fail("only root can be somebody else: run this as root")
    folder.chmod(0o700)
    assert "with sudo" in asked(checkout, f"{folder}/docker.sock", user=NOBODY)


def test_an_engine_that_is_not_there_is_to_be_started_or_installed(
    checkout: Path, folder: Path
) -> None:
    said = asked(checkout, f"{folder}/none.sock")
    assert "no Docker engine listens" in said
    assert engine.installation(platform.freedesktop_os_release()) in said


def test_an_engine_that_is_down_is_to_be_started(checkout: Path, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{folder}/dead.sock")
    assert "is not running" in asked(checkout, f"{folder}/dead.sock")


def test_an_engine_that_answers_nonsense_is_one_sentence(checkout: Path) -> None:
    with answering({"version": [], "info": {}, "_ping": "OK"}, {}) as host:
        assert "does not answer" in asked(checkout, host.removeprefix("unix://"))
