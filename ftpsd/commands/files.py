"""Commands for files and directories: CWD CDUP PWD MKD RMD RMDA DELE RNFR RNTO SIZE MDTM MFMT MFF AVBL MLST."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from ftpsd.commands.transfer import machine_format
from ftpsd.protocol import parsing
from ftpsd.protocol.command import Command
from ftpsd.protocol.listing import FACTS, time_value
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMISSIONS
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.protocol.session import Session

V = TypeVar("V")

# --- the current directory -------------------------------------------------------------------------


async def change_directory(session: Session, path: VirtualPath) -> Reply:
    """CWD: change the current directory."""
    await session.files.require_directory(path)
    session.directory = path
    return Reply(250, f"Directory changed to {path}.")


async def change_up(session: Session, _: None) -> Reply:
    """CDUP: change to the parent directory.

    RFC 959 has 200 in section 5.4 and 250 in appendix II. Clients written in Go require 250.
    """
    return await change_directory(session, session.directory.parent)


def print_directory(session: Session, _: None) -> Reply:
    """PWD: report the current directory."""
    return Reply(257, f"{session.directory.quoted()} is the current directory.")


# --- changes ---------------------------------------------------------------------------------------


async def make_directory(session: Session, path: VirtualPath) -> Reply:
    """MKD: make a directory."""
    await session.files.make_directory(path)
    session.events.file_changed("directory_made", path)
    return Reply(257, f"{path.quoted()} created.")


async def remove_directory(session: Session, path: VirtualPath) -> Reply:
    """RMD: remove an empty directory."""
    await session.files.remove_directory(path)
    session.events.file_changed("directory_removed", path)
    return Reply(250, f"Directory {path} removed.")


async def remove_tree(session: Session, path: VirtualPath) -> Reply:
    """RMDA: remove a directory and all below it, if the user may delete all of that."""
    await session.files.remove_tree(path)
    session.events.file_changed("tree_removed", path)
    return Reply(250, f"Directory tree {path} removed.")


async def remove(session: Session, path: VirtualPath) -> Reply:
    """DELE: delete a file, or a symbolic link itself."""
    await session.files.remove(path)
    session.events.file_changed("deleted", path)
    return Reply(250, f"{path} deleted.")


async def rename_from(session: Session, path: VirtualPath) -> Reply:
    """RNFR: choose what RNTO renames. Raises Refusal or OSError if it does not exist."""
    session.rename_from = None
    entry = await session.files.entry(path, "rename")
    if entry.incomplete:
        raise Refusal(550, f"Upload of {path} is incomplete: resume or delete it.")
    session.rename_from = path
    return Reply(350, "Ready for RNTO.")


async def rename_to(session: Session, path: VirtualPath) -> Reply:
    """RNTO: rename what RNFR has chosen."""
    old, session.rename_from = session.rename_from, None
    if old is None:
        raise Refusal(503, "Send RNFR first.")
    await session.files.rename(old, path)
    session.events.file_changed("renamed", old, path)
    return Reply(250, f"{old} renamed to {path}.")


# --- facts -----------------------------------------------------------------------------------------


async def size(session: Session, path: VirtualPath) -> Reply:
    """SIZE: report the number of bytes in TYPE I. For TYPE A the whole file would have to be read."""
    if session.representation == "A":
        raise Refusal(550, "SIZE not allowed in ASCII mode: send TYPE I first.")
    return Reply(213, str(await session.files.size(path)))


async def modified(session: Session, value: tuple[float | None, VirtualPath]) -> Reply:
    """MDTM: report the time of modification. With a time before the path, set it as MFMT does."""
    moment, path = value
    if moment is not None:
        return await set_modified(session, (moment, path))
    entry = await session.files.entry(path, "list", "download")
    if not entry.is_file:
        raise Refusal(550, "Not a complete file: use MLST.")
    return Reply(213, time_value(entry.modified))


async def set_modified(session: Session, value: tuple[float, VirtualPath]) -> Reply:
    """MFMT: set the time of modification."""
    moment, path = value
    session.resolve(str(path), "times")
    stored = await session.files.set_time(path, moment)
    session.events.file_changed("time_changed", path)
    return Reply(213, f"Modify={time_value(stored)}; {path}")


async def set_facts(session: Session, value: tuple[dict[str, str], VirtualPath]) -> Reply:
    """MFF: set facts, after all of them have been checked."""
    facts, path = value
    moment = mode = None
    for fact, given in facts.items():
        if fact == "modify":
            session.resolve(str(path), "times")
            moment = parsing.timestamp(given)
        elif fact == "unix.mode":
            session.resolve(str(path), "chmod")
            mode = parsing.mode(given)
        else:
            raise Refusal(504, "Only the facts Modify and UNIX.mode can be set.")
    stored = {}
    if mode is not None:
        stored["unix.mode"] = f"{await session.files.set_mode(path, mode):03o}"
        session.events.file_changed("mode_changed", path)
    if moment is not None:
        stored["modify"] = time_value(await session.files.set_time(path, moment))
        session.events.file_changed("time_changed", path)
    done = "".join(f"{fact}={stored[fact]};" for fact in facts)
    return Reply(213, f"{done} {path}")


async def available(session: Session, path: VirtualPath) -> Reply:
    """AVBL: report the free bytes for uploads. The reply is a number only, because WinSCP parses all of it as one."""
    return Reply(213, str(await session.files.available_space(path)))


async def machine_list(session: Session, path: VirtualPath) -> Reply:
    """MLST: report the facts of one name on the control connection (RFC 3659 section 7.2)."""
    entry = await session.files.entry(path, "list")
    line = machine_format(session, path.parent).line(entry, str(path))
    return Reply(250, f"Facts of {path}", " " + line, "End.")


def _facts_feature(session: Session) -> tuple[str]:
    return ("MLST " + "".join(f"{fact}*;" if fact in session.facts else f"{fact};" for fact in FACTS),)


def _both(row: Command[Session, V], old: str) -> tuple[Command[Session, V], Command[Session, V]]:
    """Return a row, and the same under the verb that RFC 775 gave to the command."""
    return row, replace(row, verb=old)


ROWS = (
    *_both(
        Command("CWD", parsing.name, change_directory, "CWD <path>", "959 4.1.1", conditional=((PERMISSIONS, ""),)),
        "XCWD",
    ),
    *_both(Command("CDUP", parsing.nothing, change_up, "CDUP", "959 4.1.1", conditional=((PERMISSIONS, ""),)), "XCUP"),
    *_both(Command("PWD", parsing.nothing, print_directory, "PWD", "959 4.1.3", quiet=True), "XPWD"),
    *_both(Command("MKD", parsing.name, make_directory, "MKD <path>", "959 4.1.3", permission="mkdir"), "XMKD"),
    *_both(
        Command("RMD", parsing.name, remove_directory, "RMD <path>", "959 4.1.3", permission="rmdir", walks=True),
        "XRMD",
    ),
    Command(
        "RMDA",
        parsing.name,
        remove_tree,
        "RMDA <path>",
        "draft-peterson-streamlined-ftp",
        permission="rmdir",
        conditional=((("delete",), "at all below"),),
        features=("RMDA <path>",),
        walks=True,
    ),
    Command("DELE", parsing.name, remove, "DELE <path>", "959 4.1.3", permission="delete"),
    Command("RNFR", parsing.name, rename_from, "RNFR <path>", "959 4.1.3", permission="rename"),
    Command(
        "RNTO",
        parsing.name,
        rename_to,
        "RNTO <path>",
        "959 4.1.3",
        permission="rename",
        conditional=((("overwrite",), "to replace a file"), (("rmdir",), "to replace a directory")),
    ),
    Command(
        "SIZE",
        parsing.name,
        size,
        "SIZE <path>",
        "3659 4",
        conditional=((("list", "download"), ""), (("upload",), "for an upload that was cut")),
        features=("SIZE",),
        quiet=True,
    ),
    Command(
        "MDTM",
        parsing.maybe_time_and_name,
        modified,
        "MDTM <path>",
        "3659 3",
        conditional=((("list", "download"), ""), (("times",), "to set a time")),
        features=("MDTM",),
        quiet=True,
    ),
    Command(
        "MFMT",
        parsing.time_and_name,
        set_modified,
        "MFMT <time> <path>",
        "draft-somers-ftp-mfxx",
        permission="times",
        features=("MFMT",),
    ),
    Command(
        "MFF",
        parsing.facts_and_name,
        set_facts,
        "MFF <fact>=<value>; <path>",
        "draft-somers-ftp-mfxx",
        conditional=((("times",), "for Modify"), (("chmod",), "for UNIX.mode")),
        features=("MFF Modify;UNIX.mode;",),
    ),
    Command(
        "AVBL",
        parsing.name_or_here,
        available,
        "AVBL [<path>]",
        "draft-peterson-streamlined-ftp",
        permission="list",
        features=("AVBL",),
        quiet=True,
    ),
    Command(
        "MLST",
        parsing.name_or_here,
        machine_list,
        "MLST [<path>]",
        "3659 7",
        permission="list",
        features=_facts_feature,
        quiet=True,
    ),
)
