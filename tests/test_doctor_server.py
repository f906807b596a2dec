"""`ftpsd doctor -c`: real files that are broken, real firewalls and ports, and the pure checks as tables."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
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
from ftpsd.checks import host, network
from ftpsd.checks.files import read_chain
from ftpsd.checks.findings import Finding
from ftpsd.cli.doctor import firewall
from tests import forkserver
from tests.daemon import Daemon, ftpsd
from tests.namespaces import apart
from tests.source_daemon import SourceDaemon
from tests.test_doctor_client import found


def doctor(daemon: Daemon, *arguments: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """The report about a daemon's configuration."""
    words = ["doctor", "-c", str(daemon.config), "--json", "--timeout", "5", "--tries", "2", *arguments]
    if prefix:
        command = [*prefix, *ftpsd(*words)]
        done = subprocess.run(command, input="secret\n", capture_output=True, text=True, timeout=120)
    else:
        done = forkserver.run(words, "secret\n")
    assert "Traceback" not in done.stderr and done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert isinstance(report, dict) and report["status"] == done.returncode
    return report


def codes(findings: list[Finding]) -> list[str]:
    """The codes of findings."""
    return [finding.code for finding in findings]


# --- the whole -----------------------------------------------------------------------------------


def test_login_through_each_listener(shared: Daemon) -> None:
    """With a name and a password, both listeners are used for a login, an upload and a download."""
    report = doctor(shared, "--user", "alice", "--password-stdin")
    for port in (shared.port, shared.implicit_port):
        for check in ("upload", "download"):
            assert any(f":{port}: a" in each and check in each for each in report["passed"]), report


def test_hairpin_is_inconclusive(make_daemon: Callable[..., Daemon]) -> None:
    """An announced address that does not work from the server itself proves nothing: a note, which says so."""
    daemon = make_daemon({"passive": {"address": "203.0.113.9"}})
    report = doctor(daemon, "--user", "alice", "--password-stdin", "--timeout", "1")
    (note,) = (each for each in report["findings"] if each["code"] == "hairpin.inconclusive")
    assert note["level"] == "note" and "inconclusive" in note["problem"]
    assert "address.useless" not in found(report)


def test_one_wrong_password_is_one_failed_login(make_daemon: Callable[..., Daemon]) -> None:
    """After a refused login no other listener is asked: the doctor must not get the administrator banned."""
    daemon = make_daemon()
    assert "login.refused" in found(doctor(daemon, "--user", "nobody", "--password-stdin"))
    assert daemon.log.count("login failed") == 1


def test_daemon_that_does_not_run(make_daemon: Callable[..., Daemon]) -> None:
    """Control ports on which nothing listens are named."""
    daemon = make_daemon(start=False)
    problem = found(doctor(daemon))["listen.nothing"]
    assert str(daemon.port) in problem and str(daemon.implicit_port) in problem


def test_one_listener_is_closed(make_daemon: Callable[..., Daemon]) -> None:
    """Where only one of two listeners can be reached, the status is that of a finding; 3 stands for none of them."""
    daemon = make_daemon()
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(f"port: {daemon.implicit_port}", f"port: {daemon.passive[1] + 1}"))
    report = doctor(daemon, "--user", "alice", "--password-stdin")
    assert report["status"] == 1 and "control.closed" in found(report), report
    daemon.stop()
    assert doctor(daemon, "--user", "alice", "--password-stdin")["status"] == 3


def test_exceptions_of_networks(make_daemon: Callable[..., Daemon]) -> None:
    """An entry of `passive.networks` to whose clients no route leads is named, and one with another machine's address."""
    networks = [
        {"clients": ["198.51.100.0/24"], "address": "203.0.113.9"},
        {"clients": ["127.0.0.0/8"], "address": None},
    ]
    daemon = make_daemon({"passive": {"networks": networks}}, start=False)
    report = doctor(daemon, prefix=(*apart(), "sh", "-c", 'exec "$@"', "sh"))
    assert "198.51.100.0/24" in found(report)["address.no_route"]
    (note,) = (each for each in report["findings"] if each["code"] == "address.elsewhere")
    assert "passive.networks[0]" in note["problem"]


