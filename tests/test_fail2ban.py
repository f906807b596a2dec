"""The fail2ban filter, on lines that the daemon has really written."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ftpsd as package
from tests.daemon import free_range, twistd

ROOT = Path(__file__).parents[1]


def test_the_filter_finds_the_address_and_no_other() -> None:
    """Failed logins are found in each form that a log takes, whatever name a client gives itself."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(package.__file__).parents[1]),
        "FTPSD_TWISTD": shlex.join(twistd()),
        "FTPSD_FILTER": str(ROOT / "packaging/fail2ban/filter.d/ftpsd.conf"),
        "FTPSD_PORT": str(free_range(10)[0]),
    }
    script = ROOT / "debian/tests/fail2ban"
    done = subprocess.run(
        [sys.executable, script], env=environment, check=False, capture_output=True, text=True, timeout=120
    )
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok: ") == 12
