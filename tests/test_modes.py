"""Checks of the configuration: files that other users may write or read, and ciphers without protection."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from tests.daemon import Daemon, ftpsd, merge

Make = Callable[..., Daemon]


@pytest.fixture
def daemon(make_daemon: Make, certificate: Path) -> Daemon:
    """Return a configuration with a certificate and key that only the owner can read."""
    made = make_daemon(start=False)
    for name in ("certificate.pem", "key.pem"):
        shutil.copy(certificate / name, made.directory / name)
    made.settings = merge(
        made.settings,
        {"tls": {"certificate": "certificate.pem", "private_key": "key.pem"}, "state": {"directory": "s"}},
    )
    made.write()
    for name in ("ftpsd.yaml", "users.yaml", "certificate.pem", "key.pem"):
        (made.directory / name).chmod(0o600)
    (made.directory / "s").mkdir(mode=0o700)
    return made


def faults(daemon: Daemon, **settings: Any) -> list[str]:
    """Return the faults of the configuration, each on a line."""
    daemon.settings = merge(daemon.settings, settings)
    daemon.config.write_text(yaml.safe_dump(daemon.settings))
    try:
        load.load(daemon.config)
    except InvalidConfiguration as error:
        return [str(fault) for fault in error.faults]
    return []


@pytest.mark.parametrize("mode", [0o666, 0o602, 0o622])
@pytest.mark.parametrize("name", ["ftpsd.yaml", "users.yaml", "certificate.pem", "key.pem", "s", "."])
def test_what_others_may_do_is_a_fault(daemon: Daemon, name: str, mode: int) -> None:
    """Files and directories that anybody may write are faults, each with the command that corrects it."""
    path = daemon.directory / name
    path.chmod(mode | (0o700 if path.is_dir() else 0))
    told = faults(daemon)
    assert told and all(f"Run: chmod o-{each}" in " ".join(told) for each in "w")
    for line in told:
        command = line.partition("Run: ")[2].partition(" (or")[0]
        subprocess.run(command, shell=True, check=True, cwd=daemon.directory)
    assert faults(daemon) == []


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o444])
def test_a_key_that_others_may_read(daemon: Daemon, mode: int) -> None:
    """A private key that anybody may read is a fault, also within the certificate's file, and behind a link."""
    key = daemon.directory / "key.pem"
    both = daemon.directory / "both.pem"
    both.write_bytes((daemon.directory / "certificate.pem").read_bytes() + key.read_bytes())
    for path in (key, both):
        path.chmod(mode)
    (daemon.directory / "link").symlink_to("both.pem")
    assert "tls.private_key: everyone on this machine may read the private key" in faults(daemon)[0]
    (told,) = faults(daemon, tls={"certificate": "link", "private_key": None})
    assert "tls.certificate: everyone on this machine may read the private key" in told
    assert f"chmod o-r {daemon.directory}/link" in told
    both.chmod(0o640)
    assert faults(daemon) == []


def test_the_switch(daemon: Daemon) -> None:
    """With `file_permissions: ignore` none of these is a fault, for the check and for the daemon."""
    (daemon.directory / "key.pem").chmod(0o666)
    check = subprocess.run(ftpsd("check", "-c", str(daemon.config)), capture_output=True, text=True, check=False)
    assert check.returncode == 1 and "chmod o-w" in check.stderr and "chmod o-r" in check.stderr
    assert faults(daemon, file_permissions="ignore") == []


def test_hashes_that_others_may_read(daemon: Daemon) -> None:
    """A users' file that anybody may read is a warning."""
    assert load.warnings(load.load(daemon.config), 0.0) == []
    daemon.users_file.chmod(0o644)
    (warning,) = load.warnings(load.load(daemon.config), 0.0)
    assert (warning.key, warning.remedy) == (("users", "file"), f"chmod o-r {daemon.users_file}")


@pytest.mark.parametrize("ciphers", ["NULL", "aNULL", "eNULL:aNULL", "ALL:COMPLEMENTOFALL", "ECDHE+AESGCM:aNULL"])
def test_bad_ciphers(daemon: Daemon, ciphers: str) -> None:
    """Ciphers without encryption or authentication are faults, wherever in the string they come from."""
    told = faults(daemon, tls={"ciphers": f"{ciphers}:@SECLEVEL=0"})
    assert told and all("tls.ciphers: " in line for line in told)


def test_ciphers_without_forward_secrecy(daemon: Daemon) -> None:
    """Ciphers without forward secrecy are a warning; the default and strings like it are none."""
    for ciphers, count in (("AES128-GCM-SHA256:ECDHE+AESGCM", 1), ("ECDHE+AESGCM:DHE+AESGCM", 0), (None, 0)):
        assert faults(daemon, tls={"ciphers": ciphers}) == []
        assert len(load.warnings(load.load(daemon.config), 0.0)) == count
