"""One client process: `python -m benchmarks.worker`. It is told a job, gets ready, waits for "go" and works.

The benchmark speaks to it in lines on standard input and output, so that it alone decides what lies between the two
readings of a server's CPU time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time

from benchmarks.client import Client, Seen
from benchmarks.job import Job
from benchmarks.tasks import ALONE, IN_SESSION, Stopped, Work, check, warm_up


def say(event: str, **fields: object) -> None:
    """One line for the benchmark, if it is still there."""
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps({"event": event, **fields}).encode() + b"\n")


def hear() -> str:
    """The benchmark's next word; empty when it has gone."""
    return sys.stdin.readline().strip()


def get_ready(work: Work) -> Client | None:
    """The session in which the task will run, if it runs in one."""
    if work.job.urgent:
        with contextlib.suppress(PermissionError):  # then latencies hold some of this machine's own scheduling
            os.setpriority(os.PRIO_PROCESS, 0, -10)
    if work.job.task in ALONE:
        return None
    client = work.client()
    warm_up(client)
    work.seen = client.seen = Seen()
    return client


def run(work: Work, client: Client | None) -> None:
    """The task, once, or if it is a background one until the benchmark says stop."""
    tally = work.tally
    tally.cpu, tally.start = -time.process_time(), time.monotonic()
    try:
        if client is None:
            ALONE[work.job.task](work)
        while client is not None:
            IN_SESSION[work.job.task](work, client)
            if not work.job.background:
                break
    except Stopped:
        pass
    tally.end = time.monotonic()
    tally.cpu += time.process_time()
    tally.data_connections = work.seen.data_connections
    tally.resumed = work.seen.resumed
    tally.ended_badly = work.seen.ended_badly


def stop_when_told(stop: threading.Event) -> None:
    """Set `stop` at the next word, whatever it is."""
    hear()
    stop.set()


def serve() -> None:
    """One job, from the benchmark's first line to its last."""
    work = Work(Job.from_json(hear()), threading.Event())
    client = get_ready(work)
    say("ready")
    hear()
    if work.job.background:
        threading.Thread(target=stop_when_told, args=(work.stop,), daemon=True).start()
    run(work, client)
    say("done", tally=work.tally.to_json())
    if work.job.background:
        return
    while word := hear():
        if word == "check":
            if client is not None:
                check(work, client)
            say("checked")
        elif word == "quit":
            if client is not None:
                client.quit()
            return


def main() -> None:
    """Run; a fault is told to the benchmark, which goes on with the next server."""
    try:
        serve()
    except Exception as error:
        say("failed", reason=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


if __name__ == "__main__":
    main()
