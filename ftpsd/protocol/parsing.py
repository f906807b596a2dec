"""Parsers for the lines of the control connection: one for the line, and one for each kind of argument.

A parser takes the text after the verb and returns a value, or raises a Refusal that says what was expected. No other
module splits text from a client. Around names only the space of ASCII is a separator: U+3000 and others are letters.
"""

from __future__ import annotations

import calendar
import ipaddress
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ftpsd.protocol.addresses import Address, Endpoint, plain_address
from ftpsd.protocol.encoding.names import UTF8, NameEncoding
from ftpsd.protocol.replies import Refusal

T = TypeVar("T")

#: The longest line in bytes. A longer one ends the session.
MAX_LINE = 8192

# IAC IAC is a byte 255 of a name. IAC with a Telnet command (RFC 854: 240 to 254) is removed. A single 255 is kept:
# curl and ftplib send names with it unchanged, lftp sends it twice.
_TELNET = re.compile(rb"\xff(?:(\xff)|[\xfb-\xfe].|[\xf0-\xfa])", re.DOTALL)
_LINE = re.compile(rb"\xff*([A-Za-z]{1,12})(?: (.*))?\Z", re.DOTALL)
_IMAP = re.compile(
    rb"\xff*([^\s\xff]\S*) +"
    rb"(?:CAPABILITY|NOOP|LOGOUT|STARTTLS|AUTHENTICATE|LOGIN|ID|ENABLE|SELECT|EXAMINE|LIST)(?: |\Z)",
    re.IGNORECASE,
)


#: Commands with names and passwords of users, which are UTF-8 in every session.
_CREDENTIALS = ("USER", "PASS", "ACCT")


def line(raw: bytes, names: NameEncoding = UTF8) -> tuple[str, str]:
    """Return (VERB, argument) for a line without its end. The argument keeps its spaces; it may be Undecodable."""
    if b"\xff" in raw:
        raw = _without_telnet(raw, names)
    match = _LINE.match(raw)
    if match is None:
        raise Refusal(500, "Not an FTP command.")
    argument = match[2] or b""
    if b"\0" in argument:
        # CR NUL is a CR in a name (RFC 2640 section 3.1).
        argument = argument.replace(b"\r\0", b"\r")
        if b"\0" in argument:
            raise Refusal(501, "NUL is not allowed in arguments.")
    verb = match[1].decode("ascii").upper()
    return verb, (UTF8 if verb in _CREDENTIALS else names).decode(argument)


def _without_telnet(raw: bytes, names: NameEncoding) -> bytes:
    if names is UTF8:
        return _TELNET.sub(lambda found: found[1] or b"", raw)
    # Byte 255 is a letter in many encodings. Before the command it is IAC: Telnet's Interrupt comes before ABOR.
    verb, space, argument = raw.partition(b" ")
    return _without_telnet(verb, UTF8) + space + argument.replace(b"\xff\xff", b"\xff")


def imap_tag(raw: bytes) -> str | None:
    """Return the tag of a command of IMAP (RFC 9051 section 2.2.1: `tag verb …`), or None for any other line."""
    match = _IMAP.match(raw)
    return match[1].decode("latin-1").upper() if match is not None else None


# --- words, names and numbers ----------------------------------------------------------------------


def nothing(argument: str) -> None:
    """Require that there is no argument. Some devices send spaces, which are ignored."""
    if argument.strip():
        raise Refusal(501, "This command takes no argument.")


def anything(argument: str) -> str:
    """Return the argument, which may be empty."""
    return argument


def text(argument: str) -> str:
    """Return the argument, which may not be empty."""
    if not argument.strip():
        raise Refusal(501, "This command requires an argument.")
    return argument


class Name(str):
    """A path as the client sent it. `Session.admit` resolves it and checks the permissions there."""

    __slots__ = ()


def name(argument: str) -> Name:
    """Return the path of a file or directory."""
    if not argument:
        raise Refusal(501, "This command requires a path.")
    return Name(argument)


def name_or_here(argument: str) -> Name:
    """Return the path of a file or directory; without one, the current directory."""
    return Name(argument or ".")


def name_or_upload(argument: str) -> Name:
    """Return the name with which that of STOU starts; without one, `upload`."""
    return Name(argument.strip(" ") or "upload")


def number(argument: str) -> int:
    """Return a decimal number of up to 18 digits."""
    digits = argument.strip()
    if not re.fullmatch(r"[0-9]{1,18}", digits):
        raise Refusal(501, "Expected a whole number.")
    return int(digits)


