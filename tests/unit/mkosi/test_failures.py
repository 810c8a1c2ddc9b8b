from __future__ import annotations

import errno
from pathlib import Path

import pytest

from scripts.mkosi import failures
from scripts.system.process import CommandError

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

# dpkg and QEMU 10.0, of a script that was killed by SIGSEGV.
CRASH = """\
Setting up hello (2.10-3) ...
Adding greetings
qemu: uncaught target signal 11 (Segmentation fault) - core dumped
dpkg: error processing package hello (--configure):
 installed hello package post-installation script subprocess was killed by signal \
(Segmentation fault), core dumped
Errors were encountered while processing:
 hello
E: Sub-process dpkg returned an error code (1)
"""

RPM_CRASH = """\
  Installing       : ca-certificates-2023.2.68-1.0.amzn2023.0.1.noarch    4/9
qemu: uncaught target signal 6 (Aborted) - core dumped
warning: %post(ca-certificates-2023.2.68-1.0.amzn2023.0.1.noarch) scriptlet failed, signal 6
Error in POSTIN scriptlet in rpm package ca-certificates
Error: Transaction failed
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
        (
            UNKNOWN_PACKAGE.replace("helo", "base-files"),
            "the archive has no packages for this architecture and release",
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


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (
            CRASH,
            "package hello, --configure: installed hello package post-installation script "
            "subprocess was killed by signal (Segmentation fault), core dumped: "
            "qemu: uncaught target signal 11 (Segmentation fault) - core dumped",
        ),
        (
            RPM_CRASH,
            "package ca-certificates-2023.2.68-1.0.amzn2023.0.1.noarch, its scriptlet %post ended "
            "with status 6: qemu: uncaught target signal 6 (Aborted) - core dumped",
        ),
    ],
)
def test_a_script_that_crashes_under_emulation_is_named_with_its_last_lines(
    output: str, cause: str
) -> None:
    error = CommandError(["mkosi", "build"], 1, STEPS + output + DUMP)
    failure = failures.explain("base", error, work=WORK, log=LOG)

    assert failure.message == f"building base failed: {cause}"
    assert failure.log == LOG
    before = output[: output.index("core dumped")].splitlines()
    assert all(line in failure.hint for line in before)


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


def test_memory_that_is_full_is_not_taken_for_the_disk() -> None:
    line = "cp: error writing '/dev/shm/finch-1/root/usr/bin/sh': No space left on device"

    assert explained(line) == "building base failed: /dev/shm, which is memory, is full"


def test_a_full_disk_under_the_harness_itself_is_told_alike() -> None:
    error = failures.explain_os_error("base", OSError(errno.ENOSPC, "full"), work=WORK)

    assert error.message == "building base failed: the disk that holds /checkout/.work is full"
    assert "free some space" in error.hint


REPOSITORY = "amazonlinux at http://mirror.example.org/al2023"
RPMS = "http://mirror.example.org/al2023/core/guids/5f6e/x86_64"

DNF_DUMP = '‣ "dnf --assumeyes makecache" returned non-zero exit code 1.\n'

# What dnf 4.23 of Debian trixie printed for each fault of a repository on loopback.
NO_MIRROR_LIST = f"""\
amazonlinux                                     0.0  B/s |   0  B     00:00
Errors during downloading metadata for repository 'amazonlinux':
  - Status code: 404 for {RPMS}/mirror.list (IP: 192.0.2.7)
Error: Failed to download metadata for repo 'amazonlinux': Cannot prepare internal mirrorlist: \
Status code: 404 for {RPMS}/mirror.list (IP: 192.0.2.7)
{DNF_DUMP}"""

NO_REPOMD = f"""\
Errors during downloading metadata for repository 'amazonlinux':
  - Status code: 503 for {RPMS}/repodata/repomd.xml (IP: 192.0.2.7)
Error: Failed to download metadata for repo 'amazonlinux': Cannot download repomd.xml: Cannot \
download repodata/repomd.xml: All mirrors were tried
{DNF_DUMP}"""

STALLED_REPOMD = f"""\
Errors during downloading metadata for repository 'amazonlinux':
  - Curl error (28): Timeout was reached for {RPMS}/repodata/repomd.xml [Operation too slow. Less \
than 1000 bytes/sec transferred the last 15 seconds]
Error: Failed to download metadata for repo 'amazonlinux': Cannot download repomd.xml: Cannot \
download repodata/repomd.xml: All mirrors were tried
{DNF_DUMP}"""

ALTERED_PRIMARY = f"""\
Errors during downloading metadata for repository 'amazonlinux':
  - Downloading successful, but checksum doesn't match. Calculated: 602e(sha256)  Expected: \
ec49(sha256)
Error: Failed to download metadata for repo 'amazonlinux': Yum repo downloading error: Downloading \
error(s): repodata/ec49-primary.xml.zst - Cannot download, all mirrors were already tried without \
success
{DNF_DUMP}"""


def rpm_failure(cause: str) -> str:
    return f"""\
