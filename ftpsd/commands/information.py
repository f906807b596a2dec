"""Commands that report or choose how the server works: FEAT OPTS HELP STAT SYST NOOP CLNT CSID LANG."""

from __future__ import annotations

from functools import cache

import ftpsd
from ftpsd.commands import site
from ftpsd.protocol import parsing
from ftpsd.protocol.checksums import HASHES
from ftpsd.protocol.command import Command, features
from ftpsd.protocol.encoding.names import UTF8
from ftpsd.protocol.listing import FACTS, LongFormat
from ftpsd.protocol.replies import FixedReply, Refusal, Reply
from ftpsd.protocol.session import Session

#: The most entries that STAT lists: replies on the control connection are kept in memory.
MAX_STAT_ENTRIES = 1000


#: The replies to FEAT, by the options that sessions have chosen. They are kept because every client sends FEAT.
_FEATURES: dict[tuple[str, frozenset[str], str], Reply] = {}


def feat(session: Session, _: None) -> Reply:
    """FEAT: list the features of the rows."""
    chosen = session.hash, session.facts, session.names.name
    if chosen not in _FEATURES:
        # RFC 2640 section 4: a client that sees UTF8 may send names in UTF-8 without asking.
        utf8 = ["UTF8"] if session.names is UTF8 else []
        lines = sorted([*features(session.table, session), *utf8, "TVFS"])
        _FEATURES[chosen] = FixedReply(211, "Features:", *(f" {line}" for line in lines), "End.")
    return _FEATURES[chosen]


# --- OPTS ------------------------------------------------------------------------------------------


def _utf8(session: Session, argument: str) -> Reply:
    own = UTF8 if session.account is None else session.account.names
    chosen = argument.strip().upper()
    if chosen in ("", "ON", "NLST"):
        session.utf8 = True
        session.choose_encoding()
        return Reply(200, "UTF8 is always enabled." if own is UTF8 else "UTF8 is enabled.")
    if chosen == "OFF" and own is not UTF8:
        session.utf8 = False
        session.choose_encoding()
        return Reply(200, f"Names are in {own.name}.")
    raise Refusal(504, "UTF8 cannot be disabled.")


def _mlst(session: Session, argument: str) -> Reply:
    if " " in argument.strip():
        raise Refusal(501, "Expected: OPTS MLST fact;fact; without spaces.")
    asked = {fact.lower() for fact in argument.strip().split(";")}
    session.facts = frozenset(fact for fact in FACTS if fact.lower() in asked)
    chosen = "".join(f"{fact};" for fact in FACTS if fact in session.facts)
    return Reply(200, f"MLST OPTS {chosen}".rstrip())


def _hash(session: Session, argument: str) -> Reply:
    asked = argument.strip().upper()
    if asked:
        if asked not in HASHES:
            raise Refusal(501, f"Expected one of: {' '.join(HASHES)}.")
        session.hash = asked
    return Reply(200, session.hash)


_OPTIONS = {"UTF8": _utf8, "UTF-8": _utf8, "MLST": _mlst, "HASH": _hash}


def options(session: Session, value: tuple[str, str]) -> Reply:
    """OPTS: set the options of a command (RFC 2389 section 4)."""
    what, argument = value
    if what not in _OPTIONS:
        raise Refusal(501, "OPTS supports UTF8, MLST and HASH only.")
    return _OPTIONS[what](session, argument)


# --- HELP ------------------------------------------------------------------------------------------


def help_(session: Session, argument: str) -> Reply:
    """HELP: list the commands, or report the syntax of one."""
    verb = argument.strip().upper()
    if verb.partition(" ")[0] == "SITE":
        return site.commands()
    if verb:
        row = session.table.get(verb)
        if row is None:
            raise Refusal(502, "Unknown command: send HELP for a list.")
        source = row.rfc if row.rfc.startswith("draft") else f"RFC {row.rfc}"
        return Reply(214, f"Syntax: {row.help} ({source})")
    return _overview(tuple(session.table))


@cache
def _overview(verbs: tuple[str, ...]) -> Reply:
    cells = [f"{verb:<5}" for verb in sorted(verbs)]
    lines = (" " + "".join(cells[at : at + 8]).rstrip() for at in range(0, len(cells), 8))
    return FixedReply(214, "The following commands are supported:", *lines, "Send HELP <command> for its syntax.")


