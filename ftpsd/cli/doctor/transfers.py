"""Transfers from a client's side: TLS session resumption, a listing, an upload, a rename, a download, a removal."""

from __future__ import annotations

import secrets
import socket
import ssl

from attrs import frozen

from ftpsd.checks import certificate
from ftpsd.checks.findings import Ended, Finding, Report
from ftpsd.cli.doctor import reach
from ftpsd.cli.doctor.client import Client, Passive, Reply, Trouble, end, receive_all, send_all
from ftpsd.cli.doctor.control import middlebox, sent_chain, stalled

#: Bytes of the test file: more than one TLS record and more than one segment.
SIZE = 100_000

#: How often a data connection is tried. Where some ports are filtered, the next port may work.
_TRIES = 3


@frozen
class Transfer:
    """How one transfer ended. `resumed` is None if TLS on the data connection did not begin."""

    reply: Reply
    data: bytes = b""
    resumed: bool | None = None
    error: str = ""


def check(client: Client, way: str, report: Report) -> None:
    """Transfer with the passive command that works, and report what fails. Leaves no file behind."""
    listing = _run(client, way, "LIST", report)
    if listing.reply.code not in (226, 250):
        report.add(*_without_session(client, way, listing))
        return
    report.add(*_resumption(client, way, listing, report))
    report.ok("a listing arrives")
    _check_files(client, way, report)


def _check_files(client: Client, way: str, report: Report) -> None:
    content = secrets.token_bytes(SIZE)
    name = f"ftpsd-doctor-{secrets.token_hex(4)}.tmp"
    stored = _run(client, way, f"STOR {name}", report, content)
    if stored.reply.code not in (226, 250):
        report.add(_failed("upload", stored))
        return
    report.ok(f"an upload of {SIZE} bytes is complete")
    current = name
    try:
        renamed = f"{name}.renamed"
        if _rename(client, name, renamed, report):
            current = renamed
        received = _run(client, way, f"RETR {current}", report)
        if received.reply.code not in (226, 250):
            report.add(_failed("download", received))
        elif received.data != content:
            report.add(_changed(len(received.data)))
        else:
            report.ok("a download returns the same bytes")
    finally:
        _remove(client, current, report)


def _rename(client: Client, old: str, new: str, report: Report) -> bool:
    reply = _command(client, f"RNFR {old}")
    if reply.good:
        reply = _command(client, f"RNTO {new}")
    if reply.good:
        report.ok("a rename works")
        return True
    report.add(_permission("rename", reply))
    return False


def _remove(client: Client, name: str, report: Report) -> None:
    try:
        reply = client.command(f"DELE {name}")
    except Trouble:
        reply = Reply(421, ("no answer",))
    if not reply.good:
        problem = f"The test file {name} could not be removed: {reply}"
        report.add(Finding("transfer.left_behind", "note", problem, "Remove it from the account's home.", f"rm {name}"))


def _command(client: Client, line: str) -> Reply:
    try:
        return client.command(line)
    except Trouble as trouble:
        raise Ended(stalled(trouble)) from None


def _run(
    client: Client, way: str, line: str, report: Report, content: bytes | None = None, resume: bool = True
) -> Transfer:
    """Run one transfer: open the data connection, send the command, handshake, copy bytes, read the final reply."""
    data = _connect(client, way)
    if data is None:
        return Transfer(Reply(425, ("425 The data connection could not be opened.",)))
    try:
        reply = _command(client, line)
        if reply.code not in (125, 150):
            return Transfer(reply)
        try:
            data = client.secure_data(data, resume)
        except OSError as error:
            return Transfer(_final(client), error=_words(error))
        report.add(*_same_server(client, data))
        resumed = data.session_reused
        received, failure = b"", ""
        try:
            if content is None:
                received = receive_all(data, 64 << 20, 4 * client.timeout)
            else:
                send_all(data, content, 4 * client.timeout)
        except OSError as error:
            failure = _words(error)
            end(data, 0.1)
        return Transfer(_final(client), received, resumed, failure)
    finally:
        data.close()


def _connect(client: Client, way: str) -> socket.socket | None:
    for _ in range(_TRIES):
        try:
            announced = client.passive(way)
        except Trouble as trouble:
            raise Ended(stalled(trouble)) from None
        if isinstance(announced, Passive):
            tried = reach.attempt(client.peer, announced.port, client.timeout)
            if tried.connection is not None:
                return tried.connection
    return None


