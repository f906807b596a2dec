"""Several certificates of the server: chosen by SNI, HOST or address, for control and data connections."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.daemon import Daemon, ftpsd
from tests.ftpclient import FtpClient, read_all, tls_context
from tests.pki import Authority, Issued, pem

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


class Pki:
    """An authority with an intermediate one for each kind of key, and certificates below them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = Authority("root")
        below = {kind: Authority(f"intermediate {kind}", self.root) for kind in ("ec", "rsa")}
        self.first = below["ec"].server("first.example")
        self.second = below["ec"].server("second.example", "*.wild.example")
        self.second_rsa = below["rsa"].server("second.example", kind="rsa")
        self.exact = below["ec"].server("exact.wild.example")
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(pem(self.root.certificate))

    def settings(self) -> dict[str, Any]:
        """Return the section `tls`."""
        first, *others = (self.file(name) for name in ("first", "second", "second_rsa", "exact"))
        return {"certificate": first, "private_key": None, "certificates": [{"certificate": each} for each in others]}

    def file(self, name: str) -> str:
        """Write the certificate of that name with its chain and key; return the path."""
        issued: Issued = getattr(self, name)
        return str(issued.write(self.directory / f"{name}.pem"))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The certificates."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, pki: Pki, certificate: Path) -> Iterator[Daemon]:
    """A daemon with all of them."""
    socket_path = {"admin": {"socket": "admin.sock"}}
    daemon = Daemon(tmp_path_factory.mktemp("several"), certificate, {"tls": pki.settings(), **socket_path}).start()
    yield daemon
    daemon.stop()


def shown(client: FtpClient) -> x509.Certificate:
    """Return the certificate that the server has shown."""
    assert isinstance(client.socket, ssl.SSLSocket)
    encoded = client.socket.getpeercert(binary_form=True)
    assert encoded is not None
    return x509.load_der_x509_certificate(encoded)


def connect(daemon: Daemon, name: str | None, context: ssl.SSLContext | None = None, host: str = "") -> FtpClient:
    """Return a client after AUTH TLS with that SNI, and with HOST before it."""
    client = FtpClient(daemon, name=name, context=context)
    if host:
        client.expect(220, f"HOST {host}")
    client.start_tls()
    return client


@VERSIONS
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("first.example", "first"),
        ("second.example", "second"),
        ("SECOND.Example", "second"),
        ("a.wild.example", "second"),
        ("exact.wild.example", "exact"),
        ("a.b.wild.example", "first"),
        ("wild.example", "first"),
        ("unknown.example", "first"),
        (None, "first"),
    ],
)
def test_sni_chooses(daemon: Daemon, pki: Pki, name: str | None, wanted: str, version: ssl.TLSVersion) -> None:
    """The certificate that has the name is shown, an exact name before a wildcard; else the first one."""
    with connect(daemon, name, tls_context(version)) as client:
        assert shown(client) == getattr(pki, wanted).certificate


@VERSIONS
@pytest.mark.parametrize("name", ["first.example", "second.example", "exact.wild.example"])
@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
def test_data_connections_resume(daemon: Daemon, name: str, version: ssl.TLSVersion, implicit: bool) -> None:
    """Whatever certificate a session has, its data connections resume, with its SNI or without one."""
    with FtpClient(daemon, implicit, name=name, context=tls_context(version)) as client:
        if not implicit:
            client.start_tls()
        client.login()
        (daemon.home() / "file").write_bytes(b"content")
        for data_name in (name, None, "first.example"):
            connection = client.connect_data()
            client.expect(150, "RETR file")
            assert isinstance(client.socket, ssl.SSLSocket)
            data = client.context.wrap_socket(connection, server_hostname=data_name, session=client.socket.session)
            assert data.session_reused, data_name
            assert read_all(data) == b"content"
            data.unwrap().close()
            assert client.reply().startswith("226")


