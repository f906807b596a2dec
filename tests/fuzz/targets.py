"""What is fuzzed: each target takes any bytes, and raises when a promise about them is broken."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

from attrs import evolve
from OpenSSL import SSL
from twisted.internet.task import Clock

from ftpsd.accounts.user_store import Homes
from ftpsd.accounts.yaml_store import UserTable, YamlUserStore
from ftpsd.checks import files as checks
from ftpsd.checks.certificate import EXPIRED, NOT_YET, refused
from ftpsd.commands import TABLE
from ftpsd.commands.site import SUBCOMMANDS
from ftpsd.config import load
from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.config.sections.tls import ClientCertificateSettings
from ftpsd.config.tls import certificates, client_certificates
from ftpsd.config.yaml import Document
from ftpsd.control.tls.records import next_record
from ftpsd.control.tls_layer import ControlConnection
from ftpsd.protocol import parsing
from ftpsd.protocol.encoding.ascii import FromNetwork, ToNetwork
from ftpsd.protocol.encoding.names import UTF8
from ftpsd.protocol.listing import FACTS, Entry, LongFormat, MachineFormat
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.proxy import header
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.protocol.session import Policy, Session
from ftpsd.system.tls.client_certificates import InvalidCertificate, NameSource, read_certificate
from ftpsd.system.tls.errors import NotTls
from tests.daemon import SECRET
from tests.fuzz import sources
from tests.inprocess import Transport

EXAMPLES = Path(__file__).parents[2] / "etc"

#: Certificates. They are kept, so that a fuzz with the same seed begins with the same bytes.
SEEDS = Path(__file__).parent / "seeds"


@dataclass(frozen=True)
class Target:
    """A target: what it does with some bytes, bytes to begin with, and words to put into them."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]


#: A header of each version.
_PROXY_V1 = b"PROXY TCP4 192.0.2.7 203.0.113.1 50000 21\r\n"
_PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xcb\0\x71\x01\xc3\x50\0\x15"


# --- control lines -----------------------------------------------------------------------------------

#: Commands whose deed asks nothing of the world, and so runs here.
_PURE = ("OPTS", "HELP", "FEAT", "TYPE", "MODE", "STRU", "REST", "RANG", "LANG", "CLNT", "CSID", "SYST", "ACCT")

_LINES = """\
USER alice|PASS secret|EPRT |1|192.0.2.1|5282||EPRT |2|2001:db8::1|5282||PORT 192,0,2,1,4,5|EPSV ALL|EPSV 2|TYPE L 8
TYPE A N|MLST "a" b|OPTS MLST type;size;UNIX.mode;|OPTS HASH SHA-512|OPTS UTF8 ON|HASH a|REST 999999999999999999
RANG 1 0|RANG 3 9|MFMT 20240229235960.999999999 a|MDTM 20240101000000 a|MFF modify=20240101000000;UNIX.mode=644; a
SITE CHMOD 644 a|SITE UTIME 20240101000000 a|SITE UTIME a 20240101000000 20240101000000 20240101000000 UTC|SITE IDLE 60
SITE HELP|LIST -la ./-x|NLST *|ALLO 5 R 5|HOST [::1]|STOU|LANG en-GB|HELP SITE|ABOR|CWD ../../x|CSID Name=x; Version=1;
"""


def line(raw: bytes) -> None:
    """A control line becomes a value and a whole reply, or a Refusal, whatever its bytes are."""
    session: Any = Session(1, SimpleNamespace(names=UTF8), None, None, Policy(), TABLE)  # type: ignore[arg-type]
    try:
        verb, argument = parsing.line(raw)
        row = session.find(verb)
        value = row.parse(argument)
        _resolve(value)
        if verb == "SITE" and value[0] in SUBCOMMANDS:
            _resolve(SUBCOMMANDS[value[0]].parse(value[1]))
        if verb in _PURE:
            _check_reply(row.run(session, value))
    except Refusal as refusal:
        _check_reply(refusal.reply)


def _resolve(value: Any) -> None:
    if isinstance(value, parsing.ListRequest):
        value = parsing.Name(value.path)
        re.compile(translate(VirtualPath().join(value).name))
    if isinstance(value, parsing.Name):
        path = VirtualPath(("a",)).join(value)
        assert not {"", ".", ".."} & set(path.parts)
        _check_reply(Reply(257, path.quoted()))
    for each in value if isinstance(value, tuple) else ():
        _resolve(each)


