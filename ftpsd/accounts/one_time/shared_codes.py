"""The one-time passwords that were used, in several processes: SharedCodes, serve_codes.

The shared table decides, so a code is good for one login at one worker. The supervisor stores the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ftpsd.accounts.one_time.totp import MANY, STEP, WINDOW, Codes, was_used
from ftpsd.limits.linked.serving import Workers
from ftpsd.limits.shared.slot import Slot
from ftpsd.limits.shared.table import SharedTable
from ftpsd.system.link import Link

#: The field of a slot with the last step.
_STEP = 0


class SharedCodes:
    """The codes that users of this process have used, in the table: see `totp.Codes`. `now` returns POSIX time.

    A process holds the slots of its users for as long as their codes could be used again.
    """

    def __init__(self, table: SharedTable, now: Callable[[], float], note: Callable[[str, int], object]) -> None:
        """`note` is called with each user and step, after the use."""
        self._table = table
        self._now = now
        self._note = note
        self._slots: dict[str, Slot] = {}

    def use(self, user: str, step: int) -> bool:
        """Note that a user logs in with the code of a step. Return False if it or a later one was used before.

        May raise TableBusy.
        """
        slot = self._table.slot("code", user)
        with slot.lock():
            if was_used(slot.ints[_STEP], step, self._now()):
                return False
            slot.ints[_STEP] = step
        self._hold(user, slot)
        self._note(user, step)
        return True

    async def use_when_free(self, user: str, step: int) -> bool:
        """Do the same when no other process has a lock that it needs."""
        return await self._table.patience.retry(partial(self.use, user, step))

    async def keep_when_free(self, user: str, step: int) -> None:
        """Do what `keep` does when no other process has a lock that it needs."""
        await self._table.patience.retry(partial(self.keep, user, step))

    def keep(self, user: str, step: int) -> None:
        """Hold the slot of a user who has used the code of a step somewhere else."""
        slot = self._table.slot("code", user)
        if not slot.ints[_STEP]:
            slot.ints[_STEP] = step
        self._hold(user, slot)

    def _hold(self, user: str, slot: Slot) -> None:
        if len(self._slots) >= MANY:
            self._slots = {name: self._slots[name] for name in self.recent()}
        self._slots[user] = slot

    def recent(self) -> Mapping[str, int]:
        """Return the last step of each user whose code has been used recently."""
        oldest = int(self._now() // STEP) - WINDOW
        steps = {user: slot.ints[_STEP] for user, slot in self._slots.items()}
        return {user: step for user, step in steps.items() if step >= oldest}


def serve_codes(workers: Workers, table: SharedTable, codes: Codes, now: Callable[[], float]) -> Callable[[], None]:
    """Store the codes that workers accept, and keep them when a worker ends. `codes` are those of the supervisor.

    Return a function that lets the workers know all codes that were stored, to be called before they start.
    """
    shared = SharedCodes(table, now, lambda user, step: None)

    async def note(user: str, step: int) -> None:
        codes.use(user, step)
        await shared.keep_when_free(user, step)

    def serve(index: int, link: Link) -> None:
        link.serve("accounts.code_used", note)

    def publish() -> None:
        for user, step in codes.recent().items():
            shared.keep(user, step)

    workers.on_start(serve)
    return publish
