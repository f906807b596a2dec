"""Fixtures: a certificate, and daemons that are stopped after the test or after the run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from ftpsd.cli.serve.self_signed import make_certificate
from tests import s3
from tests.daemon import Daemon, merge

# A loaded machine may take any time for an example.
# The suite tries the same examples each time, so that a change is not blamed for what another run did not try;
# FTPSD_FUZZ looks for new ones.
repeatable = not os.environ.get("FTPSD_FUZZ")
hypothesis.settings.register_profile("ftpsd", deadline=None, derandomize=repeatable)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=20, derandomize=repeatable)
hypothesis.settings.load_profile(os.environ.get("FTPSD_HYPOTHESIS", "ftpsd"))

#: What lets plain text through, for tests of what is the same with and without TLS.
PLAIN = {"tls": {"require": {"login": False, "data": False}}}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with certificate.pem and key.pem."""
    directory = tmp_path_factory.mktemp("certificate")
    make_certificate(directory / "certificate.pem", directory / "key.pem")
    return directory


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with default settings, for all tests that change no setting."""
    daemon = Daemon(tmp_path_factory.mktemp("shared"), certificate).start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon that permits plain text."""
    daemon = Daemon(tmp_path_factory.mktemp("plain"), certificate, PLAIN).start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def impatient(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with short deadlines that permits plain text. No test has an upper bound for the time."""
    timeouts = {"timeouts": {"login": 2, "idle": 60, "data_connect": 1, "stalled": 1}}
    daemon = Daemon(tmp_path_factory.mktemp("impatient"), certificate, merge(PLAIN, timeouts)).start()
    yield daemon
    daemon.stop()


@pytest.fixture
def make_daemon(tmp_path: Path, certificate: Path) -> Iterator[Callable[..., Daemon]]:
    """Return a function that makes daemons with settings of their own."""
    made: list[Daemon] = []

    def make(*arguments: Any, start: bool = True, **keywords: Any) -> Daemon:
        directory = tmp_path / f"daemon{len(made)}"
        directory.mkdir()
        daemon = Daemon(directory, certificate, *arguments, **keywords)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    for daemon in made:
        daemon.stop()


@pytest.fixture(scope="session")
def moto() -> Iterator[s3.S3Server]:
    """moto's S3 server, for all tests."""
    with s3.running_moto() as server:
        yield server


@pytest.fixture(scope="session")
def swift() -> Iterator[s3.S3Server]:
    """OpenStack Swift, for all tests."""
    with s3.running_swift() as server:
        yield server


@pytest.fixture
def swift_bucket(swift: s3.S3Server) -> s3.Bucket:
    """An empty bucket in Swift."""
    return swift.new_bucket()


@pytest.fixture(params=["moto", "swift"])
def each_bucket(request: pytest.FixtureRequest) -> s3.Bucket:
    """An empty bucket in each of the two servers."""
    server: s3.S3Server = request.getfixturevalue(request.param)
    return server.new_bucket()


@pytest.fixture
def bucket(moto: s3.S3Server) -> s3.Bucket:
    """An empty bucket in moto's server."""
    return moto.new_bucket()


#: Modules whose tests are quick where they start no daemon: `tests/run --quick` runs these.
QUICK = """
    accept access admin_status ban_sync bans chain cli_text configuration documents files hub layers ledger limits part periodic quota
    rates record resuming admin_inside
    scheduler session_begin session_registry sessions streams sweep tls_names transcripts twisted_private upload_start
    user_store web words workers
    """.split()  # noqa: SIM905
assert not [name for name in QUICK if not Path(__file__).with_name(f"test_{name}.py").exists()], "a module has moved"
DAEMONS = {"shared", "plain", "impatient", "make_daemon", "moto", "swift", "each_bucket"}


def pytest_configure() -> None:
    """Let programs be interrupted: a process in the background of a shell ignores SIGINT, and so would its children."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m quick`, import the quick modules only: to import all of them takes several seconds."""
    if config.option.markexpr != "quick" or not collection_path.name.startswith("test_"):
        return None
    return True if collection_path.stem.removeprefix("test_") not in QUICK else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the quick modules that start no daemon and no other process."""
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        if (
            item.path.stem.removeprefix("test_") in QUICK
            and not asked & DAEMONS
            and not item.get_closest_marker("process")
        ):
            item.add_marker(pytest.mark.quick)