def _final(client: Client) -> Reply:
    try:
        return client.read_reply()
    except Trouble as trouble:
        raise Ended(stalled(trouble)) from None


def _words(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def _same_server(client: Client, data: ssl.SSLSocket) -> list[Finding]:
    """A device that intercepts data connections shows a certificate of its own there."""
    assert client.tls is not None
    if data.session_reused or data.getpeercert(binary_form=True) == client.tls.getpeercert(binary_form=True):
        return []
    shown = certificate.issuer(sent_chain(data)[0])
    evidence = f"The data connection shows another certificate (issuer {shown}) than the control connection."
    return [certificate.intercepted(evidence)]


def _resumption(client: Client, way: str, listing: Transfer, report: Report) -> list[Finding]:
    """Findings after a listing that worked: was its session resumed, and does the server require that?"""
    if not listing.resumed:
        return [
            Finding(
                "resumption.lost",
                "warning",
                "The data connection does not resume the TLS session of the control connection, although the client"
                " offers it: servers that require this refuse such clients.",
                "If the server is ftpsd, a device on the way makes sessions of its own: exempt the server from TLS"
                " inspection.",
            )
        ]
    report.ok("the data connection resumes the TLS session of the control connection")
    without = _run(client, way, "LIST", Report(""), resume=False)
    return [] if without.reply.good else [required(without.reply)]


def required(reply: Reply) -> Finding:
    """The note that a server requires resumption."""
    return Finding(
        "resumption.required",
        "note",
        f"The server requires that data connections resume the TLS session: without it “{reply}”.",
        "Switch session reuse on in clients that have a setting for it; for a client that cannot, make an exception for"
        " its user (docs/clients.md).",
        "users:\n  NAME:\n    tls: {data_session: allow}",
    )


def _without_session(client: Client, way: str, listing: Transfer) -> list[Finding]:
    """Findings after a listing that failed: was it for the session?"""
    if listing.reply.code == 522 or (listing.resumed is False and "session" in str(listing.reply).lower()):
        return [
            Finding(
                "resumption.lost",
                "fault",
                "The server requires that data connections resume the TLS session; the client offers it, and the"
                f" session is lost on the way: “{listing.reply}”.",
                "Exempt the server from TLS inspection and from load balancing by connection; until then, make an"
                " exception for the user.",
                "users:\n  NAME:\n    tls: {data_session: allow}",
            )
        ]
    return [_failed("listing", listing)]


def _failed(what: str, transfer: Transfer) -> Finding:
    reply = transfer.reply
    if reply.code in (532, 550, 553) or (reply.code == 502 and transfer.resumed is None):
        return _permission(what, reply)
    if reply.code in (452, 552):
        return Finding(
            "transfer.no_space",
            "fault",
            f"The {what} failed for lack of space: {reply}",
            "Free space on the server, or raise the user's quota.",
            "df -h; df -i",
        )
    if reply.code == 425:
        return Finding(
            "data.not_found",
            "fault",
            f"The passive port accepts connections, but the {what} got none of them: {reply}",
            "The server must see the control and the data connection from the same address. Let both take the same"
            " way, through no router or proxy that changes the address of one of them (Kubernetes:"
            " externalTrafficPolicy: Local). With one port for all sessions (passive.shared), try again when nobody"
            " else transfers from here.",
        )
    if transfer.error:
        return Finding(
            "data.tls_failed",
            "fault",
            f"TLS on the data connection failed during the {what} ({transfer.error}): {reply}",
            "Exempt the passive ports from inspection on routers, firewalls and virus scanners.",
        )
    return Finding(
        "transfer.failed",
        "fault",
        f"The {what} failed: {reply}",
        "Look for the reason in the server's log.",
        "journalctl -u ftpsd -n 20",
    )


def _permission(what: str, reply: Reply) -> Finding:
    return Finding(
        "transfer.not_permitted",
        "note",
        f"The server refuses the {what}: {reply}",
        "If the account should be able to, give it the permission, and check that the service user may write there.",
        "users:\n  NAME:\n    permissions: read-write",
    )


def _changed(size: int) -> Finding:
    return middlebox(f"a file of {SIZE} bytes came back as {size} bytes, or with other content")