def openssl(daemon: Daemon, *options: str) -> str:
    """Return what `openssl s_client` says of a session that sends QUIT."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{daemon.port}", "-starttls", "ftp", *options]
    return subprocess.run(command, input="QUIT\r\n", capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_rsa_and_ecdsa_for_one_name(daemon: Daemon, pki: Pki, version: str) -> None:
    """Of two certificates with one name, a client is shown the one whose key it supports, and can verify it."""
    verify = ("-CAfile", str(pki.ca), "-verify_return_error", "-verify_hostname", "second.example", version)
    for algorithms, wanted in (("ECDSA+SHA256", "id-ecPublicKey"), ("RSA-PSS+SHA256", "rsaEncryption")):
        said = openssl(daemon, "-servername", "second.example", "-sigalgs", algorithms, *verify)
        assert f"PKEY: {wanted}" in said or f"a:PKEY: {wanted}" in said, said
        assert "Verify return code: 0 (ok)" in said
    assert "Verify return code: 0 (ok)" in openssl(daemon, "-servername", "second.example", *verify)


def test_host_before_auth_chooses(daemon: Daemon, pki: Pki) -> None:
    """HOST before AUTH chooses the certificate for a client without SNI (RFC 7151). A name in the handshake wins."""
    with connect(daemon, None, host="second.example") as client:
        assert shown(client) == pki.second.certificate
        client.expect(220, "HOST another.example")  # all hosts are served
        client.login()
        assert client.upload("STOR file", b"content").startswith("226")
    with connect(daemon, "exact.wild.example", host="second.example") as client:
        assert shown(client) == pki.exact.certificate
        client.expect(504, "HOST second.example")
        client.expect(220, "HOST exact.wild.example")
    with connect(daemon, None, host="[::ffff:127.0.0.1]" if ":" in daemon.host else "127.0.0.1") as client:
        assert shown(client) == pki.first.certificate


def test_rein_forgets_the_host(daemon: Daemon, pki: Pki) -> None:
    """After REIN the host that HOST has named counts no longer."""
    with FtpClient(daemon, name=None) as client:
        client.expect(220, "HOST second.example")
        client.expect(220, "REIN")
        client.start_tls()
        assert shown(client) == pki.first.certificate


@pytest.mark.parametrize("name", ["second.example", "exact.wild.example"])
def test_curl_verifies_each_name(daemon: Daemon, pki: Pki, name: str, tmp_path: Path) -> None:
    """curl verifies the certificate of each name, on the control connection and on the data connection."""
    (tmp_path / "file").write_bytes(b"content")
    options = [
        "--ssl-reqd",
        "--cacert",
        str(pki.ca),
        "--resolve",
        f"{name}:{daemon.port}:127.0.0.1",
        "-u",
        "alice:secret",
    ]
    url = f"ftp://{name}:{daemon.port}/{name}"
    subprocess.run(["curl", "-sS", *options, "-T", str(tmp_path / "file"), url], check=True, timeout=60)
    found = subprocess.run(["curl", "-sS", *options, url], check=True, timeout=60, capture_output=True)
    assert found.stdout == b"content"


def test_full_handshakes_of_data_connections(pki: Pki, make_daemon: Callable[..., Daemon]) -> None:
    """With data_session: off, data connections show the certificate of the control connection."""
    daemon = make_daemon({"tls": {**pki.settings(), "data_session": "off"}})
    (daemon.home() / "file").write_bytes(b"content")
    with connect(daemon, "second.example") as client:
        client.login()
        connection = client.connect_data()
        client.expect(150, "RETR file")
        with client.secure_data(connection, resume=False) as data:
            encoded = data.getpeercert(binary_form=True)
            assert encoded is not None and x509.load_der_x509_certificate(encoded) == pki.second.certificate
            assert read_all(data) == b"content"
        assert client.reply().startswith("226")


def test_addresses_choose(pki: Pki, make_daemon: Callable[..., Daemon]) -> None:
    """`addresses` chooses the certificate for clients that reach them without SNI, behind any listener."""
    tls = pki.settings()
    tls["certificates"][2]["addresses"] = ["127.0.0.3", "127.9.0.0/16"]
    daemon = make_daemon({"tls": tls}, start=False)
    for listener in daemon.settings["listen"]:
        listener["address"] = "::"
    daemon.write()
    daemon.start()
    for address, name, wanted in (
        ("127.0.0.1", None, "first"),
        ("127.0.0.3", None, "exact"),
        ("127.9.8.7", None, "exact"),
        ("127.0.0.3", "unknown.example", "exact"),
        ("127.0.0.3", "second.example", "second"),
    ):
        daemon.host = address
        with connect(daemon, name) as client:
            assert shown(client) == getattr(pki, wanted).certificate, (address, name)


def test_reload_takes_new_certificates(pki: Pki, make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A reload takes new files and entries for new sessions. Running sessions keep their certificate."""
    tls = pki.settings()
    path = Path(shutil.copy(tls["certificates"][0]["certificate"], tmp_path / "copy.pem"))
    tls["certificates"][0]["certificate"] = str(path)
    daemon = make_daemon({"tls": tls})
    with connect(daemon, "second.example").login() as running:
        renewed = pki.root.server("second.example")
        renewed.write(path)
        daemon.reload()
        with connect(daemon, "second.example") as client:
            assert shown(client) == renewed.certificate
        del daemon.settings["tls"]["certificates"][0:2]
        daemon.write()
        daemon.reload()
        with connect(daemon, "second.example") as client:
            assert shown(client) == pki.first.certificate
        assert running.upload("STOR file", b"content").startswith("226")


