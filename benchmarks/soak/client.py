"""An FTPS client of which thousands fit into one process."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass

from benchmarks.client import HOST
from benchmarks.soak.wire import ENDLESS, Way, Wire

PASSWORD = "secret"


class Unexpected(Exception):
    """A reply that the work does not need."""


@dataclass
class Place:
    """Where the daemon is, and from which address a client comes (None: the usual one)."""

    port: int
    source: str | None = None
    user: str = "alice"


class Client:
    """One session. `control_bytes` and `data_bytes` may pass, then it is cut."""

    def __init__(
        self, place: Place, context: ssl.SSLContext, control_bytes: int = ENDLESS, data_bytes: int = ENDLESS
    ) -> None:
        self._place = place
        self._context = context
        self._control_bytes = control_bytes
        self._data_bytes = data_bytes
        self.wires: list[Wire] = []
        self._listener: socket.socket | None = None
        #: The last command, for whoever has to explain a fault.
        self.last = "connect"

    @property
    def control(self) -> Wire:
        """The control connection."""
        return self.wires[0]

    # --- control -----------------------------------------------------------------------------------

    async def expect(self, *codes: int) -> str:
        """A reply with one of these codes; its last line."""
        line = first = await self.control.line()
        while line[:4] != first[:3] + b" ":
            line = await self.control.line()
        if int(line[:3]) not in codes:
            raise Unexpected(line.decode("utf-8", "replace"))
        return line.decode("utf-8", "replace")

    async def command(self, line: str, *codes: int) -> str:
        """A command and its reply."""
        self.last = line.partition(" ")[0]
        await self.control.send(line.encode() + b"\r\n")
        return await self.expect(*codes)

    async def connect(self) -> None:
        """To the greeting."""
        self.wires.append(await Wire.connect(self._place.port, self._control_bytes, self._place.source))
        await self.expect(220)

    async def log_in(self) -> None:
        """From AUTH to TYPE I."""
        await self.command("AUTH TLS", 234)
        await self.control.secure(self._context)
        await self.command(f"USER {self._place.user}", 331)
        await self.command(f"PASS {PASSWORD}", 230)
        for line in ("PBSZ 0", "PROT P", "TYPE I"):
            await self.command(line, 200)

    async def quit(self) -> None:
        """QUIT, and to the end of the connection."""
        await self.command("QUIT", 221)
        await self.control.receive()
        self.close()

    # --- data --------------------------------------------------------------------------------------

    async def open(self, line: str, active: bool = False, buffer: int = 0) -> Wire:
        """The data connection of a command, behind its 150 and its handshake."""
        wire = await (self._accept(line) if active else self._dial(line, buffer))
        await wire.secure(self._context, self.control.session)
        return wire

    async def _dial(self, line: str, buffer: int) -> Wire:
        port = int((await self.command("EPSV", 229)).rsplit("|", 2)[1])
        wire = await Wire.connect(port, self._data_bytes, self._place.source, buffer)
        self.wires.append(wire)
        await self.command(line, 150)
        return wire

    async def _accept(self, line: str) -> Wire:
        self._listener = socket.create_server((self._place.source or HOST, 0))
        self._listener.setblocking(False)
        host, port = self._listener.getsockname()
        await self.command(f"EPRT |1|{host}|{port}|", 200)
        self.last = f"{line} in active mode"
        await self.control.send(line.encode() + b"\r\n")
        connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        self._listener.close()
        wire = Wire(connection, self._data_bytes)
        self.wires.append(wire)
        await self.expect(150)
        return wire

    async def download(self, line: str, active: bool = False) -> bytes:
        """All that a command sends."""
        wire = await self.open(line, active)
        pieces = []
        while piece := await wire.receive():
            pieces.append(piece)
        await wire.finish()
        wire.close()
        self.wires.remove(wire)
        await self.expect(226)
        return b"".join(pieces)

    async def upload(self, line: str, data: bytes, active: bool = False) -> None:
        """Sends a file."""
        wire = await self.open(line, active)
        await wire.send(data)
        await wire.finish()
        while await wire.receive_raw():
            pass  # tickets and close_notify
        wire.close()
        self.wires.remove(wire)
        await self.expect(226)

    def close(self, way: Way = Way.FIN) -> None:
        """Without a word; any number of times."""
        if self._listener is not None:
            self._listener.close()
        for wire in self.wires:
            wire.close(way)
