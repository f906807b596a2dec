"""Both YAML files and their faults, reloads, and the commands check and passwd."""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from ftpsd.accounts import hashes
from ftpsd.cli.main import main
from ftpsd.cli.serve.self_signed import make_certificate
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.settings import UserSettings
from tests import forkserver
from tests.daemon import SECRET, Daemon, ftpsd, twistd
from tests.ftpclient import FtpClient, secured

GOOD = """\
listen:
  - {address: "127.0.0.1", port: 2121, tls: explicit}
tls:
  certificate: certificate.pem
  private_key: key.pem
"""
USERS = f"""\
users:
  alice:
    password: "{SECRET}"
    home: home
"""


@pytest.fixture
def files(tmp_path: Path, certificate: Path) -> Path:
    """A directory with a valid configuration."""
    for name in ("certificate.pem", "key.pem"):
        shutil.copy(certificate / name, tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "ftpsd.yaml").write_text(GOOD)
    (tmp_path / "users.yaml").write_text(USERS)
    return tmp_path


def faults(directory: Path, text: str = GOOD, users: str = USERS) -> list[str]:
    """Return the faults of two files, with relative file names."""
    (directory / "ftpsd.yaml").write_text(text)
    (directory / "users.yaml").write_text(users)
    with pytest.raises(InvalidConfiguration) as found:
        load.load(directory / "ftpsd.yaml")
    return [str(fault).replace(f"{directory}/", "") for fault in found.value.faults]


def settings_of(name: str, configuration: load.Configuration) -> UserSettings:
    """Return the settings of a user in a configuration that was loaded."""
    user = configuration.users.users.get(name)
    assert user is not None
    return user.settings


def test_defaults(files: Path) -> None:
    """Every key except listen and tls.certificate has the documented default."""
    settings = load.load(files / "ftpsd.yaml").settings
    assert settings.tls.minimum_version == "1.2"
    assert settings.tls.require.login
    assert settings.tls.require.data
    assert settings.tls.data_session == "require"
    assert settings.tls.close_notify == "require"
    assert str(settings.passive.ports) == "50000-50999"
    assert (settings.passive.address, settings.passive.refresh) == (None, 60)
    assert settings.active.enabled
    assert not settings.foreign_data
    assert settings.users.file == files / "users.yaml"
    timeouts = settings.timeouts
    assert (timeouts.login, timeouts.idle, timeouts.data_connect, timeouts.stalled) == (60, 300, 30, 120)
    limits = settings.limits
    assert (settings.uploads.fsync, settings.uploads.keep_parts) == (False, 604800)
    assert (limits.sessions, limits.sessions_per_address, limits.login_failures) == (2000, 100, 3)
    assert (limits.sessions_per_user, limits.transfers, limits.transfers_per_user) == (None, None, None)
    assert limits.commands_per_second == 10_000
    rates = (limits.upload_rate, limits.download_rate, limits.session_upload_rate, limits.session_download_rate)
    assert rates == (None, None, None, None)
    assert settings.sandbox.landlock == "auto"
    bans = settings.bans
    assert (bans.attempts, bans.window, bans.duration, bans.longest) == (10, 600, 600, 86_400)
    assert settings.state.directory is None


def test_the_whole_contract(files: Path) -> None:
    """Every documented key is accepted."""
    (files / "ftpsd.yaml").write_text(
        """\
listen:
  - {address: "::", port: 21, tls: explicit}
  - {address: "::", port: 990, tls: implicit}
banner: |
  one
  two
tls:
  certificate: certificate.pem
  private_key: key.pem
  minimum_version: "1.3"
  ciphers: ECDHE+AESGCM
  require: {login: false, data: false}
  data_session: off
  close_notify: lenient
passive:
  ports: 50000-50999
  address: 192.0.2.1
  refresh: 60
  networks:
    - {clients: [10.0.0.0/8, 192.168.0.0/16], address: null}
active: {enabled: true, source_port: 20}
foreign_data: false
users: {file: users.yaml}
timeouts: {login: 60, idle: 300, data_connect: 30, stalled: 120, drain: 60}
limits: {sessions: 2000, sessions_per_address: 100, login_failures: 3}
sandbox: {landlock: off}
"""
    )
    (files / "users.yaml").write_text(
        f"""\
defaults:
  permissions: read-only
  home: "{{user}}"
users:
  home:
    password: "{SECRET}"
    permissions: [list, download]
    paths: {{/archive: read-only, /archive/in: upload-only}}
    tls: {{data_session: allow, close_notify: lenient}}
    enabled: true
"""
    )
    loaded = load.load(files / "ftpsd.yaml")
    assert loaded.settings.tls.data_session == "off"
    assert loaded.settings.sandbox.landlock == "off"
    user = settings_of("home", loaded)
    assert user.home == str(files / "home")
    assert user.permission_rules.at(("archive", "in", "x")) == {"upload"}
    assert (user.tls.data_session, user.tls.close_notify) == ("allow", "lenient")


