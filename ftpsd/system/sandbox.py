"""What the daemon needs of the system's files, and that the kernel keeps it to that: see landlock.py.

The jail (jail.py) keeps users in their homes; this is for the day on which the jail has a hole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from twisted.logger import Logger

import ftpsd
from ftpsd.config.settings import SandboxSettings
from ftpsd.system import landlock
from ftpsd.system.landlock import READ, REMOVE, WRITE, Rule, Unavailable

log = Logger(namespace="ftpsd")

#: Libraries, time zones, what name service reads, randomness, and what the process may know of itself.
_SYSTEM = ("/usr", "/lib", "/lib64", "/etc", "/dev/random", "/dev/urandom", "/proc/self")


class Sandbox:
    """Limit the process to the places that are in use when it starts.

    `files` are read again at each reload, `directories` are written to, `removed` are removed at the end; `twistd` are
    the options of twistd.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        files: Iterable[Path],
        directories: Iterable[str],
        twistd: Mapping[str, object] | None,
        removed: Iterable[Path] = (),
    ) -> None:
        self._wanted = settings.landlock != "off"
        self._written = {*directories, *(_logs(twistd) if twistd else ())}
        self._rules: list[Rule] = [(each, READ) for each in (*_SYSTEM, *_python())]
        # Renewed files take the place of the old ones; certbot's are links into another directory.
        for file in (*files, Path("/etc/resolv.conf")):
            self._rules += [(_around(os.path.abspath(file)), READ), (_around(os.path.realpath(file)), READ)]
        self._rules += [(each, WRITE) for each in (*self._written, os.devnull)]
        if twistd and twistd["pidfile"]:
            removed = (*removed, Path(str(twistd["pidfile"])))
        self._rules += [(_around(os.path.abspath(each)), REMOVE) for each in removed]

    def enter(self) -> None:
        """Keeps the process, which must have one thread only, to these places; the log says whether it worked."""
        landlock.no_new_privileges()
        log.info("landlock is {state}", state=self._enter())

    def _enter(self) -> str:
        if not self._wanted:
            return "off: the configuration says so"
        if "/" in self._written:
            return "off: a home, or the log file, takes in the whole system"
        try:
            version = landlock.enter(self._rules)
        except Unavailable as reason:
            return f"off: {reason}"
        return f"on (ABI {version}): nothing is written but below {', '.join(sorted(self._written))}"


def _around(path: str) -> str:
    """The directory that a file lies in; the file alone where that is /."""
    return os.path.dirname(path).rstrip("/") or path


def _python() -> set[str]:
    """Where modules are found: some are imported when they are needed first."""
    here = os.getcwd()  # twistd puts it into the path, whatever it is
    path = {each for each in map(os.path.abspath, sys.path) if each not in ("/", here)}
    return {sys.prefix, sys.base_prefix, os.path.dirname(ftpsd.__file__), *path}


def _logs(twistd: Mapping[str, object]) -> list[str]:
    """The directory of the log file, which twistd turns over when it is long."""
    elsewhere = any(twistd.get(option) for option in ("nodaemon", "syslog", "logger"))
    named = str(twistd.get("logfile") or "") or ("-" if elsewhere else "twistd.log")
    return [] if named == "-" else [os.path.dirname(os.path.abspath(named))]
