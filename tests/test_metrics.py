"""Metrics of a real daemon: each value after what a client has done; formats, dashboard and alert rules."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ftpsd.outbox import status as delivery_status
from ftpsd.outbox.status import DeliveryStatus
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, secured
from tests.prometheus import Metrics, parse_text, with_metrics
from tests.source_daemon import SourceDaemon

pytest.importorskip("prometheus_client")
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

ROOT = Path(__file__).parents[1]
PROMTOOL = shutil.which("promtool")


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Path
) -> Iterator[tuple[Daemon, Metrics]]:
    """A daemon with metrics, also for users."""
    settings: dict[str, object] = {
        "workers": request.param,
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
    groups = {"staff": {"shared": {"limits": {"sessions": 9, "upload_rate": "1M"}, "quota": {"bytes": "1M"}}}}
    daemon = SourceDaemon(directory, certificate, settings, {"alice": {}, "bob": {"groups": ["staff"]}}, groups=groups)
    daemon.with_source()
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
    assert metrics.value("ftpsd_certificate_expiry_timestamp_seconds", file=str(daemon.certificate)) == expires
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
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows if _is_shown(daemon, name)}
    assert documented == shown


def _is_shown(daemon: Daemon, name: str) -> bool:
    """Whether a daemon shows a metric: those of worker processes and of stores are there if it has some."""
    if name == "ftpsd_store_up":  # `test_store_status` sees it
        return "storage" in daemon.settings
    return daemon.settings["workers"] > 1 or not re.match("ftpsd_worker_(?!threads)", name)


def test_groups(served: tuple[Daemon, Metrics]) -> None:
    """The limits that the members of a group share are series, with what is used of them, but not of rates."""
    daemon, metrics = served
    with secured(daemon, "bob") as client:
        before = metrics.value("ftpsd_group_limit_used", group="staff", limit="quota_bytes")
        client.upload("STOR group.bin", bytes(1000))
        for limit, used, most in (("sessions", 1, 9), ("quota_bytes", before + 1000, 1 << 20)):
            assert metrics.value("ftpsd_group_limit_used", group="staff", limit=limit) == used
            assert metrics.value("ftpsd_group_limit_max", group="staff", limit=limit) == most
        client.expect(250, "DELE group.bin")
    assert metrics.value("ftpsd_group_limit_max", group="staff", limit="upload_rate") == 1 << 20
    assert 'ftpsd_group_limit_used{group="staff",limit="upload_rate"}' not in metrics.get().text


def test_worker_processes(served: tuple[Daemon, Metrics]) -> None:
    """Each worker is up and shows its sessions, processor time and memory; their sum is that of the daemon."""
    daemon, metrics = served
    count = daemon.settings["workers"]
    if count == 1:
        assert "ftpsd_worker_up" not in metrics.get().text
        return
    with secured(daemon):
        assert metrics.value("ftpsd_worker_up") == count
        assert [metrics.value("ftpsd_worker_sessions", worker=str(index)) for index in range(2)].count(1) == 1
        assert metrics.value("ftpsd_worker_sessions") == metrics.value("ftpsd_sessions") == 1
    for index in ("0", "1"):
        assert metrics.value("ftpsd_worker_cpu_seconds_total", worker=index) > 0
        assert 5 << 20 < metrics.value("ftpsd_worker_memory_bytes", worker=index) < 1 << 30
    assert metrics.value("ftpsd_worker_restarts_total") == 0
    assert metrics.value("ftpsd_event_queue_capacity", queue="supervisor") > 0


# --- formats, dashboard and alerts -----------------------------------------------------------------


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
        assert {name for name in named if _is_shown(daemon, name)} <= names, each
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
