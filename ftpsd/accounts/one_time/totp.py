"""One-time passwords (TOTP, RFC 6238): the six digits behind the password, and the codes that were used."""

from __future__ import annotations

import hmac
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.logger import Logger

from ftpsd.system.state import Store

log = Logger(namespace="ftpsd")

#: The digits of a code, and the seconds for which each is shown. Authenticator apps support no others reliably.
DIGITS, STEP = 6, 30

#: How many steps a clock may be ahead or behind.
WINDOW = 1

#: Is used for names without a secret, so that they take as long.
_NO_SECRET = "A" * 32

#: The most used codes in memory before those are removed that no clock shows any more.
MANY = 1000

_TABLE = "CREATE TABLE IF NOT EXISTS used_codes (user TEXT PRIMARY KEY, step INTEGER) WITHOUT ROWID"


def split(text: str) -> tuple[str, str] | None:
    """Return the password and the code of what a client has sent; None if it does not end in six digits."""
    password, code = text[:-DIGITS], text[-DIGITS:]
    return (password, code) if len(code) == DIGITS and code.isascii() and code.isdigit() else None


def matching_step(secret: str | None, code: str, now: float) -> int | None:
    """Return the time step whose code this is; None for a wrong code, or without a secret. `now` is POSIX time.

    The time shows neither which step it was, nor whether there is a secret.
    """
    pyotp = sys.modules.get("pyotp")  # the configuration imports it when it finds a secret
    if pyotp is None:
        return None
    generator = pyotp.TOTP(secret or _NO_SECRET)
    current, found = int(now // STEP), None
    for step in range(max(0, current - WINDOW), current + WINDOW + 1):
        if hmac.compare_digest(generator.generate_otp(step), code):
            found = step
    return found if secret is not None else None


class Codes(Protocol):
    """The last time step whose code each user has used: no code is accepted twice."""

    def use(self, user: str, step: int) -> bool:
        """Note that a user logs in with the code of a step. Return False if it or a later one was used before."""

    async def use_when_free(self, user: str, step: int) -> bool:
        """Do the same when no other process has a lock that it needs."""

    def recent(self) -> Mapping[str, int]:
        """Return the last step of each user whose code has been used recently."""


def was_used(last: int | None, step: int, now: float) -> bool:
    """Return whether the code of a step is used up, if `last` is the last step that was used."""
    # A step in the future was used while the clock was wrong. It must not lock the user out until then.
    return last is not None and step <= last <= int(now // STEP) + WINDOW


class UsedCodes:
    """The codes of a daemon that is one process, or of a supervisor; also after a restart: see `Codes`.

    A step is stored in the state file soon after its use. For the reactor thread; `now` returns POSIX time.
    """

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._steps: dict[str, int] = {}

    def restore(self) -> None:
        """Read what is stored. Blocks. Called once, before the first login."""
        try:
            known = self._store.state.execute("SELECT 1 FROM sqlite_master WHERE name = 'used_codes'")
            rows = self._store.state.execute("SELECT user, step FROM used_codes") if known else []
        except Exception as error:
            log.error("the used one-time passwords cannot be read: {error}", error=error)
            return
        valid = {user: step for user, step in rows if isinstance(user, str) and isinstance(step, int)}
        self._steps = {**valid, **self._steps}

    def use(self, user: str, step: int) -> bool:
        """Note that a user logs in with the code of a step. Return False if it or a later one was used before."""
        if was_used(self._steps.get(user), step, self._now()):
            return False
        current = int(self._now() // STEP)
        if len(self._steps) >= MANY:
            self._steps = {name: each for name, each in self._steps.items() if each >= current - WINDOW}
        self._steps[user] = step
        self._store.put(_save, self._store, user, step, current - WINDOW)
        return True

    async def use_when_free(self, user: str, step: int) -> bool:
        """Do the same as `use`: there is no other process."""
        return self.use(user, step)

    def recent(self) -> Mapping[str, int]:
        """Return the last step of each user whose code has been used recently."""
        oldest = int(self._now() // STEP) - WINDOW
        return {user: step for user, step in self._steps.items() if step >= oldest}


def _save(store: Store, user: str, step: int, oldest: int) -> None:
    if store.state.provisional:
        return
    with store.state.transaction() as execute:
        execute(_TABLE)
        execute("DELETE FROM used_codes WHERE step < ?", oldest)
        execute("INSERT OR REPLACE INTO used_codes VALUES (?, ?)", user, step)
