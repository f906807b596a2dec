"""A daemon with the page for administrators, and requests to it as a browser makes them."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.admin import Admin
from tests.daemon import PATIENCE, Daemon, free_range

#: The port of amanda, which Chromium refuses to open (ERR_UNSAFE_PORT), as the Fetch standard demands.
AMANDA = 10_080


def page_settings(directory: Path, **more: Any) -> dict[str, Any]:
    """Settings with the page on a port of its own."""
    port, _ = free_range(1)
    if port == AMANDA:
        port, _ = free_range(1)
    return {"admin": {"socket": str(directory / "admin.sock"), "page": {"port": port}}, **more}


class Browser:
    """Requests to the page, with the cookie and the CSRF header after a login."""

    def __init__(self, daemon: Daemon) -> None:
        admin = daemon.settings["admin"]
        self.admin = Admin(Path(admin["socket"]))
        self.port: int = admin["page"]["port"]
        self.headers: dict[str, str] = {}
        self.cookie = ""

    def link(self) -> str:
        """An address that logs in once."""
        return str(self.admin.post("page/logins", {}, 201)["url"])

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        """Make a request; the answer is not read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {name.replace("_", "-"): value for name, value in {**self.headers, **headers}.items() if value}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            body = json.dumps(body)
        connection.request(method, path, body, sent)
        return connection.getresponse()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Make a request; the status and the parsed body of the answer."""
        with self.request(method, path, body, **headers) as answer:
            return answer.status, json.loads(answer.read())

    def log_in(self, code: str | None = None) -> int:
        """Log in with a code, or with a new one; return the status."""
        code = code or self.link().partition("=")[2]
        with self.request("POST", "/login", {"code": code}) as answer:
            found = json.loads(answer.read())
            if answer.status == 200:
                self.cookie = answer.headers["Set-Cookie"]
                self.headers = {"Cookie": self.cookie.partition(";")[0], "X-Ftpsd-Csrf": found["csrf"]}
            return answer.status

    def stream(self, query: str = "", path: str = "/live") -> socket.socket:
        """Open the stream of live data, or another one, with a small buffer for what is not read."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", self.port))
        head = f"GET {path}{query} HTTP/1.1\r\nHost: localhost\r\nCookie: {self.headers.get('Cookie', '')}\r\n\r\n"
        connection.sendall(head.encode())
        return connection