def test_rates(files: Path) -> None:
    """A rate is a number, or one with K, M, G or T (powers of 1024)."""
    text = "limits: {upload_rate: 64K, download_rate: 10M, session_upload_rate: 2G, session_download_rate: 2048}\n"
    (files / "ftpsd.yaml").write_text(GOOD + text)
    limits = load.load(files / "ftpsd.yaml").settings.limits
    assert (limits.upload_rate, limits.download_rate) == (2**16, 10 * 2**20)
    assert (limits.session_upload_rate, limits.session_download_rate) == (2**31, 2048)


def test_one_limit_of_a_user_leaves_the_others(files: Path) -> None:
    """Each limit of a user replaces that of `defaults`; the others stay."""
    defaults = "defaults:\n  limits: {sessions: 3, upload_rate: 1M}\n"
    (files / "users.yaml").write_text(defaults + USERS + "    limits: {sessions: 5, download_rate: 64K}\n")
    limits = settings_of("alice", load.load(files / "ftpsd.yaml")).limits
    assert (limits.sessions, limits.upload_rate, limits.download_rate) == (5, 2**20, 2**16)


CASES = [
    ("listen: []\n", ":1: listen: is empty. Add an entry"),
    ("lisen: 3\n", ":1: lisen: unknown key. Did you mean listen?"),
    ("", "ftpsd.yaml:1: listen: is missing. Add listen."),
    ("banner: 3\n", ":6: banner: 3 is not a string. Put it in quotes."),
    ("? a: 1\n? b: 2", ":7: ?: duplicate key, first defined in line 6."),
    ("banner: a\nbanner: b\n", ":7: banner: duplicate key, first defined in line 6. Remove one of the two."),
    (
        "passive:\n  ports: 51000-50000\n",
        ":7: passive.ports: the port range 51000-50000 is reversed. Write 50000-51000.",
    ),
    (
        "passive:\n  ports: many\n",
        ":7: passive.ports: “many” is not a port range. Write it as 50000-50999.",
    ),
    (
        "passive:\n  ports: 2000-3000\n",
        ":7: passive.ports: the port range 2000-3000 contains the listener's port 2121.",
    ),
    ("passive:\n  ports: 80-90\n", ":7: passive.ports: the port range 80-90 is not within 1024-65535."),
    ("passive:\n  adress: x\n", ":7: passive.adress: unknown key. Did you mean address?"),
    (
        "passive:\n  address: not a host\n",
        ":7: passive.address: “not a host” is neither an IPv4 address nor a host",
    ),
    (
        "passive:\n  address: 300.1.1.1\n",
        ":7: passive.address: “300.1.1.1” is neither an IPv4 address nor a host",
    ),
    ("passive:\n  address: ::1\n", ":7: passive.address: ::1 is not an IPv4 address."),
    (
        "passive:\n  address: no.such.host.invalid\n",
        ":7: passive.address: no.such.host.invalid has no IPv4 address",
    ),
    (
        "passive:\n  networks:\n  - {clients: [10.0.0.1/8]}\n",
        ":8: passive.networks[0].clients[0]: “10.0.0.1/8” is not a",
    ),
    ("passive: 3\n", ":6: passive: must be a mapping."),
    (
        "active: {enabled: maybe}\n",
        ":6: active.enabled: “maybe” is not a boolean. Write true or false.",
    ),
    ("active: {source_port: 99999}\n", ":6: active.source_port: 99999 is not a port."),
    ("timeouts: {idle: soon}\n", ":6: timeouts.idle: “soon” is not a whole number."),
    ("timeouts: {idle: 0}\n", ":6: timeouts.idle: must be at least one second."),
    ("timeouts: {idle: -5}\n", ":6: timeouts.idle: -5 is negative. Write 0 or a larger number."),
    ("limits: {sessions: true}\n", ":6: limits.sessions: True is not a whole number."),
    (
        "limits: {transfers: 0}\n",
        ":6: limits.transfers: 0 is too small. Write 1 or a larger number, or null for no limit.",
    ),
    ("limits: {sessions: 0}\n", ":6: limits.sessions: 0 is too small. Write 1 or a larger number."),
    ("limits: {login_failures: 0}\n", ":6: limits.login_failures: 0 is too small."),
    ("limits: {commands_per_second: 0}\n", ":6: limits.commands_per_second: 0 is too small."),
    ("limits: {upload_rate: 1000}\n", ":6: limits.upload_rate: 1000 is too small. Write 1024 or a larger number, or"),
    ("limits: {upload_rate: 1M/s}\n", ":6: limits.upload_rate: “1M/s” is not a size. Write a whole number, or one"),
    ("bans: {window: 0}\n", ":6: bans.window: must be at least one second."),
    ("bans: {longest: 60}\n", ":6: bans.longest: is less than bans.duration (600)."),
    ("bans: {allow: [home]}\n", ":6: bans.allow[0]: “home” is not a network"),
    ("state: {directory: nowhere}\n", ":6: state.directory: nowhere is not a directory. Create it: install -d"),
    *[
        (f"state: {{directory: .}}\nevents: {{rules: [{{on: [upload], {rule}}}]}}\n", f":7: events.rules[0]{fault}")
        for rule, fault in (
            ("users: [a]", ": has neither webhook.url nor exec. Write one of webhook: {url: https://…} and exec: ["),
            ("exec: [/bin/sh], webhook: {url: 'https://h/'}", ": has both webhook and exec."),
            (
                "webhook: {url: 'http://h/'}",
                ".webhook.url: http://h would send events unencrypted through the network.",
            ),
            ("webhook: {url: 'https://u:p@h/'}", ".webhook.url: contains a password or a fragment."),
            ("webhook: {url: 'ftp://h/'}", ".webhook.url: “ftp://h/” is not the URL of a web server. Write it as"),
            ("webhook: {url: 'https://h:x/'}", ".webhook.url: “https://h:x/” is not the URL of a web server."),
            ("webhook: {ulr: 'https://h/'}", ".webhook.ulr: unknown key. Did you mean url?"),
            ("webhook: {url: 'https://h/', secret_file: no}", ".webhook.secret_file: "),
            ("exec: [sh]", ".exec[0]: “sh” is not an absolute path. Write the program's whole path."),
            ("exec: [/no/program]", ".exec[0]: /no/program does not exist."),
            ("exec: [/bin/sh], paths: [in/*]", ".paths[0]: “in/*” does not start with /. Write /in/*.csv, or"),
        )
    ],
    (
        "events: {rules: [{on: [uplaod], exec: [/bin/sh]}]}\n",
        ":6: events.rules[0].on[0]: “uplaod” is not a valid value.",
    ),
    ("events: {rules: [{exec: [/bin/sh]}]}\n", ":6: events.rules[0].on: is missing. Add on."),
    ("events: {rules: [{on: [upload], exec: [/bin/sh]}]}\n", ":6: events.rules: there is no directory in which events"),
    ("events: {journal_size: 1K}\n", ":6: events.journal_size: 1024 is too small. Write 1M or more."),
    ("events: {give_up: 0}\n", ":6: events.give_up: must be at least one second."),
    ("users: {file: nowhere.yaml}\n", "nowhere.yaml: cannot be read: no such file or directory."),
    (
        "foreign_data: maybe\n",
        ":6: foreign_data: “maybe” is neither a boolean nor a list of networks. Write true,",
    ),
    ("foreign_data: [10.0.0.0/8, home]\n", ":6: foreign_data[1]: “home” is not a network"),
    ("nonsense: [\n", ":7: not valid YAML: "),
    ("foreign_data: [1\n", ":7: not valid YAML: "),
    # What fuzzing found:
    ("foreign_data: !!bool maybe\n", ":6: not valid YAML: “maybe” is not a valid bool. Correct the line."),
    ("foreign_data: !!set maybe\n", ":6: not valid YAML: expected a mapping node, but found scalar. Correct the line."),
    ("foreign_data: !ours maybe\n", ":6: not valid YAML: could not determine a constructor for the tag '!ours'."),
    ('limits: {sessions: !!int ""}\n', ":6: not valid YAML: “” is not a valid int."),
    ("limits: {sessions: 0x" + 5000 * "f" + "}\n", ":6: not valid YAML: the number is too large."),
    ('banner: "half a \\ud800"\n', ":6: not valid YAML: a string contains a NUL or half of a surrogate pair."),
    ('users: {file: "a\\0b"}\n', ":6: not valid YAML: a string contains a NUL or half of a surrogate pair."),
    ("banner: \1\n", ":6: not valid YAML: unacceptable character #x0001"),
    ('"a\\nb": 1\n', r":6: a\nb: unknown key."),
    ("banner: " + "[" * 3000, "ftpsd.yaml: the file is nested too deeply"),
    ("banner: &all [*all]\n", "ftpsd.yaml: the file is nested too deeply, or an alias contains itself."),
    (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]\n" for a, b in pairwise("abcdefghi")),
        "not valid YAML: aliases expand to far too many values.",
    ),
]


