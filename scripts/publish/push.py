"""Pushes container images to a registry.

skopeo does it: it copies an OCI layout as it is, so that the digest is the layout's own, tries
again where a transfer breaks, sends no layer twice, and knows every registry's authentication. The
tag comes last, so nothing is half-published.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from scripts.publish import s3
from scripts.publish.release import CONTAINER, Image
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import Arg, CommandError, run

# A repository of Amazon's Elastic Container Registry.
ECR = re.compile(r"[0-9]{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?")

# HOST/NAME: Docker too takes the first component for a host only where it cannot be a name.
REPOSITORY = re.compile(r"([^/]*[.:][^/]*|localhost)/.")

# Docker too speaks plain HTTP with a registry on this machine.
LOOPBACK = re.compile(r"(localhost|127(\.[0-9]+){3}|\[::1\])(:[0-9]+)?")

# What skopeo says of a tag, or of a whole repository, that is not there: the error codes of OCI's
# distribution specification as it words them, and the sentences of registries that send none. A
# program or a page that is "not found" says nothing about the registry.
ABSENT = re.compile(
    r"manifest[ _]unknown|name[ _]unknown|"
    r"\brepository (with name )?(\S+ )?(not found|does not exist)",
    re.IGNORECASE,
)

MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Registry:
    """A repository of a registry; skopeo is the command that starts it.

    authentication is a file as `docker login` writes it, None for the user's own.
    """

    skopeo: Sequence[Arg]
    repository: str
    authentication: Path | None = None

    @property
    def host(self) -> str:
        """The registry's host, with its port."""
        return self.repository.partition("/")[0]

    def digest(self, tag: str) -> str:
        """The digest of what tag names, "" where there is nothing. Raises HarnessError."""
        command = ["inspect", "--format", "{{.Digest}}", self._plain(""), self._reference(tag)]
        try:
            return self._skopeo(*command).strip()
        except CommandError as error:
            if ABSENT.search(error.output):
                return ""
            raise self._explain(error) from error

    def check(self, image: Image) -> bool:
        """Whether image is there already. Raises HarnessError where its tag names another one."""
        there = self.digest(image.tag)
        if there and there != image.digest:
            raise HarnessError(
                f"{self.repository}:{image.tag} is there already, and another image: {there}",
                hint="what is published is never replaced; publish under another --run-id",
            )
        return bool(there)

    def push(self, image: Image) -> None:
        """Push image, unless it is there already. Raises HarnessError."""
        source = f"oci:{image.layout}:{CONTAINER}"
        try:
            self._skopeo(
                "copy", "--preserve-digests", "--retry-times", "3",
                self._plain("dest-"), source, self._reference(image.tag),
            )  # fmt: skip
        except CommandError as error:
            raise self._explain(error) from error
        there = self.digest(image.tag)
        if there != image.digest:
            raise HarnessError(
                f"{self.repository}:{image.tag} came out as {there}, not as {image.digest}"
            )

    def _reference(self, tag: str) -> str:
        return f"docker://{self.repository}:{tag}"

    def _plain(self, side: str) -> str:
        is_local = LOOPBACK.fullmatch(self.host) is not None
        return f"--{side}tls-verify={'false' if is_local else 'true'}"

    def _skopeo(self, command: str, *args: str) -> str:
        known: list[Arg] = ["--authfile", self.authentication] if self.authentication else []
        # Which images this machine may take from where is no question for those that it has made.
        return run([*self.skopeo, "--insecure-policy", command, *known, *args]).stdout

    def _explain(self, error: CommandError) -> HarnessError:
        said = MESSAGE.findall(error.output)
        text = said[-1].replace('\\"', '"') if said else error.output.strip()
        if ABSENT.search(text):
            return UsageError(
                f"there is no repository {self.repository}: {text}",
                hint="make it first; names of repositories are not made up here",
            )
        if re.search(r"unauthorized|denied|authentication required", text, re.IGNORECASE):
            return UsageError(
                f"{self.host} does not let us in: {text}", hint=f"docker login {self.host}"
            )
        return HarnessError(
            f"{self.repository} cannot be used: {text}",
            hint="run the same command again; what has arrived is not sent again",
        )


@contextlib.contextmanager
def opened(skopeo: Sequence[Arg], repository: str) -> Iterator[Registry]:
    """The registry of repository, with a password of ECR's where it is one of ECR's.

    The password is in a file that nobody else may read, and gone after the with block.
    """
    match = ECR.match(repository)
    if not match:
        yield Registry(skopeo, repository)
        return
    with s3.explained("ECR"):
        client: Any = boto3.Session().client("ecr", region_name=match["region"])
        [data] = client.get_authorization_token()["authorizationData"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "auth.json")
        path.touch(mode=0o600)
        auth = {"auth": data["authorizationToken"]}  # user and password, as the file has them
        path.write_text(json.dumps({"auths": {match[0]: auth}}))
        yield Registry(skopeo, repository, path)
