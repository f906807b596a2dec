"""Daemons whose users have homes and folders in a store."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.daemon import Daemon, merge
from tests.s3 import Bucket

Make = Callable[..., Daemon]

MIB = 1 << 20

#: A home in the store, for users of this name.
HOME = {"storage": "archive", "path": "{user}/"}

#: Three parts and a bit, that compress badly.
LARGE = random.Random(15).randbytes(3 * 8 * MIB + 12_345)


def store_daemon(
    make_daemon: Make,
    bucket: Bucket,
    users: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    port: int | None = None,
    start: bool = True,
    **store: Any,
) -> Daemon:
    """Return a daemon with a store `archive`. By default alice and bob have homes in it. `port` is that of a proxy."""
    daemon = make_daemon(start=False)
    entry = bucket.settings(daemon.directory, port, **store)
    daemon.settings = merge(daemon.settings, merge({"storage": {"archive": entry}}, settings or {}))
    daemon.users = users or {"alice": {"home": HOME}, "bob": {"home": HOME}}
    daemon.write()
    return daemon.start() if start else daemon
