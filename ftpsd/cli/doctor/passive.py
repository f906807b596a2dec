"""Passive mode from a client's side: what the server announces, and which of its ports let a connection through."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from attrs import frozen

from ftpsd.checks.findings import Ended, Finding, Report
from ftpsd.cli.doctor import reach
from ftpsd.cli.doctor.client import Client, Passive, Reply, Trouble
from ftpsd.cli.doctor.control import middlebox, stalled

#: How far the ports of 227 must be from those of 229 before a rewrite is suspected. Ranges of real servers are
#: smaller than this, or are shared by both commands.
_FAR = 5000

#: The replies to a command that a server does not know, or that a device has made unknown.
_UNKNOWN = (500, 502)


@frozen
class Try:
    """What the server announced once, and what a connection to that port of the control address did."""

    announced: Passive
    outcome: reach.Outcome


def check(client: Client, tries: int, report: Report) -> str | None:
    """Try several passive ports. Return the command (EPSV or PASV) with which a transfer can work, or None."""
    answers = {command: _announce(client, command) for command in ("EPSV", "PASV")}
    commands = [command for command, answer in answers.items() if isinstance(answer, Passive)]
    for command, answer in answers.items():
        if isinstance(answer, Reply):
            report.add(*_refused(client, command, answer, bool(commands)))
    if not commands:
        raise Ended(_no_passive_mode(str(answers["EPSV"])))
    tried = []
    for number in range(tries):
        announced = _announce(client, commands[number % len(commands)])
        if isinstance(announced, Passive):
            tried.append(Try(announced, _knock(client.peer, announced.port, client.timeout)))
    report.add(*_check_address(client, tried))
    findings = [*ports(client.peer, tried), *rewritten(tried)]
    report.add(*findings)
    opened = [each.announced.command for each in tried if each.outcome == "open"]
    if tried and not findings:
        report.ok(f"passive ports let connections through: {_list(each.announced.port for each in tried)}")
    return opened[0] if opened else None


def _refused(client: Client, command: str, reply: Reply, other_works: bool) -> list[Finding]:
    """Findings about a command that is answered with no port, unless `_no_passive_mode` says it all."""
    if reply.code not in _UNKNOWN:  # the server's own answer: it has no free port, for example
        return [_no_pasv(reply)] if other_works and command == "PASV" and ":" not in client.peer else []
    if client.lists(command):
        return [middlebox(f"FEAT lists {command}, and {command} is answered with “{reply}”")]
    if command == "EPSV":
        return [
            Finding(
                "passive.no_epsv",
                "note",
                f"The server does not support EPSV (“{reply}”), which needs no address and so survives NAT.",
                "Use PASV with the right public address.",
                "passive:\n  address: ftp.example.com",
            )
        ]
    return [] if ":" in client.peer else [_no_pasv(reply)]  # PASV cannot work over IPv6


def _no_pasv(reply: Reply) -> Finding:
    return Finding(
        "passive.no_pasv",
        "warning",
        f"PASV is refused: “{reply}”. Clients that do not know EPSV cannot transfer.",
        "Look for the reason in the server's log.",
        "journalctl -u ftpsd -n 20",
    )


def _announce(client: Client, command: str) -> Passive | Reply:
    try:
        return client.passive(command)
    except Trouble as trouble:
        raise Ended(stalled(trouble)) from None


def _knock(address: str, port: int, seconds: float) -> reach.Outcome:
    tried = reach.attempt(address, port, seconds)
    if tried.connection is not None:
        tried.connection.close()
    return tried.outcome


def _no_passive_mode(reply: str) -> Finding:
    return Finding(
        "passive.none",
        "fault",
        f"The server opens no passive port: neither EPSV nor PASV is answered with one (“{reply}”).",
        "On the server, check that ports of the passive range are free, and look at the log.",
        "ftpsd doctor -c /etc/ftpsd/ftpsd.yaml",
    )


def _check_address(client: Client, tried: Sequence[Try]) -> list[Finding]:
    """Findings about the addresses that PASV announced. Each address is tried once, on a port that is waiting."""
    for address in {each.announced.address or client.peer for each in tried} - {client.peer}:
        announced = _announce(client, "PASV")
        if isinstance(announced, Passive) and announced.address == address:
            return announced_address(client.peer, address, _knock(address, announced.port, client.timeout))
    return []


def announced_address(control: str, announced: str, outcome: reach.Outcome) -> list[Finding]:
    """Findings about an announced address that is not the address of the control connection."""
    told, reached = ipaddress.ip_address(announced), ipaddress.ip_address(control)
    sets = f"passive:\n  address: {control}"
    if outcome == "open":
        return [
            Finding(
                "passive.other_address",
                "note",
                f"PASV announces {announced}, and the control connection goes to {control}: both work from here.",
                "Nothing to do, unless clients refuse an address that differs (curl and lftp have an option for that).",
            )
        ]
    if not told.is_global:
        what = "the private address" if reached.is_global else "the address"
        return [
            Finding(
                "passive.private_address",
                "fault",
                f"PASV announces {what} {announced}, which cannot be reached from here ({outcome}); the control"
                f" connection goes to {control}.",
                "Set `passive.address` to the public address or host name, and reload the daemon.",
                sets,
            )
        ]
    return [
        Finding(
            "passive.wrong_address",
            "fault",
            f"PASV announces {announced}, which cannot be reached ({outcome}); the control connection goes to"
            f" {control}.",
            "Correct `passive.address`: it is out of date, or is rewritten on the way.",
            sets,
        )
    ]


def ports(control: str, tried: Sequence[Try]) -> list[Finding]:
    """Findings about the passive ports at the control connection's address."""
    opened = sorted({each.announced.port for each in tried if each.outcome == "open"})
    failed = sorted({each.announced.port for each in tried if each.outcome != "open"})
    if not failed:
        return []
    outcomes = {each.outcome for each in tried if each.outcome != "open"}
    how = "closed" if outcomes == {"closed"} else "filtered" if outcomes == {"filtered"} else "closed or filtered"
    low, high = min(failed + opened), max(failed + opened)
    if low == high and len(tried) > 1:  # each session has the same: a range would have given others
        cure = (
            f"Open port {low}, which all sessions share, in the server's firewall, and forward it on the router to the"
            " same port, beside the control port."
        )
        paste = f"nft add rule inet filter input tcp dport {low} accept    # or: ufw allow {low}/tcp"
    else:
        cure = (
            "Open the whole range of `passive.ports` in the server's firewall, and forward it on the router, each port"
            " to the same port."
        )
        paste = f"# the range of passive.ports, here at least {low}-{high}:\nnft add rule inet filter input tcp dport"
        paste += " 50000-50999 accept    # or: ufw allow 50000:50999/tcp"
    if opened:
        problem = f"Some passive ports of {control} are {how}: {_list(failed)}. Open are: {_list(opened)}."
        return [Finding("passive.some_filtered", "fault", problem, cure, paste)]
    problem = (
        f"The passive ports of {control} are {how}; none of {len(failed)} lets a connection through: {_list(failed)}."
    )
    return [Finding(f"passive.{'closed' if how == 'closed' else 'filtered'}", "fault", problem, cure, paste)]


def rewritten(tried: Sequence[Try]) -> list[Finding]:
    """Return findings about a device that rewrites PASV replies: their ports are far from the ports of EPSV."""
    plain = [each.announced.port for each in tried if each.announced.command == "PASV"]
    extended = [each.announced.port for each in tried if each.announced.command == "EPSV"]
    if not plain or not extended:
        return []
    if min(plain) - max(extended) > _FAR or min(extended) - max(plain) > _FAR:
        evidence = f"PASV announces the ports {_list(plain)}, and EPSV {_list(extended)}"
        return [middlebox(f"{evidence}: the 227 replies are rewritten")]
    return []


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))
