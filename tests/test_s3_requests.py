"""How many requests each command makes: stores bill them. The table is in docs/storage.md."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.daemon import PATIENCE
from tests.ftpclient import FtpClient, secured
from tests.hostile import withstands
from tests.s3 import Bucket
from tests.s3_proxy import FaultyProxy
from tests.store_daemon import HOME, LARGE, MIB, Make, store_daemon


def renamed(client: FtpClient, old: str, new: str) -> None:
    """Rename something."""
    client.expect(350, f"RNFR {old}")
    client.expect(250, f"RNTO {new}")


#: What is measured, in the words of the table, and how, in this order. The directory `d` has five files when it is listed.
MEASURED: dict[str, Callable[[FtpClient], object]] = {
    "STOR of a small file": lambda client: client.upload("STOR d/new", b"1"),
    "STOR of *n* parts": lambda client: client.upload("STOR d/large", LARGE),
    "RETR of a small file": lambda client: client.download("RETR d/a"),
    "LIST of a directory of five new files": lambda client: client.download("LIST d"),
    "LIST again": lambda client: client.download("LIST d"),
    "NLST of a directory of three new files": lambda client: client.download("NLST t"),
    "LIST with a pattern that one new file of three matches": lambda client: client.download("LIST t/a*"),
    "SIZE, MDTM": lambda client: client.expect(213, "SIZE d/a"),
    "CWD": lambda client: client.expect(250, "CWD d"),
    "MKD": lambda client: client.expect(257, "MKD /m"),
    "RMD": lambda client: client.expect(250, "RMD /m"),
    "DELE": lambda client: client.expect(250, "DELE /d/new"),
    "RNFR and RNTO of a file": lambda client: renamed(client, "/d/a", "/d/z"),
    "RNFR and RNTO of a directory of *n* objects": lambda client: renamed(client, "/t", "/u"),
    "RMDA": lambda client: client.expect(250, "RMDA /u"),
}


#: The parts of the large file, and the objects of the directory that is renamed.
COUNTS = {"STOR of *n* parts": -(-len(LARGE) // (8 * MIB)), "RNFR and RNTO of a directory of *n* objects": 3}


def documented() -> dict[str, tuple[str, str]]:
    """Return the rows of the table: requests without and with a quota."""
    text = (Path(__file__).parents[1] / "docs/storage.md").read_text()
    table = text.partition("| command | requests | with a quota |\n| --- | --- | --- |")[2].partition("\n\n")[0]
    return {name: (plain, counted) for name, plain, counted in re.findall(r"\| (.+?) \| (.+?) \| (.+?) \|", table)}


def number(formula: str, count: int) -> int:
    """Return what a formula as `2 *n* + 9` is for a number."""
    total = 0
    for term in formula.split(" + "):
        factor, is_product, _ = term.partition("*n*")
        total += int(factor or 1) * count if is_product else int(factor)
    return total


def measured(proxy: FaultyProxy, act: Callable[[], object]) -> int:
    """Return how many requests a command makes. The daemon looks now and then whether the store works."""

    def count() -> int:
        return len([each for each in proxy.requests if "prefix=&" not in each.target])

    before = count()
    act()
    now, deadline = -1, time.monotonic() + PATIENCE
    while (later := count()) != now and time.monotonic() < deadline:  # an upload is closed after its reply
        now = later
        time.sleep(0.5)
    return now - before


@pytest.mark.parametrize("quota", [False, True])
def test_requests(make_daemon: Make, bucket: Bucket, quota: bool) -> None:
    """Each command makes no more requests than docs/storage.md says, and hardly fewer."""
    bucket.put_many({f"alice/{directory}/{name}": b"1" for directory in "dt" for name in "abc"})
    assert documented().keys() == MEASURED.keys()
    with FaultyProxy(bucket.server.port) as proxy:
        user = {"home": HOME, **({"quota": {"bytes": "1G"}} if quota else {})}
        daemon = store_daemon(make_daemon, bucket, {"alice": user}, port=proxy.port, rename_directories=10)
        with withstands(daemon), secured(daemon) as client:
            for what, formulas in documented().items():
                found = measured(proxy, partial(MEASURED[what], client))
                told = number(formulas[quota], COUNTS.get(what, 0))
                assert found <= told <= found + 2, f"{what}: {found} requests, not {formulas[quota]}"
