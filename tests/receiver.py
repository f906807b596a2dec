"""A web server that receives events, and behaves as a test says; and the process `ftpsd deliver`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import ftpsd as package
from tests.daemon import PATIENCE, ftpsd
from tests.http_users import ServerInThread

#: What a receiver does with an event: a status, or something that it does by itself and then None.
Behaviour = Callable[["Request"], int | None]


class Answered(NamedTuple):
    """An event that was answered."""

    record: dict[str, Any]
    body: bytes
    headers: dict[str, str]
    status: int


class Request(BaseHTTPRequestHandler):
    """A connection. While `behaviour` runs, it has the event that was posted last."""

    server: Receiver
    protocol_version = "HTTP/1.1"
    body = b""
    record: dict[str, Any]

    def do_POST(self) -> None:
        """Receive an event, and answer."""
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.record = json.loads(self.body)
        status = self.server.behaviour(self)
        if status is None:
            self.close_connection = True
            return
        self.note(status)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url + "elsewhere")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def note(self, status: int) -> None:
        """Keep the event, and how it is answered."""
        with self.server.lock:
            self.server.requests.append(Answered(self.record, self.body, dict(self.headers), status))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Receiver(ServerInThread):
    """The server. `requests` has what it has answered."""

    def __init__(self, certificate: Path | None = None, behaviour: Behaviour = lambda request: 200) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.behaviour = behaviour
        self.lock = threading.Lock()
        self.requests: list[Answered] = []
        self.begin(certificate)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"{self.scheme}://localhost:{self.server_address[1]}/"

    def accepted(self) -> list[dict[str, Any]]:
        """The records that it has accepted, in their order."""
        with self.lock:
            return [each.record for each in self.requests if each.status < 300]

    def handle_error(self, *_: object) -> None:
        """The other side may be killed."""

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Deliverer:
    """The process `ftpsd deliver`."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self.log_file = config.with_name("deliver.log")
        self.log_file.write_bytes(b"")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Deliverer:
        environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
        command = ftpsd("deliver", "-c", str(self._config))
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL."""
        return self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, text: str) -> None:
        """Wait until the log has a text."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.log:
            assert self.process is not None and self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
