"""The command: `python -m benchmarks.soak`, from the directory that holds `benchmarks`."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import machine
from benchmarks.soak import churn, hostile, rates, sessions
from benchmarks.soak.figures import Report
from ftpsd.cli.serve.self_signed import make_certificate

#: Passive ports: none of a test's, and none that the system gives to clients.
PORTS = "24000-29999"

ALL: dict[str, Callable[[Path, Path, float], Report]] = {
    "sessions": lambda place, certificate, x: sessions.run(place, certificate, sessions.Load().scaled(x), PORTS),
    "churn": lambda place, certificate, x: churn.run(place, certificate, churn.Load().scaled(x), PORTS),
    "rates": lambda place, certificate, x: rates.run(place, certificate, rates.Load(seconds=10.0 * min(x, 1.0)), PORTS),
    "hostile": lambda place, certificate, x: hostile.run(place, certificate, hostile.Load().scaled(x), PORTS),
}


def options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Load and endurance of ftpsd on 127.0.0.1. See docs/reliability.md.",
    )
    add = parser.add_argument
    add("what", nargs="*", choices=[*ALL, []], metavar="WHAT", help=f"of {', '.join(ALL)} (default: all)")
    add("--scale", type=float, default=1.0, metavar="X", help="0.01 for a first look")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    return parser.parse_args(arguments)


def raise_limits() -> None:
    """As many files as the system allows, for the daemon and the clients."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Run the command; 1 if there was a fault."""
    chosen = options(sys.argv[1:])
    raise_limits()
    reports = []
    place = Path(tempfile.mkdtemp(prefix="ftpsd-soak-"))
    make_certificate(place / "certificate.pem", place / "key.pem")
    for what in chosen.what or ALL:
        (place / what).mkdir()
        reports.append(ALL[what](place / what, place, chosen.scale))
        print(reports[-1].table(), flush=True)
    faulty = any(report.faults for report in reports)
    if faulty:
        print(f"the daemon's logs are in {place}")
    else:
        shutil.rmtree(place)
    if chosen.json:
        whole = {"machine": machine(), "scale": chosen.scale, "reports": [each.as_json() for each in reports]}
        chosen.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return faulty


if __name__ == "__main__":
    sys.exit(main())
