"""Who may log in, with twisted.cred: the checker, and the realm whose avatars are the users' roots."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface, implementer

from ftpsd.accounts import hashes
from ftpsd.accounts.fair_queue import FairSemaphore
from ftpsd.config.settings import Limits, UserSettings, UsersFile
from ftpsd.limits.user_limits import Share, Shares
from ftpsd.protocol.login_rules import Denial
from ftpsd.protocol.parsing import Address, network
from ftpsd.protocol.permissions import Rights
from ftpsd.storage.local.root import OffThread, Root, process_umask
from ftpsd.storage.quota import Quota, Quotas, Tree
from ftpsd.storage.quota_wrapper import CountedRoot
from ftpsd.system.worker_threads import Workers


class IHome(Interface):
    """An avatar: one user's view of the disk, and what it may be used for."""

    files = Attribute("The calls of `ftpsd.session.Files`.")
    rights = Attribute("The user's `ftpsd.protocol.permissions.Rights`.")
    data_session = Attribute("off, allow or require; None for what the server says.")
    close_notify = Attribute("require or lenient; None for what the server says.")
    share = Attribute("The session's `ftpsd.shares.Share`.")


@implementer(IHome)
class Home:
    """The avatar of a user of `users.yaml`; `tree` is there if somebody's quota counts in the home."""

    def __init__(
        self, workers: Workers, name: str, user: UserSettings, share: Share, fsync: bool, tree: Tree | None = None
    ) -> None:
        self.rights: Rights = user.rights
        umask = process_umask() if user.umask is None else user.umask
        where = (user.home or "", self.rights, umask, user.name_rules, fsync)
        root = Root(*where) if tree is None else CountedRoot(Quota(tree, user.quota), *where)
        self.files: Any = OffThread(workers, name, root)
        self.data_session = user.tls.data_session
        self.close_notify = user.tls.close_notify
        self.share = share


class Denied(LoginDenied):
    """The password is right, and still the user may not come in."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.text)
        self.denial = denial


#: The interface, the avatar, and what is called when its session ends.
Avatar = tuple[object, Home, Callable[[], None]]


@implementer(IRealm)
class Realm:
    """Gives each user the own root, if the user may come in now and from there.

    A home in which one user has a quota is counted for all whose home it is.
    """

    def __init__(
        self,
        now: Callable[[], float],
        workers: Workers,
        users: UsersFile,
        quotas: Quotas,
        shares: Shares,
        limits: Limits,
        fsync: bool,
    ) -> None:
        self._now = now
        self._workers = workers
        self._users = users.users
        self._quotas = quotas
        self._shares = shares
        self._limits = limits
        self._fsync = fsync
        quotas.keep(users.counted, users.homes)

    def requestAvatar(self, avatarId: str, mind: Any, *interfaces: object) -> Avatar | Deferred[Avatar]:
        """The avatar of a user whose password was right; `mind` is the client's address.

        SessionEnd for one session too many.
        """
        if IHome not in interfaces:
            raise NotImplementedError("only IHome is served")
        user = self._users[avatarId]
        denial = user.access.denial(mind, self._now())
        if denial is not None:
            raise Denied(denial)
        share = self._shares.enter(avatarId, self._limits, user.limits)
        visit = self._quotas.visit(user.home or "")
        if visit is None:
            return self._avatar(avatarId, user, share)

        def give_up(failure: Failure) -> Failure:
            share.leave()
            return failure

        return visit.addCallbacks(lambda tree: self._avatar(avatarId, user, share, tree), give_up)

    def _avatar(self, name: str, user: UserSettings, share: Share, tree: Tree | None = None) -> Avatar:
        home = Home(self._workers, name, user, share, self._fsync, tree)

        def leave() -> None:
            home.files.close()
            if tree is not None:
                tree.leave()
            share.leave()

        return IHome, home, leave


class Guess(UsernamePassword):  # type: ignore[misc]
    """A name and a password, and whose they are: `admit` raises a Refusal when the answer is for nobody any more."""

    def __init__(self, user: bytes, password: bytes, client: Address, admit: Callable[[], None]) -> None:
        super().__init__(user, password)
        self.client = client
        self.admit = admit


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Checks passwords against the hashes of `users.yaml`, in threads, and only so many at once.

    Who has to wait waits for one of each other address, however many that one asks for, and is looked at again behind
    that: what a banned client has asked for is not hashed.

    A name that does not exist costs the time of one that does: a hash of some user is verified all
    the same, always the same one for that name.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, workers: Workers, users: UsersFile, at_once: int | None = None) -> None:
        self._workers = workers
        self._users = users.users
        self._turns = FairSemaphore(at_once or max(1, (os.cpu_count() or 1)))
        self._decoys = list(users.decoys)

    def requestAvatarId(self, credentials: Any) -> Deferred[str]:
        """The user's name, or UnauthorizedLogin."""
        name, password = _text(credentials.username), _text(credentials.password)
        user = self._users.get(name)
        hashed = user.password if user is not None and user.password else self._decoy(name)

        async def check() -> str:
            lane = network(credentials.client) if isinstance(credentials, Guess) else ""
            await self._turns.acquire(lane)
            try:
                if isinstance(credentials, Guess):
                    credentials.admit()
                right = await self._workers.queue(lane, "login").call(hashes.verify, password, hashed)
            finally:
                self._turns.release()
            if right and user is not None:
                return name
            raise UnauthorizedLogin()

        return Deferred.fromCoroutine(check())

    def _decoy(self, name: str) -> str:
        if not self._decoys:
            self._decoys.append(hashes.make(os.urandom(16).hex()))
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return self._decoys[digest[0] % len(self._decoys)]


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
