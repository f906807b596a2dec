"""The parts without input and output, attacked with random values: parsers, paths, queue, conversions, listings."""

from __future__ import annotations

import ipaddress
import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftpsd.protocol import parsing
from ftpsd.protocol.addresses import Endpoint, plain_address
from ftpsd.protocol.command_queue import CommandQueue
from ftpsd.protocol.encoding.ascii import FromNetwork, ToNetwork
from ftpsd.protocol.listing import Entry, LongFormat, MachineFormat, time_value
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMISSIONS, PROFILES, Permissions
from ftpsd.protocol.replies import Refusal, Reply, from_oserror


def without(characters: str) -> Callable[[str], str]:
    """Return a text without certain characters.

    (The strategies' own parameter has changed its name between releases.)
    """
    return lambda text: text.translate(dict.fromkeys(map(ord, characters)))


NAMES = st.text(max_size=20).map(without("/\0")).filter(bool)

SHAPES: list[Callable[[str], Any]] = [
    parsing.nothing,
    parsing.text,
    parsing.name,
    parsing.number,
    parsing.allocation,
    parsing.byte_range,
    parsing.representation,
    parsing.only("F", "RP", "STRU"),
    parsing.word,
    parsing.port,
    parsing.eprt,
    parsing.epsv,
    parsing.listing,
    parsing.timestamp,
    parsing.time_and_name,
    parsing.maybe_time_and_name,
    parsing.facts_and_name,
    parsing.mode_and_name,
    parsing.utime,
    parsing.split,
]


# --- the wire ----------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_line_is_read_or_refused(raw: bytes) -> None:
    """Any bytes give a verb and an argument, or a refusal with 500 or 501."""
    try:
        verb, argument = parsing.line(raw)
    except Refusal as refusal:
        assert refusal.reply.code in (500, 501)  # noqa: PT017
    else:
        assert verb.isascii()
        assert verb == verb.upper()
        assert "\0" not in argument


@pytest.mark.parametrize("shape", SHAPES)
@given(argument=st.text(max_size=60) | st.from_regex(r"[-|,0-9A-Za-z:. =;]{0,40}", fullmatch=True))
def test_any_argument_is_read_or_refused(shape: Callable[[str], Any], argument: str) -> None:
    """Any argument gives a value, or a refusal with a code that RFC 959 has for it."""
    try:
        shape(argument)
    except Refusal as refusal:
        assert refusal.reply.code in (501, 504, 522)  # noqa: PT017


@given(st.text(max_size=50).map(without("\0\r\n")))
def test_arguments_come_through_unchanged(argument: str) -> None:
    """Blanks before, within and after a name are part of the name."""
    raw = b"RETR " + argument.encode("utf-8", "surrogateescape").replace(b"\xff", b"\xff\xff")
    assert parsing.line(raw) == ("RETR", argument)


@given(st.binary(max_size=50))
def test_undecodable_bytes_come_back(raw: bytes) -> None:
    """Bytes that are not UTF-8 are decoded to text and encoded back to the same bytes."""
    clean = raw.replace(b"\xff", b"").replace(b"\0", b"").replace(b"\r", b"").replace(b"\n", b"")
    argument = parsing.line(b"MKD x" + clean)[1]
    assert Reply(257, argument).encode() == b"257 x" + clean + b"\r\n"


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_port_reads_what_clients_write(address: ipaddress.IPv4Address, port: int) -> None:
    """PORT and EPRT with the same endpoint give the same value."""
    commas = str(address).replace(".", ",") + f",{port >> 8},{port & 255}"
    assert parsing.port(commas) == parsing.eprt(f"|1|{address}|{port}|") == Endpoint(address, port)


@given(st.ip_addresses(v=4))
def test_mapped_addresses_are_ipv4(address: ipaddress.IPv4Address) -> None:
    """The IPv4 client of an IPv6 socket has an IPv4 address."""
    assert plain_address(f"::ffff:{address}") == address


