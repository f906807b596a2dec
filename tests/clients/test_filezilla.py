"""FileZilla, the real program: what it transfers, and how it resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import filezilla
from tests.clients.filezilla import EXPLICIT, IMPLICIT, Job
from tests.clients.session import CONTENT, PART
from tests.clients.test_resume import cut_upload
from tests.daemon import Daemon

pytestmark = [
    pytest.mark.client,
    pytest.mark.skipif(bool(filezilla.missing()), reason=f"FileZilla cannot be run: {filezilla.missing()}"),
]


@pytest.mark.parametrize("protocol", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_filezilla(make_daemon: Callable[..., Daemon], tmp_path: Path, protocol: int) -> None:
    """FileZilla uploads, downloads, and resumes a download."""
    daemon = make_daemon()
    local = tmp_path / "local"
    local.mkdir()
    (local / "up.bin").write_bytes(CONTENT)
    (local / "part.bin").write_bytes(CONTENT[:PART])
    for name in ("down.bin", "part.bin"):
        (daemon.home() / name).write_bytes(CONTENT)
    filezilla.prepare(
        tmp_path / "home", daemon, local, [Job("up.bin", False), Job("down.bin", True), Job("part.bin", True)], protocol
    )
    said = filezilla.process_queue(tmp_path / "home", 3)
    assert (daemon.home() / "up.bin").read_bytes() == CONTENT, said
    assert (local / "down.bin").read_bytes() == CONTENT, said
    assert (local / "part.bin").read_bytes() == CONTENT, said
    assert f"REST {PART}" in said


def test_filezilla_resumes_a_cut_upload(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """FileZilla finds what arrived of a cut upload in the listing, and sends only the rest."""
    daemon = make_daemon()
    local = tmp_path / "local"
    local.mkdir()
    (local / "file.bin").write_bytes(CONTENT)
    arrived = cut_upload(daemon, "file.bin", CONTENT[:PART])
    filezilla.prepare(tmp_path / "home", daemon, local, [Job("file.bin", False)])
    said = filezilla.process_queue(tmp_path / "home", 1)
    assert (daemon.home() / "file.bin").read_bytes() == CONTENT, said
    assert f"REST {arrived}" in said, said
