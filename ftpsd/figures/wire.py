"""Figures in JSON, for the link between processes: `encode` and `decode`."""

from __future__ import annotations

from ftpsd.figures.figures import Figures
from ftpsd.system.messages.codec import Codec, Malformed

#: The most values of a label, and characters of one. A worker that was taken over could fill the memory of Prometheus.
MOST_VALUES = 2000
LONGEST_VALUE = 200

_CODEC = Codec(Figures)


def encode(figures: Figures) -> object:
    """Return figures in JSON."""
    return _CODEC.encode(figures)


def decode(value: object) -> Figures:
    """Return the figures that `encode` was given. Raises Malformed."""
    found = _CODEC.decode(value)
    counts = found.tally
    for labels in (counts.commands, counts.rejected, counts.data_refused, counts.handshakes, found.queues):
        if len(labels) > MOST_VALUES or any(len(str(each)) > LONGEST_VALUE for each in labels):
            raise Malformed("there are too many labels")
    return found
