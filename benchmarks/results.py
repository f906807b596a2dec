"""What comes of a run: the figures of all rounds, where they were measured, and what is to be said about them."""

from __future__ import annotations

import json
import os
import platform
import ssl
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rounds import Measured
from benchmarks.servers import OURS
from benchmarks.workloads import Outcome, Workload

CLIENT_BOUND = 0.9


@dataclass
class Row:
    """One figure of one workload, for every server."""

    workload: str
    about: str
    figure: str
    unit: str
    better: str
    rounds: dict[str, list[float]]

    def median(self, server: str) -> float | None:
        """The middle of a server's rounds."""
        values = self.rounds.get(server)
        return median(values) if values else None

    def best_peer(self) -> str | None:
        """The peer that did best."""
        peers = {name: median(values) for name, values in self.rounds.items() if name != OURS and values}
        if not peers:
            return None
        return (max if self.better == "more" else min)(peers, key=peers.__getitem__)

    def ratio(self) -> float | None:
        """Ours divided by the best peer's."""
        best, ours = self.best_peer(), self.median(OURS)
        theirs = self.median(best) if best else None
        return ours / theirs if ours is not None and theirs else None


@dataclass
class Results:
    """A whole run."""

    machine: dict[str, str]
    settings: dict[str, Any]
    servers: dict[str, str]
    """The versions of those that were measured."""
    skipped: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["rows"] = [Row(**row) for row in fields["rows"]]
        return cls(**fields)


def machine() -> dict[str, str]:
    """Where this runs, as far as figures depend on it."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "client": f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
    }


def conditions(measured: Measured) -> dict[str, str]:
    """What was found to be in use: how CPU time was read, and the ciphers that the servers chose."""
    outcomes = [one for by_server in measured.outcomes.values() for rounds in by_server.values() for one in rounds]
    return {
        "CPU time read from": ", ".join(sorted({outcome.meter for outcome in outcomes})),
        "ciphers": ", ".join(sorted({outcome.cipher for outcome in outcomes})),
    }


def rows(workloads: list[Workload], measured: Measured) -> list[Row]:
    """Every figure of every workload that at least one server managed."""
    return [
        Row(
            workload.name,
            workload.about,
            figure.key,
            figure.unit,
            figure.better,
            {name: [figure.of(outcome) for outcome in outcomes] for name, outcomes in by_server.items()},
        )
        for workload in workloads
        if (by_server := measured.outcomes.get(workload.name))
        for figure in workload.figures
    ]


def _remarks_on(outcomes: list[Outcome], protected: bool) -> list[str]:
    found = []
    busy = median(outcome.client_busy for outcome in outcomes)
    if busy > CLIENT_BOUND:
        found.append("a client was busy nearly all of the time, so the rate is partly its own")
    connections = sum(outcome.data_connections for outcome in outcomes)
    resumed = sum(outcome.resumed for outcome in outcomes)
    if protected and resumed < connections:
        share = resumed / connections
        found.append(f"the control connection's TLS session was resumed on {share:.0%} of the data connections")
    if badly := sum(outcome.ended_badly for outcome in outcomes):
        found.append(f"{badly / connections:.0%} of the data connections were closed without a close_notify")
    return found


def remarks(workloads: list[Workload], measured: Measured) -> list[str]:
    """What a reader must know to read the figures rightly: what is to be said, of which server, in which workloads."""
    said: dict[tuple[str, str], list[str]] = {}
    for workload in workloads:
        for server, reason in measured.failures.get(workload.name, {}).items():
            said.setdefault((server, f"not measured: {reason}"), []).append(workload.name)
        protected = all(job.protect for job in workload.jobs)
        for server, outcomes in measured.outcomes.get(workload.name, {}).items():
            for remark in _remarks_on(outcomes, protected):
                said.setdefault((server, remark), []).append(workload.name)
    return [f"{server} ({', '.join(names)}): {remark}" for (server, remark), names in said.items()]
