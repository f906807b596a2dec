"""The times in the answers of a store are read fast: a listing has many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.s3 import KEY_ID, SECRET_KEY, Bucket

pytest.importorskip("boto3", reason="boto3 is not installed")

from botocore import utils

from ftpsd.config.sections.storage import ConfiguredStore, Credentials, S3Storage
from ftpsd.storage.s3.calls.client import Calls, Objects
from ftpsd.system.aws.client import make_client
from ftpsd.system.aws.times import parse_time


@pytest.mark.parametrize("value", [
    "2026-11-26T17:50:58.000Z", "2026-11-26T17:50:58Z", "2026-11-26T17:50:58.123456+01:00", "2026-11-26T17:50:58",
    "Thu, 26 Nov 2026 17:50:58 GMT", "Thu, 26 Nov 2026 17:50:58 +0100", "1795715458", 1795715458, 1795715458.5,
])  # fmt: skip
def test_all_formats(value: Any) -> None:
    """Each format means the same time as to botocore."""
    assert parse_time(value).timestamp() == utils.parse_timestamp(value).timestamp()


@pytest.mark.parametrize("value", ["", "yesterday", "2026-99-99T00:00:00Z", None])
def test_what_is_no_time(value: Any) -> None:
    """What botocore refuses is refused."""
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        utils.parse_timestamp(value)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        parse_time(value)


def test_a_store_is_read_without_the_slow_way(
    each_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No answer of the servers needs botocore's own parser of times."""
    each_bucket.put("a", b"1")
    stored = each_bucket.client.head_object(Bucket=each_bucket.name, Key="a")["LastModified"].timestamp()
    settings = S3Storage(
        type="s3",
        bucket=each_bucket.name,
        endpoint=each_bucket.server.endpoint,
        region="us-east-1",
        credentials=Credentials(KEY_ID, tmp_path / "secret"),
    )
    objects = Objects(Calls(make_client(ConfiguredStore("archive", settings, SECRET_KEY), 4), each_bucket.name, repr))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("botocore has read a time")

    monkeypatch.setattr("dateutil.parser.parse", refuse)
    found = objects.head("a")
    assert found is not None
    assert found.stored == stored
    assert int(objects.page("").objects[0].stored) == int(stored)
