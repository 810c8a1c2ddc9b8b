"""Takes a release as finch-core and Finch do: with a shell, curl, openssl and cosign.

It imports nothing of the harness and nothing that the harness uses. What it knows are facts about
the other side: names, places and forms that finch-core's and Finch's own programs read.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The names that finch-core's updaters look for among all objects of the bucket.
OS_IMAGES = {
    "AARCH64": r"finch-al2023-os-image-arm64-[0-9]+\.qcow2$",
    "X86_64": r"finch-al2023-os-image-x86-64-[0-9]+\.qcow2$",
}
ROOTFS = {"X86_64": r"common/(x86-64|aarch64)/finch-al2023-rootfs-[a-z0-9-]+-[0-9]+\.tar\.gz$"}

# Finch reads the number of the run from the name of an image.
RUN = re.compile(r"-([0-9]+)\.(qcow2|tar\.gz)$")

MEDIA = "application/vnd.oci.image.manifest.v1+json"

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Consumer:
    """Where a release is, and what it is checked with.

    bucket is the URL of the bucket's listing, base_url the one of its files, and registry the URL
    of the repository's API. cosign is the command, key the public key, folder one for downloads.
    """

    bucket: str
    base_url: str
    registry: str
    cosign: list[str]
    key: Path
    folder: Path

    def shell(self, script: str, **variables: str) -> str:
        """Run script in bash as finch-core's own scripts run, and return what it prints."""
        told = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode == 0, f"{script}: {told.stderr}"
        return told.stdout.strip()

    def curl(self, url: str, *options: str) -> str:
        """Return what url has, with the redirects and the failures of finch-core's curl."""
        return self.shell(f"curl -sSL --fail {shlex.join([*options, url])}")

    def keys(self) -> list[str]:
        """Return the keys of all objects in the bucket."""
        found: list[str] = []
        more = ""
        while True:
            page = ET.fromstring(self.curl(f"{self.bucket}?list-type=2{more}"))
            space = page.tag.partition("}")[0] + "}"
            found += [str(key.text) for key in page.iter(f"{space}Key")]
            token = page.findtext(f"{space}NextContinuationToken")
            if not token:
                return found
            more = f"&continuation-token={token}"

    def newest(self, pattern: str) -> str:
        """Return the last of the keys that pattern finds, sorted as text."""
        keys = "\n".join(self.keys())
        return self.shell('grep -E "$pattern" <<<"$keys" | sort | tail -n 1', keys=keys,
                          pattern=pattern)  # fmt: skip

    def pulled(self, key: str) -> str:
        """Download the object called key, compare it with its checksum, and return that."""
        self.shell(
            'sum=$(curl -sSL --fail "$url.sha512sum"); curl -sSL --fail "$url" >pulled;'
            'sha512sum pulled | cut -d " " -f 1 | grep -xq "^${sum}$"',
            url=f"{self.base_url}/{key}",
        )
        checksum = self.curl(f"{self.base_url}/{key}.sha512sum")
        assert re.fullmatch(r"[0-9a-f]{128}", checksum), checksum
        return checksum

    def json(self, name: str) -> Any:
        """Return what the JSON object called name holds."""
        return json.loads(self.curl(f"{self.base_url}/{name}"))

    def has(self, key: str) -> bool:
        """Whether there is an object called key."""
        return key in self.keys()

    def sourced(self, conf: Path, *names: str) -> list[str]:
        """Return the values of names that a shell has after reading conf."""
        shown = " ".join(f'"${{{name}:-}}"' for name in names)
        script = f'source "$conf"; printf "%s\\n" {shown}'
        return self.shell(script, conf=str(conf)).split("\n")

    def verify(self, name: str) -> None:
        """Verify the signature of the object called name twice: with cosign, and with openssl."""
        for part in (name, f"{name}.bundle"):
            self.curl(f"{self.base_url}/{part}", "--output", Path(part).name)
        assert self.is_signed(name), f"cosign does not accept the signature of {name}"
        bundle = json.loads((self.folder / f"{name}.bundle").read_text())
        signature = (
            bundle["messageSignature"]["signature"]
            if "messageSignature" in bundle
            else bundle["base64Signature"]
        )
        (self.folder / "signature").write_bytes(base64.b64decode(signature))
        self.shell('openssl dgst -sha256 -verify "$key" -signature signature "$name"',
                   key=str(self.key), name=name)  # fmt: skip

    def is_signed(self, name: str) -> bool:
        """Whether cosign accepts the signature of the downloaded file called name."""
        command: list[str | Path] = [
            *self.cosign, "verify-blob", "--key", self.key, "--insecure-ignore-tlog",
            "--bundle", f"{name}.bundle", name,
        ]  # fmt: skip
        told = subprocess.run(command, cwd=self.folder, capture_output=True, check=False)
        return told.returncode == 0

    def tags(self) -> dict[str, str]:
        """Return the digest of each tag in the registry."""
        listed = json.loads(self.curl(f"{self.registry}/tags/list"))["tags"] or []
        return {tag: self.digest(tag) for tag in listed}

    def digest(self, tag: str) -> str:
        """Return the digest of the image called tag."""
        url = f"{self.registry}/manifests/{tag}"
        headers = self.curl(url, "--head", "--header", f"Accept: {MEDIA}")
        [found] = re.findall(r"(?im)^docker-content-digest:\s*(\S+)\s*$", headers)
        return str(found)

    def push_variant(self, tag: str, new: str) -> None:
        """Push an image called new that differs from the one called tag in an annotation only."""
        url = f"{self.registry}/manifests"
        manifest = json.loads(self.curl(f"{url}/{tag}", "--header", f"Accept: {MEDIA}"))
        manifest["annotations"] = {"variant": new}
        (self.folder / "variant").write_text(json.dumps(manifest))
        self.curl(f"{url}/{new}", "--request", "PUT", "--header", f"Content-Type: {MEDIA}",
                  "--data-binary", "@variant")  # fmt: skip


