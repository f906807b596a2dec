"""Which session may work in the reactor thread, and for how long: no client keeps the others waiting.

All sessions share one thread. A session belongs to a party: before the login that of the network which it comes
from, after it that of its user, so that many sessions of one client get no more than one.

A turn is what happens between two polls of the reactor. In a turn each party may work for a slice, and all users
together, and all strangers together, for `USERS` and `STRANGERS` seconds. A session that has more to do waits: its
connection is not read meanwhile. Sessions that wait continue in the next turn, round-robin by party. Parties that
had done little in their turn come first, so that a command now and then never waits for those of a flood.

Strangers also have a credit of commands, which refills slowly. A login returns what its session has taken.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from weakref import WeakValueDictionary

from ftpsd.system.reactor import Clock, Now

#: Seconds that all users together, and all strangers together, may work in one turn. A command takes 0.03 to 0.15 ms
#: in this thread, and a TLS handshake 1 to 2 ms.
USERS = 0.004
STRANGERS = 0.002

#: Less time than this is none: a command takes longer.
SHORTEST = 0.00001

#: Seconds of their rate that strangers may use at once: many clients behind one address may log in together.
CREDIT_BURST = 10

#: The least seconds for which a party without credit sleeps: below that, timers cost more than commands.
NAP = 0.05

#: What strangers pay for a connection and for a TLS handshake, in commands.
CONNECTION_COST = 3
HANDSHAKE_COST = 4

#: Networks whose credit is remembered without a session. An attacker who has more needs no gap in our memory.
CAPACITY = 10_000

#: No time: the session has to wait.
NEVER = -math.inf


class Kind:
    """Users, or strangers: the time that they may work in a turn, and which of their parties wait."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.spent = 0.0
        #: What one party may have of the budget.
        self.slice = budget / 2
        #: Parties that had done little in their turn, and all others; one of these is served in each turn.
        self.first: deque[Party] = deque()
        self.again: deque[Party] = deque()

    def serve(self) -> None:
        """Begins a turn: half of it is for what waits, half for what the poll brings."""
        self.spent = 0.0
        self.slice = self.budget / 16  # enough for a command now and then: hundreds of floods may begin at once
        for _ in range(len(self.first)):  # each once, whatever it has left to do
            if self.spent >= self.budget / 2:
                break
            self.first.popleft().serve()
        self.slice = self.budget / 2
        for _ in range(len(self.again)):  # those that come back meanwhile wait for the next turn
            self.again.popleft().serve()
            if self.spent >= self.budget / 2:
                return


class Party:
    """Sessions that share a slice of each turn, and a credit."""

    __slots__ = (
        "__weakref__",
        "_kind",
        "_queued",
        "_scheduler",
        "_since",
        "_turn",
        "_used",
        "_waiting",
        "credit",
        "rate",
    )

    def __init__(self, scheduler: Scheduler, kind: Kind, rate: float = math.inf) -> None:
        self._scheduler = scheduler
        self._kind = kind
        self._turn = -1
        self._used = 0.0
        self._waiting: dict[Seat, None] = {}
        self._queued = False
        self._since = scheduler.now()
        #: Commands per second, and how many may be begun now.
        self.rate = rate
        self.credit = rate * CREDIT_BURST

    # --- work ------------------------------------------------------------------------------------

    def deadline(self, now: float, served: bool = False) -> float:
        """The time until which a session may work, one that has waited (`served`) or one that something comes to.

        `NEVER` if it has to wait.
        """
        kind = self._kind
        if self._turn != self._scheduler.turn:
            self._turn, self._used = self._scheduler.turn, 0.0
        left = min(kind.slice - self._used, kind.budget - kind.spent)
        if left < SHORTEST or (self._waiting and not served):
            return NEVER
        if self.credit < math.inf and self._refill(now) <= 0:
            return NEVER
        return now + left

    def charge(self, seconds: float) -> None:
        """A session has worked so long."""
        kind = self._kind
        if self._turn != self._scheduler.turn:
            self._turn, self._used = self._scheduler.turn, 0.0
        self._used += seconds
        kind.spent += seconds
        if self._used > kind.slice - SHORTEST or kind.spent > kind.budget - SHORTEST:
            self._scheduler.end_turn()

    # --- credit ----------------------------------------------------------------------------------

    def _refill(self, now: float) -> float:
        if self.credit < math.inf:
            earned = max(0.0, now - self._since) * self.rate
            self.credit = min(self.rate * CREDIT_BURST, self.credit + earned)
            self._since = now
        return self.credit

    def take(self, cost: float) -> None:
        """A session takes credit; debts have a bound, so that a flood is not paid for long after its end."""
        self.credit = max(-self.rate, self.credit - cost)

    def give_back(self, cost: float) -> None:
        """A session returns what it has taken."""
        self.credit = min(self.rate * CREDIT_BURST, self.credit + cost)

    # --- waiting ---------------------------------------------------------------------------------

    def wait(self, seat: Seat) -> None:
        """The session continues in some later turn."""
        self._waiting[seat] = None
        if not self._queued:
            self._queue()

    def leave(self, seat: Seat) -> bool:
        """The session waits no more: it has ended, or gets another party. Whether it had waited."""
        waited = seat in self._waiting
        self._waiting.pop(seat, None)
        return waited

    def serve(self) -> None:
        """Lets sessions that wait continue."""
        while self._waiting and self.deadline(self._scheduler.now(), served=True) > 0:
            seat = next(iter(self._waiting))
            del self._waiting[seat]
            seat.serve()
        self._queued = False
        if self._waiting:
            self._queue()

    def _queue(self) -> None:
        self._queued = True
        if self._refill(self._scheduler.now()) <= 0:
            self._scheduler.call_later(max(NAP, (1 - self.credit) / self.rate), self._queue)
            return
        idle = self._turn != self._scheduler.turn or self._used < self._kind.budget / 16 - SHORTEST
        (self._kind.first if idle else self._kind.again).append(self)
        self._scheduler.end_turn()


