"""A web server that knows users, and behaves as a test says."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: What the server does with a question: an object to answer, or a body, or something that it does by itself.
Behaviour = Callable[["Request"], dict[str, Any] | bytes | None]


class Request(BaseHTTPRequestHandler):
    """A connection. While `behaviour` runs, it has the question that was posted."""

    server: UserServer
    question: dict[str, Any]
    body = b""

    def do_POST(self) -> None:
        """Receive a question, and answer."""
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.question = json.loads(self.body)
        with self.server.lock:
            self.server.requests.append(self)
        answer = self.server.behaviour(self)
        if answer is not None:
            self.reply(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class ServerInThread(ThreadingHTTPServer):
    """A server that answers in threads, with or without TLS."""

    daemon_threads = True
    scheme = "http"

    def begin(self, certificate: Path | None) -> None:
        """Serve from now on; over TLS if there is a certificate."""
        if certificate is not None:
            self.scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class UserServer(ServerInThread):
    """The server, on a port or on a Unix socket. `requests` has all that it was asked."""

    request_queue_size = 128

    def __init__(
        self, behaviour: Behaviour, certificate: Path | None = None, port: int = 0, path: Path | None = None
    ) -> None:
        if path is not None:
            self.address_family = socket.AF_UNIX
        self.behaviour = behaviour
        self.lock = threading.Lock()
        self.requests: list[Request] = []
        super().__init__(("127.0.0.1", port) if path is None else str(path), Request)  # type: ignore[arg-type]
        self.begin(certificate)

    def server_bind(self) -> None:
        """Bind. The base class would look up a host name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def port(self) -> int:
        """The port."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """The URL."""
        return f"{self.scheme}://localhost:{self.port}/users?of=ftp"

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; those of a Unix socket have no address."""
        connection, address = super().get_request()
        return connection, address or ("unix", 0)

    def handle_error(self, *_: object) -> None:
        """The other side may have gone."""

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def users(**known: dict[str, Any]) -> Behaviour:
    """Answer for these users, whose password is "secret"."""

    def answer(request: Request) -> dict[str, Any]:
        question = request.question
        user = known.get(question["name"])
        if user is None:
            return {"result": "unknown"}
        if question["action"] == "login" and question["password"] != "secret":
            return {"result": "wrong_password"}
        return {"result": "accepted", "user": user}

    return answer
