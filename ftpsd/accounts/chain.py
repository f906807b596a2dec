"""The store of all users: the YAML files and the sources, asked in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from ftpsd.accounts import hashes
from ftpsd.accounts.hash_verifier import Decoys, HashVerifier
from ftpsd.accounts.remembered import Claim
from ftpsd.accounts.sources.running import RunningSource
from ftpsd.accounts.sources.source import Answer, Question, Record
from ftpsd.accounts.user_store import (
    Admit,
    Homes,
    InvalidRecord,
    SourceFailed,
    UnknownUser,
    User,
    WrongPassword,
)
from ftpsd.accounts.yaml_store import YamlUserStore
from ftpsd.config.settings import UserSettings
from ftpsd.protocol.parsing import Address, network, plain_address
from ftpsd.system.worker_threads import WorkerThreads

#: Builds the settings of a user from a record. Blocks. Raises InvalidRecord.
Build = Callable[[str, Record], UserSettings]

_LOCAL = plain_address("127.0.0.1")


class ChainStore:
    """Asks the YAML files and the sources in order. The first one that knows the name decides.

    `place` is how many sources are asked before the YAML files.
    """

    def __init__(
        self, yaml: YamlUserStore, place: int, sources: Sequence[RunningSource], build: Build, workers: WorkerThreads
    ) -> None:
        self._yaml = yaml
        self._before, self._after = sources[:place], sources[place:]
        self._build = build
        self._workers = workers
        self._decoys = Decoys()
        self._verifier: HashVerifier | None = None

    @property
    def homes(self) -> Homes:
        """The homes that are known now."""
        return self._yaml.homes

    def start(self, verifier: HashVerifier) -> None:
        """Verify hashes with this verifier from now on."""
        self._verifier = verifier
        self._yaml.start(verifier)

    def knows(self, name: str) -> bool:
        """Return whether a user of this name is known without asking a source."""
        return self._yaml.knows(name)

    async def find(self, name: str) -> User:
        """Return a user. Raises UnknownUser or SourceFailed."""
        question = Question(name, None, _LOCAL)
        found = await self._ask(self._before, question, _always)
        if found is None and self._yaml.knows(name):
            return await self._yaml.find(name)
        found = found or await self._ask(self._after, question, _always)
        if found is None:
            raise UnknownUser
        return await self._user(*found, _LOCAL)

    async def verify(self, name: str, password: str, peer: Address, admit: Admit) -> User:
        """Return the user if the password is right.

        Raises UnknownUser, WrongPassword, LoginDenied, SourceFailed, or what `admit` raises.
        """
        assert self._verifier is not None, "the store has not been started"
        question = Question(name, password, peer)
        found = await self._ask(self._before, question, admit)
        if found is None and self._yaml.knows(name):
            return await self._yaml.verify(name, password, peer, admit)
        found = found or await self._ask(self._after, question, admit)
        if found is None:
            claim = Claim("", name, self._decoys.choose(name), password)
            await self._verifier.matches(claim, peer, admit, known=False)
            raise UnknownUser
        source, answer = found
        if not answer.verified:
            hashed = answer.values.get("password")
            if not isinstance(hashed, str):
                raise SourceFailed(f"source {source.name}: the user {answer.name} has no password hash")
            if not hashes.is_valid(hashed):
                raise SourceFailed(f"source {source.name}: the user {answer.name}: password is not a supported hash")
            claim = Claim(source.name, answer.name, hashed, password)
            if not await self._verifier.matches(claim, peer, admit):
                raise WrongPassword
        return await self._user(source, answer, peer)

    async def names(self) -> AsyncIterator[str]:
        """Iterate over the names of the users in the YAML files."""
        async for name in self._yaml.names():
            yield name

    async def _ask(
        self, sources: Sequence[RunningSource], question: Question, admit: Admit
    ) -> tuple[RunningSource, Answer] | None:
        for source in sources:
            answer = await source.ask(question, admit)
            if answer is not None:
                return source, answer
        return None

    async def _user(self, source: RunningSource, answer: Answer, peer: Address) -> User:
        queue = self._workers.queue(network(peer), "login")
        try:
            return User(answer.name, await queue.call(self._build, answer.name, answer.values))
        except InvalidRecord as error:
            raise SourceFailed(f"source {source.name}: the user {answer.name}: {error}") from None


async def _always() -> None:
    """Admit everybody."""
