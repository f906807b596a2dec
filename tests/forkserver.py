"""Starts `twistd` and `ftpsd` in processes that are forked from one that has imported everything already.

Otherwise half of the suite's CPU time would be the imports of its thousand daemons and commands. The programs are the real
ones: the same arguments, a process of their own, their output in files. Run as a module, this is the process that forks.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ftpsd

_PR_SET_CHILD_SUBREAPER = 36

#: Seconds for a command.
_PATIENCE = 120


class Forked:
    """A process that the fork server started: the part of subprocess.Popen that tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked process", timeout or 0.0)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


_server: subprocess.Popen[str] | None = None
_server_environment: dict[str, str] = {}


def start(arguments: list[str], directory: Path, log: Path, environment: dict[str, str]) -> Forked | None:
    """Start `twistd` with `arguments`, with its output in the file `log`. Return None where `_fork` does."""
    return _fork(["twistd", *arguments], directory, (os.devnull, str(log), str(log)), environment)


def run(
    arguments: Sequence[str], text: str = "", environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run `ftpsd` to its end, with `text` as its standard input; like `subprocess.run`."""
    environment = {**environment, "PYTHONPATH": str(Path(ftpsd.__file__).parents[1])}  # as for a daemon
    with tempfile.TemporaryDirectory() as directory:
        given, out, error = (Path(directory, name) for name in ("input", "output", "error"))
        given.write_text(text)
        process = _fork(["ftpsd", *arguments], Path.cwd(), (str(given), str(out), str(error)), environment)
        if process is None:
            command = [sys.executable, "-m", "ftpsd", *arguments]
            return subprocess.run(
                command, input=text, capture_output=True, text=True, env=environment, timeout=_PATIENCE
            )
        status = process.wait(_PATIENCE)
        return subprocess.CompletedProcess(["ftpsd", *arguments], status, out.read_text(), error.read_text())


def _fork(words: list[str], directory: Path, files: tuple[str, str, str], environment: dict[str, str]) -> Forked | None:
    """Start a program, given by its name and arguments, with three files as its standard streams.

    Return None if the environment changes how Python itself starts: then the caller must start a new interpreter.
    """
    global _server, _server_environment
    decisive = {name: value for name, value in environment.items() if name.startswith(("PYTHON", "LD_", "MALLOC"))}
    if _server is None:
        # The daemon's parent ends at once, and the daemon becomes a child of this process, which can wait for it.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _server_environment = decisive
        _server = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parents[1],
            text=True,
        )
        atexit.register(_server.kill)
    if decisive != _server_environment:
        return None
    assert _server.stdin is not None
    assert _server.stdout is not None
    _server.stdin.write(json.dumps([words, str(directory), files, environment]) + "\n")
    _server.stdin.flush()
    return Forked(int(_server.stdout.readline()))


def _import_all() -> None:
    """Import each module of ftpsd: `twistd` and `ftpsd` import theirs when they are told what to run."""
    for each in pkgutil.walk_packages(ftpsd.__path__, "ftpsd."):
        if each.name == "ftpsd.__main__":  # it runs the command
            continue
        try:
            importlib.import_module(each.name)
        except ImportError:  # its library is not installed: a program that wants it finds that out by itself
            continue


def _serve() -> None:
    """Fork one process for each line of standard input, and print its number."""
    from twisted.application.service import IServiceMaker
    from twisted.internet import reactor
    from twisted.plugin import getPlugins
    from twisted.scripts import twistd

    from ftpsd.cli.main import main

    list(getPlugins(IServiceMaker))
    _import_all()
    gc.collect()
    gc.freeze()  # what is shared stays shared
    for line in sys.stdin:
        words, directory, files, environment = json.loads(line)
        reading, writing = os.pipe()
        if os.fork() == 0:
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                os.close(writing)
                _become(directory, files, environment)
                sys.argv = words
                if words[0] == "ftpsd":
                    sys.exit(main())
                type(reactor).__init__(reactor)  # a poller and a waker of its own
                twistd.run()
                sys.exit()
            os.write(writing, b"%d" % pid)
            os._exit(0)
        os.close(writing)
        os.wait()
        pid_text = os.read(reading, 32).decode()
        os.close(reading)
        print(pid_text, flush=True)


def _become(directory: str, files: list[str], environment: dict[str, str]) -> None:
    """Give this process its directory, environment and standard streams."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files):
        with open(file, "ab" if number else "rb") as stream:
            os.dup2(stream.fileno(), number)


if __name__ == "__main__":
    _serve()
