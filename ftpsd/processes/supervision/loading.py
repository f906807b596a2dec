"""Load a configuration in all processes, or in none: ConfigurationLoads."""

from __future__ import annotations

import itertools
import signal

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.processes.forks.spawning import Spawner
from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.processes.supervisor import Workers
from ftpsd.system.link import Link
from ftpsd.system.presence import within
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Seconds for a process to load the configuration: less than systemd waits for a reload (90).
LONGEST = 60

#: Seconds for a worker to use it: longer than it waits for a lock, or misses heartbeats.
LONGEST_USE = 30


class ConfigurationLoads:
    """Lets the spawner and all workers load the configuration. They keep it until `use`."""

    def __init__(self, reactor: Reactor, path: str, spawner: Spawner, workers: Workers) -> None:
        self._reactor = reactor
        self._path = path
        self._spawner = spawner
        self._workers = workers
        self._numbers = itertools.count()
        #: What workers have not answered yet: by their index and the number of the load.
        self._waiting: dict[tuple[int, int], Deferred[list[str]]] = {}
        #: The workers that have not got the last load: they were started after it has begun.
        self._late: set[int] = set()
        workers.on_start(self._serve)
        workers.on_end(self._ended)

    async def load(self, with_workers: bool) -> None:
        """Load it in the spawner, and in the workers. Raises InvalidConfiguration with the faults that they report."""
        number = next(self._numbers)
        self._late.clear()
        answers = [self._within(self._spawner.load(), "the process that starts workers")]
        for index, link in self._serving().items() if with_workers else ():
            answer: Deferred[list[str]] = Deferred()
            self._waiting[index, number] = answer
            answers.append(self._within(answer, f"worker {index}"))
            link.tell("process.load", number)
        texts = {text for faults in await gatherResults(answers) for text in faults}
        if texts:
            raise InvalidConfiguration([Fault(self._path, 0, "workers", text, "") for text in sorted(texts)])

    async def use(self, with_workers: bool) -> None:
        """Let the spawner, and the workers, use what they have loaded.

        When this returns, nobody can log in with the last configuration: a worker that cannot use the new one has let
        itself be replaced, and one that does not answer is ended here.
        """
        self._spawner.use()
        if with_workers:
            links = self._serving()
            for index in self._late & links.keys():
                links[index].tell("process.load", next(self._numbers))
            answers = [
                link.call("process.use", patience=LONGEST_USE).addErrback(
                    self._not_used, self._workers.processes[index]
                )
                for index, link in links.items()
            ]
            await gatherResults(answers)

    def _not_used(self, _: Failure, worker: WorkerProcess) -> None:
        if worker.state != "draining" and self._workers.processes.get(worker.index) is worker:
            log.error("{worker} does not use the new configuration, and is ended", worker=worker.name)
            worker.send_signal(signal.SIGKILL)

    def _within(self, answer: Deferred[list[str]], who: str) -> Deferred[list[str]]:
        """Let a process that does not answer have a fault: a reload must end."""
        late = [f"{who} has not loaded the configuration within {LONGEST} seconds"]
        return within(answer, self._reactor, LONGEST, lambda *_: late)

    def _serving(self) -> dict[int, Link]:
        """Return the links to all workers but those that only end their sessions: their sandbox may be an older one."""
        processes = self._workers.processes
        return {index: link for index, link in self._workers.links.items() if processes[index].state != "draining"}

    def _serve(self, index: int, link: Link) -> None:
        self._late.add(index)
        link.serve("process.loaded", lambda number, faults: self._answer((index, number), faults))

    def _answer(self, key: tuple[int, int], faults: list[str]) -> None:
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            waiting.callback(faults)

    def _ended(self, index: int) -> None:
        """A worker has ended: another one begins with what the spawner has loaded."""
        for key in [each for each in self._waiting if each[0] == index]:
            self._answer(key, [])
