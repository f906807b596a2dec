"""`ftpsd doctor --from`: each cause is made by a real device or server, and is told apart from all others."""

from __future__ import annotations

import datetime
import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ftpsd.checks import certificate as certificates
from tests import forkserver
from tests.daemon import Daemon, ftpsd
from tests.middlebox import Listener, middlebox, replier
from tests.pki import Authority, pem


def doctor(
    target: str, *arguments: str, password: str = "secret", timeout: str = "5", tries: str = "2"
) -> dict[str, Any]:
    """Run it as alice; its report, with the exit status."""
    options = ["--user", "alice", "--password-stdin", "--json", "--timeout", timeout, "--tries", tries]
    done = forkserver.run(["doctor", "--from", target, *options, *arguments], password + "\n")
    assert "Traceback" not in done.stderr and done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["status"] == done.returncode
    assert isinstance(report, dict)
    return report


def found(report: dict[str, Any]) -> dict[str, str]:
    """The codes of the findings with their problems, without notes."""
    return {each["code"]: each["problem"] for each in report["findings"] if each["level"] != "note"}


def authority_file(daemon: Daemon) -> tuple[str, str]:
    """The option that trusts the daemon's certificate."""
    return ("--cafile", str(daemon.certificate))


def through(device: Listener, daemon: Daemon) -> dict[str, Any]:
    """The report of a run through a device. A reply that is swallowed is waited for only briefly."""
    return doctor(f"127.0.0.1:{device.port}", *authority_file(daemon), timeout="3")


# --- nothing wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["explicit", "implicit"])
def test_a_good_server_has_no_finding(shared: Daemon, tls: str) -> None:
    """With a good server all checks pass, up to a rename, and no file is left behind."""
    before = sorted(shared.home().rglob("*"))
    port = shared.port if tls == "explicit" else shared.implicit_port
    report = doctor(f"127.0.0.1:{port}", *authority_file(shared), *(["--implicit"] if tls == "implicit" else []))
    assert found(report) == {}
    assert report["status"] == 0
    for check in ("upload", "rename", "download", "resumes the TLS session"):
        assert any(check in each for each in report["passed"]), report
    assert sorted(shared.home().rglob("*")) == before


def test_a_certificate_of_the_client(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """With `--cert` the doctor shows a certificate: it logs in without a password, and transfers with it.

    A certificate that the server refuses is a finding, with the reason of the server.
    """
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(pem(authority.certificate))
    section = {"ca": str(tmp_path / "ca.pem"), "mode": "required"}
    daemon = make_daemon({"tls": {"client_certificates": section}})
    own = authority.issue("alice").write(tmp_path / "alice.pem")
    target, trust = f"127.0.0.1:{daemon.port}", authority_file(daemon)
    report = doctor(target, *trust, "--cert", str(own), password="")
    assert found(report) == {}, report
    assert any("login as alice" in each for each in report["passed"])
    assert any("upload" in each for each in report["passed"])
    assert "Client certificate required" in found(doctor(target, *trust))["login.refused"]
    other = Authority("another one").issue("alice").write(tmp_path / "other.pem")
    assert "tls.client_certificate" in found(doctor(target, *trust, "--cert", str(other)))
    expired = authority.issue("alice", valid=(-9, -1)).write(tmp_path / "expired.pem")
    assert "expired" in found(doctor(target, *trust, "--cert", str(expired)))["tls.client_certificate"].lower()


def test_a_certificate_that_is_not_enough(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """If the server wants a password too, and there is none, the doctor says so. It sends no empty one."""
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(pem(authority.certificate))
    daemon = make_daemon({"tls": {"client_certificates": {"ca": str(tmp_path / "ca.pem"), "login": "both"}}})
    own = authority.issue("alice").write(tmp_path / "alice.pem")
    target, options = f"127.0.0.1:{daemon.port}", [*authority_file(daemon), "--cert", str(own)]
    report = doctor(target, *options, password="")
    assert "asks alice for a password" in found(report)["login.password_needed"]
    assert report["status"] == 1
    assert "login failed for alice" not in daemon.log
    assert found(doctor(target, *options)) == {}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cert", "missing.pem"], "No such file"),
        (["--cert", __file__], "no certificate with its key can be read"),
        (["--key", "key.pem"], "name that with --cert"),
    ],
)
def test_certificates_that_cannot_be_used(options: list[str], told: str) -> None:
    """A certificate that cannot be read is a usage error, which names the file."""
    done = forkserver.run(["doctor", "--from", "127.0.0.1", "--user", "alice", *options], "")
    assert done.returncode == 2 and told in done.stderr


