"""The JSON text of messages between processes: encoded."""

from __future__ import annotations

import json

#: `json.dumps` would make an encoder for each message.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def encoded(value: object) -> bytes:
    """Return a value as JSON, in ASCII."""
    return _encode(value).encode("ascii")
