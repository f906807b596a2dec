"""Share the reactor thread among the sessions, so that no client keeps the others waiting.

All sessions run in one thread. Each belongs to a client group: before the login to that of its network, after it to
that of its user. Sessions of one group share what the group gets.

Time is given out in rounds. A round lasts until the reactor has polled at least once. In a round each group may use a
slice, and all groups of users together, and all groups of strangers together, their budget of `USERS_BUDGET` and
`STRANGERS_BUDGET` seconds. A session that has more to do waits for a later round, and its connection is not read
meanwhile. Groups that wait are served round-robin. Groups that had used little of their last round are served first, so
that an occasional command does not wait for those of a flood.

Groups of strangers also have a rate of commands (`limits.commands_per_second_before_login`). A session that logs in
gives back the tokens that it has taken.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from weakref import WeakValueDictionary

from ftpsd.limits.ledger import LedgerState
from ftpsd.system.memory.nothing import do_nothing
from ftpsd.system.reactor import Clock
from ftpsd.system.token_bucket import Bucket

#: Seconds that all users, and all strangers, may use in one round. A command takes 0.03 to 0.15 ms in this thread, a
#: TLS handshake 1 to 2 ms.
USERS_BUDGET = 0.004
STRANGERS_BUDGET = 0.002

#: Seconds that are too short for a command: a group with less time left waits for the next round.
SHORTEST = 0.00001

#: Seconds of their rate that strangers may use at once: many clients behind one address may log in together.
BURST_SECONDS = 10

#: The shortest sleep in seconds of a group without tokens: below that, timers cost more than commands.
SHORTEST_SLEEP = 0.05

#: What a connection and a TLS handshake cost strangers, in commands.
CONNECTION_COST = 3
HANDSHAKE_COST = 4

#: A deadline that is over: the session must wait.
NEVER = -math.inf


class ServiceClass:
    """All users, or all strangers: their budget in each round, and which of their groups wait."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        #: What was used of it in this round.
        self.spent = 0.0
        #: What one group may use of it.
        self.slice = budget / 2
        #: Groups that had used little of their last round, and all others. One of `others` is served in each round.
        self.first: deque[ClientGroup] = deque()
        self.others: deque[ClientGroup] = deque()

    def begin_round(self) -> None:
        """Serve groups that wait, for half of the budget. The other half is for what the poll brings."""
        self.spent = 0.0
        self.slice = self.budget / 16  # enough for an occasional command: hundreds of floods may begin at once
        for _ in range(len(self.first)):  # each once, even if it has more to do
            if self.spent >= self.budget / 2:
                break
            self.first.popleft().serve()
        self.slice = self.budget / 2
        for _ in range(len(self.others)):  # groups that are added meanwhile wait for the next round
            self.others.popleft().serve()
            if self.spent >= self.budget / 2:
                return


class ClientGroup:
    """The sessions of one user, or of one network before the login. They share a slice of each round.

    `bucket` limits the commands of strangers; None is no limit.
    """

    __slots__ = ("__weakref__", "_class", "_queued", "_round", "_used", "_waiting", "bucket", "scheduler")

    def __init__(self, scheduler: Scheduler, service_class: ServiceClass, bucket: Bucket | None = None) -> None:
        self.scheduler = scheduler
        self._class = service_class
        self.bucket = bucket
        #: The last round in which a session of the group ran, and the seconds that the group used in it.
        self._round = -1
        self._used = 0.0
        self._waiting: dict[Task, None] = {}
        self._queued = False

    def deadline(self, now: float, served: bool = False) -> float:
        """Return the time until which a session of the group may run; `NEVER` if it must wait.

        `served` is true for a session that has waited its turn. Other sessions wait if sessions of their group wait.
        """
        service_class = self._class
        if self._round != self.scheduler.round:
            self._round, self._used = self.scheduler.round, 0.0
        left = service_class.slice - self._used
        if left > service_class.budget - service_class.spent:
            left = service_class.budget - service_class.spent
        if left < SHORTEST or (self._waiting and not served):
            return NEVER
        if self.bucket is not None and self.bucket.refill(now) <= 0:
            return NEVER
        return now + left

    def charge(self, seconds: float) -> None:
        """Note that a session of the group has run for so many seconds. It called `deadline` before, in this round."""
        service_class = self._class
        self._used += seconds
        service_class.spent += seconds
        if self._used > service_class.slice - SHORTEST or service_class.spent > service_class.budget - SHORTEST:
            self.scheduler.end_round()

    # --- sessions that wait ----------------------------------------------------------------------

    def wait(self, task: Task) -> None:
        """Let a session continue in a later round."""
        self._waiting[task] = None
        if not self._queued:
            self._queue()

    def leave(self, task: Task) -> bool:
        """Remove a session that has ended or changes its group. Return whether it waited."""
        waited = task in self._waiting
        self._waiting.pop(task, None)
        return waited

    def serve(self) -> None:
        """Let sessions that wait continue, as long as the group has time in this round."""
        try:
            while self._waiting and self.deadline(self.scheduler.now(), served=True) > 0:
                task = next(iter(self._waiting))
                del self._waiting[task]
                task.resume()
        finally:
            self._queued = False
            if self._waiting:
                self._queue()

    def _queue(self) -> None:
        self._queued = True
        if self.bucket is not None and self.bucket.refill(self.scheduler.now()) <= 0:
            sleep = max(SHORTEST_SLEEP, self.bucket.seconds_until(1))
            self.scheduler.call_later(sleep, self._queue)
            return
        slow = self._round != self.scheduler.round or self._used < self._class.budget / 16 - SHORTEST
        (self._class.first if slow else self._class.others).append(self)
        self.scheduler.end_round()


