"""The homes of all users: those of the YAML files, and those of users who have logged in: KnownHomes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence, Set
from functools import partial

from ftpsd.accounts.user_store import Homes
from ftpsd.config.sections.storage import is_in_store
from ftpsd.config.settings import QuotaSettings, UserSettings
from ftpsd.protocol.paths import outermost, with_ancestors


class _Union(Set[str]):
    """Two sets as one, without a copy: the first may have 100,000 homes."""

    def __init__(self, first: Set[str], second: Set[str]) -> None:
        self._first, self._second = first, second

    def __contains__(self, home: object) -> bool:
        return home in self._first or home in self._second

    def __iter__(self) -> Iterator[str]:
        yield from self._first
        yield from (home for home in tuple(self._second) if home not in self._first)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Outermost(Iterable[str]):
    """The outermost homes of the moment at which they are iterated over. With 100,000 homes that takes 0.1 s.

    Whether there are any is known at once.
    """

    def __init__(self, find: Callable[[], Sequence[str]], are_any: Callable[[], bool]) -> None:
        self._find = find
        self._are_any = are_any

    def __bool__(self) -> bool:
        return self._are_any()

    def __iter__(self) -> Iterator[str]:
        return iter(self._find())


class KnownHomes:
    """Homes of users who have logged in since the start. They survive a reload: sessions may still use them."""

    def __init__(self) -> None:
        self._all: set[str] = set()
        self._with_quota: set[str] = set()

    def add(self, user: UserSettings, groups: Container[str] = ()) -> None:
        """Add the home and folders of a user. `groups` are those with a quota. Other threads may look into the sets."""
        for folder in user.folders.values():
            self._all.add(folder.path)
            if folder.quota != QuotaSettings():
                self._with_quota.add(folder.path)
        if user.home is not None:
            self._all.add(user.home)
            if user.quota != QuotaSettings() or any(name in groups for name in user.groups):
                self._with_quota.add(user.home)

    def beside(self, homes: Homes) -> Homes:
        """Return these homes and others together. They grow with each login. Threads may iterate over `outermost`."""
        return Homes(
            all=_Union(homes.all, self._all),
            with_quota=_Union(homes.with_quota, self._with_quota),
            outermost=_Outermost(partial(self._outermost, homes), partial(self._are_any_local, homes)),
            parents=homes.parents,
            of_groups=homes.of_groups,
        )

    def _are_any_local(self, homes: Homes) -> bool:
        return bool(homes.outermost) or not all(map(is_in_store, tuple(self._all)))

    def _outermost(self, homes: Homes) -> Sequence[str]:
        """Return the outermost homes. Each parent of a home is looked up, but not each of 100,000 homes."""
        local = [home for home in tuple(self._all) if not is_in_store(home)]
        own = [home for home in outermost(local) if not _lies_in(home, homes.all)]
        around = with_ancestors(homes.parents).intersection(own)
        if not around:
            return [*homes.outermost, *own]
        return [*(each for each in homes.outermost if not _lies_in(each, around)), *own]


def _lies_in(home: str, others: Set[str]) -> bool:
    """Return whether a path is one of others, or lies in one."""
    while home not in others and "/" in home:
        home = home.rpartition("/")[0]
    return home in others
