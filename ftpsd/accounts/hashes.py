"""Password hashes: made with argon2id, verified in each form that users.yaml may hold."""

from __future__ import annotations

import re
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

#: Whether hashes of a shape are whole, for so many shapes at most.
_shapes: dict[tuple[object, ...], bool] = {}
_MOST_SHAPES = 1000

#: Longer passwords are refused before they are hashed: a hash of megabytes is an attack.
LONGEST_PASSWORD = 1024


def make(password: str) -> str:
    """A new hash: argon2id."""
    return str(_CONTEXT.hash(password))


#: What a hash ends with: salt and digest, or both in one (bcrypt).
_RANDOM = re.compile(r"(\$2.*\$|.*\$(?=[^$]+\$))([./+0-9A-Za-z]+)(?:\$([./+0-9A-Za-z]+))?")


def known(hashed: str) -> bool:
    """Whether it is a whole hash of a known form.

    Hashes that differ only in letters and digits of salt and digest are alike: passlib parses one of them (0.05 ms).
    """
    match = _RANDOM.fullmatch(hashed)
    if match is None:
        return _parses(hashed)
    form, salt, digest = match[1], match[2], match[3] or ""
    signs = tuple(sign in salt or sign in digest for sign in "./+")
    shape = (form, len(salt), len(digest), signs)
    if shape not in _shapes:
        if len(_shapes) >= _MOST_SHAPES:
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