class Task:
    """One session, as the scheduler sees it. All work of the session that takes time runs in steps, by `run`.

    `pause` is called when the session must wait, `continue_` when it may continue.
    """

    __slots__ = (
        "_continue",
        "_group",
        "_input_round",
        "_pause",
        "_running",
        "_scheduler",
        "_taken",
        "_waits",
        "deadline",
    )

    def __init__(self, group: ClientGroup, pause: Callable[[], None], continue_: Callable[[], None]) -> None:
        self._scheduler = group.scheduler
        self._group = group
        self._pause = pause
        self._continue = continue_
        #: The time until which the session may run.
        self.deadline = NEVER
        self._running = False
        self._waits = False
        #: The tokens that the session has taken from its group.
        self._taken = 0
        self._input_round = -1

    # --- running ---------------------------------------------------------------------------------

    def run_input(self, step: Callable[[], object]) -> None:
        """Run the step that handles what the socket has received, or wait.

        The reactor reads each socket once per poll. So if this session has had input in this round already, the reactor
        has polled since, and a round may begin without the timer of `end_round`. That is always so if one session
        alone is busy.
        """
        scheduler = self._scheduler
        if self._input_round == scheduler.round:
            scheduler.begin_round_if_none_wait()
        self._input_round = scheduler.round
        started = scheduler.now()
        self.deadline = self._group.deadline(started)
        if self.deadline > started:
            self._run(started, step, ())
        else:
            self.wait()

    def run(self, step: Callable[..., object], *arguments: object, must: bool = False) -> None:
        """Run a step, or wait. A step that `must` run is never put off, but what follows it may be."""
        if self._running:
            step(*arguments)
            return
        started = self._scheduler.now()
        self.deadline = self._group.deadline(started)
        if must or self.deadline > started:
            self._run(started, step, arguments)
        else:
            self.wait()

    def resume(self) -> None:
        """Continue what had to wait."""
        started = self._scheduler.now()
        self.deadline = self._group.deadline(started, served=True)
        self._run(started, self._continue, ())

    def _run(self, started: float, step: Callable[..., object], arguments: tuple[object, ...]) -> None:
        group = self._group  # a login in the step changes it
        self._running = True
        try:
            step(*arguments)
        finally:
            self._running = False
            group.charge(self._scheduler.now() - started)
            if self._waits:
                self.wait()

    def may_continue(self, now: float) -> bool:
        """Return whether one more command may begin at the time `now`. If not, the session waits."""
        if now < self.deadline:
            return True
        self.wait()
        return False

    def wait(self) -> None:
        """Continue in a later round."""
        self._waits = self._running  # if it runs, its time is charged first
        self._pause()
        if not self._running:
            self._group.wait(self)

    # --- the group -------------------------------------------------------------------------------

    def take_tokens(self, count: int) -> None:
        """Take as many tokens from the group as a command costs, if its commands are limited."""
        bucket = self._group.bucket
        if bucket is not None:
            self._taken += count
            bucket.take(count)
            if bucket.tokens <= 0:
                self.deadline = NEVER

    def move(self, group: ClientGroup) -> None:
        """Change the group. A session that gets one without a limit has logged in: it gives back its tokens."""
        if group.bucket is None and self._group.bucket is not None:
            self._group.bucket.put_back(self._taken)
        self._taken = 0
        waits = self._group.leave(self)
        self._group = group
        if waits:
            group.wait(self)

    def leave(self) -> None:
        """The session has ended: nothing of it continues."""
        self._waits = False
        self._group.leave(self)
        self._pause = self._continue = do_nothing


class Scheduler:
    """All client groups, and the rounds. For the reactor thread."""

    def __init__(self, reactor: Clock, counts: LedgerState | None = None) -> None:
        """`counts` has the buckets of networks, which processes may share."""
        self._counts = counts or LedgerState(reactor.seconds)
        self.now = reactor.seconds
        self.call_later = reactor.callLater
        #: The number of the round.
        self.round = 0
        self._ending = False
        self._users, self._strangers = ServiceClass(USERS_BUDGET), ServiceClass(STRANGERS_BUDGET)
        self._user_groups: WeakValueDictionary[str, ClientGroup] = WeakValueDictionary()
        self._network_groups: dict[str, ClientGroup] = {}

    def user(self, name: str) -> ClientGroup:
        """Return the group of a user's sessions."""
        return self._user_groups.get(name) or self._user_groups.setdefault(name, ClientGroup(self, self._users))

    def strangers(self, network: str, rate: float | None) -> ClientGroup:
        """Return the group of a network's sessions without a login, limited to `rate` commands per second from now."""
        group = self._network_groups.pop(network, None) or ClientGroup(self, self._strangers)
        if rate != (group.bucket and group.bucket.rate):
            group.bucket = (
                None if rate is None else self._counts.strangers_bucket(network, rate, rate * BURST_SECONDS, self.now())
            )
        self._network_groups[network] = group  # dict order: the most recent is last
        if len(self._network_groups) > self._counts.remembered_networks:
            del self._network_groups[next(iter(self._network_groups))]
        return group

    def end_round(self) -> None:
        """Begin the next round when the reactor has polled."""
        if not self._ending:
            self._ending = True
            self.call_later(0, self._begin_round)

    def begin_round_if_none_wait(self) -> None:
        """Begin the next round now: the reactor has polled. If sessions may wait, the timer begins it."""
        if not self._ending:
            self.round += 1
            self._users.spent = self._strangers.spent = 0.0

    def _begin_round(self) -> None:
        self._ending = False
        self.round += 1
        self._users.begin_round()
        self._strangers.begin_round()
        if self._users.first or self._users.others or self._strangers.first or self._strangers.others:
            self.end_round()
