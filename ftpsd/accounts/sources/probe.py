"""Log in to all configured sources, for the command line: probe_all."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from ftpsd.accounts.sources.source import ConfiguredSource
from ftpsd.protocol.printable import printable

#: Seconds after the timeout of a source in which its probe must end.
_GRACE = 1.0

#: The longest text of a source that is shown.
_LONGEST = 500


def probe_all(sources: Sequence[ConfiguredSource]) -> Mapping[str, str]:
    """Return why sources do not answer, by their names; nothing if all do. Blocks for the longest timeout at most."""
    errors: dict[str, str] = {}
    threads = []
    for each in sources:
        errors[each.name] = f"no answer within {each.source.timeout + _GRACE:.0f} seconds"
        threads.append(threading.Thread(target=_probe, args=(each, errors), daemon=True))
        threads[-1].start()
    began = time.monotonic()
    for each, thread in zip(sources, threads, strict=True):
        thread.join(max(0.0, began + each.source.timeout + _GRACE - time.monotonic()))
    return dict(errors)


def _probe(source: ConfiguredSource, errors: dict[str, str]) -> None:
    try:
        source.source.probe()
    except Exception as error:
        errors[source.name] = printable(str(error) or repr(error), _LONGEST)
    else:
        del errors[source.name]
    source.source.close()
