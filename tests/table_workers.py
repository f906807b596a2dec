"""Real processes that share a table."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from ftpsd.limits.shared.table import SharedTable

fork = multiprocessing.get_context("fork")

#: The slots and files of the table.
SIZE = (1024, 1024)

#: What a process does with the table; it may talk with the test.
Work = Callable[[SharedTable, Connection], object]


class TableWorkers:
    """Processes that use a table. They end with the test."""

    def __init__(self, table: SharedTable) -> None:
        self._table = table
        self._all: list[Any] = []

    def start(self, index: int, work: Work) -> tuple[Any, Connection]:
        """Start a process; return it, and the connection to it."""
        mine, theirs = fork.Pipe()

        def run() -> None:
            work(SharedTable.attach(os.dup(self._table.descriptor), index, *SIZE), theirs)

        process = fork.Process(target=run, daemon=True)
        process.start()
        self._all.append(process)
        theirs.close()
        return process, mine

    def kill(self, process: Any) -> None:
        """Kill one, and wait until it has gone."""
        process.kill()
        process.join(10)

    def stop(self) -> None:
        """Kill all."""
        for process in self._all:
            self.kill(process)


@contextmanager
def table_workers() -> Iterator[tuple[SharedTable, TableWorkers]]:
    """Make a small table of a supervisor, for workers."""
    table = SharedTable.create(*SIZE)
    workers = TableWorkers(table)
    try:
        yield table, workers
    finally:
        workers.stop()
        table.close()


def receive(pipe: Connection) -> Any:
    """Return what a process says."""
    assert pipe.poll(20)
    return pipe.recv()
