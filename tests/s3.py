"""Real S3 servers for tests: moto's, and OpenStack Swift with s3api. Each test has its own bucket.

`FTPSD_MOTO` names the program moto_server where the interpreter that runs the tests has none.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftpsd.system.aws.boto import import_boto3
from tests.daemon import free_range
from tests.processes import wait_for_port

#: The key that tests use, and its secret.
KEY_ID, SECRET_KEY = "test:tester", "testing-secret"

_numbers = itertools.count(1)


class S3Server:
    """A server that runs, and its buckets."""

    def __init__(self, kind: str, port: int) -> None:
        self.kind = kind
        self.port = port
        self.client = client_of(port)

    @property
    def endpoint(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def new_bucket(self) -> Bucket:
        """Make an empty bucket."""
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        self.client.create_bucket(Bucket=name)
        return Bucket(self, name)


class Bucket:
    """A bucket, and what tests look at in it."""

    def __init__(self, server: S3Server, name: str) -> None:
        self.server = server
        self.name = name
        self.client = server.client

    def settings(self, directory: Path, port: int | None = None, **changes: Any) -> dict[str, Any]:
        """Return an entry of `storage`, with the secret in a file of a directory. `port` is that of a proxy."""
        secret = directory / f"{self.name}.secret"
        secret.write_text(f"{SECRET_KEY}\n")
        secret.chmod(0o600)
        return {
            "type": "s3",
            "bucket": self.name,
            "endpoint": f"http://127.0.0.1:{port or self.server.port}",
            "region": "us-east-1",
            "credentials": {"access_key_id": KEY_ID, "secret_access_key_file": str(secret)},
            **changes,
        }

    def all_keys(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def put(self, key: str, data: bytes = b"", **options: Any) -> None:
        """Make an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data, **options)

    def put_many(self, contents: Mapping[str, bytes]) -> None:
        """Make many objects, eight at a time."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.put, contents.keys(), contents.values()))

    def get(self, key: str) -> bytes:
        """Return the bytes of an object."""
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def contents(self) -> dict[str, bytes]:
        """Return all objects that are no directory markers."""
        return {key: self.get(key) for key in self.all_keys() if not key.endswith("/")}

    def uploads(self) -> list[str]:
        """Return the keys of multipart uploads that are open."""
        found = self.client.list_multipart_uploads(Bucket=self.name)
        return sorted(each["Key"] for each in found.get("Uploads", []))

    def abort_all(self) -> None:
        """Abort all multipart uploads that are open."""
        for each in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []):
            self.client.abort_multipart_upload(Bucket=self.name, Key=each["Key"], UploadId=each["UploadId"])


def client_of(port: int, attempts: int = 3) -> Any:
    """Return a client of boto3, as a test uses it beside the daemon."""
    boto3, config = import_boto3(), importlib.import_module("botocore.config")
    options = config.Config(max_pool_connections=32, retries={"total_max_attempts": attempts})
    return boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET_KEY,
        config=options,
    )


def moto_server() -> str:
    """Return the program moto_server. Skip the test if there is none."""
    pytest.importorskip("boto3", reason="boto3 is not installed")
    beside = Path(sys.executable).with_name("moto_server")
    found = os.environ.get("FTPSD_MOTO") or (str(beside) if beside.exists() else None)
    if not found or not shutil.which(found):
        pytest.skip("there is no moto_server beside this interpreter, and FTPSD_MOTO names none")
    return found


@contextmanager
def _listening(port: int, command: list[str], **options: Any) -> Iterator[None]:
    """Run a server that listens on a port. It is killed at the end."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **options) as process:
        try:
            wait_for_port(port, process)
            yield
        finally:
            process.kill()


@contextmanager
def running_moto(least_part: int = 5 << 20) -> Iterator[S3Server]:
    """Run moto's server. What it holds is in memory and in files without a name. A part has `least_part` bytes."""
    program = moto_server()
    port = free_range(1)[0]
    with tempfile.TemporaryFile() as log:
        environment = {
            **os.environ,
            "MOTO_DOCKER_DEFAULT_HOST": "127.0.0.1",
            "S3_UPLOAD_PART_MIN_SIZE": str(least_part),
        }
        command = [program, "-H", "127.0.0.1", "-p", str(port)]
        with _listening(port, command, stdout=log, stderr=log, env=environment):
            yield S3Server("moto", port)


@contextmanager
def running_lean() -> Iterator[S3Server]:
    """Run the store of the benchmark, which is fast, keeps all in memory, and verifies nothing."""
    pytest.importorskip("boto3", reason="boto3 is not installed")
    port = free_range(1)[0]
    command = [sys.executable, "-m", "benchmarks.s3.lean_store", "127.0.0.1", str(port)]
    tree = Path(__file__).resolve().parent.parent
    with _listening(port, command, cwd=tree):
        yield S3Server("lean", port)


@contextmanager
def running_swift(least_part: int = 5 << 20) -> Iterator[S3Server]:
    """Run OpenStack Swift of Debian's packages, with all its files in a directory of its own."""
    pytest.importorskip("boto3", reason="boto3 is not installed")
    if not all(shutil.which(f"swift-{kind}-server") for kind in ("proxy", "account", "container", "object")):
        pytest.skip("OpenStack Swift is not installed: swift-proxy, swift-account, swift-container, swift-object")
    port = free_range(4)[0]
    with tempfile.TemporaryDirectory() as directory:
        command = [
            "/usr/bin/python3",
            str(Path(__file__).with_name("swift_server.py")),
            directory,
            str(port),
            SECRET_KEY,
            str(least_part),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                for each in range(port, port + 4):
                    wait_for_port(each, process)
                yield S3Server("swift", port)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
