"""Descriptors that systemd keeps while the service is restarted."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ftpsd.system.systemd import descriptor_store
from ftpsd.system.systemd.descriptor_store import StoreFailed

pytestmark = pytest.mark.quick


def test_systemd_gets_a_copy_and_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is that of sd_pid_notify_with_fds(3), and the copy works when the original is closed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        near, far = socket.socketpair()
        with far:
            with near:
                descriptor_store.keep("worker-1", near.fileno())
            message, descriptors, _, _ = socket.recv_fds(systemd, 4096, 4)
            assert message.decode().split("\n") == ["FDSTORE=1", "FDNAME=ftpsd-worker-1", "FDPOLL=0"]
            with socket.socket(fileno=descriptors[0]) as copy:
                copy.sendall(b"good")
            assert far.recv(10) == b"good"
        descriptor_store.remove("worker-1")
        assert systemd.recv(4096).decode().split("\n") == ["FDSTOREREMOVE=1", "FDNAME=ftpsd-worker-1"]


def test_without_systemd_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception says why."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with pytest.raises(StoreFailed, match="not set"):
        descriptor_store.keep("table", 0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "missing"))
    with pytest.raises(StoreFailed, match="No such file"):
        descriptor_store.keep("table", 0)


def test_what_was_left_is_found_by_its_name() -> None:
    """Names of a socket unit are not taken for those of the daemon, and variables for another process are ignored."""
    environment = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "ftpsd.socket:ftpsd-table:ftpsd-worker-0",
    }
    assert descriptor_store.passed(environment) == {"table": 4, "worker-0": 5}
    assert descriptor_store.passed({**environment, "LISTEN_PID": "1"}) == {}
    assert descriptor_store.passed({}) == {}
