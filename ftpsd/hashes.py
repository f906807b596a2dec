"""Password hashes: made with argon2id, verified in each form that users.yaml may hold."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from threading import Lock

with warnings.catch_warnings():
    # passlib imports `crypt`, which Python 3.11 and 3.12 have and announce the end of.
    warnings.simplefilter("ignore", DeprecationWarning)
    from passlib.context import CryptContext

_CONTEXT = CryptContext(schemes=["argon2", "scrypt", "bcrypt", "sha512_crypt", "sha256_crypt"])

#: Forms that have been used, and who uses one for the first time.
_used: set[str | None] = set()
_first = Lock()

#: Longer passwords are refused before they are hashed: a hash of megabytes is an attack.
LONGEST_PASSWORD = 1024


def make(password: str) -> str:
    """A new hash: argon2id."""
    return str(_CONTEXT.hash(password))


def known(hashed: str) -> bool:
    """Whether it is a whole hash of a known form."""
    try:
        handler = _CONTEXT.handler(_CONTEXT.identify(hashed, required=True))
        return handler.from_string(hashed).checksum is not None
    except (ValueError, TypeError, KeyError):
        return False


def verify(password: str, hashed: str) -> bool:
    """Whether the password belongs to the hash. Takes the time that the hash asks for."""
    secret = password.encode("utf-8", "surrogateescape")
    if len(secret) > LONGEST_PASSWORD or b"\0" in secret:
        return False
    form = _CONTEXT.identify(hashed)
    # passlib makes its tables and looks for its backends when a form is first used, not safely for several threads.
    with nullcontext() if form in _used else _first:
        try:
            return bool(_CONTEXT.verify(secret, hashed))
        except (ValueError, TypeError):
            return False  # bcrypt 5 refuses what is longer than 72 bytes
        finally:
            _used.add(form)
