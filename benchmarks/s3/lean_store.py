"""An S3 store that costs little: `python -m benchmarks.s3.lean_store ADDRESS PORT` serves until it is killed.

Real stores compute checksums and write to disks. On a machine with few cores they would use most of the processor, and
a benchmark would show how fast the store is. This one keeps all objects in memory, and verifies neither signatures nor
checksums. Its ETags are numbers that look like those of multipart uploads, so nobody takes them for MD5. It has what
ftpsd, rclone and boto3 need to store, fetch, list and delete.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import count
from pathlib import Path
from time import gmtime, strftime, time
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

#: Bytes in one call of `sendall`.
_PIECE = 1 << 20

#: The most entries of one page.
_PAGE = 1000

_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class Refused(Exception):
    """An error of S3."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Stored:
    """An object. Its bytes are those of the pieces, one after the other."""

    pieces: tuple[bytearray, ...]
    size: int
    etag: str
    stored: float
    metadata: Mapping[str, str]

    def range(self, first: int, last: int) -> Iterator[memoryview]:
        """Yield the bytes from one offset to another, both included."""
        for piece in self.pieces:
            if first < len(piece):
                yield memoryview(piece)[first : last + 1]
            first, last = max(0, first - len(piece)), last - len(piece)
            if last < 0:
                return


@dataclass
class Multipart:
    """A multipart upload that is open."""

    key: str
    metadata: Mapping[str, str]
    started: float
    parts: dict[int, Stored] = field(default_factory=dict)


@dataclass
class Bucket:
    """The objects and open uploads of a bucket, by their keys."""

    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, Multipart] = field(default_factory=dict)
    #: The keys in their order.
    keys: list[str] = field(default_factory=list)

    def put(self, key: str, found: Stored) -> None:
        """Store an object."""
        if key not in self.objects:
            insort(self.keys, key)
        self.objects[key] = found

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        if self.objects.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


@dataclass(frozen=True)
class Request:
    """A request with its body."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytearray


@dataclass(frozen=True)
class Response:
    """A response. `size` is Content-Length, which HEAD sends without the bytes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: tuple[bytes | memoryview, ...] = ()
    size: int | None = None


