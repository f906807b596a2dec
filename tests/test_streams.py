"""A data connection's bytes: whose error it is."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from pathlib import Path

import pytest

from ftpsd.data.endpoints import FileSource
from ftpsd.data.handshakes import RecordEnds
from ftpsd.data.streams import PlainStream
from ftpsd.protocol.replies import Refusal
from tests.daemon import PATIENCE


def test_a_peer_that_is_lost_while_a_file_is_sent(tmp_path: Path) -> None:
    """A connection that times out within `sendfile` gives 426, and is no error of the file."""
    (tmp_path / "file").write_bytes(bytes(16 * 1024 * 1024))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as deaf:
        connection, _ = server.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)  # milliseconds
        source, poll = FileSource(os.open(tmp_path / "file", os.O_RDONLY), 0, None, 1 << 24), select.poll()
        poll.register(connection, select.POLLOUT)
        with pytest.raises(Refusal, match="timed out"):
            for _ in PlainStream(connection).send_file(source):
                poll.poll(20_000)
        source.close()
        connection.close()
        deaf.close()


def test_an_abort_while_the_connection_is_closed() -> None:
    """A connection is not closed while another thread shuts it down: its number could be that of a new connection."""
    order, begun = list[str](), threading.Event()

    class Slow(socket.socket):
        """A socket that takes long to shut down."""

        def shutdown(self, how: int) -> None:
            begun.set()
            time.sleep(0.2)
            order.append("shut down")
            super().shutdown(how)

        def close(self) -> None:
            order.append("closed")
            super().close()

    one, other = socket.socketpair()
    with other, Slow(fileno=one.detach()) as connection:
        stream = PlainStream(connection)
        abort = threading.Thread(target=stream.interrupt)
        abort.start()
        assert begun.wait(PATIENCE)
        stream.close()
        assert order == ["shut down", "closed"]
        abort.join(PATIENCE)
        stream.interrupt()  # of a connection that is closed: nothing


def test_the_ends_of_records() -> None:
    """A stream of TLS records is at the end of one only when the last one is complete, however its bytes arrive."""
    records = b"".join(b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size) for size in (0, 1, 700, 16_401, 3))
    ends = {5, 11, 716, 17_122, 17_130}
    assert len(records) == max(ends)
    for step in (1, 2, 3, 7, 256, 4096, len(records)):
        found, at = RecordEnds(), 0
        while at < len(records):
            found.add(memoryview(records)[at : at + step])
            at = min(at + step, len(records))
            assert found.reached == (at in ends), (step, at)
