"""The objects in the listings of a store are read fast, and as botocore reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.s3 import KEY_ID, SECRET_KEY, Bucket

pytest.importorskip("boto3", reason="boto3 is not installed")

from botocore.parsers import ResponseParserError, RestXMLParser

from ftpsd.system.aws.parsers import StoreParser
from ftpsd.system.aws.sessions import new_session
from ftpsd.system.aws.times import parse_time

_NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'

_ENTRY = (
    "<Contents><Key>a+b%20c&amp;d/e</Key><LastModified>2026-11-26T17:50:58.123Z</LastModified>"
    "<ETag>&quot;9e925e9341b490bfd3b4c4ca3b0c1ef2&quot;</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm>"
    "<ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>5368709121</Size>"
    "<Owner><DisplayName>x</DisplayName><ID>Key</ID></Owner><StorageClass>STANDARD</StorageClass>"
    "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress></RestoreStatus></Contents>"
)

#: As some stores write it: in another order, with blanks and without what is optional.
_BARE = "\n  <Contents>\n <Size>0</Size>\n <ETag>x</ETag> <LastModified>2026-11-26T17:50:58Z</LastModified><Key/> </Contents>"

_PREFIX = "<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>"


def answer(entries: str, namespace: str = _NAMESPACE) -> dict[str, Any]:
    """Return an answer to ListObjectsV2."""
    body = f"<ListBucketResult{namespace}><Name>b</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
    return {"status_code": 200, "headers": {}, "body": f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()}


def parsed(parser: Any, found: dict[str, Any]) -> Any:
    """Return what a parser reads in an answer to ListObjectsV2."""
    model = new_session().get_service_model("s3")
    return parser.parse(found, model.operation_model("ListObjectsV2").output_shape)


@pytest.mark.parametrize("namespace", [_NAMESPACE, ""])
@pytest.mark.parametrize("entries", ["", _ENTRY, _BARE, _PREFIX + _ENTRY + _BARE * 2 + _PREFIX])
def test_listings_are_read_as_botocore_reads_them(entries: str, namespace: str) -> None:
    """All that the daemon needs of an object is the same, and so is the rest of the answer."""
    found = answer(entries, namespace)
    expected = parsed(RestXMLParser(timestamp_parser=parse_time), found)
    for each in expected.get("Contents", []):
        for name in each.keys() - {"Key", "LastModified", "ETag", "Size"}:
            del each[name]
    assert parsed(StoreParser(timestamp_parser=parse_time), found) == expected


@pytest.mark.parametrize("spoil", [
    lambda body: body[:-30], lambda body: body.replace(b"<Size>", b"<Size>x"), lambda body: body.replace(b"2026", b"x"),
])  # fmt: skip
def test_what_is_no_listing(spoil: Callable[[bytes], bytes]) -> None:
    """What botocore refuses is refused with the same kinds of errors."""
    found = answer(_ENTRY)
    found["body"] = spoil(found["body"])
    for parser in (RestXMLParser(timestamp_parser=parse_time), StoreParser(timestamp_parser=parse_time)):
        with pytest.raises((ValueError, ResponseParserError)):
            parsed(parser, found)


def test_clients_use_it(each_bucket: Bucket) -> None:
    """The client of a store reads only what the daemon needs, from real servers, too."""
    each_bucket.put("d/grüße & co", b"12345")
    client = new_session().create_client(
        "s3",
        "us-east-1",
        endpoint_url=each_bucket.server.endpoint,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET_KEY,
    )
    (found,) = client.list_objects_v2(Bucket=each_bucket.name)["Contents"]
    (expected,) = each_bucket.client.list_objects_v2(Bucket=each_bucket.name)["Contents"]
    assert found == {name: expected[name] for name in ("Key", "LastModified", "ETag", "Size")}
