"""A line of the control connection: bytes to verb and argument, and one parser per shape of argument.

Every parser takes the text behind the verb and returns a value, or raises a `Refusal` that says
what was expected. No other file cuts a string that a client sent.
"""

from __future__ import annotations

import calendar
import ipaddress
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ftpsd.protocol.replies import Refusal

T = TypeVar("T")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: A control line longer than this ends the session.
MAX_LINE = 8192

# IAC IAC is a 255 of the name; IAC with a command of RFC 854 (240..254) is none of ours. A lone 255
# stays: curl and ftplib send names with it as they are, lftp doubles it.
_TELNET = re.compile(rb"\xff(?:(\xff)|[\xfb-\xfe].|[\xf0-\xfa])", re.DOTALL)
_LINE = re.compile(rb"\xff*([A-Za-z]{1,12})(?: (.*))?\Z", re.DOTALL)
_IMAP = re.compile(
    rb"\xff*([^\s\xff]\S*) +"
    rb"(?:CAPABILITY|NOOP|LOGOUT|STARTTLS|AUTHENTICATE|LOGIN|ID|ENABLE|SELECT|EXAMINE|LIST)(?: |\Z)",
    re.IGNORECASE,
)


def line(raw: bytes) -> tuple[str, str]:
    """A control line without its end, as (VERB, argument); the argument keeps its blanks."""
    if b"\xff" in raw:
        raw = _TELNET.sub(lambda found: found[1] or b"", raw)
    match = _LINE.match(raw)
    if match is None:
        raise Refusal(500, "Not an FTP command.")
    argument = match[2] or b""
    if b"\0" in argument:
        # CR NUL is a CR within a name (RFC 2640 3.1).
        argument = argument.replace(b"\r\0", b"\r")
        if b"\0" in argument:
            raise Refusal(501, "NUL is not allowed in arguments.")
    return match[1].decode("ascii").upper(), argument.decode("utf-8", "surrogateescape")


def imap_tag(raw: bytes) -> str | None:
    """The first word of a line whose second is a verb of IMAP (RFC 9051 section 2.2.1: `tag verb …`); else None."""
    match = _IMAP.match(raw)
    return match[1].decode("latin-1").upper() if match is not None else None


# --- shapes: each one reads one kind of argument ---------------------------------------------------


def nothing(argument: str) -> None:
    """No argument. One that consists of blanks is none (some devices send them)."""
    if argument.strip():
        raise Refusal(501, "This command takes no argument.")


def anything(argument: str) -> str:
    """Any text, none included."""
    return argument


def text(argument: str) -> str:
    """Some text."""
    if not argument.strip():
        raise Refusal(501, "This command requires an argument.")
    return argument


class Name(str):
    """A name as the client said it: the gate resolves it and asks whether the user may touch it."""

    __slots__ = ()


def name(argument: str) -> Name:
    """The name of a file or directory."""
    if not argument:
        raise Refusal(501, "This command requires a path.")
    return Name(argument)


def name_or_here(argument: str) -> Name:
    """The name of a file or directory; the client's directory when there is none."""
    return Name(argument or ".")


def name_or_upload(argument: str) -> Name:
    """The name that STOU is to begin with; `upload` when there is none."""
    return Name(argument.strip() or "upload")


def number(argument: str) -> int:
    """A decimal number, as REST has it."""
    digits = argument.strip()
    if not re.fullmatch(r"[0-9]{1,18}", digits):
        raise Refusal(501, "Expected a whole number.")
    return int(digits)


def allocation(argument: str) -> int:
    """`ALLO size [R record-size]` (RFC 959 4.1.3)."""
    return number(re.sub(r"\s+[Rr]\s+[0-9]+\s*\Z", "", argument))


def byte_range(argument: str) -> tuple[int, int] | None:
    """`RANG start end`, both inclusive; `RANG 1 0` (start behind end) lifts the range."""
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
    """`TYPE`: "A" or "I" (L 8 is the same bytes as I)."""
    words = " ".join(argument.upper().split())
    if words in _TYPES:
        return _TYPES[words]
    if words[:1] in ("A", "E", "L"):
        raise Refusal(504, "Unsupported type: use TYPE A, TYPE I or TYPE L 8.")
    raise Refusal(501, "Expected: TYPE A, TYPE I or TYPE L 8.")


