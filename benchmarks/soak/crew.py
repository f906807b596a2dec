"""Processes of clients. Each runs one coroutine, which talks with the programme by a pipe."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

#: How long a client process may work without a word.
LONGEST = 1200.0


class Post:
    """What a client process has of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, word: Any) -> None:
        """To the programme."""
        self._pipe.send(word)

    async def hear(self) -> Any:
        """From the programme; nothing else of this process waits meanwhile."""
        return await asyncio.to_thread(self._pipe.recv)


Task = Callable[..., Awaitable[None]]


def _work(task: Task, pipe: Connection, arguments: tuple[Any, ...]) -> None:
    try:
        asyncio.run(task(Post(pipe), *arguments))
    except KeyboardInterrupt:
        pass
    except Exception as error:
        pipe.send(error if isinstance(error, OSError) else RuntimeError(repr(error)))


class Crew:
    """Client processes that all run the same, each with arguments of its own."""

    def __init__(self, task: Task, each: list[tuple[Any, ...]]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        self._silent: set[int] = set()
        for arguments in each:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(task, theirs, arguments), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.join(10 if kind is None else 0)
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()

    def tell(self, word: Any) -> None:
        """To all of them."""
        for pipe in self._pipes:
            pipe.send(word)

    def hear(self) -> list[Any]:
        """One word of each."""
        return [self._hear(pipe) for pipe in self._pipes]

    def waiting(self) -> list[tuple[int, Any]]:
        """The words that have come by now, each with the number of who said it."""
        words = []
        for number, pipe in enumerate(self._pipes):
            if number not in self._silent and pipe.poll():
                try:
                    words.append((number, self._hear(pipe)))
                except EOFError:
                    self._silent.add(number)
        return words

    def _hear(self, pipe: Connection) -> Any:
        if not pipe.poll(LONGEST):
            raise TimeoutError("a client process says nothing")
        word = pipe.recv()
        if isinstance(word, Exception):
            raise word
        return word
