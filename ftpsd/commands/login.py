"""Commands for login and logout: USER PASS ACCT REIN QUIT HOST."""

from __future__ import annotations

import ipaddress

from ftpsd.protocol import parsing
from ftpsd.protocol.addresses import plain_address
from ftpsd.protocol.command import Command, Result
from ftpsd.protocol.interfaces import Account, Identify
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import FixedReply, Refusal, Reply, SessionEnd, WrongCertificate
from ftpsd.protocol.session import Session

PASSWORD_REQUIRED = FixedReply(331, "Password required.")


def _require_tls(session: Session) -> None:
    if session.policy.login_needs_tls and not session.control.encrypted:
        # RFC 959 allows 530 for USER and PASS. curl and lftp show its text.
        raise Refusal(530, "Encryption required before login: send AUTH TLS.")


def user(session: Session, name: str) -> Result:
    """USER: set the name for the login. The reply does not say whether such a user exists."""
    _require_tls(session)
    if session.account is not None:
        session.log_out()
        session.directory = VirtualPath()
    session.by_certificate = False
    if session.control.identify is not None:
        session.user = None
        return _identify(session, name, session.control.identify)
    session.user = name
    return PASSWORD_REQUIRED


async def _identify(session: Session, name: str, identify: Identify) -> Reply:
    """USER with certificates of clients: log in (232, RFC 2228 section 5.1), or ask for the password."""

    def count() -> None:
        session.failures += 1

    try:
        account = await identify(name, count)
    except WrongCertificate as wrong:
        raise _failed(session, wrong.reply.text) from None
    if account is None and session.failures >= session.policy.login_failures:
        raise SessionEnd(530, "Login incorrect. Goodbye.")
    session.user = name
    if account is None:
        return PASSWORD_REQUIRED
    session.by_certificate = True
    _begin(session, account)
    return Reply(232, "Login successful: authorized by certificate.")


async def password(session: Session, secret: str) -> Reply:
    """PASS: log in. After a failure the client may try again, `login_failures` times in all."""
    _require_tls(session)
    if session.user is None:
        raise Refusal(503, "Login with USER first.")
    if session.account is not None:
        if session.by_certificate:  # whatever was sent: some clients send PASS without reading the reply to USER
            return Reply(230, "Already logged in by certificate.")
        raise Refusal(503, "Already logged in.")
    account = await session.control.login(session.user, secret)
    if account is None:
        raise _failed(session, "Login incorrect.")
    _begin(session, account)
    return Reply(230, "Login successful.")


def _failed(session: Session, text: str) -> Refusal:
    """Count a failed login, and return its reply; the last one ends the session."""
    session.failures += 1
    if session.failures >= session.policy.login_failures:
        # Not 421: clients take it for temporary, and would send the same password until they are banned. Not "too many"
        # or "later": after a 530 with these words lftp tries again (its setting ftp:retry-530).
        return SessionEnd(530, f"{text} Goodbye.")
    return Refusal(530, text)


def _begin(session: Session, account: Account) -> None:
    session.account = account
    session.choose_encoding()
    session.data.owner = account.name
    session.data.rate_limits = account.lease.rate_limits
    session.data.lenient = account.close_notify == "lenient"
    session.control.set_idle_timeout(session.policy.idle)


def account(session: Session, _: str) -> Reply:
    """ACCT: accept and ignore an account (RFC 959: 202 means "superfluous at this site")."""
    return Reply(202, "Account not required.")


def reinitialize(session: Session, _: None) -> Reply:
    """REIN: return to the state after the greeting. TLS that AUTH has started ends (RFC 4217 section 13)."""
    session.reinitialize()
    if session.control.encrypted and not session.control.implicit:
        session.control.call_after_reply(session.control.stop_tls)
    return Reply(220, "Ready for new user.")


def leave(session: Session, _: str) -> Reply:
    """QUIT: end the session. A running transfer ends first, because QUIT waits in the queue."""
    session.control.call_after_reply(session.control.close)
    return Reply(221, "Goodbye.")


def host(session: Session, name: str) -> Reply:
    """HOST: accept the host name of the TLS handshake, or any address (RFC 7151).

    All hosts have the same users. Before AUTH, the name chooses the certificate for clients that send no SNI.
    """
    if session.account is not None:
        raise Refusal(503, "Send HOST before login.")
    asked = name.strip()
    if asked.startswith("[") and asked.endswith("]"):
        asked = asked[1:-1]
    try:
        literal = plain_address(asked)
    except ValueError:
        _require_host_name(asked)
        known = session.control.tls_name
        if known and known.lower().rstrip(".") != asked.lower().rstrip("."):
            raise Refusal(504, "Host differs from the name in the TLS handshake.") from None
    else:
        # Behind NAT the client knows the server by another address, so any address of the right family is accepted.
        if isinstance(literal, ipaddress.IPv6Address) != (session.control.server.version == 6):
            raise Refusal(504, "Host not served.")
    if session.host:
        session.reinitialize()
    session.host = asked
    return Reply(220, "Host accepted.")


def _require_host_name(name: str) -> None:
    labels = name.rstrip(".").split(".")
    if not all(label and label.replace("-", "").isalnum() and len(label) < 64 for label in labels):
        raise Refusal(501, "Invalid host name.") from None


ROWS = (
    Command("USER", parsing.text, user, "USER <name>", "959 4.1.1", login=False),
    Command("PASS", parsing.anything, password, "PASS <password>", "959 4.1.1", login=False, secret=True, cost=5),
    Command("ACCT", parsing.text, account, "ACCT <account>", "959 4.1.1", login=False, secret=True),
    Command("REIN", parsing.nothing, reinitialize, "REIN", "959 4.1.1", login=False),
    Command("QUIT", parsing.nothing, leave, "QUIT", "959 4.1.1", login=False),
    Command("HOST", parsing.text, host, "HOST <name>", "7151 3.1", login=False, features=("HOST",)),
)