def only(letter: str, others: str, what: str) -> Callable[[str], str]:
    """A one-letter argument of which just one value is served (STRU F, MODE S)."""

    def parse(argument: str) -> str:
        given = argument.strip().upper()
        if given == letter:
            return given
        if len(given) == 1 and given in others:
            raise Refusal(504, f"Only {what} {letter} is supported.")
        raise Refusal(501, f"Expected: {what} {letter}.")

    return parse


def word(argument: str) -> str:
    """One word, in capitals."""
    words = argument.upper().split()
    if len(words) != 1:
        raise Refusal(501, "Expected one word.")
    return words[0]


# --- data ports ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a data connection goes to: an address and a port."""

    address: Address
    port: int

    @property
    def family(self) -> int:
        """1 for IPv4, 2 for IPv6 (RFC 2428 section 2)."""
        return 1 if self.address.version == 4 else 2


def plain_address(host: str, scope: int | str = 0) -> Address:
    """An address, with an IPv4-mapped one told as the IPv4 that it is.

    A zone in the text (%eth0) is left off: it names a link of the machine that wrote it. `scope` is a
    link of ours, which only a link-local address needs (RFC 4007).
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if scope and address.is_link_local:
        return ipaddress.IPv6Address(f"{address}%{scope}")
    return address.ipv4_mapped or address


def is_ipv4(text: str) -> bool:
    """Return whether a text is an IPv4 address in dotted form, and not a host name."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def network(address: Address) -> str:
    """Under what an address is counted: `203.0.113.9`, `2001:db8::/64`, since a single host has that many addresses.

    On a link (RFC 4291 section 2.5.6) all hosts share one such prefix, and each is counted for itself.
    """
    if address.version == 4 or address.is_link_local:
        return str(address).partition("%")[0]
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def site(address: Address) -> str:
    """Return what one customer of a provider has at most: `203.0.113.9`, `2001:db8:1::/48` (RFC 6177)."""
    if address.version == 4 or address.is_link_local:
        return network(address)
    return str(ipaddress.IPv6Network((int(address) >> 80 << 80, 48)))


def in_zone_of(address: Address, other: Address) -> Address:
    """An address that a client has told: if it is link-local, then on the link where the client is."""
    return plain_address(str(address), getattr(other, "scope_id", None) or 0)