@given(st.integers(100, 599), st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_no_text_can_write_a_reply(code: int, lines: list[str]) -> None:
    """A text within a reply cannot add a line, or look like the last one."""
    wired = Reply(code, *lines).encode()
    got = wired.split(b"\r\n")
    assert got.pop() == b""
    assert len(got) == len(lines)
    assert all(b"\n" not in line and b"\r" not in line.replace(b"\r\0", b"") for line in got)
    assert [line.startswith(b"%d " % code) for line in got] == [False] * (len(lines) - 1) + [True]


@pytest.mark.parametrize("argument", ["\x1f91,0,2,1,4,5", "192,0,2,1,4,5\x1c1", "192,0,2,1,4,\x1c", "١٩٢,0,2,1,4,5"])
def test_no_strange_blank_is_part_of_a_number(argument: str) -> None:
    """PORT with separators and digits of other alphabets is refused (found by fuzzing: 451 and a traceback)."""
    with pytest.raises(Refusal, match="501"):
        parsing.port(argument)


#: What long arguments consist of. Whether a pattern of spaces, digits or options takes long, shows with many of them.
PIECES = [
    " ",
    "\t",
    "1",
    "1 ",
    " R 1",
    "a",
    "/",
    "a/",
    "../",
    "-a ",
    "-",
    ";",
    "=",
    "a=b;",
    ",",
    "1,",
    "|",
    ":",
    ".",
    "*",
    "20200101000000 ",
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("piece", PIECES)
def test_the_longest_argument_takes_no_time(shape: Callable[[str], Any], piece: str) -> None:
    """A line of 8 KiB is parsed in milliseconds: all sessions wait meanwhile."""
    for begin, end in itertools.product(["", "1", "-", "20200101000000 "], ["", "x", " x"]):
        argument = (begin + piece * parsing.MAX_LINE)[: parsing.MAX_LINE - 10] + end
        start = time.thread_time()
        with suppress(Refusal):
            shape(argument)
        assert time.thread_time() - start < 0.1, (begin, end)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("5", 5),
        (" 5 ", 5),
        ("5 R 7", 5),
        ("5  r 7 ", 5),
        ("5 R", None),
        ("5 7", None),
        ("", None),
        ("5 R x", None),
        ("5 R 7 8", None),
    ],
)
def test_the_size_of_allo(argument: str, expected: int | None) -> None:
    """ALLO takes a size, and may take the size of a record after it."""
    if expected is None:
        with pytest.raises(Refusal, match="501"):
            parsing.allocation(argument)
    else:
        assert parsing.allocation(argument) == expected


def test_every_errno_has_a_reply() -> None:
    """Every errno has a reply; that of a full disk is 452."""
    for number in range(134):
        assert 400 <= from_oserror(OSError(number, "x")).code < 600
    assert from_oserror(OSError(28, "x")).code == 452
    assert from_oserror(OSError("strange")).code == 451


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", parsing.ListRequest("")),
        (" ", parsing.ListRequest("")),
        ("-la", parsing.ListRequest("", long=True, all=True)),
        ("-l -a dir", parsing.ListRequest("dir", long=True, all=True)),
        ("-aL my dir ", parsing.ListRequest("my dir ", all=True)),
        ("-R", parsing.ListRequest("", recursive=True)),
        ("./-la", parsing.ListRequest("./-la")),
        ("-1 x", parsing.ListRequest("x")),
    ],
)
def test_flags_of_ls(argument: str, expected: parsing.ListRequest) -> None:
    """LIST accepts the flags that clients send; the rest is a path."""
    assert parsing.listing(argument) == expected


# --- paths and permissions --------------------------------------------------------------------------------


@given(st.lists(NAMES | st.sampled_from(["..", ".", "", "a"]), max_size=8), st.booleans())
def test_no_name_leads_out(parts: list[str], absolute: bool) -> None:
    """A virtual path is always normal and below the root."""
    path = VirtualPath(("home",)).join(("/" if absolute else "") + "/".join(parts))
    assert str(path).startswith("/")
    assert not {"..", ".", ""} & set(path.parts)
    assert VirtualPath().join(str(path)) == path


