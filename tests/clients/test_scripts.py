"""Scripts that write all their commands to netcat and leave, as cameras and routers have them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.daemon import PATIENCE, Daemon

NETCAT = shutil.which("nc.openbsd")

pytestmark = pytest.mark.skipif(NETCAT is None, reason="netcat is not installed: netcat-openbsd")


@pytest.mark.parametrize("ending", ["QUIT", "NOOP"])
@pytest.mark.parametrize("count", [1, 40])
def test_a_script_that_ends_its_input(plain: Daemon, ending: str, count: int) -> None:
    """Every command that came before the end of input is carried out and answered, in order."""
    made = [plain.home() / f"made{number}" for number in range(count)]
    for path in made:
        if path.exists():
            path.rmdir()
    lines = ["USER alice", "PASS secret", *[f"MKD {path.name}" for path in made], ending]
    done = subprocess.run(
        [str(NETCAT), "-N", plain.host, str(plain.port)],
        input="".join(f"{line}\r\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    codes = [line[:3] for line in done.stdout.splitlines()]
    assert codes == ["220", "331", "230", *["257"] * count, "221" if ending == "QUIT" else "200"]
    assert all(path.is_dir() for path in made)
