"""Users of a web server that answers one kind of request (docs/users-http.md): HttpUsers."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import secrets as random
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import cast
from urllib.parse import urlsplit

from attrs import evolve

import ftpsd
from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.exchange import AnswerTooLong, BoundedSocket, connect_tcp, connect_unix
from ftpsd.accounts.sources.json_values import InvalidJson, parse_object
from ftpsd.accounts.sources.source import (
    Answer,
    CannotLookUp,
    LoginDenied,
    Question,
    Record,
    Secrets,
    SourceFailed,
    UnusableSettings,
    WrongPassword,
)
from ftpsd.config.sections.sources import HttpSource, RemoteSource
from ftpsd.config.sections.values import Value
from ftpsd.protocol.addresses import is_loopback, plain_address
from ftpsd.protocol.printable import printable

#: The version of the requests.
VERSION = 1

#: Bytes of an answer with its headers.
LONGEST_ANSWER = 64 * 1024

#: The most characters of a name, and of a reason, which is sent to the client in one line.
_LONGEST_NAME, _LONGEST_REASON = 1000, 200


def make(settings: RemoteSource, secrets: Secrets) -> HttpUsers:
    """Return the source. Raises UnusableSettings."""
    return HttpUsers(cast(HttpSource, settings), secrets)


class HttpUsers:
    """Posts each question to one URL, on a connection of its own.

    Status 200 with a result is an answer. Everything else is a failure of the server or of the way to it: a proxy's 404
    must not look like an unknown user, and its 401 not like a wrong password.
    """

    kind = "http"

    def __init__(self, settings: HttpSource, secrets: Secrets) -> None:
        """Read the authorities. Raises UnusableSettings."""
        self.concurrency, self.timeout = settings.concurrency, float(settings.timeout)
        self._settings = settings
        self._secret = None if settings.secret_file is None else secrets[settings.secret_file].strip().encode()
        self._host, self._port, self._target, encrypted = _parse(settings)
        self._tls = _context(settings) if encrypted else None
        self._server = socket.gethostname()

    def ask(self, question: Question) -> Answer | None:
        """Return the user; None if the server knows none of this name.

        Raises WrongPassword, LoginDenied, SourceFailed or CannotLookUp.
        """
        if not _is_text(question.name):
            return None
        if not _is_text(question.password or ""):
            if self.ask(evolve(question, password=None)) is None:
                return None
            raise WrongPassword
        answer, looks_up = self._post(question), question.password is None
        match answer.get("result"):
            case "unknown":
                return None
            case "accepted":
                return Answer(_name(answer, question), _user(answer), verified=not looks_up)
            case "denied":
                raise LoginDenied(_reason(answer))
            case "wrong_password" if not looks_up:
                raise WrongPassword
            case "wrong_password":
                raise CannotLookUp("the server does not look users up without their passwords")
        raise SourceFailed("the answer has no result that fits the question")

    def names(self) -> Iterator[str]:
        """Raise SourceFailed."""
        raise SourceFailed("an HTTP source cannot list its users")

    def probe(self) -> None:
        """Look up a user without a name. It works if its answer can be used, whatever that is.

        Raises SourceFailed.
        """
        with suppress(LoginDenied, CannotLookUp):
            self.ask(Question("", None, plain_address("127.0.0.1")))

    def close(self) -> None:
        """Do nothing: no connection outlives a question."""

    # --- the request -----------------------------------------------------------------------------

    def _post(self, question: Question) -> Mapping[str, Value]:
        """Return the object that the server answers. Raises SourceFailed."""
        body = self._body(question)
        deadline = Deadline(self.timeout)
        try:
            with closing(self._connect(deadline)) as connected:
                connection = http.client.HTTPConnection(self._host, self._port)
                connection.sock = BoundedSocket(connected, deadline, LONGEST_ANSWER)
                connection.request("POST", self._target, body, self._headers(body))
                with connection.getresponse() as response:
                    return _parsed(response)
        except AnswerTooLong:
            raise SourceFailed(f"the answer is longer than {LONGEST_ANSWER} bytes") from None
        except TimeoutError:
            raise SourceFailed(f"no answer within {self.timeout:.0f} seconds") from None
        except ssl.SSLCertVerificationError as error:
            raise SourceFailed(f"the certificate of {self._host} is not valid: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            raise SourceFailed(f"the request failed: {type(error).__name__}: {printable(str(error))}") from None

    def _connect(self, deadline: Deadline) -> socket.socket:
        path = self._settings.socket
        connected = connect_tcp(self._host, self._port, deadline) if path is None else connect_unix(path, deadline)
        if self._tls is None:
            return connected
        try:
            connected.settimeout(deadline.left())  # for the whole handshake
            return self._tls.wrap_socket(connected, server_hostname=self._host)
        except BaseException:
            connected.close()
            raise

    def _body(self, question: Question) -> bytes:
        fields: dict[str, Value] = {
            "version": VERSION,
            "action": "lookup" if question.password is None else "login",
            "name": question.name,
            "address": str(question.peer),
            "server": self._server,
            "time": int(time.time()),
            "nonce": random.token_hex(16),
        }
        if question.password is not None:
            fields["password"] = question.password
        return json.dumps(fields).encode("ascii")

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {
            "Host": urlsplit(self._settings.url).netloc,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"ftpsd/{ftpsd.__version__}",
            "Connection": "close",
        }
        if self._secret is not None:
            headers["X-Ftpsd-Signature"] = "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        return headers


def _is_text(value: str) -> bool:
    """Return whether JSON can carry what a client has sent: not if it was no UTF-8."""
    return not any("\ud800" <= each <= "\udfff" for each in value)


# --- the answer ------------------------------------------------------------------------------------


def _parsed(response: http.client.HTTPResponse) -> Mapping[str, Value]:
    """Return the object of an answer. Raises SourceFailed, or what reading the body raises."""
    if 300 <= response.status < 400:
        raise SourceFailed(f"status {response.status}: redirects are not followed. Write the final URL.")
    if response.status != 200:
        raise SourceFailed(f"status {response.status}")
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise SourceFailed("the answer is compressed")
    try:
        return parse_object(_content(response))
    except InvalidJson as error:
        raise SourceFailed(f"the answer {error}") from None


def _content(response: http.client.HTTPResponse) -> bytes:
    """Return the content of an answer. Without a limit, http.client reserves the memory that a header claims."""
    try:
        content = response.read(LONGEST_ANSWER)
    except ValueError:
        raise SourceFailed("the answer has a chunk whose length is negative") from None
    if response.length:
        raise http.client.IncompleteRead(content, response.length)
    return content


def _name(answer: Mapping[str, Value], question: Question) -> str:
    name = answer.get("name", question.name)
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not name.isprintable():
        raise SourceFailed("the answer has a name that is not printable text")
    return name


def _user(answer: Mapping[str, Value]) -> Record:
    user = answer.get("user", {})
    if not isinstance(user, dict):
        raise SourceFailed("the answer has a user that is not an object")
    if "password" in user:
        raise SourceFailed("the answer has a password: the server verifies passwords itself")
    return user


def _reason(answer: Mapping[str, Value]) -> str:
    """Return the reason of a refusal, as one printable line."""
    reason = answer.get("reason")
    if not isinstance(reason, str) or not reason or len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise SourceFailed(
            f"the answer denies a login without a printable reason of at most {_LONGEST_REASON} characters"
        )
    return reason


# --- the settings ----------------------------------------------------------------------------------


def _parse(settings: HttpSource) -> tuple[str, int, str, bool]:
    """Return host, port and target of the URL, and whether it is https. Raises UnusableSettings."""
    try:
        parts = urlsplit(settings.url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or not settings.url.isascii()
        or not settings.url.isprintable()
    ):
        raise UnusableSettings("url", "is not the URL of a web server", "Write it as https://host.example/path.")
    if " " in settings.url or parts.username is not None or parts.fragment:
        raise UnusableSettings("url", "has a blank, a password or a fragment", "Remove it: secret_file signs requests.")
    if parts.scheme == "http" and settings.socket is None and not is_loopback(host):
        problem = f"http://{host} would send passwords unencrypted through the network"
        raise UnusableSettings("url", problem, "Write https://.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, port or (443 if parts.scheme == "https" else 80), target, parts.scheme == "https"


def _context(settings: HttpSource) -> ssl.SSLContext:
    """Return the settings of TLS: the certificate must be valid for the host. Raises UnusableSettings."""
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:
        problem = f"{settings.ca_file} has no certificate that can be read ({error})"
        raise UnusableSettings("ca_file", problem, "Name a file with certificates of authorities, in PEM.") from None
