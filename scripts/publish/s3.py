"""Uploads files to S3, where a published file is always complete and never changes.

Only bytes that have been hashed are sent, and a file appears under its name only once all of them
together have the digest that was checked. S3 compares each transfer with a checksum of its own. A
large file is uploaded in parts, and S3 shows it once all of them have arrived. An interrupted
upload is resumed if this checkout began it; otherwise it is aborted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import boto3
import urllib3
from botocore import exceptions as aws
from botocore.config import Config

from scripts import catalog
from scripts.publish import sources
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

# The codes that mean "already published": somebody else has published the file in the meantime, is
# doing so, or has removed what it replaces; or the answer to our own upload was lost and botocore
# has repeated it.
TAKEN = ("PreconditionFailed", "412", "NoSuchUpload", "ConditionalRequestConflict", "NoSuchKey")

# The most bytes of an object that is read whole: manifests, signatures and checksums have a few KB.
SMALL = 1 << 20  # bytes

# Without s3:ListBucket, S3 also answers 403 if an object does not exist.
PERMISSIONS = (
    "you need s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, "
    "s3:AbortMultipartUpload, s3:ListMultipartUploadParts; for ECR, what `docker push` needs, "
    "ecr:ListImages and ecr:BatchDeleteImage"
)

# The codes that mean "denied", which end with "Exception" in ECR.
DENIED = ("403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "UnrecognizedClient")

AGAIN = "run the same command again; what has arrived is not sent again"
OTHER_RUN = f"published files are never replaced; publish with another {catalog.flag('run-id')}"


class LostError(HarnessError):
    """Somebody else has changed an object since it was read, so it has not been replaced."""


@dataclass(frozen=True)
class Stored:
    """The contents of a small object, and the ETag of the version that was read."""

    data: bytes
    etag: str


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
        is_same = found == (upload.sha512, upload.size) and self.digest(upload.key) == found[0]
        if not is_same and upload.replaces is None:
            raise other(self.name, upload.key)
        return is_same

    def digest(self, key: str) -> str:
        """Return the sha512 of an object's bytes, or "" if there is none."""
        found = hashlib.sha512()  # an object's metadata may say anything
        with explained(f"the bucket {self.name}"):
            try:
                body = self.client.get_object(Bucket=self.name, Key=key)["Body"]
            except aws.ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return ""
                raise
            for chunk in body.iter_chunks(sources.CHUNK_BYTES):
                found.update(chunk)
        return found.hexdigest()

    def read(self, key: str) -> Stored | None:
        """Return the contents of a small object, or None if there is no object called key.

        Raises HarnessError if it is too large or has no ETag, without which it could not be
        replaced safely.
        """
        with explained(f"the bucket {self.name}"):
            try:
                there = self.client.get_object(Bucket=self.name, Key=key)
                data: bytes = there["Body"].read(SMALL + 1)
            except aws.ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return None
                raise
        if len(data) > SMALL:
            raise HarnessError(f"s3://{self.name}/{key} is larger than {SMALL} bytes")
        if not there.get("ETag"):
            raise HarnessError(f"the bucket {self.name} names no version of {key}")
        return Stored(data, there["ETag"])

    def upload(self, upload: Upload, task: Task) -> None:
        """Upload a file, unless somebody else has published it in the meantime.

        Raises HarnessError, and publishes nothing, if the file is not the one that was checked, or
        if somebody else has replaced what it was to replace.
        """
        task.step(f"uploading {upload.key}")
        folder, name = upload.source.parent, upload.source.name
        with explained(f"the bucket {self.name}"), sources.opened(folder, name) as file:
            try:
                if upload.size > self.part:
                    self._upload_parts(upload, file, task)
                else:
                    self._upload_whole(upload, file)
            except aws.ClientError as error:
                if error.response["Error"]["Code"] not in TAKEN:
                    raise
                self._give_up(upload)
                if not self.check(upload):
                    if upload.replaces is None:
                        raise
                    raise _lost(self.name, upload.key) from None

    def _upload_whole(self, upload: Upload, file: BufferedReader) -> None:
        data = file.read(self.part + 1)
        if hashlib.sha512(data).hexdigest() != upload.sha512:
            raise sources.changed(upload.source)
        self.client.put_object(
            Bucket=self.name,
            Key=upload.key,
            Body=data,
            Metadata={SHA512: upload.sha512},
            ChecksumSHA256=_checksum(data),
            **_guard(upload),
        )

    def _upload_parts(self, upload: Upload, file: BufferedReader, task: Task) -> None:
        note = self._note(upload)
        where = {"Bucket": self.name, "Key": upload.key, "UploadId": self._begin(upload, note)}
        arrived = {part["PartNumber"]: part for part in self._parts(where)}
        parts, found = [], hashlib.sha512()
        for number, start in enumerate(range(0, upload.size, self.part), 1):
            # The bytes that were hashed are sent: a file that changes now cannot change them.
            data = file.read(min(self.part, upload.size - start))
            if not data:  # the file has become shorter
                break
            found.update(data)
            part = self._send_part(where, number, data, arrived.get(number))
            parts.append(part)
            percent = min(100, 100 * number * self.part // upload.size)
            task.step(f"uploading {upload.key}: {percent} %")
        if found.hexdigest() != upload.sha512:
            self._give_up(upload)
            raise sources.changed(upload.source)
        self.client.complete_multipart_upload(
            **where, MultipartUpload={"Parts": parts}, **_guard(upload)
        )
        note.unlink(missing_ok=True)

    def _send_part(
        self, where: dict[str, str], number: int, data: bytes, arrived: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Upload a part, unless it has arrived already, and return S3's entry for it."""
        checksum = _checksum(data)
        if not (arrived and _is_part(arrived, data)):
            arrived = self.client.upload_part(
                **where, PartNumber=number, Body=data, ChecksumSHA256=checksum
            )
        assert arrived
        return {"PartNumber": number, "ETag": arrived["ETag"], "ChecksumSHA256": checksum}

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
            Bucket=self.name,
            Key=upload.key,
            Metadata={SHA512: upload.sha512},
            ChecksumAlgorithm="SHA256",
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
    """Return the arguments that make S3 refuse to replace anything but what upload may replace."""
    return {"IfMatch": upload.replaces} if upload.replaces else {"IfNoneMatch": "*"}


def _checksum(data: bytes) -> str:
    """Return the sha256 of data as S3 takes it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _is_part(arrived: dict[str, Any], data: bytes) -> bool:
    """Whether a part that S3 lists has these bytes; an ETag is their MD5 if there is no sha256."""
    if checksum := arrived.get("ChecksumSHA256"):
        return bool(checksum == _checksum(data))
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return bool(arrived["ETag"].strip('"') == md5)


def _lost(bucket: str, key: str) -> HarnessError:
    return LostError(
        f"somebody else has changed s3://{bucket}/{key} in the meantime",
        hint="look at what was published, then run the same command again",
    )


def other(bucket: str, key: str) -> HarnessError:
    """Return the error about key, under which other bytes than ours are published."""
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
        if code.removesuffix("Exception") in DENIED:
            raise HarnessError(
                f"access to {what} is denied: {code} {text}".rstrip(), hint=PERMISSIONS
            ) from None
        raise HarnessError(f"{what} answered {code}: {text}", hint=AGAIN) from None
    except aws.BotoCoreError as error:
        raise HarnessError(f"the connection to {what} failed: {error}", hint=AGAIN) from None
    # botocore lets these through, for a header such as "Content-Length: many" or a broken chunk.
    except (ValueError, LookupError, urllib3.exceptions.HTTPError) as error:
        raise HarnessError(f"{what} answered nonsense: {error}", hint=AGAIN) from None
