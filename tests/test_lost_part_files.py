"""An upload whose part file RMDA has removed leaves alone what other uploads have put in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local.part_files import part_name
from tests.test_files import KINDS, Storage, begin, cut, path, read, result, send, store

pytestmark = pytest.mark.quick


@pytest.fixture(params=[name for name in KINDS if "local" in name])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """A directory, with and without a quota. In the end the quota must have counted exactly what the home holds."""
    make, quota = KINDS[request.param]
    made = make(tmp_path, quota)
    result(made.open().make_directory(path("d")))
    yield made
    usage, held = result(made.open().usage(path("d"))), made.held()
    assert usage is None or (usage.bytes, usage.files) == (held.bytes, held.files)


def publish(upload: Any) -> None:
    """End an upload that has lost its part file, or the file that it continues: it is refused."""
    with closing(upload), pytest.raises((FileNotFoundError, Refusal)):
        upload.publish()


def cut_off(upload: Any) -> None:
    """Cut an upload."""
    upload.close()


def remove_part_of_tree(files: Any, part: Path) -> None:
    """Begin RMDA, and abort it (ABOR) as soon as it has removed a part file."""
    steps = files.root.remove_tree(path("d"))
    while part.exists():
        next(steps)
    steps.close()
    assert part.parent.exists()


@pytest.mark.parametrize("end", [publish, cut_off])
@pytest.mark.parametrize("offset", [0, 3])
def test_another_upload_has_the_name(storage: Storage, offset: int, end: Callable[[Any], None]) -> None:
    """The other client resumes its own upload, and the file has its bytes only.

    An upload that continues a file (REST 3) has a part file of the usual name as a lock, and another one.
    """
    one, other = storage.open(), storage.open()
    if offset:
        store(one.writer(path("d/f")), b"old")
    upload: Any = begin(one.writer(path("d/f"), offset))()
    send(upload, b"a" * 100)
    part = Path(storage.home, "d", part_name("f"))
    remove_part_of_tree(other, part)
    if Path(storage.home, "d", "f").exists():
        result(other.remove(path("d/f")))
    cut(other.writer(path("d/f")), b"b" * 500)
    end(upload)
    assert part.read_bytes() == b"b" * 500
    store(other.writer(path("d/f"), 500), b"c" * 500)
    assert read(one, "d/f") == b"b" * 500 + b"c" * 500