def expected_confs(consumer: Consumer, run: str, out: Path) -> dict[str, str]:
    """Return the golden pair for the builds in out, whose sums sha512sum computes."""

    def filled(match: re.Match[str]) -> str:
        return consumer.shell('sha512sum "$path" | cut -d " " -f 1', path=str(out / match[1]))

    return {
        path.name: re.sub(r"@SHA512:(.+)@", filled, path.read_text())
        .replace("@BASE_URL@", consumer.base_url)
        .replace("@RUN@", run)
        for path in sorted(GOLDEN.glob("*.conf"))
    }


def check_files(consumer: Consumer, run: str) -> None:
    """Check that updaters find the files of run, and that each is the one that its sum says."""
    for pattern in (*OS_IMAGES.values(), *ROOTFS.values()):
        key = consumer.newest(pattern)
        match = RUN.search(key)
        assert match, key
        assert match[1] == run, key
        consumer.pulled(key)
    # finch-core's own workflow pushes these to a registry.
    for arch in ("arm64", "x86-64"):
        assert consumer.has(f"finch-al2023-container-with-kernel-{arch}-{run}.tar")


def check_confs(consumer: Consumer, deps: Path, golden: dict[str, str]) -> None:
    """Check that the two files are the golden pair, and lead a shell to what they name."""
    assert {path.name: path.read_text() for path in deps.glob("*.conf")} == golden
    number = r"grep AARCH64_ARTIFACT= full-os.conf | grep -oP '\d+(?=\.qcow2)'"
    run = consumer.shell(f'cd "$deps"; {number}', deps=str(deps))
    assert f"-{run}.tar.gz" in (deps / "rootfs.conf").read_text()
    for conf, arch in (("full-os", "AARCH64"), ("full-os", "X86_64"), ("rootfs", "X86_64")):
        names = ("ARTIFACT_BASE_URL", f"{arch}_ARTIFACT_PATHING", f"{arch}_ARTIFACT",
                 f"{arch}_512_DIGEST")  # fmt: skip
        base, folder, name, digest = consumer.sourced(deps / f"{conf}.conf", *names)
        assert base == consumer.base_url
        assert consumer.pulled("/".join(filter(None, (folder, name)))) == digest


def check_manifest(consumer: Consumer, deps: Path) -> None:
    """Check that manifest.json is signed, and names what the two files name, and no more."""
    consumer.verify("manifest.json")
    manifest = consumer.json("manifest.json")
    found = {
        (one["platform"], one["arch"]): (one["url"], one["digest"]) for one in manifest["artifacts"]
    }
    base, arm, arm_sum, amd, amd_sum = consumer.sourced(
        deps / "full-os.conf", "ARTIFACT_BASE_URL", "AARCH64_ARTIFACT", "AARCH64_512_DIGEST",
        "X86_64_ARTIFACT", "X86_64_512_DIGEST",
    )  # fmt: skip
    folder, rootfs, rootfs_sum = consumer.sourced(
        deps / "rootfs.conf", "X86_64_ARTIFACT_PATHING", "X86_64_ARTIFACT", "X86_64_512_DIGEST"
    )
    assert found == {
        ("darwin", "arm64"): (f"{base}/{arm}", f"sha512:{arm_sum}"),
        ("darwin", "amd64"): (f"{base}/{amd}", f"sha512:{amd_sum}"),
        ("windows", "amd64"): (f"{base}/{folder}/{rootfs}", f"sha512:{rootfs_sum}"),
    }
    now = consumer.shell("date -u +%Y-%m-%dT%H:%M:%SZ")
    # 183 days, where six months may have only 181.
    limit = consumer.shell("date -u -d '+6 months 3 days' +%Y-%m-%dT%H:%M:%SZ")
    assert manifest["published_at"] <= now < manifest["expires_at"] < limit


def check_forgery(consumer: Consumer) -> None:
    """Check that a signature is of the manifest as it is, and of nothing else."""
    consumer.verify("manifest.json")
    path = consumer.folder / "manifest.json"
    path.write_text(path.read_text().replace("darwin", "Darwin"))
    assert not consumer.is_signed("manifest.json")


def image_tags(consumer: Consumer, run: str) -> dict[str, str]:
    """Return the tag of each architecture's image that run has pushed, by mkosi's name of it."""
    form = re.compile(
        rf"[0-9]{{4}}\.[1-9][0-9]?\.[1-9][0-9]?-build-{run}-(arm64|x86-64)-with-kernel"
    )
    matches = [match for tag in consumer.tags() if (match := form.fullmatch(tag))]
    found = {match[1]: match[0] for match in matches}
    assert {*found} == {"arm64", "x86-64"}, consumer.tags()
    return found
