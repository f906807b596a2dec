"""The benchmark of object stores in small; `python -m benchmarks.s3` is the same in large (benchmarks/README.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.s3.programme import COMPARED, Programme
from benchmarks.s3.servers import LocalFtpsd, StoreFtpsd
from benchmarks.s3.stores import KEEP, LeanStore
from benchmarks.s3.tables import report
from benchmarks.server import Setting
from benchmarks.sizes import Sizes
from benchmarks.stage import Stage

#: Two parts and a bit, so that there are parts at the same time.
SIZES = Sizes(bulk=(17 << 20) + 5, files=4, names=1200, many_names=1)


@contextmanager
def programme(place: Path) -> Iterator[Programme]:
    """Build the files, run the store, and return a benchmark of it."""
    place.chmod(0o755)
    stage = Stage(place, SIZES, "sha512-crypt", Path(sys.executable))
    store = LeanStore(Setting(stage, place, Path(sys.executable)))
    try:
        stage.build(SIZES)
        (stage.home / KEEP).touch()
        store.start()
        yield Programme(stage, SIZES, store, lambda line: print(line))
    finally:
        store.stop()
        stage.remove()


def test_both_tables(tmp_path: Path) -> None:
    """Each workload is done, each byte is compared, and both tables have a figure for each server."""
    pytest.importorskip("boto3", reason="boto3 is not installed")
    with programme(tmp_path) as run:
        only = ["dl", "ul", COMPARED, "small", "smallup", "list"]
        found = run.run(only, [LocalFtpsd.name, StoreFtpsd.name], 1)
        text = report(run, "lean", SIZES, 1)
    assert [each for each in found.remarks if "failed" in each or "skipped" in each] == []
    assert set(found.outcomes) == set(only)
    for by_server in found.outcomes.values():
        assert set(by_server) == {LocalFtpsd.name, StoreFtpsd.name}
    assert {source: len(each) for source, each in found.manager.items()} == {"file": 1, "connection": 1}
    for word in (
        "transfer manager, file",
        "transfer manager, connection",
        "ftpsd-s3, plain",
        "ftpsd-s3, over TLS",
        "CPU-ms/GiB, store",
    ):
        assert word in text
