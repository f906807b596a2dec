"""Where users come from: the interface of every user store, and what it returns and raises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Set
from typing import TYPE_CHECKING, Protocol

from attrs import Factory, field, frozen

from ftpsd.config.sections.anonymous import AnonymousSettings
from ftpsd.config.settings import UserSettings
from ftpsd.protocol.addresses import Address, plain_address
from ftpsd.protocol.login_rules import Denial
from ftpsd.protocol.printable import printable

if TYPE_CHECKING:
    from ftpsd.accounts.hash_verifier import HashVerifier


@frozen
class User:
    """A user as a store knows it: the canonical name, and settings merged with the defaults."""

    name: str
    settings: UserSettings
    #: What holds for the anonymous user; None for all others.
    anonymous: AnonymousSettings | None = None
    #: Returns what to raise if the password was right and the login fails after all. It must not differ from a wrong
    #: password. While a source is down, that is its error, and a guess is counted.
    reject: Callable[[], Exception] | None = field(default=None, eq=False)


@frozen
class Homes:
    """The homes of a store's users: absolute paths of directories, without symbolic links, and places in stores.

    A store that learns of users only when they log in adds their homes to the sets. Threads may look into them.
    """

    #: All homes.
    all: Set[str] = frozenset()
    #: Homes in which at least one user has a quota.
    with_quota: Set[str] = frozenset()
    #: Directories that are homes, and lie in no other home; false if there are none. They may be found when they are
    #: iterated over.
    outermost: Iterable[str] = ()
    #: The directories in which homes lie or may be created.
    parents: frozenset[str] = frozenset()
    #: By group whose members share a quota: their homes, which are in `with_quota`, too.
    of_groups: Mapping[str, Set[str]] = Factory(dict)


class UnknownUser(Exception):
    """The store has no user of this name."""


class WrongPassword(Exception):
    """The password is not that of the user. `name` is the canonical name, where a source knows it."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name


class LoginDenied(Exception):
    """The source knows the user, but does not let the user log in now.

    `reason` is a sentence for the client, and `word` says why in the log.
    """

    def __init__(self, reason: str, word: str = "source") -> None:
        super().__init__(reason)
        self.reason, self.word = reason, word

    @property
    def denial(self) -> Denial:
        """The refusal, with what of the sentence can be sent."""
        return Denial(self.word, printable(self.reason) or "Login refused.")


class SourceFailed(Exception):
    """The source of the users gave no answer that can be used. The text is for the log, and holds no secret."""


class CannotLookUp(SourceFailed):
    """The source works, but looks nobody up without the password."""


class InvalidRecord(Exception):
    """What a source knows about a user cannot be used. The text has every fault: key, problem, remedy."""


#: Called when a login that has waited comes to its turn. Raises Refusal if the client was banned or has gone since.
Admit = Callable[[], Awaitable[None]]


async def always() -> None:
    """Admit everybody."""


#: The address of questions that no client asks.
LOCAL = plain_address("127.0.0.1")


class UserStore(Protocol):
    """A source of users. All methods are for the reactor thread, and none blocks it.

    A store has a deadline for each question to its source, and raises SourceFailed when that is over: the client gets
    451 and may try again. A store may answer from a cache instead; it decides how old an answer may be.

    Logins that must wait, for a hash or for a source, are served round-robin by client network.
    """

    @property
    def homes(self) -> Homes:
        """The homes that are known now."""

    def start(self, verifier: HashVerifier) -> None:
        """Prepare for `find` and `verify`, which verify hashes with `verifier`. Called once, before either of them."""

    def knows(self, name: str) -> bool:
        """Return whether a user of this name is known without asking the source: the log shows no other names."""

    async def find(self, name: str, peer: Address = LOCAL, admit: Admit = always, before_verify: bool = False) -> User:
        """Return a user, without a check of a password.

        Raises UnknownUser, LoginDenied, SourceFailed, or what `admit` raises. `peer` and `admit` belong to the client
        that logs in, if one does. With `before_verify`, the caller calls `verify` next, which may not know the user.
        """

    async def recall(self, name: str) -> User:
        """Return a user without asking any source, as known from memory. Raises UnknownUser or SourceFailed."""

    async def verify(self, name: str, password: str, peer: Address, admit: Admit, after_find: bool = False) -> User:
        """Return the user if the password is right; `peer` is the address of the client.

        `after_find` says that this login has called `find` before: a failed login then takes as much longer.

        Raises UnknownUser, WrongPassword, LoginDenied, SourceFailed, or what `admit` raises. An unknown name takes as
        long as a wrong password, so that clients cannot find out which names exist.
        """

    def names(self) -> AsyncIterator[str]:
        """Iterate over the names of all users that `recall` knows."""
