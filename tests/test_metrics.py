"""Metrics and health checks of a real daemon: each value after what a client has done."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from ftpsd.outbox import status as delivery_status
from ftpsd.outbox.status import DeliveryStatus
from tests.daemon import PATIENCE, Daemon, ftpsd
from tests.ftpclient import FtpClient, secured
from tests.hostile import wait_until

pytest.importorskip("prometheus_client")
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

ROOT = Path(__file__).parents[1]
PROMTOOL = shutil.which("promtool")


class Answer:
    """The answer to GET."""

    def __init__(self, port: int, path: str, accept: str = "", host: str = "127.0.0.1") -> None:
        request = urllib.request.Request(f"http://{host}:{port}{path}", headers={"Accept": accept} if accept else {})
        try:
            response = urllib.request.urlopen(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            self.status = response.status
            self.type = response.headers["Content-Type"]
            self.text = response.read().decode()


class Metrics:
    """Reads the metrics of a daemon."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str = "/metrics", accept: str = "") -> Answer:
        """Return the answer of the listener."""
        return Answer(self.port, path, accept)

    def value(self, name: str, **labels: str) -> float:
        """Return one value: 0 if the series is not there, the sum if several have these labels."""
        return sum(
            sample.value
            for family in parse_text(self.get().text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def becomes(self, wanted: float, name: str, **labels: str) -> None:
        """Wait until a value is as wanted."""
        wait_until(lambda: self.value(name, **labels) == wanted, f"{name} {labels} is not {wanted}: {self.get().text}")


def with_metrics(daemon: Daemon, **settings: object) -> Metrics:
    """Add the section to the configuration of a daemon that is not started, at a port of its own."""
    port = daemon.passive[1]
    daemon.settings["passive"]["ports"] = f"{daemon.passive[0]}-{port - 2}"
    daemon.settings["metrics"] = {"port": port, **settings}
    daemon.write()
    return Metrics(port)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[tuple[Daemon, Metrics]]:
    """A daemon with metrics, also for users."""
    settings: dict[str, object] = {
        "timeouts": {"data_connect": 1, "login": 20},
        "limits": {"sessions_per_address": 20, "transfers": 7},
        "bans": {"attempts": 2, "allow": ["127.0.0.1"]},
    }
    directory = tmp_path_factory.mktemp("metrics")
    journal = directory / "journal"
    journal.mkdir()
    rules = [{"on": ["rmdir"], "exec": ["/bin/true"]}]
    files = {"audit": str(directory / "audit"), "xferlog": str(directory / "xferlog")}
    settings["events"] = {**files, "directory": str(journal), "rules": rules}
    daemon = Daemon(directory, certificate, settings)
    metrics = with_metrics(daemon, users=True)
    daemon.start()
    delivery_status.write(journal, DeliveryStatus(1000.0, 3, 2, 900.0))  # as `ftpsd deliver` does
    yield daemon, metrics
    daemon.stop()


# --- values ----------------------------------------------------------------------------------------


def test_sessions_logins_and_commands(served: tuple[Daemon, Metrics]) -> None:
    """Sessions, logins and commands are counted, quiet ones too; what a client invents has the label other."""
    daemon, metrics = served
    before = {
        key: metrics.value(*key[:1], **dict(key[1:]))
        for key in (
            ("ftpsd_sessions_opened_total", ("tls", "explicit")),
            ("ftpsd_logins_total", ("result", "success")),
            ("ftpsd_logins_total", ("result", "failed")),
            ("ftpsd_commands_total", ("command", "NOOP"), ("code", "200")),
            ("ftpsd_commands_total", ("command", "other"), ("code", "500")),
            ("ftpsd_tls_handshakes_total", ("connection", "control"), ("version", "TLSv1.3")),
        )
    }
    with secured(daemon) as client:
        for _ in range(5):
            client.expect(200, "NOOP")
        for verb in ("XNONSENSE1", "XNONSENSE2", 'evil"} 1'):
            client.expect(500, verb)
        metrics.becomes(1, "ftpsd_sessions")
        metrics.becomes(1, "ftpsd_user_sessions", user="alice")
        client.expect(220, "REIN")
    with FtpClient(daemon) as client:
        client.start_tls()
        client.expect(331, "USER alice")
        client.expect(530, "PASS wrong")
    metrics.becomes(0, "ftpsd_sessions")
    after = {key: metrics.value(*key[:1], **dict(key[1:])) for key in before}
    assert [after[key] - before[key] for key in before] == [2, 1, 1, 5, 3, 2]
    text = metrics.get().text
    assert "NONSENSE" not in text
    assert "evil" not in text
    assert 'user="' not in text, "a series of a user without a session"


def test_transfers(served: tuple[Daemon, Metrics]) -> None:
    """Transfers are counted by direction and result, with bytes, sizes and durations, and for users with a session."""
    daemon, metrics = served
    with secured(daemon, "bob") as client:
        assert client.upload("STOR a.bin", b"x" * 100_000).startswith("226")
        assert len(client.download("RETR a.bin")) == 100_000
        client.download("LIST")
        way = {"direction": "upload"}
        assert metrics.value("ftpsd_transfers_total", result="complete", **way) == 1
        assert metrics.value("ftpsd_transferred_bytes_total", **way) == 100_000
        assert metrics.value("ftpsd_transfer_size_bytes_sum", **way) == 100_000
        assert metrics.value("ftpsd_transfer_size_bytes_bucket", le="16384.0", **way) == 0
        assert metrics.value("ftpsd_transfer_size_bytes_bucket", le="262144.0", **way) == 1
        assert metrics.value("ftpsd_transfer_duration_seconds_count", **way) == 1
        assert metrics.value("ftpsd_transfers_total", direction="download", result="complete") == 1
        assert metrics.value("ftpsd_transfers_total", direction="listing", result="complete") == 1
        assert metrics.value("ftpsd_transferred_bytes_total", direction="download") > 100_000
        assert metrics.value("ftpsd_tls_handshakes_total", connection="data", resumed="true") == 3
        assert metrics.value("ftpsd_user_transfers_total", user="bob", direction="upload", result="complete") == 1
        assert metrics.value("ftpsd_user_transferred_bytes_total", user="bob", direction="download") == 100_000
        plain = client.connect_data()
        client.expect(150, "STOR b.bin")
        connection = client.secure_data(plain)
        connection.sendall(b"y" * 50_000)
        metrics.becomes(1, "ftpsd_transfers_running", direction="upload")
        metrics.becomes(150_000, "ftpsd_transferred_bytes_total", **way)
        assert metrics.value("ftpsd_limit_used", limit="transfers") == 1
        assert metrics.value("ftpsd_user_transfers_running", user="bob") == 1
        client.send("ABOR")
        assert client.reply().startswith("426")
        client.reply()
        connection.close()
        assert metrics.value("ftpsd_transfers_total", result="aborted", **way) == 1
        assert metrics.value("ftpsd_commands_total", command="ABOR") == 1
        assert metrics.value("ftpsd_limit_max", limit="transfers") == 7
    metrics.becomes(0, "ftpsd_user_sessions", user="bob")
    assert 'user="bob"' not in metrics.get().text
    assert metrics.value("ftpsd_transfers_total", result="complete", **way) == 1


def test_data_connections_that_were_refused(served: tuple[Daemon, Metrics]) -> None:
    """Each data connection that is refused or does not come is counted with its reason."""
    daemon, metrics = served
    name = "ftpsd_data_connections_refused_total"
    with secured(daemon) as client:
        plain = client.connect_data()
        client.send("LIST")
        assert client.reply().startswith("150")
        with client.context.wrap_socket(plain, server_hostname="localhost"):  # a new TLS session
            assert client.reply().startswith("522")
        assert metrics.value(name, reason="not_resumed") == 1
        assert metrics.value("ftpsd_tls_handshakes_total", connection="data", resumed="false") == 1
        port = client.passive_port()
        assert client.connect_data(port, source="127.0.0.9").recv(1) == b""
        metrics.becomes(1, name, reason="foreign")
        client.send("LIST")
        assert client.reply().startswith("150")
        assert client.reply().startswith("425")
        assert metrics.value(name, reason="timeout") == 1
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            client.expect(200, f"EPRT |1|127.0.0.1|{closed.getsockname()[1]}|")
            client.send("LIST")
            assert client.reply().startswith("150")
            assert client.reply().startswith("425")
        assert metrics.value(name, reason="unreachable") == 1
        plain = client.connect_data()
        client.send("LIST")
        assert client.reply().startswith("150")
        plain.sendall(b"\x16\x03\x01\x00\x05nonsense")
        assert client.reply().startswith("522")
        plain.close()
        assert metrics.value(name, reason="tls") == 1
        ports = int(metrics.value("ftpsd_passive_ports"))
        assert ports == daemon.passive[1] - daemon.passive[0] - 1
        client.passive_port()
        assert metrics.value("ftpsd_passive_ports_used") == 1


def test_rejected_clients(served: tuple[Daemon, Metrics]) -> None:
    """Sessions that were not admitted are counted with the reason: each of them, also where the log has one line."""
    daemon, metrics = served
    for _ in range(2):
        with FtpClient(daemon, source="127.0.0.8") as client:
            client.start_tls()
            client.expect(331, "USER alice")
            client.expect(530, "PASS wrong")
    metrics.becomes(1, "ftpsd_bans_active", kind="address")
    assert metrics.value("ftpsd_bans_total", kind="address") == 1
    for _ in range(3):
        with FtpClient(daemon, greeting=False, source="127.0.0.8") as client:
            assert client.reply().startswith("421")
    assert metrics.value("ftpsd_sessions_rejected_total", reason="banned") == 3
    clients = [FtpClient(daemon, source="127.0.0.7") for _ in range(20)]
    with FtpClient(daemon, greeting=False, source="127.0.0.7") as client:
        assert client.reply().startswith("421")
    assert metrics.value("ftpsd_sessions_rejected_total", reason="sessions_per_address") == 1
    assert metrics.value("ftpsd_limit_used", limit="sessions_per_address") == 20
    assert metrics.value("ftpsd_limit_max", limit="sessions_per_address") == 20
    for each in clients:
        each.socket.close()
    with FtpClient(daemon) as client:
        client.send("AUTH TLS")
        client.reply()
        client.send_raw(b"not TLS at all")
        client.read_line()
    metrics.becomes(1, "ftpsd_tls_failures_total")


def test_the_delivery_of_events(served: tuple[Daemon, Metrics]) -> None:
    """What `ftpsd deliver` reports is shown."""
    _, metrics = served
    assert metrics.value("ftpsd_deliveries_waiting") == 3
    assert metrics.value("ftpsd_deliveries_failed") == 2
    assert metrics.value("ftpsd_delivery_oldest_timestamp_seconds") == 900
    assert metrics.value("ftpsd_delivery_report_timestamp_seconds") == 1000


def test_the_daemon_itself(served: tuple[Daemon, Metrics]) -> None:
    """Versions, certificate, configuration, threads and the process are there."""
    daemon, metrics = served
    end = subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-in", daemon.certificate], capture_output=True, text=True, check=True
    ).stdout.partition("=")[2]
    expires = time.mktime(time.strptime(end.strip(), "%b %d %H:%M:%S %Y GMT")) - time.timezone
    assert metrics.value("ftpsd_certificate_expiry_timestamp_seconds") == expires
    assert metrics.value("ftpsd_build_info") == 1
    assert metrics.value("ftpsd_ready") == 1
    assert metrics.value("ftpsd_config_last_reload_successful") == 1
    started = metrics.value("process_start_time_seconds")
    assert abs(metrics.value("ftpsd_config_last_reload_success_timestamp_seconds") - started) < PATIENCE
    assert metrics.value("ftpsd_worker_threads") > metrics.value("ftpsd_worker_threads_busy")
    assert metrics.value("ftpsd_worker_threads_stuck") == 0
    assert metrics.value("ftpsd_event_queue_capacity", queue="audit") > metrics.value("ftpsd_event_queue_length")
    assert metrics.value("process_open_fds") >= 5
    assert metrics.value("process_resident_memory_bytes") == pytest.approx(daemon.memory(), rel=0.2)


def test_every_metric_is_documented(served: tuple[Daemon, Metrics]) -> None:
    """docs/monitoring.md has a row for each metric with its labels, and no other."""
    daemon, metrics = served
    with secured(daemon) as client:
        client.upload("STOR a.bin", b"x")
        text = metrics.get().text
    shown: dict[str, set[str]] = {}
    for family in parse_text(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels}
        shown[name] = labels - {"le"}
    rows = re.findall(r"^\| `([a-z_]+)` \|([^|]*)\|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert documented == shown


# --- formats, and the listener ---------------------------------------------------------------------


def test_both_formats(served: tuple[Daemon, Metrics]) -> None:
    """Prometheus chooses the format with Accept, and both say the same."""
    _, metrics = served
    text, openmetrics = metrics.get(), metrics.get(accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert text.type.startswith("text/plain; version=0.0.4")
    assert openmetrics.type.startswith("application/openmetrics-text; version=")
    assert openmetrics.text.endswith("# EOF\n")
    names = {sample.name for family in parse_openmetrics(openmetrics.text) for sample in family.samples}
    assert names == {sample.name for family in parse_text(text.text) for sample in family.samples}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_accepts_the_metrics(served: tuple[Daemon, Metrics]) -> None:
    """Names, units and types follow Prometheus' conventions, as far as its own checker knows them."""
    _, metrics = served
    result = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=metrics.get().text, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def expressions() -> list[str]:
    """Return all PromQL expressions of the dashboard and of the alert rules."""
    dashboard = json.loads((ROOT / "packaging/grafana/ftpsd.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = yaml.safe_load((ROOT / "packaging/prometheus/ftpsd.rules.yaml").read_text())
    return [
        *(target["expr"] for target in [*targets, *dashboard["annotations"]["list"]]),
        *(rule["expr"] for group in rules["groups"] for rule in group["rules"]),
    ]


def test_dashboard_and_alerts_name_real_series(served: tuple[Daemon, Metrics]) -> None:
    """Each series and each value of a label in the dashboard and in the alert rules is one that the daemon shows."""
    daemon, metrics = served
    with secured(daemon) as client:
        client.upload("STOR a.bin", b"x")
    samples = [sample for family in parse_text(metrics.get().text) for sample in family.samples]
    names = {sample.name for sample in samples}
    values = {(name, value) for sample in samples for name, value in sample.labels.items()}
    found = expressions()
    assert len(found) > 30
    for each in found:
        named = set(re.findall(r"\b(?:ftpsd|process)_\w+", each))
        assert named <= names, each
        assert named or each.startswith("up{"), each
        for label, choices in re.findall(r'(\w+)=~?"([\w|]+)"', each):
            assert label == "job" or {(label, choice) for choice in choices.split("|")} <= values, each


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_accepts_dashboard_and_alerts(tmp_path: Path) -> None:
    """All expressions are PromQL, and each alert fires when it should and only then."""
    rules = [
        {"record": f"expression:{index}", "expr": each.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for index, each in enumerate(expressions())
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    alerts = ROOT / "packaging/prometheus"
    for command in (
        ("check", "rules", tmp_path / "rules.yaml"),
        ("check", "rules", alerts / "ftpsd.rules.yaml"),
        ("test", "rules", alerts / "ftpsd.rules.test.yaml"),
    ):
        result = subprocess.run([str(PROMTOOL), *command], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_documented_and_tested() -> None:
    """docs/monitoring.md has a row for each alert, and the tests of the rules name each."""
    rules = yaml.safe_load((ROOT / "packaging/prometheus/ftpsd.rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    rows = re.findall(r"^\| (`Ftpsd\w+`.*?) \|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == alerts
    tests = (ROOT / "packaging/prometheus/ftpsd.rules.test.yaml").read_text()
    assert set(re.findall(r"Ftpsd\w+", tests)) == alerts


def test_health(served: tuple[Daemon, Metrics]) -> None:
    """/live and /ready answer as text and as JSON; other paths are not there."""
    _, metrics = served
    assert (metrics.get("/live").status, metrics.get("/live").text) == (200, "live\n")
    assert (metrics.get("/ready").status, metrics.get("/ready").text) == (200, "ready\n")
    ready = metrics.get("/ready", "application/json")
    assert json.loads(ready.text) == {"ready": True, "reasons": []}
    assert metrics.get("/").status == 404


def test_greedy_clients_of_the_listener(served: tuple[Daemon, Metrics]) -> None:
    """Clients that send nothing, and one that sends a large body, do not keep the next one out."""
    _, metrics = served
    silent = [socket.create_connection(("127.0.0.1", metrics.port), PATIENCE) for _ in range(50)]
    with socket.create_connection(("127.0.0.1", metrics.port), PATIENCE) as poster:
        poster.sendall(b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100_000)
        assert poster.recv(1000).startswith(b"HTTP/1.1 413 ")
        assert metrics.get("/live").status == 200
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
