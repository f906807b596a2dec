"""The store of all users: the YAML files and the sources, asked in order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence

import attrs
from twisted.internet.defer import Deferred

from ftpsd.accounts import hashes
from ftpsd.accounts.chain.homes import KnownHomes
from ftpsd.accounts.chain.recent import RecentLogins
from ftpsd.accounts.chain.running import RunningSource
from ftpsd.accounts.hash_verifier import Decoys, HashVerifier
from ftpsd.accounts.remembered import Claim
from ftpsd.accounts.sources.source import Answer, Question, Record
from ftpsd.accounts.user_store import (
    LOCAL,
    Admit,
    Homes,
    InvalidRecord,
    LoginDenied,
    SourceFailed,
    UnknownUser,
    User,
    WrongPassword,
    always,
)
from ftpsd.accounts.yaml_store import YamlUserStore
from ftpsd.config.settings import UserSettings
from ftpsd.protocol.addresses import Address, network
from ftpsd.system.reactor import Clock
from ftpsd.system.worker_threads import WorkerThreads

#: Builds the settings of a user from a record. Blocks. Raises InvalidRecord.
Build = Callable[[str, Record], UserSettings]

#: Stands for the YAML files, whose store is another one after each reload, where a login is remembered.
YAML = "yaml"

#: The most bytes of a name or a password that a source is asked about.
LONGEST = 1000


@attrs.frozen
class Shared:
    """What the stores of all configuration snapshots share."""

    clock: Clock
    workers: WorkerThreads
    recent: RecentLogins
    homes: KnownHomes


class ChainStore:
    """Asks the YAML files and the sources in order. The first one that knows the name decides.

    `place` is how many of the sources are asked before the YAML files.
    """

    def __init__(
        self, yaml: YamlUserStore, place: int, sources: Sequence[RunningSource], build: Build, shared: Shared
    ) -> None:
        self._yaml = yaml
        self._places: tuple[YamlUserStore | RunningSource, ...] = (*sources[:place], yaml, *sources[place:])
        self._build = build
        self._shared = shared
        self._decoys = Decoys(yaml.decoys)
        self._verifier: HashVerifier | None = None

    @property
    def homes(self) -> Homes:
        """The homes that are known now."""
        return self._shared.homes.beside(self._yaml.homes)

    def start(self, verifier: HashVerifier) -> None:
        """Verify hashes with this verifier from now on."""
        self._verifier = verifier
        self._yaml.start(verifier)

    def knows(self, name: str) -> bool:
        """Return whether a user of this name is in the YAML files, or has logged in recently."""
        return self._yaml.knows(name) or name in self._shared.recent

    def may_exist(self, name: str) -> bool:
        """Return whether there may be a user of this name: sources are not asked."""
        return self._yaml.knows(name) or len(self._places) > 1

    async def find(self, name: str, peer: Address = LOCAL, admit: Admit = always, before_verify: bool = False) -> User:
        """Return a user. Raises UnknownUser, LoginDenied, SourceFailed, or what `admit` raises.

        `before_verify` no source is asked twice: the time would tell that there is a user of another spelling.
        """
        question = Question(name, None, peer)
        try:
            for index in range(len(self._places)):
                user = await self._find_at(index, question, admit, before_verify)
                if user is not None:
                    return user
        except LoginDenied:
            self._shared.recent.forget(name)
            raise
        if _can_be_asked(name):
            self._shared.recent.forget(name)
        raise UnknownUser

    async def recall(self, name: str) -> User:
        """Return a user of the YAML files, or as the source knew the user at the last login. Raises UnknownUser."""
        place, answer = self._shared.recent.last(name)
        if isinstance(place, RunningSource) and answer is not None and not self._yaml.knows(name):
            return await self._user(place, answer, LOCAL)
        return await self._yaml.find(name)

    async def verify(self, name: str, password: str, peer: Address, admit: Admit, after_find: bool = False) -> User:
        """Return the user if the password is right.

        Raises UnknownUser, WrongPassword, LoginDenied, SourceFailed, or what `admit` raises. Each failed login takes as
        long as if all places had been asked, twice `after_find`, and one hash verified.
        """
        question = Question(name, password, peer)
        for index in range(len(self._places)):
            try:
                user = await self._verify_at(index, question, admit)
            except WrongPassword as error:
                for each in (name, error.name or name):
                    self._shared.recent.forget(each, password)
                others = self._places[index + 1 :] * (2 if after_find else 1)
                await _wait_for_others(self._shared.clock, others)
                raise
            except LoginDenied:
                self._shared.recent.forget(name)
                raise
            if user is not None:
                return user
        if _can_be_asked(name, password):
            self._shared.recent.forget(name)
        await self._verify_decoy(question, admit)
        raise UnknownUser

    async def names(self) -> AsyncIterator[str]:
        """Iterate over the users of the YAML files, and those of other sources who have logged in recently.

        The sources may have millions, and be slow.
        """
        async for name in self._yaml.names():
            yield name
        for name in self._shared.recent.names():
            if not self._yaml.knows(name):
                yield name

    # --- one place -------------------------------------------------------------------------------

    async def _find_at(self, index: int, question: Question, admit: Admit, before_verify: bool) -> User | None:
        """Return the user if this place knows the name; None if it does not."""
        place, name, recent = self._places[index], question.name, self._shared.recent
        if isinstance(place, YamlUserStore):
            return await place.find(name) if place.knows(name) else None
        if not _can_be_asked(name):
            return None
        try:
            answer = await place.ask(question, admit)
        except SourceFailed as error:
            answer = await self._answer_without(index, question, error)
        if answer is None or _is_shadowed(name, answer, self._places[:index]):
            return None
        earlier = self._places[: index + 1]
        if not before_verify and await _is_known_before(earlier, recent, question, answer, admit):
            return None
        user = await self._user(place, answer, question.peer)
        if not user.settings.enabled:
            recent.forget(name)
        return user

    async def _verify_at(self, index: int, question: Question, admit: Admit) -> User | None:
        """Return the user if this place knows the name; None if it does not."""
        place, name, password = self._places[index], question.name, question.password or ""
        recent = self._shared.recent
        if isinstance(place, YamlUserStore):
            if not place.knows(name):
                return None
            user = await place.verify(name, password, question.peer, admit)
            if index:
                recent.remember(name, password, YAML, None)
            return user
        if not _can_be_asked(name, password):
            return None
        try:
            answer = await self._ask(index, question, admit)
        except InvalidAnswer:
            raise
        except SourceFailed as error:
            answer = await self._answer_without(index, question, error)
            if answer is None or await _is_known_before(self._places[: index + 1], recent, question, answer, admit):
                return None
            # Before the password is compared: the time must not show whether it was right.
            user = await self._user(place, answer, question.peer)
            return _remembered(user, recent, question, error)
        if answer is None or await _is_known_before(self._places[: index + 1], recent, question, answer, admit):
            return None
        user = await self._user(place, answer, question.peer)
        recent.remember(name, password, place, answer)
        return user

    async def _ask(self, index: int, question: Question, admit: Admit) -> Answer | None:
        """Return a user whose password is right; None if the source has none of this name, or may not decide."""
        source = self._places[index]
        assert self._verifier is not None, "the store has not been started"
        assert isinstance(source, RunningSource)
        try:
            answer = await source.ask(question, admit)
        except WrongPassword:
            await self._verify_decoy(question, admit)
            raise
        if answer is None or _is_shadowed(question.name, answer, self._places[:index]):
            return None
        if answer.verified:
            return answer
        hashed = answer.values.get("password")
        if not isinstance(hashed, str) or len(hashed) > LONGEST or not hashes.is_valid(hashed):
            problem = "password is missing, or not a supported password hash"
            raise InvalidAnswer(f"source {source.name}: the user {answer.name}: {problem}")
        self._decoys.note(hashed)
        claim = Claim(source.name, answer.name, hashed, question.password or "")
        has_secret = answer.values.get("totp") is not None
        if not await self._verifier.matches(claim, question.peer, admit, remember=not has_secret):
            raise WrongPassword(answer.name)
        return answer

    async def _answer_without(self, index: int, question: Question, error: SourceFailed) -> Answer | None:
        """Return what a source that is down would answer, by the last login of this name. Or raise its `error`.

        A source that is up may have changed the user, though it was busy or late, or could not answer this question.

        If another place knew the user, which is asked later, the source did not know the name.
        """
        source, recent = self._places[index], self._shared.recent
        assert isinstance(source, RunningSource)
        if question.name not in recent or not await source.has_gone_down():
            raise error
        place, answer = recent.last(question.name)
        if place in map(_key, self._places[index + 1 :]):
            return None
        if place is not source or answer is None:
            raise error
        if _is_shadowed(question.name, answer, self._places[:index]):
            return None
        return answer

    async def _user(self, source: RunningSource, answer: Answer, peer: Address) -> User:
        queue = self._shared.workers.queue(network(peer), "login")
        try:
            settings = await queue.call(self._build, answer.name, answer.values)
        except InvalidRecord as error:
            raise InvalidAnswer(f"source {source.name}: the user {answer.name}: {error}") from None
        self._shared.homes.add(settings, self._yaml.homes.of_groups)
        return User(answer.name, settings)

    async def _verify_decoy(self, question: Question, admit: Admit) -> None:
        assert self._verifier is not None, "the store has not been started"
        claim = Claim("", question.name, self._decoys.choose(question.name), question.password or "")
        await self._verifier.matches(claim, question.peer, admit, known=False)


class InvalidAnswer(SourceFailed):
    """What the source knows about the user cannot be used. The source itself works."""


def _key(place: YamlUserStore | RunningSource) -> object:
    """Return what stands for a place where a login is remembered."""
    return YAML if isinstance(place, YamlUserStore) else place


def _remembered(user: User, recent: RecentLogins, question: Question, error: SourceFailed) -> User:
    """Return the user of the last login if the password is the one of then. Or raise the `error` of the source."""
    guesser = network(question.peer)
    if not recent.admits(question.name, question.password or "", guesser):
        raise error

    def reject() -> Exception:
        recent.admits(question.name, None, guesser)
        return error

    return attrs.evolve(user, reject=reject)


async def _wait_for_others(clock: Clock, places: Sequence[YamlUserStore | RunningSource]) -> None:
    """Wait as long as these places would have taken for a name that they do not know."""
    delay = sum(place.usual_delay() for place in places if isinstance(place, RunningSource))
    # The reactor waits for whole milliseconds, and rounds up: on average, this is the right time.
    milliseconds = int(delay * 1000 + random.random())
    if milliseconds:
        waiting: Deferred[None] = Deferred()
        clock.callLater(milliseconds / 1000, waiting.callback, None)
        await waiting


def _is_shadowed(name: str, answer: Answer, earlier: Sequence[YamlUserStore | RunningSource]) -> bool:
    """Return whether an earlier place decides about the user of an answer.

    A source that ignores case answers to spellings that the YAML files do not know, with a name that they know.
    """
    return name != answer.name and any(
        isinstance(place, YamlUserStore) and place.knows(answer.name) for place in earlier
    )


async def _is_known_before(
    places: Sequence[YamlUserStore | RunningSource],
    recent: RecentLogins,
    question: Question,
    answer: Answer,
    admit: Admit,
) -> bool:
    """Return whether an earlier source decides about the user of an answer, by the name that the user has there.

    `places` ends with the one that has answered. It may ignore case, and answer to spellings that the earlier ones do
    not know with a name that they know. Raises SourceFailed, and what `admit` raises.
    """
    if answer.name == question.name:
        return False
    again = attrs.evolve(question, name=answer.name)
    for place in places[:-1]:
        if isinstance(place, YamlUserStore):
            continue
        try:
            if await place.ask(again, admit) is not None:
                return True
        except (WrongPassword, LoginDenied):
            return True
        except SourceFailed:
            last, known = recent.last(question.name)
            is_known = last is places[-1] and known is not None and known.name == answer.name
            if not is_known or not await place.has_gone_down():
                raise
            # At the last login, this source did not know the user: as for the name that the client has sent.
    return False


def _can_be_asked(name: str, password: str = "x") -> bool:
    """Return whether sources are asked. LDAP servers take an empty password for an anonymous login, which succeeds."""
    texts = [text.encode("utf-8", "surrogateescape") for text in (name, password)]
    return all(0 < len(text) <= LONGEST and b"\0" not in text for text in texts)
