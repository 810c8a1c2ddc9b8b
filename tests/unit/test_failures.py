from __future__ import annotations

import errno
from pathlib import Path

import pytest

from scripts import failures
from scripts.run import CommandError

WORK = Path("/checkout/.work")
LOG = Path("/checkout/out/build.log")

DUMP = """\
‣ "apt-get -o APT::Architecture=amd64 update" returned non-zero exit code 100.
‣ (sandbox command omitted, rerun with --debug to see the full sandbox command.)
"""

STEPS = """\
‣ Validating certificates and keys
‣ Syncing package manager metadata
‣ Building base image
‣ [base]  Installing Debian
"""

NOT_FOUND = """\
Ign:1 http://mirror.example.org/debian trixie InRelease
Err:3 http://mirror.example.org/debian trixie Release
  404  Not Found [IP: 192.0.2.7 80]
Get:5 http://security.example.org/debian-security trixie-security InRelease [43.4 kB]
Reading package lists...
E: The repository 'http://mirror.example.org/debian trixie Release' does not have a Release file.
"""

SERVER_ERROR = """\
Err:1 http://mirror.example.org/debian trixie InRelease
  500  Internal Server Error [IP: 192.0.2.7 80]
Reading package lists...
E: Failed to fetch http://mirror.example.org/debian/dists/trixie/InRelease  500  Internal \
Server Error [IP: 192.0.2.7 80]
E: The repository 'http://mirror.example.org/debian trixie InRelease' is not signed.
"""

REFUSED = """\
Ign:1 http://127.0.0.1:9/debian trixie InRelease
Err:1 http://127.0.0.1:9/debian trixie InRelease
  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
Err:2 http://127.0.0.1:9/debian trixie-updates InRelease
  Could not resolve '127.0.0.1'
E: Failed to fetch http://127.0.0.1:9/debian/dists/trixie/InRelease  Could not connect to \
127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
E: Some index files failed to download. They have been ignored, or old ones used instead.
"""

GONE_PACKAGE = """\
Err:7 http://mirror.example.org/debian trixie/main amd64 hello amd64 2.10-3
  404  Not Found [IP: 192.0.2.7 80]
E: Failed to fetch http://mirror.example.org/debian/pool/main/h/hello/hello_2.10-3_amd64.deb  \
404  Not Found [IP: 192.0.2.7 80]
E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?
"""

UNKNOWN_PACKAGE = """\
Reading package lists...
Building dependency tree...
E: Unable to locate package helo
"""

DPKG = """\
Setting up hello (2.10-3) ...
dpkg: error processing package hello (--configure):
 installed hello package post-installation script subprocess returned error exit status 1
Errors were encountered while processing:
 hello
E: Sub-process dpkg returned an error code (1)
"""

DISK_FULL = """\
Unpacking hello (2.10-3) ...
dpkg: error processing archive /var/cache/apt/archives/hello_2.10-3_amd64.deb (--unpack):
 cannot copy extracted data for './usr/bin/hello' to '/usr/bin/hello.dpkg-new': failed to write \
(No space left on device)
E: Sub-process dpkg returned an error code (1)
"""


def explained(output: str, status: int = 1) -> str:
    error = CommandError(["mkosi", "build"], status, output)
    return failures.explain("base", error, work=WORK, log=LOG).message


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (NOT_FOUND, "could not fetch http://mirror.example.org/debian (trixie): 404 Not Found"),
        (
            SERVER_ERROR,
            "could not fetch http://mirror.example.org/debian/dists/trixie/InRelease: "
            "500 Internal Server Error",
        ),
        (
            REFUSED,
            "could not fetch http://127.0.0.1:9/debian/dists/trixie/InRelease: Could not connect "
            "to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)",
        ),
        (
            GONE_PACKAGE,
            "could not fetch http://mirror.example.org/debian/pool/main/h/hello/"
            "hello_2.10-3_amd64.deb: 404 Not Found",
        ),
        (UNKNOWN_PACKAGE, "Unable to locate package helo"),
        (
            DPKG,
            "package hello, --configure: installed hello package post-installation script "
            "subprocess returned error exit status 1",
        ),
        (DISK_FULL, "the disk that holds /checkout/.work is full"),
    ],
)
def test_the_cause_is_told_in_one_sentence(output: str, cause: str) -> None:
    assert explained(STEPS + output + DUMP) == f"building base failed: {cause}"


def test_mkosis_own_error_is_the_cause() -> None:
    output = STEPS + "‣ [base] Package manager dnf not found\n‣ [base] (Cleaning up)\n"

    assert explained(output) == "building base failed: Package manager dnf not found"


@pytest.mark.parametrize("output", ["", "Killed\n", "‣ [base]  Installing Debian\n" + DUMP])
def test_an_unknown_cause_is_not_made_up(output: str) -> None:
    assert explained(output, 3) == "building base failed: mkosi ended with status 3"


def test_the_log_is_named() -> None:
    error = failures.explain("base", CommandError(["mkosi"], 1, ""), work=WORK, log=LOG)

    assert error.log == LOG


def test_a_failing_server_is_asked_again() -> None:
    assert failures.is_transient(CommandError(["mkosi"], 1, SERVER_ERROR))


@pytest.mark.parametrize("output", [NOT_FOUND, REFUSED, GONE_PACKAGE, DPKG, DISK_FULL, ""])
def test_what_another_attempt_does_not_mend_is_not_tried_again(output: str) -> None:
    assert not failures.is_transient(CommandError(["mkosi"], 1, output))


def test_a_full_disk_under_the_harness_itself_is_told_alike() -> None:
    error = failures.explain_os_error("base", OSError(errno.ENOSPC, "full"), work=WORK)

    assert error.message == "building base failed: the disk that holds /checkout/.work is full"
    assert "free some space" in error.hint
