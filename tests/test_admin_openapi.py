"""The OpenAPI document of the admin API describes what the daemon does: schemathesis attacks each route."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin import Admin
from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.hostile import plain_login

schemathesis: Any = pytest.importorskip("schemathesis", reason="only with the newest releases")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

#: Requests to each route.
EXAMPLES = 12


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with an admin socket."""
    daemon = Daemon(
        tmp_path_factory.mktemp("openapi"), certificate, merge(PLAIN, {"admin": {"socket": "admin.sock"}})
    ).start()
    yield daemon
    daemon.stop()


class Forwarder:
    """A TCP port that leads to a Unix socket: schemathesis knows no other way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._path))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def networks() -> Any:
    """Addresses and networks of both versions."""
    return st.one_of(
        st.ip_addresses(v=4).map(str),
        st.ip_addresses(v=6).map(str),
        st.integers(0, 32).map(lambda length: f"0.0.0.0/{length}"),
        st.integers(0, 128).map(lambda length: f"::/{length}"),
    )


def test_the_daemon_does_what_the_document_says(daemon: Daemon) -> None:
    """Every answer to every kind of request has a status, a type and a form that the document names; none is 5xx."""
    admin = Admin(daemon.directory / "admin.sock")
    document = admin.get("openapi.json")
    assert document["openapi"].startswith("3.1")
    del document["paths"]["/v1/events"]  # it has no end
    schemathesis.openapi.format("ip-network", networks())
    schema = schemathesis.openapi.from_dict(document)
    forwarder = Forwarder(admin.path)
    checks = [
        schemathesis.checks.CHECKS.get_one(name)
        for name in (
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
            "negative_data_rejection",
            "unsupported_method",
        )
    ]
    tested = set()
    try:
        with plain_login(daemon):
            for result in schema.get_all_operations():
                operation = result.ok()

                @settings(
                    max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck), derandomize=True
                )
                @given(
                    case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
                    | operation.as_strategy()
                )
                def attack(case: Any) -> None:
                    case.call_and_validate(base_url=forwarder.url, checks=checks)

                attack()
                tested.add((operation.method, operation.path))
    finally:
        forwarder.close()
    assert len(tested) == sum(len(methods) for methods in document["paths"].values())
    assert "Traceback" not in daemon.log
    assert "internal error" not in daemon.log
