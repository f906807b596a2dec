"""TLS of one control connection, over memory instead of a socket: TlsEngine."""

from __future__ import annotations

from enum import Enum

from OpenSSL import SSL

from ftpsd.system.tls import errors
from ftpsd.system.tls.client_certificates import refusal_of


class TlsState(Enum):
    """The state of TLS on a control connection, from its start to its end.

    | state | input | output | ends with |
    | --- | --- | --- | --- |
    | HANDSHAKE | records | records | the end of the handshake: OPEN |
    | OPEN | records | records | CCC or REIN: STOPPING |
    | STOPPING | records | records | the client's close_notify, or its plain text; our close_notify: STOP_SENT |
    | STOP_SENT | records | plain text | the client's close_notify, or its plain text |

    After STOPPING and STOP_SENT the connection has no engine: it is plain text in both directions.
    """

    HANDSHAKE = "handshake"
    OPEN = "open"
    STOPPING = "stopping"
    STOP_SENT = "stop sent"


class Event(Enum):
    """What a record without application data means."""

    NOTHING = "a record of TLS's own, or a part of the handshake"
    SECURED = "the handshake is complete"
    CLOSED = "close_notify"


class TlsEngine:
    """Decrypts records, and encrypts what is sent; `connection` has the records to be sent (`bio_read`)."""

    __slots__ = ("connection", "state")

    def __init__(self, context: SSL.Context) -> None:
        self.connection = SSL.Connection(context, None)
        self.connection.set_accept_state()
        self.state = TlsState.HANDSHAKE

    @property
    def server_name(self) -> str:
        """The name that the client sent in its handshake (SNI); empty if it sent none."""
        name = self.connection.get_servername()
        return name.decode("ascii", "replace") if name else ""

    @property
    def version(self) -> str | None:
        """The TLS version, such as "TLSv1.3"; None during the handshake."""
        return None if self.state is TlsState.HANDSHAKE else self.connection.get_protocol_version_name()

    @property
    def stopping(self) -> bool:
        """Whether the connection is about to become plain text."""
        return self.state is TlsState.STOPPING or self.state is TlsState.STOP_SENT

    def read(self, record: bytes) -> bytes | Event:
        """Process one record. Return the application data in it, or what it means. Raises SSL.Error."""
        connection = self.connection
        connection.bio_write(record)
        try:
            if self.state is TlsState.HANDSHAKE:
                connection.do_handshake()
                self.state = TlsState.OPEN
                return Event.SECURED
            return connection.recv(len(record))  # what is in a record is shorter than the record
        except SSL.WantReadError:
            return Event.NOTHING
        except SSL.Error as error:
            refusal = refusal_of(connection)
            if refusal is not None:
                raise refusal from None
            if not errors.is_close_notify(connection, error):
                raise
            return Event.CLOSED
