"""Sharing the reactor thread: rounds, client groups and tokens, with a clock that only the work moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftpsd.control.scheduler import BURST_SECONDS, STRANGERS_BUDGET, USERS_BUDGET, ClientGroup, Scheduler, Task


class Clock:
    """A reactor's clock that only work and waiting move. What is asked for in a turn is called in the next one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers = 0
        self._calls: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []

    def seconds(self) -> float:
        """The time."""
        return self.now

    def callLater(self, delay: float, function: Callable[..., object], *arguments: Any) -> None:
        """As the reactor's."""
        self.timers += 1
        self._calls.append((self.now + delay, function, arguments))

    def turn(self, wait: float = 0.0) -> float:
        """Waits, and makes the calls that are due; how long those took."""
        self.now += wait
        before, calls, self._calls = self.now, self._calls, []
        for when, function, arguments in calls:
            if when <= before:
                function(*arguments)
            else:
                self._calls.append((when, function, arguments))
        return self.now - before


class Client:
    """A session with commands that take a while each; how many of them were carried out."""

    def __init__(self, clock: Clock, group: ClientGroup, each: float = 0.0001) -> None:
        self.waiting = self.done = self.pauses = 0
        self._clock = clock
        self._each = each
        self.task = Task(group, self._pause, self._work)

    def send(self, commands: int) -> None:
        """Commands come in."""
        self.waiting += commands
        self.task.run_input(self._work)

    def _work(self) -> None:
        while self.waiting and self.task.may_continue(self._clock.seconds()):
            self.task.take_tokens(1)
            self._clock.now += self._each
            self.waiting -= 1
            self.done += 1

    def _pause(self) -> None:
        self.pauses += 1


def test_one_command_at_a_time_never_waits() -> None:
    """A client that waits for each reply is served when its command comes."""
    clock = Clock()
    client = Client(clock, Scheduler(clock).user("alice"))
    for _ in range(1000):
        client.send(1)
        clock.turn()
    assert (client.done, client.pauses) == (1000, 0)


def test_one_busy_session_sets_no_timer() -> None:
    """As long as one session alone is busy, rounds begin without a timer, which would cost more than a command."""
    clock = Clock()
    client = Client(clock, Scheduler(clock).user("alice"))
    for _ in range(1000):
        client.send(1)
    assert (client.done, client.pauses, clock.timers) == (1000, 0, 0)


def test_input_gets_no_time_of_those_who_wait() -> None:
    """A client that sends more after each poll gets no more than its slice while other users wait."""
    clock = Clock()
    scheduler = Scheduler(clock)
    flood = [Client(clock, scheduler.user(f"user {number}")) for number in range(10)]
    for each in flood:
        each.send(1000)
    eager = Client(clock, scheduler.user("eager"))
    before = clock.seconds()
    for _ in range(10):
        eager.send(1000)
    assert clock.seconds() - before < USERS_BUDGET


def test_a_flood_is_done_in_turns() -> None:
    """A hundred sessions of a user work no longer than one may, and all of them get on."""
    clock = Clock()
    scheduler = Scheduler(clock)
    flood = [Client(clock, scheduler.user("alice")) for _ in range(100)]
    before = clock.seconds()
    for each in flood:
        each.send(100)
    assert clock.seconds() - before < USERS_BUDGET
    for _ in range(250):
        assert clock.turn() < USERS_BUDGET
    assert min(each.done for each in flood) > 25
    while any(each.waiting for each in flood):
        clock.turn()
    assert sum(each.done for each in flood) == 10_000


def test_others_come_before_a_flood() -> None:
    """A command of another user waits for one turn at most, however many sessions and users flood."""
    clock = Clock()
    scheduler = Scheduler(clock)
    flood = [Client(clock, scheduler.user(f"user {number % 5}")) for number in range(100)]
    for each in flood:
        each.send(1000)
    for _ in range(10):
        clock.turn()
    neighbour = Client(clock, scheduler.user("bob"))
    for number in range(50):
        neighbour.send(1)
        clock.turn()
        assert neighbour.done == number + 1


def test_floods_of_users_get_the_same() -> None:
    """A user with one session is served as much as a user with fifty."""
    clock = Clock()
    scheduler = Scheduler(clock)
    many = [Client(clock, scheduler.user("many")) for _ in range(50)]
    one = Client(clock, scheduler.user("one"))
    for each in [*many, one]:
        each.send(10_000)
    for _ in range(200):
        clock.turn()
    assert 0.8 < one.done / sum(each.done for each in many) < 1.25


