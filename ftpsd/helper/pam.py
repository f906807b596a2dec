"""Check passwords with PAM: Pam."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import pamela

#: Numbers of pam_set_item(3) and pam_authenticate(3) that pamela does not name.
_FAIL_DELAY, _DISALLOW_NULL_AUTHTOK = 10, 0x0001

#: Results (_pam_types.h). Each other one means that the password could not be checked.
_SUCCESS, _PERM_DENIED, _AUTH_ERR, _USER_UNKNOWN, _MAXTRIES = 0, 6, 7, 10, 11
_NEW_AUTHTOK_REQD, _ACCT_EXPIRED, _AUTHTOK_EXPIRED = 12, 13, 27

#: What the client is told, whose password was right.
_REASONS = {
    _NEW_AUTHTOK_REQD: "Password expired: change it on the server.",
    _AUTHTOK_EXPIRED: "Password expired: change it on the server.",
    _ACCT_EXPIRED: "Account expired.",
    _PERM_DENIED: "Login not permitted.",
    _AUTH_ERR: "Login not permitted.",
}

#: Where libpam looks for services.
_SERVICES = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/etc/pam.d")


class UnknownUser(Exception):
    """PAM has no user of this name."""


class WrongPassword(Exception):
    """The password is wrong, or PAM does not say otherwise: pam_faillock refuses a right one in the same way."""


class Denied(Exception):
    """The password is right, but the account may not be used. The text is for the client."""


class Failed(Exception):
    """The password could not be checked. The text is for the log."""


def _skip_delay(result: int, microseconds: int, data: object) -> None:
    """Answer a wrong password immediately: the daemon counts failures, and other logins wait for this answer."""


_DELAY = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)(_skip_delay)


@dataclass(frozen=True, slots=True)
class Pam:
    """A service of PAM. Its calls block: each needs a process of its own."""

    service: str

    @property
    def is_configured(self) -> bool:
        """Whether the service has a file. Without one, PAM would use that of the service `other`."""
        return any(Path(directory, self.service).is_file() for directory in _SERVICES)

    @property
    def for_lookups(self) -> Pam:
        """The service that checks accounts without a password.

        It is another one: `account` of this service may have pam_faillock, which forgets the failures of a user.
        """
        return Pam(f"{self.service}-lookup")

    def check(self, name: str, password: str | None, peer: str) -> str:
        """Check a password and the account; return the name of the user, which a module may have changed.

        Without a password, check the account only. Raises UnknownUser, WrongPassword, Denied or Failed.
        """
        secrets = () if password is None else (_encoded(password),)
        conversation = pamela.new_simple_password_conv(secrets, "utf-8")
        try:
            handle = pamela.pam_start(self.service, _encoded(name), conv_func=conversation)
            handle.set_item(pamela.PAM_TTY, "ftpsd")
            if peer:
                handle.set_item(pamela.PAM_RHOST, peer)
            pamela.PAM_SET_ITEM(handle, _FAIL_DELAY, ctypes.cast(_DELAY, ctypes.c_char_p))
        except pamela.PAMError as error:
            raise Failed(f"PAM cannot be used: {error}") from None
        result = _SUCCESS if password is None else pamela.PAM_AUTHENTICATE(handle, _DISALLOW_NULL_AUTHTOK)
        verified = result == _SUCCESS
        if verified:
            result = pamela.PAM_ACCT_MGMT(handle, _DISALLOW_NULL_AUTHTOK)
        found = handle.get_item(pamela.PAM_USER) or name
        pamela.PAM_END(handle, result)
        _raise_for(result, verified)
        return str(found)


def _raise_for(result: int, verified: bool) -> None:
    if result == _SUCCESS:
        return
    if result == _USER_UNKNOWN:
        raise UnknownUser
    if verified and result in _REASONS:
        raise Denied(_REASONS[result])
    if result in (_AUTH_ERR, _PERM_DENIED, _MAXTRIES, _ACCT_EXPIRED, _AUTHTOK_EXPIRED, _NEW_AUTHTOK_REQD):
        raise WrongPassword
    step = "account" if verified else "auth"
    raise Failed(f"PAM ({step}) answers {pamela.pam_strerror(pamela.PamHandle(), result)!r} ({result})")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
