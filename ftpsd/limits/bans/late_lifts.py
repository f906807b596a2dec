"""Lifted bans of a state file that cannot be read yet: LateLifts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ftpsd.limits.bans.ban_table import Ban, Kind

#: Returns whether a ban is to be lifted.
Matches = Callable[[Ban], bool]

#: The most requests that are remembered.
MOST = 1000


class LateLifts:
    """What an administrator has lifted while the state file could not be read: its bans must not come back from it."""

    def __init__(self) -> None:
        self._requests: list[Matches] = []
        #: Bans that were in memory, and are lifted.
        self._lifted: set[tuple[Kind, str]] = set()

    def add_request(self, matches: Matches) -> bool:
        """Remember which bans are lifted, whatever the file has. Return False if too many requests wait."""
        if len(self._requests) >= MOST:
            return False
        self._requests.append(matches)
        return True

    def add(self, kind: Kind, subject: str) -> None:
        """Remember that a ban which was known is lifted."""
        self._lifted.add((kind, subject))

    def is_known(self, ban: Ban) -> bool:
        """Return whether a ban is lifted that was known before the file could be read."""
        return (ban.kind, ban.subject) in self._lifted

    def apply(self, bans: Iterable[Ban]) -> Iterator[tuple[Ban, bool]]:
        """Yield the bans of the file, and whether each is lifted."""
        for ban in bans:
            yield ban, self.is_known(ban) or any(matches(ban) for matches in self._requests)

    def clear(self) -> None:
        """Forget everything: the file was read."""
        self._requests.clear()
        self._lifted.clear()
