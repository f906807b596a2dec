"""The JSON records of events: names, fields, times and ids. docs/events.md is compared with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest
from twisted.internet.task import Clock

from ftpsd.config.sections.events import EventName
from ftpsd.events.durable_ids import DurableIds
from ftpsd.events.record import Record, Recorder, iso_time, record, recorded_kinds
from ftpsd.events.session_events import info
from ftpsd.events.types import DaemonStarted, Event, FileChanged, LoggedIn, LoginCheckFailed, TransferEnded
from ftpsd.protocol.addresses import plain_address
from ftpsd.protocol.interfaces import Change, TransferKind
from tests.test_hub import KINDS, example

DOCUMENT = (Path(__file__).parents[1] / "docs/events.md").read_text()

#: Kinds that are no events for an administrator's programs: the log and the metrics have them.
NOT_RECORDED = """
    TlsFailed WrongProtocol PlainTextAfterAuth CommandsSlowed CommandAnswered QuietCommandAnswered TransferStarted
    DataConnectionRefused
    """.split()  # noqa: SIM905

#: The fields that every record has, and those that every record of a session has.
OF_EVERY = {"id", "event", "time"}
OF_SESSIONS = {"session", "address"}


def variants() -> list[Event]:
    """An event of each kind, and of each kind of change and transfer, complete and failed."""
    changes = [attrs.evolve(example(FileChanged), change=change) for change in get_args(Change)]
    transfers = [
        attrs.evolve(example(TransferEnded), kind=kind, code=code)
        for kind in get_args(TransferKind)
        for code in (226, 426)
    ]
    return [*map(example, KINDS), *changes, *transfers]


def documented(heading: str) -> dict[str, list[str]]:
    """The rows of a table: the name, and the cells behind it."""
    table = DOCUMENT.split(f"| {heading} |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    return {name: cells.split("| ") for name, cells in rows}


def made(event: Event) -> Record:
    """The record of an event that has one."""
    result = record(event, 1.5, "7-1")
    assert result is not None
    return result


def test_every_kind_has_a_record_or_is_left_out_on_purpose() -> None:
    """A new kind of event needs a decision: a record, or a place in the list of those without."""
    assert {kind.__name__ for kind in KINDS} - {kind.__name__ for kind in recorded_kinds()} == set(NOT_RECORDED)
    for kind in KINDS:
        if kind.__name__ in NOT_RECORDED:
            assert record(example(kind), 1.5, "7-1") is None


def test_rules_can_name_every_record() -> None:
    """`on` of a rule accepts the names of all records, each kind says which names it has, and has no other."""
    kinds = recorded_kinds()
    assert {name for names in kinds.values() for name in names} == set(get_args(EventName))
    found: dict[str, set[str]] = {}
    for event in variants():
        result = record(event, 1.5, "7-1")
        if result is not None:
            found.setdefault(type(event).__name__, set()).add(str(result["event"]))
    assert found == {kind.__name__: set(names) for kind, names in kinds.items()}


def test_the_document_has_every_event_and_field() -> None:
    """docs/events.md lists exactly the events and the fields that records have."""
    found: dict[str, set[str]] = {}
    for event in variants():
        result = record(event, 1.5, "7-1")
        if result is None or isinstance(event, LoginCheckFailed):
            continue
        own = set(result) - OF_EVERY - OF_SESSIONS
        name = str(result["event"])
        if name == "rename":
            own |= {"new_path"}
        elif "new_path" in own:
            own -= {"new_path"}  # the example of a change has a target, whatever the change is
        found.setdefault(name, set()).update(own)
    listed = {name: set(re.findall(r"`(\w+)`", cells[0])) for name, cells in documented("event").items()}
    assert found == listed
    assert set(documented("field")) == set.union(OF_EVERY, OF_SESSIONS, *found.values())


@pytest.mark.parametrize("event", variants(), ids=lambda event: type(event).__name__)
def test_a_record_is_flat_json_with_the_documented_types(event: Event) -> None:
    """Each field has the type that the document gives it, and the record can be written as JSON and read again."""
    result = record(event, 1.5, "7-1")
    if result is None:
        return
    assert json.loads(json.dumps(result)) == result
    types: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "list of strings": list}
    for name, value in result.items():
        assert type(value) is types[documented("field")[name][0].strip()], name


def test_a_session_is_named_with_its_user() -> None:
    """A record of a session has its number and address, and the user after the login."""
    session = info(22, plain_address("2001:db8::1"))
    assert made(LoggedIn(attrs.evolve(session, user="alice"), "")) == {
        "id": "7-1",
        "event": "login",
        "time": "1970-01-01T00:00:01.500Z",
        "session": 22,
        "address": "2001:db8::1",
        "user": "alice",
    }
    assert "user" not in made(example(LoginCheckFailed))


def test_names_that_are_not_utf8_are_valid_json() -> None:
    """A byte of a name that is not UTF-8 is escaped, since half a surrogate pair is an error to many JSON parsers."""
    event = attrs.evolve(example(FileChanged), path=b"/\xe9t\xe9 \xc3\xa9".decode("utf-8", "surrogateescape"))
    result = made(event)
    assert result["path"] == "/\\xe9t\\xe9 é"
    json.dumps(result, ensure_ascii=False).encode()


def test_ids_are_unique_across_restarts() -> None:
    """An event has one id, however many listeners ask for it. Other events, and those of another run, have others."""
    clock = Clock()
    first, second = (Recorder(clock.seconds, DurableIds()) for _ in range(2))
    event, other = DaemonStarted(), DaemonStarted()
    results = [first.record(event), first.record(event), first.record(other), second.record(event)]
    ids = [None if result is None else result["id"] for result in results]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert results[0] is results[1]


def test_times_are_in_utc_with_milliseconds() -> None:
    """A time is written in ISO 8601, in UTC."""
    assert iso_time(0) == "1970-01-01T00:00:00.000Z"
    assert iso_time(1764123471.25) == "2025-11-26T02:17:51.250Z"
