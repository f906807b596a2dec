"""Certificates of clients: verified in the handshake, matched to users, and bound to data connections."""

from __future__ import annotations

import ftplib
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.daemon import Daemon, ftpsd
from tests.ftpclient import FtpClient, read_all, tls_context
from tests.pki import Authority, Issued, make_key, pem
from tests.source_daemon import SourceDaemon

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
Make = Callable[..., Daemon]


class Pki:
    """Two authorities that the daemon trusts, one below the first, one that it does not trust, and their lists."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = Authority("root")
        self.below = Authority("below", self.root)
        self.bad = Authority("bad", self.root)
        self.second = Authority("second", key=make_key("rsa"))
        self.stranger = Authority("stranger")
        self.alice = self.root.issue("alice")
        self.bob = self.root.issue("bob")
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(b"".join(pem(each.certificate) for each in (self.root, self.second)))
        self._count = 0

    def file(self, issued: Issued) -> Path:
        """Write a certificate with chain and key to a new file."""
        self._count += 1
        return issued.write(self.directory / f"{self._count}.pem")

    def context(self, issued: Issued | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """Return a client's context with a certificate."""
        context = tls_context(version)
        if issued is not None:
            context.load_cert_chain(self.file(issued))
        return context

    def settings(self, **more: object) -> dict[str, Any]:
        """Return settings with the section `client_certificates`."""
        return {"tls": {"client_certificates": {"ca": str(self.ca), **more}}}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The authorities."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def optional(tmp_path_factory: pytest.TempPathFactory, pki: Pki, certificate: Path) -> Iterator[Daemon]:
    """A daemon with the defaults of the section: certificates are optional, and enough for a login."""
    daemon = Daemon(tmp_path_factory.mktemp("optional"), certificate, pki.settings()).start()
    yield daemon
    daemon.stop()


def connect(daemon: Daemon, context: ssl.SSLContext, implicit: bool = False) -> FtpClient:
    """Return a client after the handshake."""
    client = FtpClient(daemon, implicit, context=context)
    if not implicit:
        client.start_tls()
    return client


def protect(client: FtpClient) -> FtpClient:
    """Send what follows a login."""
    for line in ("PBSZ 0", "PROT P", "TYPE I"):
        client.expect(200, line)
    return client


@VERSIONS
@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
def test_a_certificate_is_enough(optional: Daemon, pki: Pki, version: ssl.TLSVersion, implicit: bool) -> None:
    """USER is answered 232 if the certificate is the user's; PASS is accepted, and data connections resume."""
    with connect(optional, pki.context(pki.alice, version), implicit) as client:
        client.expect(232, "USER alice")
        for password in ("secret", "", "wrong"):
            client.expect(230, f"PASS {password}")
        protect(client)
        assert client.upload("STOR file", b"content").startswith("226")
        assert client.download("RETR file") == b"content"
        client.expect(331, "USER bob")  # the certificate is alice's
        client.expect(530, "PASS wrong")
        client.expect(230, "PASS secret")
        client.expect(503, "PASS secret")
        client.expect(232, "USER alice")
    assert f"client certificate: CN=alice, SHA-256 {pki.alice.fingerprint}" in optional.log


@VERSIONS
def test_without_a_certificate_the_password_decides(optional: Daemon, pki: Pki, version: ssl.TLSVersion) -> None:
    """With `mode: optional`, a client without a certificate logs in with its password."""
    with connect(optional, pki.context(None, version)) as client:
        client.login()
        assert client.upload("STOR file", b"content").startswith("226")


def test_names_in_certificates(optional: Daemon, pki: Pki, make_daemon: Make) -> None:
    """Case matters, a name with NUL or a prefix is not the user's, and each of several names counts."""
    names = ["Alice", "alice\0", "alice\0bob", "alice ", "ali", "älice", "a" * 60, ""]
    for name in names:
        with connect(optional, pki.context(pki.root.issue(name))) as client:
            client.expect(331, "USER alice")
    several = pki.root.issue(["carol", "alice", "bob"])
    for name in ("alice", "bob"):
        with connect(optional, pki.context(several)) as client:
            client.expect(232, f"USER {name}")


def test_maps(pki: Pki, make_daemon: Make) -> None:
    """Addresses ignore the case of the domain only, of a URI the last part is the name."""
    users: dict[str, dict[str, object]] = {"alice@Example.org": {}, "scanner-7": {}, "alice": {}}
    email = make_daemon(pki.settings(map="email"), users)
    for address, code in (
        ("alice@example.ORG", 232),
        ("Alice@example.org", 331),
        ("alice@example.com", 331),
    ):
        issued = pki.root.issue("alice@Example.org", x509.RFC822Name("x@y"), x509.RFC822Name(address))
        with connect(email, pki.context(issued)) as client:
            client.expect(code, "USER alice@Example.org")
    uri = make_daemon(pki.settings(map="uri"), users)
    for text, code in (
        ("spiffe://example.org/site/scanner-7", 232),
        ("urn:device:scanner-7", 232),
        ("spiffe://example.org/scanner-7/", 331),
        ("https://example.org/?scanner-7", 331),
        ("spiffe://example.org/scanner%2d7", 331),
    ):
        with connect(uri, pki.context(pki.root.issue("scanner-7", x509.UniformResourceIdentifier(text)))) as client:
            client.expect(code, "USER scanner-7")


def test_fingerprints(pki: Pki, make_daemon: Make) -> None:
    """`certificates:` lists a user's certificates: with `map: fingerprint` they decide alone, else together with the name."""
    colons = re.sub("(..)(?!$)", r"\1:", pki.bob.fingerprint.upper())
    users = {"alice": {"certificates": [f"SHA256 Fingerprint={colons}", "0" * 64]}, "bob": {}, "carol": {}}
    daemon = make_daemon(pki.settings(map="fingerprint"), users)
    with connect(daemon, pki.context(pki.bob)) as client:
        client.expect(232, "USER alice")
        client.expect(331, "USER bob")
    with connect(daemon, pki.context(pki.alice)) as client:
        client.expect(331, "USER alice")
    pinned = make_daemon(pki.settings(), {"alice": {"certificates": [pki.alice.fingerprint]}, "bob": {}})
    with connect(pinned, pki.context(pki.alice)) as client:
        client.expect(232, "USER alice")
    with connect(pinned, pki.context(pki.root.issue("alice"))) as client:
        client.expect(331, "USER alice")


