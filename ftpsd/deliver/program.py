"""Give events to a program: Program."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import cast

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ftpsd.deliver.target import NotDelivered, body
from ftpsd.outbox.segments import Entry
from ftpsd.system.reactor import Reactor

#: Bytes of the output that are kept, to tell why a program has failed. The rest is read and dropped.
LONGEST_OUTPUT = 2048

#: Seconds between SIGTERM and SIGKILL, and between two looks whether the program has ended.
_GRACE, _LOOK = 2.0, 0.05

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Program:
    """Runs a program once for each event. Exit status 0 means that the event is delivered.

    No shell is involved: the arguments are those of the configuration, the event is in the environment and on standard
    input. The program runs in a process group of its own, and inherits no descriptor of the deliverer.
    """

    def __init__(self, reactor: Reactor, threads: ThreadPool, command: tuple[str, ...], timeout: int) -> None:
        self._reactor = reactor
        self._threads = threads
        self._command = command
        self._timeout = timeout
        self._stopping = False

    async def deliver(self, entry: Entry) -> None:
        """Run the program."""
        await deferToThreadPool(cast(IReactorFromThreads, self._reactor), self._threads, self._run, entry)

    def stop(self) -> None:
        """End the programs that run."""
        self._stopping = True

    def _run(self, entry: Entry) -> None:
        data = os.memfd_create("event", os.MFD_CLOEXEC)
        try:
            os.write(data, body(entry) + b"\n")
            os.lseek(data, 0, os.SEEK_SET)
            process = subprocess.Popen(
                self._command,
                stdin=data,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment(entry),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NotDelivered(str(error)) from None
        finally:
            os.close(data)
        output, in_time = self._watch(process)
        if not in_time:
            raise NotDelivered("stopped" if self._stopping else f"did not end within {self._timeout} seconds")
        if process.returncode:
            text = output.decode("utf-8", "backslashreplace").strip().replace("\n", " | ")
            raise NotDelivered(f"{_status(process.returncode)}{': ' + text if text else ''}"[:500])

    def _watch(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bool]:
        """Read the output until the program ends, or kill it. Return the output, and whether it ended by itself."""
        assert process.stdout is not None
        deadline, output, in_time = time.monotonic() + self._timeout, b"", True
        pipe = process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        with process.stdout:
            while process.poll() is None:
                if poll.poll(_LOOK * 1000):
                    data = os.read(pipe, 65536)
                    output += data[: LONGEST_OUTPUT - len(output)]
                    if not data:  # it has closed its output, and runs
                        poll.unregister(pipe)
                if self._stopping or time.monotonic() > deadline:
                    in_time = False
                    _end(process)
            if in_time and poll.poll(0):
                output += os.read(pipe, LONGEST_OUTPUT)[: LONGEST_OUTPUT - len(output)]
        return output, in_time


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program with all that it has started."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            process.wait()
        except subprocess.TimeoutExpired:
            pass


def _status(code: int) -> str:
    return f"exit status {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"


def environment(entry: Entry) -> dict[str, str]:
    """Return the environment of a program: each field of the record as FTPSD_…, and what else the journal has.

    FTPSD_PATH and FTPSD_NEW_PATH have the bytes of the names as they are on the disk, FTPSD_FILE the absolute path.
    """
    record, paths = entry["record"], entry.get("paths")
    assert isinstance(record, dict)
    fields = {f"FTPSD_{name.upper()}": _text(value) for name, value in record.items()}
    if isinstance(paths, list):
        fields.update(zip(("FTPSD_PATH", "FTPSD_NEW_PATH"), map(str, paths), strict=False))
    if "file" in entry:
        fields["FTPSD_FILE"] = str(entry["file"])
    return {"PATH": _PATH, "LANG": "C.UTF-8", **fields}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def exists(command: tuple[str, ...]) -> bool:
    """Return whether the program may be run by this process."""
    return Path(command[0]).is_file() and os.access(command[0], os.X_OK)
