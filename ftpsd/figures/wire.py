"""Figures in JSON, for the link between processes: `encode` and `decode`."""

from __future__ import annotations

from collections import Counter

from attrs import frozen

from ftpsd.accounts.chain.counts import SourceStatus
from ftpsd.events.hub import QueueState
from ftpsd.events.tally import ConnectionKind, Tally
from ftpsd.figures.figures import Figures, Process, Transfers
from ftpsd.system.messages.codec import Codec, Malformed
from ftpsd.system.worker_threads import ThreadUsage

#: The most values of a label, and characters of one. A worker that was taken over could fill the memory of Prometheus.
MOST_VALUES = 2000
LONGEST_VALUE = 200


@frozen
class _Tally:
    commands: dict[tuple[str, int], int]
    rejected: Counter[str]
    banned_logins: int
    data_refused: Counter[str]
    handshakes: Counter[tuple[ConnectionKind, str, bool]]


@frozen
class _Figures:
    sessions: int
    transfers: Transfers
    threads: ThreadUsage
    ports: int
    process: Process
    sources: tuple[SourceStatus, ...]
    queues: dict[str, QueueState]
    tally: _Tally


_CODEC = Codec(_Figures)


def encode(figures: Figures) -> object:
    """Return figures in JSON."""
    tally = figures.tally
    counts = _Tally(tally.commands, tally.rejected, tally.banned_logins, tally.data_refused, tally.handshakes)
    return _CODEC.encode(
        _Figures(
            sessions=figures.sessions,
            transfers=figures.transfers,
            threads=figures.threads,
            ports=figures.ports,
            process=figures.process,
            sources=figures.sources,
            queues=figures.queues,
            tally=counts,
        )
    )


def decode(value: object) -> Figures:
    """Return the figures that `encode` was given. Raises Malformed."""
    found = _CODEC.decode(value)
    tally, counts = Tally(), found.tally
    for labels in (counts.commands, counts.rejected, counts.data_refused, counts.handshakes, found.queues):
        if len(labels) > MOST_VALUES or any(len(str(each)) > LONGEST_VALUE for each in labels):
            raise Malformed("there are too many labels")
    tally.commands, tally.rejected, tally.banned_logins = counts.commands, counts.rejected, counts.banned_logins
    tally.data_refused, tally.handshakes = counts.data_refused, counts.handshakes
    return Figures(
        sessions=found.sessions,
        transfers=found.transfers,
        threads=found.threads,
        ports=found.ports,
        process=found.process,
        sources=found.sources,
        queues=found.queues,
        tally=tally,
    )
