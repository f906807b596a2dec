"""What a server costs: CPU seconds of all its processes, those that ended included, and its memory.

A control group of the server's own is exact and forgets nobody. Where none can be had, the process tree is read: what
ended children used is in their parent's cutime and cstime once it has waited for them, in steps of a clock tick.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
_numbers = itertools.count(1)


class Meter(Protocol):
    """Reads what one server uses."""

    kind: str

    def admit(self) -> None:
        """Called in the new process before it becomes the server."""

    def started(self, pid: int) -> None:
        """Told the server's main process."""

    def cpu(self) -> float:
        """CPU seconds so far."""

    def pids(self) -> list[int]:
        """The server's living processes."""

    def close(self) -> None:
        """The server has ended."""


def descendants(pid: int) -> list[int]:
    """`pid` and all that came from it and live."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, []))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when the process has gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def born(pid: int) -> str:
    """When a process started, which tells it from a later one with the same id; empty when it has gone."""
    stat = _stat(pid)
    return stat[19] if stat else ""


class TreeMeter:
    """Adds up the process tree."""

    kind = "process tree"

    def __init__(self) -> None:
        self._pid = 0

    def admit(self) -> None:
        """See Meter."""

    def started(self, pid: int) -> None:
        """See Meter."""
        self._pid = pid

    def cpu(self) -> float:
        """See Meter. Fields 14 to 17 of proc(5): utime, stime, cutime, cstime."""
        return sum(sum(map(int, stat[11:15])) for pid in self.pids() if (stat := _stat(pid))) / TICK

    def pids(self) -> list[int]:
        """See Meter."""
        return descendants(self._pid) if self._pid else []

    def close(self) -> None:
        """See Meter."""


class CgroupMeter:
    """Gives the server a control group: version 2's cpu.stat, or version 1's cpuacct.usage."""

    def __init__(self, parent: Path, kind: str, read: Callable[[Path], float]) -> None:
        self.kind = kind
        self._read = read
        self._group = parent / f"ftpsd-benchmark-{os.getpid()}-{next(_numbers)}"
        self._group.mkdir()

    def admit(self) -> None:
        """See Meter. "0" is the process that writes."""
        (self._group / "cgroup.procs").write_text("0")

    def started(self, pid: int) -> None:
        """See Meter."""

    def cpu(self) -> float:
        """See Meter."""
        return self._read(self._group)

    def pids(self) -> list[int]:
        """See Meter."""
        return [int(line) for line in (self._group / "cgroup.procs").read_text().split()]

    def close(self) -> None:
        """See Meter. A group can be removed a moment after its last process has gone."""
        for _ in range(50):
            try:
                self._group.rmdir()
            except OSError:
                time.sleep(0.02)
            else:
                return


def _cpu_stat(group: Path) -> float:
    fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(fields["usage_usec"]) / 1e6


def _cpuacct(group: Path) -> float:
    return int((group / "cpuacct.usage").read_text()) / 1e9


def _own_group(version2: bool) -> str:
    """This process's place in the hierarchy, the only one where an ordinary user may perhaps make a group."""
    for line in (PROC / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (not controllers) if version2 else ("cpuacct" in controllers.split(",")):
            return path.lstrip("/")
    return ""


def _cgroups() -> list[tuple[Path, str, Callable[[Path], float]]]:
    """Where a group might be made, the best first."""
    places: list[tuple[Path, str, Callable[[Path], float]]] = []
    for line in (PROC / "mounts").read_text().splitlines():
        _, mount, kind, options = line.split()[:4]
        if kind == "cgroup2":
            places += [(Path(mount) / sub, "cgroup 2", _cpu_stat) for sub in (_own_group(True), "")]
        elif kind == "cgroup" and "cpuacct" in options.split(","):
            places += [(Path(mount) / sub, "cgroup cpuacct", _cpuacct) for sub in (_own_group(False), "")]
    return sorted(places, key=lambda place: place[1])


def meter() -> Meter:
    """The best meter that this machine allows."""
    for parent, kind, read in _cgroups():
        try:
            group = CgroupMeter(parent, kind, read)
        except OSError:
            continue
        try:
            subprocess.run(["true"], preexec_fn=group.admit, check=True)
            if group.cpu() > 0:
                return group
        except (OSError, subprocess.SubprocessError, KeyError):
            pass
        group.close()
    return TreeMeter()


def memory(pids: list[int]) -> int:
    """Bytes of memory in proportional set size: a page that n processes share counts 1/n for each."""
    total = 0
    for pid in pids:
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total
