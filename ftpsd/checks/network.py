"""The server's network, judged from its own side: announced address, passive range, listeners. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from ftpsd.checks.findings import Finding


def announced(address: str | None, own: Sequence[str], routed: bool) -> list[Finding]:
    """Judge the address that PASV announces.

    `address` is that of the settings, resolved, or None; `own` are this machine's IPv4 addresses without loopback;
    `routed` says whether there is a route to the Internet.
    """
    if address is None:
        if not own or not routed or any(ipaddress.ip_address(each).is_global for each in own):
            return []
        return [
            Finding(
                "address.private",
                "warning",
                f"`passive.address` is not set, and this machine has private addresses only ({', '.join(own)}): PASV"
                " announces them to clients outside, too.",
                "If clients come from outside, set the public address or host name.",
                "passive:\n  address: ftp.example.com",
            )
        ]
    if _is_useless(address):
        problem = f"`passive.address` is {address}, which no other machine can connect to."
        return [Finding("address.useless", "fault", problem, "Set the public address.", "passive:\n  address: null")]
    if address in own:
        return []
    if not ipaddress.ip_address(address).is_global:  # 100.64.0.0/10 (RFC 6598) is neither global nor private for Python
        return [
            Finding(
                "address.private",
                "warning",
                f"`passive.address` is the private address {address}, and no address of this machine.",
                "Set the address at which clients reach the server. Addresses of 100.64.0.0/10 stand for a public one"
                " that the provider shares among customers: ask for one of your own.",
                "passive:\n  address: ftp.example.com",
            )
        ]
    return [
        Finding(
            "address.elsewhere",
            "note",
            f"`passive.address` is {address}, which is not an address of this machine: a router must forward the"
            " control ports and the passive range, each port to the same port.",
            "Only a client outside can check this.",
            f"ftpsd doctor --from {address} --user NAME",
        )
    ]


def _is_useless(address: str) -> bool:
    """Return whether no other machine can connect to an address."""
    found = ipaddress.ip_address(address)
    return found.is_loopback or found.is_unspecified or found.is_multicast


def exception(index: int, address: str, own: Sequence[str], unrouted: Iterable[str]) -> list[Finding]:
    """Judge an entry of `passive.networks`. `unrouted` are its client networks to which no route leads."""
    key = f"passive.networks[{index}]"
    if _is_useless(address):
        problem = f"`{key}.address` is {address}, which no other machine can connect to."
        return [Finding("address.useless", "fault", problem, "Set an address that these clients reach.")]
    found = [
        Finding(
            "address.no_route",
            "warning",
            f"No route leads to {clients}, whose clients `{key}` is for: replies to them are lost.",
            "Add the route, or correct the network.",
            f"ip route add {clients} via ROUTER",
        )
        for clients in unrouted
    ]
    if address not in own:
        problem = f"`{key}.address` is {address}, which is not an address of this machine: a router must forward it."
        cure = "Check from a client in that network."
        found.append(Finding("address.elsewhere", "note", problem, cure, f"ftpsd doctor --from {address} --user NAME"))
    return found


def port_range(low: int, high: int, local: tuple[int, int], reserved: str, shared: bool = False) -> list[Finding]:
    """Judge the passive range by `ip_local_port_range` and `ip_local_reserved_ports`. `shared`: see passive.shared."""
    if high < local[0] or low > local[1]:
        return []
    taken = set(range(max(low, local[0]), min(high, local[1]) + 1))
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", reserved):
        taken -= set(range(int(first), int(last or first) + 1))
    if not taken:
        return []
    effect = "the daemon skips a port that is taken, and has fewer"
    if shared:
        effect = "while one of them is taken, the daemon cannot start with passive.shared"
    return [
        Finding(
            "ports.local_range",
            "note",
            f"The passive range {low}-{high} lies in the ports that Linux gives to outgoing connections"
            f" ({local[0]}-{local[1]}): {effect}.",
            "Reserve the range.",
            f"echo 'net.ipv4.ip_local_reserved_ports = {low}-{high}' > /etc/sysctl.d/ftpsd.conf && sysctl --system",
        )
    ]


def parse_listeners(*tables: str) -> set[tuple[int, int]]:
    """Return port and user number of each listening socket in /proc/net/tcp and /proc/net/tcp6."""
    found = set()
    for line in "\n".join(tables).splitlines():
        fields = line.split()
        if len(fields) > 7 and fields[3] == "0A":
            found.add((int(fields[1].rpartition(":")[2], 16), int(fields[7])))
    return found


def other_listeners(low: int, high: int, listening: Iterable[tuple[int, int]], service: int) -> list[Finding]:
    """Findings about ports of the passive range on which another user's program listens."""
    others = sorted({port for port, owner in listening if low <= port <= high and owner != service})
    if not others:
        return []
    listed = ", ".join(map(str, others[:10]))
    return [
        Finding(
            "ports.other_listener",
            "warning",
            f"Another program listens on ports of the passive range: {listed}.",
            "Choose a range without them, or move the program.",
            f"ss -ltnp 'sport >= :{low} and sport <= :{high}'",
        )
    ]


def not_listening(ports: Sequence[int], listening: Iterable[tuple[int, int]]) -> list[Finding]:
    """Findings about control ports on which nothing listens."""
    present = {port for port, _ in listening}
    missing = [str(port) for port in ports if port not in present]
    if not missing:
        return []
    problem = f"Nothing listens on the control port {', '.join(missing)}: the daemon does not run."
    cure = "Start it; its log says why if it does not."
    return [Finding("listen.nothing", "warning", problem, cure, "systemctl restart ftpsd; journalctl -u ftpsd -n 20")]
