"""Open the session of a user who has logged in: the realm of twisted.cred, and its avatars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.error import LoginDenied
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface, implementer

from ftpsd.accounts.user_store import User
from ftpsd.config.settings import UserSettings
from ftpsd.limits.ledger import Ledger, UserLease
from ftpsd.protocol.login_rules import Denial
from ftpsd.protocol.parsing import Address
from ftpsd.protocol.permissions import Permissions
from ftpsd.storage.local.root import OffThread, Root, process_umask
from ftpsd.storage.quota import Quota, Quotas, Tree
from ftpsd.storage.quota_wrapper import CountedRoot
from ftpsd.system.worker_threads import Workers


class IUserAvatar(Interface):
    """What one session of a user may use."""

    files = Attribute("The calls of `ftpsd.protocol.session.Files`.")
    permissions = Attribute("The user's `ftpsd.protocol.permissions.Permissions`.")
    data_session = Attribute("off, allow or require; None for the setting of the server.")
    close_notify = Attribute("require or lenient; None for the setting of the server.")
    lease = Attribute("The session's `ftpsd.limits.ledger.UserLease`.")


@implementer(IUserAvatar)
class UserAvatar:
    """The avatar of a user with a local home; `tree` is its count, if somebody has a quota there."""

    def __init__(
        self, workers: Workers, name: str, user: UserSettings, lease: UserLease, fsync: bool, tree: Tree | None = None
    ) -> None:
        self.permissions: Permissions = user.permission_rules
        umask = process_umask() if user.umask is None else user.umask
        where = (user.home or "", self.permissions, umask, user.name_rules, fsync)
        root = Root(*where) if tree is None else CountedRoot(Quota(tree, user.quota), *where)
        self.files: Any = OffThread(workers, name, root)
        self.data_session = user.tls.data_session
        self.close_notify = user.tls.close_notify
        self.lease = lease


class AccessDenied(LoginDenied):
    """The password is right, but the rules of the account do not permit this login."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.text)
        self.denial = denial


#: The interface, the avatar, and what is called when its session ends.
Avatar = tuple[object, UserAvatar, Callable[[], None]]


@implementer(IRealm)
class Realm:
    """Open sessions of users, if their login rules and session limits permit it.

    A home in which one user has a quota is counted for all users who have it.
    """

    def __init__(
        self,
        now: Callable[[], float],
        workers: Workers,
        quotas: Quotas,
        ledger: Ledger,
        fsync: bool,
    ) -> None:
        self._now = now
        self._workers = workers
        self._quotas = quotas
        self._ledger = ledger
        self._fsync = fsync

    def requestAvatar(self, avatarId: User, mind: Address, *interfaces: object) -> Deferred[Avatar]:
        """Return the avatar of a user whose password was right; `mind` is the client's address.

        Raises AccessDenied, or SessionEnd if the user has too many sessions.
        """
        if IUserAvatar not in interfaces:
            raise NotImplementedError("only IUserAvatar is served")
        return Deferred.fromCoroutine(self._admit(avatarId, mind))

    async def _admit(self, user: User, client: Address) -> Avatar:
        denial = user.settings.login_rules.denial(client, self._now())
        if denial is not None:
            raise AccessDenied(denial)
        lease = await self._ledger.admit_user(user.name, user.settings.limits)
        try:
            visit = self._quotas.visit(user.settings.home or "")
            tree = None if visit is None else await visit
        except BaseException:
            lease.release()
            raise
        return self._avatar(user, lease, tree)

    def _avatar(self, user: User, lease: UserLease, tree: Tree | None) -> Avatar:
        avatar = UserAvatar(self._workers, user.name, user.settings, lease, self._fsync, tree)

        def log_out() -> None:
            avatar.files.close()
            if tree is not None:
                tree.leave()
            lease.release()

        return IUserAvatar, avatar, log_out