class Seat:
    """One session's place in its party. All work of the session that takes time is done in steps, by `do`.

    `pause` is called when the session has to wait, and `go_on` when its turn has come.
    """

    __slots__ = ("_deadline", "_go_on", "_now", "_party", "_pause", "_taken", "_waits", "_working")

    def __init__(self, now: Now, party: Party, pause: Callable[[], None], go_on: Callable[[], None]) -> None:
        self._now = now
        self._party = party
        self._pause = pause
        self._go_on = go_on
        self._deadline = NEVER
        self._working = False
        self._waits = False
        self._taken = 0

    def do(self, step: Callable[..., object], *arguments: object, must: bool = False) -> None:
        """Does a step, or waits; what `must` be done is never put off, but what follows it may be."""
        if self._working:
            step(*arguments)
            return
        party, started = self._party, self._now()
        self._deadline = party.deadline(started)
        if must or self._deadline > started:
            self._work(party, started, step, *arguments)
        else:
            self.wait()

    def serve(self) -> None:
        """Continues what had to wait."""
        party, started = self._party, self._now()
        self._deadline = party.deadline(started, served=True)
        self._work(party, started, self._go_on)

    def _work(self, party: Party, started: float, step: Callable[..., object], *arguments: object) -> None:
        self._working = True
        try:
            step(*arguments)
        finally:
            self._working = False
            party.charge(self._now() - started)
            if self._waits:
                self.wait()

    def admits(self, now: float) -> bool:
        """Whether one more command may begin. If not, the session waits."""
        if now < self._deadline and self._party.credit > 0:
            return True
        self.wait()
        return False

    def pay(self, cost: int) -> None:
        """Takes what something costs from the party's credit."""
        if self._party.credit < math.inf:
            self._taken += cost
            self._party.take(cost)

    def wait(self) -> None:
        """The session continues in some later turn."""
        self._waits = self._working  # first it pays for what it has done in this one
        self._pause()
        if not self._working:
            self._party.wait(self)

    def move(self, party: Party) -> None:
        """The session has another party. One that has logged in gets back what it has taken as a stranger."""
        if party.credit == math.inf:
            self._party.give_back(self._taken)
        self._taken = 0
        waits = self._party.leave(self)
        self._party = party
        if waits:
            party.wait(self)

    def leave(self) -> None:
        """The session is over."""
        self._waits = False
        self._party.leave(self)


class Scheduler:
    """The parties. Everything is for the reactor thread."""

    def __init__(self, reactor: Clock) -> None:
        self.now: Now = reactor.seconds
        self.call_later = reactor.callLater
        #: The number of the turn.
        self.turn = 0
        self._ending = False
        self._kinds = self._of_users, self._of_strangers = Kind(USERS), Kind(STRANGERS)
        self._users: WeakValueDictionary[str, Party] = WeakValueDictionary()
        self._strangers: dict[str, Party] = {}

    def user(self, name: str) -> Party:
        """The party of a user's sessions."""
        return self._users.get(name) or self._users.setdefault(name, Party(self, self._of_users))

    def strangers(self, network: str, rate: float) -> Party:
        """The party of a network's sessions without a login, with the rate of the configuration that is in effect."""
        party = self._strangers.pop(network, None) or Party(self, self._of_strangers, rate)
        if party.rate != rate:
            party.rate, party.credit = rate, rate * CREDIT_BURST
        self._strangers[network] = party  # the last one is the latest
        if len(self._strangers) > CAPACITY:
            del self._strangers[next(iter(self._strangers))]
        return party

    def end_turn(self) -> None:
        """The next turn begins when the reactor has polled."""
        if not self._ending:
            self._ending = True
            self.call_later(0, self._begin_turn)

    def _begin_turn(self) -> None:
        self._ending = False
        self.turn += 1
        for kind in self._kinds:
            kind.serve()
        if any(kind.first or kind.again for kind in self._kinds):
            self.end_turn()
