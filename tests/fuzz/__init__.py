"""Fuzzing of what reads bytes that others wrote; by hand: `python -m tests.fuzz --help`."""

import os

#: How long the suite's own fuzzing is, in minutes for each of its tests; without it a few seconds.
MINUTES = float(os.environ.get("FTPSD_FUZZ") or 0)

#: Examples of a target: some thousand a minute.
EXAMPLES = int(20_000 * MINUTES) or 100