def test_users_without_a_password(pki: Pki, make_daemon: Make) -> None:
    """A user with `certificates` needs no password; then none is right, neither an empty one nor another user's."""
    users = {"alice": {"password": None, "certificates": [pki.alice.fingerprint]}, "bob": {}}
    daemon = make_daemon(pki.settings(), users)
    with connect(daemon, pki.context(pki.alice)) as client:
        client.expect(232, "USER alice")
    with connect(daemon, pki.context(None)) as client:
        for password in ("", "secret"):
            client.expect(331, "USER alice")
            client.expect(530, f"PASS {password}")
        client.login("bob")


#: What the log says, and the alert of TLS 1.3, for each certificate that is refused in the handshake.
REFUSED: dict[str, tuple[str, str]] = {
    "expired": ("it has expired", "CERTIFICATE_EXPIRED"),
    "early": ("it is not valid yet", "BAD_CERTIFICATE"),
    "stranger": ("no authority in tls.client_certificates.ca has signed it", "UNKNOWN_CA"),
    "self-signed": ("no authority in tls.client_certificates.ca has signed it", "UNKNOWN_CA"),
    "server": ("it is not for clients", "UNSUPPORTED_CERTIFICATE"),
    "mail": ("it is not for clients", "UNSUPPORTED_CERTIFICATE"),
    "without chain": ("or an intermediate certificate is missing", "UNKNOWN_CA"),
    "by a client": ("it is not an authority's, and has signed another one", "UNKNOWN_CA"),
    "revoked": ("it has been revoked", "CERTIFICATE_REVOKED"),
    "revoked issuer": ("it has been revoked", "CERTIFICATE_REVOKED"),
}


def refused_certificates(pki: Pki) -> dict[str, Issued]:
    """Return the certificates of REFUSED; the revoked ones are revoked here."""
    revoked = pki.root.issue("alice")
    pki.root.revoke(revoked, pki.bad)
    whole = pki.below.issue("alice")
    alone = Authority("alice")
    client = pki.root.issue("mallory")
    signed = Authority("mallory", key=client.key).issue("alice")
    return {
        "expired": pki.root.issue("alice", valid=(-9, -1)),
        "early": pki.root.issue("alice", valid=(1, 9)),
        "stranger": pki.stranger.issue("alice"),
        "self-signed": Issued(alone.certificate, alone.key),
        "server": pki.root.issue("alice", purpose="server"),
        "mail": pki.root.issue("alice", purpose="mail"),
        "without chain": Issued(whole.certificate, whole.key),
        "by a client": Issued(signed.certificate, signed.key, (client.certificate,)),
        "revoked": revoked,
        "revoked issuer": pki.bad.issue("alice"),
    }


@VERSIONS
@pytest.mark.parametrize("mode", ["optional", "required"])
def test_refused_in_the_handshake(pki: Pki, make_daemon: Make, version: ssl.TLSVersion, mode: str) -> None:
    """A certificate that cannot be verified ends the handshake, with the right alert and a log line that says why."""
    certificates = refused_certificates(pki)
    (pki.directory / "root.crl").write_bytes(pki.root.crl())
    (pki.directory / "others.crl").write_bytes(b"".join(each.crl() for each in (pki.below, pki.bad, pki.second)))
    daemon = make_daemon(
        pki.settings(mode=mode, crl=[str(pki.directory / f"{name}.crl") for name in ("root", "others")])
    )
    for name, issued in certificates.items():
        text, alert = REFUSED[name]
        with pytest.raises(ssl.SSLError) as raised, connect(daemon, pki.context(issued, version)) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            client.socket.settimeout(20)
            client.send("NOOP")
            client.socket.recv(1)
        assert alert in str(raised.value).replace(" ", "_").upper(), name
        daemon.wait_for_log(rf"TLS failed: the client certificate CN=\w+ is refused: .*{re.escape(text)}")
        daemon.log_file.write_bytes(b"")
    for issued in (pki.alice, pki.below.issue("alice"), pki.second.issue("alice", kind="rsa")):
        with connect(daemon, pki.context(issued, version)) as client:
            client.expect(232, "USER alice")


@VERSIONS
def test_required_and_missing(pki: Pki, make_daemon: Make, version: ssl.TLSVersion) -> None:
    """With `mode: required`, a client without a certificate gets 530 at USER, with a sentence."""
    for login in ("password", "certificate", "both"):
        daemon = make_daemon(pki.settings(mode="required", login=login))
        with connect(daemon, pki.context(None, version)) as client:
            assert client.command("USER alice") == "530 Client certificate required: choose one in your FTP program."
            client.expect(503, "PASS secret")
        assert "login of alice refused: Client certificate required" in daemon.log


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_both(pki: Pki, make_daemon: Make, mode: str) -> None:
    """With `login: both`, the user's certificate and password are needed."""
    users = {"alice": {}, "bob": {}, "carol": {"certificates": ["0" * 64]}}
    daemon = make_daemon(pki.settings(mode=mode, login="both"), users)
    with connect(daemon, pki.context(pki.alice)) as client:
        client.expect(331, "USER alice")
        client.expect(530, "PASS wrong")
        client.expect(230, "PASS secret")
        protect(client)
        assert client.upload("STOR file", b"content").startswith("226")
        assert client.command("USER bob").startswith("530 Login incorrect: the client certificate is not for this user")
        client.expect(503, "PASS secret")
    with connect(daemon, pki.context(None)) as client:
        client.expect(530, "USER alice")
    with connect(daemon, pki.context(pki.root.issue("carol"))) as client:
        client.expect(331, "USER carol")
        assert client.command("PASS secret") == "530 Login incorrect."


