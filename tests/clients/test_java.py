"""Java: Apache Commons Net's FTPSClient over JSSE, which ends TLS 1.3 with user_canceled before close_notify."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.session import CONTENT, PART, execute
from tests.clients.table import DRIVERS
from tests.daemon import Daemon

LIBRARY = Path("/usr/share/java/commons-net.jar")

#: The subclass reaches into Java, and its TLS 1.2 sessions are found again only without extended master secret.
OPTIONS = [
    "-Djdk.tls.useExtendedMasterSecret=false",
    "--add-opens=java.base/sun.security.ssl=ALL-UNNAMED",
    "--add-opens=java.base/sun.security.util=ALL-UNNAMED",
]

#: Mode, user, TLS version, and whether the subclass that resumes is used. bob has `data_session: allow`.
SESSIONS = [
    (mode, user, version, kind)
    for mode in ("explicit", "implicit")
    for user, version, kind in [("bob", "1.2", "plain"), ("bob", "1.3", "plain"), ("alice", "1.2", "resume")]
]


def test_java(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Java uploads, lists, downloads and resumes with TLS 1.2 and 1.3, explicit and implicit; no session looks cut."""
    if shutil.which("java") is None or not LIBRARY.exists():
        pytest.skip("Java's client is not installed: default-jre-headless libcommons-net-java")
    daemon = make_daemon(users={"alice": {}, "bob": {"tls": {"data_session": "allow"}}})
    sessions = {}
    for mode, user, version, kind in SESSIONS:
        name = f"{mode}-{user}-{version}"
        port = daemon.implicit_port if mode == "implicit" else daemon.port
        local = tmp_path / name
        local.mkdir()
        (local / "up.bin").write_bytes(CONTENT)
        (local / "part.bin").write_bytes(CONTENT[:PART])
        sessions[name] = f"{mode}:{port}:{user}:{version}:{kind}:{name}", daemon.home(user) / name
    program = ["java", *OPTIONS, "-cp", str(LIBRARY), str(DRIVERS / "Client.java")]  # one JVM: it starts slowly
    said = execute([*program, daemon.host, str(tmp_path), *[words for words, _ in sessions.values()]]).stdout
    for name, (_, remote) in sessions.items():
        assert f"done: {name}" in said.splitlines(), said
        assert (remote / "b.bin").read_bytes() == CONTENT
        assert (tmp_path / name / "down.bin").read_bytes() == CONTENT
        assert (tmp_path / name / "part.bin").read_bytes() == CONTENT
    assert said.count(f"listed: [a.bin={len(CONTENT)}]") == len(SESSIONS)
    assert "TLS failed" not in daemon.log