class Store:
    """All buckets. One request at a time is handled; bodies are received and sent without the lock."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()
        self._numbers = count(1)

    def handle(self, request: Request) -> Response:
        """Return the response to a request."""
        with self._lock:
            try:
                if not request.key:
                    return self._bucket(request)
                bucket = self._required(request)
                return self._multipart(bucket, request) or self._object(bucket, request)
            except Refused as error:
                text = f"<Error><Code>{error.code}</Code><Message>{error.code}</Message></Error>"
                return _xml(text, error.status)

    def load(self, directory: Path) -> None:
        """Store the files of a directory in a bucket with its name."""
        bucket = self._buckets.setdefault(directory.name, Bucket())
        for path, _, names in os.walk(directory):
            for name in names:
                file = Path(path, name)
                bucket.put(str(file.relative_to(directory)), self._new((bytearray(file.read_bytes()),), {}))

    def _required(self, request: Request) -> Bucket:
        found = self._buckets.get(request.bucket)
        if found is None:
            raise Refused(404, "NoSuchBucket")
        return found

    def _bucket(self, request: Request) -> Response:
        if request.method == "PUT":
            self._buckets.setdefault(request.bucket, Bucket())
            return Response()
        bucket = self._required(request)
        if request.method == "POST" and "delete" in request.query:
            for key in re.findall(r"<Key>(.*?)</Key>", request.body.decode()):
                bucket.delete(key)
            return _xml(f"<DeleteResult {_NAMESPACE}></DeleteResult>")
        if request.method == "HEAD":
            return Response()
        if request.method != "GET":
            raise Refused(501, "NotImplemented")
        if "uploads" in request.query:
            return _xml(_uploads(bucket, request.query))
        return _xml(_page(bucket, request.bucket, request.query))

    def _multipart(self, bucket: Bucket, request: Request) -> Response | None:
        """Return the response if it is a request for a multipart upload."""
        key, query = request.key, request.query
        if request.method == "POST" and "uploads" in query:
            identity = f"{next(self._numbers):032x}"
            bucket.uploads[identity] = Multipart(key, _metadata(request.headers), _now())
            names = f"<Bucket>{request.bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{identity}</UploadId>"
            return _xml(f"<InitiateMultipartUploadResult {_NAMESPACE}>{names}</InitiateMultipartUploadResult>")
        if "uploadId" not in query:
            return None
        upload = bucket.uploads.get(query["uploadId"])
        if upload is None:
            raise Refused(404, "NoSuchUpload")
        if request.method == "PUT":
            part = self._new((request.body,), {})
            upload.parts[int(query["partNumber"])] = part
            return Response(headers={"ETag": part.etag})
        if request.method == "GET":
            return _xml(_parts(upload))
        del bucket.uploads[query["uploadId"]]
        if request.method == "DELETE":
            return Response(204)
        numbers = map(int, re.findall(r"<PartNumber>(\d+)</PartNumber>", request.body.decode()))
        pieces = tuple(piece for number in numbers for piece in upload.parts[number].pieces)
        found = self._new(pieces, upload.metadata)
        bucket.put(key, found)
        names = f"<Bucket>{request.bucket}</Bucket><Key>{escape(key)}</Key><ETag>{escape(found.etag)}</ETag>"
        return _xml(f"<CompleteMultipartUploadResult {_NAMESPACE}>{names}</CompleteMultipartUploadResult>")

    def _object(self, bucket: Bucket, request: Request) -> Response:
        found = bucket.objects.get(request.key)
        if request.method == "PUT":
            if request.headers.get("if-none-match") == "*" and found is not None:
                raise Refused(412, "PreconditionFailed")
            if "x-amz-copy-source" in request.headers:
                raise Refused(501, "NotImplemented")
            stored = self._new((request.body,), _metadata(request.headers))
            bucket.put(request.key, stored)
            return Response(headers={"ETag": stored.etag})
        if request.method == "DELETE":
            bucket.delete(request.key)
            return Response(204)
        if found is None:
            raise Refused(404, "NoSuchKey")
        if request.headers.get("if-match", found.etag).strip('"') != found.etag.strip('"'):
            raise Refused(412, "PreconditionFailed")
        return _content(found, request)

    def _new(self, pieces: tuple[bytearray, ...], metadata: Mapping[str, str]) -> Stored:
        etag = f'"{next(self._numbers):032x}-1"'
        return Stored(pieces, sum(map(len, pieces)), etag, _now(), metadata)


def _now() -> float:
    """Return the time as S3 tells it: in whole seconds."""
    return float(int(time()))


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
    return {"Content-Type": headers.get("content-type", "binary/octet-stream"), **kept}


def _content(found: Stored, request: Request) -> Response:
    """Return an object, or a range of it."""
    headers = {
        **found.metadata,
        "ETag": found.etag,
        "Last-Modified": formatdate(found.stored, usegmt=True),
        "Accept-Ranges": "bytes",
    }
    first, last, status = 0, found.size - 1, 200
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        first = int(wanted[1])
        if first >= found.size:
            raise Refused(416, "InvalidRange")
        last = min(last, int(wanted[2])) if wanted[2] else last
        headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
        status = 206
    body = () if request.method == "HEAD" else tuple(found.range(first, last))
    return Response(status, headers, body, last - first + 1)


def _page(bucket: Bucket, name: str, query: Mapping[str, str]) -> str:
    """Return a page of a listing: ListObjectsV2 or, without `list-type`, ListObjects."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most = min(_PAGE, int(query.get("max-keys", _PAGE)))
    after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
    keys, texts, groups, last = bucket.keys, list[str](), dict[str, None](), ""
    position = bisect_left(keys, max(prefix, after))
    more = False
    while position < len(keys) and keys[position].startswith(prefix):
        key = keys[position]
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        shown = key if end < 0 else key[: end + 1]
        position = position + 1 if end < 0 else bisect_left(keys, shown[:-1] + chr(ord(shown[-1]) + 1))
        if shown <= after:
            continue
        if len(texts) + len(groups) >= most:
            more = True
            break
        last = shown
        if end < 0:
            texts.append(_entry(key, bucket.objects[key]))
        else:
            groups[shown] = None
    prefixes = "".join(f"<CommonPrefixes><Prefix>{quote(each)}</Prefix></CommonPrefixes>" for each in groups)
    tokens = f"<NextContinuationToken>{last}</NextContinuationToken><NextMarker>{last}</NextMarker>" if more else ""
    return (
        f"<ListBucketResult {_NAMESPACE}><Name>{name}</Name><Prefix>{quote(prefix)}</Prefix><EncodingType>url"
        f"</EncodingType><MaxKeys>{most}</MaxKeys><KeyCount>{len(texts) + len(groups)}</KeyCount><IsTruncated>"
        f"{str(more).lower()}</IsTruncated>{tokens}{''.join(texts)}{prefixes}</ListBucketResult>"
    )