def test_nobody_starves() -> None:
    """A flood goes on, too, while many others send a command now and then in each turn."""
    clock = Clock()
    scheduler = Scheduler(clock)
    flood = Client(clock, scheduler.user("flood"))
    flood.send(10_000)
    others = [Client(clock, scheduler.user(str(number))) for number in range(100)]
    before = flood.done
    for _ in range(100):
        for each in others:
            each.send(1)
        clock.turn()
    assert flood.done > before + 50


def test_strangers_share_the_credit_of_their_network() -> None:
    """Without a login, the sessions of a network have one burst and one rate together."""
    clock = Clock()
    scheduler = Scheduler(clock)
    flood = [Client(clock, scheduler.strangers("192.0.2.1", 100)) for _ in range(10)]
    for each in flood:
        each.send(10_000)
    for _ in range(2000):
        clock.turn()
    burst = sum(each.done for each in flood)
    assert 100 * BURST_SECONDS <= burst < 100 * BURST_SECONDS + 100
    for _ in range(100):
        clock.turn(0.1)
        clock.turn()
    assert 900 < sum(each.done for each in flood) - burst < 1100
    assert min(each.done for each in flood) > 50
    other = Client(clock, scheduler.strangers("192.0.2.2", 100))
    other.send(1)
    clock.turn()
    assert other.done == 1


def test_a_login_returns_the_credit() -> None:
    """Any number of clients of one network can log in; those that leave without a login have used it up."""
    clock = Clock()
    scheduler = Scheduler(clock)
    for _ in range(1000):
        client = Client(clock, scheduler.strangers("192.0.2.1", 100))
        client.send(10)
        clock.turn()
        assert client.done == 10
        client.task.move(scheduler.user("alice"))
    for _ in range(100):
        client = Client(clock, scheduler.strangers("192.0.2.1", 100))
        client.send(10)
        clock.turn()
        client.task.leave()
    client = Client(clock, scheduler.strangers("192.0.2.1", 100))
    client.send(100)
    assert client.done < 20


def test_a_session_that_waits_may_log_in() -> None:
    """What a session had to wait with as a stranger is done as its user's."""
    clock = Clock()
    scheduler = Scheduler(clock)
    strangers = scheduler.strangers("192.0.2.1", 1)
    client = Client(clock, strangers)
    client.send(100)
    assert client.done == BURST_SECONDS
    client.task.move(scheduler.user("alice"))
    while client.waiting:
        assert clock.turn() > 0
    assert strangers.bucket is not None
    assert strangers.bucket.tokens == BURST_SECONDS


def test_debts_have_a_bound() -> None:
    """A flood of connections keeps its network waiting for a second after its end, and no longer."""
    clock = Clock()
    strangers = Scheduler(clock).strangers("192.0.2.1", 100)
    assert strangers.bucket is not None
    for _ in range(100_000):
        strangers.bucket.take(3)
    clock.turn(1.1)
    assert strangers.deadline(clock.seconds()) > 0


def test_strangers_leave_time_for_users() -> None:
    """However many networks flood, they have a part of each turn, and users the rest."""
    clock = Clock()
    scheduler = Scheduler(clock)
    for number in range(1000):
        Client(clock, scheduler.strangers(str(number), None)).send(1000)
    user = Client(clock, scheduler.user("alice"))
    user.send(10_000)
    for _ in range(10):
        assert clock.turn() < USERS_BUDGET + STRANGERS_BUDGET
    assert user.done > 100


def test_a_slice_that_is_all_but_used_up() -> None:
    """A group with less time left than a command takes waits for the next round; the round ends, whatever is left."""
    for part in range(1, 60):
        clock = Clock()
        scheduler = Scheduler(clock)
        slow = USERS_BUDGET / 16 - part / 2_000_000  # from half a microsecond to thirty before the end of a slice
        for other in ("bob", "carol"):  # they use up the first turn
            Client(clock, scheduler.user(other), USERS_BUDGET).send(1)
        clients = [Client(clock, scheduler.user("alice"), slow) for _ in range(3)]
        for client in clients:
            client.send(1)
        for _ in range(100):
            clock.turn()
        assert all(client.done == 1 for client in clients)
