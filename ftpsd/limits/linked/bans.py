"""The bans in a worker process: LinkedBans. The supervisor's are in `serving`.

The supervisor decides about bans, and each worker has a copy of those in effect, which it is told of. A number in the
shared table grows with each change, before anything follows from it, and a column has the failures that workers have
sent and the supervisor has not answered. While the copy has this number, and there are no such failures, the worker
knows all bans. Otherwise it asks the supervisor, and also about a client who seems to be banned: the supervisor alone
knows the addresses from which users have logged in. So bans hold everywhere at once, and a login needs no call.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftpsd.limits.bans.ban_list import CAPACITY, BanList
from ftpsd.limits.bans.ban_table import Ban, Kind
from ftpsd.limits.ledger import Failure
from ftpsd.limits.shared.slot import Slot
from ftpsd.limits.shared.table import SharedTable
from ftpsd.protocol.addresses import Address, network
from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system.link import Link

#: The kind and the name of the slot with the number of the last change of bans, its field, and the column of failures.
SLOT = ("ledger", "bans")
CHANGES, FAILURES = 0, 0

#: Seconds after which the supervisor is told again of logins of a user from the same address. It stores one a day.
NOTED = 3600

#: Kind, subject, end and length, as they are sent.
BanMessage = tuple[Kind, str, float, float]
#: A kind and a subject are the end of their ban.
ChangeMessage = BanMessage | tuple[Kind, str]

#: The code and the lines of a refusal, and whether the session ends.
RefusalMessage = tuple[int, list[str], bool]


def to_message(ban: Ban) -> BanMessage:
    """Return a ban as it is sent."""
    return ban.kind, ban.subject, ban.until, ban.length


def from_refusal(refusal: Refusal | None) -> RefusalMessage | None:
    """Return a refusal as it is sent."""
    if refusal is None:
        return None
    return refusal.reply.code, list(refusal.reply.lines), isinstance(refusal, SessionEnd)


def _to_refusal(code: int, lines: list[str], ends: bool) -> Refusal:
    return (SessionEnd if ends else Refusal)(code, *lines)


class LinkedBans:
    """The copy of the bans in effect, and the questions to the supervisor. It outlives reloads."""

    def __init__(self, link: Link, table: SharedTable, bans: BanList) -> None:
        """`bans` becomes the copy. Make this before the link is connected."""
        self.list = bans
        self._link = link
        self._slot: Slot = table.slot(*SLOT)
        #: The number of the last change that the copy has.
        self._changes = -1
        #: When the supervisor was told of a login, by user and address.
        self._noted: dict[tuple[str, str], float] = {}
        link.serve("ledger.bans", self._change)

    def are_current(self) -> bool:
        """Return whether the copy has all bans that have ever been made, and no further one is being decided."""
        return bool(self._slot.ints[CHANGES] == self._changes) and not self._slot.total(FAILURES)

    def _change(self, number: int, changes: Sequence[ChangeMessage]) -> None:
        for change in changes:
            if len(change) == 2:
                self.list.table.forget(*change)
            else:
                self.list.table.keep(Ban(*change))
        self.list.table.make_room(CAPACITY)
        self._changes = number

    async def check(self, client: Address, user: str) -> None:
        """Let the supervisor raise Refusal if a client may not try a user name."""
        await self._link.call("ledger.check_bans", str(client), user)

    async def record_failure(self, client: Address, user: str) -> Failure:
        """Let the supervisor count a wrong name or password, and check the bans."""
        self._slot.add(FAILURES, 1)
        try:
            bans, refusal = await self._link.call("ledger.record_failure", str(client), user)
        finally:
            self._slot.add(FAILURES, -1)
        return Failure([Ban(*each) for each in bans], _to_refusal(*refusal) if refusal else None)

    def record_login(self, client: Address, user: str) -> None:
        """Tell the supervisor from where a user has logged in, unless it knows that already."""
        key, now = (user, network(client)), self.list.now()
        if now - self._noted.get(key, -NOTED) < NOTED:
            return
        if len(self._noted) >= CAPACITY:
            del self._noted[next(iter(self._noted))]
        self._noted[key] = now
        self._link.tell("ledger.record_login", str(client), user)