Downloading Packages:
(1/2): filesystem-3.14-1.rpm                     41 MB/s | 104 kB     00:00
[MIRROR] bash-5.2-1.rpm: {cause}
[MIRROR] bash-5.2-1.rpm: {cause}
[FAILED] bash-5.2-1.rpm: No more mirrors to try - All mirrors were already tried without success
Error: Error downloading packages:
  bash-5.2-1.x86_64: Cannot download, all mirrors were already tried without success
{DNF_DUMP}"""


GONE_RPM = rpm_failure(f"Status code: 404 for {RPMS}/bash-5.2-1.rpm (IP: 192.0.2.7)")
BUSY_RPM = rpm_failure(f"Status code: 503 for {RPMS}/bash-5.2-1.rpm (IP: 192.0.2.7)")
BROKEN_RPM = rpm_failure(
    f"Curl error (18): Transferred a partial file for {RPMS}/bash-5.2-1.rpm "
    "[end of response with 106294 bytes missing]"
)
ALTERED_RPM = rpm_failure(
    "Downloading successful, but checksum doesn't match. Calculated: 587c(sha256)  "
    "Expected: 1064(sha256) "
)

WARNED = "warning: %post(selinux-policy-targeted-38.1-1.noarch) scriptlet failed, exit status 1\n"

UNSIGNED = """\
Package bash-5.2-1.rpm is not signed
Error: GPG check FAILED
"""

WRONG_KEY = """\
GPG key at file:///usr/share/distribution-gpg-keys/amazon-linux/RPM-GPG-KEY-amazon-linux-2023 \
(0xCA65BD9A) is already installed
The GPG keys listed for the "amazonlinux" repository are already installed but they are not \
correct for this package.
Check that the correct key URLs are configured for this repository.. Failing package is: \
bash-5.2-1.x86_64
 GPG Keys are configured as: file:///usr/share/distribution-gpg-keys/amazon-linux/RPM-GPG-KEY
Error: GPG check FAILED
"""

ALTERED_AFTER_SIGNING = """\
Problem opening package bash-5.2-1.rpm
Error: GPG check FAILED
"""


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (NO_MIRROR_LIST, f"could not fetch {RPMS}/mirror.list of the repository {REPOSITORY}: the "
         "server answers 404"),
        (NO_REPOMD, f"could not fetch {RPMS}/repodata/repomd.xml of the repository {REPOSITORY}: "
         "the server answers 503"),
        (STALLED_REPOMD, f"could not fetch {RPMS}/repodata/repomd.xml of the repository "
         f"{REPOSITORY}: Operation too slow. Less than 1000 bytes/sec transferred the last "
         "15 seconds"),
        (ALTERED_PRIMARY, f"could not fetch repodata/ec49-primary.xml.zst of the repository "
         f"{REPOSITORY}: its digest is not the one that the repository's metadata has"),
        (GONE_RPM, f"could not fetch {RPMS}/bash-5.2-1.rpm of the repository {REPOSITORY}: the "
         "server answers 404"),
        (BROKEN_RPM, f"could not fetch {RPMS}/bash-5.2-1.rpm of the repository {REPOSITORY}: end "
         "of response with 106294 bytes missing"),
        (ALTERED_RPM, f"could not fetch bash-5.2-1.rpm of the repository {REPOSITORY}: its digest "
         "is not the one that the repository's metadata has"),
        (UNSIGNED, f"bash-5.2-1.rpm of the repository {REPOSITORY} is not signed, and was not "
         "installed"),
        (WRONG_KEY, f"bash-5.2-1.x86_64 of the repository {REPOSITORY} is not signed with the key "
         "that is trusted, and was not installed"),
        (ALTERED_AFTER_SIGNING, f"bash-5.2-1.rpm of the repository {REPOSITORY} is not what was "
         "signed, and was not installed"),
        ("No match for argument: bsah\nError: Unable to find a match: bsah\n",
         "Unable to find a match: bsah"),
        ("Error: \n Problem: nothing provides libc.so.6 needed by bash-5.2-1.x86_64\n",
         "nothing provides libc.so.6 needed by bash-5.2-1.x86_64"),
        ("Error: \n Problem: conflicting requests\n  - nothing provides udev needed by x-1.x86\n",
         "conflicting requests: nothing provides udev needed by x-1.x86"),
        ("Error: \n Problem 1: conflicting requests\n  - nothing provides udev needed by x-1.x86\n"
         " Problem 2: package b-1.x86\n  - nothing provides zlib needed by b-1.x86\n",
         "conflicting requests: nothing provides udev needed by x-1.x86"),
        ("Error: \nThe operation would remove dnf\n", "The operation would remove dnf"),
        ("Error: Transaction test error:\n  file /usr/bin/x from install of a-1 conflicts with "
         "file from package b-1\n",
         "Transaction test error: file /usr/bin/x from install of a-1 conflicts with file from "
         "package b-1"),
        (f"{WARNED}Error: Unable to find a match: bsah\n", "Unable to find a match: bsah"),
    ],
)  # fmt: skip
def test_what_dnf_failed_at_is_one_sentence_with_the_repository_and_the_url(
    output: str, message: str
) -> None:
    error = CommandError(["mkosi"], 1, output)
    explained = failures.explain("base", error, work=WORK, log=LOG, repository=REPOSITORY)

    assert explained.message == f"building base failed: {message}"


def test_a_package_that_this_release_lacks_may_be_in_another() -> None:
    error = CommandError(["mkosi"], 1, "Error: Unable to find a match: kernel6.18\n")

    assert "--release" in failures.explain("base", error, work=WORK, log=LOG).hint


def test_a_scriptlet_that_rpm_only_warns_of_is_not_the_cause() -> None:
    output = f"{WARNED}‣ [base] No kernel found\n"

    assert explained(output) == "building base failed: No kernel found"


@pytest.mark.parametrize("output", [NO_REPOMD, BUSY_RPM, BROKEN_RPM])
def test_what_a_busy_server_did_to_dnf_may_be_over_soon(output: str) -> None:
    assert failures.is_transient(CommandError(["mkosi"], 1, output))


@pytest.mark.parametrize("output", [NO_MIRROR_LIST, GONE_RPM, ALTERED_RPM, UNSIGNED, WRONG_KEY])
def test_what_a_repository_lacks_or_altered_is_not_asked_for_again(output: str) -> None:
    assert not failures.is_transient(CommandError(["mkosi"], 1, output))
