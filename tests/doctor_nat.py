"""`ftpsd doctor --from` behind a real router with a real firewall; the reports, as one line of JSON. See nat.py.

`test_doctor_network.py` runs this module in namespaces of its own, which end with it: it must not be run outside.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography import x509

from ftpsd.checks.certificate import fingerprint
from tests.daemon import Daemon, ftpsd
from tests.nat import INNER, OUTER, build, run, within

_FORWARD = """
table inet filter {
    chain forward {
        type filter hook forward priority filter;
        iifname "outer" tcp dport %s
    }
}
"""


def rules(text: str) -> None:
    """Replace the router's filter: what it does to packets for some ports of the server. "" lets all through."""
    run(*within("router", "nft", "-f", "-"), text="add table inet filter\ndelete table inet filter\n")
    if text:
        run(*within("router", "nft", "-f", "-"), text=_FORWARD % text)


def doctor(daemon: Daemon, trusted: str) -> dict[str, Any]:
    """The report of a run on the client's host."""
    line = ["doctor", "--from", f"{OUTER}:{daemon.port}", "--user", "alice", "--password-stdin", "--json"]
    line += ["--fingerprint", trusted, "--timeout", "3", "--tries", "4"]
    done = subprocess.run(within("client", *ftpsd(*line)), input="secret\n", capture_output=True, text=True, timeout=90)
    if not done.stdout:
        raise RuntimeError(done.stderr)
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def main(directory: Path, certificate: Path) -> dict[str, Any]:
    """Two daemons on the server, one of which announces the router's address, and one firewall after another."""
    daemons: dict[str, Daemon] = {}
    for name, address in (("told", OUTER), ("untold", None)):
        (directory / name).mkdir()
        daemons[name] = Daemon(directory / name, certificate, {"passive": {"address": address}}, address=INNER)
    told = daemons["told"]
    build(f"{told.port}-{daemons['untold'].passive[1]}")
    trusted = fingerprint(x509.load_pem_x509_certificate(told.certificate.read_bytes()))
    low, high = told.passive
    middle = (low + high) // 2
    try:
        for daemon in daemons.values():
            daemon.start(within("server"))
        runs = {"good": doctor(told, trusted), "untold": doctor(daemons["untold"], trusted)}
        for name, rule in (
            ("control dropped", f"{told.port} drop"),
            ("control reset", f"{told.port} reject with tcp reset"),
            ("control prohibited", f"{told.port} reject with icmpx admin-prohibited"),
            ("passive dropped", f"{low}-{high} drop"),
            ("passive reset", f"{low}-{high} reject with tcp reset"),
            ("passive half dropped", f"{low}-{middle} drop"),
        ):
            rules(rule)
            runs[name] = doctor(told, trusted)
    finally:
        for daemon in daemons.values():
            daemon.stop()
    return {"runs": runs, "middle": middle}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
