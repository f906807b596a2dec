"""An S3 server with one directory of very many objects, which it makes up: `endless_store`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

#: The directory, and the bytes of each object.
DIRECTORY, SIZE = "alice/many/", 10

_OBJECT = (
    "<Contents><Key>{}</Key><LastModified>2026-11-26T17:50:58.000Z</LastModified>"
    "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>{}</Size></Contents>"
)


class EndlessStore:
    """The server. Objects of the directory are deleted from the first one on."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.deleted = 0
        #: Seconds that each page takes.
        self.delay = 0.0
        #: The pages of listings that were sent.
        self.pages = 0
        store = self

        class Handler(BaseHTTPRequestHandler):
            """Answers one connection."""

            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: object) -> None:
                """Log nothing."""

            def _answer(self, status: int, body: str = "") -> None:
                data = body.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def _query(self) -> dict[str, str]:
                query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
                return {name: values[0] for name, values in query.items()}

            def do_GET(self) -> None:
                """List objects, or the open uploads: there are none."""
                query = self._query()
                if "uploads" in query:
                    self._answer(
                        200, "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
                    )
                elif unquote(urlsplit(self.path).path).strip("/").count("/"):
                    self._answer(404, "<Error><Code>NoSuchKey</Code></Error>")
                else:
                    self._answer(200, store.page(query))

            def do_HEAD(self) -> None:
                """No object can be fetched."""
                self._answer(404)

            def do_POST(self) -> None:
                """Delete objects."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                store.deleted += body.count(b"<Key>")
                self._answer(200, "<DeleteResult></DeleteResult>")

            def do_PUT(self) -> None:
                """Forget what is stored."""
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(200)

            do_DELETE = do_PUT

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    def page(self, query: dict[str, str]) -> str:
        """Return a page of a listing."""
        prefix, most = query.get("prefix", ""), min(1000, int(query.get("max-keys", "1000")))
        first = max(self.deleted, int(query.get("continuation-token", "0")))
        last = min(self.count, first + most)
        found = ""
        if prefix == DIRECTORY or (DIRECTORY.startswith(prefix) and "delimiter" not in query):
            time.sleep(self.delay)
            self.pages += most > 2
            found = "".join(_OBJECT.format(f"{DIRECTORY}{number:07}", SIZE) for number in range(first, last))
        elif DIRECTORY.startswith(prefix):
            found, last = f"<CommonPrefixes><Prefix>{DIRECTORY}</Prefix></CommonPrefixes>", self.count
        else:
            last = self.count
        more = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < self.count else ""
        return f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{found}</ListBucketResult>"

    @contextmanager
    def running(self) -> Iterator[EndlessStore]:
        """Serve in threads."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
