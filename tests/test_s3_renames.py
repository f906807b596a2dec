"""Renames in a store while others use the same names: nothing that they store is lost or replaced.

A rename is a job in steps. The tests let others act between two steps, at each place in turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ftpsd.protocol.permissions import PERMISSIONS
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.client import Calls
from ftpsd.storage.s3.copying import Copier
from ftpsd.storage.s3.uploads.parts import COPY_MARKER, ranges
from tests.daemon import PATIENCE
from tests.s3 import Bucket
from tests.s3_proxy import Answer, Cut, Delay, FaultyProxy
from tests.test_files import path, refused, result
from tests.test_s3_files import DATA, MIB, Node
from tests.test_s3_mixtures import parallel

#: A user who may replace nothing.
CAREFUL = {"permissions": frozenset(PERMISSIONS) - {"overwrite"}}


@pytest.fixture(autouse=True)
def _one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each object is a step of its own. A test for several at a time says so."""
    monkeypatch.setattr("ftpsd.storage.s3.calls.together.PARALLEL", 1)


def rename(files: Any, old: str, new: str, at: int, act: Callable[[], object]) -> tuple[bool, Refusal | None]:
    """Rename, and act before the step with a number. Return whether that step was reached, and the refusal."""
    steps = files._renames.rename(path(old), path(new))
    for number in range(10_000):
        if number == at:
            act()
        try:
            next(steps)
        except StopIteration:
            return number >= at, None
        except Refusal as refusal:
            return number >= at, refusal
    raise AssertionError("the rename does not end")


def at_each_step(bucket: Bucket, try_it: Callable[[int], bool]) -> None:
    """Try something for each step, each time in an empty bucket. It returns whether that step was reached."""
    for number in range(100):
        for key in bucket.all_keys():
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
        if not try_it(number):
            assert number > 1
            return
    raise AssertionError("there are too many steps")


def test_what_is_stored_in_a_directory_while_it_is_renamed(each_bucket: Bucket) -> None:
    """A file that is stored or replaced meanwhile is moved, too, or stays: 250 only if all have moved."""
    bucket, files = each_bucket, Node(each_bucket, rename_directories=20).open()

    def try_it(number: int) -> bool:
        bucket.put_many({"alice/d/": b"", "alice/d/a": b"old", "alice/d/b": b"b", "alice/d/sub/c": b"c"})
        reached, refusal = rename(
            files, "d", "e", number, lambda: bucket.put_many({"alice/d/a": b"new", "alice/d/x": b"x"})
        )
        found = bucket.contents()
        others = {"alice/e/b": b"b", "alice/e/sub/c": b"c"}
        if refusal is None:
            new = {"alice/e/a": b"new", "alice/e/x": b"x"} if reached else {"alice/e/a": b"old"}
            assert found == {**others, **new}, number
        else:  # it came when the old names were being deleted
            assert refusal.reply.code == 450
            assert found.pop("alice/e/a", b"old") == b"old"
            assert found == {**others, "alice/d/a": b"new", "alice/d/x": b"x"}, number
        return reached

    at_each_step(bucket, try_it)


def test_what_is_removed_from_a_directory_while_it_is_renamed(bucket: Bucket) -> None:
    """A file that another session deletes meanwhile does not come back under the new name."""
    files = Node(bucket, rename_directories=20).open()

    def try_it(number: int) -> bool:
        bucket.put_many({"alice/d/a": b"a", "alice/d/b": b"b"})
        was_there = False

        def delete() -> None:
            nonlocal was_there
            was_there = "alice/d/a" in bucket.all_keys()
            bucket.client.delete_object(Bucket=bucket.name, Key="alice/d/a")

        reached, refusal = rename(files, "d", "e", number, delete)
        assert refusal is None
        assert bucket.contents() == {"alice/e/b": b"b"} | ({} if was_there else {"alice/e/a": b"a"}), number
        return reached

    at_each_step(bucket, try_it)


