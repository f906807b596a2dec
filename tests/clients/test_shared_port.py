"""Clients at a passive port that all sessions share, several at the same time from one address."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients import filezilla
from tests.clients.filezilla import EXPLICIT, IMPLICIT, Job
from tests.clients.session import run, wrong
from tests.clients.table import CLIENTS
from tests.clients.test_clients import must_be_here
from tests.shared_port import Make, sharing

#: Users with a home each.
USERS = ("alice", "bob", "carol", "dave")


@pytest.mark.parametrize("mode", ["explicit", "implicit"])
def test_aioftp(make_daemon: Make, tmp_path: Path, mode: str) -> None:
    """Four sessions of aioftp at the same time get their own files."""
    aioftp = next(each for each in CLIENTS if each.name == "aioftp")
    must_be_here(aioftp)
    daemon = sharing(make_daemon, users={user: {} for user in USERS})
    for user in USERS:
        (tmp_path / user).mkdir()
    with ThreadPoolExecutor(len(USERS)) as threads:
        all_done = list(threads.map(lambda user: run(aioftp, daemon, user, tmp_path / user, mode, "1.3"), USERS))
    for user, done in zip(USERS, all_done, strict=True):
        assert done.returncode == 0 and "done" in done.stdout.splitlines(), done.stdout
        assert not wrong(aioftp, daemon.home(user), tmp_path / user / "local"), done.stdout


@pytest.mark.client
@pytest.mark.skipif(bool(filezilla.missing()), reason=f"FileZilla cannot be run: {filezilla.missing()}")
@pytest.mark.parametrize("protocol", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_filezilla(make_daemon: Make, tmp_path: Path, protocol: int) -> None:
    """FileZilla moves several files at the same time, each in a session of its own."""
    daemon = sharing(make_daemon)
    local = tmp_path / "local"
    local.mkdir()
    jobs = [Job(f"file{number}", download=number % 2 == 1) for number in range(6)]
    for number, job in enumerate(jobs):
        (daemon.home() if job.download else local).joinpath(job.name).write_bytes(b"%d " % number * 300_000)
    filezilla.prepare(tmp_path / "home", daemon, local, jobs, protocol, parallel=3)
    said = filezilla.process_queue(tmp_path / "home", len(jobs))
    for number, job in enumerate(jobs):
        for place in (daemon.home(), local):
            assert (place / job.name).read_bytes() == b"%d " % number * 300_000, said