def check(daemon: Daemon) -> tuple[int, str]:
    """Return the status of `ftpsd check` and what it prints."""
    done = subprocess.run(ftpsd("check", "-c", str(daemon.config)), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_faults_name_the_entry(pki: Pki, make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A fault names the entry of the list: missing files, keys of another certificate, modes, unknown keys."""
    tls = pki.settings()
    readable = Path(shutil.copy(tls["certificate"], tmp_path / "readable.pem"))
    readable.chmod(0o644)
    entries: list[dict[str, Any]] = [
        {"certificate": "missing.pem"},
        {"certificate": tls["certificate"], "private_key": pki.file("second")},
        {"certificate": str(readable)},
        {"certificate": tls["certificate"], "addresses": ["everywhere"]},
        {"private_key": tls["certificate"]},
        {"certificate": tls["certificate"], "listen": ["127.0.0.1"]},
    ]
    faults = (
        "certificate: missing.pem cannot be read",
        "private_key: the key in",
        "certificate: everyone on this machine",
    )
    daemon = make_daemon({"tls": {**tls, "certificates": entries[:3]}}, start=False)
    status, said = check(daemon)
    assert status == 1
    for index, fault in enumerate(faults):
        assert re.search(
            rf"ftpsd.yaml:\d+: tls.certificates\[{index}\].{fault}", said.replace(f"{daemon.directory}/", "")
        ), said
    daemon.settings["tls"]["certificates"] = entries[3:]
    daemon.write()
    status, said = check(daemon)
    assert status == 1
    for fault in ("[0].addresses[0]: “everywhere” is not", "[1].certificate: is missing", "[2].listen: unknown key"):
        assert f"tls.certificates{fault}" in said


def test_warnings_for_each_certificate(pki: Pki, make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """`ftpsd check` warns of each certificate that expires soon, and of one that no client is ever shown."""
    soon = pki.root.server("soon.example", valid=(-1, 3)).write(tmp_path / "soon.pem")
    same = pki.root.server("first.example").write(tmp_path / "same.pem")
    tls = pki.settings()
    tls["certificates"] += [{"certificate": str(soon)}, {"certificate": str(same)}]
    status, said = check(make_daemon({"tls": tls}, start=False))
    assert status == 0
    assert f"the certificate {soon} expires in 2 days" in said
    assert f"no client is shown the certificate {same}" in said
    assert said.count("no client is shown") == said.count("expires in") == 1


def test_administration_shows_each_certificate(daemon: Daemon, pki: Pki) -> None:
    """`ftpsd status` has a line for each certificate."""
    run = ["-c", str(daemon.config)]
    shown = subprocess.run(ftpsd("status", "--json", *run), capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(shown.stdout)
    assert [os.path.basename(each["file"]) for each in found["certificates"]] == [
        "first.pem",
        "second.pem",
        "second_rsa.pem",
        "exact.pem",
    ]
    assert found["certificate"] in found["certificates"]
    lines = subprocess.run(ftpsd("status", *run), capture_output=True, text=True, timeout=60, check=True).stdout
    assert len(re.findall(r"\.pem, expires on ", lines)) == 4
