"""Log in through each listener of this machine, and through the announced address, as a client does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from attrs import evolve, frozen

from ftpsd.checks import certificate
from ftpsd.checks.files import read_chain
from ftpsd.checks.findings import Finding, Report
from ftpsd.cli.doctor import remote
from ftpsd.cli.doctor.control import Target
from ftpsd.config.settings import ListenSettings, Settings


def log_in(
    settings: Settings,
    credentials: Callable[[], tuple[str, str]],
    seconds: float,
    tries: int,
    report: Report,
    own: tuple[str, str] | None = None,
) -> None:
    """Log in and transfer through each listener, then through the announced address.

    `own` are the files of the certificate that the client shows, and of its key.

    Stop at a refused login: each one more would count towards a ban of this machine and of the user name.
    """
    try:
        chains = [read_chain(pair.certificate) for _, pair in settings.tls.pairs]
        trusted = tuple(certificate.fingerprint(chain[0]) for chain in chains)
    except (OSError, ValueError, IndexError):
        return
    client = _Client(cache(credentials), seconds, tries, trusted, own)
    refused = _through_listeners(settings.listen, client, report)
    if not refused and settings.passive.address is not None and settings.listen:
        _hairpin(client.target(settings.passive.address, settings.listen[0]), tries, report)


@frozen
class _Client:
    """What all logins have in common. `credentials` asks for the password at the first one only."""

    credentials: Callable[[], tuple[str, str]]
    seconds: float
    tries: int
    trusted: tuple[str, ...]
    certificate: tuple[str, str] | None

    def target(self, address: str, listener: ListenSettings) -> Target:
        return Target(
            address,
            listener.port,
            implicit=listener.tls == "implicit",
            credentials=self.credentials,
            timeout=self.seconds,
            fingerprints=self.trusted,
            certificate=self.certificate,
        )


def _through_listeners(listeners: Sequence[ListenSettings], client: _Client, report: Report) -> bool:
    """Log in through each listener until a login is refused. Return whether one was."""
    parts: list[Report] = []
    for listener in listeners:
        if listener.proxy_protocol is not None:
            report.add(_proxied(listener))
            continue
        address = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(listener.address, listener.address)
        part = Report("")
        remote.check(client.target(address, listener), client.tries, part)
        parts.append(part)
        _merge(part, f"[{address}]:{listener.port}" if ":" in address else f"{address}:{listener.port}", report)
        report.unreachable = all(each.unreachable for each in parts)
        if any(finding.code == "login.refused" for finding in part.findings):
            return True
    return False


def _proxied(listener: ListenSettings) -> Finding:
    return Finding(
        "listener.proxied",
        "note",
        f"The listener at port {listener.port} serves load balancers only, so it was not tested from this machine.",
        "Test it through the load balancer.",
        f"ftpsd doctor --from BALANCER:{listener.port} --user NAME",
    )


def _merge(part: Report, where: str, report: Report) -> None:
    """Take the results of one listener into the whole. What PASV announces to this machine says nothing of others."""
    for finding in part.findings:
        if not finding.code.startswith("passive.") or "address" not in finding.code:
            report.add(evolve(finding, problem=f"Through {where}: {finding.problem}"))
    report.passed += [f"{where}: {check}" for check in part.passed]


def _hairpin(target: Target, tries: int, report: Report) -> None:
    """Log in through the announced address. Many routers do not lead a machine back to itself: no proof of a fault."""
    part = Report("")
    remote.check(target, tries, part)
    faults = [finding for finding in part.findings if finding.level == "fault"]
    if not faults:
        report.ok(f"login and transfers through the announced address {target.host} work from this machine")
        return
    report.add(
        Finding(
            "hairpin.inconclusive",
            "note",
            f"From this machine, the announced address {target.host} does not work ({faults[0].code}). That is"
            " inconclusive: many routers do not let a machine reach itself through its public address.",
            "Check from outside.",
            f"ftpsd doctor --from {target.host}:{target.port} --user NAME",
        )
    )
