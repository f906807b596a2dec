"""The users of `users.yaml` and `users.d`, in memory. `config/users/loader.py` reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import attrs

from ftpsd.accounts import hashes
from ftpsd.accounts.hash_verifier import Decoys, HashVerifier
from ftpsd.accounts.remembered import Claim
from ftpsd.accounts.user_store import LOCAL, Admit, Homes, UnknownUser, User, WrongPassword, always
from ftpsd.config.settings import UserSettings
from ftpsd.protocol.addresses import Address
from ftpsd.system.memory.large import LargeList, free_in_thread

#: The name of this source.
SOURCE = "yaml"

#: Users that are kept besides, at most.
_RECENT = 256


class UserTable:
    """Users by name. Each is one string, and its settings are made when they are asked for.

    100,000 UserSettings would make each full garbage collection stop all sessions for 0.1 s.
    """

    def __init__(self) -> None:
        self._records: dict[str, str] = {}
        self._kinds: LargeList[UserSettings] = LargeList()
        #: The users that were asked for last: clients log in for each file.
        self._recent: dict[str, User] = {}
        #: The names of users whose hashes have no salt.
        self.weak: list[str] = []

    def add_kind(self, settings: UserSettings) -> int:
        """Keep settings that users have in common, all but password and home; return their number."""
        self._kinds.append(settings)
        return len(self._kinds) - 1

    def add(self, name: str, kind: int, password: str, home: str) -> None:
        """Keep a user whose other settings are those with the number `kind`."""
        self._records[name] = f"{kind}\0{password}\0{home}"
        self._recent.pop(name, None)
        if hashes.is_weak(password):
            self.weak.append(name)

    def get(self, name: str) -> User | None:
        """Return a user; None if there is none of this name."""
        user = self._recent.get(name)
        record = self._records.get(name) if user is None else None
        if record is not None:
            kind, password, home = record.split("\0")
            user = User(name, attrs.evolve(self._kinds[int(kind)], password=password, home=home))
            if len(self._recent) >= _RECENT:
                self._recent.clear()
            self._recent[name] = user
        return user

    def current_hash(self, name: str) -> str | None:
        """Return the password hash of a user; None if there is none of this name, or the user is disabled."""
        record = self._records.get(name)
        if record is None:
            return None
        kind, password, _ = record.split("\0")
        return password if self._kinds[int(kind)].enabled else None

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of all certificates that users have."""
        return frozenset(each for kind in self._kinds for each in kind.certificates)

    def names(self) -> Sequence[str]:
        """Return all names, in the order in which they were added."""
        return tuple(self._records)

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def __len__(self) -> int:
        return len(self._records)

    def __del__(self) -> None:
        # Not a subclass of dict: a full garbage collection would look at all of its elements.
        free_in_thread(self._records, self._records.popitem)


class YamlUserStore:
    """The store of the users in `users.yaml` and `users.d`. A reload makes a new one.

    `decoys` are some of their hashes (see `hash_verifier.Decoys`).
    """

    def __init__(self, users: UserTable, homes: Homes, decoys: Sequence[str] = ()) -> None:
        self.homes = homes
        self.users = users
        self.decoys = decoys
        self._decoys = Decoys(decoys)
        self._verifier: HashVerifier | None = None

    def start(self, verifier: HashVerifier) -> None:
        """Verify hashes with this verifier from now on. It forgets the passwords of users who have changed."""
        self._verifier = verifier
        verifier.remembered.follow(SOURCE, self.users.current_hash)

    def knows(self, name: str) -> bool:
        """Return whether a user has this name."""
        return name in self.users

    async def find(self, name: str, peer: Address = LOCAL, admit: Admit = always, before_verify: bool = False) -> User:
        """Return a user, or raise UnknownUser."""
        user = self.users.get(name)
        if user is None:
            raise UnknownUser
        return user

    async def recall(self, name: str) -> User:
        """Return a user, or raise UnknownUser."""
        return await self.find(name)

    async def verify(self, name: str, password: str, peer: Address, admit: Admit, after_find: bool = False) -> User:
        """Return the user if the password is right, or raise UnknownUser, WrongPassword, or what `admit` raises.

        For a name that does not exist the hash of some user is verified, always the same one for that name.
        """
        assert self._verifier is not None, "the store has not been started"
        user = self.users.get(name)
        hashed = user.settings.password if user is not None else None
        claim = Claim(SOURCE, name, hashed or self._decoys.choose(name), password)
        has_secret = user is not None and user.settings.totp is not None
        matches = await self._verifier.matches(claim, peer, admit, known=bool(hashed), remember=not has_secret)
        if user is None:
            raise UnknownUser
        if not matches:
            raise WrongPassword
        return user

    async def names(self) -> AsyncIterator[str]:
        """Iterate over all names."""
        for name in self.users.names():
            yield name
