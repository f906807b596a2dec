"""Commands that transfer, and those for them: RETR STOR APPE STOU REST RANG ALLO ABOR LIST NLST MLSD HASH."""

from __future__ import annotations

from dataclasses import replace

from ftpsd.protocol import parsing
from ftpsd.protocol.checksums import HASHES, Checksum
from ftpsd.protocol.command import Command
from ftpsd.protocol.interfaces import Opening, Source, TransferKind, Upload
from ftpsd.protocol.listing import Entry, LongFormat, MachineFormat, shown
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal, Reply, readable_size
from ftpsd.protocol.session import Session


def _byte_range(session: Session) -> tuple[int, int | None]:
    start, end = session.transfer_range()
    if session.representation == "A" and (start or end is not None):
        # Line ends are converted on the way, so client and server would count the offset differently.
        raise Refusal(504, "REST and RANG require TYPE I.")
    return start, end


def _require_no_range(session: Session) -> None:
    if session.byte_range is not None:
        raise Refusal(504, "RANG is for downloads only: use REST to resume an upload.")


# --- files -----------------------------------------------------------------------------------------


async def retrieve(session: Session, path: VirtualPath) -> Reply:
    """RETR: send a file, from the restart offset to its end or to the end of the range."""
    start, end = _byte_range(session)
    opening = session.files.reader(path, start, end)

    def opened(_: object) -> None:
        session.control.send_reply(Reply(150, f"Opening data connection for {path.name}."))
        session.events.transfer_started("download", path, start, session.representation == "A")

    async with session.lease.transfer():
        return _sent(session, await session.data.send(opening, opened, session.representation == "A"))


async def _send_listing(session: Session, path: VirtualPath, opening: Opening[Source]) -> Reply:
    def opened(_: object) -> None:
        session.control.send_reply(Reply(150, "Listing follows."))
        session.events.transfer_started("listing", path)

    return _sent(session, await session.data.send(opening, opened, walk=True))


def _sent(session: Session, moved: int) -> Reply:
    session.aborted = False  # an ABOR came too late
    return Reply(226, f"Transfer complete: {moved} bytes.")


async def store(session: Session, path: VirtualPath) -> Reply:
    """STOR: receive a file, from the restart offset on. It replaces an old one when it is complete."""
    start, _ = _byte_range(session)
    _require_no_range(session)
    return await _receive(session, path, "upload", session.files.writer(path, offset=start), offset=start)


async def append(session: Session, path: VirtualPath) -> Reply:
    """APPE: append to a file, or resume an upload that was cut. REST has no effect: APPE starts at the end."""
    _require_no_range(session)
    return await _receive(session, path, "append", session.files.writer(path, append=True))


async def store_unique(session: Session, path: VirtualPath) -> Reply:
    """STOU: receive a file under a name that does not exist. The 150 reply has the name (RFC 1123 section 4.1.2.9)."""
    _require_no_range(session)
    return await _receive(session, path, "upload", session.files.writer(path, unique=True), "FILE: {}")


async def _receive(
    session: Session,
    path: VirtualPath,
    kind: TransferKind,
    opening: Opening[Upload],
    words: str = "Opening data connection for {}.",
    offset: int = 0,
) -> Reply:
    name = ""

    def opened(target: Upload) -> None:
        nonlocal name
        name = target.name
        session.control.send_reply(Reply(150, words.replace("{}", name)))
        place = path if name == path.name else path.parent.child(name)  # STOU chooses the name
        session.events.transfer_started(kind, place, offset, session.representation == "A")

    async with session.lease.transfer():
        moved = await session.data.receive(opening, opened, session.representation == "A")
    session.aborted = False  # an ABOR came too late
    return Reply(226, f"Transfer complete: {moved} bytes in {name}.")


def restart(session: Session, offset: int) -> Reply:
    """REST: set the byte at which the next transfer starts (RFC 3659 section 5)."""
    session.restart_offset, session.byte_range = offset, None
    return Reply(350, f"Restart position set to {offset}.")


def set_range(session: Session, asked: tuple[int, int] | None) -> Reply:
    """RANG: set the first and the last byte for the next RETR or HASH."""
    session.byte_range, session.restart_offset = asked, 0
    if asked is None:
        return Reply(350, "Range reset.")
    return Reply(350, f"Range set to {asked[0]}-{asked[1]}.")


async def allocate(session: Session, size: int) -> Reply:
    """ALLO: reserve nothing, but refuse a size for which there is no room, before it is sent."""
    free = await session.files.free_space(session.directory)
    if size > free:
        raise Refusal(552, f"Insufficient storage: {readable_size(free)} free.")
    session.allocated = size
    return Reply(202, "No allocation necessary.")


def stop(session: Session, _: str) -> None:
    """ABOR, on arrival: end the running command with 426. The reply to ABOR itself follows in the queue."""
    session.aborted = True
    session.data.abort(Reply(426, "Transfer aborted."))
    if session.account is not None:
        session.files.stop(Reply(426, "Command aborted."))


def abort(session: Session, _: None) -> Reply:
    """ABOR, after the command that it has ended: report success (RFC 959 section 4.1.3)."""
    session.data.reset()
    was, session.aborted = session.aborted, False
    return Reply(226, "Abort successful." if was else "No transfer to abort.")