# --- STAT ------------------------------------------------------------------------------------------


def transfer_status(session: Session, argument: str) -> Reply | None:
    """STAT, on arrival during a transfer: report the bytes so far (RFC 959 section 4.1.3)."""
    if argument.strip(" ") or session.files.walking:
        return None
    return Reply(213, f"Transfer in progress: {session.data.moved} bytes so far.")


async def status(session: Session, argument: str) -> Reply:
    """STAT: report the state of the session, or list a path as LIST does."""
    if argument.strip(" "):
        return await _status_of(session, parsing.listing(argument))
    protection = "encrypted" if session.protection == "P" else "plain"
    return Reply(
        211,
        f"ftpsd {ftpsd.__version__}",
        f" Logged in as {session.user} from {session.control.client}.",
        f" Control connection: {'encrypted' if session.control.encrypted else 'plain'}."
        f" Data connections: {protection}.",
        f" TYPE {session.representation}, STRU F, MODE S; directory {session.directory}.",
        "End.",
    )


async def _status_of(session: Session, request: parsing.ListRequest) -> Reply:
    path = session.resolve(request.path, "list")
    entries = await session.files.first_entries(path, request, MAX_STAT_ENTRIES + 1)
    line = LongFormat(session.control.now()).line
    lines = [line(entry) for entry in entries[:MAX_STAT_ENTRIES]]
    end = "End." if len(entries) <= MAX_STAT_ENTRIES else "Listing truncated: use LIST."
    return Reply(213, f"Status of {path}:", *lines, end)


# --- SYST, NOOP, CLNT, CSID, LANG ------------------------------------------------------------------


def system(_: Session, __: None) -> Reply:
    """SYST: report the system type, by which clients choose the parser for LIST."""
    return Reply(215, "UNIX Type: L8")


_OK = FixedReply(200, "OK.")


def noop(_: Session, __: str) -> Reply:
    """NOOP: do nothing."""
    return _OK


def client(session: Session, name: str) -> Reply:
    """CLNT: keep the name of the client program."""
    session.client_name = name[:100]
    return Reply(200, "Client name noted.")


def identify(session: Session, facts: str) -> Reply:
    """CSID: keep the facts of the client program, and report the same facts of the server."""
    session.client_name = facts[:100]
    return Reply(200, f"Name=ftpsd; Version={ftpsd.__version__}; CaseSensitive=1; DirSep=/;")


def language(_: Session, tag: str) -> Reply:
    """LANG: accept English only (RFC 2640 section 4)."""
    if tag.strip().lower().split("-")[0] in ("", "en"):
        return Reply(200, "Messages are in English.")
    raise Refusal(504, "Only English is supported.")


ROWS = (
    Command("FEAT", parsing.nothing, feat, "FEAT", "2389 3", login=False, quiet=True),
    Command("OPTS", parsing.split, options, "OPTS <command> [<option>]", "2389 4", login=False, quiet=True),
    Command("HELP", parsing.anything, help_, "HELP [<command>]", "959 4.1.3", login=False, quiet=True),
    Command(
        "STAT",
        parsing.anything,
        status,
        "STAT [<path>]",
        "959 4.1.3",
        conditional=((("list",), "with a path"),),
        act_immediately=transfer_status,
        walks=True,
        quiet=True,
    ),
    Command("SYST", parsing.nothing, system, "SYST", "959 4.1.3", login=False, quiet=True),
    Command("NOOP", parsing.nothing, noop, "NOOP", "959 4.1.3", login=False, quiet=True),
    Command(
        "CLNT",
        parsing.text,
        client,
        "CLNT <name>",
        "draft-peterson-streamlined-ftp",
        login=False,
        features=("CLNT",),
    ),
    Command(
        "CSID",
        parsing.text,
        identify,
        "CSID <facts>",
        "draft-peterson-streamlined-ftp",
        login=False,
        features=("CSID",),
    ),
    Command(
        "LANG",
        parsing.anything,
        language,
        "LANG [<tag>]",
        "2640 4",
        login=False,
        features=("LANG EN*",),
        quiet=True,
    ),
)
