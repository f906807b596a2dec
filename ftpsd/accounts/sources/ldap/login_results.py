"""What the answer of a server to a bind says about the account: LoginResult.

Servers tell it in three ways: Active Directory in the text of error 49, OpenLDAP in the control of
draft-behera-ldap-password-policy, 389 Directory Server (FreeIPA) with errors of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import ldap
from attrs import frozen
from ldap.controls import DecodeControlTuples, ResponseControl
from ldap.controls.ppolicy import PasswordPolicyControl

from ftpsd.protocol.login_rules import Denial


@frozen
class LoginResult:
    """The result of a bind. `denial` is why the account may not log in, though its password may be right."""

    right: bool
    denial: Denial | None = None


#: A client that may not have sent the right password does not learn more than from a wrong one.
_LOCKED = Denial("locked", "Login incorrect.")
_INACTIVATED = Denial("disabled", "Login incorrect.")
_ENDED = Denial("expired", "Login incorrect.")
_UNUSED = Denial("not used for too long", "Login incorrect.")
_DISABLED = Denial("disabled", "Account disabled.")
_EXPIRED = Denial("expired", "Account expired.")
_PASSWORD_EXPIRED = Denial("password expired", "Password expired.")
_MUST_CHANGE = Denial("password must be changed", "Password must be changed.")
_HOURS = Denial("hours", "Login not allowed at this time.")
_NETWORK = Denial("network", "Login not allowed from here.")

#: The codes of Active Directory in the text of error 49, in hexadecimal: those of Windows' system errors. It sends all
#: of them but 775 only if the password is right.
_ACTIVE_DIRECTORY = {
    "530": _HOURS,
    "531": _NETWORK,
    "532": _PASSWORD_EXPIRED,
    "533": _DISABLED,
    "701": _EXPIRED,
    "773": _MUST_CHANGE,
    "775": _LOCKED,
}

#: The texts of 389 Directory Server and of FreeIPA's parts of it, which refuse a bind with other errors than a wrong
#: password does.
_TEXTS: Sequence[tuple[type[ldap.LDAPError], str, Denial]] = (
    (ldap.UNWILLING_TO_PERFORM, "Account inactivated", _INACTIVATED),
    (ldap.UNWILLING_TO_PERFORM, "Kerberos principal) is expired", _ENDED),
    (ldap.UNWILLING_TO_PERFORM, "Entry permanently locked", _LOCKED),
    (ldap.UNWILLING_TO_PERFORM, "Too many failed logins", _LOCKED),
    (ldap.CONSTRAINT_VIOLATION, "retry limit", _LOCKED),
    (ldap.CONSTRAINT_VIOLATION, "inactivity limit exceeded", _UNUSED),
)

#: The errors of the password policy control. OpenLDAP sends 1 whether the password is right or wrong.
_POLICY = {0: _PASSWORD_EXPIRED, 1: _LOCKED, 2: _MUST_CHANGE}


def succeeded(controls: Sequence[ResponseControl]) -> LoginResult:
    """Return the result of a bind that the server has accepted."""
    return LoginResult(True, _policy_denial(controls))


def rejected(error: ldap.LDAPError) -> LoginResult | None:
    """Return the result of a bind with an error; None if the error says nothing about the account."""
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    text = str(details.get("info", ""))
    if isinstance(error, ldap.INVALID_CREDENTIALS):
        code = re.search(r"\bdata ([0-9a-f]+)", text)
        denial = _ACTIVE_DIRECTORY.get(code[1]) if code else _policy_denial(_controls(details))
        return LoginResult(False, denial)
    if isinstance(error, ldap.NO_SUCH_OBJECT | ldap.INAPPROPRIATE_AUTH | ldap.INVALID_DN_SYNTAX):
        return LoginResult(False)
    found = (denial for kind, part, denial in _TEXTS if isinstance(error, kind) and part in text)
    return next((LoginResult(False, denial) for denial in found), None)


def _controls(details: dict[str, object]) -> list[ResponseControl]:
    found = details.get("ctrls")
    return DecodeControlTuples(found) if isinstance(found, list) else []


def _policy_denial(controls: Sequence[ResponseControl]) -> Denial | None:
    """Return what the password policy control says against a login; None for nothing."""
    errors = [each.error for each in controls if isinstance(each, PasswordPolicyControl)]
    return next((_POLICY[error] for error in errors if error in _POLICY), None)