def test_the_new_name_of_a_directory_is_used_meanwhile(bucket: Bucket) -> None:
    """What appears below the new name stays; then the rename fails as a whole, and leaves no copies."""
    files = Node(bucket, rename_directories=20).open()

    def try_it(number: int) -> bool:
        old = {"alice/d/a": b"a", "alice/d/b": b"b"}
        bucket.put_many(old)
        reached, refusal = rename(files, "d", "e", number, lambda: bucket.put("alice/e/b", b"of another session"))
        found = bucket.contents()
        if refusal is not None:
            assert refusal.reply.code in (550, 553)
            assert found == {**old, "alice/e/b": b"of another session"}, number
        else:  # it came after the copy, as an upload to the directory that has its name already
            assert found["alice/e/a"] == b"a"
            assert found["alice/e/b"] == (b"of another session" if reached else b"b")
        return reached

    def not_empty(number: int) -> bool:
        try:
            return try_it(number)
        except OSError:
            assert number == 0
            return True

    at_each_step(bucket, not_empty)


@pytest.mark.parametrize("fails", [False, True])
def test_a_directory_is_renamed_several_objects_at_a_time(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A client does not wait for one copy after the other; if one fails, no copy stays, also of those on their way."""
    monkeypatch.setattr("ftpsd.storage.s3.calls.together.PARALLEL", 8)
    names = [f"{number:02}" for number in range(16)]
    bucket.put_many({f"alice/d/{name}": name.encode() for name in names})
    with FaultyProxy(bucket.server.port) as proxy, ThreadPoolExecutor(8) as pool:
        if fails:
            proxy.spoil("PUT", "alice/e/05", Answer(403, "AccessDenied"), times=9)
        proxy.spoil("PUT", "alice/e/", Delay(1.0), times=16)
        files = parallel(Node(bucket, proxy.port, rename_directories=20), pool).open()
        began = time.monotonic()
        if fails:
            refused(451, lambda: result(files.rename(path("d"), path("e"))))
        else:
            result(files.rename(path("d"), path("e")))
        assert time.monotonic() - began < 12  # one after the other takes 16 seconds
    directory = "d" if fails else "e"
    assert bucket.contents() == {f"alice/{directory}/{name}": name.encode() for name in names}


def test_an_abort_while_a_directory_is_renamed(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was copied until then goes; the old directory stays whole."""
    monkeypatch.setattr("ftpsd.storage.s3.calls.together.PARALLEL", 4)
    old = {f"alice/d/{number:02}": b"x" for number in range(16)}
    bucket.put_many(old)
    with ThreadPoolExecutor(8) as pool:
        files: Any = parallel(Node(bucket, rename_directories=20), pool).open()
        steps = files._renames.rename(path("d"), path("e"))
        while not bucket.all_keys("alice/e"):
            next(steps)
        steps.close()
    assert bucket.contents() == old


def test_a_large_file_is_renamed(each_bucket: Bucket) -> None:
    """A large file is copied in parts, and nothing stays open; a crash leaves a copy that no client resumes."""
    bucket, files = each_bucket, small_copies(Node(each_bucket))
    bucket.put("alice/f", DATA)
    steps = files._renames.rename(path("f"), path("g"))
    next(steps)
    assert bucket.uploads() == ["alice/g"]
    assert result(files.entry(path(""), "list")).is_directory
    with pytest.raises(FileNotFoundError):
        result(files.size(path("g")))
    for _ in steps:
        pass
    assert bucket.contents() == {"alice/g": DATA}
    assert bucket.uploads() == []


@pytest.mark.parametrize("size", [1, len(DATA)])
def test_a_copy_has_all_that_describes_the_object(bucket: Bucket, size: int) -> None:
    """Metadata, content type, storage class and others are those of the old name, of a file of any size."""
    described: dict[str, Any] = {
        "Metadata": {"owner": "alice", "mtime": "1000000000.0"},
        "ContentType": "text/csv",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "ContentDisposition": "attachment",
        "CacheControl": "no-store",
        "StorageClass": "STANDARD_IA",
    }
    bucket.put("alice/f", DATA[:size], **described)
    result(small_copies(Node(bucket)).rename(path("f"), path("g")))
    found = bucket.client.head_object(Bucket=bucket.name, Key="alice/g")
    assert {name: found.get(name) for name in described} == described


def test_a_name_that_appears_while_a_large_file_is_renamed(each_bucket: Bucket) -> None:
    """A user who may replace nothing gets 553 at whatever step it appears, and both files stay."""
    bucket, files = each_bucket, small_copies(Node(each_bucket), **CAREFUL)

    def try_it(number: int) -> bool:
        bucket.put("alice/f", DATA)
        reached, refusal = rename(files, "f", "g", number, lambda: bucket.put("alice/g", b"other"))
        if reached:
            assert refusal is not None and refusal.reply.code == 553
            assert bucket.contents() == {"alice/f": DATA, "alice/g": b"other"}
        else:
            assert (refusal, bucket.contents()) == (None, {"alice/g": DATA})
        assert bucket.uploads() == []
        return reached

    at_each_step(bucket, try_it)


def test_a_name_that_appears_during_the_last_request(each_bucket: Bucket) -> None:
    """The store itself looks whether the name is free: moto and Swift know If-None-Match, boto3 from 1.35 on."""
    if not Node(each_bucket).store.objects._calls.supports("CompleteMultipartUpload", "IfNoneMatch"):
        pytest.skip("this release of boto3 knows no conditions")
    with FaultyProxy(each_bucket.server.port) as proxy:
        files = small_copies(Node(each_bucket, proxy.port), **CAREFUL)
        each_bucket.put("alice/f", DATA)
        proxy.spoil("POST", "uploadId=", Delay(1.5))

        def appear() -> None:
            deadline = time.monotonic() + PATIENCE
            while not proxy.spoiled and time.monotonic() < deadline:
                time.sleep(0.02)
            each_bucket.put("alice/g", b"other")

        thread = threading.Thread(target=appear)
        thread.start()
        refused(553, lambda: result(files.rename(path("f"), path("g"))))
        thread.join()
    assert each_bucket.contents() == {"alice/f": DATA, "alice/g": b"other"}
    assert each_bucket.uploads() == []


def test_a_lost_answer_to_the_copy(bucket: Bucket) -> None:
    """If the store has made the copy and the answer is lost, the rename is successful."""
    with FaultyProxy(bucket.server.port) as proxy:
        files = small_copies(Node(bucket, proxy.port), **CAREFUL)
        bucket.put("alice/f", DATA)
        proxy.spoil("POST", "uploadId=", Cut(response_after=0))
        result(files.rename(path("f"), path("g")))
    assert bucket.contents() == {"alice/g": DATA}


def test_parts_suffice_for_the_largest_copy() -> None:
    """An object of 5 TiB has fewer parts than a copy may have."""
    found = ranges(5 << 40)
    assert len(found) < COPY_MARKER
    assert (found[0][0], found[-1][1]) == (0, (5 << 40) - 1)


def small_copies(node: Node, **settings: Any) -> Any:
    """Return files that copy what is larger than 7 MiB in parts."""
    files: Any = node.open(**settings)
    files._renames._copier._part = 7 * MIB
    return files


# --- failures --------------------------------------------------------------------------------------------


def test_a_lost_answer_and_a_refused_repetition(bucket: Bucket) -> None:
    """The store has made the copy, and its answer is lost: the condition of the next attempt fails."""
    bucket.put_many({"alice/d/a": b"a", "alice/d/b": b"b"})
    with FaultyProxy(bucket.server.port) as proxy:
        proxy.spoil("PUT", "alice/e/b", Cut(response_after=0))
        proxy.spoil("PUT", "alice/e/b", Answer(412, "PreconditionFailed"), times=2)
        result(Node(bucket, proxy.port, rename_directories=20).open().rename(path("d"), path("e")))
    assert bucket.contents() == {"alice/e/a": b"a", "alice/e/b": b"b"}


def test_copies_whose_answers_are_lost_are_removed(bucket: Bucket) -> None:
    """Copies whose answers were lost are removed, also if another copy cannot be removed."""
    old = {f"alice/d/{name}": b"1" for name in "abcd"}
    bucket.put_many(old)
    with FaultyProxy(bucket.server.port) as proxy:
        proxy.spoil("PUT", "alice/e/c", Cut(response_after=0), times=9)
        proxy.spoil("HEAD", "alice/e/c", Answer(403, ""), skip=1)
        proxy.spoil("DELETE", "alice/e/a", Answer(403, "AccessDenied"), times=9)
        files = Node(bucket, proxy.port, rename_directories=20).open()
        refused(451, lambda: result(files.rename(path("d"), path("e"))))
    assert bucket.contents() == {**old, "alice/e/a": b"1"}


@pytest.mark.parametrize("new", [None, b"new"])
def test_a_file_that_goes_just_before_it_is_copied(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, new: bytes | None
) -> None:
    """Somebody deletes or replaces it after it was found: the others are renamed, and the new one as well."""
    bucket.put_many({"alice/d/a": b"a", "alice/d/b": b"b"})
    copy, changed = Copier.copy, list[str]()

    def change(copier: Copier, source: str, *more: Any, **named: Any) -> Any:
        if source == "alice/d/b" and not changed:
            changed.append(source)
            bucket.client.delete_object(Bucket=bucket.name, Key=source)
            if new is not None:
                bucket.put(source, new)
                proxy.spoil("PUT", "alice/e/b", Answer(412, "PreconditionFailed"))  # moto ignores the condition
        return (yield from copy(copier, source, *more, **named))

    monkeypatch.setattr(Copier, "copy", change)
    with FaultyProxy(bucket.server.port) as proxy:
        result(Node(bucket, proxy.port, rename_directories=20).open().rename(path("d"), path("e")))
    assert bucket.contents() == {"alice/e/a": b"a", **({} if new is None else {"alice/e/b": new})}


@pytest.mark.parametrize("fails", [False, True])
def test_a_new_name_that_is_an_empty_directory(bucket: Bucket, fails: bool) -> None:
    """If the rename fails, it is still there."""
    old = {"alice/d/": b"", "alice/d/a": b"a", "alice/e/": b""}
    bucket.put_many(old)
    with FaultyProxy(bucket.server.port) as proxy:
        files = Node(bucket, proxy.port, rename_directories=20).open()
        if fails:
            proxy.spoil("PUT", "alice/e/a", Answer(403, "AccessDenied"), times=9)
            refused(451, lambda: result(files.rename(path("d"), path("e"))))
        else:
            result(files.rename(path("d"), path("e")))
    assert set(bucket.all_keys()) == (set(old) if fails else {"alice/e/", "alice/e/a"})


def test_a_copy_is_not_archived(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of a file that was restored from an archive can be read at once."""
    bucket.put("alice/f", b"1")
    files: Any = Node(bucket).open()
    call = Calls.call

    def restored(calls: Calls, operation: str, **arguments: object) -> Any:
        answer = call(calls, operation, **arguments)
        more = {"StorageClass": "DEEP_ARCHIVE", "ContentDisposition": "ä", "Metadata": {"who": "ä", "of": "it"}}
        return {**answer, **more} if operation == "head_object" else answer

    monkeypatch.setattr(Calls, "call", restored)
    result(files.rename(path("f"), path("g")))
    found = bucket.client.head_object(Bucket=bucket.name, Key="alice/g")
    assert found.get("StorageClass", "STANDARD") == "STANDARD"
    assert "ContentDisposition" not in found
    assert found["Metadata"].keys() == {"of", "mtime"}
