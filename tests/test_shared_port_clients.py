"""Real clients at a shared passive port, behind a router that forwards two ports only."""

from __future__ import annotations

import ftplib
import shutil
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ftpclient import tls_context
from tests.hostile import withstands
from tests.namespaces import run_apart
from tests.shared_nat import CLIENTS, FILES
from tests.shared_port import Make, sharing


def test_clients_behind_a_router_with_two_ports(tmp_path: Path, certificate: Path) -> None:
    """Eight curls behind one address transfer at the same time through two forwarded ports, with TLS 1.2 and 1.3."""
    found = run_apart("tests.shared_nat", tmp_path, certificate, programs=("curl",), timeout=150)
    assert found["transfers"] == [{"right": FILES, "said": ""}] * CLIENTS, found["log"]


def _lftp(directory: Path, port: int, name: str) -> None:
    script = f"""
        set ssl:verify-certificate no; set ftp:ssl-force yes; set ftp:ssl-protect-data yes
        set net:max-retries 1; set net:timeout 20; set xfer:clobber yes
        open -u alice,secret ftp://127.0.0.1:{port}
        get {name} -o {directory}/{name}; put {directory}/{name} -o back-{name}; mirror -P 4 --verbose=0 tree {directory}/tree-{name}
    """
    subprocess.run(["lftp", "-c", script], check=True, capture_output=True, timeout=90)


class _Ftplib(ftplib.FTP_TLS):
    """Data connections resume the session of the control connection."""

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[ssl.SSLSocket, int | None]:  # type: ignore[override]
        """See FTP_TLS."""
        connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        assert isinstance(self.sock, ssl.SSLSocket)
        return self.context.wrap_socket(connection, server_hostname=self.host, session=self.sock.session), size


def _ftplib(directory: Path, port: int, name: str) -> None:
    with _Ftplib(context=tls_context()) as ftp:
        ftp.connect("127.0.0.1", port, timeout=30)
        ftp.login("alice", "secret")
        ftp.prot_p()
        with (directory / name).open("wb") as file:
            ftp.retrbinary(f"RETR {name}", file.write)
        with (directory / name).open("rb") as file:
            ftp.storbinary(f"STOR back-{name}", file)


@pytest.mark.parametrize("run", [_lftp, _ftplib], ids=["lftp", "ftplib"])
def test_several_at_the_same_time(make_daemon: Make, tmp_path: Path, run: Callable[[Path, int, str], None]) -> None:
    """lftp (with GnuTLS, and with parallel transfers) and ftplib get their own files, several at the same time."""
    if run is _lftp and not shutil.which("lftp"):
        pytest.skip("lftp is not installed")
    daemon = sharing(make_daemon)
    (daemon.home() / "tree").mkdir()
    for number in range(12):
        (daemon.home() / "tree" / str(number)).write_bytes(b"%d " % number * 10_000)
    for number in range(4):
        (daemon.home() / f"file{number}").write_bytes(b"%d " % number * 40_000)
    with withstands(daemon), ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: run(tmp_path, daemon.port, f"file{number}"), range(4)))
    for number in range(4):
        assert (tmp_path / f"file{number}").read_bytes() == b"%d " % number * 40_000
        assert (daemon.home() / f"back-file{number}").read_bytes() == b"%d " % number * 40_000
        if run is _lftp:
            for other in range(12):
                assert (tmp_path / f"tree-file{number}" / str(other)).read_bytes() == b"%d " % other * 10_000