def test_another_program_in_the_passive_range(make_daemon: Callable[..., Daemon]) -> None:
    """A program of another user on a passive port is named, with the line that shows it."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user, too")
    daemon = make_daemon(start=False)
    port = daemon.passive[0] + 3
    os.seteuid(65534)
    try:
        listening = socket.create_server(("127.0.0.1", port))
    finally:
        os.seteuid(0)
    with listening:
        assert str(port) in found(doctor(daemon))["ports.other_listener"]


def test_broken_files(make_daemon: Callable[..., Daemon]) -> None:
    """A configuration with a fault is a finding with its remedy, and the other checks continue."""
    daemon = make_daemon({"passive": {"refresh": 0}}, start=False)
    report = doctor(daemon)
    assert "refresh" in found(report)["configuration.fault"]
    assert any(each.startswith("the certificate") for each in report["passed"])
    daemon.config.write_text("{")
    assert "configuration.fault" in found(doctor(daemon))


def test_missing_configuration(make_daemon: Callable[..., Daemon]) -> None:
    """No configuration at all is a finding, too."""
    daemon = make_daemon(start=False)
    daemon.config.unlink()
    assert doctor(daemon)["status"] == 1


# --- the firewall --------------------------------------------------------------------------------

RULES = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
        %s
    }
}
"""


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("tcp dport {{ {control}, {implicit}, {low}-{high} }} accept", set()),
        ("tcp dport {{ {control}, {implicit} }} accept", {"firewall.passive_port"}),
        ("tcp dport {low}-{high} accept", {"firewall.control_port"}),
        ("tcp dport {{ {control}, {implicit}, {low}-{middle} }} counter accept", {"firewall.passive_port"}),
        ("ip saddr 192.0.2.0/24 accept", {"firewall.control_port", "firewall.passive_port"}),
    ],
)
def test_nftables(make_daemon: Callable[..., Daemon], tmp_path: Path, rule: str, expected: set[str]) -> None:
    """Real rules of nft are read: ports that they do not open are named. A rule that cannot be judged is no fault."""
    if shutil.which("nft") is None:
        pytest.skip("not installed: nft")
    daemon = make_daemon(start=False)
    low, high = daemon.passive
    ports = {"control": daemon.port, "implicit": daemon.implicit_port, "low": low, "high": high}
    (tmp_path / "rules").write_text(RULES % rule.format(**ports, middle=(low + high) // 2))
    script = f'nft -f {tmp_path / "rules"} || exit 77; exec "$@"'
    probe = subprocess.run([*apart(), "sh", "-c", script, "sh", "true"], capture_output=True, text=True, timeout=20)
    if probe.returncode:
        pytest.skip(f"no rules can be made here: {probe.stderr.strip()}")
    report = doctor(daemon, prefix=(*apart(), "sh", "-c", script, "sh"))
    firewalls = {code for code in found(report) if code.startswith("firewall.")}
    if "saddr" in rule:
        assert firewalls == set()
        assert "firewall.unsure" in {each["code"] for each in report["findings"]}
    else:
        assert firewalls == expected, report


UFW = """Status: active

To                         Action      From
--                         ------      ----
21,990/tcp                 ALLOW       Anywhere
50000:50999/tcp            ALLOW       Anywhere
22/tcp                     ALLOW       192.0.2.0/24
"""


@pytest.mark.parametrize(
    ("text", "port", "verdict"),
    [
        (UFW, 21, "accept"),
        (UFW, 990, "accept"),
        (UFW, 50500, "accept"),
        (UFW, 51000, "drop"),
        (UFW, 22, "drop"),
        (UFW + "ftpsd                      ALLOW       Anywhere\n", 51000, "unsure"),
        ("Status: inactive\n", 51000, "accept"),
    ],
)
def test_ufw(text: str, port: int, verdict: str) -> None:
    """The output of `ufw status` says which ports are open."""
    assert firewall.ufw(text, [port]) == {port: verdict}


# --- certificates --------------------------------------------------------------------------------


def issue(subject: str, signer: tuple[str, Any] | None = None, days: tuple[int, int] = (-1, 90)) -> tuple[bytes, Any]:
    """A certificate in PEM and its key; `signer` is the issuer's name and key, None for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer, signing = signer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1], hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        .sign(signing, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM), key


@pytest.mark.parametrize("case", ["good", "chain", "order", "swapped", "key", "expired", "soon", "not yet", "name"])
def test_certificate_files(make_daemon: Callable[..., Daemon], tmp_path: Path, case: str) -> None:
    """Each way in which a certificate file is wrong has a finding of its own."""
    root, root_key = issue("root")
    middle, middle_key = issue("intermediate", ("root", root_key))
    days = {"expired": (-9, -2), "soon": (-9, 5), "not yet": (2, 9)}.get(case, (-1, 90))
    leaf, key = issue("other" if case == "name" else "localhost", ("intermediate", middle_key), days)
    chain = {"chain": [leaf], "order": [leaf, root, middle], "swapped": [middle, leaf, root]}.get(
        case, [leaf, middle, root]
    )
    if case == "key":
        key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "pem").mkdir()
    (tmp_path / "pem/certificate.pem").write_bytes(b"".join(chain))
    (tmp_path / "pem/key.pem").touch(0o600)
    (tmp_path / "pem/key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tls = {"certificate": str(tmp_path / "pem/certificate.pem"), "private_key": str(tmp_path / "pem/key.pem")}
    daemon = make_daemon({"tls": tls, "passive": {"address": "localhost"}}, start=False)
    expected = {
        "good": set(),
        "chain": {"certificate.chain"},
        "order": {"certificate.order"},
        "swapped": {"certificate.order"},
        "key": {"certificate.key"},
        "expired": {"tls.expired"},
        "soon": {"tls.expires_soon"},
        "not yet": {"tls.not_yet_valid"},
        "name": {"tls.wrong_name"},
    }[case]
    assert {code for code in found(doctor(daemon)) if code.startswith(("tls.", "certificate."))} == expected


def test_wildcards() -> None:
    """`*` stands for one label."""
    leaf = x509.load_pem_x509_certificate(issue("*.example.com")[0])
    names = ("ftp.example.com", "a.b.example.com", "example.com")
    assert [certificates.is_for(leaf, name) for name in names] == [True, False, False]


# --- tables of pure checks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "own", "routed", "expected"),
    [
        (None, ["10.0.0.2"], True, ["address.private"]),
        (None, ["10.0.0.2"], False, []),
        (None, ["10.0.0.2", "9.9.9.9"], True, []),
        ("9.9.9.9", ["10.0.0.2"], True, ["address.elsewhere"]),
        ("9.9.9.9", ["9.9.9.9"], True, []),
        ("10.0.0.2", ["10.0.0.2"], True, []),
        ("10.0.0.3", ["10.0.0.2"], True, ["address.private"]),
        ("127.0.0.1", ["10.0.0.2"], True, ["address.useless"]),
        ("100.64.0.9", ["10.0.0.2"], True, ["address.private"]),
        (None, ["100.64.0.9"], True, ["address.private"]),
    ],
)
def test_announced_address(address: str | None, own: list[str], routed: bool, expected: list[str]) -> None:
    """The announced address is judged by this machine's own addresses and routes."""
    assert codes(network.announced(address, own, routed)) == expected


@pytest.mark.parametrize(
    ("local", "reserved", "expected"),
    [
        ((32768, 60999), "", ["ports.local_range"]),
        ((32768, 60999), "50000-50999", []),
        ((32768, 60999), "1,50000-50500,50501-50999", []),
        ((32768, 60999), "50000-50998", ["ports.local_range"]),
        ((10000, 40000), "", []),
    ],
)
def test_local_port_range(local: tuple[int, int], reserved: str, expected: list[str]) -> None:
    """A passive range in the range of outgoing ports is noted, unless it is reserved."""
    assert codes(network.port_range(50000, 50999, local, reserved)) == expected


UID, GROUP = 900, 901


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([("/", 0, 0, 0o755), ("/srv", UID, GROUP, 0o750)], []),
        ([("/", 0, 0, 0o755), ("/srv", 0, GROUP, 0o770)], []),
        ([("/", 0, 0, 0o755), ("/srv", 0, 0, 0o755)], ["home.permission"]),
        ([("/", 0, 0, 0o755), ("/srv", UID, GROUP, 0o077)], ["home.permission"]),
        ([("/", 0, 0, 0o755), ("/home", 0, 0, 0o700), ("/home/a", UID, GROUP, 0o700)], ["home.permission"]),
    ],
)
def test_home_permissions(places: list[tuple[str, int, int, int]], expected: list[str]) -> None:
    """The service user must be able to enter each directory on the way, and to write into the last."""
    way = [host.Place(path, found) for path, *found in places]  # type: ignore[arg-type]
    assert codes(host.home("alice", way, UID, {GROUP}, "ftpsd")) == expected


