"""TLS versions, ciphers and extensions that the daemon accepts and refuses, as openssl s_client sees them."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpsd.cli.serve.self_signed import make_certificate
from tests.daemon import PATIENCE, Daemon, program
from tests.ftpclient import FtpClient

KINDS = ["explicit", "implicit"]


def s_client(daemon: Daemon, kind: str, *options: str, words: bytes = b"QUIT\r\n") -> str:
    """Return the output of s_client for a connection on which it sends some words."""
    where = ["-connect", f"{daemon.host}:{daemon.port}", "-starttls", "ftp"]
    if kind == "implicit":
        where = ["-connect", f"{daemon.host}:{daemon.implicit_port}"]
    done = subprocess.run(
        # -ign_eof: stay until the server closes. Its letters of command are off then.
        ["openssl", "s_client", *where, "-ign_eof", *options],
        input=words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
    )
    return done.stdout.decode(errors="replace")


def protocol_of(said: str) -> tuple[str, str]:
    """Return the negotiated version and cipher."""
    match = re.search(r"^New, (\S+), Cipher is (.+)$", said, re.MULTILINE)
    assert match is not None, said
    return match[1], match[2]


def refused(said: str) -> bool:
    """Return whether the handshake has failed."""
    return protocol_of(said)[1] == "(NONE)" and "221 " not in said


@pytest.fixture(scope="module", params=["EC", "RSA"])
def keys(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Path
) -> Iterator[Daemon]:
    """Return daemons with a key of each kind, since the possible suites depend on it."""
    directory = tmp_path_factory.mktemp(request.param)
    make_certificate(directory / "certificate.pem", directory / "key.pem")
    if request.param == "RSA":
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=localhost", "-keyout", directory / "key.pem"),
                *("-out", directory / "certificate.pem"),
            ],
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
    daemon = Daemon(directory, directory).start()
    yield daemon
    daemon.stop()


# --- versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_version_accepted(shared: Daemon, kind: str, option: str, version: str) -> None:
    """TLS 1.2 and TLS 1.3 are accepted."""
    said = s_client(shared, kind, option)
    assert protocol_of(said)[0] == version
    assert "221 " in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_version_refused(shared: Daemon, kind: str, option: str) -> None:
    """TLS 1.0 and 1.1 are refused with the proper alert."""
    said = s_client(shared, kind, option, "-cipher", "ALL:@SECLEVEL=0")
    assert refused(said)
    assert re.search("alert protocol version", said), said


def test_minimum_version(make_daemon: Callable[..., Daemon]) -> None:
    """minimum_version: "1.3" refuses TLS 1.2."""
    daemon = make_daemon({"tls": {"minimum_version": "1.3"}})
    for kind in KINDS:
        assert "alert protocol version" in s_client(daemon, kind, "-tls1_2")
        assert protocol_of(s_client(daemon, kind))[0] == "TLSv1.3"


# --- suites ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suite",
    [
        "AES128-SHA",
        "AES256-SHA256",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-RSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA384",
        "DHE-RSA-AES256-SHA256",
        "AECDH-AES128-SHA",
        "PSK-AES128-GCM-SHA256",
    ],
)
def test_suite_refused(keys: Daemon, suite: str) -> None:
    """Suites without forward secrecy, without AEAD or without a certificate are refused."""
    options = ("-psk", "00112233") if suite.startswith("PSK") else ()
    said = s_client(keys, "implicit", "-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0", *options)
    assert refused(said), said
    assert re.search("alert handshake failure", said), said


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"])
def test_suite_accepted(keys: Daemon, suite: str) -> None:
    """ECDHE with AES-GCM and with ChaCha20 is accepted in TLS 1.2, with each kind of key."""
    both = f"ECDHE-ECDSA-{suite}:ECDHE-RSA-{suite}"
    said = s_client(keys, "implicit", "-tls1_2", "-cipher", both)
    assert protocol_of(said)[1] in both.split(":")


@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])
def test_suite_of_tls_1_3(keys: Daemon, suite: str) -> None:
    """The three common suites of TLS 1.3 are accepted."""
    said = s_client(keys, "implicit", "-tls1_3", "-ciphersuites", suite)
    assert protocol_of(said) == ("TLSv1.3", suite)


def test_configured_suites(make_daemon: Callable[..., Daemon]) -> None:
    """`ciphers` sets the suites of TLS 1.2."""
    daemon = make_daemon({"tls": {"ciphers": "ECDHE-ECDSA-AES256-SHA384"}})
    said = s_client(daemon, "implicit", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384")
    assert protocol_of(said)[1] == "ECDHE-ECDSA-AES256-SHA384"
    assert refused(s_client(daemon, "implicit", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"))


# --- what else TLS may do --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("offered", ["ftp", "ftp-data", "http/1.1,ftp", "ftp,h2"])
def test_alpn_accepted(shared: Daemon, kind: str, version: str, offered: str) -> None:
    """A client whose ALPN has FTP gets that protocol, and a session."""
    said = s_client(shared, kind, version, "-alpn", offered)
    chosen = next(name for name in offered.split(",") if name.startswith("ftp"))
    assert re.search(rf"^ALPN protocol: {chosen}$", said, re.MULTILINE), said
    assert "221 " in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("offered", ["h2", "http/1.1", "h2,http/1.1", "smtp", "imap"])
def test_alpn_refused(shared: Daemon, kind: str, version: str, offered: str) -> None:
    """A client whose ALPN has only other protocols gets no_application_protocol, and is disconnected."""
    said = s_client(shared, kind, version, "-alpn", offered)
    assert re.search("alert no application protocol|alert number 120", said), said
    assert refused(said)


def test_alpn_refusal_is_logged(shared: Daemon) -> None:
    """The log has one line without a traceback, which names the protocols."""
    s_client(shared, "implicit", "-alpn", "acme-tls/1")
    shared.wait_for_log(r"TLS failed: .*acme-tls/1")
    assert "Traceback" not in shared.log


@pytest.mark.parametrize("kind", KINDS)
def test_no_alpn(shared: Daemon, kind: str) -> None:
    """Most clients send no ALPN."""
    assert "No ALPN negotiated" in s_client(shared, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_renegotiation(shared: Daemon, kind: str) -> None:
    """Renegotiation in TLS 1.2 is refused; other sessions are not affected."""
    where = ["-connect", f"{shared.host}:{shared.port}", "-starttls", "ftp"]
    if kind == "implicit":
        where = ["-connect", f"{shared.host}:{shared.implicit_port}"]
    with program(
        ["openssl", "s_client", *where, "-tls1_2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        limit = threading.Timer(PATIENCE, running.kill)
        limit.start()
        try:
            said = b""
            for marker, words in ((b"Verify return code", b"NOOP\r\n"), (b"200 OK", b"R\n")):
                while marker not in said:
                    piece = running.stdout.read(4096)
                    assert piece, said
                    said += piece
                running.stdin.write(words)
            running.wait(PATIENCE)
            said += running.stdout.read()
        finally:
            limit.cancel()
            running.kill()
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said, said
    with FtpClient(shared) as client:
        client.start_tls()
        client.login()


@pytest.mark.parametrize("kind", KINDS)
def test_secure_renegotiation_and_no_compression(shared: Daemon, kind: str) -> None:
    """Secure renegotiation (RFC 5746) is announced, since old clients require it, and there is no compression."""
    said = s_client(shared, kind, "-tls1_2", "-comp")
    assert "Secure Renegotiation IS supported" in said
    assert re.search(r"^Compression: NONE$", said, re.MULTILINE), said
    assert re.search(r"Extended master secret: yes", said), said


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_the_ticket_of_another_connection(shared: Daemon, version: str, tmp_path: Path) -> None:
    """A control connection with the ticket of another one makes a full handshake."""
    saved = str(tmp_path / "session")
    s_client(shared, "implicit", version, "-sess_out", saved)
    said = s_client(shared, "implicit", version, "-sess_in", saved)
    assert re.search(r"^New, TLS", said, re.MULTILINE), said
    assert "221 " in said


def test_no_early_data(shared: Daemon, tmp_path: Path) -> None:
    """No ticket permits early data, and early data that a client sends all the same is ignored."""
    saved, early = tmp_path / "session", tmp_path / "early"
    early.write_bytes(b"HELP\r\n")
    said = s_client(shared, "implicit", "-tls1_3", "-sess_out", str(saved))
    assert set(re.findall(r"Max Early Data: (\d+)", said)) == {"0"}, said
    allow_early_data(saved)
    said = s_client(shared, "implicit", "-tls1_3", "-sess_in", str(saved), "-early_data", str(early))
    assert "Early data was rejected" in said, said
    assert "The following commands are supported" not in said
    assert "221 " in said


def elements(der: bytes) -> Iterator[bytes]:
    """Return the elements of a DER sequence."""
    while der:
        long = der[1] & 0x7F if der[1] & 0x80 else 0
        size = 2 + long + (int.from_bytes(der[2 : 2 + long], "big") if long else der[1])
        yield der[:size]
        der = der[size:]


def allow_early_data(saved: Path) -> None:
    """Change a session so that its client believes it may send 16384 bytes early: field 15 of its SEQUENCE."""
    session = ssl.PEM_cert_to_DER_cert(saved.read_text().replace("SSL SESSION PARAMETERS", "CERTIFICATE"))
    assert session[:2] == b"\x30\x82"
    fields = b"".join(sorted([*elements(session[4:]), b"\xaf\x04\x02\x02\x40\x00"], key=lambda field: field[0]))
    pem = ssl.DER_cert_to_PEM_cert(b"\x30\x82" + len(fields).to_bytes(2, "big") + fields)
    saved.write_text(pem.replace("CERTIFICATE", "SSL SESSION PARAMETERS"))


@pytest.mark.parametrize("kind", KINDS)
def test_close_notify(shared: Daemon, kind: str) -> None:
    """After QUIT the server ends TLS with close_notify."""
    said = s_client(shared, kind)
    assert "221 " in said
    assert "unexpected eof" not in said, said


def test_tls_on_the_explicit_port(shared: Daemon) -> None:
    """A ClientHello on a port for explicit TLS ends the session, with one line in the log."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{shared.host}:{shared.port}"],
        input=b"",
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    shared.wait_for_log("use one with tls: implicit")


def test_plain_text_on_the_implicit_port(shared: Daemon) -> None:
    """Plain-text FTP on a port for implicit TLS is refused, and the connection closed."""
    with socket.create_connection((shared.host, shared.implicit_port), PATIENCE) as connection:
        connection.sendall(b"USER alice\r\n")
        heard = b""
        while piece := connection.recv(4096):
            heard += piece
    assert not heard.startswith(b"220")
