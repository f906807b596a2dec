"""The control connection from a client's side: greeting, AUTH, TLS, login. A step that fails ends in a finding."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import Any

from attrs import frozen
from cryptography import x509

from ftpsd.checks import certificate
from ftpsd.checks.findings import Ended, Finding, Report, printable
from ftpsd.cli.doctor import reach
from ftpsd.cli.doctor.client import Client, Cut, Garbled, Reply, Silent, Trouble
from ftpsd.system.tls import certificate_parts


@frozen
class Target:
    """A server, and how to connect to it. `credentials` is called once, when the password is needed."""

    host: str
    port: int
    implicit: bool
    credentials: Callable[[], tuple[str, str]]
    #: Seconds for each connection, reply and handshake.
    timeout: float = 5.0
    cafile: str | None = None
    #: The fingerprints that are trusted; none: only what an authority has signed.
    fingerprints: tuple[str, ...] = ()
    insecure: bool = False
    #: The name that the certificate must have, if not `host`.
    name: str | None = None
    #: The certificate that the client shows, with its key: two PEM files, or one for both.
    certificate: tuple[str, str] | None = None


def open_session(target: Target, report: Report) -> Client:
    """Connect, secure the connection, log in. Raises Ended with the finding that stops the diagnosis."""
    client = _open_tls(target, _context(target), report)
    try:
        _log_in(client, target, report)
        _protect_data(client, report)
    except BaseException:
        client.close()
        raise
    return client


def _context(target: Target) -> ssl.SSLContext:
    return _showing(target, ssl.create_default_context(cafile=target.cafile))


def _trusting(target: Target) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _showing(target, context)


def _showing(target: Target, context: ssl.SSLContext) -> ssl.SSLContext:
    if target.certificate is not None:
        context.load_cert_chain(*target.certificate)
    return context


def _open_tls(target: Target, context: ssl.SSLContext, report: Report) -> Client:
    """Return a client with TLS. If the certificate is refused, say why, and continue only if the target allows it."""
    client = _connect(target, report)
    if not target.implicit:
        _greet(client, target, report)
        _authenticate(client)
    try:
        client.start_tls(context, target.name or target.host)
    except ssl.SSLCertVerificationError as error:
        client = _open_unverified(target, error, report)
    except OSError as error:
        raise Ended(handshake_failed(error, target.implicit)) from None
    if target.implicit:
        _greet(client, target, report)
    tls = client.tls
    assert tls is not None
    report.ok(f"{tls.version()} with {(tls.cipher() or ('?',))[0]}")
    _read_features(client)
    return client


def _connect(target: Target, report: Report) -> Client:
    return Client(reach.connect(target.host, target.port, target.timeout, report), target.timeout)


def _open_unverified(target: Target, error: ssl.SSLCertVerificationError, report: Report) -> Client:
    """Connect again without verification, to see the certificate. The password is not sent over such a connection
    unless the target says that the certificate is known."""
    client = _connect(target, Report(""))
    try:
        if not target.implicit:
            client.read_reply()
            client.command("AUTH TLS")
        client.start_tls(_trusting(target), target.name or target.host)
    except (OSError, Trouble) as failure:
        client.close()
        raise Ended(handshake_failed(failure, target.implicit)) from None
    assert client.tls is not None
    chain = sent_chain(client.tls)
    leaf = certificate.fingerprint(chain[0])
    if any(certificate.same_fingerprint(leaf, each) for each in target.fingerprints):
        report.ok("the certificate has the fingerprint that you gave")
        return client
    finding = certificate.refused(chain, error.verify_code, error.verify_message, target.name or target.host)
    if target.fingerprints:
        client.close()
        raise Ended(certificate.intercepted(f"The certificate has the fingerprint {leaf}, not the one that you gave."))
    if target.insecure:
        report.add(finding)
        return client
    client.close()
    report.add(finding)
    raise Ended(_password_withheld(target, leaf))


def _password_withheld(target: Target, leaf: str) -> Finding:
    place = f"[{target.host}]" if ":" in target.host else target.host
    return Finding(
        "tls.password_withheld",
        "note",
        "The password was not sent, because the certificate cannot be verified; login and transfers were not checked.",
        "After you compared the fingerprint with the server's, run the command again with it.",
        f"ftpsd doctor --from {place}:{target.port}{' --implicit' if target.implicit else ''} --fingerprint {leaf}",
    )


def sent_chain(tls: ssl.SSLSocket) -> list[x509.Certificate]:
    """Return the certificates that the server sent, its own first. Raises Ended if one of them is damaged."""
    encoded = tls.getpeercert(binary_form=True)
    assert encoded is not None
    chain = [encoded]
    # Public since Python 3.13, and there since 3.10. Without it, the chain counts as one certificate.
    source: Any = tls if hasattr(tls, "get_unverified_chain") else getattr(tls, "_sslobj", None)
    if hasattr(source, "get_unverified_chain"):
        sent = source.get_unverified_chain() or []
        chain = [each if isinstance(each, bytes) else ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in sent]
    parsed = certificate_parts.parse_der_chain(chain or [encoded])
    if parsed is None:
        raise Ended(certificate.damaged())
    return parsed


def _greet(client: Client, target: Target, report: Report) -> None:
    try:
        greeting = client.read_reply()
    except Silent as trouble:
        raise Ended(_no_greeting(target, trouble)) from None
    except Cut:
        raise Ended(_greeting_cut()) from None
    except Garbled as trouble:
        raise Ended(_not_ftp(target, trouble.detail)) from None
    if greeting.code == 421:
        raise Ended(too_many_or_banned(greeting))
    if greeting.code != 220:
        raise Ended(_not_ftp(target, str(greeting)))
    if re.search(r"\*{4}|X{8}", str(greeting)):
        report.add(middlebox(f"the greeting was masked ({greeting})"))
    report.ok(f"greeting: {greeting}")


def _no_greeting(target: Target, trouble: Silent) -> Finding:
    if not target.implicit and speaks_tls(target):
        return Finding(
            "control.implicit",
            "fault",
            f"Port {target.port} expects TLS at once (implicit TLS), and the client expected a greeting.",
            "Set the client to implicit TLS for this port, or use the port with explicit TLS.",
            f"ftpsd doctor --from {target.host}:{target.port} --implicit",
        )
    return Finding(
        "control.silent",
        "fault",
        f"Port {target.port} accepts the connection, but no greeting arrives within {target.timeout:g} s.",
        "Look for a proxy or a load balancer that accepts connections in place of the server; if there is none, the"
        " daemon hangs: look at its log.",
        "journalctl -u ftpsd -n 50",
    )


def speaks_tls(target: Target) -> bool:
    """Return whether the port answers a TLS handshake at once."""
    try:
        client = _connect(target, Report(""))
    except Ended:
        return False
    try:
        client.start_tls(_trusting(target), None)
    except (OSError, Trouble):
        return False
    finally:
        client.close()
    return True


def _greeting_cut() -> Finding:
    return Finding(
        "control.cut",
        "fault",
        "The connection is accepted, but closed before the greeting.",
        "Look for a firewall with intrusion prevention, or for a forwarding rule to a machine where nothing listens.",
    )


def _not_ftp(target: Target, detail: str) -> Finding:
    return Finding(
        "control.not_ftp",
        "fault",
        f"Port {target.port} is served by something other than an FTP server: {detail!r}.",
        "Use the port that the daemon listens on, or correct the forwarding rule.",
        "ss -ltnp | grep twistd",
    )


def too_many_or_banned(reply: Reply) -> Finding:
    """The finding for 421, before and after the login."""
    return Finding(
        "control.refused",
        "fault",
        f"The server refuses this client for now: {reply}",
        "On the server, look at the bans and lift yours, or raise the session limit that is reached.",
        "ftpsd bans",
    )


def _authenticate(client: Client) -> None:
    _read_features(client)
    try:
        reply = client.command("AUTH TLS")
    except Trouble as trouble:
        raise Ended(stalled(trouble)) from None
    if reply.code == 234:
        return
    if reply.code == 421:
        raise Ended(too_many_or_banned(reply))
    if client.lists("AUTH"):
        raise Ended(middlebox(f"FEAT lists AUTH TLS, and AUTH TLS is answered with “{reply}”"))
    raise Ended(
        Finding(
            "tls.not_offered",
            "fault",
            f"The server offers no TLS: AUTH TLS is answered with “{reply}”, and FEAT does not list it.",
            "Check that the port leads to ftpsd; if it does, a device on the way removes AUTH: exempt the port from"
            " FTP inspection, or use implicit TLS, which such devices cannot read.",
            'listen:\n  - {address: "::", port: 990, tls: implicit}',
        )
    )


def _read_features(client: Client) -> None:
    try:
        client.read_features()
    except Trouble as trouble:
        raise Ended(stalled(trouble)) from None


def handshake_failed(error: Exception, implicit: bool) -> Finding:
    """The finding for a TLS handshake on the control connection that failed."""
    text = printable(getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error))
    if isinstance(error, TimeoutError | Silent):
        problem = "the TLS handshake got no answer"
    elif "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER" in text or isinstance(error, Garbled):
        if implicit:
            return Finding(
                "tls.not_tls",
                "fault",
                "The port does not speak TLS at once: it is no port with implicit TLS.",
                "Set the client to explicit TLS (AUTH TLS) for this port.",
            )
        problem = "what follows the server's 234 is not TLS"
    elif _is_about_certificate(text):
        return client_certificate(text)
    elif isinstance(error, ssl.SSLError) and ("ALERT" in text or "VERSION" in text or "PROTOCOL" in text):
        return Finding(
            "tls.no_common_version",
            "fault",
            f"Client and server cannot agree on TLS: {text}.",
            "Compare `tls.minimum_version` and `tls.ciphers` with what the client supports.",
            "tls:\n  minimum_version: '1.2'\n  ciphers: null",
        )
    else:
        problem = f"the connection was cut during the TLS handshake ({text})"
    return middlebox(problem)


def _is_about_certificate(error: str) -> bool:
    """Return whether an error of OpenSSL is an alert of the server about the certificate of the client."""
    return "alert" in error.lower() and re.search("certificate|unknown.ca", error, re.IGNORECASE) is not None


def client_certificate(error: str) -> Finding:
    """The finding for a certificate of the client that the server refuses."""
    return Finding(
        "tls.client_certificate",
        "fault",
        f"The server refuses the certificate of the client: {printable(error)}.",
        "On the server, the log has the reason. Compare the issuer with `tls.client_certificates.ca`, and the dates.",
        "journalctl -u ftpsd -n 20",
    )


def middlebox(evidence: str) -> Finding:
    """The finding for a device that reads or changes the dialogue."""
    return Finding(
        "middlebox",
        "fault",
        f"A device between client and server inspects or rewrites FTP: {evidence}.",
        "Switch off FTP inspection (ALG, fixup, protocol helper) for the server's ports on routers and firewalls, or"
        " use implicit TLS.",
        "# Linux router: rmmod nf_nat_ftp nf_conntrack_ftp\n# Cisco ASA: policy-map global_policy / class"
        " inspection_default / no inspect ftp",
    )


def stalled(trouble: Trouble) -> Finding:
    """The finding for a command that got no usable reply, while the ones before it were answered."""
    if isinstance(trouble, Cut) and _is_about_certificate(trouble.detail):
        return client_certificate(trouble.detail)  # with TLS 1.3 the alert follows the handshake
    if isinstance(trouble, Silent):
        return middlebox(f"{trouble.command} was never answered, though the commands before it were")
    if isinstance(trouble, Garbled):
        return middlebox(f"{trouble.command} was answered with something that is not FTP: “{trouble.detail}”")
    return middlebox(f"the connection was cut after {trouble.command}, though the commands before it were answered")


def _log_in(client: Client, target: Target, report: Report) -> None:
    user, password = target.credentials()
    try:
        reply = client.command(f"USER {user}")
        if reply.code == 331:
            if target.certificate is not None and not password:
                raise Ended(_password_needed(user))  # an empty one would count as a failed login
            reply = client.command(f"PASS {password}")
    except Trouble as trouble:
        raise Ended(stalled(trouble)) from None
    if reply.code == 421:
        raise Ended(too_many_or_banned(reply))
    if reply.code not in (230, 232, 202):
        raise Ended(
            Finding(
                "login.refused",
                "fault",
                f"The login of {printable(user)} was refused: {reply}",
                "Check name and password; on the server, the log has the reason, and `ftpsd bans` shows a ban.",
                "journalctl -u ftpsd -n 20; ftpsd bans",
            )
        )
    report.ok(f"login as {printable(user)}: {reply}")


def _password_needed(user: str) -> Finding:
    return Finding(
        "login.password_needed",
        "fault",
        f"The server asks {printable(user)} for a password in spite of the certificate; no password was given.",
        "Give the password as well. If the certificate alone should do, the server must take it for this user's, and "
        "`tls.client_certificates.login` must be `certificate` (docs/certificates.md).",
    )


def _protect_data(client: Client, report: Report) -> None:
    try:
        client.read_features()
        replies = {command: client.command(command) for command in ("PBSZ 0", "PROT P", "TYPE I")}
    except Trouble as trouble:
        raise Ended(stalled(trouble)) from None
    for command, reply in replies.items():
        if not reply.good:
            raise Ended(middlebox(f"the server offers TLS, and {command} is answered with “{reply}”"))
    report.ok("the data connections are encrypted (PROT P)")
