"""Where an upload starts: in the part file of an upload that was cut, with a copy of the old file, or empty.

`choose_start` decides from the request and from what is on the disk. The first row that fits holds:

    request     old file   part file                   the upload starts with
    ----------  ---------  --------------------------  ------------------------------------------------------
    any         any        outdated (see below)        as if the part file were empty
    APPE        yes        not empty                   nothing: 550
    REST n      yes        shorter than n, not empty   nothing: 550
    APPE        no         any                         all of the part file
    REST n      any        n bytes or more             the first n bytes of the part file (n = 0: an empty one)
    REST n      no         shorter than n              nothing: 554
    REST n      < n bytes  empty                       nothing: 554
    any         no file    empty                       nothing: 450 (the name belongs to a directory, link, FIFO …)
    APPE        yes        empty                       a copy of the old file
    REST n      yes        empty                       a copy of the first n bytes of the old file

STOR without REST is REST 0. The first 550 is there because SIZE returns the size of the old file: a client that resumes
at that size (curl -C -, lftp put -c) would put the end of the new file after the old one.

A part file is outdated if its upload was complete, but the file that it continued had changed:

    kept by     mode       outdated for
    ----------  ---------  ------------------------------------------------------------------------------------
    APPE        APPENDED   all but REST with exactly its size: clients repeat APPE with the same bytes after 450
    STOR        OUTRUN     REST with another size than its own, if there is an old file
"""

from __future__ import annotations

import stat
from typing import NamedTuple

from ftpsd.protocol.replies import Refusal

#: Modes of part files: of an upload that was cut; of one that was complete, but the file that it continued had changed,
#: by STOR or by APPE. The sticky bit means nothing for files, and no file is published with it.
RESUMABLE, OUTRUN, APPENDED = 0o600, 0o1600, 0o1700


class OldFile(NamedTuple):
    """What has the name of the upload when it begins."""

    size: int
    #: Whether it is a plain file, which can be continued.
    is_file: bool


class Start(NamedTuple):
    """What an upload starts with, in bytes."""

    #: The size to which the part file is cut.
    part_size: int
    #: Bytes of the old file to copy; None to continue the part file.
    copied: int | None = None


def choose_start(part_size: int, part_mode: int, old: OldFile | None, offset: int, append: bool) -> Start:
    """Return what an upload starts with (see above). `offset` is the restart offset. Raises Refusal."""
    if is_outdated(part_mode, append, offset == part_size, old is not None):
        part_size = 0
    if old is not None and part_size and (append or offset > part_size):
        raise Refusal(
            550,
            f"An incomplete upload of {part_size} bytes exists: "
            f"send REST {part_size} and STOR to resume it, or STOR to start over.",
        )
    if append and old is None:
        return Start(part_size)
    if not append and offset <= part_size:
        return Start(offset)
    copied = old.size if append and old is not None else offset
    if old is None or copied > old.size:
        raise Refusal(554, f"Cannot resume: only {max(part_size, old.size if old else 0)} bytes are stored.")
    if not old.is_file:
        raise Refusal(450, "File busy: try again later.")
    return Start(0, copied)


def is_outdated(mode: int, append: bool, exact: bool, replaces: bool) -> bool:
    """Return whether an upload must not continue a part file of this mode.

    `exact`: REST has the size of the part file. `replaces`: there is an old file.
    """
    if stat.S_IMODE(mode) == APPENDED:
        return append or not exact
    return stat.S_IMODE(mode) == OUTRUN and replaces and not append and not exact
