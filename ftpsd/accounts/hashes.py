"""Make password hashes with argon2id, and verify passwords against every hash format that users.yaml allows."""

from __future__ import annotations

import re
import warnings
from contextlib import nullcontext
from threading import Lock

with warnings.catch_warnings():
    # passlib imports `crypt`, which is deprecated in Python 3.11 and 3.12, and removed in 3.13.
    warnings.simplefilter("ignore", DeprecationWarning)
    from passlib.context import CryptContext

_CONTEXT = CryptContext(schemes=["argon2", "scrypt", "bcrypt", "sha512_crypt", "sha256_crypt"])

#: Formats that have been used, and the lock for the first use of one.
_initialized: set[str | None] = set()
_initializing = Lock()

#: Whether hashes of a shape are valid, for a limited number of shapes.
_shapes: dict[tuple[object, ...], bool] = {}
_MAX_SHAPES = 1000

#: The maximum length of a password in bytes. A longer one is refused before it is hashed, to limit the cost of a login.
LONGEST_PASSWORD = 1024


def make(password: str) -> str:
    """Return a new argon2id hash of a password."""
    return str(_CONTEXT.hash(password.encode("utf-8", "surrogateescape")))


#: The end of a hash: salt and digest, or both in one part (bcrypt).
_RANDOM = re.compile(r"(\$2.*\$|.*\$(?=[^$]+\$))([./+0-9A-Za-z]+)(?:\$([./+0-9A-Za-z]+))?")


def is_valid(hashed: str) -> bool:
    """Return whether a text is a complete hash in an allowed format.

    passlib needs 0.05 ms to parse a hash. Hashes that differ only in the letters and digits of salt and digest have
    one shape, and only the first hash of each shape is parsed.
    """
    match = _RANDOM.fullmatch(hashed)
    if match is None:
        return _parses(hashed)
    prefix, salt, digest = match[1], match[2], match[3] or ""
    signs = tuple(sign in salt or sign in digest for sign in "./+")
    shape = (prefix, len(salt), len(digest), signs)
    if shape not in _shapes:
        if len(_shapes) >= _MAX_SHAPES:
            return _parses(hashed)
        _shapes[shape] = _parses(hashed)
    return _shapes[shape]


def _parses(hashed: str) -> bool:
    try:
        handler = _CONTEXT.handler(_CONTEXT.identify(hashed, required=True))
        return handler.from_string(hashed).checksum is not None
    except (ValueError, TypeError, KeyError):
        return False


def verify(password: str, hashed: str) -> bool:
    """Return whether the password matches the hash. Blocks for as long as the hash's cost parameters demand."""
    secret = password.encode("utf-8", "surrogateescape")
    if len(secret) > LONGEST_PASSWORD or b"\0" in secret:
        return False
    scheme = _CONTEXT.identify(hashed)
    # passlib builds its tables and finds its backends at the first use of a format, which is not thread-safe.
    with nullcontext() if scheme in _initialized else _initializing:
        try:
            return bool(_CONTEXT.verify(secret, hashed))
        except (ValueError, TypeError):
            return False  # bcrypt 5 raises ValueError for passwords of more than 72 bytes
        finally:
            _initialized.add(scheme)
