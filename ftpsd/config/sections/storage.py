"""The section `storage`: S3-compatible object stores, in which homes and folders can be.

A *place* is where a home or folder is, as one string: the absolute path of a directory, or `s3:NAME/PATH` in the store
NAME.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from attrs import Factory, field, frozen

from ftpsd.config.sections.values import Quantity

_SCHEME = "s3:"

#: What the hosts of Amazon's services end with.
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn")

_PORTS = {"http": 80, "https": 443}

#: The least size of a part, except the last one, and the most parts of an object (Amazon S3, multipart upload limits).
LEAST_PART, MOST_PARTS = 5 << 20, 10_000

#: The largest part.
LARGEST_PART = 5 << 30

_PART_SIZE = Quantity(8 << 20)
_MEMORY = Quantity(512 << 20)


class StorePath(str):
    """A path in a store: names with slashes between them, or empty."""

    __slots__ = ()


@frozen
class Credentials:
    """Who the daemon is for a store.

    Without keys boto3 looks for them: in the environment, in ~/.aws, and at the instance. With `role` they are used to
    assume it.
    """

    access_key_id: str | None = None
    secret_access_key_file: Path | None = None
    role: str | None = None


@frozen(kw_only=True)
class S3Storage:
    """One store: a bucket, or what lies below a prefix of it."""

    type: Literal["s3"]
    bucket: str
    #: The directory in the bucket; None: all of it.
    prefix: StorePath | None = None
    #: The URL of the service; None: Amazon's.
    endpoint: str | None = None
    region: str | None = None
    credentials: Credentials = Factory(Credentials)
    #: The bytes of each part of an upload. They grow with the file, so that MOST_PARTS suffice.
    part_size: Quantity = _PART_SIZE
    #: How many parts of one transfer are sent or fetched at a time.
    parallel: int = 4
    #: The most bytes of parts that are in memory, of all transfers together.
    memory: Quantity = _MEMORY
    #: The most objects of a directory that may be renamed: each is copied. 0: no directory can be renamed.
    rename_directories: int = 0
    #: The most files of a directory for which listings show `x-amz-meta-mtime`: each is asked for it.
    exact_times: int = 100

    @property
    def key_prefix(self) -> str:
        """What all keys begin with: empty, or it ends with a slash."""
        return f"{self.prefix}/" if self.prefix else ""

    @property
    def service(self) -> str:
        """The service, the same for all ways to write its URL.

        Names of buckets are unique in all regions of one of Amazon's partitions: China, GovCloud, and the others.
        """
        url = urlsplit(self.endpoint or "https://s3.amazonaws.com")
        host = (url.hostname or "").rstrip(".")
        if host.endswith(_AMAZON):
            where = host if self.endpoint else self.region or ""
            if where.startswith("cn-") or host.endswith(_AMAZON[1]):
                return _AMAZON[1]
            return f"us-gov{_AMAZON[0]}" if "us-gov-" in where else _AMAZON[0]
        return host if url.port in (None, _PORTS.get(url.scheme)) else f"{host}:{url.port}"


@frozen
class ConfiguredStore:
    """A store that a load has found. It is equal to one of another load with the same settings and secret."""

    name: str
    settings: S3Storage
    #: The content of `secret_access_key_file`; None without it.
    secret: str | None = field(default=None, repr=False)


class StorePlace(str):
    """A home in a store, as a place."""

    __slots__ = ()


@frozen
class StoreHome:
    """The key `home` of a user, if it is in a store."""

    storage: str
    path: StorePath

    @property
    def place(self) -> StorePlace:
        """The home as a place."""
        return place_in(self.storage, self.path)


class PlaceInStore(NamedTuple):
    """The parts of a place."""

    store: str
    #: What keys begin with, below the prefix of the store: empty, or it ends with a slash.
    prefix: str


def place_in(store: str, path: str) -> StorePlace:
    """Return a path in a store as a place."""
    return StorePlace(f"{_SCHEME}{store}/{path}".rstrip("/"))


def is_in_store(place: str) -> bool:
    """Return whether a place of a configuration that was loaded is in a store."""
    return place.startswith(_SCHEME)


def parse_place(place: str) -> PlaceInStore:
    """Return the store and the path of a place for which `is_in_store` is true."""
    store, _, path = place.removeprefix(_SCHEME).partition("/")
    return PlaceInStore(store, f"{path}/" if path else "")
