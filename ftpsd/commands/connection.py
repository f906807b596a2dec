"""Commands for TLS and data connections: AUTH PBSZ PROT CCC, PASV EPSV PORT EPRT, TYPE MODE STRU."""

from __future__ import annotations

from ftpsd.protocol import parsing
from ftpsd.protocol.addresses import Address, Endpoint, in_zone_of
from ftpsd.protocol.command import Command
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.protocol.session import Session

MECHANISMS = ("TLS", "TLS-C", "TLS-P", "SSL")


def auth(session: Session, mechanism: str) -> Reply:
    """AUTH: start TLS after the reply. TLS-P and SSL imply PROT P (RFC 4217 section 17)."""
    if mechanism not in MECHANISMS:
        raise Refusal(504, "Unsupported mechanism: use AUTH TLS.")
    if session.control.encrypted:
        raise Refusal(503, "Connection already encrypted.")
    host = session.host
    session.reinitialize()  # RFC 4217 section 4.2: commands in plain text have no effect any more
    if mechanism in ("TLS-P", "SSL"):
        session.protection = "P"
    session.control.call_after_reply(lambda: session.control.start_tls(host))
    return Reply(234, f"AUTH {mechanism} successful.")


def buffer_size(session: Session, size: int) -> Reply:
    """PBSZ: accept any size and reply 0, because TLS needs no protection buffer (RFC 4217 section 8)."""
    if not session.control.encrypted:
        raise Refusal(503, "Send AUTH TLS first.")
    return Reply(200, "PBSZ=0")


def protection(session: Session, level: str) -> Reply:
    """PROT: choose plain (C) or encrypted (P) data connections. PBSZ is not required: some clients do not send it."""
    if not session.control.encrypted:
        raise Refusal(503, "Send AUTH TLS first.")
    if level in ("S", "E"):
        raise Refusal(536, f"Protection level {level} not supported with TLS: use PROT P.")
    if level not in ("C", "P"):
        raise Refusal(504, "Unknown protection level: use PROT P or PROT C.")
    if level == "C" and session.policy.data_needs_tls:
        raise Refusal(534, "Data connections must be encrypted: send PROT P.")
    session.protection = level
    return Reply(200, f"Protection level set to {level}.")


def clear_channel(session: Session, _: None) -> Reply:
    """CCC: end TLS on the control connection, if the configuration allows plain text."""
    if not session.control.encrypted:
        raise Refusal(533, "Control connection is not encrypted.")
    if session.policy.login_needs_tls:
        raise Refusal(534, "Control connection must stay encrypted.")
    session.control.call_after_reply(session.control.stop_tls)
    return Reply(200, "Control connection is no longer encrypted.")


def _require_no_epsv_all(session: Session, verb: str) -> None:
    if session.epsv_only:
        raise Refusal(503, f"{verb} not allowed after EPSV ALL: use EPSV.")


def passive(session: Session, _: None) -> Reply:
    """PASV: listen on a port and announce it with an IPv4 address."""
    _require_no_epsv_all(session, "PASV")
    if session.control.server.version != 4:
        raise Refusal(425, "PASV does not support IPv6: use EPSV.")
    endpoint = session.data.passive(announce=True)
    host = str(endpoint.address).replace(".", ",")
    high, low = divmod(endpoint.port, 256)
    return Reply(227, f"Entering Passive Mode ({host},{high},{low}).")


def extended_passive(session: Session, asked: str) -> Reply:
    """EPSV: listen on a port, at the address of the control connection (RFC 2428 section 3)."""
    if asked == "ALL":
        session.epsv_only = True
        return Reply(200, "EPSV ALL accepted.")
    family = 1 if session.control.server.version == 4 else 2
    if asked not in ("", str(family)):
        raise parsing.family_refused(family)
    port = session.data.passive(announce=False).port
    return Reply(229, f"Entering Extended Passive Mode (|||{port}|)")


