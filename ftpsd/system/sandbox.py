"""The sandbox: the kernel limits the process to the files that the daemon needs (see `landlock.py`).

It is a second line of defence. `storage/local/jail` keeps each user in the home, and the sandbox limits the damage if
that has a fault.
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

#: Libraries, time zones, files of the name service, random numbers, and what /proc shows of the process itself.
_SYSTEM = ("/usr", "/lib", "/lib64", "/etc", "/dev/random", "/dev/urandom", "/proc/self")


class Sandbox:
    """Limits the process to the files and directories that are configured when it starts.

    `files` are read again at each reload, `directories` are written to, and `removed` are removed at the end. `twistd`
    has the options of twistd.
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
        # The whole directory: a renewed file replaces the old one. Those of certbot are links to another directory.
        for file in (*files, Path("/etc/resolv.conf")):
            self._rules += [(_around(os.path.abspath(file)), READ), (_around(os.path.realpath(file)), READ)]
        self._rules += [(each, WRITE) for each in (*self._written, os.devnull)]
        if twistd and twistd["pidfile"]:
            removed = (*removed, Path(str(twistd["pidfile"])))
        self._rules += [(_around(os.path.abspath(each)), REMOVE) for each in removed]
        #: The rules that hold: a path that does not exist is ignored.
        self._effective = [rule for rule in self._rules if os.path.exists(rule[0])]
        #: The directories below which this process may write files; None without a sandbox.
        self.written: tuple[str, ...] | None = None

    def covers(self, other: Sandbox) -> bool:
        """Return whether a process in this sandbox may do all that one in another sandbox may do."""
        if not self._wanted or "/" in self._written:
            return True
        return all(any(_covers(mine, theirs) for mine in self._effective) for theirs in other._effective)

    def enter(self) -> None:
        """Limit the process, which must have only one thread, and log the result."""
        landlock.no_new_privileges()
        log.info("landlock is {state}", state=self._enter())

    def _enter(self) -> str:
        if not self._wanted:
            return "off: the configuration says so"
        if "/" in self._written:
            return "off: a home or the directory of the log file is /, so that nothing could be denied"
        try:
            version = landlock.enter(self._rules)
        except Unavailable as reason:
            return f"off: {reason}"
        self.written = tuple(sorted(self._written))
        written = f"files are written only below {', '.join(sorted(self._written))}"
        return f"on (ABI {version}): {written if self._written else 'no files are written'}"


def _covers(mine: Rule, theirs: Rule) -> bool:
    (above, rights), (path, wanted) = mine, theirs
    return wanted & ~rights == 0 and f"{path.rstrip('/')}/".startswith(f"{above.rstrip('/')}/")


def _around(path: str) -> str:
    """Return the directory of a file, or the file itself if that is /."""
    return os.path.dirname(path).rstrip("/") or path


def _python() -> set[str]:
    """Return the directories of Python modules: some modules are imported only when they are needed."""
    here = os.getcwd()  # twistd always adds it to the path
    path = {each for each in map(os.path.abspath, sys.path) if each not in ("/", here)}
    return {sys.prefix, sys.base_prefix, os.path.dirname(ftpsd.__file__), *path}


def _logs(twistd: Mapping[str, object]) -> list[str]:
    """Return the directory of the log file, which twistd rotates; no directory if there is no file."""
    elsewhere = any(twistd.get(option) for option in ("nodaemon", "syslog", "logger"))
    named = str(twistd.get("logfile") or "") or ("-" if elsewhere else "twistd.log")
    return [] if named == "-" else [os.path.dirname(os.path.abspath(named))]
