"""Let all processes remember the same logins, for the time when a source is down: `share_logins`, SharedLogins.

A login is told to the supervisor, and by it to the other workers. A worker that starts gets all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TypeGuard

from ftpsd.accounts.chain.recent import RecentLogins, Remembered
from ftpsd.accounts.chain.sources import RunningSources
from ftpsd.accounts.chain.store import YAML
from ftpsd.accounts.sources.source import Answer, Record
from ftpsd.system.link import Link, Links
from ftpsd.system.messages.codec import Malformed

#: Logins in one message, and the bytes of a digest.
PIECE = 50
DIGEST = 64


class _Places:
    """The names of the places where users are found, and back."""

    def __init__(self, recent: RecentLogins, sources: RunningSources) -> None:
        self._recent = recent
        self._sources = sources

    def encode(self, name: str, login: Remembered | None) -> list[object] | None:
        """Return a login in JSON; None if the source has values that JSON does not have."""
        if login is None:
            return [name]
        place, answer, digest = login
        where = place if place is YAML else self._sources.name_of(place)
        if answer is None:
            return [name, where, None, None, False, digest.hex()]
        if not _is_json(answer.values):
            return None
        return [name, where, answer.name, answer.values, answer.verified, digest.hex()]

    def take(self, items: object) -> None:
        """Remember or forget what another process has. Raises Malformed."""
        if type(items) is not list or len(items) > PIECE:
            raise Malformed("this is no list of logins")
        for item in items:
            self._take(item)

    def _take(self, item: object) -> None:
        if type(item) is not list or not item or type(item[0]) is not str:
            raise Malformed("this is no login")
        if len(item) == 1:
            self._recent.take(item[0], None)
            return
        if len(item) != 6:
            raise Malformed("this is no login")
        name, where, user, values, verified, digest = item
        if type(where) is not str or type(verified) is not bool:
            raise Malformed("this is no login")
        place = YAML if where == YAML else self._sources.named(where)
        if place is None:
            return  # its configuration is another one
        answer = None
        if user is not None:
            if type(user) is not str or type(values) is not dict:
                raise Malformed("this is no user")
            answer = Answer(user, values, verified)
        self._recent.take(name, Remembered(place, answer, _digest(digest)))


def share_logins(link: Link, recent: RecentLogins, sources: RunningSources) -> None:
    """In a worker: tell the supervisor which logins are remembered, and remember those that it tells."""
    places = _Places(recent, sources)

    def changed(name: str, login: Remembered | None) -> None:
        item = places.encode(name, login)
        if item is not None:
            link.tell("logins.take", [item])

    recent.changed = changed
    link.serve("logins.take", places.take)


class SharedLogins:
    """In the supervisor: passes logins on, and remembers them, too."""

    def __init__(self, links: Links, recent: RecentLogins, sources: RunningSources) -> None:
        self._links = links
        self._recent = recent
        self._places = _Places(recent, sources)
        links.on_start(self._started)

    def _started(self, index: int, link: Link) -> None:
        link.serve("logins.take", partial(self._take, index))
        known = [self._places.encode(*each) for each in self._recent.all()]
        for piece in _pieces([each for each in known if each is not None]):
            link.tell("logins.take", piece)

    def _take(self, index: int, *arguments: object) -> None:
        try:
            (items,) = arguments
            self._places.take(items)
        except ValueError:  # Malformed included: no worker of ours sends that
            return
        for other, link in self._links.links.items():
            if other != index:
                link.tell("logins.take", items)


def _pieces(items: list[list[object]]) -> Iterable[list[list[object]]]:
    for start in range(0, len(items), PIECE):
        yield items[start : start + PIECE]


def _digest(text: object) -> bytes:
    if type(text) is not str or len(text) > 2 * DIGEST:
        raise Malformed("this is no digest")
    return bytes.fromhex(text)


def _is_json(value: object) -> TypeGuard[Record]:
    """Return whether JSON has a value, so that it comes back as it was."""
    if isinstance(value, dict):
        return all(type(key) is str and _is_json(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)
