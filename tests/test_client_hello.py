"""What is read from the first message of a TLS client, whole, in pieces and damaged."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpsd.checks import network
from ftpsd.system.tls.client_hello import LONGEST, ClientHello, NotClientHello, parse


def _hello(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO = _hello()


def _with_ticket(name: bytes) -> bytes:
    """A ClientHello of TLS 1.2 that offers a ticket."""
    ticket = name + bytes(160)
    extensions = b"\0\x23" + len(ticket).to_bytes(2) + ticket
    body = (
        b"\3\3" + bytes(32) + b"\x20" + b"i" * 32 + b"\0\2\xc0\x2f" + b"\1\0" + len(extensions).to_bytes(2) + extensions
    )
    message = b"\1" + len(body).to_bytes(3) + body
    return b"\x16\3\1" + len(message).to_bytes(2) + message


def test_a_client_that_begins_a_session() -> None:
    """A client that has no session offers none, whatever session ID it sends (TLS 1.3)."""
    assert parse(HELLO) == ClientHello((), has_tickets=False)
    assert parse(_hello(ssl.TLSVersion.TLSv1_2)) == ClientHello((), has_tickets=False)


def test_a_ticket() -> None:
    """The name of a ticket's key is its beginning; beside a ticket, the session ID means nothing."""
    assert parse(_with_ticket(b"0123456789abcdef")) == ClientHello((b"0123456789abcdef",), has_tickets=True)


@pytest.mark.parametrize("hello", [HELLO, _with_ticket(b"0123456789abcdef")], ids=["1.3", "1.2"])
def test_in_pieces(hello: bytes) -> None:
    """Each beginning asks for more bytes than there are, and for no more than the message has."""
    for length in range(len(hello)):
        wanted = parse(hello[:length])
        assert isinstance(wanted, int) and length < wanted <= len(hello)
    assert parse(hello + b"more") == parse(hello)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_in_several_records(size: int) -> None:
    """A ClientHello may be divided into records of any size."""
    message = HELLO[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    assert parse(b"".join(b"\x16\3\1" + len(each).to_bytes(2) + each for each in pieces)) == parse(HELLO)


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255), st.binary(max_size=40))
def test_damaged(position: int, value: int, rest: bytes) -> None:
    """Whatever the bytes are, the answer is a ClientHello, a number of bytes within bounds, or NotClientHello."""
    damaged = HELLO[:position] + bytes([value]) + HELLO[position + 1 :] + rest
    for data in (damaged, damaged[: position + 1], rest, b"\x16\3\1" + rest):
        try:
            found = parse(data)
        except NotClientHello:
            continue
        assert isinstance(found, ClientHello) or len(data) < found <= LONGEST + 5


def test_the_doctor_about_a_shared_port() -> None:
    """The doctor says what a port within the range of outgoing connections means, shared or not."""
    (own,) = network.port_range(50000, 50099, (32768, 60999), "")
    (shared,) = network.port_range(50000, 50000, (32768, 60999), "", shared=True)
    assert "skips a port" in own.problem and "cannot start" in shared.problem
    assert network.port_range(50000, 50000, (32768, 60999), "50000", shared=True) == []
