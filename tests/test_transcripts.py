"""Golden transcripts: what a client says and hears, line by line, byte by byte and all in one segment.

The files in `transcripts/` have lines of these kinds:

    # the promise, in a sentence
    F: name=content     a file in the user's home ("name/" is a directory), before the session
    C: line             the client says; \\xNN stands for a byte, {port} for where it listens (active mode), {PORT} for
                        the same in the form of PORT
    S: line             the server says; … stands for any text
    D> text             the client sends over the data connection that the server opens
    D< text             the server sends over it
    F= name=content     a file in the home, after the session ("name-" is one that is not there)
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, read_all
from tests.inprocess import Client, Server

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@dataclass
class Transcript:
    """A parsed file."""

    said: list[bytes] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)
    before: list[tuple[str, str]] = field(default_factory=list)
    after: list[tuple[str, str]] = field(default_factory=list)
    data: list[tuple[str, bytes]] = field(default_factory=list)


def unescape(text: str) -> bytes:
    """\\xNN, \\r and \\n to bytes."""
    raw = text.encode()
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), raw)
    return raw.replace(b"\\r", b"\r").replace(b"\\n", b"\n")


def read(path: Path, port: int) -> Transcript:
    """Reads a file, with the port of the client's listener put in."""
    result = Transcript()
    for line in path.read_text().splitlines():
        kind, text = (
            line[:2],
            line[3:].replace("{port}", str(port)).replace("{PORT}", f"127,0,0,1,{port >> 8},{port & 255}"),
        )
        if kind in ("C:", "S:"):
            result.steps.append((kind, text))
        elif kind in ("F:", "F="):
            name, _, content = text.partition("=")
            (result.before if kind == "F:" else result.after).append((name, content))
        elif kind in ("D>", "D<"):
            result.data.append((kind, unescape(text)))
        else:
            assert not line or line.startswith("#"), line
    return result


def prepare(home: Path, transcript: Transcript) -> None:
    """Empties the home and makes the files."""
    for entry in home.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for name, content in transcript.before:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(unescape(content))


def verify(home: Path, transcript: Transcript) -> None:
    """Compares the files."""
    for name, content in transcript.after:
        if name.endswith("-"):
            assert not (home / name[:-1]).exists()
        else:
            assert (home / name).read_bytes() == unescape(content)


class DataPeer:
    """The client's side of active data connections, one after the other."""

    def __init__(self, exchanges: list[tuple[str, bytes]]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE)
        self.port = int(self.listener.getsockname()[1])
        self.problems: list[str] = []
        self.exchanges = exchanges
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        for kind, data in self.exchanges:
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                if kind == "D>":
                    connection.sendall(data)
                elif (got := read_all(connection)) != data and not like(data.decode(), got.decode()):
                    self.problems.append(f"{got!r} is not {data!r}")

    def finish(self) -> None:
        """All of it must have happened."""
        self.thread.join(PATIENCE)
        self.listener.close()
        assert not self.thread.is_alive()
        assert not self.problems


def like(pattern: str, text: str) -> bool:
    """Whether a text is as the pattern says, in which … stands for anything."""
    return re.fullmatch(".*?".join(map(re.escape, pattern.split("…"))), text, re.DOTALL) is not None


def expect(client: FtpClient, pattern: str) -> None:
    """The next line must be as the pattern says."""
    line = client.read_line().decode("utf-8", "backslashreplace").removesuffix("\r\n")
    assert like(pattern, line), f"{line!r} is not {pattern!r}"


def play(client: Client, transcript: Transcript, way: str) -> list[str]:
    """Say the client's lines to a session in this process; return what it has said, line by line."""
    lines = [unescape(text) + b"\r\n" for kind, text in transcript.steps if kind == "C:"]
    if way == "segment":
        client.send(b"".join(lines))
    for line in lines if way != "segment" else []:
        for piece in [line] if way == "lines" else [bytes([byte]) for byte in line]:
            client.send(piece)
    return client.heard().removesuffix("\r\n").split("\r\n")


@pytest.mark.quick
@pytest.mark.parametrize("way", ["lines", "bytes", "segment"])
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript_in_process(tmp_path: Path, path: Path, way: str) -> None:
    """A client hears the same, however its bytes are cut: the protocol stack alone, without a socket."""
    transcript = read(path, 50000)
    server = Server(tmp_path)
    prepare(server.homes / "alice", transcript)
    client = server.connect()
    client.data.incoming.extend(data for kind, data in transcript.data if kind == "D>")
    heard = play(client, transcript, way)
    expected = [text for kind, text in transcript.steps if kind == "S:"]
    assert len(heard) == len(expected), heard
    for pattern, line in zip(expected, heard, strict=True):
        assert like(pattern, line), f"{line!r} is not {pattern!r}"
    wanted = [data for kind, data in transcript.data if kind == "D<"]
    for data, got in zip(wanted, client.data.outgoing, strict=True):
        assert got == data or like(data.decode(), got.decode())
    assert client.transport.disconnecting == (expected[-1].startswith("421") or "Goodbye" in expected[-1])
    verify(server.homes / "alice", transcript)


def segments_of(transcript: Transcript) -> list[bytes]:
    """The client's lines in one segment, or several, each but the first with ABOR at its start.

    ABOR acts on the command that runs when it arrives: sent with those before it, it would end any of them.
    """
    segments = [b""]
    for text in [text for kind, text in transcript.steps if kind == "C:"]:
        segments += [b""] if text == "ABOR" else []
        segments[-1] += unescape(text) + b"\r\n"
    return segments


@pytest.mark.parametrize("way", ["lines", "bytes", "segment"])
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(plain: Daemon, path: Path, way: str) -> None:
    """A client hears the same, however its bytes are cut."""
    peer = DataPeer([])
    transcript = read(path, peer.port)
    peer.exchanges = transcript.data
    prepare(plain.home(), transcript)
    peer.thread.start()
    with FtpClient(plain, greeting=False) as client:
        segments = segments_of(transcript) if way == "segment" else []
        for kind, text in [("C:", "ABOR"), *transcript.steps] if segments else transcript.steps:
            if kind == "S:":
                expect(client, text)
            elif text == "ABOR" and segments:
                client.send_raw(segments.pop(0))
            elif way == "lines":
                client.send(unescape(text))
            elif way == "bytes":
                for byte in unescape(text) + b"\r\n":
                    client.send_raw(bytes([byte]))
        if re.match("221|421|530 .* Goodbye", transcript.steps[-1][1]):
            assert client.read_line() == b""
    peer.finish()
    deadline = time.monotonic() + PATIENCE
    while "disconnected" not in plain.log.splitlines()[-1] and time.monotonic() < deadline:
        time.sleep(0.01)
    verify(plain.home(), transcript)
    assert "Traceback" not in plain.log
