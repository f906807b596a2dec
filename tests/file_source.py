"""A source of users in a file of JSON, for tests: users with plain passwords, and trouble of every kind.

`python -c "from tests.file_source import run; run()"` is twistd with the source type `file`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from ftpsd.accounts.sources.source import (
    Answer,
    LoginDenied,
    Question,
    Secrets,
    SourceFailed,
    WrongPassword,
)
from ftpsd.config import sources
from ftpsd.config.sections import sources as sections
from ftpsd.config.sections.sources import RemoteSource


@frozen(kw_only=True)
class FileSourceSettings(RemoteSource):
    """`{type: file, path: …}`"""

    type: Literal["file"]
    path: Path

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where it writes whom it was asked about."""
        return (self.path.parent,)


class FileSource:
    """Answers from a file with `users`, and `trouble`: down, crash, [slow, SECONDS], or [lie, ANSWER].

    A user with `plain` has its password checked here; others have a hash. `denied` is a refusal.
    """

    kind = "file"

    def __init__(self, path: Path, concurrency: int = 4, timeout: float = 5) -> None:
        self.concurrency = concurrency
        self.timeout = timeout
        self._path = path

    def ask(self, question: Question) -> Answer | None:
        """Return the user of the file."""
        with open(f"{self._path}.asked", "a") as asked:
            asked.write(f"{question.name!r}\n")
        users = self._users()
        if isinstance(users, list):
            return users[1]  # type: ignore[no-any-return]
        name = question.name if question.name in users else question.name.lower()
        if name not in users:
            return None
        values = dict(users[name])
        if "denied" in values:
            raise LoginDenied(values["denied"])
        plain = values.pop("plain", None)
        if plain is not None and question.password not in (None, plain):
            raise WrongPassword
        return Answer(name, values, verified=plain is not None)

    def names(self) -> Iterator[str]:
        """Iterate over the users of the file."""
        yield from self._users()

    def probe(self) -> None:
        """Read the file."""
        self._users()

    def close(self) -> None:
        """Leave a trace."""
        Path(f"{self._path}.closed").touch()

    def _users(self) -> Any:
        try:
            content = json.loads(self._path.read_text())
        except (OSError, ValueError) as error:
            raise SourceFailed(f"cannot read the file: {error}") from None
        trouble = content.get("trouble")
        if trouble == "down":
            raise SourceFailed("connection refused")
        if trouble == "crash":
            raise ZeroDivisionError("in the library")
        if trouble and trouble[0] == "slow":
            time.sleep(trouble[1])
        if trouble and trouble[0] == "lie":
            return ["lie", Answer("carol", trouble[1], verified=True) if trouble[1] is not None else "no answer"]
        return content["users"]


class UserFile:
    """The file of a FileSource, for a test."""

    def __init__(self, path: Path, **users: dict[str, Any]) -> None:
        self.path = path
        self.users = users
        self.write()

    def write(self, trouble: object = None) -> None:
        """Write the users, or trouble."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"users": self.users, "trouble": trouble}))
        os.replace(new, self.path)

    @property
    def asked(self) -> list[str]:
        """The names that the source was asked about."""
        try:
            return Path(f"{self.path}.asked").read_text().splitlines()
        except FileNotFoundError:
            return []


def make(settings: FileSourceSettings, secrets: Secrets) -> FileSource:
    """Make the source of an entry."""
    return FileSource(settings.path, settings.concurrency, settings.timeout)


def register() -> None:
    """Add the type to those that can be configured."""
    sections.SOURCES["file"] = FileSourceSettings  # type: ignore[index]
    sources.MODULES["file"] = "tests.file_source"  # type: ignore[index]


def command_line() -> int:
    """Run the command `ftpsd` with this type of source."""
    import tests.file_source
    from ftpsd.cli.main import main

    tests.file_source.register()
    return main()


def run() -> None:
    """Run twistd with this type of source."""
    from twisted.scripts import twistd

    import tests.file_source

    tests.file_source.register()
    twistd.run()
