"""Repositories of container images: their tags, and how a tag is written and removed.

skopeo does the work. It copies an OCI layout unchanged, so the digest stays the same. It repeats
broken transfers, sends no layer twice, and knows the authentication of every registry. Amazon's
ECR alone can remove a tag and leave the image, so that is asked of its own API.
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
from scripts.formats import oci_layout
from scripts.publish import s3
from scripts.system import strict
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import Arg, CommandError, run
from scripts.system.url import shown

# A repository of Amazon's Elastic Container Registry.
ECR = re.compile(
    r"(?P<account>[0-9]{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?(?=/)"
)

# Variables that skopeo needs, and the helpers that it asks for a login.
CREDENTIALS = r"REGISTRY_AUTH_FILE|DOCKER_CONFIG|AWS_\w+"

# HOST/NAME. As in Docker, the first component is a host only if it cannot be a name, and NAME has
# neither a tag nor a digest. User info there would be on skopeo's command line.
REPOSITORY = re.compile(
    r"([^/@\s]*[.:][^/@\s]*|localhost)(/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)+/?"
)

# As in Docker, the protocol for a registry on this machine is plain HTTP.
LOOPBACK = re.compile(r"(localhost|127(\.[0-9]+){3}|\[::1\])(:[0-9]+)?")

# skopeo's messages about a tag or repository that does not exist: its words for the error codes of
# OCI's distribution specification, and what registries without such codes say. A program or a page
# that is "not found" says nothing about the registry.
ABSENT = re.compile(
    r"manifest[ _]unknown|name[ _]unknown|"
    r"\brepository (with name )?(\S+ )?(not found|does not exist|name not known)",
    re.IGNORECASE,
)

# What registries say if a tag cannot be moved to another image: the error code of ECR, and the
# words of ECR and of Harbor.
IMMUTABLE = re.compile(r"TAG_INVALID|ImageTagAlreadyExists|immutable", re.IGNORECASE)

MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')


def checked_repository(text: str) -> str:
    """Return text, HOST/NAME, without a final slash. Raises UsageError if it is another thing."""
    option = catalog.flag("repository")
    if not REPOSITORY.fullmatch(text):
        raise UsageError(
            f"{option} {shown(text)} does not name a registry" if text else f"{option} is missing",
            hint="write HOST/NAME, such as 123456789012.dkr.ecr.us-west-2.amazonaws.com/finch",
        )
    return text.rstrip("/")


class ImmutableError(HarnessError):
    """The registry does not let a tag move to another image."""


@dataclass(frozen=True)
class Registry:
    """A repository in a registry.

    skopeo is the command that starts skopeo. authentication is a file in the format of `docker
    login`; None means the user's own. ecr is boto3's client if the registry is Amazon's ECR. Every
    method raises HarnessError, or UsageError if the request was wrong.
    """

    skopeo: Sequence[Arg]
    repository: str
    authentication: Path | None = None
    ecr: Any = None

    @property
    def host(self) -> str:
        """The registry's host and port."""
        return self.repository.partition("/")[0]

    @property
    def name(self) -> str:
        """The name of the repository in its registry."""
        return self.repository.partition("/")[2]

    def tags(self) -> list[str]:
        """Return all tags, sorted; none if the repository is empty or does not exist."""
        try:
            told = self._skopeo("list-tags", self._plain(""), f"docker://{self.repository}")
        except CommandError as error:
            if ABSENT.search(error.output):
                return []
            raise self._explain(error) from error
        try:
            return sorted(str(tag) for tag in strict.loads(told)["Tags"] or [])
        except strict.ODDITIES as error:
            raise HarnessError(f"{self.repository} lists no tags: {error!r}") from error

    def images(self) -> dict[str, str]:
        """Return the digest of the image that each tag refers to."""
        if self.ecr:
            return self._images_in_ecr()
        return {tag: digest for tag in self.tags() if (digest := self.digest(tag))}

    def _images_in_ecr(self) -> dict[str, str]:
        """Return what `images` does, with one request for a hundred tags."""
        account = self.host.partition(".")[0]
        with s3.explained(f"the repository {self.repository}"):
            pages = self.ecr.get_paginator("list_images").paginate(
                registryId=account,
                repositoryName=self.name,
                filter={"tagStatus": "TAGGED"},
            )
            return {one["imageTag"]: one["imageDigest"] for page in pages
                    for one in page["imageIds"]}  # fmt: skip

    def digest(self, tag: str) -> str:
        """Return the digest of the image called tag, or "" if there is none."""
        # Not the digest that skopeo tells, which it has none of for an index without an image for
        # this machine, such as a layer cache.
        command = ["inspect", "--raw", self._plain(""), self._reference(tag)]
        try:
            return f"sha256:{text_digest(self._skopeo(*command))}"
        except CommandError as error:
            if ABSENT.search(error.output):
                return ""
            raise self._explain(error) from error

    def copy(self, layout: Path, name: str, tag: str) -> None:
        """Push the image called name in an OCI layout, and call it tag.

        Raises ImmutableError if tag is another image's and the registry does not let it move.
        """
        # Relative, because skopeo takes what follows a colon in a path for the image's name.
        self._copy(f"oci:{layout.name}:{name}", tag, cwd=layout.parent)

    def name_image(self, digest: str, tag: str) -> None:
        """Give the image with digest, which is there already, another tag.

        Raises ImmutableError if tag is another image's and the registry does not let it move.
        """
        self._copy(f"docker://{self.repository}@{digest}", tag, self._plain("src-"))

    def _copy(self, source: str, tag: str, *options: str, cwd: Path | None = None) -> None:
        """Copy the image at source, in skopeo's words, into the repository, and call it tag."""
        try:
            self._skopeo(
                "copy", "--preserve-digests", "--retry-times", "3",
                *options, self._plain("dest-"), source, self._reference(tag), cwd=cwd,
            )  # fmt: skip
        except CommandError as error:
            raise self._explain(error) from error

    def delete(self, tag: str) -> None:
        """Remove tag, if it is there; the image stays while it has other tags."""
        if self.ecr:
            self._delete_from_ecr(tag)
        elif digest := self.digest(tag):
            others = (other for other in self.tags() if other != tag)
            if not any(self.digest(other) == digest for other in others):
                self._delete_image(tag)
                return
            self._move_away(tag)
            try:
                self._delete_image(tag)
            except HarnessError:
                self.name_image(digest, tag)
                raise

    def _delete_from_ecr(self, tag: str) -> None:
        account = self.host.partition(".")[0]
        with s3.explained(f"the repository {self.repository}"):
            answer = self.ecr.batch_delete_image(
                registryId=account, repositoryName=self.name, imageIds=[{"imageTag": tag}]
            )
        for failure in answer.get("failures", []):
            if failure.get("failureCode") != "ImageNotFound":
                reason = failure.get("failureReason") or failure.get("failureCode")
                raise HarnessError(f"{self.repository}:{tag} cannot be deleted: {reason}")

    def _move_away(self, tag: str) -> None:
        """Move tag to an image that nobody else has, so that deleting its image deletes only tag.

        Registries delete an image with all its tags, and few can delete one tag.
        """
        with tempfile.TemporaryDirectory() as folder:
            oci_layout.write_placeholder(Path(folder, "placeholder"))
            self.copy(Path(folder, "placeholder"), "placeholder", tag)

    def _delete_image(self, tag: str) -> None:
        """Delete the image that tag refers to, with all its tags."""
        try:
            self._skopeo("delete", self._plain(""), self._reference(tag))
        except CommandError as error:
            if ABSENT.search(error.output):
                return
            raise self._explain(error) from error

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
        if IMMUTABLE.search(text):
            return ImmutableError(
                f"{self.repository} does not let its tags move: {text}",
                hint="if the registry can do that, exclude the tags latest-* from its rule",
            )
        if re.search(r"unauthorized|denied|authentication required", text, re.IGNORECASE):
            return UsageError(
                f"{self.host} denies access: {text}", hint=f"docker login {self.host}"
            )
        return HarnessError(f"{self.repository} cannot be used: {text}", hint=s3.AGAIN)


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
        yield Registry(skopeo, repository, path, client)