def _entry(key: str, found: Stored) -> str:
    return (
        f"<Contents><Key>{quote(key)}</Key><LastModified>{_iso(found.stored)}</LastModified><ETag>"
        f"{escape(found.etag)}</ETag><Size>{found.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def _uploads(bucket: Bucket, query: Mapping[str, str]) -> str:
    found = "".join(
        f"<Upload><Key>{quote(each.key)}</Key><UploadId>{identity}</UploadId><Initiated>{_iso(each.started)}"
        "</Initiated></Upload>"
        for identity, each in bucket.uploads.items()
        if each.key.startswith(query.get("prefix", ""))
    )
    return (
        f"<ListMultipartUploadsResult {_NAMESPACE}><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        f"{found}</ListMultipartUploadsResult>"
    )


def _parts(upload: Multipart) -> str:
    found = "".join(
        f"<Part><PartNumber>{number}</PartNumber><LastModified>{_iso(part.stored)}</LastModified><ETag>"
        f"{escape(part.etag)}</ETag><Size>{part.size}</Size></Part>"
        for number, part in sorted(upload.parts.items())
    )
    return f"<ListPartsResult {_NAMESPACE}><IsTruncated>false</IsTruncated>{found}</ListPartsResult>"


def _iso(when: float) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(when))


def _xml(text: str, status: int = 200) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return Response(status, {"Content-Type": "application/xml"}, (body,))


class Connection:
    """A connection, with requests one after the other."""

    def __init__(self, sock: socket.socket, store: Store) -> None:
        self._sock = sock
        self._store = store
        self._unread = b""

    def serve(self) -> None:
        """Answer all requests."""
        try:
            with self._sock:
                while (request := self._receive()) is not None:
                    self._send(request, self._store.handle(request))
        except OSError:
            pass  # the client has gone

    def _receive(self) -> Request | None:
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            data = self._sock.recv(65536)
            if not data:
                return None
            self._unread += data
        first, *lines = self._unread[:end].decode("latin-1").split("\r\n")
        self._unread = self._unread[end + 4 :]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("expect") == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        fields = dict(parse_qsl(query, keep_blank_values=True))
        return Request(method, bucket, key, fields, headers, self._body(int(headers.get("content-length", 0))))

    def _body(self, size: int) -> bytearray:
        body = bytearray(size)
        begun = self._unread[:size]
        body[: len(begun)], self._unread = begun, self._unread[size:]
        received, view = len(begun), memoryview(body)
        while received < size:
            found = self._sock.recv_into(view[received:])
            if not found:
                raise ConnectionError("the body is too short")
            received += found
        return body

    def _send(self, request: Request, response: Response) -> None:
        size = sum(map(len, response.body)) if response.size is None else response.size
        headers = {**response.headers, "Content-Length": str(size), "Server": "lean"}
        lines = [f"HTTP/1.1 {response.status} OK", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        if request.method == "HEAD":
            self._sock.sendall(head)
        elif size < _PIECE:
            self._sock.sendall(head + b"".join(response.body))
        else:
            self._sock.sendall(head)
            for part in response.body:
                for start in range(0, len(part), _PIECE):
                    self._sock.sendall(part[start : start + _PIECE])


def main(address: str, port: int, directory: str = "") -> None:
    """Serve until the process is killed. The bucket with the name of the directory has its files from the start."""
    store = Store()
    if directory:
        store.load(Path(directory))
    with socket.create_server((address, port), backlog=128) as listener:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Connection(sock, store).serve, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
