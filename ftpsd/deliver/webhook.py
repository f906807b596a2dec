"""Send events to a web server: Webhook."""

from __future__ import annotations

import hashlib
import hmac
import typing
from io import BytesIO
from pathlib import Path
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    FileBodyProducer,
    HTTPConnectionPool,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse

import ftpsd
from ftpsd.config.sections.events import WebhookSettings
from ftpsd.deliver.target import NotDelivered, body
from ftpsd.outbox.segments import Entry
from ftpsd.system.reactor import Reactor

#: Seconds to connect, TLS handshake included, and for which an idle connection is kept.
CONNECT, KEEP = 10, 15

#: Bytes of an answer that are read. A longer one is cut: the status decides, not the text.
LONGEST_ANSWER = 16 * 1024

_BEGIN = b"-----BEGIN CERTIFICATE-----"


class Webhook:
    """Posts each event to one URL. Any status but 2xx is a failure, also a redirect."""

    def __init__(self, reactor: Reactor, settings: WebhookSettings, timeout: int, parallel: int) -> None:
        """Read the secret and the authorities. Raises OSError or ValueError if that is not possible."""
        assert settings.url is not None
        self._reactor = reactor
        self._url = settings.url.encode("ascii")
        self._timeout = timeout
        self._secret = None if settings.secret_file is None else _secret(settings.secret_file)
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = parallel
        self._pool.cachedConnectionTimeout = KEEP
        trust = platformTrust() if settings.ca_file is None else _authorities(settings.ca_file)
        self._agent = Agent(reactor, BrowserLikePolicyForHTTPS(trust), CONNECT, pool=self._pool)
        self._running: set[Deferred[object]] = set()

    async def deliver(self, entry: Entry) -> None:
        """Post an event."""
        data = body(entry)
        record = entry["record"]
        assert isinstance(record, dict)
        headers = Headers({"Content-Type": ["application/json"], "User-Agent": [f"ftpsd/{ftpsd.__version__}"]})
        headers.setRawHeaders("X-Ftpsd-Event", [str(record["event"])])
        headers.setRawHeaders("X-Ftpsd-Id", [str(record["id"])])
        if self._secret is not None:
            signature = hmac.new(self._secret, data, hashlib.sha256).hexdigest()
            headers.setRawHeaders("X-Ftpsd-Signature", [f"sha256={signature}"])
        asked = self._agent.request(b"POST", self._url, headers, cast(IBodyProducer, FileBodyProducer(BytesIO(data))))
        response = cast(IResponse, await self._in_time(cast("Deferred[object]", asked)))
        await self._in_time(_read(response))
        if not 200 <= response.code < 300:
            raise NotDelivered(f"status {response.code}")

    async def _in_time(self, deferred: Deferred[object]) -> object:
        """Return the result. Raises NotDelivered if it fails, or does not come within the timeout."""
        self._running.add(deferred)
        timer = self._reactor.callLater(self._timeout, deferred.cancel)
        try:
            return await deferred
        except Exception as error:
            if not timer.active():
                raise NotDelivered(f"no answer within {self._timeout} seconds") from None
            raise NotDelivered(_reason(error)) from None
        finally:
            self._running.discard(deferred)
            if timer.active():
                timer.cancel()

    def stop(self) -> None:
        """Cut the requests that run, and close all connections."""
        for each in list(self._running):
            each.cancel()
        self._pool.closeCachedConnections()


class _Transport(typing.Protocol):
    """The connection of an answer; Twisted's interface has no static types."""

    def loseConnection(self) -> None:
        """Close it."""


class _Body(typing.Protocol):
    """An answer of which the headers have been received."""

    def deliverBody(self, protocol: Protocol) -> None:
        """Give the bytes of the body to a protocol."""


class _Answer(Protocol):
    """Counts the bytes of an answer, and cuts one that is too long."""

    def __init__(self, ended: Deferred[object]) -> None:
        self._ended = ended
        self._left = LONGEST_ANSWER

    def dataReceived(self, data: bytes) -> None:
        """Count bytes."""
        self._left -= len(data)
        if self._left < 0:
            self.end()

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        """The answer has ended, completely or not."""
        if not self._ended.called:
            self._ended.callback(None)

    def end(self) -> None:
        """Close the connection, since more of the answer is not wanted."""
        if self.transport is not None:
            cast(_Transport, self.transport).loseConnection()
        self.connectionLost()


def _read(response: IResponse) -> Deferred[object]:
    """Read an answer to its end, so that the connection can be used again."""

    def cancel(_: Deferred[object]) -> None:
        answer.end()

    ended: Deferred[object] = Deferred(cancel)
    answer = _Answer(ended)
    cast(_Body, response).deliverBody(answer)
    return ended


def _reason(error: Exception) -> str:
    """Return the reason of a failed request in a line."""
    if isinstance(error, ResponseNeverReceived):
        error = error.reasons[0].value if error.reasons else error
    reasons = getattr(error, "reasons", None)
    if reasons:
        error = reasons[0].value
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:300]


def _secret(file: Path) -> bytes:
    secret = file.read_bytes().strip()
    if not secret:
        raise ValueError(f"{file} is empty")
    return secret


def _authorities(file: Path) -> object:
    pieces = file.read_bytes().split(_BEGIN)[1:]
    if not pieces:
        raise ValueError(f"{file} has no certificate")
    try:
        return trustRootFromCertificates([Certificate.loadPEM(_BEGIN + piece) for piece in pieces])
    except Exception as error:
        raise ValueError(f"{file} has a certificate that cannot be read: {error}") from None
