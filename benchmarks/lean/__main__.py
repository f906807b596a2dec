"""`python -m benchmarks.lean`: ftpsd with one and with two worker processes, and a client in C that costs little.

On a machine with few cores the client of the other benchmark uses more than half of them, so that it cannot show what
worker processes bring. The rounds interleave; figures are medians of all rounds. Needs cc and the headers of OpenSSL.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.client import HOST
from benchmarks.server import Server, Setting
from benchmarks.servers import Ftpsd
from benchmarks.sizes import Sizes
from benchmarks.stage import PASSWORD, USER, Stage

HERE = Path(__file__).resolve().parent

#: Seconds for one measurement.
PATIENCE = 300


@dataclass(frozen=True)
class Work:
    """What the client does: see `lean.c`. `count` is for each session."""

    kind: str
    sessions: int
    count: int
    prefix: str = "small/"


WORKS = {
    "small": Work("down", 1, 400),
    "small8": Work("down", 8, 100),
    "small64": Work("down", 64, 20),
    "smallup": Work("up", 1, 400, "up/"),
    "smallup8": Work("up", 8, 100, "up/"),
    "login8": Work("login", 8, 40),
    "cmd": Work("command", 1, 4000),
    "cmd8": Work("command", 8, 1000),
}


@dataclass(frozen=True)
class Figures:
    """Files, logins or commands per second; milliseconds of CPU time for each, of the server and of the client."""

    rate: float
    server: float
    client: float


def build(directory: Path) -> Path:
    """Compile the client."""
    program = directory / "lean"
    libraries = ["-lssl", "-lcrypto", "-lpthread"]
    subprocess.run(["cc", "-O2", "-o", str(program), str(HERE / "lean.c"), *libraries], check=True)
    return program


def with_workers(count: int) -> type[Ftpsd]:
    """Return ftpsd with that many worker processes."""

    class Workers(Ftpsd):
        """See Ftpsd."""

        name = f"ftpsd-{count}"
        settings = f"workers: {count}\n" if count > 1 else ""

    return Workers


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run a server."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def measure(program: Path, server: Server, work: Work) -> Figures:
    """Let the client do its work once."""
    numbers = [str(work.sessions), str(work.count)]
    command = [str(program), HOST, str(server.port), USER, PASSWORD, work.kind, *numbers, work.prefix]
    before = server.meter.cpu()
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    used = server.meter.cpu() - before
    seconds, client = map(float, done.stdout.split())
    total = work.sessions * work.count
    server.stage.clear_uploads()
    return Figures(total / seconds, used * 1000 / total, client * 1000 / total)


def run(stage: Stage, chosen: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, dict[int, list[Figures]]]:
    """Measure everything in interleaved rounds."""
    setting = Setting(stage, stage.directory, Path(sys.executable))
    servers = {count: with_workers(count)(setting) for count in chosen.workers}
    found: dict[str, dict[int, list[Figures]]] = {name: {count: [] for count in servers} for name in chosen.only}
    program = build(stage.directory)
    for number in range(chosen.rounds):
        for name in chosen.only:
            for count, server in servers.items():
                with serving(server):
                    measure(program, server, Work("login", 8, 1))  # each process hashes the password once
                    found[name][count].append(measure(program, server, WORKS[name]))
        tell(f"round {number + 1} of {chosen.rounds}")
    return found


def table(found: dict[str, dict[int, list[Figures]]]) -> str:
    """Return the medians, and the ratios to the first server."""
    lines = [
        "| workload | workers | per second | × | server CPU-ms | × | client CPU-ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_count in found.items():
        first = None
        for count, rounds in by_count.items():
            rate, server, client = (
                median(getattr(each, key) for each in rounds) for key in ("rate", "server", "client")
            )
            first = first or (rate, server)
            ratios = f"{rate / first[0]:.2f}", f"{server / first[1]:.2f}"
            lines.append(
                f"| {name} | {count} | {rate:,.0f} | {ratios[0]} | {server:.3f} | {ratios[1]} | {client:.3f} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lean", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(WORKS), metavar="NAMES")
    chosen = parser.parse_args()
    sizes = replace(Sizes.scaled(0.05), files=max(work.count for work in WORKS.values() if work.kind == "down"))
    stage = Stage(Path(tempfile.gettempdir()), sizes, "sha512-crypt", Path(sys.executable))
    try:
        stage.build(sizes)
        print(table(run(stage, chosen, lambda line: print(line, file=sys.stderr, flush=True))))
    finally:
        stage.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