@given(st.dictionaries(st.lists(st.sampled_from("ab"), max_size=3).map(tuple), st.sampled_from(sorted(PROFILES))))
def test_the_deeper_path_wins(paths: dict[tuple[str, ...], str]) -> None:
    """The permissions of the nearest directory above a path hold."""
    permissions = Permissions(PROFILES["read-write"], {path: PROFILES[name] for path, name in paths.items()})
    here = ("a", "b", "a", "b")
    nearest = next((paths[here[:n]] for n in range(4, -1, -1) if here[:n] in paths), "read-write")
    assert permissions.at(here) == PROFILES[nearest]
    assert set(PERMISSIONS) >= permissions.at(here)


# --- queue -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("sa"), st.integers(0, 3))), st.randoms())
def test_one_reply_per_command_in_order(script: list[tuple[str, int]], chance: Any) -> None:
    """Any mixture of quick and slow commands, in any pieces, is answered in order."""
    replies: list[int] = []
    running: list[int] = []

    def begin(number: int) -> None:
        assert not running
        if script[number][0] == "s":
            replies.append(number)
            queue.finish()
        else:
            running.append(number)

    def finish() -> None:
        replies.append(running.pop())
        queue.finish()

    queue: CommandQueue[int] = CommandQueue(begin)
    for number in range(len(script)):
        queue.add(number)
        if running and chance.random() < 0.5:
            finish()
    for _ in script:
        if running:
            finish()
    assert replies == list(range(len(script)))
    assert not queue.busy
    assert not queue.waiting


def test_nothing_runs_after_the_end() -> None:
    """When the session has ended, waiting commands are dropped."""
    begun: list[int] = []
    queue: CommandQueue[int] = CommandQueue(begun.append)
    queue.add(1)
    queue.add(2)
    queue.close()
    queue.finish()
    assert begun == [1]


# --- representation ----------------------------------------------------------------------------------


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return the pieces of some bytes."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


LINES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x"]), max_size=12).map(b"".join)


@given(LINES, st.lists(st.integers(0, 50), max_size=6))
def test_ascii_does_not_depend_on_pieces(data: bytes, places: list[int]) -> None:
    """The result of TYPE A does not depend on how the bytes are cut into pieces."""
    assert b"".join(map(ToNetwork().convert, cut(data, places))) == ToNetwork().convert(data)
    whole, pieces = FromNetwork(), FromNetwork()
    expected = whole.convert(data) + whole.end()
    assert b"".join(map(pieces.convert, cut(data, places))) + pieces.end() == expected


@given(st.lists(st.sampled_from([b"x", b"\n"])).map(b"".join))
def test_ascii_there_and_back(text: bytes) -> None:
    """A text is sent with CRLF, and comes back as it was."""
    wired = ToNetwork().convert(text)
    assert wired.count(b"\n") == wired.count(b"\r\n") == text.count(b"\n")
    back = FromNetwork()
    assert back.convert(wired) + back.end() == text


# --- listings ----------------------------------------------------------------------------------------


@given(st.text(max_size=30), st.integers(0, 0o177777), st.floats(allow_nan=False, allow_infinity=False))
def test_any_entry_is_one_line(name: str, mode: int, modified: float) -> None:
    """Any name and any damaged inode make one line of a listing."""
    entry = Entry(name, mode, 5, modified, 1, 2)
    facts = frozenset(["type", "size", "modify", "perm", "unique", "UNIX.mode", "X.incomplete"])
    for line in (LongFormat(0.0).line(entry), MachineFormat(facts, lambda _: frozenset({"download"})).line(entry)):
        assert "\r" not in line
        assert "\n" not in line
        assert line.endswith(" " + name.replace("\r", "?").replace("\n", "?"))


@given(st.integers(-62_135_596_800, 253402300799))
@example(-62_135_596_800)
def test_times_go_round(seconds: int) -> None:
    """MFMT understands the times that MDTM returns: 14 digits, also in the first century."""
    assert parsing.timestamp(time_value(seconds)) == seconds


@pytest.mark.parametrize("seconds", [1e15, -1e15, 1e300, 253402300800.0])
def test_times_out_of_all_bounds(seconds: float) -> None:
    """The time of a damaged inode has 14 digits, as RFC 3659 requires (found by fuzzing: years of 6 digits)."""
    assert time_value(seconds) == "19700101000000"