def test_required_resumption_is_a_note(shared: Daemon) -> None:
    """A server that requires resumption is said to do so, and this is no fault."""
    notes = {each["code"] for each in doctor(f"127.0.0.1:{shared.port}", *authority_file(shared))["findings"]}
    assert notes == {"resumption.required"}


def test_text_has_cure_and_paste(shared: Daemon) -> None:
    """For people, each finding has its cure and the line to paste."""
    line = ftpsd("doctor", "--from", f"127.0.0.1:{shared.port}", "--user", "alice", "--password-stdin")
    done = subprocess.run(line, input="secret\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    for part in ("warning  The certificate is signed by itself", "cure     ", "openssl x509 -noout -fingerprint"):
        assert part in done.stdout


# --- the control connection ----------------------------------------------------------------------


def test_port_closed() -> None:
    """A closed port is unreachable, exit status 3."""
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    report = doctor(f"127.0.0.1:{port}")
    assert (list(found(report)), report["status"]) == (["control.closed"], 3)


def test_name_without_address() -> None:
    """A name that the DNS does not know is unreachable, exit status 3."""
    report = doctor("no-such-host.invalid")
    assert (list(found(report)), report["status"]) == (["dns.failed"], 3)


@pytest.mark.parametrize(
    ("greeting", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "control.not_ftp"),
        (b"421 Too many sessions.\r\n", "control.refused"),
        (b"", "control.silent"),
        (b"220 drip", "control.silent"),
    ],
)
def test_strange_greetings(greeting: bytes, code: str) -> None:
    """Another service, a ban and a server without a word are told apart."""
    with replier(greeting) as server:
        assert list(found(doctor(f"127.0.0.1:{server.port}", timeout="1.5"))) == [code]


def test_cut_before_the_greeting() -> None:
    """A connection that is closed before the greeting is a finding of its own."""
    with Listener(lambda connection: None) as server:
        assert list(found(doctor(f"127.0.0.1:{server.port}"))) == ["control.cut"]


def test_explicit_client_at_an_implicit_port(shared: Daemon) -> None:
    """Explicit TLS at an implicit port: the cure is --implicit."""
    report = doctor(f"127.0.0.1:{shared.implicit_port}", timeout="3")
    assert list(found(report)) == ["control.implicit"]
    assert "--implicit" in report["findings"][0]["paste"]


def test_implicit_client_at_an_explicit_port(shared: Daemon) -> None:
    """Implicit TLS at an explicit port says that the port is not implicit."""
    assert list(found(doctor(f"127.0.0.1:{shared.port}", "--implicit"))) == ["tls.not_tls"]


def test_server_without_tls() -> None:
    """A server that neither lists nor knows AUTH has no TLS."""
    with replier(b"220 hello\r\n", b"211-Features:\r\n SIZE\r\n211 End\r\n", b"500 Unknown command.\r\n") as server:
        assert list(found(doctor(f"127.0.0.1:{server.port}"))) == ["tls.not_offered"]


def test_login_refused(shared: Daemon) -> None:
    """A wrong password is a refused login, with the server's words."""
    report = doctor(f"127.0.0.1:{shared.port}", *authority_file(shared), password="wrong")
    assert list(found(report)) == ["login.refused"]
    assert "530" in found(report)["login.refused"]


# --- middleboxes ---------------------------------------------------------------------------------


def auth_unknown(line: bytes) -> bytes:
    """Make AUTH unknown, as firewalls do that forbid what they cannot read."""
    return b"XXXX" + line[4:] if line.startswith(b"AUTH") else line


def swallow_auth(line: bytes) -> bytes | None:
    """Let AUTH vanish."""
    return None if line.startswith(b"AUTH") else line


