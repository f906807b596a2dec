"""The listener for metrics and health: what it answers, at reloads, while the daemon stops, and for faults."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.admin.health import Health
from ftpsd.cli.admin_client import AdminClient
from ftpsd.config.settings import ListenSettings, SandboxSettings
from ftpsd.control.incoming.listeners import Listeners
from ftpsd.events.hub import Hub
from ftpsd.figures.local import LocalFigures
from ftpsd.limits.ledger import LedgerState
from ftpsd.limits.transfer_counts import TransferCounts
from ftpsd.system.worker_threads import WorkerThreads
from tests.daemon import PATIENCE, Daemon, ftpsd
from tests.disks import FaultyDisk
from tests.ftpclient import FtpClient, secured
from tests.hostile import wait_until
from tests.processes import stop, workers
from tests.prometheus import Answer, Metrics, with_metrics

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Metrics]:
    """The metrics of a daemon."""
    daemon = Daemon(tmp_path_factory.mktemp("health"), certificate)
    metrics = with_metrics(daemon)
    daemon.start()
    yield metrics
    daemon.stop()


def test_health(served: Metrics) -> None:
    """/live and /ready answer as text and as JSON; other paths are not there."""
    assert (served.get("/live").status, served.get("/live").text) == (200, "live\n")
    assert (served.get("/ready").status, served.get("/ready").text) == (200, "ready\n")
    ready = served.get("/ready", "application/json")
    assert json.loads(ready.text) == {"ready": True, "reasons": []}
    assert served.get("/").status == 404


def test_greedy_clients_of_the_listener(served: Metrics) -> None:
    """Clients that send nothing, and one that sends a large body, do not keep the next one out."""
    silent = [socket.create_connection(("127.0.0.1", served.port), PATIENCE) for _ in range(50)]
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as poster:
        poster.sendall(b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100_000)
        assert poster.recv(1000).startswith(b"HTTP/1.1 413 ")
        assert served.get("/live").status == 200
    for each in silent:
        each.close()


# --- reload, stop, and faults ----------------------------------------------------------------------


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether the listener answers there."""
    try:
        return Answer(port, "/live", host=host).status == 200
    except urllib.error.URLError:
        return False


def test_reload(make_daemon: Callable[..., Daemon]) -> None:
    """The section can come, move and go with a reload. A port that is in use changes nothing."""
    daemon = make_daemon(start=False)
    metrics = with_metrics(daemon)
    section = daemon.settings.pop("metrics")
    daemon.write()
    daemon.start()
    assert not answers(metrics.port)
    daemon.settings["metrics"] = section
    daemon.write()
    daemon.reload()
    assert metrics.value("ftpsd_config_reloads_total", result="success") == 1
    assert 'user="' not in metrics.get().text
    daemon.settings["metrics"] = {**section, "address": "127.0.0.3"}
    daemon.write()
    daemon.reload()
    assert answers(metrics.port, "127.0.0.3")
    assert not answers(metrics.port)
    with socket.create_server(("127.0.0.1", metrics.port - 1)):
        daemon.settings["metrics"] = {"port": metrics.port - 1}
        daemon.write()
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log("cannot listen on 127.0.0.1 port")
    assert answers(metrics.port, "127.0.0.3")
    assert "ftpsd_config_last_reload_successful 0.0" in Answer(metrics.port, "/metrics", host="127.0.0.3").text
    daemon.reload()
    assert answers(metrics.port - 1)
    assert not answers(metrics.port, "127.0.0.3")
    del daemon.settings["metrics"]
    daemon.write()
    daemon.reload()
    assert not answers(metrics.port - 1)
    assert "Traceback" not in daemon.log


def test_ready_while_the_daemon_stops(make_daemon: Callable[..., Daemon]) -> None:
    """While running transfers finish, /ready says 503 and why, and /live and /metrics answer."""
    daemon = make_daemon({"timeouts": {"drain": 30}}, start=False)
    metrics = with_metrics(daemon)
    daemon.start()
    with secured(daemon) as client:
        plain = client.connect_data()
        client.expect(150, "STOR a.bin")
        connection = client.secure_data(plain)
        os.kill(daemon.pid, signal.SIGTERM)
        wait_until(lambda: metrics.get("/ready").status == 503, daemon.log)
        assert metrics.get("/ready").text == "not ready: the daemon is stopping\n"
        ready = metrics.get("/ready", "application/json")
        assert json.loads(ready.text) == {"ready": False, "reasons": ["the daemon is stopping"]}
        assert metrics.get("/live").status == 200
        assert metrics.value("ftpsd_ready") == 0
        with FtpClient(daemon, greeting=False) as late:
            assert late.reply().startswith("421")
        assert metrics.value("ftpsd_sessions_rejected_total", reason="stopping") == 1
        connection.unwrap().close()
        assert client.reply().startswith("226")
    assert daemon.process is not None
    daemon.process.wait(PATIENCE)


def check(daemon: Daemon, *words: str) -> tuple[int, str]:
    """Return the exit status of `ftpsd status --check`, and what it prints."""
    command = ftpsd("status", "--check", "-c", str(daemon.config), *words)
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout


