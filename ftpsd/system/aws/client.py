"""The client of boto3 for a store: `make_client`, and `trial`, which finds out whether its settings are possible."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any, cast

import attrs
from botocore import utils
from botocore.config import Config

from ftpsd.config.sections.storage import ConfiguredStore, Credentials
from ftpsd.system.aws.boto import import_boto3
from ftpsd.system.aws.roles import assume
from ftpsd.system.aws.sessions import new_session

#: Seconds for a connection to the store, and for each answer at most.
_CONNECT, _READ = 10, 60

#: Seconds for the answer to a request for which a store may work long.
PATIENT = 300

#: How often botocore makes a request at most. It waits longer before each attempt.
_ATTEMPTS = 4


def make_client(store: ConfiguredStore, connections: int, attempts: int = _ATTEMPTS, seconds: int = _READ) -> object:
    """Return the client of boto3 for a store, with a pool of connections. Several threads may use it.

    It waits so many `seconds` for an answer. The body of a request that has a method `begin_sending` is told when it is
    sent.

    Raises what boto3 raises for wrong settings.
    """
    settings, credentials = store.settings, store.settings.credentials
    config = Config(
        connect_timeout=_CONNECT,
        read_timeout=seconds,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # boto3 signs the SHA-256 of each body, so that a damaged one is refused. With HTTPS and Content-MD5 it does
        # not, unless it is told to: MD5 suffices. None is its default, whatever `~/.aws/config` says.
        s3={"payload_signing_enabled": None, **({"addressing_style": "path"} if settings.endpoint else {})},
        user_agent_extra="ftpsd",
    )
    base = new_session()
    if credentials.access_key_id is not None and store.secret is not None:
        base.set_credentials(credentials.access_key_id, store.secret)
    if credentials.role is not None:
        base = assume(base, settings, credentials.role)
    import_boto3()
    client: object = base.create_client("s3", settings.region, endpoint_url=settings.endpoint, config=config)
    events = getattr(client, "meta").events  # noqa: B009 - it has no types
    events.register_last("before-call.s3", _expect_nothing)
    events.register("before-send.s3", _begin_sending)
    for operation in ("PutObject", "UploadPart"):  # boto3 1.26, of Debian 12, sends MD5 with each of them
        events.unregister(f"before-call.s3.{operation}", getattr(utils, "conditionally_calculate_md5", None))
    if settings.endpoint is not None:
        events.register("before-call.s3.DeleteObjects", _add_md5)
    return client


def _expect_nothing(params: dict[str, Any], **_: object) -> None:
    """Send the body at once. boto3 lets a body that is a file wait for the answer 100, one second at most."""
    if hasattr(params.get("body"), "begin_sending"):
        params["headers"].pop("Expect", None)


def _begin_sending(request: Any, **_: object) -> None:
    if hasattr(request.body, "begin_sending"):
        request.body.begin_sending()


def _add_md5(params: dict[str, dict[str, str] | bytes], **_: object) -> None:
    """Add Content-MD5, which other stores than Amazon's require (Swift) and boto3 sends no longer since 1.36."""
    headers, body = params["headers"], params["body"]
    if isinstance(headers, dict) and isinstance(body, bytes):
        headers["Content-MD5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def trial(store: ConfiguredStore) -> None:
    """Make a client, and the URL of a request, without any connection. Raises what boto3 raises for wrong settings."""
    settings = attrs.evolve(store.settings, credentials=Credentials("trial"))
    client = make_client(ConfiguredStore(store.name, settings, "trial"), 1)
    presign = cast(Callable[..., str], getattr(client, "generate_presigned_url"))  # noqa: B009 - it has no types
    presign("head_object", Params={"Bucket": settings.bucket, "Key": "trial"})
