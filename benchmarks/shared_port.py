"""`python -m benchmarks.shared_port`: what a data connection costs at a passive port that all sessions share.

One session downloads small files, over TLS. Others from the same address wait for a data connection meanwhile, so that
each connection has several candidates. The rounds interleave; figures are medians of all rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.client import Client
from benchmarks.server import Server, Setting
from benchmarks.servers import FIRST, Ftpsd
from benchmarks.sizes import Sizes
from benchmarks.stage import PASSWORD, USER, Stage

#: The number of small files.
FILES = 100


@dataclass(frozen=True)
class Variant:
    """A kind of passive ports, and how many sessions wait beside the one that transfers."""

    shared: bool
    others: int

    @property
    def name(self) -> str:
        """The variant in the report."""
        kind = "shared port" if self.shared else "own ports"
        return f"{kind}, {self.others + 1} waiting"


#: Own ports come first: the others are compared with them.
VARIANTS = [Variant(shared, others) for others in (0, 7) for shared in (False, True)]


@dataclass(frozen=True)
class Figures:
    """Files per second, and milliseconds of the server's CPU time for each."""

    rate: float
    cpu: float


def server_of(variant: Variant) -> type[Ftpsd]:
    """Return ftpsd with this kind of passive ports."""

    class Sharing(Ftpsd):
        """See Ftpsd."""

        name = f"ftpsd-{'shared' if variant.shared else 'own'}"
        passive = f"ports: {FIRST}, shared: true" if variant.shared else Ftpsd.passive

    return Sharing


def measure(server: Server, variant: Variant, files: int) -> Figures:
    """Download small files while others wait."""
    with ExitStack() as clients:
        waiting = [clients.enter_context(_logged_in(server)) for _ in range(variant.others)]
        own = clients.enter_context(_logged_in(server))
        for each in waiting:
            each.command("EPSV", 229)
        for number in range(20):
            _download(own, number)
        before, began = server.meter.cpu(), time.monotonic()
        for number in range(files):
            _download(own, number)
        seconds, used = time.monotonic() - began, server.meter.cpu() - before
        assert own.seen.resumed == files + 20
    return Figures(files / seconds, used * 1000 / files)


def _logged_in(server: Server) -> Client:
    client = Client(server.port)
    client.log_in(USER, PASSWORD)
    client.set_up()
    return client


def _download(client: Client, number: int) -> None:
    pipe = client.open(f"RETR small/{number % FILES}.bin")
    for _ in pipe.sizes():
        pass
    client.done(pipe)


def run(stage: Stage, rounds: int, files: int) -> dict[Variant, list[Figures]]:
    """Measure everything in interleaved rounds."""
    setting = Setting(stage, stage.directory, Path(sys.executable))
    found: dict[Variant, list[Figures]] = {each: [] for each in VARIANTS}
    for number in range(rounds):
        for variant in VARIANTS:
            server = server_of(variant)(setting)
            server.start()
            try:
                found[variant].append(measure(server, variant, files))
            finally:
                server.stop()
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


def table(found: dict[Variant, list[Figures]]) -> str:
    """Return the medians, and their ratios to those of own ports with as many sessions that wait."""
    lines = ["| passive ports | files per second | × | server CPU-ms per file | × |", "|---|---|---|---|---|"]
    base: dict[int, tuple[float, float]] = {}
    for variant, rounds in found.items():
        rate, cpu = (median(getattr(each, key) for each in rounds) for key in ("rate", "cpu"))
        first = base.setdefault(variant.others, (rate, cpu))
        lines.append(f"| {variant.name} | {rate:,.0f} | {rate / first[0]:.2f} | {cpu:.3f} | {cpu / first[1]:.2f} |")
    return "\n".join(lines)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_port")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--files", type=int, default=400)
    chosen = parser.parse_args()
    sizes = replace(Sizes.scaled(0.05), files=FILES)
    stage = Stage(Path(tempfile.gettempdir()), sizes, "sha512-crypt", Path(sys.executable))
    try:
        stage.build(sizes)
        print(table(run(stage, chosen.rounds, chosen.files)))
    finally:
        stage.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
