"""Pushes container images to a registry.

skopeo does the work. It copies an OCI layout unchanged, so the digest stays the same. It repeats
broken transfers, sends no layer twice, and knows the authentication of every registry. The tag
comes last, so an image is never published in part.
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

from scripts import catalog
from scripts.publish import s3
from scripts.publish.release import Image
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import Arg, CommandError, run

# A repository of Amazon's Elastic Container Registry.
ECR = re.compile(r"[0-9]{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?(?=/)")

# Variables that skopeo needs, and the helpers that it asks for a login.
CREDENTIALS = r"REGISTRY_AUTH_FILE|DOCKER_CONFIG|AWS_\w+"

# HOST/NAME. As in Docker, the first component is a host only if it cannot be a name.
# User info there would be on skopeo's command line.
REPOSITORY = re.compile(r"([^/@]*[.:][^/@]*|localhost)/[^@\s]+")

# As in Docker, the protocol for a registry on this machine is plain HTTP.
LOOPBACK = re.compile(r"(localhost|127(\.[0-9]+){3}|\[::1\])(:[0-9]+)?")

# skopeo's messages about a tag or repository that does not exist: its words for the error codes of
# OCI's distribution specification, and what registries without such codes say. A program or a page
# that is "not found" says nothing about the registry.
ABSENT = re.compile(
    r"manifest[ _]unknown|name[ _]unknown|"
    r"\brepository (with name )?(\S+ )?(not found|does not exist)",
    re.IGNORECASE,
)

MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Registry:
    """A repository in a registry.

    skopeo is the command that starts skopeo. authentication is a file in the format of `docker
    login`; None means the user's own.
    """

    skopeo: Sequence[Arg]
    repository: str
    authentication: Path | None = None

    @property
    def host(self) -> str:
        """The registry's host and port."""
        return self.repository.partition("/")[0]

    def digest(self, tag: str) -> str:
        """Return the digest of the image called tag ("" if there is none). Raises HarnessError."""
        command = ["inspect", "--format", "{{.Digest}}", self._plain(""), self._reference(tag)]
        try:
            return self._skopeo(*command).strip()
        except CommandError as error:
            if ABSENT.search(error.output):
                return ""
            raise self._explain(error) from error

    def check(self, image: Image) -> bool:
        """Whether image is there already. Raises HarnessError if its tag is another image's."""
        there = self.digest(image.tag)
        if there and there != image.digest:
            raise HarnessError(
                f"{self.repository}:{image.tag} is already there, but it is another image: {there}",
                hint=s3.OTHER_RUN,
            )
        return bool(there)

    def push(self, image: Image) -> None:
        """Push image, unless it is there already. Raises HarnessError."""
        # Relative, because skopeo takes what follows a colon in a path for the image's name.
        source = f"oci:{image.layout.name}:{catalog.CONTAINER}"
        try:
            self._skopeo(
                "copy", "--preserve-digests", "--retry-times", "3",
                self._plain("dest-"), source, self._reference(image.tag),
                cwd=image.layout.parent,
            )  # fmt: skip
        except CommandError as error:
            raise self._explain(error) from error
        self.confirm(image)

    def confirm(self, image: Image) -> None:
        """Raise HarnessError unless the tag of image now refers to image."""
        there = self.digest(image.tag)
        if there != image.digest:
            raise HarnessError(
                f"{self.repository}:{image.tag} is {there or 'not there'} instead of "
                f"{image.digest}",
                hint="somebody else may have moved the tag; make tags immutable in the registry",
            )

    def _reference(self, tag: str) -> str:
        return f"docker://{self.repository}:{tag}"

    def _plain(self, side: str) -> str:
        is_local = LOOPBACK.fullmatch(self.host) is not None
        return f"--{side}tls-verify={'false' if is_local else 'true'}"

    def _skopeo(self, command: str, *args: str, cwd: Path | None = None) -> str:
        known: list[Arg] = ["--authfile", self.authentication] if self.authentication else []
        # The policy says which images this machine may run. It does not matter for pushing ours.
        command_line = [*self.skopeo, "--insecure-policy", command, *known, *args]
        return run(command_line, cwd=cwd, also=CREDENTIALS).stdout

    def _explain(self, error: CommandError) -> HarnessError:
        said = MESSAGE.findall(error.output)
        text = said[-1].replace('\\"', '"') if said else error.output.strip() or str(error)
        if ABSENT.search(text):
            return UsageError(
                f"there is no repository {self.repository}: {text}",
                hint=f"create it first, or name another one with {catalog.option('repository')}",
            )
        if re.search(r"unauthorized|denied|authentication required", text, re.IGNORECASE):
            return UsageError(
                f"{self.host} denies access: {text}", hint=f"docker login {self.host}"
            )
        return HarnessError(
            f"{self.repository} cannot be used: {text}",
            hint=s3.AGAIN,
        )


@contextlib.contextmanager
def opened(skopeo: Sequence[Arg], repository: str) -> Iterator[Registry]:
    """Open repository, with a password from ECR if it is one of ECR's.

    The password is in a file that only this user can read, and that is removed in the end.
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
        auth = {"auth": data["authorizationToken"]}  # user and password, in the file's format
        path.write_text(json.dumps({"auths": {match[0]: auth}}))
        yield Registry(skopeo, repository, path)
