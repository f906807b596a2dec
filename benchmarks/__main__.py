"""The command: `python -m benchmarks`, from the directory that holds `benchmarks`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import peers, servers
from benchmarks.plot import svg
from benchmarks.report import table
from benchmarks.results import Results, conditions, machine, remarks, rows
from benchmarks.rounds import run
from benchmarks.server import Server, Setting
from benchmarks.sizes import Sizes
from benchmarks.stage import HASHES, NoRoom, Stage, file_system
from benchmarks.workloads import NAMES
from benchmarks.workloads import table as workload_table

WORK = Path(__file__).resolve().parent.parent / "build" / "benchmarks"


def some_of(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """For argparse: names with commas between them, told in the order of `known`."""

    def parse(text: str) -> list[str]:
        wanted = {name.strip().lower() for name in text.split(",")}
        unknown = wanted - {name.lower() for name in known}
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: known are {', '.join(known)}")
        return [name for name in known if name.lower() in wanted]

    return parse


def options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure FTPS servers side by side on 127.0.0.1 and print a table. See benchmarks/README.md.",
    )
    add = parser.add_argument
    add("--rounds", type=int, default=3, metavar="N", help="how often everything is measured (default: %(default)s)")
    add("--only", type=some_of(NAMES), default=list(NAMES), metavar="NAMES", help=f"of {', '.join(NAMES)}")
    known = tuple(servers.ALL)
    add("--servers", type=some_of(known), default=list(servers.USUAL), metavar="NAMES", help=f"of {', '.join(known)}")
    add("--scale", type=float, default=1.0, metavar="X", help="0.05 for a quick run with a twentieth of the work")
    add("--hash", choices=HASHES, default=HASHES[0], help="the account's password hash (default: %(default)s)")
    add("--decrypt", action="store_true", help="let the client decrypt bulk downloads instead of counting records")
    add("--json", type=Path, metavar="FILE", help="write all figures of all rounds here")
    add("--svg", type=Path, metavar="FILE", help="write the plot here")
    add("--from", type=Path, metavar="FILE", dest="source", help="measure nothing, show what --json wrote")
    add("--ftpsd-python", type=Path, default=Path(sys.executable), metavar="PYTHON", help="has ftpsd's dependencies")
    place = Path(tempfile.gettempdir())
    add(
        "--data", type=Path, default=place, metavar="DIR", help="where the files to transfer lie (default: %(default)s)"
    )
    add("--work", type=Path, default=WORK, metavar="DIR", help="where the peers are unpacked, and kept")
    return parser.parse_args(arguments)


def tell(line: str) -> None:
    """Progress, apart from the table."""
    print(line, file=sys.stderr, flush=True)


def obtain(wanted: list[str], setting: Setting) -> tuple[list[Server], dict[str, str], dict[str, str]]:
    """Get the servers: those that can be had, their versions, and why the others can't."""
    found: list[Server] = []
    versions: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name in wanted:
        server = servers.ALL[name](setting)
        try:
            versions[name] = server.obtain()
            found.append(server)
        except peers.Missing as reason:
            skipped[name] = str(reason)
            tell(f"{name}: skipped: {reason}")
    return found, versions, skipped


def measure(chosen: argparse.Namespace) -> Results:
    """Build the stage, run everything on it, and take it away."""
    sizes = Sizes.scaled(chosen.scale)
    stage = Stage(chosen.data, sizes, chosen.hash, chosen.ftpsd_python.absolute())
    try:
        found, versions, skipped = obtain(
            chosen.servers, Setting(stage, chosen.work.resolve(), chosen.ftpsd_python.absolute())
        )
        tell(f"files below {stage.directory}")
        stage.build(sizes)
        every = workload_table(stage, sizes)
        workloads = [every[name] for name in chosen.only]
        place = file_system(stage.directory)
        measured = run(workloads, found, stage, chosen.rounds, decrypt=chosen.decrypt, tell=tell)
    finally:
        stage.remove()
    settings = {
        "rounds": chosen.rounds,
        "scale": chosen.scale,
        "bulk downloads decrypted": chosen.decrypt,
        "password hash": chosen.hash,
        "files on": place,
        **conditions(measured),
    }
    return Results(machine(), settings, versions, skipped, rows(workloads, measured), remarks(workloads, measured))


def stop(signum: int, frame: FrameType | None) -> None:
    """End as after Ctrl-C, so that no server and no file is left."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the command."""
    chosen = options(sys.argv[1:])
    signal.signal(signal.SIGTERM, stop)
    try:
        results = Results.read(chosen.source) if chosen.source else measure(chosen)
    except NoRoom as error:
        tell(str(error))
        return 1
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    if chosen.json:
        results.write(chosen.json)
    if chosen.svg:
        chosen.svg.write_text(svg(results), encoding="utf-8")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
