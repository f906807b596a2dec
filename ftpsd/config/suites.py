"""What the cipher suites that `tls.ciphers` allows are worth, by OpenSSL's names of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ANONYMOUS = re.compile("A(?:EC)?DH-")
_UNENCRYPTED = re.compile(".*NULL")
_BROKEN = re.compile(".*(?:RC4|RC2|DES|IDEA|EXP)")
#: TLS 1.3 has nothing else.
_FORWARD_SECRET = re.compile("TLS_|ECDHE-|DHE-|EDH-")

_KINDS = (
    (_UNENCRYPTED, "without encryption", "!eNULL"),
    (_ANONYMOUS, "without authentication of the server", "!aNULL"),
    (_BROKEN, "with broken encryption", "!RC4:!DES:!3DES:!IDEA:!EXP"),
)


def problems(offered: Iterable[str]) -> list[tuple[str, str]]:
    """Return what must not be offered, and what to write instead."""
    names = list(offered)
    found = []
    for kind, text, without in _KINDS:
        named = [name for name in names if kind.match(name)]
        if named:
            problem = f"allows connections {text} ({named[0]})"
            found.append((problem, f"Add :{without} at the end, or write null for the default."))
    return found


def warnings(offered: Iterable[str]) -> list[str]:
    """Return what is offered and should not be."""
    named = [name for name in offered if not _FORWARD_SECRET.match(name)]
    text = "tls.ciphers allows connections without forward secrecy ({}): add :!kRSA:!PSK:!SRP, or write null"
    return [text.format(named[0])] if named else []