def cut_at_auth(line: bytes) -> bytes:
    """Cut the connection at AUTH."""
    if line.startswith(b"AUTH"):
        raise EOFError
    return line


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (auth_unknown, "FEAT lists AUTH TLS"),
        (swallow_auth, "AUTH was never answered"),
        (cut_at_auth, "the connection was cut after AUTH"),
    ],
)
def test_middlebox_against_auth(shared: Daemon, change: Any, evidence: str) -> None:
    """A device that refuses, swallows or cuts AUTH is named as such, with the evidence."""
    with middlebox(shared.port, commands=change) as device:
        report = through(device, shared)
    assert list(found(report)) == ["middlebox"]
    assert evidence in found(report)["middlebox"]


def test_middlebox_masks_the_greeting(shared: Daemon) -> None:
    """A masked greeting is evidence of a device, and the other checks continue."""
    with middlebox(shared.port, replies=lambda line: line.replace(b"ftpsd ready.", b"************")) as device:
        report = through(device, shared)
    assert "masked" in found(report)["middlebox"]
    assert any("upload" in each for each in report["passed"])


def test_no_tls_after_234() -> None:
    """234 and then something else than TLS is a device that cannot read TLS."""
    features = b"211-Features:\r\n AUTH TLS\r\n211 End\r\n"
    with replier(b"220 hello\r\n", features, b"234 Go on.\r\n", b"500 What is this?\r\n") as server:
        assert "not TLS" in found(doctor(f"127.0.0.1:{server.port}"))["middlebox"]


def test_silence_after_234() -> None:
    """A handshake without an answer has a deadline, and is a device that inspects TLS."""
    features = b"211-Features:\r\n AUTH TLS\r\n211 End\r\n"
    with replier(b"220 hello\r\n", features, b"234 Go on.\r\n") as server:
        assert "no answer" in found(doctor(f"127.0.0.1:{server.port}", timeout="2"))["middlebox"]


def test_227_rewritten_beside_229(shared: Daemon, certificate: Path) -> None:
    """Ports in 227 far from those in 229 are evidence of a device that rewrites replies."""

    def rewrite(line: bytes) -> bytes:
        return b"227 Entering Passive Mode (127,0,0,1,250,1)\r\n" if line.startswith(b"227") else line

    with middlebox(shared.port, replies=rewrite, certificate=certificate) as device:
        report = through(device, shared)
    assert "the 227 replies are rewritten" in found(report)["middlebox"]


def test_epsv_refused_though_listed(shared: Daemon, certificate: Path) -> None:
    """EPSV refused while FEAT lists it is evidence of a device."""
    refuse = {b"EPSV": b"XXXX\r\n"}
    with middlebox(shared.port, commands=lambda line: refuse.get(line[:4], line), certificate=certificate) as device:
        report = through(device, shared)
    assert "FEAT lists EPSV" in found(report)["middlebox"]


# --- certificates --------------------------------------------------------------------------------


def write_certificate(directory: Path, subject: str, issuer: str, days: tuple[int, int] = (-1, 30)) -> None:
    """Write certificate.pem, issued by an authority that nobody knows if `issuer` differs, and key.pem."""
    own, signer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name, other = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (subject, issuer))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(other)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        .sign(own if subject == issuer else signer, hashes.SHA256())
    )
    (directory / "certificate.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize(
    ("subject", "issuer", "days", "trusted", "code"),
    [
        ("localhost", "FortiGate CA", (-1, 30), False, "tls.intercepted"),
        ("localhost", "Some Intermediate", (-1, 30), False, "tls.chain"),
        ("localhost", "localhost", (-1, 30), False, "tls.self_signed"),
        ("localhost", "localhost", (-9, -2), True, "tls.expired"),
        ("localhost", "localhost", (2, 9), True, "tls.not_yet_valid"),
        ("ftp.example.com", "ftp.example.com", (-1, 30), True, "tls.wrong_name"),
    ],
)
def test_refused_certificates(
    shared: Daemon, tmp_path: Path, subject: str, issuer: str, days: tuple[int, int], trusted: bool, code: str
) -> None:
    """Each reason to refuse a certificate has a finding of its own, and the password is not sent."""
    write_certificate(tmp_path, subject, issuer, days)
    options = ["--cafile", str(tmp_path / "certificate.pem")] if trusted else []
    seen: list[bytes] = []

    def watch(line: bytes) -> bytes:
        seen.append(line)
        return line

    with middlebox(shared.port, commands=watch, certificate=tmp_path) as device:
        report = doctor(f"localhost:{device.port}", *options)
    assert list(found(report)) == [code]
    assert report["findings"][-1]["code"] == "tls.password_withheld"
    assert not any(line.startswith((b"USER", b"PASS")) for line in seen)