def test_passwords_with_required_certificates(pki: Pki, make_daemon: Make) -> None:
    """With `login: password` the password decides, but another user's certificate is refused; a machine's is not."""
    users = {"alice": {}, "bob": {}, "carol": {"certificates": [pki.bob.fingerprint]}}
    daemon = make_daemon(pki.settings(mode="required", login="password"), users)
    machine = pki.root.issue("gate-17")
    for issued, name, code in (
        (pki.alice, "alice", 230),
        (pki.alice, "bob", 530),
        (machine, "alice", 230),
        (machine, "bob", 230),
        (machine, "carol", 530),
    ):
        with connect(daemon, pki.context(issued)) as client:
            client.expect(331, f"USER {name}")
            client.expect(code, "PASS secret")


def test_passwords_with_required_fingerprints(pki: Pki, make_daemon: Make) -> None:
    """With `map: fingerprint` only its user tells whose a certificate is: nobody else gets in with it and a password."""
    shared = pki.root.issue("gate-17")
    users: dict[str, dict[str, object]] = {
        "alice": {"certificates": [pki.alice.fingerprint, shared.fingerprint]},
        "bob": {"certificates": [shared.fingerprint]},
        "carol": {},
    }
    daemon = make_daemon(pki.settings(mode="required", login="password", map="fingerprint"), users)
    for issued, name, code in (
        (pki.alice, "alice", 230),
        (pki.alice, "bob", 530),
        (pki.alice, "carol", 530),
        (shared, "alice", 230),
        (shared, "bob", 230),
        (shared, "carol", 530),
    ):
        with connect(daemon, pki.context(issued)) as client:
            client.expect(331, f"USER {name}")
            client.expect(code, "PASS secret")


def test_another_spelling_is_no_failed_login(pki: Pki, make_daemon: Make) -> None:
    """With `mode: optional`, a certificate that does not name the user exactly, or is not the one that the user has, is
    no failed login: the password decides, and nobody is banned. A wrong password counts once."""
    users: dict[str, dict[str, object]] = {"alice": {}, "bob": {"certificates": [pki.bob.fingerprint]}}
    daemon = make_daemon({**pki.settings(), "bans": {"attempts": 3, "allow": []}}, users)
    for name, issued in (("alice", pki.root.issue("Alice")), ("bob", pki.root.issue("bob"))):
        for _ in range(4):
            with connect(daemon, pki.context(issued)) as client:
                client.expect(331, f"USER {name}")
                client.expect(230, "PASS secret")
    assert "login failed" not in daemon.log
    with connect(daemon, pki.context(pki.root.issue("ALICE"))) as client:
        client.expect(331, "USER alice")
        client.expect(530, "PASS wrong")
    assert daemon.log.count("login failed") == 1


def test_required_certificates_of_others(pki: Pki, make_daemon: Make) -> None:
    """With `mode: required` and `login: certificate` another user's certificate is refused, three times at most."""
    daemon = make_daemon(pki.settings(mode="required"))
    with connect(daemon, pki.context(pki.alice)) as client:
        for _ in range(2):
            assert client.command("USER bob") == "530 Login incorrect: the client certificate is not for this user."
        client.expect(503, "PASS secret")
        assert client.command("USER nobody").endswith("Goodbye.")
        assert client.read_line() == b""


def test_guessed_names_are_banned(pki: Pki, make_daemon: Make) -> None:
    """Trying names with a certificate until one has its fingerprint leads to a ban, like trying passwords."""
    settings = {**pki.settings(map="fingerprint"), "bans": {"attempts": 3, "allow": []}}
    daemon = make_daemon(settings, {"alice": {"certificates": [pki.alice.fingerprint]}})
    with connect(daemon, pki.context(pki.alice)) as client:
        assert [client.command(f"USER name{number}")[:3] for number in range(3)] == ["331", "331", "530"]
        assert client.read_line() == b""
    assert "too many failed logins" in daemon.log


@pytest.mark.parametrize("by", ["fingerprint", "cn"])
def test_guessed_names_end_the_session(pki: Pki, make_daemon: Make, by: str) -> None:
    """Names that are guessed with a certificate count for `limits.login_failures`, like passwords."""
    daemon = make_daemon({**pki.settings(map=by), "limits": {"login_failures": 2}})
    names = ["one", "two"] if by == "fingerprint" else ["Alice", "ALICE", "aLICE"]
    with connect(daemon, pki.context(pki.alice)) as client:
        for name in names[:-1]:
            client.expect(331, f"USER {name}")
        assert client.command(f"USER {names[-1]}") == "530 Login incorrect. Goodbye."
        assert client.read_line() == b""


def test_the_name_in_the_certificate_is_no_guess(pki: Pki, make_daemon: Make) -> None:
    """A client with an older certificate of the user, which is not listed, may quit when a password is wanted."""
    daemon = make_daemon(pki.settings(), {"bob": {"certificates": [pki.bob.fingerprint]}})
    with connect(daemon, pki.context(pki.root.issue("bob"))) as client:
        client.expect(331, "USER bob")
        client.expect(221, "QUIT")
    with connect(daemon, pki.context(pki.alice)) as client:
        client.expect(331, "USER ALICE")
        client.expect(221, "QUIT")
    daemon.wait_for_log("login failed")
    assert [line.partition("> ")[0][-22:] for line in daemon.log.splitlines() if "login failed" in line] == [
        "(000002) - (127.0.0.1)"
    ]


@pytest.mark.parametrize("sessions", [1, 3], ids=["in one session", "in a session each"])
def test_guessed_spellings_are_banned(pki: Pki, make_daemon: Make, sessions: int) -> None:
    """Spellings that are tried with a certificate and without a password are guesses, and lead to a ban."""
    daemon = make_daemon({**pki.settings(), "bans": {"attempts": 3, "allow": []}})
    names = ["Alice", "ALICE", "aLICE"]
    for index in range(sessions):
        with connect(daemon, pki.context(pki.alice)) as client:
            for name in names if sessions == 1 else [names[index]]:
                client.expect(331, f"USER {name}")
            client.expect(221, "QUIT")
        daemon.wait_for_log("(?s)" + ".*login failed" * (index + 1 if sessions > 1 else 3))
    daemon.wait_for_log("too many failed logins")
    with FtpClient(daemon, greeting=False) as client:
        assert client.reply().startswith("421 ")


