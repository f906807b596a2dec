"""TCP reachability: look up a name, connect, and tell closed, filtered and unreachable apart."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterable
from typing import Literal

from attrs import frozen

from ftpsd.checks.findings import Ended, Finding, Report

Outcome = Literal["open", "closed", "filtered", "unreachable"]


@frozen
class Attempt:
    """One attempt to connect, and the connection if it is open."""

    address: str
    port: int
    outcome: Outcome
    connection: socket.socket | None = None
    reason: str = ""


def attempt(address: str, port: int, seconds: float) -> Attempt:
    """Connect to an address within a deadline."""
    try:
        return Attempt(address, port, "open", socket.create_connection((address, port), seconds))
    except ConnectionRefusedError:
        return Attempt(address, port, "closed", reason="refused")
    except TimeoutError:
        return Attempt(address, port, "filtered", reason=f"no answer within {seconds:g} s")
    except OSError as error:
        # A router that rejects answers with ICMP: EHOSTUNREACH, ENETUNREACH, EACCES. All say that no packet arrives.
        outcome: Outcome = "filtered" if error.errno == errno.ETIMEDOUT else "unreachable"
        return Attempt(address, port, outcome, reason=error.strerror or str(error))


def look_up(host: str, port: int, seconds: float) -> list[str]:
    """Return the addresses of a host in the order in which clients try them. Raises Ended if there are none."""
    found: list[str] = []
    reason = [f"the resolver did not answer within {seconds:g} s"]

    def call() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(row[4][0]) for row in rows))
        except (OSError, UnicodeError) as error:
            reason[0] = getattr(error, "strerror", None) or str(error)

    # getaddrinfo has no time-out. The thread is left behind if the resolver never answers.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise Ended(no_name(host, reason[0]), unreachable=True)
    return found


def no_name(host: str, reason: str) -> Finding:
    """The finding for a host name without an address."""
    problem = f"The host name {host} has no address: {reason}."
    return Finding("dns.failed", "fault", problem, "Correct the name or the DNS record, or use the address.")


def connect(host: str, port: int, seconds: float, report: Report) -> socket.socket:
    """Connect to a control port at each address of a host; return the first open connection. Raises Ended."""
    attempts = [attempt(address, port, seconds) for address in look_up(host, port, seconds)]
    report.add(*unreachable_addresses(attempts))
    connections = [each.connection for each in attempts if each.connection is not None]
    for spare in connections[1:]:
        spare.close()
    if not connections:
        raise Ended(no_control(attempts), unreachable=True)
    opened = next(each for each in attempts if each.connection is connections[0])
    report.ok(f"{opened.address} accepts connections to port {port}")
    return connections[0]


def no_control(attempts: Iterable[Attempt]) -> Finding:
    """The finding when no address accepts control connections. The attempt that says most decides."""
    order = ("closed", "unreachable", "filtered")
    worst = min(attempts, key=lambda each: order.index(each.outcome))
    place, port = worst.address, worst.port
    if worst.outcome == "closed":
        return Finding(
            "control.closed",
            "fault",
            f"Port {port} of {place} is closed: the host answers, and refuses connections.",
            "On the server, start the daemon and look at the port in `listen`; otherwise a firewall rejects it.",
            f"systemctl status ftpsd; ss -ltnp 'sport = :{port}'",
        )
    if worst.outcome == "unreachable":
        return Finding(
            "control.unreachable",
            "fault",
            f"Port {port} of {place} cannot be reached: {worst.reason}.",
            "Check the address and the route to it; a router or firewall that rejects the port answers the same.",
            f"ip route get {place}",
        )
    return Finding(
        "control.filtered",
        "fault",
        f"Port {port} of {place} is filtered: nothing answered ({worst.reason}).",
        "Open the port in the server's firewall, and forward it on the router in front of the server.",
        f"nft add rule inet filter input tcp dport {port} accept",
    )


def unreachable_addresses(attempts: Iterable[Attempt]) -> list[Finding]:
    """Findings for addresses that fail while others of the same host work: clients try them one after another."""
    attempts = list(attempts)
    if not any(each.outcome == "open" for each in attempts):
        return []
    return [
        Finding(
            "control.one_address",
            "note" if each.outcome == "closed" else "warning",
            f"The host has the address {each.address} too, and port {each.port} is {each.outcome} there:"
            " clients that try it first fail or wait.",
            "Let the daemon listen on that address and open its port, or remove the address from the DNS.",
            f'listen:\n  - {{address: "::", port: {each.port}}}',
        )
        for each in attempts
        if each.outcome != "open"
    ]