# --- listings --------------------------------------------------------------------------------------


async def list_long(session: Session, request: parsing.ListRequest) -> Reply:
    """LIST: send lines as `ls -l` prints them, with times in UTC."""
    line = LongFormat(session.control.now()).line
    if request.names is not session.names:
        request = replace(request, names=session.names)
    path = session.resolve(request.path, "list")
    return await _send_listing(session, path, session.files.listing(path, request, line))


async def list_names(session: Session, request: parsing.ListRequest) -> Reply:
    """NLST: send names only. With `-l`, which some clients send, the same as LIST."""
    if request.long:
        return await list_long(session, request)
    request = replace(request, as_paths=True, names=session.names)
    path = session.resolve(request.path, "list")
    return await _send_listing(session, path, session.files.listing(path, request, _name))


def _name(entry: Entry) -> str:
    return shown(entry.name)


def machine_format(session: Session, directory: VirtualPath) -> MachineFormat:
    """Return the format for the entries of a directory, with the facts that OPTS MLST has chosen."""
    permissions = session.permissions
    if not permissions.paths:
        return MachineFormat(session.facts, lambda _: permissions.everywhere)
    return MachineFormat(
        session.facts,
        lambda entry: permissions.at((*directory.parts, entry.name) if entry.name else directory.parts),
    )


async def list_facts(session: Session, path: VirtualPath) -> Reply:
    """MLSD: send the facts of the entries of a directory (RFC 3659 section 7)."""
    entry = await session.files.entry(path, "list")
    if not entry.is_directory:
        raise Refusal(501, "Not a directory: use MLST.")
    request = parsing.ListRequest(path=".", names=session.names)
    opening = session.files.listing(path, request, machine_format(session, path).line)
    return await _send_listing(session, path, opening)


# --- checksums -------------------------------------------------------------------------------------


async def digest(session: Session, path: VirtualPath) -> Reply:
    """HASH: report the checksum of a file, or of the part that RANG or REST has set (draft-bryan-ftpext-hash)."""
    entry = await session.files.entry(path, "download")
    if entry.is_directory:
        raise Refusal(553, "HASH requires a file.")
    if entry.incomplete:
        raise Refusal(550, f"Upload of {path} is incomplete: resume or delete it.")
    first, end = session.transfer_range()
    opening = session.files.reader(path, first, end, "" if first or end is not None else session.hash)
    running = Checksum(session.hash)
    async with session.lease.transfer():  # it reads as much as a download
        first, end = await session.data.digest(opening, running)
    if first and first >= end:
        raise Refusal(554, f"File has only {end} bytes.")
    # The draft includes both ends, so an empty range is reported as its start.
    reported = f"{first}-{max(end - 1, first)}"
    return Reply(213, f"{session.hash} {reported} {running.hexdigest()} {path}")


def _hash_feature(session: Session) -> tuple[str]:
    return ("HASH " + ";".join(f"{name}*" if name == session.hash else name for name in HASHES),)


ROWS = (
    Command(
        "RETR",
        parsing.name,
        retrieve,
        "RETR <path>",
        "959 4.1.3",
        permission="download",
        uses_data=True,
        restartable=True,
    ),
    Command(
        "STOR",
        parsing.name,
        store,
        "STOR <path>",
        "959 4.1.3",
        permission="upload",
        conditional=((("overwrite",), "to replace a file"),),
        uses_data=True,
        restartable=True,
    ),
    Command(
        "APPE",
        parsing.name,
        append,
        "APPE <path>",
        "959 4.1.3",
        conditional=((("append",), "to a file"), (("upload",), "for a new one")),
        uses_data=True,
        restartable=True,
    ),
    Command(
        "STOU",
        parsing.name_or_upload,
        store_unique,
        "STOU [<name>]",
        "959 4.1.3",
        permission="upload",
        uses_data=True,
        restartable=True,
    ),
    Command("REST", parsing.number, restart, "REST <offset>", "3659 5", features=("REST STREAM",), quiet=True),
    Command(
        "RANG",
        parsing.byte_range,
        set_range,
        "RANG <first> <last>",
        "draft-bryan-ftp-range",
        features=("RANG STREAM",),
        quiet=True,
    ),
    Command("ALLO", parsing.allocation, allocate, "ALLO <size>", "959 4.1.3", quiet=True),
    Command("ABOR", parsing.nothing, abort, "ABOR", "959 4.1.3", act_immediately=stop),
    Command(
        "LIST",
        parsing.listing,
        list_long,
        "LIST [-alRdtr] [<path>]",
        "959 4.1.3",
        permission="list",
        uses_data=True,
    ),
    Command("NLST", parsing.listing, list_names, "NLST [<path>]", "959 4.1.3", permission="list", uses_data=True),
    Command("MLSD", parsing.name_or_here, list_facts, "MLSD [<path>]", "3659 7", permission="list", uses_data=True),
    Command(
        "HASH",
        parsing.name,
        digest,
        "HASH <path>",
        "draft-bryan-ftpext-hash",
        permission="download",
        restartable=True,
        features=_hash_feature,
    ),
)
