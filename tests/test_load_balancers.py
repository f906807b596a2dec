"""Real load balancers in front of the daemon, with TLS passed through. The examples of docs/load-balancers.md."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.balancers import FRONT, haproxy, nginx
from tests.daemon import Daemon
from tests.test_proxy_protocol import proxied

Make = Callable[..., Daemon]


def curl(daemon: Daemon, path: str, *words: str, source: str = "127.0.0.5") -> bytes:
    """Run curl from an address against the balancer; return its output."""
    done = subprocess.run(
        [
            *("curl", "-sS", "--ssl-reqd", "--cacert", str(daemon.certificate), "-u", "alice:secret"),
            *("--resolve", f"localhost:{daemon.port}:{FRONT}", "--interface", source, "--max-time", "60", *words),
            f"ftp://localhost:{daemon.port}/{path}",
        ],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def exercise(daemon: Daemon, directory: Path) -> None:
    """Upload, list and download through the balancer, and see the client's own address in the log."""
    (directory / "file").write_bytes(b"0123456789" * 500_000)
    curl(daemon, "file", "-T", str(directory / "file"))
    assert curl(daemon, "", "-l").split() == [b"file"]
    assert curl(daemon, "file") == (directory / "file").read_bytes()
    assert (
        curl(daemon, "file", "--ftp-pasv", "--disable-epsv", "--ftp-skip-pasv-ip") == (directory / "file").read_bytes()
    )
    assert re.search(r"alice \(127\.0\.0\.5\)> STOR file: 226 ", daemon.log)
    assert "(127.0.0.2)" not in daemon.log
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_haproxy(make_daemon: Make, tmp_path: Path, send: str) -> None:
    """HAProxy passes control connections and the passive range on; its health checks leave no line in the log."""
    daemon = proxied(make_daemon, trusted=("127.0.0.1/32",))
    with haproxy(tmp_path, [daemon], send):
        exercise(daemon, tmp_path)
        time.sleep(0.5)  # some health checks
    assert not re.search(r" - \(127\.0\.0\.1\)> ", daemon.log), daemon.log


def test_nginx(make_daemon: Make, tmp_path: Path) -> None:
    """nginx does the same with its stream module."""
    daemon = proxied(make_daemon, trusted=("127.0.0.1/32",))
    with nginx(tmp_path, daemon):
        exercise(daemon, tmp_path)


def test_two_daemons_behind_one_balancer(make_daemon: Make, tmp_path: Path) -> None:
    """Each daemon has a slice of the passive range, so a data connection reaches the daemon of its session."""
    daemons = [proxied(make_daemon), proxied(make_daemon)]
    for daemon in daemons:
        (daemon.home() / "file").write_bytes(str(daemon.passive).encode())
    with haproxy(tmp_path, daemons, "send-proxy-v2"):
        found = {curl(daemons[0], "file", "--insecure") for _ in range(6)}
    assert found == {str(daemon.passive).encode() for daemon in daemons}
    for daemon in daemons:
        assert re.search(r"alice \(127\.0\.0\.5\)> RETR file: 226 ", daemon.log)
