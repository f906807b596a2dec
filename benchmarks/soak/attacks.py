"""What the hostile clients do. Each attack runs until it is cancelled, and counts in `done` what it has achieved."""

from __future__ import annotations

import asyncio
import collections
import errno
import itertools
import random
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.client import HOST
from benchmarks.soak.client import Client, Place, Unexpected
from benchmarks.soak.crew import Post
from benchmarks.soak.wire import Way, Wire, contexts

#: What a hostile client must expect.
REBUFFED = (OSError, ssl.SSLError, Unexpected, ValueError)
#: Connections of a flood that are open at once, in one process.
OPEN = 500
#: SO_LINGER: the end is a reset.
AT_ONCE = struct.pack("ii", 1, 0)


class Attack:
    """What an attack is given: the daemon, addresses to come from, and how many clients it has."""

    def __init__(self, port: int, sources: list[str], clients: int, rate: float) -> None:
        self.port = port
        self.rate = rate
        self.clients = clients
        self.done: Counter[str] = Counter()
        self._sources = itertools.cycle(sources)

    def place(self) -> Place:
        """The next client's."""
        return Place(self.port, next(self._sources))

    async def many(self, one: Callable[[], Awaitable[None]]) -> None:
        """All clients, each anew when it was thrown out."""

        async def over_and_over() -> None:
            while True:
                try:
                    await one()
                except REBUFFED as error:
                    self.done[f"thrown out ({type(error).__name__})"] += 1
                    await asyncio.sleep(1)

        await asyncio.gather(*(over_and_over() for _ in range(self.clients)))

    # --- one byte a second -------------------------------------------------------------------------

    async def read_slowly(self) -> None:
        """Fetches a file at a byte a second, with the smallest of receive buffers."""

        async def one(client: Client) -> None:
            wire = await client.open("RETR bulk", buffer=2048)
            self.done["slow readers"] += 1
            while True:
                await wire.receive_raw(1)
                await asyncio.sleep(1)

        await self._logged_in(one)

    async def write_slowly(self) -> None:
        """Stores a file at a byte a second: a long TLS record that never ends."""

        async def one(client: Client) -> None:
            wire = await client.open(f"STOR slow-{random.randrange(10**9)}")
            self.done["slow writers"] += 1
            await wire.send_raw(b"\x17\x03\x03\x40\x00")
            while True:
                await wire.send_raw(b"x")
                await asyncio.sleep(1)

        await self._logged_in(one)

    async def _logged_in(self, work: Callable[[Client], Awaitable[None]]) -> None:
        context = contexts()[0]

        async def one() -> None:
            client = Client(self.place(), context)
            try:
                await client.connect()
                await client.log_in()
                await work(client)
            finally:
                client.close(Way.RST)

        await self.many(one)

    async def speak_slowly(self) -> None:
        """A command at a byte a second."""

        async def one() -> None:
            place = self.place()
            wire = await Wire.connect(place.port, source=place.source)
            try:
                self.done["slow speakers"] += 1
                for letter in itertools.cycle(b"USER somebody "):
                    await wire.send_raw(bytes([letter]))
                    await asyncio.sleep(1)
            finally:
                wire.close(Way.RST)

        await self.many(one)

    # --- floods ------------------------------------------------------------------------------------

    async def say_nothing(self) -> None:
        """Connects and waits to be thrown out."""

        async def one() -> None:
            place = self.place()
            wire = await Wire.connect(place.port, source=place.source)
            try:
                if (await wire.line()).startswith(b"220"):
                    self.done["silent sessions"] += 1
                while await wire.receive_raw():
                    pass
                self.done["refused or thrown out"] += 1
            finally:
                wire.close(Way.RST)
            await asyncio.sleep(0.5)

        await self.many(one)

    async def shake_hands(self) -> None:
        """AUTH TLS and a ClientHello that was made beforehand: costs the daemon a handshake, and the client nothing."""
        hello = _client_hello()

        async def one() -> None:
            place = self.place()
            wire = await Wire.connect(place.port, source=place.source)
            try:
                await wire.line()
                await wire.send_raw(b"AUTH TLS\r\n")
                await wire.line()
                await wire.send_raw(hello)
                if await wire.receive_raw():
                    self.done["handshakes begun"] += 1
            finally:
                wire.close(Way.RST)

        await self.many(one)

    async def connect(self) -> None:
        """Connects, `rate` times a second if it can, and resets the oldest connections."""
        loop = asyncio.get_running_loop()
        start, begun = loop.time(), 0
        open_now: collections.deque[socket.socket] = collections.deque()
        try:
            while True:
                while begun < (loop.time() - start) * self.rate:
                    begun += 1
                    open_now.append(self._connection())
                    if len(open_now) > OPEN:
                        _drop(open_now.popleft(), self.done)
                    if begun % 50 == 0:
                        break
                await asyncio.sleep(0)
        finally:
            for connection in open_now:
                _drop(connection, self.done)

    def _connection(self) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: only whole addresses must differ
        connection.bind((next(self._sources), 0))
        connection.connect_ex((HOST, self.port))
        return connection


def _drop(connection: socket.socket, done: Counter[str]) -> None:
    try:
        connection.getpeername()
        done["connected"] += 1
    except OSError as error:
        done[f"not connected ({errno.errorcode.get(error.errno or 0)})"] += 1
    connection.close()


def _client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = contexts()[0].wrap_bio(ssl.MemoryBIO(), outgoing)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


async def attack(post: Post, names: Iterator[str], port: int, sources: list[str], clients: int, rate: float) -> None:
    """Client process: attacks until it is told to stop, and says what it has done, in how many seconds."""
    work = Attack(port, sources, clients, rate)
    start = time.monotonic()
    tasks = [asyncio.ensure_future(getattr(work, name)()) for name in names]
    await post.hear()
    seconds = time.monotonic() - start
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    mistakes = [end for end in ends if not isinstance(end, asyncio.CancelledError)]
    post.say((work.done, seconds) if not mistakes else RuntimeError(repr(mistakes)))