def test_a_password_after_another_spelling_is_one_try(pki: Pki, make_daemon: Make) -> None:
    """A client that sends the password, or uses the spelling of the certificate, has guessed nothing."""
    daemon = make_daemon({**pki.settings(), "bans": {"attempts": 3, "allow": []}})
    for _ in range(4):
        with connect(daemon, pki.context(pki.root.issue("ALICE"))) as client:
            client.expect(331, "USER alice")
            client.expect(230, "PASS secret")
        with connect(daemon, pki.context(pki.alice)) as client:
            client.expect(331, "USER bob")  # nothing was looked up
            client.expect(232, "USER alice")
    with connect(daemon, pki.context(pki.alice)) as client:
        client.expect(331, "USER Alice")
        client.expect(530, "PASS wrong")
    assert daemon.log.count("login failed") == 1


def test_a_refusal_in_another_spelling_is_not_told(pki: Pki, certificate: Path, tmp_path: Path) -> None:
    """The client learns why a source refuses a user only if its certificate has the name in exactly that spelling."""
    daemon = SourceDaemon(tmp_path, certificate, pki.settings())
    daemon.with_source(erin={"denied": "This account has expired."}, Erin={"denied": "This account has expired."})
    daemon.start()
    try:
        replies = {}
        for name in ("erin", "Erin", "ERIN"):
            with connect(daemon, pki.context(pki.root.issue("erin"))) as client:
                replies[name] = client.command(f"USER {name}")
        assert replies["erin"].startswith("530 ") and "expired" in replies["erin"]
        assert replies["Erin"] == replies["ERIN"] == "331 Password required."
    finally:
        daemon.stop()


@pytest.mark.parametrize("name", ["disabled", "elsewhere", "gone"])
def test_login_rules_hold(pki: Pki, make_daemon: Make, name: str) -> None:
    """A login by certificate follows the same rules as one by password."""
    users: dict[str, dict[str, object]] = {
        "disabled": {"enabled": False},
        "elsewhere": {"networks": {"allow": ["192.0.2.0/24"]}},
        "gone": {"expires": "2020-01-01"},
    }
    daemon = make_daemon(pki.settings(), users)
    with connect(daemon, pki.context(pki.root.issue(name))) as client:
        client.expect(530, f"USER {name}")
        client.expect(503, "PASS secret")


def test_session_limits_hold(pki: Pki, make_daemon: Make) -> None:
    """A login by certificate counts as a session of the user."""
    daemon = make_daemon(pki.settings(), {"alice": {"limits": {"sessions": 1}}})
    with connect(daemon, pki.context(pki.alice)) as first, connect(daemon, pki.context(pki.alice)) as second:
        first.expect(232, "USER alice")
        second.expect(421, "USER alice")


@VERSIONS
@pytest.mark.parametrize("policy", ["allow", "off"])
def test_data_connections_show_the_same_certificate(
    pki: Pki, make_daemon: Make, version: ssl.TLSVersion, policy: str
) -> None:
    """A data connection with a handshake of its own must show the certificate of the control connection."""
    settings = pki.settings()
    settings["tls"]["data_session"] = policy
    daemon = make_daemon(settings)
    (daemon.home() / "file").write_bytes(b"content")
    other = pki.context(pki.root.issue("alice"), version)
    for shown, data, accepted in (
        (pki.alice, None, True),
        (pki.alice, pki.context(None, version), False),
        (pki.alice, other, False),
        (None, None, True),
        (None, other, False),
    ):
        with connect(daemon, pki.context(shown, version)) as client:
            if shown is None:
                client.login()
            else:
                client.expect(232, "USER alice")
                protect(client)
            connection = client.connect_data()
            client.expect(150, "RETR file")
            context = data or client.context
            try:
                with context.wrap_socket(connection, server_hostname="localhost") as secured:
                    assert read_all(secured) == (b"content" if accepted else b"")
            except (ssl.SSLError, ConnectionError):
                assert not accepted
            reply = client.reply()
            wanted = "226" if accepted else "522 The data connection must show the same client certificate"
            assert reply.startswith(wanted), (shown, data, reply)


@VERSIONS
@pytest.mark.parametrize("name", ["localhost", "second.example"])
def test_with_several_certificates_of_the_server(
    pki: Pki, make_daemon: Make, version: ssl.TLSVersion, name: str, tmp_path: Path
) -> None:
    """Whichever certificate the server shows, it verifies that of the client, and data connections resume."""
    settings = pki.settings(mode="required")
    second = pki.root.server("second.example").write(tmp_path / "second.pem")
    settings["tls"]["certificates"] = [{"certificate": str(second)}]
    daemon = make_daemon(settings)
    with FtpClient(daemon, name=name, context=pki.context(pki.alice, version)) as client:
        client.start_tls()
        client.expect(232, "USER alice")
        protect(client)
        assert client.upload("STOR file", b"content").startswith("226")
        assert client.download("RETR file") == b"content"
    for issued in (pki.stranger.issue("alice"), pki.root.issue("alice", valid=(-9, -1))):
        with pytest.raises(ssl.SSLError), FtpClient(daemon, name=name, context=pki.context(issued, version)) as client:
            client.start_tls()
            client.send("NOOP")
            client.socket.recv(1)


def test_anonymous_needs_a_certificate_too(pki: Pki, make_daemon: Make, tmp_path: Path) -> None:
    """Where certificates are required, anonymous logins need one; where they are optional, they do not."""
    (tmp_path / "public").mkdir()
    for mode, code in (("required", 530), ("optional", 331)):
        daemon = make_daemon({**pki.settings(mode=mode), "anonymous": {"home": str(tmp_path / "public")}})
        with connect(daemon, pki.context(None)) as client:
            client.expect(code, "USER anonymous")


