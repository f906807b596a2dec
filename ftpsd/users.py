"""Who may log in, with twisted.cred: the checker, and the realm whose avatars are the users' roots."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, DeferredSemaphore
from zope.interface import Attribute, Interface, implementer

from ftpsd import hashes
from ftpsd.filesystem import OffThread, Root
from ftpsd.rights import Rights
from ftpsd.settings import UserSettings
from ftpsd.workers import Workers


@cache
def process_umask() -> int:
    """What twistd, systemd or the shell have set for new files. Asked once, before there are threads."""
    umask = os.umask(0o077)  # the one way to ask is to set
    os.umask(umask)
    return umask


class IHome(Interface):
    """An avatar: one user's view of the disk, and what it may be used for."""

    files = Attribute("The calls of `ftpsd.session.Files`.")
    rights = Attribute("The user's `ftpsd.rights.Rights`.")
    data_session = Attribute("off, allow or require; None for what the server says.")


@implementer(IHome)
class Home:
    """The avatar of a user of `users.yaml`."""

    def __init__(self, workers: Workers, user: UserSettings) -> None:
        self.rights: Rights = user.rights
        self.files: Any = OffThread(workers, Root(user.home or "", self.rights, process_umask()))
        self.data_session = user.tls.data_session


@implementer(IRealm)
class Realm:
    """Gives each user the own root."""

    def __init__(self, workers: Workers, users: Mapping[str, UserSettings]) -> None:
        self._workers = workers
        self._users = users

    def requestAvatar(
        self, avatarId: str, mind: object, *interfaces: object
    ) -> tuple[object, Home, Callable[[], None]]:
        """The avatar of a user who was let in."""
        if IHome not in interfaces:
            raise NotImplementedError("only IHome is served")
        return IHome, Home(self._workers, self._users[avatarId]), lambda: None


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Checks passwords against the hashes of `users.yaml`, in threads, and only so many at once.

    A name that does not exist costs the time of one that does: a hash of some user is verified all
    the same, always the same one for that name.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, workers: Workers, users: Mapping[str, UserSettings], at_once: int | None = None) -> None:
        self._workers = workers
        self._users = users
        self._semaphore = DeferredSemaphore(at_once or max(1, (os.cpu_count() or 1)))
        self._decoys = sorted(user.password for user in users.values() if user.password)

    def requestAvatarId(self, credentials: Any) -> Deferred[str]:
        """The user's name, or UnauthorizedLogin."""
        name, password = _text(credentials.username), _text(credentials.password)
        user = self._users.get(name)
        hashed = user.password if user is not None and user.password else self._decoy(name)
        allowed = user is not None and user.enabled

        def told(right: bool) -> str:
            if right and allowed:
                return name
            raise UnauthorizedLogin()

        verified: Deferred[bool] = self._semaphore.run(self._workers.call, hashes.verify, password, hashed)
        return verified.addCallback(told)

    def _decoy(self, name: str) -> str:
        if not self._decoys:
            self._decoys.append(hashes.make(os.urandom(16).hex()))
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return self._decoys[digest[0] % len(self._decoys)]


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
