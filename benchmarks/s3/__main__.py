"""`python -m benchmarks.s3`: ftpsd with a home in an object store, beside a local home and beside `rclone serve ftp`.

A second table has one upload beside that of boto3's transfer manager. The rounds interleave, and figures are medians.
The CPU time of the store is shown, and counted for nobody.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import peers
from benchmarks.__main__ import WORK, some_of, stop, tell
from benchmarks.s3.programme import NAMES, SERVERS, Programme
from benchmarks.s3.stores import ALL, KEEP, LeanStore
from benchmarks.s3.tables import report
from benchmarks.server import Setting
from benchmarks.sizes import Sizes
from benchmarks.stage import Stage


def options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=3, metavar="N", help="how often everything is measured (default: %(default)s)")
    add("--scale", type=float, default=1.0, metavar="X", help="0.05 for a quick run with a twentieth of the work")
    add("--only", type=some_of(NAMES), default=list(NAMES), metavar="NAMES", help=f"of {', '.join(NAMES)}")
    add("--servers", type=some_of(SERVERS), default=list(SERVERS), metavar="NAMES", help=f"of {', '.join(SERVERS)}")
    add("--store", choices=list(ALL), default=LeanStore.name, help="the S3 server (default: %(default)s)")
    add("--data", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR", help="where the files lie")
    add("--work", type=Path, default=WORK, metavar="DIR", help="where rclone is installed, and kept")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command."""
    chosen = options(arguments)
    sizes, python = replace(Sizes.scaled(chosen.scale), many_names=1), Path(sys.executable)
    stage = Stage(chosen.data, sizes, "sha512-crypt", python)
    store = ALL[chosen.store](Setting(stage, chosen.work.resolve(), python))
    signal.signal(signal.SIGTERM, stop)
    try:
        version = store.obtain()
        stage.build(sizes)
        (stage.home / KEEP).touch()
        store.start()
        programme = Programme(stage, sizes, store, tell)
        programme.run(chosen.only, chosen.servers, chosen.rounds)
        print(report(programme, f"{store.name}, {version}", sizes, chosen.rounds))
    except peers.Missing as reason:
        tell(f"{store.name}: {reason}")
        return 1
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    finally:
        store.stop()
        stage.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