def _check_reply(reply: Reply) -> None:
    *lines, end = reply.encode().split(b"\r\n")
    assert end == b""
    assert 200 <= reply.code < 600
    assert len(lines) == len(reply.lines)
    assert [each.startswith(b"%d " % reply.code) for each in lines] == [False] * (len(lines) - 1) + [True]
    assert not any(sign in each.replace(b"\r\0", b"") for each in lines for sign in (b"\r", b"\n", b"\0"))


# --- configuration -----------------------------------------------------------------------------------

_SETTINGS = """\
listen:
  - {address: "127.0.0.1", port: 2121, tls: explicit}
  - {address: "::", port: 2990, tls: implicit}
banner: |
  one
  two
tls: &tls
  certificate: certificate.pem
  private_key: key.pem
  minimum_version: "1.2"
  ciphers: ECDHE+AESGCM
  require: {login: true, data: false}
  data_session: off
  close_notify: lenient
passive:
  ports: 50000-50999
  address: 192.0.2.1
  refresh: 60
  networks:
    - {clients: [10.0.0.0/8, "fd00::/8"], address: null}
active: {enabled: true, source_port: 20}
foreign_data: false
users: {file: users.yaml}
timeouts: {login: 60, idle: 300, data_connect: 30, stalled: 120, drain: 60}
limits: {sessions: 2000, sessions_per_address: 100, login_failures: 3}
"""

_USERS = f"""\
defaults: &defaults
  permissions: read-write
users:
  alice:
    password: "{SECRET}"
    home: home
    permissions: [list, download]
    paths: {{/archive: read-only, /in: [upload]}}
    tls: {{data_session: allow}}
    enabled: true
  bob: {{password: "{SECRET}", home: "{{user}}"}}
"""

_YAML = rb"""
: |? |- |, |[|]|{|}|&a |*a|*tls|*defaults|<<: |!!bool |!!int |!!float |!!binary |!!set |!!str |!!python/object:a |!x |null
~|true|off|0x1F|0o17|0b1|1_000|1:60|1e400|.inf|.nan|-1|2024-01-01|"|'|>|||%YAML 9.9|---|...|\x00|\u0000|\ud800|\xff|#|	|  |
|?|[[[[[[[[|{{{{{{{{|99999999999999999999|0xffffffffffffffffffffffffffffffff|: {}|: []|: null|: "a\0b"|: "\uD800"|: "a\nb"
"""


