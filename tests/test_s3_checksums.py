"""How a store knows that the bytes of an upload are right: by the signature, and by Content-MD5 where it is required."""

from __future__ import annotations

import hashlib

from tests.ftpclient import secured
from tests.s3 import Bucket, S3Server
from tests.s3_proxy import Answer, FaultyProxy
from tests.store_daemon import LARGE, Make, store_daemon

#: An object of one part, one of several, and the part of 8 MiB that an upload begins with.
FILES = {"small": b"small", "large": LARGE}
FIRST = LARGE[: 8 << 20]


def upload_all(make_daemon: Make, bucket: Bucket, port: int) -> None:
    """Upload all files through a proxy, one part after the other, and look at the objects."""
    daemon = store_daemon(make_daemon, bucket, port=port, parallel=1)
    with secured(daemon) as client:
        for name, content in FILES.items():
            client.upload(f"STOR {name}", content)
    assert bucket.contents() == {f"alice/{name}": content for name, content in FILES.items()}


def test_the_signature_contains_the_bytes(make_daemon: Make, each_bucket: Bucket) -> None:
    """The SHA-256 of each part is signed, so no second checksum is computed."""
    with FaultyProxy(each_bucket.server.port) as proxy:
        upload_all(make_daemon, each_bucket, proxy.port)
        puts = [each for each in proxy.requests if each.method == "PUT"]
    signed = {each.headers["x-amz-content-sha256"] for each in puts}
    assert {hashlib.sha256(data).hexdigest() for data in (FILES["small"], FIRST)} <= signed
    assert [str(each) for each in puts if "content-md5" in each.headers] == []


def test_a_bucket_with_object_lock(make_daemon: Make, moto: S3Server) -> None:
    """A bucket that retains all objects requires Content-MD5: uploads to it succeed."""
    name = "retained-for-a-day"
    moto.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    moto.client.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=configuration)
    upload_all(make_daemon, Bucket(moto, name), moto.port)


def test_a_store_that_requires_md5_of_parts(make_daemon: Make, bucket: Bucket) -> None:
    """Amazon's answer to a part without Content-MD5: that part is sent again with it, and all others have it."""
    with FaultyProxy(bucket.server.port) as proxy:
        text = (
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Part requests with Object Lock parameters"
        )
        proxy.spoil("PUT", "partNumber=", Answer(400, "InvalidRequest", message=text))
        upload_all(make_daemon, bucket, proxy.port)
        parts = [each for each in proxy.requests if "partNumber=" in each.target]
    assert parts[0].target == parts[1].target
    assert ["content-md5" in each.headers for each in parts] == [False, *[True] * (len(parts) - 1)]
