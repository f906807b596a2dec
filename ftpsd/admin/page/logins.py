"""Who may use the page: login codes, each good for one login, and the sessions of browsers: Logins."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import TypeVar

from attrs import frozen

from ftpsd.system.reactor import Now

T = TypeVar("T")

#: Seconds for which a code can be used.
CODE_LIFE = 600

#: Seconds without a request after which a browser has to log in again.
IDLE = 12 * 3600

#: Codes and browsers that are remembered; then the oldest one is forgotten.
CAPACITY = 100


@frozen
class Browser:
    """A browser that has logged in."""

    #: Who has asked for its code.
    administrator: str
    #: The value of the cookie, and that of the header of each request that changes something.
    cookie: str
    csrf: str


class Logins:
    """Codes and browsers are kept in memory only: after a restart of the daemon, everybody logs in again.

    Only digests are looked up, so that the time of a look-up says nothing about a secret.
    """

    def __init__(self, now: Now) -> None:
        self._now = now
        self._codes: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._browsers: OrderedDict[bytes, tuple[Browser, float]] = OrderedDict()

    def make_code(self, administrator: str) -> str:
        """Return a new code."""
        code = secrets.token_urlsafe(24)
        self._codes[_digest(code)] = administrator, self._now() + CODE_LIFE
        _keep_few(self._codes)
        return code

    def log_in(self, code: str) -> Browser | None:
        """Use a code up. Return the new session of the browser, or None if the code is wrong, used or too old."""
        administrator, end = self._codes.pop(_digest(code), ("", 0.0))
        if self._now() >= end:
            return None
        browser = Browser(administrator, secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        self._browsers[_digest(browser.cookie)] = browser, self._now() + IDLE
        _keep_few(self._browsers)
        return browser

    def find(self, cookie: str) -> Browser | None:
        """Return the browser with a cookie, which has made a request now, or None."""
        key = _digest(cookie)
        browser, end = self._browsers.pop(key, (None, 0.0))
        if browser is None or self._now() >= end:
            return None
        self._browsers[key] = browser, self._now() + IDLE  # the one that asked last stands last
        return browser

    def is_logged_in(self, cookie: str) -> bool:
        """Return whether there is a browser with a cookie. This is no request of it."""
        _, end = self._browsers.get(_digest(cookie), (None, 0.0))
        return self._now() < end

    def log_out(self, browser: Browser) -> None:
        """End the session of a browser."""
        self._browsers.pop(_digest(browser.cookie), None)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _keep_few(entries: OrderedDict[bytes, T]) -> None:
    while len(entries) > CAPACITY:
        entries.popitem(last=False)
