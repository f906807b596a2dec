"""A busy machine, or a process that was stopped for a while, is taken for no fault of a disk or of a client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftpsd.config import disk_watch
from ftpsd.config.disk_watch import DiskWatch, watched
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.yaml import Document
from tests.daemon import PATIENCE

#: A thread that has ended for Python, and ends for the kernel half a second later. Then the process is forked.
_FORK_DURING_END = """
import ctypes, os, threading
from ftpsd.processes.forks.forking import fork_alone
libc, key = ctypes.CDLL(None), ctypes.c_uint()
libc.pthread_key_create(ctypes.byref(key), libc.usleep)
thread = threading.Thread(target=lambda: libc.pthread_setspecific(key, ctypes.c_void_p(500_000)))
thread.start()
thread.join()
before = len(os.listdir("/proc/self/task"))
pid = fork_alone()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
print(before, len(os.listdir("/proc/self/task")))
"""

#: A load with one disk call, which takes a second.
_LOAD = """
import time
from pathlib import Path
from ftpsd.config import disk_watch
from ftpsd.config.yaml import Document
disk_watch.DEADLINE = 2
def load(watch):
    watch.begin(Document(Path("file")), (), "home")
    print("begun", flush=True)
    time.sleep(1)
    watch.end()
    return "loaded"
print(disk_watch.watched(load))
"""


def _python(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_no_process_is_forked_while_a_thread_ends() -> None:
    """A thread that ends may hold a lock of OpenSSL, which the forked process would wait for forever."""
    with _python(_FORK_DURING_END) as process:
        before, after = process.communicate(timeout=PATIENCE)[0].split()
    if sys.version_info < (3, 13):  # later releases wait for the kernel
        assert before == "2"
    assert after == "1"


def test_a_disk_call_of_a_process_that_was_stopped() -> None:
    """A load that was stopped for longer than its disk calls may take is not refused."""
    with _python(_LOAD) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == "loaded\n"


@pytest.mark.quick
def test_a_disk_call_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What uses the processor does not wait for a disk: the key of a certificate takes its time on a busy machine."""
    monkeypatch.setattr(disk_watch, "INTERVAL", 0.05)
    monkeypatch.setattr(disk_watch, "DEADLINE", 0.5)

    def load(wait: bool) -> str:
        def run(watch: DiskWatch) -> str:
            watch.begin(Document(Path("file")), (), "home")
            end = time.monotonic() + 2
            while time.monotonic() < end:
                time.sleep(2 if wait else 0)
            watch.end()
            return "loaded"

        return watched(run)

    assert load(wait=False) == "loaded"
    with pytest.raises(InvalidConfiguration, match="the disk of home does not respond"):
        load(wait=True)
