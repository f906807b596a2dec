"""What the benchmark tells one client process to do, and what that process tells back. Both travel as JSON lines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """One client process's work: a task of tasks.py and what it needs to know."""

    task: str
    port: int = 0
    user: str = ""
    password: str = ""
    protect: bool = True
    implicit: bool = False
    path: str = ""
    """Below the user's home: a file to fetch, a directory to list, or where uploads go."""
    label: str = "0"
    """Makes the names that this process uploads differ from those of its fellows."""
    size: int = 0
    count: int = 1
    seconds: float = 0.0
    source: str = ""
    """A local file whose bytes, over and over, are what is sent."""
    sha256: str = ""
    """Of what is fetched, looked at in the first round."""
    decrypt: bool = False
    """Decrypt bulk downloads while they are measured instead of counting their records."""
    background: bool = False
    """Goes on until it is told to stop, and is not what is measured."""
    urgent: bool = False
    """Runs before its fellows, so that a latency is the server's and not this process's turn on the processor."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """The job that `to_json` wrote."""
        return cls(**json.loads(line))


@dataclass
class Tally:
    """What one client process did."""

    units: int = 0
    """Bytes, files, sessions, entries or commands: what the workload counts."""
    start: float = 0.0
    end: float = 0.0
    cpu: float = 0.0
    """The client's own CPU seconds: where they come near the time, it is the client that was measured."""
    data_connections: int = 0
    resumed: int = 0
    ended_badly: int = 0
    cipher: str = ""
    samples: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The fields, for json.dumps."""
        return asdict(self)