def _active(session: Session, verb: str, target: Endpoint) -> Reply:
    _require_no_epsv_all(session, verb)
    policy = session.policy
    target = Endpoint(in_zone_of(target.address, session.control.client), target.port)
    if not policy.active:
        raise Refusal(502, "Active mode disabled: use EPSV or PASV.")
    _admit_target(target, session.control.client, policy.foreign_networks)
    if session.data.is_own(target):
        raise Refusal(501, "Data connections to the server's control port are not allowed.")
    session.data.active(target)
    return Reply(200, f"{verb} command successful.")


def _admit_target(target: Endpoint, client: Address, foreign: tuple[Network, ...]) -> None:
    """Raise Refusal for an endpoint to which the client may not direct a data connection (RFC 2577 section 3).

    Allowed are ports from 1024 of the client itself, and what `foreign_data` allows. `foreign_data: true` does not
    allow the server's own addresses, because local services trust them, nor ports below 1024, whose services could
    take a file for commands. A network in `foreign_data` that contains the address allows both.
    """
    address = target.address
    allowed = [network for network in foreign if address in network]
    listed = any(network.prefixlen for network in allowed)
    if address != client:
        if not allowed and address.version != client.version:
            raise parsing.family_refused(1 if client.version == 4 else 2)
        if not allowed or address.is_multicast:
            raise Refusal(501, "Data connections are allowed to your own address only.")
        local = address.is_loopback or address.is_unspecified
        if local and not any(network.is_loopback for network in allowed):
            raise Refusal(501, "Data connections to the server itself are not allowed.")
    if target.port < 1024 and not listed:
        raise Refusal(501, "Data connections to ports below 1024 are not allowed.")


def port(session: Session, target: Endpoint) -> Reply:
    """PORT: connect to an IPv4 endpoint of the client for the next transfer."""
    return _active(session, "PORT", target)


def extended_port(session: Session, target: Endpoint) -> Reply:
    """EPRT: connect to an IPv4 or IPv6 endpoint of the client for the next transfer (RFC 2428 section 2)."""
    return _active(session, "EPRT", target)


def representation(session: Session, kind: str) -> Reply:
    """TYPE: choose whether line ends are converted (A) or not (I and L 8)."""
    session.representation = kind
    return Reply(200, f"Type set to {kind}.")


def transfer_mode(_: Session, mode: str) -> Reply:
    """MODE: only S (stream) is supported."""
    return Reply(200, f"Mode set to {mode}.")


def structure(_: Session, kind: str) -> Reply:
    """STRU: only F (file) is supported."""
    return Reply(200, f"Structure set to {kind}.")


ROWS = (
    Command(
        "AUTH",
        parsing.word,
        auth,
        "AUTH TLS|TLS-C|TLS-P|SSL",
        "4217 4",
        login=False,
        cost=5,  # includes the TLS handshake
        features=("AUTH TLS",),
    ),
    Command("PBSZ", parsing.number, buffer_size, "PBSZ 0", "4217 8", login=False, features=("PBSZ",), quiet=True),
    Command("PROT", parsing.word, protection, "PROT P|C", "4217 9", login=False, features=("PROT",), quiet=True),
    Command("CCC", parsing.nothing, clear_channel, "CCC", "4217 5"),
    Command("PASV", parsing.nothing, passive, "PASV", "959 4.1.2", features=("PASV",), quiet=True),
    Command("EPSV", parsing.epsv, extended_passive, "EPSV [1|2|ALL]", "2428 3", features=("EPSV",), quiet=True),
    Command("PORT", parsing.port, port, "PORT h1,h2,h3,h4,p1,p2", "959 4.1.2", quiet=True),
    Command(
        "EPRT",
        parsing.eprt,
        extended_port,
        "EPRT |family|address|port|",
        "2428 2",
        features=("EPRT",),
        quiet=True,
    ),
    Command("TYPE", parsing.representation, representation, "TYPE A|I|L 8", "959 4.1.2", quiet=True),
    Command("MODE", parsing.only("S", "BCZ", "MODE"), transfer_mode, "MODE S", "959 4.1.2", quiet=True),
    Command("STRU", parsing.only("F", "RP", "STRU"), structure, "STRU F", "959 4.1.2", quiet=True),
)
