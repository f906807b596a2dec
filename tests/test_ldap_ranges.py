"""Attributes that Active Directory returns in portions, as its documentation shows them, and as no server should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

pytest.importorskip("ldap", reason="python-ldap is not installed")

from ftpsd.accounts.sources.ldap import ranges
from ftpsd.accounts.sources.ldap.connection import Connection, Entry, deadline_after
from ftpsd.accounts.sources.ldap.ranges import complete
from ftpsd.accounts.sources.source import SourceFailed

Attributes = Mapping[str, Sequence[bytes]]


class Server:
    """A connection to a server whose answers are given, by the attribute that is asked for."""

    def __init__(self, **answers: list[Attributes]) -> None:
        self.asked: list[str] = []
        self._answers = answers

    def search(self, base: str, scope: str, text: str, attributes: Sequence[str], deadline: object) -> list[Entry]:
        """Return the next answer for an attribute."""
        (wanted,) = attributes
        self.asked.append(wanted)
        return [Entry(base, each) for each in self._answers[wanted.partition(";")[0]][len(self.asked) - 1 :][:1]]


def read(first: Attributes, **answers: list[Attributes]) -> tuple[Any, list[str]]:
    """Return the attributes that are read, and what was asked for them."""
    server = Server(**answers)
    found = complete(Entry("cn=a", first), cast(Connection, server), deadline_after(5))
    return found.attributes, server.asked


def values(first: int, last: int) -> list[bytes]:
    """Return numbered values."""
    return [b"%d" % number for number in range(first, last + 1)]


def test_all_portions_are_read() -> None:
    """An attribute without values, which Windows sends beside the portions, is replaced; others stay as they are."""
    first = {"mail": [b"x"], "memberof": [], "memberof;range=0-2": values(0, 2)}
    more: list[Attributes] = [{"memberof;range=3-5": values(3, 5)}, {"memberof;range=6-*": values(6, 7)}]
    found, asked = read(first, memberof=more)
    assert found == {"mail": [b"x"], "memberof": values(0, 7)}
    assert asked == ["memberof;range=3-*", "memberof;range=6-*"]


def test_an_entry_without_portions() -> None:
    """Nothing is asked, also for attributes with other options."""
    first = {"cn": [b"a"], "description;lang-en": [b"b"]}
    assert read(first) == (first, [])


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [{}],
        [{"memberof": values(3, 9)}],
        [{"memberof;range=0-2": values(0, 2)}],
        [{"memberof;range=3-5": []}],
        [{"memberof;range=4-*": values(4, 9)}],
        [{"member;range=3-*": values(3, 9)}],
    ],
    ids=range(7),
)
def test_a_server_that_does_not_continue(answers: list[Attributes]) -> None:
    """A portion that is missing, repeated or empty is a failure: a user must not lose groups unnoticed."""
    with pytest.raises(SourceFailed, match=r"the server returns memberof of .* only in part"):
        read({"memberof;range=0-2": values(0, 2)}, memberof=answers)


def test_too_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never ends is no reason to read for ever."""
    monkeypatch.setattr(ranges, "MOST", 10)
    endless: list[Attributes] = [{f"memberof;range={n}-{n + 2}": values(n, n + 2)} for n in range(3, 99, 3)]
    with pytest.raises(SourceFailed, match="memberof of the entry cn=a has more than 10 values"):
        read({"memberof;range=0-2": values(0, 2)}, memberof=endless)
