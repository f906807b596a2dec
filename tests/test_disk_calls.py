"""How many system calls a command makes on the disk of a home: each costs as much as ten functions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpsd.protocol.listing import LongFormat
from ftpsd.protocol.name_rules import NameRules
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMISSIONS, Permissions
from ftpsd.storage.backend import Mount
from ftpsd.storage.listings import Listings
from ftpsd.storage.local.directories import LocalDirectories
from ftpsd.storage.local.entries import Entries
from ftpsd.storage.local.jail import Jail
from ftpsd.storage.local.root import Root

pytestmark = pytest.mark.quick

FILE = VirtualPath(("file",))


class Home:
    """A home with a file and a directory, and what reads it."""

    def __init__(self, place: Path) -> None:
        (place / "directory").mkdir()
        (place / "file").write_bytes(b"12345")
        (place / "directory" / "inner").write_bytes(b"1")
        jail = Jail(Mount(str(place), Permissions(frozenset(PERMISSIONS))), NameRules())
        self.entries = Entries(jail)
        self.root = Root(jail, self.entries, 0o022, fsync=False)
        self._listings = Listings(LocalDirectories(jail, self.entries))

    def listing(self, name: str) -> bytes:
        """Return a listing of a name."""
        source = self._listings.listing(VirtualPath((name,)), ListRequest(path=name), LongFormat(0.0).line)
        return b"".join(source)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path.resolve())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls that follow."""
    counted: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return function(*arguments, **named)

        return call

    for name in ("open", "close", "stat", "readlink", "scandir"):
        monkeypatch.setattr(os, name, counting(name, getattr(os, name)))
    return counted


def test_the_size_of_a_file(home: Home, calls: Counter[str]) -> None:
    """SIZE opens the home, makes sure that no link has led there, and asks for the status of the file once."""
    assert home.root.size(FILE) == 5
    assert calls == {"open": 1, "readlink": 1, "stat": 1, "close": 1}


def test_the_facts_of_a_file(home: Home, calls: Counter[str]) -> None:
    """So do MLST and MDTM."""
    assert home.entries.entry(FILE, "list").size == 5
    assert calls == {"open": 1, "readlink": 1, "stat": 1, "close": 1}


def test_a_listing_of_a_directory(home: Home, calls: Counter[str]) -> None:
    """LIST resolves the path of a directory once: it opens the home and the directory, and closes both."""
    assert home.listing("directory").endswith(b" inner\r\n")
    assert calls == {"open": 2, "readlink": 1, "stat": 1, "scandir": 1, "close": 2}


def test_a_download(home: Home, calls: Counter[str]) -> None:
    """RETR opens the home, and the file twice: what it is must be known before it is opened for reading."""
    home.root.reader(FILE, 0, None).close()
    assert calls == {"open": 3, "readlink": 1, "close": 3}


def test_a_download_by_a_link(home: Home, tmp_path: Path) -> None:
    """RETR follows a link that stays in the home."""
    (tmp_path / "link").symlink_to("directory/inner")
    source = home.root.reader(VirtualPath(("link",)), 0, None)
    assert b"".join(bytes(piece) for piece in source) == b"1"
    source.close()


def test_a_listing_of_a_file(home: Home) -> None:
    """LIST of a file shows it, under the name that the client has given."""
    assert home.listing("file").endswith(b" file\r\n")