def test_reload_takes_new_lists(pki: Pki, make_daemon: Make, tmp_path: Path) -> None:
    """A reload takes new authorities and lists for new sessions. A running session keeps its login."""
    authority = Authority("changing")
    ca, crl = tmp_path / "changing.pem", tmp_path / "changing.crl"
    ca.write_bytes(pem(authority.certificate))
    crl.write_bytes(authority.crl())
    alice = authority.issue("alice")
    daemon = make_daemon({"tls": {"client_certificates": {"ca": str(ca), "crl": str(crl)}}})
    with connect(daemon, pki.context(alice)) as running:
        running.expect(232, "USER alice")
        protect(running)
        authority.revoke(alice)
        crl.write_bytes(authority.crl())
        daemon.reload()
        with pytest.raises(ssl.SSLError, match=r"(?i)revoked"), connect(daemon, pki.context(alice)) as client:
            client.send("NOOP")
            client.socket.recv(1)
        assert running.upload("STOR file", b"content").startswith("226")
    ca.write_bytes(pem(pki.root.certificate))
    crl.write_bytes(pki.root.crl())
    daemon.reload()
    with connect(daemon, pki.context(pki.alice)) as client:
        client.expect(232, "USER alice")


# --- configuration --------------------------------------------------------------------------------------


