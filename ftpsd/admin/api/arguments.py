"""The arguments of a request: the parameters of its query, and the members of its body. Parsed once, into values.

A route declares its parameters; the declarations are also those of the OpenAPI document. Every method of Arguments
raises Problem (400) that names the parameter and says what to write.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar
from urllib.parse import parse_qsl

from attrs import frozen

from ftpsd.admin.api.problem import Json, Problem, bad_value
from ftpsd.config.faults import suggestion
from ftpsd.protocol.login_rules import Network

T = TypeVar("T", bound=str)

#: A schema of OpenAPI 3.1, as far as we use it.
Schema: TypeAlias = "Mapping[str, Json]"

#: The longest text of an argument.
LONGEST = 255

#: Parameters that a query may have.
_MOST_PARAMETERS = 50

BOOLEAN: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST}
NETWORK: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST, "format": "ip-network"}


@frozen
class Parameter:
    """A parameter of the query, for reading it and for the OpenAPI document."""

    name: str
    schema: Schema
    description: str


class Arguments:
    """The parameters of one query by name. A name may be given once; only declared ones are known."""

    def __init__(self, query: str, declared: Iterable[Parameter]) -> None:
        known = [parameter.name for parameter in declared]
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="surrogateescape")
        except ValueError:
            raise Problem(400, f"The query has more than {_MOST_PARAMETERS} parameters.") from None
        self._values: dict[str, str] = {}
        for name, value in pairs:
            if name not in known:
                raise bad_value(
                    _quoted(name), "is not known here", suggestion(name, known) if known else "Leave it out."
                )
            if name in self._values:
                raise bad_value(name, "is given twice", "Write it once.")
            if not value or len(value) > LONGEST:
                raise bad_value(name, "is empty" if not value else "is too long", f"Write 1 to {LONGEST} characters.")
            self._values[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str | None:
        """Return a text, or None if it is not given."""
        return self._values.get(name)

    def number(self, name: str, default: int, most: int) -> int:
        """Return a number from 0 to `most`."""
        text = self._values.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) <= 12 and int(text) <= most):
            raise bad_value(name, f"is not a number: {_quoted(text)}", f"Write a number from 0 to {most}.")
        return int(text)

    def flag(self, name: str) -> bool:
        """Return true or false; false if it is not given."""
        text = self._values.get(name, "false")
        if text not in ("true", "false"):
            raise bad_value(name, f"is neither true nor false: {_quoted(text)}", "Write true or false.")
        return text == "true"

    def choice(self, name: str, words: Sequence[T]) -> T | None:
        """Return one of some words, or None if it is not given."""
        text = self._values.get(name)
        if text is None:
            return None
        for word in words:
            if word == text:
                return word
        raise bad_value(name, f"cannot be {_quoted(text)}", suggestion(text, words))

    def choices(self, name: str, words: Sequence[str]) -> frozenset[str] | None:
        """Return some words that are separated by commas, or None if they are not given."""
        text = self._values.get(name)
        if text is None:
            return None
        found = frozenset(text.split(","))
        for each in found.difference(words):
            raise bad_value(name, f"has {_quoted(each)}", suggestion(each, words))
        return found

    def network(self, name: str) -> Network | None:
        """Return an address or network, or None if it is not given."""
        text = self._values.get(name)
        return None if text is None else parse_network(name, text)


class Body:
    """The members of a JSON object, which a request has as its body."""

    def __init__(self, data: bytes, members: Sequence[str]) -> None:
        try:
            text = data.decode("utf-8")
            value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_members) if text else None
        except (ValueError, RecursionError) as error:
            raise Problem(400, f"The body is not JSON: {error}. Write a JSON object.") from None
        if not isinstance(value, dict):
            raise Problem(400, f"The body is no JSON object. Write an object with some of: {', '.join(members)}.")
        for name in value.keys() - set(members):
            raise bad_value(_quoted(name), "is not known here", suggestion(name, members))
        self._members: dict[str, Json] = value

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def text(self, name: str) -> str | None:
        """Return a text, or None if it is missing."""
        if name not in self._members:
            return None
        value = self._members[name]
        if not isinstance(value, str) or not 1 <= len(value) <= LONGEST:
            raise bad_value(name, "is no text", f"Write a string of 1 to {LONGEST} characters.")
        return value

    def network(self, name: str) -> Network | None:
        """Return an address or network, or None if it is missing."""
        text = self.text(name)
        return None if text is None else parse_network(name, text)

    def number(self, name: str, most: int) -> float | None:
        """Return a number above 0, or None if it is null or missing."""
        value = self._members.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise bad_value(name, "is no such number", f"Write a number above 0, up to {most}, or null.")
        return value


def parse_network(name: str, text: str) -> Network:
    """Return the network that a text says. An IPv4-mapped IPv6 address is IPv4; a zone (%eth0) is dropped."""
    try:
        network = ipaddress.ip_network(_without_zone(text))
    except ValueError as error:
        problem = str(error) if "host bits" in str(error) else f"is no address or network: {_quoted(text)}"
        raise bad_value(name, problem, _network_remedy(text)) from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _without_zone(text: str) -> str:
    address, percent, rest = text.partition("%")
    return address + rest[rest.find("/") :] if percent and "/" in rest else address


def _network_remedy(text: str) -> str:
    try:
        return f"Write {ipaddress.ip_network(_without_zone(text), strict=False)}, or a single address."
    except ValueError:
        return "Write an address, such as 192.0.2.7, or a network, such as 2001:db8::/32."


def _members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Return an object. Of two members with one name, readers of JSON take the first or the last: refuse both."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is given twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _quoted(text: str) -> str:
    """Return a text of the client as an answer shows it: short, and with nothing that is not printable."""
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:60])
    return f"“{shown}{'…' if len(text) > 60 else ''}”"
