"""Uploads files to S3, where a published file is always complete and never changes.

A large file is uploaded in parts, and S3 shows it once all of them have arrived. An interrupted
upload is resumed if this checkout began it; otherwise it is aborted.
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

from scripts import catalog
from scripts.publish.release import Upload
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.files import write_text
from scripts.system.progress import Task

# A file larger than this is uploaded in parts of this size, in bytes. S3 allows 10000 parts, each
# of 5 MiB or more.
PART = 64 << 20

# The key of an object's metadata that holds its sha512.
SHA512 = "sha512"

# The codes that mean "not found". HeadObject and HeadBucket answer with a status only.
MISSING = ("404", "NoSuchKey", "NotFound")

# The codes that mean "already published": somebody else has published the file in the meantime, or
# the answer to our own upload was lost and botocore has repeated it.
TAKEN = ("PreconditionFailed", "412", "NoSuchUpload")

# Without s3:ListBucket, S3 also answers 403 if an object does not exist.
PERMISSIONS = (
    "you need s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, "
    "s3:AbortMultipartUpload, s3:ListMultipartUploadParts; for ECR, what `docker push` needs"
)

AGAIN = "run the same command again; what has arrived is not sent again"
OTHER_RUN = f"published files are never replaced; publish with another {catalog.flag('run-id')}"


@dataclass(frozen=True)
class Bucket:
    """A bucket.

    client is boto3's. work is a folder for notes about uploads that are under way. part is the size
    of parts in bytes. Every method raises HarnessError, or UsageError if the request was wrong.
    """

    name: str
    client: Any
    work: Path
    part: int = PART

    @classmethod
    def open(cls, name: str, work: Path) -> Bucket:
        """Return the bucket called name, after checking that it exists and may be used.

        Address and credentials are looked up as the AWS CLI does.
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
        """Whether upload is there already. Raises HarnessError if other bytes have its key."""
        with explained(f"the bucket {self.name}"):
            try:
                there = self.client.head_object(Bucket=self.name, Key=upload.key)
            except aws.ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return False
                raise
        found = (there.get("Metadata", {}).get(SHA512), there.get("ContentLength"))
        is_same = found == (upload.sha512, upload.size)
        if not is_same and not upload.replaces:
            raise _other(self.name, upload.key)
        return is_same

    def read(self, key: str) -> bytes | None:
        """Return the contents of a small object, or None if there is no object called key."""
        with explained(f"the bucket {self.name}"):
            try:
                body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
            except aws.ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return None
                raise
        return body

    def upload(self, upload: Upload, task: Task) -> None:
        """Upload a file, unless somebody else has published it in the meantime."""
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
        """Return the ID of an interrupted upload of exactly this file, or of a new one."""
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
        """Abort an upload in parts, if there is one, and remove its note."""
        note = self._note(upload)
        if not note.exists():
            return
        begun = json.loads(note.read_text())["id"]
        with contextlib.suppress(self.client.exceptions.NoSuchUpload):  # finished or aborted
            self.client.abort_multipart_upload(Bucket=self.name, Key=upload.key, UploadId=begun)
        note.unlink()

    def _parts(self, where: dict[str, str]) -> Iterator[dict[str, Any]]:
        for page in self.client.get_paginator("list_parts").paginate(**where):
            yield from page.get("Parts", [])

    def _note(self, upload: Upload) -> Path:
        """Return the file that keeps the ID of an upload of this file in parts of this size."""
        identity = f"{self.name} {upload.key} {upload.sha512} {self.part}"
        return self.work / f"{text_digest(identity)[:16]}.json"


def _guard(upload: Upload) -> dict[str, str]:
    """Return the arguments that make S3 refuse to replace a file, unless upload may do so."""
    return {} if upload.replaces else {"IfNoneMatch": "*"}


def _other(bucket: str, key: str) -> HarnessError:
    return HarnessError(
        f"s3://{bucket}/{key} is already there, with other bytes",
        hint=OTHER_RUN,
    )


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn boto3's exceptions into one sentence about what, a bucket or a service."""
    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound):
        raise UsageError(
            f"there are no AWS credentials for {what}",
            hint="set them up as for the AWS CLI (AWS_PROFILE, `aws configure`)",
        ) from None
    except aws.NoRegionError:
        raise UsageError(f"no AWS region is set for {what}", hint="set AWS_REGION") from None
    except aws.ParamValidationError as error:
        raise UsageError(f"{what} is not possible: {error}") from None
    except aws.ClientError as error:
        code, text = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in {*MISSING, "NoSuchBucket", "RepositoryNotFoundException"}:
            raise UsageError(f"{what} does not exist", hint="create it first") from None
        if code in {"403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId"}:
            raise HarnessError(
                f"access to {what} is denied: {code} {text}".rstrip(), hint=PERMISSIONS
            ) from None
        raise HarnessError(f"{what} answered {code}: {text}", hint=AGAIN) from None
    except aws.BotoCoreError as error:
        raise HarnessError(f"the connection to {what} failed: {error}", hint=AGAIN) from None
