"""The signed files about a whole run: its checksums and its release manifest.

Jobs that publish one architecture each share them. A job keeps what the others have added, once it
has read the files in question and, if releases are signed, the signature of what it adds to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from scripts import catalog
from scripts.publish import release, run, s3
from scripts.publish.announcement import Announcement
from scripts.publish.release import Upload
from scripts.publish.run import ClashError, Own, Run
from scripts.publish.s3 import Bucket, Stored
from scripts.publish.signing import Signer
from scripts.system import strict
from scripts.system.errors import HarnessError, UsageError

_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True)
class Document:
    """One document: its key, its new contents, and what is published under that key already.

    is_shared tells whether others have a part in it, so what is published must be signed.
    """

    key: str
    text: bytes
    there: Stored | None
    is_shared: bool

    @property
    def is_there(self) -> bool:
        """Whether it is published already with exactly these contents."""
        return self.there is not None and self.there.data == self.text


@dataclass(frozen=True)
class SharedDocuments:
    """Merges the documents of run with those that are published, signs them and writes them.

    folder is where they are written to. signer is None if nothing is signed. seen keeps the
    signatures that have been read, by key: a job that loses a race may have replaced the signature
    of the one that won. hashed keeps the sha512 of objects that have been read, by key.
    """

    run: Run
    bucket: Bucket
    folder: Path
    signer: Signer | None
    seen: dict[str, list[bytes]] = field(default_factory=dict)
    hashed: dict[str, str] = field(default_factory=dict)

    def merge(self, own: Own, now: datetime) -> tuple[Announcement, list[Document]]:
        """Return the release manifest of the run with own in it, and the documents.

        Raises HarnessError if what is published already is not this run's, or says something else
        than own.
        """
        sums, manifest = (self.bucket.read(key) for key in (self.run.sums, self.run.manifest))
        there = self._parsed(self.run.sums, sums, self.run.parse_sums) or {}
        announced = self._parsed(
            self.run.manifest, manifest, lambda text: self.run.parse_manifest(text, now)
        )
        with self._refused(self.run.sums):
            merged = run.merge_sums(self.run, own, there)
        for key in there.keys() - own.sums.keys():
            self._check_object(key, there[key])
        if announced:
            self._check_listed(announced, merged)
        with self._refused(self.run.manifest):
            whole = run.merge_manifest(self.run, own, announced or own.announced)
        is_shared = merged.keys() != own.sums.keys()
        return whole, [
            Document(self.run.sums, release.checksums(merged), sums, is_shared),
            Document(self.run.manifest, whole.text(), manifest, is_shared=True),
        ]

    def uploads(self, documents: Sequence[Document]) -> list[Upload]:
        """Write documents to files, sign them where needed, and return what must be uploaded.

        Signatures come before what they sign, and the manifest comes last. Nothing is signed
        before all signatures that are published have been verified.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        bundles = {one.key: self.bucket.read(f"{one.key}.bundle") for one in documents}
        good = {one.key: self._verified(one, bundles[one.key]) for one in documents}
        found: list[Upload] = []
        for document in documents:
            path = self.folder / document.key
            path.write_bytes(document.text)
            if self.signer:
                found += self._signature(document, bundles[document.key], good[document.key])
            if not document.is_there:
                etag = document.there.etag if document.there else ""
                found.append(Upload.of(path, document.key, replaces=etag))
        return found

    def _signature(
        self, document: Document, there: Stored | None, good: bytes | None
    ) -> list[Upload]:
        """Write the signature of document, a new one unless good is one, and return its upload."""
        assert self.signer
        bundle = self.folder / f"{document.key}.bundle"
        if document.is_there and good:
            bundle.write_bytes(good)
        else:
            self.signer.sign(self.folder / document.key)
        if there and there.data == bundle.read_bytes():
            return []
        return [Upload.of(bundle, bundle.name, replaces=there.etag if there else "")]

    def _verified(self, document: Document, bundle: Stored | None) -> bytes | None:
        """Return a signature of what document repeats or replaces, None if there is none.

        Raises HarnessError unless there is one where it is needed.
        """
        where = f"s3://{self.bucket.name}/{document.key}"
        if not self.signer:
            if bundle and not document.is_there:
                raise unsigned(where, f"with another {catalog.flag('run-id')}")
            return None
        known = self.seen.setdefault(document.key, [])
        if bundle and bundle.data not in known:
            known.insert(0, bundle.data)
        if not document.there:  # an upload may have been interrupted after the signature
            return None
        # Our own documents are never published without their signatures, which are uploaded first.
        # To sign this one would vouch for what somebody else has chosen, if only its dates.
        if document.is_shared and not bundle:
            raise HarnessError(
                f"{where} is published without a signature, so it cannot be signed any more",
                hint=s3.OTHER_RUN,
            )
        is_changed = not document.is_there
        return self._first_good(document.key, document.there.data, known, others=is_changed)

    def _first_good(
        self, key: str, text: bytes, bundles: Iterable[bytes], *, others: bool
    ) -> bytes | None:
        """Return the first of bundles that signs text. Raises the first's error if none does."""
        assert self.signer
        folder = self.folder / "published"
        folder.mkdir(exist_ok=True)
        (folder / key).write_bytes(text)
        error: HarnessError | None = None
        for data in bundles:
            (folder / f"{key}.bundle").write_bytes(data)
            try:
                self.signer.check(folder / key, folder / f"{key}.bundle", is_needed=others)
            except HarnessError as caught:
                error = error or caught
            else:
                return data
        if error:
            raise error
        return None

    def _check_object(self, key: str, sha512: str) -> None:
        """Raise HarnessError unless the object called key has that sha512, by its bytes."""
        if key not in self.hashed:
            self.hashed[key] = self.bucket.digest(key)
        if self.hashed[key] != sha512:
            raise HarnessError(
                f"s3://{self.bucket.name}/{key} is not the file that {self.run.sums} lists",
                hint=s3.OTHER_RUN,
            )

    def _check_listed(self, announced: Announcement, sums: dict[str, str]) -> None:
        """Raise HarnessError unless sums has the digest of each download that is announced."""
        digests = {self.run.url(key): sha512 for key, sha512 in sums.items()}
        odd = [one.url for one in announced.downloads if digests.get(one.url) != one.sha512]
        if odd:
            raise HarnessError(
                f"s3://{self.bucket.name}/{self.run.manifest} has another digest of {odd[0]} than "
                f"{self.run.sums}",
                hint=s3.OTHER_RUN,
            )

    def _parsed(
        self, key: str, there: Stored | None, parse: Callable[[bytes], _Parsed]
    ) -> _Parsed | None:
        """Return what parse makes of there, None if nothing is there. Raises HarnessError."""
        try:
            return parse(there.data) if there else None
        except strict.ODDITIES as error:
            raise unpublishable(f"s3://{self.bucket.name}/{key}", error) from error

    @contextmanager
    def _refused(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClashError:
            raise s3.other(self.bucket.name, key) from None


def unpublishable(where: str, error: Exception) -> HarnessError:
    """Return the error about a document at where that no job of the run has written so."""
    return HarnessError(
        f"{where} is not what the jobs of this run publish: {error}",
        hint=f"publish with another {catalog.flag('run-id')}",
    )


def unsigned(where: str, otherwise: str) -> UsageError:
    """Return the error about a signed document at where that an unsigned one would replace.

    otherwise says how else to publish.
    """
    return UsageError(
        f"{where} is signed, but this release would not be",
        hint=f"sign it with {catalog.option('key')}, or publish {otherwise}",
    )
