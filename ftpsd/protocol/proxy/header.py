"""Parse the header of the PROXY protocol, versions 1 and 2.

Source: "The PROXY protocol, versions 1 & 2" in the documentation of HAProxy (proxy-protocol.txt), sections 2.1 and 2.2.
A header is judged strictly, since bans and limits follow the address in it.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

from ftpsd.protocol.addresses import Address, Endpoint, plain_address

#: The first bytes of each version.
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"

#: The bytes of the longest header of version 1, its line end included.
_LONGEST_V1 = 107

#: The part of a header of version 2 that has a fixed size: signature, version and command, family, length of the rest.
_FIXED = struct.Struct("!12sBBH")

#: Families of version 2: TCP over IPv4 and IPv6, each with its layout: source, destination and their ports.
_V2_FAMILIES = {0x11: struct.Struct("!4s4sHH"), 0x21: struct.Struct("!16s16sHH")}

#: Families of version 2 without an address that a limit could count: unspecified, and a Unix stream socket.
_V2_WITHOUT_ADDRESS = (0x00, 0x31)

#: A decimal port without sign and leading zeros.
_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


class InvalidHeader(ValueError):
    """The bytes are no header, and no further bytes would make them one."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A complete header of `length` bytes.

    `source` is the client, and `destination` what it has connected to. Both are None for a connection that the proxy
    passes on for nobody (LOCAL, UNKNOWN): its health checks.
    """

    length: int
    source: Endpoint | None = None
    destination: Endpoint | None = None


def parse(data: bytes) -> ProxyHeader | None:
    """Return the header with which `data` begins, or None if it is not complete. Raises InvalidHeader."""
    if data.startswith(_V1):
        return _parse_v1(data)
    if data.startswith(_V2):
        return _parse_v2(data)
    if _V1.startswith(data) or _V2.startswith(data):
        return None
    raise InvalidHeader("there is no PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _LONGEST_V1)
    if end < 0:
        if len(data) >= _LONGEST_V1:
            raise InvalidHeader("the PROXY header has no end")
        return None
    length = end + 2
    family, _, rest = data[len(_V1) : end].partition(b" ")
    if family == b"UNKNOWN":  # the rest is to be ignored
        return ProxyHeader(length)
    address = {b"TCP4": _ipv4, b"TCP6": _ipv6}.get(family)
    words = rest.decode("ascii", "replace").split(" ")
    if address is None or len(words) != 4:
        raise InvalidHeader("the PROXY header is malformed")
    source, destination, source_port, destination_port = words
    return ProxyHeader(
        length,
        Endpoint(address(source), _port(source_port)),
        Endpoint(address(destination), _port(destination_port)),
    )


def _ipv4(text: str) -> Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise InvalidHeader("the PROXY header has an invalid address") from None


def _ipv6(text: str) -> Address:
    try:
        ipaddress.IPv6Address(text)
        if "%" not in text:
            return plain_address(text)
    except ValueError:
        pass
    raise InvalidHeader("the PROXY header has an invalid address")


def _port(text: str) -> int:
    if _PORT.fullmatch(text) and int(text) <= 0xFFFF:
        return int(text)
    raise InvalidHeader("the PROXY header has an invalid port")


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED.size:
        return None
    _, version_and_command, family, count = _FIXED.unpack_from(data)
    version, command = divmod(version_and_command, 16)
    if version != 2 or command > 1:
        raise InvalidHeader("the PROXY header has an unknown version or command")
    layout = _V2_FAMILIES.get(family)
    if command == 1 and family not in _V2_WITHOUT_ADDRESS and (layout is None or count < layout.size):
        raise InvalidHeader("the PROXY header is not one of a TCP connection")
    length = _FIXED.size + count
    if len(data) < length:
        return None
    if command == 0 or layout is None:
        return ProxyHeader(length)
    source, destination, source_port, destination_port = layout.unpack_from(data, _FIXED.size)
    return ProxyHeader(length, _endpoint(source, source_port), _endpoint(destination, destination_port))


def _endpoint(packed: bytes, port: int) -> Endpoint:
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Endpoint(mapped or address, port)