def test_the_issuer_is_shown(shared: Daemon, tmp_path: Path) -> None:
    """An unknown issuer and the fingerprint are shown, so that they can be compared on the server."""
    write_certificate(tmp_path, "localhost", "Some Intermediate")
    with middlebox(shared.port, certificate=tmp_path) as device:
        problem = found(doctor(f"localhost:{device.port}"))["tls.chain"]
    leaf = x509.load_pem_x509_certificate((tmp_path / "certificate.pem").read_bytes())
    assert "CN=Some Intermediate" in problem and certificates.fingerprint(leaf) in problem


def test_fingerprint_finds_interception(shared: Daemon, tmp_path: Path) -> None:
    """With the server's fingerprint, another certificate is certain interception; the right one is trusted."""
    leaf = certificates.fingerprint(x509.load_pem_x509_certificate(shared.certificate.read_bytes()))
    written = "SHA256:" + leaf.replace(":", "").lower()
    write_certificate(tmp_path, "localhost", "localhost")
    with middlebox(shared.port, certificate=tmp_path) as device:
        assert list(found(doctor(f"127.0.0.1:{device.port}", "--fingerprint", written))) == ["tls.intercepted"]
    assert found(doctor(f"127.0.0.1:{shared.port}", "--fingerprint", written)) == {}


def test_session_lost_in_interception(shared: Daemon, tmp_path: Path) -> None:
    """Where a device ends TLS on the control connection only, the session is lost on the data connection."""
    write_certificate(tmp_path, "localhost", "localhost")
    with middlebox(shared.port, certificate=tmp_path) as device:
        report = doctor(f"localhost:{device.port}", "--cafile", str(tmp_path / "certificate.pem"), "--insecure")
    assert "resumption.lost" in found(report)


def test_session_lost_but_not_required(make_daemon: Any, tmp_path: Path) -> None:
    """The loss is reported where transfers work without the session, too: other servers require it."""
    daemon = make_daemon({"tls": {"data_session": "allow"}})
    write_certificate(tmp_path, "localhost", "localhost")
    with middlebox(daemon.port, certificate=tmp_path) as device:
        report = doctor(f"localhost:{device.port}", "--insecure")
    assert {"resumption.lost", "tls.intercepted"} <= set(found(report))
    assert "another certificate" in found(report)["tls.intercepted"]


# --- transfers -----------------------------------------------------------------------------------


def test_a_reader_is_told_that_uploads_are_not_permitted(make_daemon: Any) -> None:
    """An account that may not upload has a note, and no fault."""
    daemon = make_daemon(users={"alice": {"permissions": "read-only"}})
    report = doctor(f"127.0.0.1:{daemon.port}", *authority_file(daemon))
    assert report["status"] == 0
    assert "transfer.not_permitted" in {each["code"] for each in report["findings"]}


# --- usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "a:b:c"],
        ["--from", "host:70000"],
        ["--from", "host", "--timeout", "0"],
        ["--from", "host", "--tries", "x"],
        ["--from", ""],
        ["--from", "host", "--cafile", "/does/not/exist"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    """A line that makes no sense is a usage error, exit status 2."""
    done = forkserver.run(["doctor", *arguments, "--user", "alice", "--password-stdin"], "secret\n")
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr


def test_help_has_an_example() -> None:
    """--help has an example and the exit statuses."""
    done = subprocess.run(ftpsd("doctor", "--help"), capture_output=True, text=True, timeout=60)
    assert "example" in done.stdout and "exit status" in done.stdout and done.returncode == 0
