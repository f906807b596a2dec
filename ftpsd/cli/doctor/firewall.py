"""The server's own firewall, as far as it can be read: would it let a new connection to a port in? Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ftpsd.checks.findings import Finding

Verdict = Literal["accept", "drop", "unsure"]

#: How deep chains may call one another: the kernel allows 16.
_DEEPEST = 16


def nftables(ruleset: Mapping[str, Any], ports: Iterable[int]) -> dict[int, Verdict]:
    """Judge ports by the output of `nft -j list ruleset`: a new TCP connection from anywhere but this machine."""
    chains: dict[tuple[str, str, str], list[Sequence[Mapping[str, Any]]]] = {}
    bases: list[tuple[tuple[str, str, str], str]] = []
    for item in ruleset.get("nftables", ()):
        if "chain" in item:
            chain = item["chain"]
            key = (chain["family"], chain["table"], chain["name"])
            chains.setdefault(key, [])
            if chain.get("hook") == "input" and chain.get("type") == "filter":
                bases.append((key, chain.get("policy", "accept")))
        elif "rule" in item:
            rule = item["rule"]
            chains.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule["expr"])
    return {port: _worst(_walk(chains, key, port, 0) or policy for key, policy in bases) for port in ports}


def _worst(verdicts: Iterable[str]) -> Verdict:
    found = set(verdicts)
    return "drop" if "drop" in found else "unsure" if "unsure" in found else "accept"


def _walk(chains: Mapping[tuple[str, str, str], Any], key: tuple[str, str, str], port: int, depth: int) -> str | None:
    """Return the verdict of a chain, or None if it returns to its caller."""
    if depth > _DEEPEST:
        return "unsure"
    for rule in chains.get(key, ()):
        applies: bool | None = True
        for expression in rule:
            result = _matches(expression, port)
            if result is False:
                applies = False
                break
            applies = None if result is None else applies
        verdict = _verdict(chains, key, rule, port, depth) if applies is not False else None
        if verdict == "return" and applies:
            return None
        if verdict is not None and verdict != "return":
            return verdict if applies else "unsure"
    return None


def _verdict(chains: Any, key: tuple[str, str, str], rule: Sequence[Any], port: int, depth: int) -> str | None:
    for expression in rule:
        if "accept" in expression or "return" in expression:
            return "accept" if "accept" in expression else "return"
        if "drop" in expression or "reject" in expression:
            return "drop"
        for word in ("jump", "goto"):
            if word in expression:
                return _walk(chains, (*key[:2], expression[word]["target"]), port, depth + 1)
    return None


def _matches(expression: Mapping[str, Any], port: int) -> bool | None:
    """Whether an expression matches the packet. None: that cannot be told. What is no condition matches."""
    if "xt" in expression:
        return None
    match = expression.get("match")
    if match is None:
        return True
    left, right = match["left"], match["right"]
    result: bool | None = None
    if left in ({"payload": {"protocol": "tcp", "field": "dport"}}, {"payload": {"protocol": "th", "field": "dport"}}):
        result = _holds(right, port)
    elif left == {"meta": {"key": "l4proto"}}:
        result = _holds(right, "tcp")
    elif "payload" in left and left["payload"].get("protocol") in ("udp", "icmp", "icmpv6"):
        return False
    elif left == {"ct": {"key": "state"}}:
        return "new" in (
            right if isinstance(right, list) else right.get("set", []) if isinstance(right, dict) else [right]
        )
    elif "meta" in left and left["meta"].get("key") in ("iif", "iifname") and right == "lo":
        result = False
    if result is None:
        return None
    return not result if match["op"] == "!=" else result


def _holds(right: Any, value: int | str) -> bool | None:
    if isinstance(right, dict):
        if "range" in right:
            low, high = right["range"]
            return isinstance(value, int) and low <= value <= high
        if "set" in right:
            results = [_holds(each, value) for each in right["set"]]
            return True if True in results else None if None in results else False
        return None
    if isinstance(right, str) and right.startswith("@"):
        return None
    return bool(right == value)


def ufw(status: str, ports: Iterable[int]) -> dict[int, Verdict]:
    """Judge ports by the output of `ufw status`. Application profiles cannot be judged, except by their name."""
    if not re.search(r"^Status: active", status, re.MULTILINE):
        return dict.fromkeys(ports, "accept")
    allowed: list[tuple[int, int]] = []
    unsure = False
    for target, action, source in re.findall(r"^(\S.*?)\s{2,}(ALLOW|LIMIT)\b.*?\s{2,}(\S.*)$", status, re.MULTILINE):
        unsure |= "ftpsd" in target.lower()
        for low, high in re.findall(r"(?<![\d.:/])(\d+)(?::(\d+))?(?=[,/\s]|$)(?!/udp)", target):
            if source.startswith("Anywhere") and action == "ALLOW":
                allowed.append((int(low), int(high or low)))
    return {
        port: "accept" if any(low <= port <= high for low, high in allowed) else "unsure" if unsure else "drop"
        for port in ports
    }


def findings(source: str, verdicts: Mapping[int, Verdict], listeners: Sequence[int], passive: str) -> list[Finding]:
    """Findings about judged ports. `source` is the program whose rules were read: nft or ufw."""
    low, _, high = passive.partition("-")
    found = []
    for name, chosen in (
        ("control port", [port for port in verdicts if port in listeners]),
        ("passive port", [port for port in verdicts if port not in listeners]),
    ):
        dropped = [port for port in chosen if verdicts[port] == "drop"]
        ports = f"{low}-{high}" if name == "passive port" else ", ".join(map(str, dropped))
        if dropped:
            listed = ", ".join(map(str, dropped))
            paste = f"nft add rule inet filter input tcp dport {{ {ports} }} accept"
            if source == "ufw":
                paste = f"ufw allow {ports.replace('-', ':').replace(' ', '')}/tcp"
            found.append(
                Finding(
                    f"firewall.{name.replace(' ', '_')}",
                    "fault",
                    f"The rules of {source} on this machine let no connection to the {name} {listed} in.",
                    "Open the control ports and the whole passive range (docs/firewall.md).",
                    paste,
                )
            )
    if "unsure" in verdicts.values():
        problem = f"The rules of {source} have conditions that cannot be judged here."
        cure = "Check from outside."
        found.append(Finding("firewall.unsure", "note", problem, cure, "ftpsd doctor --from HOST --user NAME"))
    return found
