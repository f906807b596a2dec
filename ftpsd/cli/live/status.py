"""`ftpsd status`: the state of the daemon in a dozen lines, or whether it can serve clients."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

from ftpsd.cli import text
from ftpsd.cli.admin_client import connect
from ftpsd.cli.durations import in_words
from ftpsd.cli.live import answers
from ftpsd.cli.live.limits import group_lines, limit_line, rate, use
from ftpsd.cli.options import add_config
from ftpsd.protocol.replies import readable_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd status`."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--check", action="store_true", help="print why the daemon is not ready, and exit with 1 then")


def run(options: argparse.Namespace) -> int:
    """Print the state of the daemon. Return the exit status."""
    if options.check:
        return _check(options)
    status = answers.status(connect(options))
    if options.json:
        json.dump(status, sys.stdout, indent=2)
        print()
    else:
        print("\n".join(lines(status, time.time())))
    return 0


def _check(options: argparse.Namespace) -> int:
    """Print what /ready of the metrics says, for health checks that run a command."""
    health = answers.health(connect(options))
    if options.json:
        print(json.dumps(health))
    else:
        print("\n".join(text.clean(f"not ready: {each}") for each in health["reasons"]) or "ready")
    return 0 if health["ready"] else 1


def lines(status: answers.Status, now: float) -> list[str]:
    """Return the state as aligned text. `now` is POSIX time."""
    return [text.clean(line) for line in text.columns(list(_rows(status, now)))]


def _rows(status: answers.Status, now: float) -> Iterator[tuple[str, str]]:
    yield "version", f"ftpsd {status['version']}"
    yield "uptime", f"{in_words(status['uptime'])}, since {answers.local_time(status['started'])}"
    for number, listener in enumerate(status["listeners"]):
        yield _once("listeners", number), f"{listener['address']} port {listener['port']}, {listener['tls']} TLS"
    transfers = status["transfers"]
    yield "sessions", use(status["sessions"]["used"], status["sessions"]["limit"])
    yield "uploads", f"{transfers['uploads']}, {rate(transfers['upload_rate'])}"
    yield "downloads", f"{transfers['downloads']}, {rate(transfers['download_rate'])}"
    for number, limit in enumerate(each for each in status["limits"] if each["limit"] is not None):
        yield _once("limits", number), limit_line(limit)
    for number, line in enumerate(group_lines(status["groups"])):
        yield _once("groups", number), line
    yield "bans", str(status["bans"])
    for number, certificate in enumerate(status["certificates"]):
        yield _once("certificate", number), _certificate(certificate, now)
    yield from _reload(status["reload"])
    threads, ports = status["threads"], status["passive_ports"]
    stuck = f", {threads['stuck']} STUCK: see the log" if threads["stuck"] else ", none stuck"
    yield "worker threads", f"{threads['busy']} of {threads['size']} busy{stuck}"
    yield "passive ports", _passive_ports(ports)
    for number, source in enumerate(status["sources"]):
        yield _once("sources", number), _source(source)
    for number, store in enumerate(status["stores"]):
        down = f": DOWN: {store['error']}" if store["state"] == "down" else f": {store['state']}"
        yield _once("stores", number), f"{store['name']}, bucket {store['bucket']}{down}"
    for number, worker in enumerate(status["workers"]):
        yield _once("workers", number), _worker(worker, now)
    if status["worker_restarts"]:
        yield "", f"{status['worker_restarts']} started again after a failure: see the log"


def _worker(worker: answers.Worker, now: float) -> str:
    since = in_words(max(0.0, now - answers.posix_time(worker["since"])))
    state = "DOES NOT ANSWER" if worker["state"] == "silent" else worker["state"]
    use = ""
    if worker["sessions"] is not None:
        memory = readable_size(worker["memory"] or 0)
        use = f", {worker['sessions']} sessions, {worker['cpu'] or 0:.1f} s of processor time, {memory}"
    return f"{worker['index']}: {state}{use}, process {worker['process']}, up {since}"


def _source(source: answers.Source) -> str:
    failed = sum(source["questions"].get(result, 0) for result in ("failed", "late", "busy"))
    asked = f"{sum(source['questions'].values())} questions, {failed} failed"
    if source["state"] == "down":
        return f"{source['name']}: DOWN, {source['remembered']} users can log in without it: {source['error']}"
    hanging = f", {source['hanging']} HANG" if source["hanging"] else ""
    return f"{source['name']}: {source['state']}, {asked}, {source['waiting']} wait{hanging}"


def _once(title: str, number: int) -> str:
    return "" if number else title


def _certificate(certificate: answers.Certificate, now: float) -> str:
    if certificate["expires"] is None:
        return f"{certificate['file']}, does not expire"
    left = answers.posix_time(certificate["expires"]) - now
    end = answers.local_time(certificate["expires"])
    if left <= 0:
        return f"{certificate['file']}, EXPIRED on {end}"
    return f"{certificate['file']}, expires on {end}, in {in_words(left)}"


def _reload(reload: answers.Reload) -> Iterator[tuple[str, str]]:
    result = "good" if reload["ok"] else "FAILED, the old configuration remains in effect"
    yield "last load", f"{answers.local_time(reload['time'])}, {result}"
    for fault in reload["faults"]:
        yield "", fault


def _passive_ports(ports: answers.PassivePorts) -> str:
    first, last = ports["first"], ports["last"]
    if ports["shared"]:
        return f"{first if first == last else f'{first}-{last}'}, shared by all sessions"
    return f"{use(ports['used'], last - first + 1)} ({first}-{last})"
