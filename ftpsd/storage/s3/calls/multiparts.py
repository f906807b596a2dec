"""The calls of S3 for multipart uploads: `Multiparts`. Each blocks, and raises what `errors.translated` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ftpsd.storage.s3.calls.answers import Found, OpenUpload, StoredPart, etag_of, key_of, number_of, text_of, time_of
from ftpsd.storage.s3.calls.client import NOTHING, Calls, Objects
from ftpsd.storage.s3.calls.progress import Progress


class Multiparts:
    """The calls for multipart uploads."""

    def __init__(self, calls: Calls, objects: Objects) -> None:
        self._calls = calls
        self._conditions = objects.conditions if calls.supports("CompleteMultipartUpload", "IfMatch") else None

    def begin(self, key: str, labels: Mapping[str, object] = NOTHING) -> str:
        """Begin an upload, and return its identity. See `Objects.labels`."""
        return text_of(self._calls.call("create_multipart_upload", Key=key, **labels)["UploadId"])

    def put(
        self, key: str, identity: str, number: int, data: bytes | bytearray, progress: Progress | None = None
    ) -> str:
        """Send a part, and return its ETag."""
        answer = self._calls.store("upload_part", data, {}, progress, Key=key, UploadId=identity, PartNumber=number)
        return etag_of(answer)

    def copy(self, key: str, identity: str, number: int, source: str, old: Found, first: int, last: int) -> str:
        """Copy a range of an object into a part, and return its ETag. Raises ObjectChanged if `old` was replaced."""
        answer = self._calls.copy(
            "upload_part_copy",
            source,
            old.etag,
            Key=key,
            UploadId=identity,
            PartNumber=number,
            CopySourceRange=f"bytes={first}-{last}",
        )
        return etag_of(answer.part("CopyPartResult"))

    def parts(self, key: str, identity: str) -> list[StoredPart]:
        """Return the parts that the store has. Raises UploadGone."""
        found, marker = list[StoredPart](), 0
        while True:
            answer = self._calls.call("list_parts", Key=key, UploadId=identity, PartNumberMarker=marker)
            found += [
                StoredPart(
                    number_of(each["PartNumber"]),
                    number_of(each["Size"]),
                    etag_of(each),
                    time_of(each["LastModified"]),
                )
                for each in answer.items_of("Parts")
            ]
            if not answer.get("IsTruncated"):
                return found
            before, marker = marker, number_of(answer["NextPartNumberMarker"])
            if marker <= before:
                raise answer.failure("the pages of parts have no end")

    def uploads(self, prefix: str, flat: bool = True) -> Iterable[list[OpenUpload]]:
        """Yield the open uploads whose keys begin with a prefix, in portions."""
        more: dict[str, object] = {} if flat else {"Delimiter": "/"}
        while True:
            answer = self._calls.call("list_multipart_uploads", Prefix=prefix, EncodingType="url", **more)
            yield [
                OpenUpload(key_of(each["Key"], answer), text_of(each["UploadId"]), time_of(each["Initiated"]))
                for each in answer.items_of("Uploads")
            ]
            if not answer.get("IsTruncated"):
                return
            before = dict(more)
            more["KeyMarker"] = key_of(answer["NextKeyMarker"], answer)
            more["UploadIdMarker"] = answer.get("NextUploadIdMarker", "")
            if more == before:
                raise answer.failure("the pages of open uploads have no end")

    def complete(self, key: str, identity: str, parts: Sequence[tuple[int, str]], old: Found | str | None) -> str:
        """Publish an upload, and return the ETag of the object. See `Objects.put`."""
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        conditions = {} if self._conditions is None else self._conditions(old)
        answer = self._calls.call_if(
            conditions, "complete_multipart_upload", Key=key, UploadId=identity, MultipartUpload={"Parts": listed}
        )
        return etag_of(answer)

    def abort(self, key: str, identity: str) -> None:
        """Remove an upload with its parts. It may have gone."""
        self._calls.call("abort_multipart_upload", Key=key, UploadId=identity)
