"""An upload that is cut because its data connection may be another session's keeps no byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: The reactor cuts the upload while its thread is about to receive for the time that `sys.argv[2]` says.
CUT = """
import os, socket, sys, threading
from types import SimpleNamespace
from twisted.internet import reactor
from ftpsd.data.channel import DataChannel
from ftpsd.data.steps import upload
from ftpsd.data.streams import PlainStream
from ftpsd.data.transfer import Transfer
from ftpsd.storage.local.upload import Target, begin_upload
from ftpsd.system.worker_threads import WorkerThreads

directory, turn = sys.argv[1], int(sys.argv[2])
client, server = socket.socketpair()
server.setblocking(False)
workers, cut = WorkerThreads(reactor, size=1), threading.Event()


class Stream(PlainStream):
    turns = 0

    def _receive_raw(self, buffer):
        self.turns += 1
        if self.turns == turn:
            reactor.callFromThread(lambda: (DataChannel._cut_mixed(channel), cut.set()))
            cut.wait(10)
        return super()._receive_raw(buffer)


stream = Stream(server)
target = begin_upload(Target(os.open(directory, os.O_RDONLY), "file", False, "anything", 0o22, False), 0)
transfer = Transfer(reactor, workers.queue("user"), upload(stream, False, target), stream, [target, stream])
channel = SimpleNamespace(_transfer=transfer, _stream=stream, _abort_reason=None)
client.send(b"bytes of another session")


def begin():
    workers.start()
    transfer.start()
    transfer.finished.addErrback(lambda failure: print(failure.type.__name__)).addBoth(lambda _: reactor.stop())


reactor.callWhenRunning(begin)
reactor.callLater(20, reactor.stop)
reactor.run()
workers.stop()
"""


@pytest.mark.parametrize("turn", [1, 2])
def test_a_step_that_the_cut_interrupts(tmp_path: Path, turn: int) -> None:
    """The step that the cut interrupts raises its own error first: what it has received before is not kept either."""
    command = [sys.executable, "-c", CUT, str(tmp_path), str(turn)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "MixedUp\n", done.stderr
    assert os.listdir(tmp_path) == []
