"""The header of the PROXY protocol: what is accepted, what is refused, and in which pieces it may come."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpsd.protocol.addresses import Endpoint
from ftpsd.protocol.proxy.header import InvalidHeader, ProxyHeader, parse

#: The bytes of the longest header: a fixed part, and what its length field can count.
LONGEST = 16 + 0xFFFF

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, rest: bytes, version: int = 2) -> bytes:
    """Return a header of version 2."""
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(rest)) + rest


def addresses(source: str, destination: str, ports: tuple[int, int] = (50000, 21)) -> bytes:
    """Return the addresses of a header of version 2."""
    return ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed + struct.pack("!HH", *ports)


TLVS = b"\x03\x00\x04\x00\x00\x00\x00" + b"\x04\x00\x10" + bytes(16)

VALID = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.7 203.0.113.1 50000 21\r\n", "192.0.2.7", "203.0.113.1"),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 21\r\n", "2001:db8::7", "2001:db8::1"),
    "v1 longest": (
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff01 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff02 50000 21\r\n",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff01",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff02",
    ),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:203.0.113.1 50000 21\r\n", "192.0.2.7", "203.0.113.1"),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", None, None),
    "v1 UNKNOWN with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None, None),
    "v2 IPv4": (v2(1, 0x11, addresses("192.0.2.7", "203.0.113.1")), "192.0.2.7", "203.0.113.1"),
    "v2 IPv4 and TLVs": (v2(1, 0x11, addresses("192.0.2.7", "203.0.113.1") + TLVS), "192.0.2.7", "203.0.113.1"),
    "v2 IPv6": (v2(1, 0x21, addresses("2001:db8::7", "2001:db8::1")), "2001:db8::7", "2001:db8::1"),
    "v2 mapped": (v2(1, 0x21, addresses("::ffff:192.0.2.7", "::ffff:203.0.113.1")), "192.0.2.7", "203.0.113.1"),
    "v2 LOCAL": (v2(0, 0x00, b""), None, None),
    "v2 LOCAL with addresses": (v2(0, 0x11, addresses("192.0.2.7", "203.0.113.1")), None, None),
    "v2 unspecified": (v2(1, 0x00, b"ignored"), None, None),
    "v2 Unix socket": (v2(1, 0x31, bytes(216)), None, None),
    "v2 longest": (v2(0, 0x00, bytes(65535)), None, None),
}

INVALID = {
    "nothing of it": b"USER alice\r\n",
    "a TLS record": b"\x16\x03\x01\x00\x05",
    "lower case": b"proxy TCP4 192.0.2.7 203.0.113.1 50000 21\r\n",
    "no such family": b"PROXY TCP5 192.0.2.7 203.0.113.1 50000 21\r\n",
    "UDP": b"PROXY UDP4 192.0.2.7 203.0.113.1 50000 21\r\n",
    "a name": b"PROXY TCP4 foo bar 50000 21\r\n",
    "a leading zero": b"PROXY TCP4 192.0.2.07 203.0.113.1 50000 21\r\n",
    "an address of the other family": b"PROXY TCP4 2001:db8::7 203.0.113.1 50000 21\r\n",
    "the same in TCP6": b"PROXY TCP6 192.0.2.7 203.0.113.1 50000 21\r\n",
    "a zone": b"PROXY TCP6 fe80::1%eth0 2001:db8::1 50000 21\r\n",
    "two blanks": b"PROXY TCP4 192.0.2.7  203.0.113.1 50000 21\r\n",
    "a blank at the end": b"PROXY TCP4 192.0.2.7 203.0.113.1 50000 21 \r\n",
    "no destination port": b"PROXY TCP4 192.0.2.7 203.0.113.1 50000\r\n",
    "a port above 65535": b"PROXY TCP4 192.0.2.7 203.0.113.1 99999 21\r\n",
    "a negative port": b"PROXY TCP4 192.0.2.7 203.0.113.1 -1 21\r\n",
    "a port with a leading zero": b"PROXY TCP4 192.0.2.7 203.0.113.1 050000 21\r\n",
    "foreign digits": "PROXY TCP4 192.0.2.7 203.0.113.1 ５0000 21\r\n".encode(),
    "a bare line feed": b"PROXY TCP4 192.0.2.7 203.0.113.1 50000 21\n" + bytes(107),
    "no end": b"PROXY TCP4 " + b"1" * 107,
    "no family": b"PROXY \r\n",
    "version 1 in version 2": v2(1, 0x11, addresses("192.0.2.7", "203.0.113.1"), version=1),
    "an unknown command": v2(2, 0x11, addresses("192.0.2.7", "203.0.113.1")),
    "a datagram": v2(1, 0x12, addresses("192.0.2.7", "203.0.113.1")),
    "too short for its addresses": v2(1, 0x21, addresses("192.0.2.7", "203.0.113.1")),
    "an unknown family": v2(1, 0x41, bytes(300)),
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_header(name: str) -> None:
    """Each form of the specification is accepted, byte by byte or with bytes of the client behind it."""
    data, source, destination = VALID[name]
    expected = ProxyHeader(
        len(data),
        Endpoint(ipaddress.ip_address(source), 50000) if source else None,
        Endpoint(ipaddress.ip_address(destination), 21) if destination else None,
    )
    assert parse(data) == parse(data + b"USER alice\r\n") == expected
    for end in range(min(len(data), 300)):
        assert parse(data[:end]) is None
    assert len(data) <= LONGEST


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_header(name: str) -> None:
    """Anything else is refused, at the latest when it is complete."""
    with pytest.raises(InvalidHeader):
        parse(INVALID[name])


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """No bytes cause another error, and a refusal is final: more bytes do not change it."""
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00\x0c"):
        try:
            found = parse(start + data)
        except InvalidHeader:
            with pytest.raises(InvalidHeader):
                parse(start + data + b"\r\n" + bytes(200))
        else:
            assert found is None or found.length <= len(start + data)


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535))
def test_both_versions_agree(source: object, destination: object, port: int, other: int) -> None:
    """The same connection has the same endpoints in both versions."""
    first = parse(f"PROXY TCP4 {source} {destination} {port} {other}\r\n".encode())
    packed = socket.inet_aton(str(source)) + socket.inet_aton(str(destination)) + struct.pack("!HH", port, other)
    second = parse(v2(1, 0x11, packed))
    assert first is not None and second is not None
    assert (first.source, first.destination) == (second.source, second.destination)