def socket_address(address: Address, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """As `bind` and `connect` want it: they take no zone from the text."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address), port
    host, _, scope = str(address).partition("%")
    return host, port, 0, int(scope or 0)


def port(argument: str) -> Endpoint:
    """`PORT h1,h2,h3,h4,p1,p2` (RFC 959 4.1.2)."""
    given = argument.strip(" ")
    numbers = [int(n) for n in given.split(",")] if re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3}){5}", given) else []
    if not numbers or max(numbers) > 255:
        raise Refusal(501, "Expected: PORT h1,h2,h3,h4,p1,p2.")
    address = ipaddress.IPv4Address(bytes(numbers[:4]))
    return _endpoint(address, numbers[4] * 256 + numbers[5])


def eprt(argument: str) -> Endpoint:
    """`EPRT <d>family<d>address<d>port<d>` (RFC 2428 section 2)."""
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
    """522 in the one form that RFC 2428 section 2 gives, for machines to read."""
    return Refusal(522, f"Network protocol not supported, use ({families})")


def family_refused(family: int) -> Refusal:
    """522 for a client whose connection speaks the given family only."""
    return _no_such_family(str(family))


def epsv(argument: str) -> str:
    """`EPSV`: "" (none asked), "1", "2" or "ALL" (RFC 2428 section 3)."""
    given = argument.strip().upper()
    if given in ("", "1", "2", "ALL"):
        return given
    if given.isdecimal():
        raise _no_such_family("1,2")
    raise Refusal(501, "Expected: EPSV, EPSV 1, EPSV 2 or EPSV ALL.")


# --- listings --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListRequest:
    """What LIST, NLST and STAT are asked for: the flags of `ls` that clients send, and a path."""

    path: str
    all: bool = False
    recursive: bool = False
    long: bool = False
    directory: bool = False
    reverse: bool = False
    by_time: bool = False
    #: Whether the names in a directory are told as paths that RETR takes, with what the client called it in front.
    as_paths: bool = False


_FLAGS = {
    "a": "all",
    "A": "all",
    "R": "recursive",
    "l": "long",
    "d": "directory",
    "r": "reverse",
    "t": "by_time",
}


def listing(argument: str) -> ListRequest:
    """`[-flags …] [path]`. FileZilla and FireFTP send `LIST -a`; flags without meaning are let pass."""
    asked: dict[str, bool] = {}
    rest = argument.strip(" ") if not argument.strip(" ") else argument
    while match := re.match(r" *-([A-Za-z1]+)(?: +|\Z)", rest):
        asked.update({_FLAGS[flag]: True for flag in match[1] if flag in _FLAGS})
        rest = rest[match.end() :]
    return ListRequest(path=rest, **asked)


# --- facts and times -------------------------------------------------------------------------------


def timestamp(digits: str) -> float:
    """A time-val of RFC 3659 section 2.3, `YYYYMMDDHHMMSS[.fraction]` in UTC, as POSIX seconds."""
    match = re.fullmatch(r"([0-9]{14})(\.[0-9]{1,9})?", digits)
    try:
        whole = time.strptime(match[1], "%Y%m%d%H%M%S") if match else None
    except ValueError:
        whole = None
    if match is None or whole is None:
        raise Refusal(501, "Expected a time as YYYYMMDDHHMMSS in UTC.")
    return calendar.timegm(whole) + float(match[2] or 0)


def time_and_name(argument: str) -> tuple[float, Name]:
    """`MFMT time path` (draft-somers-ftp-mfxx)."""
    digits, _, path = argument.partition(" ")
    return timestamp(digits), name(path)


def maybe_time_and_name(argument: str) -> tuple[float | None, Name]:
    """`MDTM path`, or the older form with a time in front, which sets it (vsftpd, FlashFXP)."""
    if match := re.match(r"([0-9]{14}(?:\.[0-9]{1,9})?) (?=.)", argument):
        try:
            return timestamp(match[1]), Name(argument[match.end() :])
        except Refusal:
            pass  # a name of digits and a blank that is no time is a name
    return None, name(argument)


def facts_and_name(argument: str) -> tuple[dict[str, str], Name]:
    """`MFF fact=value;…; path`: the facts by their names in small letters."""
    head, _, path = argument.partition("; ")
    facts = {}
    for fact in head.split(";"):
        key, equals, value = fact.partition("=")
        if not equals:
            raise Refusal(501, "Expected: MFF fact=value;[fact=value;] <path>.")
        facts[key.lower()] = value
    return facts, name(path)


def mode(digits: str) -> int:
    """File permissions in octal, as CHMOD and the fact UNIX.mode have them."""
    if not re.fullmatch(r"[0-7]{3,4}", digits):
        raise Refusal(501, "Expected an octal mode such as 644.")
    return int(digits, 8) & 0o777


def mode_and_name(argument: str) -> tuple[int, Name]:
    """`SITE CHMOD 644 path`."""
    digits, _, path = argument.partition(" ")
    return mode(digits), name(path)


def utime(argument: str) -> tuple[float, Name]:
    """`SITE UTIME YYYYMMDDhhmm[ss] path` (lftp), or `SITE UTIME path atime mtime ctime UTC` (FileZilla)."""
    if match := re.fullmatch(r"(.+) [0-9]{14} ([0-9]{14}) [0-9]{14} UTC", argument, re.DOTALL):
        return timestamp(match[2]), Name(match[1])
    if match := re.fullmatch(r"([0-9]{12})([0-9]{2})? (.+)", argument, re.DOTALL):
        return timestamp(match[1] + (match[2] or "00")), Name(match[3])
    raise Refusal(501, "Expected: SITE UTIME YYYYMMDDhhmmss <path>.")


def split(argument: str) -> tuple[str, str]:
    """A word in capitals and the rest: `OPTS UTF8 ON`, `SITE CHMOD 644 a`."""
    first, _, rest = argument.lstrip(" ").partition(" ") if argument.strip() else ("", "", "")
    if not first:
        raise Refusal(501, "This command requires an argument.")
    return first.upper(), rest
