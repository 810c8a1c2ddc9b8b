"""Uploads files to S3, so that what stands under a name is whole and stays as it is.

A large file goes up in parts, and S3 shows it when all have arrived. What was interrupted goes on
where it broke, if this checkout began it; else it is given up and removed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from scripts.publish.release import Upload
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.files import write_text
from scripts.system.progress import Task

# A file larger than this goes up in parts of this size, in bytes. S3 takes parts of 5 MiB and more,
# and 10000 of them.
PART = 64 << 20

# The object's metadata that holds its sha512.
SHA512 = "sha512"

# S3's answers, by code, of HeadObject and HeadBucket, whose answers have no body to say more.
MISSING = ("404", "NoSuchKey", "NotFound")

# S3's answers to who publishes what stands there by now: somebody else has published it meanwhile,
# or the answer to our own upload was lost and botocore has sent it again.
TAKEN = ("PreconditionFailed", "412", "NoSuchUpload")

# S3 answers 403 for an object that is not there, too, to who may not list the bucket.
PERMISSIONS = (
    "what it takes: s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, "
    "s3:AbortMultipartUpload, s3:ListMultipartUploadParts; for ECR what `docker push` takes"
)

AGAIN = "run the same command again; what has arrived is not sent again"


@dataclass(frozen=True)
class Bucket:
    """A bucket; client is boto3's, work where it is remembered what is on its way.

    Every method raises HarnessError, or UsageError where what was asked for is wrong.
    """

    name: str
    client: Any
    work: Path
    part: int = PART

    @classmethod
    def open(cls, name: str, work: Path) -> Bucket:
        """The bucket called name, if it is there and may be used.

        Address and credentials are found as the AWS CLI finds them.
        """
        with explained(f"the bucket {name}"):
            client = boto3.Session().client(
                "s3",
                config=Config(
                    retries={"mode": "standard", "max_attempts": 4},
                    connect_timeout=10,
                    read_timeout=60,
                ),
            )
            client.head_bucket(Bucket=name)
        return cls(name, client, work)

    def check(self, upload: Upload) -> bool:
        """Whether upload is there already. Raises HarnessError where its key has bytes to keep."""
        with explained(f"the bucket {self.name}"):
            try:
                there = self.client.head_object(Bucket=self.name, Key=upload.key)
            except aws.ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return False
                raise
        found = (there["Metadata"].get(SHA512), there["ContentLength"])
        is_same = found == (upload.sha512, upload.size)
        if not is_same and not upload.replaces:
            raise _other(self.name, upload.key)
        return is_same

    def read(self, key: str) -> bytes | None:
        """The small object called key, None where there is none."""
        with explained(f"the bucket {self.name}"):
            try:
                body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
            except aws.ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return None
                raise
        return body

    def upload(self, upload: Upload, task: Task) -> None:
        """Upload a file that is not there yet, or leave it be if it has come there meanwhile."""
        task.step(f"uploading {upload.key}")
        with explained(f"the bucket {self.name}"):
            try:
                if upload.size > self.part:
                    self._upload_parts(upload, task)
                else:
                    self._upload_whole(upload)
            except aws.ClientError as error:
                if error.response["Error"]["Code"] not in TAKEN:
                    raise
                self._give_up(upload)
                if not self.check(upload):
                    raise

    def _upload_whole(self, upload: Upload) -> None:
        with upload.source.open("rb") as file:
            self.client.put_object(
                Bucket=self.name,
                Key=upload.key,
                Body=file,
                Metadata={SHA512: upload.sha512},
                **_guard(upload),
            )

    def _upload_parts(self, upload: Upload, task: Task) -> None:
        note = self._note(upload)
        where = {"Bucket": self.name, "Key": upload.key, "UploadId": self._begin(upload, note)}
        arrived = {part["PartNumber"]: part for part in self._parts(where)}
        parts = []
        with upload.source.open("rb") as file:
            for number, start in enumerate(range(0, upload.size, self.part), 1):
                if number not in arrived:
                    file.seek(start)
                    data = file.read(self.part)
                    sent = self.client.upload_part(**where, PartNumber=number, Body=data)
                    arrived[number] = sent
                parts.append({"PartNumber": number, "ETag": arrived[number]["ETag"]})
                percent = min(100, 100 * number * self.part // upload.size)
                task.step(f"uploading {upload.key}: {percent} %")
        self.client.complete_multipart_upload(
            **where, MultipartUpload={"Parts": parts}, **_guard(upload)
        )
        note.unlink(missing_ok=True)

    def _begin(self, upload: Upload, note: Path) -> str:
        """The ID of an upload of exactly this file that was interrupted, else of a new one."""
        listed = self.client.list_multipart_uploads(Bucket=self.name, Prefix=upload.key)
        open_ = {one["UploadId"] for one in listed.get("Uploads", []) if one["Key"] == upload.key}
        ours = json.loads(note.read_text())["id"] if note.exists() else ""
        for other in open_ - {ours}:
            self.client.abort_multipart_upload(Bucket=self.name, Key=upload.key, UploadId=other)
        if ours in open_:
            return str(ours)
        begun = self.client.create_multipart_upload(
            Bucket=self.name, Key=upload.key, Metadata={SHA512: upload.sha512}
        )
        write_text(note, json.dumps({"id": begun["UploadId"], "key": upload.key}))
        return str(begun["UploadId"])

    def _give_up(self, upload: Upload) -> None:
        """Remove what has arrived of an upload in parts, if there is one, and its note."""
        note = self._note(upload)
        if not note.exists():
            return
        begun = json.loads(note.read_text())["id"]
        with contextlib.suppress(self.client.exceptions.NoSuchUpload):  # finished, or gone
            self.client.abort_multipart_upload(Bucket=self.name, Key=upload.key, UploadId=begun)
        note.unlink()

    def _parts(self, where: dict[str, str]) -> Iterator[dict[str, Any]]:
        for page in self.client.get_paginator("list_parts").paginate(**where):
            yield from page.get("Parts", [])

    def _note(self, upload: Upload) -> Path:
        """Where the ID of an upload of this file, to this key, in parts of this size, is kept."""
        identity = f"{self.name} {upload.key} {upload.sha512} {self.part}"
        return self.work / f"{text_digest(identity)[:16]}.json"


def _guard(upload: Upload) -> dict[str, str]:
    """What lets nothing be written over what somebody else published meanwhile."""
    return {} if upload.replaces else {"IfNoneMatch": "*"}


def _other(bucket: str, key: str) -> HarnessError:
    return HarnessError(
        f"s3://{bucket}/{key} is there already, with other bytes",
        hint="what is published is never replaced; publish under another --run-id",
    )


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what boto3 raises in the with block into one sentence about what."""
    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound):
        raise UsageError(
            f"there are no AWS credentials for {what}",
            hint="set them up as for the AWS CLI (AWS_PROFILE, `aws configure`)",
        ) from None
    except aws.NoRegionError:
        raise UsageError(f"no AWS region is set for {what}", hint="AWS_REGION=…") from None
    except aws.ParamValidationError as error:
        raise UsageError(f"{what} cannot be: {error}") from None
    except aws.ClientError as error:
        code, text = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in {*MISSING, "NoSuchBucket", "RepositoryNotFoundException"}:
            raise UsageError(f"there is no such thing as {what}", hint="make it first") from None
        if code in {"403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId"}:
            raise HarnessError(
                f"{what} may not be used: {code} {text}".rstrip(), hint=PERMISSIONS
            ) from None
        raise HarnessError(f"{what} answers {code}: {text}", hint=AGAIN) from None
    except aws.BotoCoreError as error:
        raise HarnessError(f"the connection to {what} failed: {error}", hint=AGAIN) from None
