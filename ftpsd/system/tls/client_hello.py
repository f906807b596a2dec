"""Read what a TLS client offers to resume, from its first message: ClientHello (RFC 5246 7.4.1.2, RFC 8446 4.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

from ftpsd.system.tls.errors import HEADER, RECORD_STARTS

#: Bytes of the longest message that is read. Those of clients have 200 to 2,000.
LONGEST = 16 * 1024

#: Tickets of which the names are read. Clients offer one or two.
_MOST_TICKETS = 8

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SESSION_TICKET, _PRE_SHARED_KEY, _SUPPORTED_VERSIONS = 35, 41, 43
_TLS_1_3 = b"\x03\x04"

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
        if data[at : at + 2] not in RECORD_STARTS or data[at : at + 1] not in (b"", bytes([_HANDSHAKE])):
            raise NotClientHello("no record of a TLS handshake")
        length = int.from_bytes(data[at + 3 : at + HEADER])
        if len(data) >= at + HEADER and not length:
            raise NotClientHello("an empty record")
        end = at + HEADER + length
        if end > LONGEST:
            raise NotClientHello("too long")
        if len(data) < end or len(data) < at + HEADER:
            return end
        message += data[at + HEADER : end]
        if message[0] != _CLIENT_HELLO:
            raise NotClientHello("another message of the handshake")
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4]):
            return _parse_body(message[4 : 4 + int.from_bytes(message[1:4])])
        at = end


class _Fields:
    """Reads fields of variable length, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def fixed(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises NotClientHello if there are fewer."""
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise NotClientHello("cut short")
        self._at += count
        return found

    def vector(self, size: int) -> bytes:
        """Return a field whose length is in `size` bytes before it."""
        return self.fixed(int.from_bytes(self.fixed(size)))


def _parse_body(body: bytes) -> ClientHello:
    fields = _Fields(body)
    fields.fixed(2 + 32)  # version, random
    session_id = fields.vector(1)
    fields.vector(2)  # cipher suites
    fields.vector(1)  # compression methods
    extensions = _Fields(fields.vector(2)) if fields else _Fields(b"")
    ticket, identities, versions = b"", b"", b""
    while extensions:
        kind = int.from_bytes(extensions.fixed(2))
        content = extensions.vector(2)
        if kind == _SESSION_TICKET:
            ticket = content
        elif kind == _PRE_SHARED_KEY:
            identities = _Fields(content).vector(2)
        elif kind == _SUPPORTED_VERSIONS:
            versions = _Fields(content).vector(1)
    names = list(_ticket_names(identities))
    if ticket:
        names.append(ticket[:_NAME])
    if names:
        return ClientHello(tuple(names), has_tickets=True)
    # A client of TLS 1.3 without a ticket sends a random session ID, which stands for nothing (RFC 8446 appendix D.4).
    offers_1_3 = _TLS_1_3 in [versions[at : at + 2] for at in range(0, len(versions), 2)]
    return ClientHello((session_id,) if session_id and not offers_1_3 else (), has_tickets=False)


def _ticket_names(identities: bytes) -> list[bytes]:
    names: list[bytes] = []
    fields = _Fields(identities)
    while fields and len(names) < _MOST_TICKETS:
        names.append(fields.vector(2)[:_NAME])
        fields.fixed(4)  # its age
    return names
