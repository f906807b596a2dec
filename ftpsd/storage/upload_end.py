"""What is kept of an upload that ends without being published, so that its client can resume it: `choose_end`.

The first row that fits holds:

    outcome      part file                                                     what is kept, with which mode
    -----------  ------------------------------------------------------------  -----------------------------
    any          empty                                                         nothing
    WORTHLESS    any                                                           nothing
    OVERTAKEN    of an APPE that did not continue a part file                  it, APPENDED
    OVERTAKEN    any other                                                     it, OUTRUN
    CUT          repeatable: a copy of the old file, and what APPE added;      nothing
                 or a copy of the old file, and nothing else
    CUT          of a name that another file has since                         nothing
    CUT          any other                                                     it, RESUMABLE

`upload_start` says what the modes mean to the next upload.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ftpsd.storage.upload_start import APPENDED, OUTRUN, RESUMABLE


class Outcome(Enum):
    """How an upload has ended, if it was not published."""

    CUT = "some bytes are missing"
    OVERTAKEN = "all bytes are here, but the name or the file that it continued has changed"
    WORTHLESS = "the bytes are of no use"


@dataclass(frozen=True, slots=True)
class PartState:
    """What `choose_end` must know of the part file."""

    size: int
    #: Whether the upload is APPE.
    append: bool
    #: Whether the upload continued a part file.
    continued: bool
    #: Whether the client loses nothing without it: it sends all bytes of it again.
    repeatable: bool
    #: Whether another file has got the name since the upload began.
    outdated: bool


def choose_end(outcome: Outcome, part: PartState) -> int | None:
    """Return the mode of the part file that is kept, or None if it is to be removed (see above)."""
    if not part.size or outcome is Outcome.WORTHLESS:
        return None
    if outcome is Outcome.OVERTAKEN:
        # APPE that continued a part file is the end of one upload, not an addition to a file.
        return APPENDED if part.append and not part.continued else OUTRUN
    return None if part.repeatable or part.outdated else RESUMABLE
