"""Read what a TLS client offers to resume, from its first message: ClientHello (RFC 5246 7.4.1.2, RFC 8446 4.1.2)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ftpsd.system.tls.errors import HEADER, RECORD_STARTS

#: Bytes of the longest message that is read. Those of clients have 200 to 2,000.
LONGEST = 16 * 1024

#: Tickets of which the names are read. Clients offer one or two.
_MOST_TICKETS = 8

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SESSION_TICKET, _PRE_SHARED_KEY, _SUPPORTED_VERSIONS = 35, 41, 43
_TLS_1_3 = b"\x03\x04"

#: The first two bytes of a record of the handshake, as far as they have come.
_STARTS = frozenset(each for each in RECORD_STARTS if each[:1] in (b"", bytes([_HANDSHAKE])))

_EXTENSION = struct.Struct("!HH")

#: Bytes with which all tickets of one OpenSSL context begin: the name of its ticket key (RFC 5077 section 4).
_NAME = 16


class NotClientHello(ValueError):
    """The bytes are no ClientHello, and no further bytes would make them one."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client offers to resume.

    `names` are the names of its tickets' keys; without tickets, its session ID. Nothing: it begins a new session.
    """

    names: tuple[bytes, ...]
    has_tickets: bool


def parse(data: bytes) -> ClientHello | int:
    """Return the ClientHello with which `data` begins, or the number of bytes that must be there to know more.

    Raises NotClientHello.
    """
    message = b""
    at = 0
    while True:
        if data[at : at + 2] not in _STARTS:
            raise NotClientHello("no record of a TLS handshake")
        fragment = at + HEADER
        length = int.from_bytes(data[at + 3 : fragment])
        end = fragment + length
        if end > LONGEST or (not length and len(data) >= fragment):
            raise NotClientHello("a record that is too long, or empty")
        if len(data) < end or not length:
            return end
        message += data[fragment:end]
        if message[0] != _CLIENT_HELLO:
            raise NotClientHello("another message of the handshake")
        size = 4 + int.from_bytes(message[1:4])
        if len(message) >= max(size, 4):
            return _parse_body(message[4:size])
        at = end


def _parse_body(body: bytes) -> ClientHello:
    """Read the message. It is done with few calls, since each data connection at a busy shared port needs it."""
    at = 2 + 32  # behind version and random
    session_id, at = _vector(body, at, 1)
    _, at = _vector(body, at, 2)  # cipher suites
    _, at = _vector(body, at, 1)  # compression methods
    extensions, at = _vector(body, at, 2) if at < len(body) else (b"", at)
    ticket, identities, versions = b"", b"", b""
    at, size = 0, len(extensions)
    while at < size:
        if at + _EXTENSION.size > size:
            raise NotClientHello("cut short")
        kind, length = _EXTENSION.unpack_from(extensions, at)
        at += _EXTENSION.size
        end = at + length
        if end > size:
            raise NotClientHello("cut short")
        if kind == _SESSION_TICKET:
            ticket = extensions[at:end]
        elif kind == _PRE_SHARED_KEY:
            identities, _ = _vector(extensions[at:end], 0, 2)
        elif kind == _SUPPORTED_VERSIONS:
            versions, _ = _vector(extensions[at:end], 0, 1)
        at = end
    names = _ticket_names(identities)
    if ticket:
        names.append(ticket[:_NAME])
    if names:
        return ClientHello(tuple(names), has_tickets=True)
    # A client of TLS 1.3 without a ticket sends a random session ID, which stands for nothing (RFC 8446 appendix D.4).
    offers_1_3 = _TLS_1_3 in [versions[at : at + 2] for at in range(0, len(versions), 2)]
    return ClientHello((session_id,) if session_id and not offers_1_3 else (), has_tickets=False)


def _ticket_names(identities: bytes) -> list[bytes]:
    names: list[bytes] = []
    at = 0
    while at < len(identities) and len(names) < _MOST_TICKETS:
        identity, at = _vector(identities, at, 2)
        names.append(identity[:_NAME])
        at += 4  # its age
    return names


def _vector(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """Return a field whose length is in `size` bytes before it, and where it ends. Raises NotClientHello."""
    start = at + size
    end = start + int.from_bytes(data[at:start])
    if end > len(data):
        raise NotClientHello("cut short")
    return data[start:end], end
