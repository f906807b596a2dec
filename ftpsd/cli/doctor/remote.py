"""`ftpsd doctor --from`: the checks of a client's side, in the order in which a client meets them."""

from __future__ import annotations

from ftpsd.checks.findings import Ended, Report
from ftpsd.cli.doctor import control, passive, transfers
from ftpsd.cli.doctor.control import Target


def check(target: Target, tries: int, report: Report) -> None:
    """Check a server from here. `tries` is how many passive ports are tried."""
    try:
        client = control.open_session(target, report)
    except Ended as ended:
        report.add(ended.finding)
        report.unreachable = ended.unreachable
        return
    try:
        way = passive.check(client, tries, report)
        if way is not None:
            transfers.check(client, way, report)
    except Ended as ended:
        report.add(ended.finding)
    finally:
        client.close()
