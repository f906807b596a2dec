"""Fuzzing by hand: `python -m tests.fuzz TARGET|all [--seconds N]`, or with a file that was found: `TARGET FILE`.

With atheris (`pip install atheris`) it is guided by coverage, and --corpus keeps what reaches new code; else
hypothesis makes the bytes. Either tells what breaks a promise; atheris leaves it as a file `crash-…`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Seconds that one input may take.
SLOWEST = 20


def main() -> int:
    """Runs what the command line says; 1 when something was found."""
    options = _options()
    if options.work is not None:
        tempfile.tempdir = str(options.work)
        _with_atheris(options)
        return 0
    from tests.fuzz.targets import TARGETS

    names = list(TARGETS) if options.target == "all" else [options.target]
    if not set(names) <= set(TARGETS):
        sys.exit(f"tests.fuzz: one of: all, {', '.join(TARGETS)}")
    if options.file is not None:
        TARGETS[options.target].run(options.file.read_bytes())
        return 0
    run = _child if find_spec("atheris") else lambda name, options: _with_hypothesis(TARGETS[name], options)
    return max(run(name, options) for name in names)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", help="or: all")
    parser.add_argument("file", nargs="?", type=Path, help="run this input and no other")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=-1, help="inputs for each target (default: as many as time allows)")
    parser.add_argument("--seed", type=int, default=0, help="make the same inputs as another run (default: other ones)")
    parser.add_argument("--corpus", type=Path, help="a directory, with one of each target in it")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(name: str, options: argparse.Namespace) -> int:
    """atheris ends its process without any tidying: it gets one of its own, and a directory that is removed."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="ftpsd-fuzz-", dir=memory if memory.is_dir() else None) as work:
        corpus = ["--corpus", str(options.corpus)] if options.corpus else []
        limits = ["--seconds", str(options.seconds), "--seed", str(options.seed), "--runs", str(options.runs)]
        command = [sys.executable, "-m", "tests.fuzz", name, *limits, "--work", work]
        print(f"=== {name}", flush=True)
        environment = {**os.environ, "PYTHONHASHSEED": str(options.seed or "random")}
        return min(1, subprocess.run([*command, *corpus], env=environment).returncode)


def _with_atheris(options: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(include=["ftpsd", "yaml"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[options.target]
    corpus, seeds, words = (
        (options.corpus or options.work) / options.target,
        options.work / "seeds",
        options.work / "words",
    )
    corpus.mkdir(parents=True, exist_ok=True)
    seeds.mkdir()
    for number, seed in enumerate(target.seeds):
        (seeds / str(number)).write_bytes(seed)
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    limits = [f"-max_total_time={options.seconds}", f"-runs={options.runs}", f"-timeout={SLOWEST}"]
    limits += [f"-seed={options.seed}", "-max_len=4096"]
    arguments = [sys.argv[0], *limits, f"-dict={words}", f"-artifact_prefix={os.getcwd()}/"]
    atheris.Setup([*arguments, str(corpus), str(seeds)], target.run)
    atheris.Fuzz()


def _with_hypothesis(target: Any, options: argparse.Namespace) -> int:
    from hypothesis import HealthCheck, given, seed, settings

    from tests.fuzz.mutations import inputs

    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs(target))
    def fuzz(data: bytes) -> None:
        target.run(data)

    end, rounds = time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        rounds += 1
        (seed(options.seed + rounds)(fuzz) if options.seed else fuzz)()
    print(f"{rounds} rounds of 1000 inputs: nothing found (hypothesis; with atheris it would be guided by coverage)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
