"""The dashboard for Grafana and the alert rules, in a real Prometheus that reads the metrics of a daemon at work."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.daemon import PATIENCE, Daemon, program
from tests.ftpclient import FtpClient, secured
from tests.prometheus import with_metrics

ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "packaging/grafana/ftpsd.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PROMETHEUS = shutil.which("prometheus")

#: Seconds for the first samples of all series, and for two of each.
COLLECTING = 2 * PATIENCE

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")


class Prometheus:
    """A Prometheus that scrapes one daemon each second, and has the alert rules."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, resource: str, **query: str) -> Any:
        """Return what a resource of its API has."""
        with urllib.request.urlopen(f"{self._url}{resource}?{urlencode(query)}", timeout=PATIENCE) as response:
            return json.load(response)["data"]

    def series(self, expression: str) -> list[dict[str, str]]:
        """Return the labels of the series of an expression that have a value now, as Grafana asks for them."""
        # What Grafana puts in place of the variables, with all instances selected.
        instances = "|".join(map(re.escape, self.ask("label/instance/values", **{"match[]": "ftpsd_build_info"})))
        given = expression.replace("$instance", f"({instances})".replace("\\", "\\\\"))
        found = self.ask("query", query=given.replace("$__rate_interval", "20s"))["result"]
        return [each["metric"] for each in found if not math.isnan(float(each["value"][1]))]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[tuple[Daemon, Prometheus]]:
    """A daemon with two workers, and the Prometheus that reads it."""
    directory = tmp_path_factory.mktemp("dashboard")
    settings = {
        "workers": 2,
        "timeouts": {"data_connect": 1},
        "limits": {"sessions": 50, "transfers": 7},
        "bans": {"attempts": 1, "allow": ["127.0.0.1"]},
        "events": {"audit": str(directory / "audit")},
    }
    daemon = Daemon(directory, certificate, settings)
    port = with_metrics(daemon).port
    rules = ROOT / "packaging/prometheus/ftpsd.rules.yaml"
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "ftpsd", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    command = [
        str(PROMETHEUS),
        f"--config.file={directory}/prometheus.yaml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port - 1}",
        "--log.level=warn",
    ]
    daemon.start()
    with program(command):
        yield daemon, Prometheus(port - 1)
    daemon.stop()


def work(daemon: Daemon) -> None:
    """Do once what the dashboard shows: transfers, errors, failed logins, strangers, clients that do not connect."""
    with secured(daemon) as client:
        client.upload("STOR a.bin", b"x" * 100_000)
        client.download("RETR a.bin")
        client.expect(550, "DELE missing")
        client.expect(229, "EPSV")
        client.expect(150, "RETR a.bin")
        assert client.reply().startswith("425")
    with FtpClient(daemon) as client:
        client.expect(234, "AUTH TLS")
        client.send_raw(b"this is not TLS\r\n" * 10)
        with suppress(OSError):
            client.read_line()
    with suppress(OSError, AssertionError), FtpClient(daemon, source="127.0.0.9") as client:
        client.start_tls()  # later it is banned
        client.command("USER alice")
        client.command("PASS wrong")


def lacking(prometheus: Prometheus) -> list[str]:
    """Return the panels and queries that have no data."""
    found = []
    for panel in PANELS:
        for target in panel["targets"]:
            # A comparison has data only while something is wrong.
            if " == " not in target["expr"] and not prometheus.series(target["expr"]):
                found.append(f"{panel['title']}: {target['expr']}")
    return found


def test_each_panel_shows_data(served: tuple[Daemon, Prometheus]) -> None:
    """Each query of the dashboard has values while the daemon works; legends name labels that these have."""
    daemon, prometheus = served
    deadline = time.monotonic() + COLLECTING
    while True:
        work(daemon)
        missing = lacking(prometheus)
        if not missing:
            break
        assert time.monotonic() < deadline, missing
    for target in (target for panel in PANELS for target in panel["targets"]):
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        for labels in prometheus.series(target["expr"]):
            assert named <= set(labels) or named == {"instance"}, (target, labels)


def test_the_dashboard_marks_reloads(served: tuple[Daemon, Prometheus]) -> None:
    """A reload is an annotation."""
    daemon, prometheus = served
    (annotation,) = DASHBOARD["annotations"]["list"]
    deadline = time.monotonic() + COLLECTING
    assert daemon.process is not None
    while not prometheus.series(annotation["expr"]):
        daemon.process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert time.monotonic() < deadline


def test_prometheus_evaluates_all_alerts(served: tuple[Daemon, Prometheus]) -> None:
    """Prometheus loads the rules and evaluates each without an error; none fires for a daemon that is well."""
    _, prometheus = served
    deadline = time.monotonic() + COLLECTING
    while True:
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        if rules and all(rule["health"] != "unknown" for rule in rules):
            break
        assert time.monotonic() < deadline, rules
        time.sleep(0.2)
    assert len(rules) > 10
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_panels_stand_side_by_side() -> None:
    """No panel covers another one or leaves the grid of 24 columns, and each has a number of its own."""
    taken: dict[tuple[int, int], int] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["id"]) == panel["id"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
