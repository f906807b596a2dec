"""The embedded default: one command, and the line that it prints works."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

from tests.daemon import PATIENCE, free_range, ftpsd


def test_the_line_that_the_demo_prints_works(tmp_path: Path) -> None:
    """`ftpsd demo` makes all it needs; its curl line lists, uploads and downloads, and verifies the certificate."""
    port, _ = free_range(1)
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = ftpsd("demo", "--port", str(port), "--directory", str(tmp_path / "demo"))
        demo = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE
        while "listening on" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        line = next(line for line in log.read_text().splitlines() if line.startswith("curl "))
        *curl, url = shlex.split(line)

        def run(*more: str) -> str:
            return subprocess.run([*curl, "-sS", *more], capture_output=True, text=True, check=True, timeout=60).stdout

        assert "welcome.txt" in run(url)
        assert run(f"{url}welcome.txt") == "It works.\n"
        (tmp_path / "mine").write_text("mine")
        run("-T", str(tmp_path / "mine"), url)
        assert (tmp_path / "demo" / "files" / "mine").read_text() == "mine"
        secret = tmp_path / "demo" / "users.yaml"
        assert secret.stat().st_mode & 0o077 == 0
    finally:
        demo.terminate()
        demo.wait(PATIENCE)