@cache
def _directory() -> Path:
    """Files that a configuration can name."""
    path = Path(tempfile.mkdtemp(prefix="ftpsd-fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    for name in ("home", "bob"):
        (path / name).mkdir()
    for name in ("certificate.pem", "key.pem"):
        shutil.copy(SEEDS / "server.pem", path / name)
        (path / name).chmod(0o600)
    (path / "ftpsd.yaml").write_text(_SETTINGS)
    (path / "users.yaml").write_text(_USERS)
    return path


@cache
def _loaded() -> load.Configuration:
    return load.load(_directory() / "ftpsd.yaml")


def _refuse_to_resolve(name: str) -> str:
    raise OSError(f"{name}: a fuzzer asks no name server")


def settings(text: bytes) -> None:
    """ftpsd.yaml, whatever is in it: a configuration, or faults that tell where and what."""
    load.resolve = _refuse_to_resolve
    path = _directory() / "any.yaml"
    path.write_bytes(text)
    try:
        load.warnings(load.load(path), 0.0)
    except InvalidConfiguration as error:
        _check_faults(error.faults, text)


def users(text: bytes) -> None:
    """users.yaml, whatever is in it: users, or faults that tell where and what."""
    path = _directory() / "any-users.yaml"
    path.write_bytes(text)
    found = load.load_users(path, True)
    assert found.store is not None or found.faults
    _check_faults(found.faults, text)


def _check_faults(faults: Iterable[Fault], text: bytes) -> None:
    lines = text.count(b"\n") + text.count(b"\r") + len(re.findall("[\x85\u2028\u2029]", text.decode(errors="replace")))
    for fault in faults:
        told = str(fault)
        assert told.isprintable(), told
        assert 0 <= fault.line <= lines + 1
        assert fault.line or "file" in fault.problem, told
        assert fault.problem and fault.remedy


def certificate(pem: bytes) -> None:
    """A file with certificates, whatever is in it: the server's, and those of authorities that sign clients' ones."""
    path = _directory() / "any.pem"
    path.write_bytes(pem)
    lists = path if b"X509 CRL" in pem else ()
    loaded = _loaded().settings
    tls = evolve(loaded.tls, certificate=path, client_certificates=ClientCertificateSettings(ca=path, crl=lists))
    settings = evolve(loaded, tls=tls, passive=evolve(loaded.passive, address="ftp.example.org"))
    document = Document(_directory() / "ftpsd.yaml", lines={(): 1})
    verifier = client_certificates.load(document, settings)
    contexts = certificates.load(document, settings, None)
    assert verifier is not None or document.faults
    assert contexts is not None or document.faults
    found = checks.certificates(settings)
    if contexts is not None:
        load.warnings(load.Configuration(settings, YamlUserStore(UserTable(), Homes()), contexts, {}), 0.0)
    if verifier is not None:
        found += checks.client_certificates(verifier)
        for each in verifier.authorities:
            for source in get_args(NameSource):
                read_certificate(each, source)
            InvalidCertificate(each, 10)
            parsed = each.to_cryptography()
            found += [refused([parsed], code, "reason", "192.0.2.1") for code in (EXPIRED, NOT_YET, 18, 20, 62)]
    assert all(each.problem.isprintable() for each in found), found
    _check_faults(document.faults, b"\n" * 99)


# --- TLS records -------------------------------------------------------------------------------------


class _Lines:
    """Stands where the FTP protocol stands."""

    connection: ControlConnection

    def input_arrived(self) -> None:
        self.connection.work()

    def yield_if_late(self) -> None:
        """There are no others."""

    def input_ended(self) -> None:
        self.connection.loseConnection()

    def makeConnection(self, transport: object) -> None:
        """Nothing has to be made."""

    def tls_established(self) -> None:
        """Nothing waits for the handshake."""

    def tls_failed(self, why: str) -> None:
        """The connection is closed."""

    def dataReceived(self, data: bytes) -> None:
        assert data


def records(raw: bytes) -> None:
    """Bytes under TLS: whole records in the order in which they came, however the stream is cut."""
    size, stream = 1 + raw[0] if raw else 1, raw[1:]
    found = [list(_records(stream, each)) for each in (size, len(stream) or 1)]
    for each in found:
        assert all(each)
        assert stream.startswith(b"".join(each))
    pieces, whole = (list(takewhile(_is_record, each)) for each in found)
    assert pieces == whole
    _handshake(stream, size)


def _is_record(record: bytes) -> bool:
    """Whether it can be one; what is too long is handed on as it came, for OpenSSL to refuse."""
    return int.from_bytes(record[3:5], "big") <= 2**14 + 2048


def _records(stream: bytes, size: int) -> Iterable[bytes]:
    incoming = b""
    for at in range(0, len(stream), size):
        incoming += stream[at : at + size]
        try:
            while incoming and (record := next_record(incoming)):
                incoming = incoming[len(record) :]
                yield record
        except NotTls:
            return


def _handshake(stream: bytes, size: int) -> None:
    lines = _Lines()
    connection = lines.connection = ControlConnection(Clock(), lines)
    transport = Transport()
    transport.registerProducer(transport, True)  # as the protocol does
    connection.makeConnection(transport)
    connection.start_tls(_loaded().contexts())
    for at in range(0, len(stream), size):
        if not connection.disconnecting:
            connection.dataReceived(stream[at : at + size])
    assert connection.disconnecting == transport.disconnecting


def _hello() -> bytes:
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_tlsext_host_name(b"localhost")
    client.set_connect_state()
    try:
        client.do_handshake()
    except SSL.WantReadError:
        pass
    return client.bio_read(65536)


# --- listings and text -------------------------------------------------------------------------------


def entries(raw: bytes) -> None:
    """An entry is one line in every format, whatever its name, its time and its mode are."""
    numbers, name = raw[:16].ljust(16, b"\0"), raw[16:].decode("utf-8", "surrogateescape")
    mode, size = int.from_bytes(numbers[:4], "big"), int.from_bytes(numbers[4:8], "big")
    modified = int.from_bytes(numbers[8:], "big", signed=True) / 1e6
    entry = Entry(name, mode, size, modified, 1, 2, link=name)
    for text in (
        LongFormat(0.0).line(entry),
        MachineFormat(frozenset(FACTS), lambda _: frozenset({"download"})).line(entry),
    ):
        told = text.encode("utf-8", "surrogateescape")
        assert not {b"\r", b"\n"} & {told[n : n + 1] for n in range(len(told))}
    facts = MachineFormat(frozenset(["modify"]), lambda _: frozenset()).line(entry)
    assert re.match(r"modify=[0-9]{14}; ", facts), facts


def representation(raw: bytes) -> None:
    """TYPE A gives what it says, however the bytes are cut."""
    count, data = raw[0] if raw else 0, raw[1:]
    edges = [0, *sorted(each % (len(data) + 1) for each in data[:count]), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    outward, inward = ToNetwork(), FromNetwork()
    out = b"".join(map(outward.convert, pieces))
    assert out == re.sub(rb"(?<!\r)\n", b"\r\n", data)
    assert b"".join(map(inward.convert, pieces)) + inward.end() == data.replace(b"\r\n", b"\n")


# --- all of them -------------------------------------------------------------------------------------


def _split(text: bytes) -> tuple[bytes, ...]:
    return tuple(word for part in text.split(b"\n") for word in part.split(b"|") if word)


def _uncommented(name: str) -> bytes:
    """An example of etc/ with its comments taken for keys."""
    return re.sub(rb"(?m)^(\s*)#\s?(?=\s*[a-z_]+:|\s+- \{)", rb"\1", (EXAMPLES / name).read_bytes())


def _examples(name: str) -> tuple[bytes, ...]:
    return ((EXAMPLES / name).read_bytes(), _uncommented(name)) if EXAMPLES.is_dir() else ()


_COMMANDS = tuple(each.encode() for part in _LINES.split("\n") for each in part.replace("||", "|\0").split("|") if each)
_LINE_SEEDS = tuple(each.replace(b"\0", b"") for each in _COMMANDS)
_VERBS = tuple(verb.encode() + b" " for verb in (*TABLE, *(f"SITE {verb}" for verb in SUBCOMMANDS)))
_KEYS = tuple(sorted(set(re.findall(rb"[a-z_]+:", (_SETTINGS + _USERS).encode()))))


def proxy_header(data: bytes) -> None:
    """A header of the PROXY protocol: the same result in whatever pieces it comes, and nothing of what is behind it."""
    try:
        found = header.parse(data)
    except header.InvalidHeader:
        return
    if found is None:
        return
    assert header.parse(data[: found.length]) == header.parse(data + b"\r\n") == found
    for end in range(0, found.length, max(1, found.length // 16)):
        assert header.parse(data[:end]) is None


TARGETS: dict[str, Target] = {
    "line": Target(line, _LINE_SEEDS, (*_VERBS, *_split(b"\xff\xf2| |-|;|=|,|\r\0|/|..|\xff|\xc3\xa9|\xd9\xa3|999|0|*|[|]|%"), b"|")),
    "settings": Target(settings, (_SETTINGS.encode(), *_examples("ftpsd.yaml")), (*_KEYS, *_split(_YAML))),
    "users": Target(users, (_USERS.encode(), *_examples("users.yaml")), (*_KEYS, *_split(_YAML))),
    "certificate": Target(certificate, tuple(each.read_bytes() for each in sorted(SEEDS.iterdir())), (b"-----BEGIN X509 CRL-----", b"-----BEGIN CERTIFICATE-----", b"MII", b"=", b"\n")),
    "records": Target(records, (b"\x05" + _hello(),), (b"\x16\x03\x01", b"\x17\x03\x03\0\0", b"\x15\x03\x03\0\x02\x01\0", b"\xff\xff")),
    "entries": Target(entries, (b"\0" * 16 + b"name", b"\xff" * 16 + b"\r\n"), (b"\r", b"\n", b"\x80", b" ")),
    "http_answer": Target(lambda raw: sources.http_answer(_loaded().builder.build, raw), sources.HTTP, sources.HTTP_WORDS),
    "helper_answer": Target(lambda raw: sources.helper_answer(_loaded().builder.build, raw), sources.HELPER, sources.HELPER_WORDS),
    "helper_request": Target(sources.helper_request, sources.REQUEST, sources.REQUEST_WORDS),
    "representation": Target(representation, (b"\x05\r\n\n\rtext\r\r\n",), (b"\r", b"\n", b"\r\n")),
    "proxy header": Target(proxy_header, (_PROXY_V1, _PROXY_V2), (b"PROXY UNKNOWN", b"TCP6 ::1 ::2 ", b"\r\n", b"\x20\0\0\0", b"\x21\x21\0\x24", b"65536")),
}  # fmt: skip
