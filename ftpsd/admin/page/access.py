"""Who gets an answer from the page: host names, login and logout, cookies: Access.

A browser runs scripts of strangers, too. What keeps them out:

    Host        must be an address, localhost, or a name in `admin.page.hosts`: no stranger's name that resolves to
                this address (DNS rebinding) gets any answer
    cookie      HttpOnly, SameSite=Strict: another site's request has no cookie
    CSRF        each request that changes something has a header with a value that only the page knows
    CSP         the page runs and loads only what this server serves, and no site can put it into a frame
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from typing import cast

from attrs import evolve

from ftpsd.admin.api.arguments import Body
from ftpsd.admin.api.problem import Json, Problem
from ftpsd.admin.api.routes import encode
from ftpsd.admin.page.logins import Browser, Logins
from ftpsd.admin.parts import Parts
from ftpsd.events.session_events import info
from ftpsd.events.types import AdministrativeAct, Banned
from ftpsd.protocol.addresses import Address, plain_address
from ftpsd.protocol.replies import Refusal
from ftpsd.system.token_bucket import TokenBucket
from ftpsd.web.server import Answer, BoundedRequest, header

CSRF_HEADER = "x-ftpsd-csrf"

#: Failed logins of the page count as logins with this name.
NAME = "admin page"

#: Failed logins that are logged: per second, and at once. Bans do not end them from this machine (`bans.allow`).
LOGGED_FAILURES = (0.1, 10)

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = (
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
)


class Access:
    """Decides about each request. `hosts` are further names of the server."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._budget = TokenBucket(*LOGGED_FAILURES, parts.reactor.seconds())
        self.logins = Logins(parts.reactor.seconds)
        self._hosts: Collection[str] = ()
        self._cookie = ""

    def use(self, hosts: Collection[str], port: int) -> None:
        """Serve these names at a port."""
        self._hosts = [each.lower() for each in hosts]
        # Browsers send the cookies of a host to each of its ports: two daemons must not overwrite each other's.
        self._cookie = f"ftpsd_page_{port}"

    def check_host(self, request: BoundedRequest) -> None:
        """Raise Problem (421) if the browser believes that it talks to some other name."""
        host = _host_name(header(request, "host"))
        if host != "localhost" and host not in self._hosts and not _is_address(host):
            raise Problem(421, "This name is not served. Use the address, or add the name to admin.page.hosts.")

    def cookie(self, request: BoundedRequest) -> str:
        """Return the cookie of a request; empty without one."""
        return (request.getCookie(self._cookie.encode()) or b"").decode("ascii", "replace")

    def browser(self, request: BoundedRequest) -> Browser:
        """Return the browser that makes a request. Raises Problem (401, 403)."""
        browser = self.logins.find(self.cookie(request))
        if browser is None:
            raise Problem(401, "Log in with the link that the command `ftpsd page` prints.")
        given = header(request, CSRF_HEADER).encode()
        if request.method not in (b"GET", b"HEAD") and not hmac.compare_digest(given, browser.csrf.encode()):
            raise Problem(403, f"The header {CSRF_HEADER} is missing or wrong. Load the page again.")
        return browser

    async def log_in(self, request: BoundedRequest) -> Answer:
        """Answer a request with a code. Raises Problem."""
        if request.method != b"POST" or header(request, "content-type") != "application/json":
            raise Problem(415, "Send the code with POST as JSON.")
        body = cast(bytes, request.content.read())  # type: ignore[union-attr]  # it is closed when the client goes
        client = plain_address(request.getClientAddress().host)
        ledger = self._parts.snapshot().ledger
        try:
            await ledger.check_bans(client, NAME)
        except Refusal as refusal:
            raise Problem(403, refusal.reply.text) from None
        browser = self.logins.log_in(Body(body, ("code",)).text("code") or "")
        if browser is None:
            await self._failed(client)
            raise Problem(403, "The code is wrong, was used before, or is too old. Get another one from `ftpsd page`.")
        await ledger.record_login(client, NAME)
        self._publish("page login", str(client), browser.administrator)
        cookie = f"{self._cookie}={browser.cookie}; Path=/; HttpOnly; SameSite=Strict"
        return evolve(json_answer(session(browser)), headers=(("Set-Cookie", cookie),))

    async def _failed(self, client: Address) -> None:
        """Log a failed login, and count it towards a ban."""
        stranger = info(0, client)
        if self._budget.refill(self._parts.reactor.seconds()) >= 1:
            self._budget.take(1)
            self._publish("failed page login", "", stranger.address)
        for ban in (await self._parts.snapshot().ledger.record_failure(client, NAME)).bans:
            text = f"banned for {ban.length:.0f} seconds: too many failed logins at the page"
            self._parts.hub.publish(Banned(stranger, ban.kind, ban.subject, ban.length, text))

    def _publish(self, action: str, subject: str, administrator: str) -> None:
        self._parts.hub.publish(AdministrativeAct(action, subject, administrator))


def session(browser: Browser) -> Json:
    """Return what the page has to know about its own session."""
    return {"administrator": browser.administrator, "csrf": browser.csrf}


def json_answer(value: Json) -> Answer:
    """Return an answer in JSON."""
    return Answer(200, encode(value), "application/json")


def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
