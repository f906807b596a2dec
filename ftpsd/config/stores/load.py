"""Check the section `storage`, and read the secrets of its stores: load_stores."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from urllib.parse import urlsplit

from ftpsd.config.faults import ConfigurationWarning, Key, quoted
from ftpsd.config.modes import read_secret
from ftpsd.config.sections.storage import LARGEST_PART, LEAST_PART, ConfiguredStore, Credentials, S3Storage
from ftpsd.config.settings import Settings
from ftpsd.config.yaml import Document
from ftpsd.protocol.addresses import is_loopback
from ftpsd.protocol.printable import printable
from ftpsd.system.aws.boto import import_boto3

_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

#: What boto3 accepts: names of buckets also by other rules than Amazon's, and of access points. No store has shorter
#: ones, and dots alone are not possible in a URL.
_BUCKET = re.compile(r"(?!\.+$)[a-zA-Z0-9._-]{3,255}|arn:(aws|aws-[a-z-]+):s3[a-z-]*:[a-zA-Z0-9:/._-]+")

#: As boto3 checks it.
_REGION = re.compile("(?![0-9]+$)(?!-)[a-zA-Z0-9-]{1,63}(?<!-)")

#: The longest text of boto3 that is shown.
_LONGEST = 300

_ROLE = re.compile(r"arn:[a-z0-9-]+:iam::[0-9]+:role/.+")

#: The most connections of a store that one transfer may use.
_MOST_PARALLEL = 64


def load_stores(document: Document, settings: Settings) -> tuple[ConfiguredStore, ...]:
    """Return the stores. Those that have faults are left out."""
    if not settings.storage:
        return ()
    has_boto3 = _require_boto3(document)
    found = []
    for name, store in settings.storage.items():
        before, key = len(document.faults), ("storage", name)
        if not _NAME.fullmatch(name):
            document.fault(key, f"{quoted(name)} is not a name of a store", "Use letters, digits, and _.- after them.")
        _check(document, key, store)
        secret = _secret(document, key, store.credentials, settings.file_permissions == "check")
        if has_boto3 and len(document.faults) == before:
            _check_client(document, key, ConfiguredStore(name, store, secret))
        if len(document.faults) == before:
            found.append(ConfiguredStore(name, store, secret))
    _check_overlaps(document, found)
    return tuple(found)


def _require_boto3(document: Document) -> bool:
    try:
        import_boto3()
        return True
    except ImportError as error:
        remedy = "Install it (pip install 'ftpsd[s3]', or apt install python3-boto3), or remove the section."
        document.fault(("storage",), f"needs the Python module boto3, which cannot be imported ({error})", remedy)
        return False


def _check_client(document: Document, key: Key, store: ConfiguredStore) -> None:
    """Add a fault if boto3 refuses the settings of a store, those of the environment, or those of ~/.aws."""
    from ftpsd.system.aws.client import trial

    try:
        trial(store)
    except Exception as error:
        text = printable(f"boto3 refuses it: {error}", _LONGEST)
        remedy = "Correct it, or what the environment (AWS_…) and ~/.aws say."
        document.fault(
            (*key, "endpoint") if isinstance(error, ValueError) and store.settings.endpoint else key, text, remedy
        )


def _check(document: Document, key: Key, store: S3Storage) -> None:
    if not _BUCKET.fullmatch(store.bucket):
        document.fault((*key, "bucket"), f"{quoted(store.bucket)} is not the name of a bucket", "Write its name alone.")
    if store.endpoint is not None:
        _check_endpoint(document, (*key, "endpoint"), store.endpoint)
    if store.region is not None and not _REGION.fullmatch(store.region):
        remedy = "Write it as your store names it: letters, digits, and - between them."
        document.fault((*key, "region"), f"{quoted(store.region)} is not a region", remedy)
    if not LEAST_PART <= store.part_size <= LARGEST_PART:
        problem = f"{store.part_size} bytes are not possible for a part"
        document.fault((*key, "part_size"), problem, "Write a size from 5M to 5G.")
    if not 1 <= store.parallel <= _MOST_PARALLEL:
        remedy = f"Write a number from 1 to {_MOST_PARALLEL}."
        document.fault((*key, "parallel"), f"{store.parallel} is out of range", remedy)
    elif store.memory < (needed := store.part_size * max(2, store.parallel)):
        problem = f"{store.memory} bytes are too few for {max(2, store.parallel)} parts of {store.part_size} bytes"
        least = -(-needed >> 20)
        document.fault((*key, "memory"), problem, f"Write {least}M or more, or smaller parts.")


def _check_endpoint(document: Document, key: Key, endpoint: str) -> None:
    remedy = "Write it as https://s3.example.org, without a bucket."
    try:
        url = urlsplit(endpoint)
        is_good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        is_good = False
    if not is_good or url.path not in ("", "/") or url.query or url.fragment or url.username is not None:
        document.fault(key, f"{quoted(_without_password(endpoint))} is not the URL of a server", remedy)


def _without_password(url: str) -> str:
    return re.sub("//[^/]*@", "//", url)


def _secret(document: Document, key: Key, credentials: Credentials, check_modes: bool) -> str | None:
    """Return the secret access key; None if the store has none, or if there is a fault."""
    key = (*key, "credentials")
    file = credentials.secret_access_key_file
    if (credentials.access_key_id is None) != (file is None):
        missing = "secret_access_key_file" if file is None else "access_key_id"
        document.fault((*key, missing), "is missing", f"Add {missing}: the two belong together.")
        return None
    if credentials.access_key_id is not None and not re.fullmatch(r"[\x21-\x7e]+", credentials.access_key_id):
        document.fault((*key, "access_key_id"), "is not the identifier of a key", "Write it as your store shows it.")
    if credentials.role is not None and not _ROLE.fullmatch(credentials.role):
        remedy = "Write it as arn:aws:iam::123456789012:role/NAME."
        document.fault((*key, "role"), f"{quoted(credentials.role)} is not the ARN of a role", remedy)
    if file is None:
        return None
    return read_secret(document, (*key, "secret_access_key_file"), file, check_modes)


def _check_overlaps(document: Document, stores: Iterable[ConfiguredStore]) -> None:
    """Add a fault for two stores with the same objects: quotas would count wrong."""
    for one, other in combinations(stores, 2):
        first, second = one.settings, other.settings
        is_same = (first.service, first.bucket) == (second.service, second.bucket)
        if is_same and (
            first.key_prefix.startswith(second.key_prefix) or second.key_prefix.startswith(first.key_prefix)
        ):
            problem = f"has objects of the store {one.name}"
            document.fault(("storage", other.name), problem, f"Choose another prefix, or use {one.name} with a path.")


def warnings(settings: Settings) -> list[ConfigurationWarning]:
    """Return what works, but should be changed."""
    found = []
    for name, store in settings.storage.items():
        url = urlsplit(store.endpoint or "")
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            problem = f"files go to {store.endpoint} unencrypted"
            found.append(ConfigurationWarning(("storage", name, "endpoint"), problem, "write https://"))
    return found