def test_home_that_is_missing(tmp_path: Path) -> None:
    """A home that does not exist has the line that creates it."""
    (finding,) = host.home("alice", host.places(str(tmp_path / "no/home")), UID, {GROUP}, "ftpsd")[:1]
    assert finding.code in ("home.missing", "home.permission")  # /tmp/pytest-of-root is root's own


@pytest.mark.parametrize(
    ("path", "unit", "expected"),
    [
        ("/var/lib/ftpsd/a", host.Unit("yes", "strict", ("/var/lib/ftpsd",)), []),
        ("/srv/a", host.Unit("yes", "strict", ("/var/lib/ftpsd",)), ["home.sandbox"]),
        ("/srv/a", host.Unit("yes", "full", ()), []),
        ("/home/a", host.Unit("yes", "full", ("/home/a",)), ["home.sandbox"]),
        ("/home/a", host.Unit("tmpfs", "strict", (), ("/home/a",)), []),
        ("/homes/a", host.Unit("yes", "no", ()), []),
        ("/home/a", host.Unit(), []),
    ],
)
def test_unit_sandbox(path: str, unit: host.Unit, expected: list[str]) -> None:
    """ProtectHome and ProtectSystem of the unit hide homes or make them read-only."""
    assert codes(host.sandboxed("alice", path, unit)) == expected