def allocation(argument: str) -> int:
    """Return the size of `ALLO size [R record-size]` (RFC 959 section 4.1.3)."""
    size, *rest = argument.split(maxsplit=3) or [""]
    if rest and (len(rest) != 2 or rest[0] not in ("R", "r")):
        raise Refusal(501, "Expected: ALLO <size> [R <record size>].")
    for each in rest[1:]:
        number(each)
    return number(size)


def byte_range(argument: str) -> tuple[int, int] | None:
    """Return the first and the last byte of `RANG first last`. Return None for `RANG 1 0`, which resets the range."""
    match = re.fullmatch(r"\s*([0-9]{1,18})\s+([0-9]{1,18})\s*", argument)
    if match is None:
        raise Refusal(501, "Expected: RANG <first byte> <last byte>.")
    start, end = int(match[1]), int(match[2])
    if start > end:
        if (start, end) == (1, 0):
            return None
        raise Refusal(501, "Range ends before it starts.")
    return start, end


_TYPES = {"A": "A", "A N": "A", "I": "I", "L 8": "I", "L8": "I", "AN": "A"}


def representation(argument: str) -> str:
    """Return "A" or "I" for the argument of TYPE. L 8 means the same as I."""
    words = " ".join(argument.upper().split())
    if words in _TYPES:
        return _TYPES[words]
    if words[:1] in ("A", "E", "L"):
        raise Refusal(504, "Unsupported type: use TYPE A, TYPE I or TYPE L 8.")
    raise Refusal(501, "Expected: TYPE A, TYPE I or TYPE L 8.")


def only(letter: str, others: str, what: str) -> Callable[[str], str]:
    """Return a parser for an argument of one letter, of which one value is supported (STRU F, MODE S).

    The values in `others` are valid but not supported and get 504. Other arguments get 501.
    """

    def parse(argument: str) -> str:
        given = argument.strip().upper()
        if given == letter:
            return given
        if len(given) == 1 and given in others:
            raise Refusal(504, f"Only {what} {letter} is supported.")
        raise Refusal(501, f"Expected: {what} {letter}.")

    return parse


def word(argument: str) -> str:
    """Return one word in capitals."""
    words = argument.upper().split()
    if len(words) != 1:
        raise Refusal(501, "Expected one word.")
    return words[0]


# --- data ports ------------------------------------------------------------------------------------


def port(argument: str) -> Endpoint:
    """Return the endpoint of `PORT h1,h2,h3,h4,p1,p2` (RFC 959 section 4.1.2)."""
    given = argument.strip(" ")
    numbers = [int(n) for n in given.split(",")] if re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3}){5}", given) else []
    if not numbers or max(numbers) > 255:
        raise Refusal(501, "Expected: PORT h1,h2,h3,h4,p1,p2.")
    address = ipaddress.IPv4Address(bytes(numbers[:4]))
    return _endpoint(address, numbers[4] * 256 + numbers[5])


def eprt(argument: str) -> Endpoint:
    """Return the endpoint of `EPRT <d>family<d>address<d>port<d>` (RFC 2428 section 2)."""
    given = argument.strip()
    fields = given.split(given[0]) if given and 33 <= ord(given[0]) <= 126 else []
    if len(fields) != 5 or fields[0] or fields[4] or not re.fullmatch("[0-9]{1,5}", fields[3]):
        raise Refusal(501, "Expected: EPRT |1|address|port| or EPRT |2|address|port|.")
    if fields[1] not in ("1", "2"):
        raise _no_such_family("1,2")
    kind = ipaddress.IPv4Address if fields[1] == "1" else ipaddress.IPv6Address
    try:
        kind(fields[2].partition("%")[0])
    except ValueError:
        raise Refusal(501, f"Invalid IPv{4 if fields[1] == '1' else 6} address.") from None
    return _endpoint(plain_address(fields[2]), int(fields[3]))


def _endpoint(address: Address, port: int) -> Endpoint:
    if not 1 <= port <= 65535:
        raise Refusal(501, "Invalid port.")
    return Endpoint(address, port)


def _no_such_family(families: str) -> Refusal:
    """Return a 522 in the form that RFC 2428 section 2 prescribes, because programs parse it."""
    return Refusal(522, f"Network protocol not supported, use ({families})")


def family_refused(family: int) -> Refusal:
    """Return a 522 for a client that can use the given family only."""
    return _no_such_family(str(family))


def epsv(argument: str) -> str:
    """Return "1", "2", "ALL" or "" (no argument) for EPSV (RFC 2428 section 3)."""
    given = argument.strip().upper()
    if given in ("", "1", "2", "ALL"):
        return given
    if given.isdecimal():
        raise _no_such_family("1,2")
    raise Refusal(501, "Expected: EPSV, EPSV 1, EPSV 2 or EPSV ALL.")