def check(daemon: Daemon) -> tuple[int, str]:
    """Return the status of `ftpsd check`, and what it prints."""
    done = subprocess.run(ftpsd("check", "-c", str(daemon.config)), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_faults(pki: Pki, make_daemon: Make, tmp_path: Path) -> None:
    """Files that are missing or hold something else, and values that cannot be, are faults with line, key and remedy."""
    good, damaged, writable = str(pki.ca), tmp_path / "damaged.pem", tmp_path / "writable.pem"
    damaged.write_bytes(pem(pki.root.certificate) + pem(pki.second.certificate).replace(b"MII", b"MIJ", 1))
    writable.write_bytes(pki.root.crl())
    writable.chmod(0o666)
    cases: list[tuple[dict[str, object], str]] = [
        ({"ca": "nowhere.pem"}, r"client_certificates.ca: .*nowhere.pem cannot be read: no such file"),
        (
            {"ca": str(tmp_path / "daemon0/ftpsd.yaml")},
            r"client_certificates.ca: .* contains no certificate. Name a PEM",
        ),
        ({"ca": str(damaged)}, r"client_certificates.ca: certificate 2 in .*damaged.pem is damaged"),
        ({"ca": good, "crl": "nowhere.crl"}, r"client_certificates.crl: .*nowhere.crl cannot be read"),
        ({"ca": good, "crl": [good]}, r"client_certificates.crl\[0\]: .* contains no usable revocation list"),
        ({"ca": good, "crl": str(writable)}, r"client_certificates.crl: everyone on this machine may write to"),
        ({"ca": good, "crl": 7}, r"client_certificates.crl: 7 is not a string"),
        ({"ca": good, "mode": "maybe"}, r"client_certificates.mode: .*“maybe”"),
        ({"ca": good, "login": "either"}, r"client_certificates.login: .*“either”"),
        ({"ca": good, "map": "dn"}, r"client_certificates.map: .*“dn”"),
        ({"ca": good, "crls": []}, r"client_certificates.crls: unknown key. Did you mean crl\?"),
        ({}, r"client_certificates.ca: is missing"),
    ]
    daemon = make_daemon(start=False)
    for section, fault in cases:
        daemon.settings["tls"]["client_certificates"] = section
        daemon.write()
        status, said = check(daemon)
        assert status == 1 and re.search(rf"ftpsd.yaml:\d+: tls\.{fault}", said), said
    daemon.settings["tls"].update(client_certificates={"ca": good, "mode": "required"}, require={"login": False})
    daemon.write()
    assert "required is not possible: tls.require.login is false" in check(daemon)[1]


def test_faults_of_fingerprints(pki: Pki, make_daemon: Make) -> None:
    """A fingerprint that is none is a fault with the command that prints one; a group has no certificates."""
    daemon = make_daemon(pki.settings(), start=False)
    for value in ("0" * 40, "not one", pki.alice.fingerprint[:-1] + "g", 12):
        daemon.users = {"alice": {"certificates": [value]}}
        daemon.write()
        status, said = check(daemon)
        assert status == 1 and "users.alice.certificates[0]" in said and "-fingerprint -sha256" in said, said
    daemon.users, daemon.groups = {"alice": {"groups": ["staff"]}}, {"staff": {"certificates": [pki.alice.fingerprint]}}
    daemon.write()
    status, said = check(daemon)
    assert status == 1 and "groups.staff.certificates: cannot be a key of a group" in said, said


def test_warnings(make_daemon: Make, tmp_path: Path) -> None:
    """Expired lists and authorities, and authorities without a list, are warnings: they refuse all of their clients."""
    stale, unlisted = Authority("stale"), Authority("unlisted")
    (tmp_path / "ca.pem").write_bytes(b"".join(pem(each.certificate) for each in (stale, unlisted)))
    (tmp_path / "stale.crl").write_bytes(stale.crl(valid=(-9, -2)))
    section = {"ca": str(tmp_path / "ca.pem"), "crl": str(tmp_path / "stale.crl")}
    daemon = make_daemon({"tls": {"client_certificates": section}})
    status, said = check(daemon)
    assert status == 0
    assert "the revocation list of CN=stale has expired on" in said and "get a new list" in said
    assert "no revocation list is of CN=unlisted" in said and "add its list" in said
    for authority, problem in (
        (stale, "the revocation list of its issuer has expired"),
        (unlisted, "tls.client_certificates.crl has no list of its issuer"),
    ):
        context = tls_context()
        context.load_cert_chain(authority.issue("alice").write(tmp_path / "client.pem"))
        with pytest.raises(ssl.SSLError), connect(daemon, context) as client:
            client.send("NOOP")
            client.socket.recv(1)
        daemon.wait_for_log(f"the client certificate CN=alice is refused: {problem}")
    said = subprocess.run(
        ftpsd("doctor", "-c", str(daemon.config)), capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL
    ).stdout
    assert "the revocation list of CN=stale has expired" in said and "no revocation list is of CN=unlisted" in said


@pytest.mark.parametrize("by", ["name", "fingerprint"])
def test_a_client_that_is_an_authority_is_a_warning(make_daemon: Make, tmp_path: Path, by: str) -> None:
    """A certificate in `ca` that is a user's, and may sign others, as `openssl req -x509` makes it, is a warning."""
    pem_file = tmp_path / "ca.pem"
    files: list[str] = []
    for number, extra in enumerate(([], ["-addext", "basicConstraints=critical,CA:FALSE"])):
        files.append(str(tmp_path / f"{number}.pem"))
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subject = f"/CN=scanner-{number}" if by == "name" else f"/CN=device {number}"
        subprocess.run(
            [*command, "-subj", subject, *extra, "-keyout", "/dev/null", "-out", files[-1]],
            check=True,
            capture_output=True,
        )
    pem_file.write_text("".join(Path(each).read_text() for each in files))
    prints = [
        subprocess.run(
            ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", each],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for each in files
    ]
    users: dict[str, dict[str, object]] = {
        f"scanner-{number}": {} if by == "name" else {"certificates": [prints[number]]} for number in range(2)
    }
    source = "cn" if by == "name" else "fingerprint"
    daemon = make_daemon({"tls": {"client_certificates": {"ca": str(pem_file), "map": source}}}, users)
    status, said = check(daemon)
    assert status == 0
    (line,) = [each for each in said.splitlines() if "is an authority" in each]
    assert ("of the user scanner-0" if by == "name" else "CN=device 0 of a user") in line
    assert "basicConstraints=critical,CA:FALSE" in line


@pytest.mark.parametrize("kind", ["version 1", "keyUsage"])
def test_a_client_without_constraints_is_a_warning(pki: Pki, make_daemon: Make, tmp_path: Path, kind: str) -> None:
    """So is one without basicConstraints that OpenSSL takes for an authority: its key signs a certificate of anybody."""
    ca, key, request = tmp_path / "ca.pem", tmp_path / "key.pem", tmp_path / "request.pem"
    device = pki.root.issue("scanner")
    device.write(key)
    sign = ["openssl", "x509", "-req", "-in", str(request), "-signkey", str(key), "-days", "9", "-out", str(ca)]
    if kind == "keyUsage":
        (tmp_path / "extensions").write_text("keyUsage=digitalSignature,keyCertSign\n")
        sign += ["-extfile", str(tmp_path / "extensions")]
    new = ["openssl", "req", "-new", "-key", str(key), "-subj", "/CN=scanner", "-out", str(request)]
    for command in (new, sign):
        subprocess.run(command, check=True, capture_output=True)
    if kind == "version 1" and x509.load_pem_x509_certificate(ca.read_bytes()).version is not x509.Version.v1:
        pytest.skip("this OpenSSL makes certificates of version 3")
    daemon = make_daemon({"tls": {"client_certificates": {"ca": str(ca)}}}, {"alice": {}, "scanner": {}})
    with connect(daemon, pki.context(Authority("scanner", key=device.key).issue("alice"))) as client:
        client.expect(232, "USER alice")
    status, said = check(daemon)
    assert status == 0 and "CN=scanner of the user scanner is an authority, too" in said, said


def test_an_authority_alone_is_a_warning(pki: Pki, make_daemon: Make, tmp_path: Path) -> None:
    """An intermediate authority without the one above it refuses all that it has signed: a warning, and a log line."""
    (tmp_path / "ca.pem").write_bytes(pem(pki.below.certificate))
    daemon = make_daemon({"tls": {"client_certificates": {"ca": str(tmp_path / "ca.pem")}}})
    with pytest.raises(ssl.SSLError), connect(daemon, pki.context(pki.below.issue("alice"))) as client:
        client.send("NOOP")
        client.socket.recv(1)
    daemon.wait_for_log("CN=below is refused: the authority above it is missing in tls.client_certificates.ca")
    status, said = check(daemon)
    assert status == 0 and "CN=below and all that it has signed are refused without that of CN=root" in said, said


def test_a_large_list_is_a_warning(pki: Pki, make_daemon: Make, tmp_path: Path) -> None:
    """A list that makes each handshake slow is a warning with its size."""
    authority = Authority("busy")
    authority._revoked += range(10**20, 10**20 + 40_000)
    (tmp_path / "ca.pem").write_bytes(pem(authority.certificate))
    (tmp_path / "busy.crl").write_bytes(authority.crl())
    section = {"ca": str(tmp_path / "ca.pem"), "crl": str(tmp_path / "busy.crl")}
    status, said = check(make_daemon({"tls": {"client_certificates": section}}, start=False))
    assert status == 0 and re.search(r"the revocation list of CN=busy has 1\.\d MiB, and each login", said), said


def test_an_authority_needs_no_list_of_itself(pki: Pki, make_daemon: Make, tmp_path: Path) -> None:
    """A certificate that stands among the authorities is trusted, also beside lists, and lists may be in DER."""
    device = Authority("alice")
    (tmp_path / "ca.pem").write_bytes(pem(device.certificate) + pem(pki.root.certificate))
    crl = x509.load_pem_x509_crl(pki.root.crl())
    (tmp_path / "root.crl").write_bytes(crl.public_bytes(Encoding.DER))
    section = {"ca": str(tmp_path / "ca.pem"), "crl": str(tmp_path / "root.crl")}
    daemon = make_daemon({"tls": {"client_certificates": section}})
    for issued in (Issued(device.certificate, device.key), pki.alice):
        with connect(daemon, pki.context(issued)) as client:
            client.expect(232, "USER alice")


def test_the_commands_of_the_document(make_daemon: Make, tmp_path: Path) -> None:
    """docs/certificates.md: its commands create an authority, a certificate that logs in, and a list that revokes it."""
    text = (Path(__file__).parents[1] / "docs/certificates.md").read_text()
    section = text.partition("## Certificates of clients")[2].partition("\n## ")[0]
    create, give, revoke = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    shell = {"shell": True, "cwd": tmp_path, "check": True, "capture_output": True, "timeout": 60}
    subprocess.run(f"set -e; {create}{give}", **shell)
    users = {"scanner-7": {}}
    daemon = make_daemon({"tls": {"client_certificates": {"ca": str(tmp_path / "ca.pem")}}}, users)
    scan = tmp_path / "scan.pdf"
    scan.write_bytes(b"scan")
    line = next(each for each in re.findall(r"`(curl --ssl-reqd --cert [^`]+)`", section))
    url = f"ftp://127.0.0.1:{daemon.port}/"
    subprocess.run(f"{line.replace('ftp://ftp.example.org/', url)} -k -sS", **shell)
    assert (daemon.home("scanner-7") / "scan.pdf").read_bytes() == b"scan"
    subprocess.run(f"set -e; {revoke}", **shell)
    daemon.settings["tls"]["client_certificates"]["crl"] = str(tmp_path / "ca.crl")
    daemon.write()
    daemon.reload()
    done = subprocess.run(f"{line.replace('ftp://ftp.example.org/', url)} -k -sS", **{**shell, "check": False})
    assert done.returncode != 0 and b"revoked" in done.stderr


def test_a_source_that_fails(pki: Pki, certificate: Path, tmp_path: Path) -> None:
    """A user whose source fails gets 451 at USER, which counts as no failed login; others log in."""
    daemon = SourceDaemon(tmp_path, certificate, pki.settings())
    users = daemon.with_source()
    daemon.start()
    try:
        context = pki.context(pki.root.issue("carol"))
        with connect(daemon, context) as client:
            client.expect(232, "USER carol")
            client.expect(232, "USER CAROL")  # the source ignores case
        users.write("down")
        for _ in range(5):
            with connect(daemon, context) as client:
                client.expect(451, "USER carol")
                client.expect(503, "PASS secret")
        with connect(daemon, pki.context(pki.alice)) as client:
            client.expect(232, "USER alice")
    finally:
        daemon.stop()


def test_nobody_learns_that_an_account_is_closed(pki: Pki, certificate: Path, tmp_path: Path) -> None:
    """With `map: fingerprint`, a user whom the source refuses looks like an unknown name to other certificates."""
    daemon = SourceDaemon(tmp_path, certificate, pki.settings(map="fingerprint"))
    daemon.with_source(erin={"denied": "This account has expired."})
    daemon.start()
    try:
        replies = set()
        for name in ("erin", "nobody"):
            with connect(daemon, pki.context(pki.alice)) as client:
                replies.add((client.command(f"USER {name}"), client.command("PASS secret")[:3]))
        assert len(replies) == 1, replies
    finally:
        daemon.stop()


# --- hostile clients --------------------------------------------------------------------------------------


@VERSIONS
def test_huge_chains(pki: Pki, make_daemon: Make, version: ssl.TLSVersion, tmp_path: Path) -> None:
    """A chain of 100 kB or of many levels is refused at once, and other sessions do not notice."""
    daemon = make_daemon(pki.settings(mode="required"))
    authority = pki.root
    for number in range(12):
        authority = Authority(f"level {number}", authority)
    deep = authority.issue("alice")
    names = [x509.DNSName(f"{number}.{'a' * 60}.example") for number in range(3000)]
    huge = pki.root.issue("alice", *names)
    wide = Issued(pki.alice.certificate, pki.alice.key, (pki.second.certificate,) * 60)
    with connect(daemon, pki.context(pki.alice)) as other:
        other.expect(232, "USER alice")
        for issued, accepted in ((deep, False), (huge, False), (wide, True)):
            began = time.monotonic()
            try:
                with connect(daemon, pki.context(issued, version)) as client:
                    reply = client.command("USER alice")
            except (ssl.SSLError, ConnectionError, AssertionError):
                reply = ""
            assert reply.startswith("232") is accepted
            other.expect(200, "NOOP")
            assert time.monotonic() - began < 10
    assert "Traceback" not in daemon.log


@VERSIONS
def test_certificates_that_only_openssl_reads(
    pki: Pki, make_daemon: Make, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    """A certificate of an impossible version is refused like any other, with a line and without a traceback."""
    alone = Authority("alice")
    der = bytearray(alone.certificate.public_bytes(Encoding.DER))
    assert der[8:13] == b"\xa0\x03\x02\x01\x02"
    der[12] = 5
    path = tmp_path / "strange.pem"
    key = alone.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(ssl.DER_cert_to_PEM_cert(bytes(der)).encode() + key)
    daemon = make_daemon(pki.settings())
    context = tls_context(version)
    context.load_cert_chain(path)
    with pytest.raises((ssl.SSLError, ConnectionError)), connect(daemon, context) as client:
        client.socket.settimeout(20)
        client.send("NOOP")
        client.socket.recv(1)
    daemon.wait_for_log("TLS failed: the client certificate that cannot be read is refused: ")
    assert "Traceback" not in daemon.log
    with connect(daemon, pki.context(pki.alice, version)) as client:
        client.expect(232, "USER alice")


def test_strange_subjects(pki: Pki, make_daemon: Make) -> None:
    """A subject with line ends, escapes or nothing in it cannot forge a log line, nor log in as somebody."""
    daemon = make_daemon(pki.settings(), {"alice": {}})
    for name in ("alice\r\n2026-01-01 [ftpsd] forged", "\x1b[2Jalice", "\u202eecila", "CN=alice,alice", "x" * 64):
        with connect(daemon, pki.context(pki.root.issue(name))) as client:
            client.expect(331, "USER alice")
            client.login()
    with connect(daemon, pki.context(pki.root.issue(""))) as client:
        client.login()
    assert "\x1b" not in daemon.log
    assert not re.search(r"^2026-01-01 \[ftpsd\] forged", daemon.log, re.MULTILINE)
    assert "client certificate: without a subject, SHA-256" in daemon.log


@VERSIONS
def test_no_certificate_after_the_handshake(optional: Daemon, pki: Pki, version: ssl.TLSVersion) -> None:
    """A client cannot renegotiate to show another certificate, and REIN forgets the one of the session."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{optional.port}", "-starttls", "ftp", "-no_ign_eof"]
    chosen = "-tls1_2" if version == ssl.TLSVersion.TLSv1_2 else "-tls1_3"
    done = subprocess.run([*command, chosen], input="R\n", capture_output=True, text=True, timeout=60)
    assert re.search("no renegotiation|unexpected message|wrong ssl version", done.stdout + done.stderr, re.IGNORECASE)
    with connect(optional, pki.context(pki.alice, version)) as client:
        client.expect(232, "USER alice")
        client.expect(220, "REIN")
        assert isinstance(client.socket, ssl.SSLSocket)
        client.socket = client.socket.unwrap()
        client.expect(530, "USER alice")
        client.context = pki.context(None, version)
        client.start_tls()
        client.expect(331, "USER alice")


# --- real clients -------------------------------------------------------------------------------------


def curl(daemon: Daemon, *arguments: str) -> tuple[int, str]:
    """Return curl's exit status, and what it says."""
    command = ["curl", "-sSv", "--ssl-reqd", "--cacert", str(daemon.certificate), "--max-time", "60", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(optional: Daemon, pki: Pki, version: str, tmp_path: Path) -> None:
    """curl logs in with --cert, transfers both ways, and shows why another user is not let in."""
    (tmp_path / "file").write_bytes(b"from curl")
    url = f"ftp://localhost:{optional.port}"
    certificate = ["--cert", str(pki.file(pki.alice)), "--tls-max", version]
    status, said = curl(optional, *certificate, "-u", "alice:", "-T", str(tmp_path / "file"), f"{url}/curl")
    assert status == 0, said
    assert "< 232 " in said
    assert (optional.home() / "curl").read_bytes() == b"from curl"
    assert curl(optional, *certificate, "-u", "alice:", f"{url}/curl", "-o", str(tmp_path / "back"))[0] == 0
    assert (tmp_path / "back").read_bytes() == b"from curl"
    status, said = curl(optional, *certificate, "-u", "bob:wrong", f"{url}/")
    assert status == 67 and "< 530 Login incorrect." in said
    implicit = f"ftps://localhost:{optional.implicit_port}/curl"
    assert curl(optional, *certificate, "-u", "alice:", implicit, "-o", str(tmp_path / "implicit"))[0] == 0


def test_clients_show_the_reason(pki: Pki, make_daemon: Make) -> None:
    """curl and lftp show the sentence for a missing certificate, and an alert for one that is refused."""
    daemon = make_daemon(pki.settings(mode="required"))
    status, said = curl(daemon, "-u", "alice:secret", f"ftp://localhost:{daemon.port}/")
    assert status == 67 and "< 530 Client certificate required: choose one in your FTP program." in said
    assert "530 Client certificate required: choose one in your FTP program." in lftp(daemon, "ls")
    expired = str(pki.file(pki.root.issue("alice", valid=(-9, -1))))
    for version in ("1.2", "1.3"):
        status, said = curl(
            daemon, "--cert", expired, "--tls-max", version, "-u", "alice:", f"ftp://localhost:{daemon.port}/"
        )
        assert status in (35, 56, 60) and "certificate expired" in said, said
    stranger = pki.file(pki.stranger.issue("alice"))
    assert "530 Client certificate required" in lftp(daemon, "ls", stranger)  # GnuTLS sends only what the list has


def lftp(daemon: Daemon, commands: str, certificate: Path | None = None) -> str:
    """Run commands of lftp, with a certificate; return all that it says."""
    chosen = f"set ssl:cert-file {certificate}; set ssl:key-file {certificate};" if certificate else ""
    script = (
        f"set ssl:verify-certificate no; set ftp:ssl-force yes; set net:max-retries 1; set net:timeout 30; {chosen}"
        f"set cmd:fail-exit no; open -u alice,secret -p {daemon.port} 127.0.0.1; {commands}; exit"
    )
    done = subprocess.run(["lftp", "-c", script], capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.parametrize("login", ["certificate", "both"])
def test_lftp(pki: Pki, make_daemon: Make, login: str, tmp_path: Path) -> None:
    """lftp logs in with ssl:cert-file, also with one below an intermediate authority, and transfers both ways."""
    daemon = make_daemon(pki.settings(mode="required", login=login))
    (tmp_path / "file").write_bytes(b"from lftp")
    for issued in (pki.alice, pki.below.issue("alice")):
        said = lftp(daemon, f"put {tmp_path}/file -o lftp; cat lftp; rm lftp", pki.file(issued))
        assert "from lftp" in said, said
    assert not (daemon.home() / "lftp").exists()


@VERSIONS
def test_ftplib(optional: Daemon, pki: Pki, version: ssl.TLSVersion) -> None:
    """Python's ftplib takes 232 for a login."""
    context = pki.context(pki.alice, version)
    with ftplib.FTP_TLS(context=context, timeout=60) as client:
        client.connect(optional.host, optional.port)
        assert client.login("alice").startswith("232")
        assert client.pwd() == "/"


def test_one_time_passwords(pki: Pki, make_daemon: Make) -> None:
    """A user with `totp` needs a code beside the certificate: PASS brings it, alone or behind any password."""
    pyotp = pytest.importorskip("pyotp")
    secret = pyotp.random_base32()
    for mode in ("optional", "required"):
        daemon = make_daemon(pki.settings(mode=mode), {"alice": {"totp": secret}, "bob": {}})
        with connect(daemon, pki.context(pki.alice)) as client:
            client.expect(331, "USER alice")
            client.expect(530, "PASS secret")
            code = pyotp.TOTP(secret).now()
            client.expect(530, f"PASS {(int(code) + 1) % 1_000_000:06}")
            client.expect(331, "USER alice")
            client.expect(230, f"PASS {code}")
            client.expect(331, "USER alice")
            client.expect(530, f"PASS {code}")  # it was used
