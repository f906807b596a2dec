"""`ftpsd demo`: a daemon that works, below one directory, made in a second. What exists there is kept."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import shlex
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes as digests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ftpsd.accounts import hashes
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration

#: Where it listens unless another port is asked for.
_PORT = 2121

_CONFIGURATION = """\
# Made by `ftpsd demo`. For clients on other machines, change the address to "::".
listen:
  - {{address: "127.0.0.1", port: {port}, tls: explicit}}
banner: ftpsd demo ready.
tls:
  certificate: certificate.pem
  private_key: key.pem
passive:
  ports: {low}-{high}
users: {{file: users.yaml}}
"""

_USERS = """\
users:
  demo:
    password: "{hashed}"
    home: files
"""


#: What `--reset` makes anew. Users' files stay.
_MADE = ("ftpsd.yaml", "users.yaml", "certificate.pem", "key.pem", "password")


def run(directory: str, port: int | None, reset: bool) -> int:
    """Make what is missing, say how to connect, and serve until interrupted."""
    home = Path(directory).absolute()
    if reset:
        for name in _MADE:
            (home / name).unlink(missing_ok=True)
    _make(home, port or _PORT)
    try:
        configuration = load.load(home / "ftpsd.yaml")
    except InvalidConfiguration as error:
        print(f"{error}\nOr start anew: ftpsd demo --reset", file=sys.stderr)
        return 1
    listener = configuration.settings.listen[0]
    if port is not None and port != listener.port:
        there = f"{home / 'ftpsd.yaml'} listens on port {listener.port}"
        print(f"ftpsd demo: {there}: change it there, or start anew with --reset.", file=sys.stderr)
        return 2
    _tell(home, configuration)
    return serve(home / "ftpsd.yaml")


def _make(home: Path, port: int) -> None:
    """Write the files that are not there. What is there may have been edited, and stays as it is."""
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not (home / "files").exists():
        (home / "files").mkdir(mode=0o755)
        (home / "files" / "welcome.txt").write_text("It works.\n")
    if not any((home / name).exists() for name in ("certificate.pem", "key.pem")):
        make_certificate(home / "certificate.pem", home / "key.pem")
    if not (home / "users.yaml").exists():
        if not (home / "password").exists():
            _write(home / "password", secrets.token_urlsafe(12) + "\n")
        _write(home / "users.yaml", _USERS.format(hashed=hashes.make(_password(home))))
    if not (home / "ftpsd.yaml").exists():
        # The range keeps clear of the listener, wherever that is.
        low = 50000 if not 50000 <= port <= 50099 else 51000
        _write(home / "ftpsd.yaml", _CONFIGURATION.format(port=port, low=low, high=low + 99))


def _password(home: Path) -> str:
    try:
        return (home / "password").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _tell(home: Path, configuration: load.Configuration) -> None:
    """Print how to connect, as the files say it now."""
    settings, users = configuration.settings, configuration.users.users
    listener = settings.listen[0]
    host = "127.0.0.1" if listener.address in ("::", "0.0.0.0") else listener.address
    scheme = "ftps" if listener.tls == "implicit" else "ftp"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.port}/"
    print(f"address   {url} with {listener.tls} TLS; passive ports {settings.passive.ports}")
    user = users.get("demo") or next(filter(None, map(users.get, users.names())), None)
    if user is not None:
        password = _password(home)
        right = bool(password) and hashes.verify(password, user.settings.password or "")
        print(f"files     {user.settings.home}\nuser      {user.name}\npassword  {password if right else '(yours)'}\n")
        login = shlex.quote(f"{user.name}:{password}" if right else user.name)
        print(
            f"curl -v --ssl-reqd --cacert {shlex.quote(str(settings.tls.certificate))} -u {login} {url}\n", flush=True
        )


def serve(configuration: Path) -> int:
    """Runs the daemon in the foreground, in this process."""
    from twisted.scripts.twistd import run as twistd

    sys.argv = ["twistd", "-n", "--pidfile=", "ftpsd", "-c", str(configuration)]
    twistd()
    return 0


def make_certificate(certificate_file: Path, key_file: Path) -> None:
    """A self-signed certificate for this machine's loopback names, good for a year."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ftpsd demo")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, digests.SHA256())
    )
    _write(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))


def _write(path: Path, text: str) -> None:
    """Write a file that holds a secret: for its owner only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
