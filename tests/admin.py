"""A client of the admin API: HTTP over the daemon's socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.daemon import PATIENCE


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self.path))


class Response:
    """An answer with its body parsed."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.read()

    @property
    def json(self) -> Any:
        """The value of the body."""
        kind = self.headers.get_content_type()
        assert kind == ("application/json" if self.status < 400 else "application/problem+json"), self.body
        value = json.loads(self.body)
        if self.status >= 400:
            assert value["status"] == self.status
            assert value["title"] and value["detail"], value
        return value


class Admin:
    """The API behind one socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def call(self, method: str, resource: str, body: Any = None, **query: Any) -> Response:
        """Make a request."""
        connection = _Connection(self.path)
        target = f"/v1/{quote(resource)}" + (f"?{urlencode(query)}" if query else "")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, target, data, {} if body is None else {"Content-Type": "application/json"})
        try:
            return Response(connection.getresponse())
        finally:
            connection.close()

    def get(self, resource: str, **query: Any) -> Any:
        """Return a resource."""
        response = self.call("GET", resource, **query)
        assert response.status == 200, response.body
        return response.json

    def post(self, resource: str, body: Any, status: int = 200) -> Any:
        """Send a body; return the answer, which has this status."""
        response = self.call("POST", resource, body)
        assert response.status == status, response.body
        return response.json

    def delete(self, resource: str, status: int = 200, **query: Any) -> Any:
        """Delete; return the answer, which has this status."""
        response = self.call("DELETE", resource, **query)
        assert response.status == status, response.body
        return response.json
