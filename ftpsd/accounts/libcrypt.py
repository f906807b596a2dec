"""Hash passwords with the system's libcrypt (libxcrypt, crypt(3)), through ctypes.

Python's module `crypt` keeps the interpreter lock while it hashes, which stops all sessions for as long, and is removed
in Python 3.13. ctypes frees the lock.
"""

from __future__ import annotations

import ctypes
import hmac

#: The longest password in bytes that the library takes: CRYPT_MAX_PASSPHRASE_SIZE without the NUL byte at its end.
LONGEST_PASSWORD = 511

#: The size of `struct crypt_data` in libxcrypt, which its ABI fixes.
_DATA = 32768

#: The names of the library: Debian, and Fedora.
_NAMES = ("libcrypt.so.1", "libcrypt.so.2")


def _load() -> ctypes.CDLL | None:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
            library.crypt_rn.restype = ctypes.c_char_p
            library.crypt_rn.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
            library.crypt_checksalt.argtypes = [ctypes.c_char_p]
        except (OSError, AttributeError):  # another libcrypt has no `crypt_checksalt`
            continue
        return library
    return None


#: Loaded when this module is imported: the sandbox keeps the daemon from its file later.
_LIBRARY = _load()

#: What `crypt_checksalt` returns for a prefix that can be used: "ok", "legacy" (sha256-crypt), and "too cheap".
_USABLE = (0, 3, 4)


def supports(hashed: str) -> bool:
    """Return whether the library is there and knows the format of a hash."""
    return _LIBRARY is not None and hashed.isascii() and _LIBRARY.crypt_checksalt(hashed.encode()) in _USABLE


def verify(secret: bytes, hashed: str) -> bool:
    """Return whether a password without NUL bytes matches a hash. Blocks, without the interpreter lock.

    A password that is too long for the library is wrong, and takes as long as any other.
    """
    assert _LIBRARY is not None, "ask `supports` first"
    expected = hashed.encode()
    found = _LIBRARY.crypt_rn(secret[:LONGEST_PASSWORD], expected, ctypes.create_string_buffer(_DATA), _DATA)
    matches = found is not None and hmac.compare_digest(found, expected)
    return matches and len(secret) <= LONGEST_PASSWORD
