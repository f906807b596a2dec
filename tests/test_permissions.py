"""What the command table says of permissions is true: with them a command does its work, without them it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpsd.commands import TABLE
from ftpsd.protocol.permissions import PERMISSIONS
from tests.conftest import PLAIN
from tests.daemon import Daemon
from tests.hostile import plain_login

#: A line for each permission that a row names, by verb and condition.
LINES = {
    "APPE to a file": "APPE file",
    "APPE for a new one": "APPE new",
    "AVBL": "AVBL",
    "CWD": "CWD sub",
    "CDUP": "CDUP",
    "DELE": "DELE file",
    "HASH": "HASH file",
    "LIST": "LIST",
    "MDTM": "MDTM file",
    "MDTM to set a time": "MDTM 20200101000000 file",
    "MFF for Modify": "MFF Modify=20200101000000; file",
    "MFF for UNIX.mode": "MFF UNIX.mode=600; file",
    "MFMT": "MFMT 20200101000000 file",
    "MKD": "MKD made",
    "MLSD": "MLSD",
    "MLST": "MLST file",
    "NLST": "NLST",
    "RETR": "RETR file",
    "RMD": "RMD empty",
    "RMDA": "RMDA tree",
    "RMDA at all below": "RMDA tree",
    "RNFR": "RNFR file",
    "RNTO": "RNTO renamed",
    "RNTO to replace a file": "RNTO other",
    "RNTO to replace a directory": "RNTO empty",
    "SITE for CHMOD": "SITE CHMOD 600 file",
    "SITE for UTIME": "SITE UTIME 20200101000000 file",
    "SIZE": "SIZE file",
    "SIZE for an upload that was cut": "SIZE cut",
    "STAT with a path": "STAT sub",
    "STOR": "STOR new",
    "STOR to replace a file": "STOR file",
    "STOU": "STOU",
}


def clauses() -> list[tuple[str, str, frozenset[str], frozenset[str]]]:
    """Each verb, condition, the permissions of which one is needed, and what else the line needs."""
    found = []
    for row in TABLE.values():
        if row.verb.startswith("X"):
            continue
        always = frozenset({row.permission} if row.permission else ())
        conditions = [((row.permission,), "")] if row.permission else []
        for permissions, when in [*conditions, *row.conditional]:
            others = always if row.verb != "RNTO" else always | {"rename"}
            if row.verb == "RMDA":
                others |= {"delete"}
            found.append((row.verb, when, frozenset(permissions), others))
    return found


CLAUSES = clauses()


def user(kind: str, number: int) -> str:
    """The name of a user that has what a clause needs (`with`), or all but that (`without`)."""
    return f"{kind}{number}"


@pytest.fixture(scope="module")
def permitted(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with two users for each clause."""
    users = {}
    for number, (_, _, needed, others) in enumerate(CLAUSES):
        users[user("with", number)] = {"permissions": sorted({min(needed)} | others)}
        users[user("without", number)] = {"permissions": sorted(set(PERMISSIONS) - needed)}
    daemon = Daemon(tmp_path_factory.mktemp("permitted"), certificate, PLAIN, users).start()
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("kind", ["with", "without"])
def test_the_table_is_true(permitted: Daemon, kind: str) -> None:
    """Each command works with exactly what its row says, and is refused to who has all but that."""
    for number, (verb, when, needed, _) in enumerate(CLAUSES):
        name = user(kind, number)
        home = permitted.home(name)
        for directory in ("sub", "empty", "tree/deep"):
            (home / directory).mkdir(parents=True, exist_ok=True)
        for file in ("file", "other", "tree/deep/file"):
            (home / file).write_bytes(b"kept")
        with plain_login(permitted, name) as client:
            line = LINES[f"{verb} {when}".rstrip()]
            if verb == "RNTO":
                client.command("RNFR tree" if line == "RNTO empty" else "RNFR file")
            data = client.connect_data()
            reply = client.command(line)
            data.close()
            case = (name, verb, when, sorted(needed), reply)
            if kind == "with":
                assert re.match(r"[123]|550 No such file", reply), case
            else:
                assert reply[:3] in ("550", "553"), case


def test_every_clause_has_a_line() -> None:
    """Each clause of the table of commands has a line in the list above."""
    assert {f"{verb} {when}".rstrip() for verb, when, _, _ in CLAUSES} == set(LINES)