def test_what_logins_cost(make_daemon: Callable[..., Daemon]) -> None:
    """The doctor measures new hashes and those of users, and tells how many logins a processor bears in a second."""
    slow = (
        "$6$rounds=4000000$wELNvig50Am5Mcra$"
        "N9J8wa6HX6sBLho5HOn1l2Cg1oXFfZIcrI20QS1Txcq0c42mIbf83aTukBak0yKo/2Y9TAREsnnDmUrivbWbh0"
    )
    daemon = make_daemon(start=False, users={"alice": {}, "bob": {"password": slow}})
    report = doctor(daemon)
    text = "\n".join(report["passed"])
    for kind in (
        "a new password",
        r"a hash of users \(\$5\$rounds=1000\$\)",
        r"a hash of users \(\$6\$rounds=4000000\$\)",
    ):
        found = re.search(
            rf"a login with {kind} costs ([\d.e+]+) ms: (\d+) logins per second on each of \d+ processors", text
        )
        assert found is not None, text
        assert 0.5 < float(found[1]) * int(found[2]) / 1000 < 2
    assert [each["code"] for each in report["findings"] if each["code"].startswith("logins.")] == ["logins.slow"]


def test_login_tables() -> None:
    """A login may cost half a second, and half of the memory that is available may be needed."""
    assert codes(host.logins({"x": 0.5}, 1 << 20, 2, 4 << 20)) == []
    assert codes(host.logins({"x": 0.5, "y": 0.6}, 1 << 20, 2, (4 << 20) - 1)) == ["logins.slow", "logins.memory"]
    assert host.login_rates({"x": 0.05}, 2) == [
        "a login with x costs 50 ms: 20 logins per second on each of 2 processors"
    ]