@pytest.mark.parametrize(("more", "expected"), CASES, ids=range(len(CASES)))
def test_fault(files: Path, more: str, expected: str) -> None:
    """A fault names file, line, key, problem and remedy."""
    rest = GOOD[GOOD.index("tls:\n") :]
    text = GOOD + more if not more.startswith(("listen", "lisen")) and more else more + rest
    assert any(expected in fault for fault in faults(files, text)), faults(files, text)


TLS_CASES = [
    ("certificate: nowhere.pem", "tls.certificate: nowhere.pem cannot be read: no such file"),
    ("certificate: ftpsd.yaml", "tls.certificate: ftpsd.yaml contains no certificate."),
    ("certificate: certificate.pem", "tls.certificate: certificate.pem contains no usable private key"),
    ("certificate: certificate.pem\n  private_key: other.pem", "the key in other.pem does not belong to the"),
    (
        "certificate: certificate.pem\n  private_key: home",
        "tls.private_key: home cannot be read: is a directory",
    ),
    (
        "certificate: certificate.pem\n  private_key: key.pem\n  ciphers: NONE!",
        "tls.ciphers: “NONE!” is not a cipher",
    ),
    (
        "certificate: certificate.pem\n  private_key: key.pem\n  minimum_version: 1.1",
        "tls.minimum_version: “1.1” is not",
    ),
    (
        "certificate: certificate.pem\n  private_key: key.pem\n  data_session: maybe",
        "tls.data_session: “maybe” is not",
    ),
    ("private_key: key.pem", "tls.certificate: is missing. Add certificate."),
]


