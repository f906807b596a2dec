"""twistd without garbage collections: `python counted_twistd.py arguments…`.

At SIGUSR2 it prints how many objects of each class of ftpsd and pyOpenSSL there are. What a session leaves behind that
refers to itself stays for ever, and so is seen.
"""

from __future__ import annotations

import gc
import json
import os
import signal
from collections import Counter

from twisted.scripts.twistd import run

#: The packages whose objects are counted.
COUNTED = ("ftpsd", "OpenSSL")


def print_counts() -> None:
    """Print the numbers in one line."""
    kinds = (type(each) for each in gc.get_objects())
    counts = Counter(kind.__name__ for kind in kinds if str(kind.__module__).partition(".")[0] in COUNTED)
    os.write(1, f"objects: {json.dumps(counts)}\n".encode())


if __name__ == "__main__":
    gc.disable()
    signal.signal(signal.SIGUSR2, lambda *_: print_counts())
    run()