def test_machine_tables() -> None:
    """Disks, file systems, descriptors and the clock, each on both sides of its bound."""
    assert codes(host.disk("/srv", (0, 100), (50, 100))) == ["disk.space"]
    assert codes(host.disk("/srv", (50, 100), (1, 100))) == ["disk.inodes"]
    assert codes(host.disk("/srv", (50, 100), (0, 0))) == []  # Btrfs counts no inodes
    assert codes(host.file_system("/srv", "nfs4")) == ["disk.rename"]
    assert codes(host.file_system("/srv", "xfs")) == codes(host.file_system("/srv", "")) == []
    assert codes(host.descriptors(1024, 2000, 1000)) == ["limits.descriptors"]
    assert codes(host.descriptors(65536, 2000, 1000)) == codes(host.descriptors(-1, 2000, 1000)) == []
    assert codes(host.clock(None, 1000, 5000)) == ["clock.wrong"]
    assert codes(host.clock(False, 1000, 900)) == ["clock.unsynchronized"]
    assert codes(host.clock(True, 1000, 900)) == codes(host.clock(None, 1000, 900)) == []


def test_a_full_disk(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A real file system that is full is found, with its path."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    daemon = make_daemon(start=False)
    home = daemon.home()
    script = f'mount -t tmpfs -o size=64k none {home} || exit 77; cat /dev/zero > {home}/full 2>/dev/null; exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    if subprocess.run([*prefix, "true"], capture_output=True, timeout=20).returncode:
        pytest.skip("nothing can be mounted here")
    assert str(home) in found(doctor(daemon, prefix=prefix))["disk.space"]


def test_a_home_outside_of_the_sandbox(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A home that the running daemon cannot open until a restart is a finding; after that it is none."""
    daemon = make_daemon({"admin": {"socket": "admin.sock"}, "workers": 1})
    if "landlock is on" not in daemon.log:
        pytest.skip("Landlock is off here")
    assert "home.sandbox" not in found(doctor(daemon))
    elsewhere = tmp_path / "elsewhere" / "carol"
    elsewhere.mkdir(parents=True)
    daemon.users["carol"] = {"home": str(elsewhere)}
    daemon.write()
    problem = found(doctor(daemon))["home.sandbox"]
    assert "carol" in problem and str(elsewhere) in problem and "Landlock" in problem
    daemon.stop()
    daemon.start()
    assert "home.sandbox" not in found(doctor(daemon))


def test_users_of_a_source(tmp_path: Path, certificate: Path) -> None:
    """A user of a source whose home is below no entry of `sandbox.homes` is a finding, with the home."""
    daemon = SourceDaemon(tmp_path, certificate)
    outside = tmp_path / "outside"
    outside.mkdir()
    daemon.with_source(eve={"plain": "secret", "home": str(outside)})
    done = daemon.run("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    (problem,) = [each["problem"] for each in report["findings"] if each["code"] == "source.user"]
    assert "eve" in problem and f"{outside} does not lie below any entry of sandbox.homes" in problem


def test_certificate_names_are_read_from_the_file(certificate: Path) -> None:
    """The doctor reads the chain that the daemon loads."""
    assert len(read_chain(certificate / "certificate.pem")) == 1