@pytest.mark.parametrize(("tls", "expected"), TLS_CASES, ids=range(len(TLS_CASES)))
def test_tls_fault(files: Path, tls: str, expected: str) -> None:
    """A fault names the certificate or key that cannot be used, and the reason."""
    make_certificate(files / "another.pem", files / "other.pem")
    found = faults(files, GOOD.partition("\ntls:")[0] + f"\ntls:\n  {tls}\n")
    assert any(expected in fault for fault in found), found


USER_CASES = [
    ("users:\n  alice:\n    home: home\n", "users.yaml:2: users.alice.password: is missing."),
    (f'users:\n  alice:\n    password: "{SECRET}"\n', "users.yaml:2: users.alice.home: is missing."),
    (USERS + "    color: red\n", "users.yaml:5: users.alice.color: unknown key."),
    (
        USERS + "    enabeld: true\n",
        "users.yaml:5: users.alice.enabeld: unknown key. Did you mean",
    ),
    (
        USERS + "    permissions: read-wrote\n",
        "users.yaml:5: users.alice.permissions: “read-wrote” is not a permission profile.",
    ),
    (
        USERS + "    permissions: [list, fly]\n",
        "users.yaml:5: users.alice.permissions: “fly” is not a permission.",
    ),
    (
        USERS + "    paths: {archive: read-only}\n",
        "users.yaml:5: users.alice.paths: the path archive does not start",
    ),
    (
        USERS.replace("home: home", "home: nowhere"),
        "users.yaml:4: users.alice.home: nowhere is not a directory.",
    ),
    (USERS.replace(SECRET, "secret"), "users.yaml:3: users.alice.password: is not a supported password hash."),
    (USERS + "  alice:\n", "users.yaml:5: users.alice: duplicate key, first defined in line 2."),
    (USERS + "    limits: {sessions: 0}\n", "users.yaml:5: users.alice.limits.sessions: 0 is too small."),
    (USERS.replace("home: home", 'home: ""'), "users.yaml:4: users.alice.home: is empty."),
    (USERS + "    limits: {speed: 1}\n", "users.yaml:5: users.alice.limits.speed: unknown key."),
    ("people: {}\n", "users.yaml:1: people: unknown key."),
    ("- a\n", "users.yaml:1: the file must be a mapping. Start with users:"),
    ("users: [a]\n", "users.yaml:1: users: must be a mapping of names."),
    ("users: []\n", "users.yaml:1: users: must be a mapping of names."),
    ("users: false\n", "users.yaml:1: users: must be a mapping of names."),
    ('defaults: ""\n', "users.yaml:1: defaults: must be a mapping."),
    (
        USERS + "    expires: 9999-12-31\n",
        "users.yaml:5: users.alice.expires: “9999-12-31” is after the last supported day",
    ),
    (USERS.replace(SECRET, "$5$rounds=1000$"), "users.yaml:3: users.alice.password: is not a supported password hash."),
    ("defaults: {permissions: 3}\n", "users.yaml:1: defaults.permissions: 3 is not a list of permissions."),
    (
        USERS + "    quota: {bytes: ten}\n",
        "users.yaml:5: users.alice.quota.bytes: “ten” is not a size. Write a whole number, or one with K, M, G or T",
    ),
    (USERS + "    quota: {bytes: -1}\n", "users.yaml:5: users.alice.quota.bytes: -1 is not a size."),
    (USERS + "    quota: {files: 10G}\n", "users.yaml:5: users.alice.quota.files: “10G” is not a whole number."),
    (USERS + "    quota: {byte: 1}\n", "users.alice.quota.byte: unknown key. Did you mean bytes?"),
    (USERS + "    quota: 10G\n", "users.yaml:5: users.alice.quota: must be a mapping."),
    ("\xff\xfe", "users.yaml"),
    (USERS.replace("home: home", f"home: {300 * 'h'}"), "hhh is not a directory. Create it"),
    ("---", "users.yaml:1: the file is empty."),
    (
        USERS.replace("alice", '"a\\0b"'),
        "users.yaml:2: not valid YAML: a string contains a NUL or half of a surrogate pair.",
    ),
]


