"""Read the metrics of a daemon as Prometheus does."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.hostile import wait_until

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families as parse_text


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
