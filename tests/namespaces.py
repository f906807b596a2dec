"""Network namespaces of a test's own, in which tests/nat.py and tests/doctor_nat.py build their networks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: Everything happens in namespaces that end with their first process, however it ends.
APART = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

#: What has to be possible, in namespaces of its own too.
PROBE = """
mount -t tmpfs none /run && mkdir /run/netns && ip netns add probe &&
ip -n probe link add one type veth peer name two &&
ip netns exec probe nft add table ip probe &&
ip netns exec probe nft add chain ip probe out '{ type nat hook postrouting priority srcnat; }' &&
ip netns exec probe nft add rule ip probe out masquerade
"""


def apart() -> list[str]:
    """Return the command that runs another one in namespaces of its own."""
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [APART[0], *root, *APART[1:]]


def run_apart(module: str, *arguments: Path, programs: tuple[str, ...] = (), timeout: float) -> dict[str, Any]:
    """Run a module of the tests in namespaces of its own, and return the JSON object that it prints.

    Skips the test if a program is not installed, or namespaces cannot be made here.
    """
    missing = [name for name in ("unshare", "ip", "nft", "mount", *programs) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    probe = subprocess.run([*apart(), "sh", "-c", PROBE], capture_output=True, text=True, timeout=20)
    if probe.returncode:
        pytest.skip(f"network namespaces cannot be made here: {probe.stderr.strip()}")
    done = subprocess.run(
        [*apart(), sys.executable, "-m", module, *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result