@pytest.mark.parametrize(("users", "expected"), USER_CASES, ids=range(len(USER_CASES)))
def test_user_fault(files: Path, users: str, expected: str) -> None:
    """Faults in the users' file are reported like those in ftpsd.yaml."""
    found = faults(files, users=users)
    assert any(expected in fault for fault in found), found


def test_resumption_that_is_off(files: Path) -> None:
    """`data_session: require` for a user is a fault if ftpsd.yaml turns the resumption of TLS sessions off."""
    text = GOOD.replace("tls:\n", "tls:\n  data_session: off\n")
    found = faults(files, text, USERS + "    tls: {data_session: require}\n")
    assert len(found) == 1
    assert found[0].startswith("users.yaml:5: users.alice.tls.data_session: require is not possible: ")
    assert found[0].endswith("Write allow there, which requires nothing of other users.")


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("{bytes: 10G, files: 1000}", (10 * 1024**3, 1000)),
        ("{bytes: 500M}", (500 * 1024**2, None)),
        ("{bytes: 64K, files: null}", (64 * 1024, None)),
        ("{bytes: 77, files: 0}", (77, 0)),
        ("null", (None, None)),
    ],
)
def test_quotas(files: Path, quota: str, expected: tuple[int | None, int | None]) -> None:
    """Bytes may be written with K, M, G and T, which are powers of 1024; null is no limit."""
    (files / "users.yaml").write_text(f"defaults: {{quota: {{bytes: 1}}}}\n{USERS}    quota: {quota}\n")
    found = settings_of("alice", load.load(files / "ftpsd.yaml")).quota
    assert (found.bytes, found.files) == expected


def test_a_damaged_certificate(files: Path) -> None:
    """A certificate with an invalid key or version is a fault without a traceback."""
    pem = files / "certificate.pem"
    found = x509.load_pem_x509_certificate(pem.read_bytes())
    point = found.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    version = bytes.fromhex("a003020102")
    for part, damaged in ((point, point[:1] + bytes(64)), (version, version[:-1] + b"\x0a")):
        der = found.public_bytes(Encoding.DER).replace(part, damaged)
        pem.write_text(ssl.DER_cert_to_PEM_cert(der))
        assert any("certificate.pem is damaged. Create the file again." in fault for fault in faults(files))


