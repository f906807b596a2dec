"""`GET /v1/findings`: what is wrong with the server, as far as the daemon can see it, each with its cure."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpsd.admin import findings
from ftpsd.checks import host
from ftpsd.config import load
from tests.admin import Admin
from tests.daemon import Daemon
from tests.pki import Authority
from tests.test_doctor_server import doctor

Make = Callable[..., Daemon]


@pytest.fixture
def socket() -> Iterator[Path]:
    """The path of a socket."""
    with tempfile.TemporaryDirectory(prefix="ftpsd-") as short:
        yield Path(short) / "admin.sock"


def codes(found: Any) -> dict[str, str]:
    """The problems of an answer, by code."""
    return {each["code"]: each["problem"] for each in found["findings"]}


@pytest.mark.parametrize("workers", [1, 2])
def test_findings_are_those_of_the_doctor(make_daemon: Make, socket: Path, workers: int) -> None:
    """A certificate that nobody trusts, and one that expires soon, are found as by `ftpsd doctor`; a reload counts."""
    daemon = make_daemon({"admin": {"socket": str(socket)}, "workers": workers})
    api = Admin(socket)
    found = codes(api.get("findings"))
    assert "signed by itself" in found["certificate.self_signed"] and "tls.expires_soon" not in found
    soon = Authority().server("localhost", valid=(-9, 5)).write(daemon.directory / "soon.pem")
    daemon.settings["tls"] |= {"certificate": str(soon), "private_key": str(soon)}
    daemon.write()
    api.post("reload", {})
    found = codes(api.get("findings"))
    assert "tls.expires_soon" in found
    by_doctor = {each["code"]: each["problem"] for each in doctor(daemon)["findings"]}
    shared = {code: problem for code, problem in by_doctor.items() if code.startswith(("certificate.", "tls."))}
    assert shared == {code: problem for code, problem in found.items() if code.startswith(("certificate.", "tls."))}


def test_they_are_made_once_in_a_minute(make_daemon: Make, socket: Path) -> None:
    """Requests within a minute get the last findings again: checks of many homes cost time."""
    daemon = make_daemon({"admin": {"socket": str(socket)}})
    api = Admin(socket)
    before = api.get("findings")
    kept = daemon.certificate.with_suffix(".kept")
    daemon.certificate.rename(kept)
    try:
        assert api.get("findings") == before
    finally:
        kept.rename(daemon.certificate)


def test_a_disk_that_does_not_respond(make_daemon: Make, socket: Path) -> None:
    """While a check hangs, requests get 503 and start no further check; when it ends, findings are returned again."""
    daemon = make_daemon({"admin": {"socket": str(socket)}})
    api = Admin(socket)
    kept = daemon.certificate.with_suffix(".kept")
    daemon.certificate.rename(kept)
    os.mkfifo(daemon.certificate)  # opening it blocks, like a file on a dead NFS server
    try:
        for _ in range(3):
            began = time.monotonic()
            assert api.call("GET", "findings").json["detail"].endswith("a disk may not respond."), daemon.log()
            assert api.get("status")["threads"]["busy"] == 1
        assert time.monotonic() - began < 5
    finally:
        writer = os.open(daemon.certificate, os.O_WRONLY | os.O_NONBLOCK)
        daemon.certificate.unlink()
        kept.rename(daemon.certificate)
        os.close(writer)
    deadline = time.monotonic() + 20
    while api.call("GET", "findings").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_directory_above_that_cannot_be_entered() -> None:
    """The advice is to let the daemon's user enter it, and never to give a directory above the home away."""
    with tempfile.TemporaryDirectory() as above:
        closed = Path(above) / "closed"
        (closed / "homes" / "alice").mkdir(parents=True)
        os.chmod(above, 0o755)
        closed.chmod(0o700)
        pid = os.fork()
        if pid == 0:
            os.setegid(65534)
            os.seteuid(65534)
            home = str(closed / "homes" / "alice")
            found = host.home("alice", host.own_places(home), 65534, (65534,), "ftpsd")
            os._exit(0 if [each.paste for each in found] == [f"setfacl -m u:ftpsd:x {closed}"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and be another user")
def test_homes_and_disks(make_daemon: Make) -> None:
    """A home that the daemon's user may not write, and a disk that is full, are findings."""
    daemon = make_daemon(start=False)
    configuration = load.load(daemon.config)
    home = daemon.home()
    home.chmod(0o555)
    pid = os.fork()
    if pid == 0:
        os.seteuid(65534)
        found = {each.code for each in findings._check(configuration, str(daemon.config))}
        os._exit(0 if "home.permission" in found else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    script = f'mount -t tmpfs -o size=64k none {home.parent} && mkdir {home} && cat /dev/zero >{home}/full; exec "$@"'
    code = (
        "import sys; from ftpsd.admin.findings import _check; from ftpsd.config.load import load;"
        " print({each.code for each in _check(load(sys.argv[1]), sys.argv[1])})"
    )
    bob = f"mkdir {daemon.home('bob')};"
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script.replace("exec", f"{bob} exec"),
        "sh",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run([*command, str(daemon.config)], capture_output=True, text=True, timeout=60, check=False)
    if "mount" in done.stderr and "disk" not in done.stdout:
        pytest.skip("nothing can be mounted here")
    assert "disk.space" in done.stdout, done.stderr
