"""What a source of users is asked, what it answers, and its interface: Source.

A module of a source has a function `make(settings, secrets) -> Source`, where `settings` is its entry of
`users.sources`, and `secrets` has the content of each of its `secret_files`. It connects to nothing: `ask` and `probe`
do. It raises UnusableSettings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from attrs import field, frozen

from ftpsd.accounts.user_store import CannotLookUp, LoginDenied, SourceFailed, WrongPassword
from ftpsd.config.sections.sources import RemoteSource
from ftpsd.config.sections.values import Value
from ftpsd.protocol.addresses import Address

__all__ = [
    "Answer",
    "CannotLookUp",
    "ConfiguredSource",
    "ListeningSource",
    "LoginDenied",
    "Question",
    "Record",
    "Secrets",
    "Source",
    "SourceFailed",
    "UnusableSettings",
    "WrongPassword",
]

#: What a source knows about a user: the keys of one user in `users.yaml`. `password` is a hash, if the source has one.
Record = Mapping[str, Value]

#: The secrets of a source, by the files that hold them, without the line end.
Secrets = Mapping[Path, str]


class UnusableSettings(Exception):
    """The settings of a source cannot be used: the key below the entry, what is wrong, and what to write instead."""

    def __init__(self, key: str, problem: str, remedy: str) -> None:
        super().__init__(f"{key}: {problem}. {remedy}")
        self.key, self.problem, self.remedy = key, problem, remedy


@frozen
class Question:
    """What a login asks a source."""

    #: As the client sent it: at most 1 kB, anything but NUL and line ends, bytes that are not UTF-8 as lone surrogates.
    name: str
    #: None: look the user up, and check nothing.
    password: str | None
    peer: Address


@frozen
class Answer:
    """A user whom the source knows."""

    #: The canonical name: a source that ignores case returns the name that it stores.
    name: str
    values: Record
    #: Whether the source has checked the password. If not, the caller verifies the hash `values["password"]`.
    verified: bool


class Source(Protocol):
    """A source of users.

    All methods block. They are called in threads of this source alone, `concurrency` of them at a time, and any of them
    in any of these threads. A source keeps its `timeout` for each question, including the time to connect. The caller
    has a later deadline, and abandons a thread that exceeds it.

    The text of SourceFailed names what has failed, and holds no password and no secret.
    """

    #: "sql", "ldap", "http" or "helper".
    kind: str
    #: How many threads may ask at the same time.
    concurrency: int
    #: Seconds in which each call of `ask` and `probe` ends.
    timeout: float

    def ask(self, question: Question) -> Answer | None:
        """Return the user; None if there is none of this name.

        Raises WrongPassword, LoginDenied (a refusal with a reason for the client), SourceFailed. CannotLookUp is no
        failure of the source.
        """

    def names(self) -> Iterator[str]:
        """Iterate over the names of all users. Raises SourceFailed where the source cannot list."""

    def probe(self) -> None:
        """Log in to the source and ask something harmless. Raises SourceFailed with a sentence for an administrator."""

    def close(self) -> None:
        """Close all connections. No other method is called after it, but one that was abandoned may still run."""


@runtime_checkable
class ListeningSource(Source, Protocol):
    """A source that is told of changes."""

    def listen(self, changed: Callable[[Collection[str]], None]) -> None:
        """Call `changed` with the canonical names of users who have changed, until `close`. Blocks a thread."""


@frozen
class ConfiguredSource:
    """A source that a load has made. It is equal to one of another load with the same settings, secrets and files."""

    #: The index in `users.sources`.
    index: int
    settings: RemoteSource
    #: What the files hold of which the source was made.
    contents: Mapping[Path, str] = field(repr=False)
    source: Source = field(eq=False)

    @property
    def name(self) -> str:
        """The name of the source in log lines and metrics, such as "ldap[1]"."""
        return f"{self.settings.type}[{self.index}]"
