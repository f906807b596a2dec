"""`ftpsd events --failed` and `--retry`: events that could not be delivered, in the database of `ftpsd deliver`."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from ftpsd.cli import text
from ftpsd.cli.failure import CommandFailed, Unreachable
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.deliver.queue import FILE, Delivery, Queue
from ftpsd.outbox.place import journal_directory
from ftpsd.system.state import LaterRelease


def show(configuration: str, as_json: bool) -> int:
    """Print the events that were put aside, one on each line. Return 1 if there are none."""
    with _queue(configuration) as queue:
        failed = queue.failed()
    if not failed:
        raise CommandFailed("no event was put aside")
    for delivery in failed:
        print(json.dumps(_json(delivery)) if as_json else _line(delivery))
    return 0


def retry(configuration: str, event: str | None) -> int:
    """Let `ftpsd deliver` try events again: one, or all that were put aside. Return 1 if there are none."""
    with _queue(configuration) as queue:
        count = queue.retry(event, time.time())
    if not count:
        raise CommandFailed(f"no event {text.clean(event)} was put aside" if event else "no event was put aside")
    print(f"{count} will be delivered again.")
    return 0


def _json(delivery: Delivery) -> dict[str, object]:
    return {
        "event": delivery.entry["record"],
        "target": delivery.target,
        "attempts": delivery.attempts,
        "failed": None if delivery.failed is None else _time(delivery.failed),
        "error": delivery.error,
    }


def _line(delivery: Delivery) -> str:
    record = delivery.entry["record"]
    assert isinstance(record, dict)
    what = " ".join(str(record[name]) for name in ("event", "user", "path", "new_path") if name in record)
    line = f"{delivery.event}  {record['time']}  {what}  {delivery.target}: {delivery.error}"
    return text.clean(line)


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


@contextmanager
def _queue(configuration: str) -> Iterator[Queue]:
    try:
        directory = journal_directory(load.load_settings(configuration), configuration)
    except InvalidConfiguration as error:
        raise CommandFailed(str(error)) from None
    if directory is None:
        raise Unreachable("set state.directory or events.directory in ftpsd.yaml: there is no journal of events")
    try:
        _become_owner(directory / FILE)
        with closing(Queue(directory)) as queue:
            yield queue
    except FileNotFoundError:
        raise Unreachable(
            f"{directory / FILE} does not exist: `ftpsd deliver` has not delivered anything yet"
        ) from None
    except (OSError, sqlite3.Error, LaterRelease) as error:
        raise Unreachable(f"{directory / FILE} cannot be used: {error}") from None


def _become_owner(path: Path) -> None:
    """Change from root to the owner of the database: SQLite creates files beside it, which that user must write."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Unreachable(f"{path} is not a regular file: check who can write to {path.parent}")
    if os.geteuid() == 0:
        owner = found if found.st_uid else path.parent.stat()
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