def test_the_command_for_health_checks(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """`ftpsd status --check` says what /ready says: also if all workers are silent, and while the daemon stops."""
    socket = str(tmp_path / "admin.sock")
    daemon = make_daemon({"workers": 2, "timeouts": {"drain": 30}, "admin": {"socket": socket}})
    assert check(daemon) == (0, "ready\n")
    assert json.loads(check(daemon, "--json")[1]) == {"ready": True, "reasons": []}
    stopped = workers(daemon)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:  # not by the command, which may take longer to start than the daemon needs to replace them
        health = AdminClient(Path(socket)).get("health")
    finally:
        for pid in stopped:
            stop(pid, signal.SIGCONT)
    assert health == {"ready": False, "reasons": ["no worker process answers"]}
    wait_until(lambda: check(daemon)[0] == 0, "it is ready again")
    with secured(daemon) as client:
        plain = client.connect_data()
        client.expect(150, "STOR a.bin")
        connection = client.secure_data(plain)
        os.kill(daemon.pid, signal.SIGTERM)
        wait_until(lambda: check(daemon) == (1, "not ready: the daemon is stopping\n"), daemon.log)
        connection.unwrap().close()
        assert client.reply().startswith("226")
    assert daemon.process is not None
    daemon.process.wait(PATIENCE)
    assert check(daemon)[0] == 3


def test_a_disk_that_does_not_respond(make_daemon: Callable[..., Daemon]) -> None:
    """A worker thread that waits for a disk is shown as stuck until the disk responds; the daemon remains ready."""
    daemon = make_daemon(start=False)
    metrics = with_metrics(daemon)
    disk = FaultyDisk(daemon.home())
    daemon.start(disk.prefix)
    client = secured(daemon)
    disk.fail(LOOKUP="STALL", GETATTR="STALL")
    client.send("SIZE a")
    wait_until(lambda: metrics.value("ftpsd_worker_threads_stuck") == 1, "no thread is stuck")
    assert metrics.get("/ready").status == 200
    assert metrics.value("ftpsd_worker_threads_busy") >= 1
    disk.work()
    assert client.reply().startswith("550")
    metrics.becomes(0, "ftpsd_worker_threads_stuck")
    client.socket.close()


def test_why_the_daemon_is_not_ready() -> None:
    """Each listener that is not open is named, and worker threads that do not begin a job within two seconds."""
    clock: Any = Clock()
    listen = (ListenSettings("127.0.0.1", 2121), ListenSettings("::", 990, "implicit"))
    sources: Any = SimpleNamespace(status=lambda: ())
    threads = WorkerThreads(clock)  # they were not started
    parts: Any = SimpleNamespace(
        reactor=clock,
        counts=LedgerState(clock.seconds),
        listeners=Listeners(clock, "", lambda _: pytest.fail("nothing is opened")),
        figures=LocalFigures(clock, Hub(clock), (), TransferCounts(clock.seconds), threads, sources, lambda: 0),
        stores=SimpleNamespace(status=lambda: ()),
        configuration=lambda: SimpleNamespace(
            settings=SimpleNamespace(listen=listen, sandbox=SandboxSettings()),
            users=SimpleNamespace(homes=SimpleNamespace(outermost=())),
        ),
    )
    reasons = Deferred.fromCoroutine(Health(parts).reasons())
    assert not reasons.called
    clock.advance(2)
    assert reasons.result == (
        "not listening on 127.0.0.1 port 2121",
        "not listening on :: port 990",
        "the worker threads do not respond: a disk may not respond",
    )


def test_a_missing_library_is_a_fault(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Without prometheus_client, the section is a fault that names the package for pip and for apt."""
    daemon = make_daemon(start=False)
    with_metrics(daemon)
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = ftpsd("check", "-c", str(daemon.config))
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert result.returncode == 1
    assert re.search(r"ftpsd\.yaml:\d+: metrics: needs the Python module prometheus_client", result.stderr)
    assert "pip install 'ftpsd[metrics]'" in result.stderr
    assert "apt install python3-prometheus-client" in result.stderr
    del daemon.settings["metrics"]
    daemon.write()
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"address": "localhost"}, "metrics.address: “localhost” is not an IP address"),
        ({"port": 70000}, "metrics.port: 70000 is not a port"),
        ({"port": "listen"}, "metrics.port: is the port of an entry of listen"),
        ({"users": "some"}, "metrics.users: "),
        ({"user": True}, "metrics.user: unknown key. Did you mean users?"),
        ([], "metrics: must be a mapping"),
    ],
    ids=str,
)
def test_faults(make_daemon: Callable[..., Daemon], section: object, problem: str) -> None:
    """Each fault of the section is named."""
    daemon = make_daemon(start=False)
    if isinstance(section, dict) and section.get("port") == "listen":
        section = {"port": daemon.port}
    daemon.settings["metrics"] = section
    daemon.write()
    result = subprocess.run(ftpsd("check", "-c", str(daemon.config)), capture_output=True, text=True)
    assert result.returncode == 1
    assert problem in result.stderr


def test_the_library_is_not_imported_without_the_section() -> None:
    """The daemon does not import prometheus_client unless it is needed."""
    code = "import sys, ftpsd.service; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
