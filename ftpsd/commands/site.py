"""SITE and its subcommands: HELP CHMOD UTIME IDLE QUOTA WHO."""

from __future__ import annotations

from functools import cache

from ftpsd.protocol import parsing
from ftpsd.protocol.command import Command, table
from ftpsd.protocol.listing import time_value
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import FixedReply, Refusal, Reply
from ftpsd.protocol.session import Session


async def chmod(session: Session, value: tuple[int, VirtualPath]) -> Reply:
    """SITE CHMOD: set the permission bits of a file or directory."""
    mode, path = value
    stored = await session.files.set_mode(path, mode)
    session.events.file_changed("mode_changed", path)
    return Reply(200, f"Mode of {path} set to {stored:03o}.")


async def utime(session: Session, value: tuple[float, VirtualPath]) -> Reply:
    """SITE UTIME: set the time of modification."""
    moment, path = value
    stored = await session.files.set_time(path, moment)
    session.events.file_changed("time_changed", path)
    return Reply(200, f"Time of {path} set to {time_value(stored)}.")


def idle(session: Session, argument: str) -> Reply:
    """SITE IDLE: set the idle timeout; without an argument, report the longest that is allowed, in seconds."""
    longest = session.policy.idle
    if not argument.strip():
        return Reply(200, f"Longest idle timeout: {longest} seconds.")
    seconds = min(max(30, parsing.number(argument)), longest)
    session.control.set_idle_timeout(seconds)
    return Reply(200, f"Idle timeout set to {seconds} seconds.")


async def quota(session: Session, _: None) -> Reply:
    """SITE QUOTA: report what is used of the nearest limits: of the account, its groups, or the current folder."""
    usage = await session.files.usage(session.directory)
    if usage is None:
        return Reply(200, "No quota.")
    return Reply(
        200,
        f"Quota of {VirtualPath(usage.at)}:" if usage.at else "Quota of this account:",
        f" Bytes: {_of(usage.bytes, usage.max_bytes, usage.bytes_group)}",
        f" Files: {_of(usage.files, usage.max_files, usage.files_group)}, directories included",
        "End.",
    )


def _of(used: int, limit: int | None, group: str) -> str:
    whose = f" of the group {group}" if group else ""
    return f"{used} of {limit}{whose}" if limit is not None else f"{used}, no limit"


def who(session: Session, _: None) -> Reply:
    """SITE WHO: report the user, the address and the number of this session, which the log has too."""
    protection = "encrypted" if session.control.encrypted else "plain text"
    return Reply(200, f"{session.user} from {session.control.client}, session {session.number}, {protection}.")


def help_(_: Session, __: None) -> Reply:
    """SITE HELP: list the subcommands."""
    return commands()


SUBCOMMANDS = table(
    (
        Command("HELP", parsing.nothing, help_, "HELP", "959 4.1.3"),
        Command("CHMOD", parsing.mode_and_name, chmod, "CHMOD <mode> <path>", "", permission="chmod"),
        Command("UTIME", parsing.utime, utime, "UTIME <time> <path>", "", permission="times"),
        Command("IDLE", parsing.anything, idle, "IDLE [<seconds>]", ""),
        Command("QUOTA", parsing.nothing, quota, "QUOTA", ""),
        Command("WHO", parsing.nothing, who, "WHO", ""),
    )
)


@cache
def commands() -> Reply:
    """Return the list of the subcommands."""
    lines = (f" SITE {row.help}" for row in SUBCOMMANDS.values())
    return FixedReply(214, "The following SITE commands are supported:", *lines, "End.")


async def site(session: Session, value: tuple[str, str]) -> Reply:
    """SITE: run a subcommand, after the same checks as any command."""
    verb, argument = value
    row = SUBCOMMANDS.get(verb)
    if row is None:
        raise Refusal(501, "Unknown SITE command: send SITE HELP for a list.")
    result = row.run(session, session.admit(row, argument))
    return result if isinstance(result, Reply) else await result


ROWS = (
    Command(
        "SITE",
        parsing.split,
        site,
        "SITE <command>",
        "959 4.1.3",
        conditional=tuple(((row.permission,), f"for {row.verb}") for row in SUBCOMMANDS.values() if row.permission),
    ),
)
