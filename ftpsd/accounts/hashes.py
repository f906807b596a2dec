"""Make password hashes with argon2id, and verify passwords against every hash format that users may have."""

from __future__ import annotations

import re
import time
import warnings
from contextlib import nullcontext
from threading import Lock
from typing import Protocol

from ftpsd.accounts import libcrypt
from ftpsd.config.sections.passwords import PasswordSettings

with warnings.catch_warnings():
    # passlib imports `crypt`, which is deprecated in Python 3.11 and 3.12, and removed in 3.13.
    warnings.simplefilter("ignore", DeprecationWarning)
    from passlib.context import CryptContext
    from passlib.hash import argon2

_CONTEXT = CryptContext(
    schemes=[
        *("argon2", "scrypt", "bcrypt", "sha512_crypt", "sha256_crypt"),
        *("ldap_salted_sha1", "ldap_salted_sha256", "ldap_salted_sha512", "ldap_sha1"),
    ]
)


class Parsed(Protocol):
    """What passlib reads from a hash; each format has some of these."""

    checksum: str | bytes | None
    rounds: int
    memory_cost: int
    block_size: int
    parallelism: int


#: Formats that have been used, and the lock for the first use of one.
_initialized: set[str | None] = set()
_initializing = Lock()

#: Whether hashes of a shape are valid, for a limited number of shapes.
_shapes: dict[tuple[object, ...], bool] = {}
_MAX_SHAPES = 1000

#: The maximum length of a password in bytes. A longer one is refused before it is hashed, to limit the cost of a login.
LONGEST_PASSWORD = 1024

#: A hash of yescrypt, which libcrypt verifies (crypt(5)): the logarithm of N, the block size, salt and digest.
_YESCRYPT = re.compile(r"\$y\$[./0-9A-Za-z]([./0-9A-Za-j])([./0-9A-Za-j])\$[./0-9A-Za-z]{0,86}\$[./0-9A-Za-z]{43}")
_CRYPT_DIGITS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

#: The most memory in bytes that a login may need, and the most rounds: 2 to 5 seconds of a processor.
_MOST_MEMORY = 1 << 30
_MOST_ROUNDS = {"bcrypt": 16, "sha512_crypt": 10_000_000, "sha256_crypt": 10_000_000}

#: The most lanes of argon2, which starts a thread for each lane in each pass, and the most of these threads. Both are
#: what `passwords` in ftpsd.yaml allows.
_MOST_LANES, _MOST_LANE_THREADS = 64, 64 * 100

#: The formats for which libcrypt is used. It does not keep the interpreter lock, as passlib does for sha512-crypt.
_CRYPT = ("$y$", "$6$", "$5$")

#: What LDAP servers put before a hash. The names of schemes are case-insensitive (RFC 2307 section 5.3).
_LDAP = re.compile(r"\{([0-9A-Za-z]+)\}(.*)", re.DOTALL)


def make(password: str, cost: PasswordSettings = PasswordSettings()) -> str:  # noqa: B008 - it is frozen
    """Return a new argon2id hash of a password. Blocks for as long as the cost demands."""
    handler = argon2.using(
        type="ID", memory_cost=cost.memory >> 10, rounds=cost.iterations, parallelism=cost.parallelism
    )
    return str(handler.hash(password.encode("utf-8", "surrogateescape")))


def _plain(hashed: str) -> str:
    """Return a hash in the form in which passlib and libcrypt know it: without {CRYPT}, other schemes in capitals."""
    match = _LDAP.fullmatch(hashed)
    if match is None:
        return hashed
    scheme, rest = match[1].upper(), match[2]
    if scheme in ("CRYPT", "ARGON2"):
        return rest if rest.startswith("$") else ""  # the old DES-based crypt looks at 8 characters only
    return f"{{{scheme}}}{rest}"


#: The end of a hash: salt and digest, or both in one part (bcrypt, and schemes of LDAP).
_RANDOM = re.compile(
    r"((?:\{[0-9A-Za-z]+\})?\$2.*\$|.*\$(?=[^$]+\$)|\{[0-9A-Za-z]+\})([./+0-9A-Za-z]+)(?:\$([./+0-9A-Za-z]+))?(=*)"
)


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
    shape = (prefix, len(salt), len(digest), signs, match[4])
    if shape not in _shapes:
        if len(_shapes) >= _MAX_SHAPES:
            return _parses(hashed)
        _shapes[shape] = _parses(hashed)
    return _shapes[shape]


def _parses(hashed: str) -> bool:
    plain = _plain(hashed)
    yescrypt = _YESCRYPT.fullmatch(plain)
    if yescrypt is not None:
        log_n, block = (_CRYPT_DIGITS.index(each) + 1 for each in yescrypt.groups())
        return block << (7 + log_n) <= _MOST_MEMORY and libcrypt.supports(plain)
    try:
        name = _CONTEXT.identify(plain, required=True)
        parsed = _CONTEXT.handler(name).from_string(plain)
        return parsed.checksum is not None and _is_affordable(name, parsed)
    except (ValueError, TypeError, KeyError):
        return False


def _is_affordable(name: str, parsed: Parsed) -> bool:
    """Return whether a login with this hash costs no more than seconds and 1 GiB.

    In some sources a user may write the own hash. It must not stop the logins of others.
    """
    if name == "argon2":
        memory = parsed.memory_cost << 10
        lanes, passes = parsed.parallelism, parsed.rounds
        is_small = memory <= _MOST_MEMORY and memory * passes <= 4 * _MOST_MEMORY
        return is_small and lanes <= _MOST_LANES and lanes * passes <= _MOST_LANE_THREADS
    if name == "scrypt":
        memory = parsed.block_size << (7 + parsed.rounds)
        return memory <= _MOST_MEMORY and memory * parsed.parallelism <= 4 * _MOST_MEMORY
    return parsed.rounds <= _MOST_ROUNDS[name] if name in _MOST_ROUNDS else True


def is_weak(hashed: str) -> bool:
    """Return whether a valid hash has no salt: equal passwords have equal hashes, and tables of them exist."""
    return hashed[:5].upper() == "{SHA}"


def parameters(hashed: str) -> str:
    """Return what of a valid hash says its format and its cost: all before salt and digest, as `$6$rounds=5000$`."""
    match = _RANDOM.fullmatch(hashed)
    return "" if match is None else match[1]


def cost_of(hashed: str) -> float:
    """Measure what one verification costs, in seconds of one processor. Blocks for three of them."""
    found = []
    for _ in range(3):
        before = time.process_time()
        verify("password", hashed)
        found.append(time.process_time() - before)
    return min(found)  # other processes only make it longer


def verify(password: str, hashed: str) -> bool:
    """Return whether the password matches the hash. Blocks for as long as the hash's cost parameters demand."""
    secret = password.encode("utf-8", "surrogateescape")
    if len(secret) > LONGEST_PASSWORD or b"\0" in secret:
        return False
    plain = _plain(hashed)
    if plain.startswith(_CRYPT) and libcrypt.supports(plain):
        return libcrypt.verify(secret, plain)
    return _verify_with_passlib(secret, plain)


def _verify_with_passlib(secret: bytes, hashed: str) -> bool:
    scheme = _CONTEXT.identify(hashed)
    # passlib builds its tables and finds its backends at the first use of a format, which is not thread-safe.
    with nullcontext() if scheme in _initialized else _initializing:
        try:
            return bool(_CONTEXT.verify(secret, hashed))
        except (ValueError, TypeError):
            return False  # bcrypt 5 raises ValueError for passwords of more than 72 bytes
        finally:
            _initialized.add(scheme)
