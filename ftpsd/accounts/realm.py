"""Open the session of a user who has logged in: the realm of twisted.cred, and its avatars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from twisted.cred.error import LoginDenied
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface, implementer

from ftpsd.accounts.anonymous import address_share
from ftpsd.accounts.user_store import User
from ftpsd.config.sections.groups import SharedSettings
from ftpsd.events.types import SessionInfo
from ftpsd.limits.ledger import Ledger, UserLease
from ftpsd.limits.user_limits import Share
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.encoding import names as encoding
from ftpsd.protocol.interfaces import Files
from ftpsd.protocol.login_rules import Denial
from ftpsd.protocol.permissions import Permissions
from ftpsd.storage.backend import Trees
from ftpsd.storage.drop_box import DropBoxFiles


class IUserAvatar(Interface):
    """What one session of a user may use."""

    name = Attribute("The name of the user, as the source stores it.")
    files = Attribute("The user's `ftpsd.protocol.interfaces.Files`.")
    permissions = Attribute("The user's `ftpsd.protocol.permissions.Permissions`.")
    data_session = Attribute("off, allow or require; None for the setting of the server.")
    close_notify = Attribute("require or lenient; None for the setting of the server.")
    names = Attribute("The `ftpsd.protocol.encoding.names.NameEncoding` of the user's device.")
    is_anonymous = Attribute("Whether the client has no account.")
    lease = Attribute("The session's `ftpsd.limits.ledger.UserLease`.")


@implementer(IUserAvatar)
class UserAvatar:
    """The avatar of a user who has logged in."""

    def __init__(self, user: User, files: Files, lease: UserLease) -> None:
        self.name = user.name
        self.files = files
        self.permissions: Permissions = user.settings.permission_rules
        self.data_session = user.settings.tls.data_session
        self.close_notify = user.settings.tls.close_notify
        self.names = encoding.find(user.settings.names.encoding) or encoding.UTF8
        self.is_anonymous = user.anonymous is not None
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
        if user.anonymous is not None:
            shares.append(address_share(user.anonymous, visitor.client))
        lease = await self._ledger.admit_user(user.name, user.settings.limits, shares)
        try:
            opened = await self._trees.open(user, visitor.session.with_user(user.name))
        except BaseException:
            lease.release()
            raise

        def log_out() -> None:
            opened.close()
            lease.release()

        is_drop_box = user.anonymous is not None and user.anonymous.permissions == "drop-box"
        files = DropBoxFiles(opened) if is_drop_box else opened
        return IUserAvatar, UserAvatar(user, files, lease), log_out
