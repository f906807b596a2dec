"""How the two connections are set up: AUTH PBSZ PROT CCC, PASV EPSV PORT EPRT, TYPE MODE STRU."""

from __future__ import annotations

from ftpsd.protocol import parsing
from ftpsd.protocol.command import Command
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.parsing import Address, Endpoint
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.protocol.session import Session

MECHANISMS = ("TLS", "TLS-C", "TLS-P", "SSL")


def auth(session: Session, mechanism: str) -> Reply:
    """Starts TLS behind the reply. TLS-P and SSL imply PROT P, as RFC 4217 section 17 records."""
    if mechanism not in MECHANISMS:
        raise Refusal(504, "Unsupported mechanism: use AUTH TLS.")
    if session.control.encrypted:
        raise Refusal(503, "Connection already encrypted.")
    session.reinitialize()  # RFC 4217 4.2: what was said in plain text counts no more
    if mechanism in ("TLS-P", "SSL"):
        session.protection = "P"
    session.control.call_after_reply(session.control.start_tls)
    return Reply(234, f"AUTH {mechanism} successful.")


def buffer_size(session: Session, size: int) -> Reply:
    """TLS has no protection buffer: the size is 0 whatever was asked (RFC 4217 section 8)."""
    if not session.control.encrypted:
        raise Refusal(503, "Send AUTH TLS first.")
    return Reply(200, "PBSZ=0")


def protection(session: Session, level: str) -> Reply:
    """C leaves data connections plain, P encrypts them. PBSZ may be missing: some clients never send it."""
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
    """Takes TLS off the control connection, where the configuration lets plain text through."""
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
    """A port to connect to, with an IPv4 address in the reply."""
    _require_no_epsv_all(session, "PASV")
    if session.control.server.version != 4:
        raise Refusal(425, "PASV does not support IPv6: use EPSV.")
    endpoint = session.data.passive(announce=True)
    host = str(endpoint.address).replace(".", ",")
    high, low = divmod(endpoint.port, 256)
    return Reply(227, f"Entering Passive Mode ({host},{high},{low}).")


def extended_passive(session: Session, asked: str) -> Reply:
    """A port to connect to, at the address of the control connection (RFC 2428 section 3)."""
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
    target = Endpoint(parsing.in_zone_of(target.address, session.control.client), target.port)
    if not policy.active:
        raise Refusal(502, "Active mode disabled: use EPSV or PASV.")
    _admit_target(target, session.control.client, policy.foreign_networks)
    if session.data.is_own(target):
        raise Refusal(501, "Data connections to the server's control port are not allowed.")
    session.data.active(target)
    return Reply(200, f"{verb} command successful.")


def _admit_target(target: Endpoint, client: Address, foreign: tuple[Network, ...]) -> None:
    """Raises Refusal for an endpoint that a client may not name: no port of another host, and no well-known one
    (RFC 2577 section 3), but what `foreign_data` allows.

    Local services trust their own machine, and well-known ports take files for commands. So `foreign_data: true`
    does not open these: a network that contains the address does.
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
    """Where the client listens, IPv4."""
    return _active(session, "PORT", target)


def extended_port(session: Session, target: Endpoint) -> Reply:
    """Where the client listens, either family (RFC 2428 section 2)."""
    return _active(session, "EPRT", target)


def representation(session: Session, kind: str) -> Reply:
    """A converts line ends; I and L 8 leave every byte as it is."""
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
        cost=5,  # with its handshake
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
