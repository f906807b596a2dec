"""Open the session of a user who has logged in: the realm of twisted.cred, and its avatars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from attrs import evolve
from twisted.cred.error import LoginDenied
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface, implementer

from ftpsd.accounts.user_store import User
from ftpsd.config.sections.groups import SharedSettings
from ftpsd.config.settings import UserSettings
from ftpsd.events.types import SessionInfo
from ftpsd.limits.ledger import Ledger, UserLease
from ftpsd.limits.user_limits import Share
from ftpsd.protocol.encoding import names as encoding
from ftpsd.protocol.login_rules import Denial
from ftpsd.protocol.parsing import Address
from ftpsd.protocol.permissions import Permissions
from ftpsd.storage.backend import Files, Trees


class IUserAvatar(Interface):
    """What one session of a user may use."""

    name = Attribute("The name of the user, as the source stores it.")
    files = Attribute("The user's `ftpsd.storage.backend.Files`.")
    permissions = Attribute("The user's `ftpsd.protocol.permissions.Permissions`.")
    data_session = Attribute("off, allow or require; None for the setting of the server.")
    close_notify = Attribute("require or lenient; None for the setting of the server.")
    names = Attribute("The `ftpsd.protocol.encoding.names.NameEncoding` of the user's device.")
    lease = Attribute("The session's `ftpsd.limits.ledger.UserLease`.")


@implementer(IUserAvatar)
class UserAvatar:
    """The avatar of a user who has logged in."""

    def __init__(self, name: str, user: UserSettings, files: Files, lease: UserLease) -> None:
        self.name = name
        self.files = files
        self.permissions: Permissions = user.permission_rules
        self.data_session = user.tls.data_session
        self.close_notify = user.tls.close_notify
        self.names = encoding.find(user.names.encoding) or encoding.UTF8
        self.lease = lease


class Visitor(NamedTuple):
    """Who logs in: the `mind` of twisted.cred."""

    client: Address
    session: SessionInfo


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

    `groups` are the limits that the members of groups share.
    """

    def __init__(
        self,
        now: Callable[[], float],
        trees: Trees,
        ledger: Ledger,
        groups: Mapping[str, SharedSettings] | None = None,
    ) -> None:
        self._now = now
        self._trees = trees
        self._ledger = ledger
        self._groups = groups or {}

    def requestAvatar(self, avatarId: User, mind: Visitor, *interfaces: object) -> Deferred[Avatar]:
        """Return the avatar of a user whose password was right; `mind` is who logs in.

        Raises AccessDenied, or SessionEnd if the user has too many sessions.
        """
        if IUserAvatar not in interfaces:
            raise NotImplementedError("only IUserAvatar is served")
        return Deferred.fromCoroutine(self._admit(avatarId, mind))

    async def _admit(self, user: User, visitor: Visitor) -> Avatar:
        denial = user.settings.login_rules.denial(visitor.client, self._now())
        if denial is not None:
            raise AccessDenied(denial)
        names = user.settings.groups
        shares = [Share("group", name, self._groups[name].limits) for name in names if name in self._groups]
        lease = await self._ledger.admit_user(user.name, user.settings.limits, shares)
        try:
            files = await self._trees.open(user, evolve(visitor.session, user=user.name))
        except BaseException:
            lease.release()
            raise

        def log_out() -> None:
            files.close()
            lease.release()

        return IUserAvatar, UserAvatar(user.name, user.settings, files, lease), log_out
