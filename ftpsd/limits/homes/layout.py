"""The slots of homes and groups in the shared table: what their fields and columns are.

A home has two columns: its sessions, and what its running uploads are charged. That is one integer for each process
(see `pack`), so that it is changed in one step.

What a process that is killed leaves behind:

    killed              what tells that                                the count until the home is counted again
    ------------------  ---------------------------------------------  ------------------------------------------
    with the names      the next process that takes the lock of the    differs by one change
                        names finds HOLDER set, and sets DOUBTS
    with uploads        the sum of the column is not PAID any more     too high by what their part files do not hold
    in between          the same: PAID is changed first, the column    the same
                        last

From the moment at which it is killed, its part files are measured as any other file (see `Members`). So whoever resumes
or removes one counts that correctly, also before the supervisor clears the columns.
"""

from __future__ import annotations

from ftpsd.limits.home_counts import Amount
from ftpsd.limits.shared.slot import FIELDS

#: The kinds of the slots. Homes in which processes have waited for the names have a second slot.
HOME, GROUP, TURNS = "home", "group", "turns"

#: Fields of homes and groups: what they hold.
BYTES, FILES = 0, 1

#: Fields of homes: the number of changes; when the home was counted (0: never), and when the walk that counts it took
#: its last step, both as floating point numbers; the process that changes names, or 0; whether such a process has
#: ended; the sum of the column of charges; the number of fields that name groups.
CHANGES, COUNTED, PROGRESS, HOLDER, DOUBTS, PAID, GROUPS = range(2, 9)

#: One field for each group that includes the home (see `groups.reference`); negative if a login has included it.
FIRST_GROUP = 9
MOST_GROUPS = FIELDS - FIRST_GROUP - 1

#: One more field of homes: when a process has last looked for its turn to change names (see `Turns`), or 0.
WANTED = FIELDS - 1

#: Fields of groups: the digest of the name; the digest of the homes that were included when all were counted; the
#: table's `clears` when the sum was computed.
DIGEST, COMPLETED, CLEARS = range(2, 5)

#: The columns of homes.
SESSIONS, CHARGED = 0, 1

#: The locks of a place (see `Places.range_lock`): for amounts, for names, for the first count.
AMOUNTS, NAMES, COUNTING = 1, 2, 3

#: One more, of the first place: that of the process that removes old part files.
SWEEPING = 4

_FILES_BITS = 16


def pack(amount: Amount) -> int:
    """Return a charge as one integer. Sums of them are packed sums, up to 65,535 files and 128 TiB."""
    return (amount.bytes << _FILES_BITS) + amount.files


def unpack(packed: int) -> Amount:
    """Return what `pack` has packed, or the sum of it."""
    return Amount(packed >> _FILES_BITS, packed & ((1 << _FILES_BITS) - 1))


def amount_in(fields: memoryview) -> Amount:
    """Return what a home or group holds."""
    return Amount(fields[BYTES], fields[FILES])


def add_to(fields: memoryview, amount: Amount) -> None:
    """Add to what a home or group holds. The caller holds its lock."""
    fields[BYTES] += amount.bytes
    fields[FILES] += amount.files