# --- listings --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListRequest:
    """The argument of LIST, NLST and STAT: a path, and the flags of `ls` that clients send."""

    path: str
    all: bool = False
    recursive: bool = False
    long: bool = False
    directory: bool = False
    reverse: bool = False
    by_time: bool = False
    #: Whether the names in a directory get the path of the argument in front, so that RETR accepts them.
    as_paths: bool = False
    #: How the listing is encoded.
    names: NameEncoding = UTF8

    @property
    def needs_times(self) -> bool:
        """Whether times of files are shown or decide about the order: NLST shows names only."""
        return self.by_time or not self.as_paths


_FLAGS = {
    "a": "all",
    "A": "all",
    "R": "recursive",
    "l": "long",
    "d": "directory",
    "r": "reverse",
    "t": "by_time",
}

_OPTION = re.compile(r" *-([A-Za-z1]+)(?: +|\Z)")


def listing(argument: str) -> ListRequest:
    """Return the request of `[-flags …] [path]`. FileZilla and FireFTP send `LIST -a`. Unknown flags are ignored."""
    asked: dict[str, bool] = {}
    rest = argument if argument.strip(" ") else ""
    start = 0
    while match := _OPTION.match(rest, start):
        asked.update({_FLAGS[flag]: True for flag in match[1] if flag in _FLAGS})
        start = match.end()
    return ListRequest(path=rest[start:], names=UTF8, **asked)


# --- facts and times -------------------------------------------------------------------------------


def timestamp(digits: str) -> float:
    """Return the seconds since 1970 of `YYYYMMDDHHMMSS[.fraction]` in UTC (RFC 3659 section 2.3)."""
    match = re.fullmatch(r"([0-9]{14})(\.[0-9]{1,9})?", digits)
    try:
        whole = time.strptime(match[1], "%Y%m%d%H%M%S") if match else None
    except ValueError:
        whole = None
    if match is None or whole is None:
        raise Refusal(501, "Expected a time as YYYYMMDDHHMMSS in UTC.")
    return calendar.timegm(whole) + float(match[2] or 0)


def time_and_name(argument: str) -> tuple[float, Name]:
    """Return time and path of `MFMT time path` (draft-somers-ftp-mfxx)."""
    digits, _, path = argument.partition(" ")
    return timestamp(digits), name(path)


def maybe_time_and_name(argument: str) -> tuple[float | None, Name]:
    """Return None and the path of `MDTM path`, or time and path of the older form that sets it (vsftpd, FlashFXP)."""
    if match := re.match(r"([0-9]{14}(?:\.[0-9]{1,9})?) (?=.)", argument):
        try:
            return timestamp(match[1]), Name(argument[match.end() :])
        except Refusal:
            pass  # digits that are no time are part of the name
    return None, name(argument)


def facts_and_name(argument: str) -> tuple[dict[str, str], Name]:
    """Return the facts of `MFF fact=value;…; path` by lower-case name, and the path."""
    head, _, path = argument.partition("; ")
    facts = {}
    for fact in head.split(";"):
        key, equals, value = fact.partition("=")
        if not equals:
            raise Refusal(501, "Expected: MFF fact=value;[fact=value;] <path>.")
        facts[key.lower()] = value
    return facts, name(path)


def mode(digits: str) -> int:
    """Return permission bits for three or four octal digits. Other bits are dropped."""
    if not re.fullmatch(r"[0-7]{3,4}", digits):
        raise Refusal(501, "Expected an octal mode such as 644.")
    return int(digits, 8) & 0o777


def mode_and_name(argument: str) -> tuple[int, Name]:
    """Return mode and path of `SITE CHMOD 644 path`."""
    digits, _, path = argument.partition(" ")
    return mode(digits), name(path)


def utime(argument: str) -> tuple[float, Name]:
    """Return time and path of SITE UTIME.

    lftp sends `YYYYMMDDhhmm[ss] path`, FileZilla `path atime mtime ctime UTC`.
    """
    if match := re.fullmatch(r"(.+) [0-9]{14} ([0-9]{14}) [0-9]{14} UTC", argument, re.DOTALL):
        return timestamp(match[2]), Name(match[1])
    if match := re.fullmatch(r"([0-9]{12})([0-9]{2})? (.+)", argument, re.DOTALL):
        return timestamp(match[1] + (match[2] or "00")), Name(match[3])
    raise Refusal(501, "Expected: SITE UTIME YYYYMMDDhhmmss <path>.")


def split(argument: str) -> tuple[str, str]:
    """Return the first word in capitals and the rest: `OPTS UTF8 ON`, `SITE CHMOD 644 a`."""
    first, _, rest = argument.lstrip(" ").partition(" ") if argument.strip() else ("", "", "")
    if not first:
        raise Refusal(501, "This command requires an argument.")
    return first.upper(), rest