def _rsa_pair(directory: Path, damaged: bool) -> None:
    """Write a certificate and its RSA key, in which all numbers but the public ones may be wrong."""
    key = rsa.generate_private_key(65537, 2048)
    (directory / "certificate.pem").write_bytes(_self_signed(key))
    numbers = key.private_numbers()
    private = [numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp]
    values = [0, numbers.public_numbers.n, 65537, *(each + 2 * damaged for each in private)]
    parts = b"".join(_der(2, each.to_bytes(each.bit_length() // 8 + 1, "big")) for each in values)
    text = base64.encodebytes(_der(0x30, parts)).decode()
    (directory / "key.pem").write_text(f"-----BEGIN RSA PRIVATE KEY-----\n{text}-----END RSA PRIVATE KEY-----\n")


def _self_signed(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=90)).sign(key, SHA256())
    )  # fmt: skip
    return certificate.public_bytes(Encoding.PEM)


def _der(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content


def test_a_damaged_key(files: Path) -> None:
    """A private key that belongs to the certificate, and cannot sign, is a fault without a traceback."""
    _rsa_pair(files, damaged=True)
    assert any("the private key in key.pem is damaged. Create the key again" in fault for fault in faults(files))


def test_a_damaged_elliptic_key(files: Path) -> None:
    """So is a key on an elliptic curve whose private part is that of another one."""
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (files / "certificate.pem").write_bytes(_self_signed(key))
    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    own, foreign = (each.private_numbers().private_value.to_bytes(32, "big") for each in (key, other))
    text = base64.encodebytes(der.replace(own, foreign)).decode()
    (files / "key.pem").write_text(f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n")
    assert any("the private key in key.pem is damaged. Create the key again" in fault for fault in faults(files))


def test_a_key_is_checked_without_a_pause(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The primes of an RSA key are not tested for being such: at a reload, all sessions would wait for that."""
    _rsa_pair(files, damaged=False)

    def test_primes(key: crypto.PKey) -> None:
        raise AssertionError("the load tests the primes of a key")

    monkeypatch.setattr(crypto.PKey, "to_cryptography_key", test_primes)
    load.load(files / "ftpsd.yaml")


def test_all_faults_at_once(files: Path) -> None:
    """All faults are reported at once."""
    found = faults(files, GOOD + "banner: 3\ntimeouts: {idle: x, login: y}\nlimts: {}\n")
    assert len(found) == 4, found


def run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


@pytest.mark.process
def test_check_and_start_say_the_same(files: Path) -> None:
    """`ftpsd check` and the daemon print the same lines, and both exit with status 1."""
    path = files / "ftpsd.yaml"
    assert forkserver.run(["check", "-c", str(path)]).returncode == 0
    path.write_text(GOOD + "banner: 3\nlimts: {}\n")
    checked = forkserver.run(["check", "-c", str(path)])
    started = run(twistd("-n", "--pidfile=", "ftpsd", "-c", str(path)))
    assert checked.returncode == started.returncode == 1
    assert checked.stderr == started.stderr
    assert len(checked.stderr.splitlines()) == 2
    assert f"{path}:6: banner: 3 is not a string." in checked.stderr


@pytest.mark.process
def test_check_prints_json(files: Path) -> None:
    """`ftpsd check --json` prints an array of faults, or of warnings, each with file, line, key, problem and remedy."""
    path = files / "ftpsd.yaml"
    (files / "users.yaml").chmod(0o600)
    assert json.loads(forkserver.run(["check", "--json", "-c", str(path)]).stdout) == []
    (files / "users.yaml").chmod(0o644)
    path.write_text(GOOD + "users: {file: users.yaml}\n")
    checked = forkserver.run(["check", "--json", "-c", str(path)])
    (warning,) = json.loads(checked.stdout)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (warning["level"], warning["file"], warning["line"]) == ("warning", str(path), 6)
    assert (warning["key"], warning["remedy"]) == ("users.file", f"chmod o-r {files / 'users.yaml'}")
    path.write_text(GOOD + "banner: 3\nlimts: {}\n")
    checked = forkserver.run(["check", "--json", "-c", str(path)])
    first, second = json.loads(checked.stdout)
    assert (checked.returncode, checked.stderr) == (1, "")
    assert first == {
        "level": "fault",
        "file": str(path),
        "line": 6,
        "key": "banner",
        "problem": "3 is not a string",
        "remedy": "Put it in quotes.",
    }
    assert (second["line"], second["key"]) == (7, "limts")
    path.unlink()
    (fault,) = json.loads(forkserver.run(["check", "--json", "-c", str(path)]).stdout)
    assert fault["line"] is None


@pytest.mark.process
def test_passwd_refuses_passwords_that_no_client_can_send() -> None:
    """An empty or too long password and one with a NUL byte are refused with status 1 and one line."""
    for password in ("\n", "", "a\0b\n", "x" * 1025 + "\n"):
        refused = forkserver.run(["passwd"], password)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("ftpsd passwd: the password ") and refused.stderr.count("\n") == 1


@pytest.mark.process
def test_passwd_hashes_bytes_that_are_not_utf_8() -> None:
    """A password in Latin-1 is hashed as the bytes that a client sends."""
    printed = subprocess.run(ftpsd("passwd"), input=b"p\xe4ss\n", capture_output=True, timeout=60, check=True).stdout
    assert hashes.verify(b"p\xe4ss".decode("utf-8", "surrogateescape"), printed.decode().strip())


@pytest.mark.parametrize(
    "command", ["bans", "bans list", "bans lift", "check", "demo", "doctor", "passwd", "user", "user add", "user set"]
)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of each command ends with a line to copy; an unknown option is a usage error, status 2."""
    for argument, status in (("--help", 0), ("--unknown", 2)):
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), argument])
        assert ended.value.code == status
    assert re.search(rf"^  ftpsd {command}\b", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.process
def test_passwd_prints_a_hash_that_verifies() -> None:
    """`ftpsd passwd` prints an argon2id hash."""
    hashed = forkserver.run(["passwd"], "let me in\n").stdout.strip()
    assert hashed.startswith("$argon2id$")
    assert hashes.is_valid(hashed)
    assert hashes.verify("let me in", hashed)
    assert not hashes.verify("let me out", hashed)


@pytest.mark.parametrize("scheme", ["argon2", "scrypt", "bcrypt", "sha512_crypt", "sha256_crypt"])
def test_every_hash_logs_in(make_daemon: Callable[..., Daemon], scheme: str) -> None:
    """Users can log in with each of the five hash formats."""
    quick: dict[str, dict[str, Any]] = {
        "argon2": {"rounds": 1, "memory_cost": 64},
        "scrypt": {"rounds": 4},
        "bcrypt": {"rounds": 4},
        "sha512_crypt": {"rounds": 1000},
        "sha256_crypt": {"rounds": 1000},
    }
    from passlib import hash as handlers

    hashed = getattr(handlers, scheme).using(**quick[scheme]).hash("pass wörd")
    daemon = make_daemon(users={"alice": {"password": hashed}})
    client = FtpClient(daemon)
    client.start_tls()
    client.login("alice", "pass wörd")


def test_long_and_strange_passwords(shared: Daemon) -> None:
    """A wrong password of any length and any bytes gets 530."""
    for secret in ("x" * 5000, "x" * 100, "", "\xff\xfe", "%s%n"):
        client = FtpClient(shared)
        client.start_tls()
        client.expect(331, "USER alice")
        client.expect(530, f"PASS {secret}")


def test_reload_is_for_new_sessions(make_daemon: Callable[..., Daemon]) -> None:
    """SIGHUP loads configuration, users and certificate for new sessions; running sessions keep the old ones."""
    daemon = make_daemon(users={"alice": {}})
    old = secured(daemon)
    certificate = old.socket.getpeercert(binary_form=True)  # type: ignore[attr-defined]
    daemon.settings["banner"] = "new banner"
    daemon.users = {"bob": {}}
    pem, key = daemon.directory / "c.pem", daemon.directory / "k.pem"
    make_certificate(pem, key)
    daemon.settings["tls"].update(certificate=str(pem), private_key=str(key))
    daemon.write()
    daemon.reload()
    new = FtpClient(daemon, greeting=False)
    assert new.reply() == "220 new banner"
    new.start_tls()
    assert new.socket.getpeercert(binary_form=True) != certificate  # type: ignore[attr-defined]
    new.expect(331, "USER alice")
    new.expect(530, "PASS secret")
    new.login("bob")
    assert old.upload("STOR still", b"here").startswith("226")
    assert old.download("RETR still") == b"here"


def test_a_bad_reload_changes_nothing(make_daemon: Callable[..., Daemon]) -> None:
    """After a fault in either file the old configuration remains in effect, and the log has the faults of `ftpsd check`."""
    daemon = make_daemon()
    daemon.settings["banner"] = 3
    daemon.users = {"bob": {"home": "/nowhere"}}
    daemon.write()
    daemon.reload()
    daemon.wait_for_log("the old configuration remains in effect")
    checked = forkserver.run(["check", "-c", str(daemon.config)]).stderr
    assert checked
    for line in checked.splitlines():
        assert f"not reloaded: {line}" in daemon.log
    with secured(daemon) as client:
        client.expect(257, "PWD")


def test_reload_opens_and_closes_listeners(make_daemon: Callable[..., Daemon]) -> None:
    """A reload opens an added listener and closes a removed one."""
    daemon = make_daemon()
    extra = daemon.implicit_port
    daemon.settings["listen"][1] = {"address": "127.0.0.1", "port": extra, "tls": "explicit"}
    daemon.write()
    daemon.reload()
    daemon.implicit_port = daemon.port
    daemon.port = extra
    with secured(daemon) as client:
        client.expect(200, "NOOP")


def test_a_busy_port_is_told(shared: Daemon, make_daemon: Callable[..., Daemon]) -> None:
    """A port that another process uses is reported in one line, without a traceback."""
    daemon = make_daemon(start=False)
    daemon.settings["listen"][0]["port"] = shared.port
    daemon.write()
    ended = run(twistd("-n", "--pidfile=", "ftpsd", "-c", str(daemon.config)))
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert str(shared.port) in ended.stderr


BROKEN_SOURCE = """
import os, sys
from ftpsd.accounts.user_store import SourceFailed
from ftpsd.accounts.yaml_store import YamlUserStore
working = YamlUserStore.verify
async def verify(self, name, password, peer, admit, after_find=False):
    if os.path.exists(sys.argv[-1] + ".down"):
        raise SourceFailed("the directory server is down")
    return await working(self, name, password, peer, admit, after_find)
YamlUserStore.verify = verify
from twisted.scripts.twistd import run
run()
"""


def test_a_user_store_whose_source_fails(make_daemon: Callable[..., Daemon]) -> None:
    """While the source of a user store is down, a login is answered with 451. Then the same session can log in."""
    daemon = make_daemon(start=False)
    down = Path(f"{daemon.config}.down")
    command = [sys.executable, "-c", BROKEN_SOURCE, *twistd("-n", "--pidfile=", "ftpsd", "-c", str(daemon.config))[3:]]
    with daemon.log_file.open("wb") as log:
        daemon.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    daemon.wait_for_log("implicit TLS")
    client = FtpClient(daemon)
    client.start_tls()
    down.touch()
    for _ in range(5):  # it is no wrong password, and not counted as one
        client.expect(331, "USER alice")
        client.expect(451, "PASS secret")
    down.unlink()
    client.expect(230, "PASS secret")
    assert "the directory server is down" in daemon.log
    assert "Traceback" not in daemon.log


def test_a_home_that_vanished(make_daemon: Callable[..., Daemon]) -> None:
    """If a home no longer exists, its user gets 550, and the next user can log in."""
    daemon = make_daemon()
    shutil.rmtree(daemon.home("bob"))
    with secured(daemon, "bob") as client:
        client.expect(550, "MLST")
        client.expect(331, "USER alice")
        client.expect(230, "PASS secret")
        client.expect(250, "MLST")
    assert "Traceback" not in daemon.log


def test_json_log(make_daemon: Callable[..., Daemon], files: Path) -> None:
    """With `--logger=ftpsd.log.json` each log line is a JSON object with the fields of the event, without the password."""
    daemon = make_daemon(start=False)
    command = twistd("-n", "--pidfile=", "--logger=ftpsd.log.json", "ftpsd", "-c", str(daemon.config))
    with daemon.log_file.open("wb") as log:
        daemon.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    daemon.wait_for_log("explicit TLS")
    with secured(daemon) as client:
        client.upload("STOR a", b"12345")
    daemon.wait_for_log('"event": "disconnected"')
    events = [json.loads(line) for line in daemon.log.splitlines()]
    stored = next(event for event in events if event.get("command") == "STOR")
    assert (stored["user"], stored["address"], stored["code"], stored["bytes"]) == (
        "alice",
        "127.0.0.1",
        226,
        5,
    )
    assert stored["session"] == 1
    assert "secret" not in daemon.log
