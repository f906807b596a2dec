"""The calls of S3 for objects, with types: `Objects`. Each blocks, and raises what `errors.translated` returns."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from botocore import exceptions

from ftpsd.storage.s3.calls.answers import (
    MTIME,
    Answer,
    Body,
    Found,
    Listed,
    Page,
    etag_of,
    found_of,
    number_of,
    range_of,
    text_of,
    time_of,
)
from ftpsd.storage.s3.calls.errors import (
    FAILED,
    ChecksumRequired,
    Denied,
    NotInRange,
    NotSupported,
    ObjectChanged,
    StoreFailed,
    translated,
)
from ftpsd.storage.s3.calls.progress import Outgoing, Progress

#: The most keys in one page of a listing, and in one request that deletes.
PAGE = 1000

#: The calls for which a store may work long: it copies bytes, or puts parts together.
_SLOW = frozenset({"complete_multipart_upload", "copy_object", "upload_part_copy"})

#: The fields of checksums, by the algorithms of HASH. ETags are none: they are an MD5 in some stores and cases only.
_CHECKSUMS = {"SHA-256": "ChecksumSHA256", "SHA-1": "ChecksumSHA1", "CRC32": "ChecksumCRC32"}

#: What an object has beside its metadata, which a copy is given, too: without that it would get the store's defaults.
_LABELS = ("ContentType", "ContentEncoding", "ContentLanguage", "ContentDisposition", "CacheControl", "StorageClass")

#: The storage classes that a copy does not get, since it could not be read: it gets the bucket's, as a new file.
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})

#: Characters that no XML has, so that such keys cannot be deleted with others in one request.
_NOT_IN_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: No conditions, and no labels.
NOTHING: Mapping[str, object] = {}


class Calls:
    """The calls for one bucket. `noted` is called with the error, or None, after each call: for the log.

    The client `patient` makes calls for which the store may work long.
    """

    def __init__(
        self,
        client: object,
        bucket: str,
        noted: Callable[[Exception | None], object],
        patient: object | None = None,
    ) -> None:
        self._client = client
        self._patient = patient or client
        self.bucket = bucket
        self._noted = noted
        #: The operations for which the store knows no conditions.
        self._unconditional = set[str]()
        self._sends_md5 = False

    def call(self, operation: str, **arguments: object) -> Answer:
        """Make a call."""
        body = arguments.get("Body")
        if isinstance(body, Outgoing):
            body.seek(0)  # another call may have read it
        try:
            client = self._patient if operation in _SLOW else self._client
            made: dict[str, object] = getattr(client, operation)(Bucket=self.bucket, **arguments)
            if "Error" in made:  # boto3 1.26 does not look for an error in each answer with the status 200
                raise exceptions.ClientError(made, operation)
        except Exception as error:
            found = translated(error, operation)
            self._noted(found)
            raise found from None
        self._noted(None)
        return Answer(made, self._noted)

    def call_if(self, conditions: Mapping[str, object], operation: str, **arguments: object) -> Answer:
        """Make a call under conditions; without them if the store does not know any (Swift)."""
        if conditions and operation not in self._unconditional:
            try:
                return self.call(operation, **arguments, **conditions)
            except NotSupported:
                self._unconditional.add(operation)
        return self.call(operation, **arguments)

    def store(
        self,
        operation: str,
        data: bytes | bytearray,
        conditions: Mapping[str, object] = NOTHING,
        progress: Progress | None = None,
        **arguments: object,
    ) -> Answer:
        """Make a call that stores bytes. boto3 signs their SHA-256, so that the store refuses damaged ones.

        Content-MD5 is sent only after the bucket has required it, as Amazon's do with Object Lock: to compute MD5 takes
        longer than the rest of an upload.
        """
        arguments["Body"] = data if progress is None or not data else Outgoing(data, progress)
        if not self._sends_md5:
            try:
                return self.call_if(conditions, operation, **arguments)
            except ChecksumRequired:
                self._sends_md5 = True
        return self.call_if(conditions, operation, ContentMD5=_md5(data), **arguments)

    def copy(
        self, operation: str, source: str, etag: str, conditions: Mapping[str, object] = NOTHING, **arguments: object
    ) -> Answer:
        """Make a call that copies an object, or a part of it. Raises ObjectChanged if it has another ETag.

        `conditions` are those for the new object. Raises ObjectChanged, too, if they do not hold.
        """
        arguments["CopySource"] = {"Bucket": self.bucket, "Key": source}
        try:
            return self.call_if(conditions, operation, CopySourceIfMatch=etag, **arguments)
        except ObjectChanged as error:
            # Swift compares the condition with something else if the object was stored in parts.
            if error.was_repeated or etag_of(self.call("head_object", Key=source)) != etag:
                raise
            return self.call_if(conditions, operation, **arguments)

    def supports(self, operation: str, argument: str) -> bool:
        """Return whether this release of boto3 knows an argument of an operation, as `PutObject`."""
        model = getattr(self._client, "meta").service_model.operation_model(operation)  # noqa: B009 - it has no types
        return argument in model.input_shape.members


class Objects:
    """The calls for objects."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._conditions = {name: calls.supports("PutObject", name) for name in ("IfMatch", "IfNoneMatch")}
        self._copies_if_free = calls.supports("CopyObject", "IfNoneMatch")
        self._deletes_if = calls.supports("DeleteObject", "IfMatch")

    def head(self, key: str, checksum: str = "") -> Found | None:
        """Return the facts of an object, or None; with the `checksum` of an algorithm of HASH, if the store has it."""
        field = _CHECKSUMS.get(checksum)
        try:
            answer = self._calls.call("head_object", Key=key, **({"ChecksumMode": "ENABLED"} if field else {}))
        except FileNotFoundError:
            return None
        return found_of(answer, number_of(answer["ContentLength"]), field)

    def page(self, prefix: str, flat: bool = False, following: str | None = None, most: int = PAGE) -> Page:
        """Return a page of the objects whose keys begin with a prefix; with `flat` those of directories, too."""
        more: dict[str, object] = {} if flat else {"Delimiter": "/"}
        if following is not None:
            more["ContinuationToken"] = following
        answer = self._calls.call("list_objects_v2", Prefix=prefix, MaxKeys=most, **more)
        objects = [
            Listed(text_of(each["Key"]), number_of(each["Size"]), time_of(each["LastModified"]), etag_of(each))
            for each in answer.items_of("Contents")
        ]
        prefixes = [text_of(each["Prefix"]) for each in answer.items_of("CommonPrefixes")]
        token = text_of(answer["NextContinuationToken"]) if answer.get("IsTruncated") else None
        if token is not None and token == following:
            raise answer.failure("the pages of a listing have no end")
        return Page(objects, prefixes, token)

    def open(self, key: str, first: int, last: int) -> tuple[Found, Body] | None:
        """Return the facts of an object and the bytes of a range, in one request. None: it has none of these bytes."""
        if last < first:
            return None
        try:
            answer = self._calls.call("get_object", Key=key, Range=f"bytes={first}-{last}")
        except (FileNotFoundError, NotInRange):
            return None
        body: Body = answer["Body"]  # type: ignore[assignment]
        with ExitStack() as otherwise:
            otherwise.callback(body.close)
            place = range_of(answer)
            if place is None or place[0] != first:  # maybe the store has sent all of it
                return None
            found = found_of(answer, place[1])
            otherwise.pop_all()
            return found, body

    def get(self, key: str, first: int, last: int, etag: str) -> Body:
        """Return bytes from `first` on, at least those up to `last`. Raises ObjectChanged if it has another ETag.

        A store may ignore If-Match, or a range.
        """
        answer = self._calls.call("get_object", Key=key, Range=f"bytes={first}-{last}", IfMatch=etag)
        body: Body = answer["Body"]  # type: ignore[assignment]
        with ExitStack() as otherwise:
            otherwise.callback(body.close)
            if etag_of(answer) != etag:
                raise ObjectChanged
            place = range_of(answer)
            if first != (0 if place is None else place[0]):
                raise answer.failure("get_object: these are not the bytes that were requested")
            otherwise.pop_all()
            return body

    def put(
        self,
        key: str,
        data: bytes | bytearray,
        old: Found | str | None = "",
        kind: str = "",
        progress: Progress | None = None,
    ) -> str:
        """Store an object, and return its ETag. `old` is what it must replace: None is nothing, "" anything."""
        more: dict[str, object] = {"ContentType": kind} if kind else {}
        conditions = self.conditions(old)
        answer = self._calls.store("put_object", data, conditions, progress, Key=key, **more)
        return etag_of(answer)

    def conditions(self, old: Found | str | None) -> dict[str, object]:
        """Return the arguments that let the store check what is replaced, if this release of boto3 has them."""
        if old is None and self._conditions["IfNoneMatch"]:
            return {"IfNoneMatch": "*"}
        if isinstance(old, Found) and self._conditions["IfMatch"]:
            return {"IfMatch": old.etag}
        return {}

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        self._calls.call("delete_object", Key=key)

    def delete_unchanged(self, key: str, etag: str) -> bool:
        """Delete an object unless its ETag has changed. Return False if it has changed, and True if there is no object.

        In a store without conditional deletions, an object that is replaced between the look and the deletion is lost.
        """
        now = self.head(key)
        if now is None or now.etag != etag:
            return now is None
        try:
            self._calls.call_if({"IfMatch": etag} if self._deletes_if else {}, "delete_object", Key=key)
        except FileNotFoundError:
            pass
        except ObjectChanged:
            # Swift compares If-Match with something else if the object was stored in parts.
            now = self.head(key)
            if now is None or now.etag != etag:
                return now is None
            self.delete(key)
        return True

    def delete_all(self, keys: Sequence[str]) -> list[str]:
        """Delete the objects of one request (see `requests`). Return the keys of those that must not be deleted."""
        if len(keys) == 1 and _NOT_IN_XML.search(keys[0]):
            try:
                self.delete(keys[0])
            except FileNotFoundError:
                pass  # another program has deleted it
            except Denied:
                return list(keys)
            return []
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        return [text_of(each["Key"]) for each in self._calls.call("delete_objects", Delete=wanted).items_of("Errors")]

    def labels(self, source: str, found: Found) -> dict[str, object]:
        """Return what a copy of an object must be given: its metadata, with the time of modification, and its kind.

        What is not ASCII is left out: boto3 cannot send it as it was.
        """
        head = self._calls.call("head_object", Key=source)
        old = head.get("Metadata")
        kept = old.items() if isinstance(old, dict) else ()
        metadata = {name: value for name, value in kept if name.isascii() and value.isascii()}
        labels = {name: text_of(head[name]) for name in _LABELS if head.get(name)}
        if labels.get("StorageClass") in _ARCHIVES:
            del labels["StorageClass"]
        ascii_only = {name: value for name, value in labels.items() if value.isascii()}
        return {"Metadata": {**metadata, MTIME: repr(found.modified)}, **ascii_only}

    def copy(self, source: str, target: str, found: Found, free: bool = False) -> str:
        """Copy an object of up to 5 GiB, with its metadata and time of modification. Return the ETag of the copy.

        `free`: nothing may have the new key, as far as boto3 and the store know a condition for that. Raises
        ObjectChanged.
        """
        answer = self._calls.copy(
            "copy_object",
            source,
            found.etag,
            {"IfNoneMatch": "*"} if free and self._copies_if_free else NOTHING,
            Key=target,
            MetadataDirective="REPLACE",
            **self.labels(source, found),
        )
        return etag_of(answer.part("CopyObjectResult"))


def requests(found: Sequence[Listed]) -> Iterator[list[Listed]]:
    """Yield the objects of a page that one request can delete: most of them, and each whose key XML cannot have."""
    together = [each for each in found if not _NOT_IN_XML.search(each.key)]
    if together:
        yield together
    if len(together) < len(found):
        yield from ([each] for each in found if _NOT_IN_XML.search(each.key))


def read_some(body: Body, at_most: int) -> bytes:
    """Return the next bytes of an object, of which there must be more. Raises what `translated` returns."""
    try:
        data = body.read(at_most)
    except Exception as error:
        raise translated(error, "get_object") from None
    if not data:
        raise StoreFailed(451, FAILED, "get_object: too few bytes")
    return data


def _md5(data: bytes | bytearray) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
